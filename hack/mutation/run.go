package main

import (
	"context"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/tools/go/packages"
)

// suite is a package's tests, compiled with all the mutants.
type suite struct {
	binary string
	dir    string        // the package's, where tests run
	limit  time.Duration // the CPU time that they may take with a mutant, beside ten times what they take without
}

// test is one of them, with what it does without any mutant.
type test struct {
	name      string
	reaches   map[int]bool // by the mutant's number
	cpu, wall time.Duration
}

type outcome int

const (
	survived outcome = iota
	failed
	endless
)

// memory is how many kilobytes of addresses tests may have: a mutant that gathers things for ever must not take all the memory.
const memory = 8 << 20

// build compiles the tests of the package with the mutants, in dir.
func build(ctx context.Context, pkg *packages.Package, mutants []mutant, dir string, limit time.Duration) (*suite, error) {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, err
	}
	overlay, err := instrument(pkg, mutants, dir)
	if err != nil {
		return nil, err
	}
	s := &suite{binary: filepath.Join(dir, "test"), dir: pkg.Dir, limit: limit}
	if output, err := s.command(ctx, "go", "test", "-c", "-overlay", overlay, "-o", s.binary, ".").CombinedOutput(); err != nil {
		return nil, fmt.Errorf("compile it with mutants: %w\n%s", err, output)
	}
	return s, nil
}

// command is a command that ends with the context, and so do those that it has started. What it leaves then is in the temporary folder.
func (s *suite) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = s.dir
	cmd.Env = append(os.Environ(), "TMPDIR="+filepath.Dir(s.binary))
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

// tests is a command that runs these tests with the mutant, and is killed when it has taken so much CPU time.
func (s *suite) tests(ctx context.Context, number int, cpu time.Duration, names ...string) *exec.Cmd {
	limits := fmt.Sprintf(`ulimit -v %d 2>/dev/null; ulimit -t %.0f && exec "$0" "$@"`, memory, math.Ceil(cpu.Seconds()))
	cmd := s.command(ctx, "sh", "-c", limits, s.binary, "-test.failfast", "-test.run", "^("+strings.Join(names, "|")+")$")
	cmd.Env = append(cmd.Env, "MUTATION="+strconv.Itoa(number))
	return cmd
}

// baseline runs each test alone, but those to skip, and returns them, the quickest first.
func (s *suite) baseline(ctx context.Context, skip *regexp.Regexp) ([]*test, error) {
	list, err := s.command(ctx, s.binary, "-test.list", ".").Output()
	if err != nil {
		return nil, fmt.Errorf("list the tests: %w", err)
	}
	var tests []*test
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(runtime.GOMAXPROCS(0))
	for _, name := range strings.Fields(string(list)) {
		if strings.HasPrefix(name, "Benchmark") || (skip != nil && skip.MatchString(name)) {
			continue
		}
		t := &test{name: name, reaches: map[int]bool{}}
		tests = append(tests, t)
		group.Go(func() error { return s.alone(ctx, t) })
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	slices.SortFunc(tests, func(a, b *test) int { return int(a.wall - b.wall) })
	return tests, nil
}

// alone runs a test without any mutant, which it has to pass, and notes what it reaches and how long it takes.
func (s *suite) alone(ctx context.Context, t *test) error {
	reached := s.binary + "-reached-" + t.name
	cmd := s.tests(ctx, 0, time.Hour, t.name)
	cmd.Env = append(cmd.Env, "MUTATION_REACHED="+reached)
	start := time.Now()
	output, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s fails without any mutant: %w\n%s", t.name, err, output)
	}
	t.wall, t.cpu = time.Since(start), cmd.ProcessState.UserTime()+cmd.ProcessState.SystemTime()
	numbers, err := os.ReadFile(reached)
	if err != nil {
		return err
	}
	for _, text := range strings.Fields(string(numbers)) {
		number, err := strconv.Atoi(text)
		if err != nil {
			return err
		}
		t.reaches[number] = true
	}
	return nil
}

// try runs tests with a mutant until one fails. A few of the first run together, and if they pass, more of the others.
func (s *suite) try(ctx context.Context, number int, tests []*test) (outcome, error) {
	for size := 10; len(tests) > 0; size *= 4 {
		together := tests[:min(size, len(tests))]
		tests = tests[len(together):]
		if outcome, err := s.together(ctx, number, together); err != nil || outcome != survived {
			return outcome, err
		}
	}
	return survived, nil
}

// together runs tests with a mutant. They may take ten times as long as without, and somewhat more.
func (s *suite) together(ctx context.Context, number int, tests []*test) (outcome, error) {
	cpu, wall := s.limit, 10*s.limit
	var names []string
	for _, t := range tests {
		names = append(names, t.name)
		cpu += 10 * t.cpu
		wall += 10 * t.wall
	}
	limited, cancel := context.WithTimeout(ctx, wall)
	defer cancel()
	cmd := s.tests(limited, number, cpu, names...)
	err := cmd.Run()
	switch {
	case ctx.Err() != nil:
		return survived, ctx.Err()
	case limited.Err() != nil:
		return endless, nil
	case cmd.ProcessState == nil: // It did not start.
		return survived, err
	case !cmd.ProcessState.Exited(): // It was killed.
		return endless, nil
	case err != nil:
		return failed, nil
	default:
		return survived, nil
	}
}
