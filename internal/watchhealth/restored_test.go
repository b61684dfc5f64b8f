package watchhealth_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/belay-dev/belay/internal/expect"
	fake "github.com/belay-dev/belay/internal/fakecluster"
)

// work works for as long as the API server has not gone back. It returns why it has ended, nil while it has not.
func (w *watched) work() (ended func() error) {
	ctx, cancel := context.WithCancel(context.Background())
	done, stopped := make(chan error, 1), false
	go func() {
		done <- w.While(ctx, func(ctx context.Context) error { <-ctx.Done(); stopped = true; return nil })
	}()
	w.T.Cleanup(func() {
		cancel()
		time.Sleep(10 * time.Second) // An answer may be under way that nobody waits for any more.
		synctest.Wait()
	})
	return func() error {
		select {
		case err := <-done:
			if err == nil || !stopped {
				w.T.Errorf("ended with %v, and the work had ended: %t", err, stopped)
			}
			return err
		default:
			return nil
		}
	}
}

// addMany creates objects, so that the API server goes on.
func (w *watched) addMany(prefix string, n int) {
	for i := range n {
		fake.Add(w.World, fake.Webshop(fmt.Sprint(prefix, i), "web:1"))
	}
}

// comparisons counts the requests of one object.
func comparisons(w *watched) map[string]int {
	return fake.Counts(w.Asked(func(r fake.Request) bool { return r.Verb == "list" }))
}

// relisted restores, and lets no watch go on.
func relisted(w *watched, restore func()) {
	restore()
	refused := map[string]bool{}
	w.Intercept(func(r fake.Request, carryOut func() error) error {
		if r.Verb == "watch" && !refused[r.Resource] {
			refused[r.Resource] = true
			return apierrors.NewResourceExpired("too old resource version")
		}
		return carryOut()
	})
	w.Cut()
}

func TestWhile_Restored(t *testing.T) {
	for name, row := range map[string]struct {
		restored func(w *watched, restore func())
		within   time.Duration
		soon     bool // after the last write, before it was compared
	}{
		"and the servers are started again": {restored: func(w *watched, restore func()) { restore(); w.Cut() }, within: 5 * time.Second},
		"and the watches stay open":         {restored: func(_ *watched, restore func()) { restore() }, within: 2*time.Minute + 5*time.Second},
		"and more was written than is lacking, but for a bit": {restored: func(w *watched, restore func()) {
			restore()
			w.addMany("new-", 19)
			w.Cut()
		}, within: 5 * time.Second},
		"and no watch can go on":              {restored: relisted, within: 10 * time.Second},
		"soon, and no watch can go on":        {restored: relisted, within: 10 * time.Second, soon: true},
		"soon, and the servers are restarted": {restored: func(w *watched, restore func()) { restore(); w.Cut() }, within: 5 * time.Second, soon: true},
		"and nobody answers at first": {restored: func(w *watched, restore func()) {
			restore()
			failing(w, "guardeddeployments", errRefused)
			failingToo := time.AfterFunc(time.Minute, func() { w.Intercept(nil) })
			w.T.Cleanup(func() { failingToo.Stop() })
		}, within: 2*time.Minute + 35*time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			inWatchedWorld(t, func(w *watched) {
				ended := w.work()
				w.Pass(30 * time.Second)
				w.addMany("before-", 3)
				restore := w.Snapshot()
				w.addMany("lost-", 20)
				if w.Pass(10 * time.Second); !row.soon {
					w.Pass(3 * time.Minute)
				}
				if err := ended(); err != nil {
					t.Fatalf("before the restore: %v", err)
				}
				row.restored(w, restore)
				var err error
				began := time.Now()
				for err = ended(); err == nil && time.Since(began) < time.Hour; err = ended() {
					w.Pass(time.Second)
				}
				if took := time.Since(began); took > row.within {
					t.Errorf("noticed after %s, want within %s", took, row.within)
				}
				expect.Error(t, err, "the API server has gone back to an older state", "guardeddeployments are at resourceVersion 1", "start again")
			})
		})
	}
}

// The requests that it takes, and that no other state of the API server, of the network or of a cache is taken for a restore.
func TestWhile_NotRestored(t *testing.T) {
	const busy = 2 * time.Hour
	for name, do := range map[string]func(w *watched){
		"at rest":                  func(*watched) {},
		"a cache that lags behind": func(w *watched) { w.Hold("guardeddeployments"); w.addMany("late-", 5) },
		"nobody answers":           func(w *watched) { failing(w, "guardeddeployments", errRefused) },
		"the CRD is deleted":       func(w *watched) { failing(w, "guardeddeployments", errNoCRD) },
		"a cache goes on before an answer has come": func(w *watched) {
			w.Intercept(func(r fake.Request, carryOut func() error) error {
				err := carryOut()
				if r.Verb == "list" {
					w.addMany(fmt.Sprint("meanwhile-", time.Since(w.Began).Nanoseconds(), "-"), 2)
					time.Sleep(time.Second)
				}
				return err
			})
		},
		"watches break": func(w *watched) {
			for range 6 {
				w.addMany(fmt.Sprint("more-", time.Since(w.Began).Nanoseconds(), "-"), 1)
				w.Cut()
				w.Pass(20 * time.Minute)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			inWatchedWorld(t, func(w *watched) {
				ended := w.work()
				w.addMany("web-", 3)
				w.Pass(time.Minute)
				do(w)
				w.Pass(busy)
				if err := ended(); err != nil {
					t.Errorf("ended: %v", err)
				}
			})
		})
	}
	t.Run("requests", func(t *testing.T) {
		inWatchedWorld(t, func(w *watched) {
			w.work()
			w.Pass(10 * time.Minute)
			w.ForgetRequests()
			w.Pass(busy)
			for resource, n := range comparisons(w) {
				if least, most := int(busy/(2*time.Minute+5*time.Second)), int(busy/(90*time.Second)); n < least || n > most {
					t.Errorf("%s: %d times in %s, want %d to %d", resource, n, busy, least, most)
				}
			}
			if n := len(comparisons(w)); n != 3 {
				t.Errorf("%d resources are compared, want all three: %v", n, comparisons(w))
			}
		})
	})
}

// What work returns is returned, and nothing of it runs on.
func TestWhile_WorkEnds(t *testing.T) {
	inWatchedWorld(t, func(w *watched) {
		failed := errors.New("no more work")
		if err := w.While(w.T.Context(), func(context.Context) error { return failed }); err != failed {
			t.Errorf("returned %v", err)
		}
		before := len(w.Requested("list", "guardeddeployments"))
		w.Pass(time.Hour)
		expect.Same(t, "comparisons after that", before, len(w.Requested("list", "guardeddeployments")))
		if strings.Contains(w.Logged(), "gone back") {
			t.Error("a restore was noticed")
		}
	})
}
