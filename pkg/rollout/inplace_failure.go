package rollout

import (
	"fmt"
	"math"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// deadlineExceeded is the reason of a condition Progressing that is False, by which every tool knows that a release has failed.
const deadlineExceeded = "ProgressDeadlineExceeded"

// setUpdated is the reason of one that is True while a rollout goes on.
const setUpdated = "ReplicaSetUpdated"

const (
	// conditionPause is the least time between two writes of the condition: pods that come up raise the counts one by one.
	conditionPause = time.Second
	// restatePause is the least time between two writes of what others take away.
	restatePause = time.Minute
)

// fail stores how the release failed, and tells it in the Deployment's own words.
func (p *place) fail(d *InPlaceDecision, progress Progress) {
	f := progress.Failure
	attempt, _ := attemptAt(p.current)
	failure := &failedRelease{Set: p.current.Name, UID: string(p.current.UID), Number: numberOf(p.current), Attempt: attempt, Reason: f.Reason, Cause: f.Cause,
		Message: f.Message, Pod: f.Pod, Time: metav1.NewTime(p.Now)}
	failure.Token = p.token()
	for _, set := range p.sets {
		failure.Ready += p.Evidence.readyOf(set)
	}
	d.Status, d.Memory.failure = p.report(failure), failure
	d.Verdict, d.Cause = &Verdict{Failure: f.Reason, After: progress.Lasted()}, f.Cause
	d.tell(Warning, f.Reason, actionJudge, "%s", failure.sentence())
	if reason, why := p.whyLeft(failure); reason != "" {
		d.tell(Warning, reason, "Stay", "%s; %s, so the Deployment is left as it is, %s", failure.sentence(), why, untilAsked)
	}
}

// report returns the change of the status that tells of a failure.
func (p *place) report(failure *failedRelease) *StatusChange {
	return &StatusChange{Annotations: map[string]*string{v1alpha1.FailureAnnotation: new(encoded(failure))}, Progressing: p.verdictCondition(failure)}
}

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

// conditionWhileBack returns the condition to be there while the good release is back, nil if any will do. Under Recreate it only must not
// say that the rollout is complete, which it is not any more: once the deadline is over since then, the Deployment controller would look
// again and again whether it goes on, and write each time (k8s.io/kubernetes/pkg/controller/deployment, requeueStuckDeployment).
func (p *place) conditionWhileBack(failure *failedRelease) *appsv1.DeploymentCondition {
	c := p.verdictCondition(failure)
	if c == nil && cameUp(p.Deployment) && !p.isAtZero() && p.Deployment.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType {
		return p.condition(corev1.ConditionTrue, setUpdated, fmt.Sprintf("ReplicaSet %q is brought back.", p.good.Name))
	}
	return c
}

func (p *place) condition(status corev1.ConditionStatus, reason, message string) *appsv1.DeploymentCondition {
	before, now := progressing(p.Deployment), metav1.NewTime(p.Now)
	c := &appsv1.DeploymentCondition{Type: appsv1.DeploymentProgressing, Status: status, Reason: reason, Message: Clean(message, MaxEvent),
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
	is, c := progressing(p.Deployment), p.conditionWhileBack(&failedRelease{})
	return c != nil && is.Status != "" && (is.Status != c.Status || is.Reason != c.Reason)
}

// whyLeft returns the reason and the words for which a failed release is left as it is, empty if it is taken back.
func (p *place) whyLeft(failure *failedRelease) (reason, words string) {
	switch {
	case p.Guard.OnFailure == v1alpha1.Hold:
		return v1alpha1.ReasonHeld, "onFailure is Hold"
	case p.good == nil:
		return v1alpha1.ReasonNoGoodRevision, "there is no ReplicaSet that was good to go back to"
	case p.Observed:
		return v1alpha1.ReasonHeld, fmt.Sprintf("guarded, it would go back to %s, but releases are only observed", p.good.Name)
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
	reason, why := p.whyLeft(p.failure)
	if reason == v1alpha1.EventNotHeld && wasTakenBack(p.current) {
		p.noteAttempt(d, p.failure.Attempt)
		return
	}
	if d.Set = p.firstHold(); d.Set != nil {
		return
	}
	if p.restates(d) {
		return
	}
	if reason == v1alpha1.ReasonNoGoodRevision && p.Memory.State == v1alpha1.ReasonRolledBack {
		d.tell(Warning, reason, "Stay", "%s; %s any more, so the Deployment is left as it is, %s", p.failure.sentence(), why, untilAsked)
	}
	if reason == v1alpha1.EventNotHeld && p.tellOnce(d, reason, "Stay", "the API server does not keep a held ReplicaSet at its number: the policy for that is not there or "+
		"not in force (kubectl apply -k artifacts/in-place, from Kubernetes 1.36 on), so the failed release is left as it is, %s", untilAsked) {
		return
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
	if p.restates(d) {
		return
	}
	if d.Status = p.tellAgain(d); d.Status != nil {
		return // before anything is held: otherwise the Deployment controller would try again and again to scale up what is held
	}
	plan, inTransition := p.plan(p.failure.Ready)
	for _, s := range plan {
		if d.Set = p.change(s); d.Set != nil {
			d.Memory.holds = true
			if n, holds := d.Set.Hold(); holds && n == 0 && s.set == p.current {
				p.tellReturn(d)
			}
			return
		}
	}
	p.watchReturn(d, inTransition)
}

// tellReturn tells, once for each attempt that failed, that the release is taken back. It is written down with the hold: that may go, at
// zero replicas for example, and come again.
func (p *place) tellReturn(d *InPlaceDecision) {
	d.Memory.State = v1alpha1.ReasonRolledBack
	if wasTakenBack(p.current) {
		return
	}
	d.RollBack = true
	d.Set.Labels[v1alpha1.AttemptLabel] = attemptLabel(p.current, p.failure.Attempt, takenBack)
	d.tell(Warning, v1alpha1.ReasonRolledBack, "RollBack", "%s; the Deployment is back on %s, %s", p.failure.sentence(), p.good.Name, untilAsked)
}

// restates tells of the failure again that others have taken away, or waits for the time to: nothing moves while it is not stored. It
// returns false if it is there.
func (p *place) restates(d *InPlaceDecision) bool {
	if failureOf(p.Deployment, p.current) != nil {
		return false
	}
	if at := p.Memory.restated.Add(restatePause); p.Now.Before(at) {
		p.settle(d, p.Memory.State, at)
	} else {
		d.Memory.restated, d.Status = p.Now, p.report(p.failure)
	}
	return true
}

// tellAgain returns the condition that the Deployment controller has replaced, nil if it has not.
func (p *place) tellAgain(d *InPlaceDecision) *StatusChange {
	c, is := p.conditionWhileBack(p.failure), progressing(p.Deployment)
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

// watchReturn watches whether the good release comes up, until it is all there once. If it does not while pods of the failed one still serve
// for it, all is left to these again.
func (p *place) watchReturn(d *InPlaceDecision, inTransition bool) {
	if p.Memory.back && !inTransition {
		p.settle(d, v1alpha1.ReasonRolledBack, p.retryAt())
		return
	}
	r := asRevision(p.good)
	back := *p.Deployment
	back.Spec.Template = p.good.Spec.Template
	limits := p.limitsOfGood(r)
	if inTransition { // Meanwhile a new template has no room: that ends, whatever the Deployment says.
		limits.deadline = min(limits.deadline, defaultDeadline*time.Second)
	}
	if !p.watch(d, r, &back, p.Evidence.as(p.good), limits) {
		return
	}
	switch progress := d.Memory.Progress; {
	case progress.Phase == PhaseHealthy:
		d.Memory.back = true
		p.settle(d, v1alpha1.ReasonRolledBack, p.retryAt())
	case progress.Phase == PhaseFailed && inTransition:
		failure := *p.failure
		failure.GivenUp = fmt.Sprintf("%s, which was good, does not come up beside it: %s", r.Name, progress.Failure.Message)
		d.Status = p.report(&failure)
		d.tell(Warning, v1alpha1.ReasonRollbackFailed, "RollBack", "%s; %s; it is left as it is, %s", failure.sentence(), failure.GivenUp, untilAsked)
	case progress.Phase == PhaseFailed:
		if p.tellOnce(d, v1alpha1.ReasonRollbackFailed, "RollBack", "%s; %s, which was good, does not come up: %s; the Deployment stays on it, %s",
			p.failure.sentence(), r.Name, progress.Failure.Message, untilAsked) {
			return
		}
		p.settle(d, v1alpha1.ReasonRollbackFailed, p.retryAt())
	}
}

// tellOnce tells what became of the failed release, and stores with the failure that it is told: a process that is started later finds the
// same. It returns false if it was told before.
func (p *place) tellOnce(d *InPlaceDecision, reason, action, format string, args ...any) bool {
	if slices.Contains(p.failure.Told, reason) {
		return false
	}
	failure := *p.failure
	failure.Told = append(slices.Clip(failure.Told), reason)
	d.Status = &StatusChange{Annotations: map[string]*string{v1alpha1.FailureAnnotation: new(encoded(failure))}}
	d.tell(Warning, reason, action, format, args...)
	return true
}
