package faults

import (
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// stateOf says which condition is True with a reason, of those that leave no choice.
var stateOf = map[string]string{
	v1alpha1.ReasonRolledOut:   v1alpha1.ConditionReady,
	v1alpha1.ReasonProgressing: v1alpha1.ConditionReconciling,
	v1alpha1.ReasonSoaking:     v1alpha1.ConditionReconciling,
	v1alpha1.ReasonRolledBack:  v1alpha1.ConditionStalled,
}

// statesTold: of Ready, Reconciling and Stalled one is True, the one that goes with the reason of Ready, and none has a false reason.
func (t *told) statesTold(say func(string, ...any)) {
	for _, s := range t.sights {
		g, ok := s.object.(*v1alpha1.GuardedDeployment)
		if !ok || len(g.Status.Conditions) == 0 {
			continue
		}
		var are []string
		why := ""
		for _, kind := range []string{v1alpha1.ConditionReady, v1alpha1.ConditionReconciling, v1alpha1.ConditionStalled} {
			c := meta.FindStatusCondition(g.Status.Conditions, kind)
			switch {
			case c == nil:
				say("the status has no %s", kind)
				continue
			case t.isFalse(c.Reason):
				say("%s says %s: %s", kind, c.Reason, c.Message)
			}
			if kind == v1alpha1.ConditionReady {
				why = c.Reason
			}
			if meta.IsStatusConditionTrue(g.Status.Conditions, kind) {
				are = append(are, kind)
			}
		}
		if want := stateOf[why]; len(are) != 1 || want != "" && are[0] != want {
			say("%q are True by %s", are, why)
		}
	}
}

// counts are how many pods there are, and whether they are enough.
type counts struct {
	replicas, updated, ready, available int32
	enough                              bool
}

// countsTold: the status has the counts that the Deployment had at one time, with its own word on them, or none.
func (t *told) countsTold(say func(string, ...any)) {
	if t.gaps {
		return
	}
	were := map[counts]bool{{}: true}
	for _, s := range t.inOrder() {
		switch object := s.object.(type) {
		case *appsv1.Deployment:
			is := object.Status
			enough := slices.ContainsFunc(is.Conditions, func(c appsv1.DeploymentCondition) bool {
				return c.Type == appsv1.DeploymentAvailable && c.Status == "True"
			})
			were[counts{is.Replicas, is.UpdatedReplicas, is.ReadyReplicas, is.AvailableReplicas, enough}] = true
		case *v1alpha1.GuardedDeployment:
			is := object.Status
			told := counts{is.Replicas, is.UpdatedReplicas, is.ReadyReplicas, is.AvailableReplicas, meta.IsStatusConditionTrue(is.Conditions, v1alpha1.ConditionAvailable)}
			if !were[told] {
				say("the status says %+v of the pods, and the Deployment never did", told)
			}
		}
	}
}

// carry is that the Deployment came to carry the name of another revision, empty if it carries none or is gone.
type carry struct {
	rv       uint64
	revision string
}

// carries returns them in order. First there is none.
func (t *told) carries() []carry {
	all := []carry{{}}
	for _, s := range t.sights {
		d, ok := s.object.(*appsv1.Deployment)
		if !ok {
			continue
		}
		revision := d.Annotations[v1alpha1.RevisionAnnotation]
		if s.deleted {
			revision = ""
		}
		if revision != all[len(all)-1].revision {
			all = append(all, carry{s.rv, revision})
		}
	}
	return all
}

// runningTold: when the status is written, the revision that it says to run is the one that the Deployment carries, the one before or the
// one after: one write may be under way. At the end it is the one.
func (t *told) runningTold(say func(string, ...any)) {
	carries, was := t.carries(), &v1alpha1.GuardedDeployment{}
	for _, s := range t.sights {
		g, ok := s.object.(*v1alpha1.GuardedDeployment)
		if !ok || s.deleted {
			continue
		}
		next := slices.IndexFunc(carries, func(c carry) bool { return c.rv > s.rv })
		if next < 0 {
			next = len(carries)
		}
		near := carries[max(0, next-2):min(len(carries), next+1)]
		isIt := slices.ContainsFunc(near, func(c carry) bool { return c.revision == g.Status.RunningRevision })
		if !isIt && !t.gaps && !equality.Semantic.DeepEqual(g.Status, was.Status) {
			say("the status says that %s runs, and the Deployment carried %v", g.Status.RunningRevision, near)
		}
		was = g
	}
	if last := carries[len(carries)-1]; t.ended && !t.inPlace() && was.Status.RunningRevision != last.revision {
		say("at the end the status says that %s runs, and the Deployment carries %s", was.Status.RunningRevision, last.revision)
	}
}
