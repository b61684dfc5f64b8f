package e2e

import (
	"context"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

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

func TestDeletionTakesEverythingAlong(t *testing.T) {
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

func TestSameNameAgainAtOnce(t *testing.T) {
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
