package node

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
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

// distribution is a real registry, of what the tests push. containerd asks localhost by plain HTTP.
const distribution = "localhost:5002"

func (n *node) startDistribution(ctx context.Context) error {
	dir := filepath.Join(n.scratch, "distribution")
	config := filepath.Join(dir, "config.yml")
	if err := writeJSON(config, object{
		"version": "0.1",
		"storage": object{"filesystem": object{"rootdirectory": filepath.Join(dir, "data")}},
		"http":    object{"addr": "127.0.0.1:5002"},
	}); err != nil {
		return err
	}
	d, err := n.daemon("docker-registry", "docker-registry", "serve", config)
	if err != nil {
		return err
	}
	return waitFor(ctx, 30*time.Second, d, func(ctx context.Context) error {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+distribution+"/v2/", nil)
		if err != nil {
			return err
		}
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			return err
		}
		return response.Body.Close()
	})
}

// What a build of the server may have besides.
const (
	firstBuild    = "LABEL build=1"
	secondBuild   = "LABEL build=2"
	crashingBuild = `ENTRYPOINT ["/server", "--exit=3"]` // whatever it is told
)

// push builds an image, lets the tag be its, whatever it was before, and returns the image's digest in the registry. It is an image
// of this tag alone: containerd knows one image by the names of all, and says any of them of a pod; and a kubelet that has pulled
// it by one name does so for any other, too, also where that was imported.
func (n *node) push(t *testing.T, tag, build string) (digest string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "digest")
	bud := buildah(t.Context(), n.scratch, "buildah", "bud", "--quiet", "--tag", tag, "-")
	bud.Stdin = strings.NewReader(fmt.Sprintf("FROM %s\nLABEL tag=%s\n%s\n", serverImage, tag, build))
	push := buildah(t.Context(), n.scratch, "buildah", "push", "--quiet", "--tls-verify=false", "--digestfile", file, tag)
	for _, command := range []*exec.Cmd{bud, push} {
		if err := runQuietly(command); err != nil {
			t.Fatal(err)
		}
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(data))
}
