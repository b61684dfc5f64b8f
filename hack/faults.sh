#!/usr/bin/env bash
# Tells stories of releases with the way to the API server disturbed, on the local cluster: see test/faults/doc.go. Arguments go to the
# tests, for example: hack/faults.sh -stories 0 tells all, hack/faults.sh -story '^rollback$' -at 7 -fault '^answer-lost-504$' one.
set -o errexit -o nounset -o pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

BELAY_FAULTS=1 hack/with-cluster.sh go test ./test/faults -count=1 -timeout 150m -v "$@" 2>&1 |
  awk '/no tests to run/ { none = 1 } !/^ *(=== (RUN|PAUSE|CONT|NAME)|--- PASS)/ { print; fflush() } END { exit none }'
