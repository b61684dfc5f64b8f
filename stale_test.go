package main

import (
	"errors"
	"fmt"
	"testing"
	"time"

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
				w.intercept(func(r request, carryOut func() error) error {
					if r.verb+" "+r.resource == written {
						w.hold(resource)
					}
					return carryOut()
				})
				add(w, webshop("web", "web:1"))
				w.pass(time.Second)
				test(t, w, resource)
			})
		})
	}
}

func TestASyncWaitsForTheCachesToShowItsOwnLastWrite(t *testing.T) {
	forEveryLaggingCache(t, func(t *testing.T, w *world, resource string) {
		w.intercept(nil)
		w.forgetRequests()
		w.pass(28 * time.Second)
		expect.Same(t, "requests while the cache lags", map[string]int{}, counts(w.asked(everything)))

		w.letGo(resource)
		w.pass(time.Minute)
		wantStatus(w, "web", "Ready=True RolledOut")
		expect.Same(t, "the ending", []string{"web:1"}, endingOf(w).Ran)
	})
}

func TestAWatchThatLagsForLongIsNotWaitedForAndNothingIsWrittenTwice(t *testing.T) {
	forEveryLaggingCache(t, func(t *testing.T, w *world, resource string) {
		w.forgetRequests()
		for minute := range 10 { // something else happens now and then
			edit(w, "web", func(g *v1alpha1.GuardedDeployment) { g.Annotations = map[string]string{"minute": fmt.Sprint(minute)} })
			w.pass(time.Minute)
		}
		if len(w.asked(everything)) == 0 {
			t.Error("nothing was tried in 10 minutes, want the cache to be believed after 30 s")
		}
		wantCalm(w, 300)
		w.intercept(nil)
		w.letGo(resource)
		w.pass(2 * time.Minute)
		wantStatus(w, "web", "Ready=True RolledOut")
		ending := endingOf(w)
		expect.Same(t, "what ran", []string{"web:1"}, ending.Ran)
		expect.Same(t, "revisions", []string{"1 good"}, ending.Revisions)
	})
}

func TestOurOwnRevisionThatTheCacheMissesIsNotCreatedUnderAnotherName(t *testing.T) {
	inWorld(t, func(w *world) {
		w.intercept(func(r request, carryOut func() error) error {
			err := carryOut()
			if err == nil && r.String() == "create controllerrevisions" {
				w.hold("controllerrevisions")
				return errors.New("http2: client connection lost")
			}
			return err
		})
		w.hold("controllerrevisions")
		add(w, webshop("web", "web:1"))
		w.pass(10 * time.Second)
		w.letGo("controllerrevisions")
		w.pass(time.Minute)
		wantStatus(w, "web", "Ready=True RolledOut")
		expect.Same(t, "revisions", []string{"1 good"}, endingOf(w).Revisions)
	})
}

// What was decided on is read once more, live, before the Deployment is written.

func TestANewSpecThatComesBetweenDecisionAndWriteWins(t *testing.T) {
	inWorld(t, func(w *world) {
		w.upAndRunning("web")
		w.onFirst("get", "guardeddeployments", func() { release(w, "web", "web:3") })
		release(w, "web", "web:2")
		w.pass(time.Minute)
		expect.Same(t, "what ran", []string{"web:1", "web:3"}, endingOf(w).Ran)
		wantStatus(w, "web", "Ready=True RolledOut")
	})
}

func TestADeploymentChangedBetweenDecisionAndWriteIsLookedAtAgain(t *testing.T) {
	inWorld(t, func(w *world) {
		w.upAndRunning("web")
		w.onFirst("get", "deployments", func() {
			edit(w, "web", func(d *appsv1.Deployment) { d.Spec.MinReadySeconds = 7 })
		})
		release(w, "web", "web:2")
		w.pass(time.Minute)
		wantStatus(w, "web", "Ready=True RolledOut")
		if reads, writes := len(w.requested("get", "deployments")), len(w.requested("update", "deployments")); reads < writes+2 || reads > writes+3 {
			t.Errorf("%d reads before %d writes, want one before the creation, and one or two without a write", reads, writes)
		}
	})
}

func TestADeploymentDeletedBetweenDecisionAndWriteIsCreated(t *testing.T) {
	inWorld(t, func(w *world) {
		w.upAndRunning("web")
		w.onFirst("get", "deployments", func() { remove[*appsv1.Deployment](w, "web") })
		release(w, "web", "web:2")
		w.pass(time.Minute)
		wantStatus(w, "web", "Ready=True RolledOut")
		if w.image("web") != "web:2" {
			t.Errorf("the Deployment runs %q, want web:2", w.image("web"))
		}
		expect.Same(t, "updates", 0, len(w.requested("update", "deployments")))
	})
}

func TestADeploymentTakenBetweenDecisionAndWriteIsNotTouched(t *testing.T) {
	inWorld(t, func(w *world) {
		w.upAndRunning("web")
		w.node.switchOff(true)
		var theirs *appsv1.Deployment
		w.onFirst("get", "deployments", func() {
			theirs = edit(w, "web", func(d *appsv1.Deployment) { d.OwnerReferences = nil })
		})
		release(w, "web", "web:2")
		w.pass(5 * time.Minute)
		wantUntouched(w, theirs)
		wantStatus(w, "web", "Ready=False NameTaken")
	})
}

func TestADeploymentCreatedBetweenDecisionAndWriteIsNotOverwritten(t *testing.T) {
	inWorld(t, func(w *world) {
		w.node.switchOff(true)
		var theirs *appsv1.Deployment
		w.onFirst("create", "deployments", func() { theirs = add(w, deploymentOf(webshop("web", "other:1"))) })
		add(w, webshop("web", "web:1"))
		w.pass(5 * time.Minute)
		wantUntouched(w, theirs)
		wantStatus(w, "web", "Ready=False NameTaken")
	})
}

func TestARevisionChangedBetweenDecisionAndWriteIsLookedAtAgain(t *testing.T) {
	inWorld(t, func(w *world) {
		w.upAndRunning("web")
		w.node.set("web:2", crashing)
		release(w, "web", "web:2")
		w.pass(time.Minute)
		g, _ := read[*v1alpha1.GuardedDeployment](w, "web")
		good := g.Status.GoodRevision
		// In the moment of the rollback somebody declares the revision to go back to failed.
		w.onFirst("get", "controllerrevisions", func() {
			edit(w, good, func(r *appsv1.ControllerRevision) { r.Annotations[v1alpha1.VerdictAnnotation] = v1alpha1.VerdictFailed })
		})
		w.pass(5 * time.Minute)
		wantStatus(w, "web", "Ready=False NoGoodRevision")
		expect.Same(t, "what ran", []string{"web:1", "web:2"}, endingOf(w).Ran)
	})
}

// onFirst does something just before the next request of its kind is carried out.
func (w *world) onFirst(verb, resource string, do func()) {
	w.intercept(func(r request, carryOut func() error) error {
		if r.verb == verb && r.resource == resource {
			w.intercept(nil)
			do()
		}
		return carryOut()
	})
}

// A deletion that no watch has shown is found when the informers list anew.

func TestADeploymentThatVanishesBehindABrokenWatchIsCreatedAgain(t *testing.T) {
	inWorld(t, func(w *world) {
		w.upAndRunning("web")
		w.hold("deployments")
		remove[*appsv1.Deployment](w, "web")
		w.collectGarbage()
		w.compact()
		w.cut()
		w.letGo("deployments")
		w.pass(2 * time.Minute)
		wantStatus(w, "web", "Ready=True RolledOut")
		if w.image("web") != "web:1" {
			t.Errorf("the Deployment runs %q, want web:1", w.image("web"))
		}
	})
}

func TestAGuardedDeploymentThatVanishesBehindABrokenWatchIsForgotten(t *testing.T) {
	inEmptyWorld(t, func(w *world) {
		belay := w.startBelay()
		w.upAndRunning("web")
		w.hold("guardeddeployments")
		remove[*v1alpha1.GuardedDeployment](w, "web")
		w.collectGarbage()
		w.compact()
		w.cut()
		w.letGo("guardeddeployments")
		w.forgetRequests()
		w.pass(2 * time.Minute)
		expect.Same(t, "what was written", []string(nil), w.diary())
		belay.stop()
		if len(belay.memories) != 0 || belay.fresh.Len() != 0 || belay.moving != 0 {
			t.Errorf("remembered: %v, %d unseen writes, %d on the move, want nothing", belay.memories, belay.fresh.Len(), belay.moving)
		}
	})
}
