package standstill

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/client-go/tools/cache"

	"github.com/belay-dev/belay/internal/expect"
)

// still counts the keys that stand still.
type still struct{ now int }

func (s *still) Inc() { s.now++ }
func (s *still) Dec() { s.now-- }

// seen is what a Tracker has told: how many keys stand still, and when it reported which of them, and why.
type seen struct {
	still   still
	began   time.Time
	reports []string
	fails   bool // reports do
}

// report is the Tracker's Report.
func (s *seen) report(_ context.Context, key cache.ObjectName, why string) error {
	s.reports = append(s.reports, fmt.Sprintf("%s after %s: %s", key, time.Since(s.began), why))
	if s.fails {
		return errors.New("the API server is away")
	}
	return nil
}

var web, shop = cache.NewObjectName("default", "web"), cache.NewObjectName("default", "shop")

func TestAfter(t *testing.T) {
	failed, minor := errors.New("etcd is full"), fmt.Errorf("sync: %w", &MinorError{errors.New("a revision is left")})
	type sync struct {
		at  time.Duration
		key cache.ObjectName
		err error
	}
	// told is the one report of a key that fails from the beginning on.
	told := func(key cache.ObjectName, after time.Duration) string {
		return fmt.Sprintf("%s after %s: Belay has tried since 2000-01-01T00:00:00Z, and goes on: etcd is full", key, after)
	}
	for name, row := range map[string]struct {
		syncs   []sync
		fails   bool
		still   int
		reports []string
	}{
		"a sync that comes to its end":     {syncs: []sync{{0, web, nil}, {2 * time.Minute, web, nil}}},
		"a failure for less than a minute": {syncs: []sync{{0, web, failed}, {59 * time.Second, web, failed}}},
		"a failure for a minute": {syncs: []sync{{0, web, failed}, {time.Minute, web, failed}},
			still: 1, reports: []string{told(web, time.Minute)}},
		"a failure that nobody tries again": {syncs: []sync{{0, web, failed}, {time.Hour, shop, nil}}},
		"one report, however long it lasts": {syncs: []sync{{0, web, failed}, {time.Minute, web, failed}, {time.Hour, web, failed}},
			still: 1, reports: []string{told(web, time.Minute)}},
		"whatever the last failure is": {syncs: []sync{{0, web, errors.New("stale")}, {time.Minute, web, failed}},
			still: 1, reports: []string{told(web, time.Minute)}},
		"a report that fails is made again, every ten minutes": {fails: true,
			syncs: []sync{{0, web, failed}, {time.Minute, web, failed}, {11*time.Minute - 1, web, failed}, {11 * time.Minute, web, failed}},
			still: 1, reports: []string{told(web, time.Minute), told(web, 11*time.Minute)}},
		"an end in between begins the minute anew": {
			syncs: []sync{{0, web, failed}, {40 * time.Second, web, nil}, {50 * time.Second, web, failed}, {80 * time.Second, web, failed}}},
		"the end of a standstill": {syncs: []sync{{0, web, failed}, {time.Minute, web, failed}, {2 * time.Minute, web, nil}},
			reports: []string{told(web, time.Minute)}},
		"a minor error is an end": {syncs: []sync{{0, web, failed}, {time.Minute, web, failed}, {2 * time.Minute, web, minor}},
			reports: []string{told(web, time.Minute)}},
		"minor errors only": {syncs: []sync{{0, web, minor}, {time.Minute, web, minor}, {time.Hour, web, minor}}},
		"each key has its own time": {
			syncs: []sync{{0, web, failed}, {0, shop, failed}, {30 * time.Second, shop, nil}, {time.Minute, web, failed}, {time.Minute, shop, failed}},
			still: 1, reports: []string{told(web, time.Minute)}},
		"two keys": {syncs: []sync{{0, web, failed}, {0, shop, failed}, {time.Minute, web, failed}, {time.Minute, shop, failed}},
			still: 2, reports: []string{told(web, time.Minute), told(shop, time.Minute)}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &seen{began: time.Now(), fails: row.fails}
				tracker := New(&s.still, s.report)
				for _, sync := range row.syncs {
					time.Sleep(sync.at - time.Since(s.began))
					tracker.After(t.Context(), sync.key, time.Now(), sync.err)
				}
				expect.Same(t, "keys that stand still", row.still, s.still.now)
				expect.Same(t, "reports", row.reports, s.reports)
			})
		})
	}
}

// A process that is stopped in the middle of a sync has not tried meanwhile.
func TestAfter_StoppedInASync(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &seen{began: time.Now()}
		tracker := New(&s.still, s.report)
		for range 2 {
			began := time.Now()
			time.Sleep(time.Hour)
			tracker.After(t.Context(), web, began, errors.New("etcd is full"))
		}
		expect.Same(t, "keys that stand still", 0, s.still.now)
		tracker.After(t.Context(), web, time.Now(), errors.New("etcd is full"))
		expect.Same(t, "keys that stand still", 1, s.still.now)
		expect.Same(t, "reports", 1, len(s.reports))
	})
}

// What is forgotten of a key when it moves on is everything.
func TestAfter_KeysAreForgotten(t *testing.T) {
	tracker := New(&still{}, func(context.Context, cache.ObjectName, string) error { return nil })
	for _, err := range slices.Repeat([]error{errors.New("etcd is full"), nil}, 3) {
		tracker.After(t.Context(), web, time.Now(), err)
	}
	expect.Same(t, "keys that are remembered", 0, len(tracker.keys))
}
