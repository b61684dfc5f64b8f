package telemetry

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/component-base/metrics"

	"github.com/belay-dev/belay/internal/expect"
	"github.com/belay-dev/belay/internal/serve"
)

var errFenced = errors.New("not sent")

// busyServer are answers after which an Event is sent again, refusedEvents those after which it is not.
var (
	busyServer = map[string]error{
		"too many requests": apierrors.NewTooManyRequests("slow down", 1),
		"internal error":    apierrors.NewInternalError(errors.New("etcdserver: leader changed")),
		"unavailable":       apierrors.NewServiceUnavailable("the server is starting"),
		"server timeout":    apierrors.NewServerTimeout(schema.GroupResource{Resource: "events"}, "create", 1),
		"bad gateway":       apierrors.NewGenericServerResponse(http.StatusBadGateway, "post", schema.GroupResource{Resource: "events"}, "e", "proxy", 0, true),
		"connection lost":   errors.New("read tcp: connection reset by peer"),
		"no answer in time": fmt.Errorf("post: %w", context.DeadlineExceeded),
	}
	refusedEvents = map[string]error{
		"forbidden": apierrors.NewForbidden(schema.GroupResource{}, "", errors.New("not here")),
		"invalid":   apierrors.NewInvalid(schema.GroupKind{Kind: "Event"}, "e", nil),
		"too large": apierrors.NewRequestEntityTooLargeError("too large"),
		"fenced":    fmt.Errorf("post: %w", errFenced),
	}
)

// postbox is where Events are sent to. It answers with the error as often as said, and then takes what comes.
type postbox struct {
	err      error
	failures int
	tries    int
}

func (p *postbox) Create(context.Context, *eventsv1.Event) (*eventsv1.Event, error) {
	p.tries++
	if p.tries <= p.failures {
		return nil, p.err
	}
	return &eventsv1.Event{}, nil
}

func (p *postbox) Update(context.Context, *eventsv1.Event) (*eventsv1.Event, error) {
	return nil, errors.New("the recorder never updates")
}

func (p *postbox) Patch(ctx context.Context, e *eventsv1.Event, _ []byte) (*eventsv1.Event, error) {
	return p.Create(ctx, e)
}

// post sends an Event both as a new one and as one that goes on, and calls check with what came of each.
func post(t *testing.T, err error, failures int, check func(t *testing.T, box *postbox, dropped bool, answer error)) {
	for _, patch := range []bool{false, true} {
		t.Run(fmt.Sprintf("patch=%t", patch), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				counted := NewMetrics()
				registry := metrics.NewKubeRegistry()
				registry.MustRegister(counted.EventsDropped)
				box := &postbox{err: err, failures: failures}
				sink := &EventSink{EventSink: box, Dropped: counted.EventsDropped, Final: errFenced}
				var answer error
				if patch {
					_, answer = sink.Patch(t.Context(), &eventsv1.Event{}, nil)
				} else {
					_, answer = sink.Create(t.Context(), &eventsv1.Event{})
				}
				_, scrape := expect.AnswerOf(serve.Metrics(registry, false), "/metrics", "")
				check(t, box, strings.HasSuffix(scrape, "belay_events_dropped_total 1"), answer)
			})
		})
	}
}

func TestEventSink_Retries(t *testing.T) {
	for name, err := range busyServer {
		t.Run(name, func(t *testing.T) {
			post(t, err, 3, func(t *testing.T, box *postbox, dropped bool, answer error) {
				if answer != nil || box.tries != 4 || dropped {
					t.Errorf("%v after %d tries, dropped: %t; want it to arrive with the fourth", answer, box.tries, dropped)
				}
			})
		})
	}
}

func TestEventSink_Refused(t *testing.T) {
	for name, err := range refusedEvents {
		t.Run(name, func(t *testing.T) {
			post(t, err, 1, func(t *testing.T, box *postbox, dropped bool, answer error) {
				if answer == nil || box.tries != 1 || !dropped {
					t.Errorf("%v after %d tries, dropped and counted: %t; want an error after one, and that", answer, box.tries, dropped)
				}
			})
		})
	}
}

func TestEventSink_GivesUpAfterTwoMinutes(t *testing.T) {
	for name, err := range busyServer {
		t.Run(name, func(t *testing.T) {
			post(t, err, 1000, func(t *testing.T, box *postbox, dropped bool, answer error) {
				if box.tries != 8 || !dropped {
					t.Errorf("%d tries, dropped and counted: %t; want 8, and that", box.tries, dropped)
				}
				if !errors.As(answer, new(*apierrors.StatusError)) {
					t.Errorf("the recorder hears %T %v: it would try for two minutes more", answer, answer)
				}
			})
		})
	}
}

func TestEventSink_HowLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began, box := time.Now(), &postbox{err: busyServer["unavailable"], failures: 1000}
		_, _ = (&EventSink{EventSink: box, Dropped: NewMetrics().EventsDropped}).Create(t.Context(), &eventsv1.Event{})
		if took := time.Since(began); took < 2*time.Minute || took > 3*time.Minute {
			t.Errorf("given up after %s, want two to three minutes", took)
		}
	})
}

// What the recorder has to hear, it hears, and it is no loss.
func TestEventSink_Series(t *testing.T) {
	events := schema.GroupResource{Group: "events.k8s.io", Resource: "events"}
	for name, err := range map[string]error{"not found": apierrors.NewNotFound(events, "e"), "already exists": apierrors.NewAlreadyExists(events, "e")} {
		t.Run(name, func(t *testing.T) {
			post(t, err, 1, func(t *testing.T, box *postbox, dropped bool, answer error) {
				if answer != err || box.tries != 1 || dropped {
					t.Errorf("%v after %d tries, counted: %t; want %v after one, and not that", answer, box.tries, dropped, err)
				}
			})
		})
	}
}
