package e2e

import (
	"encoding/json"
	"maps"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// keptNulls are fields whose null is refused where the API server does not drop it before it looks: in a server-side
// apply, each with the server's words. For a Deployment it is as if left out. docs/gitops.md says so.
var keptNulls = map[string]string{
	"spec.replicas": ".spec.replicas accessor error: <nil> is of the type <nil>", // which it reads for /scale
}

// A null that a Deployment takes, as empty values of templates become, a GuardedDeployment takes, too. Where the schema
// refuses one, it is tried in the manifests, which have every field of a Deployment.
func TestManifests_Nulls(t *testing.T) {
	t.Parallel()
	n := emptyNamespace(t)
	// The feature is off in 1.34: a Deployment's rules are dropped before anybody looks at them.
	minor := serverMinor(t)
	dropped := func(path string) bool { return minor == "34" && strings.Contains(path, ".restartPolicyRules.") }
	for _, how := range []string{"create", "apply"} {
		s := &sweep{namespace: n, schema: schemaOfCRD(t), apply: how == "apply", accepted: map[*field]bool{}}
		all := fieldsBelow(&field{steps: []string{"spec"}, schema: child(s.schema, "spec")})
		for _, set := range independent(all) {
			s.try(set, "null")
		}
		refused := map[string]bool{}
		for _, f := range all {
			refused[strings.Join(f.steps, ".")] = !s.accepted[f]
		}
		tried := map[string]int{}
		for _, m := range manifests(t, n.name) {
			eachNull(m.deployment["spec"], child(s.schema, "spec"), "spec", func(path string) {
				if kept := keptNulls[path]; how == "apply" && kept != "" {
					if err := n.tryNull(how, asGuarded(m.deployment)); err == nil || !strings.Contains(err.Error(), kept) {
						t.Errorf("%s: a null that is applied is answered by %v, want %q: see docs/gitops.md", path, err, kept)
					}
					return
				}
				if refused[path] && !dropped(path) && tried[path] < 2 { // It is much the same everywhere.
					tried[path]++
					n.checkNull(how, path, m.deployment)
				}
			})
		}
		t.Logf("%s: of %d fields, %d may be null; %d of the others were tried in a Deployment", how, len(all), len(s.accepted), len(tried))
	}
}

// checkNull makes sure that a Deployment, which has a null at the path, is refused where a GuardedDeployment is.
func (n *namespace) checkNull(how, path string, deployment map[string]any) {
	if refused := n.tryNull(how, asGuarded(deployment)); refused != nil && n.tryNull(how, deployment) == nil {
		n.Errorf("%s: null is taken in a Deployment, and refused in a GuardedDeployment (%s): %v", path, how, refused)
	}
}

// asGuarded returns the manifest of a Deployment as that of a GuardedDeployment.
func asGuarded(deployment map[string]any) map[string]any {
	guarded := maps.Clone(deployment)
	guarded["apiVersion"], guarded["kind"] = v1alpha1.GroupVersion.String(), "GuardedDeployment"
	return guarded
}

// tryNull asks the API server whether it would take the object.
func (n *namespace) tryNull(how string, object map[string]any) error {
	kind := appsv1.SchemeGroupVersion.WithResource("deployments")
	if object["kind"] == "GuardedDeployment" {
		kind = schema.GroupVersionResource{Group: v1alpha1.GroupName, Version: v1alpha1.GroupVersion.Version, Resource: "guardeddeployments"}
	}
	if how == "create" {
		_, err := cluster.dynamic.Resource(kind).Namespace(n.name).Create(n.Context(), &unstructured.Unstructured{Object: object},
			metav1.CreateOptions{FieldValidation: metav1.FieldValidationStrict, DryRun: []string{metav1.DryRunAll}})
		return err
	}
	data, err := json.Marshal(object)
	if err != nil {
		return err
	}
	_, err = cluster.dynamic.Resource(kind).Namespace(n.name).Patch(n.Context(), "web", types.ApplyPatchType, data,
		metav1.PatchOptions{FieldManager: "e2e", FieldValidation: metav1.FieldValidationStrict, DryRun: []string{metav1.DryRunAll}})
	return err
}

// eachNull makes each value below at null, one after the other, and calls f with the path of its field.
func eachNull(at any, s *apiextensionsv1.JSONSchemaProps, path string, f func(path string)) {
	visit := func(step string, value any, set func(any)) {
		set(nil)
		f(path + "." + step)
		set(value)
		eachNull(value, child(s, step), path+"."+step, f)
	}
	switch at := at.(type) {
	case map[string]any:
		for name, value := range at {
			step := name
			if s.AdditionalProperties != nil {
				step = "{}"
			}
			visit(step, value, func(v any) { at[name] = v })
		}
	case []any:
		for i, value := range at {
			visit("[]", value, func(v any) { at[i] = v })
		}
	}
}
