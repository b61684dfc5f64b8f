#!/usr/bin/env bash
# kustomize treats a kind that it does not know in three ways at once: half a change, another change, an error.
#
# Versions: kustomize/api and kustomize/kyaml v0.21.2.
# Input: a Service, and a custom kind with the spec of a Deployment (many operators have such a kind).
# Expected: the custom kind is either treated like a Deployment, or left alone with a word about it.
# Seen:
#   labels with includeSelectors: the Service's selector gets the label, the pods' labels do not, and nothing is said: the
#     Service selects no pod any more.
#   a strategic merge patch of one container: the list of containers is replaced, nothing is said. A Deployment's is merged
#     by name.
#   replicas: an error, although spec.replicas is there.
set -o errexit -o nounset -o pipefail

dir=$(mktemp -d)
trap 'rm -rf "${dir}"' EXIT
cd "${dir}"

cat >main.go <<'END'
package main

import (
	"encoding/json"
	"fmt"
	"strings"

	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
)

const resources = `
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: web}
  ports: [{port: 80}]
---
apiVersion: GROUP/v1
kind: KIND
metadata: {name: web}
spec:
  replicas: 1
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - {name: app, image: localhost/app}
      - {name: log, image: localhost/log}
`

const patch = `
patches:
- patch: |
    apiVersion: GROUP/v1
    kind: KIND
    metadata: {name: web}
    spec: {template: {spec: {containers: [{name: app, image: "localhost/app:2"}]}}}
`

type spec struct {
	Selector json.RawMessage // of a Service: the labels
	Replicas int
	Template struct {
		Metadata struct{ Labels json.RawMessage }
		Spec     struct{ Containers json.RawMessage }
	}
}

// build makes the two objects with what the kustomization says beside its resources.
func build(group, kind, kustomization string) (service, workload spec, err error) {
	fill := strings.NewReplacer("GROUP", group, "KIND", kind)
	files := filesys.MakeFsInMemory()
	files.WriteFile("resources.yaml", []byte(fill.Replace(resources)))
	files.WriteFile("kustomization.yaml", []byte("resources: [resources.yaml]\n"+fill.Replace(kustomization)))
	objects, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(files, ".")
	if err != nil {
		return spec{}, spec{}, err
	}
	return specOf(objects.Resources()[0]), specOf(objects.Resources()[1]), nil
}

func specOf(object json.Marshaler) spec {
	var content struct{ Spec spec }
	bytes, err := object.MarshalJSON()
	if err == nil {
		err = json.Unmarshal(bytes, &content)
	}
	if err != nil {
		panic(err)
	}
	return content.Spec
}

func main() {
	for _, kind := range [][2]string{{"apps", "Deployment"}, {"example.com", "Thing"}} {
		service, workload, err := build(kind[0], kind[1], "labels: [{includeSelectors: true, pairs: {team: blue}}]")
		fmt.Printf("%s, labels: the Service selects %s, the pods have %s, error %v\n",
			kind[1], service.Selector, workload.Template.Metadata.Labels, err)
		_, workload, err = build(kind[0], kind[1], patch)
		fmt.Printf("%s, patch: containers %s, error %v\n", kind[1], workload.Template.Spec.Containers, err)
		_, workload, err = build(kind[0], kind[1], "replicas: [{name: web, count: 3}]")
		fmt.Printf("%s, replicas: %d, error %v\n", kind[1], workload.Replicas, err)
	}
}
END

cat >seen <<'END'
Deployment, labels: the Service selects {"app":"web","team":"blue"}, the pods have {"app":"web","team":"blue"}, error <nil>
Deployment, patch: containers [{"image":"localhost/app:2","name":"app"},{"image":"localhost/log","name":"log"}], error <nil>
Deployment, replicas: 3, error <nil>
Thing, labels: the Service selects {"app":"web","team":"blue"}, the pods have {"app":"web"}, error <nil>
Thing, patch: containers [{"image":"localhost/app:2","name":"app"}], error <nil>
Thing, replicas: 0, error resource with name web does not match a config with the following GVK [Deployment.[noVer].[noGrp] StatefulSet.[noVer].[noGrp] ReplicaSet.[noVer].[noGrp] ReplicationController.[noVer].[noGrp]]
END

{
  go mod init finding
  go get sigs.k8s.io/kustomize/api@v0.21.2 sigs.k8s.io/kustomize/kyaml@v0.21.2
  go get .
} 2>log || { cat log >&2; exit 1; }
go run . >now
diff --unified seen now || { echo "changed: kustomize does what stands above behind a +" >&2; exit 1; }
echo "as described"
