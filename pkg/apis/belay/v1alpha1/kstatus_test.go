package v1alpha1_test

import (
	"testing"

	"github.com/fluxcd/cli-utils/pkg/kstatus/status"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// Whoever looks at an object before Belay does must not take it for done. The kstatus library takes an object without
// status.observedGeneration and without conditions for done.
func TestKstatus_NewObject(t *testing.T) {
	object := parse(t, manifest)
	if unknown := newAdmission(t).decode(object); len(unknown) > 0 {
		t.Fatalf("unknown fields: %v", unknown)
	}
	u := &unstructured.Unstructured{Object: object}
	u.SetGeneration(1)
	result, err := status.Compute(u)
	if err != nil {
		t.Fatal(err)
	}
	if result.Status != status.InProgressStatus {
		t.Errorf("kstatus says %s: %s", result.Status, result.Message)
	}
}
