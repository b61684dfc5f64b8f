package anatomy

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"
)

// BenchmarkQueue measures how many keys go through a queue: Add, Get, Done.
func BenchmarkQueue(b *testing.B) {
	b.Run("one-goroutine", func(b *testing.B) {
		queue := workqueue.NewTyped[cache.ObjectName]()
		defer queue.ShutDown()
		key := cache.NewObjectName("shop", "web")
		for b.Loop() {
			queue.Add(key)
			queue.Get()
			queue.Done(key)
		}
		perSecond(b, b.N, "keys/s")
	})
	for _, producers := range []int{1, 8} {
		b.Run(fmt.Sprintf("producers-%d-workers-16", producers), func(b *testing.B) {
			queue := workqueue.NewTyped[cache.ObjectName]()
			keys := make([]cache.ObjectName, b.N) // No two are the same: every one is work.
			for i := range keys {
				keys[i] = cache.NewObjectName("shop", strconv.Itoa(i))
			}
			var producing, working sync.WaitGroup
			var next, done atomic.Int64
			b.ResetTimer()
			for range producers {
				producing.Go(func() {
					for i := next.Add(1); i <= int64(b.N); i = next.Add(1) {
						queue.Add(keys[i-1])
					}
				})
			}
			for range 16 {
				working.Go(func() {
					for {
						key, shutdown := queue.Get()
						if shutdown {
							return
						}
						done.Add(1)
						queue.Done(key)
					}
				})
			}
			producing.Wait()
			queue.ShutDown()
			working.Wait()
			if int(done.Load()) != b.N {
				b.Fatalf("%d keys were worked on, of %d", done.Load(), b.N)
			}
			perSecond(b, b.N, "keys/s")
		})
	}
}

// BenchmarkEvents measures how many changes of 1,000 Deployments come from a watch to handlers that do nothing.
func BenchmarkEvents(b *testing.B) {
	for _, handlers := range []int{1, 4} {
		b.Run(fmt.Sprintf("from-memory/handlers-%d", handlers), func(b *testing.B) {
			stream := watch.NewFakeWithChanSize(100, false)
			streams := func(context.Context, metav1.ListOptions) (watch.Interface, error) {
				stream.Action(watch.Bookmark, &appsv1.Deployment{ObjectMeta: endOfList})
				return stream, nil
			}
			base := load(b, "deployment").(*appsv1.Deployment)
			events(b, cache.NewSharedIndexInformer(&cache.ListWatch{WatchFuncWithContext: streams}, base, 0, cache.Indexers{}), handlers,
				func() {
					for i := range b.N {
						d := *base
						d.Name, d.ResourceVersion = names[i%len(names)], strconv.Itoa(i+2)
						stream.Modify(&d)
					}
				})
		})
	}
	for _, mediaType := range []string{runtime.ContentTypeProtobuf, runtime.ContentTypeJSON} {
		b.Run("from-a-server/"+path.Base(mediaType), func(b *testing.B) {
			first, frames := encodedEvents(b, mediaType)
			send := make(chan int)
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Type", mediaType+";stream=watch")
				_, _ = w.Write(first)
				w.(http.Flusher).Flush()
				select {
				case n := <-send:
					for i := range n {
						_, _ = w.Write(frames[i%len(frames)])
					}
					w.(http.Flusher).Flush()
					<-r.Context().Done()
				case <-r.Context().Done():
				}
			}))
			defer server.Close()
			client := kubernetes.NewForConfigOrDie(&rest.Config{Host: server.URL, ContentConfig: rest.ContentConfig{
				ContentType: mediaType, AcceptContentTypes: mediaType}})
			informer := informers.NewSharedInformerFactory(client, 0).Apps().V1().Deployments().Informer()
			events(b, informer, 1, func() { send <- b.N })
		})
	}
}

// endOfList is the bookmark that ends a streamed list.
var endOfList = metav1.ObjectMeta{ResourceVersion: "1", Annotations: map[string]string{metav1.InitialEventsAnnotationKey: "true"}}

// names are those of the Deployments that change.
var names = func() (all [1000]string) {
	for i := range all {
		all[i] = fmt.Sprintf("web-%d", i)
	}
	return all
}()

// events runs the informer with handlers that count, and measures from produce, which makes b.N events, to the last call.
func events(b *testing.B, informer cache.SharedIndexInformer, handlers int, produce func()) {
	ctx, cancel := context.WithCancel(b.Context())
	var running, heard sync.WaitGroup
	for range handlers {
		heard.Add(1)
		count := 0
		one := func() {
			if count++; count == b.N {
				heard.Done()
			}
		}
		if _, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc:    func(any) { one() },
			UpdateFunc: func(any, any) { one() },
		}); err != nil {
			b.Fatal(err)
		}
	}
	running.Go(func() { informer.RunWithContext(ctx) })
	if !cache.WaitFor(ctx, "", informer.HasSyncedChecker()) {
		b.Fatal("the informer does not sync")
	}
	b.ResetTimer()
	produce()
	heard.Wait()
	b.StopTimer()
	perSecond(b, b.N, "events/s")
	cancel()
	running.Wait()
}

// encodedEvents returns, as an API server sends them, the end of an empty list, and two changes of each Deployment.
func encodedEvents(b *testing.B, mediaType string) (first []byte, frames [][]byte) {
	info := serializerFor(b, mediaType)
	encode := encoder(b, mediaType, appsv1.SchemeGroupVersion)
	frame := func(what watch.EventType, object runtime.Object) []byte {
		raw, err := runtime.Encode(encode, object)
		if err != nil {
			b.Fatal(err)
		}
		var out bytes.Buffer
		event := &metav1.WatchEvent{Type: string(what), Object: runtime.RawExtension{Raw: raw}}
		if err := info.StreamSerializer.Serializer.Encode(event, info.StreamSerializer.Framer.NewFrameWriter(&out)); err != nil {
			b.Fatal(err)
		}
		return out.Bytes()
	}
	first = frame(watch.Bookmark, &appsv1.Deployment{ObjectMeta: endOfList})
	d := load(b, "deployment").(*appsv1.Deployment)
	for i := range 2 * len(names) {
		d.Name, d.ResourceVersion = names[i%len(names)], strconv.Itoa(i+2)
		frames = append(frames, frame(watch.Modified, d))
	}
	return first, frames
}

// perSecond reports how many there were in a second.
func perSecond(b *testing.B, n int, unit string) {
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), unit)
}
