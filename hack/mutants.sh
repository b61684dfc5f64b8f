#!/usr/bin/env bash
# Makes sure that test/faults finds what it is for: breaks Belay on purpose, as each file in test/faults/mutants says, and fails if the
# stories come out well all the same, or if no law that it breaks is told: that something is waited for in vain does not count. (What is
# told of a story that does not end is told while panic.go unwinds it.) Arguments name some of them, without ".patch".
set -o errexit -o nounset -o pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

scratch=$(mktemp -d)
trap 'rm -rf "${scratch}"' EXIT

# broken NAME: succeeds if the tests fail on a belay with this patch.
broken() {
  local patch=test/faults/mutants/$1.patch source=${scratch}/$1 arguments found
  mkdir "${source}"
  git ls-files -z --cached -- '*.go' go.mod go.sum | tar --create --null --files-from=- | tar --extract --directory="${source}"
  if ! git -C "${source}" apply "${PWD}/${patch}" || ! go -C "${source}" build -o "${scratch}/belay" .; then
    printf '%-26s does not fit any more: mend the patch\n' "$1"
    return 1
  fi
  read -r -a arguments < <(sed -n 's/^arguments: //p' "${patch}")
  if hack/faults.sh -run TestFaults -source "${source}" -patience 90s "${arguments[@]}" >"${scratch}/$1.log" 2>&1; then
    printf '%-26s NOT found\n' "$1"
    return 1
  fi
  found=$(sed -n 's/^ *[a-z_]*\.go:[0-9]*: a law is broken: //p' "${scratch}/$1.log" | cut -c1-160 | sort | uniq -c | sort -rn | head -3)
  if [[ ! ${found} ]]; then
    printf '%-26s NOT found: the tests fail, and no law is broken\n' "$1"
    tail -5 "${scratch}/$1.log"
    return 1
  fi
  printf '%s found:\n%s\n' "$1" "${found}"
}

if (($# == 0)); then
  set -- $(basename -s .patch test/faults/mutants/*.patch)
fi
failures=0
for name; do
  broken "${name}" || failures=$((failures + 1))
done
exit $((failures > 0))
