#!/usr/bin/env bash
# A ControllerRevision whose data is given as an object arrives without data, if the client speaks protobuf.
#
# Versions: client-go v0.37.2, api v0.37.2, apimachinery v0.37.2.
# Expected: runtime.RawExtension has its JSON in Raw, or an object in Object, and what the clientset sends is the same with either,
#   whatever its content type is.
# Seen: as JSON both are sent. As protobuf, which is what controllers set for speed, Raw is sent and Object is left out, without an
#   error: only the conversion from internal types fills Raw, and a clientset has none. The same holds for reading: JSON and
#   protobuf both fill Raw alone.
set -o errexit -o nounset -o pipefail

dir=$(mktemp -d)
trap 'rm -rf "${dir}"' EXIT
cd "${dir}"

cat >main.go <<'END'
package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

func main() {
	var sent []byte
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sent, _ = io.ReadAll(r.Body)
		w.Header().Set("Content-Type", r.Header.Get("Content-Type"))
		_, _ = w.Write(sent)
	}))
	defer server.Close()
	object := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "remember-me"}}
	for _, contentType := range []string{runtime.ContentTypeJSON, runtime.ContentTypeProtobuf} {
		config := &rest.Config{Host: server.URL, ContentConfig: rest.ContentConfig{ContentType: contentType}}
		client := kubernetes.NewForConfigOrDie(config)
		for given, data := range map[bool]runtime.RawExtension{false: {Raw: []byte(`{"metadata":{"name":"remember-me"}}`)}, true: {Object: object}} {
			revision := &appsv1.ControllerRevision{ObjectMeta: metav1.ObjectMeta{Name: "web-1"}, Data: data, Revision: 1}
			_, err := client.AppsV1().ControllerRevisions("default").Create(context.Background(), revision, metav1.CreateOptions{})
			fmt.Printf("%s, as an object %t: sent %t, error %v\n", contentType, given, bytes.Contains(sent, []byte("remember-me")), err)
		}
	}
}
END

cat >seen <<'END'
application/json, as an object false: sent true, error <nil>
application/json, as an object true: sent true, error <nil>
application/vnd.kubernetes.protobuf, as an object false: sent true, error <nil>
application/vnd.kubernetes.protobuf, as an object true: sent false, error <nil>
END

{
  go mod init finding
  go get k8s.io/client-go@v0.37.2 k8s.io/api@v0.37.2 k8s.io/apimachinery@v0.37.2
  go mod tidy
  go build -o finding .
} >log 2>&1 || { cat log >&2; exit 1; }
./finding 2>&1 | sort >now
diff --unified seen now || { echo "changed: the clientset does what stands above behind a +" >&2; exit 1; }
echo "as described"
