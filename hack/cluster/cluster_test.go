package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"testing"
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
	gomod, err := os.ReadFile("go.mod")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := versionFlags(string(gomod)); err != nil {
		t.Error(err)
	}
	got, err := versionFlags("require (\n\tk8s.io/kubernetes v1.36.3 // indirect\n)\n")
	const want = "-s -w -X k8s.io/component-base/version.gitVersion=v1.36.3" +
		" -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=36"
	if err != nil || got != want {
		t.Errorf("got %q, %v; want %q", got, err, want)
	}
	if _, err := versionFlags("module x\n"); err == nil {
		t.Error("no error without a Kubernetes version")
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
