package main

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
)

// stuckAfter is how long a sync may go on: far longer than its timeout, so that it will never end.
const stuckAfter = 2 * time.Minute

// health is what /livez and /readyz answer.
type health struct {
	mu           sync.Mutex
	alive, ready func() error
}

// set makes health answer what alive and ready return, from now on. A nil one has nothing against it.
func (h *health) set(alive, ready func() error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.alive, h.ready = alive, ready
}

func (h *health) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	check, known := map[string]func() error{"/livez": h.alive, "/readyz": h.ready}[r.URL.Path]
	h.mu.Unlock()
	if !known {
		http.NotFound(w, r)
		return
	}
	var err error
	if check != nil {
		err = check()
	}
	switch {
	case err != nil:
		klog.FromContext(r.Context()).Info("Not well", "asked", r.URL.Path, "reason", err)
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
	default:
		fmt.Fprintln(w, "ok")
	}
}

// Ready returns an error that names the caches that have not synced yet.
func (c *Controller) Ready() error {
	var waiting []string
	for _, synced := range c.synced {
		select {
		case <-synced.Done():
		default:
			what, _, _ := strings.Cut(synced.Name(), " + ") // the informer, without its handler
			waiting = append(waiting, what)
		}
	}
	if len(waiting) > 0 {
		return fmt.Errorf("waiting for the caches of %s", strings.Join(waiting, ", "))
	}
	return nil
}

// Alive returns an error that names what a worker is stuck at.
func (c *Controller) Alive() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for key, since := range c.working {
		if at := time.Since(since); at > stuckAfter {
			return fmt.Errorf("a worker is stuck at %s, for %s", key, at.Round(time.Second))
		}
	}
	return nil
}

// begin notes that a worker is at key.
func (c *Controller) begin(key cache.ObjectName) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.working[key] = time.Now()
}

// end notes that it is no more.
func (c *Controller) end(key cache.ObjectName) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.working, key)
}
