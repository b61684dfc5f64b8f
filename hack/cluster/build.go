package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"time"
)

const (
	progressEvery = 30 * time.Second
	lockPoll      = 200 * time.Millisecond
)

// tools are the programs that the module's tool lines build.
var tools = []string{"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy", "kubelet", "kubectl", "kwok", "kwokctl"}

// binaries returns the directory with the tools, building them if this version
// of them was never built for this user.
func (c *cluster) binaries(ctx context.Context) (string, error) {
	gomod, err := os.ReadFile(filepath.Join(c.module, "go.mod"))
	if err != nil {
		return "", err
	}
	gosum, err := os.ReadFile(filepath.Join(c.module, "go.sum"))
	if err != nil {
		return "", err
	}
	goVersion, err := c.goTool(ctx, "env", "GOVERSION")
	if err != nil {
		return "", err
	}
	ldflags, err := versionFlags(string(gomod))
	if err != nil {
		return "", err
	}
	key := buildKey(string(gomod), string(gosum), ldflags, goVersion, runtime.GOOS, runtime.GOARCH)
	bin := filepath.Join(c.cache, key)
	if complete(bin) {
		return bin, nil
	}

	// One build at a time for each key; who waited finds it done.
	unlock, err := lock(ctx, bin+".lock", "another checkout is building the same binaries, waiting for it")
	if err != nil {
		return "", err
	}
	defer unlock()
	if complete(bin) {
		return bin, nil
	}
	return bin, c.build(ctx, bin, ldflags)
}

// build makes bin appear at once and whole: it is built beside its place and renamed.
func (c *cluster) build(ctx context.Context, bin, ldflags string) error {
	partial := bin + ".partial"
	// Only a build that was killed leaves these, and the lock says that none is under way.
	if err := errors.Join(os.RemoveAll(partial), os.RemoveAll(bin)); err != nil {
		return err
	}
	defer os.RemoveAll(partial)

	say("building %s into %s", strings.Join(tools, ", "), bin)
	say("this takes about 8 minutes on two cores, once; needs about 7 GB of disk in the Go caches")
	cmd := exec.CommandContext(ctx, "go", "build", "-mod=readonly", "-buildvcs=false",
		"-ldflags", ldflags, "-o", partial+string(filepath.Separator), "tool")
	cmd.Dir = c.module
	cmd.Env = append(os.Environ(), "GOWORK=off")
	// Not straight into a file: that one would be empty when the disk is full.
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	// go starts compilers: they are stopped with it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = 5 * time.Second

	start := time.Now()
	tick := time.NewTicker(progressEvery)
	defer tick.Stop()
	done := make(chan error, 1)
	go func() { done <- cmd.Run() }()
	for running := true; running; {
		select {
		case <-tick.C:
			linked, _ := os.ReadDir(partial)
			say("still building, %d of %d done, %s", len(linked), len(tools), time.Since(start).Round(time.Second))
		case err := <-done:
			if err != nil {
				return buildError(ctx, err, out.Bytes(), bin+".log")
			}
			running = false
		}
	}
	// The package that builds etcd is called server.
	if err := os.Rename(filepath.Join(partial, "server"), filepath.Join(partial, "etcd")); err != nil {
		return err
	}
	if !complete(partial) {
		return fmt.Errorf("the build made not all of %s: compare the tool lines in hack/cluster/go.mod", strings.Join(tools, ", "))
	}
	say("built in %s", time.Since(start).Round(time.Second))
	return os.Rename(partial, bin)
}

// buildError says in one line what to do about a failed build.
func buildError(ctx context.Context, err error, out []byte, log string) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if bytes.Contains(out, []byte("no space left on device")) {
		return errors.New("the disk is full: the build needs about 7 GB for the Go caches (go env GOCACHE GOMODCACHE) and 1 GB for the binaries; make room and run it again")
	}
	where := "all of it is in " + log
	if err := os.WriteFile(log, out, 0o644); err != nil {
		where = err.Error()
	}
	return fmt.Errorf("the build failed (%w): %s; %s", err, lastLines(string(out), 2), where)
}

// lastLines returns the last n lines of text as one.
func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	lines = lines[max(0, len(lines)-n):]
	for i, line := range lines {
		lines[i] = strings.TrimSpace(line)
	}
	return strings.Join(lines, " ")
}

// goTool runs a short go command in the module and returns its output.
func (c *cluster) goTool(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = c.module
	cmd.Env = append(os.Environ(), "GOWORK=off")
	out, err := cmd.Output()
	var exit *exec.ExitError
	switch {
	case errors.Is(err, exec.ErrNotFound):
		return "", errors.New("no go command in PATH: install Go from https://go.dev/dl, at least the version that hack/cluster/go.mod names")
	case errors.As(err, &exit):
		return "", fmt.Errorf("go %s: %s", strings.Join(args, " "), strings.TrimSpace(string(exit.Stderr)))
	case err != nil:
		return "", fmt.Errorf("go %s: %w", strings.Join(args, " "), err)
	}
	return strings.TrimSpace(string(out)), nil
}

// complete tells whether dir holds every tool.
func complete(dir string) bool {
	for _, tool := range tools {
		if _, err := os.Stat(filepath.Join(dir, tool)); err != nil {
			return false
		}
	}
	return true
}

// buildKey names a set of binaries after everything that they are made from.
func buildKey(parts ...string) string {
	h := sha256.New()
	for _, part := range parts {
		fmt.Fprintf(h, "%d:%s", len(part), part)
	}
	return fmt.Sprintf("%x", h.Sum(nil)[:8])
}

var kubernetesVersion = regexp.MustCompile(`(?m)^\s*k8s\.io/kubernetes (v(\d+)\.(\d+)\.\S+)`)

// versionFlags are the linker flags that give Kubernetes its version. A release
// build has it stamped; without, it is v0.0.0-master and clients complain.
func versionFlags(gomod string) (string, error) {
	m := kubernetesVersion.FindStringSubmatch(gomod)
	if m == nil {
		return "", errors.New("hack/cluster/go.mod requires no k8s.io/kubernetes")
	}
	const pkg = "k8s.io/component-base/version."
	return fmt.Sprintf("-s -w -X %[1]sgitVersion=%[2]s -X %[1]sgitMajor=%[3]s -X %[1]sgitMinor=%[4]s", pkg, m[1], m[2], m[3]), nil
}
