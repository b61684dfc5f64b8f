package rollout

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// sight is what is seen for some time: one look every 3 s, or none at all.
type sight struct {
	seconds int
	blind   bool
	spec    func(*appsv1.DeploymentSpec)
	status  []appsv1.DeploymentCondition
	*Evidence
	nodes   map[string]corev1.ConditionStatus // those that are not ready, by what their condition says; gone if that is empty
	told    map[types.UID][]*corev1.Event
	renewed bool          // the refusals go on
	ahead   time.Duration // how far the clock of whoever records them is

	log        *Log // of whatever container
	collisions int32
	unread     string // why nothing can be read besides
}

// seeing sees a ReplicaSet of which these are the pods, all that there should be, for so many seconds.
func seeing(seconds int, pods ...*corev1.Pod) sight {
	d := &appsv1.Deployment{}
	d.Spec.Template, d.Spec.Replicas = template("v1"), new(int32(len(pods)))
	return sight{seconds: seconds, Evidence: evidence(d, pods...)}
}

func nobodyLooks(seconds int) sight { return sight{seconds: seconds, blind: true} }

func (s sight) set() *appsv1.ReplicaSet { return s.ReplicaSets[0] }

// of says how many pods the new ReplicaSet should have.
func (s sight) of(pods int32) sight { s.set().Spec.Replicas = &pods; return s }

// available says how many of them the ReplicaSet controller calls so.
func (s sight) available(pods int32) sight { s.set().Status.AvailableReplicas = pods; return s }

// old adds a ReplicaSet of another template.
func (s sight) old(pods int32) sight { return s.going(pods, pods) }

// going adds one that should have so many pods, and has so many.
func (s sight) going(wanted, pods int32) sight {
	set := &appsv1.ReplicaSet{}
	set.Spec.Template, set.Spec.Replicas, set.Status.Replicas = template("v0"), &wanted, pods
	s.ReplicaSets = append(s.ReplicaSets, set)
	return s
}

// beside adds old pods.
func (s sight) beside(pods ...*corev1.Pod) sight { s.OldPods = append(s.OldPods, pods...); return s }

func (s sight) noSet() sight { s.Evidence = &Evidence{}; return s }

// refusing adds the ReplicaSet controller's word that it cannot create pods.
func (s sight) refusing(message string) sight {
	s.set().Status.Conditions = []appsv1.ReplicaSetCondition{{Type: appsv1.ReplicaSetReplicaFailure, Status: corev1.ConditionTrue, Reason: "FailedCreate", Message: message}}
	s.renewed = true
	return s
}

// condition adds the Deployment controller's word.
func (s sight) condition(reason, message string, at time.Time) sight {
	s.status = []appsv1.DeploymentCondition{{Type: appsv1.DeploymentProgressing, Status: corev1.ConditionFalse, Reason: reason, Message: message, LastUpdateTime: metav1.NewTime(at)}}
	s.renewed = true
	return s
}

// ended says that nothing is refused any more.
func (s sight) ended() sight { s.renewed = false; return s }

func (s sight) recordedAhead(by time.Duration) sight { s.ahead = by; return s }

// wanting changes what the Deployment asks for from here on.
func (s sight) wanting(replicas int32) sight {
	s.spec = func(spec *appsv1.DeploymentSpec) { spec.Replicas = &replicas }
	return s
}

// watched is a rollout to v1 that is looked at while time passes.
type watched struct {
	Progress
	now        time.Time
	deployment *appsv1.Deployment
	limits
	asked    int         // for how many Events, Nodes and logs
	logAsked *LogRequest // the last one
}

func (w *watched) see(s sight) {
	if s.blind {
		w.now = w.now.Add(time.Duration(s.seconds) * time.Second)
		return
	}
	if s.spec != nil {
		s.spec(&w.deployment.Spec)
	}
	w.deployment.Status.Conditions = s.status
	w.deployment.Status.CollisionCount = &s.collisions
	for range s.seconds / 3 {
		w.now = w.now.Add(pollInterval)
		w.look(s)
		if w.Phase == PhaseFailed || w.Phase == PhaseHealthy {
			return
		}
	}
}

// look polls once, and gives the answers that the poll asks for.
func (w *watched) look(s sight) {
	e := *s.Evidence
	for range 9 {
		next, q := w.poll(w.deployment, &e, w.limits, w.now, pollInterval)
		if !q.Any() {
			if w.Progress = next; next.Phase == PhaseFailed {
				noteReached(next.Failure)
			}
			return
		}
		w.asked += len(q.Events) + len(q.Nodes)
		if q.Log != nil {
			w.asked++
			if w.logAsked, e.Log = q.Log, s.log; e.Log == nil {
				e.Log = &Log{}
			}
		}
		e.answer(q.Events, q.Nodes)
		if e.Unread = s.unread; s.unread != "" {
			e.Nodes = nil
			continue
		}
		for _, uid := range q.Events {
			e.Events[uid] = s.events(uid, w)
		}
		for _, name := range q.Nodes {
			switch status, told := s.nodes[name]; {
			case told && status == "":
				e.Nodes[name] = nil
			case told:
				e.Nodes[name].Status.Conditions[0].Status = status
			}
		}
	}
	panic("it asks again and again")
}

// events are those about an object: what the sight has, and the refusals that a condition tells of, renewed each time.
func (s sight) events(uid types.UID, w *watched) []*corev1.Event {
	if words, _ := refusalCondition(newLook(w.deployment, s.Evidence, w.limits)); words != "" && s.told[uid] == nil && s.renewed {
		return []*corev1.Event{{Reason: "FailedCreate", Message: words, LastTimestamp: metav1.NewTime(w.now.Add(s.ahead))}}
	}
	return s.told[uid]
}

func (w *watched) stands() string {
	switch w.Phase {
	case PhaseFailed:
		return "Failed " + w.Failure.Reason
	case PhaseBlocked:
		who, _, _ := strings.Cut(w.WaitingFor, ",")
		return "Blocked " + strings.TrimPrefix(who, "the ")
	default:
		return string(w.Phase)
	}
}

// watching begins a rollout of a Deployment with so many replicas, with the default guard.
func watching(replicas int32) *watched {
	r := &Revision{ControllerRevision: &appsv1.ControllerRevision{}, Attempt: Attempt{Number: 1}}
	r.Name, r.CreationTimestamp = "web-1", metav1.NewTime(noon)
	w := &watched{Progress: newProgress(r, noon, noon), now: noon, deployment: &appsv1.Deployment{}}
	w.limits = limitsOf(&v1alpha1.Guard{}, nil, false)
	w.template, w.good = new(withMigration("v1")), new(withMigration("v0"))
	w.recorded = metav1.NewTime(noon)
	w.deployment.Spec.Template, w.deployment.Spec.Replicas = template("v1"), &replicas
	return w
}

// withMigration is a template with an init container.
func withMigration(image string) corev1.PodTemplateSpec {
	t := template(image)
	t.Spec.InitContainers = []corev1.Container{{Name: "migrate"}}
	return t
}

// The kinds of pods that the stories are about.
var (
	up       = func(name string) *corev1.Pod { return pod(name, isReady) }
	starting = func(name string) *corev1.Pod { return pod(name) }
	crashed  = func(name string, times int32) *corev1.Pod {
		return pod(name, restarted(times), waits("CrashLoopBackOff"), exited(1, "boom"))
	}
	pulling   = func(name string) *corev1.Pod { return pod(name, waits("ErrImagePull")) }
	unlooked  = func(name string) *corev1.Pod { return pod(name, func(p *corev1.Pod) { p.Spec.NodeName = "" }) }
	homeless  = func(name string) *corev1.Pod { return pod(name, unschedulable) }
	initCrash = func(name string, times int32) *corev1.Pod {
		return pod(name, waits("PodInitializing"), func(p *corev1.Pod) {
			p.Status.InitContainerStatuses = crashed(name, times).Status.ContainerStatuses
			p.Status.InitContainerStatuses[0].Name = "migrate"
		})
	}
	onItsWay = func(p *corev1.Pod) { p.DeletionTimestamp = &metav1.Time{Time: noon} }
	born     = func(p *corev1.Pod) { p.CreationTimestamp = metav1.NewTime(noon.Add(time.Second)) }
	since    = func(seconds int) func(*corev1.Pod) *corev1.Pod { // by the kubelet's clock, it is ready since then
		return func(p *corev1.Pod) *corev1.Pod {
			p.Status.Conditions = append([]corev1.PodCondition{{Type: corev1.ContainersReady, Status: corev1.ConditionTrue,
				LastTransitionTime: metav1.NewTime(noon.Add(time.Duration(seconds) * time.Second))}}, p.Status.Conditions...)
			return p
		}
	}
	evicted = func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed }
	pressed = func(name, node string, at int) *corev1.Pod { // evicted for what it took of its node
		return pod(name, evicted, killedByKubelet(memoryLow+webUses), func(p *corev1.Pod) {
			p.Spec.NodeName, p.Spec.Containers = node, []corev1.Container{{Name: "web"}}
			p.Status.Conditions[0].LastTransitionTime = metav1.NewTime(noon.Add(time.Duration(at) * time.Second))
		})
	}
)

func unschedulable(p *corev1.Pod) {
	p.Spec.NodeName = ""
	p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: corev1.PodReasonUnschedulable, Message: "0/3 nodes"}}
}

// proxied adds an injected container that runs, ready or not, and whether it ended before.
func proxied(p *corev1.Pod, ready, again bool) *corev1.Pod {
	sidecar(p, 0)
	proxy := &p.Status.ContainerStatuses[1]
	proxy.Ready, proxy.State.Running = ready, &corev1.ContainerStateRunning{}
	if again {
		proxy.LastTerminationState.Terminated = &corev1.ContainerStateTerminated{ExitCode: 1, Reason: "Error"}
	}
	if !ready {
		setCondition(p, corev1.ContainersReady, corev1.ConditionFalse, "ContainersNotReady", "")
	}
	return p
}

func runs(p *corev1.Pod) {
	p.Status.ContainerStatuses[0].State.Running = &corev1.ContainerStateRunning{}
}

// twice gives a pod another container of the template in the same state.
func twice(p *corev1.Pod) {
	other := p.Status.ContainerStatuses[0]
	other.Name = "migrate"
	p.Status.ContainerStatuses = append(p.Status.ContainerStatuses, other)
}

// renewed has two pods on two nodes get so many new sandboxes.
func renewed(times int) (all []sight) {
	for i := range times + 1 {
		all = append(all, seeing(3, inSandbox(i)(ready("a")), inSandbox(i)(ready("b"))))
	}
	return all
}

// refusedByNodes has four nodes in turn refuse a pod at each look, beside others.
func refusedByNodes(seconds int, others ...*corev1.Pod) (all []sight) {
	for at := 3; at <= seconds; at += 3 {
		refused := bornAt(at)(refusedByPressure(pod(fmt.Sprint("refused", at), on(fmt.Sprint("n", at%4)))))
		all = append(all, seeing(3, append([]*corev1.Pod{refused}, others...)...).of(10))
	}
	return all
}

// telling gives an object these Events.
func (s sight) telling(uid types.UID, events ...corev1.Event) sight {
	s.told = map[types.UID][]*corev1.Event{uid: {}}
	for _, event := range events {
		s.told[uid] = append(s.told[uid], &event)
	}
	return s
}

// no turns the ReplicaSet controller's word into its opposite.
func (s sight) no() sight {
	s.set().Status.Conditions[0].Status = corev1.ConditionFalse
	return s
}

func movedByOthers(p *corev1.Pod) {
	evicted(p)
	setCondition(p, corev1.DisruptionTarget, corev1.ConditionTrue, "EvictionByEvictionAPI", "")
}

// resourced is a pod that is up after so many restarts, of this generation and with so much memory.
func resourced(name string, restarts int32, generation, memory int64) *corev1.Pod {
	return changed(up(name), restarted(restarts), func(p *corev1.Pod) {
		p.Generation = generation
		p.Status.ContainerStatuses[0].Resources = &corev1.ResourceRequirements{
			Limits: corev1.ResourceList{corev1.ResourceMemory: *resource.NewQuantity(memory, resource.BinarySI)}}
	})
}

func (s sight) ofSet(uid types.UID) sight { s.set().UID = uid; return s }

func colliding(s sight, times int32) sight { s.collisions = times; return s }

// setsOf adds the ReplicaSets of another sight.
func (s sight) setsOf(other sight) sight {
	s.ReplicaSets = append(s.ReplicaSets, other.ReplicaSets...)
	return s
}

// lasting shows what is seen at first for so many seconds.
func lasting(seconds int, at func(int) sight) sight {
	s := at(0)
	s.seconds = seconds
	return s
}

// unattached is a pod whose volume is not attached for so many seconds.
func unattached(seconds int) sight {
	s := lasting(seconds, mounts(""))
	for _, events := range s.told {
		events[1].Reason = "FailedAttachVolume"
		events[1].Message = "AttachVolume.Attach failed: rpc error"
	}
	return s
}

// withClaim adds a volume that is no claim's, and one of this claim.
func withClaim(t *corev1.PodTemplateSpec, claim string) {
	t.Spec.Volumes = []corev1.Volume{{Name: "tmp"}, {Name: "data", VolumeSource: corev1.VolumeSource{
		PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claim}}}}
}

func cannotProvision(p *corev1.Pod) {
	setCondition(p, corev1.PodScheduled, corev1.ConditionFalse, corev1.PodReasonSchedulerError,
		`running PreBind plugin "VolumeBinding": binding volumes: context deadline exceeded`)
}

// meshed adds an injected container whose image is there, or whose registry is away.
func meshed(p *corev1.Pod, up bool) *corev1.Pod {
	proxy := corev1.ContainerStatus{Name: "proxy", Ready: up}
	if !up {
		proxy.State.Waiting = &corev1.ContainerStateWaiting{Reason: "ErrImagePull", Message: "dial tcp: connection refused"}
	}
	p.Spec.Containers = []corev1.Container{{Name: "web"}, {Name: "proxy", Image: "mesh.io/proxy:1"}}
	p.Status.ContainerStatuses = append(p.Status.ContainerStatuses, proxy)
	return p
}

func changed(p *corev1.Pod, is ...func(*corev1.Pod)) *corev1.Pod {
	for _, change := range is {
		change(p)
	}
	return p
}

// With the default guard: 3 restarts, stuck after 120 s, a soak of 30 s, a deadline of 600 s. 1 replica unless said.
func TestJudge(t *testing.T) {
	fresh := func(*watched) {}
	again := func(w *watched) { w.began = metav1.NewTime(noon) }
	arrival := func(w *watched) { w.limits.knownGood = true }
	replicas := func(n int32) func(*watched) { return func(w *watched) { w.deployment.Spec.Replicas = &n } }
	minReady := func(seconds int32) func(*watched) {
		return func(w *watched) { w.deployment.Spec.MinReadySeconds = seconds }
	}
	maxRestarts := func(n int32) func(*watched) { return func(w *watched) { w.limits.maxRestarts = n } }
	soaksLong := func(w *watched) { w.limits.soak = time.Hour }
	knownDeployment := func(w *watched) { w.deployment.UID = "uid-of-deployment" }
	const denied = `pods "a" is forbidden: violates PodSecurity`
	const overQuota = `pods "a" is forbidden: exceeded quota: q`
	withClaims := func(good string) func(*watched) {
		return func(w *watched) { withClaim(w.template, "nope"); withClaim(w.good, good) }
	}
	scenes := func(s ...sight) []sight { return s }
	repeat := func(times int, s ...sight) (all []sight) {
		for range times {
			all = append(all, s...)
		}
		return all
	}

	for _, row := range []struct {
		name     string
		progress func(*watched)
		scenes   []sight
		want     string
	}{
		// Good.
		{"a release that comes up soaks first", nil, scenes(seeing(30, up("a"))), "Soaking"},
		{"a release that soaked is up", nil, scenes(seeing(33, up("a"))), "Healthy"},
		{"a soak that is interrupted begins again", nil, scenes(seeing(27, up("a")), seeing(3, starting("a")), seeing(30, up("a"))), "Soaking"},
		{"a release is not up beside old pods", nil, scenes(seeing(60, up("a")).old(1)), "Blocked Deployment controller"},
		{"nor while old pods are going", nil, scenes(seeing(27, up("a")).going(0, 1)), "Progressing"},
		{"nor before old pods are told to go", nil, scenes(seeing(27, up("a")).going(1, 0)), "Progressing"},
		{"a release is not up with too few pods", replicas(3), scenes(seeing(27, up("a"), up("b")).of(3)), "Progressing"},
		{"a release at no replicas is never up", replicas(0), scenes(seeing(60)), "Blocked Deployment controller"},
		{"a release that others only call available is not up", nil, scenes(seeing(60, starting("a")).available(1)), "Progressing"},
		{"a release that is ready but not yet available is not up", minReady(20), scenes(seeing(27, up("a")).available(0)), "Progressing"},
		{"a rollback need not soak", arrival, scenes(seeing(3, up("a"))), "Healthy"},

		// Failed, by evidence.
		{"a crash loop fails", fresh, scenes(seeing(3, crashed("a", 4))), "Failed CrashLoop"},
		{"as many restarts as are tolerated do not", fresh, scenes(seeing(540, crashed("a", 3))), "Progressing"},
		{"a crash loop of an init container fails", fresh, scenes(seeing(3, initCrash("a", 4))), "Failed CrashLoop"},
		{"a second pod's crash loop fails", fresh, scenes(seeing(3, up("a"), crashed("b", 4))), "Failed CrashLoop"},
		{"no restart is tolerated at 0", maxRestarts(0), scenes(seeing(3, starting("a")), seeing(3, crashed("a", 1))), "Failed CrashLoop"},
		{"restarts from before the attempt do not count", again, scenes(seeing(540, crashed("a", 100))), "Progressing"},
		{"restarts since then do", again, scenes(seeing(3, crashed("a", 100)), seeing(3, crashed("a", 104))), "Failed CrashLoop"},
		{"all restarts of a pod created since count", again, scenes(seeing(3, crashed("a", 100)), seeing(3, changed(crashed("b", 4), born))), "Failed CrashLoop"},
		{"all restarts count where there was no pod", nil, scenes(seeing(3).of(1), seeing(3, crashed("b", 4))), "Failed CrashLoop"},
		{"restarts count though the pod is ready in between", nil, scenes(seeing(3, up("a")).old(1), seeing(3, changed(up("a"), restarted(2))).old(1),
			seeing(3, changed(up("a"), restarted(4))).old(1), seeing(3, crashed("a", 4)).old(1)), "Failed CrashLoop"},
		{"a dependency that comes late is no failure (F12)", nil, scenes(seeing(60, crashed("a", 1)), seeing(60, crashed("a", 3)), seeing(33, changed(up("a"), restarted(3)))), "Healthy"},
		{"an image that cannot be pulled fails in time", nil, scenes(seeing(123, pulling("a"))), "Failed ImagePull"},
		{"and not before", nil, scenes(seeing(120, pulling("a"))), "Progressing"},
		{"both errors of a pull are one", nil, append(repeat(20, seeing(3, pulling("a")), seeing(3, pod("a", waits("ImagePullBackOff")))), seeing(3, pulling("a"))), "Failed ImagePull"},
		{"a registry's hiccup is no failure (F11)", nil, append(repeat(4, seeing(90, pulling("a")), seeing(3, starting("a"))), seeing(33, up("a"))), "Healthy"},
		{"a configuration error fails in time", nil, scenes(seeing(123, pod("a", waits("CreateContainerConfigError")))), "Failed ContainerConfig"},
		{"any other reason to wait is none", nil, scenes(seeing(540, pod("a", waits("ContainerCreating")))), "Progressing"},

		{"a release that eats its nodes fails", maxRestarts(0), scenes(seeing(3, pressed("a", "n1", 5), pressed("b", "n2", 5))), "Failed PodsEnded"},
		{"one whose old pods are evicted as well does not", maxRestarts(0), scenes(seeing(540, pressed("a", "n1", 5), pressed("b", "n2", 5), starting("c")).beside(pressed("d", "n1", 4))), "Progressing"},
		{"but an old pod that was evicted before it began excuses nothing", maxRestarts(0),
			scenes(seeing(3, pressed("a", "n1", 5), pressed("b", "n2", 5)).beside(pressed("d", "n1", -3600))), "Failed PodsEnded"},

		// Failed, by deadline.
		{"a pod that never gets ready fails at the deadline", nil, scenes(seeing(603, starting("a"))), "Failed DeadlineExceeded"},
		{"and not before", nil, scenes(seeing(600, starting("a"))), "Progressing"},
		{"a pod that fits on no node fails at the deadline", asksForMore, scenes(seeing(606, homeless("a"))), "Failed DeadlineExceeded"},
		{"pods over the quota fail at the deadline", asksForMore, scenes(seeing(606).of(1).refusing("pods \"a\" is forbidden: exceeded quota: q")), "Failed QuotaExceeded"},
		{"pods that are forbidden fail at the deadline", nil, scenes(seeing(606).of(1).refusing("pods \"a\" is forbidden: violates PodSecurity")), "Failed PodsForbidden"},
		{"pods that cannot be created because a webhook is away are waited for", nil, scenes(seeing(7200).of(1).refusing("webhook: no route to host")), "Blocked API server"},
		{"a refusal of long ago is none", nil, scenes(seeing(630, unlooked("a")).of(1).refusing("exceeded quota")), "Blocked scheduler"},
		{"a ReplicaSet that is refused fails at the deadline (T5)", asksForMore, scenes(seeing(606).noSet().condition("ReplicaSetCreateError", "replicasets.apps \"a\" is forbidden: exceeded quota: rs", noon)), "Failed QuotaExceeded"},
		{"one that was refused before the revision was recorded does not", nil,
			scenes(seeing(606).noSet().condition("ReplicaSetCreateError", "replicasets.apps \"a\" is forbidden: exceeded quota: rs", noon.Add(-time.Minute)).ended()), "Blocked Deployment controller"},
		{"one that is refused under the condition of the template before fails", asksForMore,
			scenes(seeing(606).noSet().condition("ReplicaSetCreateError", "replicasets.apps \"a\" is forbidden: exceeded quota: rs", noon.Add(-time.Minute))), "Failed QuotaExceeded"},
		{"one that was refused although there is one does not", nil, scenes(seeing(30, up("a")).old(1).condition("ReplicaSetCreateError", "exceeded quota", noon)), "Progressing"},
		{"progress sets the deadline back", replicas(2), scenes(seeing(540, starting("a")).old(2), seeing(540, up("a"), starting("b")).old(1), seeing(33, up("a"), up("b"))), "Healthy"},
		{"fewer old pods are progress", replicas(2), scenes(seeing(540, starting("a")).old(2), seeing(540, starting("b")).old(1)), "Progressing"},
		{"but not for a pod that is unready for the whole deadline", replicas(2), scenes(seeing(540, starting("a")).old(2), seeing(63, starting("a")).old(1)), "Failed DeadlineExceeded"},
		{"old pods that come and go are no progress", nil, repeat(110, seeing(3, starting("a")).old(2), seeing(3, starting("a")).old(1)), "Failed DeadlineExceeded"},
		{"a pod that is ready in between has its time again", replicas(2), scenes(seeing(60, starting("a")).old(2), seeing(1200, up("a")).old(1), seeing(30, starting("a")).old(1),
			seeing(3, up("a")).old(1), seeing(33, up("a"), up("b"))), "Healthy"},
		{"a pod created again is no progress", nil, append(repeat(66, seeing(3, starting("a")), seeing(3, starting("b")), seeing(3, starting("c"))), seeing(9, starting("d"))), "Failed DeadlineExceeded"},
		{"a pod ready again is no progress", replicas(2), append(repeat(100, seeing(3, up("a"), starting("b")), seeing(3, starting("a"), starting("b"))), seeing(9, starting("a"), starting("b"))), "Failed DeadlineExceeded"},
		{"readiness that comes and goes is not waited for until it stays (F10)", minReady(30), repeat(120, seeing(6, starting("a")), seeing(6, up("a")).available(0)), "Failed DeadlineExceeded"},
		{"a rollback fails by deadline", arrival, scenes(seeing(606, crashed("a", 9))), "Failed DeadlineExceeded"},
		{"and by nothing else", arrival, scenes(seeing(540, crashed("a", 1)), seeing(30, crashed("a", 9))), "Progressing"},
		{"nobody looked, so nobody is blamed", nil, scenes(seeing(300, starting("a")), nobodyLooks(86400), seeing(180, starting("a"))), "Progressing"},
		{"at most a minute counts of a time nobody looked", nil, scenes(seeing(300, starting("a")), nobodyLooks(86400), seeing(246, starting("a"))), "Failed DeadlineExceeded"},

		// Somebody is absent.
		{"no ReplicaSet: the Deployment controller is absent", nil, scenes(seeing(7200).noSet()), "Blocked Deployment controller"},
		{"it is not called absent at once", nil, scenes(seeing(27).noSet()), "Progressing"},
		{"no pods: the ReplicaSet controller is absent", nil, scenes(seeing(7200).of(1)), "Blocked ReplicaSet controller"},
		{"a pod nobody gave a node: the scheduler is absent", nil, scenes(seeing(7200, unlooked("a"))), "Blocked scheduler"},
		{"nothing goes on: the Deployment controller is absent", replicas(3), scenes(seeing(7200, up("a")).old(3)), "Blocked Deployment controller"},
		{"ready, and nobody says so: a controller is absent", replicas(1), scenes(seeing(7200, up("a")).available(0)), "Blocked Deployment controller"},
		{"the Deployment controller comes back", nil, scenes(seeing(7200).noSet(), seeing(540, starting("a")), seeing(33, up("a"))), "Healthy"},
		{"the ReplicaSet controller comes back", nil, scenes(seeing(7200).of(1), seeing(540, starting("a")), seeing(33, up("a"))), "Healthy"},
		{"the scheduler comes back", nil, scenes(seeing(7200, unlooked("a")), seeing(540, starting("a")), seeing(33, up("a"))), "Healthy"},
		{"the controllers come back, and a pod is lost", replicas(2), scenes(seeing(3, starting("a")).old(2), seeing(7200, up("a")).old(1),
			seeing(540, starting("c")).old(1), seeing(3, up("c")).old(1), seeing(33, up("c"), up("d"))), "Healthy"},
		{"a release fails after everybody is back", nil, scenes(seeing(7200, unlooked("a")), seeing(606, starting("a"))), "Failed DeadlineExceeded"},

		// What does not count.
		{"old pods never count", fresh, scenes(seeing(30, up("a")).old(3)), "Progressing"},
		{"pods on their way out do not count", fresh, scenes(seeing(33, up("a"), changed(crashed("b", 9), onItsWay), changed(pulling("c"), onItsWay))), "Healthy"},
		{"evicted pods do not count", fresh, scenes(seeing(33, up("a"), changed(crashed("b", 9), evicted))), "Healthy"},
		{"ready pods on their way out do not count either", nil, scenes(seeing(27, changed(up("a"), onItsWay)).of(1)), "Progressing"},

		// The soak.
		{"a soak goes on while nobody looks, if the pods show no break (H1)", nil, scenes(seeing(3, up("a")), nobodyLooks(60), seeing(3, up("a"))), "Healthy"},
		{"a break that nobody saw lets it begin again", nil, scenes(seeing(3, up("a")), nobodyLooks(60), seeing(30, since(30)(up("a")))), "Soaking"},
		{"and so does a restart", nil, scenes(seeing(3, up("a")), nobodyLooks(60), seeing(30, changed(up("a"), restarted(1)))), "Soaking"},
		{"a crash loop in the soak fails", nil, scenes(seeing(9, up("a")), seeing(3, crashed("a", 4))), "Failed CrashLoop"},
		{"restarts in the soak fail, though the pod is ready", nil, scenes(seeing(9, up("a")), seeing(3, changed(up("a"), restarted(4)))), "Failed CrashLoop"},
		{"restarts from before the soak do not", nil, scenes(seeing(3, starting("a")), seeing(33, changed(up("a"), restarted(4)))), "Healthy"},
		{"a pod that is unready for long in the soak fails", nil, scenes(seeing(9, up("a")), seeing(123, starting("a"))), "Failed UnhealthyInSoak"},
		{"and not before", nil, scenes(seeing(9, up("a")), seeing(120, starting("a"))), "Progressing"},
		{"a surplus pod that was unready before the soak has its time", nil, scenes(seeing(300, starting("a"), starting("b")).wanting(2), seeing(33, up("a"), starting("b")).wanting(1)), "Healthy"},
		{"a pod that comes and goes in the soak fails in the end", nil, repeat(70, seeing(9, up("a")), seeing(9, starting("a"))), "Failed UnhealthyInSoak"},
		{"a pod that is moved in the soak hands its time on", nil, scenes(seeing(27, up("a")), seeing(30, starting("b")), seeing(9, up("b"))), "Healthy"},
		{"and no more than that", nil, scenes(seeing(15, up("a")), seeing(30, starting("b")), seeing(18, up("b"))), "Soaking"},
		{"a pod lost in the soak is no failure (F14)", nil, scenes(seeing(27, up("a")), seeing(90, starting("b")), seeing(33, up("b"))), "Healthy"},
		{"a pod lost in the soak while the scheduler is absent is no failure", nil, scenes(seeing(27, up("a")), seeing(7200, unlooked("b")), seeing(90, starting("b")), seeing(33, up("b"))), "Healthy"},
		{"a pod lost in the soak while the ReplicaSet controller is absent is no failure", nil, scenes(seeing(27, up("a")), seeing(7200).of(1), seeing(90, starting("b")), seeing(33, up("b"))), "Healthy"},
		{"a pod that is new in the soak starts as slowly as it starts", nil, scenes(seeing(27, up("a")), seeing(600, starting("b")), seeing(33, up("b"))), "Healthy"},
		{"but not slower than the deadline", nil, scenes(seeing(27, up("a")), seeing(633, starting("b"))), "Failed UnhealthyInSoak"},
		{"and once it was ready it has to stay so", nil, scenes(seeing(27, up("a")), seeing(150, starting("b")), seeing(3, up("b")), seeing(123, starting("b"))), "Failed UnhealthyInSoak"},
		{"a pod lost in the soak that fits on no node is a failure in the end", asksForMore, scenes(seeing(27, up("a")), seeing(633, homeless("b"))), "Failed UnhealthyInSoak"},

		// Scale.
		{"asking for more pods sets the deadline back", nil, scenes(seeing(540, starting("a")), seeing(540, starting("b"), starting("c")).wanting(2)), "Progressing"},
		{"and that alone does, before there is one more", nil, scenes(seeing(540, starting("a")), seeing(540, starting("b")).of(2).wanting(2)), "Progressing"},
		{"asking for more pods in the soak is a rollout again", nil, scenes(seeing(27, up("a")), seeing(540, up("a"), starting("b")).wanting(2), seeing(33, up("a"), up("b"))), "Healthy"},
		{"asking for fewer is no failure", replicas(3), scenes(seeing(540, starting("a"), starting("b"), starting("c")), seeing(33, up("a")).wanting(1)), "Healthy"},
		{"asking for none judges nothing", nil, scenes(seeing(9, up("a")), seeing(60).wanting(0)), "Blocked Deployment controller"},

		// Pods that are gone.
		{"pods that vanish unready without a restart are no crashes", nil, scenes(seeing(3, starting("a")), seeing(3, starting("b")), seeing(3, starting("c")), seeing(3, starting("d")), seeing(3, crashed("e", 1))), "Progressing"},
		{"nor are those that vanish ready after restarts", nil, scenes(seeing(3, changed(up("a"), restarted(3))), seeing(3, changed(up("b"), restarted(3))),
			seeing(3, changed(up("c"), restarted(3))), seeing(3, changed(up("d"), restarted(3))), seeing(3, crashed("e", 1))), "Progressing"},
		{"a pod that restarted hands nothing on", replicas(2), scenes(seeing(30, up("a"), up("b")), seeing(3, up("a"), changed(up("b"), restarted(1))), seeing(6, up("a"), up("c"))), "Soaking"},
		{"one that was evicted by others does", nil, scenes(seeing(27, up("a")), seeing(9, changed(ready("a"), movedByOthers), up("b"))), "Healthy"},
		{"so does one that has taken the place of one that ended", nil, scenes(seeing(3, up("a")), seeing(27, changed(ready("a"), exitedForGood), up("b")), seeing(9, changed(ready("a"), exitedForGood), up("c"))), "Healthy"},
		{"nor does one that ended, in whose place another is", replicas(2), scenes(seeing(27, up("a"), up("b")), seeing(9, changed(ready("b"), exitedForGood), up("c")).wanting(1)), "Soaking"},
		{"nodes that refuse a pod a minute refuse them all", nil, scenes(seeing(60, bornAt(1)(refusedByPressure(pod("a")))).of(1), seeing(60, bornAt(61)(refusedByPressure(pod("b")))).of(1),
			seeing(3, bornAt(121)(refusedByPressure(pod("c")))).of(1)), "Failed PodsEnded"},
		{"nobody is absent while a pod starts in the place of another", nil, scenes(seeing(27, up("a")), seeing(60, starting("b"))), "Progressing"},
		{"nor while pods have to be ready for longer", minReady(90), scenes(seeing(60, up("a")).available(0)), "Progressing"},
		{"no ReplicaSet under Recreate, and no old pods", recreates, scenes(seeing(60).noSet()), "Blocked Deployment controller"},
		{"no ReplicaSet, and old pods that go on", nil, scenes(seeing(60).noSet().oldPods(up("o"))), "Blocked Deployment controller"},

		// A common cause.
		{"half of the old pods are enough", nil, scenes(seeing(27, crashed("a", 4)).oldPods(changed(ready("o1"), notReadyNow), ready("o2"))), "Progressing"},
		{"a third are not, also where others are deleted", nil, scenes(seeing(3, crashed("a", 4)).oldPods(changed(ready("o1"), notReadyNow), ready("o2"), ready("o3"),
			changed(ready("o4"), notReadyNow, onItsWay), changed(ready("o5"), notReadyNow, onItsWay))), "Failed CrashLoop"},
		{"those of another release than the last good one excuse nothing", func(w *watched) { w.good = new(withMigration("v9")) },
			scenes(seeing(3, crashed("a", 4)).oldPods(changed(ready("o1"), notReadyNow))), "Failed CrashLoop"},
		{"nor do any, with nothing to go back to", func(w *watched) { w.good = nil }, scenes(seeing(3, crashed("a", 4)).oldPods(changed(ready("o1"), notReadyNow))), "Failed CrashLoop"},
		{"nor in a rollback", arrival, scenes(seeing(606, starting("a")).oldPods(changed(ready("o1"), notReadyNow))), "Failed DeadlineExceeded"},

		// Injected containers.
		{"an injected container that runs and is not ready is waited for", nil, scenes(seeing(660, proxied(up("a"), false, false))), "Blocked container proxy"},
		{"and excuses no crash", nil, scenes(seeing(3, proxied(crashed("a", 4), false, false))), "Failed CrashLoop"},
		{"nor does one that is up again", nil, scenes(seeing(3, proxied(crashed("a", 4), true, true))), "Failed CrashLoop"},
		{"one that old pods bear well with another image", nil, scenes(seeing(60, sidecar(ready("a"), 4)).oldPods(changed(sidecar(ready("o"), 0), func(p *corev1.Pod) { p.Spec.Containers[1].Image = "proxy:1" }))), "Blocked container proxy"},

		// What the last good one would meet, too.
		{"a claim that the last good one names, too", withClaims("nope"), scenes(seeing(660, changed(homeless("a"), notScheduled(`persistentvolumeclaim "nope" not found`)))), `Blocked room for pod a: persistentvolumeclaim "nope" not found`},
		{"and one that it does not name", withClaims("data"), scenes(seeing(123, changed(homeless("a"), notScheduled(`persistentvolumeclaim "nope" not found`)))), "Failed ContainerConfig"},
		{"a wait for a registry that was away begins when it is back", nil, scenes(seeing(300, pullFails("a", "connection refused")), seeing(117, pullFails("a", "manifest unknown"))), "Progressing"},
		{"and lasts no longer", nil, scenes(seeing(300, pullFails("a", "connection refused")), seeing(120, pullFails("a", "manifest unknown"))), "Failed ImagePull"},
		{"room that is being made has one deadline, and then the pod has its own", asksForMore, scenes(seeing(1203, changed(homeless("a"), nominated))), "Failed DeadlineExceeded"},
		{"and not before", asksForMore, scenes(seeing(1200, changed(homeless("a"), nominated))), "Progressing"},

		// A node alone.
		{"a node on which a pod starts is past it", replicas(2), scenes(seeing(123, changed(pulling("a"), on("n1")), pod("b", on("n2"), runs))), "Blocked node n1"},
		{"a node that refused pods a while ago is, too", replicas(3), scenes(seeing(3, bornAt(1)(refusedByPressure(pod("x", on("node-y")))), ready("y"), ready("z")).of(3),
			seeing(126, ready("y"), ready("z"), pullFails("a", "manifest unknown"))), "Blocked node node-a"},
		{"two of twenty nodes are a tenth", replicas(20), scenes(seeing(123, append(numbered("p", 18, ready), pullFails("a", "manifest unknown"), pullFails("b", "manifest unknown"))...)), "Blocked node node-a"},
		{"three are more", replicas(20), scenes(seeing(123, append(numbered("p", 17, ready), pullFails("a", "manifest unknown"), pullFails("b", "manifest unknown"), pullFails("c", "manifest unknown"))...)), "Failed ImagePull"},
		{"two of nineteen are, too", replicas(19), scenes(seeing(123, append(numbered("p", 17, ready), pullFails("a", "manifest unknown"), pullFails("b", "manifest unknown"))...)), "Failed ImagePull"},
		{"a volume that the last good one has, too, is waited for", nil, scenes(unattached(660)), "Blocked pod a on node node"},
		{"another volume is not", withClaims("data"), scenes(unattached(660)), "Failed DeadlineExceeded"},
		{"nor is another runtime class", func(w *watched) { w.template.Spec.RuntimeClassName = new("gvisor") }, scenes(unattached(660)), "Failed DeadlineExceeded"},
		{"with nothing to go back to, all are", func(w *watched) { w.good = nil }, scenes(unattached(660)), "Blocked pod a on node node"},

		// Time.
		{"half a minute without trouble ends one", nil, scenes(seeing(300, starting("a")), seeing(33).of(1), seeing(300, starting("b"))), "Progressing"},
		{"less does not", nil, scenes(seeing(300, starting("a")), seeing(30).of(1), seeing(276, starting("b"))), "Failed DeadlineExceeded"},
		{"nor does it where pods have to be ready for longer", minReady(60), scenes(seeing(300, starting("a")), seeing(60).of(1), seeing(246, starting("b"))), "Failed DeadlineExceeded"},
		{"half of a short deadline does", withDeadline(30), scenes(seeing(15, starting("a")), seeing(18).of(1), seeing(18, starting("b"))), "Progressing"},
		{"one more ready pod is progress", replicas(2), scenes(seeing(540, starting("a"), starting("b")), seeing(120, up("c"), starting("d")).available(0)), "Progressing"},
		{"pods that are wanted more need only come up, and no others", replicas(2), scenes(seeing(33, up("a")).of(2), seeing(6, up("a"), up("b"), up("c")).wanting(3)), "Soaking"},

		// Tolerated.
		{"as many crashes as are tolerated fail nothing", both(replicas(10), tolerates("1")), scenes(seeing(9, append(numbered("p", 9, up), crashed("x", 4))...)), "Soaking"},
		{"one more does", both(replicas(10), tolerates("1")), scenes(seeing(9, append(numbered("p", 8, up), crashed("x", 4), crashed("y", 4))...)), "Failed CrashLoop"},
		{"of one pod none is tolerated", tolerates("100%"), scenes(seeing(33).of(1)), "Blocked ReplicaSet controller"},
		{"two containers of a pod are one pod", both(replicas(10), tolerates("1")), scenes(seeing(9, append(numbered("p", 9, up), changed(crashed("x", 4), twice))...)), "Soaking"},

		// What keeps a pod from starting.
		{"a Secret that is missing fails in time", nil, scenes(lasting(123, mounts(`secret "nope" not found`))), "Failed ContainerConfig"},
		{"and not before", nil, scenes(lasting(120, mounts(`secret "nope" not found`))), "Progressing"},
		{"a claim that is missing does not either", withClaims("data"), scenes(seeing(120, changed(homeless("a"), notScheduled(`persistentvolumeclaim "nope" not found`)))), "Progressing"},
		{"a volume that cannot be provisioned", withClaims("data"), scenes(seeing(606, changed(unlooked("a"), cannotProvision))), "Failed DeadlineExceeded"},
		{"nor for the last good one", withClaims("nope"), scenes(seeing(660, changed(unlooked("a"), cannotProvision))),
			`Blocked room for pod a: running PreBind plugin "VolumeBinding": binding volumes: context deadline exceeded`},
		{"a registry of injected images that is away", nil, scenes(seeing(660, meshed(pod("a"), false)).beside(meshed(up("b"), true))),
			"Blocked registry mesh.io: dial tcp: connection refused"},
		{"an image volume whose registry is away", nil, scenes(seeing(660, changed(pullFails("a", `failed to pull image "ghcr.io/model:2": connection refused`), func(p *corev1.Pod) {
			p.Spec.Volumes = []corev1.Volume{{Name: "m", VolumeSource: corev1.VolumeSource{Image: &corev1.ImageVolumeSource{Reference: "ghcr.io/model:2"}}}}
		}))), `Blocked registry ghcr.io: failed to pull image "ghcr.io/model:2": connection refused`},
		{"a Secret goes after a container has started", nil, scenes(seeing(300, pod("a", waits("ContainerCreating"), func(p *corev1.Pod) {
			p.Status.InitContainerStatuses = up("mesh").Status.ContainerStatuses
			p.Status.InitContainerStatuses[0].State.Running = &corev1.ContainerStateRunning{}
		})).telling("uid-of-a", corev1.Event{Reason: "FailedMount", Message: `secret "s" not found`})), "Progressing"},
		{"a node whose container runtime is away", nil, scenes(seeing(660, pullFails("a",
			`code = Unavailable desc = connection error: desc = "transport: Error while dialing: dial unix /c.sock: connect: no such file or directory"`))), "Blocked node node-a"},
		{"another container beside one whose registry is away", nil, scenes(seeing(660, changed(pullFails("a", "connection refused"), func(p *corev1.Pod) {
			p.Status.ContainerStatuses = append(p.Status.ContainerStatuses, corev1.ContainerStatus{Name: "other"})
		}))), "Blocked registry docker.io: connection refused"},
		{"pods that crashed twice and are gone are no crash of one that starts", replicas(4), scenes(seeing(3, crashed("a", 2), crashed("b", 2), crashed("c", 2), crashed("d", 2)), seeing(3, starting("e"))), "Progressing"},
		{"but of one that restarts", replicas(3), scenes(seeing(3, crashed("a", 2), crashed("b", 2), crashed("c", 2)), seeing(3, crashed("e", 1))), "Failed CrashLoop"},
		{"one more pod is progress", replicas(2), scenes(seeing(540, starting("a")).of(2), seeing(120, starting("b"), starting("c"))), "Progressing"},

		// Who has not looked at a pod.
		{"a scheduling gate before the scheduler has said so", nil, scenes(seeing(660, changed(starting("a"), heldByGate, func(p *corev1.Pod) { p.Status.Conditions = nil }))), "Blocked scheduling gate example.com/quota of pod a"},
		{"the default scheduler is nobody's choice", func(w *watched) { w.good.Spec.SchedulerName = "volcano" }, scenes(seeing(660, unlooked("a"))), "Blocked scheduler"},
		{"any other is, but with nothing to go back to", both(scheduledBy("volcano"), func(w *watched) { w.good = nil }), scenes(seeing(660, changed(unlooked("a"), bySchedulerNamed("volcano")))), "Blocked scheduler volcano"},
		{"a resource claim that was made", nil, scenes(seeing(660, changed(unlooked("a"), claims, func(p *corev1.Pod) {
			p.Status.ResourceClaimStatuses = []corev1.PodResourceClaimStatus{{Name: "g"}}
		}))), "Blocked scheduler"},
		{"a resource claim that is made from nothing", nil, scenes(seeing(660, changed(unlooked("a"), claims, func(p *corev1.Pod) { p.Spec.ResourceClaims[0].ResourceClaimTemplateName = nil }))), "Blocked scheduler"},
		{"a resource claim that the last good one has, too", func(w *watched) { w.good.Spec.ResourceClaims = changed(unlooked("a"), claims).Spec.ResourceClaims },
			scenes(seeing(660, changed(unlooked("a"), claims))), "Blocked scheduler"},

		// What pods have in common.
		{"as many new sandboxes as restarts are tolerated", replicas(2), renewed(3), "Soaking"},
		{"one more is not", replicas(2), renewed(4), "Failed CrashLoop"},
		{"as many evictions are, too", maxRestarts(2), scenes(seeing(3, pressed("a", "n1", 5), pressed("b", "n2", 5), starting("c"))), "Progressing"},
		{"and any number from one node", maxRestarts(0), scenes(seeing(3, pressed("a", "n1", 5), pressed("b", "n1", 5), starting("c"))), "Progressing"},
		{"old pods that end by themselves excuse no evictions", maxRestarts(0), scenes(seeing(3, pressed("a", "n1", 5), pressed("b", "n2", 5)).beside(changed(starting("d"), exitedForGood))), "Failed PodsEnded"},
		{"a refusal by a node counts for half a minute", nil, scenes(seeing(33, bornAt(1)(refusedByPressure(pod("a")))).of(1)), "Progressing"},
		{"and no longer", nil, scenes(seeing(36, bornAt(1)(refusedByPressure(pod("a")))).of(1)), "Blocked ReplicaSet controller"},
		{"the first refusal fails nothing", nil, scenes(seeing(90).of(1), seeing(3, bornAt(91)(refusedByPressure(pod("a")))).of(1)), "Progressing"},
		{"nodes that refuse no more pods than are tolerated", both(both(replicas(10), tolerates("1")), soaksLong), refusedByNodes(150, numbered("p", 9, up)...), "Soaking"},
		{"and more", both(replicas(10), tolerates("1")), refusedByNodes(150, numbered("p", 8, up)...), "Failed PodsEnded"},
		{"three ReplicaSets that collide have another template", nil, scenes(seeing(3).noSet(), rewritten(9)), "Failed DeadlineExceeded"},
		{"two collisions do not say so", nil, scenes(rewritten(3), rewritten(9)), "Progressing"},
		{"nor do ReplicaSets without any", nil, scenes(seeing(3).noSet(), colliding(rewritten(30), 0)), "Progressing"},
		{"nor any beside the right one", nil, scenes(seeing(3, up("a")), colliding(seeing(3, up("a")).setsOf(rewritten(30)), 10)), "Soaking"},

		// Short deadlines.
		{"before a short deadline it is asked why a pod is not set up", withDeadline(6), scenes(seeing(9, pod("a", waits("ContainerCreating")))), "Failed DeadlineExceeded"},
		{"and each pod has half of it", withDeadline(12), scenes(seeing(12, starting("a")), seeing(9, pod("b", waits("ContainerCreating")))), "Failed DeadlineExceeded"},
		{"but no less", withDeadline(12), scenes(seeing(12, starting("a")), seeing(6, pod("b", waits("ContainerCreating")))), "Progressing"},

		// Refusals of the API server.
		{"pods that are denied fail in time", nil, scenes(seeing(123).of(1).refusing(denied)), "Failed PodsForbidden"},
		{"and not before", nil, scenes(seeing(120).of(1).refusing(denied)), "Progressing"},
		{"nor much later, by a clock that is behind", nil, scenes(seeing(138).of(1).refusing(denied).recordedAhead(-time.Hour)), "Failed PodsForbidden"},
		{"or one that is ahead", nil, scenes(seeing(123).of(1).refusing(denied).recordedAhead(time.Hour)), "Failed PodsForbidden"},
		{"or one that steps back", nil, scenes(seeing(60).of(1).refusing(denied), seeing(63).of(1).refusing(denied).recordedAhead(-time.Hour)), "Failed PodsForbidden"},
		{"nor by the time before the first refusal", nil, scenes(seeing(90).of(1), seeing(60).of(1).refusing(denied)), "Progressing"},
		{"refusals from before the last progress do not count", nil, scenes(seeing(90).of(1).old(2).refusing(denied), seeing(60).of(1).old(1).refusing(denied)), "Progressing"},
		{"and are over if they are not renewed", asksForMore, scenes(seeing(30).of(1).old(2).refusing(overQuota), seeing(660).of(1).old(1).refusing(overQuota).ended()), "Blocked ReplicaSet controller"},
		{"no more pods than are tolerated are denied", both(both(replicas(10), tolerates("1")), soaksLong), scenes(seeing(150, numbered("p", 9, up)...).of(10).refusing(denied)), "Soaking"},
		{"a ReplicaSet that is denied fails in time", knownDeployment, scenes(seeing(123).noSet().condition("ReplicaSetCreateError", denied, noon)), "Failed PodsForbidden"},
		{"any other word about it is no refusal", asksForMore, scenes(seeing(660).noSet().condition("ProgressDeadlineExceeded", overQuota, noon)), "Blocked Deployment controller"},
		{"nor is what the ReplicaSet controller says no more", asksForMore, scenes(seeing(660).of(1).refusing(overQuota).no().telling("uid-of-set",
			corev1.Event{Reason: "FailedCreate", Message: overQuota, LastTimestamp: metav1.NewTime(noon)})), "Blocked ReplicaSet controller"},
		{"a refusal from before the release is none", asksForMore, scenes(seeing(660).of(1).refusing(overQuota).telling("uid-of-set",
			corev1.Event{Reason: "FailedCreate", Message: overQuota, LastTimestamp: metav1.NewTime(noon.Add(-time.Second))})), "Blocked ReplicaSet controller"},
		{"a refusal counts that other Events followed", asksForMore, scenes(seeing(606).of(1).refusing(overQuota).telling("uid-of-set",
			corev1.Event{Reason: "FailedCreate", Message: overQuota, LastTimestamp: metav1.NewTime(noon)}, corev1.Event{Reason: "SuccessfulCreate", LastTimestamp: metav1.NewTime(noon)})), "Failed QuotaExceeded"},
		{"so does one of a ReplicaSet", both(asksForMore, knownDeployment), scenes(seeing(606).noSet().condition("ReplicaSetCreateError", overQuota, noon).telling("uid-of-deployment",
			corev1.Event{Reason: "ReplicaSetCreateError", Message: overQuota, LastTimestamp: metav1.NewTime(noon)})), "Failed QuotaExceeded"},

		{"an injected container that old pods do not bear well either", nil, scenes(seeing(60, sidecar(ready("a"), 4)).oldPods(changed(proxied(up("o"), false, false), onItsWay))), "Blocked container proxy"},

		{"room that an autoscaler makes is waited for", asksForMore, scenes(seeing(600, homeless("a")).telling("uid-of-a", corev1.Event{Reason: "TriggeredScaleUp", Message: "group 1->2"})), "Blocked room for pod a: group 1->2"},
		{"room that Karpenter makes, too", asksForMore, scenes(seeing(600, homeless("a")).telling("uid-of-a", corev1.Event{Reason: "Nominated", Message: "Pod should schedule on: nodeclaim/x"})), "Blocked room for pod a: Pod should schedule on: nodeclaim/x"},
		{"and room for which the scheduler says that pods will go", asksForMore, scenes(seeing(600, changed(homeless("a"), notScheduled("0/3 nodes are available: 3 Insufficient cpu. preemption: found a potential placement on node b")))),
			"Blocked pods of lower priority"},
		{"not if it gives up", asksForMore, scenes(seeing(606, homeless("a")).telling("uid-of-a", corev1.Event{Reason: "TriggeredScaleUp", Message: "group 1->2"},
			corev1.Event{Reason: "NotTriggerScaleUp", Message: "max size"})), "Failed DeadlineExceeded"},
		{"a pod that ended leaves its time to nobody", tolerates("1"), scenes(seeing(27, up("a")), seeing(12, changed(ready("a"), exitedForGood), up("b"), up("c")).wanting(2)), "Soaking"},

		// Restarts that are others'.
		{"a restart with other resources", maxRestarts(0), scenes(seeing(3, resourced("a", 0, 0, 1)), seeing(9, resourced("a", 1, 0, 2))), "Soaking"},
		{"a restart with another generation", maxRestarts(0), scenes(seeing(3, resourced("a", 0, 1, 1)), seeing(9, resourced("a", 1, 2, 1))), "Soaking"},
		{"a restart with neither", maxRestarts(0), scenes(seeing(3, resourced("a", 0, 1, 1)), seeing(9, resourced("a", 1, 1, 1))), "Failed CrashLoop"},
		{"a restart after that", maxRestarts(0), scenes(seeing(3, resourced("a", 0, 0, 1)), seeing(3, resourced("a", 1, 0, 2)), seeing(3, resourced("a", 2, 0, 2))), "Failed CrashLoop"},
		{"a restart in a new sandbox, however late", maxRestarts(0), scenes(seeing(3, inSandbox(0)(ready("a"))), seeing(6, changed(inSandbox(1)(ready("a")), notReadyNow)),
			seeing(3, changed(inSandbox(1)(ready("a")), notReadyNow, restarted(1)))), "Progressing"},
		{"a restart of what was ready in it", maxRestarts(0), scenes(seeing(3, inSandbox(0)(ready("a"))), seeing(6, inSandbox(1)(ready("a"))),
			seeing(3, changed(inSandbox(1)(ready("a")), restarted(1)))), "Failed CrashLoop"},
		{"a claim is missing since the scheduler says so", withClaims("data"), scenes(seeing(60, homeless("a")), seeing(63, changed(homeless("a"), notScheduled(`persistentvolumeclaim "nope" not found`)))), "Progressing"},

		// When a pod soaks.
		{"a pod that gets ready later keeps what was handed to it", nil, scenes(seeing(27, up("a")), seeing(30, starting("b")), seeing(9, since(57)(up("b")))), "Healthy"},
		{"a soak that is passed stays passed", replicas(2), scenes(seeing(12, up("a")).of(2), seeing(21, up("a"), up("b")), seeing(3, starting("a"), up("b")), seeing(9, up("a"), up("b"))), "Healthy"},
		{"it begins when a pod has been ready for long enough", minReady(21), scenes(seeing(30, up("a")).available(0), seeing(21, up("a"))), "Soaking"},
		{"and ends in time", minReady(21), scenes(seeing(30, up("a")).available(0), seeing(24, up("a"))), "Healthy"},
		{"a gate that is open is not waited for", nil, scenes(seeing(660, changed(awaitsGate("a"), is("example.com/open"), func(p *corev1.Pod) {
			p.Spec.ReadinessGates = append(p.Spec.ReadinessGates, corev1.PodReadinessGate{ConditionType: "example.com/open"})
		}))), "Blocked readiness gate example.com/lb of pod a"},
		{"that is so as soon as the ReplicaSet controller says so", minReady(21), scenes(seeing(33, up("a"))), "Healthy"},
		{"one that is passed does not stand for one that is not", both(replicas(3), tolerates("1")), scenes(seeing(12, up("a")).of(3), seeing(21, up("a"), up("b")).of(3),
			seeing(9, up("a"), up("b"), up("c")), seeing(3, starting("a"), up("b"), up("c"))), "Soaking"},
		{"pods of another ReplicaSet hand nothing on", nil, scenes(seeing(27, up("a")), seeing(9, up("b")).ofSet("another")), "Soaking"},
	} {
		t.Run(row.name, func(t *testing.T) {
			w := watching(1)
			if row.progress != nil {
				row.progress(w)
			}
			for _, scene := range row.scenes {
				if w.see(scene); w.Phase == PhaseFailed || w.Phase == PhaseHealthy {
					break
				}
			}
			if got := w.stands(); got != row.want {
				t.Errorf("after %s: %s, want %s (%s)", w.now.Sub(noon), got, row.want, w.Failure.Message)
			}
		})
	}
}

// Whatever the Deployment controller says of a rollout, true, stale or false (T1 to T4), the judge does not change its
// mind: what fails without the word fails with it, at the same look, and what does not does not.
func TestJudge_IgnoresConditions(t *testing.T) {
	stories := map[string][]sight{
		"T1 the exceeded deadline of the template before": {seeing(30, starting("a")).old(1), seeing(33, up("a"))},
		"T2 the completion of the template before":        {seeing(9).noSet().old(1), seeing(66, starting("a"))},
		"T3 an exceeded deadline that never comes":        {seeing(66).of(1).refusing("exceeded quota")},
		"T4 an exceeded deadline after downtime":          {seeing(3, starting("a")), nobodyLooks(900), seeing(30, starting("a")), seeing(33, up("a"))},
		"a crash loop":                                    {seeing(3, starting("a")), seeing(3, crashed("a", 4))},
		"an absent scheduler":                             {seeing(90, unlooked("a"))},
		"a failure in the soak":                           {seeing(9, up("a")), seeing(33, starting("a"))},
	}
	tell := func(story []sight, condition appsv1.DeploymentCondition, observed int64) string {
		w := watching(1)
		w.deadline, w.stuck = time.Minute, 30*time.Second
		w.deployment.Generation = 2
		w.deployment.Status.ObservedGeneration = observed
		w.deployment.Status.UpdatedReplicas, w.deployment.Status.AvailableReplicas = 1, 1
		var told strings.Builder
		for _, s := range story {
			s.status = []appsv1.DeploymentCondition{condition}
			if w.Phase != PhaseFailed && w.Phase != PhaseHealthy {
				w.see(s)
			}
			fmt.Fprintf(&told, "%s: %s\n", w.now.Sub(noon), w.stands())
		}
		return told.String()
	}
	for name, story := range stories {
		want := tell(story, appsv1.DeploymentCondition{}, 2)
		for _, reason := range []string{"", "NewReplicaSetCreated", "ReplicaSetUpdated", "NewReplicaSetAvailable", "ProgressDeadlineExceeded", "ReplicaSetCreateError", "DeploymentPaused", "DeploymentResumed"} {
			for _, status := range []corev1.ConditionStatus{corev1.ConditionTrue, corev1.ConditionFalse, corev1.ConditionUnknown} {
				for observed := range int64(3) {
					said := appsv1.DeploymentCondition{Type: appsv1.DeploymentProgressing, Status: status, Reason: reason, LastUpdateTime: metav1.NewTime(noon.Add(time.Hour))}
					if diff := cmp.Diff(want, tell(story, said, observed)); diff != "" {
						t.Errorf("%s, with %s=%s: -without +with\n%s", name, reason, status, diff)
					}
				}
			}
		}
	}
}

// T5: a ReplicaSet that is refused shows in the condition alone. That is the one word that counts, and only while there
// is no ReplicaSet, for the whole deadline.
func TestJudge_ReplicaSetRefused(t *testing.T) {
	w := watching(1)
	w.see(seeing(300).noSet().condition("ReplicaSetCreateError", "exceeded quota", noon))
	w.see(seeing(33, up("a")).condition("ReplicaSetCreateError", "exceeded quota", noon))
	if w.Phase != PhaseHealthy {
		t.Errorf("the quota was raised in time, and the release: %s", w.stands())
	}
}

// However many pods come and go, a bounded number of them is remembered: two for each that is wanted, and a hundred.
func TestEndings_AreBounded(t *testing.T) {
	const most = 2*3 + 100
	w := watching(3)
	w.maxRestarts = 1000
	w.see(seeing(3, numbered("ended", 200, func(name string) *corev1.Pod { return changed(ready(name), exitedForGood) })...))
	if len(w.known) != most {
		t.Errorf("%d pods that ended are known, want %d", len(w.known), most)
	}
	w = watching(3)
	w.see(seeing(3, numbered("p", 200, up)...).available(0))
	w.see(seeing(3).of(3))
	if len(w.handed) != most {
		t.Errorf("the time of %d pods is handed on, want %d", len(w.handed), most)
	}
}

// A wait is overdue at the deadline.
func TestJudge_Overdue(t *testing.T) {
	w := watching(1)
	if w.see(seeing(600, unlooked("a"))); w.Overdue {
		t.Errorf("after %s: it is overdue", w.now.Sub(noon))
	}
	if w.see(seeing(3, unlooked("a"))); !w.Overdue {
		t.Errorf("after %s: it is not overdue", w.now.Sub(noon))
	}
}

// Of a pod without a node, the scheduler's own words are told.
func TestAbsent_Scheduler(t *testing.T) {
	for _, row := range []struct {
		pod  *corev1.Pod
		want string
	}{
		{changed(unlooked("a"), func(p *corev1.Pod) {
			setCondition(p, corev1.PodScheduled, corev1.ConditionFalse, "SchedulerError", "no quorum")
		}), "the scheduler, which says of pod a: no quorum"},
		{unlooked("a"), "the scheduler, which has not looked at pod a"},
	} {
		w := watching(1)
		if w.see(seeing(60, row.pod)); w.WaitingFor != row.want {
			t.Errorf("waits for %q, want %q", w.WaitingFor, row.want)
		}
	}
}

// What could not be read once, and can be now, is not told of.
func TestJudge_RightsComeBack(t *testing.T) {
	const overQuota = `pods "a" is forbidden: exceeded quota: q`
	w := watching(1)
	asksForMore(w)
	blind := seeing(300).of(1).refusing(overQuota)
	blind.unread = "no right"
	w.see(blind)
	w.see(seeing(306).of(1).refusing(overQuota))
	if w.Failure.Reason != v1alpha1.FailureQuotaExceeded || strings.Contains(w.Failure.Message, blind.unread) {
		t.Errorf("%s: %s", w.stands(), w.Failure.Message)
	}
}

// Events are read of what may have some that say more, and every 15 s.
func TestAsk(t *testing.T) {
	for _, row := range []struct {
		name string
		pod  *corev1.Pod
		want int // in a minute
	}{
		{"a pod that starts", starting("a"), 0},
		{"one that is created", pod("a", waits("ContainerCreating")), 4},
		{"one that no scheduler has looked at", unlooked("a"), 0},
		{"one without room", homeless("a"), 4},
		{"one whose room was found", changed(homeless("a"), on("n1"), runs), 0},
	} {
		w := watching(1)
		if w.see(seeing(60, row.pod)); w.asked != row.want {
			t.Errorf("%s: asked %d times, want %d", row.name, w.asked, row.want)
		}
	}
	w := watching(1)
	for _, wait := range []time.Duration{pollInterval, creatingPatience} {
		w.now = w.now.Add(wait)
		w.look(seeing(3, pod("a", waits("ContainerCreating"))))
	}
	if w.asked != 1 {
		t.Errorf("after %s: asked %d times, want once", creatingPatience, w.asked)
	}
	w = watching(1)
	silent := seeing(603, starting("a"))
	silent.nodes = map[string]corev1.ConditionStatus{"node": corev1.ConditionUnknown}
	w.see(silent) // The node is asked for before the verdict.
	silent.seconds = 60
	if w.see(silent); w.asked != 1+4 {
		t.Errorf("a node that is silent: asked %d times, want 5", w.asked)
	}
}

// Before a verdict the Nodes are read that most of the pods are on which it is about, at most three.
func TestAskForNodes(t *testing.T) {
	var troubles []trouble
	add := func(times int, node string, change func(*trouble)) {
		for range times {
			one := trouble{kind: kindWait, due: true, pod: pod("a", on(node))}
			change(&one)
			troubles = append(troubles, one)
		}
	}
	same := func(*trouble) {}
	add(1, "n1", same)
	add(2, "n2", same)
	add(3, "n3", same)
	add(2, "n4", same)
	add(9, "n5", func(t *trouble) { t.excused = true })
	add(9, "n6", func(t *trouble) { t.due = false })
	add(9, "n7", func(t *trouble) { t.kind = kindDeadline })
	add(9, "", same)
	for _, row := range []struct {
		read []string
		want string
	}{
		{nil, "n3 n2 n4"},
		{[]string{"n3"}, "n2"},
		{[]string{"x"}, "n3 n2"},
		{[]string{"x", "y", "z"}, ""},
	} {
		e := &Evidence{}
		e.answer(nil, row.read)
		if got := strings.Join(askForNodes(&look{evidence: e}, kindWait, troubles).Nodes, " "); got != row.want {
			t.Errorf("after %v: %s, want %s", row.read, got, row.want)
		}
	}
}

// The evidence names what a person looks for first.
func TestJudge_EvidenceIsCaptured(t *testing.T) {
	w := watching(1)
	w.see(seeing(3, pod("a", restarted(4), waits("CrashLoopBackOff"), exited(7, "no database\x1b[31m\nat db:5432"))))
	want := v1alpha1.Failure{Reason: "CrashLoop", Cause: "ExitCode", Pod: "a", Node: "node", Container: "web", ExitCode: new(int32(7)), Restarts: 4,
		Message: "container web exited with code 7 after 4 restarts in pod a on node node: no database [31m at db:5432"}
	if diff := cmp.Diff(want, w.Failure); diff != "" {
		t.Errorf("crash (-want +got):\n%s", diff)
	}
	for _, row := range []struct {
		pod  *corev1.Pod
		want string
	}{
		{pulling("a"), "container web cannot start (ErrImagePull) in pod a on node node: as the kubelet says"},
		{starting("a"), "container web is not ready in pod a on node node"},
		{homeless("a"), "pod a fits on no node: 0/3 nodes"},
		{crashed("a", 1), "container web exited with code 1 after 1 restart in pod a on node node: boom"},
		{initCrash("a", 1), "init container migrate exited with code 1 after 1 restart in pod a on node node: boom"},
		{pod("a", waits("ContainerCreating")), "pod a on node node is not set up: nothing is known of why"},
		{pod("a", func(p *corev1.Pod) { p.Status.ContainerStatuses = nil }), "pod a on node node is not set up: nothing is known of why"},
	} {
		w := watching(1)
		asksForMore(w)
		w.see(seeing(900, row.pod))
		if w.Failure.Message != row.want {
			t.Errorf("got  %q\nwant %q", w.Failure.Message, row.want)
		}
	}
	for _, row := range []struct {
		end  *corev1.ContainerStateTerminated
		want string
	}{
		{nil, "container web keeps ending after 4 restarts in pod a on node node"},
		{&corev1.ContainerStateTerminated{ExitCode: 137, Reason: "OOMKilled"}, "container web exited with code 137 (OOMKilled) after 4 restarts in pod a on node node"},
		{&corev1.ContainerStateTerminated{Reason: "Completed"}, "container web exited with code 0 after 4 restarts in pod a on node node"},
	} {
		p := crashed("a", 4)
		p.Status.ContainerStatuses[0].LastTerminationState.Terminated = row.end
		w := watching(1)
		if w.see(seeing(3, p)); w.Failure.Message != row.want {
			t.Errorf("got  %q\nwant %q", w.Failure.Message, row.want)
		}
	}
	p := pod("a", restarted(4), func(p *corev1.Pod) {
		p.Status.ContainerStatuses[0].State.Terminated = &corev1.ContainerStateTerminated{ExitCode: 3, Message: "just now"}
	})
	w = watching(1)
	if w.see(seeing(3, p)); *w.Failure.ExitCode != 3 || !strings.HasSuffix(w.Failure.Message, "just now") {
		t.Errorf("the end that was just now: %+v", w.Failure)
	}
}

// Every reason for which the kubelet waits for a person is known by its family.
func TestStuckReasons(t *testing.T) {
	for reason, family := range stuckReasons {
		w := watching(1)
		if w.see(seeing(123, pod("a", waits(reason)))); w.Failure.Reason != family {
			t.Errorf("%s: %s", reason, w.stands())
		}
	}
}

// The Deployment controller uses the oldest of the ReplicaSets with the template, and so does the judge.
func TestCurrentReplicaSet_IsTheOldest(t *testing.T) {
	set := func(name, image string, age int) *appsv1.ReplicaSet {
		s := &appsv1.ReplicaSet{}
		s.Name, s.UID, s.CreationTimestamp = name, types.UID(name), metav1.NewTime(noon.Add(-time.Duration(age)*time.Hour))
		s.Spec.Template = template(image)
		s.Spec.Template.Labels[appsv1.DefaultDeploymentUniqueLabelKey] = name
		return s
	}
	d := &appsv1.Deployment{}
	d.Spec.Template = template("v1")
	for _, row := range []struct {
		sets []*appsv1.ReplicaSet
		want string
	}{
		{nil, ""},
		{[]*appsv1.ReplicaSet{set("a", "v0", 1)}, ""},
		{[]*appsv1.ReplicaSet{set("a", "v0", 3), set("b", "v1", 1), set("c", "v1", 2)}, "c"},
		{[]*appsv1.ReplicaSet{set("c", "v1", 1), set("b", "v1", 1)}, "b"},
	} {
		got := ""
		if current := CurrentReplicaSet(d, row.sets); current != nil {
			got = current.Name
		}
		if got != row.want {
			t.Errorf("got %q, want %q", got, row.want)
		}
	}
	if d.Spec.Template.Labels == nil || len(d.Spec.Template.Labels) != 1 {
		t.Errorf("the Deployment was changed: %v", d.Spec.Template.Labels)
	}
}

// A look is a value: looking changes nothing of what was.
// What the Deployment controller says decides nothing, but makes a look worth while: once, each time it says anew that all
// is done, and not more often than once a second.
func TestNextPoll_Hint(t *testing.T) {
	const stretched = 20 * time.Second
	s := asking("v1").knows("v1", 1, unjudged).runningName("v1").with(func(s *scene) { s.PollInterval = stretched })
	s.Guarded.Spec.Guard.SoakSeconds = new(int32(0))
	s.Memory.Progress = newProgress(s.revision("v1"), s.Now, s.Now.Add(stretched))
	for _, step := range []struct {
		name  string
		do    func()
		looks bool
		again time.Duration // when nothing is looked at
	}{
		{"nothing is done yet", func() { s.down() }, false, stretched},
		{"it is, at once", func() { s.up() }, false, time.Second},
		{"a second later", func() { s.after(time.Second) }, true, 0},
		{"the pods say otherwise; it goes on saying so", func() { s.after(10 * time.Second) }, false, 10 * time.Second},
		{"it takes that back", func() { s.Deployment.Status.AvailableReplicas = 0 }, false, 10 * time.Second},
		{"and is looked at", func() { s.after(10 * time.Second) }, true, 0},
		{"it says so anew", func() { s.up(); s.after(2 * time.Second) }, true, 0},
	} {
		step.do()
		s.Evidence = nil
		d := Decide(s.Observed)
		if d.NeedEvidence != step.looks || d.Recheck != step.again {
			t.Fatalf("%s: looks is %t, again in %s; want %t and %s", step.name, d.NeedEvidence, d.Recheck, step.looks, step.again)
		}
		if d.NeedEvidence {
			s.Evidence = noneReady(s.Deployment)
			d = Decide(s.Observed)
		}
		s.Memory = d.Memory
	}
}

// A container is looked at again when its wait has lasted for as long as it may, however rarely polls are made.
func TestUntilNextPoll(t *testing.T) {
	for _, row := range []struct {
		name string
		set  func(*watched)
		pod  *corev1.Pod
		want []time.Duration
	}{
		{"a container that waits", func(*watched) {}, pulling("b"), []time.Duration{time.Minute, 30 * time.Second}},
		{"one that may", tolerates("1"), pulling("b"), []time.Duration{time.Minute, 30 * time.Second, time.Minute, time.Minute}},
		{"any other", func(*watched) {}, starting("b"), []time.Duration{time.Minute, time.Minute, time.Minute}},
		{"in a rollback", func(w *watched) { w.knownGood = true }, pulling("b"), []time.Duration{time.Minute, time.Minute, time.Minute}},
	} {
		t.Run(row.name, func(t *testing.T) {
			w := watching(2)
			w.stuck = 90 * time.Second
			row.set(w)
			for i, want := range row.want {
				w.Progress, _ = w.poll(w.deployment, seeing(3, starting("a"), row.pod).Evidence, w.limits, w.now, time.Minute)
				got := w.pollAfter.Sub(w.now)
				if got != want {
					t.Fatalf("poll %d: again in %s, want %s", i, got, want)
				}
				w.now = w.now.Add(got)
			}
		})
	}
}

func TestPoll_LeavesWhatItIsCalledOn(t *testing.T) {
	w := watching(2)
	sights := []sight{seeing(3, starting("a")), seeing(3, up("a"), crashed("b", 1)), seeing(3, up("a"), up("b")), seeing(3, up("a"), pulling("b"))}
	for _, s := range sights {
		before, old := w.written(), *w
		w.see(s)
		if after := old.written(); before != after {
			t.Errorf("before: %s\nafter:  %s", before, after)
		}
	}
}

// written returns all that is remembered as text.
func (w *watched) written() string {
	if w.sightings == nil {
		return fmt.Sprintf("%+v", w.Progress)
	}
	return fmt.Sprintf("%+v %+v", w.Progress, *w.sightings)
}

// What others say of a wait changes with every pod that they try; the status does so every 15 s. Who is waited for is said at once.
func TestJudge_SaysAWaitNowAndThen(t *testing.T) {
	w := watching(1)
	var said []string
	for i := range 50 { // from 33 to 150 s it is blocked
		w.see(seeing(3, changed(homeless("a"), notScheduled(fmt.Sprintf("0/%d nodes", i)))))
		if w.Phase == PhaseBlocked && !slices.Contains(said, w.WaitingFor) {
			said = append(said, w.WaitingFor)
		}
	}
	if len(said) != 8 {
		t.Errorf("%s, with %d texts: %q", w.stands(), len(said), said)
	}
	w.see(seeing(3, unlooked("a")))
	if w.stands() != "Blocked scheduler" || w.WaitingReason != v1alpha1.ReasonWaitingForScheduler {
		t.Errorf("%s, because of %s", w.stands(), w.WaitingReason)
	}
}

// A clock that goes back (it never does: Go's is monotonic) makes no failure and no hang.
func TestJudge_ClockGoesBack(t *testing.T) {
	w := watching(1)
	w.see(seeing(9, up("a")))
	w.now = w.now.Add(-time.Hour)
	if w.see(seeing(45, up("a"))); w.Phase != PhaseHealthy {
		t.Errorf("the release: %s", w.stands())
	}
}

// While all containers of a pod are restarted, the kubelet leaves their resources out: that is no resize.
func TestJudge_RestartsWithoutResources(t *testing.T) {
	running := func(times int32) *corev1.Pod {
		return pod("a", isReady, restarted(times), func(p *corev1.Pod) { p.Status.ContainerStatuses[0].Resources = &corev1.ResourceRequirements{} })
	}
	w := watching(1)
	for restarts := int32(0); restarts < 4; restarts += 2 {
		w.see(seeing(3, running(restarts)))
		w.see(seeing(3, pod("a", restarted(restarts+1), waits("PodInitializing"))))
	}
	if w.see(seeing(3, pod("a", restarted(4), waits("PodInitializing")))); w.Failure.Reason != v1alpha1.FailureCrashLoop {
		t.Errorf("after 4 restarts: %s, want a crash loop", w.stands())
	}
}

// A pod that its kubelet evicts and that obeys and exits with 0 is Succeeded without a word. What tells is its Event, or the pod
// itself later: its kubelet thinks better of it.
func TestJudge_EvictedWithZero(t *testing.T) {
	const words = "Pod ephemeral local storage usage exceeds the total limit of containers 10Mi."
	succeeded := func(p *corev1.Pod) {
		p.Status.Phase = corev1.PodSucceeded
		p.Status.ContainerStatuses[0].State.Terminated = &corev1.ContainerStateTerminated{Reason: "Completed"}
	}
	evicted := func(p *corev1.Pod) {
		p.Status.Phase, p.Status.Reason, p.Status.Message = corev1.PodFailed, "Evicted", words
	}
	told := func(s sight, pods ...string) sight {
		s.told = map[types.UID][]*corev1.Event{}
		for _, pod := range pods {
			s.told[types.UID("uid-of-"+pod)] = []*corev1.Event{{Reason: "Evicted", Message: words}, {Reason: "Killing"}}
		}
		return s
	}
	first, second := pod("a", succeeded), pod("b", succeeded)
	for _, row := range []struct {
		name       string
		scenes     []sight
		cause, pod string
	}{
		{"its Event tells", []sight{seeing(3, first), told(seeing(3, first, second), "a", "b")}, v1alpha1.CauseEvicted, "b"},
		{"the Event of the last one is late", []sight{seeing(3, first), told(seeing(3, first, second), "a")}, v1alpha1.CauseEvicted, "a"},
		{"the pod itself tells, later", []sight{seeing(3, first), seeing(3, pod("a", succeeded, evicted)), seeing(3, second)}, v1alpha1.CauseEvicted, "a"},
		{"nothing tells", []sight{seeing(3, first), seeing(3, first, second)}, v1alpha1.CauseEndedByItself, "b"},
	} {
		t.Run(row.name, func(t *testing.T) {
			w := watching(1)
			w.maxRestarts = 1
			for _, scene := range row.scenes {
				w.see(scene)
			}
			if w.Failure.Reason != v1alpha1.FailurePodsEnded || w.Failure.Cause != row.cause || w.Failure.Pod != row.pod {
				t.Errorf("%s, %+v, want cause %s of pod %s", w.stands(), w.Failure, row.cause, row.pod)
			}
			if evicted := row.cause == v1alpha1.CauseEvicted; evicted == (w.logAsked != nil) { // Its containers are gone.
				t.Errorf("log asked for: %+v", w.logAsked)
			}
		})
	}
}

// What the kubelet says of a postStart hook that fails is gone when the container waits for its next start.
func TestJudge_PostStartHookFails(t *testing.T) {
	const words = `Exec lifecycle hook ([/warm]) for Container "web" failed - error: command '/warm' exited with 7`
	fails := pod("a", restarted(2), waits("PostStartHookError"), func(p *corev1.Pod) { p.Status.ContainerStatuses[0].State.Waiting.Message = words })
	for _, last := range []*corev1.Pod{pod("a", restarted(4), waits("CrashLoopBackOff"), exited(0, "")), changed(pod("a"), restarted(4), exited(0, ""))} {
		w := watching(1)
		w.see(seeing(3, fails))
		w.see(seeing(3, last))
		want := v1alpha1.Failure{Reason: v1alpha1.FailureCrashLoop, Cause: v1alpha1.CausePostStartHook, Pod: "a", Node: "node", Container: "web", Restarts: 4,
			Message: "container web fails in its postStart hook after 4 restarts in pod a on node node: " + words}
		if diff := cmp.Diff(want, w.Failure); diff != "" {
			t.Errorf("-want +got:\n%s", diff)
		}
	}
}

// A hook that failed once is not blamed for what the container does by itself afterwards.
func TestJudge_PostStartHookFailedOnce(t *testing.T) {
	w := watching(1)
	w.see(seeing(3, pod("a", restarted(1), waits("PostStartHookError"))))
	w.see(seeing(3, pod("a", restarted(3), waits("CrashLoopBackOff"), exited(1, "boom"))))
	if w.see(seeing(3, pod("a", restarted(4), waits("CrashLoopBackOff"), exited(1, "boom")))); w.Failure.Cause != v1alpha1.CauseExitCode {
		t.Errorf("%s: %+v", w.stands(), w.Failure)
	}
}

// The container that has its whole pod restarted is blamed, and not for the 137 that the kubelet says of all of them.
func TestJudge_RestartsWholePod(t *testing.T) {
	culprit := func(state *corev1.ContainerStateTerminated) *corev1.Pod {
		p := pod("a", restarted(4))
		p.Spec.Containers = []corev1.Container{{Name: "web", RestartPolicyRules: []corev1.ContainerRestartRule{{
			Action:    corev1.ContainerRestartRuleActionRestartAllContainers,
			ExitCodes: &corev1.ContainerRestartRuleOnExitCodes{Operator: corev1.ContainerRestartRuleOnExitCodesOpIn, Values: []int32{42}},
		}}}}
		p.Status.ContainerStatuses[0].State.Terminated = state
		p.Status.ContainerStatuses[0].LastTerminationState.Terminated = &corev1.ContainerStateTerminated{ExitCode: 137, Reason: restartingAll}
		return p
	}
	const words = "restarts its whole pod, without a back-off,"
	for _, row := range []struct {
		state *corev1.ContainerStateTerminated
		code  *int32
		words string
	}{
		{nil, new(int32(42)), words + " by its rule for exit codes In [42],"},
		{&corev1.ContainerStateTerminated{ExitCode: 137, Reason: restartingAll}, new(int32(42)), words + " by its rule for exit codes In [42],"},
		{&corev1.ContainerStateTerminated{ExitCode: 42, Reason: "Error"}, new(int32(42)), "exited with code 42 and " + words},
	} {
		w := watching(1)
		w.see(seeing(3, culprit(row.state)))
		want := v1alpha1.Failure{Reason: v1alpha1.FailureCrashLoop, Cause: v1alpha1.CauseRestartsWholePod, Pod: "a", Node: "node", Container: "web",
			ExitCode: row.code, Restarts: 4, Message: "container web " + row.words + " after 4 restarts in pod a on node node"}
		if diff := cmp.Diff(want, w.Failure); diff != "" {
			t.Errorf("-want +got:\n%s", diff)
		}
	}
}

// A pod that is ready between two crashes is none of those that are fine.
func TestJudge_CrashingPodIsNotFine(t *testing.T) {
	for _, row := range []struct {
		others []*corev1.Pod
		want   string
	}{
		{nil, "container web exited with code 1 after 4 restarts in pod a on node node: boom"},
		{[]*corev1.Pod{up("b")}, "container web exited with code 1 after 4 restarts in pod a on node node: boom; 1 of 2 new pods are fine, and the others on node"},
		{[]*corev1.Pod{changed(up("b"), restarted(3))}, "container web exited with code 1 after 4 restarts in pod a on node node: boom; 1 of 2 new pods are fine, and the others on node"},
		{[]*corev1.Pod{up("c"), changed(starting("z"), on("node-z")), changed(starting("b"), on("node-b"))},
			"container web exited with code 1 after 4 restarts in pod a on node node: boom; 1 of 4 new pods are fine, and the others on node, node-b, node-z"},
		{[]*corev1.Pod{up("c"), changed(starting("z"), on("node-z")), changed(starting("y"), on("node-y")), changed(starting("b"), on("node-b"))},
			"container web exited with code 1 after 4 restarts in pod a on node node: boom; 1 of 5 new pods are fine, and the others on node, node-b, node-y and 1 more"},
	} {
		w := watching(int32(len(row.others)) + 1)
		w.see(seeing(3, append(row.others, up("a"))...))
		w.see(seeing(3, append(row.others, changed(up("a"), restarted(4), exited(1, "boom")))...))
		if w.Failure.Message != row.want {
			t.Errorf("got  %q\nwant %q", w.Failure.Message, row.want)
		}
	}
}

// A pod that its silent node kept from starting has its time again when the node is back, however short the silence was after the
// deadline.
func TestJudge_NodeComesBack(t *testing.T) {
	silent := seeing(45, starting("a"))
	silent.nodes = map[string]corev1.ConditionStatus{"node": corev1.ConditionUnknown}
	for _, row := range []struct {
		then []sight
		want string
	}{
		{[]sight{seeing(300, starting("a")), seeing(33, up("a"))}, "Healthy"},
		{[]sight{seeing(660, starting("a"))}, "Failed DeadlineExceeded"},
	} {
		w := watching(1)
		w.see(seeing(570, starting("a")))
		if w.see(silent); w.WaitingReason != v1alpha1.ReasonWaitingForNode {
			t.Errorf("the node is silent: %s", w.stands())
		}
		for _, s := range row.then {
			if w.see(s); w.Phase == PhaseFailed {
				break
			}
		}
		if got := w.stands(); got != row.want {
			t.Errorf("the node is back, %s later: %s, want %s: %s", w.now.Sub(noon), got, row.want, w.Failure.Message)
		}
	}
}

// The containers of a pod whose sandbox dies go on, and are ready, until the kubelet ends them.
func TestJudge_SandboxDiesUnderReadyPod(t *testing.T) {
	sandbox := func(status corev1.ConditionStatus, at int) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{Type: corev1.PodReadyToStartContainers, Status: status,
				LastTransitionTime: metav1.NewTime(noon.Add(time.Duration(at) * time.Second))})
		}
	}
	migrated := func(times int32) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			p.Status.InitContainerStatuses = []corev1.ContainerStatus{{Name: "migrate", Ready: true, RestartCount: times}}
		}
	}
	w := watching(1)
	w.maxRestarts = 0
	w.see(seeing(6, pod("a", isReady, migrated(0), sandbox(corev1.ConditionTrue, 0))))
	w.see(seeing(3, pod("a", isReady, migrated(0), sandbox(corev1.ConditionFalse, 8))))
	w.see(seeing(33, pod("a", isReady, migrated(1), restarted(1), sandbox(corev1.ConditionTrue, 11))))
	if w.Phase != PhaseHealthy {
		t.Errorf("after one new sandbox: %s: %s", w.stands(), w.Failure.Message)
	}
	w = watching(1)
	w.maxRestarts = 0
	w.see(seeing(6, pod("a", isReady, migrated(0), sandbox(corev1.ConditionTrue, 0))))
	w.see(seeing(3, pod("a", isReady, migrated(1), restarted(1), sandbox(corev1.ConditionTrue, 8))))
	if w.see(seeing(3, pod("a", isReady, migrated(1), restarted(2), sandbox(corev1.ConditionTrue, 8)))); w.Failure.Reason != v1alpha1.FailureCrashLoop {
		t.Errorf("after a restart in the new sandbox: %s", w.stands())
	}
}
