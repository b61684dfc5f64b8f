package faults

import (
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// falseReasons are words about what did not happen in any story, nor in the churn, and noWaits what in no story is waited for. For a
// busy Deployment controller or scheduler, a fake node and pods that end slowly it may be.
var (
	falseReasons = []string{v1alpha1.ReasonContested, v1alpha1.ReasonNameTaken, v1alpha1.ReasonInvalid, v1alpha1.ReasonDenied, v1alpha1.ReasonSyncFailing,
		v1alpha1.ReasonNoGoodRevision, v1alpha1.ReasonHeld, v1alpha1.ReasonRollbackFailed}
	noWaits = []string{v1alpha1.ReasonScaledToZero, v1alpha1.ReasonWaitingForSchedulingGate, v1alpha1.ReasonWaitingForReadinessGate, v1alpha1.ReasonWaitingForRoom,
		v1alpha1.ReasonWaitingForQuota, v1alpha1.ReasonWaitingForWebhook, v1alpha1.ReasonWaitingForRegistry, v1alpha1.ReasonWaitingForVolume,
		v1alpha1.ReasonWaitingForInjection}
)

// restful are the other reasons by which something may be ready that was so before. In the stories nothing is.
var restful = []string{v1alpha1.ReasonScaledToZero, v1alpha1.ReasonPaused}

// reasons are those with which what does this may be found failed. Where Belay was away for as long as the deadline, that may be over.
var reasons = map[string][]string{
	"crash":   {v1alpha1.FailureCrashLoop, v1alpha1.FailureDeadlineExceeded},
	"missing": {v1alpha1.FailureImagePull, v1alpha1.FailureDeadlineExceeded},
}

// deeds returns what each version does.
func (t *told) deeds() map[string]string {
	does := map[string]string{}
	for _, s := range t.sights {
		if d, ok := s.object.(*appsv1.Deployment); ok {
			_, does[versionOf(d.Spec.Template)], _ = strings.Cut(d.Spec.Template.Spec.Containers[0].Image, ":")
		}
	}
	return does
}

// versionsOfRevisions returns of which version each ControllerRevision is that the Deployment ran, by its name.
func (t *told) versionsOfRevisions() map[string]string {
	versions := map[string]string{}
	for _, m := range t.moves() {
		versions[m.revision] = m.version
	}
	return versions
}

// words: no status says what is not so.
func (t *told) words(say func(string, ...any)) {
	versions, does := t.versionsOfRevisions(), t.deeds()
	var d *appsv1.Deployment // as it was then
	for _, s := range t.inOrder() {
		switch object := s.object.(type) {
		case *appsv1.Deployment:
			if d = object; s.deleted {
				d = nil
			}
		case *v1alpha1.GuardedDeployment:
			t.failureTold(object, versions, does, say)
			if c := meta.FindStatusCondition(object.Status.Conditions, v1alpha1.ConditionReady); c != nil && !s.deleted {
				t.conditionTold(object, c, versions, d, say)
			}
		}
	}
}

// failureTold: what a status says to be failed or good is that.
func (t *told) failureTold(g *v1alpha1.GuardedDeployment, versions, does map[string]string, say func(string, ...any)) {
	if f := g.Status.Failure; f != nil {
		version := versions[f.Revision]
		if !t.failing(version) && !t.failing(version+"+") {
			say("the status says that %s failed: %s", version, f.Message)
		}
		if may, known := reasons[does[version]]; known && !slices.Contains(may, f.Reason) {
			say("the status says that %s failed by %s", version, f.Reason)
		}
	}
	if good := versions[g.Status.GoodRevision]; t.failing(good) {
		say("the status says that %s is good", good)
	}
}

// conditionTold: what Ready says, with the Deployment as it was then, is so.
func (t *told) conditionTold(g *v1alpha1.GuardedDeployment, c *metav1.Condition, versions map[string]string, d *appsv1.Deployment, say func(string, ...any)) {
	runs := versions[g.Status.RunningRevision]
	isReady, isBack, isCurrent := c.Status == metav1.ConditionTrue, c.Reason == v1alpha1.ReasonRolledBack, c.ObservedGeneration == g.Generation
	switch {
	case isReady != (c.Reason == v1alpha1.ReasonRolledOut) && !(isReady && t.random && slices.Contains(restful, c.Reason)):
		say("a condition says that Ready is %s by %s", c.Status, c.Reason)
	case isReady && c.Reason == v1alpha1.ReasonRolledOut && isCurrent && base(runs) != base(versionOf(g.Spec.Template)):
		say("a condition says %s while %s runs, and %s is asked for", c.Reason, runs, versionOf(g.Spec.Template))
	case c.Reason == v1alpha1.ReasonScaledToZero && isCurrent && *g.Spec.Replicas > 0:
		say("a condition says %s, and %d replicas are asked for", c.Reason, *g.Spec.Replicas)
	case isBack && g.Status.GoodRevision == "":
		say("a condition says %s, and the status has no good revision", c.Reason)
	case isReady && t.failing(runs) && c.Reason != v1alpha1.ReasonScaledToZero: // Nothing of it runs.
		say("a condition says that %s is ready", runs)
	case isBack && d != nil && t.failing(versionOf(d.Spec.Template)):
		say("a condition says %s while %s runs", c.Reason, versionOf(d.Spec.Template))
	case (isBack || c.Reason == v1alpha1.ReasonRestartFailed) && g.Status.Failure == nil:
		say("a condition says %s, and the status has no failure", c.Reason)
	case c.Reason == v1alpha1.ReasonPaused && isCurrent && !g.Spec.Paused:
		say("a condition says %s, and the spec is not", c.Reason)
	}
}

// isFalse reports whether a reason is one that nothing in the story is a reason for.
func (t *told) isFalse(reason string) bool {
	switch {
	case reason == v1alpha1.ReasonSyncFailing && t.refusedForLong():
		return false
	case t.random:
		return slices.Contains(falseReasons, reason)
	case reason == v1alpha1.ReasonRestartFailed:
		return !strings.Contains(t.fails, "+")
	default:
		return slices.Contains(falseReasons, reason) || slices.Contains(noWaits, reason)
	}
}

// refusedForLong reports whether Belay may have been without a good answer for longer than a minute: client-go reads a token anew once in
// a minute.
func (t *told) refusedForLong() bool {
	return slices.ContainsFunc(slices.Concat(t.byBelay...), func(e exchange) bool { return e.fault == tokenRotated })
}
