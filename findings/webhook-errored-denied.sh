#!/usr/bin/env bash
# A webhook that reports its own trouble with controller-runtime's admission.Errored is told as one that denied the object.
#
# Versions: controller-runtime v0.25.2 (pkg/webhook/admission), apiserver v0.37.2 (pkg/admission/plugin/webhook/errors).
# Expected: Errored(500, err) says that the webhook could not answer. The API server then tells its client what it tells of a
#   webhook that it could not call, "Internal error occurred: failed calling webhook ...", or at least not "denied".
# Seen: an error response is a response with allowed: false, and the API server says of every such response
#   `admission webhook "NAME" denied the request: ...`. Only the status code, 500, tells it from a denial, and the places where
#   people and controllers look have no code: the Event FailedCreate and the condition ReplicaFailure of a ReplicaSet, whose
#   pods are refused, hold the text alone. failurePolicy: Ignore does not help either: the webhook was called. Whoever judges
#   by such a text (a deployment tool, for example) takes a database that is away for a verdict on the pods.
set -o errexit -o nounset -o pipefail

dir=$(mktemp -d)
trap 'rm -rf "${dir}"' EXIT
cd "${dir}"

cat >main.go <<'END'
package main

import (
	"errors"
	"fmt"
	"net/http"

	webhookerrors "k8s.io/apiserver/pkg/admission/plugin/webhook/errors"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"
)

func main() {
	for _, response := range []admission.Response{
		admission.Errored(http.StatusInternalServerError, errors.New("the database of tenants does not answer")),
		admission.Denied("the tenant is suspended"),
	} {
		err := webhookerrors.ToStatusErr("tenants.example.com", response.Result)
		fmt.Println(response.Allowed, err.ErrStatus.Code, err.ErrStatus.Reason, err)
	}
}
END

go mod init finding >/dev/null 2>&1
go get k8s.io/apiserver@v0.37.2 sigs.k8s.io/controller-runtime@v0.25.2 >/dev/null 2>&1
go mod tidy >/dev/null 2>&1

want='false 500  admission webhook "tenants.example.com" denied the request: the database of tenants does not answer
false 403 Forbidden admission webhook "tenants.example.com" denied the request: the tenant is suspended'
got=$(go run .)
if [[ "${got}" != "${want}" ]]; then
  diff <(echo "${want}") <(echo "${got}") || true
  echo "it is not as described any more"
  exit 1
fi
echo "${got}"
