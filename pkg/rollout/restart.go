package rollout

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// Every new ReplicaSet is a release, also one of a revision that is good: "kubectl rollout restart", the mark or the sidecar that a
// tool puts into the template. It is called a restart here. One that fails is undone: the Deployment gets the template of the
// ReplicaSet that was good again, with all that others had added to it by then.

// SetNumber, on a Deployment and its ReplicaSets, is where the Deployment controller numbers its ReplicaSets. The Deployment's is that
// of the current one: it tells that there is another one, and that none has to be looked for.
const SetNumber = "deployment.kubernetes.io/revision"

// setNumbersBefore, on a ReplicaSet, has the numbers that it had before: it became the current one again.
const setNumbersBefore = "deployment.kubernetes.io/revision-history"

// goodWith is the ReplicaSet that a revision was good with last.
type goodWith struct {
	// ReplicaSet is its uid, empty after an adoption: then its template tells which it is.
	ReplicaSet types.UID `json:"replicaSet,omitempty"`
	// Number is the one that the Deployment controller had given it by then.
	Number string `json:"number,omitempty"`
	// Template is a hash of its template, without pins.
	Template string `json:"template"`
}

// goodWith returns the ReplicaSet that the revision was good with, the zero value if that is not known.
func (r *Revision) goodWith() goodWith {
	var good goodWith
	if json.Unmarshal([]byte(r.Annotations[v1alpha1.GoodWithAnnotation]), &good) != nil {
		return goodWith{}
	}
	return good
}

// restartFailed reports whether the revision is good, and its last restart has failed.
func (r *Revision) restartFailed() bool { return r.Good() && r.Failure.ReplicaSet != "" }

// failedWith reports whether the restart that made the ReplicaSet of this name, empty for none, is the one that failed last.
func (r *Revision) failedWith(restart string) bool {
	return restart != "" && restart == r.Failure.ReplicaSet
}

// templateHash identifies a template that runs the revision, whatever of it is pinned.
func (r *Revision) templateHash(template *corev1.PodTemplateSpec) string {
	return hash(withoutHash(r.unpinned(template)))
}

// currentSet returns the ReplicaSet with the Deployment's template, nil if none was read.
func (s *state) currentSet() *appsv1.ReplicaSet {
	if s.Evidence == nil {
		return nil
	}
	return CurrentReplicaSet(s.Deployment, s.Evidence.ReplicaSets)
}

// goodSet returns the ReplicaSet that the revision was good with, nil if it is gone or was not read.
func (s *state) goodSet(r *Revision) *appsv1.ReplicaSet {
	good := r.goodWith()
	if s.Evidence == nil || good.Template == "" {
		return nil
	}
	for _, set := range s.Evidence.ReplicaSets {
		if set.UID == good.ReplicaSet || (good.ReplicaSet == "" && r.templateHash(&set.Spec.Template) == good.Template) {
			return set
		}
	}
	return nil
}

// goodTemplate returns the template that the revision was good with, all additions of others included; nil if its ReplicaSet is gone,
// or has not all that the revision states.
func (s *state) goodTemplate(r *Revision) *corev1.PodTemplateSpec {
	set := s.goodSet(r)
	if set == nil {
		return nil
	}
	template := withoutHash(r.unpinned(&set.Spec.Template))
	if !states(template, r.Template()) {
		return nil
	}
	return template
}

// isAsGood reports whether the Deployment has the template that the revision was good with, whatever of it is pinned.
func (s *state) isAsGood(r *Revision) bool {
	return r.templateHash(&s.Deployment.Spec.Template) == r.goodWith().Template
}

// asGood returns the revision with the verdict good, and with what the Deployment runs by: the ReplicaSet and, where pods were read,
// their images.
func (s *state) asGood(r *Revision) *appsv1.ControllerRevision {
	marked := withVerdict(r, nil)
	good := goodWith{Number: s.Deployment.Annotations[SetNumber], Template: r.templateHash(&s.Deployment.Spec.Template)}
	if current := s.currentSet(); current != nil {
		good.ReplicaSet, good.Number = current.UID, current.Annotations[SetNumber]
	}
	annotate(marked, v1alpha1.GoodWithAnnotation, good)
	delete(marked.Annotations, v1alpha1.ImagesAnnotation)
	if s.Evidence != nil {
		ready := slices.DeleteFunc(active(s.Evidence.Pods), func(p *corev1.Pod) bool { return !readyByOwnWord(p) }) // Others may be tolerated.
		if ran := imagesOf(ready, r.Template()); len(ran) > 0 {
			annotate(marked, v1alpha1.ImagesAnnotation, ran)
		}
	}
	return marked
}

// isRestart reports whether the current ReplicaSet is a restart of the revision, which was good. Pins make one that is none, and so does
// a rollback for which the good one is gone.
func (s *state) isRestart(r *Revision, current *appsv1.ReplicaSet) bool {
	good := r.goodWith()
	switch {
	case good.Template == "" || current.UID == good.ReplicaSet:
		return false
	case good.ReplicaSet == "" || s.isPinned() || s.goodSet(r) != nil:
		return r.templateHash(&current.Spec.Template) != good.Template
	default:
		return r == s.target
	}
}

// numberBefore returns the number of the ReplicaSet that the revision came up with before this process began: the present one where that is
// not known. With the template that was good, it is the good one, whatever its number is since: a rollback to it gave it another one.
func (s *state) numberBefore(r *Revision) string {
	good, now := r.goodWith(), s.Deployment.Annotations[SetNumber]
	if good.Number == "" || (good.Number != now && s.isAsGood(r)) {
		return now
	}
	return good.Number
}

// isRenumbered reports whether the Deployment has got another ReplicaSet since the revision came up, or did not.
func (p *Progress) isRenumbered(d *appsv1.Deployment) bool {
	return !p.UnderWay() && p.number != "" && d.Annotations[SetNumber] != p.number
}

// follow returns the progress of what the evidence shows to be the current ReplicaSet of a revision that was good: a restart has one
// of its own.
func (s *state) follow(p Progress, r *Revision) Progress {
	current := s.currentSet()
	if current == nil {
		return p
	}
	restart := ""
	if s.isRestart(r, current) {
		restart = current.Name
	}
	if restart != p.restart || (p.isRenumbered(s.Deployment) && current.Annotations[SetNumber] != p.number) {
		p = newProgress(r, s.Now, s.Now)
		p.restart, p.recorded = restart, current.CreationTimestamp
		if current.Annotations[setNumbersBefore] != "" { // What its earlier pods did is no evidence.
			p.began = progressing(s.Deployment).LastUpdateTime
		}
		if restart == "" && completedBefore(s.Deployment) {
			p.Phase = PhaseHealthy
		}
		if r.failedWith(restart) {
			p.Phase, p.Failure = PhaseFailed, r.Failure.Failure
		}
	}
	p.number = current.Annotations[SetNumber]
	return p
}

// judgeRestart says what becomes of a restart of a revision that was good, by its progress.
func (s *state) judgeRestart(d *Decision, r *Revision, progress Progress) report {
	switch {
	case progress.Phase == PhaseHealthy:
		s.markGood(d, r)
		d.Verdict = &Verdict{After: progress.Lasted()}
		return report{}
	case r.failedWith(progress.restart):
		return s.undoRestart(d, r)
	case progress.Phase == PhaseFailed:
		d.Verdict = &Verdict{Failure: progress.Failure.Reason, After: progress.Lasted()}
		failure := Failure{Attempt: r.Attempt, Failure: progress.Failure}
		failure.Revision, failure.ReplicaSet, failure.Time = r.Name, progress.restart, metav1.NewTime(s.Now)
		d.Mark = withVerdict(r, nil)
		annotate(d.Mark, v1alpha1.FailureAnnotation, failure)
		return report{}
	default:
		return underWay(progress, restarting+r.Name)
	}
}

// restarting is how it is told of a good revision that its new pods are watched.
const restarting = "restarting "

// undoRestart puts the template back that the revision was good with, unless that is not asked for, or cannot be.
func (s *state) undoRestart(d *Decision, r *Revision) report {
	stay := report{condition: v1alpha1.ConditionStalled, reason: v1alpha1.ReasonRestartFailed, message: failureSentence(&r.Failure.Failure)}
	switch contested := s.contested(d, d.Memory.correctedPath); {
	case s.Guarded.Spec.Guard.OnFailure == v1alpha1.Hold:
		stay.message += "; it is left as it is, as spec.guard.onFailure asks, until it is undone by hand or restarted again"
		return stay
	case d.Memory.Progress.final != "":
		stay.message += fmt.Sprintf("; %s, so it is left as it is: restart it again, or release another template", d.Memory.Progress.final)
		return stay
	case contested != nil: // Nothing is read for it.
		contested.message = stay.message + "; " + contested.message
		return *contested
	case s.Evidence == nil:
		d.NeedEvidence = true
		return report{}
	}
	if current := s.currentSet(); current == nil || current.Name != r.Failure.ReplicaSet { // Restarted again: that is the next attempt.
		d.Memory.Progress = newProgress(r, s.Now, s.Now)
		d.recheckIn(0)
		return underWay(d.Memory.Progress, restarting+r.Name)
	}
	template := s.goodTemplate(r)
	if template == nil {
		if d.Memory.Progress.final = "the ReplicaSet that was good is gone"; s.goodSet(r) != nil {
			d.Memory.Progress.final = "the ReplicaSet that was good differs from what the revision states, as a policy changes it for example"
		}
		return s.undoRestart(d, r)
	}
	keys := s.pinned()
	s.noteForReturn(keys, r, r.Failure.Images)
	pinned := r.pins(maps.Keys(keys))
	desired := desiredDeployment(s.Guarded, r, pinned)
	if busy := s.write(d, desired, additionIn(&s.Deployment.Spec.Template, template)); busy != nil {
		busy.message = stay.message + "; " + busy.message
		return *busy
	}
	pinned.in(template)
	d.Template, d.RollBack = template, true
	d.Memory.Progress = newProgress(r, s.Now, s.Now.Add(s.PollInterval))
	d.Memory.Progress.undone = failureSentence(&r.Failure.Failure)
	d.recheckIn(s.PollInterval)
	return s.undoing(r)
}

// undoneBy says how the restart failed that a write of this template undoes, empty if it undoes none.
func (p Progress) undoneBy(template *corev1.PodTemplateSpec) string {
	if template == nil {
		return ""
	}
	return p.undone
}

// undoing reports a restart that is being undone.
func (s *state) undoing(r *Revision) report {
	return report{condition: v1alpha1.ConditionReconciling, reason: v1alpha1.ReasonRestartFailed,
		message: failureSentence(&r.Failure.Failure) + "; it is undone: the Deployment goes back to the ReplicaSet that was good"}
}

// additionIn returns the path of what a template has got, or has lost, in comparison with the one that was good.
func additionIn(template, good *corev1.PodTemplateSpec) string {
	has, had := toUnstructured(template), toUnstructured(good)
	if path := difference("spec.template", has, had); path != "" {
		return path
	}
	return difference("spec.template", had, has)
}

// failureSentence says what failed, and why.
func failureSentence(f *v1alpha1.Failure) string {
	if f.ReplicaSet != "" {
		return fmt.Sprintf("the restart of %s failed: %s", f.Revision, f.Message)
	}
	return fmt.Sprintf("%s failed: %s", f.Revision, f.Message)
}
