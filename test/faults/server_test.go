package faults

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/belay-dev/belay/test/localcluster"
)

// component is a process of the local cluster.
type component struct {
	name    string
	pidFile string
	pid     int
	command []string
	dir     string
}

// find returns a component of the cluster whose kubeconfig is used.
func find(t *testing.T, name string) *component {
	t.Helper()
	dir := localcluster.Dir(filepath.Dir(os.Getenv("KUBECONFIG")))
	c := &component{name: name, pidFile: localcluster.PIDFile(dir, name)}
	var err error
	if c.pid, c.command, err = localcluster.Process(dir, name); errors.Is(err, fs.ErrNotExist) {
		t.Skip("this needs the local cluster, and processes that can be told by /proc: ", err)
	} else if err != nil {
		t.Fatal(err)
	}
	if c.dir, err = os.Readlink(fmt.Sprintf("/proc/%d/cwd", c.pid)); err != nil {
		t.Fatal(err)
	}
	return c
}

// restart kills it and starts it again, to outlive the tests as the one before would have.
func (c *component) restart(down time.Duration) error {
	if err := syscall.Kill(c.pid, syscall.SIGKILL); err != nil {
		return err
	}
	time.Sleep(down)
	log, err := os.OpenFile(filepath.Join(c.dir, "logs", c.name+".again.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		log = nil
	}
	cmd := exec.Command(c.command[0], c.command[1:]...)
	cmd.Dir, cmd.Stdout, cmd.Stderr, cmd.SysProcAttr = c.dir, log, log, &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	go func() { _ = cmd.Wait() }()
	c.pid = cmd.Process.Pid
	return os.WriteFile(c.pidFile, []byte(strconv.Itoa(c.pid)), 0o644)
}

// TestServer tells all stories at the same time, while what they run on is killed and started again.
func TestServer(t *testing.T) {
	if !*serverFlag {
		t.Skip("-server says that the cluster is for that")
	}
	for _, name := range []string{"kube-apiserver", "etcd"} {
		t.Run(name, func(t *testing.T) {
			c := find(t, name)
			over := make(chan struct{})
			t.Cleanup(func() { <-over })
			go func() {
				defer close(over)
				for range 3 {
					time.Sleep(6 * time.Second)
					if err := c.restart(2 * time.Second); err != nil {
						t.Error(err)
					}
				}
			}()
			for _, story := range stories {
				t.Run(story.name, func(t *testing.T) {
					t.Parallel()
					story.gaps = true
					tell(t, story, nil, 0)
				})
			}
		})
	}
}
