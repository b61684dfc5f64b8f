package e2e

import (
	"fmt"
	"testing"

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

func TestReplicasThatAreLeftOutBelongToOthers(t *testing.T) {
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

func TestLiveReplicasStayWhenTheyAreNoLongerStated(t *testing.T) {
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

func TestScaleSubresource(t *testing.T) {
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

func TestZeroReplicasAreNotJudged(t *testing.T) {
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
