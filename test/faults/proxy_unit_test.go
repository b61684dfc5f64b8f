package faults

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/client-go/rest"

	"github.com/belay-dev/belay/internal/kubeclient"
)

// pretence is an API server that knows nothing, and has one event for each watch, and the way to it of a Belay that is not there.
type pretence struct {
	*belay
	client  *http.Client
	written atomic.Int32 // how often, with its body
}

// madeOnce returns certificates for all of them: to make them takes longer than all else.
var madeOnce = sync.OnceValues(newCertificates)

// newPretence returns it behind a proxy, whose first request meets the fault.
func newPretence(t *testing.T, f *fault) *pretence {
	made, err := madeOnce()
	if err != nil {
		t.Fatal(err)
	}
	p := &pretence{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Query().Get("watch") != "":
			_, _ = io.WriteString(w, r.URL.Query().Get("event"))
		case r.Method == http.MethodPut:
			if body, err := io.ReadAll(r.Body); err == nil && string(body) == "a body" {
				p.written.Add(1)
			}
		}
	}))
	t.Cleanup(server.Close)
	api := upstream{transport: http.DefaultTransport}
	if api.url, err = url.Parse(server.URL); err != nil {
		t.Fatal(err)
	}
	p.belay = &belay{dir: t.TempDir(), proxy: newProxy("n", api, made)}
	p.proxy.belay = p.belay
	t.Cleanup(p.close)
	if err := p.writeKubeconfig(); err != nil {
		t.Fatal(err)
	}
	config, err := kubeclient.Config(kubeclient.Options{Kubeconfig: filepath.Join(p.dir, "kubeconfig"), QPS: -1})
	if err != nil {
		t.Fatal(err)
	}
	transport, err := rest.TransportFor(config)
	if err != nil {
		t.Fatal(err)
	}
	p.client = &http.Client{Transport: transport}
	p.begin(f, 1)
	return p
}

// ask sends a request about the namespace, and returns how it was answered.
func (p *pretence) ask(t *testing.T, method, path string) int {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, p.server.URL+"/namespaces/n/"+path, strings.NewReader("a body"))
	if err != nil {
		t.Fatal(err)
	}
	response, err := p.client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if _, err := io.ReadAll(response.Body); err != nil {
		t.Fatal(err)
	}
	return response.StatusCode
}

func (p *pretence) tookEffect() bool {
	return (&told{byBelay: [][]exchange{p.noted()}}).reached()
}

// faultOf returns the one of this name.
func faultOf(name string) *fault {
	all := faults()
	return all[slices.IndexFunc(all, func(f *fault) bool { return f.name == name })]
}

// A fault counts when it has done something, not when its request comes.
func TestProxy_FaultTakesEffect(t *testing.T) {
	const watch, long = "?watch=1&event=", time.Second
	passes := func(_ *proxy, w http.ResponseWriter, _ *http.Request, pass func() *answer) { pass().write(w) }
	for name, c := range map[string]struct {
		fault      *fault
		none, some string // what comes after the request, and what makes it count
	}{
		"frozen":  {&fault{onStreams: func(p *proxy) { p.freeze(long, "deployments") }}, "controllerrevisions" + watch + "ADDED", "deployments" + watch + "ADDED"},
		"late":    {&fault{onStreams: func(p *proxy) { p.delay(long) }}, "deployments" + watch + "BOOKMARK", "deployments" + watch + "ADDED"},
		"expired": {&fault{onStreams: func(p *proxy) { p.expire("deployments") }}, "deployments" + watch + "ADDED&sendInitialEvents=true", "deployments" + watch + "ADDED"},
		"lease":   {ofLease("late", time.Hour, passes), "deployments/web", "leases/belay"},
	} {
		t.Run(name, func(t *testing.T) {
			c.fault.name = name
			p := newPretence(t, c.fault)
			p.ask(t, http.MethodGet, "deployments/web")
			p.ask(t, http.MethodGet, c.none)
			if p.tookEffect() {
				t.Errorf("it counts, and there was nothing but %s", c.none)
			}
			p.ask(t, http.MethodGet, c.some)
			if !p.tookEffect() {
				t.Errorf("it does not count, and there was %s", c.some)
			}
		})
	}
	p := newPretence(t, faultOf("refused-503"))
	if code := p.ask(t, http.MethodPut, "deployments/web"); code != http.StatusServiceUnavailable || !p.tookEffect() || p.written.Load() != 0 {
		t.Errorf("answered %d, counts: %t, written: %d", code, p.tookEffect(), p.written.Load())
	}
}

// One watch is ahead of another only if it shows something while that keeps something back.
func TestProxy_Ahead(t *testing.T) {
	const first, second, third = "guardeddeployments", "deployments", "controllerrevisions"
	for name, c := range map[string]struct {
		come   []string
		counts bool
	}{
		"nothing is shown":             {[]string{second, third}, false},
		"nothing is kept back":         {[]string{first, first}, false},
		"shown before":                 {[]string{first, second}, false},
		"another one is kept back":     {[]string{third, first}, false},
		"shown while it is kept back":  {[]string{second, first}, true},
		"shown while both are":         {[]string{third, second, first}, true},
		"a bookmark":                   {[]string{second, first + " BOOKMARK"}, false},
		"a bookmark that is kept back": {[]string{second + " BOOKMARK", first}, false},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPretence(t, faultOf("watch-ahead-"+first+"-of-"+second))
			p.ask(t, http.MethodGet, "deployments/web")
			gone, leave := context.WithCancel(t.Context())
			leave() // Nobody waits for what is kept back.
			for _, come := range c.come {
				resource, what, _ := strings.Cut(come, " ")
				p.hold(gone, p.streams[resource], []byte(what))
			}
			if p.tookEffect() != c.counts {
				t.Errorf("it counts: %t", p.tookEffect())
			}
		})
	}
}

// A write whose answer is lost is not seen by the watch of its kind either, and by the others is.
func TestProxy_Unseen(t *testing.T) {
	p := newPretence(t, unseen(time.Second))
	for _, path := range []string{"events/web", "replicasets/web"} {
		if code := p.ask(t, http.MethodPut, path); code != http.StatusOK {
			t.Errorf("answered %d to a write of %s, which is not watched", code, path)
		}
	}
	p.written.Store(0)
	if code := p.ask(t, http.MethodPut, "guardeddeployments/web/status"); code != http.StatusGatewayTimeout || p.written.Load() != 1 || p.tookEffect() {
		t.Errorf("answered %d, written %d times, counts: %t", code, p.written.Load(), p.tookEffect())
	}
	const watch = "?watch=1&event=ADDED"
	if p.ask(t, http.MethodGet, "deployments"+watch); p.tookEffect() {
		t.Error("it counts by another watch")
	}
	if code := p.ask(t, http.MethodPut, "deployments/web"); code != http.StatusOK {
		t.Errorf("answered %d to the next write", code)
	}
	if p.ask(t, http.MethodGet, "guardeddeployments"+watch); !p.tookEffect() || time.Now().Before(p.overAt()) {
		t.Errorf("it counts: %t; the watch has shown it before %s", p.tookEffect(), p.overAt())
	}
}

// What is done to the other Belay's watch counts as the fault of the one that is disturbed, and is not over before.
func TestProxy_OtherBelay(t *testing.T) {
	f := &fault{name: "ahead of the other", later: true}
	f.onRequest = func(p *proxy, w http.ResponseWriter, _ *http.Request, pass func() *answer) {
		p.other.freezeFor(p, time.Second, "deployments")
		pass().write(w)
	}
	p, other := newPretence(t, f), newPretence(t, nil)
	p.other = other.proxy
	if p.ask(t, http.MethodPut, "deployments/web"); p.tookEffect() || p.written.Load() != 1 {
		t.Errorf("it counts: %t; written %d times", p.tookEffect(), p.written.Load())
	}
	if other.ask(t, http.MethodGet, "deployments?watch=1&event=ADDED"); !p.tookEffect() || other.tookEffect() || time.Now().Before(other.overAt()) {
		t.Errorf("it counts: %t, of the other %t; what is seen has come before %s", p.tookEffect(), other.tookEffect(), other.overAt())
	}
}

// A story is not over before its fault is.
func TestProxy_FaultIsOver(t *testing.T) {
	for name, long := range map[string]time.Duration{"watch-frozen-40s-deployments": 40 * time.Second, "watch-ahead-deployments-of-controllerrevisions": 3 * time.Second,
		"lease-answers-late": 40 * time.Second, "refused-503": 0} {
		p, begun := newPretence(t, faultOf(name)), time.Now()
		p.ask(t, http.MethodGet, "deployments/web")
		if over := p.overAt(); over.Before(begun.Add(long)) != (long == 0) {
			t.Errorf("%s is over at %s, want %s after %s", name, over, long, begun)
		}
	}
}

// The client that Belay uses is refused with a certificate that does not count any more, and goes on when another one stands in its files.
func TestProxy_ClientCertificate(t *testing.T) {
	p := newPretence(t, nil)
	get := func() (code int, err error) {
		response, err := p.client.Get(p.server.URL + "/namespaces/n/deployments/web")
		if err != nil {
			return 0, err
		}
		return response.StatusCode, response.Body.Close()
	}
	if code, err := get(); code != http.StatusOK {
		t.Fatal(code, err)
	}
	p.accepted.Store(1)
	p.server.CloseClientConnections()
	if code, err := get(); err == nil {
		t.Fatalf("answered %d with the certificate from before", code)
	}
	if err := p.useCertificate(1); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(pollEvery) {
		code, err := get()
		if code == http.StatusOK {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(code, err)
		}
	}
}

// A late write is answered at once, and passed on with all that it had when nobody waits for it any more. Until then it counts as nothing,
// and nothing is at rest.
func TestProxy_WriteLate(t *testing.T) {
	f := late(time.Second)
	p := newPretence(t, f)
	sent := time.Now()
	if code := p.ask(t, http.MethodPut, "deployments/web"); code != http.StatusGatewayTimeout || p.written.Load() != 0 || p.tookEffect() {
		t.Errorf("answered %d; written %d times, counts: %t", code, p.written.Load(), p.tookEffect())
	}
	if at := p.overAt(); at.Before(sent.Add(time.Second)) {
		t.Errorf("the story may end at %s, want 1 s after %s", at, sent)
	}
	p.late.Wait()
	if p.written.Load() != 1 || !p.tookEffect() || p.noted()[0].code != http.StatusOK {
		t.Errorf("written %d times, counts: %t, answered %d", p.written.Load(), p.tookEffect(), p.noted()[0].code)
	}
}
