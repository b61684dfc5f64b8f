package main

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

const (
	mib = 1 << 20
	// perNamespace is how many objects a namespace holds where memory is measured.
	perNamespace = 1000
	// cpuTime is how long CPU is measured at rest, at each size, at most.
	cpuTime = 30 * time.Second
	// watchTime bounds a watch that sends everything there is.
	watchTime = time.Minute
	// sent is in the bookmark that ends it.
	sent = metav1.InitialEventsAnnotationKey
)

// measureMemory measures Belay at rest with more and more objects, on a cluster that is empty at first. They have no pods:
// Belay caches none.
func measureMemory(ctx context.Context, b *bench) error {
	if err := b.anew(ctx); err != nil {
		return err
	}
	before := 0
	for _, size := range append([]int{0}, b.Memory...) {
		for first := before; first < size; first += perNamespace {
			if err := b.fill(ctx, first, min(first+perNamespace, size)); err != nil {
				return err
			}
		}
		took, err := b.start(ctx, metav1.NamespaceAll)
		if err != nil {
			return err
		}
		if err := b.untilQuiet(ctx); err != nil {
			return err
		}
		cpu, err := b.restingCPU(ctx)
		if err != nil {
			return err
		}
		heap, rss, err := b.weigh(ctx)
		if err != nil {
			return err
		}
		count, err := b.counted(ctx)
		if err != nil {
			return err
		}
		b.results.point(point{Objects: count, Heap: heap, RSS: rss, CPU: cpu, Start: took.Seconds()})
		before = size
	}
	return b.wire(ctx)
}

// fill creates objects without pods, and waits until Belay has done what it does for them.
func (b *bench) fill(ctx context.Context, first, last int) error {
	namespace := fmt.Sprintf("bench-memory-%d", first/perNamespace)
	if err := b.namespace(ctx, namespace); err != nil {
		return err
	}
	if b.belay == nil {
		if _, err := b.start(ctx, metav1.NamespaceAll); err != nil {
			return err
		}
	}
	if err := b.createGuarded(ctx, namespace, first, last, 0); err != nil {
		return err
	}
	seen := b.watchGuarded(ctx, namespace)
	defer seen.stop()
	return seen.all(ctx, last-first/perNamespace*perNamespace, "all are scaled to zero", reason(v1alpha1.ReasonScaledToZero))
}

// untilQuiet waits until nothing has been queued for longer than a status is put off.
func (b *bench) untilQuiet(ctx context.Context) error {
	const quiet = 12 * time.Second
	last, since := -1.0, time.Now()
	return poll(ctx, patience, "nothing is queued any more", func(ctx context.Context) (bool, error) {
		adds, err := b.metric(ctx, "workqueue_adds_total")
		if adds != last {
			last, since = adds, time.Now()
		}
		if err == nil {
			err = sleep(ctx, time.Second) // A page of metrics is work, too.
		}
		return time.Since(since) > quiet, err
	})
}

// weigh returns the resident memory and what is on the heap after a garbage collection, in bytes.
func (b *bench) weigh(ctx context.Context) (heap, rss float64, err error) {
	if rss, err = b.metric(ctx, "process_resident_memory_bytes"); err != nil {
		return 0, 0, err
	}
	profile, err := fetch(ctx, "http://"+b.metrics+"/debug/pprof/heap?gc=1")
	if err != nil {
		return 0, 0, err
	}
	if err := b.keep(fmt.Sprintf("heap-%d.pprof", len(b.results.Memory)), profile); err != nil {
		return 0, 0, err
	}
	heap, err = b.metric(ctx, "go_memstats_heap_alloc_bytes")
	return heap, rss, err
}

// restingCPU returns how much of one core Belay uses while nothing happens.
func (b *bench) restingCPU(ctx context.Context) (float64, error) {
	before, err := b.metric(ctx, "process_cpu_seconds_total")
	if err != nil {
		return 0, err
	}
	rest := min(b.Rest, cpuTime)
	if err := sleep(ctx, rest); err != nil {
		return 0, err
	}
	after, err := b.metric(ctx, "process_cpu_seconds_total")
	return (after - before) / rest.Seconds(), err
}

// counted returns how many objects Belay itself counts. Where there are none, it has no such metric.
func (b *bench) counted(ctx context.Context) (int, error) {
	first, err := b.guard.BelayV1alpha1().GuardedDeployments("").List(ctx, metav1.ListOptions{Limit: 1})
	if err != nil || len(first.Items) == 0 {
		return 0, err
	}
	count, err := b.metric(ctx, "belay_guardeddeployments")
	return int(count), err
}

// metric returns the sum of a metric's values.
func (b *bench) metric(ctx context.Context, name string) (sum float64, err error) {
	page, err := fetch(ctx, "http://"+b.metrics+"/metrics")
	if err != nil {
		return 0, err
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(string(page)))
	if err != nil {
		return 0, err
	}
	family, ok := families[name]
	if !ok {
		return 0, fmt.Errorf("there is no metric %s", name)
	}
	for _, metric := range family.Metric {
		sum += metric.GetGauge().GetValue() + metric.GetCounter().GetValue() + metric.GetUntyped().GetValue()
	}
	return sum, nil
}

// wire measures what everything that Belay caches weighs on the wire, for each object: as a list, and as the watch that
// informers begin with.
func (b *bench) wire(ctx context.Context) error {
	count, err := b.counted(ctx)
	if err != nil || count == 0 {
		return err
	}
	for _, kind := range []struct {
		client                   rest.Interface
		name, encoding, selector string
	}{
		{b.guard.BelayV1alpha1().RESTClient(), "guardeddeployments", runtime.ContentTypeJSON, ""},
		{b.kube.AppsV1().RESTClient(), "deployments", runtime.ContentTypeProtobuf, v1alpha1.GuardedLabel + "=true"},
		{b.kube.AppsV1().RESTClient(), "controllerrevisions", runtime.ContentTypeProtobuf, v1alpha1.GuardedLabel + "=true"},
	} {
		get := func() *rest.Request {
			return kind.client.Get().Resource(kind.name).Param("labelSelector", kind.selector)
		}
		list, err := get().SetHeader("Accept", kind.encoding).Do(ctx).Raw()
		if err != nil {
			return err
		}
		watch, err := weighWatch(ctx, get().SetHeader("Accept", kind.encoding+";stream=watch").Param("watch", "true").Param("sendInitialEvents", "true").
			Param("resourceVersionMatch", "NotOlderThan").Param("allowWatchBookmarks", "true").
			Param("timeoutSeconds", fmt.Sprint(watchTime.Seconds())))
		if err != nil {
			return err
		}
		b.results.number("on the wire: "+kind.name+", list, for each object", float64(len(list)/count), "bytes", kind.encoding)
		b.results.number("on the wire: "+kind.name+", watch, for each object", float64(watch/count), "bytes", kind.encoding)
	}
	return nil
}

// weighWatch returns how many bytes a watch sends until it has sent everything there is.
func weighWatch(ctx context.Context, request *rest.Request) (total int, err error) {
	stream, err := request.Stream(ctx)
	if err != nil {
		return 0, err
	}
	defer stream.Close()
	chunk := make([]byte, 64<<10)
	for last := []byte(nil); !bytes.Contains(last, []byte(sent)); {
		n, err := stream.Read(chunk)
		if err != nil {
			return 0, fmt.Errorf("a watch ended before everything was sent: %w", err)
		}
		total += n
		last = append(last[max(0, len(last)-len(sent)):], chunk[:n]...)
	}
	return total, nil
}
