package preflight

import (
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/client-go/rest"

	"github.com/belay-dev/belay/internal/expect"
	"github.com/belay-dev/belay/internal/kubeclient"
)

func TestPreflight_SlowAnswers(t *testing.T) {
	for name, c := range map[string]struct {
		config rest.Config
		slow   time.Duration
	}{
		"a slow API server": {config: rest.Config{Host: "https://server", QPS: -1}, slow: time.Second},
		"few requests":      {config: rest.Config{Host: "https://server", QPS: 1, Burst: 1}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &server{}
				c.config.Transport = roundTrip(func(r *http.Request) (*http.Response, error) {
					select {
					case <-r.Context().Done():
					case <-time.After(c.slow):
					}
					return s.RoundTrip(r)
				})
				kube, _, err := kubeclient.New(&c.config, kubeclient.RequestTimeout, nil)
				expect.NoError(t, err)
				o := Config{LeaseNamespace: "belay-system", LeaseName: "belay", Reviews: true}
				if err := Run(t.Context(), "https://server", kube, o, func(error) {}); err != nil {
					t.Error(err)
				}
				t.Logf("%d asked", len(s.asked))
			})
		})
	}
}
