package telemetry

import (
	"context"
	"errors"
	"time"

	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/tools/events"
	"k8s.io/client-go/util/retry"
	"k8s.io/component-base/metrics"
)

// retries is how an Event is tried again: for about two minutes.
var retries = wait.Backoff{Duration: time.Second, Factor: 2, Jitter: 0.2, Steps: 8} // A Cap would end it when reached.

// EventSink sends Events. client-go's recorder gives one up at the first error that the API server answers, even if it
// answers that it is busy; here all but refusals are tried again, and what is given up is counted.
type EventSink struct {
	events.EventSink
	Dropped *metrics.Counter
	// Final is an error after which no Event is tried again.
	Final error
}

func (s *EventSink) Create(ctx context.Context, event *eventsv1.Event) (*eventsv1.Event, error) {
	return s.send(func() (*eventsv1.Event, error) { return s.EventSink.Create(ctx, event) })
}

func (s *EventSink) Patch(ctx context.Context, event *eventsv1.Event, data []byte) (*eventsv1.Event, error) {
	return s.send(func() (*eventsv1.Event, error) { return s.EventSink.Patch(ctx, event, data) })
}

func (s *EventSink) send(try func() (*eventsv1.Event, error)) (sent *eventsv1.Event, err error) {
	err = retry.OnError(retries, s.mayPass, func() error {
		sent, err = try()
		return err
	})
	switch {
	case err == nil, apierrors.IsAlreadyExists(err), apierrors.IsNotFound(err): // The recorder knows these: a series goes on.
		return sent, err
	case errors.As(err, new(*apierrors.StatusError)):
	default:
		err = apierrors.NewInternalError(err) // the recorder would try again by itself
	}
	s.Dropped.Inc()
	return nil, err
}

// mayPass reports whether an error may be over when it is tried again: no answer came, or one that says so.
func (s *EventSink) mayPass(err error) bool {
	if errors.Is(err, s.Final) || errors.Is(err, context.Canceled) {
		return false
	}
	var status *apierrors.StatusError
	return !errors.As(err, &status) || apierrors.IsTooManyRequests(err) || apierrors.IsServerTimeout(err) ||
		apierrors.IsTimeout(err) || apierrors.IsInternalError(err) || apierrors.IsServiceUnavailable(err)
}
