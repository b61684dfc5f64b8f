package main

import (
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

func TestSlim(t *testing.T) {
	slim := newSlimmer().slim
	large := strings.Repeat("x", largeAnnotation+1)
	full := metav1.ObjectMeta{
		Name: "web", Namespace: "shop", UID: "uid", ResourceVersion: "7", Generation: 3, Labels: map[string]string{"app": "web"},
		OwnerReferences: []metav1.OwnerReference{{Name: "owner"}},
		ManagedFields:   []metav1.ManagedFieldsEntry{{Manager: "kubectl"}},
		Annotations:     map[string]string{"small": "stays", "large": large, v1alpha1.FailureAnnotation: large},
	}
	want := *full.DeepCopy()
	want.ManagedFields = nil
	delete(want.Annotations, "large")
	for _, object := range []any{
		&v1alpha1.GuardedDeployment{ObjectMeta: *full.DeepCopy()}, &appsv1.Deployment{ObjectMeta: *full.DeepCopy()},
	} {
		for range 2 { // A transform has to bear being applied twice.
			var err error
			if object, err = slim(object); err != nil {
				t.Fatal(err)
			}
		}
		if diff := cmp.Diff(&want, object.(metav1.ObjectMetaAccessor).GetObjectMeta()); diff != "" {
			t.Errorf("%T: %s", object, diff)
		}
	}
	// A revision is written as it is cached: what is missing would be taken away from it.
	revision, err := slim(&appsv1.ControllerRevision{ObjectMeta: *full.DeepCopy()})
	if kept := revision.(*appsv1.ControllerRevision); err != nil || len(kept.Annotations) != 3 || kept.ManagedFields != nil {
		t.Errorf("a revision keeps %v and %v, %v", kept.Annotations, kept.ManagedFields, err)
	}
	// A decoder leaves room at the end of a slice.
	roomy := &v1alpha1.GuardedDeployment{}
	roomy.Spec.Template.Spec.Containers = make([]corev1.Container, 1, 4)
	tight, err := slim(roomy)
	if room := cap(tight.(*v1alpha1.GuardedDeployment).Spec.Template.Spec.Containers); err != nil || room != 1 {
		t.Errorf("there is room for %d containers, want 1 (%v)", room, err)
	}
	if _, err := slim(cache.DeletedFinalStateUnknown{Key: "shop/web"}); err != nil {
		t.Errorf("a tombstone: %v", err)
	}
}

func TestEqualMapsAreShared(t *testing.T) {
	slim := newSlimmer().slim
	cached := func(object any) *appsv1.DeploymentSpec {
		object, err := slim(object)
		if err != nil {
			t.Fatal(err)
		}
		if g, ok := object.(*v1alpha1.GuardedDeployment); ok {
			return &g.Spec.DeploymentSpec
		}
		return &object.(*appsv1.Deployment).Spec
	}
	g, d := &v1alpha1.GuardedDeployment{}, &appsv1.Deployment{}
	g.Spec.Template.Labels = map[string]string{"app": "web"}
	d.Spec.Template.Labels = map[string]string{"app": "web"}
	one, other := cached(g).Template.Labels, cached(d).Template.Labels
	if reflect.ValueOf(one).Pointer() != reflect.ValueOf(other).Pointer() {
		t.Error("a GuardedDeployment and its Deployment have two maps of the same labels")
	}
	// These two print the same.
	d.Spec.Template.Labels = map[string]string{"a": "b c:d"}
	cached(d)
	g.Spec.Template.Labels = map[string]string{"a": "b", "c": "d"}
	if diff := cmp.Diff(g.Spec.Template.Labels, cached(g).Template.Labels); diff != "" {
		t.Error(diff)
	}
}
