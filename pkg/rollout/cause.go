package rollout

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// Why something fails, from what stays: the same answer at whatever moment of a back-off the look falls. Where the Event or the
// words that would tell are gone, it is the coarser cause.

// finding is why something fails.
type finding struct {
	cause string // one of v1alpha1.Causes
	verb  string // what the container does or did, as the verb of a sentence
	why   string // in its own words, the probe's or the kubelet's; empty if nothing is said
	// end is that of the run which shows it, nil if the present run does, or nothing is known of one.
	end *corev1.ContainerStateTerminated
}

// crashCause returns why a container ends again and again, or has ended. hook is what the kubelet said of its postStart hook, if that
// failed: how the container ended was the kubelet's doing then. events are those of the pod, oldest first.
func crashCause(pod *corev1.Pod, c *corev1.ContainerStatus, hook string, events []*corev1.Event) finding {
	end := ownEnd(c)
	if hook == "" && end != nil {
		hook = hookWords(events, c.Name, end)
	}
	rule := wholePodRule(&pod.Spec, c.Name)
	switch {
	case hook != "":
		return finding{cause: v1alpha1.CausePostStartHook, verb: "fails in its postStart hook", why: hook}
	case cannotStart(c):
		return startCause(c)
	case rule != nil && restartedByOthers(c):
		return wholePodCause(c, rule)
	case end == nil:
		return finding{cause: v1alpha1.CauseUnknown, verb: "keeps ending"}
	}
	f := finding{cause: endCause(end), verb: ending(end), why: end.Message, end: end}
	if f.cause == v1alpha1.CauseOutOfMemory {
		return f
	}
	if probe := endedByProbe(events, c.Name, end); probe != "" {
		f.cause, f.verb = probe+"Probe", fmt.Sprintf("was ended by its %s probe, with code %d,", strings.ToLower(probe), end.ExitCode)
		if said := probeWords(events, c.Name, probe, end.StartedAt.Time); said != "" {
			f.why = said
		}
	}
	return f
}

// endCause returns the cause of a container's end by itself.
func endCause(end *corev1.ContainerStateTerminated) string {
	switch {
	case end.Reason == "OOMKilled":
		return v1alpha1.CauseOutOfMemory
	case end.Reason == "StartError":
		return v1alpha1.CauseCannotStart
	case end.ExitCode == 0:
		return v1alpha1.CauseCompleted
	}
	return v1alpha1.CauseExitCode
}

// What runc says of a container that it cannot start for another reason than its command, as containerd hands it on.
var (
	startTooLarge = regexp.MustCompile(`OOM-killed|memory limit too low`)
	startMount    = regexp.MustCompile(`error mounting|failed to mount`)
)

// startCause returns why a container cannot be started. What it says is in the waiting message or in that of the last start.
func startCause(c *corev1.ContainerStatus) finding {
	f := finding{cause: v1alpha1.CauseCannotStart, verb: "cannot be started"}
	if end := ended(c); isStartError(end) {
		f.end, f.why = end, end.Message
	} else {
		f.why = c.State.Waiting.Message
	}
	switch {
	case startTooLarge.MatchString(f.why):
		f.cause = v1alpha1.CauseOutOfMemory
	case startMount.MatchString(f.why):
		f.cause = v1alpha1.CauseMountFailed
	}
	return f
}

// wholePodCause is about a container that has its whole pod restarted, again and again. The kubelet tells its exit code for a moment
// only, and says 137 of every container afterwards.
func wholePodCause(c *corev1.ContainerStatus, rule *corev1.ContainerRestartRule) finding {
	f := finding{cause: v1alpha1.CauseRestartsWholePod, verb: "restarts its whole pod, without a back-off,"}
	switch end, codes := c.State.Terminated, rule.ExitCodes; {
	case end != nil && end.Reason != restartingAll:
		f.verb, f.why, f.end = ending(end)+" and "+f.verb, end.Message, end
	case codes != nil:
		if len(codes.Values) == 1 && codes.Operator == corev1.ContainerRestartRuleOnExitCodesOpIn {
			f.end = &corev1.ContainerStateTerminated{ExitCode: codes.Values[0]}
		}
		f.verb += fmt.Sprintf(" by its rule for exit codes %s %v,", codes.Operator, codes.Values)
	}
	return f
}

// unreadyCause returns why a container that has not ended is not ready.
func unreadyCause(pod *corev1.Pod, c *corev1.ContainerStatus, events []*corev1.Event) finding {
	f := finding{cause: v1alpha1.CauseNotReady, verb: "is not ready"}
	if w := c.State.Waiting; w != nil {
		f.verb, f.why = fmt.Sprintf("is not ready (%s)", w.Reason), w.Message
	}
	stated, running := containerOf(&pod.Spec, c.Name), c.State.Running
	if stated == nil || running == nil {
		return f
	}
	switch { // A container that runs without either is ready, unless it is to end.
	case stated.StartupProbe != nil && (c.Started == nil || !*c.Started):
		f.cause, f.verb = v1alpha1.CauseStartupProbe, "has not started by its startup probe"
		f.why = probeWords(events, c.Name, "Startup", running.StartedAt.Time)
	case stated.ReadinessProbe != nil:
		f.cause, f.verb = v1alpha1.CauseReadinessProbe, "is not ready by its readiness probe"
		f.why = probeWords(events, c.Name, "Readiness", running.StartedAt.Time)
	case isInit(pod, c.Name):
		f.verb = "has not ended"
	}
	return f
}

// isProbed reports whether Events may tell why a container ends or is not ready: a probe, or a hook.
func isProbed(c *corev1.Container) bool {
	return c != nil && (c.LivenessProbe != nil || c.StartupProbe != nil || c.ReadinessProbe != nil ||
		(c.Lifecycle != nil && c.Lifecycle.PostStart != nil))
}

// probeKills is from pkg/kubelet/kuberuntime of v1.37.2: kuberuntime_manager.go, and kuberuntime_container.go for init containers.
var probeKills = regexp.MustCompile(`ontainer \S+ failed (liveness|startup) probe`)

// endedByProbe returns the probe for which the kubelet ended this run of a container, Liveness or Startup, empty if it did not, or
// nothing tells.
func endedByProbe(events []*corev1.Event, container string, end *corev1.ContainerStateTerminated) string {
	for _, event := range slices.Backward(events) {
		found := probeKills.FindStringSubmatch(event.Message)
		if event.Reason != "Killing" || found == nil || !isAbout(event, container) || !isDuring(event, end, 0) {
			continue
		}
		return strings.ToUpper(found[1][:1]) + found[1][1:]
	}
	return ""
}

// hookWords returns what the kubelet says of the postStart hook for which it ended this run of a container, empty if it did not.
func hookWords(events []*corev1.Event, container string, end *corev1.ContainerStateTerminated) string {
	for _, event := range slices.Backward(events) {
		if event.Reason == "FailedPostStartHook" && isAbout(event, container) && isDuring(event, end, time.Second) {
			return strings.TrimPrefix(event.Message, combined)
		}
	}
	return ""
}

// probeSays are what the kubelet says of a probe that fails, and of one that it cannot make, for lack of the command for example, in the
// order in which they tell: in a container that ends, none can be made (pkg/kubelet/prober/prober.go of v1.37.2).
var probeSays = []string{" probe failed: ", " probe errored and resulted in unknown state: "}

// probeWords returns what a probe of a container said last in a run that began at a time, empty if nothing tells.
func probeWords(events []*corev1.Event, container, probe string, began time.Time) string {
	for _, how := range probeSays {
		for _, event := range slices.Backward(events) {
			said, found := strings.CutPrefix(strings.TrimPrefix(event.Message, combined), probe+how)
			if found && event.Reason == "Unhealthy" && isAbout(event, container) && LastSeen(event).After(began) {
				return strings.TrimSpace(said)
			}
		}
	}
	return ""
}

// isAbout reports whether a pod's Event is about this container of it.
func isAbout(event *corev1.Event, container string) bool {
	path := event.InvolvedObject.FieldPath
	return path == "spec.containers{"+container+"}" || path == "spec.initContainers{"+container+"}"
}

// isDuring reports whether an Event was seen in a run of a container, which has ended, and later than early before it began: both times
// are its kubelet's, in whole seconds. One of the second in which the run began may be of the run before: only a hook fails as soon.
func isDuring(event *corev1.Event, end *corev1.ContainerStateTerminated, early time.Duration) bool {
	first, last := event.FirstTimestamp.Time, LastSeen(event)
	if first.IsZero() {
		first = event.EventTime.Truncate(time.Second)
	}
	return !end.StartedAt.IsZero() && last.After(end.StartedAt.Add(-early)) && !first.After(end.FinishedAt.Time)
}

// imageCause returns why a container has no image, by the reason for which it waits and the kubelet's words.
func imageCause(reason, words string) string {
	switch reason {
	case "InvalidImageName":
		return v1alpha1.CauseInvalidImageName
	case "ErrImageNeverPull":
		return v1alpha1.CauseImageNeverPull
	}
	switch {
	case strings.Contains(words, "the signature validation failed"):
		return v1alpha1.CauseImage
	case reason == "RegistryUnavailable" || registryAway(words):
		return v1alpha1.CauseRegistryUnavailable
	case imageForbidden.MatchString(words):
		return v1alpha1.CauseImageAuth
	case imageAbsent.MatchString(words) && !imageThere.MatchString(words):
		return v1alpha1.CauseImageNotFound
	}
	return v1alpha1.CauseImage
}

// configCauses are what the kubelet says of a container or a pod that it cannot set up: pkg/kubelet/kubelet_pods.go, volume and
// kuberuntime/security_context_others.go of v1.37.2, and containerd's words. The first that is found is the cause.
var configCauses = []struct {
	said  *regexp.Regexp
	cause string
}{
	{regexp.MustCompile(`couldn't find key |references non-existent (config|secret) key`), v1alpha1.CauseKeyMissing},
	{regexp.MustCompile(`\bsecrets? "[^"]*" not found`), v1alpha1.CauseSecretMissing},
	{regexp.MustCompile(`\bconfigmaps? "[^"]*" not found`), v1alpha1.CauseConfigMapMissing},
	{regexp.MustCompile(`[Ff]ailed to create pod sandbox`), v1alpha1.CauseSandbox},
	{regexp.MustCompile(`hostPath type check failed|failed to prepare subPath|MountVolume|AttachVolume|attach or mount volumes`), v1alpha1.CauseMountFailed},
	{regexp.MustCompile(`has runAsNonRoot|breaks non-root policy|seccomp profile|(?i:apparmor) profile|(?i:selinux) label`), v1alpha1.CauseSecurityContext},
}

// configCause returns what a container or a pod needs and does not have, by the kubelet's words, otherwise if these do not tell.
func configCause(words, otherwise string) string {
	for _, c := range configCauses {
		if c.said.MatchString(words) {
			return c.cause
		}
	}
	return otherwise
}

// The scheduler's words, from pkg/scheduler/framework of v1.37.2: types.go has the sentence, plugins the reasons. Before 1.34 a taint was
// named.
var (
	noNode       = regexp.MustCompile(`^0/(\d+) nodes are available:`)
	nodesFor     = regexp.MustCompile(`[:,] (\d+) node\(s\) (didn't match Pod's node affinity/selector|had untolerated taint)`)
	preemptWords = " preemption: "
)

// roomCause returns why a pod fits on no node: the one reason that the scheduler gives for all of them, or NoRoom.
func roomCause(words string) string {
	if cannotBind(words) {
		return v1alpha1.CauseMountFailed
	}
	all := noNode.FindStringSubmatch(words)
	words, _, _ = strings.Cut(words, preemptWords)
	if all == nil {
		return v1alpha1.CauseNoRoom
	}
	nodes := map[string]int{}
	for _, found := range nodesFor.FindAllStringSubmatch(words, -1) {
		n, _ := strconv.Atoi(found[1])
		nodes[found[2]] += n
	}
	switch wanted, _ := strconv.Atoi(all[1]); {
	case wanted == 0:
		return v1alpha1.CauseNoRoom
	case nodes["had untolerated taint"] == wanted:
		return v1alpha1.CauseTaints
	case nodes["didn't match Pod's node affinity/selector"] == wanted:
		return v1alpha1.CauseNodeSelector
	}
	return v1alpha1.CauseNoRoom
}
