package main

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// healthOf is the health of a running Belay, as main.go sets it.
func healthOf(p *belay) *health {
	h := &health{}
	h.set(p.Alive, func() error { return errors.Join(p.Ready(), p.sights.Ready()) })
	return h
}

func TestHealthKnowsTwoPaths(t *testing.T) {
	h := &health{}
	for path, want := range map[string]int{"/livez": 200, "/readyz": 200, "/": 404, "/healthz": 404, "/metrics": 404} {
		wantAnswer(t, h, path, "", want, "")
	}
}

func TestBelayIsAliveAndNotReadyWhileItStarts(t *testing.T) {
	h := &health{ready: func() error { return fmt.Errorf("starting") }}
	wantAnswer(t, h, "/livez", "", 200, "ok")
	wantAnswer(t, h, "/readyz", "", 503, "starting")
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
		wantAnswer(t, h, "/readyz", "", 503, "waiting for the caches of")
		if _, says := answerOf(h, "/readyz", ""); !strings.Contains(says, "Deployment") || strings.Contains(says, "Revision") {
			t.Errorf("it says %q, want the one cache that is missing", says)
		}
		wantAnswer(t, h, "/livez", "", 200, "ok")
		w.intercept(nil)
		w.pass(2 * time.Minute) // The informer tries again within a minute.
		wantAnswer(t, h, "/readyz", "", 200, "ok")
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
		wantAnswer(t, h, "/livez", "", 200, "ok")
		w.pass(2 * time.Second)
		wantAnswer(t, h, "/livez", "", 503, "stuck at shop/web")
		wantAnswer(t, h, "/readyz", "", 200, "ok")
		w.intercept(nil)
		close(goOn)
		w.pass(time.Second)
		wantAnswer(t, h, "/livez", "", 200, "ok")
		w.pass(10 * stuckAfter) // at rest
		wantAnswer(t, h, "/livez", "", 200, "ok")
	})
}
