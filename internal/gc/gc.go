// Package gc keeps the memory of a process that is mostly caches small.
package gc

import (
	"context"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	// percent is how much garbage, in percent of what is in use, may pile up. Most of what is in use is caches, which stay:
	// Go's 100 would double them. While little is in use it is more, up to mostPercent, as long as that is less than
	// littleGarbage bytes: a fifth of the time of a busy small process would go into collecting.
	percent, mostPercent, littleGarbage = 40, 200, 32 << 20

	// A time in which this much is allocated, in bytes, is a busy one. At rest it is less than a tenth of it.
	busyTime, busyBytes = 5 * time.Second, 16 << 20
)

// Adapt sets how much garbage may pile up, now and by what is in use from then on, until ctx is done.
func Adapt(ctx context.Context) {
	was := percent
	debug.SetGCPercent(was)
	everyBusyTime(ctx, func() {
		if now := percentOf(read("/gc/heap/live:bytes")); now != was {
			was = now
			debug.SetGCPercent(now)
		}
	})
}

// percentOf returns how much garbage may pile up, in percent of this many bytes in use.
func percentOf(live uint64) int {
	return int(max(percent, min(mostPercent, 100*littleGarbage/max(live, 1))))
}

// ReturnMemory returns the memory that a busy time leaves unused to the system when that time is over, until ctx is done. Go
// by itself would keep it for the next one: after the start, as much as half of what the caches take.
func ReturnMemory(ctx context.Context) {
	before, busy := read("/gc/heap/allocs:bytes"), true
	everyBusyTime(ctx, func() {
		now, was := read("/gc/heap/allocs:bytes"), busy
		busy = now-before > busyBytes
		before = now
		if was && !busy {
			debug.FreeOSMemory()
		}
	})
}

// everyBusyTime calls do each time that busyTime has passed, until ctx is done.
func everyBusyTime(ctx context.Context, do func()) {
	ticker := time.NewTicker(busyTime)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			do()
		}
	}
}

// read returns a metric of Go's runtime.
func read(name string) uint64 {
	sample := []metrics.Sample{{Name: name}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}
