#!/usr/bin/env bash
# Releases with the tools that people use, on the local cluster: the real Helm, and the code of Flux and Argo CD. They are built
# the first time, which takes about a minute. Arguments go to the tests.
set -o errexit -o nounset -o pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

hack/cluster.sh tools
hack/e2e.sh -tools "${PWD}/bin/tools" "$@"
