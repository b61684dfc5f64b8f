package main

import (
	"cmp"
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
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
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
		steps      []step
		at         int
		blind      bool
		unreadable bool
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
			wantSame(t, "unreadable", row.unreadable, unreadable(s.err))
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
		wantAnswer(t, h, "/readyz", "", 503, "no change of guardeddeployments has been seen for 35s: "+
			errUndecodable.Error()+"; correct or delete what cannot be decoded: shop/bad (of no use)")
		wantAnswer(t, h, "/livez", "", 200, "ok")
		p.want(`belay_unseen_seconds{resource="guardeddeployments"} 35`)
		w.pass(20 * time.Minute)
		logged := w.logged()
		wantSame(t, "times that it is told", 1, strings.Count(logged, "Blind"))
		wantSame(t, "times that the object is named", 1, strings.Count(logged, `object="shop/bad (of no use)"`))
		wantSame(t, "searches, one in five minutes", 5, w.searches)
		if errors := p.scraped("belay_watch_errors_total"); len(errors) != 1 || !strings.Contains(errors[0], `"guardeddeployments"`) {
			t.Errorf("errors are %q, want some of guardeddeployments", errors)
		}

		w.undecodable = []string{"shop/worse (of no use either)"} // The first one is gone, and another one is there.
		failing(w, "guardeddeployments", errors.New("json: cannot unmarshal array"))
		w.pass(searchSoon + time.Minute) // The reflector tries again within one.
		wantAnswer(t, h, "/readyz", "", 503, "json: cannot unmarshal array; correct or delete what cannot be decoded: shop/worse (of no use either)")
		wantSame(t, "searches", 6, w.searches)

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

// listServer is a server of objects, by name and in that order: what is after the metadata of each, as JSON. It fails the test if
// more is asked for at a time than a page.
func listServer(t *testing.T, objects int, content func(i int) string) (config *rest.Config, requests *int) {
	requests = new(int)
	server := httptest.NewServer(http.HandlerFunc(func(answer http.ResponseWriter, r *http.Request) {
		*requests++
		asked := r.URL.Query()
		var first, last int
		var next string
		if name := asked.Get("fieldSelector"); name != "" {
			_, err := fmt.Sscanf(name, "metadata.name=web-%d", &first)
			must(err)
			last = first + 1
		} else {
			wantSame(t, "limit", fmt.Sprint(searchPage), asked.Get("limit"))
			_, _ = fmt.Sscan(asked.Get("continue"), &first)
			if last = min(first+searchPage, objects); last < objects {
				next = fmt.Sprint(last)
			}
		}
		meta := metav1.ListMeta{Continue: next}
		if accept := r.Header.Get("Accept"); strings.Contains(accept, "as=PartialObjectMetadataList") {
			names := &metav1.PartialObjectMetadataList{TypeMeta: metav1.TypeMeta{APIVersion: "meta.k8s.io/v1", Kind: "PartialObjectMetadataList"}, ListMeta: meta}
			for i := first; i < last; i++ {
				names.Items = append(names.Items, metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: fmt.Sprintf("web-%d", i)}})
			}
			answer.Header().Set("Content-Type", runtime.ContentTypeProtobuf)
			must(protobuf.NewSerializer(metadataScheme, metadataScheme).Encode(names, answer))
			return
		}
		var items []string
		for i := first; i < last; i++ {
			items = append(items, fmt.Sprintf(`{"metadata": {"namespace": "shop", "name": "web-%d"}, %s}`, i, content(i)))
		}
		answer.Header().Set("Content-Type", runtime.ContentTypeJSON)
		fmt.Fprintf(answer, `{"metadata": {"continue": %q}, "items": [%s]}`, next, strings.Join(items, ","))
	}))
	t.Cleanup(server.Close)
	return &rest.Config{Host: server.URL, QPS: -1}, requests
}

// All is read, a page at a time; what is in a page that cannot be decoded, one by one. Nesting can be so deep that it is too
// deep in a list only, and then not even the name can be decoded.
func TestUndecodableObjectsAreFound(t *testing.T) {
	template := func(metadata string) string { return `"spec": {"template": {"metadata": {` + metadata + `}}}` }
	const deep = 9997 // 10,000 are the most, and a list has four around it, an object two
	bad := map[int]string{0: template(`"creationTimestamp": []`), 57: template(`"creationTimestamp": "2025-01-01T00:00:00+99:99"`),
		61: `"status": {"x": ` + strings.Repeat("[", deep) + strings.Repeat("]", deep) + `}`, 104: template(`"labels": 1`)}
	config, requests := listServer(t, 105, func(i int) string { return cmp.Or(bad[i], template(`"creationTimestamp": null`)) })
	kube, belay, err := clients(config, 0, nil)
	must(err)
	search := undecodable(kube, belay, "shop")
	found, err := search(t.Context(), "guardeddeployments")
	must(err)
	wants := []string{"shop/web-0 (", "shop/web-57 (parsing time", "shop/web-61 (couldn't get version/kind; json parse error: invalid character '[' exceeded max depth", "shop/web-104 ("}
	if len(found) != len(wants) {
		t.Fatalf("found %q", found)
	}
	for i, want := range wants {
		if !strings.HasPrefix(found[i], want) {
			t.Errorf("found %s, not %s", found[i], want)
		}
	}
	wantSame(t, "requests: for each of six pages, and of the four that are not well for names and each object", 6+4+3*searchPage+5, *requests)

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := search(ctx, "guardeddeployments"); err == nil {
		t.Error("a search that fails is no error")
	}
}

// Of many, the first are told.
func TestManyUndecodableObjectsEndTheSearch(t *testing.T) {
	config, _ := listServer(t, 100, func(int) string { return `"spec": 1, "data": 1, "revision": "x"` })
	kube, belay, err := clients(config, 0, nil)
	must(err)
	for _, resource := range []string{"guardeddeployments", "deployments", "controllerrevisions"} {
		found, err := undecodable(kube, belay, metav1.NamespaceAll)(t.Context(), resource)
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
