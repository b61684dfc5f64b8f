package rollout

import (
	"cmp"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// manyRestarts is how many restarts of a pod that goes unready are kept in mind: the pod in its place begins at none.
const manyRestarts = 2

// podRecord is what is remembered of one pod of the attempt. It is a value: remember makes a new one at each poll.
type podRecord struct {
	ready   instant     // since when, without a break, it is ready by its own word; 0 if it is not
	stamp   metav1.Time // since when by the kubelet's clock: another time is a break that no poll met
	served  bool        // it has been ready
	unready instant     // since when it is not any more
	against instant     // since when, without an excuse, it speaks against the release by not being ready

	available bool          // at the last poll
	soaked    time.Duration // how long it has been available without a break or, from before one, with the soak passed
	spared    bool          // it need only become available: it is in the place of one that served, or was added later

	generation int64
	sandbox    metav1.Time // since when it has had its sandbox; zero if it has none
	sandboxes  int32       // how many more than the first
	containers []containerRecord

	unclaimed instant // since when the scheduler says that a claim of it is not there
	creating  instant // since when it has had a node, and no container of it could start
	mount     string  // why, in the kubelet's words, it has no volume that the template names: something is not there
	trouble   string  // what, in the kubelet's words, keeps its volumes or its sandbox from being made
	pulling   bool    // its image is being pulled, or waits for other pulls
	makeRoom  string  // who is making room for it, in their words
	asked     instant // when its Events were last read
}

// containerRecord is what is remembered of a container.
type containerRecord struct {
	name      string
	ready     bool
	restarts  int32   // that the kubelet counts
	counted   int32   // those of them that are its own
	pardon    bool    // the next restart is the new sandbox's
	since     instant // when there was last one more; 0 if that was not seen
	relapsed  bool    // it was ready, and has restarted since the poll before
	resources *corev1.ResourceRequirements
	stuck     instant // since when it waits for its image or its configuration
	words     string  // the last words of the kubelet that say why
	hook      string  // its last words about a postStart hook that failed: nothing tells of it afterwards
	hookAt    int32   // after how many restarts it said so
}

// remember brings the records up to date: first of the pods that are gone, then of those that are there.
func (p *Progress) remember(l *look) {
	if set := l.setUID(); p.set != set { // another template: its pods owe their soak themselves
		p.set, p.pods, p.handed = set, nil, nil
	}
	before := p.pods
	p.pods = make(map[types.UID]podRecord, len(l.active))
	there := make(map[types.UID]bool, len(l.active))
	for _, pod := range l.active {
		there[pod.UID] = true
	}
	for _, pod := range l.evidence.Pods {
		if end, ended := endOf(pod); ended {
			_, seen := before[pod.UID]
			p.noteEnd(pod, end, seen || !l.fromBefore(pod))
			there[pod.UID] = there[pod.UID] || end.kind == endOwn || end.kind == endPressure // It hands nothing on.
		}
	}
	for uid, record := range before {
		if !there[uid] {
			p.part(record)
		}
	}
	for _, pod := range l.active {
		record, known := before[pod.UID]
		if !known {
			record = p.meet(l, pod)
		}
		p.pods[pod.UID] = p.follow(l, pod, record, known)
	}
}

// meet begins the record of a pod that is seen for the first time. The restarts that it comes with count if it is not ready
// after them, and nothing says that they were others' doing.
func (p *Progress) meet(l *look, pod *corev1.Pod) podRecord {
	r := podRecord{generation: pod.Generation, sandbox: sandboxSince(pod)}
	before := l.fromBefore(pod)
	for c := range containers(pod) {
		record := containerRecord{name: c.Name, restarts: c.RestartCount, resources: c.Resources}
		if !before && !c.Ready && !rebooted(c) && !startedByOthers(pod, c) {
			record.counted = c.RestartCount
		}
		r.containers = append(r.containers, record)
	}
	switch last := len(p.handed) - 1; {
	case p.vacant > 0:
		p.vacant--
	case last >= 0:
		r.soaked, r.spared = p.handed[last], true
		p.handed = p.handed[:last:last]
	case p.added > 0:
		p.added--
		r.spared = true
	}
	return r
}

// follow goes on with the record of a pod.
func (p *Progress) follow(l *look, pod *corev1.Pod, r podRecord, known bool) podRecord {
	sandbox := sandboxSince(pod)
	renewed := !r.sandbox.IsZero() && !sandbox.Equal(&r.sandbox)
	if renewed {
		r.sandboxes++
	}
	resizes := pod.Generation - r.generation
	r.sandbox, r.generation = sandbox, pod.Generation

	broken := false
	past := r.containers
	r.containers = make([]containerRecord, 0, len(past))
	for c := range containers(pod) {
		record := containerRecord{name: c.Name}
		if i := slices.IndexFunc(past, func(r containerRecord) bool { return r.name == c.Name }); i >= 0 {
			record = past[i]
		}
		record.pardon = record.pardon || renewed
		if c.RestartCount != record.restarts {
			record.since = p.clock
		}
		fresh := record.follow(pod, c, int32(min(resizes, 1000)))
		broken = broken || fresh > 0
		_, stuck := stuckReason(c)
		record.stuck = p.lasting(record.stuck, stuck)
		r.containers = append(r.containers, record)
	}
	broken = r.noteReady(pod, p.clock, known) || broken
	if r.ready != 0 && !renewed && !r.sandbox.IsZero() { // Without its sandbox, it is ready until the kubelet ends its containers.
		for i := range r.containers {
			r.containers[i].pardon = false
		}
	}
	r.noteSoak(l, pod, p.since(r.ready), broken)
	_, missing := claimMissing(conditionOf(pod, corev1.PodScheduled).Message)
	r.unclaimed = p.lasting(r.unclaimed, missing && pod.Spec.NodeName == "")
	if r.creating = p.lasting(r.creating, creating(pod)); r.creating == 0 {
		r.mount, r.trouble, r.pulling = "", "", false
	}
	return r
}

// follow notes the state of a container, and returns how many restarts of its own it has had since the poll before.
func (r *containerRecord) follow(pod *corev1.Pod, c *corev1.ContainerStatus, resizes int32) int32 {
	restarts := max(0, c.RestartCount-r.restarts)
	fresh := restarts
	switch {
	case restarts == 0:
	case startedByOthers(pod, c):
		fresh = 0
	case r.pardon || rebooted(c):
		fresh, r.pardon = restarts-1, false
	case resizes > 0 || (r.resources != nil && c.Resources != nil && !equality.Semantic.DeepEqual(r.resources, c.Resources)):
		fresh = max(0, restarts-max(1, resizes)) // Each resize is a generation of its own.
	}
	r.counted += fresh
	r.relapsed = fresh > 0 && r.ready
	r.ready, r.restarts = c.Ready, c.RestartCount
	if c.Resources != nil { // The kubelet leaves them out while it has no container.
		r.resources = c.Resources
	}
	if w := c.State.Waiting; w != nil && tells(w.Message) {
		r.words = w.Message
	}
	switch {
	case postStartFailed(c):
		r.hook, r.hookAt = cmp.Or(c.State.Waiting.Message, "it says nothing"), c.RestartCount
	case c.Ready || c.RestartCount > r.hookAt+manyRestarts: // What failed was an earlier run.
		r.hook = ""
	}
	return fresh
}

// startedByOthers reports whether the container was last restarted because another one's rule restarts the whole pod.
func startedByOthers(pod *corev1.Pod, c *corev1.ContainerStatus) bool {
	return restartedByOthers(c) && !restartsWholePod(&pod.Spec, c.Name)
}

// noteReady notes whether the pod is ready by its own word, and reports whether it was and has been unready since.
func (r *podRecord) noteReady(pod *corev1.Pod, now instant, known bool) (broken bool) {
	if !readyByOwnWord(pod) {
		broken = r.ready != 0
		r.ready = 0
		if r.served {
			r.unready = firstOf(r.unready, now)
		}
		return broken
	}
	stamp := readyStamp(pod)
	broken = r.ready != 0 && known && !stamp.Equal(&r.stamp)
	if r.ready == 0 || broken {
		r.ready = now
	}
	r.stamp, r.served, r.unready = stamp, true, 0
	return broken
}

// readyStamp returns when the pod became ready by its own word, by the kubelet's clock.
func readyStamp(pod *corev1.Pod) metav1.Time {
	stamp := conditionOf(pod, corev1.ContainersReady).LastTransitionTime
	for _, gate := range pod.Spec.ReadinessGates {
		if other := conditionOf(pod, gate.ConditionType).LastTransitionTime; stamp.Before(&other) {
			stamp = other
		}
	}
	return stamp
}

// noteSoak goes on with the pod's soak, or begins it again. One that is passed stays passed.
func (r *podRecord) noteSoak(l *look, pod *corev1.Pod, readyFor time.Duration, broken bool) {
	if broken && r.soaked < l.soak {
		r.soaked, r.available, r.spared = 0, false, false
	}
	minReady := time.Duration(l.deployment.Spec.MinReadySeconds) * time.Second
	available := r.ready != 0 && !nodeSilent(pod) && (minReady == 0 || readyFor >= minReady || l.allAvailable())
	if available && r.available {
		r.soaked += l.elapsed
	}
	r.available = available
}

// passed reports whether the pod need not soak any longer.
func (r *podRecord) passed(soak time.Duration) bool {
	return r.available && (r.spared || r.soaked >= soak)
}

// counted returns the most restarts of its own that one of the pod's containers has had.
func (r *podRecord) counted() (most int32) {
	for _, c := range r.containers {
		most = max(most, c.counted)
	}
	return most
}

func (r *podRecord) isStuck() bool {
	return slices.ContainsFunc(r.containers, func(c containerRecord) bool { return c.stuck != 0 })
}

// container returns the record of a container.
func (r *podRecord) container(name string) *containerRecord {
	for i := range r.containers {
		if r.containers[i].name == name {
			return &r.containers[i]
		}
	}
	return &containerRecord{}
}
