package node

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

// needed are the programs that a node is made of, and the Debian packages that bring them.
var needed = map[string]string{
	"buildah":          "buildah",
	"conntrack":        "conntrack",
	"containerd":       "containerd",
	"ctr":              "containerd",
	"docker-registry":  "docker-registry",
	"ethtool":          "ethtool",
	"ip":               "iproute2",
	"iptables":         "iptables",
	"iptables-restore": "iptables",
	"iptables-save":    "iptables",
	"mount":            "mount",
	"runc":             "runc",
	"socat":            "socat",
}

// preflight says in one error all that is missing, and what to do.
func preflight() error {
	if runtime.GOOS != "linux" {
		return fmt.Errorf("a node needs linux, this is %s: use make test", runtime.GOOS)
	}
	if os.Geteuid() != 0 {
		return errors.New("a node needs root: run make test-node as root (make test needs none)")
	}
	var missing, packages []string
	for program, pkg := range needed {
		if _, err := exec.LookPath(program); err != nil {
			missing, packages = append(missing, program), append(packages, pkg)
		}
	}
	if cniPlugins() == "" {
		missing, packages = append(missing, "the CNI plugins bridge and host-local"), append(packages, "containernetworking-plugins")
	}
	if len(missing) > 0 {
		slices.Sort(missing)
		slices.Sort(packages)
		packages = slices.Compact(packages)
		return fmt.Errorf("missing: %s; on Debian or Ubuntu: apt-get install --no-install-recommends %s",
			strings.Join(missing, ", "), strings.Join(packages, " "))
	}
	for _, root := range cgroupRoots() {
		dir := filepath.Join(root, fmt.Sprintf("belay-node-preflight-%d", os.Getpid()))
		if err := os.Mkdir(dir, 0o755); err != nil {
			return fmt.Errorf("no cgroup can be made (%w): in a container, give it --privileged", err)
		}
		if err := os.Remove(dir); err != nil {
			return err
		}
	}
	return nil
}

// cniPlugins is where the plugins are, empty if they are not.
func cniPlugins() string {
	for _, dir := range []string{"/usr/lib/cni", "/opt/cni/bin"} {
		_, bridge := os.Stat(filepath.Join(dir, "bridge"))
		_, local := os.Stat(filepath.Join(dir, "host-local"))
		if errors.Join(bridge, local) == nil {
			return dir
		}
	}
	return ""
}
