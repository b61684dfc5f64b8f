package e2e

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// test/kustomize has what the newest library makes of kind GuardedDeployment. kubectl brings a library of its own, and the
// API server has the last word.
func TestKubectlKustomize(t *testing.T) {
	const testdata = "../test/kustomize/testdata/"
	n := emptyNamespace(t)
	if _, err := kubectlPath(); err != nil {
		t.Skip("this needs kubectl, beside the kubeconfig or in PATH")
	}
	build := func(dir, kind string) map[string]*unstructured.Unstructured {
		objects, err := kustomize(testdata + dir)
		if err != nil {
			t.Fatal(err)
		}
		all := map[string]*unstructured.Unstructured{}
		for _, object := range objects {
			if object.GetKind() == kind {
				object.SetAPIVersion("apps/v1")
				object.SetKind("Deployment")
			}
			all[object.GetKind()+" "+object.GetName()] = object
		}
		return all
	}
	want, got := build("overlay", ""), build("outermost", "GuardedDeployment")
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-as a Deployment +as a GuardedDeployment, but for apiVersion and kind:\n%s", diff)
	}
	out, err := n.tryKubectl("apply", "--dry-run=server", "-k", root+"/artifacts/"+testdata+"outermost", "--output=jsonpath={.items[*].apiVersion}")
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if !slices.Contains(strings.Fields(out), v1alpha1.GroupVersion.String()) {
		t.Errorf("no GuardedDeployment among what was applied: %s", out)
	}
}
