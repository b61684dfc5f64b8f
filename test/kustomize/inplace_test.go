package kustomize

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// What guarding in place needs is apart from all else, is Belay's alone wherever Belay is, and each binding is of what is there.
func TestInPlace(t *testing.T) {
	for namespace, kustomization := range map[string]string{
		"belay-system": "resources: [../artifacts/in-place]\n",
		"elsewhere":    "namespace: elsewhere\nresources: [../artifacts/controller, ../artifacts/in-place]\n",
	} {
		t.Run(namespace, func(t *testing.T) {
			tr := tree{T: t, dir: t.TempDir()}
			if err := os.CopyFS(filepath.Join(tr.dir, "artifacts"), os.DirFS("../../artifacts")); err != nil {
				t.Fatal(err)
			}
			tr.write("install/kustomization.yaml", kustomization)
			all, without := tr.build("install"), tr.build("artifacts")
			var got []string
			for object := range all {
				if strings.Contains(object, "in-place") {
					got = append(got, object)
				}
			}
			slices.Sort(got)
			want := []string{
				"ClusterRole belay-in-place", "ClusterRoleBinding belay-in-place",
				"MutatingAdmissionPolicy belay-in-place", "MutatingAdmissionPolicyBinding belay-in-place",
				"ValidatingAdmissionPolicy belay-in-place-holders", "ValidatingAdmissionPolicyBinding belay-in-place-holders",
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			for object := range without {
				if slices.Contains(want, object) {
					t.Errorf("%s is installed by default, and older servers do not know it", object)
				}
			}
			subjects, _, _ := unstructured.NestedSlice(all["ClusterRoleBinding belay-in-place"], "subjects")
			if diff := cmp.Diff([]any{map[string]any{"kind": "ServiceAccount", "name": "belay", "namespace": namespace}}, subjects); diff != "" {
				t.Errorf("who has the rights (-want +got):\n%s", diff)
			}
			for _, kind := range []string{"Mutating", "Validating"} {
				for binding, object := range all {
					if policy, _, _ := unstructured.NestedString(object, "spec", "policyName"); strings.HasPrefix(binding, kind+"AdmissionPolicyBinding ") &&
						all[kind+"AdmissionPolicy "+policy] == nil {
						t.Errorf("%s is of %q, which is not there", binding, policy)
					}
				}
			}
		})
	}
}

// In one namespace it has the same rights there, and nothing of the cluster's.
func TestInPlace_OneNamespace(t *testing.T) {
	tr := tree{T: t, dir: t.TempDir()}
	if err := os.CopyFS(filepath.Join(tr.dir, "artifacts"), os.DirFS("../../artifacts")); err != nil {
		t.Fatal(err)
	}
	tr.write("install/kustomization.yaml", "namespace: shop\nresources: [../artifacts/namespaced, ../artifacts/namespaced/in-place]\n")
	all := tr.build("install")
	for object := range all {
		if strings.HasPrefix(object, "Cluster") || strings.Contains(object, "AdmissionPolicy") {
			t.Errorf("%s is the cluster's", object)
		}
	}
	if diff := cmp.Diff(tr.build("artifacts/in-place")["ClusterRole belay-in-place"]["rules"], all["Role belay-in-place"]["rules"]); diff != "" {
		t.Errorf("the rights in the cluster and in a namespace (-want +got):\n%s", diff)
	}
	binding := all["RoleBinding belay-in-place"]
	subjects, _, _ := unstructured.NestedSlice(binding, "subjects")
	if diff := cmp.Diff([]any{map[string]any{"kind": "ServiceAccount", "name": "belay", "namespace": "shop"}}, subjects); diff != "" {
		t.Errorf("who has the rights (-want +got):\n%s", diff)
	}
	if role, _, _ := unstructured.NestedString(binding, "roleRef", "kind"); role != "Role" {
		t.Errorf("the binding is of a %s", role)
	}
}

// The policy's own file, the page and the script end all holds by the same command, and none deletes the policy before that.
func TestInPlace_Leaving(t *testing.T) {
	const end, remove = "kubectl label replicasets --all-namespaces --selector belay.dev/held-at belay.dev/held-at-", "kubectl delete -k artifacts/in-place"
	if !strings.Contains(read(t, "artifacts/in-place/policy.yaml"), end) {
		t.Errorf("the policy does not say %q", end)
	}
	for _, file := range []string{"docs/in-place.md", "hack/unguard.sh"} {
		text := read(t, file)
		if ends, removes := strings.Index(text, "\n"+end+"\n"), strings.Index(text, "\n"+remove); ends < 0 || removes < ends {
			t.Errorf("%s does not end all holds (at %d) before it deletes the policies (at %d)", file, ends, removes)
		}
	}
}
