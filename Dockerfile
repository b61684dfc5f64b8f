# The image of Belay: one static binary and nothing else.
#
#   docker build --build-arg VERSION=v0.1.0 --tag belay:v0.1.0 .
#   buildah bud --build-arg VERSION=v0.1.0 --tag belay:v0.1.0 .
#
# BUILDER is the image with the Go toolchain. Another one serves where no registry can be reached.
ARG BUILDER=golang:1.26

# Go compiles for every platform on any: only the result is for the target's.
FROM --platform=${BUILDPLATFORM} ${BUILDER} AS build
ARG TARGETOS
ARG TARGETARCH
ARG VERSION
WORKDIR /src
COPY . .
# -trimpath and -buildvcs=false leave out what differs between two builds of the same source.
RUN CGO_ENABLED=0 GOOS=${TARGETOS} GOARCH=${TARGETARCH} \
    go build -trimpath -buildvcs=false -ldflags "-s -w -X main.version=${VERSION}" -o /out/belay .

# Belay speaks to the API server alone, whose CA the pod is given: there are no other certificates to bring along.
FROM scratch
COPY --from=build /out/belay /belay
# A number, so that a kubelet can tell that it is not root.
USER 65532:65532
ENTRYPOINT ["/belay"]
