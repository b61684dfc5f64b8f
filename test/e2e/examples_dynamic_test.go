package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"k8s.io/client-go/dynamic"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// atLast deletes an object of the whole cluster after the test, and if the run is interrupted.
func atLast(t *testing.T, objects dynamic.ResourceInterface, name string) {
	t.Helper()
	undo := func() error {
		err := objects.Delete(context.Background(), name, metav1.DeleteOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return err
	}
	forget := leave(undo)
	t.Cleanup(func() {
		forget()
		if err := undo(); err != nil {
			t.Error(err)
		}
	})
}

// dynamicClient runs dynamic-client in the namespace until it ends with this exit code.
func (n *namespace) dynamicClient(code int, stdin string, args ...string) (stdout, stderr string) {
	n.Helper()
	args = append([]string{"--kubeconfig", cluster.kubeconfig, "--namespace", n.name}, args...)
	p := startExampleWith(n.T, func(cmd *exec.Cmd) { cmd.Stdin = strings.NewReader(stdin) }, "dynamic-client", args...)
	p.ends(code)
	return p.stdout.String(), p.stderr.String()
}

func TestExampleDynamicClient_List(t *testing.T) {
	t.Parallel()
	n := emptyNamespace(t)
	n.create("web", template(good, "1"))
	for _, spelling := range []string{"gd", "guardeddeployment", "guardeddeployments", "GuardedDeployment", "gd.belay.dev",
		"guardeddeployments.belay.dev", "guardeddeployments.v1alpha1.belay.dev"} {
		printed, _ := n.dynamicClient(0, "", "list", spelling)
		if got := row(t, printed, "web"); len(got) != 2 || !strings.HasSuffix(got[1], "s") || strings.Count(printed, "\n") != 2 {
			t.Errorf("%s: want one GuardedDeployment and its age, got:\n%s", spelling, printed)
		}
	}
	printed, _ := n.dynamicClient(0, "", "list", "ns") // It is of no namespace.
	row(t, printed, n.name)
	for want, args := range map[string][]string{
		`dynamic-client: the server has no resource "nonsense"` + "\n":           {"list", "nonsense"},
		`dynamic-client: the server has no resource "gd.v9.belay.dev"` + "\n":    {"list", "gd.v9.belay.dev"},
		"dynamic-client: the server does not allow this method on the":           {"list", "tokenreviews"},
		`dynamic-client: guardeddeployments.belay.dev "nobody" not found` + "\n": {"convert", "gd", "nobody"},
		"dynamic-client: say what to do: ":                                       {"list"},
	} {
		_, stderr := n.dynamicClient(1, "", args...)
		if !strings.HasPrefix(stderr, want) || strings.Count(stderr, "\n") != 1 {
			t.Errorf("%q: want one line with %q, got:\n%s", args, want, stderr)
		}
	}
}

func TestExampleDynamicClient_Convert(t *testing.T) {
	t.Parallel()
	n := emptyNamespace(t)
	n.create("web", template(good, "1"))
	n.plainDeployment("plain")
	for _, c := range []struct{ resource, name, want string }{
		{"gd", "web", "web is a GuardedDeployment of belay.dev/v1alpha1: Go type github.com/belay-dev/belay/pkg/apis/belay/v1alpha1.GuardedDeployment"},
		{"deploy", "plain", "plain is a Deployment of apps/v1: Go type k8s.io/api/apps/v1.Deployment"},
	} {
		printed, _ := n.dynamicClient(0, "", "convert", c.resource, c.name)
		says(t, printed, c.want, "values are as they were")
		if strings.Contains(printed, "lost ") || strings.Contains(printed, "changed ") {
			t.Errorf("a conversion loses what the Go type has:\n%s", printed)
		}
	}
	// A server that is newer than the program has fields that the program does not know.
	newer := meddledConfig(t, func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasSuffix(r.URL.Path, "/deployments/plain") {
			return false
		}
		deployments := cluster.dynamic.Resource(schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "deployments"})
		object, err := deployments.Namespace(n.name).Get(r.Context(), "plain", metav1.GetOptions{})
		if err == nil {
			err = unstructured.SetNestedField(object.Object, int64(7), "spec", "fromTheFuture")
		}
		w.Header().Set("Content-Type", "application/json")
		if err != nil || json.NewEncoder(w).Encode(object) != nil {
			t.Error(err)
		}
		return true
	})
	printed := runExample(t, "dynamic-client", "--kubeconfig", newer, "--namespace", n.name, "convert", "deploy", "plain")
	if got := row(t, printed, "lost"); !slices.Equal(got, []string{"lost", ".spec.fromTheFuture", "7"}) {
		t.Errorf("got %q", got)
	}
	_, stderr := n.dynamicClient(1, "", "convert", "crd", "guardeddeployments.belay.dev")
	if want := "this program has no Go type for that\n"; !strings.HasSuffix(stderr, want) || strings.Count(stderr, "\n") != 1 {
		t.Errorf("want one line with %q, got:\n%s", want, stderr)
	}
}

// everything is a file in which some documents are wrong. %[1]s is an API group that nobody serves yet.
const everything = `
# Nothing but a comment.
---
apiVersion: v1
kind: ConfigMap
metadata:
  name: first
data:
  owner: dynamic-client
---
apiVersion: %[1]s/v1
kind: Widget
metadata:
  name: before-its-kind
spec:
  size: 3
---
---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata:
  name: widgets.%[1]s
spec:
  group: %[1]s
  scope: Namespaced
  names: {kind: Widget, plural: widgets, singular: widget}
  versions:
  - name: v1
    served: true
    storage: true
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec:
            type: object
            properties:
              size: {type: integer}
---
apiVersion: unheard-of.%[1]s/v1
kind: Thing
metadata:
  name: unknown
---
apiVersion: v1
kind: ConfigMap
metadata: {name: malformed
---
kind: ConfigMap
apiVersion: v1
metadata:
  name: twice
kind: Secret
---
apiVersion: v1
kind: List
items:
- apiVersion: belay.dev/v1alpha1
  kind: GuardedDeployment
  metadata:
    name: web
  spec:
    replicas: 0
    selector: {matchLabels: {app: web}}
    template:
      metadata: {labels: {app: web}}
      spec: {containers: [{name: app, image: "localhost/app:good"}]}
- apiVersion: v1
  kind: ConfigMap
  metadata:
    name: second
---
apiVersion: v1
kind: ConfigMap
metadata:
  name: elsewhere
  namespace: not-there.%[1]s
---
{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "third"}}
{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "fourth"}}
`

func TestExampleDynamicClient_Apply(t *testing.T) {
	n := newNamespace(t)
	group := cluster.run + ".e2e.belay.dev"
	crds := cluster.dynamic.Resource(schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"})
	atLast(t, crds, "widgets."+group)
	file := filepath.Join(t.TempDir(), "everything.yaml")
	if err := os.WriteFile(file, fmt.Appendf(nil, everything, group), 0o644); err != nil {
		t.Fatal(err)
	}
	applied := []string{"configmap/first", "customresourcedefinition.apiextensions.k8s.io/widgets." + group, "guardeddeployment.belay.dev/web",
		"configmap/second", "configmap/third", "configmap/fourth", "widget." + group + "/before-its-kind"}
	refused := []string{
		`document 4, Thing "unknown": no matches for kind "Thing" in version "unheard-of.` + group + `/v1"`,
		"document 5: ",
		`document 6: yaml: unmarshal errors: line 5: key "kind" already set in map`,
		`document 8, ConfigMap "elsewhere": `,
	}
	var versions []string
	for _, outcome := range []string{" created\n", " unchanged\n"} {
		stdout, stderr := n.dynamicClient(1, "", "apply", "-f", file)
		says(t, stdout, applied...)
		if times := strings.Count(stdout, outcome); times != len(applied) || strings.Count(stdout, "\n") != len(applied) {
			t.Errorf("want %d lines with %q, got:\n%s", len(applied), outcome, stdout)
		}
		says(t, stderr, refused...)
		if !strings.HasSuffix(stderr, "\ndynamic-client: 4 of 11 documents were not applied\n") || strings.Count(stderr, "\n") != len(refused)+1 {
			t.Errorf("want a line for each of %d documents and a sum, got:\n%s", len(refused), stderr)
		}
		if versions == nil {
			web, err := cluster.belay.BelayV1alpha1().GuardedDeployments(n.name).Get(t.Context(), "web", metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			o := &object{namespace: n, name: web.Name, uid: web.UID}
			o.wrote(web)
			o.awaitReason(v1alpha1.ReasonScaledToZero) // Belay has written its last status.
		}
		now := n.versionsOf(group)
		if versions != nil && !slices.Equal(versions, now) {
			t.Errorf("to apply it again changed the resource versions from %q to %q", versions, now)
		}
		versions = now
	}
	_, stderr := n.dynamicClient(1, "", "convert", "widgets."+group, "before-its-kind")
	says(t, stderr, "before-its-kind is a Widget of "+group+"/v1: this program has no Go type for that\n")
	n.checkConflict()
}

// versionsOf returns the resource version of everything that was applied.
func (n *namespace) versionsOf(group string) (versions []string) {
	n.Helper()
	for resource, names := range map[schema.GroupVersionResource][]string{
		{Version: "v1", Resource: "configmaps"}:                                               {"first", "second", "third", "fourth"},
		{Group: "belay.dev", Version: "v1alpha1", Resource: "guardeddeployments"}:             {"web"},
		{Group: group, Version: "v1", Resource: "widgets"}:                                    {"before-its-kind"},
		{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}: {"widgets." + group},
	} {
		for _, name := range names {
			objects := dynamic.ResourceInterface(cluster.dynamic.Resource(resource).Namespace(n.name))
			if resource.Resource == "customresourcedefinitions" {
				objects = cluster.dynamic.Resource(resource)
			}
			object, err := objects.Get(n.Context(), name, metav1.GetOptions{})
			if err != nil {
				n.Fatal(err)
			}
			versions = append(versions, name+" "+object.GetResourceVersion())
		}
	}
	slices.Sort(versions)
	return versions
}

// checkConflict makes sure that what others have set is taken only on demand.
func (n *namespace) checkConflict() {
	n.Helper()
	maps := cluster.kube.CoreV1().ConfigMaps(n.name)
	theirs := unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "ConfigMap",
		"metadata": map[string]any{"name": "first"}, "data": map[string]any{"owner": "other"}}}
	client := cluster.dynamic.Resource(schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}).Namespace(n.name)
	if _, err := client.Apply(n.Context(), "first", &theirs, metav1.ApplyOptions{FieldManager: "other", Force: true}); err != nil {
		n.Fatal(err)
	}
	owner := func() string {
		n.Helper()
		first, err := maps.Get(n.Context(), "first", metav1.GetOptions{})
		if err != nil {
			n.Fatal(err)
		}
		return first.Data["owner"]
	}
	ours := `{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "first"}, "data": {"owner": "dynamic-client"}}`
	_, stderr := n.dynamicClient(1, ours, "apply", "-f", "-")
	says(n.T, stderr, `document 1, ConfigMap "first": Apply failed with 1 conflict: conflict with "other"`, ".data.owner; --force-conflicts takes these fields",
		"dynamic-client: 1 of 1 documents were not applied\n")
	if got := owner(); got != "other" {
		n.Errorf("the owner is %s, want other", got)
	}
	stdout, stderr := n.dynamicClient(0, ours, "apply", "--force-conflicts", "-f", "-")
	if got := owner(); got != "dynamic-client" || stdout != "configmap/first configured\n" || stderr != "" {
		n.Errorf("the owner is %s, want dynamic-client; it says %q and %q", got, stdout, stderr)
	}
}

func TestExampleDiscoveryClient(t *testing.T) {
	t.Parallel()
	printed := runExample(t, "discovery-client")
	says(t, printed, "core v1, preferred\n", "apps v1, preferred\n", "belay.dev v1alpha1, preferred\n")
	if got := strings.Join(row(t, printed, "guardeddeployments")[:4], " "); got != "guardeddeployments gd GuardedDeployment namespaced" {
		t.Errorf("got %q", got)
	}
	if got := row(t, printed, "nodes"); got[1] != "no" || got[3] != "cluster" || !strings.Contains(got[4], "deletecollection") {
		t.Errorf("got %q", got)
	}
	row(t, printed, "guardeddeployments/scale")
	printed = runExample(t, "discovery-client", "--group", "core")
	row(t, printed, "pods")
	if strings.Contains(printed, "apps") {
		t.Errorf("it shows more than the core group:\n%s", printed)
	}
	p := startExample(t, "discovery-client", "--group", "nonsense")
	p.ends(1)
	if want := "discovery-client: the server has no group \"nonsense\"\n"; p.stderr.String() != want {
		t.Errorf("got %q, want %q", p.stderr, want)
	}
}

// An aggregated API that is down keeps nobody from working with the others. This test is not parallel: while discovery is
// not complete, no namespace can be deleted.
func TestExamples_AggregatedAPIDown(t *testing.T) {
	n := emptyNamespace(t)
	n.create("web", template(good, "1"))
	group := cluster.run + ".down.belay.dev"
	n.aggregate(group)
	const stale = " does not answer: "
	p := startExample(t, "discovery-client")
	p.ends(0)
	says(t, p.stderr.String(), group+"/v1"+stale)
	if got := row(t, p.stdout.String(), "guardeddeployments"); got[1] != "gd" || strings.Count(p.stderr.String(), "\n") != 1 {
		t.Errorf("got %q, and on standard error:\n%s", got, p.stderr)
	}
	// A server from before 1.27 answers for one version of one group at a time.
	one := meddledConfig(t, func(_ http.ResponseWriter, r *http.Request) bool {
		r.Header.Set("Accept", "application/json")
		return false
	})
	p = startExampleWith(t, func(*exec.Cmd) {}, "discovery-client", "--kubeconfig", one)
	p.ends(0)
	says(t, p.stderr.String(), group+"/v1"+stale)
	row(t, p.stdout.String(), "guardeddeployments")
	if printed := runExample(t, "discovery-client", "--group", "belay.dev"); strings.Contains(printed, group) {
		t.Errorf("it shows more than belay.dev:\n%s", printed)
	}
	p = startExample(t, "discovery-client", "--group", group)
	p.ends(1)
	says(t, p.stderr.String(), "discovery-client: "+group+"/v1"+stale)

	printed, _ := n.dynamicClient(0, "", "list", "gd")
	row(t, printed, "web")
	stdout, stderr := n.dynamicClient(1, fmt.Sprintf(`{"apiVersion": "%s/v1", "kind": "Thing", "metadata": {"name": "lost"}}
{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "first"}}`, group), "apply", "-f", "-")
	says(t, stdout, "configmap/first created\n")
	says(t, stderr, `document 1, Thing "lost": no matches for kind "Thing"`, group+"/v1: stale", "\ndynamic-client: 1 of 2 documents were not applied\n")
}

// aggregate adds an API whose server is not there. It is removed after the test, which ends when discovery is whole again.
func (n *namespace) aggregate(group string) {
	n.Helper()
	whole := func() bool {
		_, _, err := cluster.kube.Discovery().ServerGroupsAndResources()
		return err == nil
	}
	name := "v1." + group
	services := cluster.dynamic.Resource(schema.GroupVersionResource{Group: "apiregistration.k8s.io", Version: "v1", Resource: "apiservices"})
	n.Cleanup(func() {
		if err := poll(context.Background(), patience, func(context.Context) (bool, error) { return whole(), nil }); err != nil {
			n.Errorf("discovery is not whole again: %v", err)
		}
	})
	atLast(n.T, services, name)
	_, err := services.Create(n.Context(), &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "metadata": map[string]any{"name": name},
		"spec": map[string]any{"group": group, "version": "v1", "groupPriorityMinimum": int64(100), "versionPriority": int64(100),
			"service": map[string]any{"namespace": n.name, "name": "nowhere"}},
	}}, metav1.CreateOptions{})
	if err != nil {
		n.Fatal(err)
	}
	n.eventually("the server says that it does not answer", func(context.Context) (bool, error) { return !whole(), nil })
}
