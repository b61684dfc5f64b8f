package rollout

import (
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

func managed(manager string, age time.Duration, fields string) metav1.ManagedFieldsEntry {
	return metav1.ManagedFieldsEntry{Manager: manager, Operation: metav1.ManagedFieldsOperationUpdate,
		Time: new(metav1.NewTime(noon.Add(-age))), FieldsType: "FieldsV1", FieldsV1: metav1.NewFieldsV1(fields)}
}

func TestRivalOf(t *testing.T) {
	d := &appsv1.Deployment{}
	d.Labels = map[string]string{"app.kubernetes.io/name": "web"}
	d.Spec.Replicas = new(int32(3))
	d.Spec.Template.Spec.Containers = []corev1.Container{
		{Name: "a", Image: "a:1"},
		{Name: "b", Image: "b:1", Args: []string{"x"}, Ports: []corev1.ContainerPort{{ContainerPort: 80, Protocol: "TCP", Name: "http"}}},
	}
	d.ManagedFields = []metav1.ManagedFieldsEntry{
		managed("belay", time.Minute, `{"f:spec":{"f:replicas":{},"f:template":{"f:spec":{"f:containers":{"k:{\"name\":\"a\"}":{".":{},"f:image":{},"f:name":{}}}}}}}`),
		managed("kubectl-set", time.Hour, `{"f:spec":{"f:template":{"f:spec":{"f:containers":{"k:{\"name\":\"b\"}":{"f:image":{}}}}}}}`),
		managed("ports", 2*time.Hour, `{"f:spec":{"f:template":{"f:spec":{"f:containers":{"k:{\"name\":\"b\"}":{"f:ports":{"k:{\"containerPort\":80,\"protocol\":\"TCP\"}":{".":{},"f:name":{}}}}}}}}}`),
		managed("labels", 3*time.Hour, `{"f:metadata":{"f:labels":{".":{},"f:app.kubernetes.io/name":{}}}}`),
		managed("annotations", 4*time.Hour, `{"f:metadata":{"f:annotations":{"f:belay.dev/applied":{}}}}`),
		managed("newest", time.Second, `{"f:spec":{"f:paused":{},"f:template":{"f:spec":{"f:containers":{"k:{\"name\":\"b\"}":{"f:args":{}}}}}}}`),
		managed("garbage", 0, `{"f:spec"`),
	}
	status := managed("kube-controller-manager", -time.Hour, `{"f:status":{"f:replicas":{}}}`)
	status.Subresource = "status"
	d.ManagedFields = append(d.ManagedFields, status)
	for path, want := range map[string]string{
		"spec.template.spec.containers[1].image":         "kubectl-set",
		"spec.template.spec.containers[1].ports[0].name": "ports",
		"spec.template.spec.containers[1].args":          "newest",
		"spec.template.spec.containers[1].args[0]":       "newest",
		"metadata.labels[app.kubernetes.io/name]":        "labels",
		"metadata.annotations[belay.dev/applied]":        "annotations",
		"spec.paused": "newest",
		// Of these nobody but belay is the owner: it is whoever wrote last, whatever that was.
		"spec.template.spec.containers[0].image": "garbage",
		"spec.replicas":                          "garbage",
		"spec.minReadySeconds":                   "garbage",
		"spec.pausedly":                          "garbage",
	} {
		if got := rivalOf(d, path, "belay"); got != want {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
	}
	d.ManagedFields = []metav1.ManagedFieldsEntry{d.ManagedFields[0], status}
	if got := rivalOf(d, "spec.replicas", "belay"); got != "" {
		t.Errorf("nobody else was there: %q", got)
	}
}

// Whatever somebody else does, however fast: five corrections, and then one in ten minutes, which names what and who.
func TestCorrect_FightIsSlow(t *testing.T) {
	t.Parallel()
	for name, fight := range map[string]struct {
		change func(*appsv1.Deployment, int)
		path   string
	}{
		"the image":    {func(d *appsv1.Deployment, _ int) { d.Spec.Template.Spec.Containers[0].Image = "theirs" }, "spec.template.spec.containers[0].image"},
		"the revision": {func(d *appsv1.Deployment, _ int) { d.Annotations["belay.dev/revision"] = "theirs" }, "metadata.annotations[belay.dev/revision]"},
		"the hash":     {func(d *appsv1.Deployment, n int) { d.Annotations["belay.dev/applied"] = strings.Repeat("f", n%9) }, "metadata.annotations[belay.dev/applied]"},
		"both": {func(d *appsv1.Deployment, _ int) {
			d.Annotations["belay.dev/revision"], d.Annotations["belay.dev/applied"] = "theirs", "theirs"
		}, "metadata.annotations[belay.dev/applied]"},
		"the label": {func(d *appsv1.Deployment, _ int) { delete(d.Labels, "belay.dev/guarded") }, "metadata.labels[belay.dev/guarded]"},
	} {
		t.Run(name, func(t *testing.T) {
			s := asking("v1")
			s.play()
			begun, writes := s.Now, []time.Duration{}
			for s.Now.Sub(begun) < 3*time.Hour {
				fight.change(s.Deployment, int(s.Now.Unix()))
				s.Deployment.Generation++
				s.Memory.rival = "argocd-controller"
				d, _ := s.step()
				if d.Deployment != nil {
					writes = append(writes, s.Now.Sub(begun))
					if d.Correction != fight.path {
						t.Errorf("puts back %q, want %q", d.Correction, fight.path)
					}
				}
				s.after(15 * time.Second)
			}
			first, later := 0, 0
			for _, at := range writes {
				if at < 5*time.Minute {
					first++
				} else {
					later++
				}
			}
			if first != 5 || later < 16 || later > 18 {
				t.Errorf("%d corrections in the first minutes and %d in 3 hours, want 5 and 6 an hour: %s", first, later, writes)
			}
			c := s.Guarded.Status.Conditions[0]
			if c.Reason != "Contested" || !strings.Contains(c.Message, fight.path) || !strings.Contains(c.Message, `"argocd-controller"`) {
				t.Errorf("reported as %s: %s", c.Reason, c.Message)
			}
		})
	}
}

// When a change is put back, and how that counts. Whom it is put down to is known of the same path only.
func TestCorrect_Bounds(t *testing.T) {
	for _, row := range []struct {
		name        string
		ago         time.Duration
		path        string // what was put back before
		corrections int    // then, 0 if it is not put back
		says        string
	}{
		{"too soon", correctionPause - 1, "spec.replicas", 0, `"argocd" keeps changing spec.replicas`},
		{"too soon after something else", correctionPause - 1, "spec.paused", 0, "somebody keeps changing spec.replicas"},
		{"in time", correctionPause, "spec.replicas", freeCorrections + 1, ""},
		{"hardly remembered", correctionsForgotten - 1, "spec.replicas", freeCorrections + 1, ""},
		{"forgotten", correctionsForgotten, "spec.replicas", 1, ""},
	} {
		s := asking("v1").knows("v1", 1, good).runningName("v1").remembers("v1", PhaseHealthy)
		s.Memory.applied = s.Deployment.Annotations[v1alpha1.AppliedAnnotation]
		s.Memory.corrections, s.Memory.corrected, s.Memory.correctedPath, s.Memory.rival = freeCorrections, noon.Add(-row.ago), row.path, "argocd"
		s.Deployment.Spec.Replicas = new(int32(7))
		d := Decide(s.Observed)
		if put := d.Correction == "spec.replicas"; put != (row.corrections > 0) || (put && d.Memory.corrections != row.corrections) {
			t.Errorf("%s: puts back %q, as the %dth", row.name, d.Correction, d.Memory.corrections)
		}
		if message := d.Status.Conditions[0].Message; !strings.Contains(message, row.says) {
			t.Errorf("%s: it says %q, want %q", row.name, message, row.says)
		}
	}
}

// Nor is it taken over more often, when somebody takes the owner reference away and leaves the consent.
func TestAdopt_FightIsSlow(t *testing.T) {
	s := asking("v1")
	s.play()
	begun, takenOver := s.Now, 0
	for s.Now.Sub(begun) < 3*time.Hour {
		s.Deployment.OwnerReferences, s.Deployment.Annotations["belay.dev/adopt"] = nil, "web"
		d, _ := s.step()
		if d.Deployment != nil && d.Correction == "metadata.ownerReferences" {
			takenOver++
		} else if d.Deployment != nil {
			t.Errorf("corrects %q", d.Correction)
		}
		s.after(15 * time.Second)
	}
	if takenOver < 21 || takenOver > 23 {
		t.Errorf("taken over %d times in 3 hours, want 5 and 6 an hour", takenOver)
	}
	if c := s.Guarded.Status.Conditions[0]; c.Reason != "Contested" {
		t.Errorf("reported as %s: %s", c.Reason, c.Message)
	}
}

// The owner reference may go before anything else is stated: it is taken over again all the same.
func TestLeave_TakenOverAgain(t *testing.T) {
	s := asking("v2").finds("v1").pause()
	s.play()
	s.restart().write(desiredAdopted(s.Guarded, s.revision("v1")), nil)
	s.Deployment.OwnerReferences = nil
	if s.play(); !metav1.IsControlledBy(s.Deployment, s.Guarded) {
		t.Error("it is not taken over again")
	}
}

// A new release is written although the Deployment is contested, whatever somebody does to the annotations.
func TestCorrect_ReleaseIsWrittenDuringFight(t *testing.T) {
	s := asking("v1")
	s.play()
	s.Memory.corrections, s.Memory.corrected = freeCorrections, s.Now
	for _, image := range []string{"v2", "v3"} {
		s.Deployment.Annotations["belay.dev/applied"] = "theirs"
		s.step()
		s.ask(image)
		s.step()
		if d, told := s.step(); d.Deployment == nil || d.Correction != "" || d.Deployment.Spec.Template.Spec.Containers[0].Image != image {
			t.Errorf("instead of running %s: %s", image, told)
		}
	}
}

// What is left as it is stays so, whatever somebody lets the annotation say: it is put back, and no template is written.
func TestDecide_FalseRevisionAnnotation(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"", "theirs", "v1"} {
		s := asking("v2").knows("v1", 1, failed).knows("v2", 2, failed).runningName("v2").hold()
		s.cluster = crashing
		s.play()
		want := s.Deployment.DeepCopy()
		if other := s.revision(name); other != nil {
			name = other.Name
		}
		s.Deployment.Annotations[v1alpha1.RevisionAnnotation] = name
		s.play()
		if diff := cmp.Diff(want.Spec, s.Deployment.Spec); diff != "" || !maps.Equal(want.Annotations, s.Deployment.Annotations) {
			t.Errorf("after %q: %v%s", name, s.Deployment.Annotations, diff)
		}
	}
}

// Whatever else has to be put back with the template, what comes after it is a new rollout: what became of the pods meanwhile
// is nobody's failure.
func TestCorrect_TemplateIsWatchedAnew(t *testing.T) {
	for name, change := range map[string]func(*scene){
		"the template alone": func(*scene) {},
		"the label":          func(s *scene) { delete(s.Deployment.Labels, v1alpha1.GuardedLabel) },
		"the hash":           func(s *scene) { s.Deployment.Annotations[v1alpha1.AppliedAnnotation] = "theirs" },
		"the replicas":       func(s *scene) { s.scale(new(int32(5))) },
	} {
		s := asking("v1").knows("v1", 1, unjudged).runningName("v1").remembers("v1", PhaseSoaking)
		s.Memory.applied = s.Deployment.Annotations[v1alpha1.AppliedAnnotation]
		s.Memory.Progress.complete = 1
		s.Deployment.Spec.Template.Spec.Containers[0].Image = "theirs"
		change(s)
		if d, told := s.step(); d.Deployment == nil || d.Memory.Progress.Phase != PhaseProgressing || d.Memory.Progress.complete != 0 {
			t.Errorf("%s: %s, and the move goes on as %s", name, told, d.Memory.Progress.Phase)
		}
	}
}

// What a policy makes of every template is no reason for a new rollout when the replicas are written.
func TestCorrect_ScalingWhatAPolicyChanges(t *testing.T) {
	s := asking("v1").knows("v1", 1, good).runningName("v1").remembers("v1", PhaseHealthy)
	desired := desiredDeployment(s.Guarded, s.revision("v1"), nil)
	s.Memory.applied = s.Deployment.Annotations[v1alpha1.AppliedAnnotation]
	s.Deployment.Spec.Template.Spec.Containers[0].Image = "mirror/v1"
	s.Memory.accepted = Accept(desired, s.Deployment)
	if d, told := s.scale(new(int32(5))).step(); d.Deployment == nil || d.Memory.Progress.Phase != PhaseHealthy {
		t.Errorf("%s, and the move is %s", told, d.Memory.Progress.Phase)
	}
}

// A fight over anything but the template keeps nothing from being judged, and from being rolled back.
func TestCorrect_JudgedDuringFightOverReplicas(t *testing.T) {
	s := asking("v1")
	s.play()
	s.Memory.corrections, s.Memory.corrected = freeCorrections, s.Now
	s.ask("v2").cluster = crashing
	s.Guarded.Spec.Guard.MaxRestarts = new(int32(0))
	done := []string{}
	for range 10 {
		d, told := s.step()
		s.Deployment.Spec.Replicas = new(int32(9))
		done = append(done, told)
		s.after(max(pollInterval, min(d.Recheck, 4*time.Second)))
	}
	if all := strings.Join(done, "; "); !strings.Contains(all, "mark v2 failed") || !strings.Contains(all, "run v1") {
		t.Errorf("done: %s", all)
	}
	if got := conditions(&s.Guarded.Status); got != "Stalled Contested" || s.Guarded.Status.Failure == nil {
		t.Errorf("reported as %s, with failure %v", got, s.Guarded.Status.Failure)
	}
}
