package e2e

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// On a busy machine the API server takes longer to start than kube-controller-manager waits for it before it ends: the cluster
// starts all the same. It is one of the test's own.
func TestClusterStartsThoughAComponentEnds(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	dir := filepath.Join(t.TempDir(), "cluster")
	run := func(ctx context.Context, args ...string) *exec.Cmd {
		return exec.CommandContext(ctx, filepath.Join(root, "hack", "cluster.sh"), append([]string{"--dir", dir}, args...)...)
	}
	up, said := run(ctx, "up"), &output{}
	up.Stdout, up.Stderr = said, said
	if err := up.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if out, err := run(context.WithoutCancel(ctx), "down").CombinedOutput(); err != nil {
			t.Errorf("down: %v: %s", err, out)
		}
	})
	manager := 0
	if err := poll(ctx, time.Minute, func(context.Context) (bool, error) {
		manager = processOf(t, filepath.Join(dir, "kwok", "clusters", "belay", "bin", "kube-controller-manager"))
		return manager != 0, nil
	}); err != nil {
		t.Fatalf("kube-controller-manager is not started: %v; said:\n%s", err, said)
	}
	if err := syscall.Kill(manager, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := up.Wait(); err != nil {
		t.Fatalf("%v; said:\n%s", err, said)
	}
	if !strings.Contains(said.String(), "kube-controller-manager is not running: starting it again") {
		t.Errorf("said nothing of what had ended:\n%s", said)
	}
	if out, err := run(ctx, "status").CombinedOutput(); err != nil {
		t.Errorf("status: %v: %s", err, out)
	}
}

// processOf returns the process that runs a program for good, with more than one flag (kwokctl asks each for its version first), 0 if none does.
func processOf(t *testing.T, program string) int {
	t.Helper()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Skipf("processes are looked for in /proc: %v", err)
	}
	for _, entry := range entries {
		cmdline, _ := os.ReadFile(filepath.Join("/proc", entry.Name(), "cmdline"))
		if pid, err := strconv.Atoi(entry.Name()); err == nil && strings.HasPrefix(string(cmdline), program+"\x00") && bytes.Count(cmdline, []byte{0}) > 2 {
			return pid
		}
	}
	return 0
}
