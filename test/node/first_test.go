package node

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
)

// hidden are the directories in which containerd, CNI and the kubelet leave files whatever they are told: they get
// empty ones instead of the machine's.
var hidden = []string{"/run", "/var/log", "/var/lib/kubelet", "/var/lib/cni"}

// first is the first process in the namespaces. When it ends, the kernel ends all others, and with the last of them go
// the mounts and the network. It takes care of the orphans, as a first process has to.
func first() error {
	if os.Getpid() != 1 {
		return errors.New("this is not the first process in a namespace")
	}
	if err := privateMounts(); err != nil {
		return err
	}
	if err := exec.Command("ip", "link", "set", "lo", "up").Run(); err != nil {
		return fmt.Errorf("bring the loopback interface up: %w", err)
	}
	self, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return err
	}
	if err := os.Setenv(stage, "inside"); err != nil {
		return err
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	child, err := os.StartProcess(self, os.Args, &os.ProcAttr{
		Files: []*os.File{nil, os.Stdout, os.Stderr},
	})
	if err != nil {
		return err
	}
	go func() {
		for s := range signals {
			_ = child.Signal(s)
		}
	}()
	for {
		var status syscall.WaitStatus
		switch pid, err := syscall.Wait4(-1, &status, 0, nil); {
		case errors.Is(err, syscall.EINTR):
		case err != nil:
			return err
		case pid != child.Pid:
		case status.ExitStatus() == 0:
			return nil
		default:
			return fmt.Errorf("failed (%s)", describe(status))
		}
	}
}

func describe(status syscall.WaitStatus) string {
	if status.Signaled() {
		return status.Signal().String()
	}
	return fmt.Sprintf("exit code %d", status.ExitStatus())
}

// privateMounts makes the mounts of this namespace independent of the machine's. Among each other they are shared, as a
// kubelet expects.
func privateMounts() error {
	for _, how := range []uintptr{syscall.MS_PRIVATE, syscall.MS_SHARED} {
		if err := syscall.Mount("", "/", "", syscall.MS_REC|how, ""); err != nil {
			return fmt.Errorf("separate the mounts from the machine's: %w", err)
		}
	}
	if err := syscall.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	for _, dir := range hidden {
		if err := syscall.Mount("belay-node", dir, "tmpfs", 0, ""); err != nil {
			return fmt.Errorf("mount over %s: %w", dir, err)
		}
	}
	return nil
}
