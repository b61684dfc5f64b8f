package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/belay-dev/belay/pkg/generated/clientset/versioned"
)

const (
	pollEvery   = 50 * time.Millisecond
	startWithin = 2 * time.Minute
	stopWithin  = 15 * time.Second
)

// bench is a cluster of its own, and the Belay in it.
type bench struct {
	sizes
	results  results
	profiles string // where profiles are kept, empty for nowhere

	dir    string // of the clusters, the binary and the log
	place  string // in dir, of the present cluster: clients remember by its path whom to trust
	config *rest.Config
	kube   kubernetes.Interface
	guard  versioned.Interface
	audit  *audit

	belay   *exec.Cmd // nil while none runs
	ended   chan error
	health  string // where it serves /readyz
	metrics string // where it serves /metrics
}

// newBench builds Belay and starts a cluster.
func newBench(ctx context.Context, s sizes, profiles string) (b *bench, err error) {
	b = &bench{sizes: s, results: newResults(s), profiles: profiles}
	if b.dir, err = os.MkdirTemp("", "belay-bench-"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.close())
		}
	}()
	if err := command(ctx, "go", "build", "-o", b.file("belay"), "."); err != nil {
		return nil, err
	}
	return b, b.up(ctx)
}

// up starts a cluster that has nothing but the CRD.
func (b *bench) up(ctx context.Context) (err error) {
	b.place = fmt.Sprintf("cluster-%d", time.Now().UnixNano())
	if err := b.cluster(ctx, "--controller-qps", strconv.Itoa(b.ControllerQPS), "up"); err != nil {
		return err
	}
	if b.config, err = clientcmd.BuildConfigFromFlags("", b.kubeconfig()); err != nil {
		return err
	}
	b.config.QPS, b.config.UserAgent, b.config.WarningHandler = -1, "bench", rest.NoWarnings{}
	if b.kube, err = kubernetes.NewForConfig(b.config); err != nil {
		return err
	}
	if b.guard, err = versioned.NewForConfig(b.config); err != nil {
		return err
	}
	b.audit = &audit{path: b.file(b.place, "audit.log")}
	kubectl := exec.CommandContext(ctx, b.file(b.place, "bin/kubectl"), "--kubeconfig", b.kubeconfig(), "apply", "-f", "artifacts/crd.yaml")
	if text, err := kubectl.CombinedOutput(); err != nil {
		return fmt.Errorf("apply the CRD: %w: %s", err, text)
	}
	version, err := b.kube.Discovery().ServerVersionWithContext(ctx)
	if err != nil {
		return err
	}
	b.results.Kubernetes = version.GitVersion
	return nil
}

// anew ends Belay and puts an empty cluster in the place of the one that there is.
func (b *bench) anew(ctx context.Context) error {
	if err := b.stop(); err != nil {
		return err
	}
	if err := b.cluster(ctx, "down"); err != nil {
		return err
	}
	return b.up(ctx)
}

// cluster runs the program that starts and stops clusters, for the one of this benchmark.
func (b *bench) cluster(ctx context.Context, args ...string) error {
	return command(ctx, "hack/cluster.sh", append([]string{"--dir", b.file(b.place)}, args...)...)
}

// close ends everything and leaves nothing behind.
func (b *bench) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	err := b.stop()
	return errors.Join(err, b.cluster(ctx, "down"), os.RemoveAll(b.dir))
}

func (b *bench) file(path ...string) string {
	return filepath.Join(append([]string{b.dir}, path...)...)
}
func (b *bench) kubeconfig() string { return b.file(b.place, "kubeconfig") }

// start starts Belay for one namespace, or for all, and returns how long it took until it was ready to work.
func (b *bench) start(ctx context.Context, namespace string) (time.Duration, error) {
	if err := b.stop(); err != nil {
		return 0, err
	}
	for _, address := range []*string{&b.health, &b.metrics} {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return 0, err
		}
		*address = listener.Addr().String()
		listener.Close()
	}
	log, err := os.OpenFile(b.file("belay.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return 0, err
	}
	defer log.Close()
	b.belay = exec.Command(b.file("belay"), "--kubeconfig", b.kubeconfig(), "--namespace", namespace,
		"--health-address", b.health, "--metrics-address", b.metrics, "--profiling")
	b.belay.Stdout, b.belay.Stderr = log, log
	began := time.Now()
	if err := b.belay.Start(); err != nil {
		b.belay = nil
		return 0, err
	}
	b.ended = make(chan error, 1)
	go func() { b.ended <- b.belay.Wait() }()
	err = wait.PollUntilContextTimeout(ctx, 10*time.Millisecond, startWithin, true, func(ctx context.Context) (bool, error) {
		select {
		case err := <-b.ended:
			b.belay = nil
			text, _ := os.ReadFile(b.file("belay.log"))
			return false, fmt.Errorf("belay has ended (%v): %s", err, text)
		default:
		}
		_, err := fetch(ctx, "http://"+b.health+"/readyz")
		return err == nil, nil
	})
	return time.Since(began), err
}

// stop ends Belay, if it runs.
func (b *bench) stop() error {
	if b.belay == nil {
		return nil
	}
	process := b.belay.Process
	b.belay = nil
	if err := process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case err := <-b.ended:
		return err
	case <-time.After(stopWithin):
		_ = process.Kill()
		return fmt.Errorf("belay ran on for %s after SIGTERM", stopWithin)
	}
}

// without runs while a component of the cluster stands still.
func (b *bench) without(component string, run func() error) error {
	text, err := os.ReadFile(b.file(b.place, "kwok/clusters/belay/pids", component+".pid"))
	if err != nil {
		return err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return err
	}
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		return err
	}
	err = run()
	return errors.Join(err, syscall.Kill(pid, syscall.SIGCONT))
}

// keep writes a profile to where -profiles says, if it says so.
func (b *bench) keep(name string, profile []byte) error {
	if b.profiles == "" {
		return nil
	}
	return errors.Join(os.MkdirAll(b.profiles, 0o755), os.WriteFile(filepath.Join(b.profiles, name), profile, 0o644))
}

// profiled runs while a CPU profile of Belay is taken, of its first 30 seconds.
func (b *bench) profiled(ctx context.Context, name string, run func() error) error {
	if b.profiles == "" {
		return run()
	}
	taken := make(chan error, 1)
	go func() {
		profile, err := fetch(ctx, "http://"+b.metrics+"/debug/pprof/profile?seconds=30")
		taken <- errors.Join(err, b.keep(name+".pprof", profile))
	}()
	return errors.Join(run(), <-taken)
}

// fetch gets a page. Any other status than 200 is an error.
func fetch(ctx context.Context, url string) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", url, response.Status)
	}
	return io.ReadAll(response.Body)
}

func command(ctx context.Context, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, out)
	}
	return nil
}
