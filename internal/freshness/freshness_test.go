package freshness

import (
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/client-go/tools/cache"
)

var webKey = cache.NewObjectName("shop", "web")

func newStore(at string) cache.Store {
	store := cache.NewStore(cache.MetaNamespaceKeyFunc)
	store.Bookmark(at)
	return store
}

func wantFresh(t *testing.T, f *Tracker, key cache.ObjectName) {
	t.Helper()
	if err := f.Check(key); err != nil {
		t.Errorf("check(%s): %v, want none", key, err)
	}
}

func wantStale(t *testing.T, f *Tracker, key cache.ObjectName) {
	t.Helper()
	var stale *StaleError
	if err := f.Check(key); !errors.As(err, &stale) {
		t.Errorf("check(%s): %v, want a staleError", key, err)
	}
}

func TestCheck_NoWrites(t *testing.T) {
	wantFresh(t, New(), webKey)
}

func TestCheck_WaitsUntilTheStoreReachesTheWrite(t *testing.T) {
	for _, c := range []struct{ at, written string }{
		{at: "9", written: "10"}, // as strings the other way round
		{at: "99", written: "100"},
		{at: "10", written: "11"},
	} {
		f, store := New(), newStore(c.at)
		f.Wrote(webKey, store, c.written)
		wantStale(t, f, webKey)
		wantStale(t, f, webKey)
		store.Bookmark(c.written)
		wantFresh(t, f, webKey)
	}
}

func TestCheck_StoreAheadOfTheWrite(t *testing.T) {
	f := New()
	f.Wrote(webKey, newStore("100"), "99")
	wantFresh(t, f, webKey)
}

func TestCheck_SeenOnce(t *testing.T) {
	f, store := New(), newStore("10")
	f.Wrote(webKey, store, "10")
	wantFresh(t, f, webKey)
	store.Bookmark("1") // an API server restored from a backup
	wantFresh(t, f, webKey)
}

func TestCheck_OnlyTheLastWrite(t *testing.T) {
	f, store := New(), newStore("10")
	f.Wrote(webKey, store, "11")
	f.Wrote(webKey, store, "13")
	store.Bookmark("12")
	wantStale(t, f, webKey)
	store.Bookmark("13")
	wantFresh(t, f, webKey)
}

func TestCheck_EveryStore(t *testing.T) {
	f := New()
	first, second := newStore("10"), newStore("10")
	f.Wrote(webKey, first, "11")
	f.Wrote(webKey, second, "12")
	first.Bookmark("11")
	wantStale(t, f, webKey)
	second.Bookmark("12")
	wantFresh(t, f, webKey)
}

func TestCheck_IncomparableVersions(t *testing.T) {
	for _, c := range []struct{ at, written string }{{"", "10"}, {"10", ""}, {"abc", "10"}, {"10", "abc"}, {"0", "10"}} {
		f := New()
		f.Wrote(webKey, newStore(c.at), c.written)
		wantFresh(t, f, webKey)
	}
}

func TestCheck_GivesUpAfter30Seconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := New()
		f.Wrote(webKey, newStore("10"), "11")
		time.Sleep(giveUpWaiting - time.Nanosecond)
		wantStale(t, f, webKey)
		time.Sleep(time.Nanosecond)
		wantFresh(t, f, webKey)
	})
}

func TestCheck_NewWriteNewWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, store := New(), newStore("10")
		f.Wrote(webKey, store, "11")
		time.Sleep(giveUpWaiting - time.Second)
		f.Wrote(webKey, store, "12")
		time.Sleep(giveUpWaiting - time.Second)
		wantStale(t, f, webKey)
	})
}

func TestForget(t *testing.T) {
	f := New()
	f.Wrote(webKey, newStore("10"), "11")
	f.Forget(webKey)
	wantFresh(t, f, webKey)
}

func TestCheck_KeysAreIndependent(t *testing.T) {
	f, store := New(), newStore("10")
	other := cache.NewObjectName("shop", "other")
	f.Wrote(webKey, store, "11")
	wantFresh(t, f, other)
	f.Forget(other)
	wantStale(t, f, webKey)
}

func TestCheck_KeepsNothingOfFreshKeys(t *testing.T) {
	f, store := New(), newStore("10")
	f.Wrote(webKey, store, "10")
	wantFresh(t, f, webKey)
	if f.Len() != 0 {
		t.Errorf("%d keys are remembered, want none", f.Len())
	}
}

// What was read is not waited for, and a write whose answer was lost neither: what the cache does not show of them has to be read.
func TestLags(t *testing.T) {
	f, store := New(), newStore("10")
	wantLags := func(step string, lags bool, unseen string) {
		t.Helper()
		wantFresh(t, f, webKey)
		if f.Lags(webKey, store) != lags || f.Unseen(webKey, store) != unseen {
			t.Errorf("%s: lags %t, behind %q, want %t and %q", step, f.Lags(webKey, store), f.Unseen(webKey, store), lags, unseen)
		}
	}
	wantLags("at first", false, "")
	f.Read(webKey, store, "11")
	wantLags("read", true, "11")
	store.Bookmark("11")
	wantLags("shown", false, "")
	f.Lost(webKey, store)
	store.Bookmark("99")
	wantLags("lost", true, "")
	f.Read(webKey, store, "100")
	wantLags("read after that", true, "100")
	store.Bookmark("100")
	wantLags("shown after that", false, "")
	f.Lost(webKey, store)
	f.Wrote(webKey, store, "101")
	wantStale(t, f, webKey)
	store.Bookmark("101")
	wantLags("written and shown", false, "")
}

func TestTracker_Concurrent(t *testing.T) {
	f, store := New(), newStore("10")
	var workers sync.WaitGroup
	for _, name := range []string{"a", "b", "c", "d"} {
		workers.Go(func() {
			key := cache.NewObjectName("shop", name)
			for range 1000 {
				f.Wrote(key, store, "10")
				_ = f.Check(key)
				f.Forget(key)
			}
		})
	}
	workers.Wait()
}
