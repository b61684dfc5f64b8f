package rollout

import (
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

const (
	// firstRetryDelay is how long after a failure the first automatic retry is made; every further one takes twice as long: what
	// passes by itself, a registry or a database that is away, mostly takes minutes.
	firstRetryDelay = time.Minute
	// longestRetryDelay is the longest that it takes.
	longestRetryDelay = time.Hour
)

// retryDelay returns how long after a failure the next automatic retry is made, when so many were made before.
func retryDelay(made int) time.Duration {
	delay := firstRetryDelay
	for range made {
		if delay *= 2; delay >= longestRetryDelay {
			return longestRetryDelay
		}
	}
	return delay
}

// nextAttempt returns the attempt that the spec asks for now, nil if the revision is good and running: then it has
// nothing to prove.
func (s *state) nextAttempt(r *Revision) *Attempt {
	if r.Good() && s.runningName() == r.Name {
		return nil
	}
	next := &Attempt{Number: r.Attempt.Number + 1, Token: s.token()}
	if r.lastVerdictGood() {
		next.GoodAs = r.goodAs()
	}
	return next
}

// nextRetry returns the attempt at the target that comes by itself.
func (s *state) nextRetry() *Attempt {
	next := s.nextAttempt(s.target)
	next.Retries = s.target.Failure.Retries + 1
	return next
}

func (s *state) token() string { return s.Guarded.Annotations[v1alpha1.RetryAnnotation] }

// retryAsked reports whether there is a token that was not there when the target failed.
func (s *state) retryAsked() bool { return s.token() != "" && s.token() != s.target.Failure.Token }

// noteFailure notes when the target failed.
func (s *state) noteFailure() {
	if !s.isFailed() {
		return
	}
	failure, seen := s.target.Failure, &s.Memory.failure
	if seen.revision != s.target.UID || seen.attempt != failure.Number {
		*seen = seenFailure{s.target.UID, failure.Number, measured(failure.Time.Time, s.Now)}
	}
}

// retryAt returns when the failed target is tried again without being asked, nil if it is not: by a clock that does not step. The time
// counts from when the failure was stored, and the number is stored with it: a restart neither adds a retry nor takes one.
func (s *state) retryAt() *time.Time {
	failure := s.target.Failure
	if failure.Retries >= int(valueOr(s.Guarded.Spec.Guard.Retries, 0)) {
		return nil
	}
	return new(s.Memory.failure.at.Add(retryDelay(failure.Retries)))
}

// nextAttemptAt is retryAt as it is told: in whole seconds, since it would be read back otherwise, and written again at each sync.
func (s *state) nextAttemptAt() *metav1.Time {
	at := s.retryAt()
	if at == nil {
		return nil
	}
	return new(metav1.NewTime(*at).Rfc3339Copy())
}

// awaitRetry asks for another decision when the target's next automatic retry is due, or may be made.
func (s *state) awaitRetry(d *Decision) {
	at := s.retryAt()
	switch {
	case at == nil:
	case at.After(s.Now):
		d.recheckIn(at.Sub(s.Now))
	case s.hasReplicas() && s.isRollingBack():
		d.recheckIn(s.PollInterval)
	}
}

// retryDue reports whether it is time for the target's next automatic retry. None is made while there are no pods that
// could tell how it goes, before a rollback has come to its end, or while what is back has too few pods.
func (s *state) retryDue() bool {
	at := s.retryAt()
	return at != nil && !at.After(s.Now) && s.hasReplicas() && !s.isRollingBack() && !s.lacksPods()
}

// hasReplicas reports whether there are pods that show how a release goes.
func (s *state) hasReplicas() bool {
	return s.Deployment != nil && !s.Deployment.Spec.Paused && valueOr(s.Deployment.Spec.Replicas, 1) > 0
}

// isRollingBack reports whether the Deployment, which is there, is on its way from the target to another revision.
func (s *state) isRollingBack() bool {
	progress := s.Memory.Progress
	return s.runningName() != s.target.Name && (progress.UnderWay() || (progress.Revision == "" && !completedBefore(s.Deployment)))
}

// lacksPods reports whether the revision that came up in the target's place has too few pods by now: it was at no replicas, for example.
func (s *state) lacksPods() bool {
	return s.runningName() != s.target.Name && s.Memory.Progress.Phase != PhaseFailed && !hasEnough(s.Deployment)
}

// hasEnough reports whether a Deployment has as many available pods as it has to keep in a rollout.
func hasEnough(d *appsv1.Deployment) bool {
	r := roomOf(d)
	return d.Status.ObservedGeneration >= d.Generation && d.Status.AvailableReplicas >= max(1, r.wanted-r.unavailable)
}

// failureMessage returns the sentence about the target's failure.
func (s *state) failureMessage() string {
	sentence := s.target.Name + " failed: " + s.target.Failure.Message
	if most := valueOr(s.Guarded.Spec.Guard.Retries, 0); most > 0 {
		sentence += fmt.Sprintf("; that was attempt %s", s.attempts(s.target.Failure.Attempt))
	}
	if at := s.nextAttemptAt(); at != nil {
		sentence += ", the next is due at " + at.UTC().Format(time.RFC3339)
	}
	return sentence
}

// attempts says which of the attempts that are made by themselves this is.
func (s *state) attempts(a Attempt) string {
	return fmt.Sprintf("%d of %d", a.Retries+1, max(int(valueOr(s.Guarded.Spec.Guard.Retries, 0)), a.Retries)+1)
}
