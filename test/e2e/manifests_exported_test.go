package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	utiljson "k8s.io/apimachinery/pkg/util/json"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// What "kubectl get deployment -o yaml" prints, with another kind, is a GuardedDeployment: the status of the Deployment in
// it is ignored, and stays so when it is applied again.
func TestManifests_ExportedDeployment(t *testing.T) {
	t.Parallel()
	for name, how := range map[string][]string{
		"create":      {"create"},
		"apply":       {"apply"},
		"server-side": {"apply", "--server-side", "--force-conflicts"},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNamespace(t)
			exported := n.export()
			if name == "server-side" { // No server applies to an object of another uid, of no kind.
				exported = withoutLines(exported, "  uid:", "  resourceVersion:")
			}
			n.mustKubectl(append(how, "-f", n.file(exported))...)
			web := n.found("web")
			before := web.awaitReady()
			web.checkOwnStatus()

			// An object that is there is not of the uid and the version in the file. Nor may kubectl remember these: it would
			// take them away with a patch that the API server refuses for a custom resource.
			again := n.file(withoutLines(exported, "  uid:", "  resourceVersion:"))
			writes := len(n.writesAtRest())
			for _, how := range [][]string{{"apply", "set-last-applied", "--create-annotation"}, {"apply"}, {"apply"}, {"apply", "--server-side", "--force-conflicts"}, {"apply", "--server-side"}, {"replace"}} {
				n.mustKubectl(append(how, "-f", again)...)
			}
			if now := n.writesAtRest()[writes:]; len(now) > 0 {
				t.Errorf("applied again, it made Belay write %v", now)
			}
			if g := web.get(); g.Generation != before.Generation {
				t.Errorf("applied again, it went from generation %d to %d", before.Generation, g.Generation)
			}
			web.checkOwnStatus()
		})
	}
}

// export has the API server make a Deployment, deletes it when it is available, and returns what kubectl printed of it, as
// a GuardedDeployment.
func (n *namespace) export() string {
	n.Helper()
	n.deploy("web", template(good, "1"), 1)
	exported := n.mustKubectl("get", "deployment", "web", "-o", "yaml")
	n.mustKubectl("delete", "deployment", "web")
	for _, part := range []string{"\nstatus:\n", "\n    lastUpdateTime: ", "\n  uid: ", "\n  resourceVersion: "} {
		if !strings.Contains(exported, part) {
			n.Fatalf("there is no %q in what kubectl printed: nothing is shown by it\n%s", part, exported)
		}
	}
	return strings.NewReplacer("apiVersion: apps/v1\n", "apiVersion: "+v1alpha1.GroupVersion.String()+"\n",
		"kind: Deployment\n", "kind: GuardedDeployment\n", "\nstatus:\n", "\nstatus:\n  collisionCount: 1\n  unavailableReplicas: 7\n").Replace(exported)
}

// withoutLines returns the text without the lines that begin so.
func withoutLines(text string, begin ...string) string {
	var kept []string
	for line := range strings.Lines(text) {
		drop := false
		for _, b := range begin {
			drop = drop || strings.HasPrefix(line, b)
		}
		if !drop {
			kept = append(kept, line)
		}
	}
	return strings.Join(kept, "")
}

// checkOwnStatus makes sure that what is stored as the status is what Belay writes.
func (o *object) checkOwnStatus() {
	o.Helper()
	var stored unstructured.Unstructured
	if err := utiljson.Unmarshal([]byte(o.mustKubectl("get", "gd", o.name, "-o", "json")), &stored.Object); err != nil {
		o.Fatal(err)
	}
	var own v1alpha1.GuardedDeployment
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(stored.Object, &own); err != nil {
		o.Fatal(err)
	}
	again, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&own.Status)
	if err != nil {
		o.Fatal(err)
	}
	if diff := cmp.Diff(again, stored.Object["status"]); diff != "" {
		o.Errorf("the stored status has what is not Belay's (-Belay's +stored):\n%s", diff)
	}
	if reasonOf(&own) != v1alpha1.ReasonRolledOut || own.Status.GoodRevision == "" {
		o.Errorf("the status is not Belay's: %+v", own.Status)
	}
}

// An empty value of a chart is as if it were left out, however it comes.
func TestManifests_EmptyReplicas(t *testing.T) {
	n := newNamespace(t)
	manifest, err := json.Marshal(guarded("web", template(good, "1"), soak(0)))
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Replace(string(manifest), `"metadata"`, `"apiVersion":"`+v1alpha1.GroupVersion.String()+`","kind":"GuardedDeployment","metadata"`, 1)
	two, null := n.file(strings.Replace(text, `"replicas":3`, `"replicas":2`, 1)), n.file(strings.Replace(text, `"replicas":3`, `"replicas":null`, 1))

	n.mustKubectl("create", "--save-config", "-f", null)
	web := n.found("web")
	for _, how := range []string{"create", "apply", "replace"} {
		if how != "create" {
			n.mustKubectl("apply", "-f", two)
			web.wrote(web.get())
			web.awaitReady()
			web.checkReplicas(2)
			n.mustKubectl(how, "-f", null)
			web.wrote(web.get())
		}
		if g := web.awaitReady(); g.Spec.Replicas != nil {
			t.Errorf("kubectl %s: replicas are %d", how, *g.Spec.Replicas)
		}
		web.checkReplicas(map[string]int32{"create": 1, "apply": 2, "replace": 2}[how]) // what was there stays
	}
}

// mustKubectl runs kubectl, and returns what it printed.
func (n *namespace) mustKubectl(args ...string) string {
	n.Helper()
	out, err := n.tryKubectl(args...)
	if err != nil {
		n.Fatalf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// file returns the path of a new file with this text.
func (n *namespace) file(text string) string {
	n.Helper()
	path := filepath.Join(n.TempDir(), "manifest.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		n.Fatal(err)
	}
	return path
}

// found returns a GuardedDeployment that is there already.
func (n *namespace) found(name string) *object {
	n.Helper()
	g, err := cluster.belay.BelayV1alpha1().GuardedDeployments(n.name).Get(n.Context(), name, metav1.GetOptions{})
	if err != nil {
		n.Fatal(err)
	}
	o := &object{namespace: n, name: name, uid: g.UID}
	o.wrote(g)
	return o
}
