#!/usr/bin/env bash
# Does what docs/gitops.md says about Helm, with the real Helm, on the local cluster. It is built the first time, which takes
# some minutes. Arguments go to the tests.
set -o errexit -o nounset -o pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

helm=$(CGO_ENABLED=0 go -C hack/helm tool -n helm)
hack/e2e.sh -run Helm -helm "${helm}" "$@"
