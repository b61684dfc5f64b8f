package sim

import (
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// mountFails lets a pod be created for ever, with an Event at the kubelet's pauses.
func (c *causing) mountFails(pod *corev1.Pod, reason, message string) {
	c.hold(pod, func(s *corev1.PodStatus) {
		c.stuckIn("ContainerCreating", "")(s)
		c.condition(s, corev1.PodReadyToStartContainers, false, "", "no pod sandbox exists")
	})
	pause := time.Second
	c.every(func() time.Duration { pause = min(2*pause, 122*time.Second); return pause }, func() bool {
		there := c.pod(pod.Name) != nil
		if there {
			c.event(pod, corev1.EventTypeWarning, reason, message)
		}
		return there
	})
}

const gate = "example.com/gate"

func readinessGate(_, release *corev1.PodTemplateSpec) {
	release.Spec.ReadinessGates = []corev1.PodReadinessGate{{ConditionType: gate}}
}

// gated is the state of a pod that is up, but for a readiness gate. Without a status, nobody has written its condition.
func (c *cast) gated(status corev1.ConditionStatus) func(*corev1.PodStatus) {
	return func(s *corev1.PodStatus) {
		s.Phase = corev1.PodRunning
		s.ContainerStatuses = []corev1.ContainerStatus{{Name: "web", Ready: true, Started: new(true), Resources: given(0), State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}}
		c.conditions(s, true)
		if status != "" {
			c.condition(s, gate, status == corev1.ConditionTrue, "", "")
		}
		c.condition(s, corev1.PodReady, status == corev1.ConditionTrue, "ReadinessGatesNotReady", "")
	}
}

// noRoom lets the release's pods fit on no node until the cause has gone.
func noRoom(c *causing) {
	c.place = func(*corev1.Pod) (string, bool) { return "0/5 nodes are available: 5 Insufficient cpu.", false }
}

// awaited are the causes that a release is not to be judged for: it is told for whom it waits.
var awaited = []cause{
	{name: "a webhook is down", waitsFor: v1alpha1.ReasonWaitingForWebhook, order: excusable, alone: true, begin: func(c *causing) {
		c.admit = func(*corev1.Pod) string {
			return `Internal error occurred: failed calling webhook "inject.example.com": failed to call webhook: Post "https://inject.mesh.svc:443/": dial tcp 10.0.0.1:443: connect: connection refused`
		}
	}},
	{name: "a full quota", waitsFor: v1alpha1.ReasonWaitingForQuota, order: excusable, alone: true, begin: func(c *causing) {
		c.admit = func(*corev1.Pod) string { return overQuota }
	}},
	{name: "no room", waitsFor: v1alpha1.ReasonWaitingForRoom, order: excusable, begin: noRoom},
	{name: "no room, for a pod that has a node to come", waitsFor: v1alpha1.ReasonWaitingForRoom, order: excusable, brief: true, alone: true, needsGood: true, state: asksForMore, begin: func(c *causing) {
		c.place = func(pod *corev1.Pod) (string, bool) {
			c.report(pod.Name, func(s *corev1.PodStatus) { s.NominatedNodeName = "node-3" })
			return "0/5 nodes are available: 5 Insufficient cpu.", false
		}
	}},
	{name: "no room, and a node is being made", waitsFor: v1alpha1.ReasonWaitingForRoom, order: excusable, brief: true, alone: true, needsGood: true, state: asksForMore, begin: func(c *causing) {
		told := map[string]bool{}
		c.place = func(pod *corev1.Pod) (string, bool) {
			if !told[pod.Name] {
				told[pod.Name] = true
				c.in(c.seconds(1, 12), func() {
					c.event(pod, corev1.EventTypeNormal, "TriggeredScaleUp", "pod triggered scale-up: [{pool 3->4 (max: 9)}]")
				})
			}
			return "0/5 nodes are available: 5 Insufficient cpu.", false
		}
	}},
	{name: "the registry is away", waitsFor: v1alpha1.ReasonWaitingForRegistry, order: excusable, begin: func(c *causing) {
		c.live = func(pod *corev1.Pod) bool {
			return c.hold(pod, c.stuckIn("ErrImagePull", `failed to pull and unpack image: failed to do request: Head "https://registry/v2/": dial tcp 10.0.0.1:443: connect: connection refused`))
		}
	}},
	{name: "an image that waits behind another", waitsFor: v1alpha1.ReasonWaitingForRegistry, order: excusable, begin: func(c *causing) {
		c.live = func(pod *corev1.Pod) bool {
			c.event(pod, corev1.EventTypeNormal, "Pulling", "Pulling image")
			return c.hold(pod, c.stuckIn("ContainerCreating", ""))
		}
	}},
	{name: "one node cannot start pods", waitsFor: v1alpha1.ReasonWaitingForNode, order: excusable, wide: true, alone: true, begin: func(c *causing) {
		show := []func(*corev1.PodStatus){
			c.stuckIn("ErrImagePull", "failed to extract layer: no space left on device"), c.stuckIn("CreateContainerError", "context deadline exceeded"), c.stuckIn("ContainerCreating", ""),
		}[c.random.IntN(3)]
		c.live = func(pod *corev1.Pod) bool { return pod.Spec.NodeName == "node-2" && c.hold(pod, show) }
	}},
	{name: "a node falls silent under pods that start", waitsFor: v1alpha1.ReasonWaitingForNode, order: excusable, alone: true, fading: true, begin: func(c *causing) {
		slow := c.seconds(30, 60)
		c.live = func(pod *corev1.Pod) bool {
			c.says(pod.Name, false, false, "", 0)
			c.in(slow, func() { c.says(pod.Name, false, true, "", 0) })
			return true
		}
		c.every(func() time.Duration { return time.Second }, func() bool {
			for _, pod := range c.pods() {
				if isNew(pod) && pod.Spec.NodeName != "" {
					c.in(c.seconds(0, 12), func() { c.silence(pod.Spec.NodeName) })
					return false
				}
			}
			return true
		})
	}},
	{name: "a volume is not attached", waitsFor: v1alpha1.ReasonWaitingForVolume, order: excusable, begin: func(c *causing) {
		c.live = func(pod *corev1.Pod) bool {
			c.mountFails(pod, "FailedAttachVolume", `Multi-Attach error for volume "pvc-1" Volume is already used by pod(s) web-1`)
			return true
		}
	}},
	{name: "sandboxes cannot be made", waitsFor: v1alpha1.ReasonWaitingForVolume, order: excusable, begin: func(c *causing) {
		c.live = func(pod *corev1.Pod) bool {
			c.mountFails(pod, "FailedCreatePodSandBox", `Failed to create pod sandbox: plugin type="cni" failed (add): no more addresses`)
			return true
		}
	}},
	{name: "what both releases need is away", waitsFor: v1alpha1.ReasonWaitingForOldPods, needsGood: true, order: excusable, brief: true, alone: true, begin: func(c *causing) {
		c.in(c.seconds(0, 15), func() {
			for _, pod := range c.pods() {
				if !isNew(pod) {
					c.says(pod.Name, false, false, "", 0)
					c.release(pod.Name)
				}
			}
		})
		c.live = func(pod *corev1.Pod) bool {
			c.says(pod.Name, false, false, "", 0)
			c.release(pod.Name)
			return true
		}
	}},
	{name: "an injected sidecar crashes", waitsFor: v1alpha1.ReasonWaitingForInjection, order: excusable, alone: true, begin: func(c *causing) {
		c.admit = func(pod *corev1.Pod) string {
			pod.Spec.Containers = append(pod.Spec.Containers, corev1.Container{Name: "mesh", Image: "mesh:2"})
			return ""
		}
		c.live = func(pod *corev1.Pod) bool {
			c.crashBeside(pod.Name, 0)
			return true
		}
	}},
	{name: "an injected scheduling gate", waitsFor: v1alpha1.ReasonWaitingForSchedulingGate, order: excusable, begin: func(c *causing) {
		c.admit = func(pod *corev1.Pod) string {
			pod.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "example.com/quota"}}
			return ""
		}
		c.place = func(pod *corev1.Pod) (string, bool) { return "", false }
	}},
	{name: "a readiness gate that nobody writes", waitsFor: v1alpha1.ReasonWaitingForReadinessGate, order: excusable, alone: true,
		state: func(before, release *corev1.PodTemplateSpec) {
			readinessGate(nil, before)
			readinessGate(nil, release)
		}, begin: func(c *causing) {
			c.live = func(pod *corev1.Pod) bool {
				return c.hold(pod, c.gated(""))
			}
		}},
	{name: "the scheduler of both releases is away", waitsFor: v1alpha1.ReasonWaitingForScheduler, order: excusable, alone: true,
		state: func(before, release *corev1.PodTemplateSpec) {
			before.Spec.SchedulerName, release.Spec.SchedulerName = "volcano", "volcano"
		}, begin: func(c *causing) {
			c.place = func(*corev1.Pod) (string, bool) { return "", false }
		}},
}

// crashBeside lets a container that was injected crash, and the release's own be ready.
func (c *causing) crashBeside(name string, restarts int32) {
	if c.pod(name) == nil {
		return
	}
	c.report(name, func(s *corev1.PodStatus) {
		s.Phase = corev1.PodRunning
		mesh := corev1.ContainerStatus{Name: "mesh", RestartCount: restarts, Ready: c.gone, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}
		if !c.gone {
			mesh.State = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 1, Reason: "Error"}}
		}
		s.ContainerStatuses = []corev1.ContainerStatus{{Name: "web", Ready: true, Started: new(true), Resources: given(0), State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}, mesh}
		c.conditions(s, c.gone)
	})
	if !c.gone {
		c.in(c.seconds(2, 10), func() { c.crashBeside(name, restarts+1) })
	}
}
