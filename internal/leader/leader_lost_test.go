package leader

import (
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestLead_AnotherHoldsTheLease(t *testing.T) {
	for phase := range 5 {
		synctest.Test(t, func(t *testing.T) {
			server := newLeaseServer()
			a, b := &contender{name: "a", server: server}, &contender{name: "b", server: server}
			a.start(t)
			time.Sleep(20100*time.Millisecond + time.Duration(phase)*200*time.Millisecond)
			// Somebody takes the Lease away, and b is there before a tries to renew it.
			server.mu.Lock()
			server.lease = nil
			server.mu.Unlock()
			b.start(t)
			time.Sleep(time.Minute)
			synctest.Wait()
			if b.ledAt() == 0 {
				t.Fatal("b never led")
			}
			if both := last(a.writes()) - b.ledAt(); both > retryPeriod {
				t.Errorf("a wrote for %s after b led, want it to end with the next renewal", both)
			}
			a.stop()
			b.stop()
			<-a.result
			<-b.result
		})
	}
}

func TestLead_GivesBackOnlyItsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := newLeaseServer()
		a, b := &contender{name: "a", server: server, drain: drainTimeout}, &contender{name: "b", server: server}
		// The answer to one renewal takes 9 seconds, and the next renewals get lost, until a is told to end.
		var ending atomic.Bool
		renewals := 0
		a.between = func(r *http.Request, carryOut func() *http.Response) (*http.Response, error) {
			if !strings.Contains(r.URL.Path, "/leases") || r.Method != http.MethodPut || ending.Load() {
				return carryOut(), nil
			}
			switch renewals++; {
			case renewals < 5:
				return carryOut(), nil
			case renewals == 5:
				answer := carryOut()
				time.Sleep(9 * time.Second)
				return answer, nil
			default:
				<-r.Context().Done()
				return nil, r.Context().Err()
			}
		}
		a.start(t)
		time.Sleep(2 * time.Second)
		b.start(t)
		for b.ledAt() == 0 {
			time.Sleep(100 * time.Millisecond)
		}
		ending.Store(true)
		a.stop()
		<-a.result
		time.Sleep(100 * time.Millisecond)
		if holder, history := server.now(); holder == "" || len(history) != 2 {
			t.Errorf("the Lease's history is %q, want it to end with b", history)
		}
		b.stop()
		<-b.result
	})
}
