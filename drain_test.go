package main

import (
	"context"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/client-go/rest/fake"

	"k8s.io/client-go/rest"

	"github.com/belay-dev/belay/internal/kubeclient"
)

func TestWhatHasBegunHasTheTimeOfTheDrain(t *testing.T) {
	for name, c := range map[string]struct {
		answer time.Duration // how long the API server takes
		cut    bool
	}{
		"to finish":                    {answer: drainTimeout - time.Millisecond},
		"and is cut when that is over": {answer: time.Minute, cut: true},
	} {
		t.Run(name, func(t *testing.T) {
			inEmptyWorld(t, func(w *world) {
				belay := w.startBelay()
				synctest.Wait()
				asked, ended := make(chan time.Time, 100), make(chan error, 100)
				_, belay.belay, _ = kubeclient.New(&rest.Config{Host: "https://server", QPS: -1, Transport: fake.CreateHTTPClient(func(r *http.Request) (*http.Response, error) {
					asked <- time.Now()
					select {
					case <-r.Context().Done():
					case <-time.After(c.answer):
					}
					ended <- r.Context().Err()
					if err := r.Context().Err(); err != nil {
						return nil, err
					}
					return &http.Response{StatusCode: http.StatusNotFound, Body: http.NoBody}, nil
				}).Transport}, kubeclient.RequestTimeout, nil)
				add(w, webshop("web", "web:1"))
				<-asked
				terminated := time.Now()
				belay.stop()
				took := time.Since(terminated)
				err := <-ended
				if c.cut != (err == context.Canceled) || took != min(c.answer, drainTimeout) {
					t.Errorf("the request ended with %v, and Belay after %s", err, took)
				}
			})
		})
	}
}
