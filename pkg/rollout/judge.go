package rollout

import (
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// The judge trusts nothing but pods, their ReplicaSets, what the API server said when it refused one, and its own clock. It tells
// what pods did (trouble.go) from what was done to them (excuse.go). The conditions of a Deployment are stale or wrong
// in ordinary cases: the exceeded deadline of the template before this one, the completion of the template before this
// one, an exceeded deadline after the Deployment controller was down. The pretend controllers of test/sim do all of that.

// maxBlind is how much of a time without evidence counts: what nobody could see is held against nobody.
const maxBlind = time.Minute

// blockedAfter is how long nothing may happen before it is said who else has to act. Two leaders of kube-controller-manager take
// over from one another in 15 to 20 s: that is no news.
const blockedAfter = 30 * time.Second

// sayAgain is the least time between two texts about the same wait: the words of others change with every pod that they try.
const sayAgain = 15 * time.Second

// hintPause is the least time between a poll and the next one that a hint makes worth while.
const hintPause = time.Second

// Phase is how a rollout stands.
type Phase string

// The phases of a rollout.
const (
	PhaseProgressing Phase = "Progressing"
	PhaseSoaking     Phase = "Soaking"
	PhaseBlocked     Phase = "Blocked" // somebody else has to act first, and does not
	PhaseHealthy     Phase = "Healthy"
	PhaseFailed      Phase = "Failed"
)

// Progress is what this process has seen of one rollout of the Deployment to one revision. It is a value: a poll of new
// evidence gives a new one. The methods with a pointer receiver change it, and are called on the copy that poll makes.
type Progress struct {
	Revision string
	Attempt  int
	restart  string // the ReplicaSet of a restart that it is of, empty if it is of none
	wasGood  bool   // the revision was known to be good at the last look

	Phase   Phase
	Failure v1alpha1.Failure // in PhaseFailed
	// WaitingReason is the condition's reason in PhaseBlocked, and WaitingFor says for whom or what, in words that change at
	// most once in sayAgain.
	WaitingReason, WaitingFor string
	// Overdue says that there has been no progress for the deadline: whoever waits for the rollout should stop.
	Overdue bool

	began          metav1.Time // when the attempt did, by the API server's clock; zero if its ReplicaSet's creation tells
	recorded       metav1.Time // when the revision was: what is reported from before is not about it
	polledAt       time.Time   // when evidence was last read, or the rollout began
	pollAfter      time.Time   // when to read it next
	number         string      // SetNumber of the ReplicaSet that is watched, or came up or failed; empty if that is not known
	undone         string      // of a restart that is being undone: how it failed
	final          string      // why a restart that failed cannot be undone, empty if it may be
	hinted         bool        // at the last poll the Deployment controller said that all was done
	stopped        bool        // there are no replicas: the clock stands still
	clock          instant
	failedAt       instant       // in PhaseFailed: what the clock showed
	said           instant       // in PhaseBlocked: when the words for it last changed
	progressed     instant       // when something last got better
	unhealthySince instant       // since when something speaks against the release; short breaks do not count
	healthySince   instant       // since when, without a break, nothing does
	complete       instant       // when it first was complete
	apart          time.Duration // how far apart polls were then, if a soak takes longer for that
	inSoak         time.Duration // how long something has spoken against it since then
	best           counts
	*sightings     // nil before the first poll, and when nobody polls any more
}

// sightings is what was seen of single pods, and of what others say of them.
type sightings struct {
	set  types.UID // the ReplicaSet that the records are about
	pods map[types.UID]podRecord
	endings
	answers
	excused map[string]instant // since when an excuse that does not last for ever has been used
}

// instant is a time on a rollout's own clock, which stands still while nothing is seen. Zero is never.
type instant time.Duration

// newProgress returns the progress of a rollout to revision that begins now, and whose evidence is read from pollAfter on.
func newProgress(revision *Revision, now, pollAfter time.Time) Progress {
	return Progress{Revision: revision.Name, Attempt: revision.Attempt.Number, recorded: revision.CreationTimestamp,
		began: revision.Attempt.Since, Phase: PhaseProgressing, polledAt: now, pollAfter: pollAfter, clock: 1, progressed: 1}
}

// isFor reports whether p is that of the rollout to this revision, in its present attempt.
func (p Progress) isFor(r *Revision) bool {
	return p.Revision == r.Name && p.Attempt == r.Attempt.Number
}

// UnderWay reports whether evidence about the rollout is being read.
func (p Progress) UnderWay() bool {
	return p.Revision != "" && p.Phase != PhaseHealthy && p.Phase != PhaseFailed && !p.stopped
}

// poll returns the progress after new evidence was read, or what has to be read besides before anything can be said.
func (p Progress) poll(d *appsv1.Deployment, e *Evidence, limits limits, now time.Time, every time.Duration) (Progress, Details) {
	seen := sightings{}
	if p.sightings != nil {
		seen = *p.sightings
	}
	p.sightings = &seen
	l := newLook(d, e, limits)
	l.began, l.recorded = p.began, p.recorded
	l.elapsed = p.advance(now)
	p.noteBest(l)
	p.remember(l)
	l.fine = p.countFine(l)
	p.learn(l)
	if q := p.ask(l); q.Any() {
		return p, q
	}
	troubles := p.troubles(l)
	waiting := p.excuse(l, troubles)
	against := p.trackHealth(l, troubles)
	p.ripen(l, troubles)
	p.pollAfter = now.Add(p.untilNextPoll(l, every))
	p.Overdue = p.since(p.progressed) >= l.deadline
	failure, q := p.verdict(l, troubles)
	switch {
	case q.Any():
		return p, q
	case failure != nil:
		return p.failed(failure), q
	}
	if waiting.reason == "" && !against {
		waiting = absent(l)
	}
	p.stand(l, waiting)
	return p, q
}

// advance moves the clock on, and returns by how much.
func (p *Progress) advance(now time.Time) time.Duration {
	elapsed := max(0, min(now.Sub(p.polledAt), maxBlind))
	if p.stopped {
		elapsed, p.stopped = 0, false
	}
	p.clock += instant(elapsed)
	p.polledAt = now
	return elapsed
}

// stop lets the clock stand still until the next poll.
func (p Progress) stop() Progress {
	p.stopped = true
	return p
}

// stand says how the rollout stands, which has not failed: waiting is what it waits for by an excuse.
func (p *Progress) stand(l *look, waiting waiting) {
	before := p.WaitingReason
	p.Phase, p.WaitingReason = PhaseProgressing, ""
	soaked, passed := p.soaked(l)
	missing := l.wanted - p.availablePods()
	switch {
	case l.wanted > 0 && missing <= l.tolerated && l.available >= l.wanted-l.tolerated && l.old <= max(0, missing):
		p.Phase = PhaseSoaking
		if p.complete == 0 {
			p.complete, p.apart = p.clock, 0
			if apart := p.pollAfter.Sub(p.polledAt); apart > max(l.soak, blockedAfter) {
				p.apart = apart
			}
		}
		if l.knownGood || (soaked && l.wanted-passed <= l.tolerated) {
			p.Phase, p.number = PhaseHealthy, l.current.Annotations[SetNumber]
			p.sightings = nil
		}
	case waiting.reason != "" && p.since(p.progressed) >= blockedAfter:
		p.Phase, p.WaitingReason = PhaseBlocked, waiting.reason
		if waiting.reason != before || p.since(p.said) >= sayAgain {
			p.WaitingFor, p.said = waiting.words, p.clock
		}
	}
}

// soaked reports whether a pod has soaked for the whole time, and how many need not soak any longer.
func (p *Progress) soaked(l *look) (any bool, passed int32) {
	for _, record := range p.pods {
		any = any || (record.available && record.soaked >= l.soak)
		if record.passed(l.soak) {
			passed++
		}
	}
	return any, passed
}

func (p *Progress) availablePods() (n int32) {
	for _, record := range p.pods {
		if record.available {
			n++
		}
	}
	return n
}

// trackHealth notes since when something speaks against the release. That ends after
// minReadySeconds and up to 30 s more in which nothing does: pods that are ready now and then do not end it, a wait for a
// controller does.
func (p *Progress) trackHealth(l *look, troubles []trouble) (against bool) {
	if slices.ContainsFunc(troubles, func(t trouble) bool { return !t.excused && !t.alone }) {
		p.unhealthySince, p.healthySince = firstOf(p.unhealthySince, p.clock), 0
		if p.complete != 0 {
			p.inSoak += l.elapsed
		}
		return true
	}
	p.healthySince = firstOf(p.healthySince, p.clock)
	if p.since(p.healthySince) >= time.Duration(l.deployment.Spec.MinReadySeconds)*time.Second+min(blockedAfter, l.deadline/2) {
		p.unhealthySince = 0
	}
	return false
}

// verdict returns the failure that the troubles make, nil if they make none: that of the first kind of which more pods than are
// tolerated show it. Before pods that wait fail it, their nodes are asked for: a pod that was not ready yet when its node fell
// silent carries no sign of that.
func (p *Progress) verdict(l *look, troubles []trouble) (*v1alpha1.Failure, Details) {
	for kind := range kinds {
		first, pods := dueOf(kind, troubles)
		switch {
		case first == nil || pods <= l.tolerated || (l.knownGood && kind != kindDeadline):
			continue
		case kind == kindDeadline && p.isUnasked(first):
			return nil, Details{Events: []types.UID{first.pod.UID}}
		case kind == kindDeadline || kind == kindWait:
			if q := askForNodes(l, kind, troubles); q.Any() {
				return nil, q
			}
		case kind == kindEnds:
			if q := p.askForEnd(l, first); q.Any() {
				return nil, q
			}
		}
		if q := askForProbe(l, first); q.Any() {
			return nil, q
		}
		a := first.account(l, p)
		if q := p.askForLog(l, first, a.run); q.Any() {
			return nil, q
		}
		return a.failure(l, p, kind), Details{}
	}
	return nil, Details{}
}

// dueOf returns the first of the troubles of a kind that are due, and how many pods show one.
func dueOf(kind kind, troubles []trouble) (first *trouble, pods int32) {
	seen := map[*corev1.Pod]bool{}
	for i := range troubles {
		t := &troubles[i]
		if t.kind != kind || !t.due || t.excused || (t.pod != nil && seen[t.pod]) {
			continue
		}
		if first == nil {
			first = t
		}
		seen[t.pod] = true
		pods += t.pods
	}
	return first, pods
}

// failed returns the progress with its failure. What is observed after that starts anew, with the pods as they are.
func (p Progress) failed(failure *v1alpha1.Failure) Progress {
	return Progress{Revision: p.Revision, Attempt: p.Attempt, restart: p.restart, number: p.number, recorded: p.recorded, began: p.began, Phase: PhaseFailed, Failure: *failure,
		polledAt: p.polledAt, pollAfter: p.pollAfter, clock: 1, failedAt: p.clock, progressed: 1}
}

// Lasted returns how long the rollout has been observed, until it failed if it has.
func (p Progress) Lasted() time.Duration { return time.Duration(max(p.clock, p.failedAt)) }

// since returns how long ago, in time that was observed, t was.
func (p *Progress) since(t instant) time.Duration { return time.Duration(p.clock - t) }

// untilNextPoll returns how long until the next poll: every, or less when the time of a stuck container is up before.
func (p *Progress) untilNextPoll(l *look, every time.Duration) time.Duration {
	for _, record := range p.pods {
		for _, c := range record.containers {
			if left := l.stuck - p.since(c.stuck); !l.knownGood && c.stuck != 0 && left > 0 {
				every = min(every, left)
			}
		}
	}
	return every
}

// nextPoll returns when to poll next. A hint that all is done, and was not at the last poll, is worth one soon: without
// it, a release would be known to be up only after as long as many releases at once may stretch the time between polls.
func (p *Progress) nextPoll(hint bool) time.Time {
	if soon := p.polledAt.Add(hintPause); hint && !p.hinted && p.Phase == PhaseProgressing && soon.Before(p.pollAfter) {
		return soon
	}
	return p.pollAfter
}

// lasting returns since when something holds that held since the given time, or did not if that is zero; zero if it does not hold.
func (p *Progress) lasting(since instant, holds bool) instant {
	if !holds {
		return 0
	}
	return firstOf(since, p.clock)
}

func firstOf(earlier, now instant) instant {
	if earlier != 0 {
		return earlier
	}
	return now
}

// noteBest notes whether something got better: a new high of new pods, or a new low of old ones or of those that still end. A
// pod created again is no progress, and neither is a scale that comes and goes. Only more pods than ever start the clocks anew: a
// scale change is nobody's failure.
func (p *Progress) noteBest(l *look) {
	seen, best := l.counts, p.best
	if best == (counts{}) {
		best.old, best.oldLeft = seen.old, seen.oldLeft
	} else if seen.wanted > best.wanted {
		if any, _ := p.soaked(l); any {
			p.added += int(seen.wanted - best.wanted)
		}
	}
	if seen.wanted > best.wanted {
		p.complete, p.inSoak = 0, 0
		p.progressed = p.clock
	}
	if seen.created > best.created || seen.ready > best.ready || seen.available > best.available || seen.old < best.old || seen.oldLeft < best.oldLeft {
		p.progressed = p.clock
	}
	p.best = counts{
		wanted:    max(best.wanted, seen.wanted),
		created:   max(best.created, seen.created),
		ready:     max(best.ready, seen.ready),
		available: max(best.available, seen.available),
		old:       min(best.old, seen.old),
		oldLeft:   min(best.oldLeft, seen.oldLeft),
	}
}
