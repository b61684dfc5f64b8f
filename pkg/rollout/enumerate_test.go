package rollout

import (
	"flag"
	"fmt"
	"reflect"
	"slices"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
	"github.com/belay-dev/belay/test/kstatus"
)

var oneOf = flag.Int("oneof", 101, "decide one of so many of the enumerated views; 1 decides all of them, in a few minutes")

var oneView = flag.Int("view", 0, "decide this view only, and tell what is done")

// choice is one thing in a view that can be so or so.
type choice []func(*scene)

func nothing(*scene) {}

func knowing(image string, number int64, is verdict) func(*scene) {
	return func(s *scene) { s.knows(image, number, is) }
}

// running puts a Deployment there that carries the revision with that image, if it is recorded.
func running(image string) func(*scene) {
	return func(s *scene) {
		if s.revision(image) != nil {
			s.runningName(image)
		}
	}
}

func remembering(image string, phase Phase) func(*scene) {
	return func(s *scene) {
		if s.revision(image) != nil {
			s.remembers(image, phase)
		}
	}
}

// onDeployment changes the Deployment, if there is one.
func onDeployment(change func(*scene)) func(*scene) {
	return func(s *scene) {
		if s.Deployment != nil {
			change(s)
		}
	}
}

// The views: every combination of these. v2 is asked for, v1 is what was before.
var choices = []choice{
	{ // replicas
		nothing,
		func(s *scene) { s.Guarded.Spec.Replicas = nil },
		func(s *scene) { s.Guarded.Spec.Replicas = new(int32(0)) },
	},
	{ // the target
		nothing, knowing("v2", 2, unjudged), knowing("v2", 2, good), knowing("v2", 2, failed),
		knowing("v2", 2, tried(2, "", good)), knowing("v2", 2, tried(2, "!", failed)),
	},
	{ // another revision
		nothing, knowing("v1", 1, good), knowing("v1", 3, good), knowing("v1", 1, failed), knowing("v1", 3, tried(2, "", good)),
		func(s *scene) { // forged
			s.knows("v1", 1, good)
			s.Revisions[len(s.Revisions)-1].Data.Raw = []byte(`{"spec":{}}`)
		},
	},
	{ // the Deployment
		nothing, running("v1"), running("v2"),
		func(s *scene) {
			running("v1")(s)
			onDeployment(func(s *scene) { s.Deployment.OwnerReferences = nil })(s)
		},
		func(s *scene) { // consenting
			running("v1")(s)
			onDeployment(func(s *scene) {
				s.Deployment.OwnerReferences = nil
				s.Deployment.Annotations = map[string]string{v1alpha1.AdoptAnnotation: "web"}
			})(s)
		},
		func(s *scene) {
			running("v1")(s)
			onDeployment(func(s *scene) { s.Deployment.DeletionTimestamp = &metav1.Time{Time: noon} })(s)
		},
		func(s *scene) { running("v1")(s); onDeployment(func(s *scene) { s.Deployment.Annotations = nil })(s) },
	},
	{ // how it is
		nothing,
		onDeployment(func(s *scene) { s.down() }),
		onDeployment(func(s *scene) { s.Deployment.Spec.Paused = true }),
		onDeployment(func(s *scene) { s.Deployment.Spec.Template.Spec.Containers[0].Image = "theirs" }),
	},
	{ // the spec
		nothing, func(s *scene) { s.hold() }, func(s *scene) { s.pause() }, func(s *scene) { s.token("!") }, func(s *scene) { s.retries(1) },
		func(s *scene) { s.Guarded.DeletionTimestamp = &metav1.Time{Time: noon} },
	},
	{ // what is remembered
		nothing, remembering("v2", PhaseProgressing), remembering("v2", PhaseHealthy), remembering("v2", PhaseFailed), remembering("v1", PhaseHealthy), remembering("v1", PhaseFailed),
	},
	{ // what is seen
		nothing, func(s *scene) { s.cluster = crashing }, func(s *scene) { s.cluster = func(*appsv1.Deployment) *Evidence { return &Evidence{} } },
	},
}

// Every combination is decided on, and carried out until nothing more is written. Nothing forbidden is ever decided.
func TestEveryView(t *testing.T) {
	t.Parallel()
	total := 1
	for _, c := range choices {
		total *= len(c)
	}
	decided := 0
	for view := *oneView; view < total && !t.Failed(); view += *oneOf {
		s := asking("v2").keep(0)
		s.Guarded.Spec.Guard.SoakSeconds = new(int32(0))
		name, rest := "", view
		for _, c := range choices {
			c[rest%len(c)](s)
			name += fmt.Sprint(rest%len(c), " ")
			rest /= len(c)
		}
		atRest := 0
		for step := 0; step < 20 && atRest < 3; step++ {
			d := decideStrictly(t, s)
			if problem := forbidden(s, d); problem != "" {
				t.Errorf("view %s(%d), step %d: %s", name, view, step, problem)
			}
			d, told := s.stepFrom(d)
			if decided++; *oneView > 0 {
				t.Log(told)
			}
			atRest++
			if d.Record != nil || d.Mark != nil || d.Deployment != nil || len(d.Prune) > 0 || d.Status != nil {
				atRest = 0
			}
			s.after(pollInterval)
		}
		if atRest < 3 {
			t.Errorf("view %s(%d): it does not come to rest", name, view)
		}
		if *oneView > 0 {
			break
		}
	}
	t.Logf("%d decisions on %d views of %d", decided, (total+*oneOf-1) / *oneOf, total)
}

// decideStrictly decides twice, and makes sure that both decisions are the same and that nothing was changed by it.
func decideStrictly(t *testing.T, s *scene) Decision {
	before := s.Observed
	before.Guarded = s.Guarded.DeepCopy()
	before.Deployment = s.Deployment.DeepCopy()
	before.Revisions = nil
	for _, r := range s.Revisions {
		before.Revisions = append(before.Revisions, r.DeepCopy())
	}
	d := Decide(s.Observed)
	if !reflect.DeepEqual(before, s.Observed) {
		t.Errorf("what was observed is changed: %s", s.tell(d))
	}
	shuffled := before
	slices.Reverse(shuffled.Revisions)
	again, first := Decide(shuffled), d
	again.Memory.digests, first.Memory.digests = nil, nil // They are in the order of the revisions.
	if !reflect.DeepEqual(first, again) {
		t.Errorf("decided twice, differently: %s, and %s", s.tell(d), s.tell(again))
	}
	return d
}

// forbidden returns what is wrong with a decision, empty if nothing is.
func forbidden(s *scene, d Decision) string {
	h := newHistory(s.Guarded, s.Revisions)
	target, _ := h.find(&s.Guarded.Spec.Template)
	writes := 0
	for _, there := range []bool{d.Record != nil, d.Mark != nil, d.Deployment != nil} {
		if there {
			writes++
		}
	}
	foreign := s.Deployment != nil && !metav1.IsControlledBy(s.Deployment, s.Guarded)
	relabels := d.Row() == "label" // It asks for nothing, and judges nothing.
	dying := s.Deployment != nil && s.Deployment.DeletionTimestamp != nil
	switch {
	case writes > 1:
		return "more than one write"
	case (d.NeedEvidence || d.NeedRevisions || d.NeedDeployment || d.NeedTarget) && (writes > 0 || d.Status != nil || len(d.Events) > 0):
		return "it needs to know more, and acts"
	case s.Guarded.DeletionTimestamp != nil && !reflect.DeepEqual(d, Decision{}):
		return "something is done for what is being deleted"
	case dying && writes > 0, foreign && writes > 0 && s.Deployment.Annotations[v1alpha1.AdoptAnnotation] != s.Guarded.Name:
		return "somebody else's Deployment, or a dying one, is written"
	case foreign && d.Deployment != nil && !reflect.DeepEqual(d.Deployment.Spec, appsv1.DeploymentSpec{}):
		return "a Deployment is changed while it is taken over"
	case foreign:
	case s.Guarded.Spec.Paused && ((d.Record != nil && !relabels) || d.Mark != nil || d.NeedEvidence):
		return "something is judged or recorded while paused"
	case d.Mark != nil && (target == nil || d.Mark.Name != target.Name || target.Good()):
		return "a verdict on what is not on trial"
	case d.Record != nil && d.Record.Revision < h.highest() && !relabels:
		return "a request with an old number"
	case d.Recheck < 0:
		return "back in time"
	}
	if desired := d.Deployment; desired != nil && !foreign {
		r := h.named(desired.Annotations[v1alpha1.RevisionAnnotation])
		switch {
		case (desired.Spec.Replicas == nil) != (s.Guarded.Spec.Replicas == nil):
			return "replicas that are unset are stated, or the other way round"
		case s.Guarded.Spec.Paused && (!desired.Spec.Paused || len(desired.Spec.Template.Spec.Containers) > 0):
			return "more than paused is written"
		case s.Guarded.Spec.Paused:
		case r == nil || !equality.Semantic.DeepEqual(r.Template(), r.unpinned(&desired.Spec.Template)):
			return "a template that is no revision's"
		case target == nil || target.Revision < h.highest():
			return "the Deployment moves before the target is recorded"
		case r != target && !target.Failed():
			return "a rollback of what has not failed"
		case r != target && !r.lastVerdictGood() && (s.Deployment == nil || r.Name != s.Deployment.Annotations[v1alpha1.RevisionAnnotation]):
			return "a rollback to what was never good"
		}
	}
	for _, r := range d.Prune {
		kept := []string{}
		for _, keep := range []*Revision{target, h.newestGood(target)} {
			if keep != nil {
				kept = append(kept, keep.Name)
			}
		}
		if s.Deployment != nil && !foreign {
			kept = append(kept, s.Deployment.Annotations[v1alpha1.RevisionAnnotation])
		}
		if d.Deployment != nil {
			kept = append(kept, d.Deployment.Annotations[v1alpha1.RevisionAnnotation])
		}
		if slices.Contains(kept, r.Name) {
			return "a revision that is needed is pruned"
		}
	}
	if d.Status != nil {
		yes := 0
		for _, c := range d.Status.Conditions {
			if c.Type != v1alpha1.ConditionAvailable && c.Status == metav1.ConditionTrue {
				yes++
			}
			if c.ObservedGeneration != s.Guarded.Generation || c.Reason == "" || (c.Message == "" && c.Type != v1alpha1.ConditionAvailable) {
				return "an incomplete condition"
			}
		}
		if yes != 1 {
			return "not exactly one of Ready, Reconciling and Stalled"
		}
		g := s.Guarded.DeepCopy()
		g.Status = *d.Status
		if err := kstatus.Check(g); err != nil {
			return err.Error()
		}
	}
	return ""
}
