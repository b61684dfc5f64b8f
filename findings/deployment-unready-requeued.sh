#!/usr/bin/env bash
# A Deployment with one unready pod keeps kube-controller-manager looking at it, ten times a second, for as long as it lasts.
#
# Versions: k8s.io/kubernetes v1.37.2 (its pkg/controller/deployment).
# Input: a Deployment whose rollout was complete, as its condition Progressing says (True, NewReplicaSetAvailable). Since then one of
#   its two pods got unready, as when its readiness probe fails, and spec.progressDeadlineSeconds have passed since the rollout.
# Expected: nothing happens until a pod changes, as with all pods ready: a deadline is for rollouts, and there is none.
# Seen: every look ends with a check for a rollout that is stuck. It knows complete ones by their available pods, and the time since
#   the condition is over, so the Deployment is put into the queue again at once. The queue's rate limit, ten a second, is what it
#   comes down to, for all Deployments together: three of them share it, and what fails and is tried again waits in the same line.
#   Nothing is asked of the API server, so it shows in no audit log; in the metrics it is
#   workqueue_adds_total{name="deployment"}.
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
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/klog/v2"
	"k8s.io/kubernetes/pkg/controller/deployment"
)

// adds counts what is put into the controller's queue.
type adds struct{ n atomic.Int64 }

func (a *adds) Inc()            { a.n.Add(1) }
func (a *adds) Dec()            {}
func (a *adds) Set(float64)     {}
func (a *adds) Observe(float64) {}

type provider struct{ added, none *adds }

func (p provider) NewAddsMetric(string) workqueue.CounterMetric                        { return p.added }
func (p provider) NewDepthMetric(string) workqueue.GaugeMetric                         { return p.none }
func (p provider) NewLatencyMetric(string) workqueue.HistogramMetric                   { return p.none }
func (p provider) NewWorkDurationMetric(string) workqueue.HistogramMetric              { return p.none }
func (p provider) NewUnfinishedWorkSecondsMetric(string) workqueue.SettableGaugeMetric { return p.none }
func (p provider) NewLongestRunningProcessorSecondsMetric(string) workqueue.SettableGaugeMetric {
	return p.none
}
func (p provider) NewRetriesMetric(string) workqueue.CounterMetric { return p.none }

var metrics = provider{&adds{}, &adds{}}

// rolledOut is a Deployment of two pods, and its ReplicaSet, that was complete so long ago.
func rolledOut(name string, ready int32, since time.Duration) (*appsv1.Deployment, *appsv1.ReplicaSet) {
	labels := map[string]string{"app": name}
	template := corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "web", Image: "localhost/web:1"}}}}
	replicas, deadline := int32(2), int32(600)
	d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, UID: types.UID("d-" + name), Generation: 1, Annotations: map[string]string{"deployment.kubernetes.io/revision": "1"}}}
	d.Spec = appsv1.DeploymentSpec{Replicas: &replicas, ProgressDeadlineSeconds: &deadline, Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: template,
		Strategy: appsv1.DeploymentStrategy{Type: appsv1.RecreateDeploymentStrategyType}}
	then := metav1.NewTime(time.Now().Add(-since))
	d.Status = appsv1.DeploymentStatus{ObservedGeneration: 1, Conditions: []appsv1.DeploymentCondition{
		{Type: appsv1.DeploymentProgressing, Status: corev1.ConditionTrue, Reason: "NewReplicaSetAvailable", LastUpdateTime: then, LastTransitionTime: then}}}
	set := &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name + "-1", UID: types.UID("s-" + name), Labels: map[string]string{"app": name, "pod-template-hash": "1"},
		Annotations:     map[string]string{"deployment.kubernetes.io/revision": "1", "deployment.kubernetes.io/desired-replicas": "2", "deployment.kubernetes.io/max-replicas": "2"},
		OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(d, appsv1.SchemeGroupVersion.WithKind("Deployment"))}}}
	set.Spec = appsv1.ReplicaSetSpec{Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: set.Labels}, Template: *template.DeepCopy()}
	set.Spec.Template.Labels = set.Labels
	set.Status = appsv1.ReplicaSetStatus{Replicas: 2, FullyLabeledReplicas: 2, ReadyReplicas: ready, AvailableReplicas: ready}
	return d, set
}

// syncs returns how often the controller looks at so many Deployments in ten seconds, and how often it asks the API server for anything.
// Each has two pods, so many of which are ready, and was complete so long ago.
func syncs(deployments int, ready int32, since time.Duration) (looks int64, writes int) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var objects []runtime.Object
	for i := range deployments {
		d, set := rolledOut(fmt.Sprint("web", i), ready, since)
		objects = append(objects, d, set)
	}
	client := fake.NewClientset(objects...)
	factory := informers.NewSharedInformerFactory(client, 0)
	c, err := deployment.NewDeploymentController(ctx, factory.Apps().V1().Deployments(), factory.Apps().V1().ReplicaSets(), factory.Core().V1().Pods(), client)
	if err != nil {
		panic(err)
	}
	factory.Start(ctx.Done())
	go c.Run(ctx, 1)
	time.Sleep(5 * time.Second) // The first sync writes the status.
	before, wrote := metrics.added.n.Load(), len(client.Actions())
	time.Sleep(10 * time.Second)
	return metrics.added.n.Load() - before, len(client.Actions()) - wrote
}

func main() {
	klog.SetLogger(logr.Discard())
	workqueue.SetProvider(metrics)
	for _, try := range []struct {
		what        string
		deployments int
		ready       int32
		since       time.Duration
	}{
		{"all ready", 1, 2, time.Hour},
		{"one pod unready, within the deadline", 1, 1, time.Minute},
		{"one pod unready, after the deadline", 1, 1, time.Hour},
		{"three such Deployments", 3, 1, time.Hour},
	} {
		looks, writes := syncs(try.deployments, try.ready, try.since)
		words := fmt.Sprint(looks)
		if looks > 80 && looks < 120 {
			words = "ten looks a second"
		}
		fmt.Printf("%s: %s, %d requests\n", try.what, words, writes)
	}
}
END

cat >seen <<'END'
all ready: 0, 0 requests
one pod unready, within the deadline: 0, 0 requests
one pod unready, after the deadline: ten looks a second, 0 requests
three such Deployments: ten looks a second, 0 requests
END

{
  go mod init finding
  gomod=$(go mod download -json k8s.io/kubernetes@v1.37.2 | sed -n 's/.*"GoMod": "\(.*\)".*/\1/p')
  # Its other modules are published beside it, with 0 for 1.
  for module in $(sed -n 's#^\s*\(k8s.io/\S*\) => ./staging/.*#\1#p' "${gomod}"); do
    go mod edit -replace="${module}=${module}@v0.37.2"
  done
  go get k8s.io/kubernetes@v1.37.2
  go get .
} 2>log || { cat log >&2; exit 1; }
CGO_ENABLED=0 go run . >now
diff --unified seen now || { echo "changed: the controller does what stands above behind a +" >&2; exit 1; }
echo "as described"
