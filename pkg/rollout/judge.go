package rollout

import (
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// The judge trusts nothing but pods, their ReplicaSet and its own clock, with one exception: that a ReplicaSet could not be
// created stands in no other place than a condition of the Deployment, and is believed if it is newer than the revision. Its other conditions are stale or wrong
// in ordinary cases: the exceeded deadline of the template before this one, the completion of the template before this
// one, an exceeded deadline after the Deployment controller was down. The pretend controllers of test/sim do all of that.

// maxBlind is how much of a time without evidence counts: what nobody could see is held against nobody. Nor does a soak
// last over a longer one: what nobody saw was not healthy.
const maxBlind = time.Minute

// blockedAfter is how long nothing may happen before it is said who else has to act. Two leaders of kube-controller-manager take
// over from one another in 15 to 20 s: that is no news.
const blockedAfter = 30 * time.Second

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
	// FirstRun says that the revision never ran before: all restarts of its pods count.
	FirstRun bool

	Phase      Phase
	Failure    v1alpha1.Failure // in PhaseFailed
	WaitingFor string           // in PhaseBlocked: for whom

	recorded       metav1.Time // when the revision was: what is reported from before is not about it
	polledAt       time.Time   // when evidence was last read, or the rollout began
	pollAfter      time.Time   // when to read it next
	hinted         bool        // at the last poll the Deployment controller said that all was done
	clock          instant
	failedAt       instant // in PhaseFailed: what the clock showed
	progressed     instant // when something last got better
	unhealthySince instant // since when something speaks against the release; short breaks do not count
	healthySince   instant // since when, without a break, nothing does
	complete       instant // since when, without a break, it is complete
	soaking        instant // when it was first complete
	best           counts
	containers     map[containerKey]containerMemory
	pods           map[types.UID]podMemory
}

// instant is a time on a rollout's own clock, which stands still while nothing is seen. Zero is never.
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
	base     int32   // restarts from before the rollout
	restarts int32   // restarts at the last poll
	soak     int32   // restarts when the soak began
	stuck    instant // since when it waits for its image or its configuration
}

// limits is the guard and the deadline, with their defaults.
type limits struct {
	maxRestarts           int32
	stuck, soak, deadline time.Duration
	knownGood             bool // the revision was good before: only whether it comes up is watched
}

func limitsOf(guarded *v1alpha1.GuardedDeployment, knownGood bool) limits {
	guard := &guarded.Spec.Guard
	seconds := func(value *int32, otherwise int32) time.Duration {
		return time.Duration(valueOr(value, otherwise)) * time.Second
	}
	return limits{
		maxRestarts: valueOr(guard.MaxRestarts, 3),
		stuck:       seconds(guard.StuckSeconds, 120),
		soak:        seconds(guard.SoakSeconds, 30),
		deadline:    seconds(guarded.Spec.ProgressDeadlineSeconds, 600),
		knownGood:   knownGood,
	}
}

func valueOr(value *int32, otherwise int32) int32 {
	if value == nil {
		return otherwise
	}
	return *value
}

// newProgress returns the progress of a rollout to revision that begins now, and whose evidence is read from pollAfter on.
func newProgress(revision *Revision, now, pollAfter time.Time) Progress {
	return Progress{Revision: revision.Name, Attempt: revision.Attempt.Number, recorded: revision.CreationTimestamp,
		Phase: PhaseProgressing, polledAt: now, pollAfter: pollAfter, clock: 1, progressed: 1}
}

// isFor reports whether p is that of the rollout to this revision, in its present attempt.
func (p Progress) isFor(r *Revision) bool {
	return p.Revision == r.Name && p.Attempt == r.Attempt.Number
}

// UnderWay reports whether evidence about the rollout is being read.
func (p Progress) UnderWay() bool {
	return p.Revision != "" && p.Phase != PhaseHealthy && p.Phase != PhaseFailed
}

// poll returns the progress after new evidence was read.
func (p Progress) poll(d *appsv1.Deployment, e *Evidence, limit limits, now time.Time, every time.Duration) Progress {
	if now.Sub(p.polledAt) > maxBlind {
		p.complete = 0
	}
	p.clock += instant(max(0, min(now.Sub(p.polledAt), maxBlind)))
	p.polledAt = now
	current := CurrentReplicaSet(d, e.ReplicaSets)
	pods := active(e.Pods)
	seen := count(d, current, e.ReplicaSets, pods)
	p.remember(pods)
	p.pollAfter = now.Add(p.untilNextPoll(limit, every))
	p.noteBest(seen)

	problem := findProblem(d, current, pods, seen, p.recorded)
	p.trackHealth(problem != nil, d, limit)
	if !limit.knownGood {
		if failure := p.broken(pods, limit); failure != nil {
			return p.failed(failure)
		}
	}
	if seen.complete() {
		p.soak(limit)
		return p
	}
	p.complete = 0
	p.Phase = PhaseProgressing
	switch {
	case problem != nil && p.soaking != 0:
		if p.since(p.soaking) >= limit.soak+limit.deadline {
			problem.Reason = v1alpha1.FailureUnhealthyInSoak
			return p.failed(problem)
		}
	case problem != nil:
		if p.since(max(p.progressed, p.unhealthySince)) >= limit.deadline {
			return p.failed(problem)
		}
	case p.since(p.progressed) >= blockedAfter:
		if p.WaitingFor = waitingFor(d, current, pods, seen); p.WaitingFor != "" {
			p.Phase = PhaseBlocked
			p.soaking = 0 // What is missed in the soak meanwhile is not held against the release.
		}
	}
	return p
}

// trackHealth notes since when something speaks against the release. That ends after
// minReadySeconds and up to 30 s more in which nothing does: pods that are ready now and then do not end it, a wait for a
// controller does.
func (p *Progress) trackHealth(unhealthy bool, d *appsv1.Deployment, limit limits) {
	if unhealthy {
		p.unhealthySince, p.healthySince = firstOf(p.unhealthySince, p.clock), 0
		return
	}
	p.healthySince = firstOf(p.healthySince, p.clock)
	if p.since(p.healthySince) >= time.Duration(d.Spec.MinReadySeconds)*time.Second+min(blockedAfter, limit.deadline/2) {
		p.unhealthySince = 0
	}
}

// soak notes that the rollout is complete: healthy, once it has been so for long enough. It changes the containers that remember
// has made for this poll.
func (p *Progress) soak(limit limits) {
	if p.soaking == 0 {
		p.soaking = p.clock
		for key, c := range p.containers {
			c.soak = c.restarts
			p.containers[key] = c
		}
	}
	if p.complete == 0 {
		p.complete = p.clock
	}
	p.Phase = PhaseSoaking
	if limit.knownGood || p.since(p.complete) >= limit.soak {
		p.Phase = PhaseHealthy
		p.containers, p.pods = nil, nil // Nobody polls any more.
	}
}

// failed returns the progress with its failure. What is observed after that starts anew, with the pods as they are.
func (p Progress) failed(failure *v1alpha1.Failure) Progress {
	return Progress{Revision: p.Revision, Attempt: p.Attempt, recorded: p.recorded, Phase: PhaseFailed, Failure: *failure,
		polledAt: p.polledAt, pollAfter: p.pollAfter, clock: 1, failedAt: p.clock, progressed: 1}
}

// Lasted returns how long the rollout has been observed, until it failed if it has.
func (p Progress) Lasted() time.Duration { return time.Duration(max(p.clock, p.failedAt)) }

// since returns how long ago, in time that was observed, t was.
func (p Progress) since(t instant) time.Duration { return time.Duration(p.clock - t) }

// remember notes since when every pod and container is in trouble. Pods that are gone are forgotten.
func (p *Progress) remember(pods []*corev1.Pod) {
	firstPoll := p.containers == nil
	before, pastPods := p.containers, p.pods
	p.containers, p.pods = map[containerKey]containerMemory{}, map[types.UID]podMemory{}
	for _, pod := range pods {
		seen := pastPods[pod.UID]
		if ready(pod) {
			seen = podMemory{served: true}
		} else if seen.served {
			seen.unready = firstOf(seen.unready, p.clock)
		}
		p.pods[pod.UID] = seen
		for c := range containers(pod) {
			key := containerKey{pod.UID, c.Name}
			memory, known := before[key]
			if !known && firstPoll && !p.FirstRun {
				memory.base = c.RestartCount
			}
			memory.restarts = c.RestartCount
			if _, stuck := stuckReason(c); !stuck {
				memory.stuck = 0
			} else {
				memory.stuck = firstOf(memory.stuck, p.clock)
			}
			p.containers[key] = memory
		}
	}
}

// untilNextPoll returns how long until the next poll: every, or less when the time of a stuck container is up before.
func (p Progress) untilNextPoll(limit limits, every time.Duration) time.Duration {
	for _, c := range p.containers {
		if left := limit.stuck - p.since(c.stuck); !limit.knownGood && c.stuck != 0 && left > 0 {
			every = min(every, left)
		}
	}
	return every
}

// nextPoll returns when to poll next. A hint that all is done, and was not at the last poll, is worth one soon: without
// it, a release would be known to be up only after as long as many releases at once may stretch the time between polls.
func (p Progress) nextPoll(hint bool) time.Time {
	if soon := p.polledAt.Add(hintPause); hint && !p.hinted && p.Phase == PhaseProgressing && soon.Before(p.pollAfter) {
		return soon
	}
	return p.pollAfter
}

func firstOf(earlier, now instant) instant {
	if earlier != 0 {
		return earlier
	}
	return now
}

// noteBest notes whether something got better: a new high of new pods, or a new low of old ones. A pod created again is
// no progress. Asking for more pods starts the clocks anew: a scale change is nobody's failure.
func (p *Progress) noteBest(seen counts) {
	best := p.best
	if seen.wanted > best.wanted {
		p.soaking = 0
		p.progressed = p.clock
	}
	if p.best == (counts{}) {
		best.old = seen.old
	}
	if seen.created > best.created || seen.ready > best.ready || seen.available > best.available || seen.old < best.old {
		p.progressed = p.clock
	}
	p.best = counts{
		wanted:    seen.wanted,
		created:   max(best.created, seen.created),
		ready:     max(best.ready, seen.ready),
		available: max(best.available, seen.available),
		old:       min(best.old, seen.old),
	}
}

// broken returns the failure that a single pod proves, nil if none does.
func (p Progress) broken(pods []*corev1.Pod, limit limits) *v1alpha1.Failure {
	for _, pod := range pods {
		for c := range containers(pod) {
			memory := p.containers[containerKey{pod.UID, c.Name}]
			tooOften := c.RestartCount-memory.base > limit.maxRestarts
			switch {
			case tooOften && !c.Ready:
				return crashLoop(pod, c)
			case tooOften && p.soaking != 0 && c.RestartCount > memory.soak:
				return inSoak(crashLoop(pod, c))
			case memory.stuck != 0 && p.since(memory.stuck) >= limit.stuck:
				reason, _ := stuckReason(c)
				return stuck(reason, pod, c)
			}
		}
		// One that is new in the soak, after a restart or a drain, takes the time that it takes to start.
		if since := p.pods[pod.UID].unready; p.soaking != 0 && since != 0 && p.since(max(since, p.soaking)) >= limit.stuck {
			return inSoak(notReady(pod))
		}
	}
	return nil
}

func inSoak(failure *v1alpha1.Failure) *v1alpha1.Failure {
	failure.Reason = v1alpha1.FailureUnhealthyInSoak
	return failure
}
