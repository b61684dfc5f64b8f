package main

import (
	"fmt"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/util/resourceversion"
	"k8s.io/client-go/tools/cache"
)

// giveUpWaiting is how long a cache may lag behind our own write. After that it is believed as it is: an API server
// restored from a backup may have gone back in time. Every write is conditional, so a stale decision cannot be stored.
const giveUpWaiting = 30 * time.Second

// freshness keeps a key from being synced on caches that are older than the key's own last writes.
// It relies on one worker at a time per key, as the workqueue guarantees.
type freshness struct {
	mu      sync.Mutex
	written map[cache.ObjectName]map[cache.Store]write
}

type write struct {
	resourceVersion string
	at              time.Time
}

// staleError says that a decision was, or would be, made on old news. Looking again shortly after helps.
type staleError struct{ what string }

func (e *staleError) Error() string { return e.what + " is older than the API server's" }

func newFreshness() *freshness {
	return &freshness{written: map[cache.ObjectName]map[cache.Store]write{}}
}

// wrote remembers that the API server answered a write for key with this resourceVersion, which store will have to show.
func (f *freshness) wrote(key cache.ObjectName, store cache.Store, resourceVersion string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.written[key] == nil {
		f.written[key] = map[cache.Store]write{}
	}
	f.written[key][store] = write{resourceVersion, time.Now()}
}

// unseen returns the resourceVersion of the last write for key that store did not show at the last check: of one that was
// made since, that is. It is empty if there was none.
func (f *freshness) unseen(key cache.ObjectName, store cache.Store) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.written[key][store].resourceVersion
}

// check returns a staleError while a cache has not shown what was written for key. Versions that cannot be compared
// count as shown.
func (f *freshness) check(key cache.ObjectName) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for store, write := range f.written[key] {
		seen := store.LastStoreSyncResourceVersion()
		order, err := resourceversion.CompareResourceVersion(seen, write.resourceVersion)
		if err == nil && order < 0 && time.Since(write.at) < giveUpWaiting {
			return &staleError{fmt.Sprintf("the cache (at %s, after our own write at %s)", seen, write.resourceVersion)}
		}
		delete(f.written[key], store)
	}
	delete(f.written, key)
	return nil
}

// forget drops what is known of an object that is gone.
func (f *freshness) forget(key cache.ObjectName) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.written, key)
}
