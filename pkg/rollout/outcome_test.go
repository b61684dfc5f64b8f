package rollout

import (
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// decided returns what the scene decides now, and reads for it.
func (s *scene) decided() Decision {
	d := Decide(s.Observed)
	if d.NeedEvidence {
		s.Evidence = s.cluster(s.Deployment)
		d = Decide(s.Observed)
	}
	return d
}

func TestAfter(t *testing.T) {
	goodV1 := func(asks string) *scene { return asking(asks).knows("v1", 1, good).runningName("v1") }
	t.Run("a refusal is remembered, and decided on at once", func(t *testing.T) {
		s := asking("v1")
		d := s.decided()
		refusal := Refusal{Write: d.Write(), Generation: 1, Reason: v1alpha1.ReasonDenied, Message: "no", Until: noon.Add(time.Hour)}
		outcome := d.After(s.Observed, Answer{Refusal: &refusal})
		if !outcome.Again || len(outcome.Counts) > 0 || outcome.Memory.Refusal != refusal {
			t.Errorf("again: %t, counted: %v, remembered: %+v", outcome.Again, outcome.Counts, outcome.Memory.Refusal)
		}
		if told := s.tell(Decide(outcome.Observed)); told != "Stalled Denied, Warning Denied, again in 1h0m0s" {
			t.Errorf("decided then: %s", told)
		}
	})
	t.Run("a verdict that is stored is decided on at once", func(t *testing.T) {
		s := goodV1("v2").knows("v2", 2, unjudged).runningName("v2").with(func(s *scene) { s.cluster = crashing })
		s.remembers("v2", PhaseProgressing)
		d := s.decided()
		outcome := d.After(s.Observed, Answer{Revision: s.store(d.Mark)})
		if !outcome.Again || len(outcome.Counts) != 1 {
			t.Errorf("again: %t, counted: %v", outcome.Again, outcome.Counts)
		}
		if told := s.tell(Decide(outcome.Observed)); told != "run v1 x3, Reconciling Progressing, Warning CrashLoop, again in 3s" {
			t.Errorf("decided then: %s", told)
		}
	})
	t.Run("the attempts at a good revision are counted anew", func(t *testing.T) {
		for want, verdict := range map[int]func(*appsv1.Deployment) *Evidence{1: allUp, 2: crashing} {
			s := goodV1("v2").knows("v2", 2, tried(2, "", unjudged)).runningName("v2").with(func(s *scene) { s.cluster = verdict })
			s.Guarded.Spec.Guard.SoakSeconds = new(int32)
			s.remembers("v2", PhaseProgressing)
			d := s.decided()
			if got := d.After(s.Observed, Answer{Revision: s.store(d.Mark)}).Memory.Progress.Attempt; got != want {
				t.Errorf("attempt %d, want %d", got, want)
			}
		}
	})
	t.Run("a verdict that is not stored stays", func(t *testing.T) {
		for name, verdict := range map[string]func(*appsv1.Deployment) *Evidence{"good": allUp, "failed": crashing} {
			s := goodV1("v2").knows("v2", 2, tried(2, "", unjudged)).runningName("v2").with(func(s *scene) { s.cluster = verdict })
			s.Guarded.Spec.Guard.SoakSeconds = new(int32)
			s.remembers("v2", PhaseProgressing)
			d := s.decided()
			if d.Mark == nil {
				t.Fatalf("%s: decided: %s", name, s.tell(d))
			}
			s.Memory = d.After(s.Observed, Answer{}).Memory
			if again := Decide(s.Observed); again.Mark == nil || !reflect.DeepEqual(again.Mark.Annotations, d.Mark.Annotations) {
				t.Errorf("%s: decided then: %s", name, s.tell(again))
			}
		}
	})
	t.Run("attempts at a good revision are counted anew", func(t *testing.T) {
		s := goodV1("v2").knows("v2", 2, tried(2, "", unjudged)).runningName("v2")
		s.Guarded.Spec.Guard.SoakSeconds = new(int32)
		s.step()
		s.down()
		if _, told := s.step(); told != "Ready RolledOut, Normal RolledOut" {
			t.Errorf("decided then: %s", told)
		}
	})
	t.Run("a correction that changes nothing keeps the move", func(t *testing.T) {
		s := goodV1("v1").remembers("v1", PhaseHealthy)
		s.Deployment.Spec.Template.Spec.Containers[0].Image = "mirror/v1"
		d := s.decided()
		if d.Correction == "" || d.Memory.Progress.Phase != PhaseProgressing {
			t.Fatalf("decided: %s, and the move is %s", s.tell(d), d.Memory.Progress.Phase)
		}
		outcome := d.After(s.Observed, Answer{Before: s.Deployment, Written: s.Deployment.DeepCopy()})
		if !outcome.Again || outcome.Memory.Progress.Phase != PhaseHealthy || len(outcome.Events) > 0 {
			t.Errorf("again: %t, the move is %s, Events: %v", outcome.Again, outcome.Memory.Progress.Phase, outcome.Events)
		}
		if d := Decide(outcome.Observed); s.tell(d) != "Ready RolledOut, Normal RolledOut" {
			t.Errorf("decided then: %s", s.tell(d))
		}
	})
}

// releaseWithLostAnswer asks for v2 on a Deployment that runs v1, and loses the answer to the write that brings it.
func releaseWithLostAnswer(tookEffect bool) *scene {
	s := asking("v1")
	s.play()
	s.up().play()
	s.ask("v2")
	s.step()
	s.lose(tookEffect)
	return s
}

// lose decides, and carries the write of the Deployment out without an answer, if it takes effect.
func (s *scene) lose(tookEffect bool) Decision {
	d := s.decided()
	before := s.Deployment
	if tookEffect {
		s.write(d.Deployment, d.Template)
	}
	observed := s.Observed
	observed.Deployment, observed.Evidence = before, nil
	s.Memory = d.After(observed, Answer{Before: before, Lost: true, Manager: "belay"}).Memory
	s.Evidence = nil
	return d
}

// corrected returns the Events of putting back, in as many steps.
func (s *scene) corrected(steps int) (told []string) {
	for range steps {
		d, _ := s.step()
		for _, e := range d.Events {
			if e.Action == "PutBack" {
				told = append(told, strings.Fields(e.Message)[2])
			}
		}
		s.after(pollInterval)
	}
	return told
}

func TestAfter_LostWriteIsOurOwn(t *testing.T) {
	for name, tookEffect := range map[string]bool{"it took effect": true, "it did not": false} {
		t.Run(name, func(t *testing.T) {
			s := releaseWithLostAnswer(tookEffect)
			s.cluster = crashing
			if told := s.corrected(10); len(told) > 0 || s.Memory.corrections > 0 {
				t.Errorf("%d corrections, of %v", s.Memory.corrections, told)
			}
			if got := conditions(&s.Guarded.Status); image(s.runningRevision()) != "v1" || !strings.HasPrefix(got, "Reconciling") {
				t.Errorf("%s runs: %s", image(s.runningRevision()), got)
			}
		})
		t.Run(name+", and the spec asks for what was before", func(t *testing.T) {
			s := releaseWithLostAnswer(tookEffect)
			s.ask("v1")
			if told := s.corrected(10); len(told) > 0 || s.Memory.corrections > 0 || image(s.runningRevision()) != "v1" {
				t.Errorf("%d corrections, of %v; %s runs", s.Memory.corrections, told, image(s.runningRevision()))
			}
		})
	}
	t.Run("all restarts count", func(t *testing.T) {
		s := releaseWithLostAnswer(true)
		s.after(pollInterval)
		s.cluster = crashing
		if _, told := s.step(); told != "mark v2 failed: CrashLoop, attempt 1, again in 3s" {
			t.Errorf("decided: %s", told)
		}
	})
	t.Run("what a policy made of it is accepted", func(t *testing.T) {
		s := releaseWithLostAnswer(true)
		s.Deployment.Spec.Template.Spec.Containers[0].Image = "mirror/v2"
		if told := s.corrected(3); len(told) > 0 {
			t.Errorf("put back: %v", told)
		}
	})
	t.Run("what somebody made of it is put back", func(t *testing.T) {
		s := releaseWithLostAnswer(true)
		s.Deployment.Spec.Template.Spec.Containers[0].Image = "theirs"
		s.Deployment.Generation++
		if told := s.corrected(3); !slices.Equal(told, []string{"spec.template.spec.containers[0].image"}) {
			t.Errorf("put back: %v", told)
		}
	})
}

func TestAfter_LostCorrectionIsToldOnce(t *testing.T) {
	for name, tookEffect := range map[string]bool{"it took effect": true, "it did not": false} {
		s := asking("v1")
		s.play()
		s.up().play()
		s.Deployment.Spec.Replicas = new(int32(7))
		s.Deployment.Generation++
		s.Deployment.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: "kubectl"}}
		s.lose(tookEffect)
		if told := s.corrected(3); !slices.Equal(told, []string{"spec.replicas"}) || s.Memory.corrections != 1 || *s.Deployment.Spec.Replicas != 3 {
			t.Errorf("%s: %d corrections, told of %v, %d replicas", name, s.Memory.corrections, told, *s.Deployment.Spec.Replicas)
		}
		if s.Memory.rival != "kubectl" {
			t.Errorf("%s: the rival is %q", name, s.Memory.rival)
		}
	}
}

// What somebody took the owner reference from looks as it did when it was taken over, but for that.
func TestAfter_TakeoverWithoutEffect(t *testing.T) {
	s := asking("v1").knows("v1", 1, good).runningName("v1").with(func(s *scene) { s.Deployment.Annotations[v1alpha1.AdoptAnnotation] = "web" })
	s.Deployment.OwnerReferences = nil
	s.step()
	s.Deployment.OwnerReferences = nil
	s.Deployment.Generation++
	if d := s.lose(false); d.Correction != ownersPath {
		t.Fatalf("decided: %s", s.tell(d))
	}
	s.up()
	if told := s.corrected(3); !slices.Equal(told, []string{ownersPath}) || s.Memory.corrections != 1 || !metav1.IsControlledBy(s.Deployment, s.Guarded) {
		t.Errorf("%d corrections, told of %v, owned by %v", s.Memory.corrections, told, s.Deployment.OwnerReferences)
	}
}

// A write whose answer was lost is remembered once, and for ten minutes.
func TestAfter_LostWriteIsForgotten(t *testing.T) {
	s := releaseWithLostAnswer(false)
	s.lose(false)
	if n := len(s.Memory.unanswered); n != 1 {
		t.Errorf("the same write, lost twice, is remembered %d times", n)
	}
	for age, want := range map[time.Duration]int{0: 1, unansweredFor: 1, unansweredFor + 1: 0} {
		later := s.Observed
		later.Now = s.Now.Add(age)
		if n := len(later.recall().unanswered); n != want {
			t.Errorf("%s later %d are remembered, want %d", age, n, want)
		}
	}
}

// What is owed of a status is what a cache may not have shown yet: it has the object from before.
func TestAfter_StatusIsToldOf(t *testing.T) {
	for _, row := range []struct {
		told string // the resourceVersion whose status was replaced last
		owed bool
	}{{"", true}, {"6", true}, {"7", false}} {
		s := asking("v1").knows("v1", 1, good).runningName("v1")
		s.Guarded.ResourceVersion, s.Memory.toldOf = "7", row.told
		d := s.decided()
		outcome := d.After(s.Observed, s.send(d))
		if d.Status == nil || outcome.Memory.toldOf != "7" || outcome.Unreported.toldOf != row.told {
			t.Errorf("after %q: told of %q, and of %q if it is not written", row.told, outcome.Memory.toldOf, outcome.Unreported.toldOf)
		}
		if owed := outcome.Unreported.untold != nil; owed != row.owed {
			t.Errorf("after %q: owed: %t", row.told, owed)
		}
		s.Guarded.Status = *d.Status
		d = s.decided()
		if outcome := d.After(s.Observed, s.send(d)); d.Status != nil || outcome.Memory.toldOf != row.told {
			t.Errorf("without a new status after %q: told of %q", row.told, outcome.Memory.toldOf)
		}
	}
}

// A status that cannot be written, or may have been, owes its Events.
func TestAfter_EventsOfALostStatus(t *testing.T) {
	for name, tookEffect := range map[string]bool{"it took effect": true, "it did not": false} {
		s := asking("v2").knows("v1", 1, good).runningName("v1").knows("v2", 2, failed)
		s.Strays = []string{"web-copy"}
		s.Deployment.Spec.Replicas = new(int32(7))
		s.Memory.applied = s.Deployment.Annotations[v1alpha1.AppliedAnnotation]
		d := s.decided()
		outcome := d.After(s.Observed, s.send(d))
		if s.Memory = outcome.Unreported; tookEffect {
			s.Guarded = s.Guarded.DeepCopy()
			s.Guarded.Status = *d.Status
		}
		s.up()
		told := map[string]int{}
		for range 5 {
			d, _ := s.step()
			for _, e := range d.Events {
				told[e.Action]++
			}
			s.after(pollInterval)
		}
		for _, action := range []string{"Judge", "RollBack", "PutBack", "Ignore"} {
			if told[action] != 1 {
				t.Errorf("%s: %d Events of %q: %v", name, told[action], action, told)
			}
		}
	}
}

// runningRevision returns the revision that the Deployment runs.
func (s *scene) runningRevision() *Revision {
	h := newHistory(s.Guarded, s.Revisions)
	return h.named(s.Deployment.Annotations[v1alpha1.RevisionAnnotation])
}

// a good verdict that could not be stored, and new replicas before it is tried again.
func TestHold_VerdictOrDeployment(t *testing.T) {
	s := asking("v1").hold().knows("v1", 1, failed).runningName("v1")
	s.remembers("v1", PhaseFailed)
	s.Guarded.Spec.Guard.SoakSeconds = new(int32)
	s.Memory.applied = s.Deployment.Annotations[v1alpha1.AppliedAnnotation]
	s.after(time.Minute)
	var d Decision
	for range 10 {
		d = s.decided()
		if d.Mark != nil {
			break
		}
		s.Memory = d.After(s.Observed, Answer{}).Memory
		s.Evidence = nil
		s.after(pollInterval)
	}
	if d.Mark == nil {
		t.Fatalf("never marked: %s", s.tell(d))
	}
	s.Memory = d.After(s.Observed, Answer{}).Memory // the verdict is not stored
	s.Evidence = nil
	s.scale(new(int32(5)))
	d = s.decided()
	t.Logf("decided: %s", s.tell(d))
	if d.Mark != nil && d.Deployment != nil {
		t.Errorf("both a verdict and the Deployment are to be written")
	}
	if told := s.corrected(4); len(told) > 0 {
		t.Errorf("told of corrections %v", told)
	}
}

// two writes in a row without an answer; the first takes effect late.
func TestAfter_FirstOfTwoLostWritesLands(t *testing.T) {
	s := asking("v1")
	s.play()
	s.up().play()
	s.ask("v2")
	s.step() // recorded
	s.step() // written
	s.cluster = crashing
	var d Decision
	for range 20 { // until the rollback is due
		d = s.decided()
		if d.RollBack {
			break
		}
		s.carryOut(d)
		s.Evidence = nil
		s.after(pollInterval)
	}
	if !d.RollBack {
		t.Fatal("no rollback")
	}
	running := s.Deployment
	s.Memory = d.After(s.Observed, Answer{Before: running, Lost: true, Manager: "belay"}).Memory // on its way
	rollback := d.Deployment
	s.ask("v3")
	s.Evidence = nil
	s.step() // v3 is recorded
	d = s.decided()
	s.Memory = d.After(s.Observed, Answer{Before: running, Lost: true, Manager: "belay"}).Memory // a conflict: the rollback has just landed
	s.write(rollback, nil)
	s.ask("v2").cluster = allUp
	if told := s.corrected(6); len(told) > 0 {
		t.Errorf("told of corrections %v, %d counted", told, s.Memory.corrections)
	}
}

// the write took effect, and client-go's second try was refused.
func TestAfter_RefusedOnSecondTry(t *testing.T) {
	s := asking("v1")
	s.play()
	s.up().play()
	s.ask("v2")
	s.step()
	s.step()
	s.cluster = crashing
	var d Decision
	for range 20 {
		d = s.decided()
		if d.RollBack {
			break
		}
		s.carryOut(d)
		s.Evidence = nil
		s.after(pollInterval)
	}
	before := s.Deployment
	o := s.Observed
	s.write(d.Deployment, d.Template)
	o.Deployment = before
	refusal := Refusal{Write: d.Write(), Generation: s.Guarded.Generation, Reason: v1alpha1.ReasonDenied, Message: "no", Until: s.Now.Add(5 * time.Minute)}
	s.Memory = d.After(o, Answer{Before: before, Lost: true, Manager: "belay", Refusal: &refusal}).Memory
	s.Evidence = nil
	s.cluster = allUp
	s.up().token("again")
	if told := s.corrected(8); len(told) > 0 {
		t.Errorf("told of corrections %v, %d counted", told, s.Memory.corrections)
	}
}

// a policy rewrites the image; somebody changes replicas; the correction's answer is lost.
func TestAfter_LostCorrectionUnderAPolicy(t *testing.T) {
	s := asking("v1")
	mirror := func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Image = "mirror/v1" }
	s.step()
	d := s.decided()
	s.write(d.Deployment, d.Template)
	mirror(s.Deployment)
	s.Memory = d.After(s.Observed, Answer{Written: s.Deployment, Manager: "belay"}).Memory
	s.up().play()
	t.Log(conditions(&s.Guarded.Status))
	s.Deployment = s.Deployment.DeepCopy()
	s.Deployment.Spec.Replicas = new(int32(7))
	s.Deployment.Generation++
	d = s.decided()
	t.Log(s.tell(d), d.Correction)
	before := s.Deployment
	s.write(d.Deployment, d.Template)
	mirror(s.Deployment)
	o := s.Observed
	o.Deployment = before
	s.Memory = d.After(o, Answer{Before: before, Lost: true, Manager: "belay"}).Memory
	s.up()
	if told := s.corrected(3); strings.Join(told, " ") != "spec.replicas" && strings.Join(told, " ") != d.Correction {
		t.Errorf("told of %v, want the correction once; corrections %d", told, s.Memory.corrections)
	}
}

// A process that knows nothing yet of what is up says no more about a new number of replicas than one that has watched it.
func TestRun_ScaledAfterARestart(t *testing.T) {
	for name, s := range map[string]*scene{
		"good":        asking("v1").knows("v1", 1, good).runningName("v1"),
		"rolled back": asking("v2").knows("v1", 1, good).knows("v2", 2, failed).runningName("v1"),
	} {
		s.up().play()
		s.scale(new(int32(5))).restart()
		if done := s.play(); len(done) != 1 || !strings.HasPrefix(done[0], "run v1 x5, ") || strings.Contains(done[0], "Progressing") || strings.Contains(done[0], ",Normal ") {
			t.Errorf("%s: %q", name, done)
		}
		s.up()
		if done := s.play(); strings.Contains(strings.Join(done, "; "), "Warning") || strings.Contains(strings.Join(done, "; "), "Normal") {
			t.Errorf("%s, with all pods: %q", name, done)
		}
	}
}

// What raises no generation is compared all the same, and so is another Deployment of that name.
func TestRun_ComparesAgain(t *testing.T) {
	for name, change := range map[string]func(d *appsv1.Deployment){
		"nothing":         nil,
		"the label":       func(d *appsv1.Deployment) { delete(d.Labels, v1alpha1.GuardedLabel) },
		"the revision":    func(d *appsv1.Deployment) { d.Annotations[v1alpha1.RevisionAnnotation] = "theirs" },
		"the hash":        func(d *appsv1.Deployment) { d.Annotations[v1alpha1.AppliedAnnotation] = "theirs" },
		"another of that": func(d *appsv1.Deployment) { d.UID, d.Spec.Replicas = "another", new(int32(9)) },
	} {
		s := asking("v1").scale(new(int32(3)))
		s.play()
		s.up().play()
		if change != nil {
			s.Deployment = s.Deployment.DeepCopy()
			change(s.Deployment)
		}
		if d, told := s.step(); (d.Deployment != nil) != (change != nil) {
			t.Errorf("%s: %q", name, told)
		}
	}
}

// A revision is decoded once, and anew when it is another object, or another process.
func TestDecide_DecodesOnce(t *testing.T) {
	s := asking("v1")
	s.play()
	s.up().play()
	s.step()
	known := s.Memory.digests
	if len(known) != 1 || !known[0].fits || known[0].object != s.Revisions[0] {
		t.Fatalf("digests %+v, want that of the revision", known)
	}
	s.Memory.digests = []digested{{object: s.Revisions[0]}} // as if it did not fit
	if d := Decide(s.Observed); d.Record == nil {
		t.Error("the known digest is not used")
	}
	s.Memory.digests = []digested{{object: s.Revisions[0].DeepCopy()}}
	if d := Decide(s.Observed); d.Record != nil || !d.Memory.digests[0].fits {
		t.Error("the digest of another object is used")
	}
}
