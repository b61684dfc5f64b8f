package faults

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// belay is a process that works in the namespace of a story, and its way to the API server.
type belay struct {
	*proxy
	args []string
	dir  string // of its kubeconfig and log

	mu     sync.Mutex
	cmd    *exec.Cmd
	ended  chan struct{} // closed when cmd has ended
	killed bool          // cmd, by the test
	over   bool          // it is not started again
	away   time.Duration // how long it is not, when it ends the next time
	began  time.Time     // cmd
	ends   []ending      // those that the test did not make
}

// ending is how a process ended that the test had not killed.
type ending struct {
	how string
	log string // its last lines
}

// isOfLease reports whether it ended because it had lost the Lease, as it has to: to be started again.
func (e ending) isOfLease() bool {
	lines := strings.Split(strings.TrimSpace(e.log), "\n")
	return e.how == "exit status 1" && strings.Contains(lines[len(lines)-1], "the Lease is lost")
}

// startBelay starts a Belay in a namespace. It ends with the test.
func startBelay(t *testing.T, namespace string, args ...string) *belay {
	t.Helper()
	b := &belay{dir: t.TempDir(), proxy: newProxy(namespace, cluster.api, cluster.certificates)}
	b.proxy.belay = b
	b.args = append([]string{"--kubeconfig", filepath.Join(b.dir, "kubeconfig"), "--namespace", namespace}, args...)
	if err := b.writeKubeconfig(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		b.mu.Lock()
		b.over = true
		b.mu.Unlock()
		b.signal(syscall.SIGCONT)
		b.kill()
		b.close()
	})
	if err := b.start(); err != nil {
		t.Fatal("start belay: ", err)
	}
	return b
}

// writeKubeconfig writes a kubeconfig that leads to the proxy, with a certificate and a token in files beside it.
func (b *belay) writeKubeconfig() error {
	config := clientcmdapi.NewConfig()
	config.Clusters["c"] = &clientcmdapi.Cluster{Server: b.server.URL, CertificateAuthorityData: b.bundle}
	config.AuthInfos["u"] = &clientcmdapi.AuthInfo{TokenFile: filepath.Join(b.dir, "token"), ClientCertificate: filepath.Join(b.dir, "client.crt"),
		ClientKey: filepath.Join(b.dir, "client.key")}
	config.Contexts["x"] = &clientcmdapi.Context{Cluster: "c", AuthInfo: "u"}
	config.CurrentContext = "x"
	if err := errors.Join(b.useToken("first"), b.useCertificate(0)); err != nil {
		return err
	}
	return clientcmd.WriteToFile(*config, filepath.Join(b.dir, "kubeconfig"))
}

// useToken lets requests with this token through and no others, from the moment on that Belay can read it.
func (b *belay) useToken(token string) error {
	if err := os.WriteFile(filepath.Join(b.dir, "token"), []byte(token), 0o600); err != nil {
		return err
	}
	b.proxy.mu.Lock()
	defer b.proxy.mu.Unlock()
	b.token = token
	return nil
}

// useCertificate lets connections with this certificate be made and no others, from the moment on that Belay can read it.
func (b *belay) useCertificate(number int) error {
	c := b.client[number]
	err := errors.Join(os.WriteFile(filepath.Join(b.dir, "client.crt"), c.certificate, 0o600), os.WriteFile(filepath.Join(b.dir, "client.key"), c.key, 0o600))
	b.accepted.Store(int32(number))
	return err
}

func (b *belay) logFile() string { return filepath.Join(b.dir, "belay.log") }

// start starts the process, unless the story is over.
func (b *belay) start() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.over {
		return nil
	}
	log, err := os.OpenFile(b.logFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd, ended := exec.Command(cluster.binary, b.args...), make(chan struct{})
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return err
	}
	b.cmd, b.ended, b.killed, b.began = cmd, ended, false, time.Now()
	go func() {
		err := cmd.Wait()
		close(ended)
		b.mu.Lock()
		if how := fmt.Sprint(err); !b.killed || how != "signal: killed" { // It may have ended before it was killed.
			b.ends = append(b.ends, ending{how, b.logged(5)})
		}
		away := b.away
		b.away = 0
		b.mu.Unlock()
		time.Sleep(max(away, pollEvery))
		if err := b.start(); err != nil {
			panic(fmt.Sprintf("start belay again: %v", err))
		}
	}()
	return nil
}

func (b *belay) signal(s syscall.Signal) {
	b.mu.Lock()
	defer b.mu.Unlock()
	_ = b.cmd.Process.Signal(s)
}

// kill ends the process, and returns when it is gone. Another one takes its place, as where a kubelet sees to it.
func (b *belay) kill() {
	b.mu.Lock()
	b.killed = true
	_ = b.cmd.Process.Kill()
	ended := b.ended
	b.mu.Unlock()
	<-ended
}

// stayAway has it started again so long after it has ended the next time.
func (b *belay) stayAway(long time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.away = long
}

// age returns for how long the process has been there.
func (b *belay) age() time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	return time.Since(b.began)
}

// endings returns how it ended, each time that the test had not killed it.
func (b *belay) endings() []ending {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.ends)
}

// logged returns the last lines of its log.
func (b *belay) logged(lines int) string {
	data, err := os.ReadFile(b.logFile())
	if err != nil {
		return err.Error()
	}
	all := bytes.Split(bytes.TrimSpace(data), []byte("\n"))
	return string(bytes.Join(all[max(0, len(all)-lines):], []byte("\n")))
}

// awaitWatching waits until it watches all that it has to.
func (b *belay) awaitWatching(t *testing.T) {
	t.Helper()
	deadline := time.Now().Add(*patience)
	for {
		b.proxy.mu.Lock()
		watching := 0
		for _, s := range b.streams {
			if s.end != nil {
				watching++
			}
		}
		b.proxy.mu.Unlock()
		if watching == len(watched) {
			return
		}
		if time.Now().After(deadline) || len(b.endings()) > 0 {
			t.Fatalf("belay does not watch; its log ends with:\n%s", b.logged(20))
		}
		time.Sleep(pollEvery)
	}
}
