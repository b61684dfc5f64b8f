package e2e

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// readiness counts the ready pods of a Deployment at every change that is seen.
type readiness struct {
	*inPlace
	mu    sync.Mutex
	ready map[string]bool // by name
	seen  []int           // how many were ready, from the verdict on
	told  bool            // the verdict was seen
}

// watchReady begins to count.
func (p *inPlace) watchReady() *readiness {
	p.Helper()
	r := &readiness{inPlace: p, ready: map[string]bool{}}
	factory := informers.NewSharedInformerFactoryWithOptions(cluster.kube, 0, informers.WithNamespace(p.namespace.name))
	pods := factory.Core().V1().Pods().Informer()
	note := func(found any) {
		if pod, ok := found.(*corev1.Pod); ok && pod.Labels["app"] == p.name {
			r.note(pod.Name, isReady(pod) && pod.DeletionTimestamp == nil)
		}
	}
	if _, err := pods.AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: note, UpdateFunc: func(_, now any) { note(now) }}); err != nil {
		p.Fatal(err)
	}
	registration, err := cluster.seen.deployments.AddEventHandler(cache.ResourceEventHandlerFuncs{UpdateFunc: func(_, now any) {
		if d := now.(*appsv1.Deployment); d.Namespace == p.namespace.name && d.Name == p.name && d.Annotations[v1alpha1.FailureAnnotation] != "" {
			r.verdict()
		}
	}})
	if err != nil {
		p.Fatal(err)
	}
	p.Cleanup(func() { _ = cluster.seen.deployments.RemoveEventHandler(registration) })
	ctx, cancel := context.WithCancel(context.Background())
	p.Cleanup(cancel)
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(ctx.Done())
	return r
}

func isReady(pod *corev1.Pod) bool {
	return slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

func (r *readiness) note(pod string, ready bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.ready, pod)
	if ready {
		r.ready[pod] = true
	}
	if r.told {
		r.seen = append(r.seen, len(r.ready))
	}
}

func (r *readiness) verdict() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.told {
		r.told, r.seen = true, append(r.seen, len(r.ready))
	}
}

// checkFloor makes sure that at no moment since the verdict fewer pods were ready than then, or than the strategy allows for.
func (r *readiness) checkFloor(atVerdict, allowed int) {
	r.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.told {
		r.Fatal("no verdict was seen")
	}
	floor, least := min(atVerdict, allowed), slices.Min(r.seen)
	figures.count("in place: ready pods below the floor", max(0, floor-least), 0)
	if least < floor {
		r.Errorf("at some time %d pods were ready, want at least %d: %v", least, floor, slices.Compact(r.seen))
	}
	if r.seen[0] < atVerdict {
		r.Errorf("at the verdict %d pods were ready, and Belay counted %d", r.seen[0], atVerdict)
	}
}

// crashesWhen is what becomes of so many pods of a release when the gate is open. All others stay well.
func crashesWhen(open *gate, pods int) script {
	return script{lives: func(p *played) {
		p.run()
		if p.index >= pods {
			p.forever()
		}
		for p.until(open.open); ; p.pause(time.Second) {
			p.container(func(c *corev1.ContainerStatus) { c.Ready, c.State = false, terminated(3, "Error", "no such table") })
			p.pause(time.Second)
			p.container(func(c *corev1.ContainerStatus) {
				c.LastTerminationState, c.State = c.State, running()
				c.RestartCount++
			})
		}
	}}
}

// startsLate is what becomes of pods that are ready after a while.
func startsLate(after time.Duration) script {
	return script{lives: func(p *played) {
		p.takeOn("ContainerCreating")
		p.start(false)
		p.pause(after)
		p.container(func(c *corev1.ContainerStatus) { c.Ready = true })
		p.forever()
	}}
}

// In the soak, when the old pods are gone, some of the new ones crash. Those that are well serve until good ones have taken over.
func TestInPlace_CapacityInTheSoak(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name     string
		change   change
		replicas int32
		crash    int // how many of the new pods
		allowed  int // how many pods the strategy wants ready: replicas - maxUnavailable
	}{
		{"default", rolling("25%", "25%"), 4, 2, 3},
		{"one crashes", rolling("25%", "25%"), 4, 1, 3},
		{"none unavailable", rolling("1", "0"), 4, 2, 4},
		{"no surge", rolling("0", "1"), 4, 2, 3},
		{"all unavailable", rolling("100%", "100%"), 4, 2, 0},
		{"one replica", rolling("25%", "25%"), 1, 1, 1},
		{"recreated", recreates, 4, 2, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			needsHolds(t)
			complete := newGate()
			k := newKubelet(t, 1, map[string]script{"2": crashesWhen(complete, test.crash)})
			k.inPlace = true
			web := k.guarded("web", k.template("1"), size(test.replicas), test.change)
			k.play("1", startsLate(2*time.Second))
			ready := web.watchReady()
			web.release(k.template("2"), settings(`{"soakSeconds": 30, "maxRestarts": 1, "stuckSeconds": 10}`))
			web.awaitSets("is complete", func(_ *appsv1.Deployment, current *appsv1.ReplicaSet, others []*appsv1.ReplicaSet) bool {
				return is(current, test.replicas) && is(others[0], 0)
			})
			complete.lift()
			f := web.awaitRolledBack()
			ready.checkFloor(int(f.Ready), test.allowed)
			if f.Ready != test.replicas-int32(test.crash) {
				t.Errorf("%d pods were ready at the verdict, want %d", f.Ready, int(test.replicas)-test.crash)
			}
			web.awaitEvents(v1alpha1.ReasonRolledBack, 1)
			web.awaitEvents(v1alpha1.ReasonRollbackFailed, 0)
			web.release(k.template("3"), settings(shortGuard))
			web.awaitGood()
		})
	}
}

// Two old ReplicaSets have pods when a third release fails: all but the good one go.
func TestInPlace_TwoOldReplicaSets(t *testing.T) {
	needsHolds(t)
	k := newKubelet(t, 1, map[string]script{"2": crashesWith(1), "3": crashesWith(1)})
	k.inPlace = true
	web := k.guarded("web", k.template("1"), settings(`{"soakSeconds": 2, "maxRestarts": 3}`))
	ready := web.watchReady()
	web.release(k.template("2"))
	web.awaitSets("has pods of both", func(_ *appsv1.Deployment, current *appsv1.ReplicaSet, others []*appsv1.ReplicaSet) bool {
		return current.Status.Replicas > 0 && others[0].Status.Replicas > 0
	})
	web.release(k.template("3"))
	f := web.awaitRolledBack()
	if _, _, others := web.sets(); len(others) != 2 || versionOf(others[1].Spec.Template.Spec) != "1" || !is(others[1], 4) || !is(others[0], 0) {
		t.Errorf("the first release does not run alone")
	}
	ready.checkFloor(int(f.Ready), 3)
	web.release(k.template("4"))
	web.awaitGood()
}
