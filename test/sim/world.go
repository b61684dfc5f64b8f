package sim

import (
	"container/heap"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// This file is the world around Belay: an API that stores objects, and pretend controllers that act on them in virtual
// time. They are simple, but as nasty as the real ones were measured to be:
//
//   - T1: after a failed template, the condition ProgressDeadlineExceeded stays for a while on the next one, with the
//     generation observed.
//   - T2: template and replicas changed in one write: the generation is observed, with the old condition, before there
//     is a new ReplicaSet.
//   - T3: a template that had a ReplicaSet before keeps NewReplicaSetAvailable for ever, even if no pod can be created.
//   - T4: a Deployment controller that was down reports an exceeded deadline first.
//   - T5: when the ReplicaSet is refused, the generation is never observed, and the counts are the old template's.
//
// Everything happens in events on one timeline; what is random comes from one seed.

// outcome is what becomes of the pods of an image.
type outcome struct {
	name    string
	healthy bool
	// ready is how long after its start a pod is ready, crash how long after its start it exits. 0 is never.
	ready, crash time.Duration
	// crashes is how often it exits before it stays up, -1 is for ever.
	crashes int
	init    bool          // the init container is the one that exits
	pull    time.Duration // how long its image cannot be pulled, -1 is for ever
	config  bool          // its configuration is wrong
	unready time.Duration // how long after it was ready it is unready for ever
	nowhere bool          // it fits on no node
	quota   bool          // its pods are refused
	noSet   bool          // its ReplicaSet is refused
	ill     bool          // it is bad until it heals, and good after that
}

// What a template can turn out to be. The healthy ones are ready well within the deadline, exit no more often than is
// tolerated, and can be pulled before that counts as stuck. The bad ones are never ready for as long as the soak, not
// even two pods one after the other: one that is lost and replaced between two looks is not missed.
var outcomes = []outcome{
	{name: "good", healthy: true, ready: 2 * time.Second},
	{name: "good-slow", healthy: true, ready: 12 * time.Second},
	{name: "good-late-database", healthy: true, ready: 4 * time.Second, crash: 2 * time.Second, crashes: 3},
	{name: "good-slow-pull", healthy: true, ready: 3 * time.Second, pull: 8 * time.Second},
	{name: "bad-crash", crash: 2 * time.Second, crashes: -1},
	{name: "bad-init", crash: time.Second, crashes: -1, init: true},
	{name: "bad-flap", ready: 2 * time.Second, crash: 5 * time.Second, crashes: -1},
	{name: "bad-pull", pull: -1},
	{name: "bad-config", config: true},
	{name: "bad-unready"},
	{name: "bad-nowhere", nowhere: true},
	{name: "bad-quota", quota: true},
	{name: "bad-set", noSet: true},
	{name: "bad-in-soak", ready: 2 * time.Second, unready: 3500 * time.Millisecond},
}

func outcomeOf(t *corev1.PodTemplateSpec) outcome {
	name, _, _ := strings.Cut(t.Spec.Containers[0].Image, ":")
	if name == "theirs" { // what somebody puts there by hand
		return outcome{name: name, ready: 2 * time.Second}
	}
	if strings.HasPrefix(name, "ill-") {
		return outcome{name: name, ill: true, ready: 2 * time.Second}
	}
	return outcomes[slices.IndexFunc(outcomes, func(o outcome) bool { return o.name == name })]
}

// outcomeNow is what becomes of a pod that is begun now: an image "ill-crash" is a "bad-crash" until it heals, and good
// from then on.
func (w *world) outcomeNow(spec corev1.PodSpec) outcome {
	o := outcomeOf(&corev1.PodTemplateSpec{Spec: spec})
	if !o.ill {
		return o
	}
	name := "good"
	if w.now.Before(w.healed) {
		name = "bad" + strings.TrimPrefix(o.name, "ill")
	}
	o = outcomes[slices.IndexFunc(outcomes, func(o outcome) bool { return o.name == name })]
	o.ill = true
	return o
}

// heal lets everything that is ill heal after a while.
func (w *world) heal(after time.Duration) {
	w.healed = w.now.Add(after)
	w.in(after, func() {
		w.wake(&w.deploymentController, 10*time.Millisecond, w.syncDeployment)
		w.wake(&w.setController, 10*time.Millisecond, w.syncSets)
	})
}

// world is one namespace, with its time.
type world struct {
	now    time.Time
	events timeline
	serial int
	random *rand.Rand

	guarded    *v1alpha1.GuardedDeployment
	deployment *appsv1.Deployment
	revisions  map[string]*appsv1.ControllerRevision
	sets       map[string]*appsv1.ReplicaSet
	pods       map[string]*corev1.Pod
	version    int // the resourceVersion of the last write

	// down says which of the controllers do nothing.
	deploymentController, setController, scheduler component
	staleFor                                       time.Duration // how long, at most, T1 to T4 last
	silentUntil                                    time.Time     // until when the condition stays as it is
	healed                                         time.Time     // from when on nothing is ill
	// changed is called after every write, with the kind of object.
	changed func(kind string)
}

type component struct{ down, due bool }

func newWorld(seed uint64) *world {
	return &world{
		now: time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC), random: rand.New(rand.NewPCG(seed, 0)),
		revisions: map[string]*appsv1.ControllerRevision{}, sets: map[string]*appsv1.ReplicaSet{}, pods: map[string]*corev1.Pod{},
		changed: func(string) {},
	}
}

// timeline is a heap of what is going to happen.
type timeline []happening

type happening struct {
	at     time.Time
	serial int
	do     func()
}

func (t timeline) Len() int { return len(t) }
func (t timeline) Less(i, j int) bool {
	return t[i].at.Before(t[j].at) || (t[i].at.Equal(t[j].at) && t[i].serial < t[j].serial)
}
func (t timeline) Swap(i, j int) { t[i], t[j] = t[j], t[i] }
func (t *timeline) Push(x any)   { *t = append(*t, x.(happening)) }
func (t *timeline) Pop() any {
	last := (*t)[len(*t)-1]
	*t = (*t)[:len(*t)-1]
	return last
}

func (w *world) in(d time.Duration, do func()) {
	w.serial++
	heap.Push(&w.events, happening{w.now.Add(d), w.serial, do})
}

// run lets time pass, until d is over or until done.
func (w *world) run(d time.Duration, done func() bool) bool {
	end := w.now.Add(d)
	for len(w.events) > 0 && !w.events[0].at.After(end) {
		next := heap.Pop(&w.events).(happening)
		w.now = next.at
		next.do()
		if done != nil && done() {
			return true
		}
	}
	w.now = end
	return false
}

// stamp gives an object what the API server gives it on every write.
func (w *world) stamp(o metav1.Object, kind string) {
	w.version++
	if o.GetUID() == "" {
		o.SetUID(types.UID(fmt.Sprintf("uid-%d", w.version)))
		o.SetCreationTimestamp(metav1.NewTime(w.now.Truncate(time.Second)))
	}
	o.SetResourceVersion(fmt.Sprint(w.version))
	defer w.changed(kind)
	w.wake(&w.deploymentController, 10*time.Millisecond, w.syncDeployment)
	w.wake(&w.setController, 10*time.Millisecond, w.syncSets)
	w.wake(&w.scheduler, 20*time.Millisecond, w.schedule)
}

func (w *world) wake(c *component, after time.Duration, sync func()) {
	if !c.down && !c.due {
		c.due = true
		w.in(after, func() {
			c.due = false
			if !c.down {
				sync()
			}
		})
	}
}

// stop takes a controller down, start brings it back.
func (w *world) stop(c *component) { c.down = true }
func (w *world) start(c *component) {
	c.down = false
	w.wake(&w.deploymentController, 10*time.Millisecond, w.syncDeployment)
	w.wake(&w.setController, 10*time.Millisecond, w.syncSets)
	w.wake(&w.scheduler, 20*time.Millisecond, w.schedule)
}

// asStored adds the API server's defaults that matter here.
func asStored(d *appsv1.Deployment) *appsv1.Deployment {
	d = d.DeepCopy()
	if d.Spec.Replicas == nil {
		d.Spec.Replicas = new(int32(1))
	}
	if d.Spec.ProgressDeadlineSeconds == nil {
		d.Spec.ProgressDeadlineSeconds = new(int32(600))
	}
	pod := &d.Spec.Template.Spec
	pod.RestartPolicy, pod.DNSPolicy = corev1.RestartPolicyAlways, corev1.DNSClusterFirst
	for i := range pod.Containers {
		pod.Containers[i].ImagePullPolicy = corev1.PullIfNotPresent
		pod.Containers[i].TerminationMessagePath = corev1.TerminationMessagePathDefault
	}
	return d
}

// putDeployment stores a Deployment as a client writes it: with a new generation if the spec or the annotations change.
func (w *world) putDeployment(d *appsv1.Deployment) *appsv1.Deployment {
	d = asStored(d)
	if before := w.deployment; before == nil {
		d.Generation, d.UID = 1, ""
	} else if !equality.Semantic.DeepEqual(before.Spec, d.Spec) || !maps.Equal(before.Annotations, d.Annotations) {
		d.Generation = before.Generation + 1
	} else if maps.Equal(before.Labels, d.Labels) && equality.Semantic.DeepEqual(before.OwnerReferences, d.OwnerReferences) {
		return before
	}
	w.deployment = d
	w.stamp(d, "deployments")
	return d
}

func (w *world) putGuarded(change func(*v1alpha1.GuardedDeployment)) {
	g := w.guarded.DeepCopy()
	change(g)
	if !equality.Semantic.DeepEqual(g.Spec, w.guarded.Spec) {
		g.Generation++
	}
	w.guarded = g
	w.stamp(g, "guardeddeployments")
}

func replicasOf(d *appsv1.Deployment) int32 { return *d.Spec.Replicas }

// ---- the Deployment controller

func (w *world) progressing(d *appsv1.Deployment) *appsv1.DeploymentCondition {
	for i := range d.Status.Conditions {
		if d.Status.Conditions[i].Type == appsv1.DeploymentProgressing {
			return &d.Status.Conditions[i]
		}
	}
	return nil
}

func (w *world) setStatus(d *appsv1.Deployment, reason string) {
	d = d.DeepCopy()
	condition := w.progressing(d)
	if reason != "" && condition == nil {
		d.Status.Conditions = append(d.Status.Conditions, appsv1.DeploymentCondition{Type: appsv1.DeploymentProgressing})
		condition = w.progressing(d)
	}
	if reason != "" {
		condition.Reason, condition.Status, condition.Message = reason, corev1.ConditionTrue, "as the Deployment controller says"
		if reason == "ProgressDeadlineExceeded" || reason == "ReplicaSetCreateError" {
			condition.Status = corev1.ConditionFalse
		}
		if before := w.progressing(w.deployment); before == nil || before.Reason != reason || reason == "ReplicaSetUpdated" {
			condition.LastUpdateTime = metav1.NewTime(w.now)
		}
	}
	if !equality.Semantic.DeepEqual(d.Status, w.deployment.Status) {
		w.deployment = d
		w.stamp(d, "deployments")
	}
}

const desired = "deployment.kubernetes.io/desired-replicas"

func (w *world) syncDeployment() {
	d := w.deployment
	if d == nil {
		for name := range w.sets { // The garbage collector's part.
			delete(w.sets, name)
		}
		for _, name := range slices.Sorted(maps.Keys(w.pods)) {
			w.removePod(w.pods[name])
		}
		return
	}
	if d.Spec.Paused {
		w.counts(d, "DeploymentPaused")
		return
	}
	var current *appsv1.ReplicaSet
	var old []*appsv1.ReplicaSet
	scaling := false
	for _, name := range slices.Sorted(maps.Keys(w.sets)) {
		set := w.sets[name]
		if equality.Semantic.DeepEqual(set.Spec.Template, d.Spec.Template) {
			current = set
		} else {
			old = append(old, set)
		}
		scaling = scaling || (*set.Spec.Replicas > 0 && set.Annotations[desired] != fmt.Sprint(replicasOf(d)))
	}
	if scaling { // T2: first the old pods are scaled, under the old condition.
		for _, name := range slices.Sorted(maps.Keys(w.sets)) {
			if set := w.sets[name]; *set.Spec.Replicas > 0 {
				n := *set.Spec.Replicas
				if set == current || current == nil || *current.Spec.Replicas == 0 {
					n = min(max(n, replicasOf(d)), replicasOf(d))
				}
				w.scaleSet(set, n)
			}
		}
		w.counts(d, "")
		w.wake(&w.deploymentController, 10*time.Millisecond, w.syncDeployment)
		return
	}
	if current == nil {
		if w.outcomeNow(d.Spec.Template.Spec).noSet { // T5
			w.setStatus(d, "ReplicaSetCreateError")
			return
		}
		set := &appsv1.ReplicaSet{}
		set.Name, set.OwnerReferences = fmt.Sprintf("web-%d", w.version), []metav1.OwnerReference{*metav1.NewControllerRef(d, appsv1.SchemeGroupVersion.WithKind("Deployment"))}
		set.Spec.Selector, set.Spec.Template, set.Spec.Replicas = d.Spec.Selector, *d.Spec.Template.DeepCopy(), new(int32)
		set.Annotations = map[string]string{desired: fmt.Sprint(replicasOf(d))}
		w.sets[set.Name] = set
		w.stamp(set, "replicasets")
		w.setStatus(d, "NewReplicaSetCreated")
		w.wake(&w.deploymentController, 10*time.Millisecond, w.syncDeployment)
		return
	}
	w.roll(d, current, old)
	if d.Status.ObservedGeneration < d.Generation { // T1, T3: a ReplicaSet that was there before changes no condition at first.
		w.keepSilent()
	}
	reason := ""
	if !w.now.Before(w.silentUntil) {
		reason = w.judge(d, current, old)
	}
	w.counts(w.deployment, reason)
	w.prune(old)
}

// keepSilent leaves the condition as it is for a while, true or not.
func (w *world) keepSilent() {
	if w.staleFor > 0 {
		silence := w.staleFor/2 + time.Duration(w.random.Int64N(int64(w.staleFor/2)))
		w.silentUntil = w.now.Add(silence)
		w.in(silence, func() { w.wake(&w.deploymentController, 0, w.syncDeployment) })
	}
}

func (w *world) roll(d *appsv1.Deployment, current *appsv1.ReplicaSet, old []*appsv1.ReplicaSet) {
	var oldPods, available int32
	for _, set := range old {
		oldPods += *set.Spec.Replicas
		available += set.Status.AvailableReplicas
	}
	available += current.Status.AvailableReplicas
	wanted := replicasOf(d)
	if n := min(wanted, wanted+1-oldPods); n > *current.Spec.Replicas || wanted < *current.Spec.Replicas {
		w.scaleSet(current, min(n, wanted))
	}
	for _, set := range old { // maxUnavailable 0, maxSurge 1; what is not available goes first.
		if n := *set.Spec.Replicas; n > 0 {
			spare := n - set.Status.AvailableReplicas + max(0, available-wanted)
			if spare > 0 {
				gone := min(n, spare)
				available -= min(gone, set.Status.AvailableReplicas)
				w.scaleSet(set, n-gone)
			}
		}
	}
}

func (w *world) scaleSet(set *appsv1.ReplicaSet, n int32) {
	set = set.DeepCopy()
	set.Spec.Replicas = &n
	set.Annotations[desired] = fmt.Sprint(replicasOf(w.deployment))
	w.sets[set.Name] = set
	w.stamp(set, "replicasets")
}

// judge is what the Deployment controller makes of a rollout.
func (w *world) judge(d *appsv1.Deployment, current *appsv1.ReplicaSet, old []*appsv1.ReplicaSet) string {
	var left int32
	for _, set := range old {
		left += set.Status.Replicas
	}
	wanted, before := replicasOf(d), w.progressing(d)
	deadline := time.Duration(*d.Spec.ProgressDeadlineSeconds) * time.Second
	switch {
	case left == 0 && current.Status.AvailableReplicas >= wanted && current.Status.Replicas == wanted:
		return "NewReplicaSetAvailable"
	case before != nil && w.now.Sub(before.LastUpdateTime.Time) > deadline && // T4: before it looks for progress
		(before.Reason == "ReplicaSetUpdated" || before.Reason == "NewReplicaSetCreated"):
		w.keepSilent()
		w.wake(&w.deploymentController, 10*time.Millisecond, w.syncDeployment)
		return "ProgressDeadlineExceeded"
	case current.Status.Replicas > d.Status.UpdatedReplicas || current.Status.AvailableReplicas > d.Status.AvailableReplicas:
		return "ReplicaSetUpdated"
	case before != nil && before.Reason == "DeploymentPaused":
		return "DeploymentResumed"
	}
	return "" // T3
}

func (w *world) counts(d *appsv1.Deployment, reason string) {
	d = d.DeepCopy()
	conditions := d.Status.Conditions
	d.Status = appsv1.DeploymentStatus{ObservedGeneration: d.Generation, Conditions: conditions}
	for _, set := range w.sets {
		d.Status.Replicas += set.Status.Replicas
		d.Status.ReadyReplicas += set.Status.ReadyReplicas
		d.Status.AvailableReplicas += set.Status.AvailableReplicas
		if equality.Semantic.DeepEqual(set.Spec.Template, d.Spec.Template) {
			d.Status.UpdatedReplicas = set.Status.Replicas
		}
	}
	w.setStatus(d, reason)
}

// prune removes ReplicaSets of long ago, so that some templates meet their old one, and some do not.
func (w *world) prune(old []*appsv1.ReplicaSet) {
	for i, set := range old {
		if *set.Spec.Replicas == 0 && set.Status.Replicas == 0 && i < len(old)-2 {
			delete(w.sets, set.Name)
		}
	}
}

// ---- the ReplicaSet controller

func (w *world) podsOf(set *appsv1.ReplicaSet) (pods []*corev1.Pod) {
	for _, name := range slices.Sorted(maps.Keys(w.pods)) {
		if pod := w.pods[name]; metav1.IsControlledBy(pod, set) && pod.DeletionTimestamp == nil {
			pods = append(pods, pod)
		}
	}
	return pods
}

func (w *world) syncSets() {
	for _, name := range slices.Sorted(maps.Keys(w.sets)) {
		set := w.sets[name]
		pods := w.podsOf(set)
		refused := false
		for n := int32(len(pods)); n < *set.Spec.Replicas; n++ {
			if refused = w.outcomeNow(set.Spec.Template.Spec).quota; refused {
				break
			}
			pods = append(pods, w.createPod(set))
		}
		slices.SortStableFunc(pods, func(a, b *corev1.Pod) int { return btoi(isReady(b)) - btoi(isReady(a)) })
		for ; int32(len(pods)) > *set.Spec.Replicas; pods = pods[:len(pods)-1] {
			w.removePod(pods[len(pods)-1])
		}
		status := appsv1.ReplicaSetStatus{Replicas: int32(len(pods)), ObservedGeneration: set.Generation}
		for _, pod := range pods {
			status.ReadyReplicas += int32(btoi(isReady(pod)))
		}
		status.AvailableReplicas = status.ReadyReplicas
		if refused {
			status.Conditions = []appsv1.ReplicaSetCondition{{Type: appsv1.ReplicaSetReplicaFailure, Status: corev1.ConditionTrue, Reason: "FailedCreate", Message: "pods is forbidden: exceeded quota: q"}}
		}
		if !equality.Semantic.DeepEqual(status, set.Status) {
			set = set.DeepCopy()
			set.Status = status
			w.sets[name] = set
			w.stamp(set, "replicasets")
		}
	}
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

func (w *world) createPod(set *appsv1.ReplicaSet) *corev1.Pod {
	pod := &corev1.Pod{Spec: *set.Spec.Template.Spec.DeepCopy()}
	pod.Name = fmt.Sprintf("%s-%06d", set.Name, w.version)
	pod.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(set, appsv1.SchemeGroupVersion.WithKind("ReplicaSet"))}
	w.pods[pod.Name] = pod
	w.stamp(pod, "pods")
	return pod
}

// removePod lets a pod end: it is there for a second, on its way out.
func (w *world) removePod(pod *corev1.Pod) {
	w.change(pod.Name, func(p *corev1.Pod) { p.DeletionTimestamp = &metav1.Time{Time: w.now} })
	w.in(time.Second, func() {
		delete(w.pods, pod.Name)
		w.version++
		w.wake(&w.setController, 10*time.Millisecond, w.syncSets)
	})
}

// change changes a pod, if it is still there.
func (w *world) change(name string, change func(*corev1.Pod)) {
	if pod := w.pods[name]; pod != nil && pod.DeletionTimestamp == nil {
		pod = pod.DeepCopy()
		change(pod)
		w.pods[name] = pod
		w.stamp(pod, "pods")
	}
}

// ---- the scheduler and the kubelet

func (w *world) schedule() {
	for _, name := range slices.Sorted(maps.Keys(w.pods)) {
		pod := w.pods[name]
		if pod.Spec.NodeName != "" || len(pod.Status.Conditions) > 0 || pod.DeletionTimestamp != nil {
			continue
		}
		w.change(name, func(p *corev1.Pod) {
			if o := w.outcomeNow(p.Spec); o.nowhere {
				p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: corev1.PodReasonUnschedulable, Message: "0/3 nodes are available"}}
			} else {
				p.Spec.NodeName = "node"
				w.in(100*time.Millisecond, func() { w.pull(name, o) })
			}
		})
	}
}

func isReady(pod *corev1.Pod) bool {
	return slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// says sets the state of a pod's container, its init container if init.
func (w *world) says(name string, init, ready bool, waits string, restarts int32) {
	w.change(name, func(p *corev1.Pod) {
		status := corev1.ContainerStatus{Name: "web", Ready: ready, RestartCount: restarts}
		if waits != "" {
			status.State.Waiting = &corev1.ContainerStateWaiting{Reason: waits, Message: "as the kubelet says"}
		}
		if restarts > 0 {
			status.LastTerminationState.Terminated = &corev1.ContainerStateTerminated{ExitCode: 1, Reason: "Error", Message: "no database"}
		}
		p.Status.InitContainerStatuses, p.Status.ContainerStatuses = nil, []corev1.ContainerStatus{status}
		if init {
			p.Status.InitContainerStatuses = []corev1.ContainerStatus{status}
			p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "web", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "PodInitializing"}}}}
		}
		p.Status.Phase, p.Status.Conditions = corev1.PodRunning, []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionFalse}}
		if ready {
			p.Status.Conditions[0].Status = corev1.ConditionTrue
		}
	})
}

func (w *world) pull(name string, o outcome) {
	if o.ill && (o.config || o.pull < 0) {
		w.in(5*time.Second, func() {
			if pod := w.pods[name]; pod != nil {
				w.pull(name, w.outcomeNow(pod.Spec))
			}
		})
	}
	switch {
	case o.config:
		w.says(name, false, false, "CreateContainerConfigError", 0)
	case o.pull != 0:
		w.says(name, false, false, "ErrImagePull", 0)
		if o.pull > 0 {
			w.in(o.pull, func() { w.begin(name, o, 0) })
		}
	default:
		w.begin(name, o, 0)
	}
}

// begin starts a pod's container, after so many restarts.
func (w *world) begin(name string, o outcome, restarts int32) {
	w.says(name, o.init, false, "", restarts)
	crashes := o.crashes < 0 || int(restarts) < o.crashes
	if o.ready > 0 && (!crashes || o.ready < o.crash) {
		w.in(o.ready, func() { w.says(name, false, true, "", restarts) })
	}
	if crashes && o.crash > 0 {
		w.in(o.crash, func() {
			w.says(name, o.init, false, "CrashLoopBackOff", restarts)
			w.in(min(20, time.Duration(restarts)+1)*time.Second, func() { w.restart(name, restarts+1) })
		})
	}
	if o.unready > 0 {
		w.in(o.ready+o.unready, func() { w.says(name, false, false, "", restarts) })
	}
}

func (w *world) restart(name string, restarts int32) {
	if pod := w.pods[name]; pod != nil {
		w.begin(name, w.outcomeNow(pod.Spec), restarts)
	}
}
