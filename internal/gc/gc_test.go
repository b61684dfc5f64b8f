package gc

import (
	"context"
	"runtime/metrics"
	"testing"
	"testing/synctest"
	"time"

	"github.com/belay-dev/belay/internal/expect"
)

// collections returns how many garbage collections were asked for.
func collections() uint64 {
	sample := []metrics.Sample{{Name: "/gc/cycles/forced:gc-cycles"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}

func TestReturnMemory_OnceAfterEachBusyTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go ReturnMemory(ctx)
		var garbage []byte
		allocate := func(total int) {
			for range total >> 20 {
				garbage = make([]byte, 1<<20)
			}
		}
		pass := func(periods int, each int) uint64 {
			before := collections()
			for range periods {
				allocate(each)
				time.Sleep(busyTime)
				synctest.Wait()
			}
			return collections() - before
		}
		expect.Same(t, "after the start", uint64(1), pass(1, 0))
		expect.Same(t, "at rest", uint64(0), pass(100, busyBytes/4))
		expect.Same(t, "while it is busy", uint64(0), pass(5, 2*busyBytes))
		expect.Same(t, "after that", uint64(1), pass(5, 0))
		_ = garbage
	})
}
