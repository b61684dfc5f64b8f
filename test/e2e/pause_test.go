package e2e

import (
	"context"
	"fmt"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

func TestPause_WritesPausedAndReplicasOnly(t *testing.T) {
	n := newNamespace(t)
	web := n.createReady("web", template(good, "1"), replicas(2), deadline(10))
	first := web.get().Status.GoodRevision

	web.update(paused(true), runs(template(good, "2")), replicas(3), func(g *v1alpha1.GuardedDeployment) { g.Spec.MinReadySeconds = 1 })
	web.awaitReason(v1alpha1.ReasonPaused)
	web.awaitAvailable(3)
	n.nothingHappens(12*time.Second, func(context.Context) error { // longer than the deadline
		d := web.deployment()
		if !d.Spec.Paused || version(d) != "1" || d.Spec.MinReadySeconds != 0 || reasonOf(web.get()) != v1alpha1.ReasonPaused {
			return fmt.Errorf("paused %v, release %q, minReadySeconds %d, reason %s", d.Spec.Paused, version(d), d.Spec.MinReadySeconds, reasonOf(web.get()))
		}
		return nil
	})

	web.update(paused(false))
	g := web.awaitReady()
	if d := web.deployment(); d.Spec.Paused || version(d) != "2" || d.Spec.MinReadySeconds != 1 {
		t.Errorf("after the pause: paused %v, release %q, minReadySeconds %d", d.Spec.Paused, version(d), d.Spec.MinReadySeconds)
	}
	web.checkMoves(first, g.Status.TargetRevision)
}

func TestPause_FromTheStart(t *testing.T) {
	n := newNamespace(t)
	web := n.create("web", template(good, "1"), paused(true))
	web.awaitReason(v1alpha1.ReasonPaused)
	n.nothingHappens(3*time.Second, func(ctx context.Context) error {
		if writes := web.deploymentWrites(); len(writes) > 0 {
			return fmt.Errorf("a Deployment was written: %v", writes)
		}
		return nil
	})
	web.update(paused(false))
	web.awaitReady()
}

func TestPause_DeploymentByHand(t *testing.T) {
	n := newNamespace(t)
	web := n.createReady("web", template(good, "1"), deadline(10))
	first := web.get().Status.GoodRevision
	pause := func(yes bool) {
		web.patchDeployment(types.MergePatchType, map[string]any{"spec": map[string]any{"paused": yes}})
	}

	web.release(template(unready, "2"))
	web.awaitDeployment("carries the new release", func(d *appsv1.Deployment) bool { return version(d) == "2" })
	pause(true)
	web.awaitReason(v1alpha1.ReasonPaused)
	n.nothingHappens(15*time.Second, func(context.Context) error { // longer than the deadline
		if d := web.deployment(); !d.Spec.Paused || version(d) != "2" || web.get().Status.Failure != nil {
			return fmt.Errorf("paused %v, release %q, failure %v", d.Spec.Paused, version(d), web.get().Status.Failure)
		}
		return nil
	})
	pause(false)
	g := web.awaitRolledBack(v1alpha1.FailureDeadlineExceeded, first)
	web.checkMoves(first, g.Status.TargetRevision, first)
}
