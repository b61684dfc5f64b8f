package kustomize

import (
	"go/ast"
	"go/constant"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"
)

// configurations is what kustomize's configurations say: which fields of which kinds each transformer looks at.
type configurations map[string][]struct {
	Kind, Path string
	Create     bool
	FieldSpecs []struct{ Kind, Path string }
}

// fields returns the fields of a kind, and those in which others name it, each with what it is for.
func (c configurations) fields(kind string) (all []string) {
	for transformer, specs := range c {
		for _, spec := range specs {
			if spec.Kind == kind && spec.Path != "" {
				all = append(all, transformer+": "+spec.Path+map[bool]string{true: ", created"}[spec.Create])
			}
			for _, reference := range spec.FieldSpecs {
				if spec.Kind == kind {
					all = append(all, "the name is in "+reference.Kind+" "+reference.Path)
				} else if reference.Kind == kind {
					all = append(all, "the name of a "+spec.Kind+" is in "+reference.Path)
				}
			}
		}
	}
	slices.Sort(all)
	return all
}

// builtIn reads from the library's source what kustomize knows by itself: it says so nowhere else.
func builtIn(t *testing.T) configurations {
	t.Helper()
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "sigs.k8s.io/kustomize/api").Output()
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(strings.TrimSpace(string(dir)), "internal/konfig/builtinpluginconsts/*.go"))
	if err != nil || len(files) == 0 {
		t.Fatalf("the library has its configurations elsewhere (%v)", err)
	}
	var parsed []*ast.File
	set := token.NewFileSet()
	for _, file := range files {
		f, err := parser.ParseFile(set, file, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		parsed = append(parsed, f)
	}
	checked, err := (&types.Config{Importer: importer.ForCompiler(set, "source", nil)}).Check("builtinpluginconsts", set, parsed, nil)
	if err != nil {
		t.Fatal(err)
	}
	all := configurations{}
	for _, name := range checked.Scope().Names() {
		if text, ok := checked.Scope().Lookup(name).(*types.Const); ok && text.Val().Kind() == constant.String {
			some := configurations{}
			if yaml.Unmarshal([]byte(constant.StringVal(text.Val())), &some) == nil { // Else it is a part of another one.
				for transformer, specs := range some {
					all[transformer] = append(all[transformer], specs...)
				}
			}
		}
	}
	return all
}

// Whatever kustomize knows of a Deployment, artifacts/kustomize/configurations.yaml says of a GuardedDeployment.
func TestConfigurationsAreComplete(t *testing.T) {
	data, err := os.ReadFile(filepath.Join(artifacts, "configurations.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	ours := configurations{}
	if err := yaml.Unmarshal(data, &ours); err != nil {
		t.Fatal(err)
	}
	want := builtIn(t).fields("Deployment")
	if len(want) < 30 {
		t.Fatalf("read %q from the library, which cannot be all", want)
	}
	if diff := cmp.Diff(want, ours.fields("GuardedDeployment")); diff != "" {
		t.Errorf("-the library of a Deployment +artifacts/kustomize/configurations.yaml:\n%s", diff)
	}
}
