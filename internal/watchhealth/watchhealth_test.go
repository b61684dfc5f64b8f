package watchhealth

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

	"github.com/belay-dev/belay/internal/expect"
	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
	"github.com/belay-dev/belay/pkg/generated/clientset/versioned"
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
			expect.Same(t, "unreadable", row.unreadable, unreadable(s.err))
		})
	}
}

// A stream that begins with all there is has shown it at the mark, and not before.
func TestWatchedTo_EndsAtTheMark(t *testing.T) {
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
		expect.Same(t, "before the mark", false, all)
		pass(watch.Bookmark, mark)
		expect.Same(t, "at the mark", true, all)
		go source.Action(watch.Added, &appsv1.Deployment{}) // which nobody takes
		synctest.Wait()
		w.Stop()
		w.Stop() // The bubble ends when the goroutines do.
	})
}

// listServer is a server of objects, by name and in that order: what is after the metadata of each, as JSON. It fails the test if
// more is asked for at a time than a page.
func listServer(t *testing.T, objects int, content func(i int) string) (source Source, requests *int) {
	requests = new(int)
	server := httptest.NewServer(http.HandlerFunc(func(answer http.ResponseWriter, r *http.Request) {
		*requests++
		asked := r.URL.Query()
		var first, last int
		var next string
		if name := asked.Get("fieldSelector"); name != "" {
			_, err := fmt.Sscanf(name, "metadata.name=web-%d", &first)
			expect.NoError(t, err)
			last = first + 1
		} else {
			expect.Same(t, "limit", fmt.Sprint(searchPage), asked.Get("limit"))
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
			expect.NoError(t, protobuf.NewSerializer(metadataScheme, metadataScheme).Encode(names, answer))
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
	client, err := versioned.NewForConfig(&rest.Config{Host: server.URL, QPS: -1})
	expect.NoError(t, err)
	return Source{Resource: "guardeddeployments", Namespace: "shop", Client: client.BelayV1alpha1().RESTClient(),
		list: func() objectList { return &v1alpha1.GuardedDeploymentList{} }}, requests
}

// All is read, a page at a time; what is in a page that cannot be decoded, one by one. Nesting can be so deep that it is too
// deep in a list only, and then not even the name can be decoded.
func TestUndecodable(t *testing.T) {
	template := func(metadata string) string { return `"spec": {"template": {"metadata": {` + metadata + `}}}` }
	const deep = 9997 // 10,000 are the most, and a list has four around it, an object two
	bad := map[int]string{0: template(`"creationTimestamp": []`), 57: template(`"creationTimestamp": "2025-01-01T00:00:00+99:99"`),
		61: `"status": {"x": ` + strings.Repeat("[", deep) + strings.Repeat("]", deep) + `}`, 104: template(`"labels": 1`)}
	source, requests := listServer(t, 105, func(i int) string { return cmp.Or(bad[i], template(`"creationTimestamp": null`)) })
	found, err := Undecodable(t.Context(), source)
	expect.NoError(t, err)
	wants := []string{"shop/web-0 (", "shop/web-57 (parsing time", "shop/web-61 (couldn't get version/kind; json parse error: invalid character '[' exceeded max depth", "shop/web-104 ("}
	if len(found) != len(wants) {
		t.Fatalf("found %q", found)
	}
	for i, want := range wants {
		if !strings.HasPrefix(found[i], want) {
			t.Errorf("found %s, not %s", found[i], want)
		}
	}
	expect.Same(t, "requests: for each of six pages, and of the four that are not well for names and each object", 6+4+3*searchPage+5, *requests)

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Undecodable(ctx, source); err == nil {
		t.Error("a search that fails is no error")
	}
}

// Of many, the first are told.
func TestUndecodable_Many(t *testing.T) {
	source, _ := listServer(t, 100, func(int) string { return `"spec": 1` })
	if found, err := Undecodable(t.Context(), source); err != nil || len(found) != mostUndecodable {
		t.Errorf("found %d (%v)", len(found), err)
	}
}

// A server that does not answer holds up the comparisons of others for as long as one may take, and is no restored one.
func TestCompareOne_NoAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := New(nil)
		at := func(version string) func() string { return func() string { return version } }
		w.of["mute"] = &sight{reached: at("100"), newest: func(ctx context.Context) (string, error) {
			<-ctx.Done()
			return "", ctx.Err()
		}}
		w.of["things"] = &sight{reached: at("100"), newest: func(context.Context) (string, error) { return "99", nil }}
		began := time.Now()
		err := w.While(t.Context(), func(ctx context.Context) error { <-ctx.Done(); return nil })
		expect.Error(t, err, "gone back", "things are at resourceVersion 99 there, and this process has seen 100")
		expect.Same(t, "noticed after", tellEvery+compareTimeout, time.Since(began))
	})
}

func TestOlder(t *testing.T) {
	for _, row := range []struct {
		a, b string
		want bool
	}{
		{"99", "100", true}, {"100", "99", false}, {"100", "100", false}, {"100", "101", true},
		{"18446744073709551615", "18446744073709551616", true}, {"", "1", false}, {"0", "1", false}, {"v1", "v2", false}, {"1", "", false},
	} {
		if got := older(row.a, row.b); got != row.want {
			t.Errorf("%q is older than %q: %t", row.a, row.b, got)
		}
	}
}
