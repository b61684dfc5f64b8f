package start

import (
	"context"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"
)

const (
	// askTimeout bounds one request.
	askTimeout = 30 * time.Second
	// syncTimeout bounds how long Sync waits.
	syncTimeout = 30 * time.Second
)

// Probe lists one object, with the list of a typed client. An informer tries for ever, and a wrong address or a missing
// right shows in its log at best: what cannot work is found out before it starts.
func Probe[L any](ctx context.Context, list func(context.Context, metav1.ListOptions) (L, error)) error {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	_, err := list(ctx, metav1.ListOptions{Limit: 1})
	return err
}

// Sync waits until the handlers have been told of everything that was there at the start. Waiting for the caches alone is
// not enough: they are filled before the handlers hear of it.
func Sync(ctx context.Context, handlers ...cache.ResourceEventHandlerRegistration) error {
	ctx, cancel := context.WithTimeoutCause(ctx, syncTimeout, fmt.Errorf("the caches are not filled after %s", syncTimeout))
	defer cancel()
	var synced []cache.DoneChecker
	for _, handler := range handlers {
		synced = append(synced, handler.HasSyncedChecker())
	}
	if !cache.WaitFor(ctx, "", synced...) {
		return context.Cause(ctx)
	}
	return nil
}
