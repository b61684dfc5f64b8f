package main

import (
	"context"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/belay-dev/belay/internal/expect"
	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// managed gives a Deployment the managed fields that it has on a real API server when Belay has written it, and the
// Deployment controller has reported.
func managed(d *appsv1.Deployment) {
	for _, entry := range []metav1.ManagedFieldsEntry{{Manager: fieldManager}, {Manager: "kube-controller-manager", Subresource: "status"}} {
		entry.Operation, entry.APIVersion, entry.FieldsType = metav1.ManagedFieldsOperationUpdate, "apps/v1", "FieldsV1"
		d.ManagedFields = append(d.ManagedFields, entry)
	}
}

// orphan does what "kubectl delete gd --cascade=orphan" and the garbage collector do, in their order.
func (w *world) orphan(name string) {
	edit(w, name, managed)
	edit(w, name, func(g *v1alpha1.GuardedDeployment) { g.Finalizers = []string{metav1.FinalizerOrphanDependents} })
	remove[*v1alpha1.GuardedDeployment](w, name)
	w.pass(time.Second)
	edit(w, name, func(d *appsv1.Deployment) { d.OwnerReferences = nil })
	w.pass(time.Second)
	edit(w, name, func(g *v1alpha1.GuardedDeployment) { g.Finalizers = nil })
}

// wantReleased fails the test if the Deployment is not the one from before, without what Belay had put there.
func wantReleased(w *world, before *appsv1.Deployment) {
	w.t.Helper()
	after, _ := read[*appsv1.Deployment](w, before.Name)
	if after == nil || after.UID != before.UID {
		w.t.Fatalf("the Deployment is %v, want uid %s", after, before.UID)
	}
	expect.Same(w.t, "spec", before.Spec, after.Spec)
	for key := range after.Annotations {
		if strings.HasPrefix(key, v1alpha1.GroupName+"/") && key != v1alpha1.AdoptAnnotation {
			w.t.Errorf("it has the annotation %s still", key)
		}
	}
	if len(after.ManagedFields) != 1 || after.ManagedFields[0].Manager != "kube-controller-manager" || after.Labels[v1alpha1.GuardedLabel] != "" {
		w.t.Errorf("it has labels %v and managed fields %v, want none of Belay's", after.Labels, after.ManagedFields)
	}
}

func TestAnOrphanIsLetGoOfOnce(t *testing.T) {
	inWorld(t, func(w *world) {
		w.upAndRunning("web")
		before, _ := read[*appsv1.Deployment](w, "web")
		w.forgetRequests()
		w.orphan("web")
		w.pass(time.Second)
		wantReleased(w, before)
		edit(w, "web", func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Image = "theirs:1" })
		w.pass(10 * time.Minute)
		expect.Same(t, "requests", map[string]int{"get deployments": 1, "get guardeddeployments": 1, "update deployments": 1},
			counts(w.asked(everything)))
		expect.Same(t, "image that runs", "theirs:1", w.image("web"))
	})
}

func TestAnOrphanFromWhenBelayWasAwayIsLetGoOf(t *testing.T) {
	inEmptyWorld(t, func(w *world) {
		p := w.startBelay()
		w.upAndRunning("web")
		p.stop()
		before, _ := read[*appsv1.Deployment](w, "web")
		w.orphan("web")
		w.forgetRequests()
		w.startBelay()
		w.pass(time.Second)
		wantReleased(w, before)
		w.pass(10 * time.Minute)
		expect.Same(t, "what was written", 1, len(w.asked(request.writes)))
	})
}

// While it is being deleted, the GuardedDeployment has the last word still.
func TestNothingIsLetGoOfWhileTheGuardedDeploymentIsThere(t *testing.T) {
	inWorld(t, func(w *world) {
		w.upAndRunning("web")
		edit(w, "web", managed)
		edit(w, "web", func(g *v1alpha1.GuardedDeployment) { g.Finalizers = []string{metav1.FinalizerOrphanDependents} })
		remove[*v1alpha1.GuardedDeployment](w, "web")
		w.pass(time.Second)
		theirs := edit(w, "web", func(d *appsv1.Deployment) { d.OwnerReferences = nil })
		w.forgetRequests()
		w.pass(10 * time.Minute)
		wantUntouched(w, theirs)
		expect.Same(t, "what was written", []string(nil), w.diary())
	})
}

// The cache may not have heard of a GuardedDeployment that the API server has: an orphan is its own to ask for.
func TestAnOrphanIsNotLetGoOfBehindAnotherLifesBack(t *testing.T) {
	inWorld(t, func(w *world) {
		w.upAndRunning("web")
		edit(w, "web", managed)
		remove[*v1alpha1.GuardedDeployment](w, "web")
		w.pass(time.Second)
		w.hold("guardeddeployments")
		add(w, webshop("web", "web:2"))
		theirs := edit(w, "web", func(d *appsv1.Deployment) { d.OwnerReferences = nil })
		w.forgetRequests()
		w.pass(time.Minute)
		wantUntouched(w, theirs)
		expect.Same(t, "what was written", []string(nil), w.diary())
		w.letGo("guardeddeployments")
		w.pass(time.Minute)
		wantUntouched(w, theirs)
		wantStatus(w, "web", "Ready=False NameTaken")
	})
}

func TestWhatOnlyLooksLikeAnOrphanIsLeftAlone(t *testing.T) {
	for name, change := range map[string]func(*appsv1.Deployment){
		"with a controller":          func(d *appsv1.Deployment) { d.OwnerReferences[0].UID = "another" },
		"guarded in place":           func(d *appsv1.Deployment) { d.Labels[v1alpha1.GuardedLabel] = "in-place" },
		"with the label alone":       func(d *appsv1.Deployment) { delete(d.Annotations, v1alpha1.RevisionAnnotation) },
		"a copy that others applied": func(d *appsv1.Deployment) { d.ManagedFields = d.ManagedFields[1:] },
		"being deleted":              func(d *appsv1.Deployment) { d.DeletionTimestamp = new(metav1.Now()); d.Finalizers = []string{"theirs"} },
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.node.switchOff(true)
				d := deploymentOf(webshop("web", "web:1"))
				d.Labels = map[string]string{v1alpha1.GuardedLabel: "true"}
				d.Annotations = map[string]string{v1alpha1.RevisionAnnotation: "web-1", v1alpha1.AppliedAnnotation: "hash"}
				if name == "with a controller" {
					d.OwnerReferences = []metav1.OwnerReference{{Kind: "Rollout", Name: "theirs", Controller: new(true)}}
				}
				managed(d)
				change(d)
				theirs := add(w, d)
				w.pass(10 * time.Minute)
				wantUntouched(w, theirs)
				expect.Same(t, "what was written", []string(nil), w.diary())
			})
		})
	}
}

// The Deployment controller writes its status while Belay reads, for example.
func TestLettingGoIsTriedAgainAfterAConflict(t *testing.T) {
	inWorld(t, func(w *world) {
		w.upAndRunning("web")
		before, _ := read[*appsv1.Deployment](w, "web")
		conflicts := 0
		w.intercept(func(r request, carryOut func() error) error {
			if r.verb == "update" && r.resource == "deployments" && conflicts == 0 {
				conflicts++
				edit(w, "web", func(d *appsv1.Deployment) { d.Labels["theirs"] = "new" })
			}
			return carryOut()
		})
		w.orphan("web")
		w.pass(time.Second)
		wantReleased(w, before)
		expect.Same(t, "conflicts", 1, conflicts)
	})
}

func TestAPolicyThatRefusesToLetGoIsAskedSeldom(t *testing.T) {
	inWorld(t, func(w *world) {
		w.upAndRunning("web")
		w.intercept(func(r request, carryOut func() error) error {
			if r.verb == "update" && r.resource == "deployments" {
				return deniedByPolicy()
			}
			return carryOut()
		})
		w.orphan("web")
		w.forgetRequests()
		w.pass(time.Hour)
		if n := len(w.asked(request.writes)); n < 11 || n > 13 {
			t.Errorf("%d tries in an hour, want one in five minutes", n)
		}
		w.intercept(nil)
		before, _ := read[*appsv1.Deployment](w, "web")
		w.pass(5 * time.Minute)
		wantReleased(w, before)
	})
}

func TestNothingIsLetGoOfWithoutAnAnswerThatTheGuardedDeploymentIsGone(t *testing.T) {
	inWorld(t, func(w *world) {
		w.upAndRunning("web")
		w.intercept(func(r request, carryOut func() error) error {
			if r.resource == "guardeddeployments" && r.verb == "get" {
				return context.DeadlineExceeded
			}
			return carryOut()
		})
		w.forgetRequests()
		w.orphan("web")
		w.pass(10 * time.Minute)
		expect.Same(t, "what was written", []string(nil), w.diary())
	})
}
