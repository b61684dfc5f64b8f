#!/usr/bin/env bash
# Runs hack/cluster: hack/cluster.sh belay|build|tools|up|down|status. It is compiled with the flags with which it compiles Belay and
# the cluster, so that Go's library is compiled once. "go run" would not pass on a signal.
set -o errexit -o nounset -o pipefail

if ! command -v go >/dev/null; then
  echo "cluster: no go command in PATH: install Go from https://go.dev/dl, at least the version that go.mod names" >&2
  exit 1
fi
export CGO_ENABLED=0
cd "$(dirname "${BASH_SOURCE[0]}")/cluster"
go build -trimpath -buildvcs=false -gcflags=all=-dwarf=false -o ../../bin/cluster .
exec ../../bin/cluster "$@"
