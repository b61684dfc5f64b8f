#!/usr/bin/env bash
# Runs a command while every core is busy with something else: hack/busy.sh COMMAND...
set -o errexit -o nounset -o pipefail

loops=()
trap 'kill "${loops[@]}" 2>/dev/null || true' EXIT # they end by themselves, too
for ((i = 0; i < $(getconf _NPROCESSORS_ONLN); i++)); do
  timeout 3600 bash -c 'while :; do :; done' &
  loops+=($!)
done
"$@"
