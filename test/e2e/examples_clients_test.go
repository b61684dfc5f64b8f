package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// allExamples are the programs of examples/, each with the arguments without which it does nothing.
var allExamples = map[string][]string{
	"config":           nil,
	"discovery-client": nil,
	"dynamic-client":   {"list", "pods"},
	"events":           nil,
	"exec":             {"pod", "--", "true"},
	"generated-client": nil,
	"informer":         nil,
	"leader-election":  nil,
	"rest-client":      nil,
	"typed-client":     nil,
	"watch":            nil,
	"workqueue":        nil,
}

// What keeps an example from working is said in one line, and ends it with 1: no goroutine goes on trying in silence.
func TestExamples_Mistakes(t *testing.T) {
	t.Parallel()
	entries, err := filepath.Glob(filepath.Join(root, "examples", "*", "main.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		name := filepath.Base(filepath.Dir(entry))
		if _, tested := allExamples[name]; !tested {
			t.Errorf("%s is missing in allExamples", name)
		}
	}
	nobody, refuses := withoutRights(t), filepath.Join(t.TempDir(), "kubeconfig")
	if err := writeKubeconfig(refuses, "https://127.0.0.1:1", "token"); err != nil {
		t.Fatal(err)
	}
	for _, problem := range []struct {
		name string
		args []string
		want string
	}{
		{"no kubeconfig", nil, "no cluster is configured: give --kubeconfig"},
		{"a kubeconfig that is not there", []string{"--kubeconfig", "/no/such/file"}, "no such file"},
		{"a server that refuses", []string{"--kubeconfig", refuses}, "refused; is the server running"},
		{"no rights", []string{"--kubeconfig", nobody, "--namespace", "default"}, "cannot "},
	} {
		for name, args := range allExamples {
			if (name == "config" || name == "discovery-client") && problem.name == "no rights" {
				continue // Who one is, and what the server can do, everybody may ask.
			}
			t.Run(problem.name+"/"+name, func(t *testing.T) {
				t.Parallel()
				p := startExampleWith(t, func(*exec.Cmd) {}, name, append(problem.args, args...)...)
				p.ends(1)
				line, more, _ := strings.Cut(p.stderr.String(), "\n")
				if !strings.HasPrefix(line, name+": ") || !strings.Contains(line, problem.want) || more != "" {
					t.Errorf("want one line with %q, got:\n%s", problem.want, p.stderr)
				}
			})
		}
	}
}

func TestExampleConfig(t *testing.T) {
	t.Parallel()
	n := emptyNamespace(t)
	file := n.newAccount("somebody")
	home := t.TempDir()
	if err := errors.Join(os.Mkdir(filepath.Join(home, ".kube"), 0o755), os.Symlink(file, filepath.Join(home, ".kube", "config"))); err != nil {
		t.Fatal(err)
	}
	variable := func(value string) func(*exec.Cmd) {
		return func(cmd *exec.Cmd) { cmd.Env = append(cmd.Env, "KUBECONFIG="+value) }
	}
	for _, c := range []struct {
		name    string
		prepare func(*exec.Cmd)
		args    []string
		want    string
	}{
		{"flag before variable", variable("/no/such/file"), []string{"--kubeconfig", file}, "--kubeconfig: " + file},
		{"variable", variable("/no/such/file:" + file), nil, "KUBECONFIG: /no/such/file:" + file},
		{"home", func(cmd *exec.Cmd) { cmd.Env = append(cmd.Env, "HOME="+home) }, nil, "~/.kube/config"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p := startExampleWith(t, c.prepare, "config", append(c.args, "--namespace", n.name)...)
			p.ends(0)
			says(t, p.stdout.String(), c.want)
			for first, want := range map[string]string{
				"server": cluster.config.Host, "version": "v1.", "namespace": n.name, "credentials": "token",
				"user": "system:serviceaccount:" + n.name + ":somebody",
			} {
				if got := row(t, p.stdout.String(), first); len(got) < 2 || !strings.HasPrefix(got[1], want) {
					t.Errorf("%s: %q, want %q", first, got, want)
				}
			}
		})
	}
}

func TestExampleTypedClient(t *testing.T) {
	t.Parallel()
	const nothing = "Deployment gone; 0 ReplicaSets, 0 with an owner; 0 pods"
	for _, c := range []struct {
		propagation string
		first, last string
	}{
		{"Foreground", "Deployment waits until the rest is gone; 2 ReplicaSets, 2 with an owner", nothing},
		{"Background", "Deployment gone; 2 ReplicaSets, 2 with an owner", nothing},
		{"Orphan", "Deployment gone; 2 ReplicaSets, 0 with an owner; 1 pods", "to delete what lives on"},
	} {
		t.Run(c.propagation, func(t *testing.T) {
			t.Parallel()
			n := emptyNamespace(t)
			_, err := cluster.kube.CoreV1().Services(n.name).Create(t.Context(), &corev1.Service{
				ObjectMeta: metav1.ObjectMeta{Name: "front"},
				Spec:       corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 8080}}, Selector: map[string]string{"app": "tour"}},
			}, metav1.CreateOptions{})
			if err != nil {
				t.Fatal(err)
			}
			// The ReplicaSets are held, from the deletion on until it has been shown what they wait for.
			kubeconfig := meddledConfig(t, func(_ http.ResponseWriter, r *http.Request) bool {
				if r.Method == http.MethodDelete && c.propagation != "Orphan" {
					n.holdReplicaSets(true)
				}
				return false
			})
			p := startExampleWith(t, func(*exec.Cmd) {}, "typed-client", "--kubeconfig", kubeconfig, "--namespace", n.name,
				"--image", "localhost/app:good", "--next-image", "localhost/other:good", "--propagation", c.propagation)
			p.prints(c.first)
			n.holdReplicaSets(false)
			p.ends(0)
			printed := p.stdout.String()
			says(t, printed, "NODE", "NAMESPACE", n.name, "created tour: 2 replicas", "try 1: resourceVersion", "changed tour at try", "scaled tour from 3 to 1")
			if _, end, _ := strings.Cut(printed, c.first); !strings.Contains(end, c.last) {
				t.Errorf("it does not say %q after %q:\n%s", c.last, c.first, printed)
			}
			if got := row(t, printed, "front"); got[1] != "ClusterIP" || got[3] != "8080/TCP" {
				t.Errorf("the Service is shown as %q", got)
			}
			pods, err := cluster.kube.CoreV1().Pods(n.name).List(t.Context(), metav1.ListOptions{})
			if left := len(pods.Items); err != nil || (left > 0) != (c.propagation == "Orphan") {
				t.Errorf("%d pods are left, %v", left, err)
			}
		})
	}
	t.Run("never ready", func(t *testing.T) {
		t.Parallel()
		n := emptyNamespace(t)
		p := startExample(t, "typed-client", "--namespace", n.name, "--image", "localhost/app:unready", "--timeout", "10s")
		p.ends(1)
		says(t, p.stderr.String(), "tour has 0 of 2 pods ready after 10s")
		n.eventually("what was created is deleted", func(ctx context.Context) (bool, error) {
			left, err := cluster.kube.AppsV1().Deployments(n.name).List(ctx, metav1.ListOptions{})
			return len(left.Items) == 0, err
		})
	})
}

// holdReplicaSets keeps the ReplicaSets from being deleted, or lets them go.
func (n *namespace) holdReplicaSets(hold bool) {
	field := "$deleteFromPrimitiveList/finalizers"
	if hold {
		field = "finalizers"
	}
	sets, err := cluster.kube.AppsV1().ReplicaSets(n.name).List(n.Context(), metav1.ListOptions{})
	if err != nil {
		n.Error(err)
	}
	for _, set := range sets.Items {
		_, err := cluster.kube.AppsV1().ReplicaSets(n.name).Patch(n.Context(), set.Name, types.StrategicMergePatchType,
			fmt.Appendf(nil, `{"metadata":{%q:["e2e.belay.dev/hold"]}}`, field), metav1.PatchOptions{})
		if err != nil {
			n.Error(err)
		}
	}
}

// plainDeployment creates a Deployment of three pods that has nothing to do with Belay.
func (n *namespace) plainDeployment(name string) {
	n.Helper()
	pods := template(good, "1")
	_, err := cluster.kube.AppsV1().Deployments(n.name).Create(n.Context(), &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       appsv1.DeploymentSpec{Replicas: new(int32(3)), Selector: metav1.SetAsLabelSelector(pods.Labels), Template: pods},
	}, metav1.CreateOptions{})
	if err != nil {
		n.Fatal(err)
	}
}

func TestExampleInformer(t *testing.T) {
	t.Parallel()
	n := emptyNamespace(t)
	n.plainDeployment("web")
	for name, selected := range map[string]string{"front": "e2e", "lost": "nobody"} {
		_, err := cluster.kube.CoreV1().Services(n.name).Create(t.Context(), &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Name: name},
			Spec:       corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}, Selector: map[string]string{"app": selected}},
		}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
	}
	p := startExample(t, "informer", "--namespace", n.name)
	printed := p.prints("from here on the server sends changes only")
	says(t, printed, "Service front", "Deployment web", "cached: 1 Deployments", "2 Services")
	if got := row(t, printed, "front"); got[2] != "web" {
		t.Errorf("front leads to %q, want web", got)
	}
	if got := row(t, printed, "lost"); got[2] != "none" {
		t.Errorf("lost leads to %q, want none", got)
	}
	p.prints("Deployment web: 3 of 3 ready")
	if err := cluster.kube.AppsV1().Deployments(n.name).Delete(t.Context(), "web", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	p.prints("Deployment web: gone")
	p.interrupt()
}

var after = regexp.MustCompile(`test-deployment: try (\d) failed, ([0-9.a-z]+) after the last`)

func TestExampleWorkqueue(t *testing.T) {
	t.Parallel()
	n := emptyNamespace(t)
	n.plainDeployment("web")
	p := startExample(t, "workqueue", "--namespace", n.name)
	p.prints(n.name + "/web: 3 of 3 ready")
	printed := p.prints("given up after 5 retries")
	says(t, printed, "test-deployment added 3 times: 1 more in the queue", "test-deployment: try 1 failed: as it always does")
	tries := after.FindAllStringSubmatch(printed, -1)
	if len(tries) != 5 {
		t.Fatalf("it was tried again %d times, want 5:\n%s", len(tries), printed)
	}
	for i, try := range tries {
		waited, err := time.ParseDuration(try[2])
		if least := 100 * time.Millisecond << i; err != nil || waited < least-5*time.Millisecond { // It prints rounded times.
			t.Errorf("try %s came %s after the last, want at least %s", try[1], try[2], least)
		}
	}
	p.interrupt()
	if got := row(t, p.stdout.String(), "workqueue_retries_total")[1]; got != "5" {
		t.Errorf("workqueue_retries_total is %s, want 5", got)
	}
	if got := row(t, p.stdout.String(), "workqueue_depth")[1]; got != "0" {
		t.Errorf("workqueue_depth is %s, want 0", got)
	}
}

// plainPod creates a pod that nobody owns.
func (n *namespace) plainPod(name string) {
	n.Helper()
	pods := template(good, "1")
	_, err := cluster.kube.CoreV1().Pods(n.name).Create(n.Context(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: pods.Labels}, Spec: pods.Spec,
	}, metav1.CreateOptions{})
	if err != nil {
		n.Fatal(err)
	}
}

// Belay judges what the example releases; the verdict is its exit code.
func TestExampleGeneratedClient(t *testing.T) {
	n := newNamespace(t)
	printed := runExample(t, "generated-client", "--namespace", n.name, "--image", "localhost/app:good")
	says(t, printed, "RolledOut: ", "tour is good: tour-")
	p := startExample(t, "generated-client", "--namespace", n.name, "--image", "localhost/app:crash")
	p.ends(1)
	says(t, p.stderr.String(), "generated-client: tour is not good: RolledBack: ", "exited with code 1")
}
