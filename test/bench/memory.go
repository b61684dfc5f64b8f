package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

const (
	mib = 1 << 20
	// perNamespace is how many objects a namespace holds where memory is measured.
	perNamespace = 1000
)

// measureMemory measures Belay at rest with more and more objects. They have no pods: Belay caches none.
func measureMemory(ctx context.Context, b *bench) error {
	if err := b.stop(); err != nil {
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
	if err := sleep(ctx, b.Rest); err != nil {
		return 0, err
	}
	after, err := b.metric(ctx, "process_cpu_seconds_total")
	return (after - before) / b.Rest.Seconds(), err
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

// wire measures what a list of everything that Belay caches weighs on the wire, per object.
func (b *bench) wire(ctx context.Context) error {
	count, err := b.counted(ctx)
	if err != nil || count == 0 {
		return err
	}
	selector := v1alpha1.GuardedLabel + "=true"
	guarded, err := b.guard.BelayV1alpha1().RESTClient().Get().Resource("guardeddeployments").Do(ctx).Raw()
	if err != nil {
		return err
	}
	b.results.number("list: GuardedDeployments, JSON, for each", float64(len(guarded)/count), "bytes", "")
	for _, kind := range []string{"deployments", "controllerrevisions"} {
		list, err := b.kube.AppsV1().RESTClient().Get().Resource(kind).Param("labelSelector", selector).
			SetHeader("Accept", runtime.ContentTypeProtobuf).Do(ctx).Raw()
		if err != nil {
			return err
		}
		b.results.number("list: "+kind+", protobuf, for each object", float64(len(list)/count), "bytes", "")
	}
	return nil
}
