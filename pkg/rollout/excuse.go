package rollout

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// waiting is whom or what a rollout waits for: the reason of the condition, and words for it.
type waiting struct{ reason, words string }

// An excuse is why a trouble is not held against the release: others did it, or the revision to go back to would meet the same.
type excuse struct {
	reason string
	// bounded says that it holds for one deadline, and no longer.
	bounded bool
	// covers returns whom the trouble waits for, empty if the excuse does not apply to it.
	covers func(*Progress, *look, *trouble) string
}

// excuses are asked in this order. Where none is good, nothing can be gone back to, and what a good one would meet is not judged.
var excuses = []excuse{
	{v1alpha1.ReasonWaitingForOldPods, true, commonCause},
	{v1alpha1.ReasonWaitingForInjection, false, injected},
	{v1alpha1.ReasonWaitingForRoom, true, roomBeingMade},
	{v1alpha1.ReasonWaitingForRoom, false, sameRoomAsGood},
	{v1alpha1.ReasonWaitingForQuota, false, sameQuotaAsGood},
	{v1alpha1.ReasonWaitingForWebhook, false, clusterRefuses},
	{v1alpha1.ReasonWaitingForRegistry, false, registryDown},
	{v1alpha1.ReasonWaitingForNode, false, deadNode},
	{v1alpha1.ReasonWaitingForNode, false, lonelyNode},
	{v1alpha1.ReasonWaitingForVolume, false, volumeOrSandbox},
	{v1alpha1.ReasonWaitingForReadinessGate, false, othersReadinessGate},
	{v1alpha1.ReasonWaitingForSchedulingGate, false, othersSchedulingGate},
}

// excuse says which troubles are not held against the release, and returns what it waits for by the first excuse.
func (p *Progress) excuse(l *look, troubles []trouble) (first waiting) {
	if len(troubles) == 0 {
		p.excused = nil
		return first
	}
	l.common, l.lonely = findCommonCause(l), p.lonelyNodes(l, troubles)
	used := map[string]instant{}
	for _, e := range excuses {
		for i := range troubles {
			t := &troubles[i]
			words := ""
			if !t.excused {
				words = e.covers(p, l, t)
			}
			if words == "" {
				continue
			}
			if e.bounded {
				used[e.reason] = firstOf(p.excused[e.reason], p.clock)
				if p.since(used[e.reason]) >= l.deadline {
					continue
				}
			}
			t.excused = true
			p.restartWait(t)
			if first.reason == "" {
				first = waiting{e.reason, words}
			}
		}
	}
	p.excused = used
	return first
}

// restartWait lets the time that a container waits for its image or configuration begin again: this wait was others'.
func (p *Progress) restartWait(t *trouble) {
	if t.kind != kindWait || t.pod == nil || t.container == nil {
		return
	}
	record := p.pods[t.pod.UID]
	record.containers = slices.Clone(record.containers)
	record.container(t.container.Name).stuck = p.clock
	p.pods[t.pod.UID] = record
}

// commonCause excuses everything while at least half of the last good one's pods that should still run are unready by their own
// word.
func commonCause(_ *Progress, l *look, _ *trouble) string { return l.common }

// findCommonCause says what both releases need, empty if the old pods that should still run are fine, or there are none.
func findCommonCause(l *look) string {
	if l.good == nil || l.knownGood || !slices.ContainsFunc(l.evidence.OldPods, isUnreadyOld) {
		return "" // as at nearly every look: the templates need not be compared
	}
	goods := map[types.UID]bool{}
	asked := toUnstructured(l.good)
	for _, set := range l.evidence.ReplicaSets {
		goods[set.UID] = set != l.current && difference("", asked, toUnstructured(&set.Spec.Template)) == ""
	}
	var running, unready int
	since := l.since()
	for _, pod := range l.evidence.OldPods {
		owner := metav1.GetControllerOfNoCopy(pod)
		if !pod.CreationTimestamp.Before(&since) {
			continue // It is in the place of another one, and starts.
		}
		if owner == nil || !goods[owner.UID] || !shouldRun(pod) {
			continue
		}
		running++
		if !readyByOwnWord(pod) {
			unready++
		}
	}
	if unready == 0 || unready*2 < running {
		return ""
	}
	return fmt.Sprintf("what both releases need: %d of %d pods of the release before are not ready either", unready, running)
}

// isUnreadyOld reports whether an old pod that should still run is not ready by its own word.
func isUnreadyOld(pod *corev1.Pod) bool { return shouldRun(pod) && !readyByOwnWord(pod) }

// shouldRun reports whether a pod has a node, and neither has ended nor is being deleted.
func shouldRun(pod *corev1.Pod) bool {
	_, ended := endOf(pod)
	return !ended && pod.DeletionTimestamp == nil && pod.Spec.NodeName != ""
}

// injected excuses the troubles of a pod in which a container is not up that the template does not name, unless old pods had it with
// the same image, and it was up there. What the template's own containers do beside it may be its doing.
func injected(p *Progress, l *look, t *trouble) string {
	if t.pod == nil || t.kind == kindEnds {
		return ""
	}
	for c := range containers(t.pod) {
		if c.Ready || isInitializing(c) || containerOf(&l.template.Spec, c.Name) != nil || p.bears(t.pod, c.Name) {
			continue
		}
		if _, stuck := stuckReason(c); stuck || ended(c) != nil || (t.kind == kindDeadline && c.State.Running != nil) {
			return fmt.Sprintf("container %s, which the template does not have: %s", c.Name, crashWords(c))
		}
	}
	return ""
}

// bears reports whether others put this container into a pod with the same image as into old pods, where it was up.
func (p *Progress) bears(pod *corev1.Pod, container string) bool {
	return p.borne[withImage(pod, container)]
}

// withImage names a container of a pod together with its image.
func withImage(pod *corev1.Pod, container string) string {
	return container + " " + imageOf(&pod.Spec, container)
}

// pulledImage returns the image that the words about a container's pull name: an image volume's, or else its own.
func pulledImage(spec *corev1.PodSpec, container, words string) string {
	for _, volume := range spec.Volumes {
		if volume.Image != nil && volume.Image.Reference != "" && strings.Contains(words, strconv.Quote(volume.Image.Reference)) {
			return volume.Image.Reference
		}
	}
	return imageOf(spec, container)
}

// imageOf returns the image of a container or init container, empty if there is none.
func imageOf(spec *corev1.PodSpec, container string) string {
	if c := containerOf(spec, container); c != nil {
		return c.Image
	}
	return ""
}

// roomBeingMade excuses, for a while, a pod that fits on no node yet: others make room for it.
func roomBeingMade(p *Progress, _ *look, t *trouble) string {
	if t.topic != topicRoom {
		return ""
	}
	switch node, record := t.pod.Status.NominatedNodeName, p.pods[t.pod.UID]; {
	case node != "":
		return fmt.Sprintf("pods of lower priority on node %s, which make room for pod %s", node, t.pod.Name)
	case strings.Contains(t.words, "preemption: found"):
		return fmt.Sprintf("pods of lower priority, which make room for pod %s: %s", t.pod.Name, t.words)
	case record.makeRoom != "":
		return fmt.Sprintf("room for pod %s: %s", t.pod.Name, record.makeRoom)
	default:
		return ""
	}
}

// sameRoomAsGood excuses a pod that fits on no node if the last good one's would fit nowhere either.
func sameRoomAsGood(_ *Progress, l *look, t *trouble) string {
	if t.topic != topicRoom && (t.topic != topicClaim || !l.goodNamesClaim(t)) {
		return ""
	}
	if l.good != nil {
		if same, _ := sameRoom(l.template, l.good); !same {
			return ""
		}
	}
	return fmt.Sprintf("room for pod %s: %s", t.pod.Name, t.words)
}

// goodNamesClaim reports whether the last good one's pods need the claim that is missing, too.
func (l *look) goodNamesClaim(t *trouble) bool {
	claim, _ := claimMissing(t.words)
	return l.good != nil && slices.ContainsFunc(l.good.Spec.Volumes, func(v corev1.Volume) bool {
		return v.PersistentVolumeClaim != nil && v.PersistentVolumeClaim.ClaimName == claim
	})
}

// isRefusal reports whether the trouble is a refusal of this kind.
func (t *trouble) isRefusal(kind refusalKind) bool {
	if t.topic != topicRefusal {
		return false
	}
	is, _ := refusalOf(t.words)
	return is == kind
}

// sameQuotaAsGood excuses pods over a quota if the last good one's take as much of it.
func sameQuotaAsGood(_ *Progress, l *look, t *trouble) string {
	if !t.isRefusal(refusedByQuota) {
		return ""
	}
	if l.good != nil {
		if same, _ := sameQuota(l.template, l.good); !same {
			return ""
		}
	}
	return "the quota: " + t.words
}

// clusterRefuses excuses pods that the API server could not create for a reason of its own.
func clusterRefuses(_ *Progress, _ *look, t *trouble) string {
	if !t.isRefusal(refusedByCluster) {
		return ""
	}
	return "the API server, which cannot create pods: " + t.words
}

// registryDown excuses an image that cannot be pulled because its registry, from which the last good one's came, too, does not
// answer, also one that others put into the pods of both; and one that waits for other pulls of its node.
func registryDown(p *Progress, l *look, t *trouble) string {
	switch {
	case t.topic == topicImage && registryAway(t.words) &&
		(l.good == nil || sameRegistry(l.template, l.good, t.container.Name) || p.bears(t.pod, t.container.Name)):
		return fmt.Sprintf("the registry %s: %s", registryOf(pulledImage(&t.pod.Spec, t.container.Name, t.words)), t.words)
	case t.topic == topicCreating && p.pods[t.pod.UID].pulling:
		return fmt.Sprintf("the image of pod %s, which is being pulled on node %s, or waits there for other pulls", t.pod.Name, t.pod.Spec.NodeName)
	default:
		return ""
	}
}

// deadNode excuses what a pod waits for, or does not do, whose Node is gone or not ready, or has no container runtime.
func deadNode(p *Progress, l *look, t *trouble) string {
	if (t.kind != kindDeadline && t.kind != kindWait) || t.pod == nil || t.pod.Spec.NodeName == "" {
		return ""
	}
	if _, dead := p.deadNodes[t.pod.Spec.NodeName]; dead {
		return fmt.Sprintf("node %s, which does not report; %s", t.pod.Spec.NodeName, l.howManyAreFine())
	}
	if (t.topic == topicImage || t.topic == topicConfig) && runtimeSilent.MatchString(t.words) {
		return fmt.Sprintf("node %s, whose container runtime does not answer: %s", t.pod.Spec.NodeName, t.words)
	}
	return ""
}

// lonelyNode excuses pods that do not get as far as starting on at most a tenth of the nodes (one at least), while on all others,
// and on one other at least, they do.
func lonelyNode(p *Progress, l *look, t *trouble) string {
	if len(l.lonely) == 0 || !t.isNodes() || t.pod == nil || !slices.Contains(l.lonely, t.pod.Spec.NodeName) {
		return ""
	}
	words := t.words
	if p.lastRefused != nil && slices.Contains(p.refused, t.pod.Spec.NodeName) {
		words = cmp.Or(words, p.lastRefused.words)
	}
	return fmt.Sprintf("node %s, on which alone pods do not start: %s; %d of %d new pods are fine",
		strings.Join(l.lonely, ", "), cmp.Or(words, "nothing is known of why"), l.fine, l.wanted)
}

// lonelyNodes returns the nodes on which alone pods do not get as far as starting.
func (p *Progress) lonelyNodes(l *look, troubles []trouble) []string {
	past, short := map[string]bool{}, map[string]bool{}
	for _, pod := range l.active {
		switch {
		case pod.Spec.NodeName == "":
		case readyByOwnWord(pod) || (started(pod) && !creating(pod) && !isWaiting(pod)):
			past[pod.Spec.NodeName] = true
		default:
			short[pod.Spec.NodeName] = true
		}
	}
	if slices.ContainsFunc(troubles, func(t trouble) bool { return t.topic == topicRefusedByNode }) {
		for _, node := range p.refused {
			short[node] = true
		}
	}
	maps.DeleteFunc(past, func(node string, _ bool) bool { return short[node] })
	if len(past) == 0 || len(short) > max(1, (len(past)+len(short))/10) {
		return nil
	}
	return slices.Sorted(maps.Keys(short))
}

// isWaiting reports whether a container of the pod waits for its image or its configuration: others before it may have started.
func isWaiting(pod *corev1.Pod) bool {
	for c := range containers(pod) {
		if _, stuck := stuckReason(c); stuck {
			return true
		}
	}
	return false
}

// isNodes reports whether a trouble may be that of a node: never a crash, an end or a pod that was ready.
func (t *trouble) isNodes() bool {
	switch t.topic {
	case topicImage, topicConfig, topicRefusedByNode, topicCreating:
		return true
	default:
		return false
	}
}

// volumeOrSandbox excuses a pod whose volumes cannot be attached or whose sandbox cannot be made, if the last good one's has the
// same.
func volumeOrSandbox(p *Progress, l *look, t *trouble) string {
	if t.topic != topicCreating || p.pods[t.pod.UID].trouble == "" {
		return ""
	}
	if l.good != nil && !(sameVolumes(l.template, l.good) && valueOr(l.template.Spec.RuntimeClassName, "") == valueOr(l.good.Spec.RuntimeClassName, "")) {
		return ""
	}
	return fmt.Sprintf("pod %s on node %s, which cannot be set up: %s", t.pod.Name, t.pod.Spec.NodeName, p.pods[t.pod.UID].trouble)
}

// othersReadinessGate excuses a pod whose containers are ready, and of whose readiness gates one has no condition: one that others
// put on it, or that the last good one has, too. A condition that is written and False is the pod's own word.
func othersReadinessGate(_ *Progress, l *look, t *trouble) string {
	if t.topic != topicReadinessGate {
		return ""
	}
	var open []string
	for _, gate := range t.pod.Spec.ReadinessGates {
		switch condition := conditionOf(t.pod, gate.ConditionType); {
		case condition.Status == corev1.ConditionTrue:
		case condition.Status != "" || (slices.Contains(l.template.Spec.ReadinessGates, gate) && l.good != nil && !slices.Contains(l.good.Spec.ReadinessGates, gate)):
			return ""
		default:
			open = append(open, string(gate.ConditionType))
		}
	}
	return fmt.Sprintf("readiness gate %s of pod %s, whose condition nobody has written", strings.Join(open, ", "), t.pod.Name)
}

// othersSchedulingGate excuses a pod that scheduling gates hold which others put on it, or which the last good one has, too.
func othersSchedulingGate(_ *Progress, l *look, t *trouble) string {
	if t.topic != topicSchedulingGate {
		return ""
	}
	for _, gate := range t.pod.Spec.SchedulingGates {
		if slices.Contains(l.template.Spec.SchedulingGates, gate) && l.good != nil && !slices.Contains(l.good.Spec.SchedulingGates, gate) {
			return ""
		}
	}
	return fmt.Sprintf("scheduling gate %s of pod %s", gatesOf(t.pod), t.pod.Name)
}

func gatesOf(pod *corev1.Pod) string {
	var gates []string
	for _, gate := range pod.Spec.SchedulingGates {
		gates = append(gates, gate.Name)
	}
	return strings.Join(gates, ", ")
}
