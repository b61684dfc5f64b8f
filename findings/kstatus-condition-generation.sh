#!/usr/bin/env bash
# kstatus calls an object "Current" whose condition says that it is about an older generation; kubectl wait does not.
#
# Versions: fluxcd/cli-utils v1.2.3 (kstatus: what Flux and helm --wait go by), kubectl v0.37.2.
# Input: an object right after a change of its spec: metadata.generation 2, and Ready=True with observedGeneration 1 in the
#   condition, which metav1.Condition has for this. There is no status.observedGeneration, as in many APIs that use
#   metav1.Condition alone.
# Expected: nobody takes the old condition for an answer about the new spec: kstatus says InProgress, and kubectl waits.
# Seen: kubectl does; kstatus looks at status.observedGeneration alone and says Current. With status.observedGeneration 1
#   it says InProgress. So a controller that is waited for sets both.
#
# An HTTP server on the loopback interface stands for the API server of kubectl.
set -o errexit -o nounset -o pipefail

dir=$(mktemp -d)
trap 'rm -rf "${dir}"' EXIT
cd "${dir}"

cat >main.go <<'END'
package main

import (
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"

	"github.com/fluxcd/cli-utils/pkg/kstatus/status"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/kubectl/pkg/cmd/wait"
)

// object is at its second generation; its condition is about the given one.
func object(condition int64, more map[string]any) *unstructured.Unstructured {
	state := map[string]any{"conditions": []any{map[string]any{
		"type": "Ready", "status": "True", "reason": "AllGood", "message": "", "observedGeneration": condition,
		"lastTransitionTime": "2026-01-01T00:00:00Z",
	}}}
	maps.Copy(state, more)
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "example.com/v1", "kind": "Thing",
		"metadata": map[string]any{"name": "one", "namespace": "default", "generation": int64(2)},
		"status":   state,
	}}
}

// kubectl checks once, as with --timeout=0, and returns what it says.
func kubectl(object *unstructured.Unstructured, cache string) error {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		switch r.URL.Path {
		case "/api":
			io.WriteString(w, `{"kind":"APIVersions","versions":["v1"]}`)
		case "/api/v1":
			io.WriteString(w, `{"kind":"APIResourceList","groupVersion":"v1","resources":[]}`)
		case "/apis":
			io.WriteString(w, `{"kind":"APIGroupList","groups":[{"name":"example.com",
				"versions":[{"groupVersion":"example.com/v1","version":"v1"}]}]}`)
		case "/apis/example.com/v1":
			io.WriteString(w, `{"kind":"APIResourceList","groupVersion":"example.com/v1","resources":[
				{"name":"things","singularName":"thing","namespaced":true,"kind":"Thing","verbs":["get"]}]}`)
		case "/apis/example.com/v1/namespaces/default/things/one":
			bytes, _ := object.MarshalJSON()
			w.Write(bytes)
		default:
			http.NotFound(w, r)
		}
	}))
	defer server.Close()
	config := genericclioptions.NewConfigFlags(false)
	config.APIServer, config.CacheDir = &server.URL, &cache
	flags := wait.NewWaitFlags(config, genericiooptions.IOStreams{Out: io.Discard, ErrOut: os.Stdout})
	flags.ForCondition, flags.Timeout = []string{"condition=Ready"}, 0
	options, err := flags.ToOptions([]string{"things/one"})
	if err != nil {
		return err
	}
	return options.RunWait()
}

func main() {
	for _, try := range []struct {
		what   string
		object *unstructured.Unstructured
	}{
		{"condition of generation 2", object(2, nil)},
		{"condition of generation 1", object(1, nil)},
		{"and status.observedGeneration 1", object(1, map[string]any{"observedGeneration": int64(1)})},
	} {
		result, err := status.Compute(try.object)
		if err != nil {
			fmt.Println(err)
			continue
		}
		fmt.Printf("%s: kstatus %s, kubectl %v\n", try.what, result.Status, kubectl(try.object, os.Args[1]))
	}
}
END

cat >seen <<'END'
condition of generation 2: kstatus Current, kubectl <nil>
condition of generation 1: kstatus Current, kubectl condition not met for things/one
and status.observedGeneration 1: kstatus InProgress, kubectl condition not met for things/one
END

{
  go mod init finding
  go get github.com/fluxcd/cli-utils@v1.2.3 k8s.io/kubectl@v0.37.2 k8s.io/cli-runtime@v0.37.2
  go get .
} 2>log || { cat log >&2; exit 1; }
KUBECONFIG=/dev/null go run . "${dir}/cache" >now
diff --unified seen now || { echo "changed: kstatus and kubectl say what stands above behind a +" >&2; exit 1; }
echo "as described"
