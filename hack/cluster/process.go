package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// process is a running program of this cluster.
type process struct {
	name string
	pid  int
}

// processes finds the programs that were started from dir, whatever pid files
// say: those can be stale, name a process that got the number later, be missing
// (stopped between fork and write), or be copied along with the checkout.
func processes(ctx context.Context, dir string) ([]process, error) {
	if _, err := os.Stat("/proc/self/cmdline"); err != nil {
		out, err := exec.CommandContext(ctx, "ps", "-axo", "pid=,command=").Output()
		if err != nil {
			return nil, err
		}
		return fromPS(string(out), dir), nil
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var found []process
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		// Gone by now, or a zombie: both read as empty.
		cmdline, _ := os.ReadFile(filepath.Join("/proc", entry.Name(), "cmdline"))
		program, _, _ := strings.Cut(string(cmdline), "\x00")
		if name, ok := startedFrom(program, dir); ok {
			found = append(found, process{name, pid})
		}
	}
	return found, nil
}

// fromPS is processes for systems without /proc.
func fromPS(out, dir string) []process {
	var found []process
	for line := range strings.Lines(out) {
		number, command, _ := strings.Cut(strings.TrimSpace(line), " ")
		pid, err := strconv.Atoi(number)
		if err != nil || !strings.HasPrefix(command, dir+"/") {
			continue
		}
		program, _, _ := strings.Cut(command[len(dir)+1:], " ")
		if name, ok := startedFrom(dir+"/"+program, dir); ok {
			found = append(found, process{name, pid})
		}
	}
	return found
}

// startedFrom tells whether program lies directly in dir, and its name there.
func startedFrom(program, dir string) (name string, ok bool) {
	name, ok = strings.CutPrefix(program, dir+"/")
	return name, ok && name != "" && !strings.Contains(name, "/")
}

const (
	termGrace = time.Second
	killGrace = 10 * time.Second
)

// stopAll ends every program started from dir and returns when none is left.
// Nothing in the cluster is worth waiting for, so the grace is short.
func stopAll(ctx context.Context, dir string) error {
	start := time.Now()
	for sent := map[int]syscall.Signal{}; ; {
		running, err := processes(ctx, dir)
		if err != nil || len(running) == 0 {
			return err
		}
		signal := syscall.SIGTERM
		if time.Since(start) > termGrace {
			signal = syscall.SIGKILL
		}
		for _, p := range running {
			if sent[p.pid] == signal {
				continue
			}
			if err := syscall.Kill(p.pid, signal); err != nil && !errors.Is(err, syscall.ESRCH) {
				return fmt.Errorf("stop %s (process %d): %w", p.name, p.pid, err)
			}
			sent[p.pid] = signal
		}
		if time.Since(start) > killGrace {
			return errors.New("some processes do not end, not even with SIGKILL")
		}
		if err := sleep(ctx, 50*time.Millisecond); err != nil {
			return err
		}
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
