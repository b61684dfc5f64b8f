// Command workqueue is a controller in the small: events make keys, a queue holds them, workers work on them, and a key
// whose work fails comes back later.
//
// The queue holds keys, not events: ten changes of one object while its key waits are one piece of work, done on what the
// object is by then. One key is never worked on twice at the same time; if it is added meanwhile, it comes once more
// afterwards. Each failure of a key doubles its delay, and holds up no other. Done has to follow every Get. Forget has to
// follow success: without it the next failure, a week later, waits as if all the earlier ones had just happened.
//
// Here the key test-deployment always fails. After maxRetries it is given up, and said so. Belay itself never gives up: a
// cap on the delay costs next to nothing, and what is broken is mended in the end.
package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	dto "github.com/prometheus/client_model/go"
	appsv1 "k8s.io/api/apps/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/informers"
	appsinformers "k8s.io/client-go/informers/apps/v1"
	"k8s.io/client-go/kubernetes"
	appslisters "k8s.io/client-go/listers/apps/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/component-base/metrics/legacyregistry"
	_ "k8s.io/component-base/metrics/prometheus/workqueue" // Queues that have a name are counted.

	"github.com/belay-dev/belay/examples/internal/start"
)

const (
	alwaysFails = "test-deployment"
	maxRetries  = 5
	queueName   = "deployments"
	workers     = 2
	// The delay after the first failure of a key, and the longest. client-go's own are 5 ms and 1000 s, and a bucket that
	// all keys share lets no more than ten of them through in a second.
	retryFirst, retryMost = 100 * time.Millisecond, 30 * time.Second
)

type controller struct {
	queue       workqueue.TypedRateLimitingInterface[cache.ObjectName]
	deployments appslisters.DeploymentLister
	lastTry     sync.Map // key -> when it last failed, to show the delays
}

func main() {
	start.Main("works on the Deployments of a namespace, and fails for one of them, until it is interrupted.", run)
}

func run(ctx context.Context, config start.Config) error {
	client, err := kubernetes.NewForConfig(config.Config)
	if err != nil {
		return err
	}
	if err := start.Probe(ctx, client.AppsV1().Deployments(config.Namespace).List); err != nil {
		return err
	}
	factory := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithNamespace(config.Namespace))
	deployments := factory.Apps().V1().Deployments()
	c := &controller{
		queue: workqueue.NewTypedRateLimitingQueueWithConfig(
			workqueue.NewTypedItemExponentialFailureRateLimiter[cache.ObjectName](retryFirst, retryMost),
			workqueue.TypedRateLimitingQueueConfig[cache.ObjectName]{Name: queueName},
		),
		deployments: deployments.Lister(),
	}
	heard, err := deployments.TypedInformer().AddTypedEventHandler(appsinformers.DeploymentHandlerFuncs{
		AddFunc:    func(d *appsv1.Deployment) { c.queue.Add(cache.MetaObjectToName(d)) },
		UpdateFunc: func(_, d *appsv1.Deployment) { c.queue.Add(cache.MetaObjectToName(d)) },
		DeleteFunc: func(d appsinformers.DeletedDeployment) { c.queue.Add(d.GetObjectName()) },
	})
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	factory.StartWithContext(ctx)
	defer factory.Shutdown()
	defer stop()
	if err := start.Sync(ctx, heard); err != nil {
		return err
	}
	before := c.queue.Len()
	for range 3 {
		c.queue.Add(cache.NewObjectName(config.Namespace, alwaysFails))
	}
	fmt.Printf("%s added 3 times: %d more in the queue\n", alwaysFails, c.queue.Len()-before)

	var running sync.WaitGroup
	for range workers {
		running.Go(func() {
			for c.next(ctx) {
			}
		})
	}
	<-ctx.Done()
	c.queue.ShutDown() // Get hands out what is left, then says that there is no more.
	running.Wait()     // What has begun is finished.
	return printMetrics()
}

// next works on one key. It returns false when there will be no more.
func (c *controller) next(ctx context.Context) bool {
	key, shutdown := c.queue.Get()
	if shutdown {
		return false
	}
	defer c.queue.Done(key)
	err := c.sync(ctx, key)
	if err == nil {
		c.queue.Forget(key)
		return true
	}
	waited := ""
	if last, ok := c.lastTry.Swap(key, time.Now()); ok {
		waited = fmt.Sprintf(", %s after the last", time.Since(last.(time.Time)).Round(10*time.Millisecond))
	}
	retries := c.queue.NumRequeues(key)
	fmt.Printf("%s: try %d failed%s: %v\n", key, retries+1, waited, err)
	if retries < maxRetries {
		c.queue.AddRateLimited(key)
		return true
	}
	c.queue.Forget(key)
	c.lastTry.Delete(key)
	fmt.Printf("%s: given up after %d retries; the next change of it is a new beginning\n", key, retries)
	return true
}

// sync does the work for one key: whatever happened, it looks at what is there now.
func (c *controller) sync(_ context.Context, key cache.ObjectName) error {
	if key.Name == alwaysFails {
		return errors.New("as it always does")
	}
	deployment, err := c.deployments.Deployments(key.Namespace).Get(key.Name)
	if apierrors.IsNotFound(err) {
		fmt.Printf("%s: gone\n", key)
		return nil
	}
	if err != nil {
		return err
	}
	fmt.Printf("%s: %d of %d ready\n", key, deployment.Status.ReadyReplicas, *deployment.Spec.Replicas)
	return nil
}

// printMetrics prints what a server of /metrics would show about the queue.
func printMetrics() error {
	families, err := legacyregistry.DefaultGatherer.Gather()
	if err != nil {
		return err
	}
	for _, family := range families {
		if !strings.HasPrefix(family.GetName(), "workqueue_") {
			continue
		}
		for _, metric := range family.Metric {
			if !slices.ContainsFunc(metric.Label, func(l *dto.LabelPair) bool { return l.GetValue() == queueName }) {
				continue // The client has a queue of its own, for its certificate.
			}
			switch {
			case metric.Counter != nil:
				fmt.Println(family.GetName(), metric.Counter.GetValue())
			case metric.Gauge != nil:
				fmt.Println(family.GetName(), metric.Gauge.GetValue())
			case metric.Histogram != nil:
				fmt.Println(family.GetName()+"_count", metric.Histogram.GetSampleCount())
			}
		}
	}
	return nil
}
