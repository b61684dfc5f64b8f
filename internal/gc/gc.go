// Package gc keeps the memory of a process that is mostly caches small.
package gc

import (
	"context"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	// Percent is how much garbage, in percent of what is in use, may pile up. Most of what is in use is caches, which stay:
	// Go's 100 would double them.
	Percent = 40

	// A time in which this much is allocated, in bytes, is a busy one. At rest it is less than a tenth of it.
	busyTime, busyBytes = 5 * time.Second, 16 << 20
)

// ReturnMemory returns the memory that a busy time leaves unused to the system when that time is over, until ctx is done. Go
// by itself would keep it for the next one: after the start, as much as half of what the caches take.
func ReturnMemory(ctx context.Context) {
	ticker := time.NewTicker(busyTime)
	defer ticker.Stop()
	before, busy := allocated(), true
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		now, was := allocated(), busy
		busy = now-before > busyBytes
		before = now
		if was && !busy {
			debug.FreeOSMemory()
		}
	}
}

// allocated returns how many bytes have been allocated on the heap since the process began.
func allocated() uint64 {
	sample := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}
