package watchhealth_test

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-base/metrics"

	fake "github.com/belay-dev/belay/internal/fakecluster"
	"github.com/belay-dev/belay/internal/kubeclient"
	"github.com/belay-dev/belay/internal/serve"
	"github.com/belay-dev/belay/internal/watchhealth"
	belaylisters "github.com/belay-dev/belay/pkg/generated/listers/belay/v1alpha1"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/belay-dev/belay/internal/expect"
)

var (
	errUndecodable = errors.New(`parsing time "2025-01-01T00:00:00+99:99": time zone offset minute out of range`)
	errRefused     = &url.Error{Op: "Get", URL: "https://server", Err: syscall.ECONNREFUSED}
	errNoCRD       = apierrors.NewNotFound(schema.GroupResource{}, "")
)

func TestMain(m *testing.M) { fake.Main(m) }

// watched is a world in which informers run, and nothing else.
type watched struct {
	*fake.World
	*watchhealth.Watches
	guarded     belaylisters.GuardedDeploymentNamespaceLister
	counted     metrics.KubeRegistry
	undecodable []string // what a search for what cannot be decoded finds
	searches    int      // of that
}

// health is what the informers let a process answer.
func (w *watched) health() http.Handler {
	h := &serve.Health{}
	h.Set(nil, w.Ready)
	return h
}

func inWatchedWorld(t *testing.T, test func(w *watched)) {
	t.Helper()
	fake.In(t, func(world *fake.World) {
		w := &watched{World: world, counted: metrics.NewKubeRegistry()}
		w.Watches = watchhealth.New(func(context.Context, watchhealth.Source) ([]string, error) { w.searches++; return w.undecodable, nil })
		p := w.NewProcess()
		owned, guarded := kubeclient.Informers(w.Watches, p.Kube, p.Belay, metav1.NamespaceAll, false)
		w.guarded = guarded.Belay().V1alpha1().GuardedDeployments().Lister().GuardedDeployments(fake.Namespace)
		owned.Apps().V1().Deployments().Informer()
		w.Register(w.counted)
		ctx, cancel := context.WithCancel(w.Context())
		w.T.Cleanup(func() { cancel(); owned.Shutdown(); guarded.Shutdown() })
		owned.StartWithContext(ctx)
		guarded.StartWithContext(ctx)
		go w.Run(ctx)
		synctest.Wait()
		test(w)
	})
}

// failing makes every list and watch of a resource fail, and ends those that are open.
func failing(w *watched, resource string, err error) {
	w.Intercept(func(r fake.Request, carryOut func() error) error {
		if r.Resource == resource && (r.Verb == "list" || r.Verb == "watch") {
			return err
		}
		return carryOut()
	})
	w.Cut()
}

func TestWatches_ObjectThatCannotBeDecoded(t *testing.T) {
	inWatchedWorld(t, func(w *watched) {
		h := w.health()
		fake.Add(w.World, fake.Webshop("web", "web:1"))
		w.undecodable = []string{"shop/bad (of no use)"}
		failing(w, "guardeddeployments", errUndecodable)
		w.Pass(25 * time.Second)
		expect.Answer(t, h, "/readyz", "", 200, "ok")
		w.Pass(10 * time.Second)
		expect.Answer(t, h, "/readyz", "", 503, "no change of guardeddeployments has been seen for 35s: "+
			errUndecodable.Error()+"; correct or delete what cannot be decoded: shop/bad (of no use)")
		expect.Answer(t, h, "/livez", "", 200, "ok")
		expect.Counted(t, w.counted, `belay_unseen_seconds{resource="guardeddeployments"} 35`)
		w.Pass(20 * time.Minute)
		logged := w.Logged()
		expect.Same(t, "times that it is told", 1, strings.Count(logged, "Blind"))
		expect.Same(t, "times that the object is named", 1, strings.Count(logged, `object="shop/bad (of no use)"`))
		expect.Same(t, "searches, one in five minutes", 5, w.searches)
		if errors := expect.Scraped(t, w.counted, "belay_watch_errors_total"); len(errors) != 1 || !strings.Contains(errors[0], `"guardeddeployments"`) {
			t.Errorf("errors are %q, want some of guardeddeployments", errors)
		}

		w.undecodable = []string{"shop/worse (of no use either)"} // The first one is gone, and another one is there.
		failing(w, "guardeddeployments", errors.New("json: cannot unmarshal array"))
		w.Pass(90 * time.Second) // The reflector tries again within one.
		expect.Answer(t, h, "/readyz", "", 503, "json: cannot unmarshal array; correct or delete what cannot be decoded: shop/worse (of no use either)")
		expect.Same(t, "searches", 6, w.searches)

		w.Intercept(nil)
		fake.Add(w.World, fake.Webshop("later", "later:1"))
		w.Pass(2 * time.Minute) // The reflector tries again within one.
		expect.Answer(t, h, "/readyz", "", 200, "ok")
		expect.Counted(t, w.counted, `belay_unseen_seconds{resource="guardeddeployments"} 0`)
		expect.Same(t, "times that the end is told", 1, strings.Count(w.Logged(), "Not blind any more"))
		if _, err := w.guarded.Get("later"); err != nil {
			t.Errorf("what was created meanwhile: %v", err)
		}
	})
}

func TestWatches_Outage(t *testing.T) {
	inWatchedWorld(t, func(w *watched) {
		w.undecodable = []string{"not to be found"}
		failing(w, "deployments", errRefused)
		w.Pass(time.Minute)
		expect.Answer(t, w.health(), "/readyz", "", 503, ": Get \"https://server\": connection refused")
		if logged := w.Logged(); strings.Contains(logged, "not to be found") {
			t.Errorf("an outage is searched for objects:\n%s", logged)
		}
	})
}

func TestWatches_DeletedCRD(t *testing.T) {
	inWatchedWorld(t, func(w *watched) {
		failing(w, "guardeddeployments", errNoCRD)
		w.Pass(10 * time.Minute)
		expect.Answer(t, w.health(), "/readyz", "", 200, "ok")
		if logged := w.Logged(); strings.Contains(logged, "Blind") {
			t.Errorf("a CRD that is gone is told as blindness:\n%s", logged)
		}
	})
}

// Where lists go on and the watch does not, as without the right to watch, nothing that happens between two lists is seen.
func TestWatches_ListWithoutWatch(t *testing.T) {
	inWatchedWorld(t, func(w *watched) {
		h := w.health()
		fake.Add(w.World, fake.Webshop("web", "web:1"))
		w.Intercept(func(r fake.Request, carryOut func() error) error {
			if r.Resource == "guardeddeployments" && r.Verb == "watch" {
				return apierrors.NewForbidden(schema.GroupResource{}, "", errors.New("watch"))
			}
			return carryOut()
		})
		w.Cut()
		w.Pass(40 * time.Second)
		for range 60 {
			w.Pass(5 * time.Second)
			expect.Answer(t, h, "/readyz", "", 503, "no change of guardeddeployments has been seen")
		}
		expect.Same(t, "times that it is told", 1, strings.Count(w.Logged(), "Blind"))
	})
}
