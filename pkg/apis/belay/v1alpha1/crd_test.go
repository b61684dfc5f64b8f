package v1alpha1_test

import (
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/validation"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/yaml"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// readCRD returns artifacts/crd.yaml.
func readCRD(t *testing.T) *apiextensionsv1.CustomResourceDefinition {
	t.Helper()
	data, err := os.ReadFile("../../../../artifacts/crd.yaml")
	if err != nil {
		t.Fatal(err)
	}
	crd := new(apiextensionsv1.CustomResourceDefinition)
	if err := yaml.UnmarshalStrict(data, crd); err != nil {
		t.Fatal(err)
	}
	return crd
}

// internal returns the form of crd that the API server validates.
func internal(t *testing.T, crd *apiextensionsv1.CustomResourceDefinition) *apiextensions.CustomResourceDefinition {
	t.Helper()
	crd = crd.DeepCopy()
	apiextensionsv1.SetDefaults_CustomResourceDefinition(crd)
	apiextensionsv1.SetDefaults_CustomResourceDefinitionSpec(&crd.Spec)
	crd.Status.StoredVersions = []string{"v1alpha1"} // as the registry does before it validates
	out := new(apiextensions.CustomResourceDefinition)
	if err := apiextensionsv1.Convert_v1_CustomResourceDefinition_To_apiextensions_CustomResourceDefinition(crd, out, nil); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestCRD_Accepted(t *testing.T) {
	// The validation has the cost limits of the CEL rules in it.
	for _, err := range validation.ValidateCustomResourceDefinition(t.Context(), internal(t, readCRD(t))) {
		t.Error(err)
	}
}

// kubectl apply keeps the whole object in an annotation, and annotations have a limit.
func TestCRD_FitsIntoLastAppliedAnnotation(t *testing.T) {
	document, err := os.ReadFile("../../../../artifacts/crd.yaml")
	if err != nil {
		t.Fatal(err)
	}
	compact, err := yaml.YAMLToJSON(document)
	if err != nil {
		t.Fatal(err)
	}
	const limit = 256 * 1024
	if len(compact) >= limit {
		t.Errorf("the CRD is %d bytes of JSON; the limit is %d", len(compact), limit)
	}
	t.Logf("%d bytes of JSON", len(compact))
}

// What the server admits, Go must be able to decode: one object that it cannot would stop the informer for all. What the Go
// types have, the server must not prune.
func TestCRD_MirrorsGoTypes(t *testing.T) {
	root := readCRD(t).Spec.Versions[0].Schema.OpenAPIV3Schema
	mirror(t, "", reflect.TypeFor[v1alpha1.GuardedDeployment](), root)

	spec := root.Properties["spec"]
	for field := range reflect.TypeFor[appsv1.DeploymentSpec]().Fields() {
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		if s, ok := spec.Properties[name]; !ok {
			t.Errorf("spec.%s of a Deployment is not in the schema", name)
		} else if s.Default != nil {
			t.Errorf("spec.%s has a default", name)
		}
	}
}

// beyondDeployment are the fields that a Deployment does not have. None of them names a namespace, and none lets the
// writer of a spec name an object: a GuardedDeployment reaches no further than a Deployment of its name. What the status
// names is a report, which nobody acts on. status.failure.log is what pods of the namespace wrote: who may read the object reads it.
var beyondDeployment = []string{
	"spec.guard", "spec.guard.log", "spec.guard.maxRestarts", "spec.guard.onFailure", "spec.guard.pinImages", "spec.guard.retries", "spec.guard.soakSeconds", "spec.guard.stuckSeconds", "spec.guard.toleratedPods",
	"status", "status.*", "status.availableReplicas", // Go ignores what the status of an exported Deployment has more
	"status.conditions", "status.conditions[].*", "status.conditions[].lastTransitionTime", "status.conditions[].message", "status.conditions[].observedGeneration",
	"status.conditions[].reason", "status.conditions[].status", "status.conditions[].type",
	"status.failure", "status.failure.attempt", "status.failure.cause", "status.failure.container", "status.failure.exitCode",
	"status.failure.images", "status.failure.images[].container", "status.failure.images[].good", "status.failure.images[].image", "status.failure.images[].now", "status.failure.log",
	"status.failure.message", "status.failure.nextAttempt", "status.failure.node", "status.failure.pod",
	"status.failure.reason", "status.failure.replicaSet", "status.failure.restarts", "status.failure.revision", "status.failure.time",
	"status.goodRevision", "status.observedGeneration", "status.readyReplicas", "status.replicas", "status.runningRevision",
	"status.selector", "status.targetRevision", "status.updatedReplicas",
}

// A field that is added has to be thought about before it is added to the list: does it reach beyond the namespace?
func TestCRD_NamesNothingBeyondTheDeployment(t *testing.T) {
	root := readCRD(t).Spec.Versions[0].Schema.OpenAPIV3Schema
	spec := root.Properties["spec"]
	for field := range reflect.TypeFor[appsv1.DeploymentSpec]().Fields() {
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		delete(spec.Properties, name)
	}
	status := root.Properties["status"]
	got := append(properties("spec", &spec), "status")
	got = append(got, properties("status", &status)...)
	slices.Sort(got)
	want := slices.Sorted(slices.Values(beyondDeployment))
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("not the fields that were thought about (-want +got):\n%s", diff)
	}
	for name := range root.Properties {
		if !slices.Contains([]string{"apiVersion", "kind", "metadata", "spec", "status"}, name) {
			t.Errorf("the object has %s", name)
		}
	}
}

// properties returns the paths of all properties below path.
func properties(path string, s *apiextensionsv1.JSONSchemaProps) (paths []string) {
	if s.Items != nil {
		paths = properties(path+"[]", s.Items.Schema)
	}
	if s.AdditionalProperties != nil || s.XPreserveUnknownFields != nil {
		paths = append(paths, path+".*")
	}
	for name, property := range s.Properties {
		paths = append(append(paths, path+"."+name), properties(path+"."+name, &property)...)
	}
	return paths
}

// templateMeta are the fields of a template's metadata that mean something there, and one that tools write as null.
var templateMeta = []string{"annotations", "creationTimestamp", "finalizers", "labels", "name", "namespace"}

func mirror(t *testing.T, path string, typ reflect.Type, s *apiextensionsv1.JSONSchemaProps) {
	t.Helper()
	wrong := func(format string, args ...any) {
		t.Helper()
		t.Errorf(path+" ("+typ.String()+"): "+format, args...)
	}
	if strings.HasPrefix(path, ".spec.template.") && (s.Default != nil || s.Description != "") {
		wrong("has a default or a description")
	}

	switch typ {
	case reflect.TypeFor[metav1.Time]():
		if s.Format != "date-time" || s.Pattern == "" || s.MinItems == nil || s.MaxItems == nil {
			wrong("is not bound to what Go reads as a time")
		}
		return
	case reflect.TypeFor[intstr.IntOrString]():
		if !s.XIntOrString || s.Maximum == nil || s.Minimum == nil {
			wrong("is not bound to int32 or string")
		}
		return
	case reflect.TypeFor[resource.Quantity]():
		if s.XPreserveUnknownFields == nil || s.Pattern == "" || s.MaxLength == nil || s.Not == nil || s.MinItems == nil || s.MinProperties == nil {
			wrong("is not bound to what Go reads as a quantity")
		}
		return
	case reflect.TypeFor[metav1.ObjectMeta]():
		for _, name := range templateMeta {
			if _, ok := s.Properties[name]; !ok && path != ".metadata" {
				wrong("has no %s", name)
			}
		}
		return
	}

	want := map[reflect.Kind][2]string{
		reflect.Bool: {"boolean"}, reflect.String: {"string"}, reflect.Int32: {"integer", "int32"}, reflect.Int64: {"integer", "int64"},
		reflect.Struct: {"object"}, reflect.Map: {"object"}, reflect.Slice: {"array"},
	}
	if typ.Kind() != reflect.Pointer && want[typ.Kind()] != [2]string{s.Type, s.Format} {
		wrong("is %s %s in the schema", s.Type, s.Format)
		return
	}
	switch typ.Kind() {
	case reflect.Int32:
		if s.Maximum == nil || s.Minimum == nil {
			wrong("is not bound to int32: older servers do not look at the format")
		}
	case reflect.Pointer:
		mirror(t, path, typ.Elem(), s)
	case reflect.Slice:
		mirror(t, path+"[]", typ.Elem(), s.Items.Schema)
	case reflect.Map:
		mirror(t, path+"{}", typ.Elem(), s.AdditionalProperties.Schema)
	case reflect.Struct:
		names := map[string]bool{}
		eachField(typ, func(name string, field reflect.Type) {
			names[name] = true
			if child, ok := s.Properties[name]; ok {
				mirror(t, path+"."+name, field, &child)
			} else {
				wrong("has no %s in the schema", name)
			}
		})
		for name := range s.Properties {
			if !names[name] {
				wrong("has no %s in Go", name)
			}
		}
	}
}

// eachField calls f with the JSON name and the type of each field, those of inlined structs included.
func eachField(typ reflect.Type, f func(name string, field reflect.Type)) {
	for field := range typ.Fields() {
		if name, _, _ := strings.Cut(field.Tag.Get("json"), ","); name != "" {
			f(name, field.Type)
		} else {
			eachField(field.Type, f)
		}
	}
}
