package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const crd = `---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: depots.example.com}
spec:
  names: {kind: Depot}
  versions:
  - name: v1
    schema:
      openAPIV3Schema:
        properties:
          spec:
            properties:
              replicas: {type: integer, format: int32}
`

// What artifacts/crd.yaml looks like is tested with the types. Here: a change in the libraries must not go unseen.
func TestFinishRefusesWhatItDoesNotKnow(t *testing.T) {
	gone := []edits{{Kind: "Depot", version: "v1", Edits: []edit{{Path: "spec.image", Set: json.RawMessage(`{"minLength": 1}`)}}}}
	for name, test := range map[string]struct {
		document, want string
		edits          []edits
	}{
		"a field is gone":  {crd, `Depot v1: crd_edits.yaml: spec: no "image" where "image" was to be edited`, gone},
		"a field is new":   {crd + "              novel: {invalid: true}\n", `unknown field "invalid"`, nil},
		"a format is new":  {crd + "              since: {type: string, format: duration}\n", `format "duration"`, nil},
		"nothing was made": {"", "no CustomResourceDefinition", nil},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := finish([]byte(test.document), test.edits); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got error %v, want one with %q", err, test.want)
			}
		})
	}
}

// Other types need no edits, and several kinds and versions are no matter.
func TestFinishKnowsNoKind(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "depot", "v1")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "crd_edits.yaml"), []byte("kind: Depot\nedits:\n- {path: spec.replicas, set: {minimum: 1}}\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	edits, err := readEdits(filepath.Dir(filepath.Dir(dir)))
	if err != nil {
		t.Fatal(err)
	}
	out, err := finish([]byte(crd+strings.ReplaceAll(crd, "Depot", "Store")), edits)
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(out), "kind: CustomResourceDefinition"); n != 2 {
		t.Errorf("%d CustomResourceDefinitions, want 2", n)
	}
	if n := strings.Count(string(out), "minimum: 1\n"); n != 1 {
		t.Errorf("%d fields are edited, want that of Depot:\n%s", n, out)
	}
}
