#!/usr/bin/env bash
# Plays the story of a release that fails, on the local cluster: a good release, a crashing one, the rollback, the fix.
# What is printed after a "$" is typed for real, and its output is kubectl's. Leaves nothing running; KEEP=1 keeps it all.
set -o errexit -o nounset -o pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

export KUBECONFIG="${PWD}/.cluster/kubeconfig"
export PATH="${PWD}/.cluster/bin:${PATH}"
readonly manifest=artifacts/examples/guardeddeployment.yaml log=.cluster/belay-demo.log
controller='' ours=''

# Everything that was started is ended, however the story ends.
end() {
  local status=$?
  trap - EXIT
  if [[ -n ${KEEP:-} && ${status} == 0 ]]; then
    say "KEEP is set: the controller (process ${controller}) and the cluster go on running.
Look around with
  export KUBECONFIG=${KUBECONFIG}
  ${PWD}/.cluster/bin/kubectl -n demo get gd
and end it with
  kill ${controller}; make cluster-down"
    exit 0
  fi
  if ((status != 0)); then
    echo "The story ended early. The controller's last words:" >&2
    tail -n 20 "${log}" >&2 2>/dev/null || echo '(none)' >&2
  fi
  if [[ -n ${controller} ]]; then
    kill "${controller}" 2>/dev/null && wait "${controller}" || true
  fi
  if [[ -n ${ours} ]]; then
    go -C hack/cluster run . down
  else
    kubectl delete namespace demo --ignore-not-found --wait=false >/dev/null 2>&1 || true
  fi
  exit "${status}"
}

say() { printf '\n\033[1m%s\033[0m\n' "$1"; }

# type_in prints a command as it would be typed, and runs it.
type_in() {
  local word
  printf '\n$'
  for word; do
    if [[ ${word} == *[^a-zA-Z0-9/._,:=-]* ]]; then printf " '%s'" "${word}"; else printf ' %s' "${word}"; fi
  done
  printf '\n'
  "$@"
}

# release applies the manifest with another image, as the next commit in git would.
release() {
  local edit="s#nginx:1.29#$1#; s#soakSeconds: 30#soakSeconds: 5#"
  printf "\n$ sed '%s' %s | kubectl apply -f -\n" "${edit}" "${manifest}"
  sed "${edit}" "${manifest}" | kubectl apply -f -
}

# await waits for a reason of the Ready condition, for a minute at most.
await() {
  if ! kubectl wait gd/web --for="jsonpath={.status.conditions[?(@.type==\"Ready\")].reason}=$1" --timeout=60s >/dev/null; then
    echo "web did not become $1 in a minute" >&2
    kubectl describe gd web >&2
    return 1
  fi
}

trap end EXIT
if ! go -C hack/cluster run . status >/dev/null 2>&1; then
  say "Starting a local cluster: a real Kubernetes control plane, with pods on fake nodes."
  ours=yes
fi
go -C hack/cluster run . up

say "1. Install the CRD and run the controller."
type_in kubectl apply -f artifacts/crd.yaml
kubectl wait crd/guardeddeployments.belay.dev --timeout=30s >/dev/null \
  --for='jsonpath={.status.conditions[?(@.type=="Established")].status}=True'
kubectl create namespace demo --dry-run=client -o yaml | kubectl apply -f - >/dev/null
kubectl config set-context --current --namespace=demo >/dev/null
kubectl delete gd web --ignore-not-found >/dev/null
printf '\n$ bin/belay &\n'
bin/belay >"${log}" 2>&1 &
controller=$!

say "2. A good release. It counts as good once it has been healthy for a while (5 s here, 30 s as a rule)."
release localhost/web:1
await Soaking
type_in kubectl get gd,pods
await RolledOut
type_in kubectl get gd web -o wide

say "3. A bad release: this image exits as soon as it starts."
release localhost/web:crash
await Progressing
sleep 4
type_in kubectl get gd,deployment,pods
echo
echo "The new pod crashes. The three old ones go on serving: the Deployment is still available."

say "4. After four restarts of one container Belay has seen enough. The Deployment goes back to what worked."
await RolledBack
type_in kubectl get gd,deployment,pods
type_in kubectl get gd web -o 'jsonpath={.status.conditions[?(@.type=="Ready")].message}{"\n"}'
type_in kubectl get gd web -o 'jsonpath=pod {.status.failure.pod}, container {.status.failure.container}, exit code {.status.failure.exitCode}{"\n"}'
echo
echo "The spec stays what git says, the Deployment what works:"
type_in kubectl get gd web -o 'jsonpath={.spec.template.spec.containers[0].image}{"\n"}'
type_in kubectl get deployment web -o 'jsonpath={.spec.template.spec.containers[0].image}{"\n"}'

say "5. The fix: just the next release."
release localhost/web:2
await RolledOut
type_in kubectl get gd,pods

say "6. What happened, in order."
type_in kubectl get events --field-selector involvedObject.kind=GuardedDeployment --sort-by=.metadata.creationTimestamp \
  -o 'custom-columns=TIME:.eventTime,TYPE:.type,REASON:.reason,MESSAGE:.message'
