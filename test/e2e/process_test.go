package e2e

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// stopWithin is how long belay may take to end after SIGTERM.
const stopWithin = 5 * time.Second

// process is a belay that runs against the cluster.
type process struct {
	cmd    *exec.Cmd
	log    string
	ended  chan struct{} // closed when it has ended, and err is set
	err    error
	killed bool // by kill
	forget func()
}

// startProcess starts belay as its ServiceAccount. Its log is appended to the file.
func startProcess(log string, args ...string) (*process, error) {
	return startProcessIn(nil, log, append([]string{"--kubeconfig", account.kubeconfig}, args...)...)
}

// startProcessIn starts belay with more environment variables.
func startProcessIn(environment []string, log string, args ...string) (*process, error) {
	file, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	p := &process{log: log, ended: make(chan struct{})}
	p.cmd = exec.Command(cluster.binary, args...)
	p.cmd.Env = append(os.Environ(), environment...)
	p.cmd.Stdout, p.cmd.Stderr = file, file
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	p.forget = leave(p.stop)
	go func() {
		p.err = p.cmd.Wait()
		close(p.ended)
	}()
	return p, nil
}

// stop ends belay with SIGTERM. It is an error if it takes long, or does not exit with 0.
func (p *process) stop() error {
	p.forget()
	select {
	case <-p.ended:
		return fmt.Errorf("belay had ended before it was stopped (%v); its log ends with:\n%s", p.err, tail(p.log, "", 20))
	default:
	}
	p.awaitBegun()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case <-p.ended:
		if p.err != nil {
			return fmt.Errorf("belay after SIGTERM: %w", p.err)
		}
		return nil
	case <-time.After(stopWithin):
		p.kill()
		return fmt.Errorf("belay runs on %s after SIGTERM", stopWithin)
	}
}

// awaitBegun waits until it has written to its log, or not for long: before that, SIGTERM ends it as any process that does not ask for signals.
func (p *process) awaitBegun() {
	for deadline := time.Now().Add(stopWithin); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if log, err := os.Stat(p.log); err != nil || log.Size() > 0 {
			return
		}
	}
}

// kill ends belay with SIGKILL.
func (p *process) kill() {
	p.forget()
	p.killed = true
	_ = p.cmd.Process.Kill()
	<-p.ended
}

// sharedRuns is true from when the shared belay is started on.
var sharedRuns atomic.Bool

// shared is the belay of all parallel tests. The first of them starts it, TestMain stops it.
var shared = sync.OnceValues(func() (*process, error) {
	sharedRuns.Store(true)
	return startProcess(filepath.Join(cluster.scratch, "belay.log"))
})

// startBelay runs belay for a test that is not parallel, in one namespace or in all.
func startBelay(t *testing.T, namespace string) *process {
	t.Helper()
	if *externalFlag {
		t.Skip("this needs a belay of its own, and -external says that one runs already")
	}
	if sharedRuns.Load() {
		t.Fatal("the shared belay runs already, and two would contradict each other: a test before this one has parallel subtests and is not parallel itself")
	}
	p, err := startProcess(filepath.Join(t.TempDir(), "belay.log"), "--namespace", namespace)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.stop(); err != nil && !p.killed {
			t.Error(err)
		}
	})
	return p
}

// tail returns the last lines of the file that contain text.
func tail(path, text string, lines int) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	var found []string
	for line := range bytes.Lines(data) {
		if bytes.Contains(line, []byte(text)) {
			found = append(found, string(line))
		}
	}
	return strings.Join(found[max(0, len(found)-lines):], "")
}
