package rollout

import (
	"encoding/json"
	"fmt"
	"iter"
	"maps"
	"regexp"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

const (
	// maxImages is of how many images of a template the digests are kept, and maxDigests how many of each: an annotation is no
	// place for more.
	maxImages, maxDigests = 200, 3
	// maxMoved is how many moved images a failure names, and maxMovedTold how many its message does.
	maxMoved, maxMovedTold = 10, 2
	// volumePrefix stands before the name of an image volume, in the place of a container's name.
	volumePrefix = "volume/"
)

// images are the digests that good pods ran, by container or, with volumePrefix, image volume.
type images map[string]ranImage

// ranImage is what pods ran of one image of the template.
type ranImage struct {
	// Digests has that of most pods first. There is more than one where the pods disagree.
	Digests []string `json:"digests"`
	// Local says that the node knows no repository that has the image: it was built or imported there.
	Local bool `json:"local,omitempty"`
}

// images returns the digests that the revision's pods ran when it was good; none if that is not known, or written down otherwise.
func (r *Revision) images() images {
	var known images
	if json.Unmarshal([]byte(r.Annotations[v1alpha1.ImagesAnnotation]), &known) != nil {
		return nil
	}
	maps.DeleteFunc(known, func(_ string, ran ranImage) bool {
		return len(ran.Digests) == 0 || slices.ContainsFunc(ran.Digests, func(digest string) bool { return !isDigest.MatchString(digest) })
	})
	return known
}

// isDigest matches a digest, but for how long it has to be:
// https://github.com/opencontainers/image-spec/blob/v1.1.1/descriptor.md#digests
var isDigest = regexp.MustCompile(`^[a-z0-9]+([+._-][a-z0-9]+)*:[a-zA-Z0-9=_-]+$`)

// imagesIn yields every image of a pod's spec that may be set there, by its key in images.
func imagesIn(spec *corev1.PodSpec) iter.Seq2[string, *string] {
	return func(yield func(string, *string) bool) {
		for c := range containersOf(spec) {
			if !yield(c.Name, &c.Image) {
				return
			}
		}
		for i := range spec.Volumes {
			if image := spec.Volumes[i].Image; image != nil && !yield(volumePrefix+spec.Volumes[i].Name, &image.Reference) {
				return
			}
		}
	}
}

// imageNamed returns the image of this key, empty if there is none.
func imageNamed(spec *corev1.PodSpec, key string) string {
	for other, image := range imagesIn(spec) {
		if other == key {
			return *image
		}
	}
	return ""
}

// digestIn returns the digest of the image that a pod runs under this key, empty if its status does not say, and whether
// it is one that no repository has. A container runtime names an image by a repository's digest, or else by its own id:
// https://github.com/kubernetes/cri-api/blob/v0.37.2/pkg/apis/runtime/v1/api.proto (ContainerStatus.image_ref).
func digestIn(pod *corev1.Pod, key string) (digest string, local bool) {
	volume, isVolume := strings.CutPrefix(key, volumePrefix)
	var id string
	for c := range containers(pod) {
		if !isVolume && c.Name == key {
			id = c.ImageID
		}
		for _, mount := range c.VolumeMounts {
			if isVolume && mount.Name == volume && mount.VolumeStatus != nil && mount.VolumeStatus.Image != nil {
				id = mount.VolumeStatus.Image.ImageRef
			}
		}
	}
	_, digest, inRepository := strings.Cut(id, "@")
	if inRepository {
		return digest, false
	}
	return id[strings.LastIndex(id, "/")+1:], true // without the scheme that some runtimes put before it
}

// imagesOf returns the digests that the pods run of the template's images.
func imagesOf(pods []*corev1.Pod, template *corev1.PodTemplateSpec) images {
	ran := images{}
	for key, image := range imagesIn(&template.Spec) {
		counts := map[string]int{}
		known := ranImage{}
		for _, pod := range pods {
			if digest, local := digestIn(pod, key); digest != "" && !strings.Contains(*image, "@") {
				counts[digest]++
				known.Local = known.Local || local
			}
		}
		if len(counts) == 0 || len(ran) == maxImages {
			continue
		}
		known.Digests = slices.SortedFunc(maps.Keys(counts), func(a, b string) int {
			if counts[a] != counts[b] {
				return counts[b] - counts[a]
			}
			return strings.Compare(a, b)
		})
		known.Digests = known.Digests[:min(len(known.Digests), maxDigests)]
		ran[key] = known
	}
	return ran
}

// moved returns the images of the template that good has under the same reference, and of which a pod runs another digest than
// good's did. The first of the pods that tells is asked.
func (i images) moved(good, template *corev1.PodSpec, pods []*corev1.Pod) []v1alpha1.MovedImage {
	var moved []v1alpha1.MovedImage
	for key, image := range imagesIn(template) {
		was := i[key]
		if imageNamed(good, key) != *image || len(moved) == maxMoved {
			continue
		}
		for _, pod := range pods {
			if now, local := digestIn(pod, key); now != "" && len(was.Digests) > 0 && local == was.Local && !slices.Contains(was.Digests, now) {
				moved = append(moved, v1alpha1.MovedImage{Container: key, Image: *image, Good: was.Digests[0], Now: now})
				break
			}
		}
	}
	return moved
}

// moved returns the images that have moved since the revision to go back to was good. The pod of this name is asked first.
func (l *look) moved(pod string) []v1alpha1.MovedImage {
	if l.was == nil {
		return nil
	}
	pods := slices.Clone(l.evidence.Pods)
	slices.SortStableFunc(pods, func(a, b *corev1.Pod) int {
		switch pod {
		case a.Name:
			return -1
		case b.Name:
			return 1
		default:
			return 0
		}
	})
	return l.was.images().moved(&l.was.Template.Spec, &l.template.Spec, pods)
}

// movedWords says which images have moved, of those with which revision was good.
func (l *look) movedWords(moved []v1alpha1.MovedImage) string {
	if len(moved) == 0 {
		return ""
	}
	var words string
	known := l.was.images()
	for n, m := range moved {
		if n == maxMovedTold {
			return words + fmt.Sprintf("; so are %d more images", len(moved)-n)
		}
		where := "container " + m.Container
		if volume, isVolume := strings.CutPrefix(m.Container, volumePrefix); isVolume {
			where = "volume " + volume
		}
		words += fmt.Sprintf("; image %s of %s is %s now, was %s when %s was good", m.Image, where, short(m.Now), short(m.Good), l.was.Name)
		if more := len(known[m.Container].Digests) - 1; more > 0 {
			words += fmt.Sprintf(" (of %d that its pods ran)", more+1)
		}
		if known[m.Container].Local {
			words += ", and cannot be gone back to: no repository has that"
		}
	}
	return words
}

// short returns the beginning of a digest, by which people know it.
func short(digest string) string {
	algorithm, hex, _ := strings.Cut(digest, ":")
	return algorithm + ":" + hex[:min(len(hex), 12)]
}

// pins are the references by digest that take the place of tags, by the key of the image.
type pins map[string]string

// pins returns the pins of those of the revision's images that can be pinned.
func (r *Revision) pins(keys iter.Seq[string]) pins {
	known, pinned := r.images(), pins{}
	for key := range keys {
		image := imageNamed(&r.Template.Spec, key)
		if was := known[key]; image != "" && len(was.Digests) > 0 && !was.Local && !strings.Contains(image, "@") {
			pinned[key] = repository(image) + "@" + was.Digests[0]
		}
	}
	return pinned
}

// repository returns an image's name without its tag.
func repository(image string) string {
	if colon := strings.LastIndex(image, ":"); colon > strings.LastIndex(image, "/") {
		return image[:colon]
	}
	return image
}

// String returns the keys, as PinnedAnnotation has them.
func (p pins) String() string { return strings.Join(slices.Sorted(maps.Keys(p)), ",") }

// in sets the pins in a template.
func (p pins) in(template *corev1.PodTemplateSpec) {
	for key, image := range imagesIn(&template.Spec) {
		if pinned := p[key]; pinned != "" {
			*image = pinned
		}
	}
}

// unpinned returns a copy of a template of the revision in which pins have the revision's own image again.
func (r *Revision) unpinned(template *corev1.PodTemplateSpec) *corev1.PodTemplateSpec {
	template = template.DeepCopy()
	pinned := r.pins(maps.Keys(r.images()))
	for key, image := range imagesIn(&template.Spec) {
		if *image == pinned[key] {
			*image = imageNamed(&r.Template.Spec, key)
		}
	}
	return template
}

// pinsFor returns what the Deployment is to run by digest while it is back on a revision that was good: after a rollback or
// a restart that was undone, and when the spec asks for what runs again. Old pods that run what was good are not replaced for it: a
// digest is run where pods that were made since show another one, or where there are no old pods left and the tag is known to have
// moved.
func (s *state) pinsFor(r *Revision) pins {
	mode, back := s.Guarded.Spec.Guard.PinImages, s.isFailed() && r == s.lastGood
	if mode == v1alpha1.PinNever || !r.Good() || !(back || r.restartFailed() || s.isPinned(r)) {
		return nil
	}
	if back && mode == v1alpha1.PinAlways {
		return r.pins(maps.Keys(r.images()))
	}
	keys := map[string]bool{}
	if s.runningName() == r.Name {
		if back || s.isAsGood(r) {
			for key := range strings.SplitSeq(s.Deployment.Annotations[v1alpha1.PinnedAnnotation], ",") {
				keys[key] = true
			}
		}
		if current := s.currentSet(); current != nil && !s.isRestart(r, current) {
			note(keys, r.images().moved(&r.Template.Spec, &r.Template.Spec, s.Evidence.Pods))
		}
	} else if back {
		s.noteGood(keys, r, s.target.Failure.Images)
	}
	return r.pins(maps.Keys(keys))
}

// isPinned reports whether the Deployment runs images of the revision by digest.
func (s *state) isPinned(r *Revision) bool {
	return s.runningName() == r.Name && s.Deployment.Annotations[v1alpha1.PinnedAnnotation] != ""
}

// mayRunMoved reports whether pods that were made when the Deployment went back to the revision may run what has just failed: a tag is
// known to have moved, and is not pinned. A process that does not know has to look.
func (s *state) mayRunMoved(r *Revision) bool {
	var failed *Failure
	switch {
	case r.restartFailed():
		failed = &r.Failure
	case s.isFailed() && r == s.lastGood:
		failed = &s.target.Failure
	default:
		return false
	}
	return len(failed.Images) > 0 && s.Guarded.Spec.Guard.PinImages != v1alpha1.PinNever && !s.isPinned(r)
}

// note adds the keys of moved images.
func note(keys map[string]bool, moved []v1alpha1.MovedImage) {
	for _, m := range moved {
		keys[m.Container] = true
	}
}

// noteGood adds the keys of what the ReplicaSet to go back to runs by digest itself or, where it has no pods left, of moved images.
func (s *state) noteGood(keys map[string]bool, r *Revision, moved []v1alpha1.MovedImage) {
	set := s.goodSet(r)
	if !serves(set) {
		note(keys, moved)
	}
	if set == nil {
		return
	}
	for key, image := range imagesIn(&set.Spec.Template.Spec) {
		if strings.Contains(*image, "@") {
			keys[key] = true
		}
	}
}

// serves reports whether a ReplicaSet, nil for none, still has pods.
func serves(set *appsv1.ReplicaSet) bool {
	return set != nil && valueOr(set.Spec.Replicas, 1) > 0
}
