package kustomize

import (
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// generatorOptions are the two kustomizations of docs/gitops.md: one that lets tools keep what is generated, and one without hashes.
func generatorOptions(t *testing.T) (kept, unhashed string) {
	t.Helper()
	blocks := regexp.MustCompile("(?s)```yaml\n# kustomization.yaml\n(generatorOptions:.*?)```").FindAllStringSubmatch(read(t, "docs/gitops.md"), -1)
	if len(blocks) != 2 {
		t.Fatalf("docs/gitops.md has %d kustomizations with generatorOptions, want two", len(blocks))
	}
	return blocks[0][1], blocks[1][1]
}

// generated is what a kustomization generates, by the name without the hash, and the names that the pods refer to.
type generated struct {
	objects objects
	names   map[string]string
	refers  map[string]string
}

// generate builds a guarded Deployment whose pods take a generated ConfigMap and a generated Secret with this content.
func generate(t *testing.T, options, content string) generated {
	t.Helper()
	tr := newTree(t)
	tr.write("generated/web.yaml", `{apiVersion: apps/v1, kind: Deployment, metadata: {name: web}, spec: {template: {spec: {
  containers: [{name: app, envFrom: [{configMapRef: {name: config}}]}], volumes: [{name: key, secret: {secretName: key}}]}}}}
`)
	tr.write("generated/kustomization.yaml", `
resources: [web.yaml]
transformers: [../guard]
configMapGenerator: [{name: config, literals: [content=`+content+`]}]
secretGenerator: [{name: key, literals: [content=`+content+`]}]
`+options)
	all := tr.build("generated")
	g := generated{all, map[string]string{}, map[string]string{}}
	for object := range all {
		if kind, name, _ := strings.Cut(object, " "); kind == "ConfigMap" || kind == "Secret" {
			short, _, _ := strings.Cut(name, "-")
			g.names[short] = name
		}
	}
	web := all["GuardedDeployment web"]
	from := containers(t, web)["app"]["envFrom"].([]any)[0].(map[string]any)
	g.refers["config"], _, _ = unstructured.NestedString(from, "configMapRef", "name")
	volumes, _, _ := unstructured.NestedSlice(web, "spec", "template", "spec", "volumes")
	g.refers["key"], _, _ = unstructured.NestedString(volumes[0].(map[string]any), "secret", "secretName")
	return g
}

// What is generated has a name for each content, and says that it is to be kept; the pods of a GuardedDeployment have the name.
func TestGenerated_IsKept(t *testing.T) {
	kept, _ := generatorOptions(t)
	a, b, without := generate(t, kept, "a"), generate(t, kept, "b"), generate(t, "", "a")
	for _, g := range []generated{a, b} {
		if diff := cmp.Diff(g.names, g.refers); diff != "" {
			t.Errorf("what is generated (-) is not what the pods refer to (+):\n%s", diff)
		}
		for _, object := range []string{"ConfigMap " + g.names["config"], "Secret " + g.names["key"]} {
			annotations, _, _ := unstructured.NestedStringMap(g.objects[object], "metadata", "annotations")
			want := map[string]string{"argocd.argoproj.io/sync-options": "PruneLast=true", "kustomize.toolkit.fluxcd.io/prune": "disabled"}
			if diff := cmp.Diff(want, annotations); diff != "" {
				t.Errorf("annotations of %s (-want +got):\n%s", object, diff)
			}
		}
	}
	if annotations, found, _ := unstructured.NestedMap(a.objects["GuardedDeployment web"], "metadata", "annotations"); found {
		t.Errorf("what is not generated has annotations, too: %v", annotations)
	}
	for _, short := range []string{"config", "key"} {
		if a.names[short] == b.names[short] || a.names[short] == short {
			t.Errorf("with other content %s has the name %s as before", short, a.names[short])
		}
	}
	if diff := cmp.Diff(without.names, a.names); diff != "" {
		t.Errorf("to be kept takes another name (-without +with):\n%s", diff)
	}
}

// Without hashes another content is no other template.
func TestGenerated_WithoutHash(t *testing.T) {
	_, unhashed := generatorOptions(t)
	a, b := generate(t, unhashed, "a"), generate(t, unhashed, "b")
	if diff := cmp.Diff(map[string]string{"config": "config", "key": "key"}, a.names); diff != "" {
		t.Errorf("names (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(a.objects["GuardedDeployment web"], b.objects["GuardedDeployment web"]); diff != "" {
		t.Errorf("another content makes another GuardedDeployment:\n%s", diff)
	}
	if diff := cmp.Diff(slices.Sorted(maps.Keys(a.objects)), slices.Sorted(maps.Keys(b.objects))); diff != "" {
		t.Errorf("another content makes other objects:\n%s", diff)
	}
}
