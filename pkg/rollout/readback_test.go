package rollout

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/util/json"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// readFrom returns a GuardedDeployment whose template is decoded as the client does it.
func readFrom(t *testing.T, metadata, spec string) *v1alpha1.GuardedDeployment {
	t.Helper()
	g := newGuarded("v1")
	text := fmt.Sprintf(`{"metadata": {"labels": {"app": "web"}, %s}, "spec": {"containers": [{"name": "web", "image": "v1"}], %s}}`, metadata, spec)
	text = strings.ReplaceAll(text, ", }", "}")
	g.Spec.Template.Reset()
	if err := json.Unmarshal([]byte(text), &g.Spec.Template); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return g
}

// Some values are decoded to something that is encoded to something else. Whatever a template holds, it is found again
// once it is recorded: one that was not would be recorded for ever, and never rolled out.
func TestFind_WhatWasRecorded(t *testing.T) {
	metadata := func(value string) [2]string { return [2]string{value, ""} }
	spec := func(value string) [2]string { return [2]string{"", value} }
	container := func(value string) [2]string {
		return spec(`"containers": [{"name": "web", "image": "v1", ` + value + `}]`)
	}
	rows := map[string][2]string{
		"half a second":                   metadata(`"creationTimestamp": "2025-01-01T00:00:00.5Z"`),
		"a nanosecond before midnight":    metadata(`"creationTimestamp": "2024-12-31T23:59:59.999999999Z"`),
		"another zone":                    metadata(`"creationTimestamp": "2025-01-01T00:00:00+14:00"`),
		"half a second elsewhere":         metadata(`"creationTimestamp": "2025-01-01T00:00:00.500-03:30"`),
		"no time":                         metadata(`"creationTimestamp": null`),
		"the zero time":                   metadata(`"creationTimestamp": "0001-01-01T00:00:00Z"`),
		"half a second after zero":        metadata(`"creationTimestamp": "0001-01-01T00:00:00.5Z"`),
		"zero elsewhere":                  metadata(`"creationTimestamp": "0001-01-01T01:00:00+01:00"`),
		"the last second":                 metadata(`"creationTimestamp": "9999-12-31T23:59:59.9Z"`),
		"labels twice":                    metadata(`"labels": {"app": "web", "a": "1", "a": "2"}`),
		"a null label":                    metadata(`"annotations": {"a": null}`),
		"no annotations":                  metadata(`"annotations": {}`),
		"null annotations":                metadata(`"annotations": null`),
		"no finalizers":                   metadata(`"finalizers": []`),
		"marks of HTML":                   metadata(`"annotations": {"a": "<b>&\u2028\u0000\ud800"}`),
		"an unknown field":                metadata(`"novel": {"a": 1}`),
		"half a second of a volume claim": spec(`"volumes": [{"name": "v", "ephemeral": {"volumeClaimTemplate": {"metadata": {"creationTimestamp": "2025-01-01T00:00:00.5Z"}, "spec": {}}}}]`),
		"managed fields":                  metadata(`"managedFields": [{"manager": "m", "time": "2025-01-01T00:00:00.5Z", "fieldsV1": {"f:b": {}, "f:a": {"v:1.0": {} } }}]`),
		"empty lists":                     spec(`"volumes": [], "tolerations": [], "imagePullSecrets": null, "hostAliases": [{"ip": "", "hostnames": []}]`),
		"empty objects":                   spec(`"securityContext": {}, "affinity": {"nodeAffinity": {}}, "nodeSelector": {}, "overhead": {}, "dnsConfig": {"options": [{}]}`),
		"zeroes":                          spec(`"terminationGracePeriodSeconds": 0, "priority": 0, "hostNetwork": false, "hostUsers": false`),
		"a port by a number in a string":  container(`"livenessProbe": {"httpGet": {"port": "80"}}`),
		"a port by number":                container(`"livenessProbe": {"httpGet": {"port": 80}}`),
		"a port by nothing":               container(`"livenessProbe": {"httpGet": {"port": null}}`),
		"an empty port":                   container(`"livenessProbe": {"httpGet": {"port": ""}}`),
		"null in lists":                   container(`"args": [null, ""], "env": [{"name": "A", "value": null}, null]`),
		"no resources":                    container(`"resources": {"limits": {}, "requests": null}`),
	}
	for _, quantity := range []string{`"0.5"`, `"500m"`, `0.5`, `1`, `1.0`, `"1e3"`, `"1E3"`, `1e3`, `"1E"`, `"1Ei"`, `"1000Mi"`, `"1024Mi"`, `"1.5Gi"`,
		`"0.1Ki"`, `"0.0005"`, `"1n"`, `"0.1n"`, `"1.1n"`, `"-0.1n"`, `"100.5m"`, `"+5"`, `"005"`, `"-0"`, `"0"`, `0`, `"0e9"`, `"1e-9"`, `"1e-12"`, `"1e30"`, `"-1e30"`,
		`"9223372036854775807"`, `"9223372036854775808"`, `"123456789012345678901234567890"`, `"0.000000000000000000000000000001"`, `"8Ei"`, `null`,
		`"1.` + strings.Repeat("0", 300) + `1"`, `"` + strings.Repeat("9", 300) + `"`} {
		rows["quantity "+quantity[:min(len(quantity), 40)]+fmt.Sprint(len(quantity))] = container(`"resources": {"limits": {"cpu": ` + quantity + `}}`)
	}
	for name, row := range rows {
		t.Run(name, func(t *testing.T) {
			g := readFrom(t, row[0], row[1])
			s := asking("v1")
			s.Guarded.Spec.Template = g.Spec.Template
			s.play()
			if got := conditions(&s.Guarded.Status); got != "Ready RolledOut" || len(s.Revisions) != 1 {
				t.Errorf("%s, with %d revisions", got, len(s.Revisions))
			}
			s.after(time.Hour)
			if done := s.play(); len(done) > 0 {
				t.Errorf("there is no rest: %v", done)
			}
		})
	}
}

// What cannot be written down so that it can be read again, is told, and written nowhere.
func TestDecide_Unrecordable(t *testing.T) {
	for _, instant := range []string{"9999-12-31T23:59:59-01:00", "0000-01-01T00:00:00+01:00"} {
		s := asking("v1")
		s.Guarded.Spec.Template = readFrom(t, `"creationTimestamp": "`+instant+`"`, "").Spec.Template
		done := s.play()
		if got := conditions(&s.Guarded.Status); got != "Stalled Invalid" || len(s.Revisions) != 0 || s.Deployment != nil {
			t.Errorf("%s: %s, after %v", instant, got, done)
		}
	}
}

// The time of a failure is an annotation that anybody may have written. The status holds whole seconds, and is written once.
func TestReport_FailureWithAFractionOfASecond(t *testing.T) {
	s := asking("v2").knows("v1", 1, good).knows("v2", 2, failed).runningName("v1").up()
	r := s.revision("v2").ControllerRevision
	annotation := r.Annotations[v1alpha1.FailureAnnotation]
	r.Annotations[v1alpha1.FailureAnnotation] = strings.Replace(annotation, `:00Z"`, `:00.5Z"`, 1)
	if r.Annotations[v1alpha1.FailureAnnotation] == annotation {
		t.Fatalf("there is no time in %s", annotation)
	}
	s.play()
	data, _ := json.Marshal(s.Guarded.Status)
	s.Guarded.Status = v1alpha1.GuardedDeploymentStatus{}
	if err := json.Unmarshal(data, &s.Guarded.Status); err != nil {
		t.Fatal(err)
	}
	if done := s.play(); len(done) > 0 {
		t.Errorf("it is reported again: %v", done)
	}
}
