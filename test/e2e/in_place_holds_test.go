package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// unheldLabel, on a Namespace, leaves it out of the policy that holds ReplicaSets: as if somebody had deleted that.
const unheldLabel = "e2e.belay.dev/unheld"

// installHolds installs the policies of artifacts/in-place, if the API server has such.
func installHolds() error {
	served, err := cluster.kube.Discovery().ServerResourcesForGroupVersion("admissionregistration.k8s.io/v1")
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(served.APIResources, func(r metav1.APIResource) bool { return r.Name == "mutatingadmissionpolicies" }) {
		return nil
	}
	if *externalFlag {
		_, err := cluster.kube.AdmissionregistrationV1().MutatingAdmissionPolicies().Get(context.Background(), "belay-in-place", metav1.GetOptions{})
		cluster.holds = err == nil
		return ignoreNotFound(err)
	}
	objects, err := kustomize("in-place")
	if err != nil {
		return err
	}
	var install []byte
	for _, object := range objects {
		if !strings.Contains(object.GetKind(), "AdmissionPolicy") {
			continue
		}
		if object.GetKind() == "MutatingAdmissionPolicyBinding" {
			selector := map[string]any{"matchExpressions": []any{map[string]any{"key": unheldLabel, "operator": "DoesNotExist"}}}
			if err := unstructured.SetNestedMap(object.Object, selector, "spec", "matchResources", "namespaceSelector"); err != nil {
				return err
			}
		}
		document, err := object.MarshalJSON()
		if err != nil {
			return err
		}
		install = append(install, document...)
		leave(func() error {
			_, err := kubectl(nil, "delete", "--ignore-not-found", object.GetKind(), object.GetName())
			return err
		})
	}
	_, err = kubectl(install, "apply", "-f", "-")
	cluster.holds = err == nil
	return err
}

// needsHolds skips the test where the API server holds no ReplicaSets.
func needsHolds(t *testing.T) {
	t.Helper()
	if !cluster.holds {
		t.Skip("this API server has no MutatingAdmissionPolicy: Kubernetes has it since 1.36")
	}
}

// holdsUp leaves the namespace to the policy that holds ReplicaSets, or out of it, and waits until that is in force.
func (p *inPlace) holdsUp(yes bool) {
	p.Helper()
	if *externalFlag {
		p.Skip("the policy is not the tests' own")
	}
	value := any("")
	if yes {
		value = nil
	}
	patch, _ := json.Marshal(map[string]any{"metadata": map[string]any{"labels": map[string]any{unheldLabel: value}}})
	if _, err := cluster.kube.CoreV1().Namespaces().Patch(p.Context(), p.namespace.name, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
		p.Fatal(err)
	}
	if cluster.holds {
		p.eventually(fmt.Sprintf("ReplicaSets are held: %v", yes), func(context.Context) (bool, error) {
			holding, err := p.isHolding()
			return err == nil && holding == yes, err
		})
	}
}

// isHolding reports whether a hold would be kept. A ReplicaSet that changes meanwhile may be the error.
func (p *inPlace) isHolding() (bool, error) {
	p.Helper()
	_, current, _ := p.sets()
	client := cluster.kube.AppsV1().ReplicaSets(p.namespace.name)
	const other = 77
	patch := fmt.Sprintf(`{"metadata":{"labels":{%q:"%d.%s"}}}`, v1alpha1.HeldAtLabel, other, current.UID)
	set, err := client.Patch(p.Context(), current.Name, types.MergePatchType, []byte(patch), metav1.PatchOptions{DryRun: []string{metav1.DryRunAll}})
	if err != nil {
		return false, err
	}
	return *set.Spec.Replicas == other, nil
}
