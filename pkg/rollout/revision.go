package rollout

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// defaultHistoryLimit is the API server's default of a Deployment's revisionHistoryLimit.
const defaultHistoryLimit = 10

// maxNames is how many names are tried for a revision, the next one where somebody else's object has the one before. By accident
// none has (the hash has 40 bits, in one namespace); whoever forges five may forge more.
const maxNames = 5

// Revision is one pod template of one GuardedDeployment: a ControllerRevision, decoded.
type Revision struct {
	*appsv1.ControllerRevision

	Failure  Failure // meaningful once it has failed
	Attempt  Attempt // the attempt under way or the last one
	Retrying bool    // a further attempt is under way

	template *corev1.PodTemplateSpec // nil until somebody asks for it
	meaning  meaning
}

// Template returns the pod template that is recorded.
func (r *Revision) Template() *corev1.PodTemplateSpec {
	if r.template == nil {
		r.template, _ = templateIn(canonical(r.Data.Raw)) // It has been read for its digest.
	}
	return r.template
}

// Attempt is one try at running a revision.
type Attempt struct {
	// Number counts from 1.
	Number int `json:"n"`
	// Token is the retry token that asked for it, empty if none did.
	Token string `json:"token,omitempty"`
	// Retries is how many attempts have been made without being asked, since somebody last asked for one.
	Retries int `json:"retries,omitempty"`
	// GoodAs is the number that the revision had when it was last found good, 0 if it never was, or if an older Belay began the attempt.
	GoodAs int64 `json:"goodAs,omitempty"`
	// Since is the server's time of the write that began it, zero unless it is under way: it is the time of the revision's
	// managed fields, and written nowhere.
	Since metav1.Time `json:"-"`
}

// isPossible reports whether Belay may have written the attempt, and can write the next one.
func (a Attempt) isPossible() bool {
	return a.Number > 0 && a.Number < math.MaxInt32 && a.Retries >= 0 && a.Retries < math.MaxInt32 && a.GoodAs >= 0
}

// Failure is the evidence against a revision and the attempt in which it was found.
type Failure struct {
	Attempt
	v1alpha1.Failure
}

// Unjudged reports whether the attempt under way has no verdict yet.
func (r *Revision) Unjudged() bool {
	return r.Retrying || (!r.lastVerdictGood() && r.Annotations[v1alpha1.VerdictAnnotation] != v1alpha1.VerdictFailed)
}

// Good reports whether the last verdict on it is good and no further attempt is under way.
func (r *Revision) Good() bool { return r.lastVerdictGood() && !r.Retrying }

// Failed reports whether the last verdict on it is failed and no further attempt is under way.
func (r *Revision) Failed() bool { return !r.Unjudged() && !r.lastVerdictGood() }

// lastVerdictGood reports whether its last verdict is good: an attempt that a newer spec cut short takes nothing away from it.
func (r *Revision) lastVerdictGood() bool {
	return r.Annotations[v1alpha1.VerdictAnnotation] == v1alpha1.VerdictGood
}

// goodAs returns the number that it had when it was last found good: an attempt since then, which has no verdict, has another one.
func (r *Revision) goodAs() int64 {
	if r.Retrying && r.Attempt.GoodAs > 0 {
		return r.Attempt.GoodAs
	}
	return r.Revision
}

// history is the revisions of one GuardedDeployment whose name, content and owner fit, oldest first. Whoever may create
// ControllerRevisions can make one that fits: there is no secret in a name.
type history struct {
	revisions []*Revision
	// invalid names those whose content or owner does not fit their name. They are never used.
	invalid []string
	digests []digested // of all that were observed
}

// newHistory sorts and decodes what was observed. known are digests of what was observed before.
func newHistory(guarded *v1alpha1.GuardedDeployment, observed []*appsv1.ControllerRevision, known ...digested) history {
	var h history
	for _, object := range observed {
		one := digested{object: object}
		if i := slices.IndexFunc(known, func(k digested) bool { return k.object == object }); i >= 0 {
			one = known[i]
		} else {
			one.digest = digestOf(guarded, object)
		}
		h.digests = append(h.digests, one)
		if revision := one.decode(); revision != nil {
			h.revisions = append(h.revisions, revision)
		} else {
			h.invalid = append(h.invalid, object.Name)
		}
	}
	slices.SortFunc(h.revisions, func(a, b *Revision) int {
		if a.Revision != b.Revision {
			return int(min(1, max(-1, a.Revision-b.Revision)))
		}
		return strings.Compare(a.Name, b.Name)
	})
	slices.Sort(h.invalid)
	return h
}

// decode returns nil for an object whose name, content and owner do not fit: it is no revision of guarded, or it was
// changed since it was written.
func decode(guarded *v1alpha1.GuardedDeployment, object *appsv1.ControllerRevision) *Revision {
	return digested{object, digestOf(guarded, object)}.decode()
}

// decode is decode of a revision whose digest is known.
func (d digested) decode() *Revision {
	if !d.fits {
		return nil
	}
	object := d.object
	r := &Revision{ControllerRevision: object, meaning: d.meaning, Attempt: Attempt{Number: 1}}
	// An annotation that does not parse says nothing: the verdict stands without it.
	if annotation, ok := object.Annotations[v1alpha1.FailureAnnotation]; ok {
		if json.Unmarshal([]byte(annotation), &r.Failure) == nil && r.Failure.isPossible() {
			r.Attempt = r.Failure.Attempt
		} else {
			r.Failure.Attempt = Attempt{Token: r.Failure.Token}
		}
		r.Failure.Message, r.Failure.Log = Clean(r.Failure.Message, maxMessage), Tail(r.Failure.Log) // Anybody may have written them.
		r.Failure.Time = asStored(r.Failure.Time)
	}
	if annotation, ok := object.Annotations[v1alpha1.AttemptAnnotation]; ok {
		r.Retrying = true
		var attempt Attempt
		if json.Unmarshal([]byte(annotation), &attempt) == nil && attempt.isPossible() {
			r.Attempt = attempt
		}
		r.Attempt.Since = lastWritten(object)
	}
	return r
}

// asStored returns a time as the API server stores it, in whole seconds; zero if it takes none of that year.
func asStored(t metav1.Time) metav1.Time {
	if year := t.UTC().Year(); t.IsZero() || year < 1 || year > 9998 { // A retry may be due an hour later.
		return metav1.Time{}
	}
	return t.Rfc3339Copy()
}

// lastWritten returns the newest time in the managed fields, zero if there is none.
func lastWritten(object metav1.Object) metav1.Time {
	var last metav1.Time
	for _, entry := range object.GetManagedFields() {
		if last.Before(entry.Time) {
			last = *entry.Time
		}
	}
	return last
}

// find returns the revision with this template, nil if there is none, and an error if there cannot be one. As a rule it is recorded in the
// same bytes. Otherwise templates are compared as they are read back, by what they mean: their bytes change when a library is upgraded, and
// half a second of a time, for example, is decoded and never encoded.
func (h history) find(template *corev1.PodTemplateSpec) (*Revision, error) {
	return h.findMeaning(meaningOf(template), template)
}

// findMeaning is find of a template whose meaning is known.
func (h history) findMeaning(is meaning, template *corev1.PodTemplateSpec) (*Revision, error) {
	for _, r := range slices.Backward(h.revisions) {
		if r.meaning == is {
			return r, nil
		}
	}
	recorded, err := templateIn(recording(template))
	if err != nil {
		return nil, err
	}
	return h.equal(recorded), nil
}

// equal returns the newest revision that records just this.
func (h history) equal(template *corev1.PodTemplateSpec) *Revision {
	for _, r := range slices.Backward(h.revisions) {
		if equality.Semantic.DeepEqual(r.Template(), template) {
			return r
		}
	}
	return nil
}

// named returns the revision of this name, nil if there is none.
func (h history) named(name string) *Revision {
	for _, r := range h.revisions {
		if r.Name == name {
			return r
		}
	}
	return nil
}

// highest returns the number of the newest request, 0 if there is none.
func (h history) highest() int64 {
	if len(h.revisions) == 0 {
		return 0
	}
	return h.revisions[len(h.revisions)-1].Revision
}

// newestGood returns the revision that was found good last, other than except, nil if there is none.
func (h history) newestGood(except *Revision) (newest *Revision) {
	for _, r := range h.revisions {
		if r.lastVerdictGood() && r != except && (newest == nil || r.goodAs() >= newest.goodAs()) {
			newest = r
		}
	}
	return newest
}

// unlabelled returns a revision that has lost its label, so that no cache has it; nil if there is none.
func (h history) unlabelled() *Revision {
	for _, r := range h.revisions {
		if r.Labels[v1alpha1.GuardedLabel] != "true" {
			return r
		}
	}
	return nil
}

// surplus returns the oldest revisions over the limit, never one of those to keep.
func (h history) surplus(limit int, keep ...*Revision) []*appsv1.ControllerRevision {
	var others []*appsv1.ControllerRevision
	for _, r := range h.revisions {
		if !slices.Contains(keep, r) {
			others = append(others, r.ControllerRevision)
		}
	}
	return others[:max(0, len(others)-limit)]
}

// newRevision returns the ControllerRevision that records a template of guarded's under the given number.
func newRevision(guarded *v1alpha1.GuardedDeployment, template *corev1.PodTemplateSpec, number int64) *appsv1.ControllerRevision {
	raw := recording(template)
	return &appsv1.ControllerRevision{
		ObjectMeta: metav1.ObjectMeta{
			Name:            revisionName(guarded.Name, guarded.UID, raw, 0),
			Namespace:       guarded.Namespace,
			Labels:          map[string]string{v1alpha1.GuardedLabel: "true"},
			OwnerReferences: []metav1.OwnerReference{ownerReference(guarded)},
		},
		Data:     runtime.RawExtension{Raw: raw},
		Revision: number,
	}
}

// OtherName returns the name to try after name turned out to be taken by an object that is not this revision, empty if
// all were tried.
func OtherName(guarded *v1alpha1.GuardedDeployment, revision *appsv1.ControllerRevision) string {
	names := revisionNames(guarded, canonical(revision.Data.Raw))
	if i := slices.Index(names, revision.Name); i >= 0 && i+1 < len(names) {
		return names[i+1]
	}
	return ""
}

// IsRevisionOf reports whether the name, the content and the owner of object fit: it is a revision of guarded.
func IsRevisionOf(guarded *v1alpha1.GuardedDeployment, object *appsv1.ControllerRevision) bool {
	return digestOf(guarded, object).fits
}

// revisionNames returns the names that a revision with this canonical data may have, in the order in which they are
// tried. The owner's uid is part of the hash: what an earlier object of the same name left behind never collides.
func revisionNames(guarded *v1alpha1.GuardedDeployment, data []byte) []string {
	names := make([]string, maxNames)
	for collision := range names {
		names[collision] = revisionName(guarded.Name, guarded.UID, data, collision)
	}
	return names
}

// mayBeNamed reports whether name is one of them. As a rule it is the first: hashing is most of what it costs.
func mayBeNamed(guarded *v1alpha1.GuardedDeployment, data []byte, name string) bool {
	for collision := range maxNames {
		if revisionName(guarded.Name, guarded.UID, data, collision) == name {
			return true
		}
	}
	return false
}

func revisionName(owner string, uid types.UID, data []byte, collision int) string {
	sum := sha256.Sum256(slices.Concat([]byte(uid), []byte("\n"+strconv.Itoa(collision)+"\n"), data))
	hash := hex.EncodeToString(sum[:5])
	owner = owner[:min(len(owner), 253-1-len(hash))]
	return strings.TrimRight(owner, "-.") + "-" + hash
}

// withRequest returns revision as the spec asks for it again: with the highest number and, if attempt is given, unjudged.
func withRequest(revision *Revision, number int64, attempt *Attempt) *appsv1.ControllerRevision {
	updated := toWrite(revision.ControllerRevision)
	updated.Revision = number
	if attempt != nil {
		annotate(updated, v1alpha1.AttemptAnnotation, *attempt)
	}
	return updated
}

// WithLabel returns revision with the label by which caches know it.
func WithLabel(revision *appsv1.ControllerRevision) *appsv1.ControllerRevision {
	updated := toWrite(revision)
	metav1.SetMetaDataLabel(&updated.ObjectMeta, v1alpha1.GuardedLabel, "true")
	return updated
}

// withVerdict returns revision with its verdict: failed with the evidence, good without.
func withVerdict(revision *Revision, failure *Failure) *appsv1.ControllerRevision {
	updated := toWrite(revision.ControllerRevision)
	updated.Annotations = maps.Clone(updated.Annotations)
	if updated.Annotations == nil {
		updated.Annotations = map[string]string{}
	}
	delete(updated.Annotations, v1alpha1.AttemptAnnotation)
	delete(updated.Annotations, v1alpha1.FailureAnnotation)
	updated.Annotations[v1alpha1.VerdictAnnotation] = v1alpha1.VerdictGood
	if failure != nil {
		updated.Annotations[v1alpha1.VerdictAnnotation] = v1alpha1.VerdictFailed
		annotate(updated, v1alpha1.FailureAnnotation, failure)
	}
	return updated
}

// toWrite returns a copy to be changed and written. It leaves out the managed fields, of which a cache has a part: the API server
// keeps its own.
func toWrite(revision *appsv1.ControllerRevision) *appsv1.ControllerRevision {
	updated := revision.DeepCopy()
	updated.ManagedFields = nil
	return updated
}

// annotate sets an annotation to value as JSON. Our own records always marshal.
func annotate(revision *appsv1.ControllerRevision, key string, value any) {
	metav1.SetMetaDataAnnotation(&revision.ObjectMeta, key, encoded(value))
}

// encoded returns one of the values that annotations have, as JSON.
func encoded(value any) string {
	data, err := json.Marshal(value)
	if err != nil {
		panic(fmt.Sprintf("encode %T: %v", value, err))
	}
	return string(data)
}

func ownerReference(guarded *v1alpha1.GuardedDeployment) metav1.OwnerReference {
	return *metav1.NewControllerRef(guarded, schema.GroupVersion(v1alpha1.GroupVersion).WithKind("GuardedDeployment"))
}
