package e2e

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// sevenPods returns a namespace with pods that run, and their names.
func sevenPods(t *testing.T) (n *namespace, names []string) {
	t.Helper()
	n = emptyNamespace(t)
	for i := range 7 {
		names = append(names, fmt.Sprintf("pod-%d", i))
		n.plainPod(names[i])
	}
	n.eventually("the pods run", func(ctx context.Context) (bool, error) {
		pods, err := cluster.kube.CoreV1().Pods(n.name).List(ctx, metav1.ListOptions{})
		running := slices.DeleteFunc(pods.Items, func(p corev1.Pod) bool { return p.Status.Phase != corev1.PodRunning || p.Status.PodIP == "" })
		return len(running) == len(names), err
	})
	return n, names
}

// listPods runs rest-client through an API that meddles with the requests for pods, and returns how many there were. They
// are counted from 1 on.
func (n *namespace) listPods(meddle func(w http.ResponseWriter, r *http.Request, request int) (answered bool)) (p *example, requests func() int) {
	n.Helper()
	var count atomic.Int32
	kubeconfig := meddledConfig(n.T, func(w http.ResponseWriter, r *http.Request) bool {
		return strings.HasSuffix(r.URL.Path, "/"+n.name+"/pods") && meddle(w, r, int(count.Add(1)))
	})
	p = startExampleWith(n.T, func(*exec.Cmd) {}, "rest-client", "--kubeconfig", kubeconfig, "--namespace", n.name, "--page-size", "2")
	return p, func() int { return int(count.Load()) }
}

// checkListed makes sure that these pods were listed, in this order, each once, with phase and IP.
func checkListed(t *testing.T, printed string, want []string) {
	t.Helper()
	var listed []string
	for line := range strings.Lines(printed) {
		if fields := strings.Fields(line); len(fields) > 1 && fields[1] == string(corev1.PodRunning) {
			listed = append(listed, fields[0])
			if pod, err := cluster.kube.CoreV1().Pods("").List(t.Context(), metav1.ListOptions{FieldSelector: "metadata.name=" + fields[0]}); err != nil ||
				!slices.ContainsFunc(pod.Items, func(p corev1.Pod) bool { return len(fields) == 3 && p.Status.PodIP == fields[2] }) {
				t.Errorf("%q is not the IP of the pod (%v)", fields, err)
			}
		}
	}
	if !slices.Equal(listed, want) {
		t.Errorf("these pods are listed: %q, want %q:\n%s", listed, want, printed)
	}
}

func TestExampleRestClient_Pages(t *testing.T) {
	t.Parallel()
	n, names := sevenPods(t)
	p, requests := n.listPods(func(w http.ResponseWriter, r *http.Request, request int) bool {
		if request == 2 { // The list is as of the first page.
			n.plainPod("pod-of-later")
		}
		return false
	})
	p.ends(0)
	checkListed(t, p.stdout.String(), names)
	says(t, p.stdout.String(), "7 pods in 4 pages")
	if got := requests(); got != 4 || p.stderr.String() != "" {
		t.Errorf("it took %d requests, want 4; it says on standard error: %s", got, p.stderr)
	}
}

// A list that the server has forgotten is continued where it was, as of now.
func TestExampleRestClient_ExpiredToken(t *testing.T) {
	t.Parallel()
	n, names := sevenPods(t)
	forgetRevision(t)
	p, requests := n.listPods(func(w http.ResponseWriter, r *http.Request, request int) bool {
		if request != 2 {
			return false
		}
		query := r.URL.Query()
		token, err := base64.RawURLEncoding.DecodeString(query.Get("continue"))
		start := map[string]any{}
		if err == nil {
			err = json.Unmarshal(token, &start)
		}
		start["rv"] = 1
		if err == nil {
			token, err = json.Marshal(start)
		}
		if err != nil {
			t.Error(err)
		}
		query.Set("continue", base64.RawURLEncoding.EncodeToString(token))
		// The cache of the pods may go back to the first revision, and answer. That of a kind that was added later does not:
		// its answer is a real 410, with a token that differs from one for pods in nothing.
		r.URL.Path = strings.NewReplacer("/api/v1/", "/apis/"+v1alpha1.GroupVersion.String()+"/", "/pods", "/guardeddeployments").Replace(r.URL.Path)
		r.URL.RawQuery = query.Encode()
		n.plainPod("pod-of-later")
		n.eventually("it runs", func(ctx context.Context) (bool, error) {
			pod, err := cluster.kube.CoreV1().Pods(n.name).Get(ctx, "pod-of-later", metav1.GetOptions{})
			return pod.Status.Phase == corev1.PodRunning && pod.Status.PodIP != "", err
		})
		return false
	})
	p.ends(0)
	checkListed(t, p.stdout.String(), append(names, "pod-of-later"))
	says(t, p.stderr.String(), "the list has expired: the rest is as of now")
	if got := requests(); got != 5 {
		t.Errorf("it took %d requests, want 4 for the pages and one that failed", got)
	}
}

// forgetRevision lets etcd forget the first revision, as it forgets all some minutes after they are past. No process of
// a cluster goes back that far.
func forgetRevision(t *testing.T) {
	t.Helper()
	embedded(t)
	data, err := os.ReadFile(filepath.Join(filepath.Dir(cluster.kubeconfig), "ports.json"))
	var ports struct{ Etcd int }
	if err == nil {
		err = json.Unmarshal(data, &ports)
	}
	if err != nil {
		t.Fatal(err)
	}
	answer, err := http.Post(fmt.Sprintf("http://127.0.0.1:%d/v3/kv/compaction", ports.Etcd), "application/json", strings.NewReader(`{"revision":"2"}`))
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if body, err := io.ReadAll(answer.Body); err != nil || (answer.StatusCode != http.StatusOK && !bytes.Contains(body, []byte("has been compacted"))) {
		t.Fatalf("compact etcd: %s %s (%v)", answer.Status, body, err)
	}
}

// Without a token to go on with, the list is begun again; but not for ever.
func TestExampleRestClient_ListsAgainWithoutToken(t *testing.T) {
	t.Parallel()
	n, names := sevenPods(t)
	expire := func(w http.ResponseWriter) bool {
		status := apierrors.NewResourceExpired("too old").ErrStatus
		status.TypeMeta = metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusGone)
		_ = json.NewEncoder(w).Encode(status)
		return true
	}
	p, requests := n.listPods(func(w http.ResponseWriter, r *http.Request, request int) bool {
		return request == 3 && expire(w)
	})
	p.ends(0)
	checkListed(t, p.stdout.String(), names)
	says(t, p.stdout.String(), "7 pods in 4 pages")
	says(t, p.stderr.String(), "the list has expired: it is begun again")
	if got := requests(); got != 2+1+4 {
		t.Errorf("it took %d requests, want 7", got)
	}
	p, requests = n.listPods(func(w http.ResponseWriter, r *http.Request, _ int) bool {
		return r.URL.Query().Get("continue") != "" && expire(w)
	})
	p.ends(1)
	says(t, p.stderr.String(), "rest-client: too old")
	if got := requests(); got != 8 || strings.Contains(p.stdout.String(), "pod-") {
		t.Errorf("it took %d requests, want 8: a page and an error, four times; it lists:\n%s", got, p.stdout)
	}
}

func TestExampleRestClient_GuardedDeployments(t *testing.T) {
	n := newNamespace(t)
	o := n.createReady("web", template(good, "1"))
	printed := runExample(t, "rest-client", "--namespace", n.name, "--guarded", "web")
	says(t, printed, "True, RolledOut: ")
	status := o.get().Status
	for first, want := range map[string]string{"wanted": status.TargetRevision, "running": status.RunningRevision, "good": status.GoodRevision} {
		if got := row(t, printed, first); len(got) != 2 || got[1] != want {
			t.Errorf("%s: %q, want %q", first, got, want)
		}
	}
	elsewhere := meddledConfig(t, func(_ http.ResponseWriter, r *http.Request) bool {
		r.URL.Path = strings.Replace(r.URL.Path, "/belay.dev/", "/nobody.belay.dev/", 1)
		return false
	})
	for want, args := range map[string][]string{
		`rest-client: guardeddeployments.belay.dev "nobody" not found` + "\n": {"--guarded", "nobody"},
		"; install Belay's CRD: kubectl apply -f artifacts/crd.yaml\n":        {"--guarded", "web", "--kubeconfig", elsewhere},
		"--page-size is -1; it must not be negative\n":                        {"--page-size", "-1"},
	} {
		p := startExample(t, "rest-client", append([]string{"--namespace", n.name}, args...)...)
		p.ends(1)
		if lines := strings.Count(p.stderr.String(), "\n"); lines != 1 || !strings.HasSuffix(p.stderr.String(), want) {
			t.Errorf("%q: want one line with %q, got:\n%s", args, want, p.stderr)
		}
	}
}
