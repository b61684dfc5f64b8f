package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// builtExamples is the directory of the programs of examples/, built when the first test asks for one.
var builtExamples = sync.OnceValues(func() (string, error) {
	dir := filepath.Join(cluster.scratch, "examples")
	build := exec.Command("go", "build", "-o", dir+string(filepath.Separator), "./examples/...")
	build.Dir = root
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the examples: %w\n%s", err, out)
	}
	return dir, nil
})

// example is a program of examples/ that runs.
type example struct {
	t      *testing.T
	cmd    *exec.Cmd
	stdout *output
	stderr *output
	ended  chan struct{} // closed when it has ended
}

// output is what a program has printed so far.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// startExample starts a program of examples/ with the kubeconfig of the cluster. It is killed with the test. Flags come
// first, so that arguments may follow.
func startExample(t *testing.T, name string, args ...string) *example {
	t.Helper()
	return startExampleWith(t, func(*exec.Cmd) {}, name, append([]string{"--kubeconfig", cluster.kubeconfig}, args...)...)
}

// startExampleWith starts a program in an environment that names no cluster, after prepare.
func startExampleWith(t *testing.T, prepare func(*exec.Cmd), name string, args ...string) *example {
	t.Helper()
	dir, err := builtExamples()
	if err != nil {
		t.Fatal(err)
	}
	p := &example{t: t, cmd: exec.Command(filepath.Join(dir, name), args...), stdout: &output{}, stderr: &output{}, ended: make(chan struct{})}
	p.cmd.Env = []string{"HOME=" + t.TempDir(), "PATH=" + os.Getenv("PATH")}
	p.cmd.Stdout, p.cmd.Stderr = p.stdout, p.stderr
	prepare(p.cmd)
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	forget := leave(func() error { return p.cmd.Process.Kill() })
	t.Cleanup(func() {
		forget()
		_ = p.cmd.Process.Kill()
		<-p.ended
		if t.Failed() {
			t.Logf("--- %s printed\n%s--- and on standard error\n%s", strings.Join(p.cmd.Args, " "), clip(p.stdout.String()), clip(p.stderr.String()))
		}
	})
	go func() {
		_ = p.cmd.Wait() // wait looks at the exit code.
		close(p.ended)
	}()
	return p
}

// prints waits until the program has printed this on standard output, and returns everything that it has printed.
func (p *example) prints(text string) string {
	p.t.Helper()
	err := poll(p.t.Context(), patience, func(context.Context) (bool, error) {
		if strings.Contains(p.stdout.String(), text) {
			return true, nil
		}
		select {
		case <-p.ended:
			if !strings.Contains(p.stdout.String(), text) {
				return false, errors.New("it has ended")
			}
			return true, nil
		default:
			return false, nil
		}
	})
	if err != nil {
		p.t.Fatalf("waited until %s prints %q: %v", p.cmd.Args[0], text, err)
	}
	return p.stdout.String()
}

// ends waits until the program ends by itself, with this exit code.
func (p *example) ends(code int) {
	p.t.Helper()
	select {
	case <-p.ended:
	case <-time.After(patience):
		p.t.Fatalf("%s still runs after %s", p.cmd.Args[0], patience)
	}
	if got := p.cmd.ProcessState.ExitCode(); got != code {
		p.t.Fatalf("%s ended with %d, want %d", p.cmd.Args[0], got, code)
	}
}

// interrupt ends the program with SIGINT. It has to end soon, and well.
func (p *example) interrupt() {
	p.t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGINT); err != nil {
		p.t.Fatal(err)
	}
	began := time.Now()
	p.ends(0)
	if took := time.Since(began); took > stopWithin {
		p.t.Errorf("%s took %s to end after SIGINT", p.cmd.Args[0], took)
	}
}

// runExample runs a program of examples/ to its end, which has to be a good one, and returns what it printed.
func runExample(t *testing.T, name string, args ...string) string {
	t.Helper()
	p := startExample(t, name, args...)
	p.ends(0)
	if p.stderr.String() != "" {
		t.Errorf("%s printed on standard error: %s", name, p.stderr)
	}
	return p.stdout.String()
}

// says fails the test for each text that is not part of what was printed.
func says(t *testing.T, printed string, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if !strings.Contains(printed, text) {
			t.Errorf("it does not say %q:\n%s", text, printed)
		}
	}
}

// row returns the fields of the first line that begins with this field.
func row(t *testing.T, printed, first string) []string {
	t.Helper()
	for line := range strings.Lines(printed) {
		if fields := strings.Fields(line); len(fields) > 0 && fields[0] == first {
			return fields
		}
	}
	t.Fatalf("no line begins with %q:\n%s", first, printed)
	return nil
}
