package node

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// inside starts the node and runs the tests on it. It does not stop the node: the namespaces end with this process.
func inside(ctx context.Context, m *testing.M) error {
	scratch := os.Getenv(scratchVariable)
	start := time.Now()
	n := &node{scratch: scratch}
	starting, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	if err := startRegistry(); err != nil {
		return err
	}
	if err := n.start(starting); err != nil {
		n.printLogs()
		return fmt.Errorf("start the node: %w", err)
	}
	image, err := readImage(archive(scratch, belayImage))
	if err != nil {
		return err
	}
	figures.add("image", fmt.Sprintf("%.1f MB", float64(image.size)/1e6))
	figures.add("node Ready after", time.Since(start).Round(100*time.Millisecond))
	theNode = n
	// Trials wait, most of the time, however few CPUs the machine has. With more of them at once a kubelet is so late with its
	// Events that there are none yet when they are asked for.
	if err := flag.Set("test.parallel", "6"); err != nil {
		return err
	}
	if m.Run() != 0 {
		n.printLogs()
		return errors.New("the story went wrong")
	}
	figures.print()
	return nil
}

// theNode is what the tests run on.
var theNode *node

// daemon is a process of the node's, with its log.
type daemon struct {
	name  string
	log   string
	pid   int
	ended chan error
}

// startDaemon starts a program that is to run until the end.
func startDaemon(logs, name, program string, args ...string) (*daemon, error) {
	d := &daemon{name: name, log: filepath.Join(logs, strings.ReplaceAll(name, " ", "-")+".log"), ended: make(chan error, 1)}
	log, err := os.Create(d.log)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command(program, args...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	d.pid = cmd.Process.Pid
	go func() { d.ended <- fmt.Errorf("%s has ended: %v", name, cmd.Wait()) }()
	return d, nil
}

// tail returns the last lines of a file.
func tail(path string, lines int) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	all := bytes.Split(bytes.TrimSpace(data), []byte("\n"))
	return string(bytes.Join(all[max(0, len(all)-lines):], []byte("\n")))
}

// waitFor asks again and again until there is no error, for a while, as long as the daemon runs.
func waitFor(ctx context.Context, most time.Duration, d *daemon, ask func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	for {
		err := ask(ctx)
		if err == nil {
			return nil
		}
		select {
		case ended := <-d.ended:
			return ended
		case <-ctx.Done():
			return fmt.Errorf("%s, after %s: %w", d.name, most, err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}
