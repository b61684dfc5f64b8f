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
	"k8s.io/apimachinery/pkg/util/intstr"
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

// mayGrowTo returns how many pods the current ReplicaSet may have by now.
func (s *deploymentSync) mayGrowTo(current *appsv1.ReplicaSet, old []*appsv1.ReplicaSet) int32 {
	if s.recreates() {
		return s.wanted()
	}
	surge, _ := s.fenceposts()
	has := *current.Spec.Replicas
	return has + max(0, min(s.wanted()+surge-has-specOf(old), s.wanted()-has))
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
