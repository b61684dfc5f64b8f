package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/remotecommand"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"
)

// Pods on fake nodes run nothing. Here a node has a kubelet that serves the streams of the API server, and whose commands
// are Go functions: nothing is run on the machine. (kwok can run commands there: of whoever reaches its port, and it does
// not pass exit codes on.) What a real kubelet does with a real process is tested in test/node.

// streams are those of one command.
type streams struct {
	stdin          io.Reader // nil if none was asked for
	stdout, stderr io.Writer
	gone           <-chan bool // closed when the other end is gone
}

// commands are what the containers can run, by name. They return an exit code.
var commands = map[string]func(s streams, args []string) int{
	"cat": func(s streams, _ []string) int {
		if _, err := io.Copy(s.stdout, s.stdin); err != nil {
			return 1
		}
		return 0
	},
	"both": func(s streams, _ []string) int {
		fmt.Fprintln(s.stdout, "to stdout")
		fmt.Fprintln(s.stderr, "to stderr")
		return 0
	},
	"arguments": func(s streams, args []string) int {
		fmt.Fprintf(s.stdout, "%d: %q, input: %v", len(args), args, s.stdin != nil)
		return 0
	},
	"exit": func(_ streams, args []string) int {
		code, _ := strconv.Atoi(args[0])
		return code
	},
	"hang": func(s streams, _ []string) int {
		fmt.Fprintln(s.stdout, "hanging")
		<-s.gone
		return 0
	},
}

// serveStreams is the part of a kubelet that exec and attach need: /exec/NAMESPACE/POD/CONTAINER?command=cat&input=1. What
// containers are attached to is called as they are.
func serveStreams(w http.ResponseWriter, r *http.Request) {
	path, query := strings.Split(r.URL.Path, "/"), r.URL.Query()
	args := query["command"]
	if path[1] == "attach" {
		args = []string{path[len(path)-1]}
	}
	if _, err := httpstream.Handshake(r, w, []string{remotecommand.StreamProtocolV4Name}); err != nil {
		return
	}
	opened := make(chan httpstream.Stream)
	conn := spdy.NewResponseUpgrader().UpgradeResponse(w, r, func(s httpstream.Stream, answered <-chan struct{}) error {
		go func() { <-answered; opened <- s }()
		return nil
	})
	if conn == nil {
		return
	}
	defer conn.Close()
	s := streams{gone: conn.CloseChan()}
	var status io.Writer
	want := 1 // the one for the exit code
	for _, stream := range []string{"input", "output", "error"} {
		want += len(query[stream])
	}
	for range want {
		select {
		case stream := <-opened:
			switch stream.Headers().Get(corev1.StreamType) {
			case corev1.StreamTypeStdin:
				s.stdin = stream
			case corev1.StreamTypeStdout:
				s.stdout = stream
			case corev1.StreamTypeStderr:
				s.stderr = stream
			case corev1.StreamTypeError:
				status = stream
			}
		case <-conn.CloseChan():
			return
		}
	}
	result := metav1.Status{Status: metav1.StatusSuccess}
	if code := commands[args[0]](s, args[1:]); code != 0 {
		result = metav1.Status{Status: metav1.StatusFailure, Reason: remotecommand.NonZeroExitCodeReason, Details: &metav1.StatusDetails{
			Causes: []metav1.StatusCause{{Type: remotecommand.ExitCodeCauseType, Message: strconv.Itoa(code)}},
		}}
	}
	_ = json.NewEncoder(status).Encode(result)
}

// execNode makes a node with such a kubelet, on which nothing is scheduled, and returns its name.
func (n *namespace) execNode() string {
	n.Helper()
	if cluster.audit == nil || *podsFlag != "fake" {
		n.Skip("this needs an API server that reaches this machine")
	}
	kubelet := httptest.NewTLSServer(http.HandlerFunc(serveStreams))
	n.Cleanup(kubelet.Close)
	port := int32(kubelet.Listener.Addr().(*net.TCPAddr).Port)
	nodes := cluster.kube.CoreV1().Nodes()
	node, err := nodes.Create(n.Context(), &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "e2e-exec-", Annotations: map[string]string{"kwok.x-k8s.io/node": "fake"}},
		Spec:       corev1.NodeSpec{Unschedulable: true},
		Status: corev1.NodeStatus{
			Conditions:      []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}, // Else kwok sets all of it.
			Addresses:       []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "127.0.0.1"}},
			DaemonEndpoints: corev1.NodeDaemonEndpoints{KubeletEndpoint: corev1.DaemonEndpoint{Port: port}},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		n.Fatal(err)
	}
	remove := func() error { return nodes.Delete(context.Background(), node.Name, metav1.DeleteOptions{}) }
	forget := leave(remove)
	n.Cleanup(func() {
		forget()
		if err := remove(); err != nil {
			n.Error(err)
		}
	})
	return node.Name
}

// execPod makes a pod that runs on such a node, or waits for one if none is given.
func (n *namespace) execPod(node, name string, containers ...corev1.Container) {
	n.Helper()
	for i := range containers {
		containers[i].Image = "localhost/app:good"
	}
	pods, want := cluster.kube.CoreV1().Pods(n.name), corev1.PodRunning
	spec := corev1.PodSpec{NodeName: node, Containers: containers}
	if node == "" {
		spec.SchedulingGates, want = []corev1.PodSchedulingGate{{Name: "e2e.belay.dev/waits"}}, corev1.PodPending
	}
	if _, err := pods.Create(n.Context(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: spec}, metav1.CreateOptions{}); err != nil {
		n.Fatal(err)
	}
	n.Cleanup(func() { // While its node is there: later nobody would finish its deletion.
		if err := pods.Delete(context.Background(), name, metav1.DeleteOptions{GracePeriodSeconds: new(int64(0))}); err != nil {
			n.Error(err)
		}
	})
	n.eventually(fmt.Sprintf("%s is %s", name, want), func(ctx context.Context) (bool, error) {
		pod, err := pods.Get(ctx, name, metav1.GetOptions{})
		return err == nil && pod.Status.Phase == want, err
	})
}

// upgrades records what connections became.
type upgrades struct {
	mu   sync.Mutex
	seen []string
}

func (u *upgrades) String() string {
	u.mu.Lock()
	defer u.mu.Unlock()
	return strings.Join(u.seen, ", ")
}

// config returns a kubeconfig of an API that does so, and refuses WebSockets if it is told to.
func (u *upgrades) config(t *testing.T, refuse int) string {
	t.Helper()
	return meddledConfig(t, func(w http.ResponseWriter, r *http.Request) bool {
		protocol := r.Header.Get("Upgrade")
		if protocol == "" {
			return false
		}
		u.mu.Lock()
		u.seen = append(u.seen, protocol)
		u.mu.Unlock()
		if refuse == 0 || protocol != "websocket" {
			return false
		}
		http.Error(w, "no such thing here", refuse)
		return true
	})
}

func startExec(t *testing.T, kubeconfig string, n *namespace, stdin io.Reader, args ...string) *example {
	t.Helper()
	return startExampleWith(t, func(cmd *exec.Cmd) { cmd.Stdin = stdin }, "exec",
		append([]string{"--kubeconfig", kubeconfig, "--namespace", n.name}, args...)...)
}

func TestExampleExec(t *testing.T) {
	t.Parallel()
	n := emptyNamespace(t)
	n.execPod(n.execNode(), "web", corev1.Container{Name: "cat", Stdin: true}, corev1.Container{Name: "arguments"})
	much := bytes.Repeat([]byte("0123456789abcdef\n"), 1<<16)
	for name, protocol := range map[string]struct {
		refuse int
		want   string
	}{
		"WebSocket":             {0, "websocket"},
		"SPDY after bad":        {http.StatusBadRequest, "websocket, SPDY/3.1"},
		"SPDY after forbidden":  {http.StatusForbidden, "websocket, SPDY/3.1"},
		"SPDY after no upgrade": {http.StatusOK, "websocket, SPDY/3.1"},
	} {
		for _, c := range []struct {
			name           string
			stdin          io.Reader
			args           []string
			code           int
			stdout, stderr string
		}{
			{"input", bytes.NewReader(much), []string{"--container", "cat", "web", "--", "cat"}, 0, string(much), ""},
			{"no input", nil, []string{"--container", "cat", "web", "--", "arguments", "a", "b c", "--", "-x"}, 0, `4: ["a" "b c" "--" "-x"], input: false`, ""},
			{"input is asked for", nil, []string{"--container", "cat", "-i", "web", "--", "cat"}, 0, "", ""},
			{"two outputs", nil, []string{"--container", "cat", "web", "--", "both"}, 0, "to stdout\n", "to stderr\n"},
			{"input that nobody reads", bytes.NewReader(much), []string{"--container", "cat", "web", "--", "exit", "0"}, 0, "", ""},
			{"exit code", nil, []string{"--container", "cat", "web", "--", "exit", "7"}, 7, "", ""},
			{"attach", strings.NewReader("hello\n"), []string{"--container", "cat", "--attach", "web"}, 0, "hello\n", ""},
			{"attach to what takes no input", strings.NewReader("hello\n"), []string{"--attach", "--container", "arguments", "web"}, 0, "0: [], input: false", ""},
		} {
			t.Run(name+"/"+c.name, func(t *testing.T) {
				t.Parallel()
				var seen upgrades
				p := startExec(t, seen.config(t, protocol.refuse), n, c.stdin, c.args...)
				p.ends(c.code)
				if got := p.stdout.String(); got != c.stdout {
					t.Errorf("%d bytes on standard output, want %d: %q", len(got), len(c.stdout), clip(got))
				}
				if got := p.stderr.String(); got != c.stderr {
					t.Errorf("%q on standard error, want %q", got, c.stderr)
				}
				if seen.String() != protocol.want {
					t.Errorf("connections became %s, want %s", &seen, protocol.want)
				}
			})
		}
	}
}

func TestExampleExec_Interrupted(t *testing.T) {
	t.Parallel()
	n := emptyNamespace(t)
	n.execPod(n.execNode(), "web", corev1.Container{Name: "hang"})
	for name, c := range map[string]struct {
		args   []string
		code   int
		stderr string
	}{
		"exec":   {[]string{"web", "--", "hang"}, 130, "exec: interrupted\n"},
		"attach": {[]string{"--attach", "web"}, 0, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := startExec(t, cluster.kubeconfig, n, nil, c.args...)
			p.prints("hanging")
			if err := p.cmd.Process.Signal(syscall.SIGINT); err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			p.ends(c.code)
			if took := time.Since(began); took > stopWithin || p.stderr.String() != c.stderr {
				t.Errorf("it ended after %s with %q, want %q", took, p.stderr, c.stderr)
			}
		})
	}
}

// Output that cannot be written is an error, whatever the command says.
func TestExampleExec_UnwritableOutput(t *testing.T) {
	t.Parallel()
	n := emptyNamespace(t)
	n.execPod(n.execNode(), "web", corev1.Container{Name: "both"})
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skip(err)
	}
	defer full.Close()
	p := startExampleWith(t, func(cmd *exec.Cmd) { cmd.Stdout = full }, "exec", "--kubeconfig", cluster.kubeconfig, "--namespace", n.name, "web", "--", "both")
	p.ends(1)
	if got, want := p.stderr.String(), "to stderr\nexec: write /dev/stdout: no space left on device\n"; got != want {
		t.Errorf("%q on standard error, want %q", got, want)
	}
}

// What cannot work is said in one line, and before anything is run.
func TestExampleExec_Mistakes(t *testing.T) {
	t.Parallel()
	n := emptyNamespace(t)
	node := n.execNode()
	n.execPod(node, "web", corev1.Container{Name: "cat"})
	n.execPod(node, "pair", corev1.Container{Name: "left"}, corev1.Container{Name: "right"})
	n.execPod("", "waiting", corev1.Container{Name: "cat"})
	reader := n.accountThatMay("get pods")
	for name, c := range map[string]struct {
		kubeconfig string
		args       []string
		want       string
	}{
		"no pod":               {cluster.kubeconfig, nil, "no pod"},
		"no command":           {cluster.kubeconfig, []string{"web", "--"}, "no command; say exec web -- COMMAND"},
		"two things at once":   {cluster.kubeconfig, []string{"--attach", "web", "--", "cat"}, "--attach takes no command"},
		"no such pod":          {cluster.kubeconfig, []string{"nobody", "--", "cat"}, `pods "nobody" not found`},
		"not running":          {cluster.kubeconfig, []string{"waiting", "--", "cat"}, "pod waiting is Pending"},
		"which container":      {cluster.kubeconfig, []string{"pair", "--", "cat"}, "choose one with --container: left, right"},
		"no such container":    {cluster.kubeconfig, []string{"--container", "middle", "pair", "--", "cat"}, "pod pair has no container middle, but: left, right"},
		"the right is missing": {reader, []string{"web", "--", "cat"}, `cannot create resource "pods/exec"`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := startExec(t, c.kubeconfig, n, nil, c.args...)
			p.ends(1)
			line, more, _ := strings.Cut(p.stderr.String(), "\n")
			if !strings.HasPrefix(line, "exec: ") || !strings.Contains(line, c.want) || more != "" {
				t.Errorf("want one line with %q, got:\n%s", c.want, p.stderr)
			}
		})
	}
}
