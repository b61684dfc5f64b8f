package fakecluster

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
)

// The rest of the Deployment controller: what it does when the number of replicas changes, and its word on the rollout.

// isScaling reports whether an active ReplicaSet was scaled for another number of replicas than the Deployment has.
func (s *deploymentSync) isScaling(all []*appsv1.ReplicaSet) bool {
	return slices.ContainsFunc(activeOf(all), func(set *appsv1.ReplicaSet) bool {
		desired, err := strconv.Atoi(set.Annotations[desiredAnnotation])
		return err == nil && int32(desired) != s.wanted()
	})
}

// scaleOnly scales what is there, and reports counts without a word on the rollout.
func (s *deploymentSync) scaleOnly() {
	current, old := s.split(false)
	if s.conflicted {
		return
	}
	s.rescale(current, old)
	if status := s.status(current, old); !equality.Semantic.DeepEqual(s.d.Status, status) {
		s.writeStatus(status)
	}
}

func (s *deploymentSync) rescale(current *appsv1.ReplicaSet, old []*appsv1.ReplicaSet) {
	active := activeOf(append(slices.Clone(old), current))
	switch {
	case len(active) == 1:
		s.scale(active[0], s.wanted(), false)
	case len(active) == 0 && current != nil:
		s.scale(current, s.wanted(), false)
	case len(active) == 0 && len(old) > 0:
		s.scale(slices.MaxFunc(old, olderFirst), s.wanted(), false)
	case len(active) == 0:
	case s.isSaturated(current):
		for _, set := range activeOf(old) {
			s.scale(set, 0, false)
		}
	case !s.recreates():
		s.rescaleInProportion(active)
	}
}

func (s *deploymentSync) isSaturated(set *appsv1.ReplicaSet) bool {
	return set != nil && *set.Spec.Replicas == s.wanted() && set.Annotations[desiredAnnotation] == fmt.Sprint(s.wanted()) && set.Status.AvailableReplicas == s.wanted()
}

// rescaleInProportion gives more, or less, to all that are active, by how large they are; what is left over to the largest.
func (s *deploymentSync) rescaleInProportion(active []*appsv1.ReplicaSet) {
	surge, _ := s.fenceposts()
	allowed := int32(0)
	if s.wanted() > 0 {
		allowed = s.wanted() + surge
	}
	add := allowed - specOf(active)
	slices.SortStableFunc(active, func(a, b *appsv1.ReplicaSet) int {
		byAge := olderFirst(a, b)
		if add > 0 {
			byAge = -byAge
		}
		return cmp.Or(cmp.Compare(*b.Spec.Replicas, *a.Spec.Replicas), byAge)
	})
	added, sizes := int32(0), make([]int32, len(active))
	for i, set := range active {
		share := s.fraction(set, surge)
		if left := add - added; add > 0 {
			share = min(share, left)
		} else {
			share = max(share, left)
		}
		if add == 0 || add == added {
			share = 0
		}
		sizes[i] = *set.Spec.Replicas + share
		added += share
	}
	sizes[0] = max(0, sizes[0]+add-added)
	for i, set := range active {
		s.scale(set, sizes[i], true)
	}
}

// fraction returns by how much a ReplicaSet grows if all grow alike.
func (s *deploymentSync) fraction(set *appsv1.ReplicaSet, surge int32) int32 {
	has := *set.Spec.Replicas
	if s.wanted() == 0 {
		return -has
	}
	before, err := strconv.Atoi(set.Annotations[mostAnnotation])
	if err != nil || before == 0 {
		before = int(s.d.Status.Replicas)
	}
	if before == 0 {
		return 0
	}
	return int32(math.Round(float64(has*(s.wanted()+surge))/float64(before))) - has
}

// ---- its word

func (s *deploymentSync) hasDeadline() bool {
	return s.d.Spec.ProgressDeadlineSeconds != nil && *s.d.Spec.ProgressDeadlineSeconds != math.MaxInt32
}

func conditionOf(status *appsv1.DeploymentStatus) *appsv1.DeploymentCondition {
	return findCondition(status, appsv1.DeploymentProgressing)
}

func findCondition(status *appsv1.DeploymentStatus, kind appsv1.DeploymentConditionType) *appsv1.DeploymentCondition {
	for i := range status.Conditions {
		if status.Conditions[i].Type == kind {
			return &status.Conditions[i]
		}
	}
	return nil
}

func (s *deploymentSync) setProgressing(status *appsv1.DeploymentStatus, truth corev1.ConditionStatus, reason, message string) {
	s.setCondition(status, appsv1.DeploymentProgressing, truth, reason, message)
}

// setCondition sets a condition, unless there is one with that reason: its message and its times stay.
func (s *deploymentSync) setCondition(status *appsv1.DeploymentStatus, kind appsv1.DeploymentConditionType, truth corev1.ConditionStatus, reason, message string) {
	c := appsv1.DeploymentCondition{Type: kind, Status: truth, Reason: reason, Message: message,
		LastUpdateTime: s.w.stamped(), LastTransitionTime: s.w.stamped()}
	if before := findCondition(status, kind); before != nil && before.Status == truth {
		if before.Reason == reason {
			return
		}
		c.LastTransitionTime = before.LastTransitionTime
	}
	dropCondition(status, kind)
	status.Conditions = append(status.Conditions, c)
}

func dropCondition(status *appsv1.DeploymentStatus, kind appsv1.DeploymentConditionType) {
	status.Conditions = slices.DeleteFunc(slices.Clone(status.Conditions), func(c appsv1.DeploymentCondition) bool { return c.Type == kind })
}

// pauseCondition says that the Deployment is paused, or no more, unless a deadline was exceeded.
func (s *deploymentSync) pauseCondition() {
	if !s.hasDeadline() {
		return
	}
	c := conditionOf(&s.d.Status)
	if c != nil && c.Reason == "ProgressDeadlineExceeded" {
		return
	}
	said := c != nil && c.Reason == "DeploymentPaused"
	switch {
	case s.d.Spec.Paused && !said:
		s.setProgressing(&s.d.Status, corev1.ConditionUnknown, "DeploymentPaused", "Deployment is paused")
	case !s.d.Spec.Paused && said:
		s.setProgressing(&s.d.Status, corev1.ConditionUnknown, "DeploymentResumed", "Deployment is resumed")
	default:
		return
	}
	s.writeStatus(s.d.Status)
}

// status returns what is to be reported, with the conditions as they were but for Available.
func (s *deploymentSync) status(current *appsv1.ReplicaSet, old []*appsv1.ReplicaSet) appsv1.DeploymentStatus {
	status := appsv1.DeploymentStatus{ObservedGeneration: s.d.Generation, Conditions: s.d.Status.DeepCopy().Conditions, CollisionCount: s.d.Status.CollisionCount}
	all := old
	if current != nil {
		status.UpdatedReplicas = current.Status.Replicas
		all = append(slices.Clone(old), current)
	}
	for _, set := range all {
		status.Replicas += set.Status.Replicas
		status.ReadyReplicas += set.Status.ReadyReplicas
		status.AvailableReplicas += set.Status.AvailableReplicas
	}
	status.UnavailableReplicas = max(0, specOf(all)-status.AvailableReplicas)
	if _, unavailable := s.fenceposts(); status.AvailableReplicas >= s.wanted()-unavailable {
		s.setCondition(&status, appsv1.DeploymentAvailable, corev1.ConditionTrue, "MinimumReplicasAvailable", "Deployment has minimum availability.")
	} else {
		s.setCondition(&status, appsv1.DeploymentAvailable, corev1.ConditionFalse, "MinimumReplicasUnavailable", "Deployment does not have minimum availability.")
	}
	return status
}

func (s *deploymentSync) isComplete(status *appsv1.DeploymentStatus) bool {
	return status.UpdatedReplicas == s.wanted() && status.Replicas == s.wanted() && status.AvailableReplicas == s.wanted() && status.ObservedGeneration >= s.d.Generation
}

// report writes the counts and the word on the rollout, or says when to look again.
func (s *deploymentSync) report(current *appsv1.ReplicaSet, old []*appsv1.ReplicaSet) {
	status, before := s.status(current, old), conditionOf(&s.d.Status)
	if !s.hasDeadline() {
		dropCondition(&status, appsv1.DeploymentProgressing)
	}
	name := "none"
	if current != nil {
		name = current.Name
	}
	if isOld := status.Replicas == status.UpdatedReplicas && before != nil && before.Reason == "NewReplicaSetAvailable"; s.hasDeadline() && !isOld {
		switch was := s.d.Status; {
		case s.isComplete(&status):
			s.setProgressing(&status, corev1.ConditionTrue, "NewReplicaSetAvailable", fmt.Sprintf("ReplicaSet %q has successfully progressed.", name))
		case status.UpdatedReplicas > was.UpdatedReplicas || status.Replicas-status.UpdatedReplicas < was.Replicas-was.UpdatedReplicas ||
			status.ReadyReplicas > was.ReadyReplicas || status.AvailableReplicas > was.AvailableReplicas:
			c := appsv1.DeploymentCondition{LastTransitionTime: s.w.stamped()}
			if before != nil && before.Status == corev1.ConditionTrue {
				c = *before
			}
			dropCondition(&status, appsv1.DeploymentProgressing)
			s.setProgressing(&status, corev1.ConditionTrue, "ReplicaSetUpdated", fmt.Sprintf("ReplicaSet %q is progressing.", name))
			conditionOf(&status).LastTransitionTime = c.LastTransitionTime
		case s.isOverdue(before):
			s.setProgressing(&status, corev1.ConditionFalse, "ProgressDeadlineExceeded", fmt.Sprintf("ReplicaSet %q has timed out progressing.", name))
		}
	}
	if !equality.Semantic.DeepEqual(s.d.Status, status) {
		s.writeStatus(status)
		return
	}
	s.lookAgain(&status, before)
}

func (s *deploymentSync) deadline() time.Duration {
	return time.Duration(*s.d.Spec.ProgressDeadlineSeconds) * time.Second
}

func (s *deploymentSync) isOverdue(c *appsv1.DeploymentCondition) bool {
	return c != nil && c.Reason != "NewReplicaSetAvailable" && (c.Reason == "ProgressDeadlineExceeded" || s.w.Now().Sub(c.LastUpdateTime.Time) > s.deadline())
}

// lookAgain says when the deadline is over. If it is, and the rollout is neither complete nor called overdue, that is at once, again
// and again.
func (s *deploymentSync) lookAgain(status *appsv1.DeploymentStatus, c *appsv1.DeploymentCondition) {
	if !s.hasDeadline() || c == nil || c.Reason == "ProgressDeadlineExceeded" || s.isComplete(status) {
		return
	}
	if left := s.deadline() - s.w.Now().Sub(c.LastUpdateTime.Time); left < time.Second {
		s.again = rateLimited
	} else {
		s.again = left + time.Second
	}
}

// writeStatus writes the status and the annotations. It can do so once in a sync: what it would send then is older than what it wrote.
func (s *deploymentSync) writeStatus(status appsv1.DeploymentStatus) {
	update := copied(s.d)
	update.Status = *status.DeepCopy()
	s.write(update, true)
}
