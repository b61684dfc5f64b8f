package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"
)

const (
	name  = "belay"
	nodes = 5

	serviceRange     = "10.0.0.0/24"
	apiServerService = "10.0.0.1" // always the first of the range; pods reach the API server there

	patience = 15 * time.Second
)

// cluster is the embedded cluster of one checkout.
type cluster struct {
	module   string // hack/cluster of the checkout
	dir      string // everything that the cluster leaves on disk: .cluster of the checkout, if nothing else is said
	cache    string // binaries, shared by all checkouts of this user
	realNode string // where a real node reaches the API server; empty: the nodes are fake

	kubernetes string // the version that is asked for, as 1.35.4 or 1.35; empty: that of go.mod

	controllerQPS int // how many requests each controller of kube-controller-manager makes in a second
}

// components are the processes of a running cluster.
func (c *cluster) components() []string {
	controlPlane := []string{"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"}
	if c.realNode != "" {
		return controlPlane
	}
	return append(controlPlane, "kwok-controller")
}

func (c *cluster) kubeconfig() string { return filepath.Join(c.dir, "kubeconfig") }
func (c *cluster) auditLog() string   { return filepath.Join(c.dir, "audit.log") }
func (c *cluster) bin() string        { return filepath.Join(c.dir, "bin") }
func (c *cluster) portsFile() string  { return filepath.Join(c.dir, "ports.json") }
func (c *cluster) workdir() string    { return filepath.Join(c.dir, "kwok", "clusters", name) }
func (c *cluster) logs() string       { return filepath.Join(c.workdir(), "logs") }
func (c *cluster) log(component string) string {
	return filepath.Join(c.logs(), component+".log")
}

// programs is where kwokctl starts the components from (links to the binaries).
func (c *cluster) programs() string { return filepath.Join(c.workdir(), "bin") }

// lock keeps two starts or stops apart, of this checkout or another: ports are
// chosen by trying them, which is safe only until somebody else does it too.
func (c *cluster) lock(ctx context.Context) (unlock func(), err error) {
	return lock(ctx, filepath.Join(c.cache, "start.lock"), "another cluster is starting or stopping, waiting for it")
}

// up leaves a running, ready cluster, whatever it finds.
func (c *cluster) up(ctx context.Context) error {
	if runtime.GOOS != "linux" {
		say("this is tested on linux only, not on %s", runtime.GOOS)
	}
	version, err := c.version()
	if err != nil {
		return err
	}
	// Before minutes are spent on a build:
	if strings.ContainsAny(c.dir, " \t") {
		return fmt.Errorf("kwokctl, which starts the cluster, takes no path with a space in it, as %q: move the checkout, or choose another place with --dir", c.dir)
	}
	if err := c.otherVersion(ctx, version); err != nil {
		return err
	}
	bin, err := c.binaries(ctx)
	if err != nil {
		return err
	}
	unlock, err := c.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()

	why := c.unhealthy(ctx)
	if why == nil {
		if err := c.otherVersion(ctx, version); err != nil {
			return err
		}
		say("already running; kubeconfig: %s", c.kubeconfig())
		return nil
	}
	if ctx.Err() != nil {
		return ctx.Err() // nothing is wrong but that nobody waits for the answer
	}
	if _, err := os.Stat(c.dir); err == nil {
		say("%v: cleaning up what is left of it", why)
	}
	if err := c.remove(ctx); err != nil {
		return err
	}
	return c.startOrClean(ctx, bin, version)
}

// startOrClean starts a cluster where none is, and leaves nothing running of one that does not start.
func (c *cluster) startOrClean(ctx context.Context, bin, version string) error {
	start := time.Now()
	if err := c.start(ctx, bin); err != nil {
		if ctx.Err() != nil {
			// The context is over, the cleaning is not.
			if err := c.remove(context.WithoutCancel(ctx)); err != nil {
				return err
			}
			return errors.New("nothing is left running")
		}
		return errors.Join(fmt.Errorf("the cluster does not start: %w; look into the logs in %s", err, c.logs()), stopAll(ctx, c.programs()))
	}
	if c.realNode != "" {
		say("Kubernetes %s is ready in %.1fs, without nodes", version, time.Since(start).Seconds())
	} else {
		say("Kubernetes %s is ready in %.1fs, with %d fake nodes", version, time.Since(start).Seconds(), nodes)
	}
	say("export KUBECONFIG=%s PATH=%s:$PATH", c.kubeconfig(), c.bin())
	return nil
}

func (c *cluster) down(ctx context.Context) error {
	unlock, err := c.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if err := c.remove(ctx); err != nil {
		return err
	}
	say("stopped, nothing is left")
	return nil
}

func (c *cluster) status(ctx context.Context) error {
	if err := c.unhealthy(ctx); err != nil {
		return err
	}
	say("running; kubeconfig: %s", c.kubeconfig())
	running, err := processes(ctx, c.programs())
	for _, p := range running {
		say("%7d %s", p.pid, p.name)
	}
	return err
}

// remove stops every process of the cluster and forgets its data.
func (c *cluster) remove(ctx context.Context) error {
	if err := stopAll(ctx, c.programs()); err != nil {
		return err
	}
	return os.RemoveAll(c.dir)
}

// unhealthy says what is wrong with the running cluster, nil if nothing is. It
// is patient: what is only slow, in the middle of a benchmark, must not be wiped.
func (c *cluster) unhealthy(ctx context.Context) error {
	start := time.Now()
	for told := false; ; told = true {
		if err := c.missing(ctx); err != nil {
			return err
		}
		err := c.unready(ctx)
		if err == nil || time.Since(start) > patience {
			return err
		}
		if !told {
			say("%v: looking again, for %s", err, patience)
		}
		if err := sleep(ctx, 500*time.Millisecond); err != nil {
			return err
		}
	}
}

// missing names a component that is not running.
func (c *cluster) missing(ctx context.Context) error {
	absent, err := c.absent(ctx)
	switch {
	case err != nil:
		return err
	case len(absent) == len(c.components()):
		return errors.New("no cluster is running")
	case len(absent) > 0:
		return fmt.Errorf("%s is not running", absent[0])
	}
	return nil
}

// absent returns the components that are not running.
func (c *cluster) absent(ctx context.Context) ([]string, error) {
	running, err := processes(ctx, c.programs())
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(c.components(), func(component string) bool {
		return slices.ContainsFunc(running, func(p process) bool { return p.name == component })
	}), nil
}

// unready names a component that does not answer, or not well.
func (c *cluster) unready(ctx context.Context) error {
	p, err := readPorts(c.portsFile())
	if err != nil {
		return err
	}
	urls := []string{
		fmt.Sprintf("https://%s:%d/readyz", loopback, p.APIServer),
		fmt.Sprintf("https://%s:%d/healthz", loopback, p.ControllerManager),
		fmt.Sprintf("https://%s:%d/healthz", loopback, p.Scheduler),
	}
	if c.realNode == "" {
		urls = append(urls, fmt.Sprintf("http://%s:%d/healthz", loopback, p.Kwok))
	}
	for _, url := range urls {
		if _, err := get(ctx, url); err != nil {
			return err
		}
	}
	return nil
}

// get returns what a component of the cluster answers.
func get(ctx context.Context, url string) ([]byte, error) {
	// Loopback and processes of our own: there is nobody to authenticate.
	client := http.Client{
		Timeout:   5 * time.Second,
		Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}},
	}
	defer client.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", url, resp.Status)
	}
	return io.ReadAll(resp.Body)
}

// otherVersion returns an error if a cluster of another version than this runs here: it may hold what somebody needs.
func (c *cluster) otherVersion(ctx context.Context, version string) error {
	p, err := readPorts(c.portsFile())
	if err != nil || c.missing(ctx) != nil {
		return nil // nothing runs, or nothing that could be used
	}
	answer, err := get(ctx, fmt.Sprintf("https://%s:%d/version", loopback, p.APIServer))
	if err != nil {
		return nil
	}
	var running struct{ GitVersion string }
	if err := json.Unmarshal(answer, &running); err != nil {
		return fmt.Errorf("the version of the running cluster: %w", err)
	}
	if running.GitVersion != version {
		return fmt.Errorf("a cluster of Kubernetes %s is running here, not of %s: end it with make cluster-down first, or ask for its version (KUBERNETES=%s)",
			running.GitVersion, version, strings.TrimPrefix(running.GitVersion, "v"))
	}
	return nil
}
