package guard

import (
	"slices"
	"strings"
	"testing"
	"time"

	fake "github.com/belay-dev/belay/internal/fakecluster"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/belay-dev/belay/internal/expect"
	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

func TestNameTaken_NotTouched(t *testing.T) {
	inWorld(t, func(w *world) {
		w.Node.SwitchOff(true)
		theirs := fake.Add(w, fake.DeploymentOf(fake.Webshop("web", "other:1")))
		fake.Add(w, fake.Webshop("web", "web:1"))
		w.Pass(time.Second)
		fake.WantStatus(w, "web", "Ready=False NameTaken")
		w.Pass(10 * time.Minute)
		wantUntouched(w, theirs)
		fake.WantOnce(w, "Warning NameTaken")
		if looks := len(w.Requested("get", "deployments")); looks < 68 || looks > 72 {
			t.Errorf("looked at it %d times in 10 minutes, want every 2 s for 2 minutes, then once a minute", looks)
		}

		w.Node.SwitchOff(false)
		fake.Remove[*appsv1.Deployment](w, "web")
		w.Pass(time.Minute + 40*time.Second)
		fake.WantStatus(w, "web", "Ready=True RolledOut")
	})
}

// As in a Helm upgrade that changes the kind: the GuardedDeployment is created first, and the Deployment deleted after that.
func TestNameTaken_FreedName(t *testing.T) {
	inWorld(t, func(w *world) {
		fake.Add(w, fake.DeploymentOf(fake.Webshop("web", "other:1")))
		fake.Add(w, fake.Webshop("web", "web:1"))
		w.Pass(time.Minute + 59*time.Second)
		fake.WantStatus(w, "web", "Ready=False NameTaken")
		fake.Remove[*appsv1.Deployment](w, "web")
		w.Pass(2 * time.Second)
		expect.Same(t, "image that runs", "web:1", w.Image("web"))
		fake.WantStatus(w, "web", "Ready=False Progressing")
		w.Pass(40 * time.Second)
		fake.WantStatus(w, "web", "Ready=True RolledOut")
	})
}

// A cache that lags shows the Deployment of a GuardedDeployment that was deleted, and created again.
func TestNameTaken_NotByWhatIsGone(t *testing.T) {
	inWorld(t, func(w *world) {
		w.UpAndRunning("web")
		w.Hold("deployments")
		fake.Remove[*v1alpha1.GuardedDeployment](w, "web")
		fake.Remove[*appsv1.Deployment](w, "web")
		fake.Add(w, fake.Webshop("web", "web:2"))
		w.Pass(5 * time.Second)
		expect.Same(t, "image that runs", "web:2", w.Image("web"))
		w.LetGo("deployments")
		w.Pass(time.Minute)
		fake.WantStatus(w, "web", "Ready=True RolledOut")
		if sent := w.EventsSent(); slices.Contains(sent, "Warning NameTaken") {
			t.Errorf("told of a Deployment that is gone: %q", sent)
		}
	})
}

func TestNameTaken_OwnerReferenceRemoved(t *testing.T) {
	inWorld(t, func(w *world) {
		w.UpAndRunning("web")
		theirs := fake.Edit(w, "web", func(d *appsv1.Deployment) { d.OwnerReferences = nil })
		w.Pass(time.Second)
		fake.Release(w, "web", "web:2")
		w.Pass(10 * time.Minute)
		fake.WantStatus(w, "web", "Ready=False NameTaken")
		wantUntouched(w, theirs)
		fake.WantOnce(w, "Warning NameTaken")
	})
}

// As after "kubectl get deployment web -o yaml", another name, and "kubectl apply".
func TestStrays_CopyIsLeftAlone(t *testing.T) {
	inWorld(t, func(w *world) {
		w.UpAndRunning("web")
		w.Node.SwitchOff(true)
		theirs, _ := fake.Read[*appsv1.Deployment](w, "web")
		theirs = theirs.DeepCopy()
		theirs.Name, theirs.ResourceVersion = "web-copy", ""
		theirs = fake.Add(w, theirs)
		w.ForgetRequests()
		w.Pass(10 * time.Minute)
		wantUntouched(w, theirs)
		fake.WantOnce(w, "Warning Invalid")
		fake.WantStatus(w, "web", "Ready=True RolledOut")
		expect.Same(t, "requests", map[string]int{"create events": 1}, fake.Counts(w.Asked(fake.Everything)))
	})
}

// What still has Belay's label is watched, after its owner reference was taken away for example: consent is noticed at once.
func TestAdopt_ConsentOnLabelledDeployment(t *testing.T) {
	inWorld(t, func(w *world) {
		w.UpAndRunning("web")
		fake.Edit(w, "web", func(d *appsv1.Deployment) { d.OwnerReferences = nil })
		w.Pass(time.Second)
		fake.WantStatus(w, "web", "Ready=False NameTaken")
		fake.Edit(w, "web", func(d *appsv1.Deployment) { d.Annotations[v1alpha1.AdoptAnnotation] = "web" })
		w.Pass(10 * time.Second)
		fake.WantStatus(w, "web", "Ready=True RolledOut")
	})
}

func TestContested_FightIsTold(t *testing.T) {
	inWorld(t, func(w *world) {
		w.UpAndRunning("web")
		w.ForgetRequests()
		for range 600 {
			fake.Edit(w, "web", func(d *appsv1.Deployment) {
				d.Spec.Template.Spec.Containers[0].Image = "theirs:1"
				d.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: "fighter", Operation: metav1.ManagedFieldsOperationUpdate,
					FieldsType: "FieldsV1", FieldsV1: metav1.NewFieldsV1(`{"f:spec":{}}`)}}
			})
			w.Pass(6 * time.Second)
		}
		fake.WantStatus(w, "web", "Ready=False Contested")
		if n := len(w.Requested("update", "deployments")); n < 10 || n > 11 {
			t.Errorf("%d corrections in an hour, want 5 at once and 6 an hour", n)
		}
		g, _ := fake.Read[*v1alpha1.GuardedDeployment](w, "web")
		if message := meta.FindStatusCondition(g.Status.Conditions, "Ready").Message; !strings.Contains(message, `"fighter" keeps changing spec.template.spec.containers[0].image`) {
			t.Errorf("the message is %q", message)
		}
	})
}

func TestLabel_TakenFromTheDeployment(t *testing.T) {
	inWorld(t, func(w *world) {
		w.UpAndRunning("web")
		before, _ := fake.Read[*appsv1.Deployment](w, "web")
		fake.Edit(w, "web", func(d *appsv1.Deployment) { delete(d.Labels, v1alpha1.GuardedLabel) })
		w.Pass(time.Second)
		after, _ := fake.Read[*appsv1.Deployment](w, "web")
		if after.UID != before.UID || after.Labels[v1alpha1.GuardedLabel] != "true" {
			t.Errorf("Deployment %s has labels %v, want %s with its label", after.UID, after.Labels, before.UID)
		}
		w.Pass(time.Minute)
		fake.WantStatus(w, "web", "Ready=True RolledOut")
		expect.Same(t, "writes of Deployments", map[string]int{"create deployments": 1, "update deployments": 1},
			fake.Counts(w.Asked(func(r request) bool { return r.Writes() && r.Resource == "deployments" })))
	})
}

func TestLabel_TakenFromARevision(t *testing.T) {
	inWorld(t, func(w *world) {
		w.UpAndRunning("web")
		g, _ := fake.Read[*v1alpha1.GuardedDeployment](w, "web")
		name := g.Status.TargetRevision
		w.ForgetRequests()
		fake.Edit(w, name, func(r *appsv1.ControllerRevision) { delete(r.Labels, v1alpha1.GuardedLabel) })
		w.Pass(time.Minute)
		r, _ := fake.Read[*appsv1.ControllerRevision](w, name)
		if r.Labels[v1alpha1.GuardedLabel] != "true" || r.Annotations[v1alpha1.VerdictAnnotation] != v1alpha1.VerdictGood {
			t.Errorf("the revision has labels %v and annotations %v, want the label, and to be good", r.Labels, r.Annotations)
		}
		fake.WantStatus(w, "web", "Ready=True RolledOut")
		wantCalm(w, 60)
	})
}

func TestLabel_RollbackToUnlabelledRevision(t *testing.T) {
	inWorld(t, func(w *world) {
		w.UpAndRunning("web")
		g, _ := fake.Read[*v1alpha1.GuardedDeployment](w, "web")
		w.Node.Set("web:2", fake.Crashing)
		fake.Release(w, "web", "web:2")
		w.Pass(10 * time.Second)
		fake.Edit(w, g.Status.GoodRevision, func(r *appsv1.ControllerRevision) { delete(r.Labels, v1alpha1.GuardedLabel) })
		w.Pass(5 * time.Minute)
		fake.WantStatus(w, "web", "Ready=False RolledBack")
		r, _ := fake.Read[*appsv1.ControllerRevision](w, g.Status.GoodRevision)
		expect.Same(t, "label", "true", r.Labels[v1alpha1.GuardedLabel])
	})
}

// The longest way that one sync goes: nothing waits for another one.
func TestLabel_AllInOneReconcile(t *testing.T) {
	inWorld(t, func(w *world) {
		w.UpAndRunning("web")
		for _, image := range []string{"web:2", "web:3"} {
			fake.Release(w, "web", image)
			w.Pass(time.Minute)
		}
		fake.WantStatus(w, "web", "Ready=True RolledOut")
		g, _ := fake.Read[*v1alpha1.GuardedDeployment](w, "web")
		var names []string
		for _, r := range w.Objects("controllerrevisions") {
			names = append(names, r.GetName())
		}
		w.Node.Set("web:4", fake.Crashing)
		fake.Release(w, "web", "web:4")
		w.Pass(10 * time.Second)
		w.ForgetRequests()
		for _, name := range names {
			fake.Edit(w, name, func(r *appsv1.ControllerRevision) { delete(r.Labels, v1alpha1.GuardedLabel) })
		}
		w.Pass(5 * time.Minute)
		fake.WantStatus(w, "web", "Ready=False RolledBack")
		good, _ := fake.Read[*v1alpha1.GuardedDeployment](w, "web")
		expect.Same(t, "good revision", g.Status.GoodRevision, good.Status.GoodRevision)
		writes := w.Asked(func(r request) bool { return r.Verb == "update" && r.Resource != "guardeddeployments/status" })
		expect.Same(t, "a verdict, three labels and the rollback", map[string]int{"update controllerrevisions": 4, "update deployments": 1}, fake.Counts(writes))
		for _, r := range writes {
			if r.At != writes[0].At {
				t.Errorf("%s %s after the first write", r, r.At-writes[0].At)
			}
		}
	})
}

func TestRecordRevision_NameTakenByForgery(t *testing.T) {
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
				w.Intercept(func(r request, carryOut func() error) error {
					if r.String() == "create controllerrevisions" && !forged {
						forged = true
						theirs := r.Object.(*appsv1.ControllerRevision).DeepCopy()
						forge(theirs)
						fake.Add(w, theirs)
					}
					return carryOut()
				})
				fake.Add(w, fake.Webshop("web", "web:1"))
				w.Pass(40 * time.Second)
				fake.WantStatus(w, "web", "Ready=True RolledOut")
				if n := len(w.Requested("create", "controllerrevisions")); n != 2 {
					t.Errorf("%d tries at a name, want 2", n)
				}
				g, _ := fake.Read[*v1alpha1.GuardedDeployment](w, "web")
				d, _ := fake.Read[*appsv1.Deployment](w, "web")
				expect.Same(t, "revision that runs", g.Status.TargetRevision, d.Annotations[v1alpha1.RevisionAnnotation])
			})
		})
	}
}

func TestRecordRevision_RefusedUnderSecondName(t *testing.T) {
	inWorld(t, func(w *world) {
		forged := false
		w.Intercept(func(r request, carryOut func() error) error {
			switch {
			case r.String() != "create controllerrevisions":
			case !forged:
				forged = true
				theirs := r.Object.(*appsv1.ControllerRevision).DeepCopy()
				theirs.OwnerReferences = nil
				fake.Add(w, theirs)
			default:
				if err := carryOut(); err != nil {
					return err // AlreadyExists
				}
				fake.Remove[*appsv1.ControllerRevision](w, r.Name)
				return deniedByPolicy()
			}
			return carryOut()
		})
		fake.Add(w, fake.Webshop("web", "web:1"))
		w.Pass(10 * time.Minute)
		fake.WantStatus(w, "web", "Ready=False Denied")
		wantCalm(w, 50)
	})
}

func TestDeletion_NothingWrittenAfter(t *testing.T) {
	inWorld(t, func(w *world) {
		w.UpAndRunning("web")
		fake.Release(w, "web", "web:2")
		w.Pass(time.Second)
		w.ForgetRequests()
		fake.Remove[*v1alpha1.GuardedDeployment](w, "web")
		w.Pass(time.Second)
		w.CollectGarbage()
		w.Pass(10 * time.Minute)
		expect.Same(t, "what was written", []string(nil), w.Diary())
		if w.Image("web") != "" {
			t.Error("the Deployment is there again")
		}
	})
}

func TestDeletion_NothingWrittenDuring(t *testing.T) {
	inWorld(t, func(w *world) {
		w.UpAndRunning("web")
		fake.Edit(w, "web", func(g *v1alpha1.GuardedDeployment) { g.Finalizers = []string{"foregroundDeletion"} })
		w.ForgetRequests()
		fake.Remove[*v1alpha1.GuardedDeployment](w, "web")
		w.Pass(time.Second)
		fake.Remove[*appsv1.Deployment](w, "web")
		w.Pass(10 * time.Minute)
		expect.Same(t, "what was written", []string(nil), w.Diary())
	})
}

// The watch of Deployments may be ahead of that of GuardedDeployments.
func TestPutDeployment_OwnerDeletedMeanwhile(t *testing.T) {
	inWorld(t, func(w *world) {
		w.UpAndRunning("web")
		w.ForgetRequests()
		w.Hold("guardeddeployments")
		fake.Remove[*v1alpha1.GuardedDeployment](w, "web")
		w.CollectGarbage()
		w.Pass(time.Minute)
		w.LetGo("guardeddeployments")
		w.Pass(time.Minute)
		expect.Same(t, "what was written", []string(nil), w.Diary())
	})
}

func TestSecondLife_KnowsNothingOfTheFirst(t *testing.T) {
	inWorld(t, func(w *world) {
		fake.Add(w, fake.Webshop("web", "web:1"))
		w.Pass(20 * time.Second)
		fake.WantStatus(w, "web", "Ready=False Soaking")

		fake.Remove[*v1alpha1.GuardedDeployment](w, "web")
		w.CollectGarbage()
		second := fake.Add(w, fake.Webshop("web", "web:1"))
		w.Pass(30 * time.Second)
		fake.WantStatus(w, "web", "Ready=False Soaking") // not since the soak of the first life began
		w.Pass(8 * time.Second)
		fake.WantStatus(w, "web", "Ready=True RolledOut")
		d, _ := fake.Read[*appsv1.Deployment](w, "web")
		if !metav1.IsControlledBy(d, second) {
			t.Errorf("the Deployment belongs to %s, want %s", metav1.GetControllerOf(d).UID, second.UID)
		}
		wantRevisionsOf(w, second.UID)
	})
}

func TestSecondLife_FirstDeploymentIsLeft(t *testing.T) {
	inWorld(t, func(w *world) {
		w.UpAndRunning("web")
		w.Node.SwitchOff(true)
		fake.Remove[*v1alpha1.GuardedDeployment](w, "web")
		first, _ := fake.Read[*appsv1.Deployment](w, "web")
		second := fake.Add(w, fake.Webshop("web", "web:2"))
		w.Pass(5 * time.Minute)
		wantUntouched(w, first)
		fake.WantStatus(w, "web", "Ready=False NameTaken")

		w.Node.SwitchOff(false)
		w.CollectGarbage()
		w.Pass(40 * time.Second)
		fake.WantStatus(w, "web", "Ready=True RolledOut")
		wantRevisionsOf(w, second.UID)
	})
}

func wantRevisionsOf(w *world, owner types.UID) {
	w.T.Helper()
	for _, r := range w.Objects("controllerrevisions") {
		if metav1.GetControllerOf(r).UID != owner {
			w.T.Errorf("revision %s belongs to %s, want %s", r.GetName(), metav1.GetControllerOf(r).UID, owner)
		}
	}
}

func wantUntouched(w *world, before *appsv1.Deployment) {
	w.T.Helper()
	after, _ := fake.Read[*appsv1.Deployment](w, before.Name)
	expect.Same(w.T, "somebody else's Deployment", before, after)
}

// wantCalm fails the test if more requests than most were made, of any kind.
func wantCalm(w *world, most int) {
	w.T.Helper()
	if n := len(w.Asked(fake.Everything)); n > most {
		w.T.Errorf("%d requests, want at most %d: %v", n, most, fake.Counts(w.Asked(fake.Everything)))
	}
}
