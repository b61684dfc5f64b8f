package main

import (
	"maps"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// largeAnnotation is how long, in bytes, the annotations of others may be that are cached.
const largeAnnotation = 256

// slim makes an object small before it is cached. What nothing is decided from goes: the managed fields and the large
// annotations of other tools. What a write is made of keeps everything: that is the live object, or, of a revision, the
// cached one with all its annotations (the API server keeps managed fields that a write leaves out).
//
// What stays is copied: the decoder makes every slice with room for four, and three unused containers are two kilobytes.
//
// It never touches resourceVersion, uid or owner references: freshness and ownership rest on them.
func slim(object any) (any, error) {
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
	return full.DeepCopyObject(), nil
}
