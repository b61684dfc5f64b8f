package e2e

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

var crdResource = schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}

// readCRD reads artifacts/crd.yaml.
func readCRD() (*unstructured.Unstructured, error) {
	data, err := os.ReadFile(filepath.Join(root, "artifacts", "crd.yaml"))
	if err != nil {
		return nil, err
	}
	crd := &unstructured.Unstructured{}
	return crd, yaml.Unmarshal(data, &crd.Object)
}

// applyCRD applies a CRD as the tests.
func applyCRD(ctx context.Context, crd *unstructured.Unstructured) error {
	if _, err := cluster.dynamic.Resource(crdResource).Apply(ctx, crd.GetName(), crd, metav1.ApplyOptions{FieldManager: "belay-e2e", Force: true}); err != nil {
		return fmt.Errorf("apply the CRD: %w", err)
	}
	return nil
}

// installCRD applies artifacts/crd.yaml and waits until it is served.
func installCRD() error {
	crd, err := readCRD()
	if err != nil {
		return err
	}
	if err := applyCRD(context.Background(), crd); err != nil {
		return err
	}
	return poll(context.Background(), 30*time.Second, func(ctx context.Context) (bool, error) {
		_, err := cluster.belay.BelayV1alpha1().GuardedDeployments("").List(ctx, metav1.ListOptions{})
		return err == nil, nil
	})
}

// restoreCRD installs the CRD again after the test.
func (n *namespace) restoreCRD() {
	forget := leave(installCRD)
	n.Cleanup(func() {
		if err := installCRD(); err != nil {
			n.Error(err)
		}
		forget()
	})
}

// deleteCRD deletes the CRD, with every GuardedDeployment there is, and waits until it is gone. It is installed again
// after the test at the latest. It skips the test if somebody else has GuardedDeployments in the cluster.
func deleteCRD(n *namespace) {
	n.Helper()
	embedded(n.T)
	all, err := cluster.belay.BelayV1alpha1().GuardedDeployments("").List(n.Context(), metav1.ListOptions{})
	if err != nil {
		n.Fatal(err)
	}
	for _, g := range all.Items {
		space, err := cluster.kube.CoreV1().Namespaces().Get(n.Context(), g.Namespace, metav1.GetOptions{})
		if err == nil && space.Labels[runLabel] != cluster.run {
			n.Skipf("this deletes every GuardedDeployment, and %s/%s is not of the tests", g.Namespace, g.Name)
		}
	}
	n.restoreCRD()
	crds, name := cluster.dynamic.Resource(crdResource), "guardeddeployments."+v1alpha1.GroupName
	if err := crds.Delete(n.Context(), name, metav1.DeleteOptions{}); err != nil {
		n.Fatal(err)
	}
	n.eventually("the CRD is gone", func(ctx context.Context) (bool, error) {
		_, err := crds.Get(ctx, name, metav1.GetOptions{})
		return apierrors.IsNotFound(err), nil
	})
}

// lines returns how many lines belay's log has.
func (p *process) lines() int {
	data, _ := os.ReadFile(p.log)
	return bytes.Count(data, []byte("\n"))
}

// The garbage collector deletes the Deployments then, as it does whenever an owner is gone; Belay deletes nothing. This
// is not parallel, so that nobody else has a GuardedDeployment: the belay that is shared is not there yet.
func TestCRD_DeletedAndInstalledAgain(t *testing.T) {
	for _, crd := range []struct {
		name  string
		away  time.Duration
		lines int // that belay may log meanwhile
	}{
		{"at once", 0, 10},
		{"later", 30 * time.Second, 15},
	} {
		t.Run(crd.name, func(t *testing.T) {
			n := emptyNamespace(t)
			n.belay = startBelay(t, n.name)
			web := n.createReady("web", template(good, "1"))
			was := web.deployment()

			lines := n.belay.lines()
			deleteCRD(n)
			writes := len(n.writes())
			n.nothingHappens(crd.away, func(context.Context) error {
				select {
				case <-n.belay.ended:
					return fmt.Errorf("belay has ended: %v", n.belay.err)
				default:
					return nil
				}
			})
			if now := n.writes()[writes:]; len(now) > 0 {
				t.Errorf("Belay wrote without the CRD: %v", now)
			}
			if crd.away > 0 {
				checkNoDeployments(n)
			}
			if err := installCRD(); err != nil {
				t.Fatal(err)
			}
			checkWorksAgain(n, was)
			logged := tail(n.belay.log, "reflector", 100)
			t.Logf("%d lines were logged meanwhile", n.belay.lines()-lines)
			if bytes.Count([]byte(logged), []byte("\n")) > crd.lines {
				t.Errorf("want at most %d lines about the CRD:\n%s", crd.lines, logged)
			}
		})
	}
}

// checkNoDeployments waits until the garbage collector has deleted what the GuardedDeployments owned.
func checkNoDeployments(n *namespace) {
	n.Helper()
	n.eventually("the garbage collector has deleted the Deployment", func(ctx context.Context) (bool, error) {
		left, err := cluster.kube.AppsV1().Deployments(n.name).List(ctx, metav1.ListOptions{})
		return err == nil && len(left.Items) == 0, err
	})
}

// checkWorksAgain makes sure that a new GuardedDeployment of the same name becomes ready.
func checkWorksAgain(n *namespace, was *appsv1.Deployment) {
	n.Helper()
	began := time.Now()
	web := n.create("web", template(good, "3"), soak(0))
	n.within(2*patience, "the new GuardedDeployment is ready", func(context.Context) (bool, error) {
		return reasonOf(web.get()) == v1alpha1.ReasonRolledOut, nil
	})
	figures.time("ready after the CRD is back", time.Since(began), 2*patience)
	web.awaitWithin(2*patience, "is seen by the tests, too", func(*v1alpha1.GuardedDeployment) bool { return true })
	web.awaitReady()
	if d := web.deployment(); d.UID == was.UID || !metav1.IsControlledBy(d, web.get()) || version(d) != "3" {
		n.Errorf("the Deployment is not the new object's: %+v", d.ObjectMeta)
	}
}
