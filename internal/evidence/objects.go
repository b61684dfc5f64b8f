package evidence

import (
	"context"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/klog/v2"

	"github.com/belay-dev/belay/pkg/rollout"
)

// resources are those of the kinds that a pod refers to.
var resources = map[string]string{rollout.KindConfigMap: "configmaps", rollout.KindSecret: "secrets"}

// noContent asks for an object as a line of a table, without the object: its name, its age and how many keys it has. Metadata alone
// would not do, kubectl apply leaves a Secret's content in an annotation.
const noContent = "application/json;as=Table;g=meta.k8s.io;v=v1"

// Objects adds to the evidence whether these objects are there, within detailsTimeout. They are no part of the budget of the
// details: a verdict may be due in the same sync. What cannot be read is logged, and the sync goes on.
func (r *Reader) Objects(ctx context.Context, namespace string, evidence *rollout.Evidence, objects []rollout.Reference) {
	ctx, cancel := context.WithTimeout(ctx, detailsTimeout)
	defer cancel()
	evidence.Objects = map[rollout.Reference]rollout.Finding{}
	forbidden := map[string]bool{}
	for _, object := range objects {
		if forbidden[object.Kind] {
			evidence.Objects[object] = rollout.Forbidden
			continue
		}
		finding, err := r.findObject(ctx, namespace, object)
		if err != nil {
			klog.FromContext(ctx).V(2).Info("Not known whether it is there", "kind", object.Kind, "name", object.Name, "reason", err)
		}
		evidence.Objects[object], forbidden[object.Kind] = finding, finding == rollout.Forbidden
	}
}

// findObject asks whether an object is there. Nothing of the answer is kept.
func (r *Reader) findObject(ctx context.Context, namespace string, object rollout.Reference) (rollout.Finding, error) {
	if err := ctx.Err(); err != nil {
		return rollout.Unreadable, err
	}
	err := r.kube.CoreV1().RESTClient().Get().Namespace(namespace).Resource(resources[object.Kind]).Name(object.Name).
		SetHeader("Accept", noContent).Param("includeObject", string(metav1.IncludeNone)).MaxRetries(0).Do(ctx).Error()
	switch {
	case err == nil:
		return rollout.Present, nil
	case apierrors.IsNotFound(err):
		return rollout.Missing, nil
	case apierrors.IsForbidden(err):
		return rollout.Forbidden, err
	default:
		return rollout.Unreadable, err
	}
}
