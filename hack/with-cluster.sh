#!/usr/bin/env bash
# Runs a command with KUBECONFIG of the local cluster, which is started if it does not run and ended afterwards if it was started.
# E2E_KUBECONFIG names another cluster to use.
set -o errexit -o nounset -o pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if [[ -n "${E2E_KUBECONFIG:-}" ]]; then
  export KUBECONFIG="${E2E_KUBECONFIG}"
else
  export KUBECONFIG="${PWD}/.cluster/kubeconfig"
  if ! hack/cluster.sh status >/dev/null 2>&1; then
    trap 'hack/cluster.sh down' EXIT
  fi
  hack/cluster.sh up
fi
"$@"
