package anatomy

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
)

// server answers an informer of ConfigMaps as an API server does, and notes what it is asked.
type server struct {
	noStreams bool // It refuses to stream a list, as old servers do.

	mu       sync.Mutex
	version  int
	objects  map[string]*corev1.ConfigMap
	stream   *watch.RaceFreeFakeWatcher
	requests []string
}

func newServer(names ...string) *server {
	s := &server{objects: map[string]*corev1.ConfigMap{}}
	for _, name := range names {
		s.put(name)
	}
	return s
}

func (s *server) listWatch() *cache.ListWatch {
	return &cache.ListWatch{ListWithContextFunc: s.list, WatchFuncWithContext: s.watch}
}

// put writes an object, as its next version.
func (s *server) put(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.version++
	_, existed := s.objects[name]
	object := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, ResourceVersion: strconv.Itoa(s.version)}}
	s.objects[name] = object
	switch {
	case s.stream == nil:
	case existed:
		s.stream.Modify(object.DeepCopy())
	default:
		s.stream.Add(object.DeepCopy())
	}
}

// remove deletes an object.
func (s *server) remove(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.version++
	gone := s.objects[name].DeepCopy()
	gone.ResourceVersion = strconv.Itoa(s.version)
	delete(s.objects, name)
	if s.stream != nil {
		s.stream.Delete(gone)
	}
}

// bookmark tells how far the world is, although nothing that is watched has changed.
func (s *server) bookmark(version int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.version = version
	s.stream.Action(watch.Bookmark, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{ResourceVersion: strconv.Itoa(version)}})
}

// hangUp ends the watch, as a timeout or a broken connection does.
func (s *server) hangUp() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stream.Stop()
	s.stream = nil
}

// expire ends the watch with 410. The next one has to begin with a list.
func (s *server) expire() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stream.Error(&apierrors.NewResourceExpired("too old resource version").ErrStatus)
	s.stream = nil
}

func (s *server) list(_ context.Context, options metav1.ListOptions) (runtime.Object, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests = append(s.requests, fmt.Sprintf("list from %q", options.ResourceVersion))
	list := &corev1.ConfigMapList{ListMeta: metav1.ListMeta{ResourceVersion: strconv.Itoa(s.version)}}
	for _, object := range s.objects {
		list.Items = append(list.Items, *object.DeepCopy())
	}
	return list, nil
}

func (s *server) watch(_ context.Context, options metav1.ListOptions) (watch.Interface, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	streams := options.SendInitialEvents != nil && *options.SendInitialEvents
	s.requests = append(s.requests, fmt.Sprintf("%s from %q", map[bool]string{true: "stream", false: "watch"}[streams], options.ResourceVersion))
	if timeout := options.TimeoutSeconds; timeout == nil || *timeout < 300 || *timeout > 600 {
		s.requests = append(s.requests, "for other than five to ten minutes")
	}
	if streams && s.noStreams {
		return nil, apierrors.NewInvalid(schema.GroupKind{}, "", nil)
	}
	s.stream = watch.NewRaceFreeFake()
	if streams {
		for _, object := range s.objects {
			s.stream.Add(object.DeepCopy())
		}
		s.stream.Action(watch.Bookmark, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{ResourceVersion: strconv.Itoa(s.version),
			Annotations: map[string]string{metav1.InitialEventsAnnotationKey: "true"}}})
	}
	return s.stream, nil
}

// asked returns the requests since the last call.
func (s *server) asked() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer func() { s.requests = nil }()
	return s.requests
}

func (s *server) wantAsked(t *testing.T, when string, want ...string) {
	t.Helper()
	synctest.Wait()
	if got := s.asked(); !slices.Equal(got, want) {
		t.Errorf("%s: the server was asked %q, want %q", when, got, want)
	}
}

// heard are the calls of a handler, as "add name@version".
type heard struct {
	mu    sync.Mutex
	calls []string
}

func (h *heard) note(what string, object any) {
	h.mu.Lock()
	defer h.mu.Unlock()
	c := object.(*corev1.ConfigMap)
	h.calls = append(h.calls, what+" "+c.Name+"@"+c.ResourceVersion)
}

func (h *heard) handler() cache.ResourceEventHandler {
	return cache.ResourceEventHandlerFuncs{
		AddFunc:    func(object any) { h.note("add", object) },
		UpdateFunc: func(_, object any) { h.note("update", object) },
		DeleteFunc: func(object any) {
			if tombstone, ok := object.(cache.DeletedFinalStateUnknown); ok {
				h.note("missed the end of", tombstone.Obj)
				return
			}
			h.note("delete", object)
		},
	}
}

// want waits until nothing moves any more, and compares what was heard since the last call.
func (h *heard) want(t *testing.T, when string, want ...string) {
	t.Helper()
	synctest.Wait()
	h.mu.Lock()
	defer h.mu.Unlock()
	slices.Sort(h.calls) // a list has no order
	slices.Sort(want)
	if !slices.Equal(h.calls, want) {
		t.Errorf("%s: heard %q, want %q", when, h.calls, want)
	}
	h.calls = nil
}
