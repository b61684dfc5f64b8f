package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

func (o *object) deleteDeployment() (was *appsv1.Deployment) {
	o.Helper()
	was = o.deployment()
	background := metav1.DeletePropagationBackground
	if err := cluster.kube.AppsV1().Deployments(o.namespace.name).Delete(o.Context(), o.name, metav1.DeleteOptions{PropagationPolicy: &background}); err != nil {
		o.Fatal(err)
	}
	return was
}

func TestDeployment_DeletedIsCreatedAgain(t *testing.T) {
	n := newNamespace(t)
	web := n.createReady("web", template(good, "1"))
	a := web.get().Status.GoodRevision
	was := web.deleteDeployment()
	web.awaitDeployment("is back on the good release", func(d *appsv1.Deployment) bool { return d.UID != was.UID && version(d) == "1" })
	web.awaitAvailable(3)
	web.awaitReady()

	web.release(template(crash, "2"))
	g := web.awaitRolledBack(v1alpha1.FailureCrashLoop, a)
	was = web.deleteDeployment()
	web.awaitDeployment("is back on the release that was good", func(d *appsv1.Deployment) bool { return d.UID != was.UID && version(d) == "1" })
	web.awaitAvailable(3)
	web.awaitRolledBack(v1alpha1.FailureCrashLoop, a)
	web.checkMoves(a, g.Status.TargetRevision, a)
}

func TestCorrection_ChangesByOthers(t *testing.T) {
	n := newNamespace(t)
	web := n.createReady("web", template(good, "1"))
	image := web.deployment().Spec.Template.Spec.Containers[0].Image

	// As "kubectl set image" does.
	web.patchDeployment(types.StrategicMergePatchType, map[string]any{"spec": map[string]any{"template": map[string]any{"spec": map[string]any{
		"containers": []any{map[string]any{"name": "app", "image": "localhost/other:good"}}}}}})
	web.awaitDeployment("has its image again", func(d *appsv1.Deployment) bool { return d.Spec.Template.Spec.Containers[0].Image == image })
	web.awaitReady()
	if note := web.awaitEvents(v1alpha1.ReasonContested, 1)[0]; !strings.Contains(note, "image") {
		t.Errorf("the Event does not tell what was put back: %q", note)
	}
	if failures := web.get().Status.Failure; failures != nil {
		t.Errorf("somebody else's change was judged: %+v", failures)
	}
}

func TestSelector_Immutable(t *testing.T) {
	n := newNamespace(t)
	web := n.createReady("web", template(good, "1"))
	_, err := web.tryUpdate(func(g *v1alpha1.GuardedDeployment) {
		g.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"app": "other"}}
	})
	if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "immutable") {
		t.Errorf("another selector: %v, want it refused as immutable", err)
	}
}

func TestNameTaken_LeftAlone(t *testing.T) {
	n := newNamespace(t)
	web := &object{namespace: n, name: "web"}
	pods := template(good, "foreign")
	pods.Labels["app"] = "foreign"
	_, err := cluster.kube.AppsV1().Deployments(n.name).Create(t.Context(), &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec:       appsv1.DeploymentSpec{Replicas: new(int32(2)), Selector: &metav1.LabelSelector{MatchLabels: pods.Labels}, Template: pods},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	web.awaitAvailable(2)
	before := web.deployment()

	web = n.create("web", template(good, "1"))
	g := web.awaitReason(v1alpha1.ReasonNameTaken)
	web.awaitEvents(v1alpha1.ReasonNameTaken, 1)
	if g.Status.Replicas != 0 || g.Status.RunningRevision != "" {
		t.Errorf("the status reports the foreign Deployment as ours: %+v", g.Status)
	}
	n.nothingHappens(10*time.Second, func(context.Context) error {
		if now := web.deployment(); now.ResourceVersion != before.ResourceVersion {
			return fmt.Errorf("the foreign Deployment was written: resourceVersion %s, before %s", now.ResourceVersion, before.ResourceVersion)
		}
		return nil
	})

	web.deleteDeployment()
	web.awaitReady()
}

// Nothing runs from when the name is freed until it is taken up.
func TestNameTaken_Freed(t *testing.T) {
	n := emptyNamespace(t)
	n.belay = startBelay(t, n.name)
	for i := range 5 {
		web := n.deploy(fmt.Sprintf("web-%d", i), template(good, "theirs"), 1)
		web = web.guard(template(good, "1"), soak(0))
		web.awaitReason(v1alpha1.ReasonNameTaken)
		time.Sleep(time.Duration(i) * 700 * time.Millisecond) // at other times between two looks
		was, freed := web.deleteDeployment(), time.Now()
		taken := web.awaitDeployment("is Belay's", func(d *appsv1.Deployment) bool { return d.UID != was.UID })
		figures.time("a freed name is taken up", time.Since(freed), 2500*time.Millisecond)
		g := web.awaitReady()
		if !metav1.IsControlledBy(taken, g) || strings.Contains(fmt.Sprint(g.Status.Conditions), v1alpha1.ReasonNameTaken) {
			t.Errorf("the Deployment is %+v, and the status says %+v", taken.ObjectMeta, g.Status.Conditions)
		}
	}
}
