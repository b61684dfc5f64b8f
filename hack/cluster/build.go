package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"
)

const (
	progressEvery = 10 * time.Second
	lockPoll      = 200 * time.Millisecond
)

// buildFlags are given to every build, of Belay, of the cluster, and of this program (hack/cluster.sh): what one has compiled
// serves the others, too. What debuggers read would not be linked, so it is not made either: a tenth of the work.
var buildFlags = []string{"-trimpath", "-buildvcs=false", "-gcflags=all=-dwarf=false"}

// build is one "go build" that says how far it is.
type build struct {
	what     string   // for people
	dir      string   // of the module
	args     []string // more flags
	out      string   // -o
	packages []string // of programs
	log      string   // where to leave the whole output of one that fails
}

// run builds. Its error is one line that says what to do.
func (b *build) run(ctx context.Context) error {
	start := time.Now()
	say("building %s", b.what)
	p := &progress{start: start}
	// Without EmbedFiles, go list takes packages that embed files for stale.
	listed, err := b.command(ctx, p, "list", "-deps", "-json=ImportPath,Dir,GoFiles,EmbedFiles,Stale,StaleReason")
	if err != nil {
		return err
	}
	if p.weights, err = staleWeights(listed); err != nil {
		return err
	}
	if len(p.weights) > 0 {
		say("%d packages to compile", len(p.weights))
	}
	p.start = time.Now()
	if _, err := b.command(ctx, p, "build", "-v", "-o", b.out); err != nil {
		return err
	}
	say("built in %s", time.Since(start).Round(time.Second))
	return nil
}

// command runs a go command on the packages and returns its output. Meanwhile it says how far it is.
func (b *build) command(ctx context.Context, p *progress, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "go", slices.Concat(args[:1], buildFlags, b.args, args[1:], b.packages)...)
	cmd.Dir = b.dir
	cmd.Env = append(os.Environ(), "GOWORK=off", "CGO_ENABLED=0")
	// go starts compilers: they are stopped with it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = 5 * time.Second
	// Not straight into a file: that one would be empty when the disk is full.
	var stdout, rest bytes.Buffer
	told, teller := io.Pipe()
	cmd.Stdout, cmd.Stderr = &stdout, teller

	done := make(chan error, 1)
	lines := make(chan string)
	go func() {
		done <- cmd.Run()
		teller.Close()
	}()
	go func() {
		defer close(lines)
		for scanner := bufio.NewScanner(told); scanner.Scan(); {
			lines <- scanner.Text()
		}
		io.Copy(io.Discard, told) // of a line that is too long
	}()
	tick := time.NewTicker(progressEvery)
	defer tick.Stop()
	for open := true; open; {
		var line string
		select {
		case <-tick.C:
			say("%s", p.String(time.Now()))
		case line, open = <-lines:
			if open && !p.saw(line) {
				fmt.Fprintln(&rest, line)
			}
		}
	}
	if err := <-done; err != nil {
		return nil, b.failure(ctx, err, rest.Bytes())
	}
	return stdout.Bytes(), nil
}

// progress is how far a build is.
type progress struct {
	start    time.Time
	fetching int            // modules that were begun to be fetched
	weights  map[string]int // bytes of source, by package that has to be compiled
	begun    map[string]bool
}

// saw takes note of a line that "go build -v" says of its progress; it reports whether the line is one.
func (p *progress) saw(line string) bool {
	if strings.HasPrefix(line, "go: downloading ") {
		p.fetching++
		return true
	}
	if _, known := p.weights[line]; !known {
		return false
	}
	if p.begun == nil {
		p.begun = map[string]bool{}
	}
	p.begun[line] = true
	return true
}

// String says how far the build is, and how long it may still take if the rest is like what was.
func (p *progress) String(now time.Time) string {
	taken := now.Sub(p.start)
	if p.weights == nil {
		return fmt.Sprintf("fetching modules, %d so far, %s", p.fetching, taken.Round(time.Second))
	}
	var done, total int
	for pkg, bytes := range p.weights {
		total += bytes
		if p.begun[pkg] {
			done += bytes
		}
	}
	if done == total {
		return fmt.Sprintf("all packages compiled, linking, %s", taken.Round(time.Second))
	}
	text := fmt.Sprintf("%d of %d packages compiled, %s", len(p.begun), len(p.weights), taken.Round(time.Second))
	if done > total/20 {
		left := time.Duration(float64(taken) * float64(total-done) / float64(done))
		if left > 5*time.Second {
			text += fmt.Sprintf(", about %s left", left.Round(10*time.Second))
		} else {
			text += ", a few seconds left"
		}
	}
	return text
}

// staleWeights returns the bytes of source of each package that has to be compiled, from what "go list" says.
func staleWeights(listed []byte) (map[string]int, error) {
	weights := map[string]int{}
	for decoder := json.NewDecoder(bytes.NewReader(listed)); ; {
		var pkg struct {
			ImportPath, Dir string
			GoFiles         []string
			Stale           bool
			StaleReason     string
		}
		switch err := decoder.Decode(&pkg); {
		case errors.Is(err, io.EOF):
			return weights, nil
		case err != nil:
			return nil, fmt.Errorf("read what go list says: %w", err)
		case !pkg.Stale, pkg.StaleReason == "not installed but available in build cache":
			continue
		}
		weights[pkg.ImportPath] = 1
		for _, file := range pkg.GoFiles {
			if info, err := os.Stat(filepath.Join(pkg.Dir, file)); err == nil {
				weights[pkg.ImportPath] += int(info.Size())
			}
		}
	}
}

// unfetched finds a module that the go command could not fetch, and why.
var unfetched = regexp.MustCompile(`(\S+@v[0-9][^\s:]*): (?:Get|reading) "?https?://[^\s"]+"?: (.*)`)

// failure says in one line what to do about a failed build.
func (b *build) failure(ctx context.Context, err error, out []byte) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if bytes.Contains(out, []byte("no space left on device")) {
		return errors.New("the disk is full: the build needs about 7 GB for the Go caches (go env GOCACHE GOMODCACHE) and 1 GB for the binaries; make room and run it again")
	}
	if m := unfetched.FindSubmatch(out); m != nil {
		return fmt.Errorf("the Go module %s could not be fetched (%s): the first build needs the network; run it again when there is one, and it goes on from here", m[1], m[2])
	}
	where := "all of it is in " + b.log
	if err := os.WriteFile(b.log, out, 0o644); err != nil {
		where = err.Error()
	}
	return fmt.Errorf("the build failed (%w): %s; %s", err, lastLines(string(out), 2), where)
}

// lastLines returns the last n lines of text as one.
func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	lines = lines[max(0, len(lines)-n):]
	for i, line := range lines {
		lines[i] = strings.TrimSpace(line)
	}
	return strings.Join(lines, " ")
}

// goTool runs a short go command in the module and returns its output.
func (c *cluster) goTool(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = c.module
	cmd.Env = append(os.Environ(), "GOWORK=off")
	out, err := cmd.Output()
	var exit *exec.ExitError
	switch {
	case errors.Is(err, exec.ErrNotFound):
		return "", errors.New("no go command in PATH: install Go from https://go.dev/dl, at least the version that hack/cluster/go.mod names")
	case errors.As(err, &exit):
		return "", fmt.Errorf("go %s: %s", strings.Join(args, " "), strings.TrimSpace(string(exit.Stderr)))
	case err != nil:
		return "", fmt.Errorf("go %s: %w", strings.Join(args, " "), err)
	}
	return strings.TrimSpace(string(out)), nil
}
