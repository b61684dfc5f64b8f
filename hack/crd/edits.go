package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"
)

// editsFile is the name of the file with the edits, in the folder of the types.
const editsFile = "crd_edits.yaml"

// versionedKind is a kind in one version of its group.
type versionedKind struct{ group, version, kind string }

func (k versionedKind) String() string { return fmt.Sprintf("%s/%s %s", k.group, k.version, k.kind) }

// edit changes a schema, as the package's comment says.
type edit struct {
	At            []string            `json:"at"`
	Set           json.RawMessage     `json:"set"`
	SetBelow      json.RawMessage     `json:"setBelow"`
	OptionalBelow map[string][]string `json:"optionalBelow"`
	NullableBelow bool                `json:"nullableBelow"`
}

var groupName = regexp.MustCompile(`(?m)^// \+groupName=(\S+)$`)

// readEdits returns the edits of each kind with types in one of the folders. The name of a folder is the version.
func readEdits(folders []string) (map[versionedKind][]edit, error) {
	all := map[versionedKind][]edit{}
	for _, folder := range folders {
		path := filepath.Join(folder, editsFile)
		data, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			return nil, err
		}
		var kinds map[string][]edit
		if err := yaml.UnmarshalStrict(data, &kinds); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		group, err := groupOf(folder)
		if err != nil {
			return nil, err
		}
		for kind, edits := range kinds {
			all[versionedKind{group, filepath.Base(folder), kind}] = edits
		}
	}
	return all, nil
}

// groupOf returns the API group of the types in the folder, as the marker +groupName says it.
func groupOf(folder string) (string, error) {
	files, err := filepath.Glob(filepath.Join(folder, "*.go"))
	if err != nil {
		return "", err
	}
	for _, file := range files {
		source, err := os.ReadFile(file)
		if err != nil {
			return "", err
		}
		if found := groupName.FindSubmatch(source); found != nil {
			return string(found[1]), nil
		}
	}
	return "", fmt.Errorf("no file in %s has the marker +groupName", folder)
}

// apply makes the edit below root.
func (e edit) apply(root *schema) error {
	if len(e.At) == 0 {
		return errors.New("it says no place: at is missing")
	}
	for _, path := range e.At {
		var failed error
		if err := at(root, path, func(s *schema) { failed = e.change(s) }); err != nil {
			return err
		}
		if failed != nil {
			return fmt.Errorf("%s: %w", path, failed)
		}
	}
	return nil
}

// change makes the edit in s. What it adds to s must be decodable, too.
func (e edit) change(s *schema) error {
	err := set(s, e.Set)
	walk(s, func(s *schema) {
		if err == nil {
			err = set(s, e.SetBelow)
		}
		optional(s, e.OptionalBelow)
		if e.NullableBelow {
			nullable(s)
		}
	})
	walk(s, decodable)
	return err
}

// set gives the fields of s the values that the JSON object has for them.
func set(s *schema, fields json.RawMessage) error {
	if fields == nil {
		return nil
	}
	return yaml.UnmarshalStrict(fields, s)
}

// optional lets fields of the properties of s, or of the items of these, be left out: by the names of the properties.
func optional(s *schema, fields map[string][]string) {
	for name, fields := range fields {
		if property, ok := s.Properties[name]; ok {
			of := &property
			if property.Items != nil {
				of = property.Items.Schema
			}
			of.Required = slices.DeleteFunc(of.Required, func(required string) bool { return slices.Contains(fields, required) })
			s.Properties[name] = property
		}
	}
}

// nullable accepts null for each field of s that may be left out and has no default, for the values of a map and the items of
// a list.
func nullable(s *schema) {
	if s.Items != nil && (s.XListType == nil || *s.XListType == "atomic") { // Nothing else may have nulls.
		s.Items.Schema.Nullable = true
	}
	if values := s.AdditionalProperties; values != nil && values.Schema != nil {
		values.Schema.Nullable = true
	}
	for name, property := range s.Properties {
		property.Nullable = !slices.Contains(s.Required, name) && property.Default == nil
		s.Properties[name] = property
	}
}

// at applies edit to the schema at the path below s: names of properties, [] for the items of a list and {} for the values
// of a map, with dots between.
func at(s *schema, path string, edit func(*schema)) error {
	if path == "" {
		edit(s)
		return nil
	}
	step, rest, _ := strings.Cut(path, ".")
	child, put, ok := childOf(s, step)
	if !ok {
		return fmt.Errorf("no %q where %q was to be edited", step, path)
	}
	if err := at(child, rest, edit); err != nil {
		return fmt.Errorf("%s: %w", step, err)
	}
	put()
	return nil
}
