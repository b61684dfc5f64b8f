package node

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// exec runs commands in a container by way of the API server and a real kubelet, with examples/exec.
func (s *story) exec() {
	const pod = "echo"
	pods := s.kube.CoreV1().Pods(namespace)
	if _, err := pods.Create(s.Context(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: pod},
		Spec: corev1.PodSpec{
			RestartPolicy:                 corev1.RestartPolicyNever,
			TerminationGracePeriodSeconds: new(int64(1)),
			Containers: []corev1.Container{{
				Name: "echo", Image: serverImage, ImagePullPolicy: corev1.PullIfNotPresent, Args: []string{"cat"}, Stdin: true, StdinOnce: true,
			}},
		},
	}, metav1.CreateOptions{}); err != nil {
		s.Fatal(err)
	}
	defer s.kubectl("delete", "pod", pod, "-n", namespace, "--timeout=30s")
	s.kubectl("wait", "--for=condition=Ready", "pod/"+pod, "-n", namespace, "--timeout=60s")

	s.expectExec("through\n", 0, "through\n", "", pod, "--", "/server", "cat")
	s.expectExec("", 7, "on standard output\n", "on standard error\n", pod, "--", "/server", "exit", "7")
	s.interruptExec(pod)
	// The container was started to read until its first reader of input is gone: so it ends, and well.
	s.expectExec("attached\n", 0, "attached\n", "", "--attach", pod)
	s.eventually(30*time.Second, "the end of what was attached to", func() error {
		seen, err := pods.Get(s.Context(), pod, metav1.GetOptions{})
		if err == nil && seen.Status.Phase != corev1.PodSucceeded {
			err = fmt.Errorf("the pod is %s", seen.Status.Phase)
		}
		return err
	})
}

// expectExec runs the program to its end. What it is not given as input is nothing, not an empty file.
func (s *story) expectExec(stdin string, code int, stdout, stderr string, args ...string) {
	s.Helper()
	var out, complaints bytes.Buffer
	cmd := s.execCommand(&out, args...)
	cmd.Stderr = &complaints
	if stdin != "" {
		cmd.Stdin = strings.NewReader(stdin)
	}
	err := cmd.Run()
	if got := cmd.ProcessState.ExitCode(); got != code || out.String() != stdout || complaints.String() != stderr {
		s.Errorf("exec %q ended with %d (%v), %q and %q, want %d, %q and %q", args, got, err, &out, &complaints, code, stdout, stderr)
	}
}

func (s *story) execCommand(stdout io.Writer, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(s.Context(), execCommand(s.node.scratch), append([]string{"--kubeconfig", s.node.kubeconfig(), "--namespace", namespace}, args...)...)
	cmd.Stdout = stdout
	return cmd
}

// interruptExec interrupts the program, and finds that the command in the container goes on: nobody ends it.
func (s *story) interruptExec(pod string) {
	s.Helper()
	read, write, err := os.Pipe()
	if err != nil {
		s.Fatal(err)
	}
	defer read.Close()
	cmd := s.execCommand(write, pod, "--", "/server", "wait")
	if err := cmd.Start(); err != nil {
		s.Fatal(err)
	}
	write.Close()
	if _, err := read.Read(make([]byte, 100)); err != nil {
		s.Fatal(err)
	}
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		s.Fatal(err)
	}
	_ = cmd.Wait()
	if got := cmd.ProcessState.ExitCode(); got != 130 {
		s.Errorf("exec ended with %d after SIGINT, want 130", got)
	}
	time.Sleep(5 * time.Second)
	if !running("/server", "wait") {
		s.Error("the command in the container has ended with the connection: the package comment of examples/exec says otherwise")
	}
}

// running reports whether there is a process with these arguments in the namespaces.
func running(args ...string) bool {
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, file := range files {
		if line, err := os.ReadFile(file); err == nil && string(line) == strings.Join(args, "\x00")+"\x00" {
			return true
		}
	}
	return false
}
