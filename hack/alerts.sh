#!/usr/bin/env bash
# Checks the alerts in artifacts/monitoring, and runs their unit tests in test/alerts, with promtool. It is built the first
# time, which takes some minutes, without its service discoveries, which are most of it.
set -o errexit -o nounset -o pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

promtool=$(cd hack/promtool && CGO_ENABLED=0 GOFLAGS=-tags=remove_all_sd go tool -n promtool)
scratch=$(mktemp -d)
trap 'rm -rf "${scratch}"' EXIT
sed '1,/^spec:/d; s/^  //' artifacts/monitoring/alerts.yaml >"${scratch}/rules.yaml"
cp test/alerts/alerts.yaml "${scratch}/"
"${promtool}" check rules --lint=all --lint-fatal "${scratch}/rules.yaml"
"${promtool}" test rules "${scratch}/alerts.yaml"
