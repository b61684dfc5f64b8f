package main

import (
	"encoding/json"
	"io"
	"path/filepath"
	"regexp"
	"testing"

	"k8s.io/client-go/util/jsonpath"
)

// What the pages tell to type is typed at night: kubectl understands each path, of one object and of a list.
func TestDocs_JSONPathsAreUnderstood(t *testing.T) {
	const one = `"metadata": {"namespace": "shop", "name": "web", "annotations": {}}, "status": {"failure": {"pod": "web-1"},
		"conditions": [{"type": "Ready", "reason": "RolledOut"}, {"type": "Stalled", "reason": "SyncFailing"}]},
		"spec": {"template": {"spec": {"containers": [{"name": "web", "image": "web:1"}, {"name": "log", "command": ["/log"]}]}}}`
	var object any
	must(json.Unmarshal([]byte(`{`+one+`, "items": [{`+one+`}, {"metadata": {"name": "new"}}]}`), &object))
	pages, err := filepath.Glob("docs/*.md")
	must(err)
	told := regexp.MustCompile(`jsonpath=(?:'([^']*)'|"([^"]*)")`)
	commands := 0
	for _, page := range append(pages, "README.md") {
		for _, found := range told.FindAllStringSubmatch(readText(page), -1) {
			commands++
			path := jsonpath.New(page).AllowMissingKeys(true)
			err := path.Parse(found[1] + found[2])
			if err == nil {
				err = path.Execute(io.Discard, object)
			}
			if err != nil {
				t.Errorf("%s: %s: %v", page, found[0], err)
			}
		}
	}
	if commands < 20 {
		t.Errorf("%d commands: is this what the pages tell?", commands)
	}
}
