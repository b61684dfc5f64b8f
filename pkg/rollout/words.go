package rollout

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// account is what is to be said of a failure: all of it but the message, which says in this order what failed and where, why, and what
// else there is to know.
type account struct {
	v1alpha1.Failure
	what, why string
	run       *LogRequest // the run of a container that shows it and says nothing itself, nil if there is none
}

// failure puts the account into words, with the last lines of the log, if they were asked for.
func (a account) failure(l *look, p *Progress, kind kind) *v1alpha1.Failure {
	a.Images = l.moved(a.Pod)
	besides := l.movedWords(a.Images)
	if l.fine > 0 && l.fine < l.wanted {
		besides += "; " + l.howManyAreFine() + p.whereOthersAre(l)
	}
	if p.unread != "" && (kind == kindDeadline || l.evidence.Unread != "") {
		besides += "; " + p.unread
	}
	switch read := l.evidence.Log; {
	case a.run == nil || l.knownGood || l.inPlace:
	case !l.log:
		besides += "; log: off by spec.guard.log"
	case read == nil:
		besides += "; its log was not read: its node may not answer"
	case read.Unread != "":
		besides += "; its log could not be read: " + read.Unread
	default:
		a.Log = Tail(read.Lines)
		a.why = cmp.Or(a.why, lastLine(a.Log))
	}
	besides = Clean(besides, maxMessage/2)
	room := maxMessage - len(besides)
	a.Message = Clean(bothEnds(strings.ToValidUTF8(reasoned(a.what, gist(a.why)), "\uFFFD"), room), room) + besides
	return &a.Failure
}

// bothEnds returns the beginning and the end of a text that has more than limit bytes: a wrapped error says last what is wrong.
func bothEnds(text string, limit int) string {
	if len(text) <= limit {
		return text
	}
	end := lastOf(text, limit/2)
	return beginningOf(text, limit-len(end)) + end
}

// maxGist is the most bytes of what is said that lines are left out for: with what failed and where it fits into a message.
const maxGist = 300

// gist returns what was said without its first lines, if it is too long: a program's last lines tell most.
func gist(said string) string {
	said = strings.TrimSpace(said)
	for len(said) > maxGist {
		_, rest, more := strings.Cut(said, "\n")
		if !more {
			break
		}
		said = strings.TrimSpace(rest)
	}
	return said
}

// lastLine returns the last line of a text that ends with no blank one.
func lastLine(text string) string {
	return strings.TrimSpace(text[strings.LastIndexByte(text, '\n')+1:])
}

// howManyAreFine says it of the pods that the rollout makes: in a rollback they are not those of the release that failed.
func (l *look) howManyAreFine() string {
	if l.knownGood {
		return fmt.Sprintf("%d of its %d pods are fine", l.fine, l.wanted)
	}
	return fmt.Sprintf("%d of %d new pods are fine", l.fine, l.wanted)
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
		return fmt.Sprintf(", and the others on %s and %d more", strings.Join(nodes[:few], ", "), len(nodes)-few)
	default:
		return ", and the others on " + strings.Join(nodes, ", ")
	}
}

// account says what is wrong, and why it may be.
func (t *trouble) account(l *look, p *Progress) account {
	var a account
	switch t.topic {
	case topicCrash, topicUnready:
		a = t.ofContainer(l, p)
	case topicEnds:
		a = podsEnded(p.tellingEnd(), p.own)
	case topicPressure:
		a = podsEnded(p.lastPressed, p.own+p.pressedPods)
		a.Cause = v1alpha1.CauseEatsNodes
	case topicImage, topicConfig:
		a = t.ofWait()
	case topicRefusal:
		a = podsRefused(t.words)
	default:
		a = t.ofPod()
	}
	if t.kind == kindDeadline && t.topic != topicRefusal {
		a.Reason = v1alpha1.FailureDeadlineExceeded
	}
	if t.kind == kindSoak || (t.kind == kindDeadline && p.complete != 0) {
		a.Reason = v1alpha1.FailureUnhealthyInSoak
	}
	if t.pod != nil {
		a.Pod, a.Node = t.pod.Name, t.pod.Spec.NodeName
	}
	return a
}

// tell returns an account of what failed, with the verb and all else of its sentence, and why.
func tell(reason, cause, why, format string, args ...any) account {
	return account{Failure: v1alpha1.Failure{Reason: reason, Cause: cause}, what: fmt.Sprintf(format, args...), why: why}
}

// where says in which pod something is, and on which node that is.
func where(pod *corev1.Pod) string { return "in pod " + onNode(pod) }

// called names a container of the pod.
func called(pod *corev1.Pod, c *corev1.ContainerStatus) string {
	if isInit(pod, c.Name) {
		return "init container " + c.Name
	}
	return "container " + c.Name
}

func onNode(pod *corev1.Pod) string {
	if pod.Spec.NodeName == "" {
		return pod.Name
	}
	return pod.Name + " on node " + pod.Spec.NodeName
}

// ofContainer is about a container that ends or is not ready, or about a pod of which nothing is known of the containers.
func (t *trouble) ofContainer(l *look, p *Progress) account {
	c, events := t.container, l.evidence.Events[t.pod.UID]
	if c == nil {
		return tell("", v1alpha1.CauseNotReady, cmp.Or(conditionOf(t.pod, corev1.PodReady).Message, "nothing is known of its containers"),
			"pod %s is not ready", onNode(t.pod))
	}
	record := p.pods[t.pod.UID]
	var f finding
	crashes := t.kind == kindCrash || p.isCrashing(record.container(c.Name), c)
	if crashes {
		f = crashCause(t.pod, c, record.container(c.Name).hook, events)
	} else {
		f = unreadyCause(t.pod, c, events)
	}
	times := ""
	if crashes && c.RestartCount > 0 {
		times = fmt.Sprintf(" after %d restarts", c.RestartCount)
		if c.RestartCount == 1 {
			times = " after 1 restart"
		}
	}
	if t.kind == kindCrash && p.lost > 0 {
		times += fmt.Sprintf(", as in %d before it,", p.lost)
	}
	a := tell(v1alpha1.FailureCrashLoop, f.cause, f.why, "%s %s%s %s", called(t.pod, c), f.verb, times, where(t.pod))
	a.Container, a.Restarts = c.Name, c.RestartCount
	if f.end != nil {
		a.ExitCode = new(f.end.ExitCode)
	}
	a.run = runOf(t.pod, c, crashes, f)
	return a
}

// runOf returns the run of a container whose log tells more: the last one that has ended, if it crashes, or the present one; nil if it
// has never run, or has left a message.
func runOf(pod *corev1.Pod, c *corev1.ContainerStatus, crashes bool, f finding) *LogRequest {
	ran := c.State.Running != nil
	if crashes {
		ran = ended(c) != nil && !cannotStart(c) && (f.end == nil || f.end.Message == "")
	}
	if !ran {
		return nil
	}
	last := c.LastTerminationState.Terminated
	previous := crashes && last != nil && (c.State.Terminated == nil || f.end == last)
	return &LogRequest{Node: pod.Spec.NodeName, Pod: pod.Name, Container: c.Name, Previous: previous}
}

// isCrashing reports whether a container that is not ready ends again and again: it does not run, or its present run has not lasted for
// longer than the last one, or a minute.
func (p *Progress) isCrashing(r *containerRecord, c *corev1.ContainerStatus) bool {
	end := ownEnd(c)
	switch {
	case end == nil:
		return r.hook != "" || cannotStart(c) || (r.counted > 0 && restartedByOthers(c))
	case c.State.Running == nil:
		return true
	default:
		return p.since(r.since) <= max(maxBlind, end.FinishedAt.Sub(end.StartedAt.Time))
	}
}

// ofWait is about a container that waits for its image or its configuration, or a pod without a volume.
func (t *trouble) ofWait() account {
	if t.container == nil {
		return tell(v1alpha1.FailureContainerConfig, configCause(t.words, v1alpha1.CauseConfiguration), t.words, "pod %s cannot start", onNode(t.pod))
	}
	c := t.container
	reason, _ := stuckReason(c)
	words := cmp.Or(t.words, c.State.Waiting.Message)
	cause := configCause(words, v1alpha1.CauseConfiguration)
	if reason == v1alpha1.FailureImagePull {
		cause = imageCause(c.State.Waiting.Reason, words)
	}
	a := tell(reason, cause, words, "%s cannot start (%s) %s", called(t.pod, c), c.State.Waiting.Reason, where(t.pod))
	a.Container, a.Restarts = c.Name, c.RestartCount
	return a
}

// ofPod is about what a pod or all of them have to wait for, and about what others do to them.
func (t *trouble) ofPod() account {
	switch t.topic {
	case topicSandbox:
		return tell(v1alpha1.FailureCrashLoop, v1alpha1.CauseSandbox, "", "pods on more than one node get new sandboxes again and again, pod %s the last", onNode(t.pod))
	case topicRefusedByNode:
		return tell(v1alpha1.FailurePodsEnded, v1alpha1.CauseRefused, t.words, "nodes refuse its pods, pod %s the last", onNode(t.pod))
	case topicRewrite:
		return tell(v1alpha1.FailureDeadlineExceeded, v1alpha1.CauseTemplateRewritten, t.words, "the ReplicaSets made for it have another template")
	case topicCreating:
		what := "pod " + onNode(t.pod)
		if t.container != nil && started(t.pod) {
			what = called(t.pod, t.container) + " " + where(t.pod)
		}
		return tell("", configCause(t.words, v1alpha1.CauseNotReady), cmp.Or(t.words, "nothing is known of why"), "%s is not set up", what)
	case topicRoom:
		return tell("", roomCause(t.words), t.words, "pod %s fits on no node", t.pod.Name)
	case topicClaim:
		return tell(v1alpha1.FailureContainerConfig, v1alpha1.CauseClaimMissing, t.words, "pod %s has no claim for its volume", t.pod.Name)
	case topicSchedulingGate:
		return tell("", v1alpha1.CauseSchedulingGate, "", "pod %s waits for scheduling gate %s", t.pod.Name, gatesOf(t.pod))
	case topicScheduler:
		return tell("", v1alpha1.CauseSchedulerMissing, "", "no scheduler %q has looked at pod %s", t.words, t.pod.Name)
	case topicResourceClaim:
		return tell("", v1alpha1.CauseResourceClaim, "is its template there?", "resource claim %q of pod %s has not been made", t.words, t.pod.Name)
	default:
		return tell("", v1alpha1.CauseReadinessGate, gateWords(t.pod), "pod %s is not ready", onNode(t.pod))
	}
}

// podsEnded is about a release whose pods end by themselves, so many of them, this one for example.
func podsEnded(e *podEnd, times int) account {
	a := tell(v1alpha1.FailurePodsEnded, e.cause, cmp.Or(e.words, "nothing is known of why"),
		"%d of its pods ended, pod %s for example", times, onNode(e.pod))
	a.Container, a.ExitCode = e.container, e.exitCode
	switch {
	case e.cause == v1alpha1.CauseEvicted || e.exitCode == nil:
	case *e.exitCode != 0:
		a.Reason = v1alpha1.FailureCrashLoop
		fallthrough
	default:
		if a.what, a.why = reasoned(a.what, e.words), e.message; a.why == "" && e.container != "" {
			a.run = &LogRequest{Node: e.pod.Spec.NodeName, Pod: e.pod.Name, Container: e.container}
		}
	}
	return a
}

// podsRefused is about a release whose pods the API server does not let be created, by its message.
func podsRefused(message string) account {
	reason := v1alpha1.FailureDeadlineExceeded
	kind, cause := refusalOf(message)
	switch kind {
	case refusedByQuota:
		reason = v1alpha1.FailureQuotaExceeded
	case refusedForGood:
		reason = v1alpha1.FailurePodsForbidden
	}
	return tell(reason, cmp.Or(cause, v1alpha1.CauseUnknown), message, "its pods cannot be created")
}

// crashWords says in a few words how a container is in trouble.
func crashWords(c *corev1.ContainerStatus) string {
	switch end := ended(c); {
	case end != nil:
		return "it " + reasoned(ending(end), gist(end.Message))
	case c.State.Waiting != nil:
		return "it waits: " + c.State.Waiting.Reason
	default:
		return "it is not ready"
	}
}

// tells reports whether the kubelet's words about a container that waits say why: those about a back-off alone do not.
func tells(words string) bool {
	return words != "" && (!strings.HasPrefix(words, "Back-off pulling image") || strings.Contains(words, ": "))
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

// ended returns how the container last ended, nil if it never did.
func ended(c *corev1.ContainerStatus) *corev1.ContainerStateTerminated {
	if c.State.Terminated != nil {
		return c.State.Terminated
	}
	return c.LastTerminationState.Terminated
}

// ownEnd returns the last end of the container that was its own, nil if none is known: what a reboot or the rule of another container
// did to it says nothing of it.
func ownEnd(c *corev1.ContainerStatus) *corev1.ContainerStateTerminated {
	for _, end := range []*corev1.ContainerStateTerminated{c.State.Terminated, c.LastTerminationState.Terminated} {
		if end != nil && end.Reason != restartingAll && !isReboot(end) {
			return end
		}
	}
	return nil
}

// ending says how a container ended, as the verb of a sentence.
func ending(end *corev1.ContainerStateTerminated) string {
	if end.Reason == "" || end.Reason == "Error" || end.Reason == "Completed" {
		return fmt.Sprintf("exited with code %d", end.ExitCode)
	}
	return fmt.Sprintf("exited with code %d (%s)", end.ExitCode, end.Reason)
}
