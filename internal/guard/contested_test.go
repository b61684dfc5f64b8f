package guard

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	fake "github.com/belay-dev/belay/internal/fakecluster"

	appsv1 "k8s.io/api/apps/v1"
	eventsv1 "k8s.io/api/events/v1"

	"github.com/belay-dev/belay/internal/expect"
	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// Whoever takes the owner reference away, again and again, from a Deployment that goes on consenting.
func TestContested_OwnerReferenceIsSlow(t *testing.T) {
	inWorld(t, func(w *world) {
		w.UpAndRunning("web")
		fake.Edit(w, "web", func(d *appsv1.Deployment) { d.Annotations[v1alpha1.AdoptAnnotation] = "web" })
		w.Pass(10 * time.Second)
		w.ForgetRequests()
		for range 3600 {
			fake.Edit(w, "web", func(d *appsv1.Deployment) { d.OwnerReferences = nil })
			w.Pass(time.Second)
		}
		if n := len(w.Requested("update", "deployments")); n > 2*12 {
			t.Errorf("%d writes of the Deployment in an hour, want two for each of 5 and 6 takeovers", n)
		}
		fake.WantStatus(w, "web", "Ready=False Contested")
	})
}

// The owner reference goes right after the takeover, before the template is stated.
func TestAdopt_UndoneAtOnce(t *testing.T) {
	inWorld(t, func(w *world) {
		d := fake.DeploymentOf(fake.Webshop("web", "web:1"))
		d.Annotations = map[string]string{v1alpha1.AdoptAnnotation: "web"}
		fake.Add(w, d)
		w.Pass(10 * time.Second)
		stripped := false
		w.Intercept(func(r request, carryOut func() error) error {
			err := carryOut()
			if r.Verb == "update" && r.Resource == "deployments" && !stripped {
				stripped = true
				fake.Edit(w, "web", func(d *appsv1.Deployment) { d.OwnerReferences = nil })
			}
			return err
		})
		fake.Add(w, fake.Webshop("web", "web:1"))
		w.Pass(30 * time.Minute)
		fake.WantStatus(w, "web", "Ready=True RolledOut")
	})
}

// Anybody may write there whose uid he likes.
func TestObserve_RevisionInAnotherNamespace(t *testing.T) {
	for name, image := range map[string]string{"another template": "evil:1", "the target's template": "web:2"} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.UpAndRunning("web")
				g, _ := fake.Read[*v1alpha1.GuardedDeployment](w, "web")
				live, _ := fake.Read[*appsv1.ControllerRevision](w, g.Status.TargetRevision)
				forged := live.DeepCopy()
				forged.Data.Raw = []byte(strings.ReplaceAll(string(forged.Data.Raw), "web:1", image))
				forged.Namespace, forged.ResourceVersion = "theirs", ""
				forged.Revision = 1
				forged.Annotations = map[string]string{v1alpha1.VerdictAnnotation: "good"}
				sum := sha256.Sum256(fmt.Appendf(nil, "%s\n%d\n%s", g.UID, 0, forged.Data.Raw)) // There is no secret in a name.
				forged.Name = g.Name + "-" + hex.EncodeToString(sum[:5])
				fake.Add(w, forged)
				w.Node.Set("web:2", fake.Crashing)
				w.Pass(time.Minute)
				w.ForgetRequests()
				fake.Release(w, "web", "web:2")
				w.Pass(30 * time.Minute)
				for _, r := range w.Asked(request.Writes) {
					if r.Object != nil && r.Object.GetNamespace() == "theirs" || r.Namespace == "theirs" {
						t.Errorf("wrote in another namespace: %s", r)
					}
				}
				fake.WantStatus(w, "web", "Ready=False RolledBack")
			})
		})
	}
}

// Somebody restores an older copy of the whole Deployment again and again.
func TestContested_NewReleaseWins(t *testing.T) {
	inWorld(t, func(w *world) {
		w.UpAndRunning("web")
		old, _ := fake.Read[*appsv1.Deployment](w, "web")
		fake.Release(w, "web", "web:2")
		w.Pass(time.Minute)
		fake.WantStatus(w, "web", "Ready=True RolledOut")
		for range 60 {
			fake.Edit(w, "web", func(d *appsv1.Deployment) { d.Spec, d.Annotations = *old.Spec.DeepCopy(), old.DeepCopy().Annotations })
			w.Pass(10 * time.Second)
		}
		fake.WantStatus(w, "web", "Ready=False Contested")
		fake.Release(w, "web", "web:3")
		w.Pass(5 * time.Second)
		if w.Image("web") != "web:3" {
			t.Errorf("5 s after the release: %s, %s", w.Image("web"), w.Status("web"))
		}
	})
}

func TestLostAnswer_IsNobodysChange(t *testing.T) {
	inWorld(t, func(w *world) {
		w.UpAndRunning("web")
		lost := false
		w.Intercept(func(r request, carryOut func() error) error {
			err := carryOut()
			if r.Verb == "update" && r.Resource == "deployments" && !lost {
				lost = true
				return fmt.Errorf("connection reset")
			}
			return err
		})
		fake.Release(w, "web", "web:2")
		w.Pass(time.Minute)
		fake.WantStatus(w, "web", "Ready=True RolledOut")
		fake.Release(w, "web", "web:3")
		w.Pass(time.Minute)
		fake.WantStatus(w, "web", "Ready=True RolledOut")
		for _, e := range w.EventsSent() {
			if strings.Contains(e, "Contested") {
				t.Errorf("an Event tells of a change by somebody: %s", e)
			}
		}
	})
}

// No watch shows when it is gone.
func TestPutDeployment_DeletedWithoutItsLabel(t *testing.T) {
	inWorld(t, func(w *world) {
		w.UpAndRunning("web")
		fake.Edit(w, "web", func(d *appsv1.Deployment) { d.Finalizers = []string{"foregroundDeletion"} })
		w.Pass(time.Minute)
		fake.Remove[*appsv1.Deployment](w, "web")
		fake.Edit(w, "web", func(d *appsv1.Deployment) { delete(d.Labels, v1alpha1.GuardedLabel) })
		w.Pass(time.Minute)
		fake.Edit(w, "web", func(d *appsv1.Deployment) { d.Finalizers = nil })
		w.Pass(30 * time.Minute)
		if w.Image("web") == "" {
			t.Errorf("no Deployment after 30 minutes: %s", w.Status("web"))
		}
	})
}

// client-go counts Events as one that differ in nothing but their text.
func TestContested_EveryCorrectionIsTold(t *testing.T) {
	inWorld(t, func(w *world) {
		w.UpAndRunning("web")
		fake.Edit(w, "web", func(d *appsv1.Deployment) { delete(d.Labels, v1alpha1.GuardedLabel) })
		w.Pass(10 * time.Second)
		fake.Edit(w, "web", func(d *appsv1.Deployment) { d.Spec.Replicas = new(int32(9)) })
		w.Pass(10 * time.Second)
		expect.Same(t, "put back", []string{"metadata.labels[belay.dev/guarded]", "spec.replicas"}, toldPutBack(w))
	})
}

// A policy that keeps old revisions keeps Belay from nothing else.
func TestPruneRevisions_Denied(t *testing.T) {
	inWorld(t, func(w *world) {
		w.Intercept(func(r request, carryOut func() error) error {
			if r.Verb == "delete" {
				return deniedByPolicy()
			}
			return carryOut()
		})
		g := fake.Webshop("web", "web:1")
		g.Spec.RevisionHistoryLimit = new(int32(0))
		fake.Add(w, g)
		w.Pass(time.Minute)
		for _, image := range []string{"web:2", "web:3", "web:4"} {
			fake.Release(w, "web", image)
			w.Pass(2 * time.Minute)
		}
		w.ForgetRequests()
		w.Pass(time.Hour)
		wantCalm(w, 0)
		fake.WantStatus(w, "web", "Ready=True RolledOut")
	})
}

func TestRecordRevision_PolicyTakesTheLabel(t *testing.T) {
	inWorld(t, func(w *world) {
		w.Intercept(func(r request, carryOut func() error) error {
			if o, ok := r.Object.(*appsv1.ControllerRevision); ok {
				delete(o.Labels, v1alpha1.GuardedLabel)
			}
			return carryOut()
		})
		fake.Add(w, fake.Webshop("web", "web:1"))
		w.Pass(30 * time.Minute)
		if !strings.Contains(w.Logged(), "came back without its label belay.dev/guarded") {
			t.Error("the log does not tell")
		}
		wantCalm(w, 400)
	})
}

func TestUpdateRevision_PolicyTakesTheVerdict(t *testing.T) {
	inWorld(t, func(w *world) {
		w.Intercept(func(r request, carryOut func() error) error {
			if o, ok := r.Object.(*appsv1.ControllerRevision); ok {
				o.Annotations = nil
			}
			return carryOut()
		})
		fake.Add(w, fake.Webshop("web", "web:1"))
		w.Pass(30 * time.Minute)
		if !strings.Contains(w.Logged(), "came back without its annotation belay.dev/verdict") {
			t.Error("the log does not tell")
		}
		if got := len(w.Requested("update", "controllerrevisions")); got > 80 {
			t.Errorf("%d updates of the revision in half an hour, want at most one in 30 s, and some before", got)
		}
		expect.Same(t, "what ran", []string{"web:1"}, endingOf(w).Ran)
	})
}

// toldPutBack returns what the Events say was put back.
func toldPutBack(w *world) (told []string) {
	for _, r := range w.Requested("create", "events") {
		if e := r.Object.(*eventsv1.Event); e.Reason == v1alpha1.ReasonContested {
			told = append(told, strings.Fields(e.Note)[2])
		}
	}
	return told
}

func TestContested_LostCorrectionsAreTold(t *testing.T) {
	for what, is := range map[string]func(request) bool{
		"nothing is lost":  func(request) bool { return false },
		"the Deployment's": everyWrite["update the Deployment"],
		"the status's":     everyWrite["write the status"],
	} {
		t.Run(what, func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.UpAndRunning("web")
				w.Pass(time.Minute)
				w.Intercept(func(r request, carryOut func() error) error {
					if err := carryOut(); err != nil || !is(r) {
						return err
					}
					return errors.New("http2: client connection lost")
				})
				fake.Edit(w, "web", func(d *appsv1.Deployment) { delete(d.Labels, v1alpha1.GuardedLabel) })
				w.Pass(10 * time.Second)
				fake.Edit(w, "web", func(d *appsv1.Deployment) { d.Spec.Replicas = new(int32(9)) })
				w.Pass(10 * time.Second)
				fake.Edit(w, "web", func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Image = "theirs" })
				w.Pass(time.Minute)
				expect.Same(t, "put back", []string{"metadata.labels[belay.dev/guarded]", "spec.replicas", "spec.template.spec.containers[0].image"}, toldPutBack(w))
			})
		})
	}
}

// A good verdict that could not be stored, and new replicas before it is tried again.
func TestHold_LateVerdictNotStored(t *testing.T) {
	inWorld(t, func(w *world) {
		holdFailure(w)
		w.Node.Set("web:2", nil)
		w.Intercept(func(r request, carryOut func() error) error {
			if everyWrite["mark a revision"](r) {
				w.Intercept(nil)
				fake.Edit(w, "web", func(g *v1alpha1.GuardedDeployment) { g.Spec.Replicas = new(int32(5)) })
				return errors.New("http2: client connection lost")
			}
			return carryOut()
		})
		w.Pass(10 * time.Minute)
		fake.WantStatus(w, "web", "Ready=True RolledOut")
		expect.Same(t, "put back", []string(nil), toldPutBack(w))
	})
}

// A watch may show the status later than it is waited for.
func TestEvents_ToldOnceThoughTheWatchLags(t *testing.T) {
	for _, lag := range []time.Duration{20 * time.Second, time.Minute, 10 * time.Minute} {
		t.Run(lag.String(), func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.Intercept(func(r request, carryOut func() error) error {
					if o, ok := r.Object.(*v1alpha1.GuardedDeployment); ok && fake.Readiness(o) == "Ready=True RolledOut" {
						w.Hold("guardeddeployments")
						w.Intercept(nil)
					}
					return carryOut()
				})
				fake.Add(w, fake.Webshop("web", "web:1"))
				w.Pass(40 * time.Second)
				for range lag / (10 * time.Second) {
					fake.Edit(w, "web", func(d *appsv1.Deployment) { d.Labels["x"] = time.Now().Format("150405") })
					w.Pass(10 * time.Second)
				}
				w.LetGo("guardeddeployments")
				w.Pass(2 * time.Minute)
				fake.WantStatus(w, "web", "Ready=True RolledOut")
				expect.Same(t, "Events", []string{"Normal RolledOut"}, w.EventsSent())
			})
		})
	}
}
