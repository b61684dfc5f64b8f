package guard

import (
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/belay-dev/belay/internal/expect"
	fake "github.com/belay-dev/belay/internal/fakecluster"
	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

func TestStillThere(t *testing.T) {
	owner := fake.Webshop("web", "web:1")
	owner.UID = "owner"
	cached := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "web", UID: "1", Generation: 3, ResourceVersion: "7",
		Labels:          map[string]string{v1alpha1.GuardedLabel: "true"},
		Annotations:     map[string]string{v1alpha1.RevisionAnnotation: "web-1", v1alpha1.AppliedAnnotation: "abc"},
		OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(owner, schema.GroupVersion(v1alpha1.GroupVersion).WithKind("GuardedDeployment"))}}}
	for name, c := range map[string]struct {
		change func(live *appsv1.Deployment)
		want   bool
	}{
		"as it was":                 {func(*appsv1.Deployment) {}, true},
		"a new status":              {func(d *appsv1.Deployment) { d.ResourceVersion = "8"; d.Status.Replicas = 5 }, true},
		"another of that name":      {func(d *appsv1.Deployment) { d.UID = "2" }, false},
		"a new spec":                {func(d *appsv1.Deployment) { d.Generation = 4 }, false},
		"another revision":          {func(d *appsv1.Deployment) { d.Annotations[v1alpha1.RevisionAnnotation] = "web-2" }, false},
		"another hash":              {func(d *appsv1.Deployment) { d.Annotations[v1alpha1.AppliedAnnotation] = "def" }, false},
		"being deleted":             {func(d *appsv1.Deployment) { d.DeletionTimestamp = new(metav1.Now()) }, false},
		"nobody's":                  {func(d *appsv1.Deployment) { d.OwnerReferences = nil }, false},
		"of an earlier life":        {func(d *appsv1.Deployment) { d.OwnerReferences[0].UID = "earlier" }, false},
		"owned, but not controlled": {func(d *appsv1.Deployment) { d.OwnerReferences[0].Controller = nil }, false},
	} {
		t.Run(name, func(t *testing.T) {
			live := cached.DeepCopy()
			c.change(live)
			expect.Same(t, "still there", c.want, stillThere(live, cached))
		})
	}
	expect.Same(t, "still there when it is gone", false, stillThere(nil, cached))
}

// The cache knows when an attempt began, and what is written from it states no managed fields.
func TestUpdateRevision_LeavesTheManagedFields(t *testing.T) {
	inWorldWith(t, func(w *world, p *belay) {
		w.UpAndRunning("web")
		w.Node.Set("web:2", fake.Crashing)
		fake.Release(w, "web", "web:2")
		w.Pass(4 * time.Minute)
		fake.WantStatus(w, "web", "Ready=False RolledBack")
		w.ForgetRequests()
		askAgain(w, "web", "1")
		w.Pass(10 * time.Second)
		var began []time.Time
		for _, r := range p.revisionStore.List() {
			for _, entry := range r.(*appsv1.ControllerRevision).ManagedFields {
				began = append(began, entry.Time.Time)
				if entry.FieldsV1 != nil {
					t.Errorf("the cache has the managed fields %v", entry)
				}
			}
		}
		updates := w.Requested("update", "controllerrevisions")
		if len(updates) != 1 || len(began) != 1 || !began[0].Equal(w.Began.Add(updates[0].At).Truncate(time.Second)) {
			t.Errorf("%d updates, and attempts since %v, want one since then", len(updates), began)
		}
		w.Pass(4 * time.Minute)
		fake.WantStatus(w, "web", "Ready=False RolledBack")
		if updates = w.Requested("update", "controllerrevisions"); len(updates) != 2 {
			t.Errorf("%d updates, want that of the attempt and that of its verdict", len(updates))
		}
		for _, update := range updates {
			if fields := update.Object.GetManagedFields(); fields != nil {
				t.Errorf("%s states the managed fields %v", update, fields)
			}
		}
	})
}
