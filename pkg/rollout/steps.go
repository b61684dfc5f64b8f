package rollout

import (
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

const (
	// freeCorrections is how often somebody else's change is put back at once.
	freeCorrections = 5
	// correctionPause is how long after that the next correction takes.
	correctionPause = 10 * time.Minute
	// correctionsForgotten is how long without a correction forgives the earlier ones.
	correctionsForgotten = time.Hour
	// appliedPath is where the Deployment has the hash of what was last stated about it.
	appliedPath = "metadata.annotations[" + v1alpha1.AppliedAnnotation + "]"
	// ownersPath is where the Deployment says whose it is.
	ownersPath = "metadata.ownerReferences"
)

// run sees to it that the Deployment carries the revision. It returns what to report while it does not, nil when it
// does. Writing the template begins a move.
func (s *state) run(d *Decision, r *Revision, doing string) *report {
	moving := s.runs() != r.Name
	wanted := stated(s.Guarded, r)
	busy := s.put(d, wanted)
	if busy != nil && s.Deployment != nil && carries(s.Deployment, wanted) {
		s.besides, busy = busy, nil // The revision runs, whatever else is refused or contested: it is judged.
	}
	if busy != nil {
		busy.message = doing + ": " + busy.message
		return busy
	}
	if d.Deployment == nil {
		return nil
	}
	if moving || s.replaces(wanted, r) || !d.Memory.Move.to(r) {
		d.Memory.Move = newMove(r, s.Now, s.Now.Add(s.LookEvery))
		d.Memory.Move.Fresh = moving && r.Unjudged() && !r.Retrying
	}
	d.recheckIn(s.LookEvery)
	if d.Memory.Move.Phase == PhaseUp && !r.Unjudged() {
		return nil // What is up stays up while replicas, for example, are written.
	}
	begun := underWay(d.Memory.Move, doing)
	return &begun
}

// replaces reports whether stating wanted puts r's template in the place of what somebody else wrote. What a policy made
// of our own last write is nobody else's.
func (s *state) replaces(wanted *appsv1.Deployment, r *Revision) bool {
	return !hasTemplate(s.Deployment, &r.Template) && fingerprint(wanted, s.Deployment) != s.Memory.accepted
}

// put asks for wanted to be written, unless the Deployment says so already. It returns what to report if it may not be
// written now.
func (s *state) put(d *Decision, wanted *appsv1.Deployment) *report {
	changed := ""
	stated := wanted.Annotations[v1alpha1.AppliedAnnotation]
	switch {
	case s.foreign && s.Memory.stated != "":
		changed = ownersPath // It was ours, and is taken over again.
	case s.appliedHash() == stated && !s.foreign:
		changed = drift(wanted, s.Deployment)
		if changed == "" || fingerprint(wanted, s.Deployment) == s.Memory.accepted {
			return nil
		}
	case s.Deployment != nil && stated == s.Memory.stated:
		changed = appliedPath // Otherwise whoever changes it, again and again, would be fought without limit.
	}
	if refused := s.refused(d, writeOfDeployment(wanted)); refused != nil {
		return refused
	}
	if changed != "" {
		if contested := s.correct(d, changed); contested != nil {
			return contested
		}
	}
	d.Deployment = wanted
	d.Memory.stated = stated
	return nil
}

// appliedHash returns the hash of what was last stated about the Deployment, as the Deployment has it.
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
	if wait := memory.corrected.Add(correctionPause).Sub(s.Now); memory.corrections >= freeCorrections && wait > 0 {
		d.recheckIn(wait)
		return &report{condition: v1alpha1.ConditionStalled, reason: v1alpha1.ReasonContested, message: fmt.Sprintf(
			"%s keeps changing %s of the Deployment; it is put back once in %s", somebody(memory.rival), changed, correctionPause)}
	}
	memory.corrections++
	memory.corrected, memory.correctedPath = s.Now, changed
	d.Correction = changed
	return nil
}

// watch looks after the move to the revision that the Deployment carries, and returns how it stands. arrival says that
// the revision was good before.
func (s *state) watch(d *Decision, r *Revision, arrival bool) Move {
	move := d.Memory.Move
	if !move.to(r) {
		move = newMove(r, s.Now, s.Now)
		switch {
		case r.Failed():
			move.Phase = PhaseFailed
		case arrival && arrived(s.Deployment):
			move.Phase = PhaseUp
		}
	}
	hint := fullyUp(s.Deployment)
	waiting := move.Phase == PhaseFailed && !hint
	switch lookAt := move.nextLookAt(hint); {
	case move.Phase == PhaseUp || waiting:
	case s.Now.Before(lookAt):
		d.recheckIn(lookAt.Sub(s.Now))
	case s.Evidence == nil:
		d.NeedEvidence = true
	default:
		move = move.look(s.Deployment, s.Evidence, limitsOf(s.Guarded, arrival), s.Now, s.LookEvery)
		move.hinted = hint
		d.recheckIn(move.lookAt.Sub(s.Now))
	}
	d.Memory.Move = move
	return move
}

// fullyUp reports whether the Deployment controller says that every pod is new and available: a hint to look.
func fullyUp(d *appsv1.Deployment) bool {
	wanted := valueOr(d.Spec.Replicas, 1)
	return allNew(d) && d.Status.AvailableReplicas >= wanted
}

// arrived reports whether the Deployment controller says that the move to its template was completed at some time: pods
// may have been lost since. A completion that it reports of another template is told by the counts.
func arrived(d *appsv1.Deployment) bool {
	for _, condition := range d.Status.Conditions {
		if condition.Type == appsv1.DeploymentProgressing && condition.Reason == "NewReplicaSetAvailable" && allNew(d) {
			return true
		}
	}
	return fullyUp(d)
}

func allNew(d *appsv1.Deployment) bool {
	return d.Status.ObservedGeneration >= d.Generation && d.Status.UpdatedReplicas >= valueOr(d.Spec.Replicas, 1) &&
		d.Status.Replicas == d.Status.UpdatedReplicas
}

// refused returns what to report if the API server refused this very write, asked for by this very spec, and it is not yet
// time to try again.
func (s *state) refused(d *Decision, write string) *report {
	refusal := s.Memory.Refusal
	if refusal.Write != write || refusal.Generation != s.Guarded.Generation || !s.Now.Before(refusal.Until) {
		return nil
	}
	d.recheckIn(refusal.Until.Sub(s.Now))
	return &report{condition: v1alpha1.ConditionStalled, reason: refusal.Reason, message: refusal.Message}
}
