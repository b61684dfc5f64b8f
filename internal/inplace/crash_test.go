package inplace

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/belay-dev/belay/internal/expect"
	fake "github.com/belay-dev/belay/internal/fakecluster"
	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// A process that dies at any write, or does not hear what became of it, ends the story as one that is not disturbed.

// tell lives through a good release, one that crashes, a retry, one that sickens in its soak, zero and back, and a fix. After each part
// it calls after.
func tell(w *world, after func(part string)) {
	parts := []struct {
		name string
		do   func()
		end  string
	}{
		{"a good one", func() { release(w, "good:2") }, "good:2=4"},
		{"a bad one", func() { release(w, "bad:3") }, "bad:3=0 held at 0, good:2=4"},
		{"a retry", func() { annotate(w, v1alpha1.RetryAnnotation, "1") }, "bad:3=0 held at 0, good:2=4"},
		{"a sick one", func() { w.Node.Set("sick:4", halfSickening(w)); release(w, "sick:4") }, "good:2=4, sick:4=0 held at 0"},
		{"zero", func() { scale(w, 0) }, ""},
		{"and back", func() { scale(w, 3) }, "good:2=3, sick:4=0 held at 0"},
		{"Recreate", func() {
			edit(w, func(d *appsv1.Deployment) { d.Spec.Strategy.Type = appsv1.RecreateDeploymentStrategyType })
			release(w, "bad:3")
		}, "bad:3=0 held at 0, good:2=3 held at 3"},
		{"a fix", func() { release(w, "good:5") }, "good:5=3"},
	}
	for _, part := range parts {
		part.do()
		w.Pass(6 * time.Minute)
		if got := runs(w); got != part.end {
			w.T.Fatalf("after %s: %s, want %s\n%s", part.name, got, part.end, w.Logged())
		}
		after(part.name)
	}
	expect.Same(w.T, "what is left of the failures", "", failure(w))
}

func scale(w *world, n int32) { edit(w, func(d *appsv1.Deployment) { d.Spec.Replicas = &n }) }

func nothing(string) {}

// begin adds the Deployment and lets a process take it in.
func begin(w *world) *belay {
	fake.Add(w, labelled("good:1"))
	p := startBelay(w)
	w.Pass(time.Minute)
	return p
}

// countWrites plays the story once, and returns how many writes there are.
func countWrites(t *testing.T) (n int) {
	in(t, func(w *world) {
		begin(w)
		tell(w, nothing)
		n = len(writes(w))
	})
	return n
}

// atWrite calls do at the k-th write, Events not counted, in place of carrying it out.
func atWrite(w *world, k int, do func(carryOut func() error) error) {
	w.Intercept(func(r request, carryOut func() error) error {
		if r.Writes() && r.Resource != "events" {
			if k--; k == 0 {
				return do(carryOut)
			}
		}
		return carryOut()
	})
}

func TestCrash_AtAnyWrite(t *testing.T) {
	total := countWrites(t)
	t.Logf("%d writes", total)
	for k := 1; k <= total; k++ { // A crash before the next write comes to the same.
		t.Run(fmt.Sprint(k), func(t *testing.T) {
			t.Parallel()
			in(t, func(w *world) {
				lives := make(chan *belay, 1)
				atWrite(w, k, func(carryOut func() error) error {
					must(carryOut())
					p := <-lives
					p.Kill()
					go func() {
						p.stop()
						time.Sleep(time.Second)
						startBelay(w)
					}()
					return fake.ErrRefused
				})
				fake.Add(w, labelled("good:1"))
				lives <- startBelay(w)
				w.Pass(time.Minute)
				tell(w, nothing)
				if n := len(writes(w)); n > total+4 {
					t.Errorf("%d writes, want hardly more than %d", n, total)
				}
				wantRest(w)
			})
		})
	}
}

// lostAnswers are what Belay may hear of a request that has been carried out.
var lostAnswers = map[string]error{
	"connection lost": errors.New("http2: client connection lost"),
	"half an answer":  io.ErrUnexpectedEOF,
	"gateway timeout": apierrors.NewTimeoutError("the request timed out", 1),
	"sent again":      apierrors.NewConflict(schema.GroupResource{Resource: "things"}, "web", errors.New("modified")),
}

// loseFirstAnswers lets each write, Events not counted, take effect, and lets Belay hear why of the first answer to it. A second try is
// heard of.
func loseFirstAnswers(w *world, why error) {
	heard := map[string]bool{}
	w.Intercept(func(r request, carryOut func() error) error {
		failed := carryOut()
		if failed != nil || !r.Writes() || r.Resource == "events" || heard[r.Name+r.Patch] {
			return failed
		}
		heard[r.Name+r.Patch] = true
		return why
	})
}

func TestLostAnswer_ToEveryWrite(t *testing.T) {
	for why, err := range lostAnswers {
		t.Run(why, func(t *testing.T) {
			in(t, func(w *world) {
				loseFirstAnswers(w, err)
				begin(w)
				tell(w, nothing)
				wantRest(w)
			})
		})
	}
}

// Every second write meets a conflict, as if somebody were faster.
func TestConflict_AtEverySecondWrite(t *testing.T) {
	in(t, func(w *world) {
		n := 0
		w.Intercept(func(r request, carryOut func() error) error {
			if r.Writes() && r.Resource != "events" {
				if n++; n%2 == 1 {
					return lostAnswers["sent again"]
				}
			}
			return carryOut()
		})
		begin(w)
		tell(w, nothing)
		wantRest(w)
	})
}

// While the cache of Deployments shows nothing new, nothing is done twice, and nothing to a template that is not asked for any more.
func TestStale_Cache(t *testing.T) {
	guarded(t, func(w *world, _ *belay) {
		release(w, "bad:2")
		w.Pass(3 * time.Minute)
		wantRuns(w, heldBack)
		w.Hold("deployments")
		release(w, "good:3")
		w.Pass(2 * time.Minute)
		held := func() bool {
			return strings.Contains(runs(w), "good:3=0") || strings.Contains(runs(w), "good:3=4 held")
		}
		if held() {
			t.Errorf("a fix is held back: %s", runs(w))
		}
		w.LetGo("deployments")
		w.Pass(2 * time.Minute)
		wantRuns(w, "good:3=4")
		wantRest(w)
	})
}

// A watch that stands still from the verdict on is waited for at each step, and then done without: the good release comes back.
func TestStale_CacheInARollback(t *testing.T) {
	guarded(t, func(w *world, _ *belay) {
		w.Node.Set("sick:2", halfSickening(w))
		standStill := sync.OnceFunc(func() { w.Hold("deployments") })
		w.Intercept(func(r request, carryOut func() error) error {
			if r.Verb == "patch" && r.Resource == "deployments/status" {
				standStill()
			}
			return carryOut()
		})
		release(w, "sick:2")
		w.Pass(10 * time.Minute)
		const back = "good:1=4, sick:2=0 held at 0"
		wantRuns(w, back)
		if failure(w) == "" {
			t.Fatal("nothing has failed: the watch did not stand still")
		}
		wantEvents(w, "Warning UnhealthyInSoak", "Warning RolledBack")
		before := len(w.Asked(fake.Everything))
		w.Pass(9 * time.Minute)
		if n := len(w.Asked(fake.Everything)) - before; n > 4 {
			t.Errorf("%d requests in nine minutes after that, want hardly any", n)
		}
		w.Intercept(nil)
		w.LetGo("deployments")
		w.Pass(time.Minute)
		wantRuns(w, back)
		wantEvents(w, "Warning UnhealthyInSoak", "Warning RolledBack")
		wantRest(w)
	})
}

// In the middle of a verdict a fix is applied: the good template is never held.
func TestStale_FixAtAnyWrite(t *testing.T) {
	for k := range 5 {
		t.Run(fmt.Sprint(k+1), func(t *testing.T) {
			guarded(t, func(w *world, _ *belay) {
				release(w, "bad:2")
				atWrite(w, k+1, func(carryOut func() error) error {
					release(w, "good:3")
					return carryOut()
				})
				w.Pass(6 * time.Minute)
				wantRuns(w, map[bool]string{true: heldBack, false: "good:3=4"}[len(writes(w)) <= k])
				for _, o := range w.History("replicasets") {
					if set := o.(*appsv1.ReplicaSet); imageOf(set) == "good:3" && set.Labels[v1alpha1.HeldAtLabel] != "" {
						t.Errorf("the fix was held: %v", set.Labels)
					}
				}
				wantRest(w)
			})
		})
	}
}

// A new process neither repeats what was done nor tells of it again.
func TestRestart_AtEachEnd(t *testing.T) {
	in(t, func(w *world) {
		p := begin(w)
		tell(w, func(part string) {
			events, before := len(w.EventsSent()), len(writes(w))
			p.Kill()
			p.stop()
			p = startBelay(w)
			w.Pass(6 * time.Minute)
			if n := len(writes(w)) - before; n > 0 {
				t.Errorf("after %s a new process wrote %d times: %v", part, n, writes(w)[before:])
			}
			if told := w.EventsSent()[events:]; len(told) > 0 {
				t.Errorf("after %s a new process told again: %v", part, told)
			}
		})
	})
}

// Holds of Deployments that are gone, or of nobody's, are found by the sweep; those of others' labels are not touched.
func TestSweep(t *testing.T) {
	guarded(t, func(w *world, p *belay) {
		for name, owner := range map[string]string{"orphan": "", "of-another": "other", "of-a-job": "job"} {
			set := &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: fake.Namespace}, Spec: appsv1.ReplicaSetSpec{Replicas: new(int32)}}
			if owner != "" {
				kind := map[bool]string{true: "Deployment", false: "Job"}[owner == "other"]
				set.OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: kind, Name: owner, UID: "gone", Controller: new(true)}}
			}
			fake.Add(w, set)
			fake.Edit(w, name, func(set *appsv1.ReplicaSet) {
				set.Labels = map[string]string{v1alpha1.HeldAtLabel: "0." + string(set.UID)}
			})
		}
		fake.Add(w, &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Name: "copy", Namespace: fake.Namespace, Labels: map[string]string{v1alpha1.HeldAtLabel: "0.another"}},
			Spec: appsv1.ReplicaSetSpec{Replicas: new(int32)}})
		w.Pass(11 * time.Minute)
		var left []string
		for _, set := range sets(w) {
			if set.Labels[v1alpha1.HeldAtLabel] != "" {
				left = append(left, set.Name)
			}
		}
		slices.Sort(left)
		expect.Same(t, "what is left", []string{"copy"}, left)
	})
}
