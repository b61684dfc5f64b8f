package fakecluster

import (
	"context"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/klog/v2"
)

// Reconcile brings the object of one key as far as it goes, as a controller asks it to.
type Reconcile func(ctx context.Context, key cache.ObjectName) (recheck time.Duration, err error)

// Drive hands the keys of what the informers bring to reconcile until ctx is done, and failures again after 5 ms, doubling up to
// 30 s. It stands for a controller where what is tested is the reconciler: no turns, no drain, no health.
func Drive(ctx context.Context, reconcile Reconcile, informers ...cache.SharedIndexInformer) {
	queue := workqueue.NewTypedRateLimitingQueue(workqueue.NewTypedItemExponentialFailureRateLimiter[cache.ObjectName](5*time.Millisecond, 30*time.Second))
	var synced []cache.DoneChecker
	for _, informer := range informers {
		registration, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc:    func(added any) { enqueue(queue, added) },
			UpdateFunc: func(before, after any) { enqueue(queue, before); enqueue(queue, after) },
			DeleteFunc: func(deleted any) { enqueue(queue, deleted) },
		})
		must(err)
		synced = append(synced, registration.HasSyncedChecker())
	}
	defer context.AfterFunc(ctx, queue.ShutDown)()
	if !cache.WaitFor(ctx, "caches", synced...) {
		return
	}
	work(ctx, queue, reconcile)
}

// enqueue adds the key of an object, and that of its controller.
func enqueue(queue workqueue.TypedInterface[cache.ObjectName], object any) {
	if gone, ok := object.(cache.DeletedFinalStateUnknown); ok {
		object = gone.Obj
	}
	o, ok := object.(metav1.Object)
	if !ok {
		return
	}
	if _, revision := object.(*appsv1.ControllerRevision); !revision {
		queue.Add(cache.MetaObjectToName(o))
	}
	if owner := metav1.GetControllerOf(o); owner != nil {
		queue.Add(cache.NewObjectName(o.GetNamespace(), owner.Name))
	}
}

func work(ctx context.Context, queue workqueue.TypedRateLimitingInterface[cache.ObjectName], do Reconcile) {
	var workers sync.WaitGroup
	defer workers.Wait()
	for range 4 {
		workers.Go(func() {
			for ctx.Err() == nil {
				key, shutdown := queue.Get()
				if shutdown {
					return
				}
				logger := klog.LoggerWithValues(klog.FromContext(ctx), "object", key)
				recheck, err := do(klog.NewContext(context.WithoutCancel(ctx), logger), key)
				switch {
				case err != nil:
					logger.V(1).Info("Trying again", "reason", err)
					queue.AddRateLimited(key)
				case recheck > 0:
					queue.Forget(key)
					queue.AddAfter(key, recheck)
				default:
					queue.Forget(key)
				}
				queue.Done(key)
			}
		})
	}
}
