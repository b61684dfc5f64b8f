package e2e

import (
	"context"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// loosenCRD lets anything pass for the creationTimestamp of the template, until the end of the test.
func loosenCRD(n *namespace) {
	n.Helper()
	embedded(n.T)
	crd, err := readCRD()
	if err != nil {
		n.Fatal(err)
	}
	version := crd.Object["spec"].(map[string]any)["versions"].([]any)[0].(map[string]any)
	anything := map[string]any{"x-kubernetes-preserve-unknown-fields": true}
	if err := unstructured.SetNestedMap(version, anything, "schema", "openAPIV3Schema", "properties", "spec", "properties", "template",
		"properties", "metadata", "properties", "creationTimestamp"); err != nil {
		n.Fatal(err)
	}
	n.restoreCRD()
	if err := applyCRD(n.Context(), crd); err != nil {
		n.Fatal(err)
	}
}

// nest gives the status a field that is nested so deep. 9,997 is the least that cannot be decoded in a list.
func (o *object) nest(deep int) {
	o.Helper()
	patch := `{"status": {"nested": ` + strings.Repeat("[", deep) + strings.Repeat("]", deep) + `}}`
	if _, err := raw(o.namespace).Namespace(o.namespace.name).Patch(o.Context(), o.name, types.MergePatchType, []byte(patch), metav1.PatchOptions{}, "status"); err != nil {
		o.Fatal(err)
	}
}

// One object that cannot be decoded hides all others. Belay says so and names it, and goes on when it is gone. It hides them
// from the tests, too: this is not parallel.
func TestUndecodable_HidesOthersNotForLong(t *testing.T) {
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
	deep := n.create("deep", template(good, "1"), paused(true))
	n.Cleanup(func() {
		for _, name := range []string{"bad", "deep"} {
			_ = client.Delete(context.Background(), name, metav1.DeleteOptions{})
		}
	})
	deep.nest(9997)

	n.eventually("/readyz names the objects", func(context.Context) (bool, error) {
		code, says := ready()
		return code == 503 && strings.Contains(says, "no change of guardeddeployments has been seen") &&
			strings.Contains(says, n.name+"/bad") && strings.Contains(says, n.name+"/deep"), nil
	})
	logged := tail(n.belay.log, "An object that cannot be decoded", 10)
	for _, bad := range []string{n.name + "/bad", n.name + "/deep"} {
		if strings.Count(logged, bad) != 1 {
			t.Errorf("the log does not name %s once:\n%s", bad, logged)
		}
	}
	meanwhile := n.create("meanwhile", template(good, "1"), replicas(1), soak(0))
	for _, name := range []string{"bad", "deep"} {
		if err := client.Delete(n.Context(), name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
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
