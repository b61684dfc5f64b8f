package sim

import (
	"encoding/json"
	"fmt"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	fake "github.com/belay-dev/belay/internal/fakecluster"
	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
	"github.com/belay-dev/belay/pkg/rollout"
)

// What must hold at every request and change, and what is there.

func (r *placeRun) checkRequest(request fake.Request) {
	if r.pending != nil && r.random.IntN(3) == 0 {
		pending := r.pending
		r.pending, r.inside = nil, true
		r.tell("    before it can %s %s:", request.Verb, request.Resource)
		pending()
		r.inside = false
	}
	if request.Verb != "patch" {
		return
	}
	switch request.Resource {
	case "deployments/status":
		r.checkVerdict(request)
	case "replicasets":
		r.checkSet(request)
	}
}

// checkVerdict checks what is written about the failure of a release.
func (r *placeRun) checkVerdict(request fake.Request) {
	var patch struct {
		Metadata struct {
			ResourceVersion string
			Annotations     map[string]*string
		}
	}
	if err := json.Unmarshal([]byte(request.Patch), &patch); err != nil {
		panic(err)
	}
	text := patch.Metadata.Annotations[v1alpha1.FailureAnnotation]
	if text == nil {
		r.tell("  Belay writes the status: %s", request.Patch)
		return
	}
	var failure struct {
		ReplicaSet, Message string
		Ready               int32
	}
	if err := json.Unmarshal([]byte(*text), &failure); err != nil {
		panic(err)
	}
	set := one[*appsv1.ReplicaSet](r.world, failure.ReplicaSet)
	r.tell("  Belay writes that %s failed: %s", image(set.Spec.Template), failure.Message)
	if outcomeOf(&set.Spec.Template).healthy {
		r.violated("%s is healthy, and is said to have failed: %s", image(set.Spec.Template), failure.Message)
	}
	if d := r.deployment(); patch.Metadata.ResourceVersion == d.ResourceVersion && d.Spec.Strategy.Type != appsv1.RecreateDeploymentStrategyType && r.verdict == nil {
		r.verdict = &capacity{min(failure.Ready, r.ready(), replicasOf(d)-unavailable(d))}
	}
}

// checkSet checks what is written about a ReplicaSet.
func (r *placeRun) checkSet(request fake.Request) {
	var patch struct {
		Metadata struct{ Labels map[string]*string }
	}
	if err := json.Unmarshal([]byte(request.Patch), &patch); err != nil {
		panic(err)
	}
	set := one[*appsv1.ReplicaSet](r.world, request.Name)
	if set == nil {
		return
	}
	r.tell("  Belay writes %s: %s", image(set.Spec.Template), request.Patch)
	o := outcomeOf(&set.Spec.Template)
	if v := patch.Metadata.Labels[v1alpha1.VerdictLabel]; v != nil && strings.HasPrefix(*v, v1alpha1.VerdictGood) && !o.healthy {
		r.violated("%s is bad, and is said to be good", image(set.Spec.Template))
	}
	held := patch.Metadata.Labels[v1alpha1.HeldAtLabel]
	if held != nil && strings.HasPrefix(*held, "0.") && o.healthy && r.isCurrent(set) {
		r.violated("%s is healthy and asked for, and is held at 0", image(set.Spec.Template))
	}
	if held != nil && !r.isGuarded() && r.cachedAsks() == r.deployment().Labels[v1alpha1.GuardedLabel] {
		r.violated("%s is held for a Deployment that is not guarded", image(set.Spec.Template))
	}
}

func (r *placeRun) cachedAsks() string {
	if d, _ := r.cached["deployments"].After.(*appsv1.Deployment); d != nil {
		return d.Labels[v1alpha1.GuardedLabel]
	}
	return ""
}

// hearOfPods checks that no ready pod goes that is needed.
func (r *placeRun) hearOfPods(change fake.Change) {
	before, was := change.Before.(*corev1.Pod)
	after, is := change.After.(*corev1.Pod)
	leaves := was && before.DeletionTimestamp == nil && isReady(before) && (!is || after.DeletionTimestamp != nil)
	if r.verdict == nil || !leaves {
		return
	}
	r.in(0, func() { // Nothing may be read here.
		if r.verdict != nil && r.ready() < r.verdict.least {
			r.violated("%s was ready and goes: %d are left, and %d are needed", before.Name, r.ready(), r.verdict.least)
		}
	})
}

func (r *placeRun) isGuarded() bool {
	return r.deployment().Labels[v1alpha1.GuardedLabel] == v1alpha1.GuardedInPlace
}

func (r *placeRun) isCurrent(set *appsv1.ReplicaSet) bool {
	return rollout.CurrentReplicaSet(r.deployment(), []*appsv1.ReplicaSet{set}) != nil
}

func (r *placeRun) ready() (n int32) {
	for _, set := range r.sets() {
		n += r.readyOf(set)
	}
	return n
}

func (r *placeRun) readyOf(set *appsv1.ReplicaSet) (n int32) {
	for _, pod := range r.podsOf(set) {
		n += int32(btoi(isReady(pod)))
	}
	return n
}

// unavailable returns how many pods may be missing.
func unavailable(d *appsv1.Deployment) int32 {
	if d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType {
		return replicasOf(d)
	}
	scaled := func(value *intstr.IntOrString, up bool) int {
		n, err := intstr.GetScaledValueFromIntOrPercent(value, int(replicasOf(d)), up)
		if err != nil {
			panic(err)
		}
		return n
	}
	of := d.Spec.Strategy.RollingUpdate
	n := scaled(of.MaxUnavailable, false)
	if n == 0 && scaled(of.MaxSurge, true) == 0 {
		n = 1
	}
	return min(int32(n), replicasOf(d))
}

func (r *placeRun) held() (all []string) {
	for _, set := range r.sets() {
		if n, held := rollout.HeldAt(set); held {
			all = append(all, fmt.Sprintf("%s at %d", image(set.Spec.Template), n))
		}
	}
	return all
}

// state tells what is there, for messages.
func (r *placeRun) state() string {
	d := r.deployment()
	all := []string{fmt.Sprintf("asked: %s x%d, paused %t, labels %v, failure %s, conditions %+v", image(d.Spec.Template), replicasOf(d), d.Spec.Paused, d.Labels, d.Annotations[v1alpha1.FailureAnnotation], d.Status.Conditions)}
	for _, set := range r.sets() {
		all = append(all, fmt.Sprintf("%s %s: %d, %d ready, labels %v, annotations %v", set.Name, image(set.Spec.Template), *set.Spec.Replicas, r.readyOf(set), set.Labels, set.Annotations["deployment.kubernetes.io/revision"]))
	}
	return strings.Join(all, "\n")
}
