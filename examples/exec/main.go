// Command exec runs a command in a container, with its standard streams and its exit code, or attaches to what runs there.
//
// The API server passes the streams on to the kubelet of the pod's node. They are several streams in one connection that
// began as a request: with WebSocket, or with SPDY where something on the way knows no WebSocket. Which it was, the caller
// need not know, but for one thing: SPDY takes the right to create pods/exec, WebSocket (since Kubernetes 1.35) to get it,
// too. Who lacks that one gets SPDY. Whoever may execute can do all that the container can.
//
// The exit code is the command's. How long the command lives is not up to this program, though: when the connection ends
// early, by SIGINT or by a fault, the command goes on in the container, and nobody hears how it ends. Its output is not
// stored. For work that has to be done use a Job, whose end the API server remembers. There is no terminal here: kubectl
// exec -t has one.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/remotecommand"

	"github.com/belay-dev/belay/examples/internal/start"
)

// timeout bounds how long the pod is asked for. What runs in it may take as long as it likes.
const timeout = 30 * time.Second

// session is what is asked for on the command line.
type session struct {
	pod       string
	command   []string
	container string
	stdin     bool
	attach    bool
}

func main() {
	// What client-go cannot return it would log here: that a command ended before it had read all of its input, and that
	// output could not be written. The one is no error, and output remembers the other.
	utilruntime.ErrorHandlers = nil
	var s session
	flag.StringVar(&s.container, "container", "", "the container; needed if the pod has several")
	flag.BoolVar(&s.stdin, "i", false, "pass standard input on from a terminal, too; from a pipe or a file it always is")
	flag.BoolVar(&s.attach, "attach", false, "no command: attach to what runs in the container, until it ends or this is interrupted")
	start.Main("[flags] POD -- COMMAND [ARG...] runs a command in a container.", func(ctx context.Context, config start.Config) error {
		if err := s.parse(flag.Args()); err != nil {
			return err
		}
		client, err := kubernetes.NewForConfig(config.Config)
		if err != nil {
			return err
		}
		asking, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		pod, err := client.CoreV1().Pods(config.Namespace).Get(asking, s.pod, metav1.GetOptions{})
		if err != nil {
			return err
		}
		container, err := s.choose(pod)
		if err != nil {
			return err
		}
		executor, err := dial(config.Config, s.url(client, pod, container))
		if err != nil {
			return err
		}
		err = executor.StreamWithContext(ctx, s.streams(container))
		if s.attach && ctx.Err() != nil {
			return nil // It was only looking on.
		}
		return errors.Join(err, stdout.failed, stderr.failed)
	})
}

// parse reads the arguments that are no flags.
func (s *session) parse(args []string) error {
	if len(args) > 0 {
		s.pod, s.command = args[0], args[1:]
	}
	if len(s.command) > 0 && s.command[0] == "--" {
		s.command = s.command[1:]
	}
	switch {
	case s.pod == "":
		return errors.New("no pod; say exec POD -- COMMAND")
	case len(s.command) == 0 && !s.attach:
		return fmt.Errorf("no command; say exec %s -- COMMAND", s.pod)
	case len(s.command) > 0 && s.attach:
		return fmt.Errorf("--attach takes no command, but got %q", s.command)
	}
	return nil
}

// choose returns the container that is meant. The API server would say much less clearly what is wrong.
func (s *session) choose(pod *corev1.Pod) (*corev1.Container, error) {
	if pod.Status.Phase != corev1.PodRunning {
		return nil, fmt.Errorf("pod %s is %s: nothing can be run in it", pod.Name, pod.Status.Phase)
	}
	all := pod.Spec.Containers
	if s.container == "" && len(all) == 1 {
		return &all[0], nil
	}
	all = slices.Concat(all, pod.Spec.InitContainers) // Sidecars are there.
	var names []string
	for i := range all {
		if all[i].Name == s.container {
			return &all[i], nil
		}
		names = append(names, all[i].Name)
	}
	if s.container == "" {
		return nil, fmt.Errorf("pod %s has several containers: choose one with --container: %s", pod.Name, strings.Join(names, ", "))
	}
	return nil, fmt.Errorf("pod %s has no container %s, but: %s", pod.Name, s.container, strings.Join(names, ", "))
}

// output is a stream of this process that remembers why it could not be written to.
type output struct {
	to     io.Writer
	failed error
}

func (o *output) Write(data []byte) (n int, err error) {
	n, o.failed = o.to.Write(data)
	return n, o.failed
}

var stdout, stderr = &output{to: os.Stdout}, &output{to: os.Stderr}

// streams returns the streams of this process that are used. One that is nil must not be asked for in the URL either.
func (s *session) streams(container *corev1.Container) remotecommand.StreamOptions {
	streams := remotecommand.StreamOptions{Stdout: stdout, Stderr: stderr}
	if s.reads(container) {
		streams.Stdin = os.Stdin
	}
	if s.onTerminal(container) {
		streams.Tty, streams.Stderr = true, nil // A terminal has one output.
	}
	return streams
}

// reads reports whether standard input is passed on. Who attaches can give input only to a process that was started to
// take some.
func (s *session) reads(container *corev1.Container) bool {
	info, err := os.Stdin.Stat()
	piped := err == nil && info.Mode()&os.ModeCharDevice == 0
	return (s.stdin || piped) && (!s.attach || container.Stdin)
}

// onTerminal reports whether what is attached to was started on a terminal.
func (s *session) onTerminal(container *corev1.Container) bool { return s.attach && container.TTY }
