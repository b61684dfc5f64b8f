package e2e

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// ownReplicas leaves the number of replicas to whoever scales the Deployment.
func ownReplicas(g *v1alpha1.GuardedDeployment) { g.Spec.Replicas = nil }

// scale sets the replicas as "kubectl scale deployment" does.
func (o *object) scale(replicas int) {
	o.Helper()
	o.patchDeployment(types.MergePatchType, map[string]any{"spec": map[string]any{"replicas": replicas}}, "scale")
}

func (o *object) awaitAvailable(replicas int32) {
	o.Helper()
	o.awaitDeployment(fmt.Sprintf("has %d available replicas", replicas), func(d *appsv1.Deployment) bool {
		return d.Status.ObservedGeneration == d.Generation && d.Status.AvailableReplicas == replicas && d.Status.Replicas == replicas
	})
}

func (o *object) checkReplicas(want int32) {
	o.Helper()
	if got := *o.deployment().Spec.Replicas; got != want {
		o.Errorf("the Deployment has %d replicas, want %d", got, want)
	}
}

func TestReplicas_LeftOut(t *testing.T) {
	n := newNamespace(t)
	web := n.createReady("web", template(good, "1"), ownReplicas)
	a := web.get().Status.GoodRevision
	web.checkReplicas(1)
	web.scale(4)
	web.awaitAvailable(4)
	web.checkReplicas(4)

	web.release(template(good, "2"))
	b := web.awaitReady().Status.GoodRevision
	web.checkReplicas(4)

	web.release(template(crash, "3"))
	web.scale(5)
	g := web.awaitRolledBack(v1alpha1.FailureCrashLoop, b)
	web.checkReplicas(5)
	web.awaitAvailable(5)
	web.checkMoves(a, b, g.Status.TargetRevision, b)
}

func TestReplicas_NoLongerStated(t *testing.T) {
	n := newNamespace(t)
	web := n.createReady("web", template(good, "1"), replicas(2))
	web.update(ownReplicas)
	web.release(template(good, "2"))
	web.awaitReady()
	web.checkReplicas(2)
	web.scale(3)
	web.awaitAvailable(3)
	web.update(replicas(1))
	web.awaitAvailable(1)
}

func TestReplicas_ScaleSubresource(t *testing.T) {
	n := newNamespace(t)
	web := n.createReady("web", template(good, "1"), replicas(2))
	a := web.get().Status.GoodRevision
	scaled := cluster.belay.BelayV1alpha1().RESTClient().Patch(types.MergePatchType).Namespace(n.name).
		Resource("guardeddeployments").Name("web").SubResource("scale").Body([]byte(`{"spec":{"replicas":4}}`)).Do(t.Context())
	if err := scaled.Error(); err != nil {
		t.Fatal(err)
	}
	web.awaitAvailable(4)
	g := web.await("reports 4 replicas", func(g *v1alpha1.GuardedDeployment) bool {
		return g.Status.Replicas == 4 && g.Status.Selector == "app=web"
	})
	if *g.Spec.Replicas != 4 {
		t.Errorf("spec.replicas is %d", *g.Spec.Replicas)
	}
	web.awaitReady()
	web.checkMoves(a) // A change of scale is no release.
}

func TestReplicas_Zero(t *testing.T) {
	n := newNamespace(t)
	web := n.create("web", template(good, "1"), replicas(0))
	g := web.awaitReason(v1alpha1.ReasonScaledToZero)
	if g.Status.GoodRevision != "" {
		t.Errorf("%s is good without a pod", g.Status.GoodRevision)
	}
	web.update(replicas(2))
	g = web.awaitReady()
	first := g.Status.GoodRevision

	// A bad release is asked for at zero replicas: it is judged when there are pods.
	web.update(replicas(0))
	web.awaitReason(v1alpha1.ReasonScaledToZero)
	web.release(template(crash, "2"))
	web.awaitReason(v1alpha1.ReasonScaledToZero)
	web.update(replicas(2))
	g = web.awaitRolledBack(v1alpha1.FailureCrashLoop, first)
	web.awaitAvailable(2)
	web.checkMoves(first, g.Status.TargetRevision, first)
}

func TestReplicas_ScaledByHandWhereStated(t *testing.T) {
	n := newNamespace(t)
	web := n.createReady("web", template(good, "1"), replicas(2))
	a, pods := web.get().Status.GoodRevision, web.podUIDs()
	writes := len(web.deploymentWrites())

	web.kubectl("scale", "deployment/web", "--replicas=5")
	web.awaitAvailable(2)
	web.awaitPutBack("spec.replicas")
	web.checkDeploymentWrites("kubectl scale deployment", writes, 1)

	web.kubectl("scale", "gd/web", "--replicas=4")
	web.awaitAvailable(4)
	web.checkDeploymentWrites("kubectl scale gd", writes, 2)
	web.awaitReady()
	if now := web.podUIDs(); n.counting() && !slices.ContainsFunc(now, func(uid string) bool { return slices.Contains(pods, uid) }) {
		t.Errorf("the pods are %q, before the scaling %q", now, pods)
	}
	web.checkMoves(a)
}

func TestReplicas_ScaledByHandWhereLeftOut(t *testing.T) {
	n := newNamespace(t)
	web := n.createReady("web", template(good, "1"), ownReplicas)
	pods := web.podUIDs()
	web.kubectl("scale", "deployment/web", "--replicas=3")
	web.awaitAvailable(3)
	if now := web.podUIDs(); !slices.Contains(now, pods[0]) {
		t.Errorf("the pods are %q, without %q from before", now, pods)
	}
	n.nothingHappens(3*time.Second, func(context.Context) error {
		if got := *web.deployment().Spec.Replicas; got != 3 {
			return fmt.Errorf("%d replicas", got)
		}
		return nil
	})
	web.checkDeploymentWrites("a release", 0, 1)

	// To scale the GuardedDeployment states the replicas: from then on they are put back.
	web.kubectl("scale", "gd/web", "--replicas=2")
	web.awaitAvailable(2)
	web.kubectl("scale", "deployment/web", "--replicas=3")
	web.awaitPutBack("spec.replicas")
	web.awaitAvailable(2)
	web.checkDeploymentWrites("a release, a scaling and a correction", 0, 3)
}

// Scaling neither revives the release that failed nor has anything judged.
func TestReplicas_ScaledWhileRolledBack(t *testing.T) {
	n := newNamespace(t)
	web := n.createReady("web", template(good, "1"), replicas(2))
	a := web.get().Status.GoodRevision
	web.release(template(crash, "2"))
	failed := web.awaitRolledBack(v1alpha1.FailureCrashLoop, a)
	web.awaitAvailable(2)
	pods := web.podUIDs()

	web.kubectl("scale", "gd/web", "--replicas=4")
	web.awaitAvailable(4)
	web.awaitRolledBack(v1alpha1.FailureCrashLoop, a)
	web.kubectl("scale", "deployment/web", "--replicas=1")
	web.awaitPutBack("spec.replicas")
	web.awaitAvailable(4)
	g := web.awaitRolledBack(v1alpha1.FailureCrashLoop, a)
	if !g.Status.Failure.Time.Equal(&failed.Status.Failure.Time) {
		t.Errorf("the release was judged again: %+v, before %+v", *g.Status.Failure, *failed.Status.Failure)
	}
	if now := web.podUIDs(); !slices.ContainsFunc(now, func(uid string) bool { return slices.Contains(pods, uid) }) {
		t.Errorf("the pods are %q, none of %q from before", now, pods)
	}
	web.awaitEvents(v1alpha1.FailureCrashLoop, 1)
	web.awaitEvents(v1alpha1.ReasonRolledBack, 1)
	web.checkMoves(a, g.Status.TargetRevision, a)
	web.checkDeploymentWrites("two releases and two scalings", 0, 5)
}
