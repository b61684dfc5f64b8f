package rollout

import (
	"cmp"
	"fmt"
	"iter"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// Evidence is what was read from the API server, live, about the Deployment's pods.
type Evidence struct {
	// ReplicaSets are those that the Deployment controls.
	ReplicaSets []*appsv1.ReplicaSet
	// Pods are those that the current ReplicaSet controls, also those that have ended or are being deleted.
	Pods []*corev1.Pod
	// OldPods are those that the other ReplicaSets control.
	OldPods []*corev1.Pod
	// Events are those about the objects that Decision.NeedEvents named, by the object's uid. An object without any has an
	// empty entry.
	Events map[types.UID][]*corev1.Event
	// Nodes are those that Decision.NeedNodes named. One that does not exist is nil.
	Nodes map[string]*corev1.Node
	// Unread says why Events or Nodes that were asked for could not be read, empty if they were.
	Unread string
}

// counts of pods: wanted, the new template's, and the old ones'.
type counts struct{ wanted, created, ready, available, old int32 }

// complete reports whether every wanted pod is a new one that is available, and no other is left.
func (c counts) complete() bool {
	return c.wanted > 0 && c.available >= c.wanted && c.ready >= c.wanted && c.old == 0
}

// CurrentReplicaSet returns the ReplicaSet with the Deployment's template, nil if there is none yet. Of several it is
// the oldest: the one that the Deployment controller uses.
func CurrentReplicaSet(d *appsv1.Deployment, sets []*appsv1.ReplicaSet) *appsv1.ReplicaSet {
	var current *appsv1.ReplicaSet
	for _, set := range sets {
		if !sameTemplate(&set.Spec.Template, &d.Spec.Template) {
			continue
		}
		if current == nil || cmp.Or(set.CreationTimestamp.Compare(current.CreationTimestamp.Time), strings.Compare(set.Name, current.Name)) < 0 {
			current = set
		}
	}
	return current
}

// sameTemplate compares a ReplicaSet's template with a Deployment's, but for the label that tells ReplicaSets apart.
func sameTemplate(set, template *corev1.PodTemplateSpec) bool {
	set = set.DeepCopy()
	delete(set.Labels, appsv1.DefaultDeploymentUniqueLabelKey)
	template = template.DeepCopy()
	delete(template.Labels, appsv1.DefaultDeploymentUniqueLabelKey)
	return equality.Semantic.DeepEqual(set, template)
}

// count counts the pods of the Deployment. current's status is the ReplicaSet controller's word, which may be old: what
// is ready is counted from the pods.
func count(d *appsv1.Deployment, current *appsv1.ReplicaSet, sets []*appsv1.ReplicaSet, pods []*corev1.Pod) counts {
	seen := counts{wanted: valueOr(d.Spec.Replicas, 1), created: int32(len(pods))}
	for _, pod := range pods {
		if ready(pod) {
			seen.ready++
		}
	}
	for _, set := range sets {
		if set == current {
			seen.available = set.Status.AvailableReplicas
		} else {
			seen.old += max(set.Status.Replicas, valueOr(set.Spec.Replicas, 0))
		}
	}
	return seen
}

// active returns the pods that count: not those that are on their way out, or were evicted.
func active(pods []*corev1.Pod) []*corev1.Pod {
	var active []*corev1.Pod
	for _, pod := range pods {
		if pod.DeletionTimestamp == nil && pod.Status.Phase != corev1.PodFailed && pod.Status.Phase != corev1.PodSucceeded {
			active = append(active, pod)
		}
	}
	return active
}

// ready reports whether the pod says that it is ready.
func ready(pod *corev1.Pod) bool {
	return conditionOf(pod, corev1.PodReady).Status == corev1.ConditionTrue
}

// conditionOf returns the pod's condition of this type, one without a status if it has none.
func conditionOf(pod *corev1.Pod, kind corev1.PodConditionType) corev1.PodCondition {
	for _, condition := range pod.Status.Conditions {
		if condition.Type == kind {
			return condition
		}
	}
	return corev1.PodCondition{}
}

// containers yields the states of a pod's init containers and containers.
func containers(pod *corev1.Pod) iter.Seq[*corev1.ContainerStatus] {
	return func(yield func(*corev1.ContainerStatus) bool) {
		for _, statuses := range [][]corev1.ContainerStatus{pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses} {
			for i := range statuses {
				if !yield(&statuses[i]) {
					return
				}
			}
		}
	}
}

// stuckReasons are the reasons for which the kubelet makes a container wait until somebody mends its image or its
// configuration, and what they are called here. They are from the kubelet and the CRI of Kubernetes 1.37:
//
//   - https://github.com/kubernetes/kubernetes/blob/v1.37.2/pkg/kubelet/images/types.go
//   - https://github.com/kubernetes/kubernetes/blob/v1.37.2/pkg/kubelet/kuberuntime/kuberuntime_container.go
//   - https://github.com/kubernetes/kubernetes/blob/v1.37.2/pkg/kubelet/container/sync_result.go
//   - https://github.com/kubernetes/cri-api/blob/v0.37.2/pkg/errors/errors.go
var stuckReasons = map[string]string{
	"ErrImagePull":               v1alpha1.FailureImagePull,
	"ImagePullBackOff":           v1alpha1.FailureImagePull,
	"InvalidImageName":           v1alpha1.FailureImagePull,
	"ErrImageNeverPull":          v1alpha1.FailureImagePull,
	"ImageInspectError":          v1alpha1.FailureImagePull,
	"RegistryUnavailable":        v1alpha1.FailureImagePull,
	"SignatureValidationFailed":  v1alpha1.FailureImagePull,
	"CreateContainerConfigError": v1alpha1.FailureContainerConfig,
	"CreateContainerError":       v1alpha1.FailureContainerConfig,
	"PreCreateHookError":         v1alpha1.FailureContainerConfig,
	"PreStartHookError":          v1alpha1.FailureContainerConfig,
	"RunContainerError":          v1alpha1.FailureContainerConfig,
}

// stuckReason returns the failure reason of a container that waits for one of the stuckReasons.
func stuckReason(c *corev1.ContainerStatus) (string, bool) {
	if c.State.Waiting == nil {
		return "", false
	}
	reason, ok := stuckReasons[c.State.Waiting.Reason]
	return reason, ok
}

// findProblem returns what, at this moment, speaks against the release rather than against a controller that has not acted, nil
// if nothing does: a pod that has a node and is not ready, one that fits on no node, or pods that are refused. recorded is
// when the revision was: a ReplicaSet refused before that was another's.
func findProblem(d *appsv1.Deployment, current *appsv1.ReplicaSet, pods []*corev1.Pod, seen counts, recorded metav1.Time) *v1alpha1.Failure {
	for _, pod := range pods {
		if pod.Spec.NodeName != "" && !ready(pod) {
			return notReady(pod)
		}
	}
	for _, pod := range pods {
		scheduled := conditionOf(pod, corev1.PodScheduled)
		if pod.Spec.NodeName == "" && scheduled.Reason == corev1.PodReasonUnschedulable {
			return newFailure(v1alpha1.FailureDeadlineExceeded, pod, "", "pod %s fits on no node: %s", pod.Name, scheduled.Message)
		}
	}
	if current != nil && valueOr(current.Spec.Replicas, 0) > seen.created {
		for _, condition := range current.Status.Conditions {
			if condition.Type == appsv1.ReplicaSetReplicaFailure && condition.Status == corev1.ConditionTrue {
				return podsRefused(condition.Message)
			}
		}
	}
	if current == nil {
		for _, condition := range d.Status.Conditions {
			if condition.Type == appsv1.DeploymentProgressing && condition.Reason == "ReplicaSetCreateError" && !condition.LastUpdateTime.Before(&recorded) {
				return podsRefused(condition.Message)
			}
		}
	}
	return nil
}

// waitingFor names who has to act before anything can be said about the release, empty if nobody has to.
func waitingFor(d *appsv1.Deployment, current *appsv1.ReplicaSet, pods []*corev1.Pod, seen counts) string {
	switch {
	case current == nil:
		return "the Deployment controller, which has made no ReplicaSet for it"
	case valueOr(current.Spec.Replicas, 0) > seen.created:
		return "the ReplicaSet controller, which has not made its pods"
	}
	for _, pod := range pods {
		if pod.Spec.NodeName == "" {
			return fmt.Sprintf("the scheduler, which has not looked at pod %s", pod.Name)
		}
	}
	if seen.available >= seen.created || (seen.ready > seen.available && d.Spec.MinReadySeconds == 0) {
		return "the Deployment controller, which does not go on"
	}
	return ""
}

// podsRefused returns the failure of a release whose pods the API server does not let be created, by its message. A quota's says
// "forbidden", too: it is asked first.
func podsRefused(message string) *v1alpha1.Failure {
	reason := v1alpha1.FailureDeadlineExceeded
	switch {
	case strings.Contains(message, "exceeded quota"):
		reason = v1alpha1.FailureQuotaExceeded
	case strings.Contains(message, "forbidden"):
		reason = v1alpha1.FailurePodsForbidden
	}
	return &v1alpha1.Failure{Reason: reason, Message: Clean("its pods cannot be created: "+message, maxMessage)}
}

// crashLoop returns the failure of a release of which a container restarted too often, with how it ended last.
func crashLoop(pod *corev1.Pod, c *corev1.ContainerStatus) *v1alpha1.Failure {
	f := newFailure(v1alpha1.FailureCrashLoop, pod, c.Name, "container %s of pod %s %s, after %d restarts%s",
		c.Name, pod.Name, ending(c), c.RestartCount, lastWords(c))
	f.ExitCode = exitCode(c)
	return f
}

// stuck returns the failure of a release of which a container waits for one of the stuckReasons.
func stuck(reason string, pod *corev1.Pod, c *corev1.ContainerStatus) *v1alpha1.Failure {
	return newFailure(reason, pod, c.Name, "container %s of pod %s cannot start: %s: %s",
		c.Name, pod.Name, c.State.Waiting.Reason, c.State.Waiting.Message)
}

// notReady says of a pod which container keeps it from being ready, as far as can be told.
func notReady(pod *corev1.Pod) *v1alpha1.Failure {
	for c := range containers(pod) {
		if c.Ready || (c.State.Waiting != nil && c.State.Waiting.Reason == "PodInitializing") {
			continue
		}
		state := "is not ready"
		if c.State.Waiting != nil {
			state = fmt.Sprintf("waits: %s", c.State.Waiting.Reason)
		}
		f := newFailure(v1alpha1.FailureDeadlineExceeded, pod, c.Name, "pod %s is not ready: container %s %s%s",
			pod.Name, c.Name, state, lastWords(c))
		f.ExitCode = exitCode(c)
		return f
	}
	return newFailure(v1alpha1.FailureDeadlineExceeded, pod, "", "pod %s is not ready: %s",
		pod.Name, cmp.Or(conditionOf(pod, corev1.PodReady).Message, "nothing is known of its containers"))
}

// newFailure returns a failure that a pod shows, and if container is not empty, that container of it.
func newFailure(reason string, pod *corev1.Pod, container, format string, args ...any) *v1alpha1.Failure {
	return &v1alpha1.Failure{Reason: reason, Pod: pod.Name, Container: container,
		Message: Clean(fmt.Sprintf(format, args...), maxMessage)}
}

// ended returns how the container last ended, nil if it never did.
func ended(c *corev1.ContainerStatus) *corev1.ContainerStateTerminated {
	if c.State.Terminated != nil {
		return c.State.Terminated
	}
	return c.LastTerminationState.Terminated
}

// exitCode returns the exit code of the container's last end, nil if it never ended.
func exitCode(c *corev1.ContainerStatus) *int32 {
	if end := ended(c); end != nil {
		return new(end.ExitCode)
	}
	return nil
}

// ending says how the container last ended, as the verb of a sentence.
func ending(c *corev1.ContainerStatus) string {
	end := ended(c)
	switch {
	case end == nil:
		return "keeps ending"
	case end.Reason == "" || end.Reason == "Error" || end.Reason == "Completed":
		return fmt.Sprintf("exited with code %d", end.ExitCode)
	default:
		return fmt.Sprintf("exited with code %d (%s)", end.ExitCode, end.Reason)
	}
}

// lastWords returns what the container said last: its termination message, or what the kubelet says of it.
func lastWords(c *corev1.ContainerStatus) string {
	if end := ended(c); end != nil && end.Message != "" {
		return ": " + end.Message
	}
	if c.State.Waiting != nil && c.State.Waiting.Message != "" {
		return ": " + c.State.Waiting.Message
	}
	return ""
}
