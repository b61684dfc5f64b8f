package rollout

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
)

// revisionData is what a ControllerRevision stores: the part of the spec that a revision consists of.
type revisionData struct {
	Spec struct {
		Template corev1.PodTemplateSpec `json:"template"`
	} `json:"spec"`
}

// meaning identifies what a template means: it is a hash of how this process encodes it, and is never stored.
type meaning [sha256.Size]byte

func meaningOf(template *corev1.PodTemplateSpec) meaning {
	return sha256.Sum256(encodedTemplate(template))
}

// digest is what as a rule is asked of a revision's data. It is kept with an object in the cache, as its Data.Object, and never changed.
type digest struct {
	fits    bool // the name is one that this data may have, of this owner
	meaning meaning
}

// DeepCopyObject and GetObjectKind let it be kept there.
func (d *digest) DeepCopyObject() runtime.Object { return d }
func (*digest) GetObjectKind() schema.ObjectKind { return schema.EmptyObjectKind }

// WithDigest notes in a revision that is to be cached what would have to be found out anew at each decision.
func WithDigest(object *appsv1.ControllerRevision) {
	if owner := metav1.GetControllerOfNoCopy(object); owner != nil {
		object.Data.Object = newDigest(object, owner.Name, owner.UID)
	}
}

// digestOf returns the digest of a revision's data, for an owner of this name: the one that is noted, if it is for that.
func digestOf(object *appsv1.ControllerRevision, owner string, uid types.UID) *digest {
	if noted, ok := object.Data.Object.(*digest); ok && metav1.GetControllerOfNoCopy(object).Name == owner {
		return noted
	}
	return newDigest(object, owner, uid)
}

func newDigest(object *appsv1.ControllerRevision, owner string, uid types.UID) *digest {
	// What is hashed is what is decoded: of a key that is there twice, a decoder would merge the values.
	raw := canonical(object.Data.Raw)
	template, err := templateIn(raw)
	if err != nil || !mayBeNamed(owner, uid, raw, object.Name) {
		return &digest{}
	}
	return &digest{fits: true, meaning: meaningOf(template)}
}

// recording returns what a ControllerRevision stores of a template, with sorted keys, as a patch makes them: data is
// immutable down to its bytes, and a patch of the metadata, the garbage collector's when it orphans the revision for
// example, would be refused as a change of it.
func recording(template *corev1.PodTemplateSpec) []byte { return canonical(encodedTemplate(template)) }

// encodedTemplate returns a template as the data of a revision.
func encodedTemplate(template *corev1.PodTemplateSpec) []byte {
	var data revisionData
	data.Spec.Template = *template
	raw, err := json.Marshal(data)
	if err != nil {
		panic(fmt.Sprintf("encode a template: %v", err))
	}
	return raw
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
