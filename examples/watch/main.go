// Command watch prints what becomes of the pods of a namespace, with nothing but list and watch.
//
// A watch is a stream of changes since one resourceVersion. It ends all the time: when its timeout has passed, when a
// connection breaks, when the server restarts. RetryWatcher then begins another one where the last event or bookmark was,
// so that nothing is lost or seen twice. What it cannot mend is a resourceVersion so old that the server has forgotten
// what came after it (410): then everything has to be listed again.
//
// Look at what is missing here before you build on it. Nobody knows which pods went while nobody watched; a change is
// seen once, and gone if its handling failed; a second watcher is a second stream from the server. An informer (see
// ../informer) lists, watches and lists again in the same way, and keeps the result: it finds what is gone by comparing,
// answers reads from memory, and serves every handler of a process from one stream. Use a watch for waiting until
// something happens once; use an informer for everything that goes on.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/cache"
	watchtools "k8s.io/client-go/tools/watch"

	"github.com/belay-dev/belay/examples/internal/start"
)

const (
	listTimeout = 30 * time.Second
	retryAfter  = time.Second // between two lists
)

func main() {
	timeout := flag.Duration("timeout", 5*time.Minute, "how long the server keeps one watch open; the next one goes on where it ended")
	start.Main("prints what becomes of the pods of a namespace, until it is interrupted.", func(ctx context.Context, config start.Config) error {
		client, err := kubernetes.NewForConfig(config.Config)
		if err != nil {
			return err
		}
		return run(ctx, client.CoreV1().Pods(config.Namespace), *timeout)
	})
}

// run lists, then watches, until ctx is done. The first list has to succeed.
func run(ctx context.Context, pods typedcorev1.PodInterface, timeout time.Duration) error {
	for first := true; ctx.Err() == nil; first = false {
		version, err := list(ctx, pods)
		if err == nil {
			err = follow(ctx, pods, version, timeout)
		} else if first {
			return err
		}
		if ctx.Err() != nil {
			break
		}
		fmt.Fprintf(os.Stderr, "listing again: %v\n", err)
		select {
		case <-ctx.Done():
		case <-time.After(retryAfter):
		}
	}
	return nil
}

// list prints the pods, and returns the resourceVersion as of which they are so.
func list(ctx context.Context, pods typedcorev1.PodInterface) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	all, err := pods.List(ctx, metav1.ListOptions{})
	if err != nil {
		return "", err
	}
	for i := range all.Items {
		show("LISTED", &all.Items[i])
	}
	fmt.Printf("%d pods as of resourceVersion %s\n", len(all.Items), all.ResourceVersion)
	return all.ResourceVersion, nil
}

// follow prints every change after version. It returns when it cannot go on: why is the error.
func follow(ctx context.Context, pods typedcorev1.PodInterface, version string, timeout time.Duration) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	one := func(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
		options.TimeoutSeconds = new(int64(timeout.Seconds()))
		fmt.Printf("watching from resourceVersion %s\n", options.ResourceVersion)
		stream, err := pods.Watch(ctx, options)
		if apierrors.IsResourceExpired(err) || apierrors.IsGone(err) {
			stop(err) // RetryWatcher ends when an event says so, but tries for ever when this answer does.
		}
		if err != nil {
			return nil, err
		}
		return watch.Filter(stream, showBookmark), nil
	}
	watcher, err := watchtools.NewRetryWatcherWithContext(ctx, version, &cache.ListWatch{WatchFuncWithContext: one})
	if err != nil {
		return err
	}
	defer func() { watcher.Stop(); <-watcher.Done() }()
	for event := range watcher.ResultChan() {
		if event.Type == watch.Error {
			return apierrors.FromObject(event.Object)
		}
		if pod, ok := event.Object.(*corev1.Pod); ok {
			show(string(event.Type), pod)
		}
	}
	return context.Cause(ctx)
}

// showBookmark prints bookmarks. They carry no change, only a resourceVersion to go on from: without them a watch on which
// nothing happens for long could not be resumed. RetryWatcher remembers it, and keeps them to itself.
func showBookmark(event watch.Event) (watch.Event, bool) {
	if pod, ok := event.Object.(*corev1.Pod); ok && event.Type == watch.Bookmark {
		fmt.Printf("BOOKMARK resourceVersion %s\n", pod.ResourceVersion)
	}
	return event, true
}

func show(what string, pod *corev1.Pod) {
	phase, ready, restarts := string(pod.Status.Phase), 0, int32(0)
	if pod.DeletionTimestamp != nil {
		phase = "Terminating"
	}
	for _, container := range pod.Status.ContainerStatuses {
		if container.Ready {
			ready++
		}
		restarts += container.RestartCount
	}
	fmt.Printf("%-8s %s %s, %d of %d ready, %d restarts\n", what, pod.Name, phase, ready, len(pod.Spec.Containers), restarts)
}
