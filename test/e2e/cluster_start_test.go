package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/belay-dev/belay/test/localcluster"
)

// starting is a cluster of a test's own that is starting.
type starting struct {
	t    *testing.T
	ctx  context.Context
	dir  string
	up   *exec.Cmd
	said *output
}

// startCluster begins to start a cluster. Nothing is left of it when the test is over.
func startCluster(t *testing.T) *starting {
	t.Helper()
	if !exists("/proc/self/cmdline") {
		t.Skip("processes can be told by /proc only")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	s := &starting{t: t, ctx: ctx, dir: filepath.Join(t.TempDir(), "cluster"), said: &output{}}
	t.Cleanup(func() {
		defer cancel()
		if out, err := s.cluster(context.WithoutCancel(ctx), "down").CombinedOutput(); err != nil {
			t.Errorf("down: %v: %s", err, out)
		}
	})
	s.up = s.cluster(ctx, "up")
	s.up.Stdout, s.up.Stderr = s.said, s.said
	if err := s.up.Start(); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *starting) cluster(ctx context.Context, command string) *exec.Cmd {
	return exec.CommandContext(ctx, filepath.Join(root, "hack", "cluster.sh"), "--dir", s.dir, command)
}

func (s *starting) kwok() string { return localcluster.Dir(s.dir) }

// eventually waits for something to succeed during the start.
func (s *starting) eventually(what string, try func() error) {
	s.t.Helper()
	var last error
	if err := poll(s.ctx, time.Minute, func(context.Context) (bool, error) {
		last = try()
		return last == nil, nil
	}); err != nil {
		s.t.Fatalf("%s: %v (%v); said:\n%s", what, err, last, s.said)
	}
}

// kill kills a component as soon as it has been started, and returns the process that it was.
func (s *starting) kill(component string) (pid int) {
	s.t.Helper()
	s.eventually("kill "+component, func() (err error) {
		if pid, _, err = localcluster.Process(s.kwok(), component); err != nil {
			return err
		}
		return syscall.Kill(pid, syscall.SIGKILL)
	})
	return pid
}

// On a busy machine the API server takes longer to start than kube-controller-manager waits for it before it ends. A cluster
// starts whatever ends once.
func TestCluster_ComponentEndsAtStart(t *testing.T) {
	s := startCluster(t)
	killed := map[string]int{}
	for _, component := range []string{"kube-apiserver", "kube-controller-manager"} {
		killed[component] = s.kill(component)
	}
	if err := s.up.Wait(); err != nil {
		t.Fatalf("%v; said:\n%s", err, s.said)
	}
	// What has ended by the time that another one is started again is started with it, without a word of its own.
	if want := " has ended, starting it again"; !strings.Contains(s.said.String(), want) {
		t.Errorf("did not say %q:\n%s", want, s.said)
	}
	for component, before := range killed {
		if pid, _, err := localcluster.Process(s.kwok(), component); err != nil || pid == before {
			t.Errorf("%s runs as process %d, was killed as %d: %v; said:\n%s", component, pid, before, err, s.said)
		}
	}
	if out, err := s.cluster(s.ctx, "status").CombinedOutput(); err != nil {
		t.Errorf("status: %v: %s", err, out)
	}
}

func TestCluster_PortTakenMeanwhile(t *testing.T) {
	s := startCluster(t)
	s.eventually("take the port of kube-scheduler", func() error {
		data, err := os.ReadFile(filepath.Join(s.dir, "ports.json"))
		if err != nil {
			return err
		}
		var ports struct{ Scheduler int }
		if err := json.Unmarshal(data, &ports); err != nil {
			return err
		}
		taken, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(ports.Scheduler)))
		if err == nil {
			t.Cleanup(func() { taken.Close() })
		}
		return err
	})
	if err := s.up.Wait(); err == nil {
		t.Errorf("started without the port")
	}
	for _, want := range []string{"another program has taken a port of kube-scheduler in the meantime, run it again", "address already in use"} {
		if !strings.Contains(s.said.String(), want) {
			t.Errorf("did not say %q:\n%s", want, s.said)
		}
	}
}

// A supervisor that ends a command ends the one process that it knows.
func TestCluster_StartTerminated(t *testing.T) {
	s := startCluster(t)
	s.eventually("see kube-apiserver", func() error {
		_, _, err := localcluster.Process(s.kwok(), "kube-apiserver")
		return err
	})
	if err := s.up.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := s.up.Wait(); err == nil {
		t.Error("no error although it was terminated")
	}
	if want := "nothing is left running"; !strings.Contains(s.said.String(), want) {
		t.Errorf("did not say %q:\n%s", want, s.said)
	}
	if _, err := os.Stat(s.dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is left: %v", s.dir, err)
	}
}
