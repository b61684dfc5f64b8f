package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// mostTime is how long a run may take, on a machine that has to build everything. It is less than the timeout of "go
// test", which would end this process without its cleaning up.
const mostTime = 28 * time.Minute

// scratchVariable names the directory of this run to the processes inside.
const scratchVariable = "BELAY_NODE_SCRATCH"

// outside makes ready whatever can be made before there is a node, lets the rest happen in namespaces, and makes sure
// that nothing of it is left.
func outside(ctx context.Context) (err error) {
	if err := preflight(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, mostTime, fmt.Errorf("not done after %s", mostTime))
	defer cancel()
	alone, err := os.Open("/var/lib")
	if err != nil {
		return err
	}
	defer alone.Close()
	if err := syscall.Flock(int(alone.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return fmt.Errorf("another node runs on this machine (lock on %s: %w)", alone.Name(), err)
	}
	before, err := look()
	if err != nil {
		return err
	}
	scratch, err := os.MkdirTemp("", "belay-node-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, leave(before, scratch)) }()

	if err := prepare(ctx, scratch); err != nil {
		return err
	}
	for _, dir := range hidden {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	return enter(ctx, scratch)
}

// leave takes back what ends with no namespace, and compares with what was there before.
func leave(before machine, scratch string) error {
	if os.Getenv("BELAY_NODE_KEEP") != "" {
		say("kept %s", scratch)
	} else if err := os.RemoveAll(scratch); err != nil {
		return err
	}
	if err := before.restore(); err != nil {
		return err
	}
	after, err := look()
	if err != nil {
		return err
	}
	if err := before.check(after, scratch); err != nil {
		return err
	}
	say("nothing is left: no process, container, mount, interface, iptables rule or cgroup, and every setting of the kernel is as it was")
	return nil
}

// prepare builds the programs and the images: that needs the machine's own network.
func prepare(ctx context.Context, scratch string) error {
	module := filepath.Join(repository(), "hack", "cluster")
	if err := run(ctx, module, "go", "build", "-o", clusterCommand(scratch), "."); err != nil {
		return err
	}
	if err := run(ctx, module, clusterCommand(scratch), "--real-node", nodeAddress, "build"); err != nil {
		return err
	}
	if err := run(ctx, repository(), "go", "build", "-o", execCommand(scratch), "./examples/exec"); err != nil {
		return err
	}
	return buildImages(ctx, scratch)
}

func clusterCommand(scratch string) string { return filepath.Join(scratch, "cluster-command") }

func execCommand(scratch string) string { return filepath.Join(scratch, "exec") }

// enter runs the tests in namespaces of their own, whose end is the end of everything in them.
func enter(ctx context.Context, scratch string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, self, innerArguments()...)
	cmd.Env = append(os.Environ(), stage+"=first", scratchVariable+"="+scratch)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNET | syscall.CLONE_NEWNS | syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC,
		Setpgid:    true, // a ^C on the terminal is for this process, which then ends that one
		Pdeathsig:  syscall.SIGKILL,
	}
	// The death signal is sent when the thread that started the process ends.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err = cmd.Run()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// innerArguments are the flags of this process, but for those with which "go test" speaks to it alone.
func innerArguments() (args []string) {
	for _, arg := range os.Args[1:] {
		if !strings.HasPrefix(arg, "-test.testlogfile") && !strings.HasPrefix(arg, "-test.paniconexit0") {
			args = append(args, arg)
		}
	}
	return args
}

// repository is the root of the checkout: "go test" runs a test in the directory of its package.
func repository() string {
	dir, err := filepath.Abs(filepath.Join("..", ".."))
	if err != nil {
		panic(err) // the working directory is gone
	}
	return dir
}

// run runs a program whose output is of interest only if it fails.
func run(ctx context.Context, dir, program string, args ...string) error {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir = dir
	return runQuietly(cmd)
}

func runQuietly(cmd *exec.Cmd) error {
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, out)
	}
	return nil
}
