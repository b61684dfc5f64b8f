package sim

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// ends returns a cause whose pods are ready for a few seconds, less than any soak, and end then, for ever.
func ends(name string, reasons []string, end func(c *causing, pod *corev1.Pod)) cause {
	return cause{name: name, fails: reasons, order: ownEnds, begin: func(c *causing) {
		c.evictOld()
		c.live = func(pod *corev1.Pod) bool {
			c.healthy(pod.Name)
			c.in(3*time.Second+c.seconds(0, 6), func() {
				if c.pod(pod.Name) != nil {
					end(c, pod)
				}
			})
			return true
		}
	}}
}

// unplacedBy returns a cause for which the release's pods get no node.
func unplacedBy(name, words string, state func(before, release *corev1.PodTemplateSpec)) cause {
	return cause{name: name, fails: []string{v1alpha1.FailureDeadlineExceeded}, order: overdue, needsGood: true, state: state, begin: func(c *causing) {
		c.place = func(*corev1.Pod) (string, bool) { return words, false }
	}}
}

// refusedWith returns a cause for which the API server does not let the release's pods be created.
func refusedWith(name, reason, words string, state func(before, release *corev1.PodTemplateSpec)) cause {
	return cause{name: name, needsGood: state != nil, fails: []string{reason}, order: stuckPods, alone: true, state: state, begin: func(c *causing) {
		c.admit = func(*corev1.Pod) string { return words }
	}}
}

// asksForMore lets the release ask for more than the last good one.
func asksForMore(_, release *corev1.PodTemplateSpec) {
	release.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("64")}
}

// neverReady lets pods run, and never be ready.
func neverReady(c *causing) {
	c.live = func(pod *corev1.Pod) bool {
		c.says(pod.Name, false, false, "", 0)
		return true
	}
}

var (
	endedReasons = []string{v1alpha1.FailurePodsEnded, v1alpha1.FailureCrashLoop}
	onlyCrash    = []string{v1alpha1.FailureCrashLoop}
	onlyDeadline = []string{v1alpha1.FailureDeadlineExceeded}
)

const (
	overStorage = "Pod ephemeral local storage usage exceeds the total limit of containers 100Mi. "
	overMemory  = "The node was low on resource: memory. Threshold quantity: 100Mi, available: 52Mi. Container web was using 900Mi, request is 100Mi, has larger consumption of memory. "
)

// failing are the causes that a release is to be judged failed for.
var failing = []cause{
	ends("pods that use too much storage are evicted", []string{v1alpha1.FailurePodsEnded}, func(c *causing, pod *corev1.Pod) {
		c.finish(pod.Name, corev1.PodFailed, "Evicted", overStorage, 137, "")
	}),
	ends("pods that use too much storage are evicted, and obey", []string{v1alpha1.FailurePodsEnded}, func(c *causing, pod *corev1.Pod) {
		c.event(pod, corev1.EventTypeWarning, "Evicted", overStorage)
		c.finish(pod.Name, corev1.PodSucceeded, "", "", 0, "")
	}),
	ends("containers that are never restarted exit", endedReasons, func(c *causing, pod *corev1.Pod) {
		c.finish(pod.Name, corev1.PodFailed, "", "", 1, "")
	}),
	ends("pods eat the memory of their nodes, and an old pod was evicted before", []string{v1alpha1.FailurePodsEnded}, func(c *causing, pod *corev1.Pod) {
		c.finish(pod.Name, corev1.PodFailed, "Evicted", overMemory, 137, corev1.PodReasonTerminationByKubelet)
	}),
	{name: "kubelets refuse a sysctl", fails: []string{v1alpha1.FailurePodsEnded}, order: ownEnds, begin: func(c *causing) {
		c.live = func(pod *corev1.Pod) bool {
			c.in(time.Second, func() {
				c.refusedByKubelet(pod.Name, "SysctlForbidden", `forbidden sysctl: "net.core.somaxconn" not allowlisted`)
			})
			return true
		}
	}},
	{name: "containers crash", fails: onlyCrash, order: ownEnds, begin: func(c *causing) {
		after := c.seconds(0, 5)
		c.live = func(pod *corev1.Pod) bool {
			c.crash(pod.Name, 0, after, 0, 1000)
			return true
		}
	}},
	{name: "containers are killed for memory in the soak", fails: []string{v1alpha1.FailureCrashLoop, v1alpha1.FailureUnhealthyInSoak}, order: ownEnds, begin: func(c *causing) {
		after := c.seconds(2, 8)
		c.live = func(pod *corev1.Pod) bool {
			c.crash(pod.Name, time.Second, after, 0, 1000)
			return true
		}
	}},
	{name: "pods crash in bursts", fails: onlyCrash, order: ownEnds, alone: true, scales: true, begin: func(c *causing) {
		c.live = func(pod *corev1.Pod) bool {
			c.crash(pod.Name, 0, time.Second, 0, 1000)
			return true
		}
		bursts(c, 26*time.Second)
	}},
	{name: "pods go unready in the soak for good", fails: []string{v1alpha1.FailureUnhealthyInSoak, v1alpha1.FailureDeadlineExceeded}, order: inSoak, begin: func(c *causing) {
		after := c.seconds(1, 8)
		c.live = func(pod *corev1.Pod) bool {
			c.says(pod.Name, false, true, "", 0)
			c.in(after, func() { c.says(pod.Name, false, false, "", 0) })
			return true
		}
	}},
	{name: "the image is not there", fails: []string{v1alpha1.FailureImagePull}, order: stuckPods, begin: func(c *causing) {
		c.live = func(pod *corev1.Pod) bool {
			return c.hold(pod, c.stuckIn("ImagePullBackOff", `Back-off pulling image "web:1": ErrImagePull: failed to resolve reference "web:1": not found`))
		}
	}},
	{name: "a Secret is missing", fails: []string{v1alpha1.FailureContainerConfig}, order: stuckPods, begin: func(c *causing) {
		c.live = func(pod *corev1.Pod) bool {
			return c.hold(pod, c.stuckIn("CreateContainerConfigError", `secret "x" not found`))
		}
	}},
	{name: "a ConfigMap for a volume is missing", fails: []string{v1alpha1.FailureContainerConfig}, order: stuckPods, begin: func(c *causing) {
		c.live = func(pod *corev1.Pod) bool {
			c.mountFails(pod, "FailedMount", `MountVolume.SetUp failed for volume "config" : configmap "x" not found`)
			return true
		}
	}},
	refusedWith("a policy denies the pods", v1alpha1.FailurePodsForbidden, `admission webhook "policy.example.com" denied the request: no`, nil),
	refusedWith("the release asks for more than its quota", v1alpha1.FailureQuotaExceeded, overQuota, asksForMore),
	unplacedBy("the release asks for more than any node has", "0/5 nodes are available: 5 Insufficient cpu.", asksForMore),
	unplacedBy("the release names a scheduler that is not there", "", func(_, release *corev1.PodTemplateSpec) { release.Spec.SchedulerName = "volcanoo" }),
	unplacedBy("the release names a resource claim that cannot be made", "", func(_, release *corev1.PodTemplateSpec) {
		release.Spec.ResourceClaims = []corev1.PodResourceClaim{{Name: "g", ResourceClaimTemplateName: new("nope")}}
	}),
	unplacedBy("the release names a scheduling gate", "", func(_, release *corev1.PodTemplateSpec) {
		release.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "example.com/own"}}
	}),
	{name: "a policy rewrites the ReplicaSets", fails: onlyDeadline, alone: true, begin: func(c *causing) {
		c.tricks.rewrite = func(t *corev1.PodTemplateSpec) {
			if outcomeOf(t).name == "case-failed" {
				t.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "POLICY", Value: "was here"}}
			}
		}
	}},
	{name: "pods are never ready", fails: onlyDeadline, order: overdue, begin: neverReady},
	{name: "pods are never ready, and the replicas flap", fails: onlyDeadline, order: overdue, scales: true, begin: func(c *causing) {
		neverReady(c)
		up := false
		c.every(func() time.Duration { return 25 * time.Second }, func() bool {
			up = !up
			c.scaleTo(c.replicas + 2*int32(btoi(up)))
			return !c.judged()
		})
	}},
	{name: "pods are never ready, and there are more and more", fails: onlyDeadline, order: overdue, scales: true, begin: func(c *causing) {
		neverReady(c)
		n := c.replicas
		c.every(func() time.Duration { return c.seconds(30, 70) }, func() bool {
			n++
			c.scaleTo(n)
			return n < 15 && !c.judged()
		})
	}},
	{name: "a startup probe never succeeds", fails: onlyDeadline, order: overdue, state: slowProbe, begin: neverStarted(time.Hour)},
	{name: "a readiness gate says no", fails: onlyDeadline, order: overdue, needsGood: true, state: readinessGate, begin: func(c *causing) {
		c.live = func(pod *corev1.Pod) bool {
			return c.hold(pod, c.gated(corev1.ConditionFalse))
		}
	}},
}

// bursts asks for pods for a while, and for none, again and again.
func bursts(c *causing, last time.Duration) {
	on := true
	c.every(func() time.Duration {
		if on {
			return last
		}
		return c.seconds(15, 40)
	}, func() bool {
		if on = !on; c.judged() {
			on = true
		}
		c.scaleTo(c.replicas * int32(btoi(on)))
		return !c.judged()
	})
}
