package rollout

import (
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// The judge trusts nothing but pods, their ReplicaSet and its own clock. The Deployment's conditions are stale or wrong
// in ordinary cases: the exceeded deadline of the template before this one, the completion of the template before this
// one, an exceeded deadline after the Deployment controller was down.

// maxBlind is how much of a time without evidence counts: what nobody could see is held against nobody. Nor does a soak
// last over a longer one: what nobody saw was not healthy.
const maxBlind = time.Minute

// absentAfter is how long nothing may happen before somebody else is said to be absent.
const absentAfter = 30 * time.Second

// hintPause is the least time between a look and the next one that a hint makes worth while.
const hintPause = time.Second

// Phase is how a move stands.
type Phase string

// The phases of a move.
const (
	PhaseProgressing Phase = "Progressing"
	PhaseSoaking     Phase = "Soaking"
	PhaseAbsent      Phase = "Absent" // somebody else has to act first, and does not
	PhaseUp          Phase = "Up"
	PhaseFailed      Phase = "Failed"
)

// Move is what this process has seen of one move of the Deployment to one revision. It is a value: a look at new
// evidence gives a new one. The methods with a pointer receiver change it, and are called on the copy that look makes.
type Move struct {
	Revision string
	Attempt  int
	// Fresh says that the revision never ran before: all restarts of its pods count.
	Fresh bool

	Phase   Phase
	Failure v1alpha1.Failure // in PhaseFailed
	Absent  string           // in PhaseAbsent: who

	recorded   metav1.Time // when the revision was: what is reported from before is not about it
	looked     time.Time   // when evidence was last read, or the move began
	lookAt     time.Time   // when to read it next
	hinted     bool        // at the last look the Deployment controller said that all was done
	clock      instant
	failedAt   instant // in PhaseFailed: what the clock showed
	progressed instant // when something last got better
	blamed     instant // since when something speaks against the release; short breaks do not count
	blameless  instant // since when, without a break, nothing does
	complete   instant // since when, without a break, it is complete
	soaking    instant // when it was first complete
	best       counts
	containers map[containerKey]containerMemory
	pods       map[types.UID]podMemory
}

// instant is a time on a move's own clock, which stands still while nothing is seen. Zero is never.
type instant time.Duration

type podMemory struct {
	served  bool    // it has been ready
	unready instant // since when it is not any more
}

type containerKey struct {
	pod  types.UID
	name string
}

type containerMemory struct {
	base     int32   // restarts from before the move
	restarts int32   // restarts at the last look
	soak     int32   // restarts when the soak began
	stuck    instant // since when it waits for its image or its configuration
}

// limits is the guard and the deadline, with their defaults.
type limits struct {
	maxRestarts           int32
	stuck, soak, deadline time.Duration
	arrival               bool // only the arrival is watched: the revision was good before
}

func limitsOf(guarded *v1alpha1.GuardedDeployment, arrival bool) limits {
	guard := &guarded.Spec.Guard
	seconds := func(value *int32, otherwise int32) time.Duration {
		return time.Duration(valueOr(value, otherwise)) * time.Second
	}
	return limits{
		maxRestarts: valueOr(guard.MaxRestarts, 3),
		stuck:       seconds(guard.StuckSeconds, 120),
		soak:        seconds(guard.SoakSeconds, 30),
		deadline:    seconds(guarded.Spec.ProgressDeadlineSeconds, 600),
		arrival:     arrival,
	}
}

func valueOr(value *int32, otherwise int32) int32 {
	if value == nil {
		return otherwise
	}
	return *value
}

// newMove returns a move to revision, to be looked at from lookAt on.
func newMove(revision *Revision, now, lookAt time.Time) Move {
	return Move{Revision: revision.Name, Attempt: revision.Attempt.Number, recorded: revision.CreationTimestamp,
		Phase: PhaseProgressing, looked: now, lookAt: lookAt, clock: 1, progressed: 1}
}

// to reports whether m is the move to this revision, in its present attempt.
func (m Move) to(r *Revision) bool { return m.Revision == r.Name && m.Attempt == r.Attempt.Number }

// UnderWay reports whether evidence about the move is being read.
func (m Move) UnderWay() bool {
	return m.Revision != "" && m.Phase != PhaseUp && m.Phase != PhaseFailed
}

// look returns the move after a look at new evidence.
func (m Move) look(d *appsv1.Deployment, e *Evidence, limit limits, now time.Time, every time.Duration) Move {
	if now.Sub(m.looked) > maxBlind {
		m.complete = 0
	}
	m.clock += instant(max(0, min(now.Sub(m.looked), maxBlind)))
	m.looked = now
	current := CurrentReplicaSet(d, e.ReplicaSets)
	pods := active(e.Pods)
	seen := count(d, current, e.ReplicaSets, pods)
	m.remember(pods)
	m.lookAt = now.Add(m.nextLook(limit, every))
	m.progress(seen)

	blame := blameFor(d, current, pods, seen, m.recorded)
	m.blame(blame != nil, d, limit)
	if !limit.arrival {
		if failure := m.broken(pods, limit); failure != nil {
			return m.failed(failure)
		}
	}
	if seen.complete() {
		m.soak(limit)
		return m
	}
	m.complete = 0
	m.Phase = PhaseProgressing
	switch {
	case blame != nil && m.soaking != 0:
		if m.since(m.soaking) >= limit.soak+limit.deadline {
			blame.Reason = v1alpha1.FailureUnhealthyInSoak
			return m.failed(blame)
		}
	case blame != nil:
		if m.since(max(m.progressed, m.blamed)) >= limit.deadline {
			return m.failed(blame)
		}
	case m.since(m.progressed) >= absentAfter:
		if m.Absent = absent(d, current, pods, seen); m.Absent != "" {
			m.Phase = PhaseAbsent
			m.soaking = 0 // What is missed in the soak meanwhile is not held against the release.
		}
	}
	return m
}

// blame notes since when something speaks against the release. Pods that are ready now and then, too shortly to become
// available, do not end it; a time in which somebody was absent does.
func (m *Move) blame(blamed bool, d *appsv1.Deployment, limit limits) {
	if blamed {
		m.blamed, m.blameless = firstOf(m.blamed, m.clock), 0
		return
	}
	m.blameless = firstOf(m.blameless, m.clock)
	if m.since(m.blameless) >= time.Duration(d.Spec.MinReadySeconds)*time.Second+min(absentAfter, limit.deadline/2) {
		m.blamed = 0
	}
}

// soak notes that the move is complete: up, once it has been so for long enough. It changes the containers that remember
// has made for this look.
func (m *Move) soak(limit limits) {
	if m.soaking == 0 {
		m.soaking = m.clock
		for key, c := range m.containers {
			c.soak = c.restarts
			m.containers[key] = c
		}
	}
	if m.complete == 0 {
		m.complete = m.clock
	}
	m.Phase = PhaseSoaking
	if limit.arrival || m.since(m.complete) >= limit.soak {
		m.Phase = PhaseUp
		m.containers, m.pods = nil, nil // Nobody looks any more.
	}
}

// failed returns the move with its failure. What is looked at after that starts anew, with the pods as they are.
func (m Move) failed(failure *v1alpha1.Failure) Move {
	return Move{Revision: m.Revision, Attempt: m.Attempt, recorded: m.recorded, Phase: PhaseFailed, Failure: *failure,
		looked: m.looked, lookAt: m.lookAt, clock: 1, failedAt: m.clock, progressed: 1}
}

// Lasted returns how long the move has been observed, until it failed if it has.
func (m Move) Lasted() time.Duration { return time.Duration(max(m.clock, m.failedAt)) }

// since returns how long ago, in time that was observed, t was.
func (m Move) since(t instant) time.Duration { return time.Duration(m.clock - t) }

// remember notes since when every pod and container is in trouble. Pods that are gone are forgotten.
func (m *Move) remember(pods []*corev1.Pod) {
	firstLook := m.containers == nil
	before, pastPods := m.containers, m.pods
	m.containers, m.pods = map[containerKey]containerMemory{}, map[types.UID]podMemory{}
	for _, pod := range pods {
		seen := pastPods[pod.UID]
		if ready(pod) {
			seen = podMemory{served: true}
		} else if seen.served {
			seen.unready = firstOf(seen.unready, m.clock)
		}
		m.pods[pod.UID] = seen
		for c := range containers(pod) {
			key := containerKey{pod.UID, c.Name}
			memory, known := before[key]
			if !known && firstLook && !m.Fresh {
				memory.base = c.RestartCount
			}
			memory.restarts = c.RestartCount
			if _, stuck := stuckReason(c); !stuck {
				memory.stuck = 0
			} else {
				memory.stuck = firstOf(memory.stuck, m.clock)
			}
			m.containers[key] = memory
		}
	}
}

// nextLook returns how long until the next look: every, or less when the time of a stuck container is up before.
func (m Move) nextLook(limit limits, every time.Duration) time.Duration {
	for _, c := range m.containers {
		if left := limit.stuck - m.since(c.stuck); !limit.arrival && c.stuck != 0 && left > 0 {
			every = min(every, left)
		}
	}
	return every
}

// nextLookAt returns when to look next. A hint that all is done, and was not at the last look, is worth one soon: without
// it, a release would be known to be up only after as long as many releases at once may stretch the time between looks.
func (m Move) nextLookAt(hint bool) time.Time {
	if soon := m.looked.Add(hintPause); hint && !m.hinted && m.Phase == PhaseProgressing && soon.Before(m.lookAt) {
		return soon
	}
	return m.lookAt
}

func firstOf(earlier, now instant) instant {
	if earlier != 0 {
		return earlier
	}
	return now
}

// progress notes whether something got better: a new high of new pods, or a new low of old ones. A pod created again is
// no progress. Asking for more pods starts the clocks anew: a scale change is nobody's failure.
func (m *Move) progress(seen counts) {
	best := m.best
	if seen.wanted > best.wanted {
		m.soaking = 0
		m.progressed = m.clock
	}
	if m.best == (counts{}) {
		best.old = seen.old
	}
	if seen.created > best.created || seen.ready > best.ready || seen.available > best.available || seen.old < best.old {
		m.progressed = m.clock
	}
	m.best = counts{
		wanted:    seen.wanted,
		created:   max(best.created, seen.created),
		ready:     max(best.ready, seen.ready),
		available: max(best.available, seen.available),
		old:       min(best.old, seen.old),
	}
}

// broken returns the failure that a single pod proves, nil if none does.
func (m Move) broken(pods []*corev1.Pod, limit limits) *v1alpha1.Failure {
	for _, pod := range pods {
		for c := range containers(pod) {
			memory := m.containers[containerKey{pod.UID, c.Name}]
			tooOften := c.RestartCount-memory.base > limit.maxRestarts
			switch {
			case tooOften && !c.Ready:
				return crashLoop(pod, c)
			case tooOften && m.soaking != 0 && c.RestartCount > memory.soak:
				return inSoak(crashLoop(pod, c))
			case memory.stuck != 0 && m.since(memory.stuck) >= limit.stuck:
				reason, _ := stuckReason(c)
				return stuck(reason, pod, c)
			}
		}
		// One that is new in the soak, after a restart or a drain, takes the time that it takes to start.
		if since := m.pods[pod.UID].unready; m.soaking != 0 && since != 0 && m.since(max(since, m.soaking)) >= limit.stuck {
			return inSoak(notReady(pod))
		}
	}
	return nil
}

func inSoak(failure *v1alpha1.Failure) *v1alpha1.Failure {
	failure.Reason = v1alpha1.FailureUnhealthyInSoak
	return failure
}
