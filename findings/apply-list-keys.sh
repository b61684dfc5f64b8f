#!/usr/bin/env bash
# After kubectl apply, what the manifest states is not there: the two ways to apply know list items by different keys.
#
# Versions: apimachinery v0.37.2 (strategicpatch, with which kubectl apply and the API server compute unless --server-side is
#   given), client-go v0.37.2 (its fake clientset applies with the real schema and structured-merge-diff). Seen in the same
#   way with kubectl and API server 1.37.2.
# Input: two manifests of a Deployment, one applied after the other. The API server takes each of them: a port may have two
#   protocols, and of a variable that is listed twice it warns that the earlier one may be dropped by apply.
# Expected: after the second, what it states is there, whichever way it is applied.
# Seen, client-side:
#   53/UDP, then 53/UDP and 53/TCP: TCP is not there, however often it is applied. Ports are known by containerPort alone.
#   A=1 and A=2, then, as the warning was heeded, A=1: no A is there. Deleting the one takes both away, until the same
#   manifest is applied once more.
#   "configured" both times, and not a word of warning.
# Seen, server-side: ports are known by containerPort and protocol, and both are there. The manifest with two A is refused.
set -o errexit -o nounset -o pipefail

dir=$(mktemp -d)
trap 'rm -rf "${dir}"' EXIT
cd "${dir}"

cat >main.go <<'END'
package main

import (
	"context"
	"encoding/json"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/client-go/kubernetes/fake"
)

// manifest is a Deployment whose only container has these fields.
func manifest(fields string) []byte {
	return []byte(`{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"web","namespace":"default"},
		"spec":{"template":{"spec":{"containers":[{"name":"app",` + fields + `}]}}}}`)
}

// clientSide is what comes of manifests that are applied one after the other.
func clientSide(manifests ...[]byte) (*appsv1.Deployment, error) {
	schema, err := strategicpatch.NewPatchMetaFromStruct(appsv1.Deployment{})
	if err != nil {
		return nil, err
	}
	last, live := manifests[0], manifests[0]
	for _, manifest := range manifests[1:] {
		patch, err := strategicpatch.CreateThreeWayMergePatch(last, manifest, live, schema, true)
		if err != nil {
			return nil, err
		}
		if live, err = strategicpatch.StrategicMergePatch(live, patch, appsv1.Deployment{}); err != nil {
			return nil, err
		}
		last = manifest
	}
	result := &appsv1.Deployment{}
	return result, json.Unmarshal(live, result)
}

// serverSide is the same with server-side apply.
func serverSide(manifests ...[]byte) (result *appsv1.Deployment, err error) {
	deployments := fake.NewClientset().AppsV1().Deployments("default")
	for _, manifest := range manifests {
		result, err = deployments.Patch(context.Background(), "web", types.ApplyPatchType, manifest,
			metav1.PatchOptions{FieldManager: "example"})
		if err != nil {
			return nil, err
		}
	}
	return result, nil
}

func show(how string, result *appsv1.Deployment, err error) {
	if err != nil {
		fmt.Println(how, err)
		return
	}
	fmt.Print(how)
	container := result.Spec.Template.Spec.Containers[0]
	for _, port := range container.Ports {
		fmt.Printf(" %d/%s", port.ContainerPort, port.Protocol)
	}
	for _, variable := range container.Env {
		fmt.Printf(" %s=%s", variable.Name, variable.Value)
	}
	fmt.Println()
}

func main() {
	for _, try := range []struct{ what, first, second string }{
		{"a second protocol",
			`"ports":[{"containerPort":53,"protocol":"UDP"}]`,
			`"ports":[{"containerPort":53,"protocol":"UDP"},{"containerPort":53,"protocol":"TCP"}]`},
		{"a duplicate less",
			`"env":[{"name":"A","value":"1"},{"name":"A","value":"2"}]`,
			`"env":[{"name":"A","value":"1"}]`},
	} {
		first, second := manifest(try.first), manifest(try.second)
		result, err := clientSide(first, second)
		show(try.what+", client-side:", result, err)
		result, err = clientSide(first, second, second)
		show(try.what+", client-side, applied again:", result, err)
		result, err = serverSide(first, second)
		show(try.what+", server-side:", result, err)
	}
}
END

cat >seen <<'END'
a second protocol, client-side: 53/UDP
a second protocol, client-side, applied again: 53/UDP
a second protocol, server-side: 53/UDP 53/TCP
a duplicate less, client-side:
a duplicate less, client-side, applied again: A=1
a duplicate less, server-side: failed to create typed patch object (default/web; apps/v1, Kind=Deployment): .spec.template.spec.containers[name="app"].env: duplicate entries for key [name="A"]
END

{
  go mod init finding
  go get k8s.io/client-go@v0.37.2 k8s.io/api@v0.37.2 k8s.io/apimachinery@v0.37.2
  go get .
} 2>log || { cat log >&2; exit 1; }
go run . >now
diff --unified seen now || { echo "changed: the manifests make what stands above behind a +" >&2; exit 1; }
echo "as described"
