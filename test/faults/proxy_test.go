package faults

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// exchange is a request and what came of it.
type exchange struct {
	request
	number int // among those that are about the story, from 1; 0 for others
	at     time.Time
	code   int    // of the API server's answer; 0 if it was never asked
	rv     uint64 // of the object in the answer
	fault  string // what was done to it or, because of it, to what came after
}

// wrote reports whether it is a write that took effect.
func (e exchange) wrote() bool { return e.writes() && e.code >= 200 && e.code < 300 }

// proxy is the way from one Belay to the API server.
type proxy struct {
	namespace string // of the story
	server    *httptest.Server
	api       upstream
	belay     *belay
	other     *proxy       // of the other Belay, if one of two leads
	shown     atomic.Int32 // which of its certificates
	accepted  atomic.Int32 // which of Belay's, and no other
	*certificates

	mu        sync.Mutex
	counts    bool // requests, since the story has begun
	number    int  // of the last one
	fault     *fault
	at        int  // the number of the request that the fault is for
	index     int  // of that among the exchanges
	met       bool // it was made
	exchanges []exchange
	streams   map[string]*stream // by resource
	token     string             // the only one that is let through, any if empty

	over time.Time      // when the fault has ended, zero if it takes no time
	late sync.WaitGroup // writes that are passed on later

	leaseUntil time.Time // how long requests about the Lease are disturbed
	meetLease  func(p *proxy, w http.ResponseWriter, r *http.Request, pass func() *answer)
	lateLease  bool // an answer about the Lease came late
}

// upstream is the API server, as the administrator reaches it.
type upstream struct {
	url       *url.URL
	transport http.RoundTripper
}

// newProxy returns a proxy for a story in a namespace.
func newProxy(namespace string, api upstream, certificates *certificates) *proxy {
	p := &proxy{namespace: namespace, api: api, certificates: certificates, streams: map[string]*stream{}}
	for _, resource := range watched {
		p.streams[resource] = &stream{}
	}
	p.server = httptest.NewUnstartedServer(p)
	p.server.EnableHTTP2 = true
	// A client that knows a server by its address only is not asked about by GetCertificate.
	p.server.TLS = &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
		return &tls.Config{Certificates: p.pairs[p.shown.Load():][:1], NextProtos: []string{"h2", "http/1.1"}, ClientAuth: tls.RequireAnyClientCert, VerifyConnection: p.accepts}, nil
	}}
	p.server.Config.ErrorLog = quiet
	p.server.StartTLS()
	return p
}

// close closes the proxy, when it has passed on what is late.
func (p *proxy) close() {
	p.late.Wait()
	p.server.CloseClientConnections()
	p.server.Close()
}

// begin numbers the requests from now on. At the one with this number the fault happens, or at the first after it that the fault is for: they
// do not always come in the same order.
func (p *proxy) begin(f *fault, at int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.counts, p.fault, p.at = true, f, at
}

// note writes a request down, and returns where, and what is to be done to it.
func (p *proxy) note(q request) (index int, f *fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	e := exchange{request: q, at: time.Now()}
	// The Lease is renewed, and what the caches have is compared with what is stored, whether or not there is a story.
	if p.counts && q.namespace == p.namespace && q.verb != "watch" && q.resource != "leases" && !(q.verb == "list" && slices.Contains(watched, q.resource)) {
		p.number++
		e.number = p.number
		if isFor := p.fault != nil && (p.fault.only == nil || p.fault.only(q)); isFor && !p.met && e.number >= p.at {
			f, p.met, p.index = p.fault, true, len(p.exchanges)
		}
	}
	p.exchanges = append(p.exchanges, e)
	return len(p.exchanges) - 1, f
}

// takesEffect notes that the fault has done something. One that comes when there is nothing for it to do was not tried.
func (p *proxy) takesEffect() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.noteEffect()
}

// noteEffect is takesEffect for who holds the lock.
func (p *proxy) noteEffect() { p.exchanges[p.index].fault = p.fault.name }

// noted returns all that was asked for so far.
func (p *proxy) noted() []exchange {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]exchange(nil), p.exchanges...)
}

func (p *proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	q := parse(r)
	if !p.known(r) {
		(&answer{code: http.StatusUnauthorized, status: metav1.StatusReasonUnauthorized}).write(w)
		return
	}
	if q.verb == "watch" {
		p.watch(w, r, q)
		return
	}
	body, err := io.ReadAll(r.Body) // before a fault: who is stopped sends no more of it
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	index, f := p.note(q)
	pass := func() *answer { return p.pass(r, body, index) }
	if meet := p.leaseFault(q); meet != nil {
		meet(p, w, r, pass)
		return
	}
	if f != nil && f.onRequest != nil {
		if !f.later {
			p.takesEffect()
		}
		f.onRequest(p, w, r, pass)
		return
	}
	if f != nil {
		f.onStreams(p)
	}
	pass().write(w)
}

// accepts returns an error unless the connection is made with the certificate that counts.
func (p *proxy) accepts(connection tls.ConnectionState) error {
	if !bytes.Equal(connection.PeerCertificates[0].Raw, p.client[p.accepted.Load()].pair.Certificate[0]) {
		return errors.New("another certificate of the client is wanted")
	}
	return nil
}

// known reports whether the request has the token that counts.
func (p *proxy) known(r *http.Request) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.token == "" || r.Header.Get("Authorization") == "Bearer "+p.token
}

// answer is what the API server says, or what a fault says in its place.
type answer struct {
	code   int
	header http.Header
	body   []byte
	status metav1.StatusReason // of an answer that no API server gave
	err    error               // why there is none
}

func (a *answer) write(w http.ResponseWriter) {
	if a.err != nil {
		panic(http.ErrAbortHandler)
	}
	for name, values := range a.header {
		w.Header()[name] = values
	}
	if a.status != "" {
		w.Header().Set("Content-Type", "application/json")
		a.body, _ = json.Marshal(metav1.Status{TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusFailure,
			Code: int32(a.code), Reason: a.status, Message: "a fault of the test"})
	}
	w.WriteHeader(a.code)
	_, _ = w.Write(a.body)
}

// ask sends the request on.
func (p *proxy) ask(r *http.Request, ctx context.Context, body io.Reader) (*http.Response, error) {
	target := *r.URL
	target.Scheme, target.Host = p.api.url.Scheme, p.api.url.Host
	asked, err := http.NewRequestWithContext(ctx, r.Method, target.String(), body)
	if err != nil {
		return nil, err
	}
	asked.Header = r.Header.Clone()
	asked.Header.Del("Authorization")
	asked.Header.Del("Accept-Encoding")
	return p.api.transport.RoundTrip(asked)
}

// pass asks the API server, whether Belay goes on waiting for the answer or not.
func (p *proxy) pass(r *http.Request, body []byte, index int) *answer {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), *patience)
	defer cancel()
	response, err := p.ask(r, ctx, bytes.NewReader(body))
	if err != nil {
		return &answer{err: err}
	}
	defer response.Body.Close()
	a := &answer{code: response.StatusCode, header: response.Header}
	if a.body, err = io.ReadAll(response.Body); err != nil {
		return &answer{err: err}
	}
	rv := uint64(0)
	if parse(r).verb != "list" {
		rv = version(a)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.exchanges[index].code, p.exchanges[index].rv = a.code, rv
	return a
}

// passLater passes the request on after some time.
func (p *proxy) passLater(long time.Duration, pass func() *answer) {
	p.lasts(long)
	p.late.Go(func() {
		time.Sleep(long)
		pass()
		p.takesEffect()
	})
}

// lasts says that the fault takes so long.
func (p *proxy) lasts(long time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.over = time.Now().Add(long)
}

// overAt returns when the fault has ended, or will have.
func (p *proxy) overAt() time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.over
}

// cut ends all connections, the one of the request that is being answered, too.
func (p *proxy) cut() {
	p.server.CloseClientConnections()
	panic(http.ErrAbortHandler)
}

// version returns the resourceVersion of the object in an answer, 0 if there is none.
func version(a *answer) uint64 {
	if a.code >= 300 {
		return 0
	}
	object, _, err := decoder.Decode(a.body, nil, nil)
	if err != nil {
		return 0
	}
	accessor, err := meta.Accessor(object)
	if err != nil {
		return 0
	}
	rv, _ := strconv.ParseUint(accessor.GetResourceVersion(), 10, 64)
	return rv
}
