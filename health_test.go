package main

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/belay-dev/belay/internal/expect"
	"github.com/belay-dev/belay/internal/serve"
)

// healthOf is the health of a running Belay, as main.go sets it.
func healthOf(p *belay) *serve.Health {
	h := &serve.Health{}
	h.Set(p.Alive, func() error { return errors.Join(p.Ready(), p.watches.Ready()) })
	return h
}

func TestBelayIsNotReadyBeforeItsCachesAreFilled(t *testing.T) {
	inEmptyWorld(t, func(w *world) {
		w.intercept(func(r request, carryOut func() error) error {
			if r.resource == "deployments" {
				return forbidden("not now")
			}
			return carryOut()
		})
		h := healthOf(w.startBelay())
		w.pass(time.Minute)
		expect.Answer(t, h, "/readyz", "", 503, "waiting for the caches of")
		if _, says := expect.AnswerOf(h, "/readyz", ""); !strings.Contains(says, "Deployment") || strings.Contains(says, "Revision") {
			t.Errorf("it says %q, want the one cache that is missing", says)
		}
		expect.Answer(t, h, "/livez", "", 200, "ok")
		w.intercept(nil)
		w.pass(2 * time.Minute) // The informer tries again within a minute.
		expect.Answer(t, h, "/readyz", "", 200, "ok")
	})
}

func TestBelayIsNotAliveWhileAWorkerIsStuck(t *testing.T) {
	inEmptyWorld(t, func(w *world) {
		p := w.startBelay()
		synctest.Wait()
		h, goOn := healthOf(p), make(chan struct{})
		w.intercept(func(r request, carryOut func() error) error {
			if r.verb == "create" {
				<-goOn
			}
			return carryOut()
		})
		add(w, webshop("web", "web:1"))
		w.pass(stuckAfter - time.Second)
		expect.Answer(t, h, "/livez", "", 200, "ok")
		w.pass(2 * time.Second)
		expect.Answer(t, h, "/livez", "", 503, "stuck at shop/web")
		expect.Answer(t, h, "/readyz", "", 200, "ok")
		w.intercept(nil)
		close(goOn)
		w.pass(time.Second)
		expect.Answer(t, h, "/livez", "", 200, "ok")
		w.pass(10 * stuckAfter) // at rest
		expect.Answer(t, h, "/livez", "", 200, "ok")
	})
}
