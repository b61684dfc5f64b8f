#!/usr/bin/env bash
# Builds the image of Belay with docker or buildah, whichever is there. These variables choose:
#   IMAGE     its name; default: localhost/belay:VERSION
#   VERSION   what "belay --version" says; default: what git says
#   PLATFORM  linux/amd64 or linux/arm64; default: this machine's
#   BUILDER   the image with the Go toolchain; default: the Dockerfile's. "host" takes the toolchain and the Go caches of
#             this machine, so that no registry is needed (buildah only)
set -o errexit -o nounset -o pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

version="${VERSION:-$(git describe --tags --always --dirty 2>/dev/null || echo unknown)}"
image="${IMAGE:-localhost/belay:${version}}"
native="linux/$(go env GOHOSTARCH)"
args=(--platform "${PLATFORM:-${native}}" --build-arg "VERSION=${version}" --tag "${image}")
builder="${BUILDER:-}"

if [[ ${builder} != host ]] && command -v docker >/dev/null; then
  exec docker build ${builder:+--build-arg "BUILDER=${builder}"} "${args[@]}" .
fi
if ! command -v buildah >/dev/null; then
  echo "image: needs docker or buildah (Debian: apt-get install buildah)" >&2
  exit 1
fi
# buildah does not know the machine's own platform by itself.
args+=(--build-arg "BUILDPLATFORM=${native}" --layers=false)

if [[ ${builder} == host ]]; then
  # An empty image that borrows all it has from the machine: the Dockerfile is built as it is.
  context=$(mktemp -d)
  trap 'rm -rf "${context}"' EXIT
  cat >"${context}/Dockerfile" <<'END'
FROM scratch
ENV PATH=/usr/local/go/bin:/usr/bin:/bin GOTOOLCHAIN=local GOPROXY=off GOMODCACHE=/go/pkg/mod GOCACHE=/go/cache
WORKDIR /tmp
END
  builder=localhost/belay-builder
  buildah bud --quiet --tag "${builder}" "${context}" >/dev/null
  # The image has no way to fetch them.
  go mod download
  args+=(--pull-never)
  for dir in /usr /bin /lib /lib64; do
    [[ ! -e ${dir} ]] || args+=(--volume "${dir}:${dir}:ro")
  done
  args+=(--volume "$(go env GOROOT):/usr/local/go:ro" --volume "$(go env GOMODCACHE):/go/pkg/mod:ro"
    --volume "$(go env GOCACHE):/go/cache")
fi
buildah bud ${builder:+--build-arg "BUILDER=${builder}"} "${args[@]}" .
