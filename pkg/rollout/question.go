package rollout

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

const (
	// askEvery is the least time between two reads of Events or Nodes for one rollout, but for those before a verdict.
	askEvery = 15 * time.Second
	// creatingPatience is how long a pod may be creating its containers before its Events are read: most take less.
	creatingPatience = 10 * time.Second
	// maxNodes is how many Nodes are asked for before a verdict by deadline.
	maxNodes = 3
)

// Details are what has to be added to the evidence before more can be said. What cannot be read is told in Evidence.Unread, and asked
// for once.
type Details struct {
	Events []types.UID // the objects whose Events are asked for
	Nodes  []string    // by name
	Log    *LogRequest // the last lines of a container's log
}

// Any reports whether anything is asked for.
func (d *Details) Any() bool { return d.Log != nil || len(d.Events)+len(d.Nodes) > 0 }

// answers is what the answers to questions said.
type answers struct {
	askedAt   instant // when Events were last read, 0 for never
	unread    string  // why they could not be
	refusal   refusal
	deadNodes map[string]instant // the Nodes that are gone or not ready, and when that was read

	collisionsBefore int32 // the Deployment's collisionCount when the rollout began
	collisionsRead   bool
	borne            map[string]bool // the containers, with their images, that others put into old pods, and that were up there
}

// refusal is what the API server says of objects that controllers want to create.
type refusal struct {
	words       string
	asked       instant
	mark        string  // of the last Event about it: another one is another refusal
	first, last instant // the first since something last got better, and the last
}

// learn takes in what was read of Events and Nodes.
func (p *Progress) learn(l *look) {
	if !p.collisionsRead {
		p.collisionsBefore, p.collisionsRead = valueOr(l.deployment.Status.CollisionCount, 0), true
	}
	p.noteBorne(l)
	if l.evidence.Unread != "" || len(l.evidence.Events)+len(l.evidence.Nodes) > 0 {
		p.unread = l.evidence.Unread
	}
	for name, node := range l.evidence.Nodes {
		if node != nil && nodeReady(node) {
			if _, dead := p.deadNodes[name]; dead { // What it kept its pods from has its time from now on.
				p.progressed = p.clock
			}
			p.deadNodes = maps.Clone(p.deadNodes)
			delete(p.deadNodes, name)
			continue
		}
		p.deadNodes, p.inSoak = with(p.deadNodes, name, p.clock), 0 // What it keeps its pods from is held against nobody.
	}
	for uid, events := range l.evidence.Events {
		p.askedAt = p.clock
		if record, there := p.pods[uid]; there {
			record.asked = p.clock
			for _, event := range events {
				record.hear(event)
			}
			p.pods[uid] = record
		}
		if uid == l.setUID() || uid == l.deployment.UID {
			p.hearRefusals(l, events)
		}
		p.first, p.last = p.first.hear(uid, events), p.last.hear(uid, events)
	}
}

// noteBorne notes which containers that the template does not name old pods bear well.
func (p *Progress) noteBorne(l *look) {
	for _, pod := range l.evidence.OldPods {
		for c := range containers(pod) {
			key := withImage(pod, c.Name)
			if c.Ready && containerOf(&l.template.Spec, c.Name) == nil && !p.borne[key] {
				p.borne = with(p.borne, key, true)
			}
		}
	}
}

func nodeReady(node *corev1.Node) bool {
	return slices.ContainsFunc(node.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
}

// hear notes what an Event says of a pod that is being set up, or for which there is no room. They come in the order of their time.
// The reasons are the kubelet's (https://github.com/kubernetes/kubernetes/blob/v1.37.2/pkg/kubelet/events/event.go), the cluster
// autoscaler's and Karpenter's.
func (r *podRecord) hear(event *corev1.Event) {
	words := strings.TrimPrefix(event.Message, combined)
	switch event.Reason {
	case "FailedMount":
		r.mount, r.trouble = "", words
		if missingObject(words) {
			r.mount, r.trouble = words, ""
		}
	case "FailedAttachVolume", "FailedCreatePodSandBox":
		r.mount, r.trouble = "", words
	case "Pulling":
		r.mount, r.trouble, r.pulling = "", "", true
	case "SuccessfulAttachVolume", "Pulled", "Created", "Started", "Failed", "BackOff":
		r.mount, r.trouble, r.pulling = "", "", false
	case "TriggeredScaleUp", "Nominated":
		r.makeRoom = event.Message
	case "NotTriggerScaleUp":
		r.makeRoom = ""
	}
}

// combined stands before the message of an Event for which there were too many like it (client-go/tools/record).
const combined = "(combined from similar events): "

// hearRefusals notes the last of the Events about pods or ReplicaSets that could not be created, and whether it is news. The
// conditions about it are never renewed.
func (p *Progress) hearRefusals(l *look, events []*corev1.Event) {
	p.refusal.asked = p.clock
	for _, event := range slices.Backward(events) {
		if event.Reason != "FailedCreate" && event.Reason != "ReplicaSetCreateError" {
			continue
		}
		seen := LastSeen(event)
		mark := string(event.UID) + " " + seen.String()
		again := strings.HasPrefix(p.refusal.mark, string(event.UID)+" ") // Then it is news, whatever clock it has its time from.
		if mark != p.refusal.mark && (again || !seen.Before(l.since().Time)) {
			p.refusal.words, p.refusal.last = strings.TrimPrefix(event.Message, combined), p.clock
			if p.refusal.first == 0 || p.refusal.first < p.progressed {
				p.refusal.first = p.clock
			}
		}
		p.refusal.mark = mark
		return
	}
}

// LastSeen returns when the Event was last seen. Which of its times are set depends on who recorded it.
func LastSeen(e *corev1.Event) time.Time {
	last := e.LastTimestamp.Time
	if e.EventTime.After(last) {
		last = e.EventTime.Time
	}
	if e.Series != nil && e.Series.LastObservedTime.After(last) {
		last = e.Series.LastObservedTime.Time
	}
	return last
}

// refusalTroubles are those of pods, or of a ReplicaSet, that cannot be created, while the refusals go on.
func (p *Progress) refusalTroubles(l *look) []trouble {
	condition, fresh := refusalCondition(l)
	words := p.refusal.words
	switch {
	case condition == "":
		return nil
	case p.unread != "" && fresh:
		words = condition
	case p.unread != "" || p.refusal.last == 0 || p.refusal.last < p.progressed:
		return nil
	}
	t := trouble{kind: kindDeadline, topic: topicRefusal, pods: max(1, l.wanted-l.created), words: words}
	if kind, _ := refusalOf(words); kind != refusedForGood {
		return []trouble{t}
	}
	at := t
	at.kind, at.due = kindRefusal, p.unread == "" && time.Duration(p.refusal.last-p.refusal.first) >= l.stuck
	return []trouble{at, t}
}

// refusalCondition returns the controllers' word that pods or a ReplicaSet cannot be created, empty if they have none. It is a
// reason to ask for Events, no more: it stays when the refusals end, and one about a ReplicaSet stays as it is when the next
// template's is refused as well. fresh says that it is about this template.
func refusalCondition(l *look) (words string, fresh bool) {
	switch {
	case l.current == nil:
		if c := progressing(l.deployment); c.Reason == "ReplicaSetCreateError" {
			return c.Message, !c.LastUpdateTime.Before(&l.recorded)
		}
	case valueOr(l.current.Spec.Replicas, 0) > l.created:
		for _, c := range l.current.Status.Conditions {
			if c.Type == appsv1.ReplicaSetReplicaFailure && c.Status == corev1.ConditionTrue {
				return c.Message, true
			}
		}
	}
	return "", false
}

// ask returns what to read before this look can be judged: the Events of one object of which nothing can be said without, now and
// then, and the Nodes that were dead when they were last read.
func (p *Progress) ask(l *look) (q Details) {
	if l.evidence.Unread != "" {
		return q
	}
	for _, name := range slices.Sorted(maps.Keys(p.deadNodes)) {
		if _, read := l.evidence.Nodes[name]; !read && p.since(p.deadNodes[name]) >= askEvery {
			q.Nodes = append(q.Nodes, name)
		}
	}
	if len(l.evidence.Events) > 0 || (p.askedAt != 0 && p.since(p.askedAt) < askEvery) {
		return q
	}
	type subject struct {
		uid   types.UID
		asked instant
	}
	var subjects []subject
	if condition, _ := refusalCondition(l); condition != "" {
		subjects = append(subjects, subject{cmp.Or(l.setUID(), l.deployment.UID), p.refusal.asked})
	}
	for _, pod := range l.active {
		record := p.pods[pod.UID]
		creating := p.creatingFor(&record) >= creatingPatience
		homeless := pod.Spec.NodeName == "" && conditionOf(pod, corev1.PodScheduled).Reason == corev1.PodReasonUnschedulable
		if creating || homeless {
			subjects = append(subjects, subject{pod.UID, record.asked})
		}
	}
	if len(subjects) > 0 {
		q.Events = []types.UID{slices.MinFunc(subjects, func(a, b subject) int { return cmp.Compare(a.asked, b.asked) }).uid}
	}
	return q
}

// askForNodes returns the Nodes to read before a verdict about pods that wait, for their image or to be ready: those with the most
// of them.
func askForNodes(l *look, kind kind, troubles []trouble) (q Details) {
	if l.evidence.Unread != "" || len(l.evidence.Nodes) >= maxNodes {
		return q
	}
	pods := map[string]int{}
	for _, t := range troubles {
		if t.kind == kind && t.due && !t.excused && t.pod != nil && t.pod.Spec.NodeName != "" {
			pods[t.pod.Spec.NodeName]++
		}
	}
	nodes := slices.SortedFunc(maps.Keys(pods), func(a, b string) int { return cmp.Or(pods[b]-pods[a], cmp.Compare(a, b)) })
	for _, node := range nodes[:min(len(nodes), maxNodes-len(l.evidence.Nodes))] {
		if _, read := l.evidence.Nodes[node]; !read {
			q.Nodes = append(q.Nodes, node)
		}
	}
	return q
}

// askForEnd returns the pods whose Events to read before it is said why its like end, if they do not say so themselves.
func (p *Progress) askForEnd(l *look, t *trouble) (q Details) {
	if l.evidence.Unread != "" || t.topic != topicEnds || p.tellingEnd().cause != v1alpha1.CauseEndedByItself {
		return q
	}
	for _, e := range []*podEnd{p.last, p.first} {
		if _, read := l.evidence.Events[e.pod.UID]; !read && !slices.Contains(q.Events, e.pod.UID) {
			q.Events = append(q.Events, e.pod.UID)
		}
	}
	return q
}

// askForProbe returns the pod whose Events to read before it is said why its container ends or is not ready, if they may tell.
func askForProbe(l *look, t *trouble) (q Details) {
	if l.evidence.Unread != "" || (t.topic != topicCrash && t.topic != topicUnready) || t.container == nil {
		return q
	}
	if _, read := l.evidence.Events[t.pod.UID]; !read && isProbed(containerOf(&t.pod.Spec, t.container.Name)) {
		q.Events = []types.UID{t.pod.UID}
	}
	return q
}

// askForLog returns the run of a container whose log to read before a verdict: none on a node that may not answer, and none that has no
// place in the status.
func (p *Progress) askForLog(l *look, t *trouble, run *LogRequest) (q Details) {
	if run == nil || l.evidence.Log != nil || l.knownGood || l.inPlace || !l.log || t.pod == nil {
		return q
	}
	_, dead := p.deadNodes[t.pod.Spec.NodeName]
	if !dead && !slices.Contains(l.lonely, t.pod.Spec.NodeName) {
		q.Log = run
	}
	return q
}
