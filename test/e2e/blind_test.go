package e2e

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"sigs.k8s.io/yaml"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// loosenCRD lets anything pass for the creationTimestamp of the template, until the end of the test.
func loosenCRD(n *namespace) {
	n.Helper()
	embedded(n.T)
	data, err := os.ReadFile(filepath.Join(root, "artifacts", "crd.yaml"))
	if err != nil {
		n.Fatal(err)
	}
	crd := &unstructured.Unstructured{}
	if err := yaml.Unmarshal(data, &crd.Object); err != nil {
		n.Fatal(err)
	}
	version := crd.Object["spec"].(map[string]any)["versions"].([]any)[0].(map[string]any)
	anything := map[string]any{"x-kubernetes-preserve-unknown-fields": true}
	if err := unstructured.SetNestedMap(version, anything, "schema", "openAPIV3Schema", "properties", "spec", "properties", "template",
		"properties", "metadata", "properties", "creationTimestamp"); err != nil {
		n.Fatal(err)
	}
	client, err := dynamic.NewForConfig(cluster.config)
	if err != nil {
		n.Fatal(err)
	}
	forget := leave(installCRD)
	n.Cleanup(func() {
		if err := installCRD(); err != nil {
			n.Error(err)
		}
		forget()
	})
	crds := client.Resource(schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"})
	if _, err := crds.Apply(n.Context(), crd.GetName(), crd, metav1.ApplyOptions{FieldManager: "belay-e2e", Force: true}); err != nil {
		n.Fatal(err)
	}
}

// One object that cannot be decoded hides all others. Belay says so and names it, and goes on when it is gone. It hides them
// from the tests, too: this is not parallel.
func TestAnObjectThatCannotBeDecodedBlindsNobodyForLong(t *testing.T) {
	n := emptyNamespace(t)
	address := "127.0.0.1" + freeAddress(t)
	n.belay = startBelayWith(n, "--health-address", address)
	ready := func() (int, string) { return get(n.Context(), "http://"+address+"/readyz", "") }
	n.createReady("before", template(good, "1"), replicas(1), soak(0))
	loosenCRD(n)
	client := raw(n).Namespace(n.name)
	n.eventually("the object is let through", func(context.Context) (bool, error) {
		_, err := n.createAs("bad", func(pods map[string]any) {
			pods["metadata"].(map[string]any)["creationTimestamp"] = "2025-01-01T00:00:00+99:99"
		})
		return err == nil, nil
	})
	n.Cleanup(func() { _ = client.Delete(context.Background(), "bad", metav1.DeleteOptions{}) })

	bad := n.name + "/bad"
	n.eventually("/readyz names the object", func(context.Context) (bool, error) {
		code, says := ready()
		return code == 503 && strings.Contains(says, "no change of guardeddeployments has been seen") && strings.Contains(says, bad), nil
	})
	if logged := tail(n.belay.log, "An object that cannot be decoded", 10); strings.Count(logged, bad) != 1 {
		t.Errorf("the log does not name %s once:\n%s", bad, logged)
	}
	meanwhile := n.create("meanwhile", template(good, "1"), replicas(1), soak(0))
	if err := client.Delete(n.Context(), "bad", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	n.within(2*patience, "Belay sees again", func(context.Context) (bool, error) {
		code, _ := ready()
		return code == 200, nil
	})
	figures.time("sees again once the object is gone", time.Since(began), 2*patience)
	meanwhile.awaitWithin(2*patience, "is seen by the tests, too", func(*v1alpha1.GuardedDeployment) bool { return true })
	meanwhile.awaitReady()
	n.eventually("the log says that it is over", func(context.Context) (bool, error) {
		return strings.Count(tail(n.belay.log, "Not blind any more", 10), "\n") == 1, nil
	})
}
