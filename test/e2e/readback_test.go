package e2e

import (
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// createAs creates a GuardedDeployment as change leaves it: what Go would not encode, a manifest can have.
func (n *namespace) createAs(name string, change func(pods map[string]any)) (*object, error) {
	n.Helper()
	typed := guarded(name, template(good, "1"), replicas(1), soak(0))
	typed.APIVersion, typed.Kind = v1alpha1.GroupVersion.String(), "GuardedDeployment"
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(typed)
	if err != nil {
		n.Fatal(err)
	}
	delete(content, "status")
	spec, _, _ := unstructured.NestedMap(content, "spec", "template")
	change(spec)
	if err := unstructured.SetNestedMap(content, spec, "spec", "template"); err != nil {
		n.Fatal(err)
	}
	created, err := raw(n).Namespace(n.name).Create(n.Context(), &unstructured.Unstructured{Object: content}, metav1.CreateOptions{})
	if err != nil {
		return nil, err
	}
	o := &object{namespace: n, name: name, uid: created.GetUID()}
	o.wrote(created)
	return o, nil
}

// raw returns a client of GuardedDeployments that decodes nothing.
func raw(n *namespace) dynamic.NamespaceableResourceInterface {
	n.Helper()
	return cluster.dynamic.Resource(schema.GroupVersion(v1alpha1.GroupVersion).WithResource("guardeddeployments"))
}

// Some values are decoded to something that is encoded to something else. What has one is rolled out like any other, with
// one write, and rests.
func TestReadback_RolledOut(t *testing.T) {
	n := newNamespace(t)
	metadata := func(key string, value any) func(map[string]any) {
		return func(pods map[string]any) { pods["metadata"].(map[string]any)[key] = value }
	}
	container := func(key string, value any) func(map[string]any) {
		return func(pods map[string]any) {
			pods["spec"].(map[string]any)["containers"].([]any)[0].(map[string]any)[key] = value
		}
	}
	limits := func(cpu, memory any) func(map[string]any) {
		return container("resources", map[string]any{"limits": map[string]any{"cpu": cpu, "memory": memory}})
	}
	var all []*object
	for name, change := range map[string]func(map[string]any){
		"half-a-second":      metadata("creationTimestamp", "2025-01-01T00:00:00.5Z"),
		"half-elsewhere":     metadata("creationTimestamp", "2025-01-01T00:00:00.25+05:30"),
		"elsewhere":          metadata("creationTimestamp", "2025-01-01T00:00:00-03:30"),
		"zero":               metadata("creationTimestamp", "0001-01-01T00:00:00Z"),
		"half-a-cpu":         limits("0.5", "1.5Gi"),
		"exponents":          limits("1e-1", "1e9"),
		"numbers":            limits(int64(1), int64(1<<30)),
		"fractions-of-milli": limits("100.5m", "1000000000500m"),
		"other-units":        limits("0.0005k", "1024Mi"),
		"null":               container("imagePullPolicy", nil),
		"empty":              container("args", []any{}),
		"an-empty-value":     container("env", []any{map[string]any{"name": "A", "value": ""}}),
	} {
		o, err := n.createAs(name, change)
		if err != nil {
			t.Errorf("create %s: %v", name, err)
			continue
		}
		all = append(all, o)
	}
	for _, o := range all {
		o.awaitReady()
		if revisions := o.revisions(); len(revisions) != 1 {
			t.Errorf("%s: revisions are %v, want one", o.name, names(revisions))
		}
	}
	n.checkBudget("first releases of templates that are read back otherwise", 0, 9*len(all))
	for _, o := range all {
		if writes := o.deploymentWrites(); len(writes) > 1 {
			t.Errorf("%s: %d writes of the Deployment, want one", o.name, len(writes))
		}
	}
}

// A time that is in the year 10,000 by UTC cannot be written down again. It is refused, at once or by Belay.
func TestReadback_UnwritableTime(t *testing.T) {
	n := newNamespace(t)
	o, err := n.createAs("late", func(pods map[string]any) {
		pods["metadata"].(map[string]any)["creationTimestamp"] = "9999-12-31T23:59:59-01:00"
	})
	if err != nil {
		if !strings.Contains(err.Error(), "creationTimestamp") {
			t.Error(err)
		}
		return
	}
	g := o.awaitReason(v1alpha1.ReasonInvalid)
	if len(o.revisions()) > 0 || !strings.Contains(message(g), "10000-01-01") {
		t.Errorf("%d revisions; %s", len(o.revisions()), message(g))
	}
}
