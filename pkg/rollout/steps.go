package rollout

import (
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/types"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

const (
	// freeCorrections is how often somebody else's change is put back at once: people do that a few times, loops without end.
	freeCorrections = 5
	// correctionPause is how long after that the next correction takes: at most six more in an hour.
	correctionPause = 10 * time.Minute
	// correctionsForgotten is how long without a correction forgives the earlier ones.
	correctionsForgotten = time.Hour
	// appliedPath is where the Deployment has the hash of what was last desired of it.
	appliedPath = "metadata.annotations[" + v1alpha1.AppliedAnnotation + "]"
	// ownersPath is where the Deployment says whose it is.
	ownersPath = "metadata.ownerReferences"
)

// run sees to it that the Deployment carries the revision. It returns what to report while it does not, nil when it
// does. Writing the template begins a rollout.
func (s *state) run(d *Decision, r *Revision, doing string) *report {
	moving, pinned := s.runningName() != r.Name, s.pinsFor(r)
	carried := s.carriedBy(r, pinned)
	if carried != nil && *carried == s.Memory.carried {
		return nil
	}
	desired := desiredDeployment(s.Guarded, r, pinned)
	busy := s.put(d, desired)
	if busy != nil && s.Deployment != nil && carries(s.Deployment, desired) {
		s.blockedWrite, busy = busy, nil // The revision runs, whatever else is refused or contested: it is judged.
	}
	if busy != nil {
		busy.message = doing + ": " + busy.message
		return busy
	}
	if d.Deployment == nil {
		if s.blockedWrite == nil {
			d.Memory.carried = *carried
		}
		return nil
	}
	if moving && r.lastVerdictGood() {
		if d.Template = s.goodTemplate(r); d.Template != nil {
			pinned.in(d.Template)
		}
	}
	began := moving || s.overwritesForeignTemplate(desired)
	if !began && r.Good() {
		d.Memory.Progress = s.progressOf(d.Memory.Progress, r, true)
	}
	if began || !d.Memory.Progress.isFor(r) {
		d.Memory.Progress = newProgress(r, s.Now, s.Now.Add(s.PollInterval))
	}
	d.recheckIn(s.PollInterval)
	if progress := d.Memory.Progress; r.Good() && (progress.Phase == PhaseHealthy || r.failedWith(progress.restart)) {
		return nil // What is up stays up while replicas, for example, are written, and a restart that failed has failed.
	}
	begun := underWay(d.Memory.Progress, doing)
	return &begun
}

// carried is what tells that a Deployment is as it was when it was compared with what is desired of it, and nothing had to be written: as
// long as it is the same, there is nothing to compare. A value that is only written otherwise, 1024 for 1Ki, raises no generation.
type carried struct {
	guarded    int64     // its generation
	deployment types.UID // and its generation
	generation int64
	revision   string // which follows from its template
	pinned     string
	metadata   [4]string // of the Deployment, as far as it is Belay's
	accepted   string    // Memory.accepted
}

// carriedBy returns what it is now for the revision with these pins, nil if there is no Deployment.
func (s *state) carriedBy(r *Revision, pinned pins) *carried {
	if s.Deployment == nil {
		return nil
	}
	labels, annotations := s.Deployment.Labels, s.Deployment.Annotations
	return &carried{
		guarded:    s.Guarded.Generation,
		deployment: s.Deployment.UID,
		generation: s.Deployment.Generation,
		revision:   r.Name,
		pinned:     pinned.references(),
		metadata: [...]string{labels[v1alpha1.GuardedLabel], annotations[v1alpha1.RevisionAnnotation], annotations[v1alpha1.AppliedAnnotation],
			annotations[v1alpha1.PinnedAnnotation]},
		accepted: s.Memory.accepted,
	}
}

// overwritesForeignTemplate reports whether writing desired puts its template in the place of another one, what somebody else wrote for
// example. What a policy made of our own last write is nobody else's.
func (s *state) overwritesForeignTemplate(desired *appsv1.Deployment) bool {
	return !states(&s.Deployment.Spec.Template, &desired.Spec.Template) && fingerprint(desired, s.Deployment) != s.Memory.accepted
}

// put asks for desired to be written, unless the Deployment has it already. It returns what to report if it may not be
// written now.
func (s *state) put(d *Decision, desired *appsv1.Deployment) *report {
	changed := ""
	applied := desired.Annotations[v1alpha1.AppliedAnnotation]
	switch {
	case s.foreign && s.Memory.applied != "":
		changed = ownersPath // It was ours, and is taken over again.
	case s.appliedHash() == applied && !s.foreign:
		changed = drift(desired, s.Deployment)
		if changed == "" || fingerprint(desired, s.Deployment) == s.Memory.accepted {
			return nil
		}
	case s.Deployment != nil && applied == s.Memory.applied:
		changed = appliedPath // Otherwise whoever changes it, again and again, would be fought without limit.
	}
	return s.write(d, desired, changed)
}

// write asks for desired to be written, which puts changed back, if that is not empty. It returns what to report if that may not be
// done now.
func (s *state) write(d *Decision, desired *appsv1.Deployment, changed string) *report {
	if refused := s.refusalInForce(d, writeOfDeployment(desired)); refused != nil {
		return refused
	}
	if changed != "" {
		if contested := s.correct(d, changed); contested != nil {
			return contested
		}
	}
	d.Deployment = desired
	d.Memory.applied = desired.Annotations[v1alpha1.AppliedAnnotation]
	return nil
}

// appliedHash returns the hash of what was last desired of the Deployment, as the Deployment has it.
func (s *state) appliedHash() string {
	if s.Deployment == nil {
		return ""
	}
	return s.Deployment.Annotations[v1alpha1.AppliedAnnotation]
}

// correct allows for putting back what somebody else changed, or says why not now.
func (s *state) correct(d *Decision, changed string) *report {
	memory := &d.Memory
	if s.Now.Sub(memory.corrected) >= correctionsForgotten {
		memory.corrections = 0
	}
	if changed != memory.correctedPath {
		memory.rival = ""
	}
	if contested := s.contested(d, changed); contested != nil {
		return contested
	}
	memory.corrections++
	memory.corrected, memory.correctedPath = s.Now, changed
	d.Correction = changed
	return nil
}

// contested returns what to report while it is too early to put back once more what somebody else changes, nil if it is not.
func (s *state) contested(d *Decision, changed string) *report {
	memory := d.Memory
	wait := memory.corrected.Add(correctionPause).Sub(s.Now)
	if memory.corrections < freeCorrections || wait <= 0 {
		return nil
	}
	d.recheckIn(wait)
	return &report{condition: v1alpha1.ConditionStalled, reason: v1alpha1.ReasonContested, message: fmt.Sprintf(
		"%s keeps changing %s of the Deployment; it is put back every %d minutes", somebody(memory.rival), changed, correctionPause/time.Minute)}
}

// watch looks after the rollout to the revision that the Deployment carries, and returns its progress. knownGood says
// that the revision was good before.
func (s *state) watch(d *Decision, r *Revision, knownGood bool) Progress {
	progress := s.progressOf(d.Memory.Progress, r, knownGood)
	renumbered := knownGood && progress.isRenumbered(s.Deployment)
	hint := rolloutComplete(s.Deployment)
	waiting := progress.Phase == PhaseFailed && !hint && !renumbered
	switch next := progress.nextPoll(hint); {
	case (progress.Phase == PhaseHealthy && !renumbered) || waiting:
	case s.Now.Before(next):
		d.recheckIn(next.Sub(s.Now))
	case s.Evidence == nil:
		d.NeedEvidence = true
	default:
		if knownGood {
			progress = s.follow(progress, r)
		}
		if progress.Phase == PhaseHealthy || (r.failedWith(progress.restart) && !hint) {
			break
		}
		if d.NeedObjects = s.askForObjects(d, r); len(d.NeedObjects) > 0 {
			return progress
		}
		next, details := progress.poll(s.Deployment, s.Evidence, s.limits(r, knownGood, progress.restart), s.Now, s.PollInterval)
		if details.Any() {
			d.NeedDetails = details
			return progress
		}
		progress = next
		progress.hinted = hint
		d.recheckIn(progress.pollAfter.Sub(s.Now))
	}
	progress.wasGood = knownGood
	d.Memory.Progress = progress
	return progress
}

// progressOf returns the progress of the rollout to the revision that the Deployment carries: the remembered one or, of what nobody
// watched in this process, what the Deployment controller says.
func (s *state) progressOf(remembered Progress, r *Revision, knownGood bool) Progress {
	if remembered.isFor(r) && !(knownGood && s.failedUnknown(remembered, r)) {
		return remembered
	}
	progress := newProgress(r, s.Now, s.Now)
	switch {
	case r.Failed():
		progress.Phase = PhaseFailed
	case knownGood && (completedBefore(s.Deployment) || s.isReportedUp(r)) && !s.mayRunMoved(r):
		progress.Phase, progress.number = PhaseHealthy, s.numberBefore(r)
	}
	return progress
}

// failedUnknown reports whether the failure was found before the revision was known to be good, and with another ReplicaSet than the one that
// another process found good: it may be that of a restart.
func (s *state) failedUnknown(p Progress, r *Revision) bool {
	return p.Phase == PhaseFailed && !p.wasGood && s.numberBefore(r) != s.Deployment.Annotations[SetNumber]
}

// limits returns what a rollout to the revision is judged by. One that was good before would have to go back to itself; a
// restart of it is judged like a release.
func (s *state) limits(r *Revision, knownGood bool, restart string) limits {
	limits := limitsOf(&s.Guarded.Spec.Guard, s.Guarded.Spec.ProgressDeadlineSeconds, knownGood && restart == "")
	limits.template = r.Template()
	limits.log = limits.log && !r.Failed() && !r.failedWith(restart) // It has been read, at the verdict.
	switch {
	case restart != "":
		limits.template, limits.good, limits.was = &s.Deployment.Spec.Template, s.goodTemplate(r), r
	case knownGood:
		limits.good, limits.was = r.Template(), r
	case s.lastGood != nil:
		limits.good, limits.was = s.lastGood.Template(), s.lastGood
	}
	return limits
}

// rolloutComplete reports whether the Deployment controller says that every pod is new and available: a hint to poll.
func rolloutComplete(d *appsv1.Deployment) bool {
	wanted := valueOr(d.Spec.Replicas, 1)
	return allUpdated(d) && d.Status.AvailableReplicas >= wanted
}

// completedBefore reports whether the Deployment controller says that the rollout to its template was completed at some time: pods
// may have been lost since. A completion that it reports of another template is told by the counts.
//
// While replicas are added to one that had come up, it has too few pods, and none of another template.
func completedBefore(d *appsv1.Deployment) bool {
	return (stands(d) && onlyUpdated(d)) || rolloutComplete(d)
}

// isReportedUp reports whether the status says that the revision has come up, as what is asked for or in its place, and the Deployment
// controller has not seen yet what has changed since: replicas, as a rule. Another ReplicaSet will show by its number.
func (s *state) isReportedUp(r *Revision) bool {
	status := &s.Guarded.Status
	ready := meta.FindStatusCondition(status.Conditions, v1alpha1.ConditionReady)
	return ready != nil && (ready.Reason == v1alpha1.ReasonRolledOut || ready.Reason == v1alpha1.ReasonRolledBack) && s.target != nil &&
		status.TargetRevision == s.target.Name && status.RunningRevision == r.Name && cameUp(s.Deployment) &&
		s.Deployment.Status.ObservedGeneration < s.Deployment.Generation
}

// onlyUpdated reports whether the Deployment controller says that there are pods of the template, and none of others.
func onlyUpdated(d *appsv1.Deployment) bool {
	status := d.Status
	return status.ObservedGeneration >= d.Generation && status.Replicas == status.UpdatedReplicas &&
		(status.UpdatedReplicas > 0 || valueOr(d.Spec.Replicas, 1) == 0)
}

// cameUp reports whether the Deployment controller says that a ReplicaSet came up. It says so until it makes another one.
func cameUp(d *appsv1.Deployment) bool { return progressing(d).Reason == "NewReplicaSetAvailable" }

// progressing returns the Deployment controller's word on the rollout, the zero value if it has not said any.
func progressing(d *appsv1.Deployment) appsv1.DeploymentCondition {
	for _, condition := range d.Status.Conditions {
		if condition.Type == appsv1.DeploymentProgressing {
			return condition
		}
	}
	return appsv1.DeploymentCondition{}
}

func allUpdated(d *appsv1.Deployment) bool {
	return onlyUpdated(d) && d.Status.UpdatedReplicas >= valueOr(d.Spec.Replicas, 1)
}

// refusalInForce returns what to report if the API server refused this very write, asked for by this very spec, and it is not yet
// time to try again.
func (s *state) refusalInForce(d *Decision, write string) *report {
	refusal := s.Memory.Refusal
	if refusal.Write != write || refusal.Generation != s.Guarded.Generation || !s.Now.Before(refusal.Until) {
		return nil
	}
	d.recheckIn(refusal.Until.Sub(s.Now))
	return &report{condition: v1alpha1.ConditionStalled, reason: refusal.Reason, message: refusal.Message}
}
