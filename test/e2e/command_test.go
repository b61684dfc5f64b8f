package e2e

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// belay runs the binary with these arguments, in an environment that names no cluster, and waits until it ends.
func belay(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, cluster.binary, args...)
	cmd.Env = []string{"HOME=" + t.TempDir()}
	var out, err strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &err
	failure := cmd.Run()
	var exit *exec.ExitError
	if ctx.Err() != nil || (failure != nil && !errors.As(failure, &exit)) {
		t.Fatalf("belay %q: %v, %v\n%s", args, failure, ctx.Err(), err.String())
	}
	return out.String(), err.String(), cmd.ProcessState.ExitCode()
}

// What keeps belay from working is said in one line, with what to do, and ends it with 1.
func TestCommand_FailedStart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	garbage := filepath.Join(dir, "garbage")
	if err := os.WriteFile(garbage, []byte("{this is no kubeconfig"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, start := range []struct {
		name string
		args func(t *testing.T) []string
		want []string
	}{
		{"no kubeconfig", func(*testing.T) []string { return nil }, []string{"no cluster is configured", "--kubeconfig"}},
		{"kubeconfig that is not there", func(*testing.T) []string { return []string{"--kubeconfig", filepath.Join(dir, "none")} },
			[]string{"kubeconfig", "no such file"}},
		{"kubeconfig that is none", func(*testing.T) []string { return []string{"--kubeconfig", garbage} }, []string{"read the kubeconfig"}},
		{"server that refuses", func(*testing.T) []string { return []string{"--master", "http://127.0.0.1:1"} },
			[]string{"127.0.0.1:1", "refused", "check"}},
		{"server that is silent", func(t *testing.T) []string { return []string{"--master", "http://" + silent(t)} },
			[]string{"cannot be used", "check"}},
		{"no CRD", func(t *testing.T) []string { return []string{"--master", withoutCRD(t)} }, []string{"belay.dev", "kubectl apply -f artifacts/crd.yaml"}},
		{"missing rights", func(t *testing.T) []string { return []string{"--kubeconfig", withoutRights(t)} },
			[]string{"missing rights", "list guardeddeployments", "update deployments", "create events", "grant"}},
		{"unknown argument", func(*testing.T) []string { return []string{"start"} }, []string{"unexpected argument", "start", "--help"}},
		{"no workers", func(*testing.T) []string { return []string{"--workers", "0"} }, []string{"--workers", "at least 1"}},
	} {
		t.Run(start.name, func(t *testing.T) {
			t.Parallel()
			began := time.Now()
			_, stderr, code := belay(t, start.args(t)...)
			if took := time.Since(began); took > 20*time.Second {
				t.Errorf("it took %s", took)
			}
			line, more, _ := strings.Cut(stderr, "\n")
			if code != 1 || !strings.HasPrefix(line, "belay: ") || more != "" {
				t.Errorf("exit code %d, and this, want 1 and one line of belay's:\n%s", code, stderr)
			}
			for _, want := range start.want {
				if !strings.Contains(line, want) {
					t.Errorf("it does not say %q: %s", want, line)
				}
			}
		})
	}
}

// silent returns the address of a server that never answers.
func silent(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	return listener.Addr().String()
}

// withoutCRD returns the URL of the cluster's API as it is before the CRD is installed.
func withoutCRD(t *testing.T) string {
	t.Helper()
	return meddled(t, func(w http.ResponseWriter, r *http.Request) bool {
		hidden := strings.HasPrefix(r.URL.Path, "/apis/belay.dev")
		if hidden {
			http.NotFound(w, r)
		}
		return hidden
	})
}

// withoutRights returns a kubeconfig of a user who may do nothing.
func withoutRights(t *testing.T) string {
	t.Helper()
	return emptyNamespace(t).newAccount("nobody")
}

func TestCommand_VersionAndHelp(t *testing.T) {
	t.Parallel()
	if stdout, _, code := belay(t, "--version"); code != 0 || !strings.HasPrefix(stdout, "belay ") || len(strings.Fields(stdout)) != 2 {
		t.Errorf("--version: exit code %d, %q", code, stdout)
	}
	if _, stderr, code := belay(t, "--help"); code != 0 || !strings.Contains(stderr, "Usage: belay [flags]") {
		t.Errorf("--help: exit code %d, %q", code, stderr)
	}
	if _, stderr, code := belay(t, "--no-such-flag"); code == 0 || !strings.Contains(stderr, "no-such-flag") {
		t.Errorf("--no-such-flag: exit code %d, %q", code, stderr)
	}
}

// Belay may be stopped at any time, also while it waits for the CRD to be installed: that is no failure.
func TestCommand_StoppedWhileStarting(t *testing.T) {
	t.Parallel()
	log := filepath.Join(t.TempDir(), "belay.log")
	p, err := startProcess(log, "--kubeconfig", "", "--master", withoutCRD(t))
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(2 * time.Second) // It waits for 10 s.
	if err := p.stop(); err != nil || tail(log, "", 1) != "" {
		t.Errorf("%v; its log ends with %q", err, tail(log, "", 1))
	}
}
