package inplace

import (
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/belay-dev/belay/internal/expect"
	fake "github.com/belay-dev/belay/internal/fakecluster"
	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// What was done is told once and counted once.

// countedReleases returns what a process has counted of releases.
func (p *belay) countedReleases(t *testing.T) []string {
	return expect.Scraped(t, p.counted, "belay_releases_total", "belay_failed_releases_total", "belay_rollbacks_total")
}

var oneFailedOneGood = []string{
	`belay_failed_releases_total{cause="ExitCode",kind="Deployment"} 1`,
	`belay_releases_total{kind="Deployment",outcome="failed",reason="CrashLoop"} 1`,
	`belay_releases_total{kind="Deployment",outcome="good",reason=""} 2`, // with the one that was there before
	`belay_rollbacks_total{kind="Deployment"} 1`,
}

// Of writes whose answers are lost all is told that is told of others, when they are seen.
func TestTold_LostAnswers(t *testing.T) {
	for name, why := range lostAnswers {
		t.Run(name, func(t *testing.T) {
			guarded(t, func(w *world, p *belay) {
				loseFirstAnswers(w, why)
				release(w, "bad:2")
				w.Pass(5 * time.Minute)
				wantRuns(w, heldBack)
				release(w, "good:3")
				w.Pass(5 * time.Minute)
				wantRuns(w, "good:3=4")
				wantEvents(w, "Warning CrashLoop", "Warning RolledBack", "Normal RolledOut")
				expect.Same(t, "what is counted", oneFailedOneGood, p.countedReleases(t))
				wantRest(w)
			})
		})
	}
}

// A write that has not taken effect is not told of before it is made again and does.
func TestTold_NothingOfWhatIsNotThere(t *testing.T) {
	for name, why := range lostAnswers {
		t.Run(name, func(t *testing.T) {
			guarded(t, func(w *world, p *belay) {
				tried := map[string]int{}
				w.Intercept(func(r request, carryOut func() error) error {
					if r.Writes() && r.Resource != "events" {
						if tried[r.Resource+r.Name]++; tried[r.Resource+r.Name] <= 3 {
							return why
						}
					}
					return carryOut()
				})
				release(w, "bad:2")
				w.Pass(5 * time.Minute)
				release(w, "good:3")
				w.Pass(5 * time.Minute)
				wantRuns(w, "good:3=4")
				wantEvents(w, "Warning CrashLoop", "Warning RolledBack", "Normal RolledOut")
				expect.Same(t, "what is counted", oneFailedOneGood, p.countedReleases(t))
			})
		})
	}
}

// Where the watch stands still, too, what took effect is found by a live read.
func TestTold_LostAnswerWhileTheWatchStandsStill(t *testing.T) {
	guarded(t, func(w *world, p *belay) {
		w.Intercept(func(r request, carryOut func() error) error {
			if r.Resource == "deployments/status" {
				w.Intercept(nil)
				w.Hold("deployments")
				must(carryOut())
				return lostAnswers["connection lost"]
			}
			return carryOut()
		})
		release(w, "bad:2")
		w.Pass(5 * time.Minute)
		wantRuns(w, heldBack)
		wantEvents(w, "Warning CrashLoop", "Warning RolledBack")
	})
}

// A label that is taken away when the answer to a write about it is lost has all let go at once.
func TestTold_LeftAfterALostAnswer(t *testing.T) {
	for _, of := range []string{"deployments/status", "replicasets"} {
		t.Run(of, func(t *testing.T) {
			guarded(t, func(w *world, _ *belay) {
				w.Intercept(func(r request, carryOut func() error) error {
					failed := carryOut()
					if failed == nil && r.Verb == "patch" && r.Resource == of {
						w.Intercept(nil)
						edit(w, func(d *appsv1.Deployment) { d.Labels = nil })
						return lostAnswers["connection lost"]
					}
					return failed
				})
				release(w, "bad:2")
				w.Pass(2 * time.Minute)
				wantRuns(w, "bad:2=2, good:1=3")
				expect.Same(t, "the failure", "", failure(w))
			})
		})
	}
}

// At zero replicas, and where somebody takes the hold away, a release that is taken back is let go, and held again after that: in this
// process or in another one, that is no second return.
func TestTold_OneReturnForEachAttempt(t *testing.T) {
	zeroAndBack := func(between func()) func(w *world) {
		return func(w *world) {
			scale(w, 0)
			w.Pass(time.Minute)
			between()
			scale(w, 4)
		}
	}
	restart := func(w *world, p *belay) {
		p.Kill()
		p.stop()
		startBelay(w)
		w.Pass(time.Minute)
	}
	takeHold := func(w *world) {
		fake.Edit(w, setOf(w, "bad:2").Name, func(set *appsv1.ReplicaSet) { delete(set.Labels, v1alpha1.HeldAtLabel) })
	}
	for name, happens := range map[string]func(w *world, p *belay){
		"zero and back":            func(w *world, _ *belay) { zeroAndBack(func() {})(w) },
		"zero, a restart and back": func(w *world, p *belay) { zeroAndBack(func() { restart(w, p) })(w) },
		"paused, zero and back": func(w *world, _ *belay) {
			edit(w, func(d *appsv1.Deployment) { d.Spec.Paused = true })
			zeroAndBack(func() { edit(w, func(d *appsv1.Deployment) { d.Spec.Paused = false }) })(w)
		},
		"the hold is taken":            func(w *world, _ *belay) { takeHold(w) },
		"a restart, the hold is taken": func(w *world, p *belay) { restart(w, p); takeHold(w) },
	} {
		t.Run(name, func(t *testing.T) {
			guarded(t, func(w *world, p *belay) {
				release(w, "bad:2")
				w.Pass(5 * time.Minute)
				wantRuns(w, heldBack)
				happens(w, p)
				w.Pass(5 * time.Minute)
				wantRuns(w, heldBack)
				wantEvents(w, "Warning CrashLoop", "Warning RolledBack")
				expect.Same(t, "returns", []string{`belay_rollbacks_total{kind="Deployment"} 1`}, expect.Scraped(t, p.counted, "belay_rollbacks_total"))
				annotate(w, v1alpha1.RetryAnnotation, "1")
				w.Pass(5 * time.Minute)
				wantRuns(w, heldBack)
				wantEvents(w, "Warning CrashLoop", "Warning CrashLoop", "Warning RolledBack", "Warning RolledBack")
			})
		})
	}
}

// A process that is started later finds by what is stored that something was told. What is told of no failed release is not stored: that
// one which was good does not come up any more is told by each process.
func TestTold_NotAgainByAnotherProcess(t *testing.T) {
	for name, c := range map[string]struct {
		happens     func(w *world)
		told, again []string
	}{
		"the good one does not come up": {func(w *world) {
			w.Node.Set("good:1", fake.NeverReady)
			release(w, "bad:2")
		}, []string{"Warning CrashLoop", "Warning RolledBack", "Warning RollbackFailed"}, nil},
		"it does not under Recreate": {func(w *world) {
			edit(w, toRecreate)
			release(w, "bad:2")
			w.Pass(20 * time.Second)
			w.Node.Set("good:1", fake.Crashing)
		}, []string{"Warning CrashLoop", "Warning RolledBack", "Warning RollbackFailed"}, nil},
		"it does not beside the failed one": {func(w *world) {
			half, began := halfSickening(w), time.Now()
			w.Node.Set("sick:2", func(age time.Duration) corev1.PodStatus {
				if created := time.Now().Add(-age); created.Sub(began) > time.Minute { // when it has its replicas back
					return fake.NeverReady(age)
				}
				return half(age)
			})
			release(w, "sick:2")
			w.Pass(20 * time.Second)
			w.Node.Set("good:1", fake.NeverReady)
		}, []string{"Warning UnhealthyInSoak", "Warning RollbackFailed"}, nil},
		"no policy": {func(w *world) {
			w.KeepHolds(false)
			release(w, "bad:2")
		}, []string{"Warning CrashLoop", "Warning NotHeld"}, nil},
		"Hold": {func(w *world) {
			annotate(w, v1alpha1.GuardAnnotation, "onFailure: Hold")
			release(w, "bad:2")
		}, []string{"Warning CrashLoop", "Warning Held"}, nil},
		"what was good does not come up": {func(w *world) {
			release(w, "good:2")
			w.Pass(5 * time.Minute)
			w.Node.Set("good:1", fake.NeverReady)
			undo(w, "good:1")
		}, []string{"Normal RolledOut", "Warning DeadlineExceeded"}, []string{"Warning DeadlineExceeded"}},
	} {
		t.Run(name, func(t *testing.T) {
			guarded(t, func(w *world, p *belay) {
				c.happens(w)
				w.Pass(20 * time.Minute)
				wantEvents(w, c.told...)
				wantRest(w)
				for range 2 {
					w.ForgetRequests()
					p.Kill()
					p.stop()
					p = startBelay(w)
					w.Pass(20 * time.Minute)
					wantEvents(w, c.again...)
				}
			})
		})
	}
}

// What was left as it is, and is not guarded any more when the next process starts.
func TestTold_LeftWhileAway(t *testing.T) {
	guarded(t, func(w *world, p *belay) {
		annotate(w, v1alpha1.GuardAnnotation, `{"onFailure": "Hold"}`)
		release(w, "bad:2")
		w.Pass(3 * time.Minute)
		if failure(w) == "" {
			t.Fatal("it has not failed")
		}
		p.Kill()
		p.stop()
		label(w, v1alpha1.NotGuarded)
		startBelay(w)
		w.Pass(time.Minute)
		if f := failure(w); f != "" {
			t.Errorf("it is not guarded, and says %s", f)
		}
	})
}
