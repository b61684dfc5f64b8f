package faults

import (
	"net/http"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// once returns a fault that happens to one of several Belays only, to the first whose request it is: the leader.
func once(f *fault) *fault {
	var first sync.Once
	c := *f
	c.onRequest = func(p *proxy, w http.ResponseWriter, r *http.Request, pass func() *answer) {
		done := false
		first.Do(func() { done = true; f.onRequest(p, w, r, pass) })
		if !done {
			pass().write(w)
		}
	}
	return &c
}

// ofLease returns a fault of the leader's requests about its Lease, from the request of the story on and for so long.
func ofLease(how string, long time.Duration, meet func(p *proxy, w http.ResponseWriter, r *http.Request, pass func() *answer)) *fault {
	return &fault{name: "lease-" + how, leaders: true, later: true, onRequest: func(p *proxy, w http.ResponseWriter, _ *http.Request, pass func() *answer) {
		p.disturbLease(long, meet)
		pass().write(w)
	}}
}

// ofLeaders are the faults that are tried with two Belays, of which one leads.
func ofLeaders() []*fault {
	wait := func(r *http.Request, long time.Duration) {
		select {
		case <-r.Context().Done():
		case <-time.After(long):
		}
	}
	return []*fault{
		ofLease("answers-late", 40*time.Second, func(_ *proxy, w http.ResponseWriter, r *http.Request, pass func() *answer) {
			a := pass()
			wait(r, 4*time.Second)
			a.write(w)
		}),
		// This has client-go's own election let two lead: one answer comes late, and the renewals after it are lost.
		ofLease("answer-late-then-lost", 40*time.Second, func(p *proxy, w http.ResponseWriter, r *http.Request, pass func() *answer) {
			if p.lateOnce() {
				a := pass()
				wait(r, 4500*time.Millisecond)
				a.write(w)
				return
			}
			<-r.Context().Done()
		}),
		ofLease("answers-lost", 40*time.Second, func(_ *proxy, _ http.ResponseWriter, _ *http.Request, pass func() *answer) {
			pass()
			panic(http.ErrAbortHandler)
		}),
		ofLease("requests-lost", 40*time.Second, func(_ *proxy, _ http.ResponseWriter, r *http.Request, _ func() *answer) { <-r.Context().Done() }),
		// Belay has given up waiting when the API server gets it: after what was sent later.
		ofLease("requests-late", 40*time.Second, func(_ *proxy, w http.ResponseWriter, _ *http.Request, pass func() *answer) {
			time.Sleep(6 * time.Second)
			pass().write(w)
		}),
		ofLease("refused-503", 40*time.Second, func(_ *proxy, w http.ResponseWriter, _ *http.Request, _ func() *answer) {
			(&answer{code: http.StatusServiceUnavailable, status: metav1.StatusReasonServiceUnavailable}).write(w)
		}),
		{name: "leader-killed", leaders: true, onRequest: func(p *proxy, _ http.ResponseWriter, _ *http.Request, pass func() *answer) {
			pass()
			p.belay.kill()
			panic(http.ErrAbortHandler)
		}},
		{name: "leader-stopped-25s", leaders: true, onRequest: frozen(25 * time.Second).onRequest},
		killedAheadOf("guardeddeployments"), killedAheadOf("deployments"), killedAheadOf("controllerrevisions"),
	}
}

// killedAheadOf returns a fault that kills the leader when it has written something, and has the other one, which leads after some 16 s, see
// nothing of these resources for 10 s more. The one that was killed stays away meanwhile: the other one has to lead.
func killedAheadOf(resource string) *fault {
	const long = 26 * time.Second
	return &fault{name: "leader-killed-ahead-of-" + resource, leaders: true, only: request.writes, later: true,
		onRequest: func(p *proxy, _ http.ResponseWriter, _ *http.Request, pass func() *answer) {
			p.other.freezeFor(p, long, resource)
			pass()
			p.belay.stayAway(long)
			p.belay.kill()
			panic(http.ErrAbortHandler)
		}}
}

// disturbLease has requests about the Lease met this way for so long.
func (p *proxy) disturbLease(long time.Duration, meet func(p *proxy, w http.ResponseWriter, r *http.Request, pass func() *answer)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.leaseUntil, p.meetLease = time.Now().Add(long), meet
	p.over = p.leaseUntil
}

// lateOnce reports whether no answer has come late yet.
func (p *proxy) lateOnce() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	first := !p.lateLease
	p.lateLease = true
	return first
}

// leaseFault returns what is done to a request about the Lease now, nil if nothing is.
func (p *proxy) leaseFault(q request) func(p *proxy, w http.ResponseWriter, r *http.Request, pass func() *answer) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if q.resource != "leases" || time.Now().After(p.leaseUntil) {
		return nil
	}
	p.noteEffect()
	return p.meetLease
}
