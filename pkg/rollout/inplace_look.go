package rollout

import (
	"time"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// InPlaceMemory is what one process knows about a Deployment that is guarded in place beyond what is stored. When it is lost, timers
// begin again, and what is stored nowhere is told once more: that a setting is of no use, and that what was good does not come up.
type InPlaceMemory struct {
	UID      types.UID
	Progress Progress // of the release or, after it failed, of the return to the good one
	// State is what it is at, a reason as for a GuardedDeployment: for the metrics.
	State string

	observed  bool           // all of this is about releases that are only observed
	met       bool           // it was guarded before, or is from its creation on
	at        string         // the attempt that Progress and State are about
	lookedAt  time.Time      // when evidence was last read, zero for never
	seen      glance         // what the Deployment showed by then
	settled   bool           // there was nothing to do until it shows something else
	due       time.Time      // when there is all the same, zero for never
	holds     bool           // ReplicaSets are held, or were at the last look
	unheld    string         // the attempt of which the API server has not kept the hold
	failedAt  time.Time      // when the attempt failed, zero if it has not
	failure   *failedRelease // how, nil if it has not: others may take away what is told of it
	back      bool           // after it failed the good one was all there
	toldAt    time.Time      // when the condition was last written
	restated  time.Time      // when what others had taken away was last told again
	complaint string         // what was told about the label or the settings

	unanswered *InPlaceDecision // the last one that tells something, if the answer to its write was lost; it is never changed
}

// UnderWay reports whether evidence is being read, time and again.
func (m InPlaceMemory) UnderWay() bool { return !m.settled && !m.lookedAt.IsZero() }

// Holds reports whether ReplicaSets may be held for it.
func (m InPlaceMemory) Holds() bool { return m.holds && !m.observed }

// HoldsNone reports whether there was nothing to do at the last look, and nothing held.
func (m InPlaceMemory) HoldsNone() bool { return m.settled && !m.holds }

// Told reports whether the Deployment may tell of a failure.
func (m InPlaceMemory) Told() bool { return (m.failure != nil || m.unanswered != nil) && !m.observed }

// LookAgain has the next decision ask for evidence at once: a write has failed, and what was read may be old.
func (m *InPlaceMemory) LookAgain() { m.lookedAt, m.settled = time.Time{}, false }

// glance is what of a Deployment tells that there is something to do.
type glance struct {
	generation int64
	number     string
	template   string // its hash
	complete   bool
	stands     bool // its ReplicaSet was not made anew
	replicas   int32
	updated    int32
	ready      int32
}

// others is how many pods other ReplicaSets have.
func (g glance) others() int32 { return g.replicas - g.updated }

// glance returns what the Deployment shows. The template is what it was as long as the generation is; otherwise it takes longer to tell.
func (p *place) glance() glance {
	d, seen := p.Deployment, p.Memory.seen
	g := glance{generation: d.Generation, number: d.Annotations[SetNumber], template: seen.template, complete: rolloutComplete(d),
		stands: stands(d), replicas: d.Status.Replicas, updated: d.Status.UpdatedReplicas, ready: d.Status.ReadyReplicas}
	if g.template == "" || g.generation != seen.generation {
		g.template = hash(&d.Spec.Template)
	}
	return g
}

// stands reports whether the Deployment's ReplicaSet is the one that came up. Without a deadline the Deployment controller does not say
// so; then that it has any pod has to do.
func stands(d *appsv1.Deployment) bool {
	return cameUp(d) || (progressing(d).Type == "" && d.Status.UpdatedReplicas > 0)
}

// isSettled reports whether there was nothing to do at the last look, and the Deployment shows nothing new.
func (p *place) isSettled() bool {
	m := p.Memory
	if p.Evidence != nil || !m.settled || (!m.due.IsZero() && !p.Now.Before(m.due)) {
		return false
	}
	now := p.glance()
	if m.State == v1alpha1.ReasonRolledOut { // Its size, and pods that come and go, are no news; that its ReplicaSet was made anew is.
		return now.number == m.seen.number && now.template == m.seen.template && (now.stands || !m.seen.stands) && now.others() <= m.seen.others()
	}
	if now.stands = m.seen.stands; m.State != v1alpha1.ReasonRollbackFailed { // There a pod that gets ready is news.
		now.ready = m.seen.ready
	}
	return now == m.seen && !p.isOverruled()
}

// settle notes that there is nothing to do until the Deployment shows something new, or until then.
func (p *place) settle(d *InPlaceDecision, state string, due time.Time) {
	d.Memory.State, d.Memory.settled, d.Memory.due = state, true, due
	p.rest(d)
}

func (p *place) rest(d *InPlaceDecision) {
	if m := &d.Memory; m.settled {
		m.seen.generation, m.seen.stands = p.Deployment.Generation, stands(p.Deployment)
		if wait := m.due.Sub(p.Now); !m.due.IsZero() && (wait > 0 || p.hasRoomToRetry(m.State)) {
			d.recheckIn(wait)
		}
	}
}

// look asks for evidence, when it is time to.
func (p *place) look(d *InPlaceDecision) {
	if d.Memory.lookedAt.IsZero() && p.Deployment.Status.ObservedGeneration < p.Deployment.Generation {
		d.Memory.lookedAt, d.Memory.met = p.Now, p.Memory.met || p.isJustCreated() // There is nothing to see.
		p.Memory = d.Memory
	}
	if wait := p.nextLook().Sub(p.Now); wait > 0 {
		d.recheckIn(wait)
		return
	}
	d.NeedEvidence = true
}

// isJustCreated reports whether the Deployment controller has never seen the Deployment. Its number does not tell: a copy has that of
// another one, and where a tool replaces the object it is gone for a moment.
func (p *place) isJustCreated() bool { return p.Deployment.Status.ObservedGeneration == 0 }

// nextLook returns when to read evidence: a new request soon after the last look, a rollout now and then.
func (p *place) nextLook() time.Time {
	m, d := p.Memory, p.Deployment
	switch soon := m.lookedAt.Add(hintPause); {
	case m.lookedAt.IsZero():
		return time.Time{}
	case m.met && m.seen == (glance{}) && !rolloutComplete(d): // Nothing has failed for good as soon as this.
		return m.lookedAt.Add(2 * p.PollInterval)
	case d.Generation != m.seen.generation || d.Annotations[SetNumber] != m.seen.number:
		return soon
	case m.Progress.UnderWay() && m.holds && d.Status.ReadyReplicas != m.seen.ready:
		return soon
	case m.Progress.UnderWay():
		return m.Progress.nextPoll(rolloutComplete(d))
	case m.settled: // Something has changed about it.
		return soon
	default:
		return m.lookedAt.Add(p.PollInterval)
	}
}
