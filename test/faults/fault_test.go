package faults

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"syscall"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/belay-dev/belay/internal/kubeclient"
)

// watched are the resources that Belay watches.
var watched = []string{"guardeddeployments", "deployments", "controllerrevisions"}

// fault is what is done once, at one request of a story.
type fault struct {
	name string
	// long says that it takes so long that it is told at some requests only.
	long bool
	// parts says that a write may take effect and Belay not know, so that it is tried at every write.
	parts bool
	// only says which requests it is tried at, nil for all.
	only func(request) bool
	// leaders says that it is about two Belays of which one leads.
	leaders bool
	// later says that it does something to what comes after the request, if there is anything to do it to.
	later bool
	// onRequest answers the request in the place of the proxy; pass asks the API server.
	onRequest func(p *proxy, w http.ResponseWriter, r *http.Request, pass func() *answer)
	// onStreams disturbs the watches, before the request is passed on. It takes effect when something is kept back.
	onStreams func(p *proxy)
}

// lost returns a fault whose request takes effect, and whose answer is lost.
func lost(how string, answered func(p *proxy, w http.ResponseWriter, a *answer)) *fault {
	return &fault{name: "answer-lost-" + how, parts: true, onRequest: func(p *proxy, w http.ResponseWriter, _ *http.Request, pass func() *answer) {
		answered(p, w, pass())
	}}
}

// writeLate is how the names of faults begin whose write takes effect late.
const writeLate = "write-late-"

// timeOut answers that the request has taken too long.
func timeOut(w http.ResponseWriter) {
	(&answer{code: http.StatusGatewayTimeout, status: metav1.StatusReasonTimeout}).write(w)
}

// late returns a fault whose write takes effect so much later, when Belay has given up waiting for it and perhaps done it again: that it
// gives up at once makes no other case of it.
func late(long time.Duration) *fault {
	return &fault{name: fmt.Sprintf(writeLate+"%.0fs", long.Seconds()), long: true, parts: true, only: request.writes, later: true,
		onRequest: func(p *proxy, w http.ResponseWriter, _ *http.Request, pass func() *answer) {
			p.passLater(long, pass)
			timeOut(w)
		}}
}

// unseen is a fault whose write takes effect, and neither its answer nor the watch tells of it for so long.
func unseen(long time.Duration) *fault {
	return &fault{name: "answer-lost-504-unseen", long: true, parts: true, only: request.writesWatched, later: true,
		onRequest: func(p *proxy, w http.ResponseWriter, r *http.Request, pass func() *answer) {
			p.freeze(long, parse(r).kind())
			pass()
			timeOut(w)
		}}
}

// refused returns a fault whose request never reaches the API server.
func refused(how string, answered func(p *proxy, w http.ResponseWriter, r *http.Request)) *fault {
	return &fault{name: "refused-" + how, onRequest: func(p *proxy, w http.ResponseWriter, r *http.Request, _ func() *answer) { answered(p, w, r) }}
}

func says(code int, reason metav1.StatusReason, header ...string) func(p *proxy, w http.ResponseWriter, r *http.Request) {
	return func(_ *proxy, w http.ResponseWriter, _ *http.Request) {
		for pair := range slices.Chunk(header, 2) {
			w.Header().Set(pair[0], pair[1])
		}
		(&answer{code: code, status: reason}).write(w)
	}
}

// half sends half of a body, and ends there.
func half(_ *proxy, w http.ResponseWriter, a *answer) {
	if a.err == nil {
		for name, values := range a.header {
			w.Header()[name] = values
		}
		w.Header().Set("Content-Length", strconv.Itoa(len(a.body)))
		w.WriteHeader(a.code)
		_, _ = w.Write(a.body[:len(a.body)/2])
		_ = http.NewResponseController(w).Flush()
	}
	panic(http.ErrAbortHandler)
}

// faults are all that are tried, at every request of every story.
func faults() (all []*fault) {
	all = append(all,
		lost("504", func(_ *proxy, w http.ResponseWriter, _ *answer) { timeOut(w) }),
		lost("half", half),
		lost("cut", func(p *proxy, _ http.ResponseWriter, _ *answer) { p.cut() }),
		unseen(40*time.Second),
		late(20*time.Second),
		refused("429", says(http.StatusTooManyRequests, metav1.StatusReasonTooManyRequests, "Retry-After", "1")),
		refused("503", says(http.StatusServiceUnavailable, metav1.StatusReasonServiceUnavailable, "Retry-After", "1")),
		refused("500", says(http.StatusInternalServerError, metav1.StatusReasonInternalError)),
		refused("cut", func(p *proxy, _ http.ResponseWriter, _ *http.Request) { p.cut() }),
		&fault{name: "refused-unanswered", long: true, onRequest: func(p *proxy, _ http.ResponseWriter, r *http.Request, _ func() *answer) {
			p.lasts(kubeclient.RequestTimeout)
			<-r.Context().Done()
		}},
		&fault{name: "killed-before", parts: true, onRequest: func(p *proxy, _ http.ResponseWriter, _ *http.Request, _ func() *answer) {
			p.belay.kill()
			panic(http.ErrAbortHandler)
		}},
		&fault{name: "killed-after", parts: true, onRequest: func(p *proxy, _ http.ResponseWriter, _ *http.Request, pass func() *answer) {
			pass()
			p.belay.kill()
			panic(http.ErrAbortHandler)
		}},
		frozen(5*time.Second), frozen(25*time.Second), frozen(60*time.Second),
		&fault{name: "events-late", onStreams: func(p *proxy) { p.delay(1500 * time.Millisecond) }},
		&fault{name: "server-certificate-rotated", onRequest: func(p *proxy, _ http.ResponseWriter, _ *http.Request, _ func() *answer) {
			p.shown.Store(1)
			p.cut()
		}},
		&fault{name: "client-certificate-rotated", onRequest: func(p *proxy, _ http.ResponseWriter, _ *http.Request, _ func() *answer) {
			if err := p.belay.useCertificate(1); err != nil {
				panic(err)
			}
			p.cut()
		}},
		&fault{name: tokenRotated, onRequest: func(p *proxy, _ http.ResponseWriter, _ *http.Request, _ func() *answer) {
			if err := p.belay.useToken("second"); err != nil {
				panic(err)
			}
			p.cut()
		}},
	)
	for _, resource := range watched {
		all = append(all,
			&fault{name: "watch-frozen-5s-" + resource, onStreams: func(p *proxy) { p.freeze(5*time.Second, resource) }},
			&fault{name: "watch-frozen-40s-" + resource, long: true, onStreams: func(p *proxy) { p.freeze(40*time.Second, resource) }},
			&fault{name: "relist-" + resource, onStreams: func(p *proxy) { p.expire(resource) }},
		)
		for _, behind := range watched {
			// No revision is ahead of a GuardedDeployment: Belay writes none before it has seen its own last status.
			if behind != resource && (resource != "controllerrevisions" || behind != "guardeddeployments") {
				all = append(all, &fault{name: "watch-ahead-" + resource + "-of-" + behind, onStreams: func(p *proxy) { p.reorder(15*time.Second, resource, behind) }})
			}
		}
	}
	return append(all, ofLeaders()...)
}

const tokenRotated = "token-rotated"

// frozen returns a fault that stops the process while it waits for an answer.
func frozen(long time.Duration) *fault {
	return &fault{name: fmt.Sprintf("stopped-%.0fs", long.Seconds()), long: long > 5*time.Second,
		onRequest: func(p *proxy, w http.ResponseWriter, _ *http.Request, pass func() *answer) {
			p.lasts(long)
			p.belay.signal(syscall.SIGSTOP)
			a := pass()
			time.Sleep(long)
			p.belay.signal(syscall.SIGCONT)
			a.write(w)
		}}
}
