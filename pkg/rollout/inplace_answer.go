package rollout

import (
	"slices"

	appsv1 "k8s.io/api/apps/v1"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// Answered notes in the decision what the API server answered to its write, the Deployment or the ReplicaSet as it is now, and returns
// what is observed after it. What is not held has to be left as it is.
func (d *InPlaceDecision) Answered(o InPlace, deployment *appsv1.Deployment, set *appsv1.ReplicaSet) InPlace {
	if set != nil {
		if n, holds := d.Set.Hold(); holds && valueOr(set.Spec.Replicas, 1) != n {
			d.Memory.unheld, d.Memory.State, d.RollBack, d.Events = d.Memory.at, v1alpha1.EventNotHeld, false, nil
		}
		evidence := *o.Evidence
		evidence.ReplicaSets = slices.Clone(evidence.ReplicaSets)
		for i := range evidence.ReplicaSets {
			if evidence.ReplicaSets[i].UID == set.UID {
				evidence.ReplicaSets[i] = set
			}
		}
		o.Evidence = &evidence
	}
	if deployment != nil {
		o.Deployment = deployment
	}
	if deployment != nil || set != nil {
		d.Memory.unanswered = nil
	}
	o.Memory = d.Memory
	return o
}

// A write whose answer was lost may have taken effect. What was to be told of it and counted is then, once, when that is seen.

// Unanswered notes that the write of a decision was sent, and that nobody knows what became of it.
func (m *InPlaceMemory) Unanswered(d InPlaceDecision) {
	m.LookAgain()
	m.holds = m.holds || d.Memory.holds
	if d.Verdict != nil || d.RollBack || len(d.Events) > 0 {
		d.Memory.unanswered = nil
		m.unanswered = &d
	}
}

// lookForUnanswered finds whether the write without an answer has taken effect. One that has not by the time that another attempt is asked
// for is not waited for any more.
func (p *place) lookForUnanswered() {
	sent := p.Memory.unanswered
	if sent == nil {
		return
	}
	if p.arrived = sent.isSeen(p.Deployment, p.sets); !p.arrived && sent.Memory.at != p.at() {
		p.Memory.unanswered = nil
	}
}

// isSeen reports whether all that the decision writes is there. What it writes that tells something is about one attempt, and nobody else
// writes it.
func (d *InPlaceDecision) isSeen(deployment *appsv1.Deployment, sets []*appsv1.ReplicaSet) bool {
	if d.Status != nil {
		return hasAll(deployment.Annotations, d.Status.Annotations)
	}
	i := slices.IndexFunc(sets, func(set *appsv1.ReplicaSet) bool { return set.UID == d.Set.Set.UID })
	if i < 0 || !hasAll(sets[i].Labels, d.Set.Labels) {
		return false
	}
	n, holds := d.Set.Hold()
	return !holds || valueOr(sets[i].Spec.Replicas, 1) == n
}

// hasAll reports whether a map has these entries, and none of those that are nil.
func hasAll(m map[string]string, entries map[string]*string) bool {
	for key, value := range entries {
		if got, there := m[key]; there != (value != nil) || (there && got != *value) {
			return false
		}
	}
	return true
}

func (p *place) hasArrived() bool { return p.arrived }

// catchUp tells what the answer to the write would have had told, and goes on from there.
func (p *place) catchUp(d *InPlaceDecision) {
	sent := p.Memory.unanswered
	d.Verdict, d.Cause, d.RollBack, d.Events, d.Memory = sent.Verdict, sent.Cause, sent.RollBack, sent.Events, sent.Memory
}
