package e2e

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

func TestRetryTokenTriesOnceMore(t *testing.T) {
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

func TestOlderTemplateMayBeAskedForAgain(t *testing.T) {
	n := newNamespace(t)
	web := n.createReady("web", template(good, "a"))
	a := web.get().Status.GoodRevision
	web.release(template(good, "b"))
	b := web.awaitReady().Status.GoodRevision
	web.release(template(good, "a"))
	if g := web.awaitReady(); g.Status.TargetRevision != a {
		t.Errorf("the target is %s, want %s again", g.Status.TargetRevision, a)
	}
	web.release(template(good, "b"))
	web.awaitReady()
	web.checkMoves(a, b, a, b)
	if all := web.revisions(); len(all) != 2 || all[1].Name != b || all[1].Revision != 4 {
		t.Errorf("revisions are %v, want 2, and %s the newest with number 4", names(all), b)
	}
}

func TestGoingBackByHandAfterAFailureIsReadyAtOnce(t *testing.T) {
	n := newNamespace(t)
	web := n.createReady("web", template(good, "1"))
	a := web.get().Status.GoodRevision
	web.release(template(crash, "2"))
	b := web.awaitRolledBack(v1alpha1.FailureCrashLoop, a).Status.TargetRevision
	before := web.deployment()

	web.release(template(good, "1"))
	g := web.awaitReady()
	if g.Status.TargetRevision != a || g.Status.Failure != nil {
		t.Errorf("status is %+v, want target %s and no failure", g.Status, a)
	}
	if after := web.deployment(); after.Generation != before.Generation {
		t.Error("the Deployment was written, although it ran what is asked for")
	}

	// The failed release asked for again is another attempt.
	web.release(template(crash, "2"))
	web.awaitRolledBack(v1alpha1.FailureCrashLoop, a)
	web.awaitEvents(v1alpha1.FailureCrashLoop, 2)
	web.checkMoves(a, b, a, b, a)
}
