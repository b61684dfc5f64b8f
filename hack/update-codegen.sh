#!/usr/bin/env bash
# Generates what follows from the types in pkg/apis: the zz_generated files beside them, pkg/generated, artifacts/crd.yaml.
#
# It needs nothing but Go: the generators are `tool` lines of go.mod. pkg/generated is replaced as a whole, so that nothing
# stays of a type that is gone, and only after everything has been generated.
set -o errexit -o nounset -o pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# The folders with API types, GROUP/VERSION below pkg/apis, are those in which some file has the marker +groupName.
versions=($(cd pkg/apis && grep --files-with-matches '^// +groupName=' */*/*.go | xargs -n 1 dirname | sort -u))
types=("${versions[@]/#/./pkg/apis/}")
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
generate client-gen --input-base "$(go list -m)/pkg/apis" --input "$(IFS=, && echo "${versions[*]}")" --clientset-name versioned \
  --output-dir "${new}/generated/clientset" --output-pkg "${package}/clientset"
generate lister-gen --output-dir "${new}/generated/listers" --output-pkg "${package}/listers" "${types[@]}"
generate informer-gen --output-dir "${new}/generated/informers" --output-pkg "${package}/informers" \
  --versioned-clientset-package "${package}/clientset/versioned" --listers-package "${package}/listers" "${types[@]}"

echo controller-gen
go tool controller-gen crd:generateEmbeddedObjectMeta=true paths=./pkg/apis/... output:crd:stdout |
  go run ./hack/crd "${types[@]#./}" >"${new}/crd.yaml"

rm -rf pkg/generated
mv "${new}/generated" pkg/generated
mv "${new}/crd.yaml" artifacts/crd.yaml
