#!/usr/bin/env bash
# Plays "make demo" COLD times as on a new machine, in a fresh clone with empty Go caches, and WARM times in that of the last,
# all while every core is busy with something else, and ends at the first that fails: hack/demos.sh COLD WARM
# A cold one takes ten minutes on two cores, and 6 GB of disk.
set -o errexit -o nounset -o pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly cold=${1:-1} warm=${2:-1} checkout=${PWD}
scratch=$(mktemp -d)
# shellcheck disable=SC2329 # it is the trap's
end() {
  if [[ -d ${scratch}/clone ]]; then
    "${scratch}/clone/hack/cluster.sh" down || true
  fi
  rm -rf "${scratch}"
}
trap end EXIT

export GOFLAGS="${GOFLAGS:-} -modcacherw" # so that the caches can be deleted

play() { # play NAME
  local start=${SECONDS}
  if ! hack/busy.sh make -C "${scratch}/clone" demo >"${scratch}/log" 2>&1; then
    cat "${scratch}/log"
    echo "$1: FAILED"
    exit 1
  fi
  echo "$1: $((SECONDS - start)) s"
}

for ((i = 1; i <= cold; i++)); do
  rm -rf "${scratch:?}"/{clone,mod,build,cache}
  git clone --quiet "${checkout}" "${scratch}/clone"
  export GOMODCACHE="${scratch}/mod" GOCACHE="${scratch}/build" XDG_CACHE_HOME="${scratch}/cache"
  play "cold ${i} of ${cold}"
done
if [[ ! -d ${scratch}/clone ]]; then
  git clone --quiet "${checkout}" "${scratch}/clone"
fi
for ((i = 1; i <= warm; i++)); do
  play "warm ${i} of ${warm}"
done
