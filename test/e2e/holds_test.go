package e2e

import (
	"context"
	"fmt"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/belay-dev/belay/internal/fakecluster"
	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// The cluster in memory keeps the same contract, which the tests and the simulation of what is guarded in place rest on.
func TestHolds_AsInMemory(t *testing.T) {
	t.Parallel()
	n := emptyNamespace(t)
	if cluster.holds {
		n.awaitHolds()
	}
	if err := fakecluster.ContractOfHolds(t.Context(), cluster.kube, n.name, cluster.holds); err != nil {
		t.Errorf("with policies: %t: %v", cluster.holds, err)
	}
}

// awaitHolds waits until the policy of held ReplicaSets is in force: it is a moment after it was created.
func (n *namespace) awaitHolds() {
	n.Helper()
	sets, labels := cluster.kube.AppsV1().ReplicaSets(n.name), map[string]string{"app": "probe"}
	set := &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Name: "probe"}, Spec: appsv1.ReplicaSetSpec{Replicas: new(int32),
		Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: template(good, "1")}}
	set.Spec.Template.Labels = labels
	set, err := sets.Create(n.Context(), set, metav1.CreateOptions{})
	if err != nil {
		n.Fatal(err)
	}
	hold := fmt.Sprintf(`{"metadata":{"labels":{%q:"7.%s"}}}`, v1alpha1.HeldAtLabel, set.UID)
	n.eventually("ReplicaSets are held", func(ctx context.Context) (bool, error) {
		held, err := sets.Patch(ctx, set.Name, types.MergePatchType, []byte(hold), metav1.PatchOptions{DryRun: []string{metav1.DryRunAll}})
		return err == nil && *held.Spec.Replicas == 7, err
	})
}
