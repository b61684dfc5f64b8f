#!/usr/bin/env bash
# Checks, without a cluster, what a review should not have to look for. Every check runs; any that fails fails the whole.
set -o nounset
cd "$(dirname "${BASH_SOURCE[0]}")/.."

failed=()

# check WHAT REMEDY FUNCTION: says what holds if FUNCTION succeeds, and shows its output and what to do if not.
check() {
  local output start=${SECONDS}
  printf '%s ... ' "$1"
  if output=$("$3" 2>&1); then
    echo "ok ($((SECONDS - start)) s)"
  else
    printf 'FAILED\n%s\n  -> %s\n' "${output}" "$2"
    failed+=("$1")
  fi
}

# none succeeds if nothing comes in, and shows what does.
none() { ! grep .; }

# sources NAME...: the files of these names, generated ones included; nothing hidden, nothing built.
sources() { find . \( -path './.?*' -o -path ./bin \) -prune -o -type f \( -name "$1" "${@:2}" \) -print; }

scripts() {
  local script failures=0
  for script in $(sources '*.sh') .ci/run; do
    [[ ! -e ${script} ]] || bash -n "${script}" || failures=1
  done
  return ${failures}
}

format() { sources '*.go' | xargs gofmt -l | none; }

# These are modules of their own. Left out are test/writegate, which needs Go 1.27, and hack/promtool, whose tests need hundreds of others.
modules=(hack/cluster test/tools/argo-sync test/tools/flux-apply)

vet() {
  local module
  go vet ./... || return
  for module in "${modules[@]}"; do
    go -C "${module}" vet ./... || { echo "in ${module}"; return 1; }
  done
}

lint() {
  local staticcheck packages module
  staticcheck=$(go tool -n staticcheck) && packages=$(go list ./... | grep -v /pkg/generated/) && "${staticcheck}" ${packages} || return
  for module in "${modules[@]}"; do
    (cd "${module}" && "${staticcheck}" ./... || { echo "in ${module}"; false; }) || return
  done
}

tidy() {
  local modfile module
  go mod tidy -diff || return
  for module in "${modules[@]}" hack/helm hack/etcd; do
    go -C "${module}" mod tidy -diff || { echo "in ${module}"; return 1; }
  done
  for modfile in hack/cluster/versions/*.mod; do
    go -C hack/cluster mod tidy -diff -modfile="${modfile#hack/cluster/}" || return
  done
}

# What Belay is made of, with versions, and none of it in another version in hack/cluster: what is compiled for one serves the
# other, which is a third of the first build. A replaced module is listed with the version that replaces it.
shared_versions() {
  local own cluster format='{{.Path}} {{if .Replace}}{{.Replace.Version}}{{else}}{{.Version}}{{end}}'
  own=$(go list -deps -f "{{with .Module}}{{if not .Main}}${format}{{end}}{{end}}" . | sort -u) &&
    cluster=$(go -C hack/cluster list -m -f "${format}" all | sort -u) || return
  join <(echo "${own}") <(echo "${cluster}") | awk '$2 != $3 { print $1 " is " $2 " here and " $3 " in hack/cluster" }' | none
}

domain_imports() {
  local imports modules own
  own=$(go list -m)/pkg/apis/
  imports=$(go list -f '{{join .Imports "\n"}}' ./pkg/rollout) || return
  modules=$(go list -deps -f '{{with .Module}}{{.Path}}{{end}}' ./pkg/rollout) || return
  {
    grep -E '^(context|log|math/rand|net|os|runtime|sync|syscall|unsafe)(/|$)' <<<"${imports}"
    grep -E '^[^/]*\.' <<<"${imports}" | grep -vE "^(k8s\.io/(api|apimachinery)/|${own})"
    grep -E '^k8s\.io/' <<<"${modules}" | sort -u | grep -vE '^k8s\.io/(api|apimachinery|klog/v2|kube-openapi|utils)$'
  } | none
}

domain_clock() {
  grep -nE '\b(time\.(Now|Since|Until|Sleep|After|AfterFunc|Tick|NewTicker|NewTimer)|metav1\.Now)\b' \
    $(find pkg/rollout -name '*.go' ! -name '*_test.go') | none
}

# A call whose first argument is a context is a client's: maps, sets and caches have the same verbs. A review is created,
# too, but changes nothing; events.go and leader.go only hand on what client-go writes.
writes() {
  grep -nE '\.(Create|Update|Patch|Apply|Delete|Evict|Bind)[A-Za-z]*\(([a-zA-Z]*[cC]tx|[a-zA-Z.]*[cC]ontext)\b|\.(Post|Put|Verb)\(' \
    $(find ./*.go internal -name '*.go' ! -name '*_test.go' ! -name writes.go ! -name events.go ! -name leader.go) |
    grep -v 'Reviews()\.Create(' | none
}

check "shell scripts parse" "correct what bash says" scripts
check "Go code is formatted" "gofmt -w these files" format
check "go vet has nothing to say, in every module" "correct what it says" vet
check "staticcheck has nothing to say, in every module" "correct what it says, or explain with //lint:ignore" lint
check "go.mod and go.sum are tidy, in every module" "go mod tidy, also in the module that it names" tidy
check "hack/cluster has the versions of Belay's modules" "go get them in hack/cluster, or here, and go mod tidy" shared_versions
check "generated files are fresh" "hack/update-codegen.sh, and commit what it changes" hack/verify-codegen.sh
check "pkg/rollout imports nothing but plain data" "it is a function of plain data: hand it what it needs in Observed" domain_imports
check "pkg/rollout has no clock" "take the time from Observed.Now, and return Recheck" domain_clock
check "the picture in docs/architecture.md is fresh" "hack/architecture.sh, and commit what it changes" hack/architecture.sh --check
check "only writes.go writes to the API" "move these calls to writes.go" writes

if ((${#failed[@]})); then
  printf '\n%d of the checks failed:\n' "${#failed[@]}"
  printf '  %s\n' "${failed[@]}"
  exit 1
fi
