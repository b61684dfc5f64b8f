package rollout

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// finds sets a Deployment that others made and that runs image, with the API server's defaults in it. It is up, and
// consents.
func (s *scene) finds(image string) *scene {
	d := &appsv1.Deployment{}
	d.Name, d.Namespace, d.UID, d.Generation = "web", "shop", "uid-of-deployment", 7
	d.Labels, d.Annotations = map[string]string{"team": "a"}, map[string]string{v1alpha1.AdoptAnnotation: "web", "contact": "b"}
	d.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "ConfigMap", Name: "theirs", UID: "uid-of-theirs"}}
	d.Spec.Replicas = new(int32(4))
	d.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}
	d.Spec.Template = template(image)
	s.Deployment = d
	s.defaulted()
	return s.up()
}

// defaulted adds the API server's defaults to the template.
func (s *scene) defaulted() {
	s.Deployment.Spec.Template.Spec.RestartPolicy = corev1.RestartPolicyAlways
	s.Deployment.Spec.Template.Spec.Containers[0].TerminationMessagePath = "/dev/termination-log"
}

func TestAdoption(t *testing.T) {
	const takenOver = "run nothing, Reconciling Progressing"
	for _, row := range []struct {
		name  string
		given *scene
		want  []string
	}{
		{"the same template is good, and nothing moves", asking("v1").scale(nil).finds("v1"),
			[]string{"record v1 as 1", takenOver, "record v1 as 2", "run v1, Reconciling Progressing, again in 3s", "mark v1 good", "Reconciling Progressing, again in 1s", "again in 1s", "Ready RolledOut, Normal RolledOut, again in 3s"}},
		{"another template rolls out from there", asking("v2").scale(nil).finds("v1"),
			[]string{"record v1 as 1", takenOver, "record v2 as 2", "run v2, Reconciling Progressing, again in 3s"}},
		{"what is not complete is no revision", asking("v2").scale(nil).finds("v1").with(func(s *scene) { s.Deployment.Status.AvailableReplicas-- }),
			[]string{takenOver, "record v2 as 1", "run v2, Reconciling Progressing, again in 3s"}},
		{"what the Deployment controller has not seen is no revision", asking("v2").scale(nil).finds("v1").with(func(s *scene) { s.Deployment.Generation++ }),
			[]string{takenOver, "record v2 as 1"}},
		{"what has no pods is no revision", asking("v2").scale(nil).finds("v1").with(func(s *scene) { s.Deployment.Spec.Replicas = new(int32); s.up() }),
			[]string{takenOver, "record v2 as 1"}},
		{"while paused, it is only taken over", asking("v2").scale(nil).finds("v1").pause(),
			[]string{"record v1 as 1", takenOver, "pause, with nothing, Stalled Paused"}},
		{"a revision of its own that it runs is not recorded again", asking("v1").knows("v1", 1, good).runningName("v1").with(func(s *scene) {
			s.Deployment.OwnerReferences = nil
			s.Deployment.Annotations[v1alpha1.AdoptAnnotation] = "web"
		}), []string{takenOver, "run v1 x3, Ready RolledOut, Normal RolledOut, again in 3s"}},
		{"a revision of its own that it only claims to run is not believed", asking("v2").scale(nil).knows("v1", 1, good).finds("theirs").with(func(s *scene) {
			s.Deployment.Annotations[v1alpha1.RevisionAnnotation] = s.revision("v1").Name
		}), []string{"record theirs as 2", takenOver, "record v2 as 3"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			got := play(row.given)
			got = got[:min(len(got), len(row.want))]
			if diff := cmp.Diff(row.want, got); diff != "" {
				t.Errorf("went otherwise (-want +got):\n%s", diff)
			}
		})
	}
}

// play plays a scene in which what the API server defaults is defaulted in every write, and the Deployment controller
// acts at once.
func play(s *scene) (done []string) {
	for range 40 {
		d, told := s.step()
		if told != "" && (len(done) == 0 || done[len(done)-1] != told) {
			done = append(done, told)
		}
		if d.Deployment != nil {
			s.defaulted()
			s.up()
		} else if d.Record == nil && d.Mark == nil && d.Status == nil {
			s.after(max(d.Recheck, pollInterval))
		}
	}
	return done
}

// Taking over changes whose the Deployment is, and nothing else.
func TestAdopt_LeavesEverythingElse(t *testing.T) {
	s := asking("v2").finds("v1")
	before := s.Deployment.DeepCopy()
	s.step()
	d, _ := s.step()
	want := before.DeepCopy()
	want.Generation++
	want.Labels[v1alpha1.GuardedLabel] = "true"
	want.Annotations[v1alpha1.RevisionAnnotation] = s.Revisions[0].Name
	want.Annotations[v1alpha1.AppliedAnnotation] = d.Deployment.Annotations[v1alpha1.AppliedAnnotation]
	want.OwnerReferences = append(want.OwnerReferences, ownerReference(s.Guarded))
	if diff := cmp.Diff(want, s.Deployment); diff != "" {
		t.Errorf("taken over (-want +got):\n%s", diff)
	}
}

// A rollback after an adoption restores the template as it was found: the same ReplicaSet, so the same pods.
func TestRollback_ToWhatWasAdopted(t *testing.T) {
	s := asking("v2").scale(nil).finds("v1")
	s.Guarded.Spec.Guard.MaxRestarts = new(int32(0))
	found := s.Deployment.Spec.Template.DeepCopy()
	s.cluster = crashing
	done := play(s)
	if !slices.ContainsFunc(done, func(told string) bool { return strings.Contains(told, "mark v2 failed") }) {
		t.Fatalf("v2 did not fail: %q", done)
	}
	if diff := cmp.Diff(found, &s.Deployment.Spec.Template); diff != "" {
		t.Errorf("back on (-want +got):\n%s", diff)
	}
	if *s.Deployment.Spec.Replicas != 4 {
		t.Errorf("%d replicas, want the 4 that were found", *s.Deployment.Spec.Replicas)
	}
}

// The same template is good whatever its pods do at that moment, and however many more are asked for: it has nothing to
// prove. That it does not come up is reported.
func TestDecide_SameTemplate(t *testing.T) {
	for name, replicas := range map[string]*int32{"as many": nil, "more than fit": new(int32(6))} {
		s := asking("v1").scale(replicas).finds("v1")
		s.cluster = noneReady
		for range 400 {
			d, told := s.step()
			if strings.Contains(told, "failed") {
				t.Errorf("%s: %s", name, told)
			}
			if d.Deployment != nil {
				s.defaulted()
				s.up().Deployment.Status.AvailableReplicas--
			}
			s.after(pollInterval)
		}
		if got := conditions(&s.Guarded.Status); got != "Stalled DeadlineExceeded" || s.Guarded.Status.Failure != nil {
			t.Errorf("%s: ended as %s, failure %v", name, got, s.Guarded.Status.Failure)
		}
	}
}

// The mark of an earlier "kubectl rollout restart" is in no manifest, and is no reason to replace the pods.
func TestAdopt_Restarted(t *testing.T) {
	s := asking("v1").scale(nil).finds("v1")
	s.Deployment.Spec.Template.Annotations = map[string]string{"kubectl.kubernetes.io/restartedAt": "2024"}
	found := s.Deployment.Spec.Template.DeepCopy()
	play(s)
	if diff := cmp.Diff(found, &s.Deployment.Spec.Template); diff != "" {
		t.Errorf("the template is another (-found +is):\n%s", diff)
	}
	if got := conditions(&s.Guarded.Status); got != "Ready RolledOut" {
		t.Errorf("ended as %s", got)
	}
}

// Taken back after its owner has changed the template: what ran then is what a failure goes back to.
func TestLeave_TakenBackWithAnotherTemplate(t *testing.T) {
	s := asking("v10").scale(nil).knows("v1", 1, good).runningName("v1")
	s.Deployment.OwnerReferences = nil
	s.Deployment.Annotations[v1alpha1.AdoptAnnotation] = "web"
	s.Deployment.Spec.Template = template("v9")
	s.defaulted()
	s.up()
	s.Guarded.Spec.Guard.MaxRestarts = new(int32(0))
	s.cluster = crashing
	play(s)
	if got := s.Deployment.Spec.Template.Spec.Containers[0].Image; got != "v9" {
		t.Errorf("back on %s, want v9, which ran", got)
	}
}

func TestNameTaken_NothingIsWritten(t *testing.T) {
	for name, row := range map[string]struct {
		change func(*appsv1.Deployment)
		why    string // what the message has to say
	}{
		"no consent": {func(d *appsv1.Deployment) { delete(d.Annotations, v1alpha1.AdoptAnnotation) },
			"kubectl annotate deployment web --namespace shop belay.dev/adopt=web"},
		"consent to another": {func(d *appsv1.Deployment) { d.Annotations[v1alpha1.AdoptAnnotation] = "wob" }, `"wob"`},
		"empty consent":      {func(d *appsv1.Deployment) { d.Annotations[v1alpha1.AdoptAnnotation] = "" }, "Set its annotation belay.dev/adopt to web"},
		"another controller": {func(d *appsv1.Deployment) {
			d.OwnerReferences = append(d.OwnerReferences, metav1.OwnerReference{Kind: "Rollout", Name: "theirs", UID: "uid-of-rollout", Controller: new(true)})
		}, "controlled by Rollout theirs (uid uid-of-rollout)"},
		"another selector": {func(d *appsv1.Deployment) { d.Spec.Selector.MatchLabels["tier"] = "front" }, "with the selector app=web,tier=front"},
		"being deleted":    {func(d *appsv1.Deployment) { d.DeletionTimestamp = &metav1.Time{Time: noon} }, "waiting until it is gone"},
	} {
		t.Run(name, func(t *testing.T) {
			s := asking("v1").finds("v1")
			row.change(s.Deployment)
			before := s.Deployment.DeepCopy()
			d, told := s.step()
			if told != "Stalled NameTaken, Warning NameTaken, again in 2s" {
				t.Errorf("told %q", told)
			}
			if message := d.Status.Conditions[0].Message; !strings.Contains(message, row.why) {
				t.Errorf("the message %q does not say %q", message, row.why)
			}
			if _, told := s.step(); told != "again in 2s" {
				t.Errorf("then %q, want nothing", told)
			}
			if diff := cmp.Diff(before, s.Deployment, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("it is changed (-was +is):\n%s", diff)
			}
		})
	}
}

// A name that is about to be freed is looked at often, one that stays taken seldom. What has changed about it begins anew.
func TestNameTaken_RecheckedOftenAtFirst(t *testing.T) {
	s := asking("v1").finds("v1")
	delete(s.Deployment.Annotations, v1alpha1.AdoptAnnotation)
	looks := func(over time.Duration) (n int) {
		for end := s.Now.Add(over); s.Now.Before(end); n++ {
			d, _ := s.step()
			s.after(d.Recheck)
		}
		return n
	}
	for _, phase := range []struct {
		name   string
		change func()
		often  int // looks in two minutes
	}{
		{"seen first", func() {}, 60},
		{"as it was", func() {}, 2},
		{"consenting to another", func() { s.Deployment.Annotations[v1alpha1.AdoptAnnotation] = "wob" }, 60},
		{"scaled by its owner", func() { s.Deployment.Spec.Replicas = new(int32(7)) }, 2},
		{"being deleted", func() { s.Deployment.DeletionTimestamp = &metav1.Time{Time: s.Now} }, 60},
		{"another one", func() { s.Deployment.UID = "another" }, 60},
		{"still there", func() {}, 2},
		{"a new process", func() { s.restart() }, 60},
	} {
		phase.change()
		if n := looks(2 * time.Minute); n != phase.often {
			t.Errorf("%s: looked at it %d times in 2 minutes, want %d", phase.name, n, phase.often)
		}
	}
}

// Before anything is created, what the cache misses is looked up.
func TestDecide_MissingDeployment(t *testing.T) {
	for name, s := range map[string]*scene{
		"nothing recorded": asking("v1"),
		"a target":         asking("v1").knows("v1", 1, good),
		"paused":           asking("v1").pause(),
	} {
		s.DeploymentLive = false
		if d := Decide(s.Observed); !d.NeedDeployment || d.Write() != "" || d.Status != nil || len(d.Events) > 0 || d.Recheck != 0 {
			t.Errorf("%s: %+v, want nothing but the need for the Deployment", name, d)
		}
	}
	if d := Decide(asking("v1").knows("v1", 1, good).runningName("v1").with(func(s *scene) { s.DeploymentLive = false }).Observed); d.NeedDeployment {
		t.Error("a Deployment in the cache is looked up")
	}
}
