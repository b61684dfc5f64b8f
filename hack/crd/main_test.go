package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A definition as controller-gen writes it, of types that know no Deployment. Lines for one more property fit at its end.
const shop = `---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: shops.example.com}
spec:
  group: example.com
  names: {kind: Shop, plural: shops}
  scope: Namespaced
  versions:
  - name: v1beta1
    served: true
    storage: true
    schema:
      openAPIV3Schema:
        properties:
          image: {type: string}
          replicas: {type: integer, format: int32}
`

// folder returns a folder pkg/apis/shop/v1beta1 with types and, unless it is empty, a file with edits.
func folder(t *testing.T, edits string) string {
	t.Helper()
	folder := filepath.Join(t.TempDir(), "shop", "v1beta1")
	if err := os.MkdirAll(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	files := map[string]string{"doc.go": "// +groupName=example.com\npackage v1beta1\n"}
	if edits != "" {
		files[editsFile] = edits
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(folder, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return folder
}

// What artifacts/crd.yaml looks like is tested with the types. Here: types of another team.
func TestRun(t *testing.T) {
	for name, test := range map[string]struct{ document, edits, want string }{
		"no edits":       {shop, "", "maximum: 2147483647\n"},
		"set":            {shop, "Shop: [{at: [replicas], set: {minimum: 1}}]", "minimum: 1\n"},
		"set a property": {shop, `Shop: [{at: [""], set: {properties: {since: {type: string, format: date-time}}}}]`, "pattern: ^(\\d{4}"},
		"nullableBelow":  {shop, `Shop: [{at: [""], nullableBelow: true}]`, "nullable: true\n"},
		"two kinds":      {shop + strings.ReplaceAll(shop, "Shop", "Stall"), "Stall: [{at: [image], set: {pattern: x}}]", "---\napiVersion"},
	} {
		t.Run(name, func(t *testing.T) {
			if out, err := run([]byte(test.document), []string{folder(t, test.edits)}); err != nil || !strings.Contains(string(out), test.want) {
				t.Errorf("got error %v and\n%s, want %q in it", err, out, test.want)
			}
		})
	}
}

// A change in the libraries or the types must not go unseen.
func TestRun_Mistakes(t *testing.T) {
	for name, test := range map[string]struct{ document, edits, want string }{
		"a field is gone": {shop, "Shop: [{at: [image], set: {}}, {at: [spec.minReadySeconds], set: {}}]",
			`edit 2 of example.com/v1beta1 Shop: no "spec" where "spec.minReadySeconds" was to be edited`},
		"a field is new":           {shop + "          novel: {invalid: true}\n", "", `unknown field "invalid"`},
		"a format is new":          {shop + "          since: {type: string, format: duration}\n", "", `format "duration"`},
		"a kind is gone":           {shop, "Stall: []", "edits of example.com/v1beta1 Stall"},
		"an edit without a place":  {shop, "Shop: [{set: {minimum: 1}}]", "at is missing"},
		"an edit of another field": {shop, "Shop: [{at: [image], set: {minimal: 1}}]", `image: error unmarshaling JSON: while decoding JSON: json: unknown field "minimal"`},
		"an unknown edit":          {shop, "Shop: [{at: [image], put: {}}]", `unknown field "put"`},
		"nothing was made":         {"", "", "no CustomResourceDefinition"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := run([]byte(test.document), []string{folder(t, test.edits)}); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got error %v, want one with %q", err, test.want)
			}
		})
	}
}
