package restore

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/belay-dev/belay/pkg/generated/clientset/versioned"
	"github.com/belay-dev/belay/test/localcluster"
)

const (
	root      = "../.." // of the repository
	pollEvery = 100 * time.Millisecond
	patience  = 2 * time.Minute
)

// cluster is an embedded cluster of the test's own: nobody else may be there when its etcd is restored.
type cluster struct {
	*testing.T
	ctx   context.Context // done at Ctrl-C, too: the test then fails, and cleans up
	dir   string
	kube  kubernetes.Interface
	belay versioned.Interface
	tools map[string]string // etcd's own, by name
	etcd  map[string]string // its flags
}

// startCluster starts one that has Belay's CRD. Nothing is left of it when the test is over.
func startCluster(t *testing.T) *cluster {
	t.Helper()
	ctx, stop := signal.NotifyContext(t.Context(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	t.Cleanup(stop)
	c := &cluster{T: t, ctx: ctx, dir: filepath.Join(t.TempDir(), "cluster"), tools: map[string]string{}}
	manage := filepath.Join(root, "hack", "cluster.sh")
	t.Cleanup(func() { c.run(context.Background(), manage, "--dir", c.dir, "down") })
	c.run(ctx, manage, "--dir", c.dir, "up")
	config, err := clientcmd.BuildConfigFromFlags("", c.kubeconfig())
	c.must(err)
	config.QPS, config.Timeout, config.WarningHandler = -1, 10*time.Second, rest.NoWarnings{}
	c.kube, err = kubernetes.NewForConfig(config)
	c.must(err)
	c.belay, err = versioned.NewForConfig(config)
	c.must(err)
	c.run(ctx, filepath.Join(c.dir, "bin", "kubectl"), "--kubeconfig", c.kubeconfig(), "apply", "-f", filepath.Join(root, "artifacts", "crd.yaml"))
	for _, tool := range []string{"etcdctl", "etcdutl"} {
		path := exec.Command("go", "tool", "-n", tool)
		path.Dir, path.Env = filepath.Join(root, "hack", "etcd"), append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off")
		out, err := path.Output()
		c.must(err)
		c.tools[tool] = strings.TrimSpace(string(out))
	}
	c.etcd = c.flagsOf("etcd")
	return c
}

func (c *cluster) must(err error) {
	c.Helper()
	if err != nil {
		c.Fatal(err)
	}
}

func (c *cluster) run(ctx context.Context, name string, args ...string) {
	c.Helper()
	if out, err := exec.CommandContext(ctx, name, args...).CombinedOutput(); err != nil {
		c.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, out)
	}
}

func (c *cluster) kubeconfig() string { return filepath.Join(c.dir, "kubeconfig") }

// flagsOf returns the flags of a component that runs.
func (c *cluster) flagsOf(component string) map[string]string {
	c.Helper()
	_, command, err := localcluster.Process(localcluster.Dir(c.dir), component)
	c.must(err)
	flags := map[string]string{}
	for _, argument := range command {
		if name, value, ok := strings.Cut(argument, "="); ok {
			flags[name] = value
		}
	}
	return flags
}

// save takes a snapshot of etcd, as an operator does.
func (c *cluster) save() (snapshot string) {
	c.Helper()
	snapshot = filepath.Join(c.TempDir(), "snapshot.db")
	c.run(c.ctx, c.tools["etcdctl"], "--endpoints", c.etcd["--listen-client-urls"], "snapshot", "save", snapshot)
	return snapshot
}

// restore puts a snapshot in the place of what etcd has, and starts all that has seen the other again, but for Belay.
func (c *cluster) restore(snapshot string) {
	c.Helper()
	c.kwokctl("stop", "cluster", "--name", "belay")
	data := c.etcd["--data-dir"]
	c.must(os.RemoveAll(data))
	c.run(c.ctx, c.tools["etcdutl"], "snapshot", "restore", snapshot, "--data-dir", data, "--name", c.etcd["--name"],
		"--initial-cluster", c.etcd["--initial-cluster"], "--initial-advertise-peer-urls", c.etcd["--initial-advertise-peer-urls"])
	c.kwokctl("start", "cluster", "--name", "belay")
	// What starts before the API server does may end, and kwokctl takes a process for a running one until it is reaped.
	dir := localcluster.Dir(c.dir)
	c.eventually("every component runs", func(context.Context) error {
		for _, component := range []string{"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kwok-controller"} {
			if _, _, err := localcluster.Process(dir, component); err != nil {
				_ = os.Remove(localcluster.PIDFile(dir, component))
				c.kwokctl("start", "cluster", "--name", "belay")
				return err
			}
		}
		return nil
	})
}

func (c *cluster) kwokctl(args ...string) {
	c.Helper()
	bin := filepath.Join(c.dir, "bin")
	cmd := exec.CommandContext(c.ctx, filepath.Join(bin, "kwokctl"), args...)
	cmd.Env = append(os.Environ(), "PATH="+bin+string(filepath.ListSeparator)+os.Getenv("PATH"), "KWOK_WORKDIR="+filepath.Join(c.dir, "kwok"))
	if out, err := cmd.CombinedOutput(); err != nil {
		c.Fatalf("kwokctl %s: %v: %s", strings.Join(args, " "), err, out)
	}
}

// eventually waits for something to succeed.
func (c *cluster) eventually(what string, try func(context.Context) error) {
	c.Helper()
	var last error
	if err := wait.PollUntilContextTimeout(c.ctx, pollEvery, patience, true, func(ctx context.Context) (bool, error) {
		last = try(ctx)
		return last == nil, nil
	}); err != nil {
		c.Fatalf("%s: %v (%v)", what, err, last)
	}
}

// process is a belay.
type process struct {
	*cluster
	name, log string
	cmd       *exec.Cmd
	ended     chan struct{}
	health    string
}

// start starts a belay that serves its health at a port of its own.
func (c *cluster) start(binary, name string, args ...string) *process {
	c.Helper()
	p := &process{cluster: c, name: name, log: filepath.Join(c.TempDir(), name+".log"), ended: make(chan struct{}), health: freeAddress(c.T)}
	log, err := os.Create(p.log)
	c.must(err)
	defer log.Close()
	p.cmd = exec.Command(binary, append([]string{"--kubeconfig", c.kubeconfig(), "--health-address", p.health}, args...)...)
	p.cmd.Stdout, p.cmd.Stderr = log, log
	c.must(p.cmd.Start())
	go func() { _ = p.cmd.Wait(); close(p.ended) }()
	c.Cleanup(func() {
		_ = p.cmd.Process.Signal(syscall.SIGTERM)
		<-p.ended
		if c.Failed() {
			c.Logf("--- the log of %s\n%s", name, p.logged())
		}
	})
	c.eventually(name+" is ready", p.ready)
	return p
}

func (p *process) logged() string {
	text, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// ready returns an error unless /readyz says ok.
func (p *process) ready(ctx context.Context) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+p.health+"/readyz", nil)
	if err != nil {
		return err
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("/readyz: %s", answer.Status)
	}
	return nil
}
