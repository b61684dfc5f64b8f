package guard

import (
	"errors"
	"fmt"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/tools/cache"

	"github.com/belay-dev/belay/internal/expect"
	fake "github.com/belay-dev/belay/internal/fakecluster"
	"github.com/belay-dev/belay/internal/freshness"
	"github.com/belay-dev/belay/internal/leader"
	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
	"github.com/belay-dev/belay/pkg/rollout"
)

var webKey = cache.ObjectName{Namespace: namespace, Name: "web"}

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

// A Deployment gets a template only from its revision as it is live, or as it was answered to the write of the same sync.
func TestStillRecorded(t *testing.T) {
	inWorldWith(t, func(w *world, p *belay) {
		w.UpAndRunning("web")
		live := w.Objects("controllerrevisions")[0].(*appsv1.ControllerRevision)
		for name, c := range map[string]struct {
			change func(seen *appsv1.ControllerRevision)
			still  bool
		}{
			"as it is": {func(*appsv1.ControllerRevision) {}, true},
			"as it was answered just now": {func(r *appsv1.ControllerRevision) {
				r.ResourceVersion = "999999"
				p.fresh.Wrote(webKey, p.revisionStore, r.ResourceVersion)
			}, true},
			"another of that name": {func(r *appsv1.ControllerRevision) { r.UID = "another" }, false},
			"another verdict":      {func(r *appsv1.ControllerRevision) { r.ResourceVersion = "1" }, false},
			"not seen":             {func(r *appsv1.ControllerRevision) { r.Name = "another" }, false},
			"gone":                 {nil, false},
		} {
			t.Run(name, func(t *testing.T) {
				seen, run := live.DeepCopy(), live.Name
				if c.change == nil {
					run, c.change = "gone", func(r *appsv1.ControllerRevision) { r.Name = "gone" }
				}
				p.fresh.Forget(webKey)
				c.change(seen)
				err := p.stillRecorded(w.Context(), webKey, &rollout.Observed{Revisions: []*appsv1.ControllerRevision{seen}}, run)
				if c.still {
					expect.NoError(t, err)
				} else if !errors.As(err, new(*freshness.StaleError)) {
					t.Errorf("%v, want that what was seen is stale", err)
				}
			})
		}
	})
}

// What is gone already and what a policy keeps is no error, and the others are deleted all the same; all else is one.
func TestPruneRevisions(t *testing.T) {
	inWorldWith(t, func(w *world, p *belay) {
		notFound := apierrors.NewNotFound(schema.GroupResource{Resource: "controllerrevisions"}, "web-1")
		for name, c := range map[string]struct {
			answer error
			fails  bool
		}{
			"deleted": {nil, false},
			"gone":    {notFound, false},
			"refused": {deniedByPolicy(), false},
			"failed":  {passing["internal error"], true},
		} {
			w.ForgetRequests()
			w.Intercept(func(r request, _ func() error) error { return c.answer })
			one := &appsv1.ControllerRevision{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "web-1", UID: "1", ResourceVersion: "1"}}
			err := p.pruneRevisions(w.Context(), []*appsv1.ControllerRevision{one, one})
			expect.Same(t, name+": an error", c.fails, err != nil)
			expect.Same(t, name+": deletes", map[bool]int{false: 2, true: 1}[c.fails], len(w.Requested("delete", "controllerrevisions")))
		}
		w.Intercept(nil)
	})
}

func TestReportStandstill(t *testing.T) {
	inWorldWith(t, func(w *world, p *belay) {
		w.UpAndRunning("web")
		p.stop() // It would see that it goes on.
		expect.NoError(t, p.ReportStandstill(w.Context(), webKey, "nothing goes on"))
		g, _ := fake.Read[*v1alpha1.GuardedDeployment](w, "web")
		stalled := meta.FindStatusCondition(g.Status.Conditions, v1alpha1.ConditionStalled)
		if stalled == nil || stalled.Reason != v1alpha1.ReasonSyncFailing || stalled.Message != "nothing goes on" {
			t.Errorf("Stalled is %v, want what stands still", stalled)
		}
		w.ForgetRequests()
		if err := p.ReportStandstill(w.Context(), cache.ObjectName{Namespace: namespace, Name: "gone"}, "nothing goes on"); !apierrors.IsNotFound(err) {
			t.Errorf("%v, want that it is gone", err)
		}
		expect.Same(t, "writes for what is gone", map[string]int{}, fake.Counts(w.Asked(request.Writes)))
	})
}

// What came back without its verdict is nothing to go on with.
func TestWrite_NothingFromAnAnswerThatLacks(t *testing.T) {
	inWorldWith(t, func(w *world, p *belay) {
		w.UpAndRunning("web")
		w.Intercept(func(r request, carryOut func() error) error {
			if o, ok := r.Object.(*appsv1.ControllerRevision); ok {
				o.Annotations = nil
			}
			return carryOut()
		})
		mark := w.Objects("controllerrevisions")[0].(*appsv1.ControllerRevision).DeepCopy()
		answer, err := p.write(w.Context(), webKey, nil, rollout.Decision{Mark: mark})
		if err == nil || answer.Revision != nil {
			t.Errorf("%v and error %v, want an error and no revision", answer.Revision, err)
		}
		w.Intercept(nil)
	})
}

// Only what is said of a value that was put back is related to the Deployment as it was seen.
func TestRecordEvents_RelatedTo(t *testing.T) {
	inWorldWith(t, func(w *world, p *belay) {
		w.UpAndRunning("web")
		w.ForgetRequests()
		g, _ := fake.Read[*v1alpha1.GuardedDeployment](w, "web")
		of := func(name string) *appsv1.Deployment {
			return &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
		}
		tell := func(reason, action string) rollout.Event {
			return rollout.Event{Type: rollout.Normal, Reason: reason, Action: action, Message: "x"}
		}
		p.recordEvents(g, nil, of("seen"), []rollout.Event{tell("A", "Act"), tell("B", rollout.ActionPutBack)})
		p.recordEvents(g, of("written"), of("seen"), []rollout.Event{tell("C", "Act"), tell("D", rollout.ActionPutBack)})
		w.Pass(time.Second)
		got := map[string]string{}
		for _, r := range w.Requested("create", "events") {
			e := r.Object.(*eventsv1.Event)
			got[e.Reason] = ""
			if e.Related != nil {
				got[e.Reason] = e.Related.Name
			}
		}
		expect.Same(t, "related", map[string]string{"A": "", "B": "seen", "C": "written", "D": "written"}, got)
	})
}

// Once it is let go of, or gone, there is nothing to look at again; where that is refused, there is.
func TestLetGo_LooksAgain(t *testing.T) {
	for name, c := range map[string]struct {
		answer error
		again  time.Duration
	}{
		"let go":  {nil, 0},
		"gone":    {apierrors.NewNotFound(schema.GroupResource{Resource: "deployments"}, "web"), 0},
		"refused": {deniedByPolicy(), rollout.RefusedRetry},
	} {
		t.Run(name, func(t *testing.T) {
			inWorldWith(t, func(w *world, p *belay) {
				w.UpAndRunning("web")
				w.Intercept(func(r request, carryOut func() error) error {
					if everyWrite["update the Deployment"](r) {
						return c.answer // and the Deployment is as it was
					}
					return carryOut()
				})
				orphan(w, "web")
				w.Pass(time.Second)
				again, err := p.letGo(w.Context(), webKey)
				expect.NoError(t, err)
				expect.Same(t, "again", c.again, again)
			})
		})
	}
}

// What may have taken effect is read; what was refused, or did not leave, is not.
func TestSent(t *testing.T) {
	key, resource := webKey, schema.GroupResource{Resource: "things"}
	for name, c := range map[string]struct {
		err  error
		lost bool
	}{
		"answered":      {nil, false},
		"timeout":       {apierrors.NewTimeoutError("too slow", 1), true},
		"no answer":     {errors.New("http2: client connection lost"), true},
		"conflict":      {apierrors.NewConflict(resource, "web", errors.New("modified")), true},
		"refused":       {apierrors.NewForbidden(resource, "web", errors.New("no")), false},
		"too many":      {apierrors.NewTooManyRequests("later", 1), false},
		"did not leave": {fmt.Errorf("put: %w", leader.ErrFenced), false},
	} {
		g := newResting(t, 0)
		if g.sent(key, g.objectStore, c.err); g.fresh.Lags(key, g.objectStore) != c.lost {
			t.Errorf("%s: read is %t, want %t", name, !c.lost, c.lost)
		}
	}
}
