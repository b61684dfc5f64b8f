package rollout

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// aPod returns the pod web-1 with containers web and log, after these changes.
func aPod(changes ...func(*corev1.Pod)) *corev1.Pod {
	pod := &corev1.Pod{}
	pod.Name = "web-1"
	pod.Spec.Containers = []corev1.Container{{Name: "web"}, {Name: "log"}}
	for _, change := range changes {
		change(pod)
	}
	return pod
}

func condition(kind corev1.PodConditionType, status corev1.ConditionStatus, reason, message string) func(*corev1.Pod) {
	return func(pod *corev1.Pod) {
		pod.Status.Conditions = append(pod.Status.Conditions, corev1.PodCondition{Type: kind, Status: status, Reason: reason, Message: message})
	}
}

func is(kind corev1.PodConditionType) func(*corev1.Pod) {
	return condition(kind, corev1.ConditionTrue, "", "")
}
func isNot(kind corev1.PodConditionType) func(*corev1.Pod) {
	return condition(kind, corev1.ConditionFalse, "", "")
}

func gated(kind corev1.PodConditionType) func(*corev1.Pod) {
	return func(pod *corev1.Pod) { pod.Spec.ReadinessGates = []corev1.PodReadinessGate{{ConditionType: kind}} }
}

func TestPod_ReadyByOwnWord(t *testing.T) {
	const containers, ready, gate = corev1.ContainersReady, corev1.PodReady, corev1.PodConditionType("example.com/lb")
	for _, test := range []struct {
		name          string
		pod           *corev1.Pod
		ready, silent bool
	}{
		{"ready", aPod(is(containers), is(ready)), true, false},
		{"nothing known", aPod(), false, false},
		{"containers not ready", aPod(isNot(containers), isNot(ready)), false, false},
		{"containers not ready, ready not yet written", aPod(isNot(containers), is(ready)), false, false},
		{"node silent", aPod(is(containers), isNot(ready)), true, true},
		{"node unknown", aPod(is(containers), condition(ready, corev1.ConditionUnknown, "NodeStatusUnknown", "")), true, true},
		{"containers only", aPod(is(containers)), true, false},
		{"pretend node", aPod(is(ready)), true, false},
		{"pretend node, not ready", aPod(isNot(ready)), false, false},
		{"gate open", aPod(gated(gate), is(containers), is(gate), is(ready)), true, false},
		{"gate closed", aPod(gated(gate), is(containers), isNot(gate), isNot(ready)), false, false},
		{"gate without condition", aPod(gated(gate), is(containers), isNot(ready)), false, false},
		{"gate open, kubelet has not seen it", aPod(gated(gate), is(containers), is(gate),
			condition(ready, corev1.ConditionFalse, "ReadinessGatesNotReady", "")), true, false},
		{"gate open, node silent", aPod(gated(gate), is(containers), is(gate), isNot(ready)), true, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := readyByOwnWord(test.pod); got != test.ready {
				t.Errorf("readyByOwnWord: got %v", got)
			}
			if got := nodeSilent(test.pod); got != test.silent {
				t.Errorf("nodeSilent: got %v", got)
			}
		})
	}
}

func phase(phase corev1.PodPhase, reason, message string) func(*corev1.Pod) {
	return func(pod *corev1.Pod) {
		pod.Status.Phase, pod.Status.Reason, pod.Status.Message = phase, reason, message
	}
}

func deleted(pod *corev1.Pod) { pod.DeletionTimestamp = &metav1.Time{Time: noon} }

// exitedAt adds a container that ended, this many seconds after noon.
func exitedAt(name string, code int32, reason, message string, at int) func(*corev1.Pod) {
	return func(pod *corev1.Pod) {
		c := corev1.ContainerStatus{Name: name}
		c.State.Terminated = &corev1.ContainerStateTerminated{ExitCode: code, Reason: reason, Message: message,
			FinishedAt: metav1.NewTime(noon.Add(time.Duration(at) * time.Second))}
		pod.Status.ContainerStatuses = append(pod.Status.ContainerStatuses, c)
	}
}

// withSidecar declares log to be an init sidecar.
func withSidecar(pod *corev1.Pod) {
	pod.Spec.Containers = pod.Spec.Containers[:1]
	pod.Spec.InitContainers = []corev1.Container{{Name: "log", RestartPolicy: new(corev1.ContainerRestartPolicyAlways)}}
}

func killedByKubelet(message string) func(*corev1.Pod) {
	return condition(corev1.DisruptionTarget, corev1.ConditionTrue, corev1.PodReasonTerminationByKubelet, message)
}

const (
	diskFull  = "Pod ephemeral local storage usage exceeds the total limit of containers 100Mi. "
	memoryLow = "The node was low on resource: memory. Threshold quantity: 100Mi, available: 20Mi. "
	webUses   = "Container web was using 3Gi, request is 0, has larger consumption of memory. "
)

func TestPod_EndOf(t *testing.T) {
	const failed, succeeded, running = corev1.PodFailed, corev1.PodSucceeded, corev1.PodRunning
	for _, test := range []struct {
		name string
		pod  *corev1.Pod
		want end // the exit code is told by code
		code int32
	}{
		{"evicted for its storage", aPod(phase(failed, "Evicted", diskFull), exitedAt("web", 137, "Error", "", 1)),
			end{kind: endOwn, cause: v1alpha1.CauseEvicted, words: "Evicted: Pod ephemeral local storage usage exceeds the total limit of containers 100Mi."}, -1},
		{"evicted for its volume, containers forgotten", aPod(phase(failed, "Evicted", `Usage of EmptyDir volume "v" exceeds the limit "1Mi". `)),
			end{kind: endOwn, cause: v1alpha1.CauseEvicted, words: `Evicted: Usage of EmptyDir volume "v" exceeds the limit "1Mi".`}, -1},
		{"evicted for a container's storage", aPod(phase(failed, "Evicted", `Container log exceeded its local ephemeral storage limit "1Mi". `)),
			end{kind: endOwn, cause: v1alpha1.CauseEvicted, words: `Evicted: Container log exceeded its local ephemeral storage limit "1Mi".`, container: "log"}, -1},

		{"refused for a sysctl", aPod(phase(failed, "SysctlForbidden", `Pod was rejected: forbidden sysctl: "a" not allowlisted`)),
			end{kind: endOwn, cause: v1alpha1.CauseRefused, words: `SysctlForbidden: forbidden sysctl: "a" not allowlisted`}, -1},
		{"refused for a sysctl by a pretend node", aPod(phase(failed, "SysctlForbidden", `forbidden sysctl: "a" not allowlisted`)),
			end{kind: endOwn, cause: v1alpha1.CauseRefused, words: `SysctlForbidden: forbidden sysctl: "a" not allowlisted`}, -1},
		{"refused for a feature", aPod(phase(failed, "PodFeatureUnsupported", "Pod was rejected: no")),
			end{kind: endOwn, cause: v1alpha1.CauseRefused, words: "PodFeatureUnsupported: no"}, -1},
		{"refused for pressure", aPod(phase(failed, "Evicted", "Pod was rejected: The node had condition: [MemoryPressure]. ")),
			end{kind: endRefusedByNode, words: "Evicted: The node had condition: [MemoryPressure]."}, -1},
		{"refused for room", aPod(phase(failed, "OutOfmemory", "Pod was rejected: Node didn't have enough resource: memory")),
			end{kind: endRefusedByNode, words: "OutOfmemory: Node didn't have enough resource: memory"}, -1},
		{"refused for room by a pretend node", aPod(phase(failed, "OutOfcpu", "")), end{kind: endRefusedByNode, words: "OutOfcpu"}, -1},
		{"refused while it ran, by a kubelet that came back", aPod(phase(failed, "UnexpectedAdmissionError", "Pod was rejected: no device"), exitedAt("web", 1, "Error", "", 1)),
			end{kind: endRefusedByNode, words: "UnexpectedAdmissionError: no device"}, -1},

		{"pressure", aPod(phase(failed, "Evicted", memoryLow+webUses), killedByKubelet(memoryLow+webUses)),
			end{kind: endPressure, cause: v1alpha1.CauseEatsNodes, container: "web",
				words: "Evicted: The node was low on resource: memory. Threshold quantity: 100Mi, available: 20Mi. Container web was using 3Gi, request is 0, has larger consumption of memory."}, -1},
		{"pressure, exit 0", aPod(phase(succeeded, "", ""), killedByKubelet("The node was low on resource: memory. "+webUses), exitedAt("web", 0, "Completed", "", 1)),
			end{kind: endPressure, cause: v1alpha1.CauseEatsNodes, container: "web",
				words: "Evicted: The node was low on resource: memory. Container web was using 3Gi, request is 0, has larger consumption of memory."}, -1},
		{"pressure, the second container", aPod(phase(failed, "Evicted", ""), killedByKubelet("The node was low on resource: memory. Container agent was using 1, request is 0, has x. Container log was using 1, request is 0, has x. ")),
			end{kind: endPressure, cause: v1alpha1.CauseEatsNodes, container: "log",
				words: "Evicted: The node was low on resource: memory. Container agent was using 1, request is 0, has x. Container log was using 1, request is 0, has x."}, -1},
		{"pressure, the whole pod", aPod(phase(failed, "Evicted", ""), killedByKubelet("The node was low on resource: memory. Pod web-1 was using 3Gi, request is 1Gi, has x. ")),
			end{kind: endPressure, cause: v1alpha1.CauseEatsNodes, words: "Evicted: The node was low on resource: memory. Pod web-1 was using 3Gi, request is 1Gi, has x."}, -1},
		{"pressure by others", aPod(phase(failed, "Evicted", memoryLow), killedByKubelet("The node was low on resource: pids. ")),
			end{kind: endMoved, words: "Evicted: The node was low on resource: pids."}, -1},
		{"pressure by a container that is not its own", aPod(phase(failed, "Evicted", ""), killedByKubelet("The node was low on resource: memory. Container agent was using 1, request is 0, has x. ")),
			end{kind: endMoved, words: "Evicted: The node was low on resource: memory. Container agent was using 1, request is 0, has x."}, -1},
		{"pressure without its condition", aPod(phase(failed, "Evicted", "The node was low on resource: memory. "+webUses)),
			end{kind: endPressure, cause: v1alpha1.CauseEatsNodes, container: "web",
				words: "Evicted: The node was low on resource: memory. Container web was using 3Gi, request is 0, has larger consumption of memory."}, -1},
		{"shutdown", aPod(phase(failed, "Terminated", "Pod was terminated in response to imminent node shutdown."), killedByKubelet("Pod was terminated in response to imminent node shutdown."), exitedAt("web", 143, "Error", "", 1)),
			end{kind: endMoved, words: "TerminationByKubelet: Pod was terminated in response to imminent node shutdown."}, -1},
		{"preempted by the kubelet", aPod(phase(failed, "Preempting", "Preempted"), killedByKubelet("Pod was preempted by Kubelet to accommodate a critical pod.")),
			end{kind: endMoved, words: "TerminationByKubelet: Pod was preempted by Kubelet to accommodate a critical pod."}, -1},
		{"moved by the eviction API", aPod(phase(failed, "", ""), condition(corev1.DisruptionTarget, corev1.ConditionTrue, "EvictionByEvictionAPI", "Eviction API: evicting"), exitedAt("web", 1, "Error", "", 1)),
			end{kind: endMoved, words: "EvictionByEvictionAPI: Eviction API: evicting"}, -1},
		{"an eviction that was given up", aPod(phase(failed, "", ""), isNot(corev1.DisruptionTarget), exitedAt("web", 1, "Error", "no config", 1)),
			end{kind: endOwn, cause: v1alpha1.CauseExitCode, words: "exited with code 1", message: "no config", container: "web"}, 1},
		{"reason of a kubelet that stops its pods", aPod(phase(failed, "Terminated", "bye"), exitedAt("web", 143, "Error", "", 1)),
			end{kind: endMoved, words: "Terminated: bye"}, -1},
		{"over its own deadline", aPod(phase(failed, "DeadlineExceeded", "Pod was active on the node longer than the specified deadline"), exitedAt("web", 137, "Error", "", 1)),
			end{kind: endOwn, cause: v1alpha1.CauseEndedByItself, words: "DeadlineExceeded: Pod was active on the node longer than the specified deadline"}, -1},

		{"exit code", aPod(phase(failed, "", ""), exitedAt("web", 1, "Error", "no config", 1)),
			end{kind: endOwn, cause: v1alpha1.CauseExitCode, words: "exited with code 1", message: "no config", container: "web"}, 1},
		{"out of memory", aPod(phase(failed, "", ""), exitedAt("web", 137, "OOMKilled", "", 1)),
			end{kind: endOwn, cause: v1alpha1.CauseOutOfMemory, words: "exited with code 137 (OOMKilled)", container: "web"}, 137},
		{"cannot start", aPod(phase(failed, "", ""), exitedAt("web", 128, "StartError", "no such file", 1)),
			end{kind: endOwn, cause: v1alpha1.CauseCannotStart, words: "exited with code 128 (StartError)", message: "no such file", container: "web"}, 128},
		{"the first to fail", aPod(phase(failed, "", ""), exitedAt("web", 137, "Error", "", 2), exitedAt("log", 3, "Error", "", 1)),
			end{kind: endOwn, cause: v1alpha1.CauseExitCode, words: "exited with code 3", container: "log"}, 3},
		{"not the sidecar that was stopped first", aPod(withSidecar, phase(failed, "", ""), exitedAt("log", 143, "Error", "", 1), exitedAt("web", 3, "Error", "", 2)),
			end{kind: endOwn, cause: v1alpha1.CauseExitCode, words: "exited with code 3", container: "web"}, 3},
		{"not the sidecar that does not obey", aPod(withSidecar, phase(succeeded, "", ""), exitedAt("log", 137, "Error", "", 2), func(pod *corev1.Pod) {
			pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses = pod.Status.ContainerStatuses, nil
		}, exitedAt("web", 0, "Completed", "", 1)),
			end{kind: endOwn, cause: v1alpha1.CauseEndedByItself, words: "exited with code 0", container: "web"}, 0},
		{"not the sidecar, told last", aPod(withSidecar, phase(failed, "", ""), exitedAt("web", 3, "Error", "", 2), exitedAt("log", 143, "Error", "", 1)),
			end{kind: endOwn, cause: v1alpha1.CauseExitCode, words: "exited with code 3", container: "web"}, 3},
		{"all with 0", aPod(phase(succeeded, "", ""), exitedAt("web", 0, "Completed", "", 1)),
			end{kind: endOwn, cause: v1alpha1.CauseEndedByItself, words: "exited with code 0", container: "web"}, 0},
		{"lost in a reboot", aPod(phase(failed, "", ""), exitedAt("web", 255, "Unknown", "", 1), exitedAt("log", 137, "ContainerStatusUnknown", "", 1)),
			end{kind: endMoved, words: "ended without a reason"}, -1},
		{"nothing is known", aPod(phase(failed, "", "")), end{kind: endMoved, words: "ended without a reason"}, -1},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, ok := endOf(test.pod)
			if !ok {
				t.Fatal("has not ended")
			}
			code := int32(-1)
			if got.exitCode != nil {
				code, got.exitCode = *got.exitCode, nil
			}
			if got != test.want || code != test.code {
				t.Errorf("got  %+v, code %d\nwant %+v, code %d", got, code, test.want, test.code)
			}
			deleted(test.pod)
			if _, ok := endOf(test.pod); ok {
				t.Error("ended, though it is being deleted")
			}
			test.pod.DeletionTimestamp, test.pod.Status.Phase = nil, running
			if _, ok := endOf(test.pod); ok {
				t.Error("ended, though it runs")
			}
		})
	}
}

func TestPod_RefusedForTheTemplate(t *testing.T) {
	for _, reason := range templateRefused {
		if got, _ := endOf(aPod(phase(corev1.PodFailed, reason, ""))); got.kind != endOwn || got.cause != v1alpha1.CauseRefused {
			t.Errorf("%s: got %+v", reason, got)
		}
	}
	for _, reason := range []string{"OutOfpods", "OutOfexample.com/gpu", "NodeShutdown", "UnexpectedAdmissionError", "TopologyAffinityError", "SMTAlignmentError",
		"InvalidNodeInfo", "VolumeAttachmentLimitExceeded", "NodeAffinity", "TaintToleration", "NodePorts", "UnknownReason"} {
		if got, _ := endOf(aPod(phase(corev1.PodFailed, reason, ""))); got.kind != endRefusedByNode {
			t.Errorf("%s: got %+v", reason, got)
		}
	}
}

func probe(delay, period, failures, timeout int32) *corev1.Probe {
	return &corev1.Probe{InitialDelaySeconds: delay, PeriodSeconds: period, FailureThreshold: failures, TimeoutSeconds: timeout}
}

func TestPod_Allowance(t *testing.T) {
	always := new(corev1.ContainerRestartPolicyAlways)
	sidecar := func(p *corev1.Probe) corev1.Container {
		return corev1.Container{RestartPolicy: always, StartupProbe: p}
	}
	for _, test := range []struct {
		name     string
		spec     corev1.PodSpec
		minReady int32
		want     time.Duration
	}{
		{"nothing", corev1.PodSpec{Containers: []corev1.Container{{}}}, 0, 0},
		{"minReadySeconds", corev1.PodSpec{}, 7, 7 * time.Second},
		{"defaults", corev1.PodSpec{Containers: []corev1.Container{{StartupProbe: &corev1.Probe{}}}}, 0, 30 * time.Second},
		{"stated", corev1.PodSpec{Containers: []corev1.Container{{StartupProbe: probe(5, 20, 60, 1)}}}, 0, 1205 * time.Second},
		{"a long timeout", corev1.PodSpec{Containers: []corev1.Container{{StartupProbe: probe(0, 1, 10, 5)}}}, 0, 50 * time.Second},
		{"the longest of two", corev1.PodSpec{Containers: []corev1.Container{{StartupProbe: probe(0, 1, 10, 1)}, {StartupProbe: probe(0, 1, 4, 1)}}}, 0, 10 * time.Second},
		{"a readiness delay", corev1.PodSpec{Containers: []corev1.Container{{ReadinessProbe: probe(40, 1, 9, 1)}, {ReadinessProbe: probe(3, 1, 1, 1)}}}, 0, 40 * time.Second},
		{"sidecars one after the other", corev1.PodSpec{InitContainers: []corev1.Container{sidecar(probe(0, 1, 10, 1)), sidecar(probe(1, 2, 5, 1)), sidecar(nil)},
			Containers: []corev1.Container{{StartupProbe: probe(0, 1, 4, 1), ReadinessProbe: probe(2, 0, 0, 0)}}}, 3, 30 * time.Second},
		{"not an init container that ends", corev1.PodSpec{InitContainers: []corev1.Container{{StartupProbe: probe(0, 1, 10, 1)}}}, 0, 0},
		{"never gives up", corev1.PodSpec{InitContainers: []corev1.Container{sidecar(probe(0, 1<<31-1, 1<<31-1, 1))},
			Containers: []corev1.Container{{StartupProbe: probe(1<<31-1, 10, 1<<31-1, 1)}}}, 1<<31 - 1, unlimited},
		{"a delay without end", corev1.PodSpec{Containers: []corev1.Container{{StartupProbe: probe(1<<31-1, 1, 1, 1)}}}, 0, unlimited},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := allowance(&test.spec, test.minReady); got != test.want {
				t.Errorf("got %v, want %v", got, test.want)
			}
		})
	}
}

func TestPod_IsStarting(t *testing.T) {
	probed := func(pod *corev1.Pod) { pod.Spec.Containers[0].StartupProbe = probe(0, 1, 10, 1) }
	sidecarProbed := func(pod *corev1.Pod) {
		withSidecar(pod)
		pod.Spec.InitContainers[0].StartupProbe = probe(0, 1, 10, 1)
	}
	web := func(started *bool, restarts int32) func(*corev1.Pod) {
		return func(pod *corev1.Pod) {
			pod.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "web", Started: started, RestartCount: restarts}}
		}
	}
	initialized := func(done bool) func(*corev1.Pod) {
		return func(pod *corev1.Pod) {
			c := corev1.ContainerStatus{Name: "migrate", RestartCount: 1, Ready: done}
			c.State.Terminated = &corev1.ContainerStateTerminated{}
			pod.Status.InitContainerStatuses = []corev1.ContainerStatus{c}
		}
	}
	for _, test := range []struct {
		name string
		pod  *corev1.Pod
		want bool
	}{
		{"no probe", aPod(web(nil, 0)), false},
		{"not created", aPod(probed), true},
		{"not said", aPod(probed, web(nil, 0)), true},
		{"not started", aPod(probed, web(new(false), 0)), true},
		{"started", aPod(probed, web(new(true), 0)), false},
		{"restarted", aPod(probed, web(new(false), 1)), false},
		{"init container restarted, and done", aPod(probed, web(new(false), 0), initialized(true)), true},
		{"init container restarts", aPod(probed, web(new(false), 0), initialized(false)), false},
		{"sidecar not started", aPod(sidecarProbed, web(new(false), 0)), true},
		{"sidecar started", aPod(sidecarProbed, func(pod *corev1.Pod) {
			pod.Status.InitContainerStatuses = []corev1.ContainerStatus{{Name: "log", Started: new(true)}}
		}), false},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := isStarting(test.pod); got != test.want {
				t.Errorf("got %v", got)
			}
		})
	}
}

func TestPod_ContainerSigns(t *testing.T) {
	waits := func(reason string) *corev1.ContainerStatus {
		c := &corev1.ContainerStatus{}
		c.State.Waiting = &corev1.ContainerStateWaiting{Reason: reason}
		return c
	}
	now := func(code int32, reason string) *corev1.ContainerStatus {
		c := &corev1.ContainerStatus{}
		c.State.Terminated = &corev1.ContainerStateTerminated{ExitCode: code, Reason: reason}
		return c
	}
	last := func(code int32, reason, waiting string) *corev1.ContainerStatus {
		c := waits(waiting)
		c.LastTerminationState.Terminated = &corev1.ContainerStateTerminated{ExitCode: code, Reason: reason}
		return c
	}
	for _, test := range []struct {
		name string
		c    *corev1.ContainerStatus
		want string // which signs it shows: s(tart), h(ook), r(eboot), o(thers)
	}{
		{"nothing", &corev1.ContainerStatus{}, ""},
		{"crash", last(1, "Error", "CrashLoopBackOff"), ""},
		{"cannot start, now", now(128, "StartError"), "s"},
		{"cannot start, in back-off", last(128, "StartError", "CrashLoopBackOff"), "s"},
		{"cannot start, waiting", waits("RunContainerError"), "s"},
		{"could not start before", &corev1.ContainerStatus{State: now(1, "Error").State, LastTerminationState: now(128, "StartError").State}, ""},
		{"exit code 128", now(128, "Error"), ""},
		{"hook", waits("PostStartHookError"), "h"},
		{"reboot", last(255, "Unknown", "PodInitializing"), "r"},
		{"reboot, now", now(255, "Unknown"), "r"},
		{"exit code 255", last(255, "Error", ""), ""},
		{"not found", last(137, "ContainerStatusUnknown", ""), "r"},
		{"restarted by others", last(137, "RestartingAllContainers", ""), "o"},
		{"about to be restarted by others", waits("RestartingAllContainers"), "o"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := ""
			for i, shows := range []bool{cannotStart(test.c), postStartFailed(test.c), rebooted(test.c), restartedByOthers(test.c)} {
				if shows {
					got += "shro"[i : i+1]
				}
			}
			if got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

func TestPod_Creating(t *testing.T) {
	const creatingIt, initializing = "ContainerCreating", "PodInitializing"
	status := func(name string, change func(*corev1.ContainerStatus)) func(*corev1.Pod) {
		return func(pod *corev1.Pod) {
			c := corev1.ContainerStatus{Name: name}
			change(&c)
			pod.Status.ContainerStatuses = append(pod.Status.ContainerStatuses, c)
		}
	}
	waits := func(name, reason string) func(*corev1.Pod) {
		return status(name, func(c *corev1.ContainerStatus) { c.State.Waiting = &corev1.ContainerStateWaiting{Reason: reason} })
	}
	end := &corev1.ContainerStateTerminated{}
	runs := status("log", func(c *corev1.ContainerStatus) { c.State.Running = &corev1.ContainerStateRunning{} })
	ended := status("log", func(c *corev1.ContainerStatus) { c.State.Terminated = end })
	again := status("log", func(c *corev1.ContainerStatus) { c.LastTerminationState.Terminated = end })
	up := status("log", func(c *corev1.ContainerStatus) { c.Ready, c.State.Running = true, &corev1.ContainerStateRunning{} })
	done := status("migrate", func(c *corev1.ContainerStatus) { c.Ready, c.State.Terminated = true, end })
	for _, test := range []struct {
		name string
		pod  *corev1.Pod
		want bool
	}{
		{"after the one before it", aPod(on("n1"), up, waits("web", creatingIt)), true},
		{"after its init containers", aPod(on("n1"), done, waits("web", initializing)), true},
		{"all are up", aPod(on("n1"), done, up), false},
		{"not taken on", aPod(on("n1")), true},
		{"without a node", aPod(waits("web", creatingIt)), false},
		{"created", aPod(on("n1"), waits("web", creatingIt)), true},
		{"before its init containers have ended", aPod(on("n1"), waits("web", initializing)), true},
		{"pulls", aPod(on("n1"), waits("web", "ErrImagePull")), false},
		{"another one runs", aPod(on("n1"), waits("web", creatingIt), runs), false},
		{"another one has ended", aPod(on("n1"), waits("web", creatingIt), ended), false},
		{"another one has ended before", aPod(on("n1"), waits("web", creatingIt), again), false},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := creating(test.pod); got != test.want {
				t.Errorf("got %v", got)
			}
		})
	}
}

func TestPod_RestartsWholePod(t *testing.T) {
	rule := func(action corev1.ContainerRestartRuleAction) []corev1.ContainerRestartRule {
		return []corev1.ContainerRestartRule{{Action: action}}
	}
	spec := &corev1.PodSpec{
		InitContainers: []corev1.Container{{Name: "init", RestartPolicyRules: rule(corev1.ContainerRestartRuleActionRestartAllContainers)}},
		Containers: []corev1.Container{{Name: "plain"}, {Name: "alone", RestartPolicyRules: rule(corev1.ContainerRestartRuleActionRestart)},
			{Name: "all", RestartPolicyRules: append(rule(corev1.ContainerRestartRuleActionRestart), rule(corev1.ContainerRestartRuleActionRestartAllContainers)...)}},
	}
	for name, want := range map[string]bool{"init": true, "all": true, "plain": false, "alone": false, "injected": false} {
		if got := restartsWholePod(spec, name); got != want {
			t.Errorf("%s: got %v", name, got)
		}
	}
}

func TestPod_SandboxSince(t *testing.T) {
	at := metav1.NewTime(noon)
	for status, want := range map[corev1.ConditionStatus]metav1.Time{corev1.ConditionTrue: at, corev1.ConditionFalse: {}, "": {}} {
		pod := aPod(func(pod *corev1.Pod) {
			pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReadyToStartContainers, Status: status, LastTransitionTime: at}}
		})
		if got := sandboxSince(pod); !got.Equal(&want) {
			t.Errorf("%s: got %v", status, got)
		}
	}
}

// When a pod became ready is when the last of its gates opened, by whoever writes them.
func TestPod_ReadyStamp(t *testing.T) {
	at := func(kind corev1.PodConditionType, minute int) func(*corev1.Pod) {
		return func(pod *corev1.Pod) {
			is(kind)(pod)
			pod.Status.Conditions[len(pod.Status.Conditions)-1].LastTransitionTime = metav1.NewTime(noon.Add(time.Duration(minute) * time.Minute))
		}
	}
	const containers, one, two = corev1.ContainersReady, corev1.PodConditionType("example.com/one"), corev1.PodConditionType("example.com/two")
	gates := func(pod *corev1.Pod) {
		pod.Spec.ReadinessGates = []corev1.PodReadinessGate{{ConditionType: one}, {ConditionType: two}}
	}
	for _, row := range []struct {
		pod  *corev1.Pod
		want int
	}{
		{aPod(at(containers, 3)), 3},
		{aPod(gates, at(containers, 1), at(one, 3), at(two, 2)), 3},
		{aPod(gates, at(containers, 1), at(one, 2), at(two, 3)), 3},
		{aPod(gates, at(containers, 3), at(one, 1), at(two, 2)), 3},
	} {
		if got, want := readyStamp(row.pod), metav1.NewTime(noon.Add(time.Duration(row.want)*time.Minute)); !got.Equal(&want) {
			t.Errorf("%s, want %s", got, want)
		}
	}
}
