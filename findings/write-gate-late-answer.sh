#!/usr/bin/env bash
# The write gate of client-go's leader election lets writes through for seconds after the next leader has begun.
#
# Versions: client-go v0.38.0-beta.0 (tools/leaderelection), Go 1.27.0. structured-merge-diff is v7.0.0 in place of v7.0.1.
# Expected: LeaderElector.WriteGate "blocks write requests whenever this elector is not leading", and is "what keeps a
#   recovering leader from acting on a lease it may have lost". So with the usual times (lease 15 s, renew deadline 10 s,
#   retry 2 s) nothing gets through once another process can have acquired the Lease, 15 s after the last renewal.
# Seen: the gate closes when renewing has failed for 10 s, and these begin 2 s after the last renewal was ANSWERED. A
#   renewal may take the API server a moment and its answer 9 s: the next leader counts from the first, this one from the
#   second. If the renewals after it get lost, the gate is open until 21 s after the renewal, and the next leader has begun
#   after 15 to 21. The package says that it "does not guarantee that only one client is acting as a leader"; the gate does
#   not change that. A limit on the requests about the Lease (client-go's config.Timeout) shortens it: with 5 s it is 17.
#
# Two electors share a Lease in memory. Time is that of a testing/synctest bubble, so fifty rounds take no time; when the
# second one tries is random, so only bounds are printed.
set -o errexit -o nounset -o pipefail

dir=$(mktemp -d)
trap 'rm -rf "${dir}"' EXIT
cd "${dir}"

cat >finding_test.go <<'END'
package finding

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	"k8s.io/klog/v2"
)

var leases = schema.GroupResource{Group: "coordination.k8s.io", Resource: "leases"}

// server has one Lease, and knows when it was last stored by a process, when first, and when a process last wrote.
type server struct {
	mu                   sync.Mutex
	version              int
	record               resourcelock.LeaderElectionRecord
	first, renewed, last map[string]time.Time
}

func (s *server) store(name string, seen int, record resourcelock.LeaderElectionRecord) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if seen != s.version {
		return seen, apierrors.NewConflict(leases, "lease", fmt.Errorf("changed"))
	}
	s.version, s.record, s.renewed[name] = s.version+1, record, time.Now()
	if s.first[name].IsZero() {
		s.first[name] = time.Now()
	}
	return s.version, nil
}

// lock is the way of a process to the Lease. If it is to be disturbed, the fifth renewal is answered after 9 s, and what
// comes after it is lost.
type lock struct {
	*server
	name          string
	disturbed     bool
	seen, updates int
}

func (l *lock) Identity() string   { return l.name }
func (l *lock) Describe() string   { return "lease" }
func (l *lock) RecordEvent(string) {}

func (l *lock) way(ctx context.Context) error {
	if l.disturbed && l.updates > 5 {
		<-ctx.Done()
	}
	return ctx.Err()
}

func (l *lock) Get(ctx context.Context) (*resourcelock.LeaderElectionRecord, []byte, error) {
	if err := l.way(ctx); err != nil {
		return nil, nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.version == 0 {
		return nil, nil, apierrors.NewNotFound(leases, "lease")
	}
	record := l.record
	l.seen = l.version
	raw, err := json.Marshal(record)
	return &record, raw, err
}

func (l *lock) Create(_ context.Context, record resourcelock.LeaderElectionRecord) (err error) {
	l.seen, err = l.store(l.name, 0, record)
	return err
}

func (l *lock) Update(ctx context.Context, record resourcelock.LeaderElectionRecord) (err error) {
	l.updates++
	if err := l.way(ctx); err != nil {
		return err
	}
	l.seen, err = l.store(l.name, l.seen, record)
	if l.disturbed && l.updates == 5 {
		time.Sleep(9 * time.Second)
	}
	return err
}

type roundTripper func(*http.Request) (*http.Response, error)

func (r roundTripper) RoundTrip(request *http.Request) (*http.Response, error) { return r(request) }

// process takes part in the election, and tries to write a hundred times a second.
func process(ctx context.Context, l *lock) {
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Name: "lease", Lock: l, LeaseDuration: 15 * time.Second, RenewDeadline: 10 * time.Second, RetryPeriod: 2 * time.Second,
		Callbacks: leaderelection.LeaderCallbacks{OnStartedLeading: func(context.Context) {}, OnStoppedLeading: func() {}},
		Recovery:  &leaderelection.RecoveryConfig{},
	})
	if err != nil {
		panic(err)
	}
	gated := elector.WriteGate()(roundTripper(func(*http.Request) (*http.Response, error) {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.last[l.name] = time.Now()
		return &http.Response{StatusCode: http.StatusOK, Body: http.NoBody}, nil
	}))
	go elector.Run(ctx)
	go func() {
		for ; ctx.Err() == nil; time.Sleep(10 * time.Millisecond) {
			request, _ := http.NewRequestWithContext(ctx, http.MethodPost, "https://server/", nil)
			if response, err := gated.RoundTrip(request); err == nil {
				response.Body.Close()
			}
		}
	}()
}

func TestGate(t *testing.T) {
	klog.SetSlogLogger(slog.New(slog.DiscardHandler))
	var longest, open time.Duration
	for round := range 50 {
		synctest.Test(t, func(t *testing.T) {
			s := &server{first: map[string]time.Time{}, renewed: map[string]time.Time{}, last: map[string]time.Time{}}
			ctx, stop := context.WithCancel(t.Context())
			process(ctx, &lock{server: s, name: "first", disturbed: true})
			time.Sleep(time.Second + time.Duration(round)*40*time.Millisecond)
			process(ctx, &lock{server: s, name: "second"})
			time.Sleep(time.Minute)
			stop()
			time.Sleep(time.Minute)
			synctest.Wait()
			open = max(open, s.last["first"].Sub(s.renewed["first"]))
			longest = max(longest, s.last["first"].Sub(s.first["second"]))
		})
	}
	now := fmt.Sprintln("the gate closes", open.Round(100*time.Millisecond), "after the last renewal was stored")
	now += fmt.Sprintln("the first wrote for more than 3 s after the second had begun:", longest > 3*time.Second)
	t.Log("for", longest)
	if err := os.WriteFile("now", []byte(now), 0o600); err != nil {
		t.Error(err)
	}
}
END

cat >seen <<'END'
the gate closes 21s after the last renewal was stored
the first wrote for more than 3 s after the second had begun: true
END

export GOTOOLCHAIN=go1.27.0
{
  go mod init finding
  go mod edit -replace=sigs.k8s.io/structured-merge-diff/v7=sigs.k8s.io/structured-merge-diff/v7@v7.0.0
  go get k8s.io/client-go@v0.38.0-beta.0
  go get -t .
  go test -v .
} >log 2>&1 || { cat log >&2; exit 1; }
diff --unified seen now || { echo "changed: the gate does what stands above behind a +" >&2; exit 1; }
echo "as described"
