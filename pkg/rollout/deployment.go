package rollout

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// restartedAt, on a pod template, is the time at which "kubectl rollout restart" was last said.
const restartedAt = "kubectl.kubernetes.io/restartedAt"

// desiredDeployment returns what Belay desires of the Deployment that runs revision, with these pins, and nothing else: what is left
// out here belongs to others.
func desiredDeployment(guarded *v1alpha1.GuardedDeployment, revision *Revision, pinned pins) *appsv1.Deployment {
	desired := desiredMeta(guarded)
	desired.Annotations = map[string]string{v1alpha1.RevisionAnnotation: revision.Name}
	guarded.Spec.DeploymentSpec.DeepCopyInto(&desired.Spec)
	revision.Template().DeepCopyInto(&desired.Spec.Template)
	if len(pinned) > 0 {
		pinned.in(&desired.Spec.Template)
		desired.Annotations[v1alpha1.PinnedAnnotation] = pinned.String()
	}
	return withAppliedHash(desired)
}

// desiredPaused returns what Belay desires of a Deployment while the spec is paused: that, and the replicas.
func desiredPaused(guarded *v1alpha1.GuardedDeployment) *appsv1.Deployment {
	desired := desiredMeta(guarded)
	desired.Annotations = map[string]string{}
	desired.Spec.Paused = true
	desired.Spec.Replicas = guarded.Spec.Replicas
	return withAppliedHash(desired)
}

// desiredMeta returns a Deployment with the metadata that Belay desires in any case: name, label and owner.
func desiredMeta(guarded *v1alpha1.GuardedDeployment) *appsv1.Deployment {
	return &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{
		Name:            guarded.Name,
		Namespace:       guarded.Namespace,
		Labels:          map[string]string{v1alpha1.GuardedLabel: "true"},
		OwnerReferences: []metav1.OwnerReference{ownerReference(guarded)},
	}}
}

// withAppliedHash adds the hash of everything desired. It changes with what is desired, not with the library that encodes it.
func withAppliedHash(desired *appsv1.Deployment) *appsv1.Deployment {
	desired.Annotations[v1alpha1.AppliedAnnotation] = hash(desired)
	return desired
}

// Overlay returns live with everything that desired sets, and the rest as it was: replicas that it does not set, and
// other people's labels, annotations and owners. Other spec fields that the GuardedDeployment leaves out get the API
// server's default. The template of a release is replaced whole: what it drops is gone. Two things stay: what others added
// to the template of a revision that runs already, and the time of a "kubectl rollout restart", as with "kubectl apply". A
// template that is given takes the place of all of that.
func Overlay(live, desired *appsv1.Deployment, template *corev1.PodTemplateSpec) *appsv1.Deployment {
	updated := live.DeepCopy()
	updated.Labels = merged(live.Labels, desired.Labels)
	updated.Annotations = merged(live.Annotations, desired.Annotations)
	if !metav1.IsControlledBy(live, &metav1.ObjectMeta{UID: desired.OwnerReferences[0].UID}) {
		updated.OwnerReferences = append(updated.OwnerReferences, desired.OwnerReferences...)
	}
	replicas := live.Spec.Replicas
	if desired.Spec.Replicas != nil {
		replicas = new(*desired.Spec.Replicas)
	}
	if StatesTemplate(desired) {
		desired.Spec.DeepCopyInto(&updated.Spec)
		if desired.Annotations[v1alpha1.PinnedAnnotation] == "" {
			delete(updated.Annotations, v1alpha1.PinnedAnnotation)
		}
		if kept := repinned(live, desired); template == nil && carries(kept, desired) {
			template = &kept.Spec.Template
		}
		if template != nil {
			template.DeepCopyInto(&updated.Spec.Template)
		} else if at := live.Spec.Template.Annotations[restartedAt]; at != "" && updated.Spec.Template.Annotations[restartedAt] == "" {
			metav1.SetMetaDataAnnotation(&updated.Spec.Template.ObjectMeta, restartedAt, at)
		}
	} else {
		updated.Spec.Paused = live.Spec.Paused || desired.Spec.Paused
	}
	updated.Spec.Replicas = replicas
	return updated
}

// repinned returns live with the images that desired has where either of them has pins.
func repinned(live, desired *appsv1.Deployment) *appsv1.Deployment {
	kept, changed := live.DeepCopy(), pins{}
	for _, d := range []*appsv1.Deployment{live, desired} {
		for key := range strings.SplitSeq(d.Annotations[v1alpha1.PinnedAnnotation], ",") {
			changed[key] = imageNamed(&desired.Spec.Template.Spec, key)
		}
	}
	changed.in(&kept.Spec.Template)
	return kept
}

// StatesTemplate reports whether desired says what the Deployment runs. Otherwise its spec says no more than whether it
// is paused, and the replicas.
func StatesTemplate(desired *appsv1.Deployment) bool { return desired.Spec.Selector != nil }

// carries reports whether live runs desired's revision, with all that its template sets. Either annotation
// tells, so that one that somebody changed does not undo what others added.
func carries(live, desired *appsv1.Deployment) bool {
	const revision, applied = v1alpha1.RevisionAnnotation, v1alpha1.AppliedAnnotation
	return (live.Annotations[revision] == desired.Annotations[revision] || live.Annotations[applied] == desired.Annotations[applied]) &&
		states(&live.Spec.Template, &desired.Spec.Template)
}

// states reports whether a live template has all that a template sets.
func states(live, template *corev1.PodTemplateSpec) bool {
	return difference("", toUnstructured(template), toUnstructured(live)) == ""
}

// merged returns what live has and desired does not, and all that desired has.
func merged(live, desired map[string]string) map[string]string {
	all := maps.Clone(live)
	if all == nil {
		all = map[string]string{}
	}
	maps.Copy(all, desired)
	return all
}

// drift returns the path of a desired value that the live Deployment does not have, empty if it has them all. Server
// defaults and what others added do not count.
func drift(desired, live *appsv1.Deployment) string {
	for _, metadata := range []struct {
		path          string
		desired, live map[string]string
	}{
		{"metadata.labels", desired.Labels, live.Labels},
		{"metadata.annotations", desired.Annotations, live.Annotations},
	} {
		for _, key := range slices.Sorted(maps.Keys(metadata.desired)) {
			if metadata.live[key] != metadata.desired[key] {
				return fmt.Sprintf("%s[%s]", metadata.path, key)
			}
		}
	}
	return difference("spec", toUnstructured(&desired.Spec), toUnstructured(&live.Spec))
}

// difference returns the path of the first value in desired that live does not have. It differs from
// equality.Semantic.DeepDerivative in one point: a zero that is set, privileged: false for example, counts.
func difference(path string, desired, live any) string {
	switch desired := desired.(type) {
	case nil:
		return ""
	case map[string]any:
		live, _ := live.(map[string]any)
		for _, key := range slices.Sorted(maps.Keys(desired)) {
			if found := difference(path+"."+key, desired[key], live[key]); found != "" {
				return found
			}
		}
		return ""
	case []any:
		live, _ := live.([]any)
		if len(desired) > len(live) {
			return path
		}
		if len(desired) > 0 && len(live) > len(desired) && !isObject(desired[0]) {
			return path
		}
		at := 0
		for i := range desired {
			if at = counterpart(desired[i], live, at); at == len(live) {
				return fmt.Sprintf("%s[%d].name", path, i)
			}
			if found := difference(fmt.Sprintf("%s[%d]", path, at), desired[i], live[at]); found != "" {
				return found
			}
			at++
		}
		return ""
	default:
		if desired != live {
			return path
		}
		return ""
	}
}

// counterpart returns where, from index at on, live has the item of the desired name, len(live) if it has not: others may
// have put theirs in between. An item without a name is found by its place.
func counterpart(desired any, live []any, at int) int {
	item, _ := desired.(map[string]any)
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

// TemplateHash returns a short hash of what a pod template means.
func TemplateHash(t *corev1.PodTemplateSpec) string { return hash(t) }

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

// Accept returns what Decide needs to accept the answer to a write of desired, empty if it needs nothing: an answer that
// lacks desired values was changed on its way, by a mutating policy for example, and would come back so each time.
func Accept(desired, answer *appsv1.Deployment) string {
	if drift(desired, answer) == "" {
		return ""
	}
	return fingerprint(desired, answer)
}

// fingerprint identifies everything in the live Deployment that Belay may set. Replicas that it does not set change
// as they like.
func fingerprint(desired, live *appsv1.Deployment) string {
	copied := &appsv1.Deployment{Spec: live.Spec}
	copied.Labels = map[string]string{v1alpha1.GuardedLabel: live.Labels[v1alpha1.GuardedLabel]}
	copied.Annotations = map[string]string{
		v1alpha1.RevisionAnnotation: live.Annotations[v1alpha1.RevisionAnnotation],
		v1alpha1.AppliedAnnotation:  live.Annotations[v1alpha1.AppliedAnnotation],
	}
	if desired.Spec.Replicas == nil {
		copied.Spec.Replicas = nil
	}
	return hash(copied)
}
