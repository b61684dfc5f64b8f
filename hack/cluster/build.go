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
	"sync"
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

// compilerMemory has the compiler collect less garbage, which is a twelfth of its work, unless the environment says
// otherwise, and keeps it from growing by that where it is large already.
var compilerMemory = []string{"GOGC=400", "GOMEMLIMIT=1500MiB"}

// build is one "go build" that says how far it is.
type build struct {
	what     string   // for people
	dir      string   // of the module
	args     []string // more flags
	out      string   // -o
	packages []string // of programs
	log      string   // where to leave the whole output of one that fails
}

// run builds, and says how far it is. Its error is one line that says what to do.
func (b *build) run(ctx context.Context) error {
	say("building %s", b.what)
	p := &progress{start: time.Now()}
	// go loads packages on one core: the other one is free to find out how much there is to do.
	listing, cancel := context.WithCancel(ctx)
	var listed sync.WaitGroup
	defer listed.Wait()
	defer cancel()
	listed.Go(func() {
		// Without EmbedFiles, go list takes packages that embed files for stale.
		out, err := b.command(listing, "list", "-deps", "-json=ImportPath,Dir,GoFiles,EmbedFiles,Stale,StaleReason").Output()
		if err == nil { // What is wrong, the build will say.
			p.expect(staleWeights(out))
		}
	})
	cmd := b.command(ctx, "build", "-v", "-o", b.out)
	// Not straight into a file: that one would be empty when the disk is full.
	var rest bytes.Buffer
	lines, teller := io.Pipe()
	cmd.Stderr = teller
	done := make(chan error, 1)
	go func() {
		err := cmd.Run()
		teller.Close()
		done <- err
	}()
	var read sync.WaitGroup
	read.Go(func() {
		for scanner := bufio.NewScanner(lines); scanner.Scan(); {
			if !p.saw(scanner.Text()) {
				fmt.Fprintln(&rest, scanner.Text())
			}
		}
		io.Copy(io.Discard, lines) // of a line that is too long
	})
	tick := time.NewTicker(progressEvery)
	defer tick.Stop()
	for {
		select {
		case now := <-tick.C:
			say("%s", p.String(now))
		case err := <-done:
			read.Wait()
			if err != nil {
				return b.failure(ctx, err, rest.Bytes())
			}
			say("built in %s", time.Since(p.start).Round(time.Second))
			return nil
		}
	}
}

// command is a go command on the packages.
func (b *build) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "go", slices.Concat(args[:1], buildFlags, b.args, args[1:], b.packages)...)
	cmd.Dir = b.dir
	cmd.Env = slices.Concat(compilerMemory, os.Environ(), []string{"GOWORK=off", "CGO_ENABLED=0"})
	// go starts compilers: they are stopped with it. By SIGINT, at which it deletes what is in its work directory.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGINT) }
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

// progress is how far a build is.
type progress struct {
	start time.Time

	mu       sync.Mutex
	fetching int             // modules that were begun to be fetched
	weights  map[string]int  // bytes of source, by package that has to be compiled; nil until they are known
	begun    map[string]bool // packages
}

// expect takes note of what has to be compiled.
func (p *progress) expect(weights map[string]int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.weights = weights
}

// packageLine is what "go build -v" says when it begins with a package.
var packageLine = regexp.MustCompile(`^[a-zA-Z0-9][^\s:]*$`)

// saw takes note of a line that "go build -v" says of its progress; it reports whether the line is one.
func (p *progress) saw(line string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case strings.HasPrefix(line, "go: downloading "):
		p.fetching++
	case packageLine.MatchString(line):
		if p.begun == nil {
			p.begun = map[string]bool{}
		}
		p.begun[line] = true
	default:
		return false
	}
	return true
}

// String says how far the build is, and how long it may still take if the rest is like what was.
func (p *progress) String(now time.Time) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	taken := now.Sub(p.start)
	var left, done, total int
	for pkg, bytes := range p.weights {
		total += bytes
		if p.begun[pkg] {
			done += bytes
		} else {
			left++
		}
	}
	switch {
	case len(p.begun) == 0 && p.fetching > 0:
		return fmt.Sprintf("fetching modules, %d so far, %s", p.fetching, taken.Round(time.Second))
	case p.weights == nil:
		return fmt.Sprintf("%d packages compiled, %s", len(p.begun), taken.Round(time.Second))
	case left == 0:
		return fmt.Sprintf("all packages compiled, linking, %s", taken.Round(time.Second))
	}
	text := fmt.Sprintf("%d of %d packages compiled, %s", len(p.begun), len(p.begun)+left, taken.Round(time.Second))
	if remaining := time.Duration(float64(taken) * float64(total-done) / float64(max(done, 1))); done > total/20 && remaining > 5*time.Second {
		text += fmt.Sprintf(", about %s left", remaining.Round(10*time.Second))
	}
	return text
}

// staleWeights returns the bytes of source of each package that has to be compiled, from what "go list" says.
func staleWeights(listed []byte) map[string]int {
	weights := map[string]int{}
	for decoder := json.NewDecoder(bytes.NewReader(listed)); ; {
		var pkg struct {
			ImportPath, Dir string
			GoFiles         []string
			Stale           bool
			StaleReason     string
		}
		switch err := decoder.Decode(&pkg); {
		case err != nil: // the end
			return weights
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
		return errors.New("the disk is full: the build needs about 5 GB for the Go caches (go env GOCACHE GOMODCACHE) and 1 GB for the binaries; make room and run it again")
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
