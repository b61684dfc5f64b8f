package rollout

import (
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// begin takes in a Deployment that was not guarded before. What is complete is good; of a rollout that is under way, what has served
// before it counts as good, and the rest is judged.
func (p *place) begin(d *InPlaceDecision) {
	if up := p.Deployment.Status.AvailableReplicas; rolloutComplete(p.Deployment) || (completedBefore(p.Deployment) && up > 0) {
		if p.markGood(d, p.current); p.Unlabelled {
			return // Nobody has asked for this one; there may be thousands.
		}
		d.tell(Normal, v1alpha1.ReasonRolledOut, "Guard", "%s runs and counts as good: a release that fails goes back to it%s", p.current.Name, p.historyWords())
		return
	}
	var before *appsv1.ReplicaSet
	for _, set := range p.sets {
		if set != p.current && set.Status.AvailableReplicas > 0 && (before == nil || numberOf(set) > numberOf(before)) {
			before = set
		}
	}
	if before == nil {
		d.Memory.met = true
		p.watchRelease(d)
		return
	}
	if p.markGood(d, before); p.Unlabelled {
		return
	}
	d.tell(Normal, v1alpha1.ReasonProgressing, "Guard", "%s was there before and counts as good: if %s fails, the Deployment goes back to it%s", before.Name, p.current.Name, p.historyWords())
}

// historyWords says that there will be nothing to go back to, if the Deployment keeps none.
func (p *place) historyWords() string {
	if valueOr(p.Deployment.Spec.RevisionHistoryLimit, defaultHistoryLimit) > 0 {
		return ""
	}
	return ", as long as it is there: spec.revisionHistoryLimit is 0, so it is deleted when the next release is complete, before that has soaked"
}

// markGood notes that the set is good, and which images its pods run.
func (p *place) markGood(d *InPlaceDecision, set *appsv1.ReplicaSet) {
	d.Set = &SetChange{Set: set, Labels: map[string]*string{v1alpha1.VerdictLabel: owned(set, v1alpha1.VerdictGood)}}
	if goodAs(set) != numberOf(set) {
		attempt, _ := attemptAt(set)
		d.Set.Labels[v1alpha1.AttemptLabel] = attemptLabel(set, attempt, "")
	}
	var up []*corev1.Pod
	for _, pod := range active(p.Evidence.podsOf(set)) {
		if readyByOwnWord(pod) {
			up = append(up, pod)
		}
	}
	if ran := imagesOf(up, &set.Spec.Template); len(ran) > 0 {
		d.Set.Annotations = map[string]*string{v1alpha1.ImagesAnnotation: new(encoded(setImages{string(set.UID), ran}))}
	}
}

// noteAttempt writes down that an attempt at the current set begins, or goes on as if it had not been taken back. With it ends what held
// the set.
func (p *place) noteAttempt(d *InPlaceDecision, attempt Attempt) {
	d.Set = &SetChange{Set: p.current, Labels: map[string]*string{v1alpha1.AttemptLabel: attemptLabel(p.current, attempt, ""), v1alpha1.HeldAtLabel: nil}}
}

// forget takes the word about a failure away that is not about the present attempt, nil if there is none. With it goes the condition, if the
// Deployment controller does not replace it: what it has not seen yet it may.
func (p *place) forget() *StatusChange {
	if _, there := p.Deployment.Annotations[v1alpha1.FailureAnnotation]; !there {
		return nil
	}
	change := &StatusChange{Annotations: map[string]*string{v1alpha1.FailureAnnotation: nil}}
	if c := progressing(p.Deployment); c.Status != corev1.ConditionFalse || c.Reason != deadlineExceeded || p.isGood() {
		return change
	}
	if p.Deployment.Status.ObservedGeneration < p.Deployment.Generation {
		return nil
	}
	change.Progressing = p.condition(corev1.ConditionTrue, setUpdated, fmt.Sprintf("ReplicaSet %q is tried again.", p.current.Name))
	if attempt, _ := attemptAt(p.current); !attempt.Since.IsZero() { // The Deployment controller's deadline begins then, by the cluster's clock.
		change.Progressing.LastUpdateTime = attempt.Since
	}
	return change
}

// keepGood lets a good release run, and ends what was held for another one.
func (p *place) keepGood(d *InPlaceDecision) {
	if d.Set = p.firstHold(); d.Set != nil {
		return
	}
	if d.Status = p.forget(); d.Status != nil {
		return
	}
	r := asRevision(p.current)
	if !completedBefore(p.Deployment) {
		p.watch(d, r, p.Deployment, p.Evidence, p.limitsOfGood(r))
	} else {
		d.Memory.Progress = Progress{Revision: r.Name, Attempt: r.Attempt.Number, Phase: PhaseHealthy}
	}
	switch progress := d.Memory.Progress; progress.Phase {
	case PhaseHealthy:
		if goodAs(p.current) != numberOf(p.current) {
			d.Memory.State = v1alpha1.ReasonProgressing
			p.markGood(d, p.current)
			return
		}
		p.settle(d, v1alpha1.ReasonRolledOut, time.Time{})
	case PhaseFailed:
		d.tell(Warning, progress.Failure.Reason, actionJudge, "%s was good, and does not come up: %s", r.Name, progress.Failure.Message)
		p.settle(d, v1alpha1.ReasonRolledOut, time.Time{})
	default:
		d.Memory.State = v1alpha1.ReasonProgressing
	}
}

func (p *place) token() string { return p.Deployment.Annotations[v1alpha1.RetryAnnotation] }

// isRetryAsked reports whether there is a token that was not there when the release failed.
func (p *place) isRetryAsked() bool {
	return p.failure != nil && p.token() != "" && p.token() != p.failure.Token
}

// retryAt returns when the failed release is tried again without being asked, zero if it is not.
func (p *place) retryAt() time.Time {
	if p.failure == nil || p.failure.Retries >= int(valueOr(p.Guard.Retries, 0)) {
		return time.Time{}
	}
	return p.Memory.failedAt.Add(retryDelay(p.failure.Retries))
}

// isRetryDue reports whether that is now. None is made before the good release is back, only then was it due at the last look, or while that
// has too few pods: it was at no replicas, for example.
func (p *place) isRetryDue() bool {
	at := p.retryAt()
	return !at.IsZero() && !p.Now.Before(at) && !p.Memory.due.IsZero() && p.hasRoomToRetry(p.Memory.State)
}

// hasRoomToRetry reports whether the good release, if it is back, has as many pods as it has to keep.
func (p *place) hasRoomToRetry(state string) bool {
	return state != v1alpha1.ReasonRolledBack || hasEnough(p.Deployment)
}

func (p *place) retryAsAsked(d *InPlaceDecision) {
	p.noteAttempt(d, Attempt{Number: p.failure.Attempt.Number + 1})
}

func (p *place) retryByItself(d *InPlaceDecision) {
	p.noteAttempt(d, Attempt{Number: p.failure.Attempt.Number + 1, Retries: p.failure.Retries + 1})
}

// watchRelease judges the release. Nothing is held for an earlier one meanwhile.
func (p *place) watchRelease(d *InPlaceDecision) {
	if d.Set = p.firstHold(); d.Set != nil {
		return
	}
	attempt, noted := attemptAt(p.current)
	if wasTakenBack(p.current) || (!noted && (p.isWithoutReturn() || p.current.Annotations[setNumbersBefore] != "")) {
		p.noteAttempt(d, attempt) // Otherwise its creation and the good one tell as much.
		if p.isWithoutReturn() {
			d.tell(Warning, v1alpha1.ReasonNoGoodRevision, "Guard", "if %s fails, there is nothing to go back to%s", p.current.Name, p.whyNoReturn())
		}
		return
	}
	if d.Status = p.forget(); d.Status != nil {
		return
	}
	r := asRevision(p.current)
	d.Memory.State = v1alpha1.ReasonProgressing
	if !p.watch(d, r, p.Deployment, p.Evidence, p.limits(r)) {
		return
	}
	switch progress := d.Memory.Progress; progress.Phase {
	case PhaseSoaking:
		if d.Memory.State = v1alpha1.ReasonSoaking; !noted && !p.keepsGood() {
			p.noteAttempt(d, attempt) // Up to now that it was not complete has told as much of the first release.
		}
	case PhaseBlocked:
		d.Memory.State = progress.WaitingReason
	case PhaseHealthy:
		p.markGood(d, p.current)
		d.Verdict = &Verdict{After: progress.Lasted()}
		d.tell(Normal, v1alpha1.ReasonRolledOut, "RollOut", "%s is good and running", r.Name)
	case PhaseFailed:
		p.fail(d, progress)
	}
}

// isWithoutReturn reports whether the release is not the first, and would have nothing to go back to when it fails in its soak.
func (p *place) isWithoutReturn() bool {
	return numberOf(p.current) > 1 && !p.keepsGood()
}

// keepsGood reports whether there is a good one, and it is still there when the release is complete: of the old ones the newest are kept.
func (p *place) keepsGood() bool {
	if p.good == nil {
		return false
	}
	var newer int32
	for _, set := range p.sets {
		if set != p.current && numberOf(set) > numberOf(p.good) {
			newer++
		}
	}
	return newer < valueOr(p.Deployment.Spec.RevisionHistoryLimit, defaultHistoryLimit)
}

func (p *place) whyNoReturn() string {
	if p.good != nil {
		return fmt.Sprintf(" once it is complete: spec.revisionHistoryLimit is %d, and %s is deleted then", valueOr(p.Deployment.Spec.RevisionHistoryLimit, defaultHistoryLimit), p.good.Name)
	}
	return ": no ReplicaSet that was good is there any more"
}

// limits returns what the release is judged by.
func (p *place) limits(r *Revision) limits {
	l := limitsOf(p.Guard, p.Deployment.Spec.ProgressDeadlineSeconds, false)
	l.inPlace = true // An annotation of a Deployment is copied to its ReplicaSets: it is no place for lines of a log.
	l.template = r.Template()
	if p.good != nil {
		l.was = asRevision(p.good)
		l.good = l.was.Template()
	}
	return l
}

// limitsOfGood returns what the return of a release is watched by that was good.
func (p *place) limitsOfGood(r *Revision) limits {
	l := limitsOf(p.Guard, p.Deployment.Spec.ProgressDeadlineSeconds, true)
	l.inPlace = true
	l.template, l.good, l.was = r.Template(), r.Template(), r
	return l
}

// watch goes on with the progress of a rollout to r. It returns false if more has to be read first.
func (p *place) watch(d *InPlaceDecision, r *Revision, deployment *appsv1.Deployment, evidence *Evidence, limits limits) bool {
	progress := d.Memory.Progress
	if !progress.isFor(r) || progress.Phase == PhaseHealthy {
		progress = newProgress(r, p.Now, p.Now)
	}
	next, details := progress.poll(deployment, evidence, limits, p.Now, p.PollInterval)
	if details.Any() {
		d.NeedDetails = details
		return false
	}
	next.hinted = rolloutComplete(deployment)
	d.recheckIn(next.pollAfter.Sub(p.Now))
	d.Memory.Progress = next
	return true
}
