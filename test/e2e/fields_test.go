package e2e

import (
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
)

// fieldsOf returns the JSON paths of all fields without fields below a Go type: names with dots between, [] for the
// items of a list. What a type encodes by itself, a quantity for example, and what is in a map has no fields of its own.
func fieldsOf(t reflect.Type, path string) []string {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch {
	case reflect.PointerTo(t).Implements(reflect.TypeFor[json.Marshaler]()):
		return []string{path}
	case t.Kind() == reflect.Slice && t.Elem().Kind() != reflect.Uint8:
		return fieldsOf(t.Elem(), path+"[]")
	case t.Kind() != reflect.Struct:
		return []string{path}
	}
	var all []string
	for i := range t.NumField() {
		name, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
		below := path
		if name != "" {
			below = strings.TrimPrefix(path+"."+name, ".")
		}
		all = append(all, fieldsOf(t.Field(i).Type, below)...)
	}
	return all
}

// fieldsIn returns the paths, as fieldsOf has them, of what a value says. Nulls and what is
// empty say nothing.
func fieldsIn(value any, path string) (all []string) {
	switch value := value.(type) {
	case map[string]any:
		for name, child := range value {
			all = append(all, fieldsIn(child, strings.TrimPrefix(path+"."+name, "."))...)
		}
	case []any:
		for _, child := range value {
			all = append(all, fieldsIn(child, path+"[]")...)
		}
	case nil:
		return nil
	default:
		return []string{path}
	}
	if len(all) > 0 {
		all = append(all, path)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// notInManifests are fields, with all below them, that no manifest has to have, and why.
var notInManifests = map[string]string{
	"paused": "nothing is rolled out then: pause_test.go",

	"template.metadata.generateName":               unused,
	"template.metadata.selfLink":                   unused,
	"template.metadata.uid":                        unused,
	"template.metadata.resourceVersion":            unused,
	"template.metadata.generation":                 unused,
	"template.metadata.creationTimestamp":          unused,
	"template.metadata.deletionTimestamp":          unused,
	"template.metadata.deletionGracePeriodSeconds": unused,
	"template.metadata.ownerReferences":            unused,
	"template.metadata.managedFields":              unused,

	"template.spec.ephemeralContainers":                                           "a Deployment's template must not have any",
	"template.spec.activeDeadlineSeconds":                                         "a Deployment's template must not have it",
	"template.spec.resources.claims":                                              "the API server refuses it for a whole pod",
	"template.spec.containers[].readinessProbe.terminationGracePeriodSeconds":     "the API server refuses it",
	"template.spec.initContainers[].readinessProbe.terminationGracePeriodSeconds": "the API server refuses it",

	claimMetadata + "name":                       claimUnused,
	claimMetadata + "generateName":               claimUnused,
	claimMetadata + "namespace":                  claimUnused,
	claimMetadata + "selfLink":                   claimUnused,
	claimMetadata + "uid":                        claimUnused,
	claimMetadata + "resourceVersion":            claimUnused,
	claimMetadata + "generation":                 claimUnused,
	claimMetadata + "creationTimestamp":          claimUnused,
	claimMetadata + "deletionTimestamp":          claimUnused,
	claimMetadata + "deletionGracePeriodSeconds": claimUnused,
	claimMetadata + "ownerReferences":            claimUnused,
	claimMetadata + "finalizers":                 claimUnused,
	claimMetadata + "managedFields":              claimUnused,
}

const (
	unused        = "pods take labels, annotations and finalizers from a template's metadata; the schema has these, name and namespace"
	claimMetadata = "template.spec.volumes[].ephemeral.volumeClaimTemplate.metadata."
	claimUnused   = "the API server refuses all but labels and annotations here"
)

// Whatever a Deployment can say, one of the manifests says.
func TestManifests_HaveEveryField(t *testing.T) {
	have := map[string]bool{}
	for _, m := range manifests(t, "namespace") {
		for _, path := range fieldsIn(m.deployment["spec"], "") {
			have[path] = true
		}
	}
	excused := map[string]bool{}
	for _, path := range fieldsOf(reflect.TypeFor[appsv1.DeploymentSpec](), "") {
		excuse := ""
		for above := range notInManifests {
			if path == above || strings.HasPrefix(path, above+".") || strings.HasPrefix(path, above+"[") {
				excuse = above
			}
		}
		excused[excuse] = true
		switch {
		case excuse == "" && !have[path]:
			t.Errorf("no manifest has %s", path)
		case excuse != "" && have[path]:
			t.Errorf("a manifest has %s: it needs no excuse", path)
		}
	}
	for above := range notInManifests {
		if !excused[above] {
			t.Errorf("there is no field %s", above)
		}
	}
}
