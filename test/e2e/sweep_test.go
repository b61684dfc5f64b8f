package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
	"github.com/belay-dev/belay/pkg/generated/clientset/versioned/scheme"
)

// What the API server accepts, Go must be able to decode: one object that it cannot would fail every list and watch, and
// nobody's objects would be guarded any more. So values at the edge of what some type takes are tried at every field.
//
// One object carries a value at all fields that can have it at the same time. The fields that the server refuses by name
// are left out, until the rest is accepted; where it names none, and where Go cannot decode, the fields are halved.
func TestSweep_AcceptedIsDecodable(t *testing.T) {
	t.Parallel()
	n := emptyNamespace(t)
	n.create("stored", template(good, "1"), paused(true))
	s := &sweep{namespace: n, schema: schemaOfCRD(t), accepted: map[*field]bool{}}
	var all []*field
	for _, part := range []string{"spec", "status"} {
		all = append(all, fieldsBelow(&field{steps: []string{part}, schema: child(s.schema, part)})...)
	}
	began := time.Now()
	s.tryAll(all)
	t.Logf("%d fields, %d requests in %v", len(all), s.requests, time.Since(began).Round(time.Second))

	// Else a field may have been refused for what is around it, and nothing is shown.
	for _, f := range all {
		if !s.accepted[f] {
			t.Errorf("%s: no value was accepted", f)
		}
	}
}

// ordinary stands for a value that the schema of the field accepts.
const ordinary = "(ordinary)"

// valuesOfEachType are tried at every field.
var valuesOfEachType = []string{ordinary, `null`, `true`, `0`, `1.5`, `""`, `[]`, `[""]`, `[{}]`, `{}`, `{"k":""}`, `{"k":{}}`}

// edgeValues are tried at fields that Go does not decode just by their type: those with a format, a pattern, or more than
// one type; and at all fields with -sweep.
var edgeValues = []string{
	`false`, `[null]`, `["2025-01-01T00:00:00Z"]`, `[0]`, `[[]]`, `{"k":null}`, `{"k":0}`, `{"k":[]}`,

	`-0`, `1`, `-1`, `1.0`, `1e3`, `1e-7`, `1e-400`, `1e19`, `1e20`, `1e21`, `1e308`,
	`2147483647`, `2147483648`, `-2147483648`, `-2147483649`, `4294967296`, `9223372036854775807`, `9223372036854775808`,
	`-9223372036854775808`, `-9223372036854775809`, `18446744073709551616`,

	`"a"`, `" "`, `"\n"`, `"\u0000"`, `"\ud800"`, `"\uffff"`, `"é"`, `"null"`, `"true"`, `"[]"`, `"a/b.c"`, `"!!!"`, `"YQ=="`, `"YQ"`,
	`"1"`, `"-1"`, `"101%"`, `"-1%"`, `"1.5%"`, `"%"`, `"99999999999999999999%"`, `"99999999999999999999"`,
	`"1Ki"`, `"1ki"`, `"1E"`, `"1e"`, `"1e+"`, `"1e99"`, `"1e-99"`, `"1e2147483648"`, `"1e-2147483649"`, `"0x1"`, `"."`, `"+"`, `"-.5"`, `"5."`, `"1.5Gi"`,
	`"NaN"`, `"Inf"`, `" 1"`, `"1\n"`, `"1m"`, `"1h"`, `"1z"`,
	`"` + strings.Repeat("9", 64) + `"`, `"` + strings.Repeat("9", 65) + `"`, `"0.` + strings.Repeat("0", 61) + `1"`, `"` + strings.Repeat("9", 60) + `e99"`,
	`"` + strings.Repeat("9", 60) + `Ei"`, `"` + strings.Repeat("a", 300) + `"`,

	`"2025-01-01"`, `"2025-01-01T00:00:00"`, `"2025-01-01T00:00:00Z"`, `"2025-01-01T00:00:00Z\n"`, `"2025-01-01 00:00:00Z"`, `"2025-01-01t00:00:00z"`,
	`"2025-01-01T00:00:00+00:00"`, `"2025-01-01T00:00:00-00:00"`, `"2025-01-01T00:00:00+23:59"`, `"2025-01-01T00:00:00+24:00"`,
	`"2025-01-01T00:00:00+24:60"`, `"2025-01-01T00:00:00+25:00"`, `"2025-01-01T00:00:00+23:60"`, `"2025-01-01T00:00:00+00:61"`,
	`"2025-01-01T00:00:00-99:99"`, `"2025-01-01T00:00:00+99:99"`, `"2025-01-01T00:00:00+0000"`, `"2025-01-01T00:00:00+00"`,
	`"2025-01-01T24:00:00Z"`, `"2025-01-01T23:60:00Z"`, `"2025-01-01T23:59:60Z"`, `"2025-06-30T23:59:60Z"`, `"2025-1-1T0:0:0Z"`,
	`"2025-02-28T00:00:00Z"`, `"2025-02-29T00:00:00Z"`, `"2024-02-29T00:00:00Z"`, `"2024-02-30T00:00:00Z"`, `"1900-02-29T00:00:00Z"`,
	`"2025-04-31T00:00:00Z"`, `"2025-00-01T00:00:00Z"`, `"2025-13-01T00:00:00Z"`, `"2025-01-00T00:00:00Z"`, `"2025-01-32T00:00:00Z"`,
	`"0000-01-01T00:00:00+23:59"`, `"0001-01-01T00:00:00Z"`, `"0001-01-01T00:00:00+00:01"`, `"9999-12-31T23:59:59-23:59"`, `"12025-01-01T00:00:00Z"`,
	`"2025-01-01T00:00:00.Z"`, `"2025-01-01T00:00:00.123456789Z"`, `"2025-01-01T00:00:00.` + strings.Repeat("9", 40) + `Z"`, `"2025-01-01T00:00:00,5Z"`,
	`"1735689600"`, `"2025-W01-1T00:00:00Z"`, `"PT1H"`,
}

// field is a place in an object: names, [] for the first item of a list, {} for the value of a map.
type field struct {
	steps  []string
	schema *apiextensionsv1.JSONSchemaProps
}

// key is the key of what is in a map.
const key = "k"

// String returns the path as the API server writes it.
func (f *field) String() string {
	return strings.NewReplacer(".[]", "[0]", "{}", key).Replace(strings.Join(f.steps, "."))
}

// fieldsBelow returns f and all fields below it.
func fieldsBelow(f *field) []*field {
	all := []*field{f}
	for _, step := range stepsBelow(f.schema) {
		all = append(all, fieldsBelow(&field{append(slices.Clone(f.steps), step), child(f.schema, step)})...)
	}
	return all
}

func stepsBelow(s *apiextensionsv1.JSONSchemaProps) (steps []string) {
	for name := range s.Properties {
		steps = append(steps, name)
	}
	if s.Items != nil {
		steps = append(steps, "[]")
	}
	if s.AdditionalProperties != nil {
		steps = append(steps, "{}")
	}
	return steps
}

func child(s *apiextensionsv1.JSONSchemaProps, step string) *apiextensionsv1.JSONSchemaProps {
	switch step {
	case "[]":
		return s.Items.Schema
	case "{}":
		return s.AdditionalProperties.Schema
	}
	property := s.Properties[step]
	return &property
}

// special says whether more than the type of a field decides about whether Go can decode it.
func special(f *field) bool {
	return f.schema.Format != "" || f.schema.Pattern != "" || f.schema.XIntOrString || f.schema.Type == ""
}

// independent divides fields into sets in which none is above another, and all are of one part of the object.
func independent(fields []*field) [][]*field {
	sets := map[string][]*field{}
	for _, f := range fields {
		set := f.steps[0]
		if len(stepsBelow(f.schema)) > 0 {
			set += fmt.Sprint(len(f.steps))
		}
		sets[set] = append(sets[set], f)
	}
	return slices.Collect(maps.Values(sets))
}

// put returns what is at a place, or a sample of its schema, with the value put at the steps below it.
func put(at any, s *apiextensionsv1.JSONSchemaProps, steps []string, value string) any {
	if len(steps) == 0 && value != ordinary {
		return json.RawMessage(value)
	}
	if at == nil {
		at = sample(s)
	}
	if len(steps) == 0 {
		return at
	}
	below := child(s, steps[0])
	switch at := at.(type) {
	case []any:
		if len(at) == 0 {
			at = []any{nil}
		}
		at[0] = put(at[0], below, steps[1:], value)
		return at
	case map[string]any:
		name := strings.ReplaceAll(steps[0], "{}", key)
		at[name] = put(at[name], below, steps[1:], value)
		return at
	}
	panic(fmt.Sprintf("%T has nothing below it", at))
}

// sample returns a small value that the schema accepts.
func sample(s *apiextensionsv1.JSONSchemaProps) any {
	switch {
	case len(s.Enum) > 0:
		return s.Enum[len(s.Enum)-1]
	case s.Format == "date-time":
		return "2025-01-01T00:00:00Z"
	case s.Type == "string":
		return "a"
	case s.Type == "boolean":
		return true
	case s.Type == "array":
		return []any{}
	case s.Type == "object":
		object := map[string]any{}
		for _, name := range s.Required {
			object[name] = sample(child(s, name))
		}
		return object
	}
	return int64(1) // also for a quantity, and an integer or a string
}

// sweep tries values at the fields of a schema.
type sweep struct {
	*namespace
	schema *apiextensionsv1.JSONSchemaProps
	apply  bool // server-side, instead of creating

	mu       sync.Mutex
	requests int
	accepted map[*field]bool
}

// tryAll tries all values at all fields, with few requests at once: other tests run beside it.
func (s *sweep) tryAll(fields []*field) {
	var all sync.WaitGroup
	free := make(chan struct{}, 4)
	try := func(fields []*field, values []string) {
		for _, set := range independent(fields) {
			for _, value := range values {
				free <- struct{}{}
				all.Go(func() {
					defer func() { <-free }()
					s.try(set, value)
				})
			}
		}
	}
	try(fields, valuesOfEachType)
	if !*sweepFlag {
		fields = slices.DeleteFunc(slices.Clone(fields), func(f *field) bool { return !special(f) })
	}
	try(fields, edgeValues)
	all.Wait()
}

// try puts the value at all of the fields.
func (s *sweep) try(fields []*field, value string) {
	for len(fields) > 0 {
		stored, err := s.send(fields, value)
		undecodable := error(nil)
		if err == nil {
			if undecodable = decode(stored); undecodable == nil {
				s.note(fields)
				return
			}
		}
		rest := slices.DeleteFunc(slices.Clone(fields), func(f *field) bool { return blames(err, f) })
		switch {
		case err != nil && !isRefusal(err):
			s.Errorf("%s at %d fields, the first %s: %v", value, len(fields), fields[0], err)
			return
		case len(rest) < len(fields):
			fields = rest
		case len(fields) > 1:
			s.try(fields[:len(fields)/2], value)
			fields = fields[len(fields)/2:]
		case undecodable != nil:
			s.Errorf("%s: %s is accepted, and Go cannot decode it: %v", fields[0], value, undecodable)
			return
		default:
			return // refused
		}
	}
}

func (s *sweep) note(fields []*field) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range fields {
		s.accepted[f] = true
	}
}

// isRefusal says whether the API server has refused the object for what is in it.
func isRefusal(err error) bool {
	return apierrors.IsInvalid(err) || apierrors.IsBadRequest(err) || strings.HasPrefix(err.Error(), "failed to create typed patch object")
}

// blames says whether the API server names the field in its refusal, or what was put there.
func blames(err error, f *field) bool {
	var status apierrors.APIStatus
	if !errors.As(err, &status) || status.Status().Details == nil {
		return false
	}
	return slices.ContainsFunc(status.Status().Details.Causes, func(c metav1.StatusCause) bool {
		below, found := strings.CutPrefix(c.Field, f.String())
		return found && (below == "" || below[0] == '.' || below[0] == '[') || strings.HasSuffix(c.Message, " in "+f.String())
	})
}

// send asks the API server to store an object with the value at the fields, without storing it, and returns what it
// would have stored.
func (s *sweep) send(fields []*field, value string) ([]byte, error) {
	s.mu.Lock()
	s.requests++
	s.mu.Unlock()
	labels := map[string]any{"app": "web"}
	object := map[string]any{
		"apiVersion": v1alpha1.GroupVersion.String(), "kind": "GuardedDeployment", "metadata": map[string]any{"name": "new"},
		"spec": map[string]any{"selector": map[string]any{"matchLabels": labels},
			"template": map[string]any{"metadata": map[string]any{"labels": map[string]any{"app": "web"}},
				"spec": map[string]any{"containers": []any{map[string]any{"name": "web"}}}}},
	}
	part := fields[0].steps[0]
	for _, f := range fields {
		object[part] = put(object[part], child(s.schema, part), f.steps[1:], value)
	}
	var request *rest.Request
	var body any = object
	client := cluster.belay.BelayV1alpha1().RESTClient()
	switch {
	case s.apply:
		request = client.Patch(types.ApplyPatchType).Name("new").Param("fieldManager", "e2e")
	case part == "status":
		request = client.Patch(types.JSONPatchType).Name("stored").SubResource("status")
		body = []any{map[string]any{"op": "replace", "path": "/status", "value": object["status"]}}
	default:
		request = client.Post().SetHeader("Content-Type", "application/json")
	}
	data, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	result := request.Namespace(s.name).Resource("guardeddeployments").Param("dryRun", metav1.DryRunAll).
		SetHeader("Accept", "application/json").Body(data).Do(s.Context())
	stored, _ := result.Raw()
	return stored, result.Error()
}

// decode does what an informer does with a list, and does it again with what it has decoded.
func decode(stored []byte) error {
	began := time.Now()
	data := fmt.Appendf(nil, `{"apiVersion":%q,"kind":"GuardedDeploymentList","metadata":{"resourceVersion":"1"},"items":[%s]}`, v1alpha1.GroupVersion, stored)
	for range 2 {
		list, err := runtime.Decode(scheme.Codecs.UniversalDeserializer(), data)
		if err != nil {
			return err
		}
		if data, err = json.Marshal(list); err != nil {
			return err
		}
	}
	if took := time.Since(began); took > 5*time.Second {
		return fmt.Errorf("it takes %v", took)
	}
	return nil
}

// schemaOfCRD returns the schema in artifacts/crd.yaml.
func schemaOfCRD(t *testing.T) *apiextensionsv1.JSONSchemaProps {
	t.Helper()
	read, err := readCRD()
	if err != nil {
		t.Fatal(err)
	}
	var crd apiextensionsv1.CustomResourceDefinition
	if err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(read.Object, &crd, true); err != nil {
		t.Fatal(err)
	}
	return crd.Spec.Versions[0].Schema.OpenAPIV3Schema
}
