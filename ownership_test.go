package main

import (
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

func TestADeploymentOfSomebodyElseIsNotTouched(t *testing.T) {
	inWorld(t, func(w *world) {
		w.node.switchOff(true)
		theirs := add(w, deploymentOf(webshop("web", "other:1")))
		add(w, webshop("web", "web:1"))
		w.pass(time.Second)
		wantStatus(w, "web", "Ready=False NameTaken")
		w.pass(10 * time.Minute)
		wantUntouched(w, theirs)
		wantOnce(w, "Warning NameTaken")
		if looks := len(w.requested("get", "deployments")); looks < 68 || looks > 72 {
			t.Errorf("looked at it %d times in 10 minutes, want every 2 s for 2 minutes, then once a minute", looks)
		}

		w.node.switchOff(false)
		remove[*appsv1.Deployment](w, "web")
		w.pass(time.Minute + 40*time.Second)
		wantStatus(w, "web", "Ready=True RolledOut")
	})
}

// As in a Helm upgrade that changes the kind: the GuardedDeployment is created first, and the Deployment deleted after that.
func TestANameIsTakenUpAsSoonAsItIsFree(t *testing.T) {
	inWorld(t, func(w *world) {
		add(w, deploymentOf(webshop("web", "other:1")))
		add(w, webshop("web", "web:1"))
		w.pass(time.Minute + 59*time.Second)
		wantStatus(w, "web", "Ready=False NameTaken")
		remove[*appsv1.Deployment](w, "web")
		w.pass(2 * time.Second)
		wantSame(t, "image that runs", "web:1", w.image("web"))
		wantStatus(w, "web", "Ready=False Progressing")
		w.pass(40 * time.Second)
		wantStatus(w, "web", "Ready=True RolledOut")
	})
}

func TestADeploymentWhoseOwnerReferenceIsRemovedIsSomebodyElses(t *testing.T) {
	inWorld(t, func(w *world) {
		w.upAndRunning("web")
		theirs := edit(w, "web", func(d *appsv1.Deployment) { d.OwnerReferences = nil })
		w.pass(time.Second)
		release(w, "web", "web:2")
		w.pass(10 * time.Minute)
		wantStatus(w, "web", "Ready=False NameTaken")
		wantUntouched(w, theirs)
		wantOnce(w, "Warning NameTaken")
	})
}

// As after "kubectl get deployment web -o yaml", another name, and "kubectl apply".
func TestACopyOfTheDeploymentIsToldOfAndLeftAlone(t *testing.T) {
	inWorld(t, func(w *world) {
		w.upAndRunning("web")
		w.node.switchOff(true)
		theirs, _ := read[*appsv1.Deployment](w, "web")
		theirs = copied(theirs)
		theirs.Name, theirs.ResourceVersion = "web-copy", ""
		theirs = add(w, theirs)
		w.forgetRequests()
		w.pass(10 * time.Minute)
		wantUntouched(w, theirs)
		wantOnce(w, "Warning Invalid")
		wantStatus(w, "web", "Ready=True RolledOut")
		wantSame(t, "requests", map[string]int{"create events": 1}, counts(w.asked(everything)))
	})
}

// What still has Belay's label is watched, after its owner reference was taken away for example: consent is noticed at once.
func TestConsentIsNoticedAtOnceOnWhatHasTheLabel(t *testing.T) {
	inWorld(t, func(w *world) {
		w.upAndRunning("web")
		edit(w, "web", func(d *appsv1.Deployment) { d.OwnerReferences = nil })
		w.pass(time.Second)
		wantStatus(w, "web", "Ready=False NameTaken")
		edit(w, "web", func(d *appsv1.Deployment) { d.Annotations[v1alpha1.AdoptAnnotation] = "web" })
		w.pass(10 * time.Second)
		wantStatus(w, "web", "Ready=True RolledOut")
	})
}

func TestAFightIsTold(t *testing.T) {
	inWorld(t, func(w *world) {
		w.upAndRunning("web")
		w.forgetRequests()
		for range 600 {
			edit(w, "web", func(d *appsv1.Deployment) {
				d.Spec.Template.Spec.Containers[0].Image = "theirs:1"
				d.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: "fighter", Operation: metav1.ManagedFieldsOperationUpdate,
					FieldsType: "FieldsV1", FieldsV1: metav1.NewFieldsV1(`{"f:spec":{}}`)}}
			})
			w.pass(6 * time.Second)
		}
		wantStatus(w, "web", "Ready=False Contested")
		if n := len(w.requested("update", "deployments")); n < 10 || n > 11 {
			t.Errorf("%d corrections in an hour, want 5 at once and 6 an hour", n)
		}
		g, _ := read[*v1alpha1.GuardedDeployment](w, "web")
		if message := meta.FindStatusCondition(g.Status.Conditions, "Ready").Message; !strings.Contains(message, `"fighter" keeps changing spec.template.spec.containers[0].image`) {
			t.Errorf("the message is %q", message)
		}
	})
}

func TestALabelTakenFromTheDeploymentIsPutBack(t *testing.T) {
	inWorld(t, func(w *world) {
		w.upAndRunning("web")
		before, _ := read[*appsv1.Deployment](w, "web")
		edit(w, "web", func(d *appsv1.Deployment) { delete(d.Labels, v1alpha1.GuardedLabel) })
		w.pass(time.Second)
		after, _ := read[*appsv1.Deployment](w, "web")
		if after.UID != before.UID || after.Labels[v1alpha1.GuardedLabel] != "true" {
			t.Errorf("Deployment %s has labels %v, want %s with its label", after.UID, after.Labels, before.UID)
		}
		w.pass(time.Minute)
		wantStatus(w, "web", "Ready=True RolledOut")
		wantSame(t, "writes of Deployments", map[string]int{"create deployments": 1, "update deployments": 1},
			counts(w.asked(func(r request) bool { return r.writes() && r.resource == "deployments" })))
	})
}

func TestALabelTakenFromARevisionIsPutBack(t *testing.T) {
	inWorld(t, func(w *world) {
		w.upAndRunning("web")
		g, _ := read[*v1alpha1.GuardedDeployment](w, "web")
		name := g.Status.TargetRevision
		w.forgetRequests()
		edit(w, name, func(r *appsv1.ControllerRevision) { delete(r.Labels, v1alpha1.GuardedLabel) })
		w.pass(time.Minute)
		r, _ := read[*appsv1.ControllerRevision](w, name)
		if r.Labels[v1alpha1.GuardedLabel] != "true" || r.Annotations[v1alpha1.VerdictAnnotation] != v1alpha1.VerdictGood {
			t.Errorf("the revision has labels %v and annotations %v, want the label, and to be good", r.Labels, r.Annotations)
		}
		wantStatus(w, "web", "Ready=True RolledOut")
		wantCalm(w, 60)
	})
}

func TestAGoodRevisionThatLostItsLabelIsGoneBackTo(t *testing.T) {
	inWorld(t, func(w *world) {
		w.upAndRunning("web")
		g, _ := read[*v1alpha1.GuardedDeployment](w, "web")
		w.node.set("web:2", crashing)
		release(w, "web", "web:2")
		w.pass(10 * time.Second)
		edit(w, g.Status.GoodRevision, func(r *appsv1.ControllerRevision) { delete(r.Labels, v1alpha1.GuardedLabel) })
		w.pass(5 * time.Minute)
		wantStatus(w, "web", "Ready=False RolledBack")
		r, _ := read[*appsv1.ControllerRevision](w, g.Status.GoodRevision)
		wantSame(t, "label", "true", r.Labels[v1alpha1.GuardedLabel])
	})
}

// The longest way that one sync goes: nothing waits for another one.
func TestEveryGoodRevisionThatLostItsLabelGetsItBackInOneSync(t *testing.T) {
	inWorld(t, func(w *world) {
		w.upAndRunning("web")
		for _, image := range []string{"web:2", "web:3"} {
			release(w, "web", image)
			w.pass(time.Minute)
		}
		wantStatus(w, "web", "Ready=True RolledOut")
		g, _ := read[*v1alpha1.GuardedDeployment](w, "web")
		var names []string
		w.mu.Lock()
		for _, r := range w.matching("controllerrevisions", namespace, nil) {
			names = append(names, r.GetName())
		}
		w.mu.Unlock()
		w.node.set("web:4", crashing)
		release(w, "web", "web:4")
		w.pass(10 * time.Second)
		w.forgetRequests()
		for _, name := range names {
			edit(w, name, func(r *appsv1.ControllerRevision) { delete(r.Labels, v1alpha1.GuardedLabel) })
		}
		w.pass(5 * time.Minute)
		wantStatus(w, "web", "Ready=False RolledBack")
		good, _ := read[*v1alpha1.GuardedDeployment](w, "web")
		wantSame(t, "good revision", g.Status.GoodRevision, good.Status.GoodRevision)
		writes := w.asked(func(r request) bool { return r.verb == "update" && r.resource != "guardeddeployments/status" })
		wantSame(t, "a verdict, three labels and the rollback", map[string]int{"update controllerrevisions": 4, "update deployments": 1}, counts(writes))
		for _, r := range writes {
			if r.at != writes[0].at {
				t.Errorf("%s %s after the first write", r, r.at-writes[0].at)
			}
		}
	})
}

func TestARevisionNameTakenByAForgeryIsAvoided(t *testing.T) {
	forgeries := map[string]func(r *appsv1.ControllerRevision){
		"of nobody":                   func(r *appsv1.ControllerRevision) { r.OwnerReferences = nil },
		"of the same owner":           func(r *appsv1.ControllerRevision) { r.Data.Raw = []byte(`{"spec":{}}`) },
		"of the same owner, no label": func(r *appsv1.ControllerRevision) { r.Data.Raw = []byte(`{"spec":{}}`); r.Labels = nil },
		"of an earlier life":          func(r *appsv1.ControllerRevision) { r.OwnerReferences[0].UID = "an earlier one" },
	}
	for whose, forge := range forgeries {
		t.Run(whose, func(t *testing.T) {
			inWorld(t, func(w *world) {
				forged := false
				w.intercept(func(r request, carryOut func() error) error {
					if r.String() == "create controllerrevisions" && !forged {
						forged = true
						theirs := copied(r.object.(*appsv1.ControllerRevision))
						forge(theirs)
						add(w, theirs)
					}
					return carryOut()
				})
				add(w, webshop("web", "web:1"))
				w.pass(40 * time.Second)
				wantStatus(w, "web", "Ready=True RolledOut")
				if n := len(w.requested("create", "controllerrevisions")); n != 2 {
					t.Errorf("%d tries at a name, want 2", n)
				}
				g, _ := read[*v1alpha1.GuardedDeployment](w, "web")
				d, _ := read[*appsv1.Deployment](w, "web")
				wantSame(t, "revision that runs", g.Status.TargetRevision, d.Annotations[v1alpha1.RevisionAnnotation])
			})
		})
	}
}

func TestARefusedRevisionUnderItsSecondNameIsNoHotLoop(t *testing.T) {
	inWorld(t, func(w *world) {
		forged := false
		w.intercept(func(r request, carryOut func() error) error {
			switch {
			case r.String() != "create controllerrevisions":
			case !forged:
				forged = true
				theirs := copied(r.object.(*appsv1.ControllerRevision))
				theirs.OwnerReferences = nil
				add(w, theirs)
			default:
				if err := carryOut(); err != nil {
					return err // AlreadyExists
				}
				remove[*appsv1.ControllerRevision](w, r.name)
				return deniedByPolicy()
			}
			return carryOut()
		})
		add(w, webshop("web", "web:1"))
		w.pass(10 * time.Minute)
		wantStatus(w, "web", "Ready=False Denied")
		wantCalm(w, 50)
	})
}

func TestNothingIsWrittenAfterTheGuardedDeploymentIsDeleted(t *testing.T) {
	inWorld(t, func(w *world) {
		w.upAndRunning("web")
		release(w, "web", "web:2")
		w.pass(time.Second)
		w.forgetRequests()
		remove[*v1alpha1.GuardedDeployment](w, "web")
		w.pass(time.Second)
		w.collectGarbage()
		w.pass(10 * time.Minute)
		wantSame(t, "what was written", []string(nil), w.diary())
		if w.image("web") != "" {
			t.Error("the Deployment is there again")
		}
	})
}

func TestNothingIsWrittenWhileTheGuardedDeploymentIsBeingDeleted(t *testing.T) {
	inWorld(t, func(w *world) {
		w.upAndRunning("web")
		edit(w, "web", func(g *v1alpha1.GuardedDeployment) { g.Finalizers = []string{"foregroundDeletion"} })
		w.forgetRequests()
		remove[*v1alpha1.GuardedDeployment](w, "web")
		w.pass(time.Second)
		remove[*appsv1.Deployment](w, "web")
		w.pass(10 * time.Minute)
		wantSame(t, "what was written", []string(nil), w.diary())
	})
}

// The watch of Deployments may be ahead of that of GuardedDeployments.
func TestADeploymentIsNotCreatedAgainForAnOwnerWhoseDeletionIsNotYetKnown(t *testing.T) {
	inWorld(t, func(w *world) {
		w.upAndRunning("web")
		w.forgetRequests()
		w.hold("guardeddeployments")
		remove[*v1alpha1.GuardedDeployment](w, "web")
		w.collectGarbage()
		w.pass(time.Minute)
		w.letGo("guardeddeployments")
		w.pass(time.Minute)
		wantSame(t, "what was written", []string(nil), w.diary())
	})
}

func TestASecondLifeUnderTheSameNameKnowsNothingOfTheFirst(t *testing.T) {
	inWorld(t, func(w *world) {
		add(w, webshop("web", "web:1"))
		w.pass(20 * time.Second)
		wantStatus(w, "web", "Ready=False Soaking")

		remove[*v1alpha1.GuardedDeployment](w, "web")
		w.collectGarbage()
		second := add(w, webshop("web", "web:1"))
		w.pass(30 * time.Second)
		wantStatus(w, "web", "Ready=False Soaking") // not since the soak of the first life began
		w.pass(8 * time.Second)
		wantStatus(w, "web", "Ready=True RolledOut")
		d, _ := read[*appsv1.Deployment](w, "web")
		if !metav1.IsControlledBy(d, second) {
			t.Errorf("the Deployment belongs to %s, want %s", metav1.GetControllerOf(d).UID, second.UID)
		}
		wantRevisionsOf(w, second.UID)
	})
}

func TestADeploymentOfTheFirstLifeIsLeftToTheGarbageCollector(t *testing.T) {
	inWorld(t, func(w *world) {
		w.upAndRunning("web")
		w.node.switchOff(true)
		remove[*v1alpha1.GuardedDeployment](w, "web")
		first, _ := read[*appsv1.Deployment](w, "web")
		second := add(w, webshop("web", "web:2"))
		w.pass(5 * time.Minute)
		wantUntouched(w, first)
		wantStatus(w, "web", "Ready=False NameTaken")

		w.node.switchOff(false)
		w.collectGarbage()
		w.pass(40 * time.Second)
		wantStatus(w, "web", "Ready=True RolledOut")
		wantRevisionsOf(w, second.UID)
	})
}

func wantRevisionsOf(w *world, owner types.UID) {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, r := range w.matching("controllerrevisions", namespace, nil) {
		if metav1.GetControllerOf(r).UID != owner {
			w.t.Errorf("revision %s belongs to %s, want %s", r.GetName(), metav1.GetControllerOf(r).UID, owner)
		}
	}
}

func wantUntouched(w *world, before *appsv1.Deployment) {
	w.t.Helper()
	after, _ := read[*appsv1.Deployment](w, before.Name)
	wantSame(w.t, "somebody else's Deployment", before, after)
}

// wantCalm fails the test if more requests than most were made, of any kind.
func wantCalm(w *world, most int) {
	w.t.Helper()
	if n := len(w.asked(everything)); n > most {
		w.t.Errorf("%d requests, want at most %d: %v", n, most, counts(w.asked(everything)))
	}
}
