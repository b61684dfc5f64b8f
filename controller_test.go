package main

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/belay-dev/belay/internal/expect"
	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

func TestAFailedReleaseIsRolledBackAndAFixGoesForward(t *testing.T) {
	inWorld(t, func(w *world) {
		add(w, webshop("web", "web:1"))
		w.pass(time.Minute)
		w.node.set("web:2", crashing)
		release(w, "web", "web:2")
		w.pass(4 * time.Minute)
		wantStatus(w, "web", "Ready=False RolledBack")
		release(w, "web", "web:3")
		w.pass(5 * time.Minute)
		wantStatus(w, "web", "Ready=True RolledOut")

		expect.Same(t, "what was written", []string{
			// A healthy release: the Deployment is done at once, so that the first look comes after 1 s, and it stays so for 30 s.
			"0s create controllerrevisions",
			"0s create deployments: web:1",
			"0s update guardeddeployments/status: Ready=False Progressing",
			"1s update guardeddeployments/status: Ready=False Soaking",
			"31s update controllerrevisions: good",
			"31s update guardeddeployments/status: Ready=True RolledOut",
			// A failing one: the fourth restart comes after 70 s. The verdict is written before the Deployment moves.
			"1m0s create controllerrevisions",
			"1m0s update deployments: web:2",
			"1m0s update guardeddeployments/status: Ready=False Progressing",
			"1m10s update guardeddeployments/status: Ready=False Progressing", // the counts
			"2m12s update controllerrevisions: failed",
			"2m12s update deployments: web:1",
			"2m12s update guardeddeployments/status: Ready=False Progressing",
			"2m13s update guardeddeployments/status: Ready=False RolledBack",
			// The fix.
			"5m0s create controllerrevisions",
			"5m0s update deployments: web:3",
			"5m0s update guardeddeployments/status: Ready=False Progressing",
			"5m1s update guardeddeployments/status: Ready=False Soaking",
			"5m31s update controllerrevisions: good",
			"5m31s update guardeddeployments/status: Ready=True RolledOut",
		}, w.diary())
		expect.Same(t, "Events", []string{"Normal RolledOut", "Warning CrashLoop", "Warning RolledBack", "Normal RolledOut"}, w.eventsSent())
	})
}

func TestTheFailureIsReportedAsItWasBeforeThePodsWent(t *testing.T) {
	inWorld(t, func(w *world) {
		w.upAndRunning("web")
		w.node.set("web:2", crashing)
		release(w, "web", "web:2")
		w.pass(5 * time.Minute)

		g, _ := read[*v1alpha1.GuardedDeployment](w, "web")
		failure := g.Status.Failure
		if failure == nil {
			t.Fatal("no failure in the status")
		}
		expect.Same(t, "failure", &v1alpha1.Failure{
			Revision: g.Status.TargetRevision, Reason: v1alpha1.FailureCrashLoop,
			Message:   fmt.Sprintf("container app of pod %s exited with code 1, after 4 restarts: no DATABASE_URL", failure.Pod),
			Pod:       failure.Pod, // named by chance
			Container: "app", ExitCode: new(int32(1)), Time: failure.Time, Attempt: 1,
		}, failure)
		if _, there := read[*corev1.Pod](w, failure.Pod); there || failure.Pod == "" {
			t.Errorf("pod %q is named, and should be gone", failure.Pod)
		}
	})
}

func TestAtRestNothingIsAskedOfTheAPIServer(t *testing.T) {
	for name, arrive := range map[string]func(w *world){
		"Ready=True RolledOut": func(w *world) { w.upAndRunning("web") },
		"Ready=False RolledBack": func(w *world) {
			w.upAndRunning("web")
			w.node.set("web:2", crashing)
			release(w, "web", "web:2")
		},
		"Ready=False NoGoodRevision": func(w *world) {
			w.node.set("web:1", crashing)
			add(w, webshop("web", "web:1"))
		},
		"Ready=True ScaledToZero": func(w *world) {
			g := webshop("web", "web:1")
			g.Spec.Replicas = new(int32(0))
			add(w, g)
		},
		"Ready=True Paused": func(w *world) {
			w.upAndRunning("web")
			edit(w, "web", func(g *v1alpha1.GuardedDeployment) { g.Spec.Paused = true })
		},
		"Ready=False NameTaken": func(w *world) {
			d := deploymentOf(webshop("web", "other:1"))
			d.Labels = map[string]string{v1alpha1.GuardedLabel: "true"}
			add(w, d)
			add(w, webshop("web", "web:1"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				arrive(w)
				w.pass(20 * time.Minute)
				wantStatus(w, "web", name)
				w.forgetRequests()
				w.pass(10 * time.Minute)
				expect.Same(t, "requests", map[string]int{}, counts(w.asked(everything)))
			})
		})
	}
}

func TestARestartOfBelayAtRestAsksForNothingButItsCaches(t *testing.T) {
	inEmptyWorld(t, func(w *world) {
		first := w.startBelay()
		w.upAndRunning("web")
		w.node.set("web:2", crashing)
		release(w, "web", "web:2")
		w.pass(10 * time.Minute)
		first.stop()
		w.forgetRequests()
		w.startBelay()
		w.pass(10 * time.Minute)
		expect.Same(t, "requests", map[string]int{
			"list guardeddeployments": 1, "list deployments": 1, "list controllerrevisions": 1,
		}, counts(w.asked(everything)))
	})
}

func TestEvidenceIsReadAtMostEveryThreeSeconds(t *testing.T) {
	inWorld(t, func(w *world) {
		w.upAndRunning("web")
		w.node.set("web:2", crashing)
		release(w, "web", "web:2")
		for range 300 { // events all the time, most of them within three seconds of the last
			w.pass(700 * time.Millisecond)
			editStatus(w, "web", func(d *appsv1.Deployment) { d.Status.ObservedGeneration++ })
		}
		wantStatus(w, "web", "Ready=False RolledBack")
		// One sooner, because the Deployment says for the first time that the rollback is done.
		looks := w.requested("list", "replicasets")
		sooner := 0
		for i := 1; i < len(looks); i++ {
			if looks[i].at-looks[i-1].at < lookEvery {
				sooner++
			}
		}
		if shortest := shortestPause(looks); sooner > 1 || shortest < time.Second {
			t.Errorf("%d looks came less than %s after the last, want 1; the shortest pause was %s, want at least 1s", sooner, lookEvery, shortest)
		}
	})
}

func TestManyObjectsOnTheMoveAreLookedAtLessOften(t *testing.T) {
	inWorld(t, func(w *world) {
		const objects = 300
		w.node.set("web:1", neverReady)
		for i := range objects {
			g := webshop(fmt.Sprintf("web-%d", i), "web:1")
			g.Spec.Replicas = new(int32(1))
			add(w, g)
		}
		w.pass(5 * time.Second)
		w.node.switchOff(true) // its pods are there; this is about Belay
		w.pass(25 * time.Second)
		w.forgetRequests()
		w.pass(time.Minute)

		looks := w.requested("list", "replicasets")
		most := int(time.Minute/lookStretch) + objects
		if len(looks) < objects || len(looks) > most {
			t.Errorf("%d looks in a minute, want %d to %d", len(looks), objects, most)
		}
	})
}

func TestAThousandFailingKeysShareNoBucketOfRetries(t *testing.T) {
	inWorld(t, func(w *world) {
		const objects = 1000
		failed := map[string]bool{}
		w.intercept(func(r request, carryOut func() error) error {
			if r.String() == "create controllerrevisions" && !failed[r.name] {
				failed[r.name] = true
				return apierrors.NewInternalError(fmt.Errorf("not now"))
			}
			return carryOut()
		})
		w.node.switchOff(true)
		for i := range objects {
			add(w, webshop(fmt.Sprintf("web-%d", i), "web:1"))
		}
		w.pass(2 * time.Second)
		// client-go's default limiter shares a bucket of 10 retries a second among all keys: that would take 90 s.
		created := w.requested("create", "deployments")
		if len(created) != objects {
			t.Fatalf("%d Deployments are created, want %d", len(created), objects)
		}
		if last := created[objects-1].at; last > time.Second {
			t.Errorf("the last Deployment was created after %s, want within a second", last)
		}
	})
}

func TestAFailingKeyDoesNotDelayAnother(t *testing.T) {
	inWorld(t, func(w *world) {
		w.intercept(func(r request, carryOut func() error) error {
			if r.name == "broken" && r.writes() {
				return apierrors.NewInternalError(fmt.Errorf("always"))
			}
			return carryOut()
		})
		add(w, webshop("broken", "web:1"))
		w.pass(10*time.Minute + 100*time.Millisecond)
		add(w, webshop("web", "web:1"))
		w.pass(33 * time.Second)
		wantStatus(w, "web", "Ready=True RolledOut")
	})
}

func TestAFailureIsRetriedAfter5MillisecondsDoublingUpTo30Seconds(t *testing.T) {
	inWorld(t, func(w *world) {
		w.intercept(func(r request, carryOut func() error) error {
			if r.writes() {
				return apierrors.NewInternalError(fmt.Errorf("always"))
			}
			return carryOut()
		})
		add(w, webshop("web", "web:1"))
		w.pass(10 * time.Minute)
		var pauses []time.Duration
		tries := w.requested("create", "controllerrevisions")
		for i := 1; i < len(tries); i++ {
			pauses = append(pauses, tries[i].at-tries[i-1].at)
		}
		ms := time.Millisecond
		want := []time.Duration{5 * ms, 10 * ms, 20 * ms, 40 * ms, 80 * ms, 160 * ms, 320 * ms, 640 * ms, 1280 * ms, 2560 * ms, 5120 * ms, 10240 * ms, 20480 * ms}
		expect.Same(t, "pauses", want, pauses[:len(want)])
		for _, pause := range pauses[len(want):] {
			if pause != 30*time.Second {
				t.Errorf("a pause of %s, want 30s", pause)
			}
		}
	})
}

func TestRunReturnsOnlyAfterASyncThatHadBegun(t *testing.T) {
	inEmptyWorld(t, func(w *world) {
		belay := w.startBelay()
		synctest.Wait() // A request that sleeps holds a mutex of the fake client: nothing else may ask for it meanwhile.
		w.intercept(func(r request, carryOut func() error) error {
			if r.resource == "deployments" && r.writes() {
				time.Sleep(2 * time.Second)
			}
			return carryOut()
		})
		add(w, webshop("web", "web:1"))
		w.pass(time.Second)
		belay.stop()
		if took := time.Since(w.began); took != 2*time.Second {
			t.Errorf("Run returned after %s, want 2s, when the write was answered", took)
		}
		expect.Same(t, "what was written", []string{
			"0s create controllerrevisions",
			"0s create deployments: web:1",
			"2s update guardeddeployments/status: Ready=False Progressing",
		}, w.diary())
	})
}

func TestABacklogIsNotWorkedOffAfterTheEnd(t *testing.T) {
	inEmptyWorld(t, func(w *world) {
		for i := range 1000 {
			add(w, webshop(fmt.Sprintf("web-%d", i), "web:1"))
		}
		belay := w.startBelay()
		w.intercept(func(r request, carryOut func() error) error {
			if r.writes() {
				belay.terminate()
			}
			return carryOut()
		})
		w.pass(time.Second)
		belay.stop()
		if begun := len(w.requested("create", "controllerrevisions")); begun > 50 {
			t.Errorf("%d objects were synced although the end had been asked for at the first, want a handful", begun)
		}
	})
}

func TestBelayCanBeStoppedBeforeItsCachesAreFilled(t *testing.T) {
	inEmptyWorld(t, func(w *world) {
		w.intercept(func(request, func() error) error { return apierrors.NewInternalError(fmt.Errorf("not now")) })
		belay := w.startBelay()
		w.pass(time.Minute)
		belay.mayFail = true
		belay.stop()
		if writes := w.asked(request.writes); len(writes) > 0 {
			t.Errorf("wrote %v without having read anything", writes)
		}
	})
}

// upAndRunning creates a GuardedDeployment of web:1 and waits until it is ready.
func (w *world) upAndRunning(name string) {
	w.t.Helper()
	add(w, webshop(name, "web:1"))
	w.pass(40 * time.Second)
	wantStatus(w, name, "Ready=True RolledOut")
}

// deploymentOf returns a Deployment, nobody's, as somebody would write it who wants the same as g.
func deploymentOf(g *v1alpha1.GuardedDeployment) *appsv1.Deployment {
	d := &appsv1.Deployment{Spec: g.Spec.DeploymentSpec}
	d.Name, d.Namespace = g.Name, g.Namespace
	return d
}

// shortestPause returns the least time between two of the requests.
func shortestPause(requests []request) time.Duration {
	var pauses []time.Duration
	for i := 1; i < len(requests); i++ {
		pauses = append(pauses, requests[i].at-requests[i-1].at)
	}
	return slices.Min(pauses)
}

func wantStatus(w *world, name, want string) {
	w.t.Helper()
	if got := w.status(name); got != want {
		w.t.Errorf("after %s, %s is %s, want %s", time.Since(w.began), name, got, want)
	}
}
