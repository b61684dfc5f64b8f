package guard

import (
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"

	"github.com/belay-dev/belay/internal/expect"
	fake "github.com/belay-dev/belay/internal/fakecluster"
	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

func scaleTo(n int32) func(g *v1alpha1.GuardedDeployment) {
	return func(g *v1alpha1.GuardedDeployment) { g.Spec.Replicas = &n }
}

// again ends a process, and starts another one.
func again(w *world, p *belay) *belay {
	p.Kill()
	p.stop()
	p = startBelay(w)
	w.Pass(time.Minute)
	return p
}

// What was taken back is scaled to nothing, and scaled up again when its retry has long been due.
func TestAgain_RetryWhenScaledUp(t *testing.T) {
	inWorld(t, func(w *world) {
		w.UpAndRunning("web")
		w.Node.Set("bad:2", fake.Crashing)
		fake.Edit(w, "web", func(g *v1alpha1.GuardedDeployment) { g.Spec.Guard.Retries = new(int32(3)) })
		fake.Release(w, "web", "bad:2")
		w.Pass(90 * time.Second)
		fake.Edit(w, "web", scaleTo(0))
		w.Pass(time.Hour)
		fake.Edit(w, "web", scaleTo(3))
		tried := false
		for range 60 {
			w.Pass(time.Second)
			d, _ := fake.Read[*appsv1.Deployment](w, "web")
			if tried = tried || w.Image("web") == "bad:2"; tried && d.Status.AvailableReplicas < 2 {
				t.Fatalf("the failed release is tried again while %d pods are available", d.Status.AvailableReplicas)
			}
		}
		expect.Same(t, "tried again when the good ones are there", true, tried)
	})
}

// 2 has run well for an hour. An older one is asked for again, crashes by now, and is given up for the next one before it is judged.
func TestAgain_BackToWhatWasGoodLast(t *testing.T) {
	inWorld(t, func(w *world) {
		w.UpAndRunning("web")
		fake.Release(w, "web", "web:2")
		w.Pass(time.Hour)
		fake.WantStatus(w, "web", "Ready=True RolledOut")
		w.Node.Set("web:1", fake.Crashing)
		w.Node.Set("bad:3", fake.Crashing)
		fake.Release(w, "web", "web:1")
		w.Pass(5 * time.Second)
		fake.Release(w, "web", "bad:3")
		w.Pass(time.Hour)
		expect.Same(t, "what runs", "web:2", w.Image("web"))
		fake.WantStatus(w, "web", "Ready=False RolledBack")
	})
}

// What was taken back is restarted: that is no other rollback, and none is told.
func TestAgain_RestartIsNoRollback(t *testing.T) {
	inWorldWith(t, func(w *world, p *belay) {
		w.UpAndRunning("web")
		w.Node.Set("bad:2", fake.Crashing)
		fake.Release(w, "web", "bad:2")
		w.Pass(5 * time.Minute)
		told := w.EventsSent()
		for _, killedAfter := range []time.Duration{0, 2 * time.Second, 10 * time.Second} {
			fake.Restart(w, "web")
			w.Pass(killedAfter)
			if killedAfter > 0 {
				p = again(w, p)
			}
			w.Pass(5 * time.Minute)
			fake.WantStatus(w, "web", "Ready=False RolledBack")
		}
		expect.Same(t, "Events of restarts", told, w.EventsSent())
	})
}

// The next process tells nothing again that the status shows to have been told.
func TestAgain_ToldByTheProcessBefore(t *testing.T) {
	inWorldWith(t, func(w *world, p *belay) {
		w.UpAndRunning("web")
		for range 2 {
			fake.Edit(w, "web", scaleTo(0))
			w.Pass(time.Minute)
			p = again(w, p)
			fake.Edit(w, "web", scaleTo(3))
			w.Pass(time.Minute)
		}
		expect.Same(t, "Events of mornings", []string{"Normal RolledOut"}, w.EventsSent())

		w.Node.Set("bad:2", fake.Crashing)
		fake.Release(w, "web", "bad:2")
		w.Pass(5 * time.Minute)
		told := w.EventsSent()
		p = again(w, p)
		for range 2 {
			fake.Edit(w, "web", func(g *v1alpha1.GuardedDeployment) { g.Spec.Paused = true })
			w.Pass(time.Minute)
			p = again(w, p)
			fake.Edit(w, "web", func(g *v1alpha1.GuardedDeployment) { g.Spec.Paused = false })
			w.Pass(time.Minute)
		}
		expect.Same(t, "Events of pauses", told, w.EventsSent())
		fake.WantStatus(w, "web", "Ready=False RolledBack")
	})
}
