// Package standstill notices that the syncs of a key do not come to their end. To each try its own failure may be ordinary, a
// cache that is behind for example; what lasts is told, once.
package standstill

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
)

const (
	// tellAfter is how long syncs of one key may be put off or fail, without one that comes to its end, before that is told.
	tellAfter = time.Minute
	// reportAgain is when to try again to write it into a status that could not be written.
	reportAgain = 10 * time.Minute
)

// MinorError is the error of a sync that has done all that anybody waits for: the object does not stand still.
type MinorError struct{ Err error }

func (e *MinorError) Error() string { return e.Err.Error() }
func (e *MinorError) Unwrap() error { return e.Err }

// Gauge is a metric of how many keys stand still.
type Gauge interface {
	Inc()
	Dec()
}

// Report writes into the status of an object that it stands still, and why.
type Report func(ctx context.Context, key cache.ObjectName, why string) error

// Tracker knows which keys stand still. A key is with one worker at a time.
type Tracker struct {
	gauge  Gauge
	report Report

	mu   sync.Mutex
	keys map[cache.ObjectName]*state
}

// New returns a Tracker of no keys.
func New(gauge Gauge, report Report) *Tracker {
	return &Tracker{gauge: gauge, report: report, keys: map[cache.ObjectName]*state{}}
}

// state is that of a key of which no sync has come to its end lately.
type state struct {
	since    time.Time
	told     bool      // in the log and the metric
	reportAt time.Time // when to write it into the status; zero once it is there
}

// After notes how a sync of key has ended that began at a time. A minute is over when one that began after it fails: a process that was
// stopped for a minute in the middle of a sync has not tried for one.
func (t *Tracker) After(ctx context.Context, key cache.ObjectName, began time.Time, err error) {
	if err == nil || errors.As(err, new(*MinorError)) {
		t.movesOn(ctx, key)
		return
	}
	t.standsStill(ctx, key, began, err)
}

func (t *Tracker) standsStill(ctx context.Context, key cache.ObjectName, began time.Time, why error) {
	t.mu.Lock()
	at := t.keys[key]
	if at == nil {
		now := time.Now()
		at = &state{since: now, reportAt: now.Add(tellAfter)}
		t.keys[key] = at
	}
	since := at.since
	log := !at.told && began.Sub(since) >= tellAfter
	at.told = at.told || log
	report := !at.reportAt.IsZero() && !began.Before(at.reportAt)
	if report {
		at.reportAt = time.Now().Add(reportAgain)
	}
	t.mu.Unlock()
	if log {
		klog.FromContext(ctx).Error(why, "Standing still: no sync has come to its end", "since", since.UTC().Format(time.RFC3339))
		t.gauge.Inc()
	}
	if !report {
		return
	}
	message := fmt.Sprintf("Belay has tried since %s, and goes on: %v", since.UTC().Format(time.RFC3339), why)
	if err := t.report(ctx, key, message); err != nil {
		klog.FromContext(ctx).V(4).Info("The standstill is not in the status yet", "reason", err)
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	at.reportAt = time.Time{}
}

func (t *Tracker) movesOn(ctx context.Context, key cache.ObjectName) {
	t.mu.Lock()
	at := t.keys[key]
	delete(t.keys, key)
	t.mu.Unlock()
	if at != nil && at.told {
		klog.FromContext(ctx).Info("Moving on", "after", time.Since(at.since).Round(time.Second).String())
		t.gauge.Dec()
	}
}
