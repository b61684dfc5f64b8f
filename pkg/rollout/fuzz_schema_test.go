package rollout

import (
	"os"
	"testing"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/yaml"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// statusSchema returns what tells whether the API server would take a status, by the CRD's schema.
func statusSchema(f *testing.F) func(*v1alpha1.GuardedDeploymentStatus) error {
	data, err := os.ReadFile("../../artifacts/crd.yaml")
	if err != nil {
		f.Fatal(err)
	}
	var crd apiextensionsv1.CustomResourceDefinition
	if err := yaml.UnmarshalStrict(data, &crd); err != nil {
		f.Fatal(err)
	}
	var props apiextensions.JSONSchemaProps
	status := crd.Spec.Versions[0].Schema.OpenAPIV3Schema.Properties["status"]
	if err := apiextensionsv1.Convert_v1_JSONSchemaProps_To_apiextensions_JSONSchemaProps(&status, &props, nil); err != nil {
		f.Fatal(err)
	}
	structural, err := schema.NewStructural(&props)
	if err != nil {
		f.Fatal(err)
	}
	validator, _, err := validation.NewSchemaValidator(&props)
	if err != nil {
		f.Fatal(err)
	}
	return func(status *v1alpha1.GuardedDeploymentStatus) error {
		object := toUnstructured(status)
		defaulting.PruneNonNullableNullsWithoutDefaults(object, structural) // as when it is decoded
		return validation.ValidateCustomResource(field.NewPath("status"), object, validator).ToAggregate()
	}
}
