package e2e

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/client-go/rest"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// Two belays in one namespace: one works, and the other when that has ended. They talk to the API server through proxies,
// which tell them apart in the audit log.
func TestLeader_OneOfTwoWorks(t *testing.T) {
	for name, test := range map[string]func(e *election){
		"TerminatedHandsOver":       terminatedHandsOver,
		"KilledInARollback":         killedInARollback,
		"PausedDoesNotWriteAfter":   pausedDoesNotWriteAfter,
		"SlowAnswersMakeNoTwo":      slowAnswersMakeNoTwo,
		"SilentServerIsNoticed":     silentServerIsNoticed,
		"TerminatedWhileItIsUnwell": terminatedWhileItIsUnwell,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if *externalFlag {
				t.Skip("this needs belays of its own, and -external says that one runs already")
			}
			test(&election{namespace: emptyNamespace(t)})
		})
	}
}

// election is a namespace in which two belays take part in an election.
type election struct {
	*namespace
	led sync.Map // tag to when the first of its writes of the Lease that was taken had been sent
}

// proxied decides what becomes of a request; forward sends it on, and the answer back.
type proxied func(w http.ResponseWriter, r *http.Request, forward func(http.ResponseWriter))

// sentKey is under which the context of a request has when it was sent.
type sentKey struct{}

// start starts a belay that takes part, and whose requests go through between, which may be nil.
func (e *election) start(tag string, between proxied) *process {
	e.Helper()
	target, err := url.Parse(cluster.config.Host)
	if err != nil {
		e.Fatal(err)
	}
	transport, err := rest.TransportFor(cluster.config)
	if err != nil {
		e.Fatal(err)
	}
	proxy := &httputil.ReverseProxy{Transport: transport, FlushInterval: -1, Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(target)
		r.Out.Header.Del("Authorization")
		r.Out.Header.Set("User-Agent", r.In.UserAgent()+" "+tag)
	}, ModifyResponse: func(answer *http.Response) error {
		asked := answer.Request
		if strings.Contains(asked.URL.Path, "/leases") && asked.Method != http.MethodGet && answer.StatusCode < 300 {
			e.led.LoadOrStore(tag, asked.Context().Value(sentKey{}))
		}
		return nil
	}, ErrorHandler: func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) }}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r = r.WithContext(context.WithValue(r.Context(), sentKey{}, time.Now()))
		forward := func(w http.ResponseWriter) { proxy.ServeHTTP(w, r) }
		if between != nil {
			between(w, r, forward)
			return
		}
		forward(w)
	}))
	server.Config.ErrorLog = nil
	e.Cleanup(func() { server.CloseClientConnections(); server.Close() })
	p, err := startProcess(filepath.Join(e.TempDir(), tag+".log"), "--namespace", e.name, "--master", server.URL,
		"--leader-elect", "--leader-elect-namespace", e.name)
	if err != nil {
		e.Fatal(err)
	}
	e.Cleanup(func() {
		select {
		case <-p.ended:
		default:
			p.kill()
		}
		if e.Failed() {
			e.Logf("--- the end of the log of %s\n%s", tag, tail(p.log, "", 40))
		}
	})
	return p
}

// hang does not answer a request.
func hang(r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body) // Until it is read, the server does not look whether the client is still there.
	<-r.Context().Done()
	panic(http.ErrAbortHandler)
}

// writesOf returns the successful writes of a belay. Those of Leases are not in the audit log.
func (e *election) writesOf(tag string) []write {
	e.Helper()
	return slices.DeleteFunc(e.writes(), func(w write) bool {
		return !strings.HasSuffix(w.UserAgent, " "+tag) || w.Response.Code >= 300
	})
}

// awaitLeader waits until the belay leads and returns since when.
func (e *election) awaitLeader(tag string) (led time.Time) {
	e.Helper()
	e.eventually(tag+" leads", func(context.Context) (bool, error) {
		since, known := e.led.Load(tag)
		if known {
			led = since.(time.Time)
		}
		return known, nil
	})
	return led
}

// busyBody creates an object and changes it for ever, so that there is always something to write.
func (e *election) busyBody() {
	e.Helper()
	busy := e.createReady("busy", template(good, "1"), replicas(1), soak(0))
	ctx, cancel := context.WithCancel(e.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for i := int32(0); ctx.Err() == nil; i++ {
			_, _ = busy.tryUpdate(replicas(1 + i%2))
			time.Sleep(200 * time.Millisecond)
		}
	}()
	e.Cleanup(func() { cancel(); <-ended })
}

// checkNoOverlap makes sure that a wrote before, b after b led, and neither otherwise.
func (e *election) checkNoOverlap(what string) {
	e.Helper()
	led := e.awaitLeader("b")
	e.eventually("b writes", func(context.Context) (bool, error) { return len(e.writesOf("b")) > 0, nil })
	ofA := e.writesOf("a")
	late := 0
	for _, w := range ofA {
		if !w.At.Before(led) {
			late++
			e.Errorf("a wrote after b led at %s: %s", led.Format("15:04:05.000"), w)
		}
	}
	if len(ofA) == 0 {
		e.Error("a never wrote: this test shows nothing")
	}
	figures.count("writes of the leader before, after "+what, late, 0)
}

// awaitLost waits until a belay has ended because its Lease was lost.
func (e *election) awaitLost(p *process) {
	e.Helper()
	p.forget()
	select {
	case <-p.ended:
	case <-time.After(patience):
		e.Fatalf("belay runs on %s after another one led", patience)
	}
	if log := tail(p.log, "", 3); p.cmd.ProcessState.ExitCode() != 1 || !strings.Contains(log, "the Lease is lost") {
		e.Errorf("belay ended with code %d and this, want 1 and that the Lease is lost:\n%s", p.cmd.ProcessState.ExitCode(), log)
	}
}

func terminatedHandsOver(e *election) {
	a := e.start("a", nil)
	e.awaitLeader("a")
	b := e.start("b", nil)
	e.busyBody()
	terminated := time.Now()
	if err := a.stop(); err != nil {
		e.Error(err)
	}
	figures.time("failover after SIGTERM", e.awaitLeader("b").Sub(terminated), 5*time.Second)
	time.Sleep(3 * time.Second)
	e.checkNoOverlap("SIGTERM")
	if err := b.stop(); err != nil {
		e.Error(err)
	}
}

// The leader dies between its verdict and its rollback. The other one does what is left, once.
func killedInARollback(e *election) {
	var a *process
	var armed, moves atomic.Int32
	killed := make(chan time.Time, 1)
	a = e.start("a", func(w http.ResponseWriter, r *http.Request, forward func(http.ResponseWriter)) {
		if armed.Load() == 1 && r.Method == http.MethodPut && strings.HasSuffix(r.URL.Path, "/deployments/web") && moves.Add(1) == 2 {
			a.kill()
			killed <- time.Now()
			panic(http.ErrAbortHandler)
		}
		forward(w)
	})
	e.awaitLeader("a")
	e.start("b", nil)
	o := e.createReady("web", template(good, "1"), replicas(2), soak(0), maxRestarts(0))
	first := o.get().Status.RunningRevision
	armed.Store(1)
	o.release(template(crash, "2"))
	var died time.Time
	select {
	case died = <-killed:
	case <-time.After(patience):
		e.Fatal("belay never rolled back")
	}
	o.awaitDeployment("is rolled back", func(d *appsv1.Deployment) bool { return version(d) == "1" })
	figures.time("rolled back after kill -9 of the leader", time.Since(died), 22*time.Second)
	g := o.awaitRolledBack(v1alpha1.FailureCrashLoop, first)
	o.checkMoves(first, g.Status.TargetRevision, first)
	if writes := o.deploymentWrites(); len(writes) != 3 {
		e.Errorf("%d writes of the Deployment, want 3:\n%s", len(writes), e.describeWrites())
	}
	e.checkNoOverlap("kill -9")
}

// A leader that was paused, with requests in its hands, finds its Lease gone.
func pausedDoesNotWriteAfter(e *election) {
	a := e.start("a", nil)
	e.awaitLeader("a")
	e.start("b", nil)
	e.busyBody()
	if err := a.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		e.Fatal(err)
	}
	e.awaitLeader("b")
	time.Sleep(2 * time.Second)
	if err := a.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		e.Fatal(err)
	}
	e.awaitLost(a)
	e.checkNoOverlap("a pause")
}

// The answer to one renewal takes almost as long as Belay waits for it, and later ones never come. client-go counts from
// when that answer came, and goes on for longer than the Lease lasts by anybody else's count.
func slowAnswersMakeNoTwo(e *election) {
	var slow atomic.Bool
	var renewals atomic.Int32
	a := e.start("a", func(w http.ResponseWriter, r *http.Request, forward func(http.ResponseWriter)) {
		if !slow.Load() || r.Method != http.MethodPut || !strings.Contains(r.URL.Path, "/leases/") {
			forward(w)
			return
		}
		if renewals.Add(1) > 1 {
			hang(r)
		}
		answer := httptest.NewRecorder()
		forward(answer)
		time.Sleep(4500 * time.Millisecond)
		for key, values := range answer.Header() {
			w.Header()[key] = values
		}
		w.WriteHeader(answer.Code)
		_, _ = w.Write(answer.Body.Bytes())
	})
	e.awaitLeader("a")
	e.start("b", nil)
	e.busyBody()
	slow.Store(true)
	e.awaitLeader("b")
	e.awaitLost(a)
	e.checkNoOverlap("slow answers")
	if kept := tail(a.log, "cannot be sure of its Lease", 1); kept == "" {
		e.Error("a was never kept from writing: this test shows nothing")
	}
}

// A connection goes silent, without a word to either end.
func silentServerIsNoticed(e *election) {
	relay := newRelay(e.T)
	p, err := startProcess(filepath.Join(e.TempDir(), "belay.log"), "--namespace", e.name, "--master", "https://"+relay.Addr().String())
	if err != nil {
		e.Fatal(err)
	}
	e.Cleanup(func() {
		if err := p.stop(); err != nil {
			e.Error(err)
		}
	})
	e.belay = p
	e.createReady("before", template(good, "1"), replicas(1), soak(0))
	time.Sleep(2 * time.Second)
	before := relay.silence()
	silenced := time.Now()
	o := e.create("after", template(good, "1"), replicas(1), soak(0))
	o.awaitDeployment("is there", func(*appsv1.Deployment) bool { return true })
	figures.time("a silent connection is noticed", time.Since(silenced), 20*time.Second)
	o.awaitReady()
	if relay.silence() == before {
		e.Error("no connection was made after the silence: this test shows nothing")
	}
}

// Requests that nobody answers do not keep a belay that is to end.
func terminatedWhileItIsUnwell(e *election) {
	var unwell atomic.Bool
	asked := make(chan struct{}, 100)
	a := e.start("a", func(w http.ResponseWriter, r *http.Request, forward func(http.ResponseWriter)) {
		if unwell.Load() && strings.Contains(r.URL.Path, "/deployments") {
			asked <- struct{}{}
			hang(r)
		}
		forward(w)
	})
	e.awaitLeader("a")
	e.createReady("before", template(good, "1"), replicas(1), soak(0))
	unwell.Store(true)
	e.create("web", template(good, "1"), replicas(1), soak(0))
	select {
	case <-asked:
	case <-time.After(patience):
		e.Fatal("belay asked for no Deployment")
	}
	if err := a.stop(); err != nil { // stop allows for 5 seconds
		e.Error(err)
	}
}
