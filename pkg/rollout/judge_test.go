package rollout

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
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
	renewed bool // the refusals go on

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
		if !q.any() {
			if w.Progress = next; next.Phase == PhaseFailed {
				noteReached(next.Failure)
			}
			return
		}
		w.asked += len(q.events) + len(q.nodes)
		if q.log != nil {
			w.asked++
			if w.logAsked, e.Log = q.log, s.log; e.Log == nil {
				e.Log = &Log{}
			}
		}
		e.answer(q.events, q.nodes)
		if e.Unread = s.unread; s.unread != "" {
			e.Nodes = nil
			continue
		}
		for _, uid := range q.events {
			e.Events[uid] = s.events(uid, w)
		}
		for _, name := range q.nodes {
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
		return []*corev1.Event{{Reason: "FailedCreate", Message: words, LastTimestamp: metav1.NewTime(w.now)}}
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
	w.limits = limitsOf(&v1alpha1.GuardedDeployment{}, false)
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
		{"a pod that comes and goes in the soak fails in the end", nil, repeat(71, seeing(9, up("a")), seeing(9, starting("a"))), "Failed UnhealthyInSoak"},
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

// What others say of a wait changes with every pod that they try; the status does not.
func TestJudge_SaysAWaitNowAndThen(t *testing.T) {
	w := watching(1)
	said := map[string]bool{}
	for i := range 100 {
		w.see(seeing(3).of(1).refusing(fmt.Sprintf("Internal error occurred: failed calling webhook of pod web-%d", i)))
		said[w.WaitingFor] = true
	}
	if w.Phase != PhaseBlocked || len(said) > 21 { // in five minutes
		t.Errorf("%s, with %d texts", w.stands(), len(said))
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
		{nil, nil, words + " by its rule for exit codes In [42],"},
		{&corev1.ContainerStateTerminated{ExitCode: 137, Reason: restartingAll}, nil, words + " by its rule for exit codes In [42],"},
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
