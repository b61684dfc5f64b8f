package fakecluster

import (
	"context"
	"crypto/sha256"
	"fmt"
	"reflect"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Node stands for the Deployment controller, the scheduler and the kubelet of a cluster. It surges by 100 %: all new
// pods are created at once, and the old ones go when all the new ones are ready.
//
// It works at half seconds, so that what it does never coincides with what Belay does at full ones.
type Node struct {
	Cluster *Cluster

	mu     sync.Mutex
	images Registry[Fare] // where nothing is said, pods are Running
	off    bool
	done   map[types.UID]string // the resourceVersions of the Deployments for which nothing is left to do

	exact        *World // if it acts exactly
	writes, made int    // of the Deployment controller, and of pods
	syncs        map[string]exactSync
}

// Fare is what a pod shows at an age.
type Fare func(age time.Duration) corev1.PodStatus

func StartNode(ctx context.Context, c *Cluster) *Node {
	n := &Node{Cluster: c, done: map[types.UID]string{}}
	go func() {
		for next := 500 * time.Millisecond; ; next = time.Second {
			select {
			case <-ctx.Done():
				return
			case <-time.After(next):
				n.work()
			}
		}
	}()
	return n
}

// Set says how the pods of an image fare from now on: those of what its tag points to now.
func (n *Node) Set(image string, fare Fare) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.images.Set(image, time.Now(), fare)
	clear(n.done)
}

// MoveTag lets an image be another one, whose pods fare so, in pods that are created from now on.
func (n *Node) MoveTag(image string, fare Fare) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.images.Move(image, time.Now(), fare)
}

// ImageID returns the imageID of an image in pods that are created now.
func (n *Node) ImageID(image string) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.images.ImageID(image, time.Now())
}

// SwitchOff stops everything: Deployments are not acted on, and pods stay as they are.
func (n *Node) SwitchOff(off bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.off = off
}

func (n *Node) work() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.off {
		return
	}
	if n.exact != nil {
		n.workExactly(n.exact)
		return
	}
	n.Cluster.mu.Lock()
	defer n.Cluster.mu.Unlock()
	for _, d := range n.Cluster.matching("deployments", "", nil) {
		d := d.(*appsv1.Deployment)
		if d.DeletionTimestamp == nil && !d.Spec.Paused && n.done[d.UID] != d.ResourceVersion {
			n.bringOn(copied(d))
		}
	}
}

// bringOn brings a Deployment one second further.
func (n *Node) bringOn(d *appsv1.Deployment) {
	c := n.Cluster
	wanted, current := *d.Spec.Replicas, n.currentSet(d)
	status := appsv1.DeploymentStatus{ObservedGeneration: d.Generation}
	n.scale(current, wanted)
	status.UpdatedReplicas = current.Status.Replicas
	complete := current.Status.AvailableReplicas >= wanted
	for _, other := range c.matching("replicasets", d.Namespace, nil) {
		if !metav1.IsControlledBy(other, d) {
			continue
		}
		set := copied(other.(*appsv1.ReplicaSet))
		if set.Name == current.Name {
			set = current
		} else if complete {
			n.scale(set, 0)
		} else {
			n.scale(set, set.Status.Replicas)
		}
		status.Replicas += set.Status.Replicas
		status.ReadyReplicas += set.Status.ReadyReplicas
		status.AvailableReplicas += set.Status.AvailableReplicas
	}
	progress := "ReplicaSetUpdated"
	if complete && status.Replicas == status.UpdatedReplicas {
		progress = "NewReplicaSetAvailable"
	}
	status.Conditions = []appsv1.DeploymentCondition{
		{Type: appsv1.DeploymentAvailable, Status: truthOf(status.AvailableReplicas >= wanted), Reason: "Counted"},
		{Type: appsv1.DeploymentProgressing, Status: corev1.ConditionTrue, Reason: progress},
	}
	d.Status = status
	metav1.SetMetaDataAnnotation(&d.ObjectMeta, RevisionAnnotation, current.Annotations[RevisionAnnotation])
	updated, err := c.update(ResourceOf(d), d, true)
	must(err)
	if progress == "NewReplicaSetAvailable" {
		n.done[d.UID] = updated.GetResourceVersion()
	}
}

// currentSet returns the ReplicaSet of a Deployment's template, with its number.
func (n *Node) currentSet(d *appsv1.Deployment) *appsv1.ReplicaSet {
	c, hash := n.Cluster, templateHash(d)
	current := &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Name: d.Name + "-" + hash, Namespace: d.Namespace}}
	var others []*appsv1.ReplicaSet
	for _, other := range c.matching("replicasets", d.Namespace, nil) {
		if metav1.IsControlledBy(other, d) && other.GetName() != current.Name {
			others = append(others, other.(*appsv1.ReplicaSet))
		}
	}
	if found, err := c.get(ResourceOf(current), current.Namespace, current.Name); err == nil {
		current = found.(*appsv1.ReplicaSet)
		if !Number(current, others) {
			return current
		}
		updated, err := c.update(ResourceOf(current), current, false)
		must(err)
		return updated.(*appsv1.ReplicaSet)
	}
	current.Labels = d.Spec.Template.Labels
	current.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(d, appsv1.SchemeGroupVersion.WithKind("Deployment"))}
	current.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{appsv1.DefaultDeploymentUniqueLabelKey: hash}}
	current.Spec.Template = *d.Spec.Template.DeepCopy()
	metav1.SetMetaDataLabel(&current.Spec.Template.ObjectMeta, appsv1.DefaultDeploymentUniqueLabelKey, hash)
	Number(current, others)
	created, err := c.create(ResourceOf(current), current)
	must(err)
	return created.(*appsv1.ReplicaSet)
}

// scale gives a ReplicaSet its number of pods, and lets them age.
func (n *Node) scale(set *appsv1.ReplicaSet, replicas int32) {
	c := n.Cluster
	status := appsv1.ReplicaSetStatus{ObservedGeneration: set.Generation}
	for i := int32(0); i < max(replicas, set.Status.Replicas); i++ {
		name := types.NamespacedName{Namespace: set.Namespace, Name: fmt.Sprintf("%s-%d", set.Name, i)}
		pod, _ := c.objects["pods"][name].(*corev1.Pod)
		switch {
		case i >= replicas && pod != nil:
			must(c.delete(ResourceOf(pod), pod.Namespace, pod.Name, nil))
			continue
		case i >= replicas:
			continue
		case pod == nil:
			pod = c.createPod(set, name.Name)
		}
		now := n.show(pod)
		if !reflect.DeepEqual(now.Status, pod.Status) {
			_, err := c.update(ResourceOf(pod), now, true)
			must(err)
		}
		status.Replicas++
		if now.Status.ContainerStatuses[0].Ready {
			status.ReadyReplicas++
			status.AvailableReplicas++
		}
	}
	if equality.Semantic.DeepEqual(set.Spec.Replicas, &replicas) && equality.Semantic.DeepEqual(set.Status, status) {
		return
	}
	set.Spec.Replicas = &replicas
	updated, err := c.update(ResourceOf(set), set, false)
	must(err)
	*set = *updated.(*appsv1.ReplicaSet)
	status.ObservedGeneration = set.Generation
	set.Status = status
	updated, err = c.update(ResourceOf(set), set, true)
	must(err)
	*set = *updated.(*appsv1.ReplicaSet)
}

// show returns a pod with the status that it has by now.
func (n *Node) show(pod *corev1.Pod) *corev1.Pod {
	created := pod.CreationTimestamp.Time
	fare, _ := n.images.Fare(pod.Spec.Containers[0].Image, created)
	if fare == nil {
		fare = Running
	}
	pod, status := copied(pod), fare(time.Since(created))
	pod.Status = *status.DeepCopy() // A test may hand out the same one for every pod.
	n.images.SetImageIDs(pod)
	return pod
}

func (c *Cluster) createPod(set *appsv1.ReplicaSet, name string) *corev1.Pod {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: set.Namespace, Labels: set.Spec.Template.Labels,
		OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(set, appsv1.SchemeGroupVersion.WithKind("ReplicaSet"))},
	}, Spec: set.Spec.Template.Spec}
	pod.Spec.NodeName = "node"
	created, err := c.create(ResourceOf(pod), pod)
	must(err)
	return created.(*corev1.Pod)
}

// Running is a pod that is ready a second after it was created.
func Running(age time.Duration) corev1.PodStatus {
	if age < time.Second {
		return PodStatus(corev1.ContainerStatus{State: Waiting("ContainerCreating", "")})
	}
	return PodStatus(corev1.ContainerStatus{Ready: true, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}})
}

// Crashing is a pod whose container ends at once. It is started again after 0, 10, 30, 70, 150 and 310 seconds, and
// then every 300.
func Crashing(age time.Duration) corev1.PodStatus {
	restarts := int32(0)
	for at, pause := time.Duration(0), 10*time.Second; at <= age; at, pause = at+pause, min(2*pause, 5*time.Minute) {
		restarts++
	}
	return PodStatus(corev1.ContainerStatus{RestartCount: restarts, State: Waiting("CrashLoopBackOff", ""),
		LastTerminationState: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{
			ExitCode: 1, Reason: "Error", Message: "no DATABASE_URL"}}})
}

// NeverReady is a pod that runs, and is not ready.
func NeverReady(time.Duration) corev1.PodStatus {
	return PodStatus(corev1.ContainerStatus{State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}})
}

func Waiting(reason, message string) corev1.ContainerState {
	return corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: message}}
}

func PodStatus(container corev1.ContainerStatus) corev1.PodStatus {
	container.Name = "app"
	return corev1.PodStatus{
		Phase:             corev1.PodRunning,
		Conditions:        []corev1.PodCondition{{Type: corev1.PodReady, Status: truthOf(container.Ready)}},
		ContainerStatuses: []corev1.ContainerStatus{container},
	}
}

func truthOf(value bool) corev1.ConditionStatus {
	if value {
		return corev1.ConditionTrue
	}
	return corev1.ConditionFalse
}

func templateHash(d *appsv1.Deployment) string {
	data, err := d.Spec.Template.Marshal()
	must(err)
	sum := sha256.Sum256(data)
	return fmt.Sprintf("%x", sum[:4])
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}
