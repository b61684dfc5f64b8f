package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	appsinformers "k8s.io/client-go/informers/apps/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/klog/v2"

	"github.com/belay-dev/belay/internal/fairqueue"
	"github.com/belay-dev/belay/internal/freshness"
	"github.com/belay-dev/belay/internal/standstill"
	"github.com/belay-dev/belay/internal/telemetry"
	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
	belayinformers "github.com/belay-dev/belay/pkg/generated/informers/externalversions/belay/v1alpha1"
)

const (
	// stuckAfter is how long a sync may go on: far longer than its timeout, so that it will never end.
	stuckAfter = 2 * time.Minute
	// drainTimeout is how long a running sync may go on after SIGTERM: the next leader is waiting.
	drainTimeout = 2 * time.Second
	// Failures of one key are retried after retryFirst, doubling up to retryMost.
	retryFirst, retryMost = 5 * time.Millisecond, 30 * time.Second
)

// Reconcile brings the object of one key as far as it goes without waiting. It returns when to reconcile again although nothing
// happened, 0 for never; an error says that trying again may help. A key is with one worker at a time.
type Reconcile func(ctx context.Context, key cache.ObjectName) (recheck time.Duration, err error)

// Controller is the frame: an event makes a key, and workers hand the keys to reconcile, again and again after errors. What
// becomes of an object is none of its business.
type Controller struct {
	reconcile  Reconcile
	queue      workqueue.TypedRateLimitingInterface[cache.ObjectName]
	synced     []cache.DoneChecker
	standstill *standstill.Tracker
	metrics    *telemetry.Metrics

	mu      sync.Mutex
	working map[cache.ObjectName]time.Time // what the workers are at, and since when
}

// NewController returns a controller that hears of every change in the informers, which have to be started after it. It lets
// report tell of objects that stand still.
func NewController(reconcile Reconcile, report standstill.Report, metrics *telemetry.Metrics,
	guarded belayinformers.TypedGuardedDeploymentInformer,
	deployments appsinformers.TypedDeploymentInformer,
	revisions appsinformers.TypedControllerRevisionInformer,
) (*Controller, error) {
	c := &Controller{
		reconcile:  reconcile,
		queue:      fairqueue.New("guardeddeployments", retryFirst, retryMost),
		standstill: standstill.New(metrics.Standstills, report),
		metrics:    metrics,
		working:    map[cache.ObjectName]time.Time{},
	}
	var err error
	handle := func(registration cache.ResourceEventHandlerRegistration, failed error) {
		err = errors.Join(err, failed)
		if failed == nil {
			c.synced = append(c.synced, registration.HasSyncedChecker())
		}
	}
	handle(guarded.TypedInformer().AddTypedEventHandler(belayinformers.GuardedDeploymentHandlerFuncs{
		AddFunc:    func(g *v1alpha1.GuardedDeployment) { c.queue.Add(cache.MetaObjectToName(g)) },
		UpdateFunc: func(_, g *v1alpha1.GuardedDeployment) { c.queue.Add(cache.MetaObjectToName(g)) },
		DeleteFunc: func(g belayinformers.DeletedGuardedDeployment) { c.queue.Add(g.GetObjectName()) },
	}))
	handle(deployments.TypedInformer().AddTypedEventHandler(appsinformers.DeploymentHandlerFuncs{
		AddFunc:    func(d *appsv1.Deployment) { c.enqueueOwner(d); c.queue.Add(cache.MetaObjectToName(d)) },
		UpdateFunc: func(_, d *appsv1.Deployment) { c.enqueueOwner(d); c.queue.Add(cache.MetaObjectToName(d)) },
		DeleteFunc: func(d appsinformers.DeletedDeployment) { c.queue.Add(d.GetObjectName()) },
	}))
	handle(revisions.TypedInformer().AddTypedEventHandler(appsinformers.ControllerRevisionHandlerFuncs{
		AddFunc:    func(r *appsv1.ControllerRevision) { c.enqueueOwner(r) },
		UpdateFunc: func(before, r *appsv1.ControllerRevision) { c.enqueueOwner(before); c.enqueueOwner(r) },
		DeleteFunc: func(r appsinformers.DeletedControllerRevision) {
			if r.OptionalObj != nil {
				c.enqueueOwner(r.OptionalObj)
			}
		},
	}))
	return c, err
}

// enqueueOwner adds the key of the GuardedDeployment that controls object, if one does.
func (c *Controller) enqueueOwner(object metav1.Object) {
	owner := metav1.GetControllerOf(object)
	if owner != nil && owner.Kind == "GuardedDeployment" && owner.APIVersion == v1alpha1.GroupVersion.String() {
		c.queue.Add(cache.NewObjectName(object.GetNamespace(), owner.Name))
	}
}

// Run works until ctx is done, and returns when the last worker has finished what it had begun.
func (c *Controller) Run(ctx context.Context, workers int) error {
	// A sync that has begun is finished, if it can be, also after ctx is done. What still waits in the queue, which hands
	// it out even after ShutDown, is left to the next process.
	work, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()
	var running sync.WaitGroup
	defer running.Wait()
	defer c.queue.ShutDown()
	if !cache.WaitFor(ctx, "caches", c.synced...) {
		return context.Cause(ctx)
	}
	context.AfterFunc(ctx, func() { time.AfterFunc(drainTimeout, cut) })
	for range workers {
		running.Go(func() {
			for ctx.Err() == nil && c.next(work) {
			}
		})
	}
	klog.FromContext(ctx).Info("Started", "workers", workers)
	<-ctx.Done()
	return nil
}

// next syncs the next key, and says what becomes of its errors. It returns false when there is no more work.
func (c *Controller) next(ctx context.Context) bool {
	key, shutdown := c.queue.Get()
	if shutdown {
		return false
	}
	defer c.queue.Done(key)
	began := c.begin(key)
	defer c.end(key)
	logger := klog.LoggerWithValues(klog.FromContext(ctx), "object", key)
	ctx = klog.NewContext(ctx, logger)

	recheck, err := c.reconcile(ctx, key)
	c.standstill.After(ctx, key, began, err)
	var stale *freshness.StaleError
	switch {
	case err == nil:
		c.queue.Forget(key)
		if recheck > 0 {
			c.queue.AddAfter(key, recheck)
		}
	case errors.As(err, &stale), apierrors.IsConflict(err):
		// News brings the key back at once. Trying without it costs requests: not more often than after a failure.
		logger.V(4).Info("Waiting for news", "reason", err)
		c.metrics.StaleSyncs.Inc()
		c.queue.AddRateLimited(key)
	default:
		logger.Error(err, "Sync failed, trying again", "failures", c.queue.NumRequeues(key)+1)
		c.metrics.SyncErrors.Inc()
		c.queue.AddRateLimited(key)
	}
	return true
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

// begin notes that a worker is at key, and returns since when.
func (c *Controller) begin(key cache.ObjectName) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	began := time.Now()
	c.working[key] = began
	return began
}

// end notes that the worker is done with key.
func (c *Controller) end(key cache.ObjectName) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.working, key)
}

// Both reconciles in two ways, one after the other, also after an error: what has one name may be two objects.
func Both(first, second Reconcile) Reconcile {
	return func(ctx context.Context, key cache.ObjectName) (time.Duration, error) {
		recheck, err := first(ctx, key)
		sooner, other := second(ctx, key)
		if recheck == 0 || (sooner > 0 && sooner < recheck) {
			recheck = sooner
		}
		return recheck, errors.Join(err, other)
	}
}
