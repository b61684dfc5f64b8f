package rollout

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// The Deployment controller gives the replicas to the newest ReplicaSet. A release that failed is kept from them by a hold: a label by
// which the API server itself keeps spec.replicas at a number, whoever writes. This is the plan of who is held at what.

const (
	// setDesired and setMost are where the Deployment controller notes on a ReplicaSet how many pods the Deployment wanted when it was
	// scaled, and how many it might have had. Where the first is another number than the Deployment has, each sync is taken for a scaling,
	// and nothing is rolled out (k8s.io/kubernetes/pkg/controller/deployment, isScalingEvent).
	setDesired, setMost = "deployment.kubernetes.io/desired-replicas", "deployment.kubernetes.io/max-replicas"
)

// SetChange is what to write on a ReplicaSet.
type SetChange struct {
	Set *appsv1.ReplicaSet
	// Labels and Annotations are those to set, nil for one to take away.
	Labels, Annotations map[string]*string
	// Replicas is spec.replicas, nil if that stays, or is the hold's.
	Replicas *int32
}

// Hold returns the number that the set is held at after the change, and whether the change is for that.
func (c *SetChange) Hold() (int32, bool) {
	if c.Labels[v1alpha1.HeldAtLabel] == nil {
		return 0, false
	}
	held := &appsv1.ReplicaSet{ObjectMeta: c.Set.ObjectMeta}
	held.Labels = map[string]string{v1alpha1.HeldAtLabel: *c.Labels[v1alpha1.HeldAtLabel]}
	return HeldAt(held)
}

// Moves reports whether pods may come or go with the change.
func (c *SetChange) Moves() bool {
	label, touched := c.Labels[v1alpha1.HeldAtLabel]
	_, held := c.Set.Labels[v1alpha1.HeldAtLabel]
	return c.Replicas != nil || label != nil || (touched && held)
}

// LetGo returns the change that ends the set's hold, nil if it has none of its own. While it was held, the Deployment controller may have
// noted another number of replicas on it than it has: where the Deployment, nil if it is gone, wants that, nobody else would note it.
func LetGo(d *appsv1.Deployment, set *appsv1.ReplicaSet) *SetChange {
	if _, held := HeldAt(set); !held {
		return nil
	}
	c := &SetChange{Set: set, Labels: map[string]*string{v1alpha1.HeldAtLabel: nil}, Annotations: map[string]*string{}}
	if has := valueOr(set.Spec.Replicas, 0); d != nil && has > 0 && has == valueOr(d.Spec.Replicas, 1) {
		c.noteSize(roomOf(d))
	}
	return c
}

// noteSize notes on the set, if it has not, how many pods the Deployment wants and may have.
func (c *SetChange) noteSize(r room) {
	for key, value := range map[string]int32{setDesired: r.wanted, setMost: r.wanted + r.surge} {
		if text := fmt.Sprint(value); c.Set.Annotations[key] != text {
			c.Annotations[key] = &text
		}
	}
}

// misnoted returns the change that puts the noted size right of a set that has as many pods as the Deployment wants, and a note of another
// number: the hold that it had was taken off by hand. Nobody else would, and nothing would be rolled out.
func (p *place) misnoted() *SetChange {
	r := roomOf(p.Deployment)
	for _, set := range p.sets {
		c := &SetChange{Set: set, Annotations: map[string]*string{}}
		if note := set.Annotations[setDesired]; wasGood(set) && r.wanted > 0 && valueOr(set.Spec.Replicas, 0) == r.wanted && note != "" && note != fmt.Sprint(r.wanted) {
			c.noteSize(r)
			return c
		}
	}
	return nil
}

// room is what the strategy allows for: how many pods more than wanted there may be, and how many ready ones fewer.
type room struct{ wanted, surge, unavailable int32 }

func roomOf(d *appsv1.Deployment) room {
	r := room{wanted: valueOr(d.Spec.Replicas, 1)}
	if d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType {
		r.unavailable = r.wanted
		return r
	}
	quarter := intstr.FromString("25%") // the API server's default
	surge, unavailable := &quarter, &quarter
	if rolling := d.Spec.Strategy.RollingUpdate; rolling != nil {
		surge, unavailable = cmp.Or(rolling.MaxSurge, surge), cmp.Or(rolling.MaxUnavailable, unavailable)
	}
	r.surge, r.unavailable = scaled(surge, r.wanted, true), min(r.wanted, scaled(unavailable, r.wanted, false))
	if r.surge == 0 && r.unavailable == 0 {
		r.unavailable = 1 // as the Deployment controller has it: otherwise nothing could move
	}
	return r
}

func scaled(value *intstr.IntOrString, of int32, up bool) int32 {
	n, err := intstr.GetScaledValueFromIntOrPercent(value, int(of), up)
	if err != nil {
		return 0 // never: the API server has validated it
	}
	return int32(n)
}

// share is how many pods a set is to have, and whether it is held at that.
type share struct {
	set  *appsv1.ReplicaSet
	n    int32
	held bool
}

// plan is who is to have how many pods while the current set is failed, in the order in which to see to it.
//
// But for Recreate no ready pod goes that is needed: there are to be as many as were ready at the verdict, or as the strategy allows
// for. So while pods of the good set are missing, the ready ones of others stay for them, and all together are not more than in a
// rolling update. Every set but the good one is held; that one is where the Deployment controller would shrink it.
func (p *place) plan(ready int32) (plan []share, inTransition bool) {
	r := roomOf(p.Deployment)
	needed := max(0, min(ready, r.wanted-r.unavailable)-p.Evidence.readyOf(p.good))
	var kept int32
	keep := func(set *appsv1.ReplicaSet) {
		n := min(needed-kept, p.Evidence.readyOf(set), valueOr(set.Spec.Replicas, 0))
		kept += n
		plan = append(plan, share{set, n, true})
	}
	keep(p.current)
	for _, set := range p.sets {
		if set != p.current && set != p.good && valueOr(set.Spec.Replicas, 0) > 0 {
			keep(set)
		}
	}
	slices.Reverse(plan) // The failed one last: while others are active, nothing makes it grow.
	has := valueOr(p.good.Spec.Replicas, 0)
	back := share{p.good, min(r.wanted, max(has, r.wanted+r.surge-kept)), kept > 0 || r.surge == 0}
	recreate := p.Deployment.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType
	switch {
	case recreate && p.othersLeft(): // Its pods come when there are no others, as ever with this strategy.
		return plan, true
	case has == 0 && r.surge > 0: // With nothing active, the failed one would be scaled up.
		plan = slices.Insert(plan, 0, back)
	default:
		plan = append(plan, back)
	}
	return plan, kept > 0
}

// othersLeft reports whether pods of others than the good set are left, also on their way out.
func (p *place) othersLeft() bool {
	return slices.ContainsFunc(p.Evidence.as(p.good).OldPods, func(pod *corev1.Pod) bool { _, ended := endOf(pod); return !ended })
}

// change returns what to write for a set to have its share, nil if it has it.
func (p *place) change(s share) *SetChange {
	c := &SetChange{Set: s.set, Labels: map[string]*string{}, Annotations: map[string]*string{}}
	n, held := HeldAt(s.set)
	has := valueOr(s.set.Spec.Replicas, 0)
	switch {
	case s.held && (!held || n != s.n || has != s.n):
		c.Labels[v1alpha1.HeldAtLabel] = owned(s.set, strconv.Itoa(int(s.n)))
	case !s.held && held:
		c.Labels[v1alpha1.HeldAtLabel] = nil
	}
	if !s.held && has != s.n {
		c.Replicas = &s.n
	}
	if s.n > 0 {
		c.noteSize(roomOf(p.Deployment))
	}
	if len(c.Labels)+len(c.Annotations) == 0 && c.Replicas == nil {
		return nil
	}
	return c
}

// firstHold returns the change that ends the first hold there is, nil if there is none.
func (p *place) firstHold() *SetChange {
	for _, set := range p.sets {
		if c := LetGo(p.Deployment, set); c != nil {
			return c
		}
	}
	return nil
}
