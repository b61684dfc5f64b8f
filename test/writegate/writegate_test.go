package writegate

import (
	"context"
	"log/slog"
	"net/http"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	"k8s.io/klog/v2"

	"github.com/belay-dev/belay/internal/leader"
)

func TestMain(m *testing.M) {
	klog.SetSlogLogger(slog.New(slog.DiscardHandler))
	os.Exit(m.Run())
}

// lead takes part in an election until ctx is done, and returns what lets writes through while the process leads.
type lead func(ctx context.Context, lease resourcelock.Interface, next http.RoundTripper) (writes http.RoundTripper, run func())

// gate is client-go's, with the times of Belay's election.
func gate(recovery *leaderelection.RecoveryConfig) lead {
	return func(ctx context.Context, lease resourcelock.Interface, next http.RoundTripper) (http.RoundTripper, func()) {
		elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
			Name: leader.LeaseName, Lock: lease, LeaseDuration: 15 * time.Second, RenewDeadline: leader.RenewDeadline, RetryPeriod: time.Second,
			Callbacks: leaderelection.LeaderCallbacks{OnStartedLeading: func(context.Context) {}, OnStoppedLeading: func() {}},
			Recovery:  recovery,
		})
		if err != nil {
			panic(err)
		}
		return elector.WriteGate()(next), func() { elector.Run(ctx) }
	}
}

// fence is Belay's.
func fence(ctx context.Context, lease resourcelock.Interface, next http.RoundTripper) (http.RoundTripper, func()) {
	f := &leader.Fence{}
	return f.Around(next), func() {
		work := func(ctx context.Context) error { <-ctx.Done(); return nil }
		_ = leader.Lead(ctx, lease, f, leaderelection.NewLeaderHealthzAdaptor(leader.RenewDeadline), work)
	}
}

// process takes part, and tries to write a hundred times a second.
func (l lead) process(ctx context.Context, lock *lock) {
	writes, run := l(ctx, lock, writer{lock.server, lock.name})
	go run()
	go func() {
		for ctx.Err() == nil {
			request, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://server/", nil)
			if err != nil {
				panic(err)
			}
			if response, err := writes.RoundTrip(request); err == nil {
				_ = response.Body.Close()
			}
			time.Sleep(10 * time.Millisecond)
		}
	}()
}

// between is the least and the most of several times.
type between struct{ least, most time.Duration }

func (b *between) add(d time.Duration) {
	if b.most == 0 || d < b.least {
		b.least = d
	}
	b.most = max(b.most, d)
}

// TestLateAnswer has the answer to one renewal come late, and all that is asked about the Lease after that get lost: at which
// time after that renewal was stored does the deposed leader write for the last time, and when does the next one begin?
func TestLateAnswer(t *testing.T) {
	for _, late := range []time.Duration{4900 * time.Millisecond, 9 * time.Second} {
		for _, mechanism := range []struct {
			name string
			lead lead
			both bool // there is a round in which two write
		}{
			{"gate", gate(nil), true},
			{"gate with Recovery", gate(&leaderelection.RecoveryConfig{}), true},
			{"fence", fence, false},
		} {
			var last, next, overlap between
			for round := range 50 {
				synctest.Test(t, func(t *testing.T) {
					server := newServer()
					ctx, stop := context.WithCancel(t.Context())
					mechanism.lead.process(ctx, &lock{server: server, name: "a", late: late})
					time.Sleep(time.Second + time.Duration(round)*20*time.Millisecond)
					mechanism.lead.process(ctx, &lock{server: server, name: "b"})
					time.Sleep(time.Minute)
					stop()
					synctest.Wait()
					time.Sleep(leader.RenewDeadline)
					synctest.Wait()
					if len(server.wrote["a"]) == 0 || len(server.wrote["b"]) == 0 {
						t.Fatal("somebody never wrote")
					}
					renewal, wrote := server.stored["a"], server.wrote["a"]
					last.add(wrote[len(wrote)-1].Sub(renewal))
					next.add(server.began["b"].Sub(renewal))
					overlap.add(max(0, wrote[len(wrote)-1].Sub(server.began["b"])))
				})
			}
			t.Logf("answered after %4.1f s, %-18s  last write %4.1f s after the renewal, the next leader begins after %4.1f to %4.1f s: two write for up to %.1f s", late.Seconds(),
				mechanism.name+":", last.most.Seconds(), next.least.Seconds(), next.most.Seconds(), overlap.most.Seconds())
			if (overlap.most > 0) != mechanism.both {
				t.Errorf("%s: two write for %s at most", mechanism.name, overlap.most)
			}
		}
	}
}
