package fakecluster

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// What the Deployment controller notes on a ReplicaSet that it scales.
const (
	desiredAnnotation = "deployment.kubernetes.io/desired-replicas"
	mostAnnotation    = "deployment.kubernetes.io/max-replicas"
	historyAnnotation = "deployment.kubernetes.io/revision-history"
)

// rateLimited is how soon the Deployment controller tries again after an error, or where a deadline is over: its queue lets ten keys a
// second pass.
const rateLimited = 100 * time.Millisecond

// Sync is what one sync of the Deployment controller came to.
type Sync struct {
	// Writes is how many writes it sent, also those that changed nothing.
	Writes int
	// Again is when it looks again although nothing happens, 0 for never.
	Again time.Duration
}

// SyncDeployment does what the Deployment controller of Kubernetes 1.37 does in one sync, in all that a hold of a ReplicaSet
// meets: which ReplicaSet is scaled, what is taken for a scaling, the condition Progressing, numbers, annotations, clean-up. Its cache
// has all that is stored when it begins.
func (w *World) SyncDeployment(name string) Sync {
	s := &deploymentSync{w: w}
	stored, there := Read[*appsv1.Deployment](w, name)
	if !there || stored.DeletionTimestamp != nil {
		return Sync{}
	}
	s.d = stored
	for _, o := range w.Objects("replicasets") {
		if set := o.(*appsv1.ReplicaSet); metav1.IsControlledBy(set, s.d) {
			s.sets = append(s.sets, copied(set))
		}
	}
	s.sync()
	return Sync{s.writes, s.again}
}

type deploymentSync struct {
	w    *World
	d    *appsv1.Deployment // its status changes before it is written
	sets []*appsv1.ReplicaSet

	writes     int
	again      time.Duration
	conflicted bool // the rest of the sync fails
}

func (s *deploymentSync) wanted() int32 { return *s.d.Spec.Replicas }

func (s *deploymentSync) recreates() bool {
	return s.d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType
}

// sync is the whole sync.
func (s *deploymentSync) sync() {
	if s.pauseCondition(); s.d.Spec.Paused {
		s.scaleOnly()
		return
	}
	if current, old := s.split(false); s.conflicted {
		return
	} else if s.isScaling(append(old, current)) {
		s.scaleOnly()
		return
	}
	if s.recreates() {
		s.recreate()
		return
	}
	current, old := s.split(true)
	if s.conflicted {
		return
	}
	if s.growCurrent(current, old) || s.shrinkOld(current, old) {
		s.report(current, old)
		return
	}
	s.cleanUp(old)
	s.report(current, old)
}

// split returns the ReplicaSet of the template, made if there is none and it shall be, with its number and the Deployment's
// annotations, and the others.
func (s *deploymentSync) split(create bool) (current *appsv1.ReplicaSet, old []*appsv1.ReplicaSet) {
	slices.SortStableFunc(s.sets, olderFirst)
	for _, set := range s.sets {
		if template := copied(set).Spec.Template; current == nil && s.isTemplate(template) {
			current = set
		} else {
			old = append(old, set)
		}
	}
	switch {
	case current != nil:
		s.syncCurrent(current, old)
	case create:
		current = s.create(old)
	}
	return current, old
}

func olderFirst(a, b *appsv1.ReplicaSet) int {
	return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), strings.Compare(a.Name, b.Name))
}

func (s *deploymentSync) isTemplate(template corev1.PodTemplateSpec) bool {
	delete(template.Labels, appsv1.DefaultDeploymentUniqueLabelKey)
	return equality.Semantic.DeepEqual(template, s.d.Spec.Template)
}

// syncCurrent brings the annotations of the current ReplicaSet up to date. After that the sync fails: what it has is old.
func (s *deploymentSync) syncCurrent(current *appsv1.ReplicaSet, old []*appsv1.ReplicaSet) {
	update := copied(current)
	update.Spec.MinReadySeconds = s.d.Spec.MinReadySeconds
	s.annotate(update, old)
	if !equality.Semantic.DeepEqual(current, update) {
		s.write(update, false)
		s.fail()
		return
	}
	number := current.Annotations[RevisionAnnotation]
	moves := s.d.Annotations[RevisionAnnotation] != number
	metav1.SetMetaDataAnnotation(&s.d.ObjectMeta, RevisionAnnotation, number)
	if s.hasDeadline() && conditionOf(&s.d.Status) == nil {
		s.setProgressing(&s.d.Status, corev1.ConditionTrue, "FoundNewReplicaSet", fmt.Sprintf("Found new replica set %q", current.Name))
		moves = true
	}
	if moves {
		s.writeStatus(s.d.Status)
	}
}

// annotate gives to a ReplicaSet the annotations of the Deployment, and its number.
func (s *deploymentSync) annotate(set *appsv1.ReplicaSet, old []*appsv1.ReplicaSet) {
	if set.Annotations == nil {
		set.Annotations = map[string]string{}
	}
	skipped := []string{corev1.LastAppliedConfigAnnotation, RevisionAnnotation, historyAnnotation, desiredAnnotation, mostAnnotation, appsv1.DeprecatedRollbackTo}
	for key, value := range s.d.Annotations {
		if !slices.Contains(skipped, key) {
			set.Annotations[key] = value
		}
	}
	before := set.Annotations[RevisionAnnotation]
	if Number(set, old) && before != "" {
		set.Annotations[historyAnnotation] = strings.TrimPrefix(set.Annotations[historyAnnotation]+","+before, ",")
	}
}

// create makes the ReplicaSet of the template. Its status is written before the generation counts as observed.
func (s *deploymentSync) create(old []*appsv1.ReplicaSet) *appsv1.ReplicaSet {
	hash := templateHash(s.d)
	set := &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Name: s.d.Name + "-" + hash, Namespace: s.d.Namespace,
		OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(s.d, appsv1.SchemeGroupVersion.WithKind("Deployment"))}}}
	set.Spec = appsv1.ReplicaSetSpec{Replicas: new(int32), MinReadySeconds: s.d.Spec.MinReadySeconds, Selector: s.d.Spec.Selector.DeepCopy(), Template: *s.d.Spec.Template.DeepCopy()}
	set.Spec.Selector.MatchLabels[appsv1.DefaultDeploymentUniqueLabelKey] = hash
	metav1.SetMetaDataLabel(&set.Spec.Template.ObjectMeta, appsv1.DefaultDeploymentUniqueLabelKey, hash)
	set.Labels = maps.Clone(set.Spec.Template.Labels)
	set.Spec.Replicas = new(s.mayGrowTo(set, old))
	s.annotate(set, old)
	surge, _ := s.fenceposts()
	set.Annotations[desiredAnnotation], set.Annotations[mostAnnotation] = fmt.Sprint(s.wanted()), fmt.Sprint(s.wanted()+surge)
	s.writes++
	set = Add(s.w, set)
	s.sets = append(s.sets, set)
	metav1.SetMetaDataAnnotation(&s.d.ObjectMeta, RevisionAnnotation, set.Annotations[RevisionAnnotation])
	if s.hasDeadline() {
		s.setProgressing(&s.d.Status, corev1.ConditionTrue, "NewReplicaSetCreated", fmt.Sprintf("Created new replica set %q", set.Name))
	}
	s.writeStatus(s.d.Status)
	return set
}

// write sends an update of what was read, and returns what is stored then, nil if somebody wrote it meanwhile: the sync has failed, and
// writes nothing more.
func (s *deploymentSync) write(o Object, status bool) Object {
	if s.conflicted {
		return nil
	}
	s.writes++
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	written, err := s.w.update(ResourceOf(o), o, status)
	if err != nil {
		s.fail()
		return nil
	}
	return written
}

// fail ends the sync, which is tried again.
func (s *deploymentSync) fail() { s.conflicted, s.again = true, rateLimited }

// cleanUp deletes what the history has no room for, when the rollout is complete.
func (s *deploymentSync) cleanUp(old []*appsv1.ReplicaSet) {
	if limit := int(*cmp.Or(s.d.Spec.RevisionHistoryLimit, new(int32(10)))); s.isComplete(&s.d.Status) && limit < math.MaxInt32 {
		slices.SortStableFunc(old, func(a, b *appsv1.ReplicaSet) int { return cmp.Compare(numberOf(a), numberOf(b)) })
		for _, set := range old[:max(0, len(old)-limit)] {
			if set.Status.Replicas == 0 && *set.Spec.Replicas == 0 && set.Generation <= set.Status.ObservedGeneration {
				s.writes++
				Remove[*appsv1.ReplicaSet](s.w, set.Name)
			}
		}
	}
}

func numberOf(set *appsv1.ReplicaSet) int {
	n, _ := strconv.Atoi(set.Annotations[RevisionAnnotation])
	return n
}
