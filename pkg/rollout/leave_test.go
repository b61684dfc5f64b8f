package rollout

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// leftBehind returns a Deployment as "kubectl delete gd web --cascade=orphan" leaves it: it had been applied before it was
// adopted, and has been up.
func leftBehind() *appsv1.Deployment {
	d := asking("v1").knows("v1", 1, good).runningName("v1").Deployment
	d.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "ConfigMap", Name: "theirs", UID: "uid-of-theirs"}}
	d.Labels["team"] = "a"
	d.Annotations["contact"], d.Annotations[v1alpha1.AdoptAnnotation] = "b", "web"
	d.Annotations[v1alpha1.PinnedAnnotation] = "web"
	d.ManagedFields = []metav1.ManagedFieldsEntry{
		manages("kubectl", metav1.ManagedFieldsOperationApply, ""),
		manages("belay", metav1.ManagedFieldsOperationUpdate, ""),
		manages("kube-controller-manager", metav1.ManagedFieldsOperationUpdate, "status"),
	}
	return d
}

func manages(manager string, operation metav1.ManagedFieldsOperationType, subresource string) metav1.ManagedFieldsEntry {
	return metav1.ManagedFieldsEntry{Manager: manager, Operation: operation, APIVersion: "apps/v1", Subresource: subresource,
		FieldsType: "FieldsV1", FieldsV1: metav1.NewFieldsV1(`{"f:spec":{"f:template":{}}}`)}
}

func TestRelease_LosesWhatBelayPutThere(t *testing.T) {
	d := leftBehind()
	d.ManagedFields = append(d.ManagedFields, manages("belay", metav1.ManagedFieldsOperationApply, ""),
		manages("belay-of-others", metav1.ManagedFieldsOperationUpdate, ""), manages("belay", metav1.ManagedFieldsOperationUpdate, "scale"))
	before := d.DeepCopy()
	released := Release(d, "belay")
	want := before.DeepCopy()
	want.Labels = map[string]string{"team": "a"}
	want.Annotations = map[string]string{"contact": "b", v1alpha1.AdoptAnnotation: "web"}
	m := before.ManagedFields
	want.ManagedFields = []metav1.ManagedFieldsEntry{m[0], m[2], m[4], m[5]}
	if diff := cmp.Diff(want, released); diff != "" {
		t.Errorf("released (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(before, d); diff != "" {
		t.Errorf("what was read is changed (-was +is):\n%s", diff)
	}
	if again := Release(released, "belay"); again != nil {
		t.Errorf("it is released again, to %+v", again.ObjectMeta)
	}
}

func TestRelease_LeavesWhatIsNotBelays(t *testing.T) {
	for name, change := range map[string]func(*appsv1.Deployment){
		"it has a controller": func(d *appsv1.Deployment) {
			d.OwnerReferences = append(d.OwnerReferences, metav1.OwnerReference{Kind: "Rollout", Name: "theirs", UID: "uid-of-rollout", Controller: new(true)})
		},
		"it is being deleted":                      func(d *appsv1.Deployment) { d.DeletionTimestamp = &metav1.Time{Time: noon} },
		"it has no label":                          func(d *appsv1.Deployment) { delete(d.Labels, v1alpha1.GuardedLabel) },
		"it is guarded in place":                   func(d *appsv1.Deployment) { d.Labels[v1alpha1.GuardedLabel] = "in-place" },
		"it has the label and no revision":         func(d *appsv1.Deployment) { delete(d.Annotations, v1alpha1.RevisionAnnotation) },
		"Belay never wrote it: it is a copy":       func(d *appsv1.Deployment) { d.ManagedFields = d.ManagedFields[:1] },
		"nothing is known of who wrote it":         func(d *appsv1.Deployment) { d.ManagedFields = nil },
		"nobody else manages any of its fields":    func(d *appsv1.Deployment) { d.ManagedFields = d.ManagedFields[1:2] },
		"Belay manages a subresource, and no more": func(d *appsv1.Deployment) { d.ManagedFields[1].Subresource = "scale" },
	} {
		d := leftBehind()
		change(d)
		if released := Release(d, "belay"); released != nil {
			t.Errorf("%s, and is released to %+v", name, released.ObjectMeta)
		}
	}
}

// A Deployment that was taken over and has not been released yet has no revision that is known.
func TestRelease_TakenOverOnly(t *testing.T) {
	d := leftBehind()
	d.Annotations[v1alpha1.RevisionAnnotation] = ""
	if Release(d, "belay") == nil {
		t.Error("it keeps Belay's label")
	}
}
