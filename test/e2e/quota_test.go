package e2e

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// A rollback reuses a ReplicaSet. When its pods cannot be created, the Deployment controller says that all is well.
func TestRollback_WaitsForQuota(t *testing.T) {
	n := newNamespace(t)
	web := n.createReady("web", template(good, "1"), deadline(10), allAtOnce)
	first := web.get().Status.GoodRevision
	web.release(template(unready, "2"))
	n.eventually("only pods of the new release are there", func(context.Context) (bool, error) {
		pods := web.pods()
		old := slices.ContainsFunc(pods, func(p corev1.Pod) bool { return versionOf(p.Spec) != "2" })
		return len(pods) == 3 && !old, nil
	})
	quota := n.setQuota(corev1.ResourcePods, "0")

	g := web.awaitReason(v1alpha1.ReasonWaitingForQuota)
	web.checkFailure(g, v1alpha1.FailureDeadlineExceeded)
	if !strings.Contains(message(g), "rolling back to "+first) || !strings.Contains(message(g), "exceeded quota") {
		t.Errorf("the condition does not tell what keeps the rollback: %q", message(g))
	}

	quota.lift(web)
	web.awaitRolledBack(v1alpha1.FailureDeadlineExceeded, first)
	web.checkMoves(first, g.Status.TargetRevision, first)
}

// A quota of limits refuses pods that state none, in other words than one that is used up.
func TestPodsForbidden_QuotaOfLimits(t *testing.T) {
	n := newNamespace(t)
	web := n.createReady("web", template(good, "1"), deadline(10))
	first := web.get().Status.GoodRevision
	n.setQuota(corev1.ResourceLimitsMemory, "1Gi")
	web.release(template(good, "2"))
	g := web.awaitRolledBack(v1alpha1.FailurePodsForbidden, first)
	if !strings.Contains(g.Status.Failure.Message, "must specify limits.memory") {
		t.Errorf("the failure's message is %q, want what the quota asks for", g.Status.Failure.Message)
	}
}

const (
	enforce    = "pod-security.kubernetes.io/enforce"
	restricted = "restricted"
)

// Pod Security lets Deployments pass and refuses their pods.
func TestPodsForbidden_PodSecurityTightened(t *testing.T) {
	t.Parallel()
	t.Run("lets a release pass that keeps to it", func(t *testing.T) {
		n := newNamespace(t)
		web := n.createReady("web", template(good, "1"), deadline(10))
		first := web.get().Status.GoodRevision
		n.label(enforce, restricted)
		web.release(template(good, "2"))
		second := web.awaitRolledBack(v1alpha1.FailurePodsForbidden, first).Status.TargetRevision
		web.awaitAvailable(3)

		strict := template(good, "3")
		strict.Spec.SecurityContext = &corev1.PodSecurityContext{RunAsNonRoot: new(true), RunAsUser: new(int64(1000)),
			SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}}
		strict.Spec.Containers[0].SecurityContext = &corev1.SecurityContext{AllowPrivilegeEscalation: new(false),
			Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}}}
		web.release(strict)
		web.checkMoves(first, second, first, web.awaitReady().Status.TargetRevision)
	})
	t.Run("keeps a rollback from coming up", func(t *testing.T) {
		n := newNamespace(t)
		web := n.createReady("web", template(good, "1"), deadline(10), allAtOnce)
		first := web.get().Status.GoodRevision
		n.label(enforce, restricted)
		before := len(n.writes())
		web.release(template(good, "2"))
		web.await("has failed", func(g *v1alpha1.GuardedDeployment) bool { return g.Status.Failure != nil })
		g := web.awaitReason(v1alpha1.ReasonRollbackFailed)
		web.checkFailure(g, v1alpha1.FailurePodsForbidden)
		if !strings.Contains(message(g), first+", which was good, does not come up: its pods cannot be created") {
			t.Errorf("the condition does not tell what keeps the rollback: %q", message(g))
		}
		n.checkBudget("failed release, with a rollback that fails", before, 15+2+2) // and one for every 10 s of two deadlines
		web.checkMoves(first, g.Status.TargetRevision, first)
	})
}

// quota is a ResourceQuota of a test.
type quota struct {
	*namespace
	name string
}

// setQuota limits a resource, and waits until the limit is enforced.
func (n *namespace) setQuota(name corev1.ResourceName, most string) quota {
	n.Helper()
	quotas := cluster.kube.CoreV1().ResourceQuotas(n.name)
	created, err := quotas.Create(n.Context(), &corev1.ResourceQuota{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "e2e-"},
		Spec:       corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{name: resource.MustParse(most)}},
	}, metav1.CreateOptions{})
	if err != nil {
		n.Fatal(err)
	}
	n.eventually("the quota is enforced", func(ctx context.Context) (bool, error) {
		q, err := quotas.Get(ctx, created.Name, metav1.GetOptions{})
		return err == nil && len(q.Status.Hard) == 1 && len(q.Status.Used) == 1, err
	})
	return quota{n, created.Name}
}

// lift removes the quota, and has the controllers that it held up try at once.
func (q quota) lift(o *object) {
	q.Helper()
	if err := cluster.kube.CoreV1().ResourceQuotas(q.namespace.name).Delete(q.Context(), q.name, metav1.DeleteOptions{}); err != nil {
		q.Fatal(err)
	}
	o.nudge()
}

// nudge has the controllers try again, which wait for ever longer, until the object has its pods.
func (o *object) nudge() {
	o.Helper()
	sets := cluster.kube.AppsV1().ReplicaSets(o.namespace.name)
	nudged := time.Time{}
	o.awaitDeployment("has its pods", func(d *appsv1.Deployment) bool {
		if time.Since(nudged) > 2*time.Second {
			nudged = time.Now()
			all, err := sets.List(o.Context(), metav1.ListOptions{})
			if err != nil {
				o.Fatal(err)
			}
			patch, _ := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": map[string]string{"e2e.belay.dev/nudge": nudged.String()}}})
			for _, set := range all.Items {
				_, _ = sets.Patch(o.Context(), set.Name, types.MergePatchType, patch, metav1.PatchOptions{})
			}
		}
		return d.Status.AvailableReplicas == *d.Spec.Replicas
	})
}

// label puts a label on the namespace, and takes it away if the value is empty.
func (n *namespace) label(key, value string) {
	n.Helper()
	labels := map[string]any{key: value}
	if value == "" {
		labels[key] = nil
	}
	patch, _ := json.Marshal(map[string]any{"metadata": map[string]any{"labels": labels}})
	if _, err := cluster.kube.CoreV1().Namespaces().Patch(n.Context(), n.name, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
		n.Fatal(err)
	}
}
