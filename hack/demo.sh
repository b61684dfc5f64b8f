#!/usr/bin/env bash
# Plays the story of a release that fails, on the local cluster: first of a Deployment with a label, then of a
# GuardedDeployment: a good release, a crashing one, the rollback, the fix.
# What is printed after a "$" is typed for real, and its output is kubectl's. Leaves nothing running; KEEP=1 keeps it all.
# It can be played again at any time, whatever an earlier one has left, ended in the middle or not.
set -o errexit -o nounset -o pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

export KUBECONFIG="${PWD}/.cluster/kubeconfig"
export PATH="${PWD}/.cluster/bin:${PATH}"
readonly manifest=artifacts/examples/guardeddeployment.yaml log=.cluster/belay-demo.log
readonly pidfile=bin/belay-demo.pid # not in .cluster, which is deleted with a cluster while the controller goes on
# How long a step may take, in seconds: a few as a rule, but the machine may be busy.
readonly patience=180
controller='' ours='' started='' told=''

# Everything that was started is ended, however the story ends; nothing else is touched.
end() {
  local status=$?
  trap - EXIT
  trap '' INT TERM HUP # what was begun to be ended is ended
  if [[ -n ${KEEP:-} && -n ${told} ]]; then
    say "KEEP is set: the controller (process ${controller}) and the cluster go on running.
Look around with
  export KUBECONFIG=${KUBECONFIG}
  ${PWD}/.cluster/bin/kubectl -n demo get gd
and end it with
  kill ${controller}; make cluster-down"
    exit 0
  fi
  if [[ -n ${controller} ]]; then
    if [[ -z ${told} ]]; then
      echo "The story ended early. The controller's last words:" >&2
      tail -n 20 "${log}" >&2 || true
    fi
    kill "${controller}" 2>/dev/null && wait "${controller}" || true
    rm -f "${pidfile}"
  fi
  if [[ -n ${ours} ]]; then
    # In a process group of its own: a ^C on the terminal, the second one, is not for it.
    (set -m; hack/cluster.sh down & wait $!)
  elif [[ -n ${started} ]]; then
    kubectl config set-context --current --namespace=default >/dev/null
    kubectl delete namespace demo --ignore-not-found --wait=false >/dev/null 2>&1 || true # the next story waits for it
    echo "The cluster goes on running, as it did before: make cluster-down ends it."
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

# end_earlier ends the controller that an earlier story has left, if the process is that still.
end_earlier() {
  local pid
  pid=$(cat "${pidfile}" 2>/dev/null) || return 0
  if [[ $(ps -p "${pid}" -o args= 2>/dev/null) == bin/belay ]]; then
    kill "${pid}"
    for ((i = 0; i < 100; i++)); do
      kill -0 "${pid}" 2>/dev/null || break
      sleep 0.1
    done
  fi
  rm -f "${pidfile}"
}

# served waits until the API server serves the kind, after its CRD was applied. "kubectl wait" is no way: it ends with an error
# while a CRD has no conditions yet.
served() {
  local deadline=$((SECONDS + patience))
  until kubectl get gd >/dev/null 2>&1; do
    if ((SECONDS > deadline)); then
      echo "the API server does not serve GuardedDeployments" >&2
      kubectl get gd >&2
      return 1
    fi
    sleep 0.2
  done
}

# patiently waits until a command succeeds, as long as the controller runs.
patiently() {
  local deadline=$((SECONDS + patience))
  until "$@"; do
    if ! kill -0 "${controller}" 2>/dev/null; then
      echo "the controller has ended" >&2
      return 1
    fi
    if ((SECONDS > deadline)); then
      echo "waited ${patience} seconds in vain: $*" >&2
      return 1
    fi
    sleep 0.2
  done
}

# has_told says whether there is an Event of this reason about the Deployment shop.
has_told() {
  [[ -n $(kubectl get events --field-selector "involvedObject.kind=Deployment,involvedObject.name=shop,reason=$1" -o name 2>/dev/null) ]]
}

# is_back says whether the Deployment shop counts no pod of the failed release any more, which it does for a moment.
is_back() {
  local updated
  updated=$(kubectl get deployment shop -o 'jsonpath={.status.updatedReplicas}') && [[ -z ${updated} ]]
}

# is says whether the Ready condition has one of the reasons.
is() {
  local reason
  reason=$(kubectl get gd web -o 'jsonpath={.status.conditions[?(@.type=="Ready")].reason}' 2>/dev/null) &&
    [[ " $* " == *" ${reason:-none} "* ]]
}

# await waits until it has. Reasons that pass may be missed: give what follows them, too.
await() {
  if ! patiently is "$@"; then
    kubectl describe gd web >&2
    return 1
  fi
}

trap end EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
trap 'exit 129' HUP
if ! hack/cluster.sh status >/dev/null 2>&1; then
  say "Starting a local cluster: a real Kubernetes control plane, with pods on fake nodes."
  ours=yes # from here on: it may be left half started
fi
hack/cluster.sh up
started=yes
end_earlier

say "1. Install, and run the controller."
type_in kubectl apply -f artifacts/crd.yaml
in_place=$(kubectl get --raw /apis/admissionregistration.k8s.io/v1/mutatingadmissionpolicies 2>/dev/null || true)
if [[ -n ${in_place} ]]; then
  type_in kubectl apply -k artifacts/in-place
fi
served
kubectl delete namespace demo --ignore-not-found --timeout="${patience}s" >/dev/null # an earlier story's; waits until it is gone
kubectl create namespace demo >/dev/null
kubectl config set-context --current --namespace=demo >/dev/null
printf '\n$ bin/belay &\n'
bin/belay >"${log}" 2>&1 &
controller=$!
echo "${controller}" >"${pidfile}"

if [[ -n ${in_place} ]]; then
  say "2. A Deployment as it is, and one label."
  type_in kubectl create deployment shop --image=localhost/shop:1 --replicas=3
  type_in kubectl rollout status deployment/shop "--timeout=${patience}s"
  type_in kubectl label deployment shop belay.dev/guarded=in-place
  patiently has_told RolledOut
  type_in kubectl get events --field-selector reason=RolledOut -o 'jsonpath={.items[0].message}{"\n"}'

  say "3. A bad release: this image exits as soon as it starts. Whoever waits for it is told that it has failed."
  type_in kubectl set image deployment/shop shop=localhost/shop:crash
  type_in kubectl rollout status deployment/shop "--timeout=${patience}s" || true
  patiently has_told RolledBack
  patiently is_back
  type_in kubectl get deployment,replicasets,pods
  type_in kubectl get events --field-selector reason=RolledBack -o 'jsonpath={.items[0].message}{"\n"}'
  echo
  echo "The Deployment is back on what worked, and asks for what it was told to:"
  type_in kubectl get deployment shop -o 'jsonpath={.spec.template.spec.containers[0].image}{"\n"}'
  type_in kubectl delete deployment shop
else
  say "2, 3. Guarding a Deployment in place needs Kubernetes 1.36: left out."
fi

say "4. The same as a kind of its own, GuardedDeployment: a good release. It counts as good once it has been healthy for a while (5 s here, 30 s as a rule)."
release localhost/web:1
await Soaking RolledOut
type_in kubectl get gd,pods
await RolledOut
type_in kubectl get gd web -o wide

say "5. A bad release, of the same kind."
release localhost/web:crash
await Progressing RolledBack
sleep 4
type_in kubectl get gd,deployment,pods
echo
echo "The new pod crashes. The three old ones go on serving: the Deployment is still available."

say "6. After four restarts of one container Belay has seen enough. The Deployment goes back to what worked."
await RolledBack
type_in kubectl get gd,deployment,pods
type_in kubectl get gd web -o 'jsonpath={.status.conditions[?(@.type=="Ready")].message}{"\n"}'
type_in kubectl get gd web -o 'jsonpath=cause {.status.failure.cause}, pod {.status.failure.pod}, container {.status.failure.container}, exit code {.status.failure.exitCode}{"\n"}'
echo
echo "The spec stays what git says, the Deployment what works:"
type_in kubectl get gd web -o 'jsonpath={.spec.template.spec.containers[0].image}{"\n"}'
type_in kubectl get deployment web -o 'jsonpath={.spec.template.spec.containers[0].image}{"\n"}'

say "7. The fix: just the next release."
release localhost/web:2
await RolledOut
type_in kubectl get gd,pods

say "8. What happened, in order."
type_in kubectl get events --field-selector involvedObject.kind=GuardedDeployment --sort-by=.metadata.creationTimestamp \
  -o 'custom-columns=TIME:.eventTime,TYPE:.type,REASON:.reason,MESSAGE:.message'
told=yes
