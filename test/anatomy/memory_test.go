package anatomy

import (
	"fmt"
	"runtime"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	k8sruntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/cache"
)

// BenchmarkMemory measures what one object takes in a cache, with its places in the store and in two indexes. Each object
// has been decoded from bytes of its own, as an informer does it, so that no two share a string.
func BenchmarkMemory(b *testing.B) {
	const objects = 2000
	for _, kind := range []struct{ name, mediaType string }{
		{"deployment", k8sruntime.ContentTypeProtobuf},
		{"guardeddeployment", k8sruntime.ContentTypeJSON}, // There is no protobuf for custom resources.
		{"controllerrevision", k8sruntime.ContentTypeProtobuf},
		{"pod", k8sruntime.ContentTypeProtobuf},
		{"service", k8sruntime.ContentTypeProtobuf},
	} {
		text := read(b, kind.name)
		version := load(b, kind.name).GetObjectKind().GroupVersionKind().GroupVersion()
		encode := encoder(b, kind.mediaType, version)
		var sent [objects][]byte
		for i := range sent {
			var err error
			if sent[i], err = k8sruntime.Encode(encode, like(b, text, fmt.Sprintf("web-%d", i), i)); err != nil {
				b.Fatal(err)
			}
		}
		for _, strip := range []bool{false, true} {
			what := map[bool]string{false: "/as-sent", true: "/without-managedFields"}[strip]
			b.Run(kind.name+what, func(b *testing.B) {
				var each uint64
				for b.Loop() {
					before := heap()
					indexer := filled(b, sent[:], strip)
					each = (heap() - before) / objects
					runtime.KeepAlive(indexer)
				}
				b.ReportMetric(0, "ns/op")
				b.ReportMetric(float64(len(sent[0])), "sent-B")
				b.ReportMetric(float64(each), "heap-B")
			})
		}
	}
}

// filled returns a store of what was sent, with or without managed fields.
func filled(tb testing.TB, sent [][]byte, strip bool) cache.Indexer {
	indexer := newIndexer()
	for _, data := range sent {
		object, err := k8sruntime.Decode(codecs.UniversalDeserializer(), data)
		if err != nil {
			tb.Fatal(err)
		}
		if strip {
			object.(metav1.Object).SetManagedFields(nil)
		}
		if err := indexer.Add(object); err != nil {
			tb.Fatal(err)
		}
	}
	return indexer
}

// heap returns how many bytes are in use.
func heap() uint64 {
	runtime.GC()
	runtime.GC() // What has a finalizer goes with the second.
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return stats.HeapAlloc
}
