package watchhealth

import (
	"context"
	"reflect"
	"sync"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
)

// listTimeout bounds a list, in seconds: ten thousand objects take a while.
const listTimeout = int64(60)

// listWatcher is a typed client, as far as an informer needs it.
type listWatcher[L objectList] interface {
	List(context.Context, metav1.ListOptions) (L, error)
	Watch(context.Context, metav1.ListOptions) (watch.Interface, error)
}

// Informer returns an informer of objects, each like object, whose requests are noted in w. The clientset is the one that
// client is of.
//
// A reflector's watch error handler is no help here: it does not hear of refused connections, of streams that break or bring
// nothing, or that all is well again.
func Informer[L objectList](w *Watches, source Source, object runtime.Object, clientset any, client listWatcher[L]) cache.SharedIndexInformer {
	resource := source.Resource
	source.list = func() objectList { return reflect.New(reflect.TypeFor[L]().Elem()).Interface().(objectList) }
	at := &sight{source: source, newest: func(ctx context.Context) (string, error) {
		one, err := client.List(ctx, metav1.ListOptions{Limit: 1})
		if err != nil {
			return "", err
		}
		return one.GetResourceVersion(), nil
	}}
	w.of[resource] = at
	requests := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
			options.LabelSelector = source.Selector
			if options.TimeoutSeconds == nil { // A watch comes with one.
				options.TimeoutSeconds = new(listTimeout)
			}
			w.asked(resource)
			list, err := client.List(ctx, options)
			if err != nil { // Otherwise the watch that follows tells: without it, nothing more is seen.
				w.answered(resource, err)
			}
			return list, err
		},
		WatchFuncWithContext: func(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
			options.LabelSelector = source.Selector
			w.asked(resource)
			events, err := client.Watch(ctx, options)
			if err == nil && options.SendInitialEvents != nil && *options.SendInitialEvents {
				return watchedTo(events, func() { w.answered(resource, nil) }), nil
			}
			w.answered(resource, err)
			return events, err
		},
	}
	informer := cache.NewSharedIndexInformerWithOptions(cache.ToListWatcherWithWatchListSemantics(requests, clientset), object,
		cache.SharedIndexInformerOptions{Indexers: cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc}})
	at.reached = informer.LastSyncResourceVersion
	return informer
}

// watchTo is a watch that says when all that there is has come.
type watchTo struct {
	watch.Interface
	events chan watch.Event
	stop   func()
}

// watchedTo returns events as they come, and calls all at the mark that ends the first of them.
func watchedTo(events watch.Interface, all func()) watch.Interface {
	stopped := make(chan struct{})
	w := &watchTo{events, make(chan watch.Event), sync.OnceFunc(func() { close(stopped) })}
	go func() {
		defer close(w.events)
		for event := range events.ResultChan() {
			if event.Type == watch.Bookmark {
				if mark, err := meta.Accessor(event.Object); err == nil && mark.GetAnnotations()[metav1.InitialEventsAnnotationKey] == "true" {
					all()
				}
			}
			select {
			case w.events <- event:
			case <-stopped:
				return
			}
		}
	}()
	return w
}

func (w *watchTo) ResultChan() <-chan watch.Event { return w.events }

// Stop ends the watch, and with it the goroutine.
func (w *watchTo) Stop() {
	w.stop()
	w.Interface.Stop()
}
