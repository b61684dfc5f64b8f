package e2e

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/retry"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// serveLogs has the kubelet answer what is asked for of containers' logs.
func (k *kubelet) serveLogs(answer http.HandlerFunc) {
	k.Helper()
	if cluster.audit == nil {
		k.Skip("this needs an API server that reaches this machine")
	}
	server := httptest.NewTLSServer(answer)
	k.Cleanup(server.Close)
	client := cluster.kube.CoreV1().Nodes()
	for _, name := range k.nodes {
		err := retry.RetryOnConflict(conflicting, func() error {
			node, err := client.Get(k.Context(), name, metav1.GetOptions{})
			if err != nil {
				return err
			}
			node.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "127.0.0.1"}}
			node.Status.DaemonEndpoints.KubeletEndpoint.Port = int32(server.Listener.Addr().(*net.TCPAddr).Port)
			_, err = client.UpdateStatus(k.Context(), node, metav1.UpdateOptions{})
			return err
		})
		if err != nil {
			k.Fatal(err)
		}
	}
}

func noLog(g *v1alpha1.GuardedDeployment) { g.Spec.Guard.Log = new(false) }

// crashing is the script of a pod whose container ends with 1 and these words as its termination message.
func crashing(words string) script {
	return script{lives: func(p *played) {
		p.takeOn("ContainerCreating")
		for p.start(false); ; {
			p.pause(time.Second)
			p.restart(terminated(1, "Error", words), time.Second)
		}
	}}
}

// The last lines of a failing container are asked for once, and whatever the kubelet answers, the release is rolled back in time.
func TestLog(t *testing.T) {
	t.Parallel()
	said := func(lines string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, lines) }
	}
	refused := func(code int, words string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { http.Error(w, words, code) }
	}
	for _, test := range []struct {
		name     string
		answer   http.HandlerFunc
		ends     string // the termination message
		options  []option
		log      string
		says     string
		requests int
	}{
		{name: "it tells why", answer: said("starting\nfatal: no database\n"), log: "starting\nfatal: no database", says: "fatal: no database", requests: 1},
		{name: "colours and control characters", answer: said("\x1b[31mfatal:\x1b[0m no\x00 database\r\n"), log: "fatal: no database", says: "fatal: no database", requests: 1},
		{name: "a megabyte without a newline", answer: said(strings.Repeat("x", 1<<20)), log: strings.Repeat("x", 100), requests: 1},
		{name: "nothing was written", answer: said(""), requests: 1},
		{name: "the file is gone", answer: said("unable to retrieve container logs for containerd://0123"), says: "log", requests: 1},
		{name: "not found", answer: refused(http.StatusNotFound, "no such container"), says: "log", requests: 1},
		{name: "the kubelet fails", answer: refused(http.StatusInternalServerError, "broken"), says: "log", requests: 1},
		{name: "the kubelet hangs", answer: func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, says: "log", requests: 1},
		{name: "the container said why itself", answer: said("not asked for\n"), ends: "fatal: no database", says: "fatal: no database"},
		{name: "nobody wants it", answer: said("not asked for\n"), options: []option{noLog}, says: "log"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var mu sync.Mutex
			var asked []string
			k := newKubelet(t, 1, map[string]script{"2": crashing(test.ends)})
			k.serveLogs(func(w http.ResponseWriter, r *http.Request) {
				mu.Lock()
				asked = append(asked, r.URL.String())
				mu.Unlock()
				test.answer(w, r)
			})
			web := k.createReady("web", k.template("1"), append(test.options, replicas(1))...)
			first := web.get().Status.GoodRevision
			web.release(k.template("2"))
			g := web.awaitRolledBack(v1alpha1.FailureCrashLoop, first)
			f := g.Status.Failure
			if test.log == "" && f.Log != "" || !strings.Contains(f.Log, test.log) || len(f.Log) > 2048 {
				t.Errorf("the log is %q, want %q", f.Log, test.log)
			}
			if !strings.Contains(f.Message, test.says) {
				t.Errorf("the message is %q, want %q in it", f.Message, test.says)
			}
			mu.Lock()
			defer mu.Unlock()
			if len(asked) != test.requests {
				t.Errorf("the kubelet was asked %d times, want %d: %q", len(asked), test.requests, asked)
			}
		})
	}
}
