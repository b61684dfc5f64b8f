package rollout

import (
	"fmt"
	"math"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// conditionPause is the least time between two writes of the condition: pods that come up raise the counts one by one.
const conditionPause = time.Second

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
		p.noteAttempt(d, Attempt{Number: 1})
		return
	}
	if p.markGood(d, before); p.Unlabelled {
		return
	}
	d.tell(Normal, v1alpha1.ReasonProgressing, "Guard", "%s was there before and counts as good: if %s fails, the Deployment goes back to it%s", before.Name, p.current.Name, p.historyWords())
}

// historyWords says that there will be nothing to go back to, if the Deployment keeps none.
func (p *place) historyWords() string {
	if !p.keepsNoHistory() {
		return ""
	}
	return ", as long as it is there: spec.revisionHistoryLimit is 0, so it is deleted when the next release is complete, before that has soaked"
}

func (p *place) keepsNoHistory() bool {
	return valueOr(p.Deployment.Spec.RevisionHistoryLimit, defaultHistoryLimit) == 0
}

// markGood notes that the set is good, and which images its pods run.
func (p *place) markGood(d *InPlaceDecision, set *appsv1.ReplicaSet) {
	d.Set = &SetChange{Set: set, Labels: map[string]*string{v1alpha1.VerdictLabel: owned(set, v1alpha1.VerdictGood)}}
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

// noteAttempt writes down that an attempt at the current set begins. With it ends what held the set.
func (p *place) noteAttempt(d *InPlaceDecision, attempt Attempt) {
	d.Set = &SetChange{Set: p.current, Labels: map[string]*string{v1alpha1.AttemptLabel: attemptLabel(p.current, attempt), v1alpha1.HeldAtLabel: nil}}
}

// forget takes the word about a failure away that is not about the present attempt, nil if there is none. With it goes the condition, if the
// Deployment controller has not replaced it.
func (p *place) forget() *StatusChange {
	if _, there := p.Deployment.Annotations[v1alpha1.FailureAnnotation]; !there {
		return nil
	}
	change := &StatusChange{Annotations: map[string]*string{v1alpha1.FailureAnnotation: nil}}
	if c := progressing(p.Deployment); c.Status == corev1.ConditionFalse && c.Reason == deadlineExceeded && !p.isGood() && p.Deployment.Status.ObservedGeneration >= p.Deployment.Generation {
		change.Progressing = p.condition(corev1.ConditionTrue, "ReplicaSetUpdated", fmt.Sprintf("ReplicaSet %q is tried again.", p.current.Name))
	}
	return change
}

// keepGood lets a good release run, and ends what was held for another one.
func (p *place) keepGood(d *InPlaceDecision) {
	if d.Set = firstHold(p.sets); d.Set != nil {
		return
	}
	if d.Status = p.forget(); d.Status != nil {
		return
	}
	r := asRevision(p.current)
	limits := limitsOf(p.Guard, p.Deployment.Spec.ProgressDeadlineSeconds, true)
	limits.template, limits.good, limits.was = &r.Template, &r.Template, r
	if !completedBefore(p.Deployment) {
		p.watch(d, r, p.Deployment, p.Evidence, limits)
	} else {
		d.Memory.Progress = Progress{Revision: r.Name, Attempt: r.Attempt.Number, Phase: PhaseHealthy}
	}
	switch progress := d.Memory.Progress; progress.Phase {
	case PhaseHealthy:
		p.settle(d, v1alpha1.ReasonRolledOut, time.Time{})
	case PhaseFailed:
		d.tell(Warning, progress.Failure.Reason, "Judge", "%s was good, and does not come up: %s", r.Name, progress.Failure.Message)
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
	return p.failure.Time.Add(retryDelay(p.failure.Retries))
}

// isRetryDue reports whether that is now. None is made before the good release is back.
func (p *place) isRetryDue() bool {
	at := p.retryAt()
	return !at.IsZero() && !p.Now.Before(at) && !p.Memory.due.IsZero()
}

func (p *place) retryAsAsked(d *InPlaceDecision) {
	p.noteAttempt(d, Attempt{Number: p.failure.Attempt.Number + 1})
}

func (p *place) retryByItself(d *InPlaceDecision) {
	p.noteAttempt(d, Attempt{Number: p.failure.Attempt.Number + 1, Retries: p.failure.Retries + 1})
}

// watchRelease judges the release. Nothing is held for an earlier one meanwhile.
func (p *place) watchRelease(d *InPlaceDecision) {
	if d.Set = firstHold(p.sets); d.Set != nil {
		return
	}
	if attempt, noted := attemptAt(p.current); !noted && (!p.keepsGood() || p.current.Annotations[setNumbersBefore] != "") {
		p.noteAttempt(d, attempt) // Otherwise its creation and the good one tell as much.
		return
	}
	if d.Status = p.forget(); d.Status != nil {
		return
	}
	r := asRevision(p.current)
	if p.Memory.State == "" && p.isWithoutReturn() {
		d.tell(Warning, v1alpha1.ReasonNoGoodRevision, "Guard", "if %s fails, there is nothing to go back to%s", r.Name, p.whyNoReturn())
	}
	d.Memory.State = v1alpha1.ReasonProgressing
	if !p.watch(d, r, p.Deployment, p.Evidence, p.limits(r)) {
		return
	}
	switch progress := d.Memory.Progress; progress.Phase {
	case PhaseSoaking:
		d.Memory.State = v1alpha1.ReasonSoaking
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
	return len(p.sets) > 1 && !p.keepsGood()
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

// fail stores how the release failed, and tells it in the Deployment's own words.
func (p *place) fail(d *InPlaceDecision, progress Progress) {
	f := progress.Failure
	attempt, _ := attemptAt(p.current)
	failure := &failedRelease{Set: p.current.Name, Number: numberOf(p.current), Attempt: attempt, Reason: f.Reason, Cause: f.Cause,
		Message: f.Message, Pod: f.Pod, Time: metav1.NewTime(p.Now)}
	failure.Token = p.token()
	for _, set := range p.sets {
		failure.Ready += p.Evidence.readyOf(set)
	}
	d.Status = p.report(failure)
	d.Verdict, d.Cause = &Verdict{Failure: f.Reason, After: progress.Lasted()}, f.Cause
	d.tell(Warning, f.Reason, "Judge", "%s", failure.sentence())
	if reason, why := p.whyLeft(failure); reason != "" {
		d.tell(Warning, reason, "Stay", "%s; %s, so the Deployment is left as it is, %s", failure.sentence(), why, untilAsked)
	}
}

// report returns the change of the status that tells of a failure.
func (p *place) report(failure *failedRelease) *StatusChange {
	return &StatusChange{Annotations: map[string]*string{v1alpha1.FailureAnnotation: new(encoded(failure))}, Progressing: p.verdictCondition(failure)}
}

const deadlineExceeded = "ProgressDeadlineExceeded"

// verdictCondition returns the condition that tells of the failure to whoever waits, nil where it would not last or would mislead:
// without a deadline the Deployment controller takes it away, at zero replicas it calls the rollout complete each time, and under
// Recreate the next release would show it on its own generation.
func (p *place) verdictCondition(failure *failedRelease) *appsv1.DeploymentCondition {
	deadline := p.Deployment.Spec.ProgressDeadlineSeconds
	if deadline == nil || *deadline == math.MaxInt32 || p.isAtZero() || p.Deployment.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType {
		return nil
	}
	return p.condition(corev1.ConditionFalse, deadlineExceeded, failure.sentence())
}

func (p *place) condition(status corev1.ConditionStatus, reason, message string) *appsv1.DeploymentCondition {
	before, now := progressing(p.Deployment), metav1.NewTime(p.Now)
	c := &appsv1.DeploymentCondition{Type: appsv1.DeploymentProgressing, Status: status, Reason: reason, Message: Clean(message, maxEvent),
		LastUpdateTime: now, LastTransitionTime: now}
	if before.Status == status {
		c.LastTransitionTime = before.LastTransitionTime
	}
	return c
}

// isOverruled reports whether the condition that told of the failure is another one by now: it becomes True whenever a count rises.
func (p *place) isOverruled() bool {
	if p.Memory.State != v1alpha1.ReasonRolledBack {
		return false
	}
	c := progressing(p.Deployment)
	return c.Status != "" && (c.Status != corev1.ConditionFalse || c.Reason != deadlineExceeded) && p.verdictCondition(&failedRelease{}) != nil
}

// whyLeft returns the reason and the words for which a failed release is left as it is, empty if it is taken back.
func (p *place) whyLeft(failure *failedRelease) (reason, words string) {
	switch {
	case p.Observed:
		return v1alpha1.ReasonHeld, "its releases are only observed"
	case p.Guard.OnFailure == v1alpha1.Hold:
		return v1alpha1.ReasonHeld, "onFailure is Hold"
	case p.good == nil:
		return v1alpha1.ReasonNoGoodRevision, "there is no ReplicaSet that was good to go back to"
	case failure.GivenUp != "":
		return v1alpha1.ReasonRollbackFailed, failure.GivenUp
	case p.Memory.unheld == p.at():
		return v1alpha1.EventNotHeld, "the API server does not hold it back"
	default:
		return "", ""
	}
}

func (p *place) isLeft() bool {
	reason, _ := p.whyLeft(p.failure)
	return reason != ""
}

// leave leaves a failed release as it is. One that comes up late is good after all.
func (p *place) leave(d *InPlaceDecision) {
	if d.Set = firstHold(p.sets); d.Set != nil {
		return
	}
	reason, why := p.whyLeft(p.failure)
	if reason == v1alpha1.ReasonNoGoodRevision && p.Memory.State == v1alpha1.ReasonRolledBack {
		d.tell(Warning, reason, "Stay", "%s; %s any more, so the Deployment is left as it is, %s", p.failure.sentence(), why, untilAsked)
	}
	r := asRevision(p.current)
	if rolloutComplete(p.Deployment) {
		if !p.watch(d, r, p.Deployment, p.Evidence, p.limits(r)) {
			return
		}
		if progress := d.Memory.Progress; progress.Phase == PhaseHealthy {
			p.markGood(d, p.current)
			d.Verdict = &Verdict{After: progress.Lasted()}
			d.tell(Normal, v1alpha1.ReasonRolledOut, "RollOut", "%s is good after all, and running", r.Name)
			return
		}
		d.Memory.State = reason
		return
	}
	p.settle(d, reason, p.retryAt())
}

// rollBack sees to it that the good release has the replicas, one step after the other, and then that it comes up.
func (p *place) rollBack(d *InPlaceDecision) {
	if d.Status = p.tellAgain(d); d.Status != nil {
		return // before anything is held: otherwise the Deployment controller would try again and again to scale up what is held
	}
	plan, inTransition := p.plan(p.failure.Ready)
	for _, s := range plan {
		if d.Set = p.change(s); d.Set != nil {
			d.Memory.holds = true
			if n, holds := d.Set.Hold(); holds && n == 0 && s.set == p.current && d.Memory.State != v1alpha1.ReasonRolledBack {
				d.Memory.State, d.RollBack = v1alpha1.ReasonRolledBack, true
				d.tell(Warning, v1alpha1.ReasonRolledBack, "RollBack", "%s; the Deployment is back on %s, %s", p.failure.sentence(), p.good.Name, untilAsked)
			}
			return
		}
	}
	p.watchReturn(d, inTransition)
}

// tellAgain returns the condition that the Deployment controller has replaced, nil if it has not.
func (p *place) tellAgain(d *InPlaceDecision) *StatusChange {
	c, is := p.verdictCondition(p.failure), progressing(p.Deployment)
	if c == nil || (is.Status == c.Status && is.Reason == c.Reason && is.Message == c.Message) {
		return nil
	}
	if wait := p.Memory.toldAt.Add(conditionPause).Sub(p.Now); wait > 0 {
		d.recheckIn(wait)
		return nil
	}
	d.Memory.toldAt = p.Now
	return &StatusChange{Progressing: c}
}

// watchReturn watches whether the good release comes up. If it does not while pods of the failed one still serve for it, all is left to
// these again.
func (p *place) watchReturn(d *InPlaceDecision, inTransition bool) {
	r := asRevision(p.good)
	limits := limitsOf(p.Guard, p.Deployment.Spec.ProgressDeadlineSeconds, true)
	limits.template, limits.good, limits.was = &r.Template, &r.Template, r
	back := *p.Deployment
	back.Spec.Template = p.good.Spec.Template
	if !p.watch(d, r, &back, p.Evidence.as(p.good), limits) {
		return
	}
	switch progress := d.Memory.Progress; {
	case progress.Phase == PhaseHealthy:
		p.settle(d, v1alpha1.ReasonRolledBack, p.retryAt())
	case progress.Phase == PhaseFailed && inTransition:
		failure := *p.failure
		failure.GivenUp = fmt.Sprintf("%s, which was good, does not come up beside it: %s", r.Name, progress.Failure.Message)
		d.Status = p.report(&failure)
		d.tell(Warning, v1alpha1.ReasonRollbackFailed, "RollBack", "%s; %s; it is left as it is, %s", failure.sentence(), failure.GivenUp, untilAsked)
	case progress.Phase == PhaseFailed:
		if p.Memory.State != v1alpha1.ReasonRollbackFailed {
			d.tell(Warning, v1alpha1.ReasonRollbackFailed, "RollBack", "%s; %s, which was good, does not come up: %s; the Deployment stays on it, %s",
				p.failure.sentence(), r.Name, progress.Failure.Message, untilAsked)
		}
		p.settle(d, v1alpha1.ReasonRollbackFailed, p.retryAt())
	}
}

// limits returns what the release is judged by.
func (p *place) limits(r *Revision) limits {
	l := limitsOf(p.Guard, p.Deployment.Spec.ProgressDeadlineSeconds, false)
	l.log, l.logless = false, true // An annotation of a Deployment is copied to its ReplicaSets: it is no place for lines of a log.
	l.template, l.pinned = &r.Template, false
	if p.good != nil {
		l.was = asRevision(p.good)
		l.good = &l.was.Template
	}
	return l
}

// watch goes on with the progress of a rollout to r. It returns false if more has to be read first.
func (p *place) watch(d *InPlaceDecision, r *Revision, deployment *appsv1.Deployment, evidence *Evidence, limits limits) bool {
	progress := d.Memory.Progress
	if !progress.isFor(r) || progress.Phase == PhaseHealthy {
		progress = newProgress(r, p.Now, p.Now)
	}
	next, questions := progress.poll(deployment, evidence, limits, p.Now, p.PollInterval)
	if questions.any() {
		d.NeedEvents, d.NeedNodes, d.NeedLog = questions.events, questions.nodes, questions.log
		return false
	}
	next.hinted = rolloutComplete(deployment)
	d.recheckIn(next.pollAfter.Sub(p.Now))
	d.Memory.Progress = next
	return true
}
