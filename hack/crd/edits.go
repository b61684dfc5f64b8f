package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"sigs.k8s.io/yaml"
)

// edits are what crd_edits.yaml says about one kind, in the version whose directory it is in.
type edits struct {
	Kind  string `json:"kind"`
	Edits []edit `json:"edits"` // made in this order

	version string
}

// edit changes one field of the schema, or all below it.
type edit struct {
	// Path leads to the field, as in spec.template: [] stands for the items of a list, {} for the values of a map. Empty is
	// the whole.
	Path string `json:"path"`
	// Set has fields of a schema, which replace what is there.
	Set json.RawMessage `json:"set,omitempty"`
	// Require names fields that become required, too.
	Require []string `json:"require,omitempty"`
	// Duplicates lets the list have equal keys.
	Duplicates bool `json:"duplicates,omitempty"`
	// Timestamp declares a creationTimestamp below it: many tools write "creationTimestamp: null" into a template's metadata.
	Timestamp bool `json:"timestamp,omitempty"`

	// Bare drops the descriptions and the defaults of it and all below it.
	Bare bool `json:"bare,omitempty"`
	// Optional names, for fields of any of these names below it, the fields in them that may be left out.
	Optional map[string][]string `json:"optional,omitempty"`
	// Nulls accepts null for each field below it that may be left out and has no default, for the values of a map and the
	// items of a list.
	Nulls bool `json:"nulls,omitempty"`
}

// readEdits reads each crd_edits.yaml in directories like types/GROUP/VERSION.
func readEdits(types string) (all []edits, err error) {
	files, err := filepath.Glob(filepath.Join(types, "*", "*", "crd_edits.yaml"))
	if err != nil {
		return nil, err
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		read := edits{version: filepath.Base(filepath.Dir(file))}
		if err := yaml.UnmarshalStrict(data, &read); err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		all = append(all, read)
	}
	return all, nil
}

// editsOf returns the edits of a kind in a version, none if there are none.
func editsOf(all []edits, kind, version string) []edit {
	for _, e := range all {
		if e.Kind == kind && e.version == version {
			return e.Edits
		}
	}
	return nil
}

// apply makes the edit in the schema that its path leads to.
func (e edit) apply(s *schema) error {
	if e.Set != nil {
		if err := json.Unmarshal(e.Set, s); err != nil {
			return err
		}
	}
	s.Required = append(s.Required, e.Require...)
	if e.Duplicates {
		s.XListType, s.XListMapKeys = new("atomic"), nil
	}
	if e.Timestamp {
		field := schema{Type: "string", Format: "date-time", Nullable: true}
		decodable(&field)
		s.Properties["creationTimestamp"] = field
	}
	if e.Bare {
		walk(s, func(s *schema) { s.Description, s.Default = "", nil })
	}
	if e.Optional != nil {
		walk(s, e.leaveOut)
	}
	if e.Nulls {
		walk(s, acceptNulls)
	}
	return nil
}

// leaveOut lets the optional fields of what is directly below s be left out.
func (e edit) leaveOut(s *schema) {
	for name, fields := range e.Optional {
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

func acceptNulls(s *schema) {
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
