package rollout

import (
	"fmt"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// state is what was observed, put in terms of the table.
type state struct {
	Observed
	history
	target       *Revision // the revision with the spec's template, nil if it is not recorded
	lastGood     *Revision // the newest good revision other than the target
	foreign      bool      // the Deployment is not ours
	taken        string    // why it may not be taken over either, empty if it may
	blockedWrite *report   // what to report instead, while something besides the template may not be written

	unrecordable error // why the spec's template can never be recorded
}

// A row of the table says what is done in a state. It applies only where none before it does.
type row struct {
	name    string
	applies func(*state) bool
	// act fills in what to write, and returns what to report if that is neither a revision nor a verdict.
	act func(*state, *Decision) report
}

// rows is the table of the package comment: the first row that applies is taken.
var rows = []row{
	{"live read", (*state).isUnread, (*state).read},
	{"name taken", (*state).isTaken, (*state).leaveAlone},
	{"adoption", (*state).isForeign, (*state).adopt},
	{"deletion", (*state).isEnding, (*state).awaitEnd},
	{"label", (*state).lacksLabel, (*state).label},
	{"pause", (*state).isPaused, (*state).pause},
	{"unrecordable", (*state).isUnrecordable, (*state).rejectTemplate},
	{"unknown", (*state).isUnknown, (*state).recordTarget},
	{"request", (*state).isOutnumbered, (*state).askAgain},
	{"retry", (*state).isRetryAsked, (*state).retryAsAsked},
	{"automatic retry", (*state).isRetryDue, (*state).retryByItself},
	{"unjudged", (*state).isUnjudged, (*state).rollOutTarget},
	{"good", (*state).isGood, (*state).maintainGoodTarget},
	{"rollback", (*state).mayRollBack, (*state).rollBack},
	{"hold", (*state).isLeft, (*state).holdFailedTarget},
}

// Rows returns the names of the rows, in their order.
func Rows() []string {
	var names []string
	for _, r := range rows {
		names = append(names, r.name)
	}
	return names
}

// Decide says what to do next; the package comment has the table. It is a function of what was observed.
func Decide(o Observed) Decision {
	if !o.Guarded.DeletionTimestamp.IsZero() {
		return Decision{}
	}
	s := newState(o)
	return s.decide(s.firstRow())
}

// decide returns the decision that a row leads to.
func (s *state) decide(r *row) Decision {
	d := Decision{Memory: s.Memory, row: r.name}
	if s.target != nil {
		d.Target = s.target.Name
	}
	report := r.act(s, &d)
	if d.NeedDeployment || d.NeedEvidence || d.NeedRevisions || d.NeedDetails.Any() || len(d.NeedObjects) > 0 {
		return Decision{NeedDeployment: d.NeedDeployment, NeedEvidence: d.NeedEvidence, NeedRevisions: d.NeedRevisions,
			NeedDetails: d.NeedDetails, NeedObjects: d.NeedObjects, Memory: s.Memory, row: d.row}
	}
	if write := d.Write(); write != "" && write != d.Memory.Refusal.Write {
		d.Memory.Refusal = Refusal{} // Another write is due now: the refusal was of a different one.
	}
	if d.Record != nil || d.Mark != nil {
		return d
	}
	if s.blockedWrite != nil {
		report = *s.blockedWrite
		if s.target.Failed() {
			report.message = s.failureMessage() + "; " + report.message
		}
	}
	s.tellMissing(&d, &report)
	s.prune(&d)
	s.tellOwed(&d)
	s.tellIgnored(&d)
	s.report(&d, report)
	if d.Status != nil && !s.Memory.confirmed {
		return s.confirm(d)
	}
	return d
}

// isReported reports whether anybody has written a status.
func isReported(guarded *v1alpha1.GuardedDeployment) bool { return len(guarded.Status.Conditions) > 0 }

// confirm returns the first decision of this process that reports anything. What another process has done just before may not be in the
// caches yet: if there was one that has reported on the object, they have to be confirmed.
func (s *state) confirm(d Decision) Decision {
	reported := isReported(s.Guarded)
	needs := Decision{Memory: s.Memory, row: d.row, Target: d.Target}
	needs.NeedDeployment = reported && s.Deployment != nil && !s.DeploymentLive
	needs.NeedTarget = reported && s.target != nil && !s.TargetLive && !s.RevisionsLive
	if needs.NeedDeployment || needs.NeedTarget {
		return needs
	}
	d.Memory.confirmed = true
	return d
}

func newState(o Observed) *state {
	o.Memory = o.recall()
	s := &state{Observed: o, history: newHistory(o.Guarded, o.Revisions, o.Memory.digests...)}
	s.Memory.digests = s.digests
	template := &o.Guarded.Spec.Template
	if s.Memory.asked.generation != o.Guarded.Generation {
		s.Memory.asked = asked{o.Guarded.Generation, meaningOf(template)}
	}
	s.target, s.unrecordable = s.findMeaning(s.Memory.asked.meaning, template)
	s.lastGood = s.newestGood(s.target)
	s.noteFailure()
	if s.foreign = o.Deployment != nil && !metav1.IsControlledBy(o.Deployment, o.Guarded); s.foreign {
		s.taken = s.whyTaken()
	}
	return s
}

// firstRow returns the first row of the table that applies. The last one always does.
func (s *state) firstRow() *row {
	return &rows[slices.IndexFunc(rows, func(r row) bool { return r.applies(s) })]
}

func (s *state) isUnread() bool       { return s.Deployment == nil && !s.DeploymentLive }
func (s *state) isTaken() bool        { return s.taken != "" }
func (s *state) isForeign() bool      { return s.foreign }
func (s *state) isEnding() bool       { return s.Deployment != nil && s.Deployment.DeletionTimestamp != nil }
func (s *state) lacksLabel() bool     { return s.unlabelled() != nil }
func (s *state) isPaused() bool       { return s.Guarded.Spec.Paused }
func (s *state) isUnrecordable() bool { return s.target == nil && s.unrecordable != nil }
func (s *state) isUnknown() bool      { return s.target == nil }
func (s *state) isOutnumbered() bool  { return s.target != nil && s.target.Revision < s.highest() }
func (s *state) isRetryAsked() bool   { return s.isFailed() && s.retryAsked() }
func (s *state) isRetryDue() bool     { return s.isFailed() && s.retryDue() }
func (s *state) isUnjudged() bool     { return s.target != nil && s.target.Unjudged() }
func (s *state) isGood() bool         { return s.target != nil && s.target.Good() }
func (s *state) isFailed() bool       { return s.target != nil && s.target.Failed() }
func (s *state) isLeft() bool         { return true }

func (s *state) mayRollBack() bool {
	return s.Guarded.Spec.Guard.OnFailure != v1alpha1.Hold && s.lastGood != nil
}

// read asks for a Deployment that the cache misses, before one is created.
func (s *state) read(d *Decision) report {
	d.NeedDeployment = true
	return report{}
}

func (s *state) awaitEnd(d *Decision) report {
	d.recheckIn(unwatchedRecheck)
	return report{condition: v1alpha1.ConditionReconciling, reason: v1alpha1.ReasonProgressing,
		message: "the Deployment is being deleted, and created again after that"}
}

func (s *state) label(d *Decision) report {
	return s.record(d, WithLabel(s.unlabelled().ControllerRevision))
}

func (s *state) rejectTemplate(*Decision) report {
	return report{condition: v1alpha1.ConditionStalled, reason: v1alpha1.ReasonInvalid, message: fmt.Sprintf(
		"spec.template has a value that cannot be written down so that it can be read again; change it (%v)", s.unrecordable)}
}

func (s *state) recordTarget(d *Decision) report {
	return s.record(d, newRevision(s.Guarded, &s.Guarded.Spec.Template, s.highest()+1))
}

// askAgain gives the target the highest number again: other revisions were asked for since.
func (s *state) askAgain(d *Decision) report {
	return s.record(d, withRequest(s.target, s.highest()+1, s.nextAttempt(s.target)))
}

func (s *state) retryAsAsked(d *Decision) report {
	return s.record(d, withRequest(s.target, s.target.Revision, s.nextAttempt(s.target)))
}

func (s *state) retryByItself(d *Decision) report {
	return s.record(d, withRequest(s.target, s.target.Revision, s.nextRetry()))
}

func (s *state) record(d *Decision, revision *appsv1.ControllerRevision) report {
	if refused := s.refusalInForce(d, writeOfRevision(revision)); refused != nil {
		return *refused
	}
	d.Record = revision
	return report{}
}

// runningName returns the name of the revision that the annotation of the Deployment names, empty if there is none.
func (s *state) runningName() string {
	if s.Deployment == nil || s.foreign {
		return ""
	}
	return s.Deployment.Annotations[v1alpha1.RevisionAnnotation]
}

// rollOutTarget runs the unjudged target until the judge knows.
func (s *state) rollOutTarget(d *Decision) report {
	doing := "rolling out " + s.target.Name
	if s.target.Attempt.Retries > 0 {
		doing += ", attempt " + s.attempts(s.target.Attempt)
	}
	if busy := s.run(d, s.target, doing); busy != nil {
		return *busy
	}
	if unjudged := s.notJudged(d); unjudged != nil {
		return *unjudged
	}
	if !s.target.Retrying && s.equalsAdoptedRevision() {
		d.Mark = s.asGood(s.target)
		return report{}
	}
	progress := s.watch(d, s.target, false)
	switch progress.Phase {
	case PhaseHealthy:
		s.markGood(d, s.target)
		d.Verdict = &Verdict{After: progress.Lasted()}
	case PhaseFailed:
		d.Verdict = &Verdict{Failure: progress.Failure.Reason, After: progress.Lasted()}
		failure := Failure{Attempt: s.target.Attempt, Failure: progress.Failure}
		failure.Token, failure.GoodAs = s.token(), 0
		failure.Revision, failure.Time = s.target.Name, metav1.NewTime(s.Now)
		d.Mark = withVerdict(s.target, &failure)
	}
	return underWay(progress, doing)
}

// markGood marks a revision good that has come up. When that could not be stored at once, it is looked at again what runs now.
func (s *state) markGood(d *Decision, r *Revision) {
	switch current := s.currentSet(); {
	case s.Evidence == nil:
		d.NeedEvidence = true
	case current == nil || current.Annotations[SetNumber] != d.Memory.Progress.number:
		d.Memory.Progress = newProgress(r, s.Now, s.Now)
		d.recheckIn(0)
	default:
		d.Mark = s.asGood(r)
	}
}

// maintainGoodTarget runs the target, which is good.
func (s *state) maintainGoodTarget(d *Decision) report {
	doing := "rolling out " + s.target.Name
	if busy := s.run(d, s.target, doing); busy != nil {
		return *busy
	}
	if unjudged := s.notJudged(d); unjudged != nil {
		return *unjudged
	}
	switch progress := s.watch(d, s.target, true); {
	case progress.restart != "":
		return s.judgeRestart(d, s.target, progress)
	case progress.Phase == PhaseHealthy:
		good := report{condition: v1alpha1.ConditionReady, reason: v1alpha1.ReasonRolledOut, message: s.target.Name + " is good and running" + s.pinnedWords()}
		if s.target.restartFailed() {
			good.message += "; " + failureSentence(&s.target.Failure.Failure) + "; what was good runs again"
		}
		return good
	case progress.undone != "" && progress.Phase == PhaseProgressing:
		return s.undoing(s.target)
	case progress.Phase == PhaseFailed:
		return report{condition: v1alpha1.ConditionStalled, reason: progress.Failure.Reason,
			message: fmt.Sprintf("%s was good, and does not come up: %s", s.target.Name, progress.Failure.Message)}
	default:
		return underWay(progress, doing)
	}
}

// untilAsked says what moves a release on that failed.
const untilAsked = "until the template changes or " + v1alpha1.RetryAnnotation + " asks for another attempt"

// rollBack runs the last good revision in place of the target, which failed, and stays there.
func (s *state) rollBack(d *Decision) report {
	s.awaitRetry(d)
	if s.Evidence == nil && s.Deployment != nil && s.runningName() != s.lastGood.Name && s.lastGood.goodWith() != (goodWith{}) {
		d.NeedEvidence = true // for the template that was good
		return report{}
	}
	doing := fmt.Sprintf("%s; rolling back to %s", s.failureMessage(), s.lastGood.Name)
	busy := s.run(d, s.lastGood, doing)
	d.RollBack = d.Deployment != nil && s.Deployment != nil && s.runningName() != s.lastGood.Name
	if busy != nil {
		return *busy
	}
	back := report{condition: v1alpha1.ConditionStalled, reason: v1alpha1.ReasonRolledBack,
		message: fmt.Sprintf("%s; the Deployment is back on %s%s%s, %s", s.failureMessage(), s.lastGood.Name, s.passedOver(), s.pinnedWords(), untilAsked)}
	if unjudged := s.notJudged(d); unjudged != nil && unjudged.reason == v1alpha1.ReasonPaused {
		return *unjudged
	} else if unjudged != nil {
		return back
	}
	switch progress := s.watch(d, s.lastGood, true); {
	case progress.restart != "":
		return s.judgeRestart(d, s.lastGood, progress)
	case progress.Phase == PhaseHealthy:
		return back
	case progress.Phase == PhaseFailed:
		return report{condition: v1alpha1.ConditionStalled, reason: v1alpha1.ReasonRollbackFailed,
			message: fmt.Sprintf("%s; %s, which was good, does not come up: %s; the Deployment stays on it, %s",
				s.failureMessage(), s.lastGood.Name+s.passedOver(), progress.Failure.Message, untilAsked)}
	default:
		return underWay(progress, doing)
	}
}

// holdFailedTarget leaves the Deployment on the template it has, the target's as a rule: that is asked for, or there is nothing to
// go back to. A target that comes up late is good after all.
func (s *state) holdFailedTarget(d *Decision) report {
	s.awaitRetry(d)
	running, left := s.heldRevision(), "as it is"
	if running != nil {
		left = "on " + running.Name
	}
	r := report{condition: v1alpha1.ConditionStalled, reason: v1alpha1.ReasonHeld, message: fmt.Sprintf(
		"%s; the Deployment is left %s, as spec.guard.onFailure asks, %s", s.failureMessage(), left, untilAsked)}
	if s.Guarded.Spec.Guard.OnFailure != v1alpha1.Hold {
		if d.Memory.noGood != s.target.Name && !s.RevisionsLive {
			d.NeedRevisions = true
			return r
		}
		d.Memory.noGood = s.target.Name
		r.reason = v1alpha1.ReasonNoGoodRevision
		r.message = fmt.Sprintf("%s; there is no good revision to go back to, so the Deployment is left %s, %s", s.failureMessage(), left, untilAsked)
		if len(s.invalid) > 0 {
			r.message += fmt.Sprintf(" (%s was changed by hand and is not used)", s.invalid[0])
		}
	}
	if running == nil {
		return r
	}
	if busy := s.run(d, running, r.message); busy != nil && busy.condition == v1alpha1.ConditionStalled {
		return *busy
	} else if busy != nil {
		return r
	}
	if running != s.target || s.notJudged(d) != nil {
		return r
	}
	if progress := s.watch(d, s.target, false); progress.Phase == PhaseHealthy {
		s.markGood(d, s.target)
		d.Verdict = &Verdict{After: progress.Lasted()}
	}
	return r
}

// heldRevision returns the revision that the Deployment is left on, nil if it is on none. Its annotation may have been changed by
// hand, so the template decides: the target or a good revision that the Deployment has in full. Where a policy has changed the
// template, what was last stated decides, and the revision that the annotation names where nothing else tells.
func (s *state) heldRevision() *Revision {
	if s.Deployment == nil {
		return s.target
	}
	var applied *Revision
	for _, r := range slices.Backward(s.revisions) {
		if r != s.target && !r.lastVerdictGood() {
			continue
		}
		desired := desiredDeployment(s.Guarded, r, nil)
		if carries(s.Deployment, desired) {
			return r
		}
		if applied == nil && s.appliedHash() == desired.Annotations[v1alpha1.AppliedAnnotation] {
			applied = r
		}
	}
	if applied != nil {
		return applied
	}
	return s.named(s.runningName())
}

// pause writes spec.paused, with the template that runs, and judges nothing.
func (s *state) pause(d *Decision) report {
	r := report{condition: v1alpha1.ConditionStalled, reason: v1alpha1.ReasonPaused, message: "spec.paused is set: nothing is rolled out or judged"}
	if s.Deployment == nil {
		return r
	}
	if busy := s.put(d, desiredPaused(s.Guarded)); busy != nil && busy.condition == v1alpha1.ConditionStalled {
		return *busy
	}
	s.resetTimers(d, &r)
	return r
}

// resetTimers ends the timers of a rollout that does not go on. A target that had come up before stays ready.
func (s *state) resetTimers(d *Decision, r *report) {
	progress := &d.Memory.Progress
	if s.target != nil && s.target.Good() && s.runningName() == s.target.Name {
		if (progress.isFor(s.target) && progress.Phase == PhaseHealthy) || (progress.Revision == "" && completedBefore(s.Deployment)) {
			r.condition = v1alpha1.ConditionReady
		}
	}
	if progress.Phase != PhaseHealthy {
		*progress = Progress{}
	}
}

// notJudged returns what to report if the Deployment is paused or has no replicas, nil if it is to be judged.
func (s *state) notJudged(d *Decision) *report {
	r := &report{condition: v1alpha1.ConditionReady, reason: v1alpha1.ReasonScaledToZero, message: "there are no replicas to judge " + s.runningName() + " by"}
	if s.lastGood != nil && s.target.Unjudged() {
		r.message += fmt.Sprintf("; a release that fails goes back to %s%s", s.lastGood.Name, s.passedOver())
	}
	switch {
	case s.Deployment.Spec.Paused && d.Deployment == nil: // Otherwise what is written ends it.
		r = &report{condition: v1alpha1.ConditionStalled, reason: v1alpha1.ReasonPaused, message: fmt.Sprintf(
			"the Deployment was paused by hand: nothing is judged until \"kubectl rollout resume deployment/%s\"", s.Guarded.Name)}
		s.resetTimers(d, r)
	case replicasAfter(d, s.Deployment) == 0:
		switch progress := d.Memory.Progress; {
		case progress.UnderWay():
			d.Memory.Progress = progress.stop()
		case progress.Phase == PhaseFailed:
			d.Memory.Progress = Progress{}
		}
	default:
		return nil
	}
	return r
}

// replicasAfter returns how many replicas the Deployment has when what was decided is written.
func replicasAfter(d *Decision, live *appsv1.Deployment) int32 {
	if d.Deployment != nil && d.Deployment.Spec.Replicas != nil {
		return *d.Deployment.Spec.Replicas
	}
	return valueOr(live.Spec.Replicas, 1)
}

// prune deletes what is over the limit, and never the target, the running or the last good revision.
func (s *state) prune(d *Decision) {
	if s.target == nil {
		return
	}
	running := s.named(s.runningName())
	if d.Deployment != nil {
		running = s.named(d.Deployment.Annotations[v1alpha1.RevisionAnnotation])
	}
	limit := int(valueOr(s.Guarded.Spec.RevisionHistoryLimit, defaultHistoryLimit))
	d.Prune = s.surplus(limit, s.target, s.lastGood, running, s.named(s.runningName()))
}

// tellOwed tells what could not be told when it was done.
func (s *state) tellOwed(d *Decision) {
	d.Events = append(d.Events, s.Memory.owed...)
	d.Memory.owed = nil
}

// tellIgnored tells once of every object that says it is ours and is not used.
func (s *state) tellIgnored(d *Decision) {
	var ignored, news []string
	for _, name := range s.invalid {
		ignored = append(ignored, "ControllerRevision "+name+" is not used: its name, its content and its owner do not fit")
	}
	for _, stray := range s.Strays {
		ignored = append(ignored, "Deployment "+stray+" names this GuardedDeployment as its controller, and is not guarded by it: "+
			"take its owner reference away, or it is deleted together with this GuardedDeployment")
	}
	for _, message := range ignored {
		if !slices.Contains(s.Memory.ignored, message) {
			news = append(news, message)
		}
	}
	if len(news) > 0 { // in one Event: of several that differ in their text alone, one would be kept
		d.Events = append(d.Events, Event{Type: Warning, Reason: v1alpha1.ReasonInvalid, Action: "Ignore", Message: Clean(strings.Join(news, "; "), MaxEvent)})
	}
	d.Memory.ignored = ignored
}
