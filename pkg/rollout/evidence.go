package rollout

import (
	"cmp"
	"fmt"
	"iter"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
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

// counts of pods: wanted, the new template's, and the old ones'; oldLeft are those that are still there, also while they end.
type counts struct{ wanted, created, ready, available, old, oldLeft int32 }

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

// count counts the pods of the Deployment. The ReplicaSets' statuses are the ReplicaSet controller's word, which may be old: what
// is ready is counted from the pods.
func count(l *look) counts {
	seen := counts{wanted: valueOr(l.deployment.Spec.Replicas, 1), created: int32(len(l.active))}
	for _, pod := range l.active {
		if readyByOwnWord(pod) {
			seen.ready++
		}
	}
	for _, set := range l.evidence.ReplicaSets {
		if set == l.current {
			seen.available = set.Status.AvailableReplicas
		} else {
			seen.old += max(set.Status.Replicas, valueOr(set.Spec.Replicas, 0))
		}
	}
	for _, pod := range l.evidence.OldPods {
		if _, ended := endOf(pod); !ended {
			seen.oldLeft++
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

// creating reports whether the kubelet has taken the pod on, and no container of it could start yet.
func creating(pod *corev1.Pod) bool {
	waits := false
	for c := range containers(pod) {
		if c.State.Running != nil || c.State.Terminated != nil || c.LastTerminationState.Terminated != nil {
			return false
		}
		waits = waits || (c.State.Waiting != nil && c.State.Waiting.Reason == "ContainerCreating") || isInitializing(c)
	}
	return waits && pod.Spec.NodeName != ""
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
}

// stuckReason returns the failure reason of a container that waits for one of the stuckReasons.
func stuckReason(c *corev1.ContainerStatus) (string, bool) {
	if c.State.Waiting == nil {
		return "", false
	}
	reason, ok := stuckReasons[c.State.Waiting.Reason]
	return reason, ok
}

// absent says who has to act before anything can be said about the release, nobody if nobody has to.
func absent(l *look) waiting {
	controller := func(words string) waiting {
		return waiting{v1alpha1.ReasonWaitingForDeploymentController, words}
	}
	ending := l.oldLeft > 0 && l.deployment.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType
	switch {
	case ending && l.created == 0:
		return waiting{v1alpha1.ReasonWaitingForOldPods, fmt.Sprintf("%d pods of the release before to end", l.oldLeft)}
	case l.current == nil:
		return controller("the Deployment controller, which has made no ReplicaSet for it")
	case valueOr(l.current.Spec.Replicas, 0) > l.created:
		return controller("the ReplicaSet controller, which has not made its pods")
	}
	for _, pod := range l.active {
		switch {
		case pod.Spec.NodeName == "":
			return waiting{v1alpha1.ReasonWaitingForScheduler, fmt.Sprintf("the scheduler%s, which has not looked at pod %s", named(pod.Spec.SchedulerName), pod.Name)}
		case nodeSilent(pod):
			return waiting{v1alpha1.ReasonWaitingForNode, fmt.Sprintf("node %s, which does not report: pod %s is ready by its own word; %d of %d new pods are fine",
				pod.Spec.NodeName, pod.Name, l.ready, l.wanted)}
		}
	}
	if l.available >= l.created || (l.ready > l.available && l.deployment.Spec.MinReadySeconds == 0) {
		return controller("the Deployment controller, which does not go on")
	}
	return waiting{}
}

// named returns the name of a scheduler that is not the default one, for a sentence.
func named(scheduler string) string {
	if scheduler == "" || scheduler == corev1.DefaultSchedulerName {
		return ""
	}
	return " " + scheduler
}

// podsRefused returns the failure of a release whose pods the API server does not let be created, by its message.
func podsRefused(message string) *v1alpha1.Failure {
	reason := v1alpha1.FailureDeadlineExceeded
	kind, cause := refusalOf(message)
	switch kind {
	case refusedByQuota:
		reason = v1alpha1.FailureQuotaExceeded
	case refusedForGood:
		reason = v1alpha1.FailurePodsForbidden
	}
	return &v1alpha1.Failure{Reason: reason, Cause: cause, Message: "its pods cannot be created: " + message}
}

// crashLoop returns the failure of a release of which a container restarted too often, with how it ended last, or what the kubelet
// said of its postStart hook, if that failed. How the container ended was the kubelet's doing then.
func crashLoop(pod *corev1.Pod, c *corev1.ContainerStatus, hook string) *v1alpha1.Failure {
	if hook != "" {
		f := newFailure(v1alpha1.FailureCrashLoop, pod, c.Name, "the postStart hook of container %s of pod %s fails, after %d restarts: %s",
			c.Name, pod.Name, c.RestartCount, hook)
		f.Cause = v1alpha1.CausePostStartHook
		return f
	}
	if rule := wholePodRule(&pod.Spec, c.Name); rule != nil && !cannotStart(c) {
		return wholePodLoop(pod, c, rule)
	}
	f := newFailure(v1alpha1.FailureCrashLoop, pod, c.Name, "container %s of pod %s %s, after %d restarts%s",
		c.Name, pod.Name, ending(c), c.RestartCount, lastWords(c))
	f.ExitCode, f.Cause = exitCode(c), crashCause(c)
	return f
}

// wholePodLoop returns the failure of a release of which a container has its whole pod restarted, again and again. The kubelet tells
// its exit code for a moment only, and says 137 of every container afterwards.
func wholePodLoop(pod *corev1.Pod, c *corev1.ContainerStatus, rule *corev1.ContainerRestartRule) *v1alpha1.Failure {
	f := &v1alpha1.Failure{Reason: v1alpha1.FailureCrashLoop, Cause: v1alpha1.CauseRestartsWholePod, Pod: pod.Name, Container: c.Name}
	how := "nothing is known of its exit code"
	switch end, codes := c.State.Terminated, rule.ExitCodes; {
	case end != nil && end.Reason != restartingAll:
		how, f.ExitCode = "it "+ending(c), new(end.ExitCode)
	case codes != nil:
		how = fmt.Sprintf("its rule is for exit codes %s %v", codes.Operator, codes.Values)
	}
	f.Message = Clean(fmt.Sprintf("container %s restarts its whole pod %s, %d times without a back-off: %s",
		c.Name, pod.Name, c.RestartCount, how), maxMessage)
	return f
}

// crashCause returns why a container ends again and again, as far as its status tells.
func crashCause(c *corev1.ContainerStatus) string {
	end := ended(c)
	switch {
	case cannotStart(c):
		return v1alpha1.CauseCannotStart
	case end == nil:
		return v1alpha1.CauseUnknown
	case end.Reason == "OOMKilled":
		return v1alpha1.CauseOutOfMemory
	case end.ExitCode == 0:
		return v1alpha1.CauseCompleted
	default:
		return v1alpha1.CauseExitCode
	}
}

// crashWords says in a few words how a container is in trouble.
func crashWords(c *corev1.ContainerStatus) string {
	if c.State.Waiting != nil && ended(c) == nil {
		return "it waits: " + c.State.Waiting.Reason
	}
	return "it " + ending(c) + lastWords(c)
}

// stuck returns the failure of a release of which a container waits for one of the stuckReasons, with the kubelet's last words
// that say why.
func stuck(reason string, pod *corev1.Pod, c *corev1.ContainerStatus, words string) *v1alpha1.Failure {
	f := newFailure(reason, pod, c.Name, "container %s of pod %s cannot start: %s: %s",
		c.Name, pod.Name, c.State.Waiting.Reason, cmp.Or(words, c.State.Waiting.Message))
	f.Cause = v1alpha1.CauseConfiguration
	if reason == v1alpha1.FailureImagePull {
		f.Cause = v1alpha1.CauseImage
		if registryAway(words) {
			f.Cause = v1alpha1.CauseRegistryUnavailable
		}
	}
	return f
}

// tells reports whether the kubelet's words about a container that waits say why: those about a back-off alone do not.
func tells(words string) bool {
	return words != "" && (!strings.HasPrefix(words, "Back-off pulling image") || strings.Contains(words, ": "))
}

// notReady says of a pod which container keeps it from being ready, as far as can be told, and what others say of it.
func notReady(pod *corev1.Pod, words string) *v1alpha1.Failure {
	for c := range containers(pod) {
		if c.Ready || isInitializing(c) {
			continue
		}
		state := "is not ready"
		switch {
		case c.State.Terminated != nil:
			state = fmt.Sprintf("%s, after %d restarts", ending(c), c.RestartCount)
		case c.State.Waiting != nil:
			state = fmt.Sprintf("waits: %s", c.State.Waiting.Reason)
		}
		said := lastWords(c)
		if words != "" {
			said = ": " + words
		}
		f := newFailure(v1alpha1.FailureDeadlineExceeded, pod, c.Name, "pod %s is not ready: container %s %s%s", pod.Name, c.Name, state, said)
		f.ExitCode, f.Cause = exitCode(c), v1alpha1.CauseNotReady
		return f
	}
	f := newFailure(v1alpha1.FailureDeadlineExceeded, pod, "", "pod %s is not ready: %s",
		pod.Name, cmp.Or(words, conditionOf(pod, corev1.PodReady).Message, "nothing is known of its containers"))
	f.Cause = v1alpha1.CauseNotReady
	return f
}

// gateWords says of which readiness gates a pod has no condition, or one that is not True.
func gateWords(pod *corev1.Pod) string {
	var gates []string
	for _, gate := range pod.Spec.ReadinessGates {
		if condition := conditionOf(pod, gate.ConditionType); condition.Status != corev1.ConditionTrue {
			gates = append(gates, strings.TrimSuffix(fmt.Sprintf("readiness gate %s is %s: %s", gate.ConditionType,
				cmp.Or(condition.Status, "not written"), condition.Message), ": "))
		}
	}
	return strings.Join(gates, "; ")
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
