package guard

import (
	"sync/atomic"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/belay-dev/belay/internal/expect"
	fake "github.com/belay-dev/belay/internal/fakecluster"
	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// A process that takes over has caches that may lag behind what the one before has done. Nothing that it remembers tells it.

// inTakeover runs test in a world with one process that works, and another one that is to take over from it, after what is done while
// nobody works.
func inTakeover(t *testing.T, test func(w *world, takeOver func(meanwhile ...func()))) {
	t.Helper()
	fake.In(t, func(w *world) {
		first := startBelay(w)
		second := standBy(w)
		test(w, func(meanwhile ...func()) {
			w.Intercept(nil)
			first.Kill()
			first.stop()
			for _, do := range meanwhile {
				do()
			}
			second.lead()
		})
	})
}

// verdictOf returns the verdict in a write of a revision, empty if it is none.
func verdictOf(r request) string {
	if revision, ok := r.Object.(*appsv1.ControllerRevision); ok && r.Verb == "update" {
		return revision.Annotations[v1alpha1.VerdictAnnotation]
	}
	return ""
}

// until lets time pass until something is so.
func until(w *world, is func() bool) {
	w.T.Helper()
	for range 6000 {
		if is() {
			return
		}
		w.Pass(100 * time.Millisecond)
	}
	w.T.Fatal("it does not come to that")
}

func TestTakeover_StatusLags(t *testing.T) {
	inTakeover(t, func(w *world, takeOver func(...func())) {
		w.UpAndRunning("web")
		w.Node.Set("web:2", fake.Crashing)
		w.Intercept(func(r request, carryOut func() error) error {
			if g, ok := r.Object.(*v1alpha1.GuardedDeployment); ok && r.Verb == "update" && fake.Readiness(g) == "Ready=False RolledBack" {
				w.Hold("guardeddeployments")
			}
			return carryOut()
		})
		fake.Release(w, "web", "web:2")
		until(w, func() bool { return w.Status("web") == "Ready=False RolledBack" })
		w.Pass(time.Second)
		takeOver()
		w.Pass(4 * time.Second)
		w.LetGo("guardeddeployments")
		w.Pass(5 * time.Minute)
		fake.WantStatus(w, "web", "Ready=False RolledBack")
		fake.WantOnce(w, "Warning CrashLoop")
		fake.WantOnce(w, "Warning RolledBack")
	})
}

// What failed still runs, and in the cache what ran before it.
func TestTakeover_DeploymentLags(t *testing.T) {
	inTakeover(t, func(w *world, takeOver func(...func())) {
		w.UpAndRunning("web")
		w.Node.Set("web:2", fake.Crashing)
		w.Hold("deployments")
		var failed atomic.Bool
		w.Intercept(func(r request, carryOut func() error) error {
			if failed.Load() {
				return lostAnswers["gateway timeout"] // It is as good as killed.
			}
			failed.Store(verdictOf(r) == v1alpha1.VerdictFailed)
			return carryOut()
		})
		fake.Release(w, "web", "web:2")
		until(w, failed.Load)
		takeOver()
		w.Pass(4 * time.Second)
		if w.Image("web") == "web:2" && w.Status("web") == "Ready=False RolledBack" {
			t.Error("it is said to be back before it is")
		}
		w.LetGo("deployments")
		w.Pass(5 * time.Minute)
		fake.WantStatus(w, "web", "Ready=False RolledBack")
		fake.WantOnce(w, "Warning RolledBack")
		expect.Same(t, "what ran", []string{"web:1", "web:2", "web:1"}, endingOf(w).Ran)
	})
}

// A release that failed, and was held, has come up late and was found good; in the cache it is the one that failed.
func TestTakeover_VerdictLags(t *testing.T) {
	for _, onFailure := range []v1alpha1.OnFailure{v1alpha1.Rollback, v1alpha1.Hold} {
		t.Run(string(onFailure), func(t *testing.T) {
			inTakeover(t, func(w *world, takeOver func(...func())) {
				holdFailure(w)
				w.Hold("controllerrevisions")
				w.Node.Set("web:2", fake.Running)
				until(w, func() bool { return w.Status("web") == "Ready=True RolledOut" })
				w.Pass(time.Second)
				fake.Edit(w, "web", func(g *v1alpha1.GuardedDeployment) { g.Spec.Guard.OnFailure = onFailure })
				takeOver()
				w.Pass(10 * time.Second)
				fake.WantStatus(w, "web", "Ready=True RolledOut")
				w.LetGo("controllerrevisions")
				w.Pass(5 * time.Minute)
				fake.WantStatus(w, "web", "Ready=True RolledOut")
				fake.WantOnce(w, "Warning CrashLoop")
				fake.WantOnce(w, "Warning Held")
				expect.Same(t, "what ran", []string{"web:1", "web:2"}, endingOf(w).Ran)
			})
		})
	}
}

// What was good is restarted, and its new pods crash while nobody leads. The process that takes over knows nothing yet of the verdict: what
// it finds is about the restart, and not about the release.
func TestTakeover_VerdictOfWhatIsRestartedLags(t *testing.T) {
	inTakeover(t, func(w *world, takeOver func(...func())) {
		fake.Add(w, fake.Webshop("web", "web:1"))
		w.Intercept(func(r request, carryOut func() error) error {
			if verdictOf(r) == v1alpha1.VerdictGood {
				w.Hold("controllerrevisions")
			}
			return carryOut()
		})
		until(w, func() bool { return w.Status("web") == "Ready=True RolledOut" })
		restarted := time.Now()
		w.Node.Set("web:1", func(age time.Duration) corev1.PodStatus {
			if time.Now().Add(-age).Before(restarted) {
				return fake.Running(age)
			}
			return fake.Crashing(age)
		})
		takeOver(func() {
			fake.Restart(w, "web")
			w.Pass(2 * time.Minute)
		})
		w.Pass(4 * time.Second)
		w.LetGo("controllerrevisions")
		w.Pass(3 * time.Minute)
		fake.WantStatus(w, "web", "Ready=True RolledOut")
		fake.WantOnce(w, "Normal RestartFailed")
	})
}

// A process that begins while replicas are being added to what was rolled back does not take that for a rollout.
func TestTakeover_InAScaling(t *testing.T) {
	inTakeover(t, func(w *world, takeOver func(...func())) {
		w.UpAndRunning("web")
		w.Node.Set("web:2", fake.Crashing)
		fake.Release(w, "web", "web:2")
		w.Pass(5 * time.Minute)
		fake.WantStatus(w, "web", "Ready=False RolledBack")
		fake.Edit(w, "web", func(g *v1alpha1.GuardedDeployment) { g.Spec.Replicas = new(int32(6)) })
		w.Pass(100 * time.Millisecond)
		takeOver()
		w.Pass(5 * time.Minute)
		fake.WantStatus(w, "web", "Ready=False RolledBack")
		fake.WantOnce(w, "Warning RolledBack")
	})
}
