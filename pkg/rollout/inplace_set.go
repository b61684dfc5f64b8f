package rollout

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// FieldManager is under whose name the API server records what Belay writes.
const FieldManager = "belay"

// What is kept of a Deployment that is guarded in place: on each ReplicaSet, in labels that end with its own uid, that it was good, at
// which number it is held and which attempt is made at it, or was the last one found good; on the Deployment how its release failed.

// own returns what a label of the set begins with, without the dot and the set's own uid; empty if it ends otherwise.
func own(set *appsv1.ReplicaSet, label string) string {
	value, isOwn := strings.CutSuffix(set.Labels[label], "."+string(set.UID))
	if !isOwn {
		return ""
	}
	return value
}

// owned returns the value of a label that begins so.
func owned(set *appsv1.ReplicaSet, beginning string) *string {
	return new(beginning + "." + string(set.UID))
}

// wasGood reports whether the set was good.
func wasGood(set *appsv1.ReplicaSet) bool {
	return own(set, v1alpha1.VerdictLabel) == v1alpha1.VerdictGood
}

// HeldAt returns the number that the set is held at, and whether it is.
func HeldAt(set *appsv1.ReplicaSet) (int32, bool) {
	number, err := strconv.ParseInt(own(set, v1alpha1.HeldAtLabel), 10, 32)
	return int32(number), err == nil && number >= 0
}

// numberOf returns the number that the Deployment controller has given the set, 0 for none. Each time a set is asked for anew it gets
// another one, higher than all.
func numberOf(set *appsv1.ReplicaSet) int64 {
	number, err := strconv.ParseInt(set.Annotations[SetNumber], 10, 64)
	if err != nil {
		return 0
	}
	return number
}

// goodAs returns the number that a set which was good had when it was last found good: asked for again it has another one. Nothing is noted
// of one that was good as it was made.
func goodAs(set *appsv1.ReplicaSet) int64 {
	noted, _, _ := strings.Cut(own(set, v1alpha1.AttemptLabel), ".")
	first, _, _ := strings.Cut(set.Annotations[setNumbersBefore], ",")
	for _, text := range []string{noted, first} {
		if number, err := strconv.ParseInt(text, 10, 64); err == nil {
			return number
		}
	}
	return numberOf(set)
}

// attemptAt returns the attempt that is made at the set, or was the last one, and whether it was written down for the number that the set
// has now.
func attemptAt(set *appsv1.ReplicaSet) (attempt Attempt, noted bool) {
	var number int64
	read, _ := fmt.Sscanf(own(set, v1alpha1.AttemptLabel), "%d.%d.%d", &number, &attempt.Number, &attempt.Retries)
	if read != 3 || number != numberOf(set) || !attempt.isPossible() {
		return Attempt{Number: 1}, false
	}
	if attempt.Number == 1 && set.Annotations[setNumbersBefore] == "" {
		return attempt, true // It began with the set, whose creation is before that of its first pods.
	}
	for _, entry := range set.ManagedFields {
		if entry.Manager == FieldManager && entry.Time != nil {
			attempt.Since = *entry.Time
		}
	}
	return attempt, true
}

// takenBack is what the label of an attempt says at its end once it has failed and the set was held at nothing for that.
const takenBack = ".back"

// wasTakenBack reports whether the label of the present attempt says so.
func wasTakenBack(set *appsv1.ReplicaSet) bool {
	_, noted := attemptAt(set)
	return noted && strings.HasSuffix(own(set, v1alpha1.AttemptLabel), takenBack)
}

// attemptLabel returns the label of an attempt at the set, with that end or none.
func attemptLabel(set *appsv1.ReplicaSet, attempt Attempt, end string) *string {
	return owned(set, fmt.Sprintf("%d.%d.%d%s", numberOf(set), attempt.Number, attempt.Retries, end))
}

// setImages is ImagesAnnotation on a ReplicaSet: the digests, and the ReplicaSet whose pods ran them.
type setImages struct {
	Set    string `json:"uid"`
	Images images `json:"images"`
}

// asRevision returns the set as what the judge knows: its template and, if it was good, the images of its pods.
func asRevision(set *appsv1.ReplicaSet) *Revision {
	revision := &appsv1.ControllerRevision{ObjectMeta: metav1.ObjectMeta{Name: set.Name, CreationTimestamp: set.CreationTimestamp}}
	var ran setImages
	if json.Unmarshal([]byte(set.Annotations[v1alpha1.ImagesAnnotation]), &ran) == nil && ran.Set == string(set.UID) {
		annotate(revision, v1alpha1.ImagesAnnotation, ran.Images)
	}
	attempt, _ := attemptAt(set)
	return &Revision{ControllerRevision: revision, template: withoutHash(&set.Spec.Template), Attempt: attempt}
}

// failedRelease is FailureAnnotation on a Deployment.
type failedRelease struct {
	Set    string `json:"replicaSet"` // its name
	UID    string `json:"uid"`
	Number int64  `json:"number"` // the Deployment controller's
	// Attempt and what came of it.
	Attempt
	Reason  string      `json:"reason"`
	Cause   string      `json:"cause,omitempty"`
	Message string      `json:"message"`
	Pod     string      `json:"pod,omitempty"`
	Time    metav1.Time `json:"time"`
	// Ready is how many pods of the Deployment were ready by then.
	Ready int32 `json:"ready"`
	// GivenUp says why the release is left as it is for good, empty if it is not.
	GivenUp string `json:"givenUp,omitempty"`
	// Told are the reasons of the Events since then about what became of it.
	Told []string `json:"told,omitempty"`
}

// readFailure returns what the Deployment tells of a failure, whatever it is about, and whether that can be read.
func readFailure(d *appsv1.Deployment) (f failedRelease, ok bool) {
	err := json.Unmarshal([]byte(d.Annotations[v1alpha1.FailureAnnotation]), &f)
	return f, err == nil
}

// failureOf returns how the present attempt at the set failed, nil if it has not. What others have copied to the Deployment, from another
// time or another attempt, does not fit.
func failureOf(d *appsv1.Deployment, set *appsv1.ReplicaSet) *failedRelease {
	f, ok := readFailure(d)
	attempt, _ := attemptAt(set)
	if !ok || f.UID != string(set.UID) || f.Number != numberOf(set) || f.Attempt.Number != attempt.Number {
		return nil
	}
	f.Message, f.Time = Clean(f.Message, maxMessage), asStored(f.Time)
	if !f.Attempt.isPossible() { // The number is that of the set: no more than the retries are others'.
		f.Retries = 0
	}
	return &f
}

// sentence says what failed, and why.
func (f *failedRelease) sentence() string { return fmt.Sprintf("%s failed: %s", f.Set, f.Message) }

// podsOf returns the pods that the set controls.
func (e *Evidence) podsOf(set *appsv1.ReplicaSet) []*corev1.Pod {
	return slices.DeleteFunc(slices.Concat(e.Pods, e.OldPods), func(p *corev1.Pod) bool { return !metav1.IsControlledBy(p, set) })
}

// readyOf returns how many pods of the set are ready, and not on their way out.
func (e *Evidence) readyOf(set *appsv1.ReplicaSet) (n int32) {
	for _, pod := range active(e.podsOf(set)) {
		if readyByOwnWord(pod) {
			n++
		}
	}
	return n
}

// as returns the evidence as it is if set is the current one.
func (e *Evidence) as(set *appsv1.ReplicaSet) *Evidence {
	other := *e
	other.Pods = e.podsOf(set)
	other.OldPods = slices.DeleteFunc(slices.Concat(e.Pods, e.OldPods), func(p *corev1.Pod) bool { return metav1.IsControlledBy(p, set) })
	return &other
}
