package rollout

import (
	"fmt"
	"time"

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
	return &Attempt{Number: r.Attempt.Number + 1, Token: s.token()}
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

// retryAt returns when the failed target is tried again without being asked, nil if it is not. The time counts from when
// the failure was stored, and the number is stored with it: a restart neither adds a retry nor takes one.
func (s *state) retryAt() *metav1.Time {
	failure := s.target.Failure
	if failure.Retries >= int(valueOr(s.Guarded.Spec.Guard.Retries, 0)) {
		return nil
	}
	at := metav1.NewTime(s.Memory.failure.at.Add(retryDelay(failure.Retries)))
	return new(at.Rfc3339Copy()) // in whole seconds: it would be read back otherwise, and written again at each sync
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
// could tell how it goes, or before a rollback has come to its end.
func (s *state) retryDue() bool {
	at := s.retryAt()
	return at != nil && !at.After(s.Now) && s.hasReplicas() && !s.isRollingBack()
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

// failureMessage returns the sentence about the target's failure.
func (s *state) failureMessage() string {
	sentence := s.target.Name + " failed: " + s.target.Failure.Message
	if most := valueOr(s.Guarded.Spec.Guard.Retries, 0); most > 0 {
		sentence += fmt.Sprintf("; that was attempt %s", s.attempts(s.target.Failure.Attempt))
	}
	if at := s.retryAt(); at != nil {
		sentence += ", the next is due at " + at.UTC().Format(time.RFC3339)
	}
	return sentence
}

// attempts says which of the attempts that are made by themselves this is.
func (s *state) attempts(a Attempt) string {
	return fmt.Sprintf("%d of %d", a.Retries+1, max(int(valueOr(s.Guarded.Spec.Guard.Retries, 0)), a.Retries)+1)
}
