package gc

import (
	"context"
	"fmt"
	"runtime"
	"runtime/debug"
	"testing"
	"testing/synctest"
	"time"

	"github.com/belay-dev/belay/internal/expect"
)

// collections returns how many garbage collections were asked for.
func collections() uint64 { return read("/gc/cycles/forced:gc-cycles") }

func TestPercentOf(t *testing.T) {
	for live, want := range map[uint64]int{0: 200, 4 << 20: 200, 32 << 20: 100, 64 << 20: 50, 80 << 20: 40, 1 << 30: 40} {
		expect.Same(t, fmt.Sprint(live), want, percentOf(live))
	}
}

func TestAdapt_FollowsWhatIsInUse(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(100))
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go Adapt(ctx)
		synctest.Wait()
		expect.Same(t, "percent at the start", uint64(percent), read("/gc/gogc:percent"))
		caches := make([]byte, 100<<20)
		for _, want := range []uint64{percent, mostPercent} {
			runtime.GC()
			time.Sleep(busyTime)
			synctest.Wait()
			expect.Same(t, "percent", want, read("/gc/gogc:percent"))
			runtime.KeepAlive(caches)
			caches = nil
		}
	})
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
