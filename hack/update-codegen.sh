#!/usr/bin/env bash
# Generates what follows from the types in pkg/apis: the zz_generated files beside them, pkg/generated, artifacts/crd.yaml.
#
# It needs nothing but Go: the generators are `tool` lines of go.mod. pkg/generated is replaced as a whole, so that nothing
# stays of a type that is gone, and only after everything has been generated.
set -o errexit -o nounset -o pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

types=() inputs=() # one for each pkg/apis/GROUP/VERSION
for directory in pkg/apis/*/*/; do
  directory=${directory%/}
  types+=("./${directory}")
  inputs+=(--input "${directory#pkg/apis/}")
done
package=$(go list -m)/pkg/generated

generate() { # generate TOOL ARGUMENT...
  echo "$1"
  go tool "$1" --go-header-file hack/boilerplate.go.txt "${@:2}"
}

mkdir -p pkg/generated artifacts
written=$(find pkg/generated -type f -exec grep --files-without-match '^// Code generated .* DO NOT EDIT\.$' {} + || true)
if [[ -n ${written} ]]; then
  echo "pkg/generated is for generated files only. Move these away: ${written}" >&2
  exit 1
fi

new=$(mktemp -d pkg/.generated.XXXXXX) # in here, so that mv cannot fail halfway
trap 'rm -rf "${new}"' EXIT

generate deepcopy-gen --output-file zz_generated.deepcopy.go "${types[@]}"
generate register-gen --output-file zz_generated.register.go "${types[@]}"
generate client-gen --input-base "$(go list -m)/pkg/apis" "${inputs[@]}" --clientset-name versioned \
  --output-dir "${new}/generated/clientset" --output-pkg "${package}/clientset"
generate lister-gen --output-dir "${new}/generated/listers" --output-pkg "${package}/listers" "${types[@]}"
generate informer-gen --output-dir "${new}/generated/informers" --output-pkg "${package}/informers" \
  --versioned-clientset-package "${package}/clientset/versioned" --listers-package "${package}/listers" "${types[@]}"

echo controller-gen
go tool controller-gen crd:generateEmbeddedObjectMeta=true paths=./pkg/apis/... output:crd:stdout |
  go run ./hack/crd pkg/apis >"${new}/crd.yaml"

rm -rf pkg/generated
mv "${new}/generated" pkg/generated
mv "${new}/crd.yaml" artifacts/crd.yaml
