package rollout

import (
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/types"

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
	alone     bool   // only its own time counts: it is in the place of a pod that served and that others moved
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
			all = append(all, p.unplaced(l, pod, &record)...)
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
	unready, crashed := trouble{kind: kindDeadline, topic: topicUnready, alone: record.spared && !record.served}, false
	for c := range containers(pod) {
		memory := record.container(c.Name)
		switch reason, stuck := stuckReason(c); {
		case memory.counted+p.lost > l.maxRestarts && (memory.relapsed || (!c.Ready && memory.counted > 0)):
			tell(trouble{kind: kindCrash, topic: topicCrash, container: c, due: true})
		case stuck:
			about := topicConfig
			if reason == v1alpha1.FailureImagePull {
				about = topicImage
			}
			tell(trouble{kind: kindWait, topic: about, container: c, words: memory.words, due: p.since(memory.stuck) >= l.stuck})
			unready.topic, unready.container, unready.words = about, c, memory.words
		}
		if crashes := p.isCrashing(memory, c); !c.Ready && !isInitializing(c) && unready.topic == topicUnready &&
			(unready.container == nil || (crashes && !crashed)) { // One that crashes may be what the others wait for.
			unready.container, crashed = c, crashes
		}
	}
	if readyByOwnWord(pod) {
		return all
	}
	switch {
	case record.mount != "" && !started(pod): // The kubelet says it of pods that run, too, when a Secret goes.
		tell(trouble{kind: kindWait, topic: topicConfig, words: record.mount, due: p.creatingFor(record) >= l.stuck})
		unready.topic, unready.words, unready.container = topicConfig, record.mount, nil
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
func (p *Progress) unplaced(l *look, pod *corev1.Pod, record *podRecord) []trouble {
	t := trouble{kind: kindDeadline, pod: pod, pods: 1}
	scheduled := conditionOf(pod, corev1.PodScheduled)
	t.words = scheduled.Message
	switch {
	case scheduled.Reason == corev1.PodReasonSchedulingGated || (scheduled.Status == "" && len(pod.Spec.SchedulingGates) > 0):
		t.topic = topicSchedulingGate
	case scheduled.Reason == corev1.PodReasonUnschedulable || cannotBind(scheduled.Message):
		t.topic = topicRoom
		if _, missing := claimMissing(scheduled.Message); missing {
			wait := t
			wait.kind, wait.topic, t.topic = kindWait, topicClaim, topicClaim
			wait.due = p.since(record.unclaimed) >= l.stuck
			return []trouble{wait, t}
		}
	case l.unmadeClaim(pod) != "":
		t.topic, t.words = topicResourceClaim, l.unmadeClaim(pod)
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

// unmadeClaim names a resource claim of the pod that is to be made from a template and has not been, and that the last good one
// does without.
func (l *look) unmadeClaim(pod *corev1.Pod) string {
	for _, claim := range pod.Spec.ResourceClaims {
		made := slices.ContainsFunc(pod.Status.ResourceClaimStatuses, func(s corev1.PodResourceClaimStatus) bool { return s.Name == claim.Name })
		known := l.good != nil && slices.ContainsFunc(l.good.Spec.ResourceClaims, func(other corev1.PodResourceClaim) bool {
			return equality.Semantic.DeepEqual(other, claim)
		})
		if claim.ResourceClaimTemplateName != nil && !made && !known {
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
	switch {
	case p.own > most:
		told := p.tellingEnd()
		all = append(all, trouble{kind: kindEnds, topic: topicEnds, pod: told.pod, pods: l.wanted, words: told.words, due: true})
	case p.own+p.pressedPods > most && len(p.pressed) > 1 && !l.oldPodsPressed():
		all = append(all, trouble{kind: kindEnds, topic: topicPressure, pod: p.lastPressed.pod, pods: l.wanted, words: p.lastPressed.words, due: true})
	}
	if p.refusedSince != 0 && p.since(p.refusedSeen) <= blockedAfter {
		t := trouble{kind: kindWait, topic: topicRefusedByNode, pod: p.lastRefused.pod, pods: max(1, l.wanted-l.ready), words: p.lastRefused.words,
			due: time.Duration(p.refusedSeen-p.refusedSince) >= l.stuck}
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

// withoutHash returns a copy of a template without the label that tells ReplicaSets apart.
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
		deadline, against := l.deadline, instant(0)
		if t.pod != nil {
			against = p.pods[t.pod.UID].against
			if isStarting(t.pod) {
				deadline = max(deadline, allowance(&t.pod.Spec, l.deployment.Spec.MinReadySeconds))
			}
		}
		switch {
		case p.complete != 0 && !t.alone:
			t.due = p.inSoak >= l.soak+l.deadline
		case !t.alone && p.since(max(p.progressed, p.unhealthySince)) >= deadline:
			t.due = true
		default:
			t.due = against != 0 && p.since(against) >= deadline
		}
		t.due = t.due && !p.isTooEarly(l, t)
	}
}

// isTooEarly reports whether it cannot be known yet that nobody else keeps a pod from being set up: it is new, or it is not its turn:
// one pod is asked about at a poll.
func (p *Progress) isTooEarly(l *look, t *trouble) bool {
	if t.topic != topicCreating {
		return false
	}
	record := p.pods[t.pod.UID]
	return p.creatingFor(&record) < min(creatingPatience, l.deadline/2) || (p.isUnasked(t) && len(l.evidence.Events) > 0)
}

// isUnasked reports whether a pod is being set up of which no Events were ever read: they may say that others keep it.
func (p *Progress) isUnasked(t *trouble) bool {
	return t.topic == topicCreating && p.pods[t.pod.UID].asked == 0 && p.unread == ""
}

// noteAgainst notes since when, without a break, each pod has spoken against the release without an excuse.
func (p *Progress) noteAgainst(troubles []trouble) {
	against := map[types.UID]bool{}
	for _, t := range troubles {
		if t.pod != nil && t.kind == kindDeadline && !t.excused {
			against[t.pod.UID] = true
		}
	}
	for uid, record := range p.pods {
		record.against = p.lasting(record.against, against[uid])
		p.pods[uid] = record
	}
}

// creatingFor returns for how long a pod has been creating its containers.
func (p *Progress) creatingFor(record *podRecord) time.Duration {
	if record.creating == 0 {
		return 0
	}
	return p.since(record.creating)
}
