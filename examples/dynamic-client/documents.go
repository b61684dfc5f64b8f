package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"
)

// document is an object of a file.
type document struct {
	place  string // where it is in the file
	object *unstructured.Unstructured
	err    error // why there is no object
}

func (d document) String() string {
	if d.object == nil {
		return d.place
	}
	return fmt.Sprintf("%s, %s %q", d.place, cmp.Or(d.object.GetKind(), "no kind"), d.object.GetName())
}

// read reads the documents of a file, or of standard input for "-". It ends with ctx: a terminal has no end.
func read(ctx context.Context, path string) ([]document, error) {
	var data []byte
	var err error
	done := make(chan struct{})
	go func() {
		defer close(done)
		if path == "-" {
			data, err = io.ReadAll(os.Stdin)
		} else {
			data, err = os.ReadFile(path)
		}
	}()
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-done:
	}
	if err != nil {
		return nil, err
	}
	documents := parse(data)
	if len(documents) == 0 {
		return nil, fmt.Errorf("%s holds no document", path)
	}
	return documents, nil
}

// parse returns the documents in their order. What is malformed is one, too; what is empty is none; a List is what it holds.
func parse(data []byte) (documents []document) {
	number := 0
	for chunks := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(data))); ; {
		chunk, err := chunks.Read()
		if errors.Is(err, io.EOF) {
			return documents
		}
		var parts [][]byte
		if err == nil {
			parts, err = split(chunk)
		}
		for _, part := range parts {
			if string(part) == "null" {
				continue
			}
			number++
			d := document{place: fmt.Sprintf("document %d", number), object: &unstructured.Unstructured{}}
			if err := d.object.UnmarshalJSON(part); err != nil {
				d = document{place: d.place, err: err}
			}
			documents = append(documents, d.unpack()...)
		}
		if err != nil {
			number++
			documents = append(documents, document{place: fmt.Sprintf("document %d", number), err: err})
		}
	}
}

// split returns the documents between two separators as JSON: one if it is YAML, any number if it is JSON. It goes as far
// as it can. A key that is there twice is an error: the second would replace the first in silence.
func split(chunk []byte) (parts [][]byte, err error) {
	if !utilyaml.IsJSONBuffer(chunk) {
		part, err := yaml.YAMLToJSONStrict(chunk)
		if err != nil {
			return nil, err
		}
		return [][]byte{part}, nil
	}
	for decoder := json.NewDecoder(bytes.NewReader(chunk)); ; {
		var part json.RawMessage
		if err := decoder.Decode(&part); errors.Is(err, io.EOF) {
			return parts, nil
		} else if err != nil {
			return parts, err
		}
		parts = append(parts, part)
	}
}

// unpack returns what a List holds, or else the document itself.
func (d document) unpack() []document {
	if d.object == nil || !d.object.IsList() {
		return []document{d}
	}
	var items []document
	err := d.object.EachListItem(func(item runtime.Object) error {
		place := fmt.Sprintf("%s, item %d", d.place, len(items)+1)
		items = append(items, document{place: place, object: item.(*unstructured.Unstructured)})
		return nil
	})
	if err != nil {
		items = append(items, document{place: d.place, err: err})
	}
	return items
}
