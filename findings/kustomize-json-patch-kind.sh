#!/usr/bin/env bash
# kustomize asks for allowKindChange and allowNameChange only where the patch is a merge patch.
#
# Versions: kustomize/api and kustomize/kyaml v0.21.2.
# Expected: without `options: {allowKindChange: true}` a patch leaves the kind as it is, whatever its form; the options
#   stand beside `patch` and `target`, and are documented for `patches`.
# Seen: a merge patch does not change kind or name without the options. A JSON 6902 patch changes both, with the options or
#   without: `options` is not looked at. So a review that looks for "allowKindChange" misses a change of kind, and rewriting
#   a working JSON patch as a merge patch silently loses it.
set -o errexit -o nounset -o pipefail

dir=$(mktemp -d)
trap 'rm -rf "${dir}"' EXIT
cd "${dir}"

cat >main.go <<'END'
package main

import (
	"fmt"

	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
)

const (
	resource = "{apiVersion: apps/v1, kind: StatefulSet, metadata: {name: old}, spec: {replicas: 1}}"
	merge    = `'{apiVersion: apps/v1, kind: Deployment, metadata: {name: new}}'`
	json     = `'[{"op": "replace", "path": "/kind", "value": "Deployment"}, {"op": "replace", "path": "/metadata/name", "value": "new"}]'`
	allowed  = "{allowKindChange: true, allowNameChange: true}"
)

func main() {
	for _, try := range []struct{ form, patch, options string }{
		{"merge patch, no options", merge, "{}"},
		{"merge patch, allowed   ", merge, allowed},
		{"JSON patch, no options ", json, "{}"},
		{"JSON patch, allowed    ", json, allowed},
	} {
		files := filesys.MakeFsInMemory()
		files.WriteFile("resource.yaml", []byte(resource))
		files.WriteFile("kustomization.yaml", []byte("resources: [resource.yaml]\npatches:\n"+
			"- {target: {kind: StatefulSet}, options: "+try.options+", patch: "+try.patch+"}\n"))
		objects, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(files, ".")
		if err != nil {
			fmt.Println(try.form, err)
			continue
		}
		object := objects.Resources()[0]
		fmt.Println(try.form, object.GetKind(), object.GetName())
	}
}
END

cat >seen <<'END'
merge patch, no options StatefulSet old
merge patch, allowed    Deployment new
JSON patch, no options  Deployment new
JSON patch, allowed     Deployment new
END

{
  go mod init finding
  go get sigs.k8s.io/kustomize/api@v0.21.2 sigs.k8s.io/kustomize/kyaml@v0.21.2
  go get .
} 2>log || { cat log >&2; exit 1; }
go run . >now
diff --unified seen now || { echo "changed: kustomize does what stands above behind a +" >&2; exit 1; }
echo "as described"
