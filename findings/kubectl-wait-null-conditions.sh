#!/usr/bin/env bash
# kubectl wait gives up at once on a CustomResourceDefinition that was made this instant.
#
# Versions: kubectl, cli-runtime and apiextensions-apiserver v0.37.2.
# Expected: `kubectl create -f crd.yaml`, then `kubectl wait --for=condition=Established crd/...`, waits until the condition
#   is there. A condition that is not there yet is what one waits for.
# Seen: the field has no "omitempty", so the API server answers `status: {conditions: null}` until the first condition is
#   set. A missing list is waited for, a null is an error, at once, for both forms of --for that name the condition:
#     .status.conditions accessor error: <nil> is of the type <nil>, expected []interface{}
#     <nil> is not array or slice and cannot be filtered
#   Whether it happens depends on who is faster, so it looks like a flake. A jsonpath without a filter waits:
#   `--for=jsonpath={.status.acceptedNames.kind}=Thing`.
#
# An HTTP server on the loopback interface stands for the API server: it sends the typed object as it is after its creation,
# and half a second later as it is when established.
set -o errexit -o nounset -o pipefail

dir=$(mktemp -d)
trap 'rm -rf "${dir}"' EXIT
cd "${dir}"

cat >main.go <<'END'
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/kubectl/pkg/cmd/wait"
)

const path = "/apis/apiextensions.k8s.io/v1"

func crd(version string) apiextensionsv1.CustomResourceDefinition {
	return apiextensionsv1.CustomResourceDefinition{
		TypeMeta:   metav1.TypeMeta{APIVersion: "apiextensions.k8s.io/v1", Kind: "CustomResourceDefinition"},
		ObjectMeta: metav1.ObjectMeta{Name: "things.example.com", ResourceVersion: version},
	}
}

func established(version string) apiextensionsv1.CustomResourceDefinition {
	object := crd(version)
	object.Status.AcceptedNames.Kind = "Thing"
	object.Status.Conditions = []apiextensionsv1.CustomResourceDefinitionCondition{{Type: "Established", Status: "True"}}
	return object
}

func serve(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	answer := json.NewEncoder(w)
	query := r.URL.Query()
	switch {
	case r.URL.Path == "/api":
		answer.Encode(metav1.APIVersions{Versions: []string{"v1"}})
	case r.URL.Path == "/api/v1":
		answer.Encode(metav1.APIResourceList{GroupVersion: "v1"})
	case r.URL.Path == "/apis":
		version := metav1.GroupVersionForDiscovery{GroupVersion: "apiextensions.k8s.io/v1", Version: "v1"}
		answer.Encode(metav1.APIGroupList{Groups: []metav1.APIGroup{{
			Name: "apiextensions.k8s.io", Versions: []metav1.GroupVersionForDiscovery{version}, PreferredVersion: version,
		}}})
	case r.URL.Path == path:
		answer.Encode(metav1.APIResourceList{GroupVersion: "apiextensions.k8s.io/v1", APIResources: []metav1.APIResource{{
			Name: "customresourcedefinitions", SingularName: "customresourcedefinition", ShortNames: []string{"crd"},
			Kind: "CustomResourceDefinition", Verbs: metav1.Verbs{"get", "list", "watch"},
		}}})
	case query.Get("sendInitialEvents") != "":
		// As a server does that has only list and then watch.
		w.WriteHeader(http.StatusUnprocessableEntity)
		answer.Encode(metav1.Status{Status: "Failure", Reason: metav1.StatusReasonInvalid, Code: 422,
			TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}})
	case query.Get("watch") != "":
		w.(http.Flusher).Flush()
		time.Sleep(500 * time.Millisecond)
		answer.Encode(map[string]any{"type": "MODIFIED", "object": established("2")})
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	case r.URL.Path == path+"/customresourcedefinitions":
		answer.Encode(apiextensionsv1.CustomResourceDefinitionList{
			TypeMeta: metav1.TypeMeta{APIVersion: "apiextensions.k8s.io/v1", Kind: "CustomResourceDefinitionList"},
			ListMeta: metav1.ListMeta{ResourceVersion: "1"},
			Items:    []apiextensionsv1.CustomResourceDefinition{crd("1")},
		})
	case r.URL.Path == path+"/customresourcedefinitions/things.example.com":
		answer.Encode(crd("1"))
	default:
		http.NotFound(w, r)
	}
}

func main() {
	server := httptest.NewServer(http.HandlerFunc(serve))
	defer server.Close()
	cache := os.Args[1]
	for _, condition := range []string{
		"condition=Established",
		`jsonpath={.status.conditions[?(@.type=="Established")].status}=True`,
		"jsonpath={.status.acceptedNames.kind}=Thing",
	} {
		config := genericclioptions.NewConfigFlags(false)
		config.APIServer, config.CacheDir = &server.URL, &cache
		flags := wait.NewWaitFlags(config, genericiooptions.IOStreams{Out: io.Discard, ErrOut: os.Stdout})
		flags.ForCondition, flags.Timeout = []string{condition}, 20*time.Second
		options, err := flags.ToOptions([]string{"crd/things.example.com"})
		if err == nil {
			err = options.RunWait()
		}
		fmt.Printf("--for=%s: %v\n", condition, err)
	}
}
END

cat >seen <<'END'
--for=condition=Established: .status.conditions accessor error: <nil> is of the type <nil>, expected []interface{}
--for=jsonpath={.status.conditions[?(@.type=="Established")].status}=True: <nil> is not array or slice and cannot be filtered
--for=jsonpath={.status.acceptedNames.kind}=Thing: <nil>
END

{
  go mod init finding
  go get k8s.io/kubectl@v0.37.2 k8s.io/cli-runtime@v0.37.2 k8s.io/apiextensions-apiserver@v0.37.2
  go get .
} 2>log || { cat log >&2; exit 1; }
KUBECONFIG=/dev/null go run . "${dir}/cache" >now
diff --unified seen now || { echo "changed: kubectl wait says what stands above behind a +" >&2; exit 1; }
echo "as described"
