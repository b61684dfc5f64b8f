// Package kstatus tells, in tests, whether the kstatus library reads a GuardedDeployment's status as it is meant. Flux,
// Helm 4 and other tools that wait for what they applied decide by this library.
package kstatus

import (
	"fmt"

	"github.com/fluxcd/cli-utils/pkg/kstatus/status"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// Compute returns what the library says of the object, in the form in which the API server returns it.
func Compute(g *v1alpha1.GuardedDeployment) (status.Status, error) {
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(g)
	if err != nil {
		return "", err
	}
	result, err := status.Compute(&unstructured.Unstructured{Object: content})
	if err != nil {
		return "", err
	}
	return result.Status, nil
}

// Check returns an error if the library does not say of the object what its conditions mean.
func Check(g *v1alpha1.GuardedDeployment) error {
	got, err := Compute(g)
	if err != nil {
		return err
	}
	if want := Meant(g); got != want {
		return fmt.Errorf("kstatus says %s, want %s: generation %d, observed %d, conditions %+v",
			got, want, g.Generation, g.Status.ObservedGeneration, g.Status.Conditions)
	}
	return nil
}

// Meant returns what the conditions mean: Current only for a spec that is good and running, InProgress while Belay has
// not seen the spec or works on it, Failed when only a person can move it on.
func Meant(g *v1alpha1.GuardedDeployment) status.Status {
	is := func(condition string) bool { return meta.IsStatusConditionTrue(g.Status.Conditions, condition) }
	switch {
	case g.DeletionTimestamp != nil:
		return status.TerminatingStatus
	case g.Status.ObservedGeneration != g.Generation:
		return status.InProgressStatus
	case is(v1alpha1.ConditionReady):
		return status.CurrentStatus
	case is(v1alpha1.ConditionStalled):
		return status.FailedStatus
	default:
		return status.InProgressStatus
	}
}
