package fakecluster

import (
	"cmp"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// maxSyncs is how often, at most, a Deployment is synced at one time: one that never comes to rest is synced so often each second.
const maxSyncs = 10

// ActExactly lets the Node act as the Deployment controller and the ReplicaSet controller of Kubernetes do, in place of its simple
// way: where what is tested depends on what they do with a ReplicaSet that is held.
func (n *Node) ActExactly(w *World) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.exact, n.syncs = w, map[string]exactSync{}
}

// Writes returns how many writes the Deployment controller has sent so far, also those that changed nothing.
func (n *Node) Writes() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.writes
}

func (n *Node) workExactly(w *World) {
	for _, o := range w.Objects("deployments") {
		for range maxSyncs {
			if !n.syncExactly(w, o.GetName()) {
				break
			}
		}
	}
	for _, o := range w.Objects("replicasets") {
		n.workSet(w, o.(*appsv1.ReplicaSet))
	}
}

// syncExactly syncs a Deployment, if it or a ReplicaSet of its has changed since the last time, or its time has come.
func (n *Node) syncExactly(w *World, name string) (synced bool) {
	var versions []string
	for _, resource := range []string{"deployments", "replicasets"} {
		for _, o := range w.Objects(resource) {
			if owner := metav1.GetControllerOf(o); o.GetName() == name || (owner != nil && owner.Name == name) {
				versions = append(versions, o.GetResourceVersion())
			}
		}
	}
	last := n.syncs[name]
	if slices.Equal(versions, last.versions) && (last.again.IsZero() || time.Now().Before(last.again)) {
		return false
	}
	sync := w.SyncDeployment(name)
	n.writes += sync.Writes
	now := exactSync{versions: versions}
	if sync.Again > 0 {
		now.again = time.Now().Add(sync.Again)
	}
	n.syncs[name] = now
	return true
}

// exactSync is what the last sync of a Deployment saw, and when the next one is due all the same.
type exactSync struct {
	versions []string
	again    time.Time
}

// workSet gives a ReplicaSet the pods that it asks for, lets them age, and counts them.
func (n *Node) workSet(w *World, set *appsv1.ReplicaSet) {
	pods := podsOf(w, set)
	for len(pods) < int(*set.Spec.Replicas) {
		n.made++
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("%s-%d", set.Name, n.made), Namespace: set.Namespace, Labels: set.Spec.Template.Labels,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(set, appsv1.SchemeGroupVersion.WithKind("ReplicaSet"))}}, Spec: set.Spec.Template.Spec}
		pod.Spec.NodeName = "node"
		pods = append(pods, Add(w, pod))
	}
	for _, pod := range pods[*set.Spec.Replicas:] {
		Remove[*corev1.Pod](w, pod.Name)
	}
	status := appsv1.ReplicaSetStatus{Replicas: *set.Spec.Replicas, ObservedGeneration: set.Generation}
	for _, pod := range pods[:*set.Spec.Replicas] {
		now := n.show(pod)
		if !reflect.DeepEqual(now.Status, pod.Status) {
			EditStatus(w, pod.Name, func(live *corev1.Pod) { live.Status = now.Status })
		}
		if isReady(now) {
			status.ReadyReplicas++
			status.AvailableReplicas++
		}
	}
	if !equality.Semantic.DeepEqual(set.Status, status) {
		EditStatus(w, set.Name, func(live *appsv1.ReplicaSet) { live.Status = status })
	}
}

// podsOf returns the pods of a ReplicaSet, those first that are ready, and of the others the older ones.
func podsOf(w *World, set *appsv1.ReplicaSet) (pods []*corev1.Pod) {
	for _, o := range w.Objects("pods") {
		if pod := o.(*corev1.Pod); metav1.IsControlledBy(pod, set) {
			pods = append(pods, pod)
		}
	}
	slices.SortStableFunc(pods, func(a, b *corev1.Pod) int {
		if isReady(a) != isReady(b) {
			return map[bool]int{true: -1, false: 1}[isReady(a)]
		}
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), strings.Compare(a.Name, b.Name))
	})
	return pods
}

func isReady(pod *corev1.Pod) bool {
	return slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}
