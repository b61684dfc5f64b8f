package main

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	eventsv1 "k8s.io/api/events/v1"

	"github.com/belay-dev/belay/internal/expect"
	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// Whoever takes the owner reference away, again and again, from a Deployment that goes on consenting.
func TestAFightOverTheOwnerReferenceIsSlow(t *testing.T) {
	inWorld(t, func(w *world) {
		w.upAndRunning("web")
		edit(w, "web", func(d *appsv1.Deployment) { d.Annotations[v1alpha1.AdoptAnnotation] = "web" })
		w.pass(10 * time.Second)
		w.forgetRequests()
		for range 3600 {
			edit(w, "web", func(d *appsv1.Deployment) { d.OwnerReferences = nil })
			w.pass(time.Second)
		}
		if n := len(w.requested("update", "deployments")); n > 2*12 {
			t.Errorf("%d writes of the Deployment in an hour, want two for each of 5 and 6 takeovers", n)
		}
		wantStatus(w, "web", "Ready=False Contested")
	})
}

// The owner reference goes right after the takeover, before the template is stated.
func TestATakeoverThatIsUndoneAtOnceIsMadeAgain(t *testing.T) {
	inWorld(t, func(w *world) {
		d := deploymentOf(webshop("web", "web:1"))
		d.Annotations = map[string]string{v1alpha1.AdoptAnnotation: "web"}
		add(w, d)
		w.pass(10 * time.Second)
		stripped := false
		w.intercept(func(r request, carryOut func() error) error {
			err := carryOut()
			if r.verb == "update" && r.resource == "deployments" && !stripped {
				stripped = true
				edit(w, "web", func(d *appsv1.Deployment) { d.OwnerReferences = nil })
			}
			return err
		})
		add(w, webshop("web", "web:1"))
		w.pass(30 * time.Minute)
		wantStatus(w, "web", "Ready=True RolledOut")
	})
}

// Anybody may write there whose uid he likes.
func TestARevisionInAnotherNamespaceChangesNothing(t *testing.T) {
	for name, image := range map[string]string{"another template": "evil:1", "the target's template": "web:2"} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.upAndRunning("web")
				g, _ := read[*v1alpha1.GuardedDeployment](w, "web")
				live, _ := read[*appsv1.ControllerRevision](w, g.Status.TargetRevision)
				forged := copied(live)
				forged.Data.Raw = []byte(strings.ReplaceAll(string(forged.Data.Raw), "web:1", image))
				forged.Namespace, forged.ResourceVersion = "theirs", ""
				forged.Revision = 1
				forged.Annotations = map[string]string{v1alpha1.VerdictAnnotation: "good"}
				sum := sha256.Sum256(fmt.Appendf(nil, "%s\n%d\n%s", g.UID, 0, forged.Data.Raw)) // There is no secret in a name.
				forged.Name = g.Name + "-" + hex.EncodeToString(sum[:5])
				add(w, forged)
				w.node.set("web:2", crashing)
				w.pass(time.Minute)
				w.forgetRequests()
				release(w, "web", "web:2")
				w.pass(30 * time.Minute)
				for _, r := range w.asked(request.writes) {
					if r.object != nil && r.object.GetNamespace() == "theirs" || r.namespace == "theirs" {
						t.Errorf("wrote in another namespace: %s", r)
					}
				}
				wantStatus(w, "web", "Ready=False RolledBack")
			})
		})
	}
}

// Somebody restores an older copy of the whole Deployment again and again.
func TestANewReleaseWinsOverAFight(t *testing.T) {
	inWorld(t, func(w *world) {
		w.upAndRunning("web")
		old, _ := read[*appsv1.Deployment](w, "web")
		release(w, "web", "web:2")
		w.pass(time.Minute)
		wantStatus(w, "web", "Ready=True RolledOut")
		for range 60 {
			edit(w, "web", func(d *appsv1.Deployment) { d.Spec, d.Annotations = *old.Spec.DeepCopy(), copied(old).Annotations })
			w.pass(10 * time.Second)
		}
		wantStatus(w, "web", "Ready=False Contested")
		release(w, "web", "web:3")
		w.pass(5 * time.Second)
		if w.image("web") != "web:3" {
			t.Errorf("5 s after the release: %s, %s", w.image("web"), w.status("web"))
		}
	})
}

func TestALostAnswerIsNobodysChange(t *testing.T) {
	inWorld(t, func(w *world) {
		w.upAndRunning("web")
		lost := false
		w.intercept(func(r request, carryOut func() error) error {
			err := carryOut()
			if r.verb == "update" && r.resource == "deployments" && !lost {
				lost = true
				return fmt.Errorf("connection reset")
			}
			return err
		})
		release(w, "web", "web:2")
		w.pass(time.Minute)
		wantStatus(w, "web", "Ready=True RolledOut")
		release(w, "web", "web:3")
		w.pass(time.Minute)
		wantStatus(w, "web", "Ready=True RolledOut")
		for _, e := range w.eventsSent() {
			if strings.Contains(e, "Contested") {
				t.Errorf("an Event tells of a change by somebody: %s", e)
			}
		}
	})
}

// No watch shows when it is gone.
func TestADeploymentDeletedWithoutItsLabelIsCreatedAgain(t *testing.T) {
	inWorld(t, func(w *world) {
		w.upAndRunning("web")
		edit(w, "web", func(d *appsv1.Deployment) { d.Finalizers = []string{"foregroundDeletion"} })
		w.pass(time.Minute)
		remove[*appsv1.Deployment](w, "web")
		edit(w, "web", func(d *appsv1.Deployment) { delete(d.Labels, v1alpha1.GuardedLabel) })
		w.pass(time.Minute)
		edit(w, "web", func(d *appsv1.Deployment) { d.Finalizers = nil })
		w.pass(30 * time.Minute)
		if w.image("web") == "" {
			t.Errorf("no Deployment after 30 minutes: %s", w.status("web"))
		}
	})
}

// client-go counts Events as one that differ in nothing but their text.
func TestEveryCorrectionIsTold(t *testing.T) {
	inWorld(t, func(w *world) {
		w.upAndRunning("web")
		edit(w, "web", func(d *appsv1.Deployment) { delete(d.Labels, v1alpha1.GuardedLabel) })
		w.pass(10 * time.Second)
		edit(w, "web", func(d *appsv1.Deployment) { d.Spec.Replicas = new(int32(9)) })
		w.pass(10 * time.Second)
		var told []string
		for _, r := range w.requested("create", "events") {
			if e := r.object.(*eventsv1.Event); e.Reason == v1alpha1.ReasonContested {
				told = append(told, strings.Fields(e.Note)[2])
			}
		}
		expect.Same(t, "put back", []string{"metadata.labels[belay.dev/guarded]", "spec.replicas"}, told)
	})
}

// A policy that keeps old revisions keeps Belay from nothing else.
func TestDeniedPruningIsLeftAtThat(t *testing.T) {
	inWorld(t, func(w *world) {
		w.intercept(func(r request, carryOut func() error) error {
			if r.verb == "delete" {
				return deniedByPolicy()
			}
			return carryOut()
		})
		g := webshop("web", "web:1")
		g.Spec.RevisionHistoryLimit = new(int32(0))
		add(w, g)
		w.pass(time.Minute)
		for _, image := range []string{"web:2", "web:3", "web:4"} {
			release(w, "web", image)
			w.pass(2 * time.Minute)
		}
		w.forgetRequests()
		w.pass(time.Hour)
		wantCalm(w, 0)
		wantStatus(w, "web", "Ready=True RolledOut")
	})
}

func TestAPolicyThatTakesTheLabelFromRevisionsIsTold(t *testing.T) {
	inWorld(t, func(w *world) {
		w.intercept(func(r request, carryOut func() error) error {
			if o, ok := r.object.(*appsv1.ControllerRevision); ok {
				delete(o.Labels, v1alpha1.GuardedLabel)
			}
			return carryOut()
		})
		add(w, webshop("web", "web:1"))
		w.pass(30 * time.Minute)
		if !strings.Contains(w.logged(), "came back without its label belay.dev/guarded") {
			t.Error("the log does not tell")
		}
		wantCalm(w, 400)
	})
}

func TestAPolicyThatTakesVerdictsAwayIsTold(t *testing.T) {
	inWorld(t, func(w *world) {
		w.intercept(func(r request, carryOut func() error) error {
			if o, ok := r.object.(*appsv1.ControllerRevision); ok {
				o.Annotations = nil
			}
			return carryOut()
		})
		add(w, webshop("web", "web:1"))
		w.pass(30 * time.Minute)
		if !strings.Contains(w.logged(), "came back without its annotation belay.dev/verdict") {
			t.Error("the log does not tell")
		}
		if got := len(w.requested("update", "controllerrevisions")); got > 80 {
			t.Errorf("%d updates of the revision in half an hour, want at most one in 30 s, and some before", got)
		}
		expect.Same(t, "what ran", []string{"web:1"}, endingOf(w).Ran)
	})
}
