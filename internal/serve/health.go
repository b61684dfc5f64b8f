package serve

import (
	"fmt"
	"net/http"
	"sync"

	"k8s.io/klog/v2"
)

// Health is what /livez and /readyz answer.
type Health struct {
	mu           sync.Mutex
	alive, ready func() error
}

// Set makes h answer what alive and ready return, from now on. A nil one means yes.
func (h *Health) Set(alive, ready func() error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.alive, h.ready = alive, ready
}

func (h *Health) ServeHTTP(w http.ResponseWriter, r *http.Request) {
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
