package node

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/belay-dev/belay/pkg/generated/clientset/versioned"
	"github.com/belay-dev/belay/test/localcluster"
)

const (
	nodeName = "node"
	// bridge is the network of the pods. The node has the first address in it, and pods those from the tenth on.
	bridge      = "belay0"
	nodeAddress = "10.244.0.1"
	podNetwork  = "10.244.0.0/24"
	firstPod    = "10.244.0.10"
)

// worker is a kubelet with its containerd. Two kubelets cannot share one: each ends the other's containers as orphans.
type worker struct {
	name, address string
	taints        []object
	ports         int // the kubelet's first
}

// The story is the first worker's. The second is for those pods alone that ask for it: its kubelet is stopped.
var (
	firstWorker  = worker{name: nodeName, address: nodeAddress, ports: 10250}
	secondWorker = worker{name: "node-2", address: "10.244.0.2", ports: 10260,
		taints: []object{{"key": secondTaint, "effect": "NoSchedule"}}}
)

const secondTaint = "belay.dev/second"

// state is where the worker's containerd has its sockets, whose paths have to be short: /run is the node's own.
func (w worker) state() string  { return "/run/belay-" + w.name }
func (w worker) socket() string { return filepath.Join(w.state(), "containerd.sock") }

// cgroup is the name of the one under which all its pods have theirs: each kubelet removes those of pods that it does not know.
func (w worker) cgroup() string { return "belay-" + w.name }

// node is a control plane with one real node.
type node struct {
	scratch string
	daemons []*daemon
}

func (n *node) kubeconfig() string { return filepath.Join(n.scratch, "cluster", "kubeconfig") }
func (n *node) auditLog() string   { return filepath.Join(n.scratch, "cluster", "audit.log") }
func (n *node) logs() string       { return filepath.Join(n.scratch, "logs") }
func (n *node) program(name string) string {
	return filepath.Join(n.scratch, "cluster", "bin", name)
}

func (n *node) start(ctx context.Context) error {
	if err := os.MkdirAll(n.logs(), 0o755); err != nil {
		return err
	}
	first := func(ctx context.Context) error {
		_, err := n.startWorker(ctx, firstWorker)
		return err
	}
	for _, step := range []func(context.Context) error{n.makeNetwork, n.startDistribution, n.startControlPlane, first, n.startProxy} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

// startWorker returns the kubelet of a node that is ready.
func (n *node) startWorker(ctx context.Context, w worker) (*daemon, error) {
	if err := n.startContainerd(ctx, w); err != nil {
		return nil, err
	}
	if err := n.importImages(ctx, w); err != nil {
		return nil, err
	}
	kubelet, err := n.startKubelet(w)
	if err != nil {
		return nil, err
	}
	return kubelet, waitFor(ctx, 60*time.Second, kubelet, func(ctx context.Context) error {
		_, err := n.kubectl(ctx, "", "wait", "--for=condition=Ready", "node/"+w.name, "--timeout=5s")
		return err
	})
}

// makeNetwork makes the bridge before CNI would: the API server listens there for the pods. All that has no other way
// goes there too: the addresses of Services have no interface, and need a route to be looked at by kube-proxy's rules.
func (n *node) makeNetwork(ctx context.Context) error {
	for _, args := range [][]string{
		{"link", "add", bridge, "type", "bridge"},
		{"address", "add", firstWorker.address + podNetwork[strings.Index(podNetwork, "/"):], "dev", bridge},
		{"address", "add", secondWorker.address + podNetwork[strings.Index(podNetwork, "/"):], "dev", bridge},
		{"link", "set", bridge, "up"},
		{"route", "add", "default", "dev", bridge},
	} {
		if err := run(ctx, "", "ip", args...); err != nil {
			return err
		}
	}
	config := object{
		"cniVersion": "0.4.0",
		"name":       "belay-node",
		"plugins": []object{{
			"type": "bridge", "bridge": bridge, "isGateway": true,
			"ipam": object{
				"type": "host-local", "dataDir": filepath.Join(n.scratch, "addresses"),
				"ranges": [][]object{{{"subnet": podNetwork, "rangeStart": firstPod}}},
				"routes": []object{{"dst": "0.0.0.0/0"}},
			},
		}},
	}
	return writeJSON(filepath.Join(n.scratch, "cni", "10-belay.conflist"), config)
}

func (n *node) startControlPlane(ctx context.Context) error {
	return run(ctx, filepath.Join(repository(), "hack", "cluster"), clusterCommand(n.scratch),
		"--dir", filepath.Join(n.scratch, "cluster"), "--real-node", nodeAddress, "up")
}

// containerdConfig keeps everything in the scratch directory. The native snapshotter copies: it works on every file
// system, and the images are small.
const containerdConfig = `version = 2
root = %[1]q
state = %[2]q
[grpc]
  address = %[3]q
[plugins."io.containerd.internal.v1.opt"]
  path = %[4]q
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = %[5]q
  restrict_oom_score_adj = true
  disable_apparmor = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "native"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = %[6]q
    conf_dir = %[7]q
`

func (n *node) startContainerd(ctx context.Context, w worker) error {
	dir := n.workerDir(w)
	file := filepath.Join(dir, "containerd.toml")
	config := fmt.Sprintf(containerdConfig, filepath.Join(dir, "containerd"), filepath.Join(w.state(), "containerd"), w.socket(),
		filepath.Join(dir, "opt"), pauseImage, cniPlugins(), filepath.Join(n.scratch, "cni"))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(file, []byte(config), 0o644); err != nil {
		return err
	}
	d, err := n.daemon("containerd of "+w.name, "containerd", "--config", file)
	if err != nil {
		return err
	}
	return waitFor(ctx, 30*time.Second, d, func(ctx context.Context) error {
		_, err := n.ctr(ctx, w, "version")
		return err
	})
}

func (n *node) workerDir(w worker) string { return filepath.Join(n.scratch, w.name) }

func (n *node) importImages(ctx context.Context, w worker) error {
	files, err := filepath.Glob(filepath.Join(archives(n.scratch), "*.tar"))
	for _, file := range files {
		_, e := n.ctr(ctx, w, "images", "import", "--snapshotter", "native", file)
		err = errors.Join(err, e)
	}
	return err
}

func (n *node) startKubelet(w worker) (*daemon, error) {
	config := object{
		"apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
		"containerRuntimeEndpoint": "unix://" + w.socket(),
		// Without cgroups of its pods, a kubelet panics when a pod is resized.
		"cgroupDriver": "cgroupfs", "cgroupsPerQOS": true, "cgroupRoot": "/" + w.cgroup(), "enforceNodeAllocatable": []string{}, "failCgroupV1": false,
		"failSwapOn": false, "resolvConf": "",
		// Of the API server, which asks for logs and streams.
		"authentication": object{"x509": object{"clientCAFile": filepath.Join(localcluster.Dir(filepath.Join(n.scratch, "cluster")), "pki", "ca.crt")}},
		// A full disk is no reason to throw images away that come from nowhere, nor pods.
		"imageGCHighThresholdPercent": 100,
		"evictionHard":                object{"memory.available": "0%", "nodefs.available": "0%", "nodefs.inodesFree": "0%", "imagefs.available": "0%"},
		"volumePluginDir":             filepath.Join(n.workerDir(w), "volume-plugins"),
		"port":                        w.ports, "healthzPort": w.ports + 1,
		"registerWithTaints": w.taints,
		// It reports every 5 s that it is there: who says that a node is silent waits for four times as long.
		"nodeLeaseDurationSeconds": 20,
		// A kubelet removes the logs of pods that it does not know.
		"podLogsDir": podLogs(w),
	}
	for _, root := range cgroupRoots() {
		if err := os.MkdirAll(filepath.Join(root, w.cgroup()), 0o755); err != nil {
			return nil, err
		}
	}
	file := filepath.Join(n.workerDir(w), "kubelet.json")
	if err := writeJSON(file, config); err != nil {
		return nil, err
	}
	return n.daemon("kubelet of "+w.name, n.program("kubelet"), "--kubeconfig", n.kubeconfig(), "--config", file,
		"--root-dir", filepath.Join(n.workerDir(w), "kubelet"), "--hostname-override", w.name, "--node-ip", w.address)
}

func podLogs(w worker) string { return "/var/log/pods-" + w.name }

func (n *node) startProxy(ctx context.Context) error {
	// The limits of the connection table belong to the whole machine: it leaves them as they are.
	_, err := n.daemon("kube-proxy", n.program("kube-proxy"), "--kubeconfig", n.kubeconfig(), "--proxy-mode", "iptables",
		"--hostname-override", nodeName, "--conntrack-max-per-core", "0", "--conntrack-tcp-timeout-established", "0",
		"--conntrack-tcp-timeout-close-wait", "0")
	return err
}

// installBelay applies the manifests, and returns when its pods run.
func (n *node) installBelay(ctx context.Context) error {
	overlay := filepath.Join(n.scratch, "overlay")
	base, err := filepath.Rel(overlay, filepath.Join(repository(), "artifacts"))
	if err != nil {
		return err
	}
	image := fmt.Sprintf(`[{"op": "replace", "path": "/spec/template/spec/containers/0/image", "value": %q}]`, belayImage)
	if err := writeJSON(filepath.Join(overlay, "kustomization.yaml"), object{
		"resources": []string{base},
		"patches":   []object{{"target": object{"kind": "Deployment", "name": belayName}, "patch": image}},
	}); err != nil {
		return err
	}
	if _, err := n.kubectl(ctx, "", "apply", "-k", overlay); err != nil {
		return err
	}
	_, err = n.kubectl(ctx, "", "rollout", "status", "deployment/"+belayName, "-n", belayNamespace, "--timeout=60s")
	return err
}

// clients are the administrator's.
func (n *node) clients(t *testing.T) (kubernetes.Interface, versioned.Interface) {
	t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", n.kubeconfig())
	if err != nil {
		t.Fatal(err)
	}
	return kubernetes.NewForConfigOrDie(config), versioned.NewForConfigOrDie(config)
}

func (n *node) daemon(name, program string, args ...string) (*daemon, error) {
	d, err := startDaemon(n.logs(), name, program, args...)
	if err != nil {
		return nil, err
	}
	n.daemons = append(n.daemons, d)
	return d, nil
}

// printLogs shows the end of every daemon's log.
func (n *node) printLogs() {
	for _, d := range n.daemons {
		fmt.Printf("--- %s\n%s\n", d.name, tail(d.log, 15))
	}
}

// ctr speaks to a worker's containerd.
func (n *node) ctr(ctx context.Context, w worker, args ...string) (string, error) {
	return output(exec.CommandContext(ctx, "ctr", append([]string{"--address", w.socket(), "--namespace", "k8s.io"}, args...)...))
}

// task is the process of a container or sandbox.
func (n *node) task(ctx context.Context, w worker, id string) (pid int, err error) {
	tasks, err := n.ctr(ctx, w, "tasks", "list")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(tasks) {
		if field := strings.Fields(line); len(field) > 1 && field[0] == id {
			return strconv.Atoi(field[1])
		}
	}
	return 0, fmt.Errorf("no task %q in:\n%s", id, tasks)
}

// kubectl runs kubectl as the administrator.
func (n *node) kubectl(ctx context.Context, stdin string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, n.program("kubectl"), append([]string{"--kubeconfig", n.kubeconfig()}, args...)...)
	cmd.Env = append(os.Environ(), "KUBECACHEDIR="+filepath.Join(n.scratch, "kubectl"))
	cmd.Stdin = strings.NewReader(stdin)
	return output(cmd)
}

// output runs a program and returns what it says; what it complains about is in the error.
func output(cmd *exec.Cmd) (string, error) {
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), nil
}

// object is a piece of JSON.
type object map[string]any

// writeJSON writes a file and the directory that it is in.
func writeJSON(path string, value any) error {
	data, err := json.MarshalIndent(value, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, data, 0o644)
}
