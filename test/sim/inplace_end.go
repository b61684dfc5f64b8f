package sim

import (
	"fmt"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
	"github.com/belay-dev/belay/pkg/rollout"
)

// What must hold in the end.

// settle waits until all is as it ought to be, and makes sure that it stays so.
func (r *placeRun) settle() {
	r.wait(3*time.Second, nil)
	asIt := func() bool { return r.wrong() == "" }
	if r.failed || (!asIt() && !r.wait(bound+2*time.Minute, asIt)) {
		r.violated("it does not end as it ought to: %s", r.wrong())
		return
	}
	r.tell("it has settled")
	if n := len(r.log) - r.written; n > r.mayWrite() {
		r.violated("%d writes since somebody did something, of at most %d", n, r.mayWrite())
	}
	r.wait(30*time.Second, nil)
	if !asIt() && !r.wait(bound, asIt) {
		r.violated("it does not stay as it ought to be: %s", r.wrong())
	}
}

// mayWrite returns how much may be written since somebody did something last: three attempts with their Events, and what a process that
// dies at writes does again.
func (r *placeRun) mayWrite() int {
	if r.nasty {
		return 60
	}
	return 30
}

// wrong says what is not as it ought to be when nothing happens any more, empty if all is.
func (r *placeRun) wrong() string {
	d := r.deployment()
	if d.Spec.Paused {
		return ""
	}
	var current, good *appsv1.ReplicaSet
	for _, set := range r.sets() {
		switch verdict := set.Labels[v1alpha1.VerdictLabel]; {
		case r.isCurrent(set):
			current = set
		case strings.HasSuffix(verdict, "."+string(set.UID)) && (good == nil || r.number(set) > r.number(good)):
			good = set
		}
	}
	held := r.held()
	switch {
	case current == nil:
		return "the template has no ReplicaSet"
	case replicasOf(d) == 0 || !r.isGuarded() || outcomeOf(&d.Spec.Template).healthy:
		return r.wrongUnheld(current, held)
	case good == nil || !r.policy || strings.Contains(d.Annotations[v1alpha1.GuardAnnotation], `"Hold"`):
		return r.wrongLeft(current, held)
	default:
		return r.wrongBack(current, good)
	}
}

func (r *placeRun) number(set *appsv1.ReplicaSet) (n int) {
	_, _ = fmt.Sscan(set.Annotations["deployment.kubernetes.io/revision"], &n)
	return n
}

// wrongUnheld is about what is at zero, not guarded, or healthy.
func (r *placeRun) wrongUnheld(current *appsv1.ReplicaSet, held []string) string {
	d := r.deployment()
	switch {
	case len(held) > 0:
		return fmt.Sprintf("held without a reason: %v", held)
	case !outcomeOf(&d.Spec.Template).healthy && replicasOf(d) > 0:
		return ""
	case *current.Spec.Replicas != replicasOf(d) || r.readyOf(current) != replicasOf(d) || r.ready() != replicasOf(d):
		return fmt.Sprintf("%d of %d are ready, %d of all", r.readyOf(current), replicasOf(d), r.ready())
	case replicasOf(d) > 0 && r.isGuarded() && !strings.HasSuffix(current.Labels[v1alpha1.VerdictLabel], "."+string(current.UID)):
		return "it is not said to be good"
	case replicasOf(d) > 0 && r.isGuarded() && strings.Contains(d.Annotations[v1alpha1.FailureAnnotation], current.Name):
		return "its failure is told of" // Undo may bring back what is told of another one.
	}
	return ""
}

// wrongLeft is about what failed and is left as it is.
func (r *placeRun) wrongLeft(current *appsv1.ReplicaSet, held []string) string {
	switch {
	case len(held) > 0:
		return fmt.Sprintf("held, and not to be: %v", held)
	case !strings.Contains(r.deployment().Annotations[v1alpha1.FailureAnnotation], current.Name):
		return "its failure is not told of"
	}
	return ""
}

// wrongBack is about what failed and is taken back.
func (r *placeRun) wrongBack(current, good *appsv1.ReplicaSet) string {
	d := r.deployment()
	n, isHeld := rollout.HeldAt(current)
	switch {
	case !isHeld || n != 0 || *current.Spec.Replicas != 0:
		return fmt.Sprintf("%s failed, and has %d replicas, held %t", image(current.Spec.Template), *current.Spec.Replicas, isHeld)
	case r.readyOf(good) != replicasOf(d) || *good.Spec.Replicas != replicasOf(d):
		return fmt.Sprintf("%d of %d are ready of %s, which was good", r.readyOf(good), replicasOf(d), image(good.Spec.Template))
	case r.ready() != replicasOf(d):
		return fmt.Sprintf("%d are ready of all, %d are wanted", r.ready(), replicasOf(d))
	case !strings.Contains(d.Annotations[v1alpha1.FailureAnnotation], current.Name):
		return "the failure is not told of"
	}
	if c := r.progressing(d); d.Spec.Strategy.Type != appsv1.RecreateDeploymentStrategyType && (c == nil || c.Status != corev1.ConditionFalse || !strings.Contains(c.Message, current.Name+" failed")) {
		return fmt.Sprintf("the condition is %+v", c)
	}
	return ""
}

// rest checks that nothing is written in nine minutes, neither by Belay nor, where all pods are well, by the Deployment controller.
func (r *placeRun) rest() {
	if r.failed {
		return
	}
	retries := strings.Contains(r.deployment().Annotations[v1alpha1.GuardAnnotation], `"retries":1`)
	r.wait(2*time.Minute, nil)
	begun, before := len(r.log), r.exact.writes
	r.wait(9*time.Minute, nil)
	for _, l := range r.log[begun:] {
		if l.write != "patch events" && !retries {
			r.violated("at rest, %s is written", l.write)
			return
		}
	}
	ill := slices.ContainsFunc(r.pods(), func(pod *corev1.Pod) bool { return !r.outcomeNow(pod.Spec, pod.CreationTimestamp).healthy })
	if n := r.exact.writes - before; n > 0 && !ill && !retries {
		r.violated("at rest, the Deployment controller writes %d times", n)
	}
}
