package e2e

import (
	"context"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// await waits until the object is as it should be.
func (o *object) await(what string, ok func(*v1alpha1.GuardedDeployment) bool) *v1alpha1.GuardedDeployment {
	o.Helper()
	return o.awaitWithin(patience, what, ok)
}

func (o *object) awaitWithin(limit time.Duration, what string, ok func(*v1alpha1.GuardedDeployment) bool) (found *v1alpha1.GuardedDeployment) {
	o.Helper()
	o.within(limit, o.name+" "+what, func(context.Context) (bool, error) {
		found = o.seenGuarded()
		return found != nil && ok(found), nil
	})
	return found
}

// awaitReason waits until the status is about the present spec and gives this reason.
func (o *object) awaitReason(reason string) *v1alpha1.GuardedDeployment {
	o.Helper()
	g := o.await("is "+reason, func(g *v1alpha1.GuardedDeployment) bool { return reasonOf(g) == reason })
	o.checkConditions(g)
	return g
}

// awaitReady waits until the present spec is good and running.
func (o *object) awaitReady() *v1alpha1.GuardedDeployment {
	o.Helper()
	return o.awaitReason(v1alpha1.ReasonRolledOut)
}

// awaitRolledBack waits until the present spec has failed, and the revision runs that was good before.
func (o *object) awaitRolledBack(failure, to string) *v1alpha1.GuardedDeployment {
	o.Helper()
	g := o.awaitReason(v1alpha1.ReasonRolledBack)
	o.checkFailure(g, failure)
	if g.Status.RunningRevision != to || g.Status.GoodRevision != to || g.Status.TargetRevision == to {
		o.Errorf("%s: running %s, good %s, target %s; want to be back on %s", o.name,
			g.Status.RunningRevision, g.Status.GoodRevision, g.Status.TargetRevision, to)
	}
	return g
}

// reasonOf returns the reason of the Ready condition, empty if it is not about the present spec.
func reasonOf(g *v1alpha1.GuardedDeployment) string {
	if ready := meta.FindStatusCondition(g.Status.Conditions, v1alpha1.ConditionReady); ready != nil && g.Status.ObservedGeneration == g.Generation {
		return ready.Reason
	}
	return ""
}

func message(g *v1alpha1.GuardedDeployment) string {
	if ready := meta.FindStatusCondition(g.Status.Conditions, v1alpha1.ConditionReady); ready != nil {
		return ready.Message
	}
	return ""
}

// checkConditions makes sure that the conditions say what their reason means.
func (o *object) checkConditions(g *v1alpha1.GuardedDeployment) {
	o.Helper()
	want := map[string]string{
		v1alpha1.ReasonRolledOut:                      v1alpha1.ConditionReady,
		v1alpha1.ReasonScaledToZero:                   v1alpha1.ConditionReady,
		v1alpha1.ReasonProgressing:                    v1alpha1.ConditionReconciling,
		v1alpha1.ReasonSoaking:                        v1alpha1.ConditionReconciling,
		v1alpha1.ReasonWaitingForDeploymentController: v1alpha1.ConditionReconciling,
		v1alpha1.ReasonRolledBack:                     v1alpha1.ConditionStalled,
		v1alpha1.ReasonNoGoodRevision:                 v1alpha1.ConditionStalled,
		v1alpha1.ReasonHeld:                           v1alpha1.ConditionStalled,
		v1alpha1.ReasonRollbackFailed:                 v1alpha1.ConditionStalled,
		v1alpha1.ReasonInvalid:                        v1alpha1.ConditionStalled,
		v1alpha1.ReasonDenied:                         v1alpha1.ConditionStalled,
		v1alpha1.ReasonNameTaken:                      v1alpha1.ConditionStalled,
		v1alpha1.ReasonContested:                      v1alpha1.ConditionStalled,
		v1alpha1.ReasonSyncFailing:                    v1alpha1.ConditionStalled,
	}[reasonOf(g)]
	for _, kind := range []string{v1alpha1.ConditionReady, v1alpha1.ConditionReconciling, v1alpha1.ConditionStalled} {
		if meta.IsStatusConditionTrue(g.Status.Conditions, kind) != (kind == want) && want != "" {
			o.Errorf("%s is %s, so that %s should be True and no other; conditions: %+v", o.name, reasonOf(g), want, g.Status.Conditions)
		}
	}
}

// checkFailure makes sure that the status tells why the target failed.
func (o *object) checkFailure(g *v1alpha1.GuardedDeployment, reason string) {
	o.Helper()
	f := g.Status.Failure
	if f == nil {
		o.Fatalf("%s has no failure in its status, want %s", o.name, reason)
	}
	if f.Reason != reason || f.Revision != g.Status.TargetRevision || f.Message == "" || f.Time.IsZero() {
		o.Errorf("%s: failure is %+v, want %s of %s with message and time", o.name, *f, reason, g.Status.TargetRevision)
	}
	if !strings.Contains(message(g), f.Message) {
		o.Errorf("%s: the condition says %q, which does not tell the failure: %q", o.name, message(g), f.Message)
	}
}
