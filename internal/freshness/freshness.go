// Package freshness keeps a key from being synced on caches that have not yet shown the key's own last writes.
package freshness

import (
	"fmt"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/util/resourceversion"
	"k8s.io/client-go/tools/cache"
)

// giveUpWaiting is how long to wait for a cache that lags behind our own write. After that, what the cache does not show has to be read
// from the API server.
const giveUpWaiting = 30 * time.Second

// Tracker knows what the API server has last shown of each key, in the answer to a write or to a read, and to which store that will come.
// It relies on one worker at a time per key, as the workqueue guarantees.
type Tracker struct {
	mu    sync.Mutex
	shown map[cache.ObjectName]map[cache.Store]shown
}

// shown is what a store has to reach.
type shown struct {
	resourceVersion string    // empty if it is not known
	wait            time.Time // until when to wait for it
}

// StaleError says that a decision was, or would be, made from an old state. A sync shortly after helps.
type StaleError struct{ Reason string }

func (e *StaleError) Error() string { return e.Reason }

// Stale returns the error of a cache whose state is older than that of the API server.
func Stale(what string) error {
	return &StaleError{what + " is older than the API server's"}
}

// New returns a Tracker that knows of nothing.
func New() *Tracker {
	return &Tracker{shown: map[cache.ObjectName]map[cache.Store]shown{}}
}

// Wrote remembers that the API server answered a write for key with this resourceVersion, which store will have to show: it is waited for.
func (t *Tracker) Wrote(key cache.ObjectName, store cache.Store, resourceVersion string) {
	t.note(key, store, shown{resourceVersion, time.Now().Add(giveUpWaiting)})
}

// Read remembers that an object of key was read from the API server, at this resourceVersion. Until store shows that, it lags.
func (t *Tracker) Read(key cache.ObjectName, store cache.Store, resourceVersion string) {
	t.note(key, store, shown{resourceVersion: resourceVersion})
}

// Lost remembers that a write for key was sent and not answered well: it may have taken effect, and store may not show it for long. Until
// something is read or written, it lags.
func (t *Tracker) Lost(key cache.ObjectName, store cache.Store) {
	t.note(key, store, shown{})
}

func (t *Tracker) note(key cache.ObjectName, store cache.Store, now shown) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.shown[key] == nil {
		t.shown[key] = map[cache.Store]shown{}
	}
	t.shown[key][store] = now
}

// Lags reports whether store did not show, at the last check, what the API server has shown of key, or may not have. After Check let the
// sync begin, that has to be read from the API server.
func (t *Tracker) Lags(key cache.ObjectName, store cache.Store) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	_, lags := t.shown[key][store]
	return lags
}

// Unseen returns the resourceVersion that store lags behind, empty if it does not or that is not known.
func (t *Tracker) Unseen(key cache.ObjectName, store cache.Store) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.shown[key][store].resourceVersion
}

// Check returns a StaleError while a cache has not shown what was written for key, for giveUpWaiting at the longest. Versions that cannot
// be compared count as shown.
func (t *Tracker) Check(key cache.ObjectName) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	for store, shown := range t.shown[key] {
		if shown.resourceVersion == "" {
			continue
		}
		seen := store.LastStoreSyncResourceVersion()
		order, err := resourceversion.CompareResourceVersion(seen, shown.resourceVersion)
		switch lags := err == nil && order < 0; {
		case !lags:
			delete(t.shown[key], store)
		case time.Now().Before(shown.wait):
			return Stale(fmt.Sprintf("the cache (at %s, after our own write at %s)", seen, shown.resourceVersion))
		}
	}
	if len(t.shown[key]) == 0 {
		delete(t.shown, key)
	}
	return nil
}

// Len returns of how many keys something is known that a cache did not show at the last check.
func (t *Tracker) Len() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.shown)
}

// Forget drops what is known of an object that is gone.
func (t *Tracker) Forget(key cache.ObjectName) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.shown, key)
}
