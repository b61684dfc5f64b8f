#!/usr/bin/env bash
# Fails, and shows the difference, if the generated files are not what hack/update-codegen.sh would write. It generates in a
# copy and leaves this checkout alone.
set -o errexit -o nounset -o pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

copy=$(mktemp -d)
trap 'rm -rf "${copy}"' EXIT
mkdir "${copy}/pkg" "${copy}/hack"
cp go.mod go.sum "${copy}"
cp -R pkg/apis pkg/generated "${copy}/pkg"
cp -R hack/crd hack/boilerplate.go.txt hack/update-codegen.sh "${copy}/hack"

"${copy}/hack/update-codegen.sh" >/dev/null

stale=0
for path in pkg/apis pkg/generated artifacts/crd.yaml; do
  diff --unified --recursive --new-file "${path}" "${copy}/${path}" || stale=1
done
if ((stale)); then
  echo "The generated files above are stale: run hack/update-codegen.sh." >&2
  exit 1
fi
