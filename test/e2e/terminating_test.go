package e2e

import (
	"context"
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// While a namespace is being deleted, nothing can be created in it, and its Deployments may go before their owners.
func TestNamespace_Terminating(t *testing.T) {
	n := newNamespace(t)
	n.createReady("ready", template(good, "1"))
	n.create("failing", template(crash, "1")).awaitReason(v1alpha1.ReasonNoGoodRevision)
	n.create("moving", template(unready, "1"), deadline(600))
	release := n.hold()
	before := len(n.writesAtRest())

	namespaces := cluster.kube.CoreV1().Namespaces()
	if err := namespaces.Delete(t.Context(), n.name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	n.nothingHappens(refusalWatched, func(ctx context.Context) error {
		ns, err := namespaces.Get(ctx, n.name, metav1.GetOptions{})
		if err != nil || ns.Status.Phase != corev1.NamespaceTerminating {
			return fmt.Errorf("the namespace is not being deleted: %v, phase %s", err, ns.Status.Phase)
		}
		return nil
	})
	// For each object at most: the status while the Deployment goes, twice, as its pods may be seen to go before it; then, for
	// the Deployment and for the revision, a write that is refused, the status, and an Event that is refused too.
	n.checkBudget("deletion of a namespace with 3 objects, and 20 s", before, 3*(2+2*3))
	for _, w := range n.writes()[before:] {
		if w.Verb == "create" && w.Response.Code < 300 {
			t.Errorf("Belay created something: %s", w)
		}
	}
	release()
	n.eventually("the namespace is gone", func(ctx context.Context) (bool, error) {
		_, err := namespaces.Get(ctx, n.name, metav1.GetOptions{})
		return apierrors.IsNotFound(err), nil
	})
}

// hold keeps the namespace from going when it is deleted, until release is called.
func (n *namespace) hold() (release func()) {
	n.Helper()
	maps := cluster.kube.CoreV1().ConfigMaps(n.name)
	_, err := maps.Create(n.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "held", Finalizers: []string{"e2e.belay.dev/hold"}}}, metav1.CreateOptions{})
	if err != nil {
		n.Fatal(err)
	}
	let := func() error {
		_, err := maps.Patch(context.Background(), "held", types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{})
		return ignoreNotFound(err)
	}
	forget := leave(let)
	release = func() {
		forget()
		if err := let(); err != nil {
			n.Error(err)
		}
	}
	n.Cleanup(release)
	return release
}
