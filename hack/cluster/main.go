// Command cluster runs the embedded Kubernetes cluster of this checkout: a real
// control plane, built from Go modules, with fake nodes whose pods behave as
// their image tags say.
//
//	hack/cluster.sh belay|build|tools|up|down|status
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
)

func main() {
	// Children get this context: the first signal stops them and up cleans up.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		if ctx.Err() != nil {
			err = fmt.Errorf("interrupted (%w)", err)
		}
		fmt.Fprintln(os.Stderr, "cluster:", err)
		stop()
		os.Exit(1)
	}
}

const usage = "usage: hack/cluster.sh [--kubernetes VERSION] [--dir DIR] [--real-node ADDRESS] [--controller-qps NUMBER] belay|build|tools|up|down|status"

func run(ctx context.Context, args []string) error {
	c, err := newCluster()
	if err != nil {
		return err
	}
	flags := flag.NewFlagSet("cluster", flag.ContinueOnError)
	flags.StringVar(&c.dir, "dir", c.dir, "where the cluster keeps all that it leaves on disk")
	flags.StringVar(&c.kubernetes, "kubernetes", os.Getenv("KUBERNETES"), "the `version` of Kubernetes, as 1.35.4 or 1.35; default: $KUBERNETES, else that of go.mod")
	flags.StringVar(&c.realNode, "real-node", "", "make no fake nodes; kubelets and pods reach the API server at this `address` of the machine")
	flags.IntVar(&c.controllerQPS, "controller-qps", c.controllerQPS, "requests that each controller of kube-controller-manager makes in a second; Kubernetes' own default is 20")
	if err := flags.Parse(args); err != nil {
		return errors.New(usage)
	}
	if c.controllerQPS < 1 {
		return fmt.Errorf("--controller-qps is %d; it must be at least 1", c.controllerQPS)
	}
	if c.realNode != "" && net.ParseIP(c.realNode) == nil {
		return fmt.Errorf("--real-node %q is no IP address", c.realNode)
	}
	if flags.NArg() != 1 {
		return errors.New(usage)
	}
	// Processes are recognised by their path, so it must always be the same one.
	if c.dir, err = resolve(c.dir); err != nil {
		return err
	}
	switch command := flags.Arg(0); command {
	case "belay":
		return c.buildBelay(ctx)
	case "build":
		_, err := c.binaries(ctx)
		return err
	case "tools":
		return c.buildTools(ctx)
	case "up":
		return c.up(ctx)
	case "down":
		return c.down(ctx)
	case "status":
		return c.status(ctx)
	default:
		return fmt.Errorf("unknown command %q; %s", command, usage)
	}
}

// resolve returns the absolute path, without links, of a directory that may not exist yet.
func resolve(dir string) (string, error) {
	parent, err := filepath.Abs(filepath.Dir(dir))
	if err != nil {
		return "", err
	}
	if parent, err = filepath.EvalSymlinks(parent); err != nil {
		return "", fmt.Errorf("--dir: %w", err)
	}
	return filepath.Join(parent, filepath.Base(dir)), nil
}

// newCluster describes the cluster of the checkout that holds the working
// directory's module; it starts nothing.
func newCluster() (*cluster, error) {
	wd, err := os.Getwd()
	if err != nil {
		return nil, err
	}
	// Processes are recognised by their path, so it must always be the same one.
	module, err := filepath.EvalSymlinks(wd)
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(filepath.Join(module, "audit-policy.yaml")); err != nil {
		return nil, errors.New("not in hack/cluster of a checkout: use make cluster")
	}
	userCache, err := os.UserCacheDir()
	if err != nil {
		return nil, fmt.Errorf("no place for the binaries: %w (set XDG_CACHE_HOME or HOME)", err)
	}
	cache := filepath.Join(userCache, "belay")
	if err := writable(cache); err != nil {
		return nil, fmt.Errorf("the binaries cannot be kept in %s: %w (set XDG_CACHE_HOME to a directory that can be written to)", cache, err)
	}
	return &cluster{
		module: module,
		dir:    filepath.Join(module, "..", "..", ".cluster"),
		cache:  cache,
		// Kubernetes' own 20 would be what benchmarks measure, and what tests wait for.
		controllerQPS: 200,
	}, nil
}

// writable makes a directory and tries whether files can be made in it.
func writable(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, "try-")
	if err != nil {
		return err
	}
	return errors.Join(f.Close(), os.Remove(f.Name()))
}

// say prints a line of progress.
func say(format string, args ...any) {
	fmt.Printf("cluster: "+format+"\n", args...)
}

// lock takes an exclusive lock on a file in the cache, shared by all checkouts.
// The kernel gives it back when the process ends, however it ends.
func lock(ctx context.Context, path, waiting string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	for told := false; ; told = true {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		if !told {
			say("%s", waiting)
		}
		if err := sleep(ctx, lockPoll); err != nil {
			f.Close()
			return nil, err
		}
	}
}
