package sim

import (
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	fake "github.com/belay-dev/belay/internal/fakecluster"
	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// again returns a harmless cause that does something to one new pod after the other, for a minute.
func again(name string, least, most int, do func(c *causing, pod *corev1.Pod)) cause {
	return cause{name: name, harmless: true, order: nothing, begin: func(c *causing) {
		until := c.now().Add(time.Minute)
		c.every(func() time.Duration { return c.seconds(least, most) }, func() bool {
			if pods := c.fresh(); len(pods) > 0 {
				do(c, pods[c.random.IntN(len(pods))])
			}
			return c.now().Before(until)
		})
	}}
}

// once returns a harmless cause that does something to one new pod in its soak.
func once(name string, do func(c *causing, pod *corev1.Pod)) cause {
	return cause{name: name, harmless: true, order: nothing, begin: func(c *causing) {
		c.inSoak(func() {
			if pods := c.fresh(); len(pods) > 0 {
				do(c, pods[c.random.IntN(len(pods))])
			}
		})
	}}
}

// lonely lets nothing else happen to pods that the cause makes ready again.
func lonely(c cause) cause {
	c.alone = true
	return c
}

// oldPodsTakeQuota returns the cause that old pods take up the quota while they end, for so many seconds at most.
func oldPodsTakeQuota(name string, state func(before, release *corev1.PodTemplateSpec), most int) cause {
	return cause{name: name, harmless: true, needsGood: true, alone: true, order: nothing, state: state, begin: func(c *causing) {
		long := c.seconds(30, most)
		c.tricks.ending = func(*corev1.Pod) time.Duration { return long }
		c.admit = func(*corev1.Pod) string {
			if len(c.pods()) > int(c.replicas) {
				return overQuota
			}
			return ""
		}
	}}
}

// evictOld evicts an old pod because its node is under pressure.
func (c *cast) evictOld() {
	for _, pod := range c.pods() {
		if !isNew(pod) && isReady(pod) {
			c.finish(pod.Name, corev1.PodFailed, "Evicted", overMemory, 137, corev1.PodReasonTerminationByKubelet)
			return
		}
	}
}

func slowProbe(_, release *corev1.PodTemplateSpec) {
	release.Spec.Containers[0].StartupProbe = &corev1.Probe{PeriodSeconds: 10, FailureThreshold: 30}
}

// neverStarted lets pods begin, and succeed in their startup probe only after a time.
func neverStarted(after time.Duration) func(*causing) {
	return func(c *causing) {
		c.live = func(pod *corev1.Pod) bool {
			c.report(pod.Name, func(s *corev1.PodStatus) {
				s.Phase = corev1.PodRunning
				s.ContainerStatuses = []corev1.ContainerStatus{{Name: "web", Started: new(false), Resources: given(0), State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}}
				c.conditions(s, false)
			})
			c.in(after, func() { c.says(pod.Name, false, true, "", 0) })
			return true
		}
	}
}

// restarted is what a pod's status says after a restart of its container.
func (c *cast) restarted(s *corev1.PodStatus, code int32, reason string) *corev1.ContainerStatus {
	status := &s.ContainerStatuses[0]
	status.RestartCount++
	status.LastTerminationState.Terminated = &corev1.ContainerStateTerminated{ExitCode: code, Reason: reason}
	return status
}

// harmless are the causes that a release is to be good after all with.
var harmless = []cause{
	again("a drain", 3, 9, func(c *causing, pod *corev1.Pod) { c.removePod(pod) }),
	again("evictions by the API", 4, 12, func(c *causing, pod *corev1.Pod) {
		c.finish(pod.Name, corev1.PodFailed, "", "Eviction API: evicting", 143, "EvictionByEvictionAPI")
	}),
	again("preemptions", 4, 12, func(c *causing, pod *corev1.Pod) {
		c.finish(pod.Name, corev1.PodFailed, "", "default-scheduler: preempting to accommodate a higher priority pod", 143, "PreemptionByScheduler")
	}),
	again("nodes that shut down", 5, 15, func(c *causing, pod *corev1.Pod) {
		c.finish(pod.Name, corev1.PodFailed, "Terminated", "Pod was terminated in response to imminent node shutdown.", 143, corev1.PodReasonTerminationByKubelet)
	}),
	once("a node under pressure refuses pods", func(c *causing, pod *corev1.Pod) {
		until := c.now().Add(c.seconds(1, 4))
		c.live = func(pod *corev1.Pod) bool {
			refuses := c.now().Before(until)
			if refuses {
				c.refusedByKubelet(pod.Name, "Evicted", "The node had condition: [MemoryPressure]. ")
			}
			return refuses
		}
		c.finish(pod.Name, corev1.PodFailed, "Evicted", overMemory, 137, corev1.PodReasonTerminationByKubelet)
	}),
	{name: "nodes under pressure evict old pods and new ones", harmless: true, needsGood: true, alone: true, order: nothing, begin: func(c *causing) {
		c.in(3500*time.Millisecond, c.evictOld)
		until := c.now().Add(time.Minute)
		c.every(func() time.Duration { return c.seconds(4, 8) }, func() bool {
			if pods := c.fresh(); len(pods) > 0 {
				c.finish(pods[0].Name, corev1.PodFailed, "Evicted", overMemory, 137, corev1.PodReasonTerminationByKubelet)
			}
			return c.now().Before(until)
		})
	}},
	once("a node falls silent under pods that are ready", func(c *causing, pod *corev1.Pod) { c.silence(pod.Spec.NodeName) }),
	again("resizes with a restart", 2, 9, func(c *causing, pod *corev1.Pod) {
		fake.Edit(c.World, pod.Name, func(p *corev1.Pod) {
			for i := range p.Spec.Containers {
				p.Spec.Containers[i].Resources = *given(p.Generation)
			}
		})
		c.report(pod.Name, func(s *corev1.PodStatus) {
			status := c.restarted(s, 137, "Error")
			status.Resources = given(int64(status.RestartCount))
		})
	}),
	lonely(again("pods are unready for a moment", 3, 9, func(c *causing, pod *corev1.Pod) {
		show := func(ready bool) {
			c.report(pod.Name, func(s *corev1.PodStatus) {
				s.ContainerStatuses[0].Ready = ready
				c.conditions(s, ready)
			})
		}
		show(false)
		c.in(c.seconds(1, 3), func() { show(true) })
	})),
	{name: "old pods are drained", harmless: true, order: nothing, needsGood: true, begin: func(c *causing) {
		c.every(func() time.Duration { return c.seconds(5, 15) }, func() bool {
			for _, pod := range c.pods() {
				if !isNew(pod) && !c.judged() {
					c.removePod(pod)
					break
				}
			}
			return !c.judged()
		})
	}},
	lonely(once("a node reboots", func(c *causing, pod *corev1.Pod) {
		c.report(pod.Name, func(s *corev1.PodStatus) {
			c.conditions(s, false)
			c.condition(s, corev1.PodReadyToStartContainers, false, "", "pod sandbox is not ready")
			c.restarted(s, 255, "Unknown").Ready = false
		})
		c.in(c.seconds(2, 4), func() {
			c.report(pod.Name, func(s *corev1.PodStatus) {
				s.ContainerStatuses[0].Ready = true
				c.conditions(s, true)
			})
		})
	})),
	{name: "an autoscaler takes pods away, which exit with an error", harmless: true, order: nothing, scales: true, begin: func(c *causing) {
		c.tricks.ending = func(pod *corev1.Pod) time.Duration {
			c.in(10*time.Millisecond, func() {
				if c.pod(pod.Name) != nil {
					fake.EditStatus(c.World, pod.Name, func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed })
				}
			})
			return time.Second
		}
		c.inSoak(func() { c.scaleTo(max(1, c.replicas-2)) })
	}},
	{name: "an autoscaler adds a pod now and then", harmless: true, order: nothing, scales: true, begin: func(c *causing) {
		n := c.replicas
		c.every(func() time.Duration { return c.seconds(4, 20) }, func() bool {
			n++
			c.scaleTo(n)
			return n < 12
		})
	}},
	{name: "pods that are there in bursts", harmless: true, alone: true, order: nothing, scales: true, begin: func(c *causing) { bursts(c, 14*time.Second) }},
	{name: "replicas that flap", harmless: true, order: nothing, scales: true, begin: func(c *causing) {
		up := false
		c.every(func() time.Duration { return c.seconds(5, 25) }, func() bool {
			up = !up
			c.scaleTo(c.replicas + 2*int32(btoi(up)))
			return c.now().Sub(c.acted) < 3*time.Minute
		})
	}},
	{name: "a pod that crashes, and is tolerated", harmless: true, order: nothing, alone: true, wide: true, guard: func(g *v1alpha1.Guard) {
		g.ToleratedPods = new(intstr.FromString("20%"))
	}, begin: func(c *causing) {
		c.tolerated = 1
		c.live = func(pod *corev1.Pod) bool {
			if c.numbered[pod.Name] != 3 {
				return false
			}
			c.crash(pod.Name, 0, 2*time.Second, 0, 1000)
			return true
		}
	}},
	oldPodsTakeQuota("a quota that old pods take up until they have ended", nil, 200),
	oldPodsTakeQuota("a quota that old pods take up for less than the deadline, and of which the release asks for more", asksForMore, 75),
	{name: "strategy Recreate, and old pods that take long to end", harmless: true, needsGood: true, alone: true, order: nothing, begin: func(c *causing) {
		long := c.seconds(60, 300)
		c.tricks.ending = func(*corev1.Pod) time.Duration { return long }
		c.putGuarded(func(g *v1alpha1.GuardedDeployment) { g.Spec.Strategy.Type = appsv1.RecreateDeploymentStrategyType })
	}},
	{name: "a startup probe that takes longer than the deadline", harmless: true, order: nothing, alone: true, state: slowProbe, begin: neverStarted(4 * time.Minute)},
	{name: "a database that comes late", harmless: true, guard: func(g *v1alpha1.Guard) { g.MaxRestarts = new(int32(3)) }, order: nothing, alone: true, begin: func(c *causing) {
		c.live = func(pod *corev1.Pod) bool {
			c.crash(pod.Name, 0, 2*time.Second, 0, 3)
			return true
		}
	}},
	{name: "a ReplicaSet controller, a scheduler or a Deployment controller that is away", harmless: true, order: nothing, begin: func(c *causing) {
		down := []*component{&c.deploymentController, &c.setController, &c.scheduler}[c.random.IntN(3)]
		c.in(c.seconds(0, 20), func() { c.stop(down) })
		c.in(20*time.Second+c.seconds(0, 300), func() { c.run.world.start(down) })
	}},
	{name: "Belay is away", harmless: true, order: nothing, begin: func(c *causing) {
		c.in(c.seconds(0, 20), func() { c.die(c.seconds(1, 200)) })
	}},
}
