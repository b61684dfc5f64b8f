package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
)

var (
	errUndecodable = errors.New(`parsing time "2025-01-01T00:00:00+99:99": time zone offset minute out of range`)
	errRefused     = &url.Error{Op: "Get", URL: "https://server", Err: syscall.ECONNREFUSED}
	errNoCRD       = apierrors.NewNotFound(schema.GroupResource{}, "")
	errLoaded      = apierrors.NewTooManyRequests("later", 1)
)

func TestSight(t *testing.T) {
	asked := func(s *sight, now time.Time) { s.asked(now) }
	answers := func(err error) func(*sight, time.Time) {
		return func(s *sight, now time.Time) { s.asked(now); s.answered(err) }
	}
	type step struct {
		at int // in seconds
		do func(*sight, time.Time)
	}
	for name, row := range map[string]struct {
		steps       []step
		at          int
		blind       bool
		undecodable bool
	}{
		"nothing was asked yet":            {nil, 1000, false, false},
		"all is well":                      {[]step{{0, answers(nil)}}, 1000, false, false},
		"a failure, for a while":           {[]step{{0, answers(errRefused)}, {29, answers(errRefused)}}, 29, false, false},
		"failures for long":                {[]step{{0, answers(errRefused)}, {29, answers(errRefused)}}, 30, true, false},
		"one that is not tried again":      {[]step{{0, answers(errRefused)}}, 30, true, false},
		"it is over":                       {[]step{{0, answers(errRefused)}, {29, answers(nil)}}, 1000, false, false},
		"again after a success":            {[]step{{0, answers(errRefused)}, {20, answers(nil)}, {25, answers(errRefused)}}, 50, false, false},
		"an object that cannot be decoded": {[]step{{0, answers(errUndecodable)}}, 30, true, true},
		"first an outage, then that":       {[]step{{0, answers(errRefused)}, {10, answers(errUndecodable)}}, 30, true, true},
		"first that, then an outage":       {[]step{{0, answers(errUndecodable)}, {10, answers(errRefused)}}, 30, true, false},
		"overload":                         {[]step{{0, answers(errLoaded)}}, 30, true, false},
		"a timeout":                        {[]step{{0, answers(fmt.Errorf("body: %w", context.DeadlineExceeded))}}, 30, true, false},
		"no answer":                        {[]step{{0, asked}}, 30, true, false},
		"a second list begins":             {[]step{{0, answers(nil)}, {100, asked}}, 120, false, false},
		"and never ends":                   {[]step{{0, answers(nil)}, {100, asked}}, 130, true, false},
		"the CRD is deleted":               {[]step{{0, answers(errNoCRD)}, {600, answers(errNoCRD)}}, 1000, false, false},
		"and comes back":                   {[]step{{0, answers(errNoCRD)}, {600, answers(errLoaded)}}, 620, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			var s sight
			for _, step := range row.steps {
				step.do(&s, time.Unix(int64(step.at), 0))
			}
			if err := s.blind("things", time.Unix(int64(row.at), 0)); (err != nil) != row.blind {
				t.Errorf("blind: %v", err)
			}
			wantSame(t, "undecodable", row.undecodable, s.undecodable())
		})
	}
}

// failing makes every list and watch of a resource fail, and ends those that are open.
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
		wantAnswer(t, h, "/readyz", "", 200, "ok")
		w.pass(10 * time.Second)
		wantAnswer(t, h, "/readyz", "", 503, "no change of guardeddeployments has been seen for 35s: correct or delete what cannot be decoded: shop/bad (of no use)")
		wantAnswer(t, h, "/livez", "", 200, "ok")
		p.want(`belay_unseen_seconds{resource="guardeddeployments"} 35`)
		w.pass(20 * time.Minute)
		logged := w.logged()
		wantSame(t, "times that it is told", 1, strings.Count(logged, "Blind"))
		wantSame(t, "searches, one in five minutes", 5, strings.Count(logged, `object="shop/bad (of no use)"`))
		if errors := p.scraped("belay_watch_errors_total"); len(errors) != 1 || !strings.Contains(errors[0], `"guardeddeployments"`) {
			t.Errorf("errors are %q, want some of guardeddeployments", errors)
		}

		w.intercept(nil)
		add(w, webshop("later", "later:1"))
		w.pass(2 * time.Minute) // The reflector tries again within one.
		wantAnswer(t, h, "/readyz", "", 200, "ok")
		p.want(`belay_unseen_seconds{resource="guardeddeployments"} 0`)
		wantSame(t, "times that the end is told", 1, strings.Count(w.logged(), "Not blind any more"))
		wantSame(t, "what was created meanwhile", "Ready=True RolledOut", w.status("later"))
	})
}

func TestAnOutageIsBlindnessWithoutASearch(t *testing.T) {
	inCountedWorld(t, func(w *world, p *counted) {
		w.undecodable = []string{"not to be found"}
		failing(w, "deployments", errRefused)
		w.pass(time.Minute)
		wantAnswer(t, healthOf(p.belay), "/readyz", "", 503, ": Get \"https://server\": connection refused")
		if logged := w.logged(); strings.Contains(logged, "not to be found") {
			t.Errorf("an outage is searched for objects:\n%s", logged)
		}
	})
}

func TestADeletedCRDIsNoBlindness(t *testing.T) {
	inCountedWorld(t, func(w *world, p *counted) {
		failing(w, "guardeddeployments", errNoCRD)
		w.pass(10 * time.Minute)
		wantAnswer(t, healthOf(p.belay), "/readyz", "", 200, "ok")
		if logged := w.logged(); strings.Contains(logged, "Blind") {
			t.Errorf("a CRD that is gone is told as blindness:\n%s", logged)
		}
	})
}

// A stream that begins with all there is has shown it at the mark, and not before.
func TestTheFirstEventsEndAtTheirMark(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source, all := watch.NewFake(), false
		w := watchedTo(source, func() { all = true })
		pass := func(kind watch.EventType, annotations map[string]string) {
			go source.Action(kind, &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "web", Annotations: annotations}})
			if event := <-w.ResultChan(); event.Type != kind {
				t.Errorf("%s came as %s", kind, event.Type)
			}
		}
		mark := map[string]string{metav1.InitialEventsAnnotationKey: "true"}
		pass(watch.Added, mark)
		pass(watch.Bookmark, nil)
		wantSame(t, "before the mark", false, all)
		pass(watch.Bookmark, mark)
		wantSame(t, "at the mark", true, all)
		go source.Action(watch.Added, &appsv1.Deployment{}) // which nobody takes
		synctest.Wait()
		w.Stop()
		w.Stop() // The bubble ends when the goroutines do.
	})
}

// All is read, a page at a time.
func TestUndecodableObjectsAreFound(t *testing.T) {
	const objects = 105
	bad := map[int]string{0: `"creationTimestamp": []`, 57: `"creationTimestamp": "2025-01-01T00:00:00+99:99"`, 104: `"labels": 1`}
	pages := 0
	server := httptest.NewServer(http.HandlerFunc(func(answer http.ResponseWriter, r *http.Request) {
		pages++
		asked := r.URL.Query()
		if asked.Get("limit") != fmt.Sprint(searchPage) || r.Header.Get("Accept") != "application/json" || !strings.HasSuffix(r.URL.Path, "/namespaces/shop/guardeddeployments") {
			t.Errorf("asked for %s as %s", r.URL, r.Header.Get("Accept"))
		}
		var first int
		_, _ = fmt.Sscan(asked.Get("continue"), &first)
		var items []string
		for i := first; i < min(first+searchPage, objects); i++ {
			metadata := bad[i]
			if metadata == "" {
				metadata = `"creationTimestamp": null`
			}
			items = append(items, fmt.Sprintf(`{"metadata": {"namespace": "shop", "name": "web-%d"}, "spec": {"template": {"metadata": {%s}}}}`, i, metadata))
		}
		next := ""
		if first+searchPage < objects {
			next = fmt.Sprint(first + searchPage)
		}
		answer.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(answer, `{"kind": "GuardedDeploymentList", "metadata": {"continue": %q}, "items": [%s]}`, next, strings.Join(items, ","))
	}))
	defer server.Close()
	kube, belay, err := clients(&rest.Config{Host: server.URL}, 0, nil)
	must(err)
	search := undecodable(kube, belay, "shop")
	found, err := search(t.Context(), "guardeddeployments")
	must(err)
	if got := strings.Join(found, " "); len(found) != 3 || !strings.HasPrefix(found[0], "shop/web-0 (") || !strings.HasPrefix(found[1], "shop/web-57 (parsing time") ||
		!strings.HasPrefix(found[2], "shop/web-104 (") {
		t.Errorf("found %s", got)
	}
	wantSame(t, "pages", (objects+searchPage-1)/searchPage, pages)
	server.Close()
	if _, err := search(t.Context(), "guardeddeployments"); err == nil {
		t.Error("a search that fails is no error")
	}
}

// Of many, the first are told.
func TestManyUndecodableObjectsEndTheSearch(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(answer http.ResponseWriter, _ *http.Request) {
		item := `{"metadata": {"namespace": "shop", "name": "web"}, "spec": 1, "data": 1, "revision": "x"}`
		answer.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(answer, `{"metadata": {"continue": "more"}, "items": [%s]}`, strings.Join([]string{item, item, item, item}, ","))
	}))
	defer server.Close()
	kube, belay, err := clients(&rest.Config{Host: server.URL}, 0, nil)
	must(err)
	for _, resource := range []string{"guardeddeployments", "deployments", "controllerrevisions"} {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		found, err := undecodable(kube, belay, metav1.NamespaceAll)(ctx, resource)
		if err != nil || len(found) != mostUndecodable {
			t.Errorf("%s: found %d (%v)", resource, len(found), err)
		}
	}
}

// Where lists go on and the watch does not, as without the right to watch, nothing that happens between two lists is seen.
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
			wantAnswer(t, h, "/readyz", "", 503, "no change of guardeddeployments has been seen")
		}
		wantSame(t, "times that it is told", 1, strings.Count(w.logged(), "Blind"))
	})
}
