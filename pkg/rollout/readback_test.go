package rollout

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
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

// Anybody may have written the annotations of a revision. What Belay cannot have written, or could not go on from, says nothing.
func TestDecode_WhatBelayNeverWrote(t *testing.T) {
	for annotation, want := range map[string]Failure{
		`{"n":3,"retries":2,"time":"2026-05-01T12:00:00Z"}`: {Attempt: Attempt{Number: 3, Retries: 2}, Failure: v1alpha1.Failure{Time: metav1.NewTime(noon)}},
		`{"n":2147483647}`:                           {},
		`{"n":2,"retries":-1}`:                       {},
		`{"n":2,"retries":2147483647}`:               {},
		`{"n":-1,"token":"!"}`:                       {Attempt: Attempt{Token: "!"}},
		`{"n":2,"time":"9999-01-01T00:00:00Z"}`:      {Attempt: Attempt{Number: 2}},
		`{"n":2,"time":"9999-12-31T23:59:59-01:00"}`: {Attempt: Attempt{Number: 2}},
		`{"n":2,"time":"0000-01-01T00:00:00+01:00"}`: {Attempt: Attempt{Number: 2}},
		`{"n":2,"time":"9998-12-31T23:59:59.5Z"}`:    {Attempt: Attempt{Number: 2}, Failure: v1alpha1.Failure{Time: metav1.Date(9998, 12, 31, 23, 59, 59, 0, time.UTC)}},
	} {
		s := asking("v1").knows("v1", 1, failed)
		s.Revisions[0].Annotations[v1alpha1.FailureAnnotation] = annotation
		read := s.revision("v1")
		if got := read.Failure; got.Attempt != want.Attempt || !got.Time.Equal(&want.Time) {
			t.Errorf("%s is read as %+v", annotation, got)
		}
		if number := max(1, want.Number); read.Attempt.Number != number {
			t.Errorf("%s is attempt %d, want %d", annotation, read.Attempt.Number, number)
		}
		s.Revisions[0].Annotations[v1alpha1.AttemptAnnotation] = annotation
		if got := s.revision("v1").Attempt; want.Number > 0 && got != want.Attempt || want.Number == 0 && got.Number != 1 {
			t.Errorf("%s is read as the attempt %+v", annotation, got)
		}
	}
}

// The conditions of a Deployment hold whatever somebody has written. Those of a GuardedDeployment have a schema.
func TestMirror_WhatTheSchemaTakes(t *testing.T) {
	for name, row := range map[string]struct {
		status       corev1.ConditionStatus
		reason, want string
	}{
		"as it is":       {corev1.ConditionTrue, "MinimumReplicasAvailable", "True MinimumReplicasAvailable"},
		"not known":      {corev1.ConditionUnknown, "A", "Unknown A"},
		"no reason":      {corev1.ConditionTrue, "", "True NoReason"},
		"a sentence":     {corev1.ConditionFalse, "it is down", "False NoReason"},
		"1,002 letters":  {corev1.ConditionTrue, strings.Repeat("a", 1002), "True " + strings.Repeat("a", 1002)},
		"more":           {corev1.ConditionTrue, strings.Repeat("a", 1025), "True NoReason"},
		"no status":      {"", "A", "False NotReported"},
		"another status": {"true", "A", "False NotReported"},
	} {
		s := asking("v1").knows("v1", 1, good).runningName("v1")
		s.Deployment.Status.Conditions[0].Status, s.Deployment.Status.Conditions[0].Reason = row.status, row.reason
		s.play()
		c := meta.FindStatusCondition(s.Guarded.Status.Conditions, v1alpha1.ConditionAvailable)
		if got := string(c.Status) + " " + c.Reason; got != row.want {
			t.Errorf("%s: %s, want %s", name, got, row.want)
		}
	}
}

// The same of labels and the annotation of a Deployment that is guarded in place.
func TestInPlace_WhatBelayNeverWrote(t *testing.T) {
	for label, want := range map[string]Attempt{"2.3.1": {Number: 3, Retries: 1}, "2.2147483647.0": {Number: 1}, "2.9223372036854775807.0": {Number: 1}, "2.2.2147483647": {Number: 1},
		"2.2.-1": {Number: 1}, "2.0.0": {Number: 1}} {
		s := inPlace("v2").set("v2", 2, 2, 0, isTried(label))
		if got, noted := attemptAt(s.Evidence.ReplicaSets[0]); got.Number != want.Number || got.Retries != want.Retries || noted != (want.Number > 1) {
			t.Errorf("%s is read as %+v, %t", label, got, noted)
		}
	}
	for retries, want := range map[int]int{2: 2, -1: 0, math.MaxInt32: 0} {
		s := inPlace("v2").set("v2", 2, 2, 0).failed("v2", 2, 3, func(f *failedRelease) { f.Retries, f.Time = retries, metav1.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC) })
		if f := failureOf(s.Deployment, s.Evidence.ReplicaSets[0]); f == nil || f.Retries != want || !f.Time.IsZero() {
			t.Errorf("%d retries are read as %+v", retries, f)
		}
	}
}
