// Package freshness keeps a key from being synced on caches that have not yet shown the key's own last writes.
package freshness

import (
	"fmt"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/util/resourceversion"
	"k8s.io/client-go/tools/cache"
)

// giveUpWaiting is how long to wait for a cache that lags behind our own write. After that it is Unseen's caller who has to read what is
// missing.
const giveUpWaiting = 30 * time.Second

// Tracker knows what was last written for each key, to which store that will come. It relies on one worker at a time per
// key, as the workqueue guarantees.
type Tracker struct {
	mu      sync.Mutex
	written map[cache.ObjectName]map[cache.Store]write
}

type write struct {
	resourceVersion string
	at              time.Time
}

// StaleError says that a decision was, or would be, made from an old state. A sync shortly after helps.
type StaleError struct{ Reason string }

func (e *StaleError) Error() string { return e.Reason }

// Stale returns the error of a cache whose state is older than that of the API server.
func Stale(what string) error {
	return &StaleError{what + " is older than the API server's"}
}

// New returns a Tracker that knows of no write.
func New() *Tracker {
	return &Tracker{written: map[cache.ObjectName]map[cache.Store]write{}}
}

// Wrote remembers that the API server answered a write for key with this resourceVersion, which store will have to show.
func (t *Tracker) Wrote(key cache.ObjectName, store cache.Store, resourceVersion string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.written[key] == nil {
		t.written[key] = map[cache.Store]write{}
	}
	t.written[key][store] = write{resourceVersion, time.Now()}
}

// Unseen returns the resourceVersion of the last write for key that store did not show at the last check: of one that was
// made since or, at the beginning of a sync, of one that was waited for in vain. It is empty if there was none.
func (t *Tracker) Unseen(key cache.ObjectName, store cache.Store) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.written[key][store].resourceVersion
}

// Check returns a StaleError while a cache has not shown what was written for key, for giveUpWaiting at the longest. Versions that cannot
// be compared count as shown.
func (t *Tracker) Check(key cache.ObjectName) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	for store, write := range t.written[key] {
		seen := store.LastStoreSyncResourceVersion()
		order, err := resourceversion.CompareResourceVersion(seen, write.resourceVersion)
		switch lags := err == nil && order < 0; {
		case !lags:
			delete(t.written[key], store)
		case time.Since(write.at) < giveUpWaiting:
			return Stale(fmt.Sprintf("the cache (at %s, after our own write at %s)", seen, write.resourceVersion))
		}
	}
	if len(t.written[key]) == 0 {
		delete(t.written, key)
	}
	return nil
}

// Len returns of how many keys a write is known that was not shown at the last check.
func (t *Tracker) Len() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.written)
}

// Forget drops what is known of an object that is gone.
func (t *Tracker) Forget(key cache.ObjectName) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.written, key)
}
