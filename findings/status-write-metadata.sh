#!/usr/bin/env bash
# What of the metadata a write to /status stores depends on the kind: of a Deployment the annotations, of a ReplicaSet, a DaemonSet or a
# Pod the labels, too, of a custom resource or a ResourceClaim nothing.
#
# Versions: k8s.io/kubernetes v1.37.2 (its pkg/registry, which decides it) and k8s.io/apiextensions-apiserver v0.37.2.
# Input: an update of the status subresource, in which a label and an annotation are changed besides the status.
# Expected: that a write to /status stores the status and nothing else, as of a custom resource.
# Seen: built-in kinds take annotations, most take labels. None of these writes raises metadata.generation. The Deployment controller
#   lives on that: it numbers a Deployment (deployment.kubernetes.io/revision) with a write to /status, and where the same
#   change of an annotation alone comes by an ordinary update, the generation goes up.
#
# A controller that caches annotations has to watch for changes of them without a new generation, and an in-memory API server for
# tests that keeps metadata apart from the status is not like the real one.
set -o errexit -o nounset -o pipefail

dir=$(mktemp -d)
trap 'rm -rf "${dir}"' EXIT
cd "${dir}"

cat >main.go <<'END'
package main

import (
	"context"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"

	apiextensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	structural "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/registry/customresource"
	"k8s.io/kubernetes/pkg/apis/apps"
	"k8s.io/kubernetes/pkg/apis/core"
	"k8s.io/kubernetes/pkg/apis/resource"
	"k8s.io/kubernetes/pkg/registry/apps/daemonset"
	"k8s.io/kubernetes/pkg/registry/apps/deployment"
	"k8s.io/kubernetes/pkg/registry/apps/replicaset"
	"k8s.io/kubernetes/pkg/registry/apps/statefulset"
	"k8s.io/kubernetes/pkg/registry/core/pod"
	"k8s.io/kubernetes/pkg/registry/resource/resourceclaim"
)

type object interface {
	runtime.Object
	metav1.Object
}

type strategy interface {
	PrepareForUpdate(ctx context.Context, obj, old runtime.Object)
}

func main() {
	custom := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "example.com/v1", "kind": "Web"}}
	customs := customresource.NewStatusStrategy(customresource.NewStrategy(runtime.NewScheme(), true, schema.GroupVersionKind{Kind: "Web"},
		nil, nil, &structural.Structural{}, &apiextensions.CustomResourceSubresourceStatus{}, nil, nil))
	for _, try := range []struct {
		kind string
		new  object
		status,
		all strategy
	}{
		{"Deployment", &apps.Deployment{}, deployment.StatusStrategy, deployment.Strategy},
		{"ReplicaSet", &apps.ReplicaSet{}, replicaset.StatusStrategy, replicaset.Strategy},
		{"StatefulSet", &apps.StatefulSet{}, statefulset.StatusStrategy, statefulset.Strategy},
		{"DaemonSet", &apps.DaemonSet{}, daemonset.StatusStrategy, daemonset.Strategy},
		{"Pod", &core.Pod{}, pod.StatusStrategy, nil},
		{"ResourceClaim", &resource.ResourceClaim{}, resourceclaim.NewStatusStrategy(resourceclaim.NewStrategy(nil, nil)), nil},
		{"a custom resource", custom, customs, nil},
	} {
		fmt.Printf("%s: a write to /status stores %s\n", try.kind, stored(try.new, try.status))
		if try.kind == "Deployment" {
			fmt.Printf("%s: an ordinary write stores %s\n", try.kind, stored(try.new, try.all))
		}
	}
}

// stored says what is left of a change of labels and annotations when the strategy has prepared the object to be stored.
func stored(new object, s strategy) string {
	before := new.DeepCopyObject().(object)
	before.SetName("web")
	before.SetGeneration(1)
	after := before.DeepCopyObject().(object)
	after.SetLabels(map[string]string{"new": "yes"})
	after.SetAnnotations(map[string]string{"new": "yes"})
	s.PrepareForUpdate(genericapirequest.NewContext(), after, before)
	return fmt.Sprintf("labels: %t, annotations: %t, generation %d", len(after.GetLabels()) > 0, len(after.GetAnnotations()) > 0, after.GetGeneration())
}
END

cat >seen <<'END'
Deployment: a write to /status stores labels: false, annotations: true, generation 1
Deployment: an ordinary write stores labels: true, annotations: true, generation 2
ReplicaSet: a write to /status stores labels: true, annotations: true, generation 1
StatefulSet: a write to /status stores labels: true, annotations: true, generation 1
DaemonSet: a write to /status stores labels: true, annotations: true, generation 1
Pod: a write to /status stores labels: true, annotations: true, generation 1
ResourceClaim: a write to /status stores labels: false, annotations: false, generation 1
a custom resource: a write to /status stores labels: false, annotations: false, generation 1
END

{
  go mod init finding
  gomod=$(go mod download -json k8s.io/kubernetes@v1.37.2 | sed -n 's/.*"GoMod": "\(.*\)".*/\1/p')
  # Its other modules are published beside it, with 0 for 1.
  for module in $(sed -n 's#^\s*\(k8s.io/\S*\) => ./staging/.*#\1#p' "${gomod}"); do
    go mod edit -replace="${module}=${module}@v0.37.2"
  done
  go get k8s.io/kubernetes@v1.37.2
  go get .
} 2>log || { cat log >&2; exit 1; }
CGO_ENABLED=0 go run . >now
diff --unified seen now || { echo "changed: what stands above behind a +" >&2; exit 1; }
echo "as described"
