package rollout

import (
	"cmp"
	"encoding/json"
	"fmt"
	"iter"
	"maps"
	"regexp"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

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

// digestIn returns the digest of the image that a pod runs under this key, empty if that is not known, and whether it is one that
// no repository has. A container runtime names what runs by a repository's digest, or else by its own id:
// https://github.com/kubernetes/cri-api/blob/v0.37.2/pkg/apis/runtime/v1/api.proto (ContainerStatus.image_ref). containerd (1.6.20
// was seen) names the first of all repositories that gave it the same content, which may have it under another digest: that says
// nothing.
func digestIn(pod *corev1.Pod, key, image string) (digest string, local bool) {
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
	if _, after, hasScheme := strings.Cut(id, "://"); hasScheme { // docker-pullable://, of cri-dockerd
		id = after
	}
	name, digest, inRepository := strings.Cut(id, "@")
	switch {
	case !inRepository:
		return id, true
	case namesRepository(name, cmp.Or(imageNamed(&pod.Spec, key), image)):
		return digest, false
	default:
		return "", false
	}
}

// namesRepository reports whether name, with which a container runtime begins a repository's digest, may be the repository of this
// image. Runtimes complete short names.
func namesRepository(name, image string) bool {
	bare := func(name string) string {
		name = strings.TrimPrefix(strings.TrimPrefix(name, "index."), "docker.io/")
		return strings.TrimPrefix(name, "library/")
	}
	name, image = bare(name), bare(repository(image))
	return name == image || strings.HasSuffix(name, "/"+image)
}

// imagesOf returns the digests that the pods run of the template's images.
func imagesOf(pods []*corev1.Pod, template *corev1.PodTemplateSpec) images {
	ran := images{}
	for key, image := range imagesIn(&template.Spec) {
		inRepository, onNodes := map[string]int{}, map[string]int{}
		for _, pod := range pods {
			switch digest, local := digestIn(pod, key, *image); {
			case digest == "" || strings.Contains(*image, "@"):
			case local:
				onNodes[digest]++
			default:
				inRepository[digest]++
			}
		}
		known, counts := ranImage{}, inRepository
		if len(inRepository) == 0 { // A node that has it by another way does not keep it from being pulled.
			known.Local, counts = true, onNodes
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
			if now, local := digestIn(pod, key, *image); now != "" && len(was.Digests) > 0 && local == was.Local && !slices.Contains(was.Digests, now) {
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
	return l.was.images().moved(&l.was.Template().Spec, &l.template.Spec, pods)
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
		switch {
		case known[m.Container].Local:
			words += ", and cannot be gone back to: no repository has that"
		case l.inPlace:
			words += ", and pods that start may run what it is now: in place no image is pinned"
		case l.knownGood && !l.pinned:
			words += ", and is not gone back to: spec.guard.pinImages is Never"
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
		image := imageNamed(&r.Template().Spec, key)
		if was := known[key]; image != "" && len(was.Digests) > 0 && !was.Local && !strings.Contains(image, "@") {
			pinned[key] = repository(image) + "@" + was.Digests[0]
		}
	}
	return pinned
}

// repository returns an image's name without its tag and digest.
func repository(image string) string {
	image, _, _ = strings.Cut(image, "@")
	if colon := strings.LastIndex(image, ":"); colon > strings.LastIndex(image, "/") {
		return image[:colon]
	}
	return image
}

// String returns the keys, as PinnedAnnotation has them.
func (p pins) String() string { return strings.Join(slices.Sorted(maps.Keys(p)), ",") }

// references returns all of the pins, in one text.
func (p pins) references() string {
	all := ""
	for _, key := range slices.Sorted(maps.Keys(p)) {
		all += key + "=" + p[key] + ","
	}
	return all
}

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
			*image = imageNamed(&r.Template().Spec, key)
		}
	}
	return template
}

// pinsFor returns what the Deployment is to run by digest while it is back on a revision that was good: after a rollback, also when
// the spec asks for that revision by then, or a restart that was undone. Old pods that run what was good are not replaced for it: a
// digest is run where pods that were made since show another one, or where there are no old pods left, or no pods at all, and the
// tag is known to have moved.
func (s *state) pinsFor(r *Revision) pins {
	back, there := s.isFailed() && r == s.lastGood, s.runningName() == r.Name
	pinned := there && s.isPinned() && (back || s.isAsGood(r))
	if !(back || (r.Good() && (pinned || r.restartFailed()))) {
		return nil
	}
	mode := s.Guarded.Spec.Guard.PinImages
	if back && !there && mode == v1alpha1.PinAlways {
		return r.pins(maps.Keys(r.images()))
	}
	keys := map[string]bool{}
	if pinned {
		keys = s.pinned()
	}
	switch current := s.currentSet(); {
	case mode == v1alpha1.PinNever:
	case there && s.Memory.Progress.isFor(r) && s.Memory.Progress.Phase == PhaseFailed && s.Memory.Progress.restart == "":
		note(keys, s.Memory.Progress.Failure.Images) // Nobody looks at its pods any more.
	case there && valueOr(s.Deployment.Spec.Replicas, 1) == 0 && (back || s.isAsGood(r)):
		note(keys, s.target.Failure.Images) // The pods to come would pull what failed.
	case there && current != nil && (back || r.restartFailed()) && !s.isRestart(r, current):
		note(keys, r.images().moved(&r.Template().Spec, &r.Template().Spec, s.toReplace(r)))
	case !there:
		s.noteForReturn(keys, r, s.target.Failure.Images)
	}
	return r.pins(maps.Keys(keys))
}

// noteForReturn adds the keys of what has to be pinned when the Deployment goes back to the revision after a failure with these moved
// images: what the ReplicaSet that was good has pinned itself and, if that has no pods left, the moved ones and those with which another
// one serves, from a return before.
func (s *state) noteForReturn(keys map[string]bool, r *Revision, moved []v1alpha1.MovedImage) {
	if s.Guarded.Spec.Guard.PinImages == v1alpha1.PinNever {
		return
	}
	good := s.goodSet(r)
	if good != nil {
		notePinned(keys, r, good)
	}
	if serves(good) {
		return
	}
	note(keys, moved)
	if s.Evidence == nil {
		return
	}
	for _, set := range s.Evidence.ReplicaSets {
		if serves(set) && r.templateHash(&set.Spec.Template) == r.goodWith().Template {
			notePinned(keys, r, set)
		}
	}
}

// notePinned adds the keys of the images that a ReplicaSet of the revision runs by digest. A policy may have changed others.
func notePinned(keys map[string]bool, r *Revision, set *appsv1.ReplicaSet) {
	pinned := r.pins(maps.Keys(r.images()))
	for key, image := range imagesIn(&set.Spec.Template.Spec) {
		if *image == pinned[key] {
			keys[key] = true
		}
	}
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
	return len(failed.Images) > 0 && s.Guarded.Spec.Guard.PinImages != v1alpha1.PinNever && !s.isPinned()
}

// toReplace returns those of the current pods that a pin may replace: not the ones that were there before what failed, and serve.
func (s *state) toReplace(r *Revision) []*corev1.Pod {
	var began metav1.Time
	if s.isFailed() {
		began = s.target.CreationTimestamp
	}
	for _, set := range s.Evidence.ReplicaSets {
		if r.restartFailed() && set.Name == r.Failure.ReplicaSet && began.Before(&set.CreationTimestamp) {
			began = set.CreationTimestamp
		}
	}
	return slices.DeleteFunc(slices.Clone(s.Evidence.Pods), func(p *corev1.Pod) bool { return p.CreationTimestamp.Before(&began) && readyByOwnWord(p) })
}

// isPinned reports whether the Deployment runs digests in the place of tags.
func (s *state) isPinned() bool { return s.Deployment.Annotations[v1alpha1.PinnedAnnotation] != "" }

// pinned returns the keys of the images that the Deployment runs by digest.
func (s *state) pinned() map[string]bool {
	keys := map[string]bool{}
	for key := range strings.SplitSeq(s.Deployment.Annotations[v1alpha1.PinnedAnnotation], ",") {
		keys[key] = true
	}
	return keys
}

// note adds the keys of moved images.
func note(keys map[string]bool, moved []v1alpha1.MovedImage) {
	for _, m := range moved {
		keys[m.Container] = true
	}
}

// serves reports whether a ReplicaSet, nil for none, still has pods.
func serves(set *appsv1.ReplicaSet) bool {
	return set != nil && valueOr(set.Spec.Replicas, 1) > 0
}
