package e2e

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/retry"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// There are no metrics here: a HorizontalPodAutoscaler keeps to its limits without. It looks every 15 s.

// autoscale creates the HorizontalPodAutoscaler of the object's name, or changes its limits.
func (o *object) autoscale(kind string, least, most int32) {
	o.Helper()
	version := map[string]string{"Deployment": "apps/v1", "GuardedDeployment": v1alpha1.GroupVersion.String()}[kind]
	scaler := &autoscalingv2.HorizontalPodAutoscaler{ObjectMeta: metav1.ObjectMeta{Name: o.name}}
	scaler.Spec.ScaleTargetRef = autoscalingv2.CrossVersionObjectReference{APIVersion: version, Kind: kind, Name: o.name}
	scaler.Spec.MinReplicas, scaler.Spec.MaxReplicas = &least, most
	client := cluster.kube.AutoscalingV2().HorizontalPodAutoscalers(o.namespace.name)
	_, err := client.Create(o.Context(), scaler, metav1.CreateOptions{})
	if err != nil {
		err = retry.RetryOnConflict(conflicting, func() error {
			live, err := client.Get(o.Context(), o.name, metav1.GetOptions{})
			if err != nil {
				return err
			}
			live.Spec = scaler.Spec
			_, err = client.Update(o.Context(), live, metav1.UpdateOptions{})
			return err
		})
	}
	if err != nil {
		o.Fatalf("scale %s %s from %d to %d: %v", kind, o.name, least, most, err)
	}
}

// watchReplicas begins to watch how many replicas the Deployment is to have. The function that it returns ends that, and
// returns the numbers, one after the other, from the one at the beginning on.
func (o *object) watchReplicas() (seen func() []int32) {
	o.Helper()
	first := *o.deployment().Spec.Replicas
	end := watchEach(o, cluster.seen.deployments, func(d *appsv1.Deployment) int32 { return *d.Spec.Replicas })
	return func() []int32 { return slices.Compact(append([]int32{first}, end()...)) }
}

// Whatever is taken over, released or rolled back meanwhile, the replicas are the autoscaler's alone.
func TestAutoscaler_OfDeployment(t *testing.T) {
	n := newNamespace(t)
	web := n.deploy("web", template(good, "1"), 1, consenting)
	seen := web.watchReplicas()
	web.autoscale("Deployment", 3, 10)
	web.awaitAvailable(3)
	web = web.guard(template(good, "1"), ownReplicas)
	a := web.awaitReady().Status.GoodRevision
	adopted := web.revisions()[0].Name

	web.autoscale("Deployment", 5, 10)
	web.release(template(good, "2"))
	b := web.awaitReady().Status.GoodRevision
	web.awaitAvailable(5)

	web.autoscale("Deployment", 1, 2)
	web.release(template(crash, "3"))
	g := web.awaitRolledBack(v1alpha1.FailureCrashLoop, b)
	web.awaitAvailable(2)
	if numbers := seen(); !slices.Equal(numbers, []int32{1, 3, 5, 2}) {
		t.Errorf("the Deployment was scaled to %d, want 1, 3, 5 and 2 and nothing in between", numbers)
	}
	web.awaitRolledBack(v1alpha1.FailureCrashLoop, b)
	web.checkMoves(adopted, a, b, g.Status.TargetRevision, b)
	web.checkDeploymentWrites("an adoption, three releases and a rollback", 0, 5)
}

func TestAutoscaler_OfGuardedDeployment(t *testing.T) {
	n := newNamespace(t)
	web := n.createReady("web", template(good, "1"), replicas(2))
	a := web.get().Status.GoodRevision
	seen := web.watchReplicas()
	web.autoscale("GuardedDeployment", 4, 10)
	web.awaitAvailable(4)

	web.autoscale("GuardedDeployment", 1, 3)
	web.release(template(crash, "2"))
	web.await("has 3 replicas", func(g *v1alpha1.GuardedDeployment) bool { return *g.Spec.Replicas == 3 })
	web.awaitAvailable(3)
	g := web.awaitRolledBack(v1alpha1.FailureCrashLoop, a)
	if numbers := seen(); !slices.Equal(numbers, []int32{2, 4, 3}) {
		t.Errorf("the Deployment was scaled to %d, want 2, 4 and 3 and nothing in between", numbers)
	}
	web.checkMoves(a, g.Status.TargetRevision, a)
	web.checkDeploymentWrites("two releases, a rollback and two scalings", 0, 5)
}

// Without spec.replicas there is nothing to scale: the autoscaler says so, and the Deployment stays as it is.
func TestAutoscaler_OfGuardedDeploymentWithoutReplicas(t *testing.T) {
	n := newNamespace(t)
	web := n.createReady("web", template(good, "1"), ownReplicas)
	web.autoscale("GuardedDeployment", 2, 10)
	n.eventually("the autoscaler says why it cannot scale", func(ctx context.Context) (bool, error) {
		scaler, err := cluster.kube.AutoscalingV2().HorizontalPodAutoscalers(n.name).Get(ctx, "web", metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		for _, condition := range scaler.Status.Conditions {
			if condition.Type == autoscalingv2.AbleToScale {
				if condition.Status != corev1.ConditionFalse || condition.Reason != "FailedGetScale" {
					return false, fmt.Errorf("it says %+v", condition)
				}
				return true, nil
			}
		}
		return false, nil
	})
	web.checkReplicas(1)
	web.checkDeploymentWrites("a release", 0, 1)
}

// Two who state the replicas is a mistake, which Belay reports. It keeps the release as it is.
func TestAutoscaler_AgainstStatedReplicas(t *testing.T) {
	n := newNamespace(t)
	web := n.createReady("web", template(good, "1"), replicas(2))
	web.autoscale("Deployment", 3, 10)
	g := web.awaitWithin(4*patience, "is Contested", func(g *v1alpha1.GuardedDeployment) bool { return reasonOf(g) == v1alpha1.ReasonContested })
	if text := message(g); !strings.Contains(text, "spec.replicas") {
		t.Errorf("the condition does not tell what is contested: %q", text)
	}
	web.checkReplicas(3)
	web.checkDeploymentWrites("a release and five corrections", 0, 6)
	web.update(ownReplicas)
	web.awaitReady()
	web.awaitAvailable(3)
}
