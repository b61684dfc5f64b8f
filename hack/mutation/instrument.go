package main

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/tools/go/packages"
)

// switches is the source of what the edits call.
//
//go:embed switches.go.txt
var switches string

// instrument writes the package's files with all the mutants into dir, and returns the path of a file that has the go command take
// them for the package's own. The first mutant has the number 1.
func instrument(pkg *packages.Package, mutants []mutant, dir string) (overlay string, err error) {
	before, after := map[string]map[int]string{}, map[string]map[int]string{}
	for i, m := range mutants {
		if before[m.path] == nil {
			before[m.path], after[m.path] = map[int]string{}, map[int]string{}
		}
		number := strconv.Itoa(i + 1)
		for _, e := range m.edits { // What comes first is outside.
			before[m.path][e.from] += strings.ReplaceAll(e.before, "#", number)
			after[m.path][e.to] = strings.ReplaceAll(e.after, "#", number) + after[m.path][e.to]
		}
	}
	replaced := map[string]string{}
	write := func(path string, content []byte) error {
		replaced[path] = filepath.Join(dir, filepath.Base(path))
		return os.WriteFile(replaced[path], content, 0o644)
	}
	for path := range before {
		source, err := os.ReadFile(path)
		if err == nil {
			err = write(path, insert(source, before[path], after[path]))
		}
		if err != nil {
			return "", err
		}
	}
	if err := write(filepath.Join(pkg.Dir, "zz_mutation.go"), fmt.Appendf(nil, "package %s\n\n%s", pkg.Name, switches)); err != nil {
		return "", err
	}
	encoded, err := json.Marshal(map[string]any{"Replace": replaced})
	if err != nil {
		return "", err
	}
	overlay = filepath.Join(dir, "overlay.json")
	return overlay, os.WriteFile(overlay, encoded, 0o644)
}

// insert returns the source with texts at some of its offsets: those that end something, then those that begin something.
func insert(source []byte, before, after map[int]string) []byte {
	var out bytes.Buffer
	for i := range len(source) + 1 {
		out.WriteString(after[i])
		out.WriteString(before[i])
		if i < len(source) {
			out.WriteByte(source[i])
		}
	}
	return out.Bytes()
}
