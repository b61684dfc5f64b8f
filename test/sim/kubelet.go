package sim

import (
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	fake "github.com/belay-dev/belay/internal/fakecluster"
)

// The pretend scheduler and kubelet.

// nodes is how many nodes there are at first. All are ready.
const nodes = 5

func (w *world) addNodes() {
	for i := range nodes {
		node := &corev1.Node{}
		node.Name = fmt.Sprint("node-", i+1)
		fake.Add(w.World, node)
		w.setNode(node.Name, corev1.ConditionTrue)
	}
}

// setNode sets the condition of a Node that says whether it is ready.
func (w *world) setNode(name string, ready corev1.ConditionStatus) {
	fake.EditStatus(w.World, name, func(n *corev1.Node) {
		n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: ready}}
	})
}

func (w *world) schedule() {
	for _, pod := range w.pods() {
		if w.tricks.place != nil {
			w.place(pod)
			continue
		}
		if pod.Spec.NodeName != "" || len(pod.Status.Conditions) > 0 || pod.DeletionTimestamp != nil {
			continue
		}
		o := w.outcomeNow(pod.Spec, pod.CreationTimestamp)
		if o.nowhere {
			w.report(pod.Name, func(s *corev1.PodStatus) {
				w.condition(s, corev1.PodScheduled, false, corev1.PodReasonUnschedulable, "0/5 nodes are available: 5 node(s) didn't match Pod's node affinity/selector")
			})
			continue
		}
		w.bind(pod.Name)
		w.in(100*time.Millisecond, func() { w.pull(pod.Name, o) })
	}
}

// place is the scheduler's part where there are tricks.
func (w *world) place(pod *corev1.Pod) {
	if pod.Spec.NodeName != "" || pod.DeletionTimestamp != nil || hasEnded(pod) {
		return
	}
	switch node, nowhere := w.tricks.place(pod); {
	case node != "":
		fake.Edit(w.World, pod.Name, func(p *corev1.Pod) { p.Spec.NodeName = node })
		w.report(pod.Name, func(s *corev1.PodStatus) { w.condition(s, corev1.PodScheduled, true, "", "") })
		w.in(100*time.Millisecond, func() {
			if pod := w.pod(pod.Name); pod != nil {
				w.tricks.live(pod)
			}
		})
	case nowhere != "":
		w.report(pod.Name, func(s *corev1.PodStatus) {
			w.condition(s, corev1.PodScheduled, false, corev1.PodReasonUnschedulable, nowhere)
		})
	}
}

// bind gives a pod a node, one after the other.
func (w *world) bind(name string) {
	w.bound++
	fake.Edit(w.World, name, func(p *corev1.Pod) { p.Spec.NodeName = fmt.Sprint("node-", w.bound%nodes+1) })
}

// report changes a pod's status, if the pod is still there.
func (w *world) report(name string, change func(*corev1.PodStatus)) {
	pod := w.pod(name)
	if pod == nil || pod.DeletionTimestamp != nil || hasEnded(pod) {
		return
	}
	if _, silent := w.tricks.silent[pod.Spec.NodeName]; !silent {
		fake.EditStatus(w.World, name, func(p *corev1.Pod) {
			change(&p.Status)
			w.images.SetImageIDs(p)
		})
	}
}

// condition sets a condition of a pod. Times are full seconds, as they are stored.
func (w *world) condition(s *corev1.PodStatus, kind corev1.PodConditionType, holds bool, reason, message string) {
	c := corev1.PodCondition{Type: kind, Status: corev1.ConditionFalse, Reason: reason, Message: message, LastTransitionTime: metav1.NewTime(w.Now().Truncate(time.Second))}
	if holds {
		c.Status, c.Reason, c.Message = corev1.ConditionTrue, "", ""
	}
	for i, before := range s.Conditions {
		if before.Type != kind {
			continue
		}
		if before.Status == c.Status {
			c.LastTransitionTime = before.LastTransitionTime
		}
		s.Conditions[i] = c
		return
	}
	s.Conditions = append(s.Conditions, c)
}

func isReady(pod *corev1.Pod) bool {
	return slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// given is what a container has been given, after so many resizes.
func given(resizes int64) *corev1.ResourceRequirements {
	return &corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceMemory: *resource.NewQuantity(100+resizes, resource.BinarySI)}}
}

// says sets the state of the container of a pod that tells how it fares, its init container if init. All others run.
func (w *world) says(name string, init, ready bool, waits string, restarts int32) {
	pod := w.pod(name)
	if pod == nil {
		return
	}
	teller := w.teller(&pod.Spec, pod.CreationTimestamp.Time).Name
	w.report(name, func(s *corev1.PodStatus) {
		status := corev1.ContainerStatus{Name: teller, Ready: ready, Started: new(waits == ""), RestartCount: restarts, Resources: given(0)}
		status.State.Running = &corev1.ContainerStateRunning{}
		s.Phase = corev1.PodRunning
		if waits != "" {
			status.State = corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: waits, Message: "as the kubelet says"}}
		}
		if restarts > 0 {
			status.LastTerminationState.Terminated = &corev1.ContainerStateTerminated{ExitCode: 1, Reason: "Error", Message: "no database"}
		} else if waits != "" {
			s.Phase = corev1.PodPending
		}
		s.InitContainerStatuses, s.ContainerStatuses = nil, []corev1.ContainerStatus{status}
		if init {
			s.Phase, s.InitContainerStatuses = corev1.PodPending, []corev1.ContainerStatus{status}
			s.ContainerStatuses = []corev1.ContainerStatus{{Name: "web", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "PodInitializing"}}}}
		}
		for _, c := range pod.Spec.Containers {
			if c.Name != s.ContainerStatuses[0].Name && (c.Name == helper || teller == helper) {
				s.ContainerStatuses = append(s.ContainerStatuses, corev1.ContainerStatus{Name: c.Name, Ready: true, Started: new(true), Resources: given(0),
					State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}})
			}
		}
		w.conditions(s, ready)
	})
}

// conditions sets those of a pod that has its sandbox.
func (w *world) conditions(s *corev1.PodStatus, ready bool) {
	w.condition(s, corev1.PodReadyToStartContainers, true, "", "")
	w.condition(s, corev1.PodInitialized, len(s.InitContainerStatuses) == 0, "ContainersNotInitialized", "")
	w.condition(s, corev1.ContainersReady, ready, "ContainersNotReady", "containers with unready status: [web]")
	w.condition(s, corev1.PodReady, ready, "ContainersNotReady", "containers with unready status: [web]")
	w.condition(s, corev1.PodScheduled, true, "", "")
}

// ---- Events

// event records an Event about an object, or counts it once more.
func (w *world) event(about fake.Object, kind, reason, message string) {
	name := strings.ToLower(about.GetName() + "." + string(about.GetUID()) + "." + reason)
	if _, again := fake.Read[*corev1.Event](w.World, name); !again {
		e := &corev1.Event{Type: kind, Reason: reason, InvolvedObject: corev1.ObjectReference{Namespace: fake.Namespace, Name: about.GetName(), UID: about.GetUID()}}
		e.Name, e.Namespace = name, fake.Namespace
		fake.Add(w.World, e)
	}
	fake.Edit(w.World, name, func(e *corev1.Event) {
		e.Message, e.LastTimestamp = message, metav1.NewTime(w.Now())
		e.Count++
	})
}

func (w *world) pull(name string, o outcome) {
	if o.ill && (o.config || o.pull < 0) {
		w.in(5*time.Second, func() {
			if pod := w.pod(name); pod != nil {
				w.pull(name, w.outcomeNow(pod.Spec, pod.CreationTimestamp))
			}
		})
	}
	switch {
	case o.config:
		w.says(name, false, false, "CreateContainerConfigError", 0)
	case o.pull != 0:
		w.says(name, false, false, "ErrImagePull", 0)
		if o.pull > 0 {
			w.in(o.pull, func() { w.begin(name, o, 0) })
		}
	default:
		w.begin(name, o, 0)
	}
}

// begin starts a pod's container, after so many restarts.
func (w *world) begin(name string, o outcome, restarts int32) {
	w.says(name, o.init, false, "", restarts)
	crashes := o.crashes < 0 || int(restarts) < o.crashes
	if o.ready > 0 && (!crashes || o.ready < o.crash) {
		w.in(o.ready, func() { w.says(name, false, true, "", restarts) })
	}
	if crashes && o.crash > 0 {
		w.in(o.crash, func() {
			w.says(name, o.init, false, "CrashLoopBackOff", restarts)
			w.in(min(20, time.Duration(restarts)+1)*time.Second, func() { w.restart(name, restarts+1) })
		})
	}
	if o.unready > 0 {
		w.in(o.ready+o.unready, func() { w.says(name, false, false, "", restarts) })
	}
}

func (w *world) restart(name string, restarts int32) {
	if pod := w.pod(name); pod != nil {
		w.begin(name, w.outcomeNow(pod.Spec, pod.CreationTimestamp), restarts)
	}
}
