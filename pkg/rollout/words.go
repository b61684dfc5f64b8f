package rollout

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// failure returns what the status says of a trouble that is one.
func (t *trouble) failure(l *look, p *Progress) *v1alpha1.Failure {
	f := t.describe(l, p)
	if t.kind == kindSoak || (t.kind == kindDeadline && p.complete != 0) {
		f.Reason = v1alpha1.FailureUnhealthyInSoak
	}
	if t.pod != nil {
		f.Pod, f.Node = t.pod.Name, t.pod.Spec.NodeName
	}
	var besides string
	if l.fine > 0 && l.fine < l.wanted {
		besides = fmt.Sprintf("; %d of %d new pods are fine%s", l.fine, l.wanted, p.whereOthersAre(l))
	}
	if t.kind == kindDeadline && p.unread != "" {
		besides += "; " + p.unread
	}
	besides = Clean(besides, maxMessage/2)
	f.Message = Clean(f.Message, maxMessage-len(besides)) + besides
	return f
}

// countFine counts the new pods that are fine.
func (p *Progress) countFine(l *look) (n int32) {
	for _, pod := range l.active {
		if p.isFine(l, pod) {
			n++
		}
	}
	return n
}

// isFine reports whether a pod is ready, also by the word of the node controller, and has not restarted too often.
func (p *Progress) isFine(l *look, pod *corev1.Pod) bool {
	record := p.pods[pod.UID]
	return readyByOwnWord(pod) && !nodeSilent(pod) && record.counted() <= l.maxRestarts
}

// whereOthersAre names the nodes of the pods that are not fine, the first few of them.
func (p *Progress) whereOthersAre(l *look) string {
	var nodes []string
	for _, pod := range l.active {
		if !p.isFine(l, pod) {
			nodes = withName(nodes, pod.Spec.NodeName)
		}
	}
	slices.Sort(nodes)
	switch few := 3; {
	case len(nodes) == 0:
		return ""
	case len(nodes) > few:
		return fmt.Sprintf(", and the others on %s and %d more nodes", strings.Join(nodes[:few], ", "), len(nodes)-few)
	default:
		return ", and the others on " + strings.Join(nodes, ", ")
	}
}

// describe says what is wrong, and why it may be.
func (t *trouble) describe(l *look, p *Progress) *v1alpha1.Failure {
	deadline := func(cause, format string, args ...any) *v1alpha1.Failure {
		return &v1alpha1.Failure{Reason: v1alpha1.FailureDeadlineExceeded, Cause: cause, Message: fmt.Sprintf(format, args...)}
	}
	switch t.topic {
	case topicCrash:
		return crashLoop(t.pod, t.container, t.words)
	case topicSandbox:
		return &v1alpha1.Failure{Reason: v1alpha1.FailureCrashLoop, Cause: v1alpha1.CauseSandbox, Message: fmt.Sprintf(
			"pods on more than one node get new sandboxes again and again, pod %s the last", t.pod.Name)}
	case topicEnds:
		return podsEnded(p.tellingEnd(), p.own)
	case topicPressure:
		f := podsEnded(p.lastPressed, p.own+p.pressedPods)
		f.Cause = v1alpha1.CauseEatsNodes
		return f
	case topicRefusedByNode:
		return &v1alpha1.Failure{Reason: v1alpha1.FailurePodsEnded, Cause: v1alpha1.CauseRefused, Message: fmt.Sprintf(
			"nodes refuse its pods, %s the last: %s", t.pod.Name, t.words)}
	case topicRewrite:
		return deadline(v1alpha1.CauseTemplateRewritten, "the ReplicaSets made for it have another template: %s", t.words)
	case topicImage, topicConfig:
		return t.describeWait()
	case topicRoom:
		return deadline(v1alpha1.CauseNoRoom, "pod %s fits on no node: %s", t.pod.Name, t.words)
	case topicClaim:
		f := deadline(v1alpha1.CauseClaimMissing, "pod %s has no claim for its volume: %s", t.pod.Name, t.words)
		if t.kind == kindWait {
			f.Reason = v1alpha1.FailureContainerConfig
		}
		return f
	case topicSchedulingGate:
		return deadline(v1alpha1.CauseSchedulingGate, "pod %s waits for scheduling gate %s", t.pod.Name, gatesOf(t.pod))
	case topicScheduler:
		return deadline(v1alpha1.CauseSchedulerMissing, "no scheduler %q has looked at pod %s", t.words, t.pod.Name)
	case topicResourceClaim:
		return deadline(v1alpha1.CauseResourceClaim, "resource claim %q of pod %s has not been made: is its template there?", t.words, t.pod.Name)
	case topicReadinessGate:
		return deadline(v1alpha1.CauseReadinessGate, "pod %s is not ready: %s", t.pod.Name, gateWords(t.pod))
	case topicRefusal:
		return podsRefused(t.words)
	default:
		return notReady(t.pod, t.words)
	}
}

// describeWait says what a container waits for, or a pod without a volume.
func (t *trouble) describeWait() *v1alpha1.Failure {
	f := &v1alpha1.Failure{}
	if t.container == nil {
		*f = v1alpha1.Failure{Reason: v1alpha1.FailureContainerConfig, Cause: v1alpha1.CauseConfiguration,
			Message: fmt.Sprintf("pod %s cannot start: %s", t.pod.Name, t.words)}
	} else {
		reason, _ := stuckReason(t.container)
		*f = *stuck(reason, t.pod, t.container, t.words)
	}
	if t.kind == kindDeadline {
		f.Reason = v1alpha1.FailureDeadlineExceeded
	}
	return f
}

// podsEnded returns the failure of a release whose pods end by themselves, so many of them, this one for example.
func podsEnded(e *podEnd, times int) *v1alpha1.Failure {
	f := &v1alpha1.Failure{Reason: v1alpha1.FailurePodsEnded, Cause: e.cause, Container: e.container, ExitCode: e.exitCode}
	if e.exitCode != nil && *e.exitCode != 0 && e.cause != v1alpha1.CauseEvicted {
		f.Reason = v1alpha1.FailureCrashLoop
	}
	f.Message = fmt.Sprintf("%d of its pods ended by themselves, %s for example: %s", times, e.pod.Name,
		cmp.Or(e.words, "nothing is known of why"))
	return f
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
	if ended(c) == nil {
		return "it is not ready"
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
