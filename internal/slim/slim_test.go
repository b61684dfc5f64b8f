package slim

import (
	"fmt"
	"maps"
	"reflect"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

func TestTransform(t *testing.T) {
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
	// When its attempt began is in its managed fields: of those, the newest is kept, without what was written.
	full.Annotations[v1alpha1.AttemptAnnotation] = `{"n":2}`
	full.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: "nobody"}}
	for _, second := range []int64{1, 3, 2} {
		full.ManagedFields = append(full.ManagedFields, metav1.ManagedFieldsEntry{Manager: fmt.Sprint("at ", second), Operation: metav1.ManagedFieldsOperationUpdate,
			APIVersion: "apps/v1", Time: new(metav1.Unix(second, 0)), FieldsType: "FieldsV1", FieldsV1: metav1.NewFieldsV1("{}")})
	}
	last := []metav1.ManagedFieldsEntry{{Manager: "at 3", Operation: metav1.ManagedFieldsOperationUpdate, Time: new(metav1.Unix(3, 0))}}
	underWay := any(&appsv1.ControllerRevision{ObjectMeta: *full.DeepCopy()})
	for range 2 {
		if underWay, err = slim(underWay); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(last, underWay.(*appsv1.ControllerRevision).ManagedFields); diff != "" {
			t.Errorf("the managed fields of a revision under way (-want +got):\n%s", diff)
		}
	}
	full.ManagedFields = full.ManagedFields[:1]
	if timeless, err := slim(&appsv1.ControllerRevision{ObjectMeta: full}); err != nil || timeless.(*appsv1.ControllerRevision).ManagedFields != nil {
		t.Errorf("without a time, %v is kept, %v", timeless, err)
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

func TestIntern_EqualMaps(t *testing.T) {
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
	// These print the same, or differ in where their values stand.
	for _, labels := range []map[string]string{{"a": "b c:d"}, {"a": "b", "c": "d"}, {"a": "d", "c": "b"}} {
		d.Spec.Template.Labels = maps.Clone(labels)
		if diff := cmp.Diff(labels, cached(d).Template.Labels); diff != "" {
			t.Error(diff)
		}
	}
}

// decoded returns an annotation of so many bytes, none of which it has in common with another.
func decoded(number, bytes int) map[string]string {
	return map[string]string{"note": fmt.Sprintf("%0*d", bytes, number)}
}

// What is kept to be shared is bounded in bytes, and outlives the objects: whatever large they held goes with them.
func TestIntern_BoundedInBytes(t *testing.T) {
	const limit = 12 << 20
	for name, row := range map[string]struct {
		objects int
		holding func(number int) map[string]string
	}{
		"large annotations":          {400, func(number int) map[string]string { return decoded(number, 250_000) }},
		"as large as are shared":     {20_000, func(number int) map[string]string { return decoded(number, largestShared-entryWeight-4) }},
		"a little larger than those": {20_000, func(number int) map[string]string { return decoded(number, largestShared-entryWeight-3) }},
		"many labels": {400, func(number int) map[string]string {
			labels := map[string]string{}
			for i := range 4000 {
				labels[fmt.Sprint(number, "-", i)] = "x"
			}
			return labels
		}},
		"as many labels as are shared": {20_000, func(number int) map[string]string {
			labels := map[string]string{}
			for i := range largestShared / (entryWeight + 10) {
				labels[fmt.Sprintf("%d-%d", number, i)] = "x"
			}
			return labels
		}},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSlimmer()
			before := heapInUse()
			for number := range row.objects {
				g := &v1alpha1.GuardedDeployment{}
				g.Spec.Template.Annotations = row.holding(number)
				if _, err := s.slim(g); err != nil {
					t.Fatal(err)
				}
			}
			kept := int64(heapInUse()) - int64(before)
			t.Logf("%d objects that are gone leave %d kB in %d maps", row.objects, kept>>10, s.shared.Len())
			if kept > limit {
				t.Errorf("%d bytes are kept, want at most %d", kept, limit)
			}
			runtime.KeepAlive(s)
		})
	}
}

// heapInUse returns how many bytes of the heap are in use.
func heapInUse() uint64 {
	runtime.GC()
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return stats.HeapAlloc
}

// BenchmarkShare measures the sharing of an ordinary object's maps, all of which are there already.
func BenchmarkShare(b *testing.B) {
	s := newSlimmer()
	labels := map[string]string{"app": "web", "app.kubernetes.io/name": "web", "app.kubernetes.io/part-of": "shop", "team": "checkout"}
	limits := corev1.ResourceList{"cpu": resource.MustParse("500m"), "memory": resource.MustParse("256Mi")}
	b.ReportAllocs()
	for b.Loop() {
		intern(s, labels)
		intern(s, limits)
	}
}
