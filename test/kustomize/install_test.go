package kustomize

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

const image = "localhost/belay:dev" // in the manifests: nobody but who builds it has it

func read(t *testing.T, file string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("../..", file))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// What the pages have users install is there: the image that they build themselves, and manifests of the clone.
func TestInstallFromAClone(t *testing.T) {
	if line := "kubectl kustomize artifacts | sed \"s|" + image + "|$IMAGE|\" | kubectl apply -f -"; !strings.Contains(read(t, "README.md"), line) {
		t.Errorf("the README does not say %q", line)
	}
	pages := read(t, "README.md") + read(t, "docs/operations.md")
	if unreleased := regexp.MustCompile(`ref=v[0-9]|ghcr\.io`).FindString(pages); unreleased != "" {
		t.Errorf("the pages name %s, which nobody has published", unreleased)
	}
	blocks := regexp.MustCompile("(?s)```yaml\n([^`]*\nresources:.*?|resources:.*?)```").FindAllStringSubmatch(read(t, "docs/operations.md"), -1)
	if len(blocks) != 2 {
		t.Fatalf("docs/operations.md has %d kustomizations, want one for the cluster and one for a namespace", len(blocks))
	}
	for _, block := range blocks {
		tr := tree{T: t, dir: t.TempDir()}
		if err := os.CopyFS(filepath.Join(tr.dir, "artifacts"), os.DirFS("../../artifacts")); err != nil {
			t.Fatal(err)
		}
		if was := containers(t, tr.build("artifacts")["Deployment belay"])["belay"]["image"]; was != image {
			t.Errorf("artifacts run %s, want %s", was, image)
		}
		tr.write("install/kustomization.yaml", block[1])
		if is := containers(t, tr.build("install")["Deployment belay"])["belay"]["image"]; is != "registry.example/belay:1" {
			t.Errorf("the image is %s with\n%s", is, block[1])
		}
	}
}

// What Belay may read beyond what it needs is on by default, can be left out as operations.md says, and is none of the cluster's
// where Belay works in one namespace.
func TestEvidenceRights(t *testing.T) {
	without := regexp.MustCompile("(?s)```yaml\n(patches:\n[^`]*belay-\\(events\\|nodes\\|log\\)[^`]*)```").FindStringSubmatch(read(t, "docs/operations.md"))
	if without == nil {
		t.Fatal("docs/operations.md does not say how to leave the rights out")
	}
	for name, row := range map[string]struct {
		kustomization string
		want          []string
		account       string // where the account of the right that is not the default is
	}{
		"by default": {"resources: [../artifacts]\n",
			[]string{"ClusterRole belay-events", "ClusterRole belay-log", "ClusterRole belay-nodes",
				"ClusterRoleBinding belay-events", "ClusterRoleBinding belay-log", "ClusterRoleBinding belay-nodes"}, ""},
		"with what is not the default": {"namespace: elsewhere\nresources: [../artifacts/controller, ../artifacts/references]\n",
			[]string{"ClusterRole belay-events", "ClusterRole belay-log", "ClusterRole belay-nodes", "ClusterRole belay-references",
				"ClusterRoleBinding belay-events", "ClusterRoleBinding belay-log", "ClusterRoleBinding belay-nodes", "ClusterRoleBinding belay-references"}, "elsewhere"},
		"what is not the default alone": {"resources: [../artifacts/references]\n",
			[]string{"ClusterRole belay-references", "ClusterRoleBinding belay-references"}, "belay-system"},
		"left out": {"resources: [../artifacts]\n" + without[1], nil, ""},
		"in one namespace": {"resources: [../artifacts/namespaced]\n",
			[]string{"Role belay-events", "Role belay-log", "RoleBinding belay-events", "RoleBinding belay-log"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			tr := tree{T: t, dir: t.TempDir()}
			if err := os.CopyFS(filepath.Join(tr.dir, "artifacts"), os.DirFS("../../artifacts")); err != nil {
				t.Fatal(err)
			}
			tr.write("install/kustomization.yaml", row.kustomization)
			var got []string
			all := tr.build("install")
			for object := range all {
				if _, name, _ := strings.Cut(object, " "); slices.Contains([]string{"belay-events", "belay-nodes", "belay-log", "belay-references"}, name) {
					got = append(got, object)
				}
			}
			slices.Sort(got)
			if diff := cmp.Diff(row.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if binding := all["ClusterRoleBinding belay-references"]; binding != nil {
				subjects, _, _ := unstructured.NestedSlice(binding, "subjects")
				if namespace := subjects[0].(map[string]any)["namespace"]; namespace != row.account {
					t.Errorf("the right is of an account in %q, want Belay's in %q", namespace, row.account)
				}
			}
			for _, name := range []string{"RoleBinding belay-events", "RoleBinding belay-log"} {
				if role, _, _ := unstructured.NestedString(all[name], "roleRef", "kind"); all[name] != nil && role != "Role" {
					t.Errorf("%s binds a %s", name, role)
				}
			}
		})
	}
}
