package rollout

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// kind is how a trouble becomes a failure, in the order in which they are asked for.
type kind int

const (
	kindCrash    kind = iota // a container restarts too often: at once
	kindEnds                 // pods end by themselves: when there are too many
	kindRewrite              // the ReplicaSets made have another template: at once
	kindSoak                 // a pod that was ready is not any more: after stuckSeconds
	kindWait                 // a container waits for its image or its configuration: after stuckSeconds
	kindRefusal              // the API server says no: after stuckSeconds
	kindDeadline             // all of this, and a pod that is not ready: at the deadline
	kinds
)

// topic is what a trouble is about.
type topic int

const (
	topicCrash topic = iota
	topicSandbox
	topicEnds
	topicPressure
	topicRewrite
	topicImage
	topicConfig
	topicRefusedByNode
	topicCreating // the pod has no sandbox or no volumes yet
	topicUnready
	topicReadinessGate
	topicRoom
	topicClaim
	topicSchedulingGate
	topicScheduler
	topicResourceClaim
	topicRefusal
)

// trouble is something that speaks against the release.
type trouble struct {
	kind
	topic
	pods      int32       // how many wanted pods show it
	pod       *corev1.Pod // nil if it is about no single one
	container *corev1.ContainerStatus
	words     string // others' about it
	due       bool   // it has lasted for as long as its kind takes
	excused   bool   // it is not held against the release
}

// troubles returns all that speaks against the release at this moment.
func (p *Progress) troubles(l *look) []trouble {
	var all []trouble
	for _, pod := range l.active {
		record := p.pods[pod.UID]
		switch {
		case pod.Spec.NodeName == "":
			all = append(all, unplaced(l, pod)...)
		default:
			all = append(all, p.placed(l, pod, &record)...)
		}
	}
	all = append(all, p.sandboxTrouble(l)...)
	all = append(all, p.endTroubles(l)...)
	all = append(all, p.refusalTroubles(l)...)
	return append(all, p.rewriteTrouble(l)...)
}

// placed returns the troubles of a pod that has a node.
func (p *Progress) placed(l *look, pod *corev1.Pod, record *podRecord) (all []trouble) {
	tell := func(t trouble) {
		t.pod, t.pods = pod, 1
		all = append(all, t)
	}
	unready := trouble{kind: kindDeadline, topic: topicUnready}
	for c := range containers(pod) {
		memory := record.container(c.Name)
		switch _, stuck := stuckReason(c); {
		case memory.counted+p.lost > l.maxRestarts && (memory.relapsed || (!c.Ready && memory.counted > 0)):
			tell(trouble{kind: kindCrash, topic: topicCrash, container: c, due: true})
		case stuck:
			about := topicConfig
			if reason, _ := stuckReason(c); reason == v1alpha1.FailureImagePull {
				about = topicImage
			}
			tell(trouble{kind: kindWait, topic: about, container: c, words: memory.words, due: p.since(memory.stuck) >= l.stuck})
			unready.topic, unready.container, unready.words = about, c, memory.words
		}
		if unready.container == nil && !c.Ready && !isInitializing(c) {
			unready.container = c
		}
	}
	if readyByOwnWord(pod) {
		return all
	}
	switch {
	case record.mount != "":
		tell(trouble{kind: kindWait, topic: topicConfig, words: record.mount, due: p.creatingFor(record) >= l.stuck})
		unready.topic, unready.words = topicConfig, record.mount
	case creating(pod):
		unready.topic, unready.words = topicCreating, record.trouble
	case conditionOf(pod, corev1.ContainersReady).Status == corev1.ConditionTrue:
		unready.topic, unready.container = topicReadinessGate, nil
	}
	if record.unready != 0 {
		tell(trouble{kind: kindSoak, topic: topicUnready, container: unready.container, due: p.since(record.unready) >= l.stuck})
	}
	tell(unready)
	return all
}

// isInitializing reports whether the container waits for the init containers, whose trouble it is.
func isInitializing(c *corev1.ContainerStatus) bool {
	return c.State.Waiting != nil && c.State.Waiting.Reason == "PodInitializing"
}

// unplaced returns the trouble of a pod that has no node, if it has one.
func unplaced(l *look, pod *corev1.Pod) []trouble {
	t := trouble{kind: kindDeadline, pod: pod, pods: 1}
	scheduled := conditionOf(pod, corev1.PodScheduled)
	t.words = scheduled.Message
	switch {
	case scheduled.Reason == corev1.PodReasonSchedulingGated || (scheduled.Status == "" && len(pod.Spec.SchedulingGates) > 0):
		t.topic = topicSchedulingGate
	case scheduled.Reason == corev1.PodReasonUnschedulable:
		t.topic = topicRoom
		if _, missing := claimMissing(scheduled.Message); missing {
			wait := t
			wait.kind, wait.topic, t.topic = kindWait, topicClaim, topicClaim
			return []trouble{wait, t}
		}
	case unmadeClaim(pod) != "":
		t.topic, t.words = topicResourceClaim, unmadeClaim(pod)
	case scheduled.Status == "" && l.ownScheduler(pod):
		t.topic, t.words = topicScheduler, pod.Spec.SchedulerName
	default:
		return nil
	}
	return []trouble{t}
}

// ownScheduler reports whether the template names a scheduler that the last good one does without. The default one is nobody's choice.
func (l *look) ownScheduler(pod *corev1.Pod) bool {
	name := pod.Spec.SchedulerName
	return name != "" && name != corev1.DefaultSchedulerName && l.good != nil && l.good.Spec.SchedulerName != name &&
		l.template.Spec.SchedulerName == name
}

// unmadeClaim names a resource claim of the pod that is to be made from a template, and has not been.
func unmadeClaim(pod *corev1.Pod) string {
	for _, claim := range pod.Spec.ResourceClaims {
		made := slices.ContainsFunc(pod.Status.ResourceClaimStatuses, func(s corev1.PodResourceClaimStatus) bool { return s.Name == claim.Name })
		if claim.ResourceClaimTemplateName != nil && !made {
			return claim.Name
		}
	}
	return ""
}

// sandboxTrouble is that of pods on more than one node whose sandboxes go again and again: it is no node's fault.
func (p *Progress) sandboxTrouble(l *look) []trouble {
	var nodes []string
	var last *corev1.Pod
	for _, pod := range l.active {
		if p.pods[pod.UID].sandboxes > l.maxRestarts {
			nodes, last = withName(nodes, pod.Spec.NodeName), pod
		}
	}
	if len(nodes) < 2 {
		return nil
	}
	return []trouble{{kind: kindCrash, topic: topicSandbox, pod: last, pods: l.wanted, due: true}}
}

// endTroubles are those of pods that have ended: by themselves, for what they took of their nodes, and refused by their nodes.
func (p *Progress) endTroubles(l *look) (all []trouble) {
	most := int(l.maxRestarts) + int(l.wanted)/10
	if p.own > 0 {
		all = append(all, trouble{kind: kindEnds, topic: topicEnds, pod: p.last.pod, pods: l.wanted, words: p.last.words, due: p.own > most})
	}
	if p.pressedPods > 0 && len(p.pressed) > 1 && !l.oldPodsPressed() {
		all = append(all, trouble{kind: kindEnds, topic: topicPressure, pod: p.lastPressed.pod, pods: l.wanted, words: p.lastPressed.words,
			due: p.own+p.pressedPods > most})
	}
	if p.refusedSince != 0 && p.since(p.refusedSeen) <= blockedAfter {
		t := trouble{kind: kindWait, topic: topicRefusedByNode, pod: p.lastRefused.pod, pods: max(1, l.wanted-l.ready), words: p.lastRefused.words,
			due: p.since(p.refusedSince) >= l.stuck}
		all = append(all, t)
	}
	return all
}

// oldPodsPressed reports whether old pods, too, were evicted for what they took since the attempt began: then it is hardly the
// release that does it. Pods that have ended stay, perhaps for weeks.
func (l *look) oldPodsPressed() bool {
	since := l.since()
	return slices.ContainsFunc(l.evidence.OldPods, func(pod *corev1.Pod) bool {
		end, ended := endOf(pod)
		at := conditionOf(pod, corev1.DisruptionTarget).LastTransitionTime
		return ended && end.kind == endPressure && (at.IsZero() || !at.Before(&since))
	})
}

// manyRewritten is how many ReplicaSets with another template than the one asked for are no accident.
const manyRewritten = 3

// rewriteTrouble is that of a policy which changes every ReplicaSet: the Deployment controller does not know its own work, and
// makes one after the other.
func (p *Progress) rewriteTrouble(l *look) []trouble {
	var made []*appsv1.ReplicaSet
	for _, set := range l.evidence.ReplicaSets {
		if since := l.since(); !set.CreationTimestamp.Before(&since) {
			made = append(made, set)
		}
	}
	collisions := valueOr(l.deployment.Status.CollisionCount, 0)
	if l.current != nil || len(made) < manyRewritten || collisions-p.collisionsBefore < manyRewritten {
		return nil
	}
	asked := toUnstructured(&l.deployment.Spec.Template)
	path := difference("template", asked, toUnstructured(&made[0].Spec.Template))
	if path == "" { // Something was added.
		path = difference("template", toUnstructured(withoutHash(&made[0].Spec.Template)), asked)
	}
	return []trouble{{kind: kindRewrite, topic: topicRewrite, pods: l.wanted, words: path, due: true}}
}

// withoutHash returns a copy of a ReplicaSet's template without the label that tells ReplicaSets apart.
func withoutHash(template *corev1.PodTemplateSpec) *corev1.PodTemplateSpec {
	template = template.DeepCopy()
	delete(template.Labels, appsv1.DefaultDeploymentUniqueLabelKey)
	return template
}

// ripen says which of the troubles that are a matter of the deadline have lasted for long enough: since something last got better,
// or since the pod was first there. Once the rollout was complete, the soak has a deadline of its own.
func (p *Progress) ripen(l *look, troubles []trouble) {
	p.noteAgainst(troubles)
	for i := range troubles {
		t := &troubles[i]
		if t.kind != kindDeadline {
			continue
		}
		if p.complete != 0 {
			t.due = p.inSoak >= l.soak+l.deadline
			continue
		}
		deadline, against := l.deadline, instant(0)
		if t.pod != nil {
			against = p.pods[t.pod.UID].against
			if isStarting(t.pod) {
				deadline = max(deadline, allowance(&t.pod.Spec, l.deployment.Spec.MinReadySeconds))
			}
		}
		t.due = p.since(max(p.progressed, p.unhealthySince)) >= deadline || (against != 0 && p.since(against) >= deadline)
	}
}

// noteAgainst notes since when each pod has spoken against the release without an excuse.
func (p *Progress) noteAgainst(troubles []trouble) {
	against := map[*corev1.Pod]bool{}
	for _, t := range troubles {
		if t.pod != nil && t.kind == kindDeadline && !t.excused {
			against[t.pod] = true
			record := p.pods[t.pod.UID]
			record.against = firstOf(record.against, p.clock)
			p.pods[t.pod.UID] = record
		}
	}
	for _, t := range troubles {
		if t.pod == nil || against[t.pod] {
			continue
		}
		if record, there := p.pods[t.pod.UID]; there {
			record.against = 0
			p.pods[t.pod.UID] = record
		}
	}
}

// failure returns what the status says of a trouble that is one.
func (t *trouble) failure(l *look, p *Progress) *v1alpha1.Failure {
	f := t.describe(l, p)
	if t.kind == kindSoak || (t.kind == kindDeadline && p.complete != 0) {
		f.Reason = v1alpha1.FailureUnhealthyInSoak
	}
	if t.pod != nil {
		f.Pod, f.Node = t.pod.Name, t.pod.Spec.NodeName
	}
	f.Message = Clean(f.Message, maxMessage)
	if fine := p.fine(); fine > 0 {
		f.Message = Clean(f.Message, maxMessage-40) + fmt.Sprintf("; %d of %d new pods are fine", fine, l.wanted)
	}
	return f
}

// fine counts the new pods that are ready.
func (p *Progress) fine() (n int32) {
	for _, record := range p.pods {
		if record.ready != 0 {
			n++
		}
	}
	return n
}

// describe says what is wrong, and why it may be.
func (t *trouble) describe(l *look, p *Progress) *v1alpha1.Failure {
	deadline := func(cause, format string, args ...any) *v1alpha1.Failure {
		return &v1alpha1.Failure{Reason: v1alpha1.FailureDeadlineExceeded, Cause: cause, Message: fmt.Sprintf(format, args...)}
	}
	switch t.topic {
	case topicCrash:
		return crashLoop(t.pod, t.container)
	case topicSandbox:
		return &v1alpha1.Failure{Reason: v1alpha1.FailureCrashLoop, Cause: v1alpha1.CauseSandbox, Message: fmt.Sprintf(
			"pods on more than one node get new sandboxes again and again, pod %s the last", t.pod.Name)}
	case topicEnds:
		return podsEnded(p.last, p.own)
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

// podsEnded returns the failure of a release whose pods end by themselves, so many of them, this one the last.
func podsEnded(last *podEnd, times int) *v1alpha1.Failure {
	f := &v1alpha1.Failure{Reason: v1alpha1.FailurePodsEnded, Cause: last.cause, Container: last.container, ExitCode: last.exitCode}
	if last.exitCode != nil && *last.exitCode != 0 && last.cause != v1alpha1.CauseEvicted {
		f.Reason = v1alpha1.FailureCrashLoop
	}
	f.Message = fmt.Sprintf("%d of its pods ended by themselves, %s the last: %s", times, last.pod.Name,
		cmp.Or(last.words, "nothing is known of why"))
	return f
}

// creatingFor returns for how long a pod has been creating its containers.
func (p *Progress) creatingFor(record *podRecord) time.Duration {
	if record.creating == 0 {
		return 0
	}
	return p.since(record.creating)
}
