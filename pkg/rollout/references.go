package rollout

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// What a revision needs and no longer has. The names of generated ConfigMaps and Secrets change with their content, and GitOps tools
// delete the old ones when they apply the new ones: the revision to go back to can start no pod then. Nothing is judged by that, it
// is said early enough to mend it.

// maxLost is how many objects are asked for at a time: a template with more is as lost with these.
const maxLost = 10

// The kinds of a Reference.
const (
	KindConfigMap = "ConfigMap"
	KindSecret    = "Secret"
)

// Reference names an object in the pods' namespace.
type Reference struct{ Kind, Name string }

func (r Reference) String() string { return r.Kind + " " + r.Name }

// Finding is what a read says of an object.
type Finding uint8

// The findings.
const (
	Unreadable Finding = iota
	Forbidden          // There is no right to read it, and none will come by asking again.
	Present
	Missing
)

// lookup is what was found of the objects that the last good revision needs and the target does not.
type lookup struct {
	rollout   string // the target's, in an attempt, with that last good revision
	back      bool   // read when the rollback had begun
	missing   []string
	forbidden []Reference
}

// references returns the ConfigMaps and Secrets without which no pod of the template starts, sorted. Not among them are those that
// are optional, and imagePullSecrets: the kubelet pulls without one that is missing.
func references(spec *corev1.PodSpec) []Reference {
	all := map[Reference]bool{}
	need := func(kind, name string, optional *bool) {
		if name != "" && !valueOr(optional, false) {
			all[Reference{kind, name}] = true
		}
	}
	for i := range spec.Volumes {
		volumeReferences(&spec.Volumes[i].VolumeSource, need)
	}
	for c := range containersOf(spec) {
		for _, from := range c.EnvFrom {
			if source := from.ConfigMapRef; source != nil {
				need(KindConfigMap, source.Name, source.Optional)
			}
			if source := from.SecretRef; source != nil {
				need(KindSecret, source.Name, source.Optional)
			}
		}
		for _, env := range c.Env {
			if from := env.ValueFrom; from != nil && from.ConfigMapKeyRef != nil {
				need(KindConfigMap, from.ConfigMapKeyRef.Name, from.ConfigMapKeyRef.Optional)
			}
			if from := env.ValueFrom; from != nil && from.SecretKeyRef != nil {
				need(KindSecret, from.SecretKeyRef.Name, from.SecretKeyRef.Optional)
			}
		}
	}
	return slices.SortedFunc(maps.Keys(all), func(a, b Reference) int {
		return cmp.Or(strings.Compare(a.Kind, b.Kind), strings.Compare(a.Name, b.Name))
	})
}

// volumeReferences names the objects that the kubelet or a CSI driver reads before it mounts the volume: those of v1.37.2,
// pkg/volume and k8s.io/csi-translation-lib. Other kinds of volumes that can name a Secret are those of no kubelet any more, and
// Cinder's, whose driver is not given it.
func volumeReferences(v *corev1.VolumeSource, need func(kind, name string, optional *bool)) {
	secret := func(ref *corev1.LocalObjectReference) {
		if ref != nil {
			need(KindSecret, ref.Name, nil)
		}
	}
	switch {
	case v.ConfigMap != nil:
		need(KindConfigMap, v.ConfigMap.Name, v.ConfigMap.Optional)
	case v.Secret != nil:
		need(KindSecret, v.Secret.SecretName, v.Secret.Optional)
	case v.CSI != nil:
		secret(v.CSI.NodePublishSecretRef)
	case v.FlexVolume != nil:
		secret(v.FlexVolume.SecretRef)
	case v.ISCSI != nil && (v.ISCSI.DiscoveryCHAPAuth || v.ISCSI.SessionCHAPAuth):
		secret(v.ISCSI.SecretRef)
	case v.AzureFile != nil:
		need(KindSecret, v.AzureFile.SecretName, nil)
	case v.Projected != nil:
		for _, source := range v.Projected.Sources {
			if source.ConfigMap != nil {
				need(KindConfigMap, source.ConfigMap.Name, source.ConfigMap.Optional)
			}
			if source.Secret != nil {
				need(KindSecret, source.Secret.Name, source.Secret.Optional)
			}
		}
	}
}

// lostReferences returns what the good template needs and the target does not, at most maxLost. What both need, the target's own
// pods tell of.
func lostReferences(good, target *corev1.PodSpec) []Reference {
	kept := references(target)
	lost := slices.DeleteFunc(references(good), func(r Reference) bool { return slices.Contains(kept, r) })
	return lost[:min(len(lost), maxLost)]
}

// askForObjects returns the objects to read before this look at the rollout to r, and remembers what was found: once while the target
// rolls out, and once more when it is rolled back. Those that may not be read are not asked for again.
func (s *state) askForObjects(d *Decision, r *Revision) []Reference {
	back, watched := s.target.Failed(), s.target
	if back {
		watched = s.lastGood
	}
	if r != watched || s.target.Good() || !s.mayRollBack() {
		return nil
	}
	known := s.lookup(d)
	if known != nil && (known.back || !back) {
		return nil
	}
	next := &lookup{rollout: s.rolloutName(), back: back}
	var unread []Reference
	for _, object := range lostReferences(&s.lastGood.Template().Spec, &s.target.Template().Spec) {
		finding, read := s.Evidence.Objects[object]
		switch {
		case known != nil && slices.Contains(known.forbidden, object):
		case !read:
			unread = append(unread, object)
		case finding == Missing:
			next.missing = append(next.missing, object.String())
		case finding == Forbidden:
			next.forbidden = append(next.forbidden, object)
		}
	}
	if len(unread) == 0 {
		d.Memory.lookup = next
	}
	return unread
}

// rolloutName names the rollout that a lookup is about.
func (s *state) rolloutName() string {
	return fmt.Sprintf("%s %d %s", s.target.Name, s.target.Attempt.Number, s.lastGood.Name)
}

// lookup returns what was found for this rollout, nil if nobody has looked yet.
func (s *state) lookup(d *Decision) *lookup {
	if s.target == nil || s.lastGood == nil || d.Memory.lookup == nil || d.Memory.lookup.rollout != s.rolloutName() {
		return nil
	}
	return d.Memory.lookup
}

// tellMissing adds to a report what the last good revision needs and is not there, while the target is rolled out, and
// while the Deployment goes back or cannot.
func (s *state) tellMissing(d *Decision, r *report) {
	underWay := r.condition == v1alpha1.ConditionReconciling || r.reason == d.Memory.Progress.WaitingReason || r.reason == v1alpha1.ReasonRollbackFailed
	if !underWay {
		return
	}
	known := s.lookup(d)
	if known == nil || len(known.missing) == 0 || s.target.Good() || !s.mayRollBack() {
		return
	}
	whose, are := s.lastGood.Name, "is"
	if !s.target.Failed() {
		whose += ", which it would go back to,"
	}
	if len(known.missing) > 1 {
		are = "are"
	}
	r.message += fmt.Sprintf("; %s needs %s, which %s not there any more", whose, listed(known.missing), are)
}

// listed lists words for a sentence.
func listed(words []string) string {
	last := len(words) - 1
	if last == 0 {
		return words[0]
	}
	return strings.Join(words[:last], ", ") + " and " + words[last]
}
