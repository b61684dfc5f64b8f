package main

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/utils/lru"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

const (
	// largeAnnotation is how long, in bytes, the annotations of others may be that are cached.
	largeAnnotation = 256
	// sharedMaps is how many maps are kept to be shared.
	sharedMaps = 4096
)

// slimmer makes objects small before they are cached.
type slimmer struct {
	shared *lru.Cache // maps, by what they print as
}

func newSlimmer() *slimmer { return &slimmer{lru.New(sharedMaps)} }

// slim drops what nothing is decided from: the managed fields and the large annotations of other tools. What a write is made
// of keeps everything: that is the live object, or, of a revision, the cached one with all its annotations (the API server
// keeps managed fields that a write leaves out).
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
	accessor.SetManagedFields(nil)
	if _, revision := full.(*appsv1.ControllerRevision); !revision {
		maps.DeleteFunc(accessor.GetAnnotations(), func(key, value string) bool {
			return len(value) > largeAnnotation && !strings.HasPrefix(key, v1alpha1.GroupName+"/")
		})
	}
	switch object := full.(type) {
	case *v1alpha1.GuardedDeployment:
		object.Status.Conditions = slices.Clone(object.Status.Conditions)
		s.slimSpec(&object.Spec.DeploymentSpec)
	case *appsv1.Deployment:
		object.Labels = alike(s.shared, object.Labels)
		s.slimSpec(&object.Spec)
	case *appsv1.ControllerRevision: // of which there are most
		object.Labels, object.Annotations = alike(s.shared, object.Labels), alike(s.shared, object.Annotations)
	}
	return object, nil
}

// slimSpec takes the spare room from the large slices of a spec, and lets it have its maps in common with others.
func (s *slimmer) slimSpec(spec *appsv1.DeploymentSpec) {
	if spec.Selector != nil {
		spec.Selector.MatchLabels = alike(s.shared, spec.Selector.MatchLabels)
	}
	template := &spec.Template
	template.Labels, template.Annotations = alike(s.shared, template.Labels), alike(s.shared, template.Annotations)
	pod := &template.Spec
	pod.InitContainers, pod.Containers, pod.Volumes = slices.Clone(pod.InitContainers), slices.Clone(pod.Containers), slices.Clone(pod.Volumes)
	for i := range pod.Containers {
		resources := &pod.Containers[i].Resources
		resources.Requests, resources.Limits = alike(s.shared, resources.Requests), alike(s.shared, resources.Limits)
	}
}

// alike returns a map that is equal to m and that other objects have, too, if there is one. A map of one entry takes as much
// memory as one of eight, and a GuardedDeployment has most of its maps in common with its Deployment.
func alike[K comparable, V any](shared *lru.Cache, m map[K]V) map[K]V {
	if len(m) == 0 {
		return m
	}
	key := fmt.Sprint(m) // Different maps may print the same.
	if found, ok := shared.Get(key); ok {
		if other, ok := found.(map[K]V); ok && reflect.DeepEqual(other, m) {
			return other
		}
	}
	shared.Add(key, m)
	return m
}
