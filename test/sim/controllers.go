package sim

import (
	"fmt"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	fake "github.com/belay-dev/belay/internal/fakecluster"
)

// Pretend controllers: simple, but as nasty as the real ones were measured to be.
//
//   - T1: after a failed template, the condition ProgressDeadlineExceeded stays for a while on the next one, with the
//     generation observed.
//   - T2: template and replicas changed in one write: the generation is observed, with the old condition, before there
//     is a new ReplicaSet.
//   - T3: a template that had a ReplicaSet before keeps NewReplicaSetAvailable for ever, even if no pod can be created.
//   - T4: a Deployment controller that was down reports an exceeded deadline first.
//   - T5: when the ReplicaSet is refused, the generation is never observed, and the counts are the old template's.

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
		if before := w.progressing(w.deployment()); before == nil || before.Reason != reason || reason == "ReplicaSetUpdated" {
			condition.LastUpdateTime = metav1.NewTime(w.Now())
		}
	}
	if !equality.Semantic.DeepEqual(d.Status, w.deployment().Status) {
		fake.EditStatus(w.World, d.Name, func(live *appsv1.Deployment) { live.Status = d.Status })
	}
}

const desired = "deployment.kubernetes.io/desired-replicas"

func (w *world) syncDeployment() {
	if w.exact != nil {
		w.exact.sync(w)
		return
	}
	d := w.deployment()
	if d == nil {
		for _, set := range w.sets() { // The garbage collector's part.
			fake.Remove[*appsv1.ReplicaSet](w.World, set.Name)
		}
		for _, pod := range w.pods() {
			w.removePod(pod)
		}
		return
	}
	current, old := w.split(d)
	if current != nil && w.number(d, current, old) {
		return // The next step is due: something was written.
	}
	if d.Spec.Paused {
		w.counts(d, "DeploymentPaused")
		return
	}
	recreates := d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType
	if slices.ContainsFunc(w.sets(), func(set *appsv1.ReplicaSet) bool {
		return *set.Spec.Replicas > 0 && set.Annotations[desired] != fmt.Sprint(replicasOf(d))
	}) { // T2: first the old pods are scaled, under the old condition.
		w.scaleSets(d, current)
		w.counts(d, "")
		w.wake(&w.deploymentController, 10*time.Millisecond, w.syncDeployment)
		return
	}
	if recreates && w.endOld(current, old) {
		w.counts(d, "")
		return
	}
	if current == nil {
		if w.outcomeNow(d.Spec.Template.Spec, metav1.NewTime(w.Now())).noSet { // T5
			w.setStatus(d, "ReplicaSetCreateError")
			w.refuse(d, "ReplicaSetCreateError", `Failed to create new replica set "web-new": admission webhook "policy.example.com" denied the request: no`,
				&w.deploymentController, w.syncDeployment)
			return
		}
		delete(w.refused, d.UID)
		w.createSet(d, old)
		w.setStatus(w.deployment(), "NewReplicaSetCreated")
		w.wake(&w.deploymentController, 10*time.Millisecond, w.syncDeployment)
		return
	}
	w.roll(d, current, old)
	if d.Status.ObservedGeneration < d.Generation { // T1, T3: a ReplicaSet that was there before changes no condition at first.
		w.keepSilent()
	}
	reason := ""
	if !time.Now().Before(w.silentUntil) {
		reason = w.judge(d, current, old)
	}
	w.counts(w.deployment(), reason)
	w.prune(old)
}

// split returns the ReplicaSet of the Deployment's template, nil if there is none, and the others.
func (w *world) split(d *appsv1.Deployment) (current *appsv1.ReplicaSet, old []*appsv1.ReplicaSet) {
	for _, set := range w.sets() {
		if equality.Semantic.DeepEqual(set.Spec.Template, d.Spec.Template) {
			current = set
		} else {
			old = append(old, set)
		}
	}
	return current, old
}

// number numbers the current ReplicaSet or, a step later, the Deployment: until then the template is new, and the number old.
func (w *world) number(d *appsv1.Deployment, current *appsv1.ReplicaSet, old []*appsv1.ReplicaSet) (written bool) {
	if fake.Number(current.DeepCopy(), old) {
		fake.Edit(w.World, current.Name, func(live *appsv1.ReplicaSet) { fake.Number(live, old) })
		return true
	}
	number := current.Annotations[fake.RevisionAnnotation]
	if d.Annotations[fake.RevisionAnnotation] == number {
		return false
	}
	fake.EditStatus(w.World, d.Name, func(live *appsv1.Deployment) {
		metav1.SetMetaDataAnnotation(&live.ObjectMeta, fake.RevisionAnnotation, number)
	})
	return true
}

// scaleSets gives to what runs no more pods than the Deployment has.
func (w *world) scaleSets(d *appsv1.Deployment, current *appsv1.ReplicaSet) {
	for _, set := range w.sets() {
		n := *set.Spec.Replicas
		if n == 0 {
			continue
		}
		if set == current || current == nil || *current.Spec.Replicas == 0 {
			n = replicasOf(d)
		}
		w.scaleSet(set, n)
	}
}

func (w *world) createSet(d *appsv1.Deployment, old []*appsv1.ReplicaSet) {
	set := &appsv1.ReplicaSet{}
	set.Name, set.Namespace, set.Labels = w.newName(d.Name), d.Namespace, d.Spec.Template.Labels
	set.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(d, appsv1.SchemeGroupVersion.WithKind("Deployment"))}
	set.Spec.Selector, set.Spec.Template, set.Spec.Replicas = d.Spec.Selector, *d.Spec.Template.DeepCopy(), new(int32)
	set.Annotations = map[string]string{desired: fmt.Sprint(replicasOf(d))}
	fake.Number(set, old)
	if w.tricks.rewrite != nil {
		w.tricks.rewrite(&set.Spec.Template)
	}
	if fake.Add(w.World, set); !equality.Semantic.DeepEqual(set.Spec.Template, d.Spec.Template) { // It does not know its own work.
		fake.EditStatus(w.World, d.Name, func(live *appsv1.Deployment) {
			live.Status.CollisionCount = new(1 + ptrOr(live.Status.CollisionCount))
		})
	}
}

func ptrOr(n *int32) int32 {
	if n == nil {
		return 0
	}
	return *n
}

// endOld scales the old ReplicaSets down, as strategy Recreate has it, and reports whether pods of theirs are left.
func (w *world) endOld(current *appsv1.ReplicaSet, old []*appsv1.ReplicaSet) (left bool) {
	for _, set := range old {
		if *set.Spec.Replicas > 0 {
			w.scaleSet(set, 0)
		}
	}
	return slices.ContainsFunc(w.pods(), func(pod *corev1.Pod) bool {
		return !hasEnded(pod) && (current == nil || !metav1.IsControlledBy(pod, current))
	})
}

// keepSilent leaves the condition as it is for a while, true or not.
func (w *world) keepSilent() {
	if w.staleFor > 0 {
		silence := w.staleFor/2 + time.Duration(w.random.Int64N(int64(w.staleFor/2)))
		w.silentUntil = time.Now().Add(silence)
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
	if n := min(wanted, wanted+w.tricks.surge-oldPods); n > *current.Spec.Replicas || wanted < *current.Spec.Replicas {
		w.scaleSet(current, min(n, wanted))
	}
	// maxUnavailable 0: what is not available goes first, as long as there are enough besides.
	dispensable := oldPods + current.Status.AvailableReplicas - wanted
	for _, set := range old {
		n := *set.Spec.Replicas
		ill := min(max(0, n-set.Status.AvailableReplicas), max(0, dispensable))
		spare := max(0, min(available-wanted, n-ill))
		if ill+spare > 0 && n > 0 {
			dispensable -= ill
			available -= spare
			w.scaleSet(set, n-ill-spare)
		}
	}
}

func (w *world) scaleSet(set *appsv1.ReplicaSet, n int32) {
	wanted := fmt.Sprint(replicasOf(w.deployment()))
	fake.Edit(w.World, set.Name, func(live *appsv1.ReplicaSet) {
		live.Spec.Replicas = &n
		live.Annotations[desired] = wanted
	})
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
	case before != nil && w.Now().Sub(before.LastUpdateTime.Time) > deadline && // T4: before it looks for progress
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
	before := d.Status
	d.Status = appsv1.DeploymentStatus{ObservedGeneration: d.Generation, Conditions: before.Conditions, CollisionCount: before.CollisionCount}
	for _, set := range w.sets() {
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
			fake.Remove[*appsv1.ReplicaSet](w.World, set.Name)
		}
	}
}

// ---- the ReplicaSet controller

func (w *world) podsOf(set *appsv1.ReplicaSet) (pods []*corev1.Pod) {
	for _, pod := range w.pods() {
		if metav1.IsControlledBy(pod, set) && pod.DeletionTimestamp == nil && !hasEnded(pod) {
			pods = append(pods, pod)
		}
	}
	return pods
}

// hasEnded reports whether a pod has ended: it stays there, and another one is created.
func hasEnded(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodFailed || pod.Status.Phase == corev1.PodSucceeded
}

func (w *world) syncSets() {
	for _, set := range w.sets() {
		pods := w.podsOf(set)
		refused := ""
		for n := int32(len(pods)); n < *set.Spec.Replicas; n++ {
			pod := w.newPod(set)
			if refused = w.admitPod(pod); refused != "" {
				break
			}
			delete(w.refused, set.UID)
			pods = append(pods, fake.Add(w.World, pod))
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
		if refused != "" {
			w.refuse(set, "FailedCreate", "Error creating: "+refused, &w.setController, w.syncSets)
			status.Conditions = []appsv1.ReplicaSetCondition{{Type: appsv1.ReplicaSetReplicaFailure, Status: corev1.ConditionTrue, Reason: "FailedCreate", Message: refused}}
		}
		if !equality.Semantic.DeepEqual(status, set.Status) {
			fake.EditStatus(w.World, set.Name, func(live *appsv1.ReplicaSet) { live.Status = status })
		}
	}
}

// overQuota is what the API server says when a quota does not allow a pod.
const overQuota = `pods "web-new" is forbidden: exceeded quota: q, requested: requests.cpu=2, used: requests.cpu=3, limited: requests.cpu=4`

// maxPause is the longest pause between two tries to create what is refused. The real one is 1000 s.
const maxPause = 40 * time.Second

// tries is when the next try to create something may come, and how long after the last one that is.
type tries struct {
	next  time.Time
	pause time.Duration
}

// refuse records that a controller's try was refused, and lets it try again: each time after twice as long. What wakes the
// controller in between changes nothing about that.
func (w *world) refuse(about fake.Object, reason, message string, c *component, sync func()) {
	last := w.refused[about.GetUID()]
	if time.Now().Before(last.next) {
		return
	}
	pause := min(maxPause, max(20*time.Millisecond, 2*last.pause))
	w.refused[about.GetUID()] = tries{time.Now().Add(pause), pause}
	w.event(about, corev1.EventTypeWarning, reason, message)
	w.in(pause, func() { w.wake(c, 0, sync) })
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// dying is the finalizer of the pretend kubelet: a pod that is deleted is there for a second, on its way out.
const dying = "sim/dying"

func (w *world) newPod(set *appsv1.ReplicaSet) *corev1.Pod {
	pod := &corev1.Pod{Spec: *set.Spec.Template.Spec.DeepCopy()}
	pod.Name, pod.Namespace, pod.Labels, pod.Finalizers = w.newName(set.Name), set.Namespace, set.Spec.Template.Labels, []string{dying}
	pod.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(set, appsv1.SchemeGroupVersion.WithKind("ReplicaSet"))}
	return pod
}

// admitPod returns why the API server refuses a pod, empty if it does not. While a controller waits for its next try, nothing changes.
func (w *world) admitPod(pod *corev1.Pod) (refused string) {
	switch {
	case w.outcomeNow(pod.Spec, metav1.NewTime(w.Now())).quota:
		return overQuota
	case w.tricks.admit != nil:
		return w.tricks.admit(pod)
	default:
		return ""
	}
}

// removePod lets a pod end.
func (w *world) removePod(pod *corev1.Pod) {
	if pod.DeletionTimestamp != nil {
		return
	}
	takes := time.Second
	if w.tricks.ending != nil {
		takes = w.tricks.ending(pod)
	}
	fake.Remove[*corev1.Pod](w.World, pod.Name)
	w.in(takes, func() {
		fake.Edit(w.World, pod.Name, func(p *corev1.Pod) { p.Finalizers = nil })
	})
}
