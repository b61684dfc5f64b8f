// Package localcluster finds the processes of the cluster that hack/cluster.sh starts, for tests that kill or stop them.
package localcluster

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Dir returns where kwok has its files of the cluster whose kubeconfig is in a directory. It does not exist for any other cluster.
func Dir(directory string) string { return filepath.Join(directory, "kwok", "clusters", "belay") }

// PIDFile returns the file that names the process of a component of the cluster whose files are in dir.
func PIDFile(dir, component string) string { return filepath.Join(dir, "pids", component+".pid") }

// Process returns the process of such a component, and its command. A process that is not that, but has its number, is an
// error, and so are one that has ended and nobody has waited for, and a system without /proc.
func Process(dir, component string) (pid int, command []string, err error) {
	data, err := os.ReadFile(PIDFile(dir, component))
	if err != nil {
		return 0, nil, err
	}
	if pid, err = strconv.Atoi(strings.TrimSpace(string(data))); err != nil {
		return 0, nil, err
	}
	if data, err = os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); err != nil {
		return 0, nil, err
	}
	for argument := range bytes.SplitSeq(bytes.TrimSuffix(data, []byte{0}), []byte{0}) {
		command = append(command, string(argument))
	}
	if want := filepath.Join(dir, "bin", component); command[0] != want {
		return 0, nil, fmt.Errorf("process %d is %s, not %s", pid, command[0], want)
	}
	return pid, command, nil
}
