package guard

import (
	"context"
	"strings"
	"testing"
	"time"

	fake "github.com/belay-dev/belay/internal/fakecluster"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/belay-dev/belay/internal/expect"
	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// managed gives a Deployment the managed fields that it has on a real API server when Belay has written it, and the
// Deployment controller has reported.
func managed(d *appsv1.Deployment) {
	for _, entry := range []metav1.ManagedFieldsEntry{{Manager: FieldManager}, {Manager: "kube-controller-manager", Subresource: "status"}} {
		entry.Operation, entry.APIVersion, entry.FieldsType = metav1.ManagedFieldsOperationUpdate, "apps/v1", "FieldsV1"
		d.ManagedFields = append(d.ManagedFields, entry)
	}
}

// orphan does what "kubectl delete gd --cascade=orphan" and the garbage collector do, in their order.
func orphan(w *world, name string) {
	fake.Edit(w, name, managed)
	fake.Edit(w, name, func(g *v1alpha1.GuardedDeployment) { g.Finalizers = []string{metav1.FinalizerOrphanDependents} })
	fake.Remove[*v1alpha1.GuardedDeployment](w, name)
	w.Pass(time.Second)
	fake.Edit(w, name, func(d *appsv1.Deployment) { d.OwnerReferences = nil })
	w.Pass(time.Second)
	fake.Edit(w, name, func(g *v1alpha1.GuardedDeployment) { g.Finalizers = nil })
}

// wantReleased fails the test if the Deployment is not the one from before, without what Belay had put there.
func wantReleased(w *world, before *appsv1.Deployment) {
	w.T.Helper()
	after, _ := fake.Read[*appsv1.Deployment](w, before.Name)
	if after == nil || after.UID != before.UID {
		w.T.Fatalf("the Deployment is %v, want uid %s", after, before.UID)
	}
	expect.Same(w.T, "spec", before.Spec, after.Spec)
	for key := range after.Annotations {
		if strings.HasPrefix(key, v1alpha1.GroupName+"/") && key != v1alpha1.AdoptAnnotation {
			w.T.Errorf("it has the annotation %s still", key)
		}
	}
	if len(after.ManagedFields) != 1 || after.ManagedFields[0].Manager != "kube-controller-manager" || after.Labels[v1alpha1.GuardedLabel] != "" {
		w.T.Errorf("it has labels %v and managed fields %v, want none of Belay's", after.Labels, after.ManagedFields)
	}
}

func TestLetGo_Once(t *testing.T) {
	inWorld(t, func(w *world) {
		w.UpAndRunning("web")
		before, _ := fake.Read[*appsv1.Deployment](w, "web")
		w.ForgetRequests()
		orphan(w, "web")
		w.Pass(time.Second)
		wantReleased(w, before)
		fake.Edit(w, "web", func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Image = "theirs:1" })
		w.Pass(10 * time.Minute)
		expect.Same(t, "requests", map[string]int{"get deployments": 1, "get guardeddeployments": 1, "update deployments": 1},
			fake.Counts(w.Asked(fake.Everything)))
		expect.Same(t, "image that runs", "theirs:1", w.Image("web"))
	})
}

func TestLetGo_OrphanedWhileAway(t *testing.T) {
	fake.In(t, func(w *world) {
		p := startBelay(w)
		w.UpAndRunning("web")
		p.stop()
		before, _ := fake.Read[*appsv1.Deployment](w, "web")
		orphan(w, "web")
		w.ForgetRequests()
		startBelay(w)
		w.Pass(time.Second)
		wantReleased(w, before)
		w.Pass(10 * time.Minute)
		expect.Same(t, "what was written", 1, len(w.Asked(request.Writes)))
	})
}

// While it is being deleted, the GuardedDeployment has the last word still.
func TestLetGo_NotWhileOwnerExists(t *testing.T) {
	inWorld(t, func(w *world) {
		w.UpAndRunning("web")
		fake.Edit(w, "web", managed)
		fake.Edit(w, "web", func(g *v1alpha1.GuardedDeployment) { g.Finalizers = []string{metav1.FinalizerOrphanDependents} })
		fake.Remove[*v1alpha1.GuardedDeployment](w, "web")
		w.Pass(time.Second)
		theirs := fake.Edit(w, "web", func(d *appsv1.Deployment) { d.OwnerReferences = nil })
		w.ForgetRequests()
		w.Pass(10 * time.Minute)
		wantUntouched(w, theirs)
		expect.Same(t, "what was written", []string(nil), w.Diary())
	})
}

// The cache may not have heard of a GuardedDeployment that the API server has: an orphan is its own to ask for.
func TestLetGo_NotForAnotherLife(t *testing.T) {
	inWorld(t, func(w *world) {
		w.UpAndRunning("web")
		fake.Edit(w, "web", managed)
		fake.Remove[*v1alpha1.GuardedDeployment](w, "web")
		w.Pass(time.Second)
		w.Hold("guardeddeployments")
		fake.Add(w, fake.Webshop("web", "web:2"))
		theirs := fake.Edit(w, "web", func(d *appsv1.Deployment) { d.OwnerReferences = nil })
		w.ForgetRequests()
		w.Pass(time.Minute)
		wantUntouched(w, theirs)
		expect.Same(t, "what was written", []string(nil), w.Diary())
		w.LetGo("guardeddeployments")
		w.Pass(time.Minute)
		wantUntouched(w, theirs)
		fake.WantStatus(w, "web", "Ready=False NameTaken")
	})
}

func TestLetGo_OnlyLooksLikeAnOrphan(t *testing.T) {
	for name, change := range map[string]func(*appsv1.Deployment){
		"with a controller":          func(d *appsv1.Deployment) { d.OwnerReferences[0].UID = "another" },
		"guarded in place":           func(d *appsv1.Deployment) { d.Labels[v1alpha1.GuardedLabel] = "in-place" },
		"with the label alone":       func(d *appsv1.Deployment) { delete(d.Annotations, v1alpha1.RevisionAnnotation) },
		"a copy that others applied": func(d *appsv1.Deployment) { d.ManagedFields = d.ManagedFields[1:] },
		"being deleted":              func(d *appsv1.Deployment) { d.DeletionTimestamp = new(metav1.Now()); d.Finalizers = []string{"theirs"} },
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.Node.SwitchOff(true)
				d := fake.DeploymentOf(fake.Webshop("web", "web:1"))
				d.Labels = map[string]string{v1alpha1.GuardedLabel: "true"}
				d.Annotations = map[string]string{v1alpha1.RevisionAnnotation: "web-1", v1alpha1.AppliedAnnotation: "hash"}
				if name == "with a controller" {
					d.OwnerReferences = []metav1.OwnerReference{{Kind: "Rollout", Name: "theirs", Controller: new(true)}}
				}
				managed(d)
				change(d)
				theirs := fake.Add(w, d)
				w.Pass(10 * time.Minute)
				wantUntouched(w, theirs)
				expect.Same(t, "what was written", []string(nil), w.Diary())
			})
		})
	}
}

// The Deployment controller writes its status while Belay reads, for example.
func TestLetGo_Conflict(t *testing.T) {
	inWorld(t, func(w *world) {
		w.UpAndRunning("web")
		before, _ := fake.Read[*appsv1.Deployment](w, "web")
		conflicts := 0
		w.Intercept(func(r request, carryOut func() error) error {
			if r.Verb == "update" && r.Resource == "deployments" && conflicts == 0 {
				conflicts++
				fake.Edit(w, "web", func(d *appsv1.Deployment) { d.Labels["theirs"] = "new" })
			}
			return carryOut()
		})
		orphan(w, "web")
		w.Pass(time.Second)
		wantReleased(w, before)
		expect.Same(t, "conflicts", 1, conflicts)
	})
}

func TestLetGo_Refused(t *testing.T) {
	inWorld(t, func(w *world) {
		w.UpAndRunning("web")
		w.Intercept(func(r request, carryOut func() error) error {
			if r.Verb == "update" && r.Resource == "deployments" {
				return deniedByPolicy()
			}
			return carryOut()
		})
		orphan(w, "web")
		w.ForgetRequests()
		w.Pass(time.Hour)
		if n := len(w.Asked(request.Writes)); n < 11 || n > 13 {
			t.Errorf("%d tries in an hour, want one in five minutes", n)
		}
		w.Intercept(nil)
		before, _ := fake.Read[*appsv1.Deployment](w, "web")
		w.Pass(5 * time.Minute)
		wantReleased(w, before)
	})
}

func TestLetGo_OwnerUnknown(t *testing.T) {
	inWorld(t, func(w *world) {
		w.UpAndRunning("web")
		w.Intercept(func(r request, carryOut func() error) error {
			if r.Resource == "guardeddeployments" && r.Verb == "get" {
				return context.DeadlineExceeded
			}
			return carryOut()
		})
		w.ForgetRequests()
		orphan(w, "web")
		w.Pass(10 * time.Minute)
		expect.Same(t, "what was written", []string(nil), w.Diary())
	})
}
