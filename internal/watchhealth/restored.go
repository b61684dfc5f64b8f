package watchhealth

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/util/resourceversion"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/klog/v2"
)

// The API server's count of writes, the resourceVersion, never goes back but when etcd is restored from a snapshot. A watch that
// goes on from before then waits until the count has passed the point that the cache has reached: the cache shows what is gone,
// nothing that is written meanwhile, and no error. So what a cache has reached is compared with what the API server is at, time
// and again, and soon after a watch is opened: servers are restarted in a restore.

const (
	// compareEvery is the time between two comparisons of a resource, and up to compareJitter of it more. Each is one request,
	// whose answer has one object.
	compareEvery, compareJitter = 90 * time.Second, 1.0 / 3
	// compareAgain is the time after one that failed, and compareTimeout bounds one.
	compareAgain, compareTimeout = 15 * time.Second, 10 * time.Second
)

var errRestored = errors.New("the API server has gone back to an older state, as when etcd is restored from a snapshot")

// While does work until that ends, ctx is done, or the API server has gone back to an older state than this process has seen: then
// it ends work, and the error says so. Nothing that the process remembers can be trusted then.
func (w *Watches) While(ctx context.Context, work func(context.Context) error) error {
	working, end := context.WithCancelCause(ctx)
	defer end(nil)
	go func() { end(w.compareAll(working)) }()
	err := work(working)
	if cause := context.Cause(working); errors.Is(cause, errRestored) {
		return cause
	}
	return err
}

// compareAll compares each resource when it is time to, until ctx is done or a comparison finds that the API server has gone back.
func (w *Watches) compareAll(ctx context.Context) error {
	ticker := time.NewTicker(tellEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		for _, resource := range slices.Sorted(maps.Keys(w.of)) {
			seen, due := w.toCompare(resource)
			if !due {
				continue
			}
			if err := w.compareOne(ctx, resource, seen); err != nil {
				return err
			}
		}
	}
}

// toCompare returns the highest resourceVersion that was seen of a resource, and whether it is time to compare it. What was seen is noted
// each time: a cache that is filled anew after a restore has a lower one, and is compared at once.
func (w *Watches) toCompare(resource string) (seen string, due bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	at, now := w.of[resource], time.Now()
	reached := at.reached()
	if reached == "" {
		return "", false
	}
	if at.highest == "" || older(at.highest, reached) {
		at.highest = reached
	}
	wentBack := older(reached, at.last)
	if at.last = reached; now.Before(at.compare) && !wentBack {
		return "", false
	}
	at.compare = now.Add(wait.Jitter(compareEvery, compareJitter))
	return at.highest, true
}

// compareOne asks what the API server is at, and returns an error if that is older than what was seen before it was asked.
func (w *Watches) compareOne(ctx context.Context, resource, seen string) error {
	asking, cancel := context.WithTimeout(ctx, compareTimeout)
	defer cancel()
	newest, err := w.of[resource].newest(asking)
	if err != nil {
		klog.FromContext(ctx).V(2).Info("Asked in vain what the API server is at, trying again", "resource", resource, "reason", err)
		w.mu.Lock()
		defer w.mu.Unlock()
		w.of[resource].compare = time.Now().Add(compareAgain)
		return nil
	}
	if older(newest, seen) {
		return fmt.Errorf("%w: %s are at resourceVersion %s there, and this process has seen %s; nothing that it remembers can be trusted: start again",
			errRestored, resource, newest, seen)
	}
	return nil
}

// older reports whether a resourceVersion is older than another. Of two that cannot be compared, neither is.
func older(a, b string) bool {
	order, err := resourceversion.CompareResourceVersion(a, b)
	return err == nil && order < 0
}
