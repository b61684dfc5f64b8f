package faults

import (
	"bytes"
	"context"
	"net/http"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// stream is how the watches of one resource are passed on.
type stream struct {
	until   time.Time     // nothing is passed on before
	lag     time.Duration // each event comes so much later
	expired bool          // the next one that goes on where the last one ended is told that this is too long ago
	end     context.CancelFunc

	by        *proxy  // whose fault it is that it does not pass on all at once
	keeps     bool    // it keeps something back, or did until then
	overtakes *stream // that one has to keep something back, and this one to pass something on then: nothing else counts
}

// watch passes a watch on, as its stream says.
func (p *proxy) watch(w http.ResponseWriter, r *http.Request, q request) {
	s := p.streams[q.resource]
	if s == nil {
		panic("the proxy knows no watch of " + q.resource)
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	p.mu.Lock()
	gone := s.expired && !q.listsAtOnce
	if gone {
		s.expired = false
		p.noteEffect()
	}
	s.end = cancel
	p.mu.Unlock()
	if gone {
		(&answer{code: http.StatusGone, status: metav1.StatusReasonExpired}).write(w)
		return
	}
	response, err := p.ask(r, ctx, nil)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	defer response.Body.Close()
	for name, values := range response.Header {
		w.Header()[name] = values
	}
	w.WriteHeader(response.StatusCode)
	flush := http.NewResponseController(w).Flush
	_ = flush()
	buffer := make([]byte, 64<<10)
	for {
		n, err := response.Body.Read(buffer)
		if n > 0 && p.hold(ctx, s, buffer[:n]) {
			_, _ = w.Write(buffer[:n])
			_ = flush()
		}
		if err != nil {
			return
		}
	}
}

// hold waits until what has come may be passed on, and reports whether there is still somebody to pass it to.
func (p *proxy) hold(ctx context.Context, s *stream, come []byte) bool {
	p.mu.Lock()
	wait := max(time.Until(s.until), s.lag)
	counts, by := p.countsAt(s, come, wait), s.by
	p.mu.Unlock()
	if counts {
		by.takesEffect()
	}
	select {
	case <-time.After(wait):
		return true
	case <-ctx.Done():
		return false
	}
}

// countsAt reports whether the fault has done something, when this comes and has to wait so long. A bookmark tells of no change: to keep that
// back is nothing.
func (p *proxy) countsAt(s *stream, come []byte, wait time.Duration) bool {
	if bytes.Contains(come, []byte("BOOKMARK")) {
		return false
	}
	s.keeps = s.keeps || wait > 0
	for _, first := range p.streams {
		if last := first.overtakes; last != nil {
			return s == first && last.keeps && time.Now().Before(last.until)
		}
	}
	return wait > 0
}

// freeze lets the watches of these resources stand still.
func (p *proxy) freeze(long time.Duration, resources ...string) { p.freezeFor(p, long, resources...) }

// freezeFor is freeze for a fault of another Belay.
func (p *proxy) freezeFor(by *proxy, long time.Duration, resources ...string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.over = time.Now().Add(long)
	for _, resource := range resources {
		s := p.streams[resource]
		s.until, s.by, s.keeps = p.over, by, false
	}
}

// reorder lets the watch of one resource stand still, and another one go on. It takes effect when that has shown what came after something
// that the first one keeps back.
func (p *proxy) reorder(long time.Duration, first, last string) {
	p.freeze(long, last)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.streams[first].by, p.streams[first].overtakes = p, p.streams[last]
}

// delay lets every event come later from now on.
func (p *proxy) delay(lag time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.streams {
		s.lag, s.by = lag, p
	}
}

// expire ends the watch of a resource, and lets none go on where it ended: all of it has to be listed again.
func (p *proxy) expire(resource string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.streams[resource]
	s.expired = true
	if s.end != nil {
		s.end()
	}
}
