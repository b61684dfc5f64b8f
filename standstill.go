package main

import (
	"context"
	"fmt"
	"time"

	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
)

const (
	// standstillAfter is how long syncs of one key may be put off or fail, without one that comes to its end, before that is
	// told.
	standstillAfter = time.Minute
	// reportAgain is when to try again to write it into a status that could not be written.
	reportAgain = 10 * time.Minute
)

// standstill is a key of which no sync has come to its end lately.
type standstill struct {
	since    time.Time
	told     bool      // in the log and the metric
	reportAt time.Time // when to write it into the status; zero once it is there
}

// standsStill notes that a sync of key has not come to its end. What lasts is told, once: to each try its own failure may
// be ordinary, a cache that is behind for example.
func (c *Controller) standsStill(ctx context.Context, key cache.ObjectName, why error) {
	c.mu.Lock()
	at, now := c.still[key], time.Now()
	if at == nil {
		at = &standstill{since: now, reportAt: now.Add(standstillAfter)}
		c.still[key] = at
	}
	since := at.since
	log := !at.told && now.Sub(since) >= standstillAfter
	at.told = at.told || log
	report := !at.reportAt.IsZero() && !now.Before(at.reportAt)
	if report {
		at.reportAt = now.Add(reportAgain)
	}
	c.mu.Unlock()
	if log {
		klog.FromContext(ctx).Error(why, "Standing still: no sync has come to its end", "since", since.UTC().Format(time.RFC3339))
		c.metrics.Standstills.Inc()
	}
	if !report {
		return
	}
	message := fmt.Sprintf("Belay has tried since %s, and goes on: %v", since.UTC().Format(time.RFC3339), why)
	if err := c.reportStandstill(ctx, key, message); err != nil {
		klog.FromContext(ctx).V(4).Info("The standstill is not in the status yet", "reason", err)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	at.reportAt = time.Time{}
}

// movesOn notes that a sync of key has come to its end.
func (c *Controller) movesOn(ctx context.Context, key cache.ObjectName) {
	c.mu.Lock()
	at := c.still[key]
	delete(c.still, key)
	c.mu.Unlock()
	if at != nil && at.told {
		klog.FromContext(ctx).Info("Moving on", "after", time.Since(at.since).Round(time.Second).String())
		c.metrics.Standstills.Dec()
	}
}
