package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

func TestRetry_Token(t *testing.T) {
	n := newNamespace(t)
	web := n.createReady("web", template(good, "1"))
	a := web.get().Status.GoodRevision
	web.release(template(crash, "2"))
	failed := web.awaitRolledBack(v1alpha1.FailureCrashLoop, a)
	b := failed.Status.TargetRevision

	web.update(retryToken("1"))
	web.await("has failed again", func(g *v1alpha1.GuardedDeployment) bool {
		return g.Status.Failure != nil && g.Status.Failure.Time.After(failed.Status.Failure.Time.Time)
	})
	web.awaitRolledBack(v1alpha1.FailureCrashLoop, a)
	web.awaitEvents(v1alpha1.FailureCrashLoop, 2)
	web.awaitEvents(v1alpha1.ReasonRolledBack, 2)

	// Taking the token away asks for nothing, and neither does changing the guard.
	web.update(func(g *v1alpha1.GuardedDeployment) { delete(g.Annotations, v1alpha1.RetryAnnotation) })
	web.update(maxRestarts(5))
	web.awaitReason(v1alpha1.ReasonRolledBack)
	n.nothingHappens(8*time.Second, func(context.Context) error {
		if d := web.deployment(); version(d) != "1" {
			return fmt.Errorf("the Deployment runs release %q", version(d))
		}
		return nil
	})
	web.checkMoves(a, b, a, b, a)
}

func retries(n int32) option {
	return func(g *v1alpha1.GuardedDeployment) { g.Spec.Guard.Retries = &n }
}

// The first automatic retry comes a minute after the failure, and there are no more than asked for. A new spec cancels it.
func TestRetry_Automatic(t *testing.T) {
	n := newNamespace(t)
	web, fixed := n.create("web", template(good, "1"), retries(1)), n.create("fixed", template(good, "1"), retries(1))
	a, fixedA := web.awaitReady().Status.GoodRevision, fixed.awaitReady().Status.GoodRevision
	web.release(template(crash, "2"))
	fixed.release(template(crash, "2"))
	g := web.awaitRolledBack(v1alpha1.FailureCrashLoop, a)
	first, b := g.Status.Failure, g.Status.TargetRevision
	if first.Attempt != 1 || first.NextAttempt == nil || !first.NextAttempt.Time.Equal(first.Time.Add(time.Minute)) {
		t.Errorf("failure is %+v, want attempt 1, and the next a minute later", *first)
	}
	if next := "attempt 1 of 2, the next is due at " + first.NextAttempt.UTC().Format(time.RFC3339); !strings.Contains(message(g), next) {
		t.Errorf("the message %q does not say %q", message(g), next)
	}
	fixedB := fixed.awaitRolledBack(v1alpha1.FailureCrashLoop, fixedA).Status.TargetRevision
	fixed.release(template(good, "3"))
	fixedC := fixed.awaitReady().Status.GoodRevision

	g = web.awaitFailedAgain(first)
	second := g.Status.Failure
	if second.Attempt != 2 || second.NextAttempt != nil || second.Time.Sub(first.Time.Time) < time.Minute {
		t.Errorf("the second failure is %+v, want attempt 2, a minute after the first, and none to come", *second)
	}
	web.awaitEvents(v1alpha1.FailureCrashLoop, 2)
	web.checkMoves(a, b, a, b, a)
	fixed.checkMoves(fixedA, fixedB, fixedA, fixedC)
	if g := fixed.get(); reasonOf(g) != v1alpha1.ReasonRolledOut {
		t.Errorf("the fixed release is %s, want it left alone", reasonOf(g))
	}
}

func (o *object) awaitFailedAgain(earlier *v1alpha1.Failure) *v1alpha1.GuardedDeployment {
	o.Helper()
	return o.awaitWithin(2*time.Minute, "has failed again", func(g *v1alpha1.GuardedDeployment) bool {
		return g.Status.Failure != nil && g.Status.Failure.Time.After(earlier.Time.Time) && reasonOf(g) == v1alpha1.ReasonRolledBack
	})
}

// How many retries were made, and when the next is due, is stored: a process that starts goes on where the last one was.
func testRetryAutomaticAcrossRestart(t *testing.T) {
	n := emptyNamespace(t)
	n.belay = startBelay(t, n.name)
	web := n.createReady("web", template(good, "1"), retries(2), maxRestarts(0))
	a := web.get().Status.GoodRevision
	web.release(template(crash, "2"))
	g := web.awaitRolledBack(v1alpha1.FailureCrashLoop, a)
	b := g.Status.TargetRevision
	for attempt := int32(2); attempt <= 3; attempt++ {
		n.belay.kill()
		earlier := g.Status.Failure
		web.failedEarlier(b, time.Hour) // so that the test need not wait for as long as the delay
		n.belay = startBelay(t, n.name)
		g = web.awaitFailedAgain(earlier)
		if g.Status.Failure.Attempt != attempt {
			t.Errorf("failure is %+v, want attempt %d", *g.Status.Failure, attempt)
		}
	}
	n.belay.kill()
	web.failedEarlier(b, time.Hour)
	n.belay = startBelay(t, n.name)
	web.await("tells of no further attempt", func(g *v1alpha1.GuardedDeployment) bool {
		return g.Status.Failure != nil && g.Status.Failure.Time.Time.Before(time.Now().Add(-30*time.Minute)) && g.Status.Failure.NextAttempt == nil
	})
	web.checkMoves(a, b, a, b, a, b, a)
}

// failedEarlier puts the failure of a revision back in time.
func (o *object) failedEarlier(revision string, by time.Duration) {
	o.Helper()
	revisions := cluster.kube.AppsV1().ControllerRevisions(o.namespace.name)
	r, err := revisions.Get(o.Context(), revision, metav1.GetOptions{})
	if err != nil {
		o.Fatal(err)
	}
	var failure map[string]any
	if err := json.Unmarshal([]byte(r.Annotations[v1alpha1.FailureAnnotation]), &failure); err != nil {
		o.Fatal(err)
	}
	failure["time"] = metav1.NewTime(time.Now().Add(-by))
	data, err := json.Marshal(failure)
	if err != nil {
		o.Fatal(err)
	}
	r.Annotations[v1alpha1.FailureAnnotation] = string(data)
	if _, err := revisions.Update(o.Context(), r, metav1.UpdateOptions{}); err != nil {
		o.Fatal(err)
	}
}
