package node

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// machine is what a node could leave behind on the machine, as sorted lines by kind.
type machine struct {
	lines    map[string][]string
	settings map[string]string // of the kernel, by file
}

// settings are the kernel's that a kubelet changes for the whole machine. Those of the network belong to a namespace.
var settings = []string{
	"/proc/sys/kernel/panic",
	"/proc/sys/kernel/panic_on_oops",
	"/proc/sys/kernel/keys/root_maxbytes",
	"/proc/sys/kernel/keys/root_maxkeys",
	"/proc/sys/net/ipv4/ip_forward",
	"/proc/sys/vm/overcommit_memory",
	"/proc/sys/vm/panic_on_oom",
}

var counters = regexp.MustCompile(`\[\d+:\d+\]`)

// look writes down how the machine is.
func look() (machine, error) {
	m := machine{lines: map[string][]string{}, settings: map[string]string{}}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return m, err
	}
	for line := range strings.Lines(string(mounts)) {
		if field := strings.Fields(line); len(field) > 4 {
			m.lines["mount"] = append(m.lines["mount"], field[4])
		}
	}
	interfaces, err := net.Interfaces()
	if err != nil {
		return m, err
	}
	for _, i := range interfaces {
		m.lines["interface"] = append(m.lines["interface"], i.Name)
	}
	rules, err := exec.Command("iptables-save").Output()
	if err != nil {
		return m, fmt.Errorf("iptables-save: %w", err)
	}
	for line := range strings.Lines(string(rules)) {
		if !strings.HasPrefix(line, "#") {
			m.lines["iptables rule"] = append(m.lines["iptables rule"], counters.ReplaceAllString(strings.TrimSpace(line), ""))
		}
	}
	for _, path := range settings {
		if value, err := os.ReadFile(path); err == nil {
			m.settings[path] = string(value)
			m.lines["setting"] = append(m.lines["setting"], path+" = "+strings.TrimSpace(string(value)))
		}
	}
	for _, dir := range append([]string{"/etc/cni", "/opt/cni", "/opt/containerd", "/opt/nri", "/var/lib/containerd", "/var/lib/containers", "/usr/libexec/kubernetes"}, hidden...) {
		if _, err := os.Stat(dir); err == nil {
			m.lines["directory"] = append(m.lines["directory"], dir)
		}
	}
	m.lines["cgroup"] = containerCgroups()
	return m, nil
}

// restore takes back what the end of the namespaces does not.
func (m machine) restore() error {
	var errs []error
	for path, value := range m.settings {
		if now, err := os.ReadFile(path); err == nil && string(now) != value {
			errs = append(errs, os.WriteFile(path, []byte(value), 0o644))
		}
	}
	for _, group := range slices.Backward(containerCgroups()) {
		if !slices.Contains(m.lines["cgroup"], group) {
			errs = append(errs, removeCgroup(group))
		}
	}
	for _, dir := range hidden {
		if !slices.Contains(m.lines["directory"], dir) {
			errs = append(errs, removeIfThere(dir))
		}
	}
	for dir, left := range buildahLeaves {
		if !slices.Contains(m.lines["directory"], dir) {
			for _, path := range append(left, "") {
				_ = os.Remove(filepath.Join(dir, path)) // What cannot be removed, check will say.
			}
		}
	}
	return errors.Join(errs...)
}

// buildahLeaves are the directories that buildah makes when it is used for the first time on a machine, wherever it is told to
// keep its images, and what is in them, the inner before the outer.
var buildahLeaves = map[string][]string{
	"/etc/cni":            {"net.d/cni.lock", "net.d"},
	"/var/lib/containers": {"cache/blob-info-cache-v1.boltdb", "cache/blob-info-cache-v1.sqlite", "cache"},
}

// containerCgroups are the cgroups that the kubelets and containerd make for Kubernetes, the outer before the inner.
func containerCgroups() (groups []string) {
	for _, root := range cgroupRoots() {
		for _, name := range []string{"k8s.io", firstWorker.cgroup(), secondWorker.cgroup()} {
			outer := filepath.Join(root, name)
			inner, err := os.ReadDir(outer)
			if err != nil {
				continue // none was made
			}
			groups = append(groups, outer)
			for _, e := range inner {
				if e.IsDir() {
					groups = append(groups, filepath.Join(outer, e.Name()))
				}
			}
		}
	}
	return groups
}

func removeIfThere(dir string) error {
	if err := os.Remove(dir); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// removeCgroup removes an empty group with those in it, the innermost first.
func removeCgroup(dir string) error {
	var dirs []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			dirs = append(dirs, path)
		}
		return err
	})
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	for _, d := range slices.Backward(dirs) {
		err = errors.Join(err, os.Remove(d))
	}
	return err
}

// check compares the machine with what it is after the run in the scratch directory.
func (m machine) check(after machine, scratch string) error {
	var errs []error
	for kind, lines := range after.lines {
		for _, line := range lines {
			if !slices.Contains(m.lines[kind], line) {
				errs = append(errs, fmt.Errorf("left behind: %s %s", kind, line))
			}
		}
	}
	for kind, lines := range m.lines {
		for _, line := range lines {
			if !slices.Contains(after.lines[kind], line) {
				errs = append(errs, fmt.Errorf("was there before: %s %s", kind, line))
			}
		}
	}
	cmdlines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range cmdlines {
		// A process that has ended by now reads as empty.
		if cmdline, _ := os.ReadFile(path); bytes.Contains(cmdline, []byte(scratch)) {
			errs = append(errs, fmt.Errorf("left behind: process %s: %s", strings.Split(path, "/")[2], bytes.ReplaceAll(cmdline, []byte{0}, []byte(" "))))
		}
	}
	return errors.Join(append(errs, err)...)
}

// cgroupRoots are the mounted hierarchies that containers are put into: one (version 2), or one for each controller.
func cgroupRoots() []string {
	const all = "/sys/fs/cgroup"
	if _, err := os.Stat(filepath.Join(all, "cgroup.controllers")); err == nil {
		return []string{all}
	}
	roots, err := filepath.Glob(filepath.Join(all, "*", "cgroup.procs"))
	if err != nil {
		panic(err) // the pattern is wrong
	}
	for i, file := range roots {
		roots[i] = filepath.Dir(file)
	}
	return roots
}
