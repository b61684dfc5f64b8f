package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
)

const (
	helm3Package = "helm.sh/helm/v3/cmd/helm"
	helm4Package = "helm.sh/helm/v4/cmd/helm"
)

// toolSets returns the builds of the tools that the tests release with. Two of them are programs of this repository around
// a tool's own code.
func (c *cluster) toolSets() []programSet {
	root := filepath.Join(c.module, "..", "..")
	set := func(pkg string, dir ...string) programSet {
		module := filepath.Join(append([]string{root}, dir...)...)
		return programSet{module, filepath.Join(module, "go.mod"), []string{pkg}, "-s -w"}
	}
	// Go calls both of Helm's programs "helm": they cannot be built at once.
	return []programSet{
		set(helm4Package, "hack", "helm"),
		set(helm3Package, "hack", "helm"),
		set("github.com/belay-dev/belay/test/tools/argo-sync", "test", "tools", "argo-sync"),
		set("github.com/belay-dev/belay/test/tools/flux-apply", "test", "tools", "flux-apply"),
	}
}

// buildTools makes bin/tools of the checkout the directory with the tools.
func (c *cluster) buildTools(ctx context.Context) error {
	sets := c.toolSets()
	var sources []string
	for _, set := range sets {
		files, err := glob(set.dir, "*.go")
		if err != nil {
			return err
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				return err
			}
			sources = append(sources, string(text))
		}
	}
	bin, err := c.built(ctx, sets, sources...)
	if err != nil {
		return err
	}
	link := filepath.Join(c.module, "..", "..", "bin", "tools")
	if err := os.Remove(link); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return os.Symlink(bin, link)
}
