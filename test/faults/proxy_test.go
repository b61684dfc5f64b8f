package faults

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// request is what Belay asks the API server for.
type request struct {
	verb        string // get, list, watch, create, update, patch or delete
	resource    string // with its subresource: deployments/status
	namespace   string
	name        string
	listsAtOnce bool // a watch that begins with all there is
}

// parse returns what a request asks for. One that is not about one namespace has the last part of its path for a resource.
func parse(r *http.Request) request {
	q := request{verb: map[string]string{http.MethodPost: "create", http.MethodPut: "update", http.MethodPatch: "patch", http.MethodDelete: "delete"}[r.Method]}
	q.resource = path.Base(r.URL.Path)
	_, within, namespaced := strings.Cut(r.URL.Path, "/namespaces/")
	if parts := strings.Split(within, "/"); namespaced && len(parts) > 1 {
		q.namespace, q.resource = parts[0], parts[1]
		if len(parts) > 2 {
			q.name = parts[2]
		}
		if len(parts) > 3 {
			q.resource += "/" + parts[3]
		}
	}
	switch query := r.URL.Query(); {
	case q.verb != "":
	case query.Get("watch") == "true" || query.Get("watch") == "1":
		q.verb, q.listsAtOnce = "watch", query.Get("sendInitialEvents") == "true"
	case q.name != "":
		q.verb = "get"
	default:
		q.verb = "list"
	}
	return q
}

func (q request) writes() bool { return q.verb != "get" && q.verb != "list" && q.verb != "watch" }

func (q request) String() string { return q.verb + " " + q.resource + " " + q.name }

// exchange is a request and what came of it.
type exchange struct {
	request
	number int // among those that are about the story, from 1; 0 for others
	at     time.Time
	code   int    // of the API server's answer; 0 if it was never asked
	rv     uint64 // of the object in the answer
	fault  string // what was done to it
}

// proxy is the way from one Belay to the API server.
type proxy struct {
	namespace string // of the story
	server    *httptest.Server
	belay     *belay
	shown     atomic.Int32 // which certificate

	mu        sync.Mutex
	counts    bool // requests, since the story has begun
	number    int  // of the last one
	fault     *fault
	at        int // the number of the request that the fault is for
	exchanges []exchange
	streams   map[string]*stream // by resource
	token     string             // the only one that is let through, any if empty

	leaseUntil time.Time // how long requests about the Lease are disturbed
	meetLease  func(p *proxy, w http.ResponseWriter, r *http.Request, pass func() *answer)
	late       bool // an answer about the Lease came late
}

// newProxy returns a proxy for a story in a namespace.
func newProxy(namespace string) *proxy {
	p := &proxy{namespace: namespace, streams: map[string]*stream{}}
	for _, resource := range watched {
		p.streams[resource] = &stream{}
	}
	p.server = httptest.NewUnstartedServer(p)
	p.server.EnableHTTP2 = true
	// A client that knows a server by its address only is not asked about by GetCertificate.
	p.server.TLS = &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
		return &tls.Config{Certificates: cluster.certificates.pairs[p.shown.Load():][:1], NextProtos: []string{"h2", "http/1.1"}}, nil
	}}
	p.server.Config.ErrorLog = quiet
	p.server.StartTLS()
	return p
}

func (p *proxy) close() {
	p.server.CloseClientConnections()
	p.server.Close()
}

// begin numbers the requests from now on. At the one with this number the fault happens.
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
		if e.number == p.at && p.fault != nil {
			f, e.fault = p.fault, p.fault.name
		}
	}
	p.exchanges = append(p.exchanges, e)
	return len(p.exchanges) - 1, f
}

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
	index, f := p.note(q)
	pass := func() *answer { return p.pass(r, index) }
	if meet := p.leaseFault(q); meet != nil {
		meet(p, w, r, pass)
		return
	}
	if f != nil && f.onRequest != nil {
		f.onRequest(p, w, r, pass)
		return
	}
	if f != nil {
		f.onStreams(p)
	}
	pass().write(w)
}

// leaseFault returns what is done to a request about the Lease now, nil if nothing is.
func (p *proxy) leaseFault(q request) func(p *proxy, w http.ResponseWriter, r *http.Request, pass func() *answer) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if q.resource != "leases" || time.Now().After(p.leaseUntil) {
		return nil
	}
	return p.meetLease
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
	target.Scheme, target.Host = cluster.server.Scheme, cluster.server.Host
	asked, err := http.NewRequestWithContext(ctx, r.Method, target.String(), body)
	if err != nil {
		return nil, err
	}
	asked.Header = r.Header.Clone()
	asked.Header.Del("Authorization")
	asked.Header.Del("Accept-Encoding")
	return cluster.transport.RoundTrip(asked)
}

// pass asks the API server, whether Belay goes on waiting for the answer or not.
func (p *proxy) pass(r *http.Request, index int) *answer {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), *patience)
	defer cancel()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return &answer{err: err}
	}
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
