package main

import (
	"strings"
	"testing"
)

// What artifacts/crd.yaml looks like is tested with the types. Here: a change in the libraries must not go unseen.
func TestFinishRefusesWhatItDoesNotKnow(t *testing.T) {
	const crd = `---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: guardeddeployments.belay.dev}
spec:
  versions:
  - name: v1alpha1
    schema:
      openAPIV3Schema:
        properties:
          spec:
            properties:
              replicas: {type: integer}
`
	for name, test := range map[string]struct{ document, want string }{
		"a field is gone":  {crd, `version v1alpha1: spec: no "minReadySeconds" where "minReadySeconds" was to be edited`},
		"a field is new":   {crd + "              novel: {invalid: true}\n", `unknown field "invalid"`},
		"a format is new":  {crd + "              since: {type: string, format: duration}\n", `format "duration"`},
		"one more kind":    {crd + crd, "2 documents"},
		"nothing was made": {"", "0 documents"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := finish([]byte(test.document)); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got error %v, want one with %q", err, test.want)
			}
		})
	}
}
