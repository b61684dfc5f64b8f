package anatomy

import (
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/client-go/util/workqueue"
)

func TestAThousandAddsAreOneGet(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		queue := workqueue.NewTyped[string]()
		defer queue.ShutDown()
		for range 1000 {
			queue.Add("web")
		}
		wantLength(t, queue, 1, "after 1,000 adds of one key")
		queue.Get()
		queue.Done("web")
		wantLength(t, queue, 0, "after one get")
	})
}

func TestAddedWhileWorkedOnComesOnceMore(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		queue := workqueue.NewTyped[string]()
		defer queue.ShutDown()
		queue.Add("web")
		queue.Get()
		for range 1000 {
			queue.Add("web")
		}
		wantLength(t, queue, 0, "while the key is worked on")
		queue.Done("web")
		wantLength(t, queue, 1, "after Done")
		queue.Get()
		queue.Done("web")
		wantLength(t, queue, 0, "after it came once more")
	})
}

// Many add, many work. No key is with two workers, and after the last add of a key somebody works on it.
func TestOneKeyIsNeverWithTwoWorkers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const keys, workers, producers, adds = 3, 8, 4, 5000
		queue := workqueue.NewTyped[int]()
		var working [keys]atomic.Int32
		var version, seen [keys]atomic.Int64
		var running, producing sync.WaitGroup
		for range workers {
			running.Go(func() {
				for {
					key, shutdown := queue.Get()
					if shutdown {
						return
					}
					if working[key].Add(1) > 1 {
						t.Errorf("key %d is with two workers", key)
					}
					seen[key].Store(version[key].Load())
					runtime.Gosched()
					working[key].Add(-1)
					queue.Done(key)
				}
			})
		}
		for range producers {
			producing.Go(func() {
				for i := range adds {
					version[i%keys].Add(1)
					queue.Add(i % keys)
				}
			})
		}
		producing.Wait()
		queue.ShutDownWithDrain()
		running.Wait()
		for key := range keys {
			if got, want := seen[key].Load(), version[key].Load(); got != want {
				t.Errorf("key %d: the last version seen is %d of %d", key, got, want)
			}
		}
	})
}

func TestWithoutDoneAKeyNeverComesBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		queue := newQueue()
		defer queue.ShutDown()
		queue.Add("web")
		queue.Get()
		queue.Forget("web") // is not Done
		queue.Add("web")
		queue.AddRateLimited("web")
		time.Sleep(24 * time.Hour)
		wantLength(t, queue, 0, "a day after two more adds, without Done")
		queue.Done("web")
		wantLength(t, queue, 1, "after Done")
	})
}

func TestAddAfterKeepsTheEarliest(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		queue := newQueue()
		defer queue.ShutDown()
		queue.AddAfter("web", time.Minute)
		queue.AddAfter("web", time.Hour)
		queue.AddAfter("web", 10*time.Second)
		queue.Add("web") // does not call off the other
		if after := nextAfter(queue); after != 0 {
			t.Errorf("added now, it came after %s", after)
		}
		wantLength(t, queue, 0, "while the key waits for its time")
		if after := nextAfter(queue); after != 10*time.Second {
			t.Errorf("of a minute, an hour and ten seconds, it came after %s", after)
		}
		time.Sleep(2 * time.Hour)
		wantLength(t, queue, 0, "after the earliest, the later ones")
	})
}

func TestShutDownStillHandsOutWhatWaits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		queue := workqueue.NewTyped[int]()
		for key := range 3 {
			queue.Add(key)
		}
		queue.ShutDown()
		queue.Add(3)
		for want := range 3 {
			if key, shutdown := queue.Get(); shutdown || key != want {
				t.Errorf("got %d, %t, want %d", key, shutdown, want)
			}
		}
		if key, shutdown := queue.Get(); !shutdown {
			t.Errorf("what was added after ShutDown came: %d", key)
		}
	})
}

func TestWithoutANameNothingIsCounted(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]int64{"": 0, "guardeddeployments": 1} {
		counted := &countingProvider{}
		queue := workqueue.NewTypedRateLimitingQueueWithConfig(workqueue.DefaultTypedControllerRateLimiter[string](),
			workqueue.TypedRateLimitingQueueConfig[string]{Name: name, MetricsProvider: counted})
		queue.Add("web")
		queue.AddAfter("web", 0) // A look that was planned counts as a retry.
		queue.ShutDown()
		if adds, retries := counted.adds.Load(), counted.retries.Load(); adds != want || retries != want {
			t.Errorf("a queue with the name %q counts %d adds, %d retries, want %d of each", name, adds, retries, want)
		}
	}
}

// newQueue returns a queue as Belay has it.
func newQueue() workqueue.TypedRateLimitingInterface[string] {
	return workqueue.NewTypedRateLimitingQueue(workqueue.NewTypedItemExponentialFailureRateLimiter[string](retryFirst, retryMost))
}

// nextAfter works on the next key, and returns how long it was waited for.
func nextAfter(queue workqueue.TypedInterface[string]) time.Duration {
	start := time.Now()
	key, _ := queue.Get()
	queue.Done(key)
	return time.Since(start)
}

func wantLength(t *testing.T, queue interface{ Len() int }, want int, when string) {
	t.Helper()
	if got := queue.Len(); got != want {
		t.Errorf("%s: %d keys in the queue, want %d", when, got, want)
	}
}

// countingProvider counts what a queue tells it.
type countingProvider struct{ adds, retries counter }

type counter struct{ atomic.Int64 }

func (c *counter) Inc() { c.Add(1) }

type ignored struct{}

func (ignored) Inc()            {}
func (ignored) Dec()            {}
func (ignored) Set(float64)     {}
func (ignored) Observe(float64) {}

func (p *countingProvider) NewAddsMetric(string) workqueue.CounterMetric      { return &p.adds }
func (p *countingProvider) NewRetriesMetric(string) workqueue.CounterMetric   { return &p.retries }
func (p *countingProvider) NewDepthMetric(string) workqueue.GaugeMetric       { return ignored{} }
func (p *countingProvider) NewLatencyMetric(string) workqueue.HistogramMetric { return ignored{} }
func (p *countingProvider) NewWorkDurationMetric(string) workqueue.HistogramMetric {
	return ignored{}
}
func (p *countingProvider) NewUnfinishedWorkSecondsMetric(string) workqueue.SettableGaugeMetric {
	return ignored{}
}
func (p *countingProvider) NewLongestRunningProcessorSecondsMetric(string) workqueue.SettableGaugeMetric {
	return ignored{}
}
