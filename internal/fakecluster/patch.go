package fakecluster

import (
	"encoding/json"
	"regexp"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	clienttesting "k8s.io/client-go/testing"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// patch carries out a merge patch. A resourceVersion in it is a precondition; without one, the patch is for whatever is there.
func (c *Cluster) patch(resource schema.GroupVersionResource, action clienttesting.PatchActionImpl) (Object, error) {
	if action.PatchType != types.MergePatchType {
		return nil, apierrors.NewMethodNotSupported(resource.GroupResource(), "patch with "+string(action.PatchType))
	}
	live, err := c.find(resource, action.Namespace, action.Name)
	if err != nil {
		return nil, err
	}
	var document, patch map[string]any
	data, err := json.Marshal(live)
	must(err)
	must(json.Unmarshal(data, &document))
	if err := json.Unmarshal(action.Patch, &patch); err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	data, err = json.Marshal(merged(document, patch))
	must(err)
	patched := emptyLike(live)
	if err := json.Unmarshal(data, patched); err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	return c.updateAs(action.PatchOptions.FieldManager, resource, patched, action.Subresource == "status")
}

// merged returns target with a JSON merge patch (RFC 7396).
func merged(target, patch map[string]any) map[string]any {
	if target == nil {
		target = map[string]any{}
	}
	for key, value := range patch {
		into, _ := target[key].(map[string]any)
		switch value := value.(type) {
		case nil:
			delete(target, key)
		case map[string]any:
			target[key] = merged(into, value)
		default:
			target[key] = value
		}
	}
	return target
}

// KeepHolds says whether the policies of artifacts/in-place are in force. At first they are.
func (c *Cluster) KeepHolds(kept bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.holdsLost = !kept
}

var beginsWithNumber = regexp.MustCompile(`^[0-9]{1,7}[.]`)

// hold does to a ReplicaSet that is updated what the policy belay-in-place does.
func (c *Cluster) hold(updated Object) {
	set, ok := updated.(*appsv1.ReplicaSet)
	if !ok || c.holdsLost {
		return
	}
	held := set.Labels[v1alpha1.HeldAtLabel]
	if !beginsWithNumber.MatchString(held) || !strings.HasSuffix(held, "."+string(set.UID)) {
		return
	}
	number, _, _ := strings.Cut(held, ".")
	replicas, err := strconv.ParseInt(number, 10, 32)
	must(err)
	set.Spec.Replicas = new(int32(replicas))
}
