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
	"strings"
	"time"
)

const (
	nodeName = "node"
	// bridge is the network of the pods. The node has the first address in it, and pods those from the tenth on.
	bridge      = "belay0"
	nodeAddress = "10.244.0.1"
	podNetwork  = "10.244.0.0/24"
	firstPod    = "10.244.0.10"
	// Sockets have short paths, and /run is the node's own.
	containerdSocket = "/run/belay-node/containerd.sock"
)

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
	for _, step := range []func(context.Context) error{
		n.makeNetwork, n.startControlPlane, n.startContainerd, n.importImages, n.startKubelet, n.startProxy, n.waitUntilReady,
	} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

// makeNetwork makes the bridge before CNI would: the API server listens there for the pods. All that has no other way
// goes there too: the addresses of Services have no interface, and need a route to be looked at by kube-proxy's rules.
func (n *node) makeNetwork(ctx context.Context) error {
	for _, args := range [][]string{
		{"link", "add", bridge, "type", "bridge"},
		{"address", "add", nodeAddress + podNetwork[strings.Index(podNetwork, "/"):], "dev", bridge},
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
state = "/run/belay-node/containerd"
[grpc]
  address = %[2]q
[plugins."io.containerd.internal.v1.opt"]
  path = %[3]q
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = %[4]q
  restrict_oom_score_adj = true
  disable_apparmor = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "native"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = %[5]q
    conf_dir = %[6]q
`

func (n *node) startContainerd(ctx context.Context) error {
	file := filepath.Join(n.scratch, "containerd.toml")
	config := fmt.Sprintf(containerdConfig, filepath.Join(n.scratch, "containerd"), containerdSocket,
		filepath.Join(n.scratch, "opt"), pauseImage, cniPlugins(), filepath.Join(n.scratch, "cni"))
	if err := os.WriteFile(file, []byte(config), 0o644); err != nil {
		return err
	}
	d, err := n.daemon("containerd", "containerd", "--config", file)
	if err != nil {
		return err
	}
	return waitFor(ctx, 30*time.Second, d, func(ctx context.Context) error {
		_, err := n.ctr(ctx, "version")
		return err
	})
}

func (n *node) importImages(ctx context.Context) error {
	files, err := filepath.Glob(filepath.Join(archives(n.scratch), "*.tar"))
	for _, file := range files {
		_, e := n.ctr(ctx, "images", "import", "--snapshotter", "native", file)
		err = errors.Join(err, e)
	}
	return err
}

func (n *node) startKubelet(ctx context.Context) error {
	config := object{
		"apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
		"containerRuntimeEndpoint": "unix://" + containerdSocket,
		"cgroupDriver":             "cgroupfs", "cgroupsPerQOS": false, "enforceNodeAllocatable": []string{}, "failCgroupV1": false,
		"failSwapOn": false, "resolvConf": "",
		// Of the API server, which asks for logs and streams.
		"authentication": object{"x509": object{"clientCAFile": filepath.Join(n.scratch, "cluster", "kwok", "clusters", "belay", "pki", "ca.crt")}},
		// A full disk is no reason to throw images away that come from nowhere, nor pods.
		"imageGCHighThresholdPercent": 100,
		"evictionHard":                object{"memory.available": "0%", "nodefs.available": "0%", "nodefs.inodesFree": "0%", "imagefs.available": "0%"},
		"volumePluginDir":             filepath.Join(n.scratch, "volume-plugins"),
	}
	file := filepath.Join(n.scratch, "kubelet.json")
	if err := writeJSON(file, config); err != nil {
		return err
	}
	_, err := n.daemon("kubelet", n.program("kubelet"), "--kubeconfig", n.kubeconfig(), "--config", file,
		"--root-dir", filepath.Join(n.scratch, "kubelet"), "--hostname-override", nodeName, "--node-ip", nodeAddress)
	return err
}

func (n *node) startProxy(ctx context.Context) error {
	// The limits of the connection table belong to the whole machine: it leaves them as they are.
	_, err := n.daemon("kube-proxy", n.program("kube-proxy"), "--kubeconfig", n.kubeconfig(), "--proxy-mode", "iptables",
		"--hostname-override", nodeName, "--conntrack-max-per-core", "0", "--conntrack-tcp-timeout-established", "0",
		"--conntrack-tcp-timeout-close-wait", "0")
	return err
}

func (n *node) waitUntilReady(ctx context.Context) error {
	kubelet := n.daemons[len(n.daemons)-2]
	return waitFor(ctx, 60*time.Second, kubelet, func(ctx context.Context) error {
		_, err := n.kubectl(ctx, "", "wait", "--for=condition=Ready", "node/"+nodeName, "--timeout=5s")
		return err
	})
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

// ctr speaks to containerd.
func (n *node) ctr(ctx context.Context, args ...string) (string, error) {
	return output(exec.CommandContext(ctx, "ctr", append([]string{"--address", containerdSocket, "--namespace", "k8s.io"}, args...)...))
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
