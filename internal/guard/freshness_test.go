package guard

import (
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	fake "github.com/belay-dev/belay/internal/fakecluster"

	appsv1 "k8s.io/api/apps/v1"

	"github.com/belay-dev/belay/internal/expect"
	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// A watch that lags shows a past that Belay itself has changed since.

// forEveryLaggingCache runs test once for each cache that does not show what Belay has just written to it.
func forEveryLaggingCache(t *testing.T, test func(t *testing.T, w *world, resource string)) {
	for resource, written := range map[string]string{
		"controllerrevisions": "create controllerrevisions",
		"deployments":         "create deployments",
		"guardeddeployments":  "update guardeddeployments/status",
	} {
		t.Run(resource, func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.Intercept(func(r request, carryOut func() error) error {
					if r.Verb+" "+r.Resource == written {
						w.Hold(resource)
					}
					return carryOut()
				})
				fake.Add(w, fake.Webshop("web", "web:1"))
				w.Pass(time.Second)
				test(t, w, resource)
			})
		})
	}
}

func TestReconcile_WaitsForOwnWrites(t *testing.T) {
	forEveryLaggingCache(t, func(t *testing.T, w *world, resource string) {
		w.Intercept(nil)
		w.ForgetRequests()
		w.Pass(28 * time.Second)
		expect.Same(t, "requests while the cache lags", map[string]int{}, fake.Counts(w.Asked(fake.Everything)))

		w.LetGo(resource)
		w.Pass(time.Minute)
		fake.WantStatus(w, "web", "Ready=True RolledOut")
		expect.Same(t, "the ending", []string{"web:1"}, endingOf(w).Ran)
	})
}

func TestReconcile_WatchThatLagsForLong(t *testing.T) {
	forEveryLaggingCache(t, func(t *testing.T, w *world, resource string) {
		w.ForgetRequests()
		for minute := range 10 { // something else happens now and then
			fake.Edit(w, "web", func(g *v1alpha1.GuardedDeployment) { g.Annotations = map[string]string{"minute": fmt.Sprint(minute)} })
			w.Pass(time.Minute)
		}
		if len(w.Asked(fake.Everything)) == 0 {
			t.Error("nothing was tried in 10 minutes, want what the cache lacks to be read after 30 s")
		}
		fake.WantStatus(w, "web", "Ready=True RolledOut")
		wantCalm(w, 300)
		w.Intercept(nil)
		w.LetGo(resource)
		w.Pass(2 * time.Minute)
		fake.WantStatus(w, "web", "Ready=True RolledOut")
		ending := endingOf(w)
		expect.Same(t, "what ran", []string{"web:1"}, ending.Ran)
		expect.Same(t, "revisions", []string{"1 good"}, ending.Revisions)
	})
}

func TestRecordRevision_OwnMissingInCache(t *testing.T) {
	inWorld(t, func(w *world) {
		w.Intercept(func(r request, carryOut func() error) error {
			err := carryOut()
			if err == nil && r.String() == "create controllerrevisions" {
				w.Hold("controllerrevisions")
				return errors.New("http2: client connection lost")
			}
			return err
		})
		w.Hold("controllerrevisions")
		fake.Add(w, fake.Webshop("web", "web:1"))
		w.Pass(10 * time.Second)
		w.LetGo("controllerrevisions")
		w.Pass(time.Minute)
		fake.WantStatus(w, "web", "Ready=True RolledOut")
		expect.Same(t, "revisions", []string{"1 good"}, endingOf(w).Revisions)
	})
}

// What was decided on is read once more, live, before the Deployment is written.

func TestPutDeployment_SpecChangedMeanwhile(t *testing.T) {
	inWorld(t, func(w *world) {
		w.UpAndRunning("web")
		onFirst(w, "get", "guardeddeployments", func() { fake.Release(w, "web", "web:3") })
		fake.Release(w, "web", "web:2")
		w.Pass(time.Minute)
		expect.Same(t, "what ran", []string{"web:1", "web:3"}, endingOf(w).Ran)
		fake.WantStatus(w, "web", "Ready=True RolledOut")
	})
}

func TestPutDeployment_DeploymentChangedMeanwhile(t *testing.T) {
	inWorld(t, func(w *world) {
		w.UpAndRunning("web")
		onFirst(w, "get", "deployments", func() {
			fake.Edit(w, "web", func(d *appsv1.Deployment) { d.Spec.MinReadySeconds = 7 })
		})
		fake.Release(w, "web", "web:2")
		w.Pass(time.Minute)
		fake.WantStatus(w, "web", "Ready=True RolledOut")
		if reads, writes := len(w.Requested("get", "deployments")), len(w.Requested("update", "deployments")); reads < writes+2 || reads > writes+3 {
			t.Errorf("%d reads before %d writes, want one before the creation, and one or two without a write", reads, writes)
		}
	})
}

func TestPutDeployment_DeploymentDeletedMeanwhile(t *testing.T) {
	inWorld(t, func(w *world) {
		w.UpAndRunning("web")
		onFirst(w, "get", "deployments", func() { fake.Remove[*appsv1.Deployment](w, "web") })
		fake.Release(w, "web", "web:2")
		w.Pass(time.Minute)
		fake.WantStatus(w, "web", "Ready=True RolledOut")
		if w.Image("web") != "web:2" {
			t.Errorf("the Deployment runs %q, want web:2", w.Image("web"))
		}
		expect.Same(t, "updates", 0, len(w.Requested("update", "deployments")))
	})
}

func TestPutDeployment_DeploymentTakenMeanwhile(t *testing.T) {
	inWorld(t, func(w *world) {
		w.UpAndRunning("web")
		w.Node.SwitchOff(true)
		var theirs *appsv1.Deployment
		onFirst(w, "get", "deployments", func() {
			theirs = fake.Edit(w, "web", func(d *appsv1.Deployment) { d.OwnerReferences = nil })
		})
		fake.Release(w, "web", "web:2")
		w.Pass(5 * time.Minute)
		wantUntouched(w, theirs)
		fake.WantStatus(w, "web", "Ready=False NameTaken")
	})
}

func TestPutDeployment_DeploymentCreatedMeanwhile(t *testing.T) {
	inWorld(t, func(w *world) {
		w.Node.SwitchOff(true)
		var theirs *appsv1.Deployment
		onFirst(w, "create", "deployments", func() { theirs = fake.Add(w, fake.DeploymentOf(fake.Webshop("web", "other:1"))) })
		fake.Add(w, fake.Webshop("web", "web:1"))
		w.Pass(5 * time.Minute)
		wantUntouched(w, theirs)
		fake.WantStatus(w, "web", "Ready=False NameTaken")
	})
}

func TestPutDeployment_RevisionChangedMeanwhile(t *testing.T) {
	inWorld(t, func(w *world) {
		w.UpAndRunning("web")
		w.Node.Set("web:2", fake.Crashing)
		fake.Release(w, "web", "web:2")
		w.Pass(time.Minute)
		g, _ := fake.Read[*v1alpha1.GuardedDeployment](w, "web")
		good := g.Status.GoodRevision
		// In the moment of the rollback somebody declares the revision to go back to failed.
		onFirst(w, "get", "controllerrevisions", func() {
			fake.Edit(w, good, func(r *appsv1.ControllerRevision) { r.Annotations[v1alpha1.VerdictAnnotation] = v1alpha1.VerdictFailed })
		})
		w.Pass(5 * time.Minute)
		fake.WantStatus(w, "web", "Ready=False NoGoodRevision")
		expect.Same(t, "what ran", []string{"web:1", "web:2"}, endingOf(w).Ran)
	})
}

// onFirst does something just before the next request of its kind is carried out.
func onFirst(w *world, verb, resource string, do func()) {
	w.Intercept(func(r request, carryOut func() error) error {
		if r.Verb == verb && r.Resource == resource {
			w.Intercept(nil)
			do()
		}
		return carryOut()
	})
}

// A deletion that no watch has shown is found when the informers list anew.

func TestBrokenWatch_DeploymentVanishes(t *testing.T) {
	inWorld(t, func(w *world) {
		w.UpAndRunning("web")
		w.Hold("deployments")
		fake.Remove[*appsv1.Deployment](w, "web")
		w.CollectGarbage()
		w.Compact()
		w.Cut()
		w.LetGo("deployments")
		w.Pass(2 * time.Minute)
		fake.WantStatus(w, "web", "Ready=True RolledOut")
		if w.Image("web") != "web:1" {
			t.Errorf("the Deployment runs %q, want web:1", w.Image("web"))
		}
	})
}

func TestBrokenWatch_GuardedDeploymentVanishes(t *testing.T) {
	fake.In(t, func(w *world) {
		belay := startBelay(w)
		w.UpAndRunning("web")
		w.Hold("guardeddeployments")
		fake.Remove[*v1alpha1.GuardedDeployment](w, "web")
		w.CollectGarbage()
		w.Compact()
		w.Cut()
		w.LetGo("guardeddeployments")
		w.ForgetRequests()
		w.Pass(2 * time.Minute)
		expect.Same(t, "what was written", []string(nil), w.Diary())
		belay.stop()
		for memory := range belay.memories.All {
			t.Errorf("remembered: %+v", memory)
		}
		expect.Same(t, "unseen writes", 0, belay.fresh.Len())
	})
}

// What is asked for again while the cache of revisions shows nothing is not told of by what was found of it before.
func TestReconcile_AskedAgainUnseen(t *testing.T) {
	for name, lag := range map[string]time.Duration{"a while": 40 * time.Second, "long": 10 * time.Minute} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.UpAndRunning("web")
				w.Node.Set("web:2", fake.Crashing)
				fake.Release(w, "web", "web:2")
				w.Pass(4 * time.Minute)
				fake.WantStatus(w, "web", "Ready=False RolledBack")
				w.ForgetRequests()
				w.Hold("controllerrevisions")
				fake.Release(w, "web", "web:1")
				w.Pass(29 * time.Second)
				fake.Release(w, "web", "web:2")
				w.Pass(lag)
				w.LetGo("controllerrevisions")
				w.Pass(5 * time.Minute)
				fake.WantStatus(w, "web", "Ready=False RolledBack")
				fake.WantOnce(w, "Warning CrashLoop")
				fake.WantOnce(w, "Warning RolledBack")
			})
		})
	}
}

// A write has taken effect, its answer is lost, and the cache stands still from before: what has become of it is read.
func TestReconcile_LostAnswerAndFrozenWatch(t *testing.T) {
	for name, c := range map[string]struct {
		resource string
		isIt     func(r request) bool
	}{
		"of the rollout": {"deployments", func(r request) bool { return r.Verb == "update" && r.Resource == "deployments" }},
		"of the verdict": {"controllerrevisions", func(r request) bool { return verdictOf(r) == v1alpha1.VerdictFailed }},
		"of the status":  {"guardeddeployments", func(r request) bool { return r.Verb == "update" && r.Resource == "guardeddeployments" }},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.UpAndRunning("web")
				w.Node.Set("web:2", fake.Crashing)
				fake.Release(w, "web", "web:2")
				w.Intercept(func(r request, carryOut func() error) error {
					if !c.isIt(r) {
						return carryOut()
					}
					w.Intercept(nil)
					return unseen(w, c.resource, carryOut)
				})
				w.Pass(4 * time.Minute)
				fake.WantStatus(w, "web", "Ready=False RolledBack")
				expect.Same(t, "what runs", "web:1", w.Image("web"))
				w.LetGo(c.resource)
				w.Pass(5 * time.Minute)
				fake.WantStatus(w, "web", "Ready=False RolledBack")
				fake.WantOnce(w, "Warning RolledBack")
				expect.Same(t, "what ran", []string{"web:1", "web:2", "web:1"}, endingOf(w).Ran)
			})
		})
	}
}

// The same of the verdict that what was held is good after all, when what fails is to be rolled back from then on.
func TestReconcile_LostGoodVerdictAndFrozenWatch(t *testing.T) {
	inWorld(t, func(w *world) {
		holdFailure(w)
		var good atomic.Bool
		w.Intercept(func(r request, carryOut func() error) error {
			if verdictOf(r) != v1alpha1.VerdictGood {
				return carryOut()
			}
			answer := unseen(w, "controllerrevisions", carryOut)
			good.Store(true)
			return answer
		})
		w.Node.Set("web:2", fake.Running)
		until(w, good.Load)
		fake.Edit(w, "web", func(g *v1alpha1.GuardedDeployment) { g.Spec.Guard.OnFailure = v1alpha1.Rollback })
		w.Pass(30 * time.Second)
		fake.WantStatus(w, "web", "Ready=True RolledOut")
		w.LetGo("controllerrevisions")
		w.Pass(5 * time.Minute)
		expect.Same(t, "what ran", []string{"web:1", "web:2"}, endingOf(w).Ran)
	})
}

// mendedDuring asks for 3 five seconds after the first such request, whose answer takes five more.
func mendedDuring(w *world, what string) {
	done := false
	w.Intercept(func(r request, carryOut func() error) error {
		err := carryOut()
		if !done && r.Verb+" "+r.Resource == what {
			done = true
			time.Sleep(5 * time.Second)
			fake.Release(w, "web", "web:3")
			time.Sleep(5 * time.Second)
		}
		return err
	})
}

// What the API server said of the spec is not believed any more when the write after that took long.
func TestSpec_MendedWhileRecording(t *testing.T) {
	inWorld(t, func(w *world) {
		w.UpAndRunning("web")
		mendedDuring(w, "create controllerrevisions")
		fake.Release(w, "web", "web:2")
		w.Pass(2 * time.Minute)
		expect.Same(t, "what ran", []string{"web:1", "web:3"}, endingOf(w).Ran)
	})
}

func TestSpec_MendedWhileJudging(t *testing.T) {
	inWorld(t, func(w *world) {
		w.UpAndRunning("web")
		w.Node.Set("bad:2", fake.Crashing)
		w.Hold("guardeddeployments")
		w.LetGo("guardeddeployments")
		mendedDuring(w, "update controllerrevisions")
		fake.Release(w, "web", "bad:2")
		w.Pass(4 * time.Second)
		w.Hold("guardeddeployments")
		w.Pass(5 * time.Minute)
		w.LetGo("guardeddeployments")
		w.Pass(2 * time.Minute)
		expect.Same(t, "what ran", []string{"web:1", "bad:2", "web:3"}, endingOf(w).Ran)
	})
}

// What is read live since an answer was lost is read from the cache again when that has caught up.
func TestFresh_LiveReadsEnd(t *testing.T) {
	release := func(w *world, image string) map[string]int {
		w.ForgetRequests()
		fake.Release(w, "web", image)
		w.Pass(10 * time.Minute)
		fake.WantStatus(w, "web", "Ready=True RolledOut")
		return fake.Counts(w.Asked(fake.Everything))
	}
	var undisturbed map[string]int
	inWorld(t, func(w *world) {
		w.UpAndRunning("web")
		undisturbed = release(w, "web:2")
	})
	for _, lost := range []string{"update guardeddeployments/status", "update deployments", "update controllerrevisions"} {
		t.Run(lost, func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.UpAndRunning("web")
				done := false
				w.Intercept(func(r request, carryOut func() error) error {
					err := carryOut()
					if r.Verb+" "+r.Resource == lost && w.Image("web") == "web:2" {
						done = true
						return lostAnswers["gateway timeout"]
					}
					return err
				})
				fake.Release(w, "web", "web:2")
				w.Pass(10 * time.Minute)
				w.Intercept(nil)
				w.Pass(10 * time.Minute)
				expect.Same(t, "lost", true, done)
				expect.Same(t, "requests of the next release", undisturbed, release(w, "web:3"))
			})
		})
	}
}
