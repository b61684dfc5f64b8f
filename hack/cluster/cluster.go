package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	name  = "belay"
	nodes = 5

	serviceRange     = "10.0.0.0/24"
	apiServerService = "10.0.0.1" // always the first of the range; pods reach the API server there

	readyTime = 60 * time.Second
	patience  = 15 * time.Second
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
	say("export KUBECONFIG=%s; kubectl is %s", c.kubeconfig(), filepath.Join(c.bin(), "kubectl"))
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
	running, err := processes(ctx, c.programs())
	if err != nil {
		return err
	}
	if len(running) == 0 {
		return errors.New("no cluster is running")
	}
	for _, component := range c.components() {
		if !slices.ContainsFunc(running, func(p process) bool { return p.name == component }) {
			return fmt.Errorf("%s is not running", component)
		}
	}
	return nil
}

// unready names a component that does not answer, or not well.
func (c *cluster) unready(ctx context.Context) error {
	p, err := readPorts(c.portsFile())
	if err != nil {
		return err
	}
	for _, url := range []string{
		fmt.Sprintf("https://%s:%d/readyz", loopback, p.APIServer),
		fmt.Sprintf("https://%s:%d/healthz", loopback, p.ControllerManager),
		fmt.Sprintf("https://%s:%d/healthz", loopback, p.Scheduler),
	} {
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
	if _, err := c.tool(ctx, nil, "kwokctl", args...); err != nil {
		return err
	}
	for {
		// Nobody starts a component again: waiting would not help.
		if err := c.missing(ctx); err != nil {
			return err
		}
		err := c.ready(ctx)
		if err == nil {
			return nil
		}
		if sleep(ctx, 200*time.Millisecond) != nil {
			return fmt.Errorf("%w (%w)", context.Cause(ctx), err)
		}
	}
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
	ours, err := filepath.Glob(filepath.Join(c.module, "stages", "*.yaml"))
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
		return "", fmt.Errorf("%s: %w: %s", tool, err, lastLines(stderr.String(), 1))
	}
	return stdout.String(), nil
}

// object is a piece of JSON.
type object map[string]any

// writeConfig writes the configuration that kwokctl makes the cluster from.
func (c *cluster) writeConfig(p ports) (path string, err error) {
	binary := func(tool string) string { return filepath.Join(c.bin(), tool) }
	// The two exit when they lose their lease, and nobody starts them again.
	controller := object{"leader-elect": "false", "kube-api-qps": strconv.Itoa(c.controllerQPS), "kube-api-burst": strconv.Itoa(3 * c.controllerQPS / 2)}
	apiServer := object{
		"audit-policy-file":   filepath.Join(c.module, "audit-policy.yaml"),
		"audit-log-path":      c.auditLog(),
		"audit-log-mode":      "blocking", // a request is answered when its line is written: counts are exact
		"audit-log-maxsize":   "2000",     // MB: tests see one file
		"audit-log-maxbackup": "1",
		// As OpenShift has it: who makes an owner wait for what it owns needs a right to that.
		"enable-admission-plugins": "OwnerReferencesPermissionEnforcement",
	}
	var disabled []string
	if c.realNode != "" {
		disabled = []string{"kwok-controller"}
		// Pods reach it through a Service, and that has no loopback addresses behind it.
		apiServer["advertise-address"] = c.realNode
		apiServer["bind-address"] = "0.0.0.0"
		apiServer["service-cluster-ip-range"] = serviceRange
		// It asks kubelets for logs and streams as the administrator, and no name leads to them.
		apiServer["kubelet-preferred-address-types"] = "InternalIP"
		apiServer["kubelet-client-certificate"] = filepath.Join(c.workdir(), "pki", "admin.crt")
		apiServer["kubelet-client-key"] = filepath.Join(c.workdir(), "pki", "admin.key")
	}
	config := object{
		"apiVersion": "config.kwok.x-k8s.io/v1alpha1",
		"kind":       "KwokctlConfiguration",
		"options": object{
			"runtime":     "binary",
			"bindAddress": loopback,
			"disable":     disabled,

			"kubeApiserverCertSANs": []string{apiServerService},

			"etcdPort":                  p.Etcd,
			"etcdPeerPort":              p.EtcdPeer,
			"kubeApiserverPort":         p.APIServer,
			"kubeControllerManagerPort": p.ControllerManager,
			"kubeSchedulerPort":         p.Scheduler,
			"kwokControllerPort":        p.Kwok,

			// What is not given as a file is downloaded.
			"etcdBinary":                  binary("etcd"),
			"kubeApiserverBinary":         binary("kube-apiserver"),
			"kubeControllerManagerBinary": binary("kube-controller-manager"),
			"kubeSchedulerBinary":         binary("kube-scheduler"),
			"kwokControllerBinary":        binary("kwok"),
			"kubectlBinary":               binary("kubectl"),
		},
		"componentsPatches": []object{
			{"name": "etcd", "extraArgs": flags(object{
				// Survives a kill; a power cut may cost it, and it is made new.
				"unsafe-no-fsync": "true",
			})},
			{"name": "kube-apiserver", "extraArgs": flags(apiServer)},
			{"name": "kube-controller-manager", "extraArgs": flags(controller, object{
				"use-service-account-credentials": "true", // each controller as itself, with its own rights, as kubeadm has it
			})},
			{"name": "kube-scheduler", "extraArgs": flags(controller)},
		},
	}
	data, err := json.MarshalIndent(config, "", "  ")
	if err != nil {
		return "", err
	}
	path = filepath.Join(c.dir, "kwokctl.json")
	return path, os.WriteFile(path, data, 0o644)
}

// flags lists command line flags as kwokctl wants them.
func flags(sets ...object) []object {
	var list []object
	for _, set := range sets {
		for key, value := range set {
			list = append(list, object{"key": key, "value": value})
		}
	}
	return list
}

// nodeList makes n fake nodes, too large to ever be full.
func nodeList(n int) []byte {
	var items []object
	for i := range n {
		node := fmt.Sprintf("node-%d", i)
		room := object{"cpu": "1000", "memory": "4Ti", "pods": "10000", "ephemeral-storage": "10Ti"}
		items = append(items, object{
			"apiVersion": "v1",
			"kind":       "Node",
			"metadata": object{
				"name":        node,
				"annotations": object{"kwok.x-k8s.io/node": "fake"},
				"labels": object{
					"kubernetes.io/hostname": node,
					"kubernetes.io/os":       "linux",
					"kubernetes.io/arch":     runtime.GOARCH,
				},
			},
			"spec": object{"podCIDR": fmt.Sprintf("10.%d.0.0/16", 64+i), "podCIDRs": []string{fmt.Sprintf("10.%d.0.0/16", 64+i)}},
			"status": object{
				"addresses":   []object{{"type": "InternalIP", "address": fmt.Sprintf("192.0.2.%d", 10+i)}, {"type": "Hostname", "address": node}},
				"capacity":    room,
				"allocatable": room,
			},
		})
	}
	data, err := json.Marshal(object{"apiVersion": "v1", "kind": "List", "items": items})
	if err != nil {
		panic(err) // strings and numbers
	}
	return data
}
