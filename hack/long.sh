#!/usr/bin/env bash
# Runs what takes longer than CI may, three to four hours in all on two cores; arguments choose some of it:
#   versions  the tests on a real API server, on every older Kubernetes in hack/cluster/versions
#   tools     releases with Helm, and with the code of Flux and Argo CD, each 50 times
#   in-place  what Deployments that are guarded in place show to whoever waits, and what they cost at rest, more often and for longer
#   capacity  that they keep their ready pods while a release is taken back, 30 times each with slow and with fast controllers
#   sweep     every value on every path of the CRD's schema
#   simulate  the simulation of the real controller, with many more seeds
#   restore   Belay while etcd is restored from a snapshot, with etcd's own tools
#   soak      3,500 releases at once, each with a soak of ten minutes: more than 3,000 are on the move together
#   demos     make demo, ten times as on a new machine and twenty times on this one, with every core busy
set -o errexit -o nounset -o pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

versions() {
  local modfile version
  for modfile in hack/cluster/versions/*.mod; do
    version=$(basename "${modfile}" .mod)
    printf '\n== Kubernetes %s\n' "${version}"
    KUBERNETES=${version} hack/e2e.sh
  done
}
tools() { hack/tools.sh -run 'Helm|InPlaceTools' -fixes 50 -timeout 60m; }
in-place() { hack/e2e.sh -run 'TestInPlace_(FixAtOnce|BelayKilled|NoLoop)' -fixes 50 -held 60s; }
capacity() {
  local qps
  for qps in 20 200; do
    printf '\n== controllers that make %s requests in a second\n' "${qps}"
    hack/cluster.sh down
    hack/cluster.sh --controller-qps "${qps}" up
    hack/e2e.sh -run 'TestInPlace_(CapacityInTheSoak|TwoOldReplicaSets|Scale)' -count 30 -timeout 2h
    hack/cluster.sh down
  done
}
sweep() { hack/e2e.sh -run TestSweep_AcceptedIsDecodable -sweep; }
simulate() { go test . -run TestSimulation -sim.seeds 1000 -timeout 2h; }
restore() { BELAY_RESTORE=1 go test ./test/restore -count=1 -timeout 15m -v; }
soak() { go run ./test/bench -only burst,soak -objects 3500 -soak 10m -out bin/soak/results.json; }
demos() { hack/demos.sh 10 20; }

for part in ${@:-versions tools in-place capacity sweep simulate restore soak demos}; do
  case ${part} in
  versions | tools | in-place | capacity | sweep | simulate | restore | soak | demos) "${part}" ;;
  *) echo "long: there is no part ${part}; there are versions, tools, in-place, capacity, sweep, simulate, restore, soak, demos" >&2 && exit 1 ;;
  esac
done
