package serve

import (
	"errors"
	"testing"

	"github.com/belay-dev/belay/internal/expect"
)

func TestHealth_Paths(t *testing.T) {
	h := &Health{}
	for path, want := range map[string]int{"/livez": 200, "/readyz": 200, "/": 404, "/healthz": 404, "/metrics": 404} {
		expect.Answer(t, h, path, "", want, "")
	}
}

func TestHealth_WhileStarting(t *testing.T) {
	h := &Health{}
	h.Set(nil, func() error { return errors.New("starting") })
	expect.Answer(t, h, "/livez", "", 200, "ok")
	expect.Answer(t, h, "/readyz", "", 503, "starting")
}
