package rollout

import (
	"cmp"
	"iter"
	"regexp"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// What one pod shows at one look. The texts and reasons are the kubelet's, from
// https://github.com/kubernetes/kubernetes/tree/v1.37.2/pkg/kubelet (the file is named at each), and were seen on a real node
// unless a comment says otherwise.

// readyByOwnWord reports whether the pod's containers are ready and its readiness gates True. Condition Ready is not asked: the
// node controller sets it to False when a node is silent. It decides where there is no word of the containers, which only
// pretend nodes leave out.
func readyByOwnWord(pod *corev1.Pod) bool {
	word := cmp.Or(conditionOf(pod, corev1.ContainersReady).Status, conditionOf(pod, corev1.PodReady).Status)
	if word != corev1.ConditionTrue {
		return false
	}
	return !slices.ContainsFunc(pod.Spec.ReadinessGates, func(gate corev1.PodReadinessGate) bool {
		return conditionOf(pod, gate.ConditionType).Status != corev1.ConditionTrue
	})
}

// nodeSilent reports whether somebody else says that a pod is not ready which is so by its own word: the node controller, because
// the node does not report. It leaves the reason as it was, empty. A kubelet that has not yet seen a gate's change still gives
// its own reason (status/generate.go).
func nodeSilent(pod *corev1.Pod) bool {
	ready := conditionOf(pod, corev1.PodReady)
	return readyByOwnWord(pod) && ready.Status != "" && ready.Status != corev1.ConditionTrue && ready.Reason != "ReadinessGatesNotReady"
}

// endKind says whose doing it was that a pod ended.
type endKind int

const (
	// endMoved: somebody else ended it. It is nobody's failure.
	endMoved endKind = iota
	// endOwn: it ended by itself, or was ended or refused for what it did or states.
	endOwn
	// endRefusedByNode: it never started, for a reason that is the node's.
	endRefusedByNode
	// endPressure: it was evicted because its node ran out of what it used more of than it had asked for.
	endPressure
)

// end is how a pod ended.
type end struct {
	kind      endKind
	cause     string // one of v1alpha1.Cause, if the pod is to blame
	words     string // how it ended, as the verb of a sentence or with the kubelet's reason before its text
	message   string // what the container left to say
	container string // which container it is about, if it is about one
	exitCode  *int32
}

// templateRefused are the reasons for which a kubelet refuses a pod and which lie in what the template states: lifecycle/predicate.go,
// lifecycle/handlers.go, sysctl/allowlist.go and cm/admission/errors.go. Every other reason is the node's (OutOfmemory, NodeShutdown,
// UnexpectedAdmissionError, TopologyAffinityError, VolumeAttachmentLimitExceeded, SMTAlignmentError ...). Only SysctlForbidden was
// seen on a real node. InitContainerRestartPolicyForbidden is that of older kubelets.
var templateRefused = []string{"SysctlForbidden", "AppArmor", "PodOSNotSupported", "PodOSSelectorNodeLabelDoesNotMatch",
	"SupplementalGroupsPolicyNotSupported", "PodLevelResourcesNotSupported", "PodFeatureUnsupported",
	"InitContainerRestartPolicyForbidden", "EmptyPodSharedPoolError"}

// refusedWords stand before the kubelet's text about a pod that it refuses (kubelet.go, rejectPod).
const refusedWords = "Pod was rejected: "

// endOf returns how the pod ended, false while it has not. A pod that is being deleted has not: every ordinary deletion passes
// through phase Failed or Succeeded for a second. A kubelet that evicts a pod whose containers obey and exit with 0 leaves it
// Succeeded without a word: only the pod's Event says Evicted then.
func endOf(pod *corev1.Pod) (end, bool) {
	status := &pod.Status
	if pod.DeletionTimestamp != nil || (status.Phase != corev1.PodFailed && status.Phase != corev1.PodSucceeded) {
		return end{}, false
	}
	if disruption := conditionOf(pod, corev1.DisruptionTarget); disruption.Status == corev1.ConditionTrue {
		if disruption.Reason == corev1.PodReasonTerminationByKubelet {
			return pressureEnd(pod, disruption.Message), true
		}
		return end{kind: endMoved, words: reasoned(disruption.Reason, disruption.Message)}, true
	}
	if status.Phase == corev1.PodFailed && status.Reason != "" {
		return reasonEnd(pod), true
	}
	return containerEnd(pod), true
}

// reasonEnd returns the end of a Failed pod for which its kubelet gives a reason.
func reasonEnd(pod *corev1.Pod) end {
	reason := pod.Status.Reason
	message := strings.TrimSpace(strings.TrimPrefix(pod.Status.Message, refusedWords))
	words := reasoned(reason, message)
	switch {
	case slices.Contains(templateRefused, reason):
		return end{kind: endOwn, cause: v1alpha1.CauseRefused, words: words}
	case reason == "Evicted" && strings.HasPrefix(message, lowResource):
		return pressureEnd(pod, message)
	case reason == "Evicted" && !strings.HasPrefix(message, "The node had condition"):
		return end{kind: endOwn, cause: v1alpha1.CauseEvicted, words: words, container: containerNamed(pod, overLimit, message)}
	case reason == "DeadlineExceeded": // activeDeadlineSeconds, which a webhook can add
		return end{kind: endOwn, cause: v1alpha1.CauseEndedByItself, words: words}
	case reason == "Evicted" || strings.HasPrefix(pod.Status.Message, refusedWords) || !started(pod):
		return end{kind: endRefusedByNode, words: words}
	}
	return end{kind: endMoved, words: words}
}

// What the kubelet says of a pod that it evicts (eviction/helpers.go): for node pressure, which container uses more than it
// has requested, or that the pod does where it states requests of its own; for a container's own limit, which container that is.
const lowResource = "The node was low on resource: "

var (
	overRequest = regexp.MustCompile(`Container (\S+) was using \S+, request is `)
	overLimit   = regexp.MustCompile(`^Container (\S+) exceeded its local ephemeral storage limit`)
	podRequest  = regexp.MustCompile(`Pod (\S+) was using \S+, request is `)
)

// pressureEnd returns the end of a pod that the kubelet ended for its node's sake, by its text. A shutdown of the node and a
// preemption for a critical pod carry the same reason and other texts (nodeshutdown/nodeshutdown_manager.go,
// preemption/preemption.go; not seen).
func pressureEnd(pod *corev1.Pod, message string) end {
	message = strings.TrimSpace(message)
	words := reasoned("Evicted", message)
	if !strings.HasPrefix(message, lowResource) {
		return end{kind: endMoved, words: reasoned(corev1.PodReasonTerminationByKubelet, message)}
	}
	container := containerNamed(pod, overRequest, message)
	wholePod := podRequest.FindStringSubmatch(message)
	if container == "" && (wholePod == nil || wholePod[1] != pod.Name) {
		return end{kind: endMoved, words: words}
	}
	return end{kind: endPressure, cause: v1alpha1.CauseEatsNodes, words: words, container: container}
}

// containerNamed returns the first container of the pod that pattern finds in message, empty if there is none.
func containerNamed(pod *corev1.Pod, pattern *regexp.Regexp, message string) string {
	for _, named := range pattern.FindAllStringSubmatch(message, -1) {
		if containerOf(&pod.Spec, named[1]) != nil {
			return named[1]
		}
	}
	return ""
}

// containerEnd returns the end of a pod by its containers alone. What a reboot did to them is no end of their own.
func containerEnd(pod *corev1.Pod) end {
	culprit := culpritOf(pod)
	switch {
	case pod.Status.Phase == corev1.PodSucceeded: // How its sidecars ended, when they were stopped after that, is no cause.
		sole := ""
		if len(pod.Status.ContainerStatuses) == 1 {
			sole = pod.Status.ContainerStatuses[0].Name
		}
		return end{kind: endOwn, cause: v1alpha1.CauseEndedByItself, words: "exited with code 0", container: sole, exitCode: new(int32(0))}
	case culprit == nil:
		return end{kind: endMoved, words: "ended without a reason"}
	}
	last := culprit.State.Terminated
	return end{kind: endOwn, cause: endCause(last), words: ending(last), message: last.Message, container: culprit.Name, exitCode: new(last.ExitCode)}
}

// culpritOf returns the container that ended first with a code other than 0, nil if none did. Init sidecars come last: they are
// stopped because the others have ended.
func culpritOf(pod *corev1.Pod) *corev1.ContainerStatus {
	var culprit *corev1.ContainerStatus
	for c := range containers(pod) {
		if c.State.Terminated == nil || c.State.Terminated.ExitCode == 0 || rebooted(c) {
			continue
		}
		if culprit == nil || endedBefore(pod, c, culprit) {
			culprit = c
		}
	}
	return culprit
}

func endedBefore(pod *corev1.Pod, a, b *corev1.ContainerStatus) bool {
	sidecar := func(c *corev1.ContainerStatus) bool { return isSidecar(containerOf(&pod.Spec, c.Name)) }
	if sidecar(a) != sidecar(b) {
		return sidecar(b)
	}
	return a.State.Terminated.FinishedAt.Before(&b.State.Terminated.FinishedAt)
}

// started reports whether a container of the pod has ever run.
func started(pod *corev1.Pod) bool {
	for c := range containers(pod) {
		if c.State.Running != nil || ended(c) != nil {
			return true
		}
	}
	return false
}

// reasoned returns a reason with its text.
func reasoned(reason, message string) string {
	if message == "" {
		return reason
	}
	return reason + ": " + message
}

// unlimited is what a startup probe that never gives up in practice counts as: sums of it are still durations.
const unlimited = 24 * time.Hour

// allowance returns the time that the template allows its pods: the startup probes of its init sidecars, which start one after the
// other, the longest startup probe and the longest delay of a readiness probe of its containers, which start together, and
// minReadySeconds.
func allowance(spec *corev1.PodSpec, minReadySeconds int32) time.Duration {
	sum := seconds(minReadySeconds)
	for i := range spec.InitContainers {
		if c := &spec.InitContainers[i]; isSidecar(c) {
			sum += probeTime(c.StartupProbe)
		}
	}
	var startup, delay time.Duration
	for i := range spec.Containers {
		c := &spec.Containers[i]
		startup = max(startup, probeTime(c.StartupProbe))
		if c.ReadinessProbe != nil {
			delay = max(delay, seconds(c.ReadinessProbe.InitialDelaySeconds))
		}
	}
	return min(sum+startup+delay, unlimited)
}

// probeTime returns how long a startup probe lets its container start. The kubelet probes again after the period, or after the
// timeout where that is longer (prober/worker.go). Without a value the API's defaults hold
// (pkg/apis/core/v1/defaults.go): SetDefaults_Probe.
func probeTime(probe *corev1.Probe) time.Duration {
	if probe == nil {
		return 0
	}
	every := seconds(max(cmp.Or(probe.PeriodSeconds, 10), cmp.Or(probe.TimeoutSeconds, 1)))
	failures := time.Duration(cmp.Or(probe.FailureThreshold, 3))
	if failures > unlimited/every {
		return unlimited
	}
	return min(seconds(probe.InitialDelaySeconds)+failures*every, unlimited)
}

func seconds(n int32) time.Duration { return time.Duration(n) * time.Second }

// isStarting reports whether the pod is within the time that its startup probes allow it: one of them has not succeeded, and no
// container has restarted; one that is done, an init container, may have needed more tries.
func isStarting(pod *corev1.Pod) bool {
	up := map[string]bool{}
	for c := range containers(pod) {
		if done := c.Ready && c.State.Terminated != nil; c.RestartCount > 0 && !done {
			return false
		}
		up[c.Name] = c.Started != nil && *c.Started
	}
	for c := range containersOf(&pod.Spec) {
		if c.StartupProbe != nil && !up[c.Name] {
			return true
		}
	}
	return false
}

// cannotStart reports whether the container's command is not there or cannot be run. The kubelet's waiting reason goes back and
// forth between RunContainerError and CrashLoopBackOff; what it says of the last start stays.
func cannotStart(c *corev1.ContainerStatus) bool {
	return isStartError(ended(c)) || waitsFor(c, "RunContainerError")
}

func isStartError(t *corev1.ContainerStateTerminated) bool {
	return t != nil && t.ExitCode == 128 && t.Reason == "StartError"
}

// postStartFailed reports whether the container waits because its postStart hook failed. Nothing tells it afterwards: the container's
// end is its own, with 0 if it obeyed.
func postStartFailed(c *corev1.ContainerStatus) bool {
	return waitsFor(c, "PostStartHookError")
}

// rebooted reports whether the container was lost with its node's runtime: 255 Unknown after a reboot, ContainerStatusUnknown
// where the kubelet does not find it any more.
func rebooted(c *corev1.ContainerStatus) bool {
	return hasEnded(c, isReboot)
}

func isReboot(t *corev1.ContainerStateTerminated) bool {
	return t.Reason == "ContainerStatusUnknown" || (t.ExitCode == 255 && t.Reason == "Unknown")
}

// restartingAll is the reason that the kubelet gives for the end of all containers of a pod that are restarted by a rule.
const restartingAll = "RestartingAllContainers"

// restartedByOthers reports whether the container was restarted with its whole pod, by the rule of one of its containers.
func restartedByOthers(c *corev1.ContainerStatus) bool {
	return hasEnded(c, func(t *corev1.ContainerStateTerminated) bool { return t.Reason == restartingAll }) || waitsFor(c, restartingAll)
}

// hasEnded reports whether the container's present or last end is one of these.
func hasEnded(c *corev1.ContainerStatus, is func(*corev1.ContainerStateTerminated) bool) bool {
	for _, t := range []*corev1.ContainerStateTerminated{c.State.Terminated, c.LastTerminationState.Terminated} {
		if t != nil && is(t) {
			return true
		}
	}
	return false
}

func waitsFor(c *corev1.ContainerStatus, reason string) bool {
	return c.State.Waiting != nil && c.State.Waiting.Reason == reason
}

// restartsWholePod reports whether a rule of this container restarts all containers of its pod.
func restartsWholePod(spec *corev1.PodSpec, container string) bool {
	return wholePodRule(spec, container) != nil
}

// wholePodRule returns the first rule of this container that restarts all containers of its pod, nil if it has none.
func wholePodRule(spec *corev1.PodSpec, container string) *corev1.ContainerRestartRule {
	c := containerOf(spec, container)
	if c == nil {
		return nil
	}
	for i, rule := range c.RestartPolicyRules {
		if rule.Action == corev1.ContainerRestartRuleActionRestartAllContainers {
			return &c.RestartPolicyRules[i]
		}
	}
	return nil
}

// sandboxSince returns since when the pod has its present sandbox, zero if it has none.
func sandboxSince(pod *corev1.Pod) metav1.Time {
	if condition := conditionOf(pod, corev1.PodReadyToStartContainers); condition.Status == corev1.ConditionTrue {
		return condition.LastTransitionTime
	}
	return metav1.Time{}
}

// containersOf yields the pod's init containers and containers as they are stated.
func containersOf(spec *corev1.PodSpec) iter.Seq[*corev1.Container] {
	return func(yield func(*corev1.Container) bool) {
		for _, list := range [][]corev1.Container{spec.InitContainers, spec.Containers} {
			for i := range list {
				if !yield(&list[i]) {
					return
				}
			}
		}
	}
}

// containerOf returns the container of this name, nil if there is none.
func containerOf(spec *corev1.PodSpec, name string) *corev1.Container {
	for c := range containersOf(spec) {
		if c.Name == name {
			return c
		}
	}
	return nil
}

// isInit reports whether the container of this name is an init container.
func isInit(pod *corev1.Pod, name string) bool {
	return slices.ContainsFunc(pod.Status.InitContainerStatuses, func(c corev1.ContainerStatus) bool { return c.Name == name })
}

// isSidecar reports whether an init container goes on while the containers run.
func isSidecar(c *corev1.Container) bool {
	return c != nil && c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
}

// creating reports whether a container of the pod could not start yet, and those before it are up or, as init containers, done: they are
// started one after the other, each with its image. One that its kubelet has not taken on says nothing of its containers.
func creating(pod *corev1.Pod) bool {
	waits := len(pod.Status.ContainerStatuses) == 0
	for c := range containers(pod) {
		if c.Ready {
			continue
		}
		if c.State.Running != nil || ended(c) != nil {
			return false
		}
		waits = waits || (c.State.Waiting != nil && c.State.Waiting.Reason == "ContainerCreating") || isInitializing(c)
	}
	return waits && pod.Spec.NodeName != ""
}

// conditionOf returns the pod's condition of this type, one without a status if it has none.
func conditionOf(pod *corev1.Pod, kind corev1.PodConditionType) corev1.PodCondition {
	for _, condition := range pod.Status.Conditions {
		if condition.Type == kind {
			return condition
		}
	}
	return corev1.PodCondition{}
}

// containers yields the states of a pod's init containers and containers.
func containers(pod *corev1.Pod) iter.Seq[*corev1.ContainerStatus] {
	return func(yield func(*corev1.ContainerStatus) bool) {
		for _, statuses := range [][]corev1.ContainerStatus{pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses} {
			for i := range statuses {
				if !yield(&statuses[i]) {
					return
				}
			}
		}
	}
}
