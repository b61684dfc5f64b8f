package inplace

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/tools/cache"

	"github.com/belay-dev/belay/internal/expect"
	fake "github.com/belay-dev/belay/internal/fakecluster"
	"github.com/belay-dev/belay/internal/freshness"
	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
	"github.com/belay-dev/belay/pkg/rollout"
)

var webKey = cache.ObjectName{Namespace: fake.Namespace, Name: "web"}

// isStale reports whether an error says that what was decided on is not so any more.
func isStale(err error) bool { return errors.As(err, new(*freshness.StaleError)) }

func TestHasAs(t *testing.T) {
	has := map[string]string{"x": "1", "empty": ""}
	for _, c := range []struct {
		name  string
		value *string
		want  bool
	}{
		{"x", new("1"), true},
		{"x", new("2"), false},
		{"x", nil, false},
		{"empty", new(""), true},
		{"empty", nil, false},
		{"y", nil, true},
		{"y", new(""), false},
	} {
		expect.Same(t, c.name, c.want, hasAs(has, c.name, c.value))
	}
}

func TestWithCondition(t *testing.T) {
	of := func(kind appsv1.DeploymentConditionType, reason string) appsv1.DeploymentCondition {
		return appsv1.DeploymentCondition{Type: kind, Reason: reason}
	}
	available, failing := of(appsv1.DeploymentAvailable, "a"), of(appsv1.DeploymentReplicaFailure, "f")
	before := []appsv1.DeploymentCondition{available, of(appsv1.DeploymentProgressing, "old"), failing}
	expect.Same(t, "conditions", []appsv1.DeploymentCondition{of(appsv1.DeploymentProgressing, "new"), available, failing},
		withCondition(before, of(appsv1.DeploymentProgressing, "new")))
}

// What moves pods, and what is told of them, is written for what the Deployment asks for live, whatever the cache shows.
func TestStillAsked(t *testing.T) {
	guarded(t, func(w *world, p *belay) {
		live, _ := fake.Read[*appsv1.Deployment](w, "web")
		for name, c := range map[string]struct {
			change func(seen *appsv1.Deployment)
			still  bool
		}{
			"as it is":                 {func(*appsv1.Deployment) {}, true},
			"another status":           {func(d *appsv1.Deployment) { d.ResourceVersion = "1"; d.Status.Replicas = 9 }, true},
			"an annotation of others":  {func(d *appsv1.Deployment) { d.Annotations = map[string]string{"theirs": "x"}; d.Generation++ }, true},
			"another of that name":     {func(d *appsv1.Deployment) { d.UID = "another" }, false},
			"the label":                {func(d *appsv1.Deployment) { d.Labels[v1alpha1.GuardedLabel] = v1alpha1.NotGuarded }, false},
			"the spec":                 {func(d *appsv1.Deployment) { d.Spec.Replicas = new(int32(9)) }, false},
			"the failure":              {func(d *appsv1.Deployment) { d.Annotations[v1alpha1.FailureAnnotation] = "x" }, false},
			"the retry":                {func(d *appsv1.Deployment) { d.Annotations[v1alpha1.RetryAnnotation] = "x" }, false},
			"the guard":                {func(d *appsv1.Deployment) { d.Annotations[v1alpha1.GuardAnnotation] = "{}" }, false},
			"being deleted":            {func(d *appsv1.Deployment) { d.DeletionTimestamp = new(metav1.Now()) }, false},
			"the owner":                {func(d *appsv1.Deployment) { d.OwnerReferences = []metav1.OwnerReference{{Name: "x"}} }, false},
			"one that is gone by now":  {func(d *appsv1.Deployment) { d.Name = "gone" }, false},
			"one of another namespace": {func(d *appsv1.Deployment) { d.Namespace = "gone" }, false},
		} {
			t.Run(name, func(t *testing.T) {
				seen := live.DeepCopy()
				if seen.Annotations == nil {
					seen.Annotations = map[string]string{}
				}
				c.change(seen)
				got, err := p.stillAsked(w.Context(), seen)
				if c.still {
					expect.NoError(t, err)
					expect.Same(t, "what is live", live.ResourceVersion, got.ResourceVersion)
				} else if !isStale(err) {
					t.Errorf("%v, want that what was seen is stale", err)
				}
			})
		}
	})
}

// A set is moved only for what is asked for live; what moves nothing needs no read.
func TestCarryOut_LooksBeforeItMoves(t *testing.T) {
	guarded(t, func(w *world, p *belay) {
		live, _ := fake.Read[*appsv1.Deployment](w, "web")
		seen := live.DeepCopy()
		seen.Spec.Template.Spec.Containers[0].Image = "older:0"
		set := setOf(w, "good:1")
		carryOut := func(change *rollout.SetChange) error {
			w.ForgetRequests()
			change.Set = set
			_, _, err := p.carryOut(w.Context(), webKey, &rollout.InPlace{Deployment: seen, Evidence: &rollout.Evidence{}}, rollout.InPlaceDecision{Set: change})
			return err
		}
		if err := carryOut(&rollout.SetChange{Replicas: new(int32(1))}); !isStale(err) {
			t.Errorf("%v, want that what was seen is stale", err)
		}
		expect.Same(t, "writes", 0, len(writes(w)))
		expect.NoError(t, carryOut(&rollout.SetChange{Annotations: map[string]*string{"one": new("1")}}))
		expect.Same(t, "reads", 0, len(w.Requested("get", "deployments")))
		expect.Same(t, "writes", 1, len(writes(w)))
	})
}

// A change touches nothing that it does not name, and no other ReplicaSet.
func TestWriteSet(t *testing.T) {
	guarded(t, func(w *world, p *belay) {
		set := setOf(w, "good:1").DeepCopy()
		write := func(c rollout.SetChange) error {
			c.Set = set
			_, err := p.writeSet(w.Context(), &c)
			return err
		}
		for name, c := range map[string]rollout.SetChange{
			"a label":       {Labels: map[string]*string{"mine": new("1")}},
			"an annotation": {Annotations: map[string]*string{"mine": new("1")}},
			"replicas":      {Replicas: new(int32(5))},
		} {
			w.ForgetRequests()
			expect.NoError(t, write(c))
			patch := writes(w)[0].Patch
			now := setOf(w, "good:1")
			expect.Same(t, name+": replicas", c.Replicas != nil, strings.Contains(patch, `"replicas":5`))
			expect.Same(t, name+": that label", c.Labels != nil, now.Labels["mine"] == "1")
			expect.Same(t, name+": that annotation", c.Annotations != nil, now.Annotations["mine"] == "1")
			for key, value := range set.Labels {
				expect.Same(t, name+": label "+key, value, now.Labels[key])
			}
			for key, value := range set.Annotations {
				expect.Same(t, name+": annotation "+key, value, now.Annotations[key])
			}
			expect.NoError(t, write(rollout.SetChange{Labels: map[string]*string{"mine": nil}, Annotations: map[string]*string{"mine": nil}}))
		}
		set.UID = "another"
		if err := write(rollout.SetChange{Replicas: new(int32(4))}); !isStale(err) {
			t.Errorf("one made anew: %v, want that it is stale", err)
		}
		set.Name = "gone"
		if err := write(rollout.SetChange{Replicas: new(int32(4))}); !isStale(err) {
			t.Errorf("one that is gone: %v, want that it is stale", err)
		}
	})
}

// A Deployment that is left lets go of its own ReplicaSets only.
func TestLetGo_OfItsOwn(t *testing.T) {
	in(t, func(w *world) {
		for _, name := range []string{"api", "web"} {
			d := labelled("good:1")
			d.Name, d.Spec.Template.Labels, d.Spec.Selector.MatchLabels = name, labels.Set{"app": name}, labels.Set{"app": name}
			fake.Add(w, d)
		}
		startBelay(w)
		w.Pass(time.Minute)
		for _, name := range []string{"api", "web"} {
			fake.Edit(w, name, func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Image = "bad:2" })
		}
		w.Pass(4 * time.Minute)
		wantRuns(w, "bad:2=0 held at 0, bad:2=0 held at 0, good:1=4, good:1=4")
		w.ForgetRequests()
		label(w, v1alpha1.NotGuarded)
		w.Pass(10 * time.Second)
		for _, r := range writes(w) {
			if !strings.HasPrefix(r.Name, "web") {
				t.Errorf("%s", r)
			}
		}
		expect.Same(t, "held", 1, strings.Count(runs(w), "held at 0"))
	})
}

// Of what is guarded in place an Event tells that it stands still, of all else what its own guard says.
func TestReportStandstill(t *testing.T) {
	guarded(t, func(w *world, p *belay) {
		d := labelled("good:1")
		d.Name, d.Labels = "free", nil
		fake.Add(w, d)
		w.Pass(time.Second)
		var others []string
		report := p.ReportStandstill(func(_ context.Context, key cache.ObjectName, message string) error {
			others = append(others, key.Name+": "+message)
			return nil
		})
		for _, name := range []string{"web", "free", "gone"} {
			expect.NoError(t, report(w.Context(), cache.ObjectName{Namespace: fake.Namespace, Name: name}, "nothing goes on"))
		}
		expect.Same(t, "told by the other", []string{"free: nothing goes on", "gone: nothing goes on"}, others)
		wantEvents(w, "Warning SyncFailing")
	})
}

func TestMetrics_ReleaseAndRollback(t *testing.T) {
	guarded(t, func(w *world, p *belay) {
		counted := func() []string {
			return expect.Scraped(t, p.counted, "belay_releases_total", "belay_failed_releases_total", "belay_rollbacks_total")
		}
		const good, failed, cause, back = `belay_releases_total{kind="Deployment",outcome="good",reason=""} `,
			`belay_releases_total{kind="Deployment",outcome="failed",reason="CrashLoop"} `,
			`belay_failed_releases_total{cause="ExitCode",kind="Deployment"} `, `belay_rollbacks_total{kind="Deployment"} `
		expect.Same(t, "a good release", []string{good + "1"}, counted())
		release(w, "bad:2")
		w.Pass(5 * time.Minute)
		wantRuns(w, heldBack)
		expect.Same(t, "and one that crashes", []string{cause + "1", failed + "1", good + "1", back + "1"}, counted())
		release(w, "good:3")
		w.Pass(2 * time.Minute)
		expect.Same(t, "and its fix", []string{cause + "1", failed + "1", good + "2", back + "1"}, counted())
	})
}

// While the watch shows nothing of a write, nothing is asked for again.
func TestReconcile_WaitsForOwnWrites(t *testing.T) {
	guarded(t, func(w *world, _ *belay) {
		release(w, "bad:2")
		w.Intercept(func(r request, carryOut func() error) error {
			if r.Writes() && r.Resource == "deployments/status" {
				w.Hold("deployments")
			}
			return carryOut()
		})
		for range 300 {
			if w.Pass(time.Second); len(w.Requested("patch", "deployments/status")) > 0 {
				break
			}
		}
		expect.Same(t, "writes of the status", 1, len(w.Requested("patch", "deployments/status")))
		w.ForgetRequests()
		w.Pass(25 * time.Second) // After 30 s it is read live.
		expect.Same(t, "requests", map[string]int{}, fake.Counts(w.Asked(fake.Everything)))
		w.Intercept(nil)
		w.LetGo("deployments")
		w.Pass(3 * time.Minute)
		wantRuns(w, heldBack)
	})
}
