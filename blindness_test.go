package main

import (
	"errors"
	"net/url"
	"strings"
	"syscall"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/belay-dev/belay/internal/expect"
)

var (
	errUndecodable = errors.New(`parsing time "2025-01-01T00:00:00+99:99": time zone offset minute out of range`)
	errRefused     = &url.Error{Op: "Get", URL: "https://server", Err: syscall.ECONNREFUSED}
	errNoCRD       = apierrors.NewNotFound(schema.GroupResource{}, "")
)

func failing(w *world, resource string, err error) {
	w.intercept(func(r request, carryOut func() error) error {
		if r.resource == resource && (r.verb == "list" || r.verb == "watch") {
			return err
		}
		return carryOut()
	})
	w.cut()
}

func TestBlindnessIsToldAndEnds(t *testing.T) {
	inCountedWorld(t, func(w *world, p *counted) {
		h := healthOf(p.belay)
		w.upAndRunning("web")
		w.undecodable = []string{"shop/bad (of no use)"}
		failing(w, "guardeddeployments", errUndecodable)
		w.pass(25 * time.Second)
		expect.Answer(t, h, "/readyz", "", 200, "ok")
		w.pass(10 * time.Second)
		expect.Answer(t, h, "/readyz", "", 503, "no change of guardeddeployments has been seen for 35s: "+
			errUndecodable.Error()+"; correct or delete what cannot be decoded: shop/bad (of no use)")
		expect.Answer(t, h, "/livez", "", 200, "ok")
		p.want(`belay_unseen_seconds{resource="guardeddeployments"} 35`)
		w.pass(20 * time.Minute)
		logged := w.logged()
		expect.Same(t, "times that it is told", 1, strings.Count(logged, "Blind"))
		expect.Same(t, "times that the object is named", 1, strings.Count(logged, `object="shop/bad (of no use)"`))
		expect.Same(t, "searches, one in five minutes", 5, w.searches)
		if errors := p.scraped("belay_watch_errors_total"); len(errors) != 1 || !strings.Contains(errors[0], `"guardeddeployments"`) {
			t.Errorf("errors are %q, want some of guardeddeployments", errors)
		}

		w.undecodable = []string{"shop/worse (of no use either)"} // The first one is gone, and another one is there.
		failing(w, "guardeddeployments", errors.New("json: cannot unmarshal array"))
		w.pass(90 * time.Second) // The reflector tries again within one.
		expect.Answer(t, h, "/readyz", "", 503, "json: cannot unmarshal array; correct or delete what cannot be decoded: shop/worse (of no use either)")
		expect.Same(t, "searches", 6, w.searches)

		w.intercept(nil)
		add(w, webshop("later", "later:1"))
		w.pass(2 * time.Minute) // The reflector tries again within one.
		expect.Answer(t, h, "/readyz", "", 200, "ok")
		p.want(`belay_unseen_seconds{resource="guardeddeployments"} 0`)
		expect.Same(t, "times that the end is told", 1, strings.Count(w.logged(), "Not blind any more"))
		expect.Same(t, "what was created meanwhile", "Ready=True RolledOut", w.status("later"))
	})
}

func TestAnOutageIsBlindnessWithoutASearch(t *testing.T) {
	inCountedWorld(t, func(w *world, p *counted) {
		w.undecodable = []string{"not to be found"}
		failing(w, "deployments", errRefused)
		w.pass(time.Minute)
		expect.Answer(t, healthOf(p.belay), "/readyz", "", 503, ": Get \"https://server\": connection refused")
		if logged := w.logged(); strings.Contains(logged, "not to be found") {
			t.Errorf("an outage is searched for objects:\n%s", logged)
		}
	})
}

func TestADeletedCRDIsNoBlindness(t *testing.T) {
	inCountedWorld(t, func(w *world, p *counted) {
		failing(w, "guardeddeployments", errNoCRD)
		w.pass(10 * time.Minute)
		expect.Answer(t, healthOf(p.belay), "/readyz", "", 200, "ok")
		if logged := w.logged(); strings.Contains(logged, "Blind") {
			t.Errorf("a CRD that is gone is told as blindness:\n%s", logged)
		}
	})
}

func TestAListWithoutAWatchDoesNotSee(t *testing.T) {
	inCountedWorld(t, func(w *world, p *counted) {
		h := healthOf(p.belay)
		w.upAndRunning("web")
		w.intercept(func(r request, carryOut func() error) error {
			if r.resource == "guardeddeployments" && r.verb == "watch" {
				return forbidden("watch")
			}
			return carryOut()
		})
		w.cut()
		w.pass(40 * time.Second)
		for range 60 {
			w.pass(5 * time.Second)
			expect.Answer(t, h, "/readyz", "", 503, "no change of guardeddeployments has been seen")
		}
		expect.Same(t, "times that it is told", 1, strings.Count(w.logged(), "Blind"))
	})
}
