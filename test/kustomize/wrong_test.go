package kustomize

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// These are the warnings of docs/gitops.md. A test that fails here because kustomize has become cleverer is good news: then
// the page may say less.

// reached reports whether the Service's selector still selects the pods of the object.
func (all objects) reached(t *testing.T, object string) bool {
	t.Helper()
	selector, _, err := unstructured.NestedStringMap(all["Service "+web], "spec", "selector")
	if err != nil || len(selector) == 0 {
		t.Fatalf("the Service selects %v (%v)", selector, err)
	}
	labels, _, err := unstructured.NestedStringMap(all[object], "spec", "template", "metadata", "labels")
	if err != nil || len(labels) == 0 {
		t.Fatalf("the pods of %s have labels %v (%v)", object, labels, err)
	}
	for key, value := range selector {
		if labels[key] != value {
			return false
		}
	}
	return true
}

// Whatever is changed before kustomize sets labels does not get them. The Service's selector does: an outage.
func TestKindChangedTooEarly(t *testing.T) {
	const component = "apiVersion: kustomize.config.k8s.io/v1alpha1\nkind: Component\ntransformers: [../guard]"
	for name, change := range map[string]func(tree){
		"in the base": func(tr tree) { tr.add("base/kustomization.yaml", "transformers: [../guard]") },
		"by a component": func(tr tree) {
			tr.write("component/kustomization.yaml", component)
			tr.add("overlay/kustomization.yaml", "components: [../component]")
		},
		"by a patch of the overlay": func(tr tree) {
			tr.write("overlay/patch.yaml", "apiVersion: belay.dev/v1alpha1\nkind: GuardedDeployment\nmetadata: {name: any}")
			tr.edit("overlay/kustomization.yaml", "patches:", "patches:\n  - {path: patch.yaml, target: {kind: Deployment, name: web}, options: {allowKindChange: true}}")
		},
		"not at all, and kept without configurations": func(tr tree) { tr.keepKind() },
	} {
		t.Run(name, func(t *testing.T) {
			tr := newTree(t)
			tr.edit("overlay/kustomization.yaml", "- path: web.yaml", jsonPatch) // The order of patches is not what this is about.
			tr.edit("overlay/kustomization.yaml", replicas, "")
			if made := tr.build("overlay"); !made.reached(t, "Deployment "+web) {
				t.Fatal("the Service does not reach the Deployment")
			}
			change(tr)
			if made := tr.build("overlay"); made.reached(t, "GuardedDeployment "+web) {
				t.Errorf("the Service reaches the GuardedDeployment: docs/gitops.md may be less strict")
			}
		})
	}
}

const replicas = "replicas:\n  - {name: web, count: 5}\n"

// Without configurations.yaml, the names in a GuardedDeployment, and the autoscaler's, stay as they are written.
func TestKindKeptWithoutConfigurations(t *testing.T) {
	tr := newTree(t)
	tr.edit("overlay/kustomization.yaml", "- path: web.yaml", jsonPatch)
	tr.keepKind()
	if _, err := tr.tryBuild("overlay"); err == nil || !strings.Contains(err.Error(), "web does not match a config") {
		t.Errorf("replicas: %v, want them refused", err)
	}
	tr.edit("overlay/kustomization.yaml", replicas, "")
	made := tr.build("overlay")
	from, _, _ := unstructured.NestedSlice(containers(t, made["GuardedDeployment "+web])["app"], "envFrom")
	if name, _, _ := unstructured.NestedString(from[0].(map[string]any), "configMapRef", "name"); name != "settings" {
		t.Errorf("the ConfigMap is %q: docs/gitops.md may be less strict", name)
	}
	if name, _, _ := unstructured.NestedString(made["HorizontalPodAutoscaler "+worker], "spec", "scaleTargetRef", "name"); name != "worker" {
		t.Errorf("the autoscaler scales %q: docs/gitops.md may be less strict", name)
	}
}

// Without a schema, a list in a merge patch replaces the list: the proxy is gone.
func TestMergePatchOfKindKept(t *testing.T) {
	tr := newTree(t)
	text, err := os.ReadFile(filepath.Join(tr.dir, "overlay", "kustomization.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	patched, _, _ := strings.Cut(string(text), "replacements:") // There would be nothing to replace.
	tr.write("overlay/kustomization.yaml", patched)
	names := func(object map[string]any) []string { return slices.Sorted(maps.Keys(containers(t, object))) }
	if got := names(tr.build("overlay")["Deployment "+web]); !slices.Equal(got, []string{"app", "proxy"}) {
		t.Fatalf("the Deployment has containers %q", got)
	}
	tr.keepKind()
	tr.edit("overlay/web.yaml", "apiVersion: apps/v1\nkind: Deployment", "apiVersion: belay.dev/v1alpha1\nkind: GuardedDeployment")
	tr.configure("base")
	if got := names(tr.build("overlay")["GuardedDeployment "+web]); slices.Contains(got, "proxy") {
		t.Errorf("the GuardedDeployment has containers %q: docs/gitops.md may be less strict", got)
	}
}
