// Package slim makes objects small before they are cached.
package slim

import (
	"hash/maphash"
	"maps"
	"reflect"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/lru"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

const (
	// largeAnnotation is how long, in bytes, the annotations of others may be that are cached.
	largeAnnotation = 256
	// sharedMaps is how many maps are kept to be shared, and largestShared how large each may be, in bytes as weight counts
	// them. Together they take about 10 MiB at most, whatever anybody's objects hold.
	sharedMaps, largestShared = 4096, 2048
	// entryWeight is what an entry of a map takes besides the bytes of its strings: two headers, or one and a quantity, with
	// the spare room that a map has.
	entryWeight = 144
)

// slimmer knows the maps that cached objects share.
type slimmer struct {
	shared *lru.Cache // maps, by their hash
	seed   maphash.Seed
}

// NewTransform returns a function for the transform of one or several informers, whose objects then share equal maps. It drops
// the managed fields and the large annotations of other tools.
func NewTransform() cache.TransformFunc { return newSlimmer().slim }

func newSlimmer() *slimmer { return &slimmer{lru.New(sharedMaps), maphash.MakeSeed()} }

// slim drops what nothing is decided from: the managed fields, but for when a revision's attempt began, and the large
// annotations of other tools. What a write is made of keeps everything: that is the live object, or, of a revision, the cached
// one with all its annotations (the API server keeps managed fields that a write leaves out).
//
// Slices of large elements lose their spare room: the decoder of JSON makes room for four, and three unused containers are
// more than two kilobytes. Maps are shared with objects that have the same ones.
//
// It never touches resourceVersion, uid or owner references: freshness and ownership rest on them.
func (s *slimmer) slim(object any) (any, error) {
	full, ok := object.(runtime.Object)
	if !ok {
		return object, nil // a tombstone
	}
	accessor, err := meta.Accessor(full)
	if err != nil {
		return nil, err
	}
	if _, revision := full.(*appsv1.ControllerRevision); revision {
		accessor.SetManagedFields(lastWrite(accessor))
	} else {
		accessor.SetManagedFields(nil)
		maps.DeleteFunc(accessor.GetAnnotations(), func(key, value string) bool {
			return len(value) > largeAnnotation && !strings.HasPrefix(key, v1alpha1.GroupName+"/")
		})
	}
	switch object := full.(type) {
	case *v1alpha1.GuardedDeployment:
		object.Status.Conditions = slices.Clone(object.Status.Conditions)
		s.slimSpec(&object.Spec.DeploymentSpec)
	case *appsv1.Deployment:
		object.Labels = intern(s, object.Labels)
		s.slimSpec(&object.Spec)
	case *appsv1.ControllerRevision: // of which there are most
		object.Labels, object.Annotations = intern(s, object.Labels), intern(s, object.Annotations)
	}
	return object, nil
}

// lastWrite returns who wrote a revision last and when, without what, if the revision is under way: its attempt began then.
func lastWrite(revision metav1.Object) []metav1.ManagedFieldsEntry {
	if _, underWay := revision.GetAnnotations()[v1alpha1.AttemptAnnotation]; !underWay {
		return nil
	}
	var last metav1.ManagedFieldsEntry
	for _, entry := range revision.GetManagedFields() {
		if entry.Time != nil && (last.Time == nil || last.Time.Before(entry.Time)) {
			last = metav1.ManagedFieldsEntry{Manager: entry.Manager, Operation: entry.Operation, Time: entry.Time}
		}
	}
	if last.Time == nil {
		return nil
	}
	return []metav1.ManagedFieldsEntry{last}
}

// slimSpec takes the spare room from the large slices of a spec, and lets it have its maps in common with others.
func (s *slimmer) slimSpec(spec *appsv1.DeploymentSpec) {
	if spec.Selector != nil {
		spec.Selector.MatchLabels = intern(s, spec.Selector.MatchLabels)
	}
	template := &spec.Template
	template.Labels, template.Annotations = intern(s, template.Labels), intern(s, template.Annotations)
	pod := &template.Spec
	pod.InitContainers, pod.Containers, pod.Volumes = slices.Clone(pod.InitContainers), slices.Clone(pod.Containers), slices.Clone(pod.Volumes)
	for i := range pod.Containers {
		resources := &pod.Containers[i].Resources
		resources.Requests, resources.Limits = intern(s, resources.Requests), intern(s, resources.Limits)
	}
}

// intern returns a map that is equal to m and that other objects have, too, if there is one. A map of one entry takes as much
// memory as one of eight, and a GuardedDeployment has most of its maps in common with its Deployment.
//
// A large map is rarely the same as another, and what is kept to be shared outlives the objects: it is left alone.
func intern[K ~string, V comparable](s *slimmer, m map[K]V) map[K]V {
	if len(m) == 0 || weight(m) > largestShared {
		return m
	}
	var key uint64 // the same in whatever order the entries come
	for k, v := range m {
		key += maphash.Comparable(s.seed, struct {
			k K
			v V
		}{k, v})
	}
	if found, ok := s.shared.Get(key); ok {
		if other, ok := found.(map[K]V); ok && reflect.DeepEqual(other, m) {
			return other
		}
	}
	s.shared.Add(key, m)
	return m
}

// weight returns how much memory a map takes, in bytes, or more.
func weight[K ~string, V any](m map[K]V) int {
	bytes := 0
	for k, v := range m {
		bytes += entryWeight + len(k)
		if text, ok := any(v).(string); ok {
			bytes += len(text)
		}
	}
	return bytes
}
