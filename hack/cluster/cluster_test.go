package main

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestBuildKey(t *testing.T) {
	key := buildKey("mod", "sum", "go1.26")
	if again := buildKey("mod", "sum", "go1.26"); again != key {
		t.Errorf("the same parts give %s and %s", key, again)
	}
	// Moving a byte from one part to the next is a change too.
	for _, other := range [][]string{{"mod2", "sum", "go1.26"}, {"mo", "dsum", "go1.26"}, {"mod", "sum"}} {
		if buildKey(other...) == key {
			t.Errorf("%q has the key of other parts", other)
		}
	}
}

func TestVersionFlags(t *testing.T) {
	modfile := filepath.Join(t.TempDir(), "go.mod")
	for _, test := range []struct{ text, flags, version string }{
		{"require (\n\tk8s.io/kubernetes v1.36.3 // indirect\n)\n", "-s -w -X k8s.io/component-base/version.gitVersion=v1.36.3" +
			" -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=36", "v1.36.3"},
		{"module x\n", "", ""},
	} {
		if err := os.WriteFile(modfile, []byte(test.text), 0o644); err != nil {
			t.Fatal(err)
		}
		flags, version, err := versionFlags(modfile)
		if flags != test.flags || version != test.version || (err == nil) != (test.version != "") {
			t.Errorf("%q: got %q, %q, %v", test.text, flags, version, err)
		}
	}
}

func TestProgramSets(t *testing.T) {
	for asked, want := range map[string][]string{
		"":         {"go.mod"},
		"1.37":     {"go.mod"},
		"1.37.2":   {"go.mod"},
		"v1.35.4":  {"versions/1.35.4.mod", "go.mod"},
		"1.34":     {"versions/1.34.4.mod", "go.mod"},
		"1.3":      nil,
		"1.35.1":   nil,
		"nonsense": nil,
	} {
		sets, err := (&cluster{module: ".", kubernetes: asked}).programSets()
		var got []string
		for _, set := range sets {
			got = append(got, set.modfile)
		}
		if !slices.Equal(got, want) || (err == nil) != (want != nil) {
			t.Errorf("%q: got %q, %v; want %q", asked, got, err, want)
		}
	}
	// Kubelets are for real nodes only: they are a good part of the build.
	fake, _ := (&cluster{module: "."}).programSets()
	real, _ := (&cluster{module: ".", realNode: "10.244.0.1"}).programSets()
	if has := func(sets []programSet) bool { return slices.Contains(sets[0].packages, nodePrograms[0]) }; has(fake) || !has(real) {
		t.Errorf("with fake nodes: %v, with a real one: %v", fake, real)
	}
}

func TestProgress(t *testing.T) {
	start := time.Now()
	p := &progress{start: start}
	says := func(after time.Duration, want string) {
		t.Helper()
		if got := p.String(start.Add(after)); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	p.saw("go: downloading k8s.io/api v0.37.2")
	says(3*time.Second, "fetching modules, 1 so far, 3s")
	if p.saw("# example.com/a") || p.saw("a.go:3: no") || !p.saw("example.com/a") {
		t.Error("only the name of a package is progress")
	}
	says(10*time.Second, "1 packages compiled, 10s")
	p.expect(map[string]int{"example.com/a": 300, "example.com/b": 600, "example.com/c": 100})
	says(30*time.Second, "1 of 3 packages compiled, 30s, about 1m10s left")
	p.saw("example.com/b")
	p.saw("runtime") // compiled before the list was made
	says(40*time.Second, "3 of 4 packages compiled, 40s")
	p.saw("example.com/c")
	says(time.Minute, "all packages compiled, linking, 1m0s")
}

// With other flags Go's library would be compiled twice.
func TestBuildFlagsOfThisProgram(t *testing.T) {
	script, err := os.ReadFile(filepath.Join("..", "cluster.sh"))
	if flags := strings.Join(buildFlags, " "); err != nil || !strings.Contains(string(script), "build "+flags+" ") {
		t.Errorf("hack/cluster.sh does not build this with %s (%v)", flags, err)
	}
}

// What people see of a build that fails is one line, which says what to do.
func TestFailure(t *testing.T) {
	b := build{log: filepath.Join(t.TempDir(), "log")}
	for out, want := range map[string]string{
		"main.go:1:2: k8s.io/api@v0.37.2: Get \"https://proxy.example/k8s.io/api/@v/v0.37.2.zip\": dial tcp: lookup proxy.example: no such host\nmore\n": "the Go module k8s.io/api@v0.37.2 could not be fetched (dial tcp: lookup proxy.example: no such host)",
		"go: k8s.io/api@v0.37.2: reading https://proxy.example/x: 502 Bad Gateway\n":                                                                     "the Go module k8s.io/api@v0.37.2 could not be fetched (502 Bad Gateway)",
		"write $WORK/b001/_pkg_.a: no space left on device\n":                                                                                            "the disk is full",
		"# x\n./main.go:3: syntax error\n":                                                                                                               "the build failed (exit status 1): # x ./main.go:3: syntax error; all of it is in",
	} {
		if err := b.failure(context.Background(), errors.New("exit status 1"), []byte(out)); !strings.HasPrefix(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("got %q, want one line that begins with %q", err, want)
		}
	}
}

func TestFirstFree(t *testing.T) {
	taken := map[int]bool{}
	free := func(port int) bool { return !taken[port] }
	first, err := firstFree(portBlocks-1, free)
	if err != nil {
		t.Fatal(err)
	}
	// One taken port makes the whole block unfit, and after the last comes the first.
	taken[first.Kwok] = true
	second, err := firstFree(portBlocks-1, free)
	if err != nil || second.Etcd != firstPort {
		t.Errorf("got %+v, %v; want the block at %d", second, err, firstPort)
	}
	if _, err := firstFree(0, func(int) bool { return false }); err == nil {
		t.Error("no error when every port is taken")
	}
}

func TestStartedFrom(t *testing.T) {
	const dir = "/src/belay/.cluster/kwok/clusters/belay/bin"
	for program, want := range map[string]string{
		dir + "/etcd":                  "etcd",
		"/copy" + dir + "/etcd":        "", // another checkout
		dir + "2/etcd":                 "",
		dir + "/sub/etcd":              "",
		dir + "/":                      "",
		"/src/belay/.cluster/bin/etcd": "", // the user's own use of the binaries
		"":                             "",
	} {
		if name, ok := startedFrom(program, dir); ok != (want != "") || ok && name != want {
			t.Errorf("startedFrom(%q) = %q, %t; want %q", program, name, ok, want)
		}
	}
}

func TestFromPS(t *testing.T) {
	const dir = "/my src/.cluster/bin"
	got := fromPS("    1 /sbin/init\n  812 /my src/.cluster/bin/etcd --name x\n  813 vi /my src/.cluster/bin/etcd\n", dir)
	if want := []process{{"etcd", 812}}; !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// Processes are found and stopped by where they were started from, those that
// ignore SIGTERM too; nobody else's are touched.
func TestStopAll(t *testing.T) {
	sh, err := exec.LookPath("sh")
	if err != nil {
		t.Skip(err)
	}
	ours, theirs := t.TempDir(), t.TempDir()
	start := func(dir, script string) *exec.Cmd {
		program := filepath.Join(dir, "sleeper")
		if err := os.Symlink(sh, program); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(program, "-c", script)
		stdout, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		stdout.Read(make([]byte, 1)) // the trap is set
		return cmd
	}
	const stubborn = "trap '' TERM; echo; while :; do sleep 0.1; done"
	stopped, alive := start(ours, stubborn), start(theirs, stubborn)
	go stopped.Wait()
	defer func() { alive.Process.Kill(); alive.Wait() }()

	if err := stopAll(context.Background(), ours); err != nil {
		t.Error(err)
	}
	if left, err := processes(context.Background(), ours); err != nil || len(left) > 0 {
		t.Errorf("%v, %v are left", left, err)
	}
	if left, err := processes(context.Background(), theirs); err != nil || len(left) != 1 {
		t.Errorf("the other's processes are %v, %v", left, err)
	}
}

// A directory reached by two ways is one cluster: its processes are recognised by their path.
func TestResolve(t *testing.T) {
	real := t.TempDir()
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(real, link); err != nil {
		t.Fatal(err)
	}
	want, err := filepath.EvalSymlinks(real)
	if err != nil {
		t.Fatal(err)
	}
	got, err := resolve(filepath.Join(link, "new"))
	if want = filepath.Join(want, "new"); err != nil || got != want {
		t.Errorf("got %q, %v; want %q", got, err, want)
	}
	if _, err := resolve(filepath.Join(link, "no", "parent")); err == nil {
		t.Error("no error for a directory whose parent is missing")
	}
}

func TestComponents(t *testing.T) {
	fake, real := (&cluster{}).components(), (&cluster{realNode: "10.244.0.1"}).components()
	if !slices.Contains(fake, "kwok-controller") || slices.Contains(real, "kwok-controller") {
		t.Errorf("with fake nodes: %v, with a real one: %v", fake, real)
	}
}
