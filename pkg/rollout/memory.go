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

// Memory is what one process knows about a GuardedDeployment beyond what is stored. When it is lost, timers begin
// again, a refused write is tried again, Events of writes whose status was not written stay untold, corrections are counted
// anew, and what a mutating policy took from the last write is written once more. Decide says what it is to be, in
// Decision.Memory, and Decision.After what is kept of that.
type Memory struct {
	UID      types.UID
	Progress Progress
	// Refusal is the last write that the API server refused for a reason that trying again does not mend.
	Refusal Refusal

	written
	carried    carried       // at the last comparison that found nothing to write
	asked      asked         // last
	digests    []digested    // of the revisions that were observed last; it is replaced, never changed
	unanswered []*unanswered // writes of the Deployment whose answers were lost
	unmarked   unmarked      // the last verdict whose answer was lost
	uncounted  []Count       // of such writes that took effect

	failure    seenFailure
	confirmed  bool      // a status was decided on from what another process had left, and not from old caches
	reportedAt time.Time // when the status was last written
	// untold is the status from before a write that failed, or may have: what has changed since has no Events yet.
	untold *v1alpha1.GuardedDeploymentStatus
	// toldOf is the resourceVersion of the object whose status was replaced last, with all Events: a cache may still have it.
	toldOf     string
	told       toldOf    // by this process or, at its beginning, by the one before
	owed       []Event   // Events of other writes that are not recorded yet
	ignored    []string  // what was told of objects that are not used
	lookup     *lookup   // of what the last good revision needs; it is replaced, never changed
	noGood     string    // the target for which a live list showed no good revision
	taken      string    // the Deployment that has the name, and why it is somebody else's
	takenSince time.Time // when it was first seen so
}

// UnderWay reports whether evidence is being read, time and again.
func (m Memory) UnderWay() bool { return m.Progress.UnderWay() }

// seenFailure is the failure of an attempt that was seen last, and when it was. In one process that is measured by a clock that nobody
// can set.
type seenFailure struct {
	revision types.UID
	attempt  int
	at       time.Time
}

// measured returns a time that was stored as one by the clock of now, which does not step with the machine's. One that is still to come
// was stored by a clock that was ahead, and counts as now.
func measured(stored, now time.Time) time.Time { return now.Add(-max(0, now.Sub(stored))) }

// written is what is remembered of the writes of the Deployment.
type written struct {
	applied  string // the hash of what was last desired
	accepted string // what Accept returned for the last answer

	corrections   int       // how often, lately, somebody else's change was put back
	corrected     time.Time // when, last
	correctedPath string    // what, last
	rival         string    // what rivalOf returned for it
}

// RefusedRetry is when to try a write again that the API server refused although nothing has changed since: a policy may have,
// and Belay does not watch those.
const RefusedRetry = 5 * time.Minute

// Refusal is a write that the API server refused.
type Refusal struct {
	// Write identifies what was to be written, as Decision.Write returns it, and Generation the spec that asked for it.
	Write      string
	Generation int64
	// Reason is ReasonInvalid or ReasonDenied.
	Reason, Message string
	// Until is when to try again although nothing has changed.
	Until time.Time
}

// unanswered is a write of the Deployment of which nobody knows whether it took effect. If it did, the Deployment will show
// it, and then all is known that a good answer would have told.
type unanswered struct {
	sentAt        time.Time
	desired       *appsv1.Deployment
	template      *corev1.PodTemplateSpec // Decision.Template
	appliedBefore string                  // the hash of what was desired of the Deployment before
	generation    int64                   // the Deployment's after this write alone
	correction    string                  // Decision.Correction
	count         Count
	progress      Progress
	written       written
}

// unmarked is a verdict of which nobody knows whether it was stored.
type unmarked struct {
	revision, verdict, failure string // its name, and what its annotations say then
	count                      Count
}

// marked returns it for the write of a verdict. Another one is still looked for while there is nothing to count of this one.
func (d Decision) marked(known Memory) unmarked {
	if d.Verdict == nil {
		return known.unmarked
	}
	return unmarked{d.Mark.Name, d.Mark.Annotations[v1alpha1.VerdictAnnotation], d.Mark.Annotations[v1alpha1.FailureAnnotation], d.count()}
}

// isStored reports whether one of the revisions shows it.
func (u unmarked) isStored(revisions []*appsv1.ControllerRevision) bool {
	return slices.ContainsFunc(revisions, func(r *appsv1.ControllerRevision) bool {
		_, underWay := r.Annotations[v1alpha1.AttemptAnnotation]
		return r.Name == u.revision && !underWay && r.Annotations[v1alpha1.VerdictAnnotation] == u.verdict && r.Annotations[v1alpha1.FailureAnnotation] == u.failure
	})
}

// unansweredFor is how long a write without an answer is looked for: longer than the API server works on a request and a watch
// lags.
const unansweredFor = 10 * time.Minute

// sent returns the writes without a good answer, that of d being one of them now: of several that were sent on the same
// generation at most one can have taken effect.
func (d Decision) sent(o Observed, known Memory, answer Answer) []*unanswered {
	u := &unanswered{sentAt: o.Now, desired: d.Deployment, template: d.Template, generation: 1, correction: d.Correction, count: d.count(), progress: d.Memory.Progress, written: d.Memory.written}
	if before := answer.Before; before != nil {
		u.appliedBefore, u.generation = before.Annotations[v1alpha1.AppliedAnnotation], before.Generation+1
	}
	if d.Correction != "" {
		u.written.rival = rivalOf(answer.Before, d.Correction, answer.Manager)
	}
	older := slices.DeleteFunc(slices.Clone(known.unanswered), func(other *unanswered) bool {
		return other.generation != u.generation || other.applied() == u.applied()
	})
	return append(older, u)
}

// tookEffect reports whether live shows it. Nobody else writes the hash of what is desired; where it was there before,
// all that is desired has to be there now, and a template that was given as it was.
func (u *unanswered) tookEffect(live *appsv1.Deployment) bool {
	if u.appliedBefore == u.applied() && u.template != nil && !sameTemplate(u.template, &live.Spec.Template) {
		return false
	}
	return live.Annotations[v1alpha1.AppliedAnnotation] == u.applied() && (u.appliedBefore != u.applied() || drift(u.desired, live) == "" ||
		fingerprint(u.desired, live) == u.written.accepted)
}

func (u *unanswered) applied() string { return u.desired.Annotations[v1alpha1.AppliedAnnotation] }

// recall returns the memory as it has to be read now: what was written without an answer, and is seen in the Deployment, is
// Belay's own work and nobody else's.
func (o *Observed) recall() Memory {
	memory := o.Memory
	if memory.UID != o.Guarded.UID {
		return Memory{UID: o.Guarded.UID}
	}
	memory.unanswered = slices.DeleteFunc(slices.Clone(memory.unanswered), func(u *unanswered) bool { return o.Now.Sub(u.sentAt) > unansweredFor })
	if memory.unmarked.isStored(o.Revisions) {
		memory.uncounted, memory.unmarked = append(slices.Clip(memory.uncounted), memory.unmarked.count), unmarked{}
	}
	if o.Deployment == nil || !metav1.IsControlledBy(o.Deployment, o.Guarded) {
		return memory
	}
	seen := slices.IndexFunc(memory.unanswered, func(u *unanswered) bool { return u.tookEffect(o.Deployment) })
	if seen < 0 {
		return memory
	}
	lost := memory.unanswered[seen]
	memory.unanswered, memory.Progress, memory.written = nil, lost.progress, lost.written
	memory.accepted = ""
	if lost.count != (Count{}) {
		memory.uncounted = append(slices.Clip(memory.uncounted), lost.count)
	}
	if o.Deployment.Generation == lost.generation || fingerprint(lost.desired, o.Deployment) == lost.written.accepted {
		// Nobody has changed it since: what it lacks, a policy took away.
		memory.accepted = Accept(lost.desired, o.Deployment)
	}
	if lost.correction != "" {
		memory.owed = append(slices.Clip(memory.owed), putBack(o.Guarded.Name, lost.correction, memory.rival, lost.progress.undoneBy(lost.template)))
	}
	return memory
}
