package e2e

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// hold is a finalizer of somebody else's.
const hold = "e2e.belay.dev/hold"

// finalizers returns a patch that sets them, none to let go.
func finalizers(names ...string) []byte {
	if len(names) == 0 {
		return []byte(`{"metadata":{"finalizers":null}}`)
	}
	return fmt.Appendf(nil, `{"metadata":{"finalizers":["%s"]}}`, strings.Join(names, `","`))
}

func (o *object) delete(how metav1.DeletionPropagation) {
	o.Helper()
	err := cluster.belay.BelayV1alpha1().GuardedDeployments(o.namespace.name).Delete(o.Context(), o.name, metav1.DeleteOptions{PropagationPolicy: &how})
	if err != nil {
		o.Fatal(err)
	}
}

func (o *object) awaitGone() {
	o.Helper()
	o.eventually(o.name+" is gone", func(ctx context.Context) (bool, error) {
		_, err := cluster.belay.BelayV1alpha1().GuardedDeployments(o.namespace.name).Get(ctx, o.name, metav1.GetOptions{})
		return apierrors.IsNotFound(err), nil
	})
}

// running returns the resourceVersions of the ReplicaSets and pods, by kind, name and uid.
func (o *object) running() map[string]string {
	o.Helper()
	found := map[string]string{}
	sets, err := cluster.kube.AppsV1().ReplicaSets(o.namespace.name).List(o.Context(), metav1.ListOptions{LabelSelector: "app=" + o.name})
	if err != nil {
		o.Fatal(err)
	}
	for _, set := range sets.Items {
		found[fmt.Sprintf("ReplicaSet %s %s", set.Name, set.UID)] = set.ResourceVersion
	}
	for _, pod := range o.pods() {
		found[fmt.Sprintf("Pod %s %s", pod.Name, pod.UID)] = pod.ResourceVersion
	}
	return found
}

// awaitNothingLeft waits until the object is gone, with its Deployment, its revisions and all that ran.
func (o *object) awaitNothingLeft() {
	o.Helper()
	o.awaitGone()
	o.eventually("Deployments, revisions and pods are gone", func(ctx context.Context) (bool, error) {
		deployments, err := cluster.kube.AppsV1().Deployments(o.namespace.name).List(ctx, metav1.ListOptions{LabelSelector: v1alpha1.GuardedLabel + "=true"})
		if err != nil {
			return false, err
		}
		left := slices.DeleteFunc(deployments.Items, func(d appsv1.Deployment) bool { return d.Name != o.name })
		return len(left)+len(o.revisions())+len(o.running()) == 0, nil
	})
}

func TestDeletion_DeletesAllThatIsOwned(t *testing.T) {
	t.Parallel()
	for _, how := range []metav1.DeletionPropagation{metav1.DeletePropagationBackground, metav1.DeletePropagationForeground} {
		t.Run(string(how), func(t *testing.T) {
			n := newNamespace(t)
			web := n.createReady("web", template(good, "1"))
			first := web.get().Status.GoodRevision
			web.release(template(crash, "2"))
			g := web.awaitRolledBack(v1alpha1.FailureCrashLoop, first)
			web.delete(how)
			web.awaitNothingLeft()
			web.checkMoves(first, g.Status.TargetRevision, first) // Nothing was created again in between.
		})
	}
}

func TestDeletion_SameNameAtOnce(t *testing.T) {
	n := newNamespace(t)
	web := n.createReady("web", template(good, "1"))
	was := web.get()
	deployment := web.deployment()
	web.delete(metav1.DeletePropagationBackground)
	web = n.create("web", template(good, "2"))

	g := web.awaitReady()
	if g.UID == was.UID || g.Status.GoodRevision == was.Status.GoodRevision {
		t.Errorf("uid %s, good revision %s: they are the earlier object's", g.UID, g.Status.GoodRevision)
	}
	if d := web.deployment(); d.UID == deployment.UID || version(d) != "2" || !metav1.IsControlledBy(d, g) {
		t.Errorf("the Deployment is not the new object's: %+v", d.ObjectMeta)
	}
	web.awaitAvailable(3)
}

// Nobody needs Belay to leave it: it has no finalizer. It tidies up when it is back.
func testDeletionWhileBelayIsDown(t *testing.T) {
	n := emptyNamespace(t)
	n.belay = startBelay(t, n.name)
	orphan, background, foreground := n.create("orphan", template(good, "1")), n.create("background", template(good, "1")), n.create("foreground", template(good, "1"))
	for _, o := range []*object{orphan, background, foreground} {
		o.awaitReady()
	}
	was, running := orphan.deployment(), orphan.running()
	n.belay.kill()
	n.belay = nil
	writes, ofOrphan := len(n.writes()), len(orphan.deploymentWrites())
	orphan.delete(metav1.DeletePropagationOrphan)
	background.delete(metav1.DeletePropagationBackground)
	foreground.delete(metav1.DeletePropagationForeground)
	orphan.awaitGone()
	orphan.awaitDeployment("has no owner", func(d *appsv1.Deployment) bool { return metav1.GetControllerOf(d) == nil })
	background.awaitNothingLeft()
	foreground.awaitNothingLeft()
	n.belay = startBelay(t, n.name)
	orphan.checkReleased(was, running, ofOrphan)
	if now := n.writes()[writes:]; cluster.audit != nil && len(now) != 1 {
		t.Errorf("Belay wrote more than the orphan after it was back: %v", now)
	}
}

// checkNothingWritten makes sure that Belay writes nothing while this holds. What it had begun before the deletion it
// may end within a second, but for the Deployment.
func (o *object) checkNothingWritten(watched time.Duration, deployments int, holds func() error) {
	o.Helper()
	time.Sleep(time.Second)
	writes := len(o.writes())
	o.nothingHappens(watched, func(context.Context) error {
		if len(o.writes()) != writes || len(o.deploymentWrites()) != deployments {
			return fmt.Errorf("Belay wrote after the deletion:\n%s", o.describeWrites())
		}
		return holds()
	})
}

// The Deployment goes first, and its pods take their time.
func TestDeletion_Foreground(t *testing.T) {
	n := newNamespace(t)
	web := n.createReady("web", template(good, "1"))
	pods := cluster.kube.CoreV1().Pods(n.name)
	slow := web.pods()[0].Name
	finish := func(ctx context.Context, names ...string) error {
		_, err := pods.Patch(ctx, slow, types.MergePatchType, finalizers(names...), metav1.PatchOptions{})
		return err
	}
	if err := finish(t.Context(), hold); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = finish(context.Background()) })
	was, deployments := web.deployment(), len(web.deploymentWrites())
	web.delete(metav1.DeletePropagationForeground)
	// A garbage collector that has just begun may not know the kind yet.
	web.awaitDeployment("is being deleted", func(d *appsv1.Deployment) bool { return d.DeletionTimestamp != nil })
	web.checkNothingWritten(10*time.Second, deployments, func() error {
		if d := web.deployment(); d.UID != was.UID || d.DeletionTimestamp == nil || web.get().DeletionTimestamp == nil {
			return fmt.Errorf("the deletion does not wait: %+v", d.ObjectMeta)
		}
		return nil
	})
	if err := finish(t.Context()); err != nil {
		t.Fatal(err)
	}
	web.awaitNothingLeft()
	web.checkDeploymentWrites("a release that was deleted", 0, deployments)
}

// A GuardedDeployment that is held by somebody else's finalizer is left as it is, also in the middle of a release that
// has failed meanwhile.
func TestDeletion_HeldByFinalizer(t *testing.T) {
	n := newNamespace(t)
	web := n.createReady("web", template(good, "1"))
	a := web.get().Status.GoodRevision
	patch := func(ctx context.Context, names ...string) error {
		_, err := cluster.belay.BelayV1alpha1().GuardedDeployments(n.name).Patch(ctx, "web", types.MergePatchType, finalizers(names...), metav1.PatchOptions{})
		return err
	}
	if err := patch(t.Context(), hold); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = patch(context.Background()) })
	web.release(template(crash, "2"))
	b := web.awaitReason(v1alpha1.ReasonProgressing).Status.TargetRevision
	deployments := len(web.deploymentWrites())
	web.delete(metav1.DeletePropagationBackground)
	web.checkNothingWritten(12*time.Second, deployments, func() error {
		if d := web.deployment(); d.DeletionTimestamp != nil || version(d) != "2" {
			return fmt.Errorf("release %q of %+v", version(d), d.ObjectMeta)
		}
		return nil
	})
	if g := web.get(); g.Status.Failure != nil || g.Status.TargetRevision != b {
		t.Errorf("the status is %+v", g.Status)
	}
	if err := patch(t.Context()); err != nil {
		t.Fatal(err)
	}
	web.awaitNothingLeft()
	web.checkMoves(a, b)
}

// The last of many GuardedDeployments of one name is the one that counts, and nothing of the earlier ones is left.
func TestDeletion_SameNameManyTimes(t *testing.T) {
	const lives = 20
	n := newNamespace(t)
	web := n.create("web", template(good, "1"), soak(0))
	for life := 2; life <= lives; life++ {
		time.Sleep(time.Duration(life*37%200) * time.Millisecond) // before, while and after its Deployment is created
		web.delete(metav1.DeletePropagationBackground)
		web = n.create("web", template(good, fmt.Sprint(life)), soak(0))
	}
	began := time.Now()
	g := web.awaitReady()
	t.Logf("ready %s after the last of %d lives began", time.Since(began).Round(time.Millisecond), lives)
	web.awaitAvailable(3)
	d := web.deployment()
	if version(d) != fmt.Sprint(lives) || !metav1.IsControlledBy(d, g) || g.UID != web.uid {
		t.Errorf("release %q of %+v, want %d of uid %s", version(d), d.ObjectMeta, lives, web.uid)
	}
	web.eventually("nothing of the earlier ones is left", func(context.Context) (bool, error) {
		revisions := web.revisions()
		return len(revisions) == 1 && metav1.IsControlledBy(&revisions[0], g) && len(web.running()) == 4, nil
	})
}
