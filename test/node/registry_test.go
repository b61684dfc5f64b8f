package node

import (
	"fmt"
	"net"
	"net/http"
	"strings"
)

// registry has no image, and says so. Who does not answer at all is waited for: nothing is known of its images then.
const registry = "localhost:5000"

func startRegistry() error {
	listener, err := net.Listen("tcp", "127.0.0.1:5000")
	if err != nil {
		return err
	}
	go func() { _ = http.Serve(listener, http.HandlerFunc(answerPull)) }()
	return nil
}

// answerPull says by the image's name what is wrong with it.
func answerPull(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	switch {
	case strings.HasPrefix(r.URL.Path, "/v2/private/"):
		w.WriteHeader(http.StatusForbidden)
		fmt.Fprintln(w, `{"errors":[{"code":"DENIED","message":"requested access to the resource is denied"}]}`)
	case strings.HasPrefix(r.URL.Path, "/v2/broken/"):
		w.Header().Set("Docker-Content-Digest", "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")
		w.Header().Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
	default:
		w.WriteHeader(http.StatusNotFound)
		fmt.Fprintln(w, `{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}`)
	}
}
