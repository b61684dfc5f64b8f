package rollout

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// restartedAt, on a pod template, is the time at which "kubectl rollout restart" was last said.
const restartedAt = "kubectl.kubernetes.io/restartedAt"

// desiredDeployment returns what Belay states about the Deployment that runs revision, and nothing else: what is left out here
// belongs to others.
func desiredDeployment(guarded *v1alpha1.GuardedDeployment, revision *Revision) *appsv1.Deployment {
	wanted := desiredMeta(guarded)
	wanted.Annotations = map[string]string{v1alpha1.RevisionAnnotation: revision.Name}
	guarded.Spec.DeploymentSpec.DeepCopyInto(&wanted.Spec)
	revision.Template.DeepCopyInto(&wanted.Spec.Template)
	return withAppliedHash(wanted)
}

// desiredPaused returns what Belay states about a Deployment while the spec is paused: that, and the replicas.
func desiredPaused(guarded *v1alpha1.GuardedDeployment) *appsv1.Deployment {
	wanted := desiredMeta(guarded)
	wanted.Annotations = map[string]string{}
	wanted.Spec.Paused = true
	wanted.Spec.Replicas = guarded.Spec.Replicas
	return withAppliedHash(wanted)
}

// desiredMeta returns a Deployment with the metadata that Belay states in any case: name, label and owner.
func desiredMeta(guarded *v1alpha1.GuardedDeployment) *appsv1.Deployment {
	return &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{
		Name:            guarded.Name,
		Namespace:       guarded.Namespace,
		Labels:          map[string]string{v1alpha1.GuardedLabel: "true"},
		OwnerReferences: []metav1.OwnerReference{ownerReference(guarded)},
	}}
}

// withAppliedHash adds the hash of everything stated. It changes with what is stated, not with the library that states it.
func withAppliedHash(wanted *appsv1.Deployment) *appsv1.Deployment {
	wanted.Annotations[v1alpha1.AppliedAnnotation] = hash(wanted)
	return wanted
}

// Overlay returns live with everything that wanted states, and the rest as it was: replicas that are not stated, and
// other people's labels, annotations and owners. Other spec fields that the GuardedDeployment leaves out get the API
// server's default. The template of a release is replaced whole: what it drops is gone. Two things stay: what others added
// to the template of a revision that runs already, and the time of a "kubectl rollout restart", as with "kubectl apply".
func Overlay(live, wanted *appsv1.Deployment) *appsv1.Deployment {
	updated := live.DeepCopy()
	updated.Labels = merged(live.Labels, wanted.Labels)
	updated.Annotations = merged(live.Annotations, wanted.Annotations)
	if !metav1.IsControlledBy(live, &metav1.ObjectMeta{UID: wanted.OwnerReferences[0].UID}) {
		updated.OwnerReferences = append(updated.OwnerReferences, wanted.OwnerReferences...)
	}
	replicas := live.Spec.Replicas
	if wanted.Spec.Replicas != nil {
		replicas = new(*wanted.Spec.Replicas)
	}
	if StatesTemplate(wanted) {
		wanted.Spec.DeepCopyInto(&updated.Spec)
		if carries(live, wanted) {
			live.Spec.Template.DeepCopyInto(&updated.Spec.Template)
		}
		if at := live.Spec.Template.Annotations[restartedAt]; at != "" && updated.Spec.Template.Annotations[restartedAt] == "" {
			metav1.SetMetaDataAnnotation(&updated.Spec.Template.ObjectMeta, restartedAt, at)
		}
	} else {
		updated.Spec.Paused = live.Spec.Paused || wanted.Spec.Paused
	}
	updated.Spec.Replicas = replicas
	return updated
}

// StatesTemplate reports whether wanted states what the Deployment runs. Otherwise its spec says no more than whether it
// is paused, and the replicas.
func StatesTemplate(wanted *appsv1.Deployment) bool { return wanted.Spec.Selector != nil }

// carries reports whether live runs wanted's revision, with all that is stated about its template. Either annotation
// tells, so that one that somebody changed does not undo what others added.
func carries(live, wanted *appsv1.Deployment) bool {
	const revision, applied = v1alpha1.RevisionAnnotation, v1alpha1.AppliedAnnotation
	return (live.Annotations[revision] == wanted.Annotations[revision] || live.Annotations[applied] == wanted.Annotations[applied]) &&
		hasTemplate(live, &wanted.Spec.Template)
}

// hasTemplate reports whether live has all that a template states.
func hasTemplate(live *appsv1.Deployment, template *corev1.PodTemplateSpec) bool {
	return difference("", toUnstructured(template), toUnstructured(&live.Spec.Template)) == ""
}

// merged returns what live has and wanted does not, and all that wanted has.
func merged(live, wanted map[string]string) map[string]string {
	all := maps.Clone(live)
	if all == nil {
		all = map[string]string{}
	}
	maps.Copy(all, wanted)
	return all
}

// drift returns the path of a stated value that the live Deployment does not have, empty if it has them all. Server
// defaults and what others added do not count.
func drift(wanted, live *appsv1.Deployment) string {
	for _, metadata := range []struct {
		path         string
		wanted, live map[string]string
	}{
		{"metadata.labels", wanted.Labels, live.Labels},
		{"metadata.annotations", wanted.Annotations, live.Annotations},
	} {
		for _, key := range slices.Sorted(maps.Keys(metadata.wanted)) {
			if metadata.live[key] != metadata.wanted[key] {
				return fmt.Sprintf("%s[%s]", metadata.path, key)
			}
		}
	}
	return difference("spec", toUnstructured(&wanted.Spec), toUnstructured(&live.Spec))
}

// difference returns the path of the first value in wanted that live does not have. It differs from
// equality.Semantic.DeepDerivative in one point: a stated zero, privileged: false for example, counts.
func difference(path string, wanted, live any) string {
	switch wanted := wanted.(type) {
	case nil:
		return ""
	case map[string]any:
		live, _ := live.(map[string]any)
		for _, key := range slices.Sorted(maps.Keys(wanted)) {
			if found := difference(path+"."+key, wanted[key], live[key]); found != "" {
				return found
			}
		}
		return ""
	case []any:
		live, _ := live.([]any)
		if len(wanted) > len(live) {
			return path
		}
		if len(wanted) > 0 && len(live) > len(wanted) && !isObject(wanted[0]) {
			return path
		}
		at := 0
		for i := range wanted {
			if at = counterpart(wanted[i], live, at); at == len(live) {
				return fmt.Sprintf("%s[%d].name", path, i)
			}
			if found := difference(fmt.Sprintf("%s[%d]", path, at), wanted[i], live[at]); found != "" {
				return found
			}
			at++
		}
		return ""
	default:
		if wanted != live {
			return path
		}
		return ""
	}
}

// counterpart returns where, from index at on, live has the item of wanted's name, len(live) if it has not: others may
// have put theirs in between. An item without a name is found by its place.
func counterpart(wanted any, live []any, at int) int {
	item, _ := wanted.(map[string]any)
	name, named := item["name"]
	for named && at < len(live) {
		if other, _ := live[at].(map[string]any); other["name"] == name {
			break
		}
		at++
	}
	return at
}

// isObject reports whether a JSON value is an object.
func isObject(value any) bool {
	_, ok := value.(map[string]any)
	return ok
}

// toUnstructured returns an API value as its JSON consists of. API types always convert.
func toUnstructured(value any) map[string]any {
	object, err := runtime.DefaultUnstructuredConverter.ToUnstructured(value)
	if err != nil {
		panic(fmt.Sprintf("convert %T: %v", value, err))
	}
	return object
}

// hash returns a short hash of an object's meaning: empty values, which come and go with library versions, do not
// change it.
func hash(object any) string {
	data, err := json.Marshal(withoutEmpty(toUnstructured(object)))
	if err != nil {
		panic(fmt.Sprintf("encode %T: %v", object, err))
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:8])
}

// withoutEmpty returns a JSON value without what is empty in it: nulls, empty strings, lists and maps. Items of a list keep
// their places; zeros and false are not empty. It changes value.
func withoutEmpty(value any) any {
	switch value := value.(type) {
	case map[string]any:
		for key, child := range value {
			if child = withoutEmpty(child); child == nil {
				delete(value, key)
			} else {
				value[key] = child
			}
		}
		if len(value) == 0 {
			return nil
		}
	case []any:
		for i := range value {
			value[i] = withoutEmpty(value[i])
		}
		if len(value) == 0 {
			return nil
		}
	case string:
		if value == "" {
			return nil
		}
	}
	return value
}

// Accept returns what Decide needs to accept the answer to a write that states wanted, empty if it needs nothing: an answer
// that lacks stated values was changed on its way, by a mutating policy for example, and would come back so each time.
func Accept(wanted, answer *appsv1.Deployment) string {
	if drift(wanted, answer) == "" {
		return ""
	}
	return fingerprint(wanted, answer)
}

// fingerprint identifies everything in the live Deployment that Belay may state. Replicas that it does not state change
// as they like.
func fingerprint(wanted, live *appsv1.Deployment) string {
	copied := &appsv1.Deployment{Spec: live.Spec}
	copied.Labels = map[string]string{v1alpha1.GuardedLabel: live.Labels[v1alpha1.GuardedLabel]}
	copied.Annotations = map[string]string{
		v1alpha1.RevisionAnnotation: live.Annotations[v1alpha1.RevisionAnnotation],
		v1alpha1.AppliedAnnotation:  live.Annotations[v1alpha1.AppliedAnnotation],
	}
	if wanted.Spec.Replicas == nil {
		copied.Spec.Replicas = nil
	}
	return hash(copied)
}
