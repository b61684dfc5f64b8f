package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
)

// The programs of a cluster, as packages. The module builds them, as its tool lines say.
var (
	// What is Kubernetes' own comes in the version that is asked for; kubelet and kube-proxy are a real node's.
	kubernetesPrograms = []string{"k8s.io/kubernetes/cmd/kube-apiserver", "k8s.io/kubernetes/cmd/kube-controller-manager",
		"k8s.io/kubernetes/cmd/kube-scheduler", "k8s.io/kubernetes/cmd/kubectl"}
	nodePrograms = []string{"k8s.io/kubernetes/cmd/kubelet", "k8s.io/kubernetes/cmd/kube-proxy"}
	// The rest is the same for every version.
	otherPrograms = []string{etcdPackage, "sigs.k8s.io/kwok/cmd/kwok", "sigs.k8s.io/kwok/cmd/kwokctl"}
)

// etcdPackage has no telling name: Go would call its program "server", or "v3".
const etcdPackage = "go.etcd.io/etcd/server/v3"

// clusterOnly are modules that Belay is not made of. They are compiled without inlining: a fifth of the work less, and no
// difference could be measured when they run (200 Deployments cost the API server 10.5 s of CPU, with it 10.3).
var clusterOnly = []string{
	"k8s.io/kubernetes", "k8s.io/apiserver", "k8s.io/apiextensions-apiserver", "k8s.io/kube-aggregator", "k8s.io/kubectl", "go.etcd.io",
	"sigs.k8s.io/kustomize", "sigs.k8s.io/kwok", "google.golang.org/grpc", "github.com/google/cel-go", "github.com/antlr4-go/antlr",
}

// uninlined returns the flags for that.
func uninlined() []string {
	var flags []string
	for _, module := range clusterOnly {
		flags = append(flags, "-gcflags="+module+"/...=-dwarf=false -l")
	}
	return flags
}

// programOf returns the name of the program that a package makes.
func programOf(pkg string) string {
	switch pkg {
	case etcdPackage:
		return "etcd"
	case helm3Package:
		return "helm3"
	}
	return path.Base(pkg)
}

// goName returns what Go calls it.
func goName(pkg string) string {
	if pkg == etcdPackage {
		return "server"
	}
	return path.Base(pkg)
}

// programSet is what one build makes of one module file.
type programSet struct {
	dir      string // of the module
	modfile  string // its go.mod, or one that takes its place
	packages []string
	ldflags  string
}

// programSets returns the builds that make all programs of the cluster.
func (c *cluster) programSets() ([]programSet, error) {
	kubernetes := slices.Clone(kubernetesPrograms)
	if c.realNode != "" {
		kubernetes = append(kubernetes, nodePrograms...)
	}
	gomod := filepath.Join(c.module, "go.mod")
	ldflags, own, err := versionFlags(gomod)
	if err != nil {
		return nil, err
	}
	if c.kubernetes == "" || matches(own, c.kubernetes) {
		return []programSet{{c.module, gomod, append(kubernetes, otherPrograms...), ldflags}}, nil
	}
	modfile, err := c.versionFile(own)
	if err != nil {
		return nil, err
	}
	older, _, err := versionFlags(modfile)
	if err != nil {
		return nil, err
	}
	return []programSet{{c.module, modfile, kubernetes, older}, {c.module, gomod, otherPrograms, ldflags}}, nil
}

// version returns the version of Kubernetes that the cluster is to have, as v1.37.2.
func (c *cluster) version() (string, error) {
	sets, err := c.programSets()
	if err != nil {
		return "", err
	}
	_, version, err := versionFlags(sets[0].modfile)
	return version, err
}

// versionFile returns the module file of the version that was asked for: versions/1.35.4.mod for 1.35.4, v1.35.4 and 1.35.
func (c *cluster) versionFile(own string) (string, error) {
	files, err := glob(filepath.Join(c.module, "versions"), "*.mod")
	if err != nil {
		return "", err
	}
	var known []string
	for _, file := range files {
		version := strings.TrimSuffix(filepath.Base(file), ".mod")
		if matches("v"+version, c.kubernetes) {
			return file, nil
		}
		known = append(known, version)
	}
	known = append(known, strings.TrimPrefix(own, "v"))
	return "", fmt.Errorf("there is no Kubernetes %s here; known are %s", c.kubernetes, strings.Join(known, ", "))
}

// glob is filepath.Glob in a directory, whatever characters are in its path.
func glob(dir, pattern string) ([]string, error) {
	names, err := fs.Glob(os.DirFS(dir), pattern)
	for i, name := range names {
		names[i] = filepath.Join(dir, name)
	}
	return names, err
}

// matches reports whether a version, as v1.35.4, is the one that was asked for, as 1.35.4, v1.35.4 or 1.35.
func matches(version, asked string) bool {
	return strings.HasPrefix(version+".", "v"+strings.TrimPrefix(asked, "v")+".")
}

var kubernetesVersion = regexp.MustCompile(`(?m)^\s*(?:require )?k8s\.io/kubernetes (v(\d+)\.(\d+)\.\S+)`)

// versionFlags returns the version of Kubernetes in a module file, and the linker flags that stamp it, as in a release:
// without, it is v0.0.0-master and clients complain.
func versionFlags(modfile string) (ldflags, version string, err error) {
	text, err := os.ReadFile(modfile)
	if err != nil {
		return "", "", err
	}
	m := kubernetesVersion.FindSubmatch(text)
	if m == nil {
		return "", "", fmt.Errorf("%s requires no k8s.io/kubernetes", modfile)
	}
	const pkg = "k8s.io/component-base/version."
	return fmt.Sprintf("-s -w -X %[1]sgitVersion=%[2]s -X %[1]sgitMajor=%[3]s -X %[1]sgitMinor=%[4]s", pkg, m[1], m[2], m[3]), string(m[1]), nil
}

// binaries returns the directory with the programs of the cluster.
func (c *cluster) binaries(ctx context.Context) (string, error) {
	sets, err := c.programSets()
	if err != nil {
		return "", err
	}
	return c.built(ctx, sets)
}

// built returns the directory with the programs, building those that this version of them was never built of for this
// user. sources are what else than modules they are made from.
func (c *cluster) built(ctx context.Context, sets []programSet, sources ...string) (string, error) {
	goVersion, err := c.goTool(ctx, "env", "GOVERSION")
	if err != nil {
		return "", err
	}
	key := []string{goVersion, runtime.GOOS, runtime.GOARCH, strings.Join(slices.Concat(buildFlags, uninlined()), " ")}
	for _, set := range sets {
		gomod, err := os.ReadFile(set.modfile)
		if err != nil {
			return "", err
		}
		gosum, err := os.ReadFile(strings.TrimSuffix(set.modfile, ".mod") + ".sum")
		if err != nil {
			return "", err
		}
		key = append(key, string(gomod), string(gosum), set.ldflags)
	}
	key = append(key, sources...)
	bin := filepath.Join(c.cache, buildKey(key...))
	if len(absent(bin, sets)) == 0 {
		return bin, nil
	}

	// One build at a time for each key; who waited finds it done.
	unlock, err := lock(ctx, bin+".lock", "another checkout is building the same binaries, waiting for it")
	if err != nil {
		return "", err
	}
	defer unlock()
	return bin, c.build(ctx, bin, sets)
}

// absent returns the sets of programs that are not in dir, without those that are.
func absent(dir string, sets []programSet) []programSet {
	var left []programSet
	for _, set := range sets {
		set.packages = slices.DeleteFunc(slices.Clone(set.packages), func(pkg string) bool {
			_, err := os.Stat(filepath.Join(dir, programOf(pkg)))
			return err == nil
		})
		if len(set.packages) > 0 {
			left = append(left, set)
		}
	}
	return left
}

// build makes the programs appear in bin, each at once and whole: they are built beside their place and renamed.
func (c *cluster) build(ctx context.Context, bin string, sets []programSet) error {
	partial := bin + ".partial"
	// Only a build that was killed leaves these, and the lock says that none is under way.
	if err := errors.Join(os.RemoveAll(partial), os.MkdirAll(bin, 0o755)); err != nil {
		return err
	}
	defer os.RemoveAll(partial)
	for _, set := range absent(bin, sets) {
		var names []string
		for _, pkg := range set.packages {
			names = append(names, programOf(pkg))
		}
		b := build{
			what: strings.Join(names, ", "), dir: set.dir, log: bin + ".log",
			args:     append(uninlined(), "-mod=readonly", "-modfile="+set.modfile, "-ldflags="+set.ldflags),
			out:      partial + string(filepath.Separator),
			packages: set.packages,
		}
		if err := b.run(ctx); err != nil {
			return err
		}
		for _, pkg := range set.packages {
			if err := os.Rename(filepath.Join(partial, goName(pkg)), filepath.Join(bin, programOf(pkg))); err != nil {
				return err
			}
		}
	}
	return nil
}

// buildBelay builds bin/belay of the checkout.
func (c *cluster) buildBelay(ctx context.Context) error {
	root := filepath.Join(c.module, "..", "..")
	describe := exec.CommandContext(ctx, "git", "describe", "--tags", "--always", "--dirty")
	describe.Dir = root
	version, err := describe.Output()
	if err != nil {
		version = nil // no git, or no repository: belay says what Go knows
	}
	b := build{
		what: "belay", dir: root, log: filepath.Join(c.cache, "belay.log"),
		args:     []string{"-ldflags=-s -w -X main.version=" + strings.TrimSpace(string(version))},
		out:      filepath.Join(root, "bin", "belay"),
		packages: []string{"."},
	}
	return b.run(ctx)
}

// buildKey names a set of binaries after everything that they are made from.
func buildKey(parts ...string) string {
	h := sha256.New()
	for _, part := range parts {
		fmt.Fprintf(h, "%d:%s", len(part), part)
	}
	return fmt.Sprintf("%x", h.Sum(nil)[:8])
}
