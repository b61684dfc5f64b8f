package leader

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/client-go/rest/fake"

	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/leaderelection"

	"github.com/belay-dev/belay/internal/expect"
	"github.com/belay-dev/belay/internal/kubeclient"
)

// drainTimeout is how long the work of a process goes on after its end, as a controller's does.
const drainTimeout = 2 * time.Second

// leaseServer is an API server with one Lease, and it counts every other write.
type leaseServer struct {
	mu      sync.Mutex
	lease   *coordinationv1.Lease
	began   time.Time
	history []string // what happened to the Lease
	led     map[string]time.Duration
	wrote   map[string][]time.Duration // by whom, when
}

func newLeaseServer() *leaseServer {
	return &leaseServer{began: time.Now(), led: map[string]time.Duration{}, wrote: map[string][]time.Duration{}}
}

func (s *leaseServer) at() time.Duration { return time.Since(s.began) }

// answer carries out a request of a process.
func (s *leaseServer) answer(process string, r *http.Request) *http.Response {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !strings.Contains(r.URL.Path, "/leases") {
		s.wrote[process] = append(s.wrote[process], s.at())
		return respond(http.StatusOK, metav1.Status{Status: metav1.StatusSuccess})
	}
	if r.Method == http.MethodGet {
		if s.lease == nil {
			return respond(http.StatusNotFound, metav1.Status{Status: metav1.StatusFailure, Code: 404, Reason: metav1.StatusReasonNotFound})
		}
		return respond(http.StatusOK, s.lease)
	}
	body, _ := io.ReadAll(r.Body)
	sent := &coordinationv1.Lease{}
	if _, _, err := scheme.Codecs.UniversalDeserializer().Decode(body, nil, sent); err != nil {
		panic(err)
	}
	version := 1
	if s.lease != nil {
		if r.Method == http.MethodPost || sent.ResourceVersion != s.lease.ResourceVersion {
			return respond(http.StatusConflict, metav1.Status{Status: metav1.StatusFailure, Code: 409, Reason: metav1.StatusReasonConflict})
		}
		version, _ = strconv.Atoi(s.lease.ResourceVersion)
		version++
	}
	before := s.holder()
	sent.ResourceVersion = strconv.Itoa(version)
	sent.TypeMeta = metav1.TypeMeta{APIVersion: "coordination.k8s.io/v1", Kind: "Lease"}
	s.lease = sent
	if now := s.holder(); now != before {
		s.history = append(s.history, fmt.Sprintf("%s: %q", process, now))
		if now != "" {
			s.led[process] = s.at()
		}
	}
	return respond(http.StatusOK, s.lease)
}

func (s *leaseServer) holder() string {
	if s.lease == nil || s.lease.Spec.HolderIdentity == nil {
		return ""
	}
	return *s.lease.Spec.HolderIdentity
}

// now returns who holds the Lease, and who did.
func (s *leaseServer) now() (holder string, history []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.holder(), slices.Clone(s.history)
}

func respond(code int, body any) *http.Response {
	data, err := json.Marshal(body)
	if err != nil {
		panic(err)
	}
	return &http.Response{StatusCode: code, Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(bytes.NewReader(data))}
}

// contender is a process that wants to lead. While it does, it writes ten times a second.
type contender struct {
	name   string
	server *leaseServer
	// between stands between the process and the API server.
	between func(r *http.Request, carryOut func() *http.Response) (*http.Response, error)
	drain   time.Duration // how long the work goes on after it is to end

	mu      sync.Mutex
	refused int           // writes that the fence has kept back
	ended   time.Duration // when the work was told to end
	cause   error         // why
	result  chan error
	stop    context.CancelFunc
}

func (c *contender) RoundTrip(r *http.Request) (*http.Response, error) {
	carryOut := func() *http.Response { return c.server.answer(c.name, r) }
	if c.between != nil {
		return c.between(r, carryOut)
	}
	return carryOut(), nil
}

// start makes the process take part.
func (c *contender) start(t *testing.T) {
	t.Helper()
	config := &rest.Config{Host: "https://server", Transport: c, QPS: -1}
	fence := &Fence{}
	asking, _, err := kubeclient.New(config, kubeclient.RequestTimeout, nil)
	expect.NoError(t, err)
	kube, _, err := kubeclient.New(config, kubeclient.RequestTimeout, fence.Around)
	expect.NoError(t, err)
	lease, err := NewLease(asking, "belay-system")
	expect.NoError(t, err)
	ctx, stop := context.WithCancel(context.Background())
	c.stop, c.result = stop, make(chan error, 1)
	work := func(ctx context.Context) error {
		until, done := time.Time{}, ctx.Done()
		for until.IsZero() || time.Now().Before(until) {
			if err := kube.CoreV1().RESTClient().Post().AbsPath("/write").Do(context.Background()).Error(); errors.Is(err, ErrFenced) {
				c.mu.Lock()
				c.refused++
				c.mu.Unlock()
			}
			select {
			case <-done:
				c.mu.Lock()
				c.ended, c.cause = c.server.at(), context.Cause(ctx)
				c.mu.Unlock()
				until, done = time.Now().Add(c.drain), nil
			case <-time.After(100 * time.Millisecond):
			}
		}
		return nil
	}
	watchdog := leaderelection.NewLeaderHealthzAdaptor(RenewDeadline)
	go func() { c.result <- Lead(ctx, lease, fence, watchdog, work) }()
	t.Cleanup(stop)
}

func (c *contender) writes() []time.Duration {
	c.server.mu.Lock()
	defer c.server.mu.Unlock()
	return c.server.wrote[c.name]
}

// endedAt returns when the work was told to end.
func (c *contender) endedAt() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ended
}

func (c *contender) ledAt() time.Duration {
	c.server.mu.Lock()
	defer c.server.mu.Unlock()
	return c.server.led[c.name]
}

func TestLead_SlowAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := newLeaseServer()
		a, b := &contender{name: "a", server: server}, &contender{name: "b", server: server}
		// The answer to one renewal takes 9 seconds. After that, none of a's requests about the Lease gets through.
		renewals := 0
		a.between = func(r *http.Request, carryOut func() *http.Response) (*http.Response, error) {
			if !strings.Contains(r.URL.Path, "/leases") {
				return carryOut(), nil
			}
			if r.Method != http.MethodPut {
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
		time.Sleep(time.Minute)
		synctest.Wait()

		led := b.ledAt()
		if led == 0 {
			t.Fatal("b never led")
		}
		if a.ended <= led {
			t.Fatalf("a's work ended at %s, before b led at %s: the recipe makes no overlap any more", a.ended, led)
		}
		t.Logf("b led at %s, a's work ended at %s (overlap %s); a's last write was at %s, %d more were kept back",
			led, a.ended, a.ended-led, last(a.writes()), a.refused)
		if wrote := last(a.writes()); wrote >= led {
			t.Errorf("a wrote at %s, after b led at %s", wrote, led)
		}
		if len(a.writes()) == 0 || len(b.writes()) == 0 || a.refused == 0 {
			t.Errorf("%d writes of a, %d of b, %d kept back: want some of each", len(a.writes()), len(b.writes()), a.refused)
		}
		if err := <-a.result; !errors.Is(err, errLost) || !errors.Is(a.cause, errLost) {
			t.Errorf("a ended with %v, its work because of %v, want %v", err, a.cause, errLost)
		}
		b.stop()
		if err := <-b.result; err != nil {
			t.Error(err)
		}
	})
}

func last(times []time.Duration) time.Duration {
	if len(times) == 0 {
		return 0
	}
	return times[len(times)-1]
}

func TestLead_Terminated(t *testing.T) {
	var longest time.Duration
	for phase := range 25 {
		synctest.Test(t, func(t *testing.T) {
			server := newLeaseServer()
			a, b := &contender{name: "a", server: server, drain: drainTimeout}, &contender{name: "b", server: server}
			a.start(t)
			time.Sleep(10*time.Second + time.Duration(phase)*137*time.Millisecond)
			b.start(t)
			time.Sleep(20 * time.Second)
			if len(b.writes()) > 0 {
				t.Fatal("b writes while a leads")
			}
			terminated := server.at()
			a.stop()
			if err := <-a.result; err != nil {
				t.Error(err)
			}
			time.Sleep(10 * time.Second)
			synctest.Wait()
			if b.ledAt() < last(a.writes()) {
				t.Errorf("b led at %s, a wrote until %s", b.ledAt(), last(a.writes()))
			}
			longest = max(longest, b.ledAt()-terminated)
			b.stop()
			<-b.result
		})
	}
	t.Logf("handed over in %s at most, of which %s are the drain", longest, drainTimeout)
	if longest == 0 || longest > 5*time.Second {
		t.Errorf("handing over took %s, want at most 5s", longest)
	}
}

func TestLead_Killed(t *testing.T) {
	var longest time.Duration
	for phase := range 25 {
		synctest.Test(t, func(t *testing.T) {
			server := newLeaseServer()
			a, b := &contender{name: "a", server: server}, &contender{name: "b", server: server}
			var dead atomic.Bool
			a.between = func(_ *http.Request, carryOut func() *http.Response) (*http.Response, error) {
				if dead.Load() {
					return nil, errors.New("connection refused")
				}
				return carryOut(), nil
			}
			a.start(t)
			b.start(t)
			time.Sleep(10*time.Second + time.Duration(phase)*137*time.Millisecond)
			if a.ledAt() == 0 { // Who comes first leads.
				b.stop()
				<-b.result
				time.Sleep(10 * time.Second)
				b = &contender{name: "c", server: server}
				b.start(t)
				time.Sleep(time.Second)
			}
			dead.Store(true)
			killed := server.at()
			time.Sleep(30 * time.Second)
			longest = max(longest, b.ledAt()-killed)
			b.stop()
			<-b.result
			<-a.result
		})
	}
	t.Logf("succeeded in %s at most", longest)
	if longest == 0 || longest > 22*time.Second {
		t.Errorf("taking over took %s, want at most 22s", longest)
	}
}

func TestLead_LostLeaseWhileWorking(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := newLeaseServer()
		a := &contender{name: "a", server: server, drain: time.Minute}
		var identity string
		var lost atomic.Bool
		a.between = func(r *http.Request, carryOut func() *http.Response) (*http.Response, error) {
			if lost.Load() && r.Method == http.MethodPut && strings.Contains(r.URL.Path, "/leases") {
				body, _ := io.ReadAll(r.Body)
				r.Body = io.NopCloser(bytes.NewReader(body))
				if bytes.Contains(body, []byte(identity)) {
					return nil, errors.New("connection reset") // What gives it back would get through.
				}
			}
			return carryOut(), nil
		}
		a.start(t)
		time.Sleep(25 * time.Second)
		identity, _ = server.now()
		lost.Store(true)
		time.Sleep(30 * time.Second)
		synctest.Wait()
		holder, history := server.now()
		if a.endedAt() == 0 || holder == "" {
			t.Errorf("after %q, the work was told to end at %s, and the holder is %q: want it held until the work has ended", history, a.endedAt(), holder)
		}
		if err := <-a.result; !errors.Is(err, errLost) {
			t.Errorf("ended with %v, want %v", err, errLost)
		}
	})
}

func TestLead_NeverLed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := newLeaseServer()
		a, b := &contender{name: "a", server: server}, &contender{name: "b", server: server}
		a.start(t)
		time.Sleep(5 * time.Second)
		b.start(t)
		time.Sleep(5 * time.Second)
		b.stop()
		if err := <-b.result; err != nil {
			t.Error(err)
		}
		if holder, history := server.now(); holder == "" || len(history) != 1 {
			t.Errorf("the Lease's history is %q, want a's alone", history)
		}
		a.stop()
		<-a.result
		if holder, _ := server.now(); holder != "" {
			t.Errorf("the Lease is held by %q after its holder has ended", holder)
		}
	})
}

// closing is a body that knows whether it was closed.
type closing struct {
	io.Reader
	closed bool
}

func (c *closing) Close() error { c.closed = true; return nil }

func TestFence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, sent := &Fence{}, 0
		hang := false
		transport := f.Around(fake.CreateHTTPClient(func(r *http.Request) (*http.Response, error) {
			sent++
			if hang {
				<-r.Context().Done()
				return nil, context.Cause(r.Context())
			}
			return respond(http.StatusOK, metav1.Status{}), nil
		}).Transport)
		try := func(method string) error {
			body := &closing{Reader: strings.NewReader("{}")}
			request, err := http.NewRequestWithContext(t.Context(), method, "https://server/", body)
			expect.NoError(t, err)
			before := sent
			response, err := transport.RoundTrip(request)
			if err != nil {
				if sent == before && !body.closed {
					t.Errorf("%s was kept back, and its body not closed", method)
				}
				return err
			}
			return response.Body.Close()
		}
		wantOpen := func(open bool, when string) {
			t.Helper()
			for _, method := range []string{"POST", "PUT", "PATCH", "DELETE"} {
				before := sent
				if err := try(method); open && err != nil || !open && (!errors.Is(err, ErrFenced) || sent != before) {
					t.Errorf("%s: %s: %v, %d requests left", when, method, err, sent-before)
				}
			}
			if err := try("GET"); err != nil {
				t.Errorf("%s: a read: %v", when, err)
			}
		}
		wantOpen(false, "before the first renewal")
		f.renewed(time.Now().Add(-3 * time.Second))
		wantOpen(true, "after a renewal")
		time.Sleep(leaseDuration - fenceMargin - 3*time.Second - time.Nanosecond)
		wantOpen(true, "at the last moment")
		time.Sleep(time.Nanosecond)
		wantOpen(false, "when the time is over")
		f.renewed(time.Now())
		wantOpen(true, "after the next renewal")

		hang = true
		began := time.Now()
		if err := try("PUT"); !errors.Is(err, ErrFenced) || time.Since(began) != leaseDuration-fenceMargin {
			t.Errorf("a write that hangs ended with %v after %s, want it to end with the time that the fence is open", err, time.Since(began))
		}
		hang = false
		f.renewed(time.Now())
		f.close()
		wantOpen(false, "when it is closed")
		f.renewed(time.Now())
		wantOpen(false, "when it is closed, after a late answer")
	})
}

func TestNewLease_IdentitiesAreUnique(t *testing.T) {
	seen := map[string]bool{}
	for range 3 {
		lease, err := NewLease(kubernetes.NewForConfigOrDie(&rest.Config{Host: "https://server"}), "belay-system")
		if err != nil {
			t.Fatal(err)
		}
		seen[lease.Identity()] = true
	}
	if len(seen) != 3 {
		t.Errorf("identities %v, want three", seen)
	}
}
