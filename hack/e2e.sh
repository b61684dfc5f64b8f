#!/usr/bin/env bash
# Runs test/e2e on the local cluster, which is started if it does not run and ended after the tests if it was started.
# E2E_KUBECONFIG names another cluster to run on. Arguments go to the tests, for example: hack/e2e.sh -run TestFailure
set -o errexit -o nounset -o pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

BELAY_E2E=1 hack/with-cluster.sh go test ./test/e2e -count=1 -timeout 30m -v "$@" 2>&1 |
  awk '/no tests to run/ { none = 1 } !/^=== (RUN|PAUSE|CONT|NAME)/ { print; fflush() } END { exit none }'
