#!/usr/bin/env bash
# Draws the packages into docs/architecture.md: which imports which. With --check it only says whether the drawing is fresh.
set -o errexit -o nounset -o pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly page=docs/architecture.md

arrows() {
  local module
  module=$(go list -m)
  go list -f '{{$from := .ImportPath}}{{range .Imports}}{{$from}} {{.}}{{"\n"}}{{end}}' . ./internal/... ./pkg/rollout |
    awk -v module="${module}" '
      function short(path) { sub("^" module "/?", "", path); sub(/^internal\//, "", path); sub(/^pkg\//, "", path); return path == "" ? "main" : path }
      # Generated code is one box; the packages for tests are left out.
      { from = short($1); to = short($2) }
      index($2, module) != 1 || from ~ /^(expect|fakecluster)$/ { next }
      { sub(/^generated\/.*/, "generated", to); sub(/^apis\/.*/, "apis", to); print "    " from " --> " to }' | LC_ALL=C sort -u
}

drawn() {
  awk -v arrows="$(arrows)" '
    /^```mermaid$/ { print; print "flowchart TD"; print arrows; drawing = 1 }
    /^```$/ { drawing = 0 }
    !drawing { print }' "${page}"
}

if [[ ${1:-} == --check ]]; then
  drawn | diff "${page}" -
else
  drawn >"${page}.new"
  mv "${page}.new" "${page}"
fi
