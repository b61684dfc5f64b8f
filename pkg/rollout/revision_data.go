package rollout

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// revisionData is what a ControllerRevision stores: the part of the spec that a revision consists of.
type revisionData struct {
	Spec struct {
		Template corev1.PodTemplateSpec `json:"template"`
	} `json:"spec"`
}

// meaning identifies what the data of a revision says: it is a hash of the data in its canonical form.
type meaning [sha256.Size]byte

func meaningOf(template *corev1.PodTemplateSpec) meaning { return sha256.Sum256(recording(template)) }

// asked is the meaning of the template that a generation of the spec asks for.
type asked struct {
	generation int64
	meaning    meaning
}

// digest is what as a rule is asked of a revision's data.
type digest struct {
	fits    bool // owner, name and data fit
	meaning meaning
}

// digested is the digest of a revision as it was observed: a cache never changes an object, and has another one for what has changed.
type digested struct {
	object *appsv1.ControllerRevision
	digest
}

// digestOf returns the digest of a revision, as far as it is one of guarded's: nothing is decoded that is somebody else's.
func digestOf(guarded *v1alpha1.GuardedDeployment, object *appsv1.ControllerRevision) digest {
	if !metav1.IsControlledBy(object, guarded) {
		return digest{}
	}
	// What is hashed is what is decoded: of a key that is there twice, a decoder would merge the values.
	raw := canonical(object.Data.Raw)
	if _, err := templateIn(raw); err != nil || !mayBeNamed(guarded, raw, object.Name) {
		return digest{}
	}
	return digest{fits: true, meaning: sha256.Sum256(raw)}
}

// recording returns what a ControllerRevision stores of a template, with sorted keys, as a patch makes them: data is
// immutable down to its bytes, and a patch of the metadata, the garbage collector's when it orphans the revision for
// example, would be refused as a change of it.
func recording(template *corev1.PodTemplateSpec) []byte {
	var data revisionData
	data.Spec.Template = *template
	raw, err := json.Marshal(data)
	if err != nil {
		panic(fmt.Sprintf("encode a template: %v", err))
	}
	return canonical(raw)
}

// templateIn returns the template that data records. It is an error if it cannot be decoded.
func templateIn(raw []byte) (*corev1.PodTemplateSpec, error) {
	var data revisionData
	if err := json.Unmarshal(raw, &data); err != nil {
		return nil, err
	}
	return &data.Spec.Template, nil
}

// canonical returns raw as JSON with sorted keys and no spaces: the API server may store it otherwise.
func canonical(raw []byte) []byte {
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.UseNumber()
	var value any
	if !json.Valid(raw) || decoder.Decode(&value) != nil {
		return raw
	}
	data, err := json.Marshal(value)
	if err != nil {
		return raw
	}
	return data
}
