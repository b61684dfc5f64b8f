package sim

import (
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	fake "github.com/belay-dev/belay/internal/fakecluster"
)

// The pretend scheduler and kubelet.

func (w *world) schedule() {
	for _, pod := range w.pods() {
		if pod.Spec.NodeName != "" || len(pod.Status.Conditions) > 0 || pod.DeletionTimestamp != nil {
			continue
		}
		o := w.outcomeNow(pod.Spec)
		if o.nowhere {
			w.report(pod.Name, func(s *corev1.PodStatus) {
				s.Conditions = []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: corev1.PodReasonUnschedulable, Message: "0/3 nodes are available"}}
			})
			continue
		}
		fake.Edit(w.World, pod.Name, func(p *corev1.Pod) { p.Spec.NodeName = "node" })
		w.in(100*time.Millisecond, func() { w.pull(pod.Name, o) })
	}
}

// report changes a pod's status, if the pod is still there.
func (w *world) report(name string, change func(*corev1.PodStatus)) {
	if pod := w.pod(name); pod != nil && pod.DeletionTimestamp == nil {
		fake.EditStatus(w.World, name, func(p *corev1.Pod) { change(&p.Status) })
	}
}

func isReady(pod *corev1.Pod) bool {
	return slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// says sets the state of a pod's container, its init container if init.
func (w *world) says(name string, init, ready bool, waits string, restarts int32) {
	w.report(name, func(s *corev1.PodStatus) {
		status := corev1.ContainerStatus{Name: "web", Ready: ready, RestartCount: restarts}
		if waits != "" {
			status.State.Waiting = &corev1.ContainerStateWaiting{Reason: waits, Message: "as the kubelet says"}
		}
		if restarts > 0 {
			status.LastTerminationState.Terminated = &corev1.ContainerStateTerminated{ExitCode: 1, Reason: "Error", Message: "no database"}
		}
		s.InitContainerStatuses, s.ContainerStatuses = nil, []corev1.ContainerStatus{status}
		if init {
			s.InitContainerStatuses = []corev1.ContainerStatus{status}
			s.ContainerStatuses = []corev1.ContainerStatus{{Name: "web", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "PodInitializing"}}}}
		}
		s.Phase, s.Conditions = corev1.PodRunning, []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionFalse}}
		if ready {
			s.Conditions[0].Status = corev1.ConditionTrue
		}
	})
}

func (w *world) pull(name string, o outcome) {
	if o.ill && (o.config || o.pull < 0) {
		w.in(5*time.Second, func() {
			if pod := w.pod(name); pod != nil {
				w.pull(name, w.outcomeNow(pod.Spec))
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
		w.begin(name, w.outcomeNow(pod.Spec), restarts)
	}
}
