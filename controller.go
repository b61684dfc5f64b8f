package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	appsinformers "k8s.io/client-go/informers/apps/v1"
	"k8s.io/client-go/kubernetes"
	appslisters "k8s.io/client-go/listers/apps/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/events"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/klog/v2"

	"github.com/belay-dev/belay/internal/fairqueue"
	"github.com/belay-dev/belay/internal/freshness"
	"github.com/belay-dev/belay/internal/telemetry"
	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
	"github.com/belay-dev/belay/pkg/generated/clientset/versioned"
	belayinformers "github.com/belay-dev/belay/pkg/generated/informers/externalversions/belay/v1alpha1"
	belaylisters "github.com/belay-dev/belay/pkg/generated/listers/belay/v1alpha1"
	"github.com/belay-dev/belay/pkg/rollout"
)

const (
	// byController indexes what is owned by its controller.
	byController = "controller"

	// maxSteps bounds the decisions of one sync: a revision recorded, judged, the Deployment written, and what became of it.
	maxSteps = 5
	// syncTimeout bounds one sync, with all its requests.
	syncTimeout = 30 * time.Second
	// stuckAfter is how long a sync may go on: far longer than its timeout, so that it will never end.
	stuckAfter = 2 * time.Minute
	// drainTimeout is what is left for a sync to end in when the process is to end: another one waits for its turn.
	drainTimeout = 2 * time.Second
	// Failures of one key are retried after retryFirst, doubling up to retryMost.
	retryFirst, retryMost = 5 * time.Millisecond, 30 * time.Second

	// lookEvery is the time between two live reads for one object; more objects on the move stretch it, by lookStretch
	// each, so that all together read no more than 1/lookStretch objects a second. A hint may bring one read forward.
	lookEvery, lookStretch = 3 * time.Second, 20 * time.Millisecond
)

// Controller keeps the Deployment of every GuardedDeployment on the revision it should run.
//
// An event makes a key; sync observes what the key names, lets rollout.Decide decide, and carries the decision out.
type Controller struct {
	kube     kubernetes.Interface
	belay    versioned.Interface
	recorder events.EventRecorder

	guarded     belaylisters.GuardedDeploymentLister
	deployments appslisters.DeploymentLister
	controlled  cache.TypedIndexer[*appsv1.Deployment]
	revisions   cache.TypedIndexer[*appsv1.ControllerRevision]
	// The stores behind them, for freshness.
	guardedStore, deploymentStore, revisionStore cache.Store
	synced                                       []cache.DoneChecker

	queue workqueue.TypedRateLimitingInterface[cache.ObjectName]
	fresh *freshness.Tracker

	metrics *telemetry.Metrics

	mu       sync.Mutex
	memories map[cache.ObjectName]rollout.Memory
	moving   int                            // how many of them are on the move
	working  map[cache.ObjectName]time.Time // what the workers are at, and since when
	still    map[cache.ObjectName]*standstill
}

// NewController returns a controller that hears of every change in the informers. They have to be started after it.
func NewController(kube kubernetes.Interface, belay versioned.Interface, recorder events.EventRecorder, metrics *telemetry.Metrics,
	guarded belayinformers.TypedGuardedDeploymentInformer,
	deployments appsinformers.TypedDeploymentInformer,
	revisions appsinformers.TypedControllerRevisionInformer,
) (*Controller, error) {
	c := &Controller{
		kube:            kube,
		belay:           belay,
		recorder:        recorder,
		guarded:         guarded.Lister(),
		deployments:     deployments.Lister(),
		controlled:      deployments.TypedInformer().GetTypedIndexer(),
		revisions:       revisions.TypedInformer().GetTypedIndexer(),
		guardedStore:    guarded.Informer().GetStore(),
		deploymentStore: deployments.Informer().GetStore(),
		revisionStore:   revisions.Informer().GetStore(),
		queue:           fairqueue.New("guardeddeployments", retryFirst, retryMost),
		fresh:           freshness.New(),
		metrics:         metrics,
		memories:        map[cache.ObjectName]rollout.Memory{},
		working:         map[cache.ObjectName]time.Time{},
		still:           map[cache.ObjectName]*standstill{},
	}
	err := errors.Join(
		deployments.TypedInformer().AddTypedIndexers(appsinformers.DeploymentIndexers{byController: controllerOf[*appsv1.Deployment]}),
		revisions.TypedInformer().AddTypedIndexers(appsinformers.ControllerRevisionIndexers{byController: controllerOf[*appsv1.ControllerRevision]}),
	)
	if err != nil {
		return nil, fmt.Errorf("index by controller: %w", err)
	}
	heard := func(registration cache.ResourceEventHandlerRegistration, failed error) {
		err = errors.Join(err, failed)
		if failed == nil {
			c.synced = append(c.synced, registration.HasSyncedChecker())
		}
	}
	heard(guarded.TypedInformer().AddTypedEventHandler(belayinformers.GuardedDeploymentHandlerFuncs{
		AddFunc:    func(g *v1alpha1.GuardedDeployment) { c.queue.Add(cache.MetaObjectToName(g)) },
		UpdateFunc: func(_, g *v1alpha1.GuardedDeployment) { c.queue.Add(cache.MetaObjectToName(g)) },
		DeleteFunc: func(g belayinformers.DeletedGuardedDeployment) { c.queue.Add(g.GetObjectName()) },
	}))
	heard(deployments.TypedInformer().AddTypedEventHandler(appsinformers.DeploymentHandlerFuncs{
		AddFunc:    func(d *appsv1.Deployment) { c.enqueueOwner(d); c.queue.Add(cache.MetaObjectToName(d)) },
		UpdateFunc: func(_, d *appsv1.Deployment) { c.enqueueOwner(d); c.queue.Add(cache.MetaObjectToName(d)) },
		DeleteFunc: func(d appsinformers.DeletedDeployment) { c.queue.Add(d.GetObjectName()) },
	}))
	heard(revisions.TypedInformer().AddTypedEventHandler(appsinformers.ControllerRevisionHandlerFuncs{
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

// controllerOf returns, for an index, the object's controller, if it has one.
func controllerOf[T metav1.Object](object T) ([]string, error) {
	if owner := metav1.GetControllerOfNoCopy(object); owner != nil {
		return []string{ownerKey(object.GetNamespace(), owner.UID)}, nil
	}
	return nil, nil
}

// ownerKey identifies an owner by its uid, in its namespace: elsewhere anybody may claim to be owned by it.
func ownerKey(namespace string, uid types.UID) string { return namespace + "/" + string(uid) }

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
	c.begin(key)
	defer c.end(key)
	logger := klog.LoggerWithValues(klog.FromContext(ctx), "guardeddeployment", key)
	ctx = klog.NewContext(ctx, logger)

	recheck, err := c.sync(ctx, key)
	if err == nil || errors.As(err, new(*unprunedError)) {
		c.movesOn(ctx, key)
	} else {
		c.standsStill(ctx, key, err)
	}
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

// sync brings one GuardedDeployment as far as it goes without waiting. It returns when to look again although nothing
// happened, 0 for never; an error says that trying again may help.
func (c *Controller) sync(ctx context.Context, key cache.ObjectName) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, syncTimeout)
	defer cancel()
	if err := c.fresh.Check(key); err != nil {
		return 0, err
	}
	observed, err := c.observe(key)
	if apierrors.IsNotFound(err) {
		c.forget(key)
		return c.letGo(ctx, key)
	}
	if err != nil {
		return 0, err
	}
	for range maxSteps {
		decision, err := c.decide(ctx, key, &observed)
		if err != nil {
			return 0, err
		}
		if again, err := c.carryOut(ctx, key, &observed, decision); err != nil || !again {
			return decision.Recheck, err
		}
	}
	return 0, &freshness.StaleError{Reason: "too many steps in one sync, beginning again"}
}

// decide lets rollout.Decide decide, and reads, live, what it asks for. It asks for nothing twice.
func (c *Controller) decide(ctx context.Context, key cache.ObjectName, o *rollout.Observed) (rollout.Decision, error) {
	for {
		var err error
		o.Now = time.Now()
		decision := rollout.Decide(*o)
		switch {
		case decision.NeedDeployment:
			o.Deployment, err = c.readDeployment(ctx, key)
			o.DeploymentLive = true
		case decision.NeedRevisions:
			o.Revisions, err = c.readRevisions(ctx, o.Guarded)
			o.RevisionsLive = true
		case decision.NeedEvidence:
			o.Evidence, err = c.readEvidence(ctx, o.Deployment)
		default:
			return decision, nil
		}
		if err != nil {
			return rollout.Decision{}, err
		}
	}
}

// observe gathers what the caches and this process know about key.
func (c *Controller) observe(key cache.ObjectName) (rollout.Observed, error) {
	guarded, err := c.guarded.GuardedDeployments(key.Namespace).Get(key.Name)
	if err != nil {
		return rollout.Observed{}, err
	}
	deployment, err := c.deployments.Deployments(key.Namespace).Get(key.Name)
	if err != nil && !apierrors.IsNotFound(err) {
		return rollout.Observed{}, err
	}
	controlled, err := c.controlled.ByTypedIndex(byController, ownerKey(key.Namespace, guarded.UID))
	if err != nil {
		return rollout.Observed{}, err
	}
	var strays []string
	for _, d := range controlled {
		if cache.MetaObjectToName(d) != key {
			strays = append(strays, d.Name)
		}
	}
	slices.Sort(strays)
	revisions, err := c.revisions.ByTypedIndex(byController, ownerKey(key.Namespace, guarded.UID))
	if err != nil {
		return rollout.Observed{}, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return rollout.Observed{
		Guarded:    guarded,
		Deployment: deployment,
		Strays:     strays,
		Revisions:  revisions,
		Memory:     c.memories[key],
		LookEvery:  max(lookEvery, time.Duration(c.moving)*lookStretch),
	}, nil
}

// remember keeps what has to be known at the next sync of key.
func (c *Controller) remember(key cache.ObjectName, memory rollout.Memory) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.memories[key].Move.UnderWay() {
		c.moving--
	}
	if memory.Move.UnderWay() {
		c.moving++
	}
	c.memories[key] = memory
}

// forget drops everything about an object that is gone.
func (c *Controller) forget(key cache.ObjectName) {
	c.remember(key, rollout.Memory{})
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.memories, key)
	c.fresh.Forget(key)
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
