package main

import (
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/client-go/rest"
)

func TestPreflightPassesWhereEachAnswerTakesItsTime(t *testing.T) {
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
				kube, _, err := clients(&c.config, requestTimeout, nil)
				must(err)
				o := options{leaderElect: true, leaseNamespace: "belay-system", metricsAddress: ":8443"}
				if err := preflight(t.Context(), "https://server", kube, o, &health{}); err != nil {
					t.Error(err)
				}
				t.Logf("%d asked", len(s.asked))
			})
		})
	}
}
