package rollout

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// What real clusters do to releases, and what releases do to themselves. Each case is played as the kubelet, the controllers and
// the scheduler of Kubernetes 1.37 write it, one poll every 3 s; docs/judging.md names these cases.
var cases = []struct {
	name string
	// set changes what the rollout is judged by.
	set func(*watched)
	// at is what is seen so many seconds after the release.
	at   func(second int) sight
	want string // how it stands when it is decided, or at the end
	says string // what the failure or the wait must say
	by   int    // when, in seconds, at the latest; an hour if it is 0
}{
	// Pods that end by themselves.
	{name: "A1 evicted for what they did, again and again", set: asks(2), at: replacedEvery(2, 10, evictedForStorage),
		want: "Failed PodsEnded", says: "Evicted: Pod ephemeral local storage usage exceeds the total limit of containers 100Mi", by: 57},
	{name: "A2 and before they are ready for long", set: asks(2), at: replacedEvery(2, 4, evictedForStorage),
		want: "Failed PodsEnded", says: "Evicted", by: 57},
	{name: "A3 refused for what the template states", set: asks(2), at: replacedEvery(2, 1, refusedForSysctl),
		want: "Failed PodsEnded", says: `SysctlForbidden: forbidden sysctl: "net.core.somaxconn" not allowlisted`, by: 15},
	{name: "A4 ended with restartPolicy Never", set: asks(2), at: replacedEvery(2, 3, exitedForGood),
		want: "Failed CrashLoop", says: "exited with code 1: no config", by: 57},
	{name: "A5 out of memory in every soak", set: asks(1), at: restartsEvery(20), want: "Failed CrashLoop", says: "OOMKilled", by: 200},
	{name: "A6 evicted, and obeys with exit code 0", set: asks(2), at: replacedEvery(2, 10, succeededWithEvent),
		want: "Failed PodsEnded", says: "Evicted: Pod ephemeral local storage", by: 57},
	{name: "A7 a release that eats its nodes", set: asks(2), at: replacedEvery(2, 10, evictedForPressure("web")),
		want: "Failed PodsEnded", says: "The node was low on resource: memory", by: 57},
	{name: "A8 crashes in bursts of an autoscaler", set: asks(1), at: bursts(14, 30, crashesTwice), want: "Failed CrashLoop", says: "after 2 restarts, as in 2 before it, in pod"},

	// The cluster's trouble.
	{name: "B1 a node goes silent in the soak", set: asks(3), at: func(second int) sight {
		return seeing(3, ready("a"), ready("b"), when(second > 9, silent)(ready("c"))).available(3 - count1(second > 9))
	}, want: "Blocked node node-c", says: "2 of 3"},
	{name: "B2 a drain in the soak", set: asks(4), at: drained(8), want: "Healthy", by: 120},
	{name: "B2 a drain that is faster than pods start", set: both(asks(4), withDeadline(60)), at: func(second int) sight {
		if second < 900 {
			return drained(12)(second)
		}
		return seeing(3, numbered("z", 4, ready)...)
	}, want: "Healthy", by: 960},
	{name: "B2 and hides no pod that hangs", set: both(asks(4), withDeadline(60)), at: func(second int) sight {
		s := drained(8)(second)
		s.Pods[3] = pod("x")
		return s
	}, want: "Failed", by: 200},
	{name: "B3 a quota that old pods free", set: both(asks(2), withDeadline(600)), at: quotaFreed, want: "Healthy", by: 1100},
	{name: "B3 a quota that the last good one meets, too", set: asks(1), at: func(int) sight {
		return seeing(3).of(1).refusing(`pods "web-1-" is forbidden: exceeded quota: q, requested: pods=1, used: pods=3, limited: pods=3`)
	}, want: "Blocked quota", says: "exceeded quota: q"},
	{name: "B3 a quota that others fill", set: asks(1), at: func(int) sight {
		return seeing(3).of(1).refusing(`(combined from similar events): Error creating: pods "a" is forbidden: exceeded quota: q, requested: pods=1`)
	}, want: `Blocked quota: Error creating: pods "a" is forbidden: exceeded quota: q`},
	{name: "B4 a webhook is down", set: asks(1), at: func(int) sight {
		return seeing(3).of(1).refusing(`Internal error occurred: failed calling webhook "sidecar.istio.io": connection refused`)
	}, want: "Blocked API server", says: "sidecar.istio.io"},
	{name: "B5 one of five nodes cannot pull", set: asks(10), at: oneBadNode, want: "Blocked node node-4", says: "8 of 10 new pods are fine"},
	{name: "B5 and that is tolerated", set: both(asks(10), tolerates("20%")), at: oneBadNode, want: "Healthy", by: 60},
	{name: "B5 two of five are the release's", set: asks(10), at: twoBadNodes, want: "Failed ImagePull", says: "6 of 10 new pods are fine, and the others on node-3, node-4", by: 130},
	{name: "B6 no room, and none for the last good one either", set: asks(1), at: always(homeless("a")), want: "Blocked room for pod a: 0/3 nodes"},
	{name: "B6 no room, because it asks for more", set: both(asks(1), asksForMore), at: always(homeless("a")), want: "Failed DeadlineExceeded", says: "fits on no node", by: 606},
	{name: "B6 no room, and nothing to go back to", set: both(asks(1), func(w *watched) { w.good = nil }), at: always(homeless("a")), want: "Blocked room for pod a: 0/3 nodes"},
	{name: "B7 a victim that makes room takes long", set: both(both(asks(1), asksForMore), withDeadline(60)), at: func(second int) sight {
		return seeing(3, when(second <= 66, nominated)(homelessUntil(second, 66, "a")))
	}, want: "Healthy", by: 110},
	{name: "B8 resized in place, with restarts", set: asks(1), at: func(second int) sight {
		return seeing(3, resized(second/6)(ready("a")))
	}, want: "Healthy", by: 33},
	{name: "B8 resized twice between two polls, and no restart is tolerated", set: both(asks(1), noRestarts), at: func(second int) sight {
		return seeing(3, resized(min(second/9, 1)*2)(ready("a")))
	}, want: "Healthy", by: 33},
	{name: "B8 resized once, and no restart is tolerated", set: both(asks(1), noRestarts), at: func(second int) sight {
		return seeing(3, resized(min(second/9, 1))(ready("a")))
	}, want: "Healthy", by: 33},
	{name: "B9 the node reboots in the soak", set: both(asks(1), noRestarts), at: reboot, want: "Healthy", by: 90},
	{name: "B9 new sandboxes again and again on two nodes", set: asks(2), at: func(second int) sight {
		return seeing(3, inSandbox(second/6)(ready("a")), inSandbox(second/6)(ready("b")))
	}, want: "Failed CrashLoop", says: "new sandboxes", by: 30},
	{name: "B10 a node goes silent under a pod that starts", set: both(asks(1), withDeadline(60)), at: func(int) sight {
		s := seeing(3, pod("a", on("n1")))
		s.nodes = map[string]corev1.ConditionStatus{"n1": corev1.ConditionUnknown}
		return s
	}, want: "Blocked node n1", says: "does not report"},
	{name: "B10 a node that is gone", set: both(asks(1), withDeadline(60)), at: func(int) sight {
		s := seeing(3, pod("a", on("n1")))
		s.nodes = map[string]corev1.ConditionStatus{"n1": ""}
		return s
	}, want: "Blocked node n1", says: "does not report"},
	{name: "B10 a pod from a silent node is moved in the soak", set: both(asks(1), withDeadline(60)), at: func(second int) sight {
		switch {
		case second < 12:
			return seeing(3, ready("a"))
		case second < 300:
			s := seeing(3, pod("b", on("n1")))
			s.nodes = map[string]corev1.ConditionStatus{"n1": corev1.ConditionUnknown}
			return s
		case second < 320:
			return seeing(3, pod("c", on("n2")))
		default:
			return seeing(3, ready("c"))
		}
	}, want: "Healthy", by: 400},
	{name: "B11 a node under pressure refuses pods for a moment", set: asks(1), at: func(second int) sight {
		pods := []*corev1.Pod{ready("z")}
		for i := range 60 * count1(second > 9) {
			pods = append(pods, changed(pod(fmt.Sprint("refused", i), on("n1")), func(p *corev1.Pod) { bornAt(9)(refusedByPressure(p)) }))
		}
		return seeing(3, pods...)
	}, want: "Healthy", by: 60},
	{name: "B11 a node refuses every pod, and the others start theirs", set: asks(2), at: refusedByNode(ready("z")),
		want: "Blocked node n1", says: "MemoryPressure].; 1 of 2 new pods are fine"},
	{name: "B11 a node refuses every pod, and there is no other", set: asks(1), at: refusedByNode(),
		want: "Failed PodsEnded", says: "The node had condition: [MemoryPressure]", by: 140},
	{name: "B11 for a moment, and little patience", set: both(asks(1), func(w *watched) { w.limits.stuck = 12 * time.Second }), at: func(second int) sight {
		pods := []*corev1.Pod{ready("z")}
		if second > 9 {
			pods = append(pods, changed(pod("refused", on("n1")), func(p *corev1.Pod) { bornAt(9)(refusedByPressure(p)) }))
		}
		return seeing(3, pods...)
	}, want: "Healthy", by: 60},
	{name: "B11 nodes that refuse each pod from the beginning", set: asks(1), at: func(second int) sight {
		return seeing(3, numbered("refused", second/3, refusedAgain)...).of(1).wanting(1)
	}, want: "Failed PodsEnded", says: "nodes refuse its pods", by: 140},
	{name: "B12 pods that an autoscaler takes end badly", set: asks(5), at: func(second int) sight {
		pods := []*corev1.Pod{ready("a")}
		for _, name := range []string{"b", "c", "d", "e"} {
			pods = append(pods, when(second > 9, onItsWay, evictedForStorage)(ready(name)))
		}
		if second > 9 {
			return seeing(3, pods...).wanting(1).available(1)
		}
		return seeing(3, pods...)
	}, want: "Healthy", by: 60},
	{name: "B13 the registry is away", set: asks(1), at: always(pullFails("a", `failed to pull "r.example.com/app:2": dial tcp: connection refused`)),
		want: "Blocked registry", says: "connection refused"},
	{name: "B13 another registry than the last good one's", set: both(asks(1), otherRegistry), at: always(pullFails("a", "dial tcp: connection refused")),
		want: "Failed ImagePull", by: 130},
	{name: "B14 what old pods need, too, goes away", set: asks(2), at: func(second int) sight {
		down := second > 9 && second < 300
		return seeing(3, crashingWhile(down, "a", second), crashingWhile(down, "b", second)).oldPods(when(down, notReadyNow)(ready("o1")), when(down, notReadyNow)(ready("o2"))).old(2 * count1(second < 330))
	}, want: "Healthy", by: 500},
	{name: "B14 and does not come back", set: asks(2), at: func(second int) sight {
		return seeing(3, crashingWhile(true, "a", second), crashingWhile(true, "b", second)).oldPods(changed(ready("o1"), notReadyNow), ready("o2")).old(2)
	}, want: "Failed CrashLoop", by: 700},
	{name: "B14 nor does one that starts in its place", set: asks(2), at: func(second int) sight {
		return seeing(3, crashingWhile(true, "a", second), ready("b")).oldPods(bornAt(1)(changed(ready("o1"), notReadyNow)), ready("o2")).old(2)
	}, want: "Failed CrashLoop", by: 60},
	{name: "B14 one old pod in a drain excuses nothing", set: asks(2), at: func(second int) sight {
		return seeing(3, crashingWhile(true, "a", second), ready("b")).oldPods(changed(ready("o1"), notReadyNow, onItsWay), ready("o2")).old(2)
	}, want: "Failed CrashLoop", by: 60},
	{name: "B15 what an attempt before has left", set: both(asks(1), func(w *watched) { w.began = metav1.NewTime(noon.Add(-time.Minute)) }), at: func(int) sight {
		pods := []*corev1.Pod{bornAt(0)(ready("z"))}
		for i := range 20 {
			pods = append(pods, changed(pod(fmt.Sprint("old", i)), evictedForStorage, func(p *corev1.Pod) { bornAt(-3600)(p) }))
		}
		return seeing(3, pods...)
	}, want: "Healthy", by: 60},
	{name: "B16 a startup probe of twenty minutes", set: both(asks(1), startsSlowly), at: func(second int) sight {
		if second > 1150 {
			return seeing(3, ready("a"))
		}
		return seeing(3, pod("a", slowStart))
	}, want: "Healthy", by: 1200},
	{name: "B16 and not a minute longer", set: both(asks(1), startsSlowly), at: always(pod("a", slowStart)), want: "Failed DeadlineExceeded", by: 1260},
	{name: "B17 of many pods one is always unready for a moment", set: asks(100), at: momentsUnready, want: "Healthy", by: 120},
	{name: "B17 an autoscaler adds a pod every 21 s", set: asks(2), at: ramp, want: "Healthy", by: 90},
	{name: "B18 an injected container crashes", set: asks(1), at: func(second int) sight {
		return seeing(3, sidecar(ready("a"), second/3))
	}, want: "Blocked container proxy", says: "which the template does not have"},
	{name: "B18 that old pods bear well", set: asks(1), at: func(second int) sight {
		return seeing(3, sidecar(ready("a"), second/3)).oldPods(sidecar(ready("o"), 0)).old(1)
	}, want: "Failed CrashLoop", says: "container proxy", by: 60},
	{name: "B18 an injected container that is down takes another one with it", set: asks(1), at: func(second int) sight {
		p := sidecar(crashed("a", int32(second/3)), second/3)
		return seeing(3, p)
	}, want: "Blocked container proxy"},
	{name: "a node goes silent under a pod that waits for its image", set: asks(1), at: func(int) sight {
		s := seeing(3, pullFails("a", "manifest unknown"))
		s.nodes = map[string]corev1.ConditionStatus{"node-a": corev1.ConditionUnknown}
		return s
	}, want: "Blocked node node-a"},
	{name: "without the right to read Events a refusal is judged by the deadline", set: both(asks(1), asksForMore), at: func(int) sight {
		s := seeing(3).of(1).refusing(`pods "a" is forbidden: exceeded quota: q`)
		s.unread = "Events cannot be read: no right"
		return s
	}, want: "Failed QuotaExceeded", says: "Events cannot be read: no right", by: 606},
	{name: "without the right to read Nodes a deadline is a deadline", set: asks(1), at: func(int) sight {
		s := seeing(3, pod("a"))
		s.unread = "Nodes cannot be read: no right"
		return s
	}, want: "Failed DeadlineExceeded", says: "Nodes cannot be read: no right", by: 606},
	{name: "B19 one of a hundred crashes", set: asks(100), at: oneOfAHundred, want: "Failed CrashLoop", says: "99 of 100 new pods are fine", by: 60},
	{name: "B19 and that is tolerated", set: both(asks(100), tolerates("5%")), at: oneOfAHundred, want: "Healthy", by: 60},
	{name: "B20 its ReplicaSet is forbidden", set: asks(1), at: func(int) sight {
		return seeing(3).noSet().condition("ReplicaSetCreateError", `Failed to create new replica set "web-1": admission webhook "p" denied the request: no`, noon)
	}, want: "Failed PodsForbidden", says: "denied the request: no", by: 160},

	// Somebody is absent.
	{name: "C1 a scheduler that the template names", set: both(asks(1), scheduledBy("volcanoo")), at: always(pod("a", bySchedulerNamed("volcanoo"))),
		want: "Failed DeadlineExceeded", says: `no scheduler "volcanoo"`, by: 630},
	{name: "C1 one that the last good one names, too", set: both(asks(1), sameSchedulers("volcano")), at: always(pod("a", bySchedulerNamed("volcano"))),
		want: "Blocked scheduler volcano"},
	{name: "C2 a policy rewrites every ReplicaSet", set: asks(1), at: rewritten, want: "Failed DeadlineExceeded", says: "have another template: template.spec", by: 60},
	{name: "C3 a resource claim that is never made", set: asks(1), at: always(pod("a", claims)), want: "Failed DeadlineExceeded", says: `resource claim "g"`, by: 630},
	{name: "C4 an injected scheduling gate", set: asks(1), at: always(pod("a", heldByGate)), want: "Blocked scheduling gate example.com/quota"},
	{name: "C4 a scheduling gate that the template alone names", set: both(asks(1), namesGates), at: always(pod("a", heldByGate)), want: "Failed DeadlineExceeded", says: "scheduling gate example.com/quota", by: 606},
	{name: "C4 an injected readiness gate", set: asks(1), at: always(awaitsGate("a")), want: "Blocked readiness gate example.com/lb of pod a"},
	{name: "C4 a readiness gate that the template alone names", set: both(asks(1), namesGates), at: always(awaitsGate("a")),
		want: "Failed DeadlineExceeded", says: "readiness gate example.com/lb is not written", by: 606},
	{name: "C5 old pods end slowly under Recreate", set: both(asks(2), recreates), at: func(int) sight {
		return seeing(3).noSet().oldPods(changed(ready("o1"), onItsWay), changed(ready("o2"), onItsWay))
	}, want: "Blocked 2 pods of the release before to end"},
	{name: "C6 replicas come and go while it hangs", set: both(asks(3), withDeadline(60)), at: func(second int) sight {
		if (second/25)%2 == 0 {
			return seeing(3, pod("a"), pod("b"), pod("c")).wanting(3)
		}
		return seeing(3, pod("a"), pod("b"), pod("c"), pod(fmt.Sprint("d", second/25)), pod(fmt.Sprint("e", second/25))).wanting(5)
	}, want: "Failed DeadlineExceeded", by: 130},
	{name: "C7 an autoscaler climbs while it hangs", set: both(asks(3), withDeadline(600)), at: func(second int) sight {
		n := 3 + second/180
		return seeing(3, numbered("p", n, func(name string) *corev1.Pod { return pod(name) })...).wanting(int32(n))
	}, want: "Failed DeadlineExceeded", by: 610},

	// What is missing.
	{name: "D1 a Secret for a volume", set: asks(1), at: mounts(`MountVolume.SetUp failed for volume "s" : secret "nope" not found`),
		want: "Failed ContainerConfig", says: `secret "nope" not found`, by: 140},
	{name: "D1 a volume that is not attached is waited for", set: asks(1), at: mounts("AttachVolume.Attach failed: rpc error"), want: "Blocked pod a on node", says: "AttachVolume"},
	{name: "D1 and nothing is known yet of a pod that takes its place", set: both(asks(1), withDeadline(60)), at: func(second int) sight {
		p := pod(fmt.Sprint("a", second/41), waits("ContainerCreating"))
		s := seeing(3, p)
		s.told = map[types.UID][]*corev1.Event{p.UID: {{Reason: "Scheduled"}}}
		if second%41 > 3 {
			s.told[p.UID] = append(s.told[p.UID], &corev1.Event{Reason: "FailedAttachVolume", Message: "AttachVolume.Attach failed: rpc error"})
		}
		return s
	}, want: "Blocked pod a", says: "AttachVolume"},
	{name: "D1 a claim for a volume", set: asks(1), at: always(changed(homeless("a"), notScheduled(`persistentvolumeclaim "nope" not found`))),
		want: "Failed ContainerConfig", says: `"nope" not found`, by: 140},
	{name: "D2 a ServiceAccount", set: asks(1), at: func(int) sight {
		return seeing(3).of(1).refusing(`pods "web-1-" is forbidden: error looking up service account shop/nope: serviceaccount "nope" not found`)
	}, want: "Failed PodsForbidden", says: "nope", by: 160},
	{name: "D7 a command", set: asks(1), at: cannotRun, want: "Failed CrashLoop", says: "no such file", by: 60},
	{name: "D8 many pods behind other pulls", set: both(asks(7), withDeadline(60)), at: func(int) sight {
		pods := numbered("p", 7, func(name string) *corev1.Pod { return pod(name, on("node-"+name), waits("ContainerCreating")) })
		s := seeing(3, pods...)
		s.told = map[types.UID][]*corev1.Event{}
		for _, p := range pods {
			s.told[p.UID] = []*corev1.Event{{Reason: "Pulling"}}
		}
		return s
	}, want: "Blocked image of pod"},
	{name: "E3 hanging in bursts", set: both(asks(2), withDeadline(60)), at: bursts(14, 30, func(name string) *corev1.Pod { return pod(name) }), want: "Failed DeadlineExceeded", by: 300},
	{name: "D8 an image behind other pulls of its node", set: asks(1), at: func(int) sight {
		p := pod("a", waits("ContainerCreating"))
		s := seeing(3, p)
		s.told = map[types.UID][]*corev1.Event{p.UID: {{Reason: "Scheduled"}, {Reason: "Pulling"}}}
		return s
	}, want: "Blocked image of pod a"},
	{name: "B5 one of five nodes cannot pull, after an init container", set: asks(10), at: func(second int) sight {
		s := oneBadNode(second)
		for _, p := range s.Pods {
			p.Status.InitContainerStatuses = []corev1.ContainerStatus{{Name: "migrate", Ready: true,
				State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{Reason: "Completed"}}}}
		}
		return s
	}, want: "Blocked node node-4"},
	{name: "D8 an image of a container after another", set: asks(1), at: func(int) sight {
		p := pod("a", waits("PodInitializing"), func(p *corev1.Pod) {
			p.Status.InitContainerStatuses = []corev1.ContainerStatus{{Name: "migrate", Ready: true,
				State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{Reason: "Completed"}}}}
		})
		s := seeing(3, p)
		s.told = map[types.UID][]*corev1.Event{p.UID: {{Reason: "Started"}, {Reason: "Pulling"}}}
		return s
	}, want: "Blocked image of pod a"},
	{name: "E3 healthy in bursts of an autoscaler", set: both(asks(2), func(w *watched) { w.limits.soak = 20 * time.Second }), at: bursts(14, 30, ready), want: "Healthy", by: 100},
}

func TestCases(t *testing.T) {
	for _, row := range cases {
		t.Run(row.name, func(t *testing.T) {
			w := watching(1)
			row.set(w)
			by := row.by
			if by == 0 {
				by = 3600
			}
			for second := 3; second <= by && w.Phase != PhaseFailed && w.Phase != PhaseHealthy; second += 3 {
				if s := row.at(second); s.Evidence != nil {
					w.see(s)
				} else {
					w.Progress, w.now = w.stop(), w.now.Add(pollInterval)
				}
			}
			if got := w.stands(); !strings.HasPrefix(got, row.want) {
				t.Errorf("after %s: %s, want %s (%s%s)", w.now.Sub(noon), got, row.want, w.Failure.Message, w.WaitingFor)
			}
			if says := w.Failure.Message + w.WaitingFor; !strings.Contains(says, row.says) {
				t.Errorf("it says %q, want %q", says, row.says)
			}
			if all := fmt.Sprintf("%d of %[1]d new pods are fine", *w.deployment.Spec.Replicas); w.Phase == PhaseFailed && strings.Contains(w.Failure.Message, all) {
				t.Errorf("it failed, and all is fine: %q", w.Failure.Message)
			}
			if w.Phase == PhaseBlocked && by > int(w.limits.deadline/time.Second) && !w.Overdue {
				t.Error("it is not told that it has waited beyond the deadline")
			}
			if w.asked > 6+by/15 {
				t.Errorf("%d Events and Nodes were asked for", w.asked)
			}
		})
	}
}

// Any number of releases at once is judged (H1): what shows no break in a poll of minutes soaks.
func TestJudge_ManyAtOnce(t *testing.T) {
	for _, every := range []time.Duration{time.Minute, 100 * time.Second, 200 * time.Second} {
		w := watching(2)
		for range 5 {
			if w.Phase == PhaseHealthy {
				break
			}
			w.now = w.now.Add(every)
			w.look(seeing(3, since(0)(ready("a")), since(0)(ready("b"))))
		}
		if w.Phase != PhaseHealthy {
			t.Errorf("polled every %s: %s", every, w.stands())
		}
	}
}

// By Decide alone: with so many objects on the move that they are looked at this far apart, as internal/evidence has it, a soak takes
// two looks more than the release, and the condition says why that takes long.
func TestDecide_SoakOfMany(t *testing.T) {
	const soak, share = 30 * time.Second, 20 * time.Millisecond
	for _, objects := range []int{1, 150, 1500, 1501, 3000, 3001, 5000, 10_000} {
		every := max(pollInterval, time.Duration(objects)*share)
		s := asking("v1")
		s.PollInterval = every
		var soaking, told time.Duration
		began := s.Now
		for s.Guarded.Status.GoodRevision == "" && s.Now.Sub(began) < 8*time.Hour {
			d, _ := s.step()
			if s.Deployment != nil {
				s.up()
			}
			if soaking == 0 && s.Memory.Progress.Phase == PhaseSoaking {
				soaking = s.Now.Sub(began)
			}
			ready := meta.FindStatusCondition(s.Guarded.Status.Conditions, v1alpha1.ConditionReady)
			if ready != nil && strings.HasSuffix(ready.Message, fmt.Sprintf("looked at every %s only", every.Round(time.Second))) {
				told = every
			}
			if d.Record == nil && d.Mark == nil && d.Deployment == nil && d.Status == nil {
				s.after(d.Recheck)
			}
		}
		looks := (soak + every - 1) / every // until the soak is over
		if took := s.Now.Sub(began) - soaking; took < soak || took > looks*every {
			t.Errorf("%d objects: the soak took %s, want %s in looks that are %s apart", objects, took, soak, every)
		}
		if soaking > 2*every {
			t.Errorf("%d objects: soaking after %s, want within two looks", objects, soaking)
		}
		if want := map[bool]time.Duration{true: every}[every > soak]; told != want {
			t.Errorf("%d objects: told of %s, want %s", objects, told, want)
		}
	}
}

// The fixtures.

func both(a, b func(*watched)) func(*watched) { return func(w *watched) { a(w); b(w) } }
func asks(n int32) func(*watched) {
	return func(w *watched) { w.deployment.Spec.Replicas = &n }
}
func withDeadline(seconds int) func(*watched) {
	return func(w *watched) { w.limits.deadline = time.Duration(seconds) * time.Second }
}
func tolerates(pods string) func(*watched) {
	return func(w *watched) { w.limits.tolerated = intstr.Parse(pods) }
}
func noRestarts(w *watched) { w.limits.maxRestarts = 0 }
func asksForMore(w *watched) {
	w.template.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("64")}
}
func otherRegistry(w *watched) { w.template.Spec.Containers[0].Image = "other.example.com/app:2" }
func recreates(w *watched)     { w.deployment.Spec.Strategy.Type = appsv1.RecreateDeploymentStrategyType }
func scheduledBy(name string) func(*watched) {
	return func(w *watched) { w.template.Spec.SchedulerName = name }
}
func sameSchedulers(name string) func(*watched) {
	return func(w *watched) { w.template.Spec.SchedulerName, w.good.Spec.SchedulerName = name, name }
}
func startsSlowly(w *watched) {
	w.template.Spec.Containers[0].StartupProbe = &corev1.Probe{PeriodSeconds: 10, FailureThreshold: 120}
}

func namesGates(w *watched) {
	w.template.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "example.com/quota"}}
	w.template.Spec.ReadinessGates = []corev1.PodReadinessGate{{ConditionType: "example.com/lb"}}
}

func count1(is bool) int32 {
	if is {
		return 1
	}
	return 0
}

func always(pods ...*corev1.Pod) func(int) sight {
	return func(int) sight { return seeing(3, pods...) }
}

// ready returns a pod that is up, as a kubelet writes it, on a node of its own.
func ready(name string) *corev1.Pod {
	return changed(pod(name, isReady, on("node-"+name)), func(p *corev1.Pod) {
		p.Spec.Containers = []corev1.Container{{Name: "web"}}
		p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{Type: corev1.ContainersReady, Status: corev1.ConditionTrue},
			corev1.PodCondition{Type: corev1.PodReadyToStartContainers, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(noon)})
		p.Status.ContainerStatuses[0].State.Running = &corev1.ContainerStateRunning{}
	})
}

func numbered(prefix string, n int, kind func(string) *corev1.Pod) (pods []*corev1.Pod) {
	for i := range n {
		pods = append(pods, kind(fmt.Sprint(prefix, i)))
	}
	return pods
}

// oldPods adds pods of the last good release, and the ReplicaSet that controls them.
func (s sight) oldPods(pods ...*corev1.Pod) sight {
	set := &appsv1.ReplicaSet{}
	set.UID, set.Spec.Template, set.Spec.Replicas = "uid-of-old-set", withMigration("v0"), new(int32)
	for _, pod := range pods {
		pod.OwnerReferences = []metav1.OwnerReference{{UID: set.UID, Controller: new(true)}}
	}
	e := *s.Evidence
	e.ReplicaSets, e.OldPods = append(e.ReplicaSets, set), pods
	s.Evidence = &e
	return s
}

func on(node string) func(*corev1.Pod) { return func(p *corev1.Pod) { p.Spec.NodeName = node } }

func when(is bool, changes ...func(*corev1.Pod)) func(*corev1.Pod) *corev1.Pod {
	return func(p *corev1.Pod) *corev1.Pod {
		if is {
			changed(p, changes...)
		}
		return p
	}
}

func setCondition(p *corev1.Pod, kind corev1.PodConditionType, status corev1.ConditionStatus, reason, message string) {
	for i := range p.Status.Conditions {
		if c := &p.Status.Conditions[i]; c.Type == kind {
			c.Status, c.Reason, c.Message = status, reason, message
			return
		}
	}
	p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{Type: kind, Status: status, Reason: reason, Message: message})
}

func silent(p *corev1.Pod) { setCondition(p, corev1.PodReady, corev1.ConditionFalse, "", "") }

func notReadyNow(p *corev1.Pod) {
	setCondition(p, corev1.PodReady, corev1.ConditionFalse, "ContainersNotReady", "")
	setCondition(p, corev1.ContainersReady, corev1.ConditionFalse, "ContainersNotReady", "")
	p.Status.ContainerStatuses[0].Ready = false
}

func bornAt(second int) func(*corev1.Pod) *corev1.Pod {
	return func(p *corev1.Pod) *corev1.Pod {
		p.CreationTimestamp = metav1.NewTime(noon.Add(time.Duration(second) * time.Second))
		return p
	}
}

// replacedEvery has n pods that are ready for so many seconds and then end; others take their places at once.
func replacedEvery(n, seconds int, end func(*corev1.Pod)) func(int) sight {
	return func(second int) sight {
		var pods []*corev1.Pod
		generation := second / seconds
		for g := range generation {
			for i := range n {
				name := fmt.Sprintf("p%d-%d", g, i)
				gone := pod(name, on(fmt.Sprint("node-", g%3)))
				end(gone)
				pods = append(pods, gone)
			}
		}
		s := seeing(3, append(pods, numbered(fmt.Sprintf("p%d-", generation), n, ready)...)...)
		s.told = map[types.UID][]*corev1.Event{}
		for _, p := range pods {
			if p.Status.Phase == corev1.PodSucceeded {
				s.told[p.UID] = []*corev1.Event{{Reason: "Evicted", Message: storageText}}
			}
		}
		return s
	}
}

const storageText = "Pod ephemeral local storage usage exceeds the total limit of containers 100Mi. "

func terminated(p *corev1.Pod, code int32, message string) {
	p.Status.ContainerStatuses[0].Ready = false
	p.Status.ContainerStatuses[0].State = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: code, Reason: "Error", Message: message}}
}

func evictedForStorage(p *corev1.Pod) {
	p.Status.Phase, p.Status.Reason, p.Status.Message = corev1.PodFailed, "Evicted", storageText
	terminated(p, 137, "")
}

func succeededWithEvent(p *corev1.Pod) {
	p.Status.Phase = corev1.PodSucceeded
	terminated(p, 0, "")
}

func exitedForGood(p *corev1.Pod) {
	p.Status.Phase = corev1.PodFailed
	terminated(p, 1, "no config")
}

func refusedForSysctl(p *corev1.Pod) {
	p.Status.Phase, p.Status.Reason = corev1.PodFailed, "SysctlForbidden"
	p.Status.Message = `Pod was rejected: forbidden sysctl: "net.core.somaxconn" not allowlisted`
	p.Status.ContainerStatuses, p.Status.Conditions = nil, nil
}

func refusedByPressure(p *corev1.Pod) *corev1.Pod {
	p.Status.Phase, p.Status.Reason = corev1.PodFailed, "Evicted"
	p.Status.Message = "Pod was rejected: The node had condition: [MemoryPressure]. "
	p.Status.ContainerStatuses, p.Status.Conditions = nil, nil
	return p
}

// refusedByNode has node n1 refuse one pod after the other, while others are ready. The last one it has not looked at yet.
func refusedByNode(others ...*corev1.Pod) func(int) sight {
	return func(second int) sight {
		pods := slices.Clone(others)
		for at := max(3, second-60); at < second; at += 3 {
			refused := refusedByPressure(pod(fmt.Sprint("refused", at), on("n1")))
			pods = append(pods, bornAt(at)(refused))
		}
		last := pod(fmt.Sprint("refused", second), on("n1"))
		last.Status = corev1.PodStatus{Phase: corev1.PodPending}
		return seeing(3, append(pods, bornAt(second)(last))...)
	}
}

// refusedAgain is a pod of those that a ReplicaSet makes one after the other, every 3 s, on four nodes in turn.
func refusedAgain(name string) *corev1.Pod {
	i, _ := strconv.Atoi(strings.TrimPrefix(name, "refused"))
	return changed(pod(name, on(fmt.Sprint("n", i%4))), func(p *corev1.Pod) { bornAt(3 * i)(refusedByPressure(p)) })
}

func notScheduled(message string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		setCondition(p, corev1.PodScheduled, corev1.ConditionFalse, corev1.PodReasonUnschedulable, message)
	}
}

func evictedForPressure(container string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		text := "The node was low on resource: memory. Threshold quantity: 100Mi, available: 50Mi. Container " + container +
			" was using 900Mi, request is 100Mi, has larger consumption of memory. "
		p.Spec.Containers = []corev1.Container{{Name: "web"}}
		p.Status.Phase, p.Status.Reason, p.Status.Message = corev1.PodFailed, "Evicted", text
		terminated(p, 137, "")
		setCondition(p, corev1.DisruptionTarget, corev1.ConditionTrue, corev1.PodReasonTerminationByKubelet, text)
	}
}

// restartsEvery has one pod that is killed for its memory again and again, so many seconds after each start.
func restartsEvery(seconds int) func(int) sight {
	return func(second int) sight {
		p := ready("a")
		if round := second / (seconds + 9); round > 0 {
			changed(p, restarted(int32(round)), func(p *corev1.Pod) {
				p.Status.ContainerStatuses[0].LastTerminationState.Terminated = &corev1.ContainerStateTerminated{ExitCode: 137, Reason: "OOMKilled"}
			})
		}
		return seeing(3, when(second%(seconds+9) > seconds, notReadyNow)(p))
	}
}

// bursts has a pod of a kind for so many seconds of every while, and no replicas in between.
func bursts(on, every int, kind func(string) *corev1.Pod) func(int) sight {
	return func(second int) sight {
		if second%every > on {
			return sight{}
		}
		name := fmt.Sprint("p", second/every)
		return seeing(3, kind(name), kind(name+"b")).wanting(2)
	}
}

func crashesTwice(name string) *corev1.Pod { return crashed(name, 2) }

// drained has four pods that are ready so many seconds after their start. From the 13th second on one is deleted every 9 s.
func drained(start int) func(int) sight {
	return func(second int) sight { return drainedAt(start, second) }
}

func drainedAt(start, second int) sight {
	var pods []*corev1.Pod
	for place := range 4 {
		born := 0
		for turn := range 100 {
			if at := 13 + 9*turn; turn%4 == place && at <= second {
				born = at
			}
		}
		p := ready(fmt.Sprintf("p%d-%d", place, born))
		pods = append(pods, when(second-born < start && (born > 0 || second < 3), notReadyNow)(p))
	}
	return seeing(3, pods...)
}

// quotaFreed has a second pod refused until old pods have ended, and created only long after.
func quotaFreed(second int) sight {
	const refused = `pods "web-1-" is forbidden: exceeded quota: q, requested: pods=1, used: pods=3, limited: pods=3`
	switch {
	case second < 340:
		s := seeing(3, ready("a")).of(2).refusing(refused)
		s.renewed = second < 160
		return s.oldPods(changed(ready("o1"), onItsWay), changed(ready("o2"), onItsWay))
	case second < 1000:
		s := seeing(3, ready("a")).of(2).refusing(refused)
		s.renewed = false
		return s
	default:
		return seeing(3, ready("a"), ready("b"))
	}
}

func pullFails(name, words string) *corev1.Pod {
	return pod(name, on("node-"+name), func(p *corev1.Pod) {
		p.Spec.Containers = []corev1.Container{{Name: "web", Image: "v1"}}
		p.Status.ContainerStatuses[0].State.Waiting = &corev1.ContainerStateWaiting{Reason: "ErrImagePull", Message: words}
	})
}

func badNodes(bad int) func(int) sight {
	return func(int) sight {
		var pods []*corev1.Pod
		for i := range 10 {
			p := ready(fmt.Sprint("p", i))
			if i%5 >= 5-bad {
				p = pullFails(fmt.Sprint("p", i), "failed to pull: manifest unknown")
			}
			p.Spec.NodeName = fmt.Sprint("node-", i%5)
			pods = append(pods, p)
		}
		return seeing(3, pods...)
	}
}

var oneBadNode, twoBadNodes = badNodes(1), badNodes(2)

func nominated(p *corev1.Pod) { p.Status.NominatedNodeName = "node-3" }

func homelessUntil(second, until int, name string) *corev1.Pod {
	if second <= until {
		return homeless(name)
	}
	return ready(name)
}

// resized has a pod that was resized so many times, each time with a restart.
func resized(times int) func(*corev1.Pod) *corev1.Pod {
	return func(p *corev1.Pod) *corev1.Pod {
		p.Generation = int64(1 + times)
		status := &p.Status.ContainerStatuses[0]
		status.RestartCount = int32(times)
		status.Resources = &corev1.ResourceRequirements{Limits: corev1.ResourceList{corev1.ResourceMemory: *resource.NewQuantity(int64(100+times), resource.BinarySI)}}
		return p
	}
}

// reboot has a pod with an init container whose node reboots in the 12th second.
func reboot(second int) sight {
	p := ready("a")
	p.Spec.InitContainers = []corev1.Container{{Name: "migrate"}}
	p.Status.InitContainerStatuses = []corev1.ContainerStatus{{Name: "migrate", Ready: true, State: corev1.ContainerState{
		Terminated: &corev1.ContainerStateTerminated{Reason: "Completed"}}}}
	sandbox := func(status corev1.ConditionStatus, at int) {
		for i := range p.Status.Conditions {
			if c := &p.Status.Conditions[i]; c.Type == corev1.PodReadyToStartContainers {
				c.Status, c.LastTransitionTime = status, metav1.NewTime(noon.Add(time.Duration(at)*time.Second))
			}
		}
	}
	switch {
	case second < 12:
	case second < 18:
		notReadyNow(p)
		sandbox(corev1.ConditionFalse, 12)
	default:
		sandbox(corev1.ConditionTrue, 18)
		p.Status.InitContainerStatuses[0].RestartCount = 1
		p.Status.ContainerStatuses[0].RestartCount = 1
		p.Status.ContainerStatuses[0].LastTerminationState.Terminated = &corev1.ContainerStateTerminated{ExitCode: 255, Reason: "Unknown"}
		if second < 24 {
			notReadyNow(p)
		}
	}
	return seeing(3, p)
}

// crashingWhile has a pod that crashes while what it needs is away.
func crashingWhile(away bool, name string, second int) *corev1.Pod {
	if !away {
		return changed(ready(name), restarted(5))
	}
	return changed(crashed(name, int32(min(second/6, 5))), on("node-"+name))
}

func slowStart(p *corev1.Pod) {
	p.Spec.Containers = []corev1.Container{{Name: "web", StartupProbe: &corev1.Probe{PeriodSeconds: 10, FailureThreshold: 120}}}
	p.Status.ContainerStatuses[0].Started = new(false)
	p.Status.ContainerStatuses[0].State.Running = &corev1.ContainerStateRunning{}
}

// momentsUnready has a hundred pods, another one of which is unready at each poll.
func momentsUnready(second int) sight {
	pods := numbered("p", 100, ready)
	if i := second / 3 % 100; second > 3 {
		notReadyNow(pods[i])
	}
	// The Deployment controller goes on with one pod of a hundred unready.
	return seeing(3, pods...).available(100-count1(second > 3 && second%9 != 0)).but(second%9 == 0, numbered("p", 100, ready))
}

// but shows other pods if it is so.
func (s sight) but(is bool, pods []*corev1.Pod) sight {
	if is {
		return seeing(3, pods...)
	}
	return s
}

func ramp(second int) sight {
	n := 2 + second/21
	return seeing(3, numbered("p", n, ready)...).wanting(int32(n))
}

// sidecar adds a container that the template does not have, after so many restarts.
func sidecar(p *corev1.Pod, restarts int) *corev1.Pod {
	p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: "proxy", Image: "proxy:2"})
	status := corev1.ContainerStatus{Name: "proxy", Ready: restarts == 0, RestartCount: int32(restarts)}
	if restarts > 0 {
		status.State.Terminated = &corev1.ContainerStateTerminated{ExitCode: 1, Reason: "Error"}
		setCondition(p, corev1.PodReady, corev1.ConditionFalse, "", "")
		setCondition(p, corev1.ContainersReady, corev1.ConditionFalse, "", "")
	}
	p.Status.ContainerStatuses = append(p.Status.ContainerStatuses, status)
	return p
}

func oneOfAHundred(second int) sight {
	return seeing(3, append(numbered("p", 99, ready), changed(crashed("x", int32(second/3)), on("node-x")))...)
}

func bySchedulerNamed(name string) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Spec.NodeName, p.Spec.SchedulerName = "", name }
}

// rewritten has a policy make another ReplicaSet than the one that was asked for, every 3 s.
func rewritten(second int) sight {
	s := seeing(3).noSet()
	for i := range second / 3 {
		set := &appsv1.ReplicaSet{}
		set.Name, set.CreationTimestamp = fmt.Sprint("web-", i), metav1.NewTime(noon.Add(time.Second))
		set.Spec.Template, set.Spec.Replicas = template("v1"), new(int32)
		set.Spec.Template.Spec.Containers[0].ImagePullPolicy = corev1.PullAlways
		s.ReplicaSets = append(s.ReplicaSets, set)
	}
	s.collisions = int32(second / 3)
	return s
}

func claims(p *corev1.Pod) {
	p.Spec.NodeName = ""
	p.Spec.ResourceClaims = []corev1.PodResourceClaim{{Name: "g", ResourceClaimTemplateName: new("nope")}}
}

func heldByGate(p *corev1.Pod) {
	p.Spec.NodeName = ""
	p.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "example.com/quota"}}
	p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: corev1.PodReasonSchedulingGated, Message: "Scheduling is blocked due to non-empty scheduling gates"}}
}

// awaitsGate is a pod whose containers are ready, and of whose readiness gate nobody has written the condition.
func awaitsGate(name string) *corev1.Pod {
	return changed(ready(name), gated("example.com/lb"), func(p *corev1.Pod) {
		setCondition(p, corev1.PodReady, corev1.ConditionFalse, "ReadinessGatesNotReady", "")
	})
}

// inSandbox has a pod in the sandbox of so many after the first.
func inSandbox(renewed int) func(*corev1.Pod) *corev1.Pod {
	return func(p *corev1.Pod) *corev1.Pod {
		for i := range p.Status.Conditions {
			if c := &p.Status.Conditions[i]; c.Type == corev1.PodReadyToStartContainers {
				c.LastTransitionTime = metav1.NewTime(noon.Add(time.Duration(renewed) * 6 * time.Second))
			}
		}
		return p
	}
}

// mounts has a pod whose volumes cannot be mounted.
func mounts(words string) func(int) sight {
	return func(int) sight {
		p := pod("a", waits("ContainerCreating"))
		s := seeing(3, p)
		s.told = map[types.UID][]*corev1.Event{p.UID: {{Reason: "Scheduled"}, {Reason: "FailedMount", Message: words}}}
		return s
	}
}

// cannotRun has a pod whose command is not there: the kubelet's waiting reason goes back and forth.
func cannotRun(second int) sight {
	p := changed(pod("a", restarted(int32(second/6))), func(p *corev1.Pod) {
		p.Status.ContainerStatuses[0].LastTerminationState.Terminated = &corev1.ContainerStateTerminated{ExitCode: 128, Reason: "StartError", Message: "exec /nope: no such file or directory"}
	})
	waits([]string{"RunContainerError", "CrashLoopBackOff"}[second/3%2])(p)
	return seeing(3, p)
}
