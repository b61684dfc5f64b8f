package guard

import (
	"fmt"
	"slices"
	"testing"
	"time"

	fake "github.com/belay-dev/belay/internal/fakecluster"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/belay-dev/belay/internal/expect"
	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

func TestStatus_FailureFromBeforeThePodsWent(t *testing.T) {
	inWorld(t, func(w *world) {
		w.UpAndRunning("web")
		w.Node.Set("web:2", fake.Crashing)
		fake.Release(w, "web", "web:2")
		w.Pass(5 * time.Minute)

		g, _ := fake.Read[*v1alpha1.GuardedDeployment](w, "web")
		failure := g.Status.Failure
		if failure == nil {
			t.Fatal("no failure in the status")
		}
		expect.Same(t, "failure", &v1alpha1.Failure{
			Revision: g.Status.TargetRevision, Reason: v1alpha1.FailureCrashLoop, Cause: v1alpha1.CauseExitCode, Node: "node",
			Message:   fmt.Sprintf("container app exited with code 1 after 4 restarts in pod %s on node node: no DATABASE_URL", failure.Pod),
			Pod:       failure.Pod, // named by chance
			Container: "app", ExitCode: new(int32(1)), Restarts: 4, Time: failure.Time, Attempt: 1,
		}, failure)
		if _, there := fake.Read[*corev1.Pod](w, failure.Pod); there || failure.Pod == "" {
			t.Errorf("pod %q is named, and should be gone", failure.Pod)
		}
	})
}

func TestAtRest_NoRequests(t *testing.T) {
	for name, arrive := range map[string]func(w *world){
		"Ready=True RolledOut": func(w *world) { w.UpAndRunning("web") },
		"Ready=False RolledBack": func(w *world) {
			w.UpAndRunning("web")
			w.Node.Set("web:2", fake.Crashing)
			fake.Release(w, "web", "web:2")
		},
		"Ready=False NoGoodRevision": func(w *world) {
			w.Node.Set("web:1", fake.Crashing)
			fake.Add(w, fake.Webshop("web", "web:1"))
		},
		"Ready=True ScaledToZero": func(w *world) {
			g := fake.Webshop("web", "web:1")
			g.Spec.Replicas = new(int32(0))
			fake.Add(w, g)
		},
		"Ready=True Paused": func(w *world) {
			w.UpAndRunning("web")
			fake.Edit(w, "web", func(g *v1alpha1.GuardedDeployment) { g.Spec.Paused = true })
		},
		"Ready=False NameTaken": func(w *world) {
			d := fake.DeploymentOf(fake.Webshop("web", "other:1"))
			d.Labels = map[string]string{v1alpha1.GuardedLabel: "true"}
			fake.Add(w, d)
			fake.Add(w, fake.Webshop("web", "web:1"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				arrive(w)
				w.Pass(20 * time.Minute)
				fake.WantStatus(w, "web", name)
				w.ForgetRequests()
				w.Pass(10 * time.Minute)
				expect.Same(t, "requests", map[string]int{}, fake.Counts(w.Asked(fake.Everything)))
			})
		})
	}
}

func TestAtRest_RestartFillsCachesOnly(t *testing.T) {
	fake.In(t, func(w *world) {
		first := startBelay(w)
		w.UpAndRunning("web")
		w.Node.Set("web:2", fake.Crashing)
		fake.Release(w, "web", "web:2")
		w.Pass(10 * time.Minute)
		first.stop()
		w.ForgetRequests()
		startBelay(w)
		w.Pass(10 * time.Minute)
		expect.Same(t, "requests", map[string]int{
			"list guardeddeployments": 1, "list deployments": 1, "list controllerrevisions": 1,
		}, fake.Counts(w.Asked(fake.Everything)))
	})
}

func TestEvidence_AtMostEveryThreeSeconds(t *testing.T) {
	inWorld(t, func(w *world) {
		w.UpAndRunning("web")
		w.Node.Set("web:2", fake.Crashing)
		fake.Release(w, "web", "web:2")
		for range 300 { // events all the time, most of them within three seconds of the last
			w.Pass(700 * time.Millisecond)
			fake.EditStatus(w, "web", func(d *appsv1.Deployment) { d.Status.ObservedGeneration++ })
		}
		fake.WantStatus(w, "web", "Ready=False RolledBack")
		// One sooner, because the Deployment says for the first time that the rollback is done.
		looks := w.Requested("list", "replicasets")
		sooner := 0
		for i := 1; i < len(looks); i++ {
			if looks[i].At-looks[i-1].At < pollInterval {
				sooner++
			}
		}
		if shortest := shortestPause(looks); sooner > 1 || shortest < time.Second {
			t.Errorf("%d looks came less than %s after the last, want 1; the shortest pause was %s, want at least 1s", sooner, pollInterval, shortest)
		}
	})
}

func TestEvidence_ManyRolloutsArePolledLessOften(t *testing.T) {
	inWorld(t, func(w *world) {
		const objects = 300
		w.Node.Set("web:1", fake.NeverReady)
		for i := range objects {
			g := fake.Webshop(fmt.Sprintf("web-%d", i), "web:1")
			g.Spec.Replicas = new(int32(1))
			fake.Add(w, g)
		}
		w.Pass(5 * time.Second)
		w.Node.SwitchOff(true) // its pods are there; this is about Belay
		w.Pass(25 * time.Second)
		w.ForgetRequests()
		w.Pass(time.Minute)

		looks := w.Requested("list", "replicasets")
		most := int(time.Minute/pollStretch) + objects
		if len(looks) < objects || len(looks) > most {
			t.Errorf("%d looks in a minute, want %d to %d", len(looks), objects, most)
		}
	})
}

func TestEvidence_ManyPodsAreReadLessOften(t *testing.T) {
	inWorld(t, func(w *world) {
		const objects, replicas = 20, 300
		w.Node.Set("web:1", fake.NeverReady)
		for i := range objects {
			g := fake.Webshop(fmt.Sprintf("web-%d", i), "web:1")
			g.Spec.Replicas = new(int32(replicas))
			fake.Add(w, g)
		}
		w.Pass(5 * time.Second)
		w.Node.SwitchOff(true) // its pods are there; this is about Belay
		w.Pass(25 * time.Second)
		w.ForgetRequests()
		w.Pass(time.Minute)

		looks := w.Requested("list", "pods")
		most := int(time.Minute/podStretch)/replicas + objects
		if len(looks) < most/2 || len(looks) > most {
			t.Errorf("%d looks in a minute, want %d to %d", len(looks), most/2, most)
		}
	})
}

// shortestPause returns the least time between two of the requests.
func shortestPause(requests []request) time.Duration {
	var pauses []time.Duration
	for i := 1; i < len(requests); i++ {
		pauses = append(pauses, requests[i].At-requests[i-1].At)
	}
	return slices.Min(pauses)
}

// A pause after a rollback is no other rollback, nor one after a release another release.
func TestStory_PauseTellsNothingAgain(t *testing.T) {
	inWorld(t, func(w *world) {
		pause := func() {
			for _, paused := range []bool{true, false} {
				fake.Edit(w, "web", func(g *v1alpha1.GuardedDeployment) { g.Spec.Paused = paused })
				w.Pass(time.Minute)
			}
		}
		w.UpAndRunning("web")
		pause()
		fake.WantStatus(w, "web", "Ready=True RolledOut")
		fake.WantOnce(w, "Normal RolledOut")
		w.Node.Set("web:2", fake.Crashing)
		fake.Release(w, "web", "web:2")
		w.Pass(5 * time.Minute)
		pause()
		fake.WantStatus(w, "web", "Ready=False RolledBack")
		fake.WantOnce(w, "Warning RolledBack")
	})
}
