package e2e

import (
	"encoding/json"
	"net/http"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
)

func startWatch(t *testing.T, kubeconfig string, n *namespace, timeout string) *example {
	t.Helper()
	return startExampleWith(t, func(*exec.Cmd) {}, "watch", "--kubeconfig", kubeconfig, "--namespace", n.name, "--timeout", timeout)
}

// A watch that is cut goes on where it was: what happened meanwhile is seen, and nothing is seen twice.
func TestExampleWatch_Cut(t *testing.T) {
	t.Parallel()
	n := emptyNamespace(t)
	relay := newRelay(t)
	p := startWatch(t, through(t, relay), n, "5s")
	p.prints("0 pods as of resourceVersion")
	p.prints("watching from resourceVersion")
	n.plainPod("first")
	p.prints("MODIFIED first Running")
	relay.cut()
	n.plainPod("second")
	p.prints("MODIFIED second Running")
	p.prints("BOOKMARK resourceVersion")
	if err := cluster.kube.CoreV1().Pods(n.name).Delete(t.Context(), "first", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	printed := p.prints("DELETED  first")
	for _, once := range []string{"ADDED    first", "ADDED    second", "DELETED  first", "as of resourceVersion"} {
		if times := strings.Count(printed, once); times != 1 {
			t.Errorf("it says %q %d times, want once:\n%s", once, times, printed)
		}
	}
	p.interrupt()
}

// A resourceVersion that the server has forgotten makes the program list again, in whatever way the server says so.
func TestExampleWatch_ExpiredResourceVersion(t *testing.T) {
	t.Parallel()
	expired := apierrors.NewResourceExpired("too old resource version").ErrStatus
	expired.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}
	for name, forget := range map[string]func(http.ResponseWriter){
		"an event says so": func(w http.ResponseWriter) {
			_ = json.NewEncoder(w).Encode(map[string]any{"type": watch.Error, "object": expired})
		},
		"the answer says so": func(w http.ResponseWriter) {
			w.WriteHeader(http.StatusGone)
			_ = json.NewEncoder(w).Encode(expired)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := emptyNamespace(t)
			var watches atomic.Int32
			p := startWatch(t, meddledConfig(t, func(w http.ResponseWriter, r *http.Request) bool {
				if r.URL.Query().Get("watch") == "" || watches.Add(1) != 2 {
					return false
				}
				w.Header().Set("Content-Type", "application/json")
				forget(w)
				return true
			}), n, "2s")
			p.prints("0 pods as of resourceVersion")
			n.plainPod("first")
			p.prints("ADDED    first")
			p.prints("LISTED   first")
			says(t, p.stderr.String(), "listing again: ")
			n.plainPod("second")
			p.prints("second Running")
			p.interrupt()
		})
	}
}
