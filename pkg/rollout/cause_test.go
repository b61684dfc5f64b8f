package rollout

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// reached are the reasons and the causes of all failures that the judge finds while the tests of this package run.
var reached = struct {
	sync.Mutex
	names map[string]bool
}{names: map[string]bool{}}

func noteReached(f v1alpha1.Failure) {
	reached.Lock()
	defer reached.Unlock()
	reached.names[f.Reason], reached.names[f.Cause] = true, true
}

// unreached returns the reasons and the causes of the API that no test has led to.
func unreached() (names []string) {
	for _, name := range slices.Concat(v1alpha1.FailureReasons, v1alpha1.Causes) {
		if !reached.names[name] {
			names = append(names, name)
		}
	}
	return names
}

// at returns a time so many seconds after noon, as a kubelet writes it.
func at(second int) metav1.Time { return metav1.NewTime(noon.Add(time.Duration(second) * time.Second)) }

// from returns the Event of a kubelet about a container, seen from one second to another.
func from(first, last int, container, reason, message string) *corev1.Event {
	return &corev1.Event{Reason: reason, Message: message, FirstTimestamp: at(first), LastTimestamp: at(last), Count: 2,
		InvolvedObject: corev1.ObjectReference{FieldPath: container}}
}

// series is the same in the form of events.k8s.io.
func series(first, last int, container, reason, message string) *corev1.Event {
	return &corev1.Event{Reason: reason, Message: message, EventTime: metav1.NewMicroTime(at(first).Time), InvolvedObject: corev1.ObjectReference{FieldPath: container},
		Series: &corev1.EventSeries{Count: 2, LastObservedTime: metav1.NewMicroTime(at(last).Time)}}
}

// The containers that the Events are about.
const (
	theContainer = "spec.containers{web}"
	theSidecar   = "spec.initContainers{mesh}"
)

// run returns a run of a container, from the 100th to the 130th second, that ended so.
func run(code int32, reason, message string) corev1.ContainerStateTerminated {
	return corev1.ContainerStateTerminated{ExitCode: code, Reason: reason, Message: message, StartedAt: at(100), FinishedAt: at(130)}
}

// moments are those of a back-off at which a look may fall: what the kubelet writes of the same crash.
var moments = map[string]func(*corev1.ContainerStatus, corev1.ContainerStateTerminated){
	"ended": func(c *corev1.ContainerStatus, end corev1.ContainerStateTerminated) {
		before := end
		before.StartedAt, before.FinishedAt = at(50), at(80)
		c.State.Terminated, c.LastTerminationState.Terminated = &end, &before
	},
	"in back-off": func(c *corev1.ContainerStatus, end corev1.ContainerStateTerminated) {
		c.State.Waiting = &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff", Message: "back-off 40s restarting failed container=web pod=a"}
		c.LastTerminationState.Terminated = &end
	},
	"running again": func(c *corev1.ContainerStatus, end corev1.ContainerStateTerminated) {
		c.State.Running = &corev1.ContainerStateRunning{StartedAt: at(170)}
		c.LastTerminationState.Terminated = &end
	},
}

// probed states all probes of a container, and a hook.
func probed(p *corev1.Pod) {
	always := corev1.ContainerRestartPolicyAlways
	p.Spec.InitContainers = []corev1.Container{{Name: "mesh", RestartPolicy: &always, StartupProbe: &corev1.Probe{}}}
	p.Spec.Containers = []corev1.Container{{Name: "web", LivenessProbe: &corev1.Probe{}, StartupProbe: &corev1.Probe{}, ReadinessProbe: &corev1.Probe{},
		Lifecycle: &corev1.Lifecycle{PostStart: &corev1.LifecycleHandler{}}}}
	p.Status.ContainerStatuses[0].Started = new(true)
}

// Each way to crash has one cause, whatever moment of the back-off the look meets, and the log of the run that crashed is asked for
// once, unless the container has left a message.
func TestCrashCause(t *testing.T) {
	const (
		liveness = "Container web failed liveness probe, will be restarted"
		startup  = "Container web failed startup probe, will be restarted"
		hook     = `Exec lifecycle hook ([/warm]) for Container "web" in Pod "a" failed - error: command '/warm' exited with 7`
		noFile   = `failed to create task: exec: "/nope": stat /nope: no such file or directory`
	)
	unhealthy := func(last int, words string) *corev1.Event { return from(20, last, theContainer, "Unhealthy", words) }
	killed := func(last int) *corev1.Event { return from(20, last, theContainer, "Killing", liveness) }
	for _, row := range []struct {
		name   string
		end    corev1.ContainerStateTerminated
		events []*corev1.Event
		cause  string
		says   string
		silent bool // it has left no message, so its log is asked for
	}{
		{"exits", run(1, "Error", ""), nil, v1alpha1.CauseExitCode, "exited with code 1 after 4 restarts", true},
		{"leaves a message", run(1, "Error", "no database"), nil, v1alpha1.CauseExitCode, "exited with code 1 after 4 restarts in pod a on node node: no database", false},
		{"is done", run(0, "Completed", ""), nil, v1alpha1.CauseCompleted, "exited with code 0", true},
		{"takes too much memory", run(137, "OOMKilled", ""), nil, v1alpha1.CauseOutOfMemory, "exited with code 137 (OOMKilled)", true},
		{"loses a child that takes too much memory", run(9, "OOMKilled", ""), []*corev1.Event{killed(120)}, v1alpha1.CauseOutOfMemory, "code 9 (OOMKilled)", true},
		{"fails its liveness probe", run(137, "Error", ""), []*corev1.Event{unhealthy(120, "Liveness probe failed: HTTP probe failed with statuscode: 500"), killed(120)},
			v1alpha1.CauseLivenessProbe, "was ended by its liveness probe, with code 137, after 4 restarts in pod a on node node: HTTP probe failed with statuscode: 500", true},
		{"obeys, and ends with 0", run(0, "Completed", ""), []*corev1.Event{killed(120)}, v1alpha1.CauseLivenessProbe, "was ended by its liveness probe, with code 0,", true},
		{"is ended by its probe again", run(137, "Error", ""), []*corev1.Event{killed(175)}, v1alpha1.CauseLivenessProbe, "was ended by its liveness probe", true},
		{"was ended by its probe in an earlier run", run(1, "Error", ""), []*corev1.Event{killed(80)}, v1alpha1.CauseExitCode, "exited with code 1", true},
		{"was ended by its probe in the second before", run(1, "Error", ""), []*corev1.Event{killed(100)}, v1alpha1.CauseExitCode, "exited with code 1", true},
		{"is ended by its probe later", run(1, "Error", ""), []*corev1.Event{from(140, 175, theContainer, "Killing", liveness)}, v1alpha1.CauseExitCode, "exited with code 1", true},
		{"is ended by its probe, in another form of Events", run(137, "Error", ""), []*corev1.Event{series(20, 175, theContainer, "Killing", liveness)}, v1alpha1.CauseLivenessProbe,
			"was ended by its liveness probe", true},
		{"is ended by its probe later, in another form", run(1, "Error", ""), []*corev1.Event{series(140, 175, theContainer, "Killing", liveness)}, v1alpha1.CauseExitCode,
			"exited with code 1", true},
		{"its probe cannot be made once it ends", run(137, "Error", ""), []*corev1.Event{unhealthy(119, "Liveness probe failed: full"), killed(120),
			unhealthy(125, "Liveness probe errored and resulted in unknown state: not running")}, v1alpha1.CauseLivenessProbe, "in pod a on node node: full", true},
		{"another one fails its probe", run(1, "Error", ""), []*corev1.Event{from(20, 120, "spec.containers{log}", "Killing", "Container log failed liveness probe, will be restarted")},
			v1alpha1.CauseExitCode, "exited with code 1", true},
		{"a probe fails and does not kill", run(1, "Error", ""), []*corev1.Event{unhealthy(120, "Liveness probe failed: once")}, v1alpha1.CauseExitCode, "exited with code 1", true},
		{"is told to stop", run(143, "Error", ""), []*corev1.Event{from(20, 120, theContainer, "Killing", "Stopping container web")}, v1alpha1.CauseExitCode, "code 143", true},
		{"fails its startup probe", run(137, "Error", ""), []*corev1.Event{unhealthy(119, "Startup probe failed: not yet\n"), from(20, 120, theContainer, "Killing", startup)},
			v1alpha1.CauseStartupProbe, "was ended by its startup probe, with code 137, after 4 restarts in pod a on node node: not yet", true},
		{"its hook fails, and no look met it", run(0, "Completed", ""), []*corev1.Event{from(20, 100, theContainer, "FailedPostStartHook", combined+hook)},
			v1alpha1.CausePostStartHook, "fails in its postStart hook after 4 restarts in pod a on node node: Exec lifecycle hook", true},
		{"cannot be started", corev1.ContainerStateTerminated{ExitCode: 128, Reason: "StartError", Message: noFile, FinishedAt: at(130)}, []*corev1.Event{killed(120)},
			v1alpha1.CauseCannotStart, "cannot be started after 4 restarts in pod a on node node: " + noFile, false},
		{"cannot be started, and nobody says why", run(128, "StartError", ""), nil, v1alpha1.CauseCannotStart, "cannot be started", false},
		{"has too little memory to start", run(128, "StartError", "container init was OOM-killed (memory limit too low?)"), nil, v1alpha1.CauseOutOfMemory, "cannot be started", false},
		{"cannot be mounted into", run(128, "StartError", `error mounting "/x" to rootfs at "/etc/x": not a directory`), nil, v1alpha1.CauseMountFailed, "cannot be started", false},
		{"is lost with its node", run(255, "Unknown", ""), nil, v1alpha1.CauseUnknown, "keeps ending", true},
	} {
		for moment, is := range moments {
			t.Run(row.name+", "+moment, func(t *testing.T) {
				p := pod("a", restarted(4), probed, bornAtNoon)
				is(&p.Status.ContainerStatuses[0], row.end)
				w := crashes(p, row.events)
				if w.Failure.Cause != row.cause || !strings.HasPrefix(w.Failure.Message, "container web ") || !strings.Contains(w.Failure.Message, row.says) {
					t.Errorf("%s, cause %s: %q, want cause %s and %q", w.stands(), w.Failure.Cause, w.Failure.Message, row.cause, row.says)
				}
				var want *LogRequest
				if row.silent {
					want = &LogRequest{Node: "node", Pod: "a", Container: "web", Previous: moment != "ended"}
				}
				if diff := cmp.Diff(want, w.logAsked); diff != "" {
					t.Errorf("log (-want +got):\n%s", diff)
				}
				if w.Failure.Container != "web" || w.Failure.Restarts != 4 || w.Failure.Node != "node" || w.asked > 2 {
					t.Errorf("%d requests: %+v", w.asked, w.Failure)
				}
			})
		}
	}
}

func bornAtNoon(p *corev1.Pod) { p.CreationTimestamp = metav1.NewTime(noon) }

// crashes judges a pod at one look. What it was restarted for by others has been seen before.
func crashes(p *corev1.Pod, events []*corev1.Event) *watched {
	w := watching(1)
	w.template.Spec.InitContainers, w.template.Spec.Containers = p.Spec.InitContainers, p.Spec.Containers
	before := p.DeepCopy()
	for c := range containers(before) {
		c.RestartCount, c.State, c.LastTerminationState = 0, corev1.ContainerState{}, corev1.ContainerState{}
	}
	w.see(seeing(3, before))
	after := p.DeepCopy()
	if c := &after.Status.ContainerStatuses[0]; rebooted(c) {
		c.RestartCount++ // The reboot's own one does not count.
	}
	s := seeing(3, after)
	s.told = map[types.UID][]*corev1.Event{p.UID: events}
	if w.see(s); rebooted(&after.Status.ContainerStatuses[0]) {
		w.Failure.Restarts--
	}
	return w
}

// The log is that of the run which crashed, not of the one that a reboot ended.
func TestCrashCause_RebootAfterCrash(t *testing.T) {
	p := pod("a", restarted(5), probed, bornAtNoon)
	c := &p.Status.ContainerStatuses[0]
	c.LastTerminationState.Terminated, c.State.Terminated = new(run(1, "Error", "")), new(run(255, "Unknown", ""))
	w := crashes(p, nil)
	if want := (&LogRequest{Node: "node", Pod: "a", Container: "web", Previous: true}); w.Failure.Cause != v1alpha1.CauseExitCode || !cmp.Equal(w.logAsked, want) {
		t.Errorf("%s: %+v, log %+v", w.stands(), w.Failure, w.logAsked)
	}
}

// An init sidecar that its startup probe ends is blamed, and not the containers that wait for it.
func TestCrashCause_Sidecar(t *testing.T) {
	p := pod("a", waits("PodInitializing"), probed, bornAtNoon, func(p *corev1.Pod) {
		p.Status.InitContainerStatuses = []corev1.ContainerStatus{{Name: "mesh", RestartCount: 4}}
	})
	moments["in back-off"](&p.Status.InitContainerStatuses[0], run(137, "Error", ""))
	w := crashes(p, []*corev1.Event{from(20, 120, theSidecar, "Killing", "Init container mesh failed startup probe")})
	if f := w.Failure; f.Cause != v1alpha1.CauseStartupProbe || f.Container != "mesh" {
		t.Errorf("%+v", f)
	}
}

// What the rule of one container did to the others is not put down to them, and its own exit code is told if a look meets it, or its
// rule names one alone.
func TestCrashCause_WholePod(t *testing.T) {
	p := pod("a", bornAtNoon, func(p *corev1.Pod) {
		p.Spec.InitContainers = []corev1.Container{{Name: "migrate"}}
		p.Spec.Containers = []corev1.Container{{Name: "log"}, {Name: "web", RestartPolicyRules: []corev1.ContainerRestartRule{{
			Action: corev1.ContainerRestartRuleActionRestartAllContainers, ExitCodes: &corev1.ContainerRestartRuleOnExitCodes{Operator: "In", Values: []int32{41, 42}}}}}}
		p.Status.InitContainerStatuses = []corev1.ContainerStatus{{Name: "migrate"}}
		p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "log"}, {Name: "web"}}
		for c := range containers(p) {
			c.RestartCount = 4
			c.LastTerminationState.Terminated = &corev1.ContainerStateTerminated{ExitCode: 137, Reason: restartingAll}
		}
	})
	if f := crashes(p, nil).Failure; f.Cause != v1alpha1.CauseRestartsWholePod || f.Container != "web" || f.ExitCode != nil {
		t.Errorf("%+v", f)
	}
	p.Status.ContainerStatuses[1].State.Terminated = new(run(42, "Error", ""))
	if f := crashes(p, nil).Failure; f.Container != "web" || f.ExitCode == nil || *f.ExitCode != 42 {
		t.Errorf("while it is ended: %+v", f)
	}
	p.Status.ContainerStatuses[1].LastTerminationState.Terminated = new(run(1, "Error", ""))
	p.Status.ContainerStatuses[1].State.Terminated = nil
	if f := crashes(p, nil).Failure; f.Cause != v1alpha1.CauseExitCode {
		t.Errorf("with a code that is not in its rule: %+v", f)
	}
}

// Nor are they told at the deadline, which comes before the last restart that is tolerated.
func TestUnreadyCause_WholePod(t *testing.T) {
	w := watching(1)
	p := pod("a", func(p *corev1.Pod) {
		p.Spec.Containers = []corev1.Container{{Name: "log"}, {Name: "web", RestartPolicyRules: []corev1.ContainerRestartRule{{
			Action: corev1.ContainerRestartRuleActionRestartAllContainers}}}}
		p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "log"}, {Name: "web"}}
		for c := range containers(p) {
			c.RestartCount = 2
			c.LastTerminationState.Terminated = &corev1.ContainerStateTerminated{ExitCode: 137, Reason: restartingAll}
		}
	})
	w.template.Spec.Containers = p.Spec.Containers
	if w.see(seeing(606, p)); w.Failure.Cause != v1alpha1.CauseRestartsWholePod || w.Failure.Container != "web" {
		t.Errorf("%s: %+v", w.stands(), w.Failure)
	}
}

// A container that runs for minutes before it ends is told as one that crashes, in its next run, too.
func TestUnreadyCause_LongRuns(t *testing.T) {
	again := func(times int32) *corev1.Pod {
		return pod("a", probed, restarted(times), func(p *corev1.Pod) {
			end := run(1, "Error", "boom")
			end.FinishedAt = at(400)
			p.Status.ContainerStatuses[0].LastTerminationState.Terminated = &end
			p.Status.ContainerStatuses[0].State.Running = &corev1.ContainerStateRunning{StartedAt: at(450)}
		})
	}
	w := watching(1)
	w.see(seeing(450, again(1)))
	if w.see(seeing(156, again(2))); w.Failure.Reason != v1alpha1.FailureDeadlineExceeded || w.Failure.Cause != v1alpha1.CauseExitCode {
		t.Errorf("%s: %+v", w.stands(), w.Failure)
	}
}

// Without the right to read Events the cause is the coarser one, and the message says what was not read.
func TestCrashCause_EventsUnread(t *testing.T) {
	w := watching(1)
	s := seeing(3, changed(crashed("a", 4), probed))
	s.unread = "Events cannot be read: no right"
	if w.see(s); w.Failure.Cause != v1alpha1.CauseExitCode || !strings.HasSuffix(w.Failure.Message, ": boom; Events cannot be read: no right") {
		t.Errorf("%s: %+v", w.stands(), w.Failure)
	}
}

// A refusal of no common form has no cause of its own.
func TestRefusalCause_Unknown(t *testing.T) {
	w := watching(1)
	if w.see(seeing(606).of(1).refusing("Request entity too large: limit is 3145728")); w.Failure.Reason != v1alpha1.FailurePodsForbidden ||
		w.Failure.Cause != v1alpha1.CauseUnknown {
		t.Errorf("%s: %+v", w.stands(), w.Failure)
	}
}

// At the deadline, and in the soak, what keeps a pod from being ready is told, and a container that crashes now and then is told
// as one that crashes.
func TestUnreadyCause(t *testing.T) {
	running := func(started bool) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			c := &p.Status.ContainerStatuses[0]
			c.State, c.Started = corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: at(10)}}, &started
			setCondition(p, corev1.ContainersReady, corev1.ConditionFalse, "ContainersNotReady", "containers with unready status: [web]")
		}
	}
	says := func(last int, words string) []*corev1.Event {
		return []*corev1.Event{from(11, last, theContainer, "Unhealthy", words)}
	}
	const readiness, sandbox = "Readiness probe failed: connection refused", `Failed to create pod sandbox: no runtime for "nope" is configured`
	const notAttached = "AttachVolume.Attach failed for volume \"v\" : rpc error"
	for _, row := range []struct {
		name   string
		pod    *corev1.Pod
		events []*corev1.Event
		cause  string
		says   string
		log    bool
	}{
		{"its readiness probe", pod("a", probed, running(true)), says(500, readiness), v1alpha1.CauseReadinessProbe,
			"container web is not ready by its readiness probe in pod a on node node: connection refused", true},
		{"its readiness probe, which cannot be made", pod("a", probed, running(true)), says(500, `Readiness probe errored and resulted in unknown state: exec: "/nope": no such file`),
			v1alpha1.CauseReadinessProbe, `not ready by its readiness probe in pod a on node node: exec: "/nope": no such file`, true},
		{"and its Events are gone", pod("a", probed, running(true)), nil, v1alpha1.CauseReadinessProbe, "is not ready by its readiness probe", true},
		{"and they are of the run before", pod("a", probed, running(true)), []*corev1.Event{from(1, 9, theContainer, "Unhealthy", readiness)},
			v1alpha1.CauseReadinessProbe, "is not ready by its readiness probe in pod a on node node$", true},
		{"its startup probe", pod("a", probed, running(false)), says(500, "Startup probe failed: cold"), v1alpha1.CauseStartupProbe,
			"container web has not started by its startup probe in pod a on node node: cold", true},
		{"no probe", pod("a", running(true)), nil, v1alpha1.CauseNotReady, "container web is not ready in pod a", true},
		{"it crashes as often as is tolerated", pod("a", probed, restarted(2), exited(3, "boom"), waits("CrashLoopBackOff")), nil,
			v1alpha1.CauseExitCode, "container web exited with code 3 after 2 restarts in pod a on node node: boom", false},
		{"it ended, and is not restarted", pod("a", func(p *corev1.Pod) { p.Status.ContainerStatuses[0].State.Terminated = new(run(3, "Error", "")) }), nil,
			v1alpha1.CauseExitCode, "container web exited with code 3 in pod a on node node", true},
		{"it crashed once, and runs since then", pod("a", probed, restarted(1), exited(3, "boom"), running(true)), nil, v1alpha1.CauseReadinessProbe, "readiness probe", true},
		{"it waits for one that crashes", pod("a", probed, running(true), func(p *corev1.Pod) {
			p.Status.ContainerStatuses = append(p.Status.ContainerStatuses, corev1.ContainerStatus{Name: "db", RestartCount: 2})
			moments["in back-off"](&p.Status.ContainerStatuses[1], run(3, "Error", "boom"))
		}), nil, v1alpha1.CauseExitCode, "container db exited with code 3 after 2 restarts in pod a on node node: boom", false},
		{"an init container runs for ever", pod("a", waits("PodInitializing"), func(p *corev1.Pod) {
			p.Spec.InitContainers = []corev1.Container{{Name: "migrate"}}
			p.Status.InitContainerStatuses = []corev1.ContainerStatus{{Name: "migrate", State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}}
		}), nil, v1alpha1.CauseNotReady, "init container migrate has not ended in pod a", true},
		{"its sandbox", pod("a", waits("ContainerCreating")), []*corev1.Event{{Reason: "FailedCreatePodSandBox", Message: sandbox}},
			v1alpha1.CauseSandbox, "pod a on node node is not set up: " + sandbox, false},
		{"its sandbox, again and again", pod("a", waits("ContainerCreating")), []*corev1.Event{{Reason: "FailedCreatePodSandBox", Message: combined + sandbox}},
			v1alpha1.CauseSandbox, "pod a on node node is not set up: " + sandbox, false},
		{"its volume", pod("a", waits("ContainerCreating")), []*corev1.Event{{Reason: "FailedAttachVolume", Message: notAttached}},
			v1alpha1.CauseMountFailed, "pod a on node node is not set up: " + notAttached, false},
		{"nothing is known of a second container", pod("a", waits("ContainerCreating"), func(p *corev1.Pod) {
			p.Status.InitContainerStatuses = up("mesh").Status.ContainerStatuses
			p.Status.InitContainerStatuses[0].State.Running = &corev1.ContainerStateRunning{}
		}), nil, v1alpha1.CauseNotReady, "container web in pod a on node node is not set up: nothing is known of why", false},
		{"nothing is known", pod("a", waits("ContainerCreating")), nil, v1alpha1.CauseNotReady, "pod a on node node is not set up: nothing is known of why", false},
	} {
		t.Run(row.name, func(t *testing.T) {
			w := watching(1)
			w.template.Spec.RuntimeClassName = new("nope")
			w.template.Spec.Containers = append(w.template.Spec.Containers, corev1.Container{Name: "db"})
			w.template.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{NFS: &corev1.NFSVolumeSource{}}}}
			s := seeing(1500, row.pod)
			s.told = map[types.UID][]*corev1.Event{row.pod.UID: row.events}
			w.see(s)
			if w.stands() != "Failed DeadlineExceeded" || w.Failure.Cause != row.cause || !strings.Contains(w.Failure.Message+"$", row.says) {
				t.Errorf("%s, cause %s: %q, want cause %s and %q", w.stands(), w.Failure.Cause, w.Failure.Message, row.cause, row.says)
			}
			if (w.logAsked != nil) != row.log || (row.log && w.logAsked.Previous) {
				t.Errorf("log asked for: %+v, want %t", w.logAsked, row.log)
			}
		})
	}
}

// What the kubelet says of a container that waits.
func TestWaitCause(t *testing.T) {
	const pull = `failed to pull and unpack image "docker.io/shop/web:9": failed to resolve reference "docker.io/shop/web:9": `
	for _, row := range []struct{ name, reason, words, failure, cause string }{
		{"no tag", "ErrImagePull", `rpc error: code = NotFound desc = ` + pull + `docker.io/shop/web:9: not found`, "ImagePull", v1alpha1.CauseImageNotFound},
		{"no tag, in back-off", "ImagePullBackOff", `Back-off pulling image "shop/web:9": ErrImagePull: ` + pull + `docker.io/shop/web:9: not found`, "ImagePull", v1alpha1.CauseImageNotFound},
		{"no manifest, by CRI-O", "ErrImagePull", `reading manifest 9 in docker.io/shop/web: manifest unknown`, "ImagePull", v1alpha1.CauseImageNotFound},
		{"no credentials", "ErrImagePull", pull + `failed to authorize: failed to fetch anonymous token: unexpected status from GET request to https://ghcr.io/token: 401 Unauthorized`, "ImagePull", v1alpha1.CauseImageAuth},
		{"forbidden", "ErrImagePull", pull + `unexpected status from HEAD request to https://r/v2/web/manifests/9: 403 Forbidden`, "ImagePull", v1alpha1.CauseImageAuth},
		{"no repository, by Docker Hub", "ErrImagePull", pull + `pull access denied, repository does not exist or may require authorization: server message: insufficient_scope: authorization failed`, "ImagePull", v1alpha1.CauseImageAuth},
		{"no credentials, by quay", "ErrImagePull", pull + `unexpected status from HEAD request to https://quay.io/v2/web/manifests/9: 401 UNAUTHORIZED`, "ImagePull", v1alpha1.CauseImageAuth},
		{"forbidden, without a word", "ErrImagePull", pull + `unexpected status from HEAD request to https://r/v2/web/manifests/9: 403 `, "ImagePull", v1alpha1.CauseImageAuth},
		{"forbidden, by CRI-O", "ErrImagePull", `Requesting bearer token: invalid status code from registry 403 (Forbidden)`, "ImagePull", v1alpha1.CauseImageAuth},
		{"a page in place of a manifest", "ErrImagePull", `reading manifest 9 in docker.io/shop/web: StatusCode: 404, "<html>"`, "ImagePull", v1alpha1.CauseImageNotFound},
		{"a name like an answer", "ErrImagePull", `reading manifest 9 in docker.io/shop/denied: manifest unknown`, "ImagePull", v1alpha1.CauseImageNotFound},
		{"nobody answers", "ErrImagePull", pull + `dial tcp 10.0.0.9:443: connect: connection refused`, "ImagePull", v1alpha1.CauseRegistryUnavailable},
		{"nobody answers for the token", "ErrImagePull", pull + `failed to authorize: failed to fetch oauth token: Post "https://auth": dial tcp: i/o timeout`, "ImagePull", v1alpha1.CauseRegistryUnavailable},
		{"too many requests", "ErrImagePull", pull + `unexpected status: 429 Too Many Requests`, "ImagePull", v1alpha1.CauseRegistryUnavailable},
		{"unavailable", "RegistryUnavailable", `try again`, "ImagePull", v1alpha1.CauseRegistryUnavailable},
		{"a name that says too much", "ErrImagePull", `failed to pull image "docker.io/unauthorized/denied:1": docker.io/unauthorized/denied:1: not found`, "ImagePull", v1alpha1.CauseImageNotFound},
		{"another architecture", "ErrImagePull", pull + `no match for platform in manifest: not found`, "ImagePull", v1alpha1.CauseImage},
		{"a part that the node has lost", "ErrImagePull", `failed to pull and unpack image "docker.io/shop/web:9": failed to unpack image on snapshotter overlayfs: content digest sha256:1: not found`, "ImagePull", v1alpha1.CauseImage},
		{"a signature that is not there", "ImagePullBackOff", `Back-off pulling image "shop/web:9": SignatureValidationFailed: image pull failed for shop/web:9 because the signature validation failed: key not found`, "ImagePull", v1alpha1.CauseImage},
		{"a bad layer", "ErrImagePull", `failed to extract layer sha256:1: unexpected media type`, "ImagePull", v1alpha1.CauseImage},
		{"a bad signature", "SignatureValidationFailed", `no signature`, "ImagePull", v1alpha1.CauseImage},
		{"no name", "InvalidImageName", `Failed to apply default image tag "Shop//web": couldn't parse image name: invalid reference format`, "ImagePull", v1alpha1.CauseInvalidImageName},
		{"never pulled", "ErrImageNeverPull", `Container image "shop/web:9" is not present with pull policy of Never`, "ImagePull", v1alpha1.CauseImageNeverPull},

		{"a Secret for a variable", "CreateContainerConfigError", `secret "db" not found`, "ContainerConfig", v1alpha1.CauseSecretMissing},
		{"a ConfigMap for a variable", "CreateContainerConfigError", `configmap "app" not found`, "ContainerConfig", v1alpha1.CauseConfigMapMissing},
		{"a key of a Secret", "CreateContainerConfigError", `couldn't find key password in Secret shop/db`, "ContainerConfig", v1alpha1.CauseKeyMissing},
		{"a key of a ConfigMap", "CreateContainerConfigError", `couldn't find key url in ConfigMap shop/app`, "ContainerConfig", v1alpha1.CauseKeyMissing},
		{"root", "CreateContainerConfigError", `container has runAsNonRoot and image will run as root (pod: "a_shop(1)", container: web)`, "ContainerConfig", v1alpha1.CauseSecurityContext},
		{"root, by number", "CreateContainerConfigError", `container's runAsUser breaks non-root policy (pod: "a_shop(1)", container: web)`, "ContainerConfig", v1alpha1.CauseSecurityContext},
		{"a user by name", "CreateContainerConfigError", `container has runAsNonRoot and image has non-numeric user (app), cannot verify user is non-root`, "ContainerConfig", v1alpha1.CauseSecurityContext},
		{"a seccomp profile", "CreateContainerError", `failed to create containerd container: cannot load seccomp profile "/var/lib/kubelet/seccomp/nope": no such file`, "ContainerConfig", v1alpha1.CauseSecurityContext},
		{"a subPath through a file", "CreateContainerConfigError", `failed to prepare subPath for volumeMount "v" of container "web"`, "ContainerConfig", v1alpha1.CauseMountFailed},
		{"a subPath without its variable", "CreateContainerConfigError", `missing value for "POD"`, "ContainerConfig", v1alpha1.CauseConfiguration},
	} {
		t.Run(row.name, func(t *testing.T) {
			w := watching(1)
			otherRegistry(w)
			p := pod("a", waits(row.reason), func(p *corev1.Pod) {
				p.Spec.Containers = slices.Clone(w.template.Spec.Containers)
				p.Spec.Containers[0].LivenessProbe = &corev1.Probe{}
				p.Status.ContainerStatuses[0].State.Waiting.Message = row.words
			})
			w.see(seeing(150, p))
			want := fmt.Sprintf("container web cannot start (%s) in pod a on node node: ", row.reason) + strings.TrimSpace(row.words)
			if w.Failure.Reason != row.failure || w.Failure.Cause != row.cause || w.Failure.Message != want || w.logAsked != nil {
				t.Errorf("%s, cause %s, want %s: %q, want %q; log %+v", w.stands(), w.Failure.Cause, row.cause, w.Failure.Message, want, w.logAsked)
			}
			if w.asked != 1 {
				t.Errorf("%d requests, want one for its Node", w.asked)
			}
		})
	}
	for words, cause := range map[string]string{
		`MountVolume.SetUp failed for volume "s" : secret "nope" not found`:                           v1alpha1.CauseSecretMissing,
		`MountVolume.SetUp failed for volume "c" : configmap "nope" not found`:                        v1alpha1.CauseConfigMapMissing,
		`MountVolume.SetUp failed for volume "c" : references non-existent config key: k`:             v1alpha1.CauseKeyMissing,
		`MountVolume.SetUp failed for volume "h" : hostPath type check failed: /x is not a directory`: v1alpha1.CauseMountFailed,
	} {
		w := watching(1)
		for second := 3; second < 150 && w.Phase != PhaseFailed; second += 3 {
			w.see(mounts(words)(second))
		}
		if w.Failure.Reason != v1alpha1.FailureContainerConfig || w.Failure.Cause != cause || w.Failure.Message != "pod a on node node cannot start: "+words {
			t.Errorf("%s, cause %s, want %s: %q", w.stands(), w.Failure.Cause, cause, w.Failure.Message)
		}
	}
}

// An init container is called so.
func TestWaitCause_InitContainer(t *testing.T) {
	w := watching(1)
	p := pod("a", waits("PodInitializing"), func(p *corev1.Pod) {
		p.Status.InitContainerStatuses = pullFails("a", "manifest unknown").Status.ContainerStatuses
	})
	if w.see(seeing(150, p)); !strings.HasPrefix(w.Failure.Message, "init container web cannot start (ErrImagePull) in pod a") {
		t.Errorf("%s: %q", w.stands(), w.Failure.Message)
	}
}

// A deadline that is over before the patience with a wait says the same of it.
func TestWaitCause_ByDeadline(t *testing.T) {
	const words = `MountVolume.SetUp failed for volume "s" : secret "nope" not found`
	w := watching(1)
	w.limits.deadline = time.Minute
	s := mounts(words)(3)
	s.Pods[0].Status.ContainerStatuses = append([]corev1.ContainerStatus{{Name: "untold"}}, s.Pods[0].Status.ContainerStatuses...)
	s.seconds = 90
	w.see(s)
	if f := w.Failure; f.Reason != v1alpha1.FailureDeadlineExceeded || f.Cause != v1alpha1.CauseSecretMissing || f.Message != "pod a on node node cannot start: "+words {
		t.Errorf("%s: %+v", w.stands(), f)
	}
}

// Beside a container that waits for its image, one that crashes as often as is tolerated is not the cause.
func TestWaitCause_BesideACrash(t *testing.T) {
	w := watching(1)
	otherRegistry(w)
	w.limits.deadline = time.Minute
	p := pullFails("a", "manifest unknown")
	p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: "db"})
	p.Status.ContainerStatuses = append(p.Status.ContainerStatuses, corev1.ContainerStatus{Name: "db", RestartCount: 2})
	moments["in back-off"](&p.Status.ContainerStatuses[1], run(3, "Error", "boom"))
	w.template.Spec.Containers = append(w.template.Spec.Containers, corev1.Container{Name: "db"})
	if w.see(seeing(90, p)); w.Failure.Cause != v1alpha1.CauseImageNotFound || w.Failure.Container != "web" {
		t.Errorf("%s: %+v", w.stands(), w.Failure)
	}
}

// What the scheduler says of a pod that fits on no node: a single reason is the cause if it is that of all nodes.
func TestRoomCause(t *testing.T) {
	const helpless = " preemption: 0/3 nodes are available: 3 Preemption is not helpful for scheduling."
	for words, cause := range map[string]string{
		"0/3 nodes are available: 3 node(s) didn't match Pod's node affinity/selector. no new claims to deallocate," + helpless:                            v1alpha1.CauseNodeSelector,
		"0/3 nodes are available: 1 node(s) had untolerated taint(s), 2 node(s) didn't match Pod's node affinity/selector." + helpless:                     v1alpha1.CauseNoRoom,
		"0/3 nodes are available: 1 Insufficient cpu, 2 node(s) didn't match Pod's node affinity/selector." + helpless:                                     v1alpha1.CauseNoRoom,
		"0/3 nodes are available: 3 node(s) had untolerated taint(s)." + helpless:                                                                          v1alpha1.CauseTaints,
		"0/3 nodes are available: 1 node(s) had untolerated taint {gpu: }, 2 node(s) had untolerated taint {node.kubernetes.io/unreachable: }." + helpless: v1alpha1.CauseTaints,
		"0/13 nodes are available: 13 Insufficient memory. preemption: 0/13 nodes are available: 13 No preemption victims found for incoming pod.":         v1alpha1.CauseNoRoom,
		"0/3 nodes are available: 3 Insufficient cpu. preemption: 3 node(s) had untolerated taint(s).":                                                     v1alpha1.CauseNoRoom,
		"0/3 nodes are available: persistentvolumeclaim \"3 node(s) had untolerated taint\" is being deleted.":                                             v1alpha1.CauseNoRoom,
		`running PreBind plugin "VolumeBinding": binding volumes: provisioning failed for PVC "data"`:                                                      v1alpha1.CauseMountFailed,
		"0/0 nodes are available: ":           v1alpha1.CauseNoRoom,
		"no nodes available to schedule pods": v1alpha1.CauseNoRoom,
	} {
		w := watching(1)
		asksForMore(w)
		w.see(seeing(606, changed(homeless("a"), notScheduled(words))))
		if w.Failure.Cause != cause || w.Failure.Message != strings.TrimSpace("pod a fits on no node: "+words) {
			t.Errorf("cause %s, want %s: %q", w.Failure.Cause, cause, w.Failure.Message)
		}
	}
}

// The log is read at the verdict, of a pod whose node may answer, and what became of that is told.
func TestJudge_ReadsTheLog(t *testing.T) {
	const crash = "container web exited with code 1 after 4 restarts in pod a on node node"
	silent := func(p *corev1.Pod) {
		p.Status.ContainerStatuses[0].LastTerminationState.Terminated.Message = ""
	}
	for _, row := range []struct {
		name  string
		set   func(*watched)
		log   *Log
		asked bool
		says  string
		keeps string
	}{
		{"its last line is why", nil, &Log{Lines: "connecting to db:5432\nno route to host\n"}, true, crash + ": no route to host", "connecting to db:5432\nno route to host"},
		{"it wrote nothing", nil, &Log{}, true, crash, ""},
		{"it could not be read", nil, &Log{Unread: "no right to read it"}, true, crash + "; its log could not be read: no right to read it", ""},
		{"it is not wanted", func(w *watched) { w.log = false }, nil, false, crash + "; log: off by spec.guard.log", ""},
		{"the node may be down", func(w *watched) { w.sightings = &sightings{answers: answers{deadNodes: map[string]instant{"node": 1}}} }, nil, false,
			crash + "; its log was not read: its node may not answer", ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			w := watching(1)
			if row.set != nil {
				row.set(w)
			}
			s := seeing(3, changed(crashed("a", 4), silent))
			s.log = row.log
			if w.see(s); w.Failure.Message != row.says || w.Failure.Log != row.keeps || (w.logAsked != nil) != row.asked {
				t.Errorf("asked %+v: %q, log %q", w.logAsked, w.Failure.Message, w.Failure.Log)
			}
		})
	}
}

// A node on which alone pods do not start is not asked for the log of one that did.
func TestJudge_ReadsNoLogOfSuspectedNode(t *testing.T) {
	crashing := changed(crashed("a", 4), on("n1"), func(p *corev1.Pod) { p.Status.ContainerStatuses[0].LastTerminationState.Terminated.Message = "" })
	w := watching(4)
	w.see(seeing(3, crashing, changed(pullFails("b", "no space left"), on("n1")), ready("c"), ready("d")))
	if w.Failure.Reason != v1alpha1.FailureCrashLoop || w.logAsked != nil || !strings.Contains(w.Failure.Message, "; its log was not read: its node may not answer") {
		t.Errorf("%s, log %+v: %q", w.stands(), w.logAsked, w.Failure.Message)
	}
}

// A container that left a message, a rollback, which has no place for a log, and a good release ask for none.
func TestJudge_ReadsNoLog(t *testing.T) {
	for name, story := range map[string]func(*watched){
		"message": func(w *watched) { w.see(seeing(3, crashed("a", 4))) },
		"rollback": func(w *watched) {
			w.knownGood = true
			w.see(seeing(606, pod("a", func(p *corev1.Pod) { p.Status.ContainerStatuses[0].State.Running = &corev1.ContainerStateRunning{} })))
		},
		"good":           func(w *watched) { w.see(seeing(60, up("a"))) },
		"evicted":        func(w *watched) { w.maxRestarts = 0; w.see(seeing(3, pod("a", evictedForStorage))) },
		"never started":  func(w *watched) { w.see(seeing(123, pulling("a"))) },
		"nothing to run": func(w *watched) { w.see(cannotRun(27)) },
	} {
		w := watching(1)
		story(w)
		if w.UnderWay() || w.logAsked != nil || w.Failure.Log != "" || strings.Contains(w.Failure.Message, "its log") {
			t.Errorf("%s: %s, log asked for: %+v", name, w.stands(), w.logAsked)
		}
	}
}

// The log of a pod that has ended is that of its container.
func TestJudge_ReadsTheLogOfEndedPods(t *testing.T) {
	for _, end := range []func(*corev1.Pod){succeededWithEvent, func(p *corev1.Pod) { exitedForGood(p); terminated(p, 1, "") }} {
		w := watching(1)
		w.maxRestarts = 0
		s := seeing(3, pod("a", end))
		s.log = &Log{Lines: "bye"}
		w.see(s)
		if diff := cmp.Diff(&LogRequest{Node: "node", Pod: "a", Container: "web"}, w.logAsked); diff != "" || w.Failure.Log != "bye" || !strings.HasSuffix(w.Failure.Message, ": bye") {
			t.Errorf("%s: %+v\n%s", w.stands(), w.Failure, diff)
		}
	}
}

// Of a long message the last lines are told, and the first characters of any say what failed.
func TestGist(t *testing.T) {
	long := strings.Repeat("x", 200)
	for said, want := range map[string]string{
		"":                            "",
		" a\n\nb \n":                  "a\n\nb",
		long + "\n" + long + "\nlast": long + "\nlast",
		long + long:                   long + long,
		long + "\n" + long + "\n" + long + "\n" + long: long,
	} {
		if got := gist(said); got != want {
			t.Errorf("%q: %q", said, got)
		}
	}
}

// A wrapped error says last what is wrong: of a text that is too long, the middle is left out.
func TestMessage_KeepsBothEnds(t *testing.T) {
	w := watching(1)
	otherRegistry(w)
	name := strings.Repeat("é", 100) + ":9"
	p := pullFails("a", strings.Repeat(`failed to resolve reference "`+name+`": `, 4)+name+": not found")
	w.see(seeing(150, p))
	if m := w.Failure.Message; len(m) > maxMessage || len(m) < maxMessage-4 || !utf8.ValidString(m) ||
		!strings.HasPrefix(m, "container web cannot start (ErrImagePull) in pod a") || !strings.HasSuffix(m, ":9: not found") {
		t.Errorf("%d bytes: %q", len(m), m)
	}
}

// A rollback's pods are not called new: nobody takes them for those of the release that failed.
func TestMessage_TellsReleasesApart(t *testing.T) {
	w := watching(2)
	w.knownGood = true
	w.see(seeing(606, ready("a"), starting("b")))
	if want := "; 1 of its 2 pods are fine, and the others on node"; w.Phase != PhaseFailed || !strings.HasSuffix(w.Failure.Message, want) {
		t.Errorf("%s: %q", w.stands(), w.Failure.Message)
	}
	s := asking("v2").knows("v1", 1, good).knows("v2", 2, failed).runningName("v1").down().remembers("v1", PhaseFailed)
	d, _ := s.step()
	v1, v2 := s.revision("v1").Name, s.revision("v2").Name
	want := v2 + " failed: it exited; " + v1 + ", which was good, does not come up: it is not ready; the Deployment stays on it, " +
		"until the template changes or belay.dev/retry asks for another attempt"
	if got := d.Status.Conditions[0].Message; got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

// A log is read for a verdict, as far as the guard allows, and not again while the release that failed is left in place.
func TestDecide_NeedsTheLogOnce(t *testing.T) {
	crashing := func(s *scene) {
		s.Evidence = evidence(s.Deployment, pod("p0", restarted(9), waits("CrashLoopBackOff"), exited(7, "")))
	}
	for name, row := range map[string]struct {
		scene *scene
		want  *LogRequest
	}{
		"verdict":      {asking("v1").knows("v1", 1, unjudged).runningName("v1"), &LogRequest{Node: "node", Pod: "p0", Container: "web", Previous: true}},
		"not allowed":  {asking("v1").with(func(s *scene) { s.Guarded.Spec.Guard.Log = new(false) }).knows("v1", 1, unjudged).runningName("v1"), nil},
		"failed, held": {asking("v1").hold().knows("v1", 1, failed).runningName("v1").remembers("v1", PhaseFailed), nil},
	} {
		row.scene.with(crashing).Deployment.Status.Conditions = nil
		if diff := cmp.Diff(row.want, Decide(row.scene.Observed).NeedDetails.Log); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// What is read back from a revision may be anybody's: it is cut and cleaned again.
func TestDecode_CleansTheLog(t *testing.T) {
	g := newGuarded("v1")
	f := Failure{Attempt: Attempt{Number: 1}}
	f.Log = strings.Repeat("line\x1b[31m\n", 1000)
	r := decode(g, withVerdict(decode(g, recorded(g, 1)), &f))
	if got := r.Failure.Log; got != Tail(f.Log) || strings.Contains(got, "\x1b") {
		t.Errorf("%d bytes are kept, want %d", len(got), len(Tail(f.Log)))
	}
}
