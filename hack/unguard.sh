#!/usr/bin/env bash
# Ends guarding in place, in the order in which nothing rolls out unseen. Without an argument it only says which Deployments
# will move: those of which a failed release is held back, which rolls out then. With --yes it does it.
# It acts on the cluster of $KUBECONFIG, or of ~/.kube/config. docs/in-place.md has the same as single commands.
set -o errexit -o nounset -o pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# held names the Deployments that have something held, each once.
held() {
  kubectl get replicasets --all-namespaces --selector belay.dev/held-at --no-headers --ignore-not-found \
    -o 'custom-columns=NAMESPACE:.metadata.namespace,DEPLOYMENT:.metadata.ownerReferences[0].name' | sort -u
}

will_move=$(held)
if [[ -n ${will_move} ]]; then
  echo "A failed release of these Deployments is held back. It rolls out when nothing guards them any more:"
  sed 's/^/  /' <<<"${will_move}"
  echo "So that it does not, ask for something that works first: revert in git, or kubectl rollout undo."
else
  echo "Nothing is held back: no Deployment will move."
fi
if [[ ${1:-} != --yes ]]; then
  echo "Nothing was done. To do it: $0 --yes"
  exit
fi

# A Belay that runs sees that it is asked no more, and lets go; what no Belay knows of is let go here.
kubectl label deployments --all-namespaces --selector belay.dev/guarded=in-place belay.dev/guarded-
kubectl label replicasets --all-namespaces --selector belay.dev/held-at belay.dev/held-at-
still=$(held)
if [[ -n ${still} ]]; then
  printf 'Something is held again, so the policy stays. Somebody sets the label belay.dev/guarded; begin again without that:\n%s\n' "${still}" >&2
  exit 1
fi
kubectl delete -k artifacts/in-place --ignore-not-found
