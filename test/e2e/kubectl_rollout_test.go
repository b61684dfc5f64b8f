package e2e

import (
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// These tests are about "kubectl rollout" on a Deployment of Belay's. restart_test.go has more about restarts.

// The soak begins again with the new pods. It is the same release.
func TestKubectlRollout_RestartInTheSoak(t *testing.T) {
	const soakTime, start = 6 * time.Second, 8 * time.Second // of a slow pod
	n := newNamespace(t)
	web := n.createReady("web", template(good, "1"), replicas(1))
	a := web.get().Status.GoodRevision
	web.update(runs(template(slow, "2")), soak(int32(soakTime.Seconds())))
	b := web.awaitReason(v1alpha1.ReasonSoaking).Status.TargetRevision
	pods := web.podUIDs()
	restarted := time.Now()
	web.kubectl("rollout", "restart", "deployment/web")
	web.awaitOtherPods(pods, 1)
	g := web.awaitReady()
	if took := time.Since(restarted); g.Status.GoodRevision != b || took < start+soakTime {
		t.Errorf("%s is good %s after the restart, want %s, after its start and a whole soak, %s", g.Status.GoodRevision, took, b, start+soakTime)
	}
	web.checkMoves(a, b)
	web.checkDeploymentWrites("two releases", 0, 2)
}

func TestKubectlRollout_RestartWhileRolledBack(t *testing.T) {
	n := newNamespace(t)
	web := n.createReady("web", template(good, "1"))
	a := web.get().Status.GoodRevision
	web.release(template(crash, "2"))
	web.awaitRolledBack(v1alpha1.FailureCrashLoop, a)
	pods := web.podUIDs()
	web.kubectl("rollout", "restart", "deployment/web")
	web.awaitOtherPods(pods, 3)
	if d := web.deployment(); version(d) != "1" {
		t.Errorf("release %q runs after the restart, want 1", version(d))
	}
	g := web.awaitRolledBack(v1alpha1.FailureCrashLoop, a)
	web.awaitEvents(v1alpha1.ReasonRolledBack, 1) // The restart is no other rollback.
	web.checkMoves(a, g.Status.TargetRevision, a)
	web.checkDeploymentWrites("two releases and a rollback", 0, 3)
}

// What kubectl goes back to carries the annotations of its time, Belay's too.
func TestKubectlRollout_UndoIsPutBack(t *testing.T) {
	n := newNamespace(t)
	web := n.createReady("web", template(good, "1"))
	a := web.get().Status.GoodRevision
	web.release(template(good, "2"))
	b := web.awaitReady().Status.GoodRevision
	web.kubectl("rollout", "undo", "deployment/web")
	web.awaitDeployment("is back on release 2", func(d *appsv1.Deployment) bool { return version(d) == "2" })
	web.awaitReady()
	web.checkDeploymentWrites("two releases and a correction", 0, 3)

	web.release(template(crash, "3"))
	failed := web.awaitRolledBack(v1alpha1.FailureCrashLoop, b)
	web.kubectl("rollout", "undo", "deployment/web") // to the release that failed
	web.awaitDeployment("is back on release 2", func(d *appsv1.Deployment) bool { return version(d) == "2" })
	g := web.awaitRolledBack(v1alpha1.FailureCrashLoop, b)
	if !g.Status.Failure.Time.Equal(&failed.Status.Failure.Time) {
		t.Errorf("the release was judged again: %+v, before %+v", *g.Status.Failure, *failed.Status.Failure)
	}
	web.awaitAvailable(3)
	web.checkMoves(a, b, g.Status.TargetRevision, b)
	web.checkDeploymentWrites("three releases, a rollback and two corrections", 0, 6)
	web.awaitEvents(v1alpha1.ReasonContested, 2)
	web.awaitEvents(v1alpha1.ReasonRestartFailed, 0)
}

// Belay runs what the spec asks for until it knows better.
func TestKubectlRollout_UndoOfBadRelease(t *testing.T) {
	n := newNamespace(t)
	web := n.createReady("web", template(good, "1"), maxRestarts(2))
	a := web.get().Status.GoodRevision
	web.release(template(crash, "2"))
	b := web.awaitReason(v1alpha1.ReasonProgressing).Status.TargetRevision
	web.awaitDeployment("carries the new release", func(d *appsv1.Deployment) bool {
		return version(d) == "2" && d.Status.ObservedGeneration == d.Generation
	})
	web.kubectl("rollout", "undo", "deployment/web")
	web.awaitRolledBack(v1alpha1.FailureCrashLoop, a)
	web.awaitAvailable(3)
	web.checkMoves(a, b, a)
	web.checkDeploymentWrites("two releases, a correction and a rollback", 0, 4)
}

func TestKubectlRollout_PauseAndResume(t *testing.T) {
	n := newNamespace(t)
	web := n.createReady("web", template(good, "1"))
	pods := web.podUIDs()
	web.kubectl("rollout", "pause", "deployment/web")
	g := web.awaitReason(v1alpha1.ReasonPaused)
	if !meta.IsStatusConditionTrue(g.Status.Conditions, v1alpha1.ConditionReady) || meta.IsStatusConditionTrue(g.Status.Conditions, v1alpha1.ConditionStalled) {
		t.Errorf("what was good is not while paused: %+v", g.Status.Conditions)
	}
	if !strings.Contains(message(g), "kubectl rollout resume deployment/web") {
		t.Errorf("the condition does not say how to go on: %q", message(g))
	}
	web.kubectl("rollout", "resume", "deployment/web")
	web.awaitReady()
	web.awaitPods(pods)
	web.checkDeploymentWrites("a release", 0, 1)

	// A new spec wins: the pause by hand ends.
	web.kubectl("rollout", "pause", "deployment/web")
	web.awaitReason(v1alpha1.ReasonPaused)
	web.release(template(good, "2"))
	web.awaitReady()
	if d := web.deployment(); d.Spec.Paused || version(d) != "2" {
		t.Errorf("paused %v, release %q", d.Spec.Paused, version(d))
	}
	web.checkDeploymentWrites("two releases", 0, 2)

	// A pause that the spec states is not ended by hand.
	web.update(paused(true))
	web.awaitReason(v1alpha1.ReasonPaused)
	web.awaitDeployment("is paused", func(d *appsv1.Deployment) bool { return d.Spec.Paused })
	web.kubectl("rollout", "resume", "deployment/web")
	web.awaitDeployment("is paused again", func(d *appsv1.Deployment) bool { return d.Spec.Paused })
	web.awaitPutBack("spec.paused")
	web.checkDeploymentWrites("two releases, a pause and a correction", 0, 4)
}
