package kustomize

import (
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

const artifacts = "../../artifacts/kustomize"

// tree is a copy of testdata and of artifacts/kustomize in one directory, as in a repository that uses Belay.
type tree struct {
	*testing.T
	dir string
}

func newTree(t *testing.T) tree {
	t.Helper()
	dir := t.TempDir()
	for _, from := range []string{"testdata", artifacts} {
		if err := os.CopyFS(dir, os.DirFS(from)); err != nil {
			t.Fatal(err)
		}
	}
	return tree{T: t, dir: dir}
}

// edit replaces text in a file, where it is at least once.
func (tr tree) edit(file, old, new string) {
	tr.Helper()
	path := filepath.Join(tr.dir, file)
	data, err := os.ReadFile(path)
	if err != nil {
		tr.Fatal(err)
	}
	if !strings.Contains(string(data), old) {
		tr.Fatalf("%s has no %q", file, old)
	}
	tr.write(file, strings.ReplaceAll(string(data), old, new))
}

// add appends lines to a file.
func (tr tree) add(file, lines string) {
	tr.Helper()
	data, err := os.ReadFile(filepath.Join(tr.dir, file))
	if err != nil {
		tr.Fatal(err)
	}
	tr.write(file, string(data)+lines+"\n")
}

func (tr tree) write(file, content string) {
	tr.Helper()
	path := filepath.Join(tr.dir, file)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		tr.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		tr.Fatal(err)
	}
}

// objects are what kustomize makes, by kind and name.
type objects map[string]map[string]any

// build runs kustomize on a directory of the tree.
func (tr tree) build(dir string) objects {
	tr.Helper()
	all, err := tr.tryBuild(dir)
	if err != nil {
		tr.Fatalf("kustomize build %s: %v", dir, err)
	}
	return all
}

func (tr tree) tryBuild(dir string) (objects, error) {
	made, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), filepath.Join(tr.dir, dir))
	if err != nil {
		return nil, err
	}
	all := objects{}
	for _, resource := range made.Resources() {
		var object unstructured.Unstructured
		data, err := resource.MarshalJSON()
		if err != nil {
			return nil, err
		}
		if err := object.UnmarshalJSON(data); err != nil {
			return nil, err
		}
		all[object.GetKind()+" "+object.GetName()] = object.Object
	}
	return all, nil
}

// guarded returns the same objects, with every Deployment of these names a GuardedDeployment.
func (all objects) guarded(names ...string) objects {
	other := maps.Clone(all)
	for _, name := range names {
		object := maps.Clone(all["Deployment "+name])
		object["apiVersion"], object["kind"] = v1alpha1.GroupVersion.String(), "GuardedDeployment"
		delete(other, "Deployment "+name)
		other["GuardedDeployment "+name] = object
	}
	return other
}

const (
	web    = "shop-web-v2"
	worker = "shop-worker-v2"
)

// containers returns the containers of a workload's pods, by name.
func containers(t *testing.T, object map[string]any) map[string]map[string]any {
	t.Helper()
	list, _, err := unstructured.NestedSlice(object, "spec", "template", "spec", "containers")
	if err != nil || len(list) == 0 {
		t.Fatalf("no containers (%v) in %v", err, object)
	}
	byName := map[string]map[string]any{}
	for _, item := range list {
		container := item.(map[string]any)
		byName[container["name"].(string)] = container
	}
	return byName
}

func (tr tree) checkSame(want, got objects) {
	tr.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		tr.Errorf("-as a Deployment +as a GuardedDeployment:\n%s", diff)
	}
}

// Bases, overlays and patches are about Deployments; what comes out differs in apiVersion and kind, and in nothing else.
func TestKindChangedLast(t *testing.T) {
	want := newTree(t).build("overlay")
	autoscaler := want["HorizontalPodAutoscaler "+worker]
	if target, _, _ := unstructured.NestedString(autoscaler, "spec", "scaleTargetRef", "name"); target != worker {
		t.Errorf("the autoscaler scales %q, want %q", target, worker)
	}
	const guard = "transformers: [../guard]"
	t.Run("by a kustomization around it", func(t *testing.T) {
		tr := newTree(t)
		tr.write("outermost/kustomization.yaml", "resources: [../overlay]\n"+guard)
		tr.checkSame(want.guarded(web, worker), tr.build("outermost"))
	})
	t.Run("by the overlay itself", func(t *testing.T) {
		tr := newTree(t)
		tr.add("overlay/kustomization.yaml", guard)
		tr.checkSame(want.guarded(web, worker), tr.build("overlay"))
	})
	t.Run("of one Deployment", func(t *testing.T) {
		tr := newTree(t)
		tr.add("overlay/kustomization.yaml", guard)
		tr.edit("guard/change-kind.yaml", "kind: Deployment}", "kind: Deployment, name: web}")
		tr.checkSame(want.guarded(web), tr.build("overlay"))
	})
	t.Run("with a guard in a patch", func(t *testing.T) {
		tr := newTree(t)
		tr.add("overlay/kustomization.yaml", guard)
		tr.add("overlay/web.yaml", "  guard: {soakSeconds: 60}")
		made := tr.build("overlay")
		if soak, _, err := unstructured.NestedInt64(made["GuardedDeployment "+web], "spec", "guard", "soakSeconds"); soak != 60 || err != nil {
			t.Errorf("soakSeconds is %v (%v), want 60", soak, err)
		}
	})
	// vars are found by the kind that an object has in the end.
	t.Run("with vars", func(t *testing.T) {
		tr := newTree(t)
		tr.edit("base/worker.yaml", "image: localhost/app:1", "image: localhost/app:1\n          command: [$(SERVICE)]")
		tr.add("base/kustomization.yaml", "vars: [{name: SERVICE, objref: {apiVersion: v1, kind: Service, name: web}}]")
		want := tr.build("overlay")
		if command := containers(t, want["Deployment "+worker])["app"]["command"]; !cmp.Equal(command, []any{web}) {
			t.Fatalf("the command is %q, want %q", command, web)
		}
		tr.add("overlay/kustomization.yaml", guard)
		tr.configure("overlay")
		tr.checkSame(want.guarded(web, worker), tr.build("overlay"))
	})
}

// jsonPatch is what a strategic merge patch does to one container, without a name to find it by: "test" sees to that.
const jsonPatch = `- target: {kind: Deployment, name: web}
    patch: |
      - {op: test, path: /spec/template/spec/containers/0/name, value: app}
      - {op: test, path: /spec/template/spec/containers/0/env/2/name, value: DEBUG}
      - {op: remove, path: /spec/template/spec/containers/0/env/2}
      - {op: add, path: /spec/template/spec/containers/0/resources, value: {requests: {cpu: 100m}}}
      - {op: test, path: /spec/template/spec/containers/2/name, value: debugger}
      - {op: remove, path: /spec/template/spec/containers/2}`

// configure copies configurations.yaml into a directory and refers to it.
func (tr tree) configure(dir string) {
	tr.Helper()
	data, err := os.ReadFile(filepath.Join(tr.dir, "configurations.yaml"))
	if err != nil {
		tr.Fatal(err)
	}
	tr.write(filepath.Join(dir, "configurations.yaml"), string(data))
	tr.add(filepath.Join(dir, "kustomization.yaml"), "configurations: [configurations.yaml]")
}

// keepKind makes the Deployments of the base GuardedDeployments.
func (tr tree) keepKind() {
	for _, file := range []string{"base/web.yaml", "base/worker.yaml"} {
		tr.edit(file, "apiVersion: apps/v1\nkind: Deployment", "apiVersion: belay.dev/v1alpha1\nkind: GuardedDeployment")
	}
	tr.edit("overlay/kustomization.yaml", "kind: Deployment", "kind: GuardedDeployment")
}

// With configurations.yaml in the base, the same overlay does the same to a GuardedDeployment, without merge patches.
func TestKindKept(t *testing.T) {
	tr := newTree(t)
	tr.edit("overlay/kustomization.yaml", "- path: web.yaml", jsonPatch)
	want := tr.build("overlay")
	tr.keepKind()
	tr.configure("base")
	tr.checkSame(want.guarded(web, worker), tr.build("overlay"))
}
