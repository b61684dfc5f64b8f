package fakecluster

import (
	"cmp"
	"fmt"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// How the Deployment controller goes on with a rollout: which ReplicaSet grows, and which shrinks.

// fenceposts returns maxSurge and maxUnavailable. One of them is not 0 where there are replicas.
func (s *deploymentSync) fenceposts() (surge, unavailable int32) {
	if s.recreates() {
		return 0, 0
	}
	quarter := intstr.FromString("25%")
	rolling := cmp.Or(s.d.Spec.Strategy.RollingUpdate, &appsv1.RollingUpdateDeployment{})
	scaled := func(value *intstr.IntOrString, up bool) int32 {
		n, err := intstr.GetScaledValueFromIntOrPercent(cmp.Or(value, &quarter), int(s.wanted()), up)
		must(err)
		return int32(n)
	}
	surge, unavailable = scaled(rolling.MaxSurge, true), scaled(rolling.MaxUnavailable, false)
	if surge == 0 && unavailable == 0 {
		unavailable = 1
	}
	return surge, min(unavailable, s.wanted())
}

// mayGrowTo returns how many pods the current ReplicaSet may have by now.
func (s *deploymentSync) mayGrowTo(current *appsv1.ReplicaSet, old []*appsv1.ReplicaSet) int32 {
	if s.recreates() {
		return s.wanted()
	}
	surge, _ := s.fenceposts()
	has := *current.Spec.Replicas
	return has + max(0, min(s.wanted()+surge-has-specOf(old), s.wanted()-has))
}

// scale writes a ReplicaSet's number of pods, and the annotations if that changes or they are to be right in any case. It reports
// whether the number was another one: what the API server makes of it is not looked at.
func (s *deploymentSync) scale(set *appsv1.ReplicaSet, n int32, force bool) (scaled bool) {
	scaled = *set.Spec.Replicas != n
	surge, _ := s.fenceposts()
	wanted, most := fmt.Sprint(s.wanted()), fmt.Sprint(s.wanted()+surge)
	if !scaled && (!force || (set.Annotations[desiredAnnotation] == wanted && set.Annotations[mostAnnotation] == most)) {
		return false
	}
	update := copied(set)
	update.Spec.Replicas = &n
	metav1.SetMetaDataAnnotation(&update.ObjectMeta, desiredAnnotation, wanted)
	metav1.SetMetaDataAnnotation(&update.ObjectMeta, mostAnnotation, most)
	if written := s.write(update, false); written != nil {
		set.ObjectMeta = written.(*appsv1.ReplicaSet).ObjectMeta
	}
	return scaled
}

// growCurrent is the first half of a rolling update.
func (s *deploymentSync) growCurrent(current *appsv1.ReplicaSet, old []*appsv1.ReplicaSet) (scaled bool) {
	switch has := *current.Spec.Replicas; {
	case has == s.wanted():
		return false
	case has > s.wanted():
		return s.scale(current, s.wanted(), false)
	default:
		return s.scale(current, s.mayGrowTo(current, old), false)
	}
}

// shrinkOld is the second half: first what is not available goes, then what is not needed.
func (s *deploymentSync) shrinkOld(current *appsv1.ReplicaSet, old []*appsv1.ReplicaSet) (scaled bool) {
	old = activeOf(old)
	_, unavailable := s.fenceposts()
	least := s.wanted() - unavailable
	dispensable := specOf(old) + *current.Spec.Replicas - least - (*current.Spec.Replicas - current.Status.AvailableReplicas)
	if specOf(old) == 0 || dispensable <= 0 {
		return false
	}
	size := map[*appsv1.ReplicaSet]int32{}
	spare := current.Status.AvailableReplicas - least
	for _, set := range old {
		spare += set.Status.AvailableReplicas
		size[set] = *set.Spec.Replicas
		if ill := min(dispensable, size[set]-set.Status.AvailableReplicas); ill > 0 {
			dispensable -= ill
			size[set] -= ill
			scaled = s.scale(set, size[set], false) || scaled
			set.Spec.Replicas = new(size[set]) // It is not looked at what the API server made of it.
		}
	}
	for _, set := range old {
		if n := min(spare, size[set]); n > 0 {
			spare -= n
			scaled = s.scale(set, size[set]-n, false) || scaled
		}
	}
	return scaled
}

// recreate is strategy Recreate.
func (s *deploymentSync) recreate() {
	current, old := s.split(false)
	scaled := false
	for _, set := range activeOf(old) {
		scaled = s.scale(set, 0, false) || scaled
	}
	if scaled || s.oldPodsRun(current, old) {
		s.report(current, old)
		return
	}
	if current == nil {
		if current, old = s.split(true); s.conflicted {
			return
		}
	}
	s.scale(current, s.wanted(), false)
	s.cleanUp(old)
	s.report(current, old)
}

func (s *deploymentSync) oldPodsRun(current *appsv1.ReplicaSet, old []*appsv1.ReplicaSet) bool {
	for _, o := range s.w.Objects("pods") {
		pod := o.(*corev1.Pod)
		ended := pod.Status.Phase == corev1.PodFailed || pod.Status.Phase == corev1.PodSucceeded
		if ours := slices.ContainsFunc(s.sets, func(set *appsv1.ReplicaSet) bool { return metav1.IsControlledBy(pod, set) }); ours && !ended && (current == nil || !metav1.IsControlledBy(pod, current)) {
			return true
		}
	}
	return slices.ContainsFunc(old, func(set *appsv1.ReplicaSet) bool { return set.Status.Replicas > 0 })
}

func activeOf(sets []*appsv1.ReplicaSet) (active []*appsv1.ReplicaSet) {
	for _, set := range sets {
		if set != nil && *set.Spec.Replicas > 0 {
			active = append(active, set)
		}
	}
	return active
}

func specOf(sets []*appsv1.ReplicaSet) (n int32) {
	for _, set := range activeOf(sets) {
		n += *set.Spec.Replicas
	}
	return n
}
