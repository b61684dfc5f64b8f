package rollout

import (
	"fmt"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// adopt takes over a Deployment that consents. The template that it runs is recorded before, as good if every pod of it
// is up: that is what a release can be rolled back to. Taking over changes metadata only, so that no pod is touched; what
// the spec asks for comes after that, as for every Deployment.
func (s *state) adopt(d *Decision) report {
	running := s.named(s.Deployment.Annotations[v1alpha1.RevisionAnnotation])
	if running != nil && !states(&s.Deployment.Spec.Template, running.Template()) {
		running = nil // The annotation is from before somebody else changed the template.
	}
	if running == nil && valueOr(s.Deployment.Spec.Replicas, 1) > 0 && rolloutComplete(s.Deployment) {
		if running, _ = s.find(&s.Deployment.Spec.Template); running == nil {
			return s.record(d, adoptedRevision(s.Guarded, s.Deployment, s.highest()+1))
		}
	}
	if busy := s.put(d, desiredAdopted(s.Guarded, running)); busy != nil {
		return *busy
	}
	return report{condition: v1alpha1.ConditionReconciling, reason: v1alpha1.ReasonProgressing,
		message: fmt.Sprintf("taking over Deployment %s, which consents", s.Deployment.Name)}
}

// leaveAlone reports a Deployment of that name that is somebody else's. It is left alone, and looked at again: often at first,
// and whenever something about it has changed, for nothing runs from when the name is freed until it is taken up.
func (s *state) leaveAlone(d *Decision) report {
	if seen := string(s.Deployment.UID) + " " + s.taken; seen != d.Memory.taken {
		if !s.DeploymentLive { // The cache may show one that is gone.
			d.NeedDeployment = true
			return report{}
		}
		d.Memory.taken, d.Memory.takenSince = seen, s.Now
	}
	if s.Now.Sub(d.Memory.takenSince) < takenSoon {
		d.recheckIn(takenRecheck)
	} else {
		d.recheckIn(unwatchedRecheck)
	}
	return report{condition: v1alpha1.ConditionStalled, reason: v1alpha1.ReasonNameTaken, message: s.taken}
}

// whyTaken returns why the Deployment, which is not ours, may not be taken over, and what to do about it; empty if it may.
func (s *state) whyTaken() string {
	live, guarded := s.Deployment, s.Guarded
	consent, consents := live.Annotations[v1alpha1.AdoptAnnotation]
	selector := metav1.FormatLabelSelector(live.Spec.Selector)
	controller := metav1.GetControllerOf(live)
	switch {
	case live.DeletionTimestamp != nil:
		return fmt.Sprintf("Deployment %s is not this GuardedDeployment's and is being deleted: waiting until it is gone", live.Name)
	case controller != nil:
		return fmt.Sprintf("Deployment %s is controlled by %s %s (uid %s); it is left alone. "+
			"Delete it, or give this GuardedDeployment another name", live.Name, controller.Kind, controller.Name, controller.UID)
	case !equality.Semantic.DeepEqual(live.Spec.Selector, guarded.Spec.Selector):
		return fmt.Sprintf("Deployment %s exists with another selector, which cannot be changed; it is left alone. "+
			"Create this GuardedDeployment again with the selector %s, or with another name", live.Name, selector)
	case !consents:
		return fmt.Sprintf("Deployment %s exists and is not this GuardedDeployment's; it is left alone. "+
			"To put it under guard, consent: kubectl annotate deployment %s --namespace %s %s=%s. "+
			"Otherwise delete it, or give this GuardedDeployment another name",
			live.Name, live.Name, live.Namespace, v1alpha1.AdoptAnnotation, guarded.Name)
	case consent != guarded.Name:
		return fmt.Sprintf("Deployment %s consents to be taken over by %q, which is not the name of this GuardedDeployment; "+
			"it is left alone. Set its annotation %s to %s", live.Name, consent, v1alpha1.AdoptAnnotation, guarded.Name)
	default:
		return ""
	}
}

// equalsAdoptedRevision reports whether the template that the Deployment carries is, with all the API server's defaults in it,
// that of the revision just before the target, and that one is good. So it is after an adoption: the running template was
// recorded as it was found, and the spec asks for the same in fewer words.
func (s *state) equalsAdoptedRevision() bool {
	for _, r := range slices.Backward(s.revisions) {
		if r != s.target {
			return r.Good() && equality.Semantic.DeepEqual(r.Template(), &s.Deployment.Spec.Template)
		}
	}
	return false
}

// adoptedRevision returns the ControllerRevision that records what a Deployment runs, as good.
func adoptedRevision(guarded *v1alpha1.GuardedDeployment, live *appsv1.Deployment, number int64) *appsv1.ControllerRevision {
	recorded := newRevision(guarded, &live.Spec.Template, number)
	metav1.SetMetaDataAnnotation(&recorded.ObjectMeta, v1alpha1.VerdictAnnotation, v1alpha1.VerdictGood)
	annotate(recorded, v1alpha1.GoodWithAnnotation, goodWith{Number: live.Annotations[SetNumber], Template: hash(withoutHash(&live.Spec.Template))})
	return recorded
}

// desiredAdopted returns what Belay desires of a Deployment when it takes it over: whose it is and, if that is known,
// which revision it runs.
func desiredAdopted(guarded *v1alpha1.GuardedDeployment, running *Revision) *appsv1.Deployment {
	desired := desiredMeta(guarded)
	desired.Annotations = map[string]string{v1alpha1.RevisionAnnotation: ""}
	if running != nil {
		desired.Annotations[v1alpha1.RevisionAnnotation] = running.Name
	}
	return withAppliedHash(desired)
}
