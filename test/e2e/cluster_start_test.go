package e2e

import (
	"context"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// On a busy machine the API server takes longer to start than kube-controller-manager waits for it before it ends: the cluster
// starts all the same. It is one of the test's own.
func TestClusterStartsThoughAComponentEnds(t *testing.T) {
	if !exists("/proc/self/cmdline") {
		t.Skip("processes can be told by /proc only")
	}
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
		var err error
		manager, err = pidIn(filepath.Join(dir, "kwok", "clusters", "belay"), "kube-controller-manager")
		return err == nil, nil
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
