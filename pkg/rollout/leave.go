package rollout

import (
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// LeftBehind reports whether a Deployment whose GuardedDeployment is gone goes on without it, and still has the label and
// the annotation that say it is guarded: after "kubectl delete --cascade=orphan", for example.
func LeftBehind(d *appsv1.Deployment) bool {
	_, guarded := d.Annotations[v1alpha1.RevisionAnnotation]
	return guarded && d.Labels[v1alpha1.GuardedLabel] == "true" &&
		metav1.GetControllerOfNoCopy(d) == nil && d.DeletionTimestamp.IsZero()
}

// Release returns what was left behind without what manager put there: Belay's label, its annotations, and the record that
// the fields of the spec are manager's. While they are, nobody who applies the Deployment server-side can drop one of them,
// or change one without a conflict. Its owner's consent to adoption stays.
//
// It returns nil if live is not to be written. Without a record of manager's, the label is a copy that somebody else keeps
// there, and might put back for ever. If manager's is the only record, it has to stay until there is another: without any,
// the next server-side apply would give all fields to "before-first-apply", which keeps them just as well.
func Release(live *appsv1.Deployment, manager string) *appsv1.Deployment {
	ours := func(e metav1.ManagedFieldsEntry) bool { return e.Manager == manager && e.Subresource == "" }
	if !LeftBehind(live) || !slices.ContainsFunc(live.ManagedFields, ours) {
		return nil
	}
	released := live.DeepCopy()
	released.ManagedFields = slices.DeleteFunc(released.ManagedFields, ours)
	if len(released.ManagedFields) == 0 {
		return nil
	}
	delete(released.Labels, v1alpha1.GuardedLabel)
	delete(released.Annotations, v1alpha1.RevisionAnnotation)
	delete(released.Annotations, v1alpha1.AppliedAnnotation)
	delete(released.Annotations, v1alpha1.PinnedAnnotation)
	return released
}
