#!/usr/bin/env bash
# Runs every fuzz test for a minute each, or for as long as FUZZTIME says; arguments are passed to go test, -parallel 1 for example.
# What it finds is put into testdata/fuzz of the package, and fails as an ordinary test from then on: mend it, and commit it with the rest.
set -o errexit -o nounset -o pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

grep -rl --include='*_test.go' '^func Fuzz' . | xargs -n 1 dirname | sort -u | while read -r package; do
  targets=$(go test -list '^Fuzz' "${package}" </dev/null | grep '^Fuzz')
  for target in ${targets}; do
    printf '\n== %s %s\n' "${package}" "${target}"
    go test "${package}" -run '^$' -fuzz "^${target}\$" -fuzztime "${FUZZTIME:-60s}" "$@" </dev/null
  done
done
