#!/usr/bin/env bash
# kube-scheduler 1.35 places no pod that asks for a device which is allocated beside one which is not.
#
# Versions: k8s.io/kubernetes v1.35.4 (its pkg/scheduler, with default settings).
# Input: a pod with two ResourceClaims, as a Deployment has where all pods share one claim and each has another of its own;
#   the shared one is allocated already, as for every pod but the first. Two nodes with room, three devices that any node can
#   use.
# Expected: the scheduler allocates the claim that is open, and places the pod.
# Seen: with both claims open, or with one node, it does. With two nodes it has to choose, and its plugin DynamicResources
#   fails in that: it scores every claim, and looks for the allocation of each among those of this very attempt. The pod
#   stays Pending, with PodScheduled=False and reason SchedulerError. 1.36.3 places it.
#
# client-go's fake clientset stands for the API server.
set -o errexit -o nounset -o pipefail

dir=$(mktemp -d)
trap 'rm -rf "${dir}"' EXIT
cd "${dir}"

cat >main.go <<'END'
package main

import (
	"context"
	"fmt"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/events"
	"k8s.io/klog/v2"
	"k8s.io/kubernetes/pkg/scheduler"
	"k8s.io/kubernetes/pkg/scheduler/profile"
)

const driver, class, namespace = "devices.example.com", "fast", "shop"

func claim(name string, allocated bool) *resourcev1.ResourceClaim {
	c := &resourcev1.ResourceClaim{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, UID: types.UID(name), ResourceVersion: "1"}}
	c.Spec.Devices.Requests = []resourcev1.DeviceRequest{{Name: "one", Exactly: &resourcev1.ExactDeviceRequest{
		DeviceClassName: class, AllocationMode: resourcev1.DeviceAllocationModeExactCount, Count: 1}}}
	if allocated {
		c.Status.Allocation = &resourcev1.AllocationResult{Devices: resourcev1.DeviceAllocationResult{
			Results: []resourcev1.DeviceRequestAllocationResult{{Request: "one", Driver: driver, Pool: "all", Device: "d0"}}}}
	}
	return c
}

// cluster is the pod, its claims, the devices and so many nodes.
func cluster(nodes int, allocated bool) []runtime.Object {
	shared, own, everywhere := claim("shared", allocated), claim("own", false), true
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "web", UID: "web"}, Spec: corev1.PodSpec{
		SchedulerName: corev1.DefaultSchedulerName,
		Containers:    []corev1.Container{{Name: "web", Image: "localhost/web:1"}},
		ResourceClaims: []corev1.PodResourceClaim{
			{Name: "shared", ResourceClaimName: &shared.Name}, {Name: "own", ResourceClaimName: &own.Name}},
	}}
	slice := &resourcev1.ResourceSlice{ObjectMeta: metav1.ObjectMeta{Name: "all"}, Spec: resourcev1.ResourceSliceSpec{
		Driver: driver, AllNodes: &everywhere, Pool: resourcev1.ResourcePool{Name: "all", Generation: 1, ResourceSliceCount: 1},
		Devices: []resourcev1.Device{{Name: "d0"}, {Name: "d1"}, {Name: "d2"}}}}
	objects := []runtime.Object{shared, own, pod, slice, &resourcev1.DeviceClass{ObjectMeta: metav1.ObjectMeta{Name: class}}}
	room := corev1.ResourceList{"cpu": resource.MustParse("8"), "memory": resource.MustParse("8Gi"), "pods": resource.MustParse("10")}
	for i := range nodes {
		objects = append(objects, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("node-%d", i)},
			Status: corev1.NodeStatus{Capacity: room, Allocatable: room}})
	}
	return objects
}

// schedule returns what becomes of the pod.
func schedule(objects []runtime.Object) (outcome string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	client := fake.NewClientset(objects...)
	factory := scheduler.NewInformerFactory(client, 0)
	recorders := profile.NewRecorderFactory(events.NewBroadcaster(&events.EventSinkImpl{Interface: client.EventsV1()}))
	s, err := scheduler.New(ctx, client, factory, nil, recorders)
	if err != nil {
		return "", err
	}
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(ctx.Done())
	if err := s.WaitForHandlersSync(ctx); err != nil {
		return "", err
	}
	go s.Run(ctx)
	err = wait.PollUntilContextCancel(ctx, 100*time.Millisecond, true, func(ctx context.Context) (bool, error) {
		pod, err := client.CoreV1().Pods(namespace).Get(ctx, "web", metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		for _, action := range client.Actions() {
			if action.GetVerb() == "create" && action.GetSubresource() == "binding" {
				outcome = "placed"
			}
		}
		for _, c := range pod.Status.Conditions {
			if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse {
				outcome = c.Reason + ": " + c.Message
			}
		}
		return outcome != "", nil
	})
	return outcome, err
}

func main() {
	klog.SetLogger(logr.Discard())
	for _, try := range []struct {
		what      string
		nodes     int
		allocated bool
	}{
		{"two nodes, both claims open", 2, false},
		{"one node, one claim allocated", 1, true},
		{"two nodes, one claim allocated", 2, true},
	} {
		outcome, err := schedule(cluster(try.nodes, try.allocated))
		if err != nil {
			outcome = err.Error()
		}
		fmt.Printf("%s: %s\n", try.what, outcome)
	}
}
END

cat >seen <<'END'
two nodes, both claims open: placed
one node, one claim allocated: placed
two nodes, one claim allocated: SchedulerError: running Score plugins: plugin "DynamicResources" failed with: number of allocations 1 is smaller than number of claims
END

{
  go mod init finding
  gomod=$(go mod download -json k8s.io/kubernetes@v1.35.4 | sed -n 's/.*"GoMod": "\(.*\)".*/\1/p')
  # Its other modules are published beside it, with 0 for 1.
  for module in $(sed -n 's#^\s*\(k8s.io/\S*\) => ./staging/.*#\1#p' "${gomod}"); do
    go mod edit -replace="${module}=${module}@v0.35.4"
  done
  go get k8s.io/kubernetes@v1.35.4
  go get .
} 2>log || { cat log >&2; exit 1; }
CGO_ENABLED=0 go run . >now
diff --unified seen now || { echo "changed: the scheduler does what stands above behind a +" >&2; exit 1; }
echo "as described"
