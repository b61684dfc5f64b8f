package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

const (
	// A few seconds as a rule, but the machine may be busy.
	readyTime = 3 * time.Minute
	readyPoll = 200 * time.Millisecond

	// kube-controller-manager ends when the API server does not answer for 10 s, and on a busy machine that takes longer to
	// start. In other clusters the kubelet starts it again.
	maxRestarts, restartPause = 15, time.Second
	// mostWords is how much of its log is shown, in bytes.
	mostWords = 300
)

// start starts a cluster where none is.
func (c *cluster) start(ctx context.Context, bin string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, readyTime, fmt.Errorf("not ready after %s", readyTime))
	defer cancel()
	if err := os.MkdirAll(c.dir, 0o755); err != nil {
		return err
	}
	if err := os.Symlink(bin, c.bin()); err != nil {
		return err
	}
	p, err := choosePorts(c.dir)
	if err != nil {
		return err
	}
	if err := p.write(c.portsFile()); err != nil {
		return err
	}
	config, err := c.writeConfig(p)
	if err != nil {
		return err
	}
	stages, err := c.stages(ctx)
	if err != nil {
		return err
	}
	say("starting it on ports %d to %d of %s", p.Etcd, p.Etcd+portCount-1, loopback)
	args := []string{"create", "cluster", "--name", name, "--kubeconfig", c.kubeconfig(), "--config", config}
	for _, stage := range stages {
		args = append(args, "--config", stage)
	}
	if err := c.kwokctl(ctx, args...); err != nil {
		return err
	}
	return c.await(ctx)
}

// kwokctl runs kwokctl, which starts what does not run and then waits for the API server for two minutes. It is not waited
// for if something that was started has ended: that is for await.
func (c *cluster) kwokctl(ctx context.Context, args ...string) error {
	running, stop := context.WithCancelCause(ctx)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		stop(c.watch(running))
	}()
	_, err := c.tool(running, nil, "kwokctl", args...)
	stop(nil)
	<-watched
	if errors.Is(err, errEnded) {
		return nil
	}
	return err
}

var errEnded = errors.New("a component has ended")

// watch returns errEnded when a component that was started is not running any more, another error if it cannot go on watching.
func (c *cluster) watch(ctx context.Context) error {
	for seen := map[int]bool{}; ; {
		running, err := processes(ctx, c.programs())
		if err != nil {
			return err
		}
		for _, p := range running {
			if _, err := os.Stat(c.log(p.name)); err == nil { // else it only tells kwokctl its version
				seen[p.pid] = true
			}
		}
		for pid := range seen {
			if !slices.ContainsFunc(running, func(p process) bool { return p.pid == pid }) {
				return errEnded
			}
		}
		if err := sleep(ctx, readyPoll); err != nil {
			return err
		}
	}
}

// await returns when the cluster is ready, and starts again what ends before.
func (c *cluster) await(ctx context.Context) error {
	for restarts := 0; ; {
		unready := c.ready(ctx)
		if unready == nil {
			return nil
		}
		absent, err := c.absent(ctx)
		if err != nil {
			return err
		}
		if len(absent) > 0 {
			if restarts++; restarts > maxRestarts {
				return fmt.Errorf("%s has ended, though it was started %d times: %s", absent[0], restarts, c.lastWords(absent[0]))
			}
			if err := c.startAgain(ctx, absent[0]); err != nil {
				return err
			}
		}
		if sleep(ctx, readyPoll) != nil {
			return fmt.Errorf("%w (%w)", context.Cause(ctx), unready)
		}
	}
}

// startAgain starts a component that has ended, and whatever else does not run, unless there is no hope.
func (c *cluster) startAgain(ctx context.Context, component string) error {
	said := c.lastWords(component)
	if strings.Contains(said, "address already in use") {
		return fmt.Errorf("another program has taken a port of %s in the meantime, run it again: %s", component, said)
	}
	say("%s has ended, starting it again", component)
	if err := sleep(ctx, restartPause); err != nil {
		return context.Cause(ctx)
	}
	// kwokctl takes a process for a running one until it is reaped.
	if err := os.Remove(filepath.Join(c.workdir(), "pids", component+".pid")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return c.kwokctl(ctx, "start", "cluster", "--name", name)
}

// lastWords returns the end of what a component has logged.
func (c *cluster) lastWords(component string) string {
	said, err := os.ReadFile(c.log(component))
	if err != nil {
		return err.Error()
	}
	words := lastLines(string(said), 1)
	return strings.ToValidUTF8(words[:min(len(words), mostWords)], "")
}

// ready makes the nodes and tells whether all that a test relies on is there:
// healthy components, nodes, the service account that pods need.
func (c *cluster) ready(ctx context.Context) error {
	if err := c.unready(ctx); err != nil {
		return err
	}
	if c.realNode == "" {
		if _, err := c.kubectl(ctx, nodeList(nodes), "apply", "-f", "-"); err != nil {
			return err
		}
		if _, err := c.kubectl(ctx, nil, "wait", "--for=condition=Ready", "node", "--all", "--timeout=20s"); err != nil {
			return err
		}
	}
	_, err := c.kubectl(ctx, nil, "wait", "--for=create", "serviceaccount/default", "--namespace=default", "--timeout=20s")
	return err
}

// stages lists the files that say how fake nodes and their pods live: ours, and
// those of kwok's own that ours do not replace.
func (c *cluster) stages(ctx context.Context) ([]string, error) {
	if c.realNode != "" {
		return nil, nil
	}
	// Unlike go list, this fetches the module again where the cache was cleaned.
	out, err := c.goTool(ctx, "mod", "download", "-json", "sigs.k8s.io/kwok")
	if err != nil {
		return nil, err
	}
	var kwok struct{ Dir string }
	if err := json.Unmarshal([]byte(out), &kwok); err != nil {
		return nil, err
	}
	theirs := filepath.Join(kwok.Dir, "kustomize", "stage")
	ours, err := glob(filepath.Join(c.module, "stages"), "*.yaml")
	return append(ours,
		filepath.Join(theirs, "node", "fast", "node-initialize.yaml"),
		filepath.Join(theirs, "node", "heartbeat-with-lease", "node-heartbeat-with-lease.yaml"),
		filepath.Join(theirs, "pod", "fast", "pod-complete.yaml"),
		filepath.Join(theirs, "pod", "fast", "pod-delete.yaml")), err
}

func (c *cluster) kubectl(ctx context.Context, stdin []byte, args ...string) (string, error) {
	return c.tool(ctx, stdin, "kubectl", append([]string{"--kubeconfig", c.kubeconfig()}, args...)...)
}

// tool runs one of the binaries; its error is the last line that it wrote.
func (c *cluster) tool(ctx context.Context, stdin []byte, tool string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, filepath.Join(c.bin(), tool), args...)
	// kwokctl looks for kubectl in PATH, and its settings must be ours alone.
	cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "KWOK_") })
	cmd.Env = append(cmd.Env,
		"PATH="+c.bin()+string(filepath.ListSeparator)+os.Getenv("PATH"),
		"KWOK_WORKDIR="+filepath.Join(c.dir, "kwok"),
		"KUBECACHEDIR="+filepath.Join(c.dir, "cache"))
	// A ^C on the terminal is for up, which then stops its child.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Stdin = bytes.NewReader(stdin)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return "", context.Cause(ctx)
		}
		return "", fmt.Errorf("%s: %w: %s", tool, err, lastLines(stderr.String(), 1))
	}
	return stdout.String(), nil
}
