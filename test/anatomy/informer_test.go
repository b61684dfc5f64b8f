package anatomy

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
)

func TestAListIsStreamed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newServer("a", "b")
		var h heard
		start(t, s, 0, &h)
		h.want(t, "at the start", "add a@1", "add b@2")
		s.wantAsked(t, "at the start", `stream from ""`)
		s.put("a")
		h.want(t, "after a change, on the same stream", "update a@3")
		s.wantAsked(t, "after a change")
	})
}

func TestAServerThatCannotStreamIsListed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newServer("a", "b")
		s.noStreams = true
		var h heard
		start(t, s, 0, &h)
		h.want(t, "at the start", "add a@1", "add b@2")
		s.wantAsked(t, "at the start", `stream from ""`, `list from "0"`, `watch from "2"`)
	})
}

// So a test with a fake client takes another way than the same code in a cluster.
func TestAFakeClientIsListed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		client := fake.NewClientset()
		startInformer(t, informers.NewSharedInformerFactory(client, 0).Core().V1().ConfigMaps().Informer(), 0, cache.ResourceEventHandlerFuncs{})
		synctest.Wait()
		var asked []string
		for _, action := range client.Actions() {
			asked = append(asked, action.GetVerb())
		}
		if want := []string{"list", "watch"}; !slices.Equal(asked, want) {
			t.Errorf("the fake was asked %q, want %q", asked, want)
		}
	})
}

// Two updates of the same version: an API server refuses the second.
func TestAFakeKnowsNoConflicts(t *testing.T) {
	t.Parallel()
	client := fake.NewClientset().CoreV1().ConfigMaps("shop")
	created, err := client.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "a"}}, metav1.CreateOptions{})
	for _, value := range []string{"1", "2"} {
		if err != nil {
			t.Fatal(err)
		}
		changed := created.DeepCopy()
		changed.Data = map[string]string{"value": value}
		_, err = client.Update(t.Context(), changed, metav1.UpdateOptions{})
	}
	if err != nil || created.ResourceVersion != "" {
		t.Errorf("version %q, second update: %v", created.ResourceVersion, err)
	}
}

// An informer whose server does not answer goes on asking for ever: less and less often, and from the beginning again when
// two minutes have passed since it last began.
func TestAnAbsentServerIsAskedForEver(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var tries []time.Time
		absent := func(context.Context, metav1.ListOptions) (watch.Interface, error) {
			tries = append(tries, time.Now())
			return nil, errors.New("no route to host")
		}
		informer := cache.NewSharedIndexInformer(&cache.ListWatch{
			WatchFuncWithContext: absent,
			ListWithContextFunc: func(context.Context, metav1.ListOptions) (runtime.Object, error) {
				return nil, errors.New("no route to host")
			},
		}, &corev1.ConfigMap{}, 0, cache.Indexers{})
		startInformer(t, informer, 0, cache.ResourceEventHandlerFuncs{})
		time.Sleep(time.Hour)
		synctest.Wait()
		const first, most = 800 * time.Millisecond, 30 * time.Second
		begun, least := tries[0], first
		for i := range len(tries) - 1 {
			if tries[i].Sub(begun) > 2*time.Minute {
				begun, least = tries[i], first
			}
			if waited := tries[i+1].Sub(tries[i]); waited < least || waited > 2*least {
				t.Fatalf("between try %d and the next there are %s, want %s to %s", i+1, waited, least, 2*least)
			}
			least = min(2*least, most)
		}
		if len(tries) < 100 || informer.HasSynced() {
			t.Errorf("%d tries in an hour, synced: %t", len(tries), informer.HasSynced())
		}
	})
}

// A watch that ends costs neither a list nor an event.
func TestAfterTheEndOfAWatchTheNextGoesOn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newServer("a")
		var h heard
		informer := start(t, s, 0, &h)
		s.wantAsked(t, "at the start", `stream from ""`)
		time.Sleep(5 * time.Minute)
		s.hangUp()
		s.wantAsked(t, "after the end", `watch from "1"`)
		s.bookmark(70)
		synctest.Wait()
		if got := informer.GetStore().LastStoreSyncResourceVersion(); got != "70" {
			t.Errorf("after a bookmark of 70 the store is at %q", got)
		}
		time.Sleep(5 * time.Minute)
		s.hangUp()
		s.wantAsked(t, "after a bookmark", `watch from "70"`)
		h.want(t, "all in all", "add a@1")
	})
}

// After 410 everything is read again. What went meanwhile is found by comparing; what did not change is told again, too.
func TestAfterA410EverythingIsReadAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newServer("changed", "gone", "same")
		var h heard
		start(t, s, 0, &h)
		h.want(t, "at the start", "add changed@1", "add gone@2", "add same@3")
		s.wantAsked(t, "at the start", `stream from ""`)
		time.Sleep(time.Minute)
		s.expire()
		s.put("changed")
		s.remove("gone")
		s.put("new")
		time.Sleep(time.Minute)
		s.wantAsked(t, "after 410", `stream from "3"`)
		h.want(t, "after 410", "missed the end of gone@2", "update changed@4", "update same@3", "add new@6")
	})
}

// A resync repeats what is in memory, for handlers that asked for one. The server does not hear of it.
func TestAResyncAsksNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newServer("a")
		var h heard
		start(t, s, 10*time.Minute, &h)
		s.wantAsked(t, "at the start", `stream from ""`)
		time.Sleep(time.Hour + time.Second)
		s.wantAsked(t, "in an hour with a resync every ten minutes")
		h.want(t, "in an hour", slices.Concat([]string{"add a@1"}, slices.Repeat([]string{"update a@1"}, 6))...)
	})
}

// Without resourceVersions every update looks like a resync: who asked for none hears of nothing, from the first resync of
// any other handler on. And nobody can tell any more how fresh the store is.
func TestWithoutResourceVersionsUpdatesAreLost(t *testing.T) {
	t.Parallel()
	for blank, want := range map[bool]string{false: "update a@2", true: "update a@"} {
		synctest.Test(t, func(t *testing.T) {
			s := newServer("a")
			informer := s.informer(10 * time.Minute)
			if err := informer.SetTransform(func(object any) (any, error) {
				if blank {
					object.(*corev1.ConfigMap).ResourceVersion = ""
				}
				return object, nil
			}); err != nil {
				t.Fatal(err)
			}
			var without, with heard
			if _, err := informer.AddEventHandlerWithResyncPeriod(without.handler(), 0); err != nil {
				t.Fatal(err)
			}
			startInformer(t, informer, 10*time.Minute, with.handler())
			time.Sleep(10*time.Minute + time.Second)
			synctest.Wait()
			without.calls, with.calls = nil, nil
			s.put("a")
			with.want(t, "the handler with a resync", want)
			if blank {
				without.want(t, "the handler without a resync")
			} else {
				without.want(t, "the handler without a resync", want)
			}
			if at := informer.GetStore().LastStoreSyncResourceVersion(); (at == "") != blank {
				t.Errorf("blank %t: the store is at %q", blank, at)
			}
		})
	}
}

// Handlers hear of a change after the store has it, one after the other, in the order in which it came.
func TestTheStoreIsWrittenBeforeHandlersHear(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newServer()
		informer := s.informer(0)
		last := ""
		startInformer(t, informer, 0, cache.ResourceEventHandlerFuncs{AddFunc: func(object any) {
			c := object.(*corev1.ConfigMap)
			if _, exists, _ := informer.GetStore().Get(c); !exists {
				t.Errorf("a handler hears of %s before the store has it", c.Name)
			}
			if c.Name <= last {
				t.Errorf("%s comes after %s", c.Name, last)
			}
			last = c.Name
		}})
		for i := range 50 {
			if i < 10 {
				synctest.Wait() // The first ones come alone, the others together.
			}
			s.put(string(rune('a' + i)))
		}
		synctest.Wait()
		if want := string(rune('a' + 49)); last != want {
			t.Errorf("the last one heard of is %q, want %q", last, want)
		}
	})
}

// The caches are full before a handler has heard of anything: who waits for them only starts with an empty queue.
func TestCachesAreFullBeforeHandlersHaveHeard(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		informer := newServer("a").informer(0)
		slow := make(chan struct{})
		registration := startInformer(t, informer, 0, cache.ResourceEventHandlerFuncs{AddFunc: func(any) { <-slow }})
		synctest.Wait()
		if !informer.HasSynced() || registration.HasSynced() {
			t.Errorf("while a handler works on the first object: caches %t, handlers %t", informer.HasSynced(), registration.HasSynced())
		}
		close(slow)
		if !cache.WaitFor(t.Context(), "", registration.HasSyncedChecker()) {
			t.Error("the handler is never done")
		}
	})
}

// Each handler has goroutines and a buffer of its own, without a bound.
func TestASlowHandlerHoldsUpOnlyItself(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const changes = 5000
		s := newServer()
		informer := s.informer(0)
		stuck := make(chan struct{})
		var slow, quick atomic.Int32
		startInformer(t, informer, 0, cache.ResourceEventHandlerFuncs{
			AddFunc:    func(any) { <-stuck; slow.Add(1) },
			UpdateFunc: func(any, any) { slow.Add(1) },
		}, cache.ResourceEventHandlerFuncs{
			AddFunc:    func(any) { quick.Add(1) },
			UpdateFunc: func(any, any) { quick.Add(1) },
		})
		synctest.Wait()
		for i := range changes {
			s.put("a")
			if i%50 == 0 {
				synctest.Wait() // The fake watch holds 100 events.
			}
		}
		synctest.Wait()
		if slow.Load() != 0 || quick.Load() != changes {
			t.Errorf("while one handler is stuck, it has heard of %d changes, the other of %d", slow.Load(), quick.Load())
		}
		close(stuck)
		synctest.Wait()
		if slow.Load() != changes {
			t.Errorf("when it goes on, it hears of %d changes, want each of %d", slow.Load(), changes)
		}
	})
}

func TestReadersShareOneObject(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		informer := cache.NewSharedIndexInformer(newServer("a").listWatch(), &corev1.ConfigMap{}, 0,
			cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc})
		var handled any
		startInformer(t, informer, 0, cache.ResourceEventHandlerFuncs{AddFunc: func(object any) { handled = object }})
		synctest.Wait()
		lister := corelisters.NewConfigMapLister(informer.GetIndexer()).ConfigMaps("shop")
		one, err := lister.Get("a")
		if err != nil {
			t.Fatal(err)
		}
		indexed, err := informer.GetIndexer().ByIndex(cache.NamespaceIndex, "shop")
		if err != nil || len(indexed) != 1 || indexed[0] != one || handled != one {
			t.Errorf("a lister has %p, an index %p, a handler %p (%v)", one, indexed, handled, err)
		}
	})
}

// Who changes a cached object is found out by KUBE_CACHE_MUTATION_DETECTOR. It is read when a process starts.
func TestTheMutationDetectorPanics(t *testing.T) {
	t.Parallel()
	if os.Getenv("KUBE_CACHE_MUTATION_DETECTOR") == "true" {
		synctest.Test(t, func(t *testing.T) {
			informer := newServer("a").informer(0)
			startInformer(t, informer, 0, cache.ResourceEventHandlerFuncs{})
			synctest.Wait()
			for _, object := range informer.GetStore().List() {
				object.(*corev1.ConfigMap).Data = map[string]string{"changed": "in the cache"}
			}
			time.Sleep(time.Minute)
		})
		return
	}
	child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$")
	child.Env = append(os.Environ(), "KUBE_CACHE_MUTATION_DETECTOR=true")
	out, err := child.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "panic: cache *v1.ConfigMap modified") {
		t.Errorf("a cached object was changed, and the process ended with %v:\n%s", err, out)
	}
}

// informer returns an informer of the server's objects, with the default resync period of its handlers.
func (s *server) informer(resync time.Duration) cache.SharedIndexInformer {
	return cache.NewSharedIndexInformer(s.listWatch(), &corev1.ConfigMap{}, resync, cache.Indexers{})
}

// start runs an informer that h listens to, until the test ends.
func start(t *testing.T, s *server, resync time.Duration, h *heard) cache.SharedIndexInformer {
	informer := s.informer(resync)
	startInformer(t, informer, resync, h.handler())
	return informer
}

// startInformer runs an informer with handlers until the test ends, and returns the registration of the first.
func startInformer(t *testing.T, informer cache.SharedIndexInformer, resync time.Duration, handlers ...cache.ResourceEventHandler) cache.ResourceEventHandlerRegistration {
	t.Helper()
	var first cache.ResourceEventHandlerRegistration
	for _, handler := range handlers {
		registration, err := informer.AddEventHandlerWithResyncPeriod(handler, resync)
		if err != nil {
			t.Fatal(err)
		}
		if first == nil {
			first = registration
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); informer.RunWithContext(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return first
}
