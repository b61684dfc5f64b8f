// Package guard carries out what rollout decides for one GuardedDeployment: it observes what the caches know, lets
// rollout.Decide decide, reads live what that asks for, and writes. It is what a team replaces, together with pkg/rollout.
package guard

import (
	"context"
	"errors"
	"fmt"
	"slices"
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
	"k8s.io/klog/v2"

	"github.com/belay-dev/belay/internal/evidence"
	"github.com/belay-dev/belay/internal/freshness"
	"github.com/belay-dev/belay/internal/releases"
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
)

// Guard keeps the Deployment of every GuardedDeployment on the revision it should run.
type Guard struct {
	kube     kubernetes.Interface
	evidence *evidence.Reader
	belay    versioned.Interface
	recorder events.EventRecorder
	counter  releases.Counter

	objects     belaylisters.GuardedDeploymentLister
	deployments appslisters.DeploymentLister
	controlled  cache.TypedIndexer[*appsv1.Deployment]
	revisions   cache.TypedIndexer[*appsv1.ControllerRevision]
	// The stores behind them, for freshness.
	objectStore, deploymentStore, revisionStore cache.Store

	fresh    *freshness.Tracker
	memories *evidence.Memories[rollout.Memory]
}

// New returns a Guard that knows what the informers know. It adds indexers to them, so they have to be started after it.
func New(kube kubernetes.Interface, reader *evidence.Reader, belay versioned.Interface, recorder events.EventRecorder, counter releases.Counter,
	objects belayinformers.TypedGuardedDeploymentInformer,
	deployments appsinformers.TypedDeploymentInformer,
	revisions appsinformers.TypedControllerRevisionInformer,
) (*Guard, error) {
	err := errors.Join(
		deployments.TypedInformer().AddTypedIndexers(appsinformers.DeploymentIndexers{byController: controllerOf[*appsv1.Deployment]}),
		revisions.TypedInformer().AddTypedIndexers(appsinformers.ControllerRevisionIndexers{byController: controllerOf[*appsv1.ControllerRevision]}),
	)
	if err != nil {
		return nil, fmt.Errorf("index by controller: %w", err)
	}
	return &Guard{
		kube:            kube,
		evidence:        reader,
		belay:           belay,
		recorder:        recorder,
		counter:         counter,
		objects:         objects.Lister(),
		deployments:     deployments.Lister(),
		controlled:      deployments.TypedInformer().GetTypedIndexer(),
		revisions:       revisions.TypedInformer().GetTypedIndexer(),
		objectStore:     objects.Informer().GetStore(),
		deploymentStore: deployments.Informer().GetStore(),
		revisionStore:   revisions.Informer().GetStore(),
		fresh:           freshness.New(),
		memories:        evidence.NewMemories[rollout.Memory](reader),
	}, nil
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

// Reconcile brings one GuardedDeployment as far as it goes without waiting. It returns when to look again although nothing
// happened, 0 for never; an error says that trying again may help.
func (g *Guard) Reconcile(ctx context.Context, key cache.ObjectName) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, syncTimeout)
	defer cancel()
	if err := g.fresh.Check(key); err != nil {
		return 0, err
	}
	observed, err := g.observe(ctx, key)
	if apierrors.IsNotFound(err) {
		g.memories.Forget(key)
		g.fresh.Forget(key)
		return g.letGo(ctx, key)
	}
	if err != nil {
		return 0, err
	}
	for range maxSteps {
		decision, err := g.decide(ctx, key, &observed)
		if err != nil {
			return 0, err
		}
		if again, err := g.carryOut(ctx, key, &observed, decision); err != nil || !again {
			return decision.Recheck, err
		}
	}
	return 0, &freshness.StaleError{Reason: "too many steps in one sync, beginning again"}
}

// decide lets rollout.Decide decide, and reads, live, what the decision asks for. No read is asked for twice.
func (g *Guard) decide(ctx context.Context, key cache.ObjectName, o *rollout.Observed) (rollout.Decision, error) {
	var spent evidence.Budget
	for {
		var err error
		o.Now = time.Now()
		decision := rollout.Decide(*o)
		if logger := klog.FromContext(ctx).V(5); logger.Enabled() {
			logger.Info("Decided", "row", decision.Row())
		}
		switch {
		case decision.NeedDeployment:
			o.Deployment, err = g.observeDeployment(ctx, key)
			o.DeploymentLive = true
		case decision.NeedTarget:
			err = g.stillRecorded(ctx, key, o, decision.Target)
			o.TargetLive = true
		case decision.NeedRevisions:
			o.Revisions, err = g.readRevisions(ctx, key, o.Guarded)
			o.RevisionsLive = true
		case decision.NeedEvidence:
			o.Evidence, err = g.memories.Read(ctx, key, o.Deployment)
		case len(decision.NeedObjects) > 0:
			g.evidence.Objects(ctx, key.Namespace, o.Evidence, decision.NeedObjects)
		case decision.NeedDetails.Any():
			g.evidence.Details(ctx, key.Namespace, o.Evidence, decision.NeedDetails, &spent)
		default:
			return decision, nil
		}
		if err != nil {
			return rollout.Decision{}, err
		}
	}
}

// observe gathers what the caches and this process know about key. What a cache should show by now, and does not, is read live: by what was
// so before it, an outcome would be told a second time.
func (g *Guard) observe(ctx context.Context, key cache.ObjectName) (o rollout.Observed, err error) {
	o.Memory, o.PollInterval = g.memories.Of(key), g.evidence.Interval()
	if g.fresh.Lags(key, g.objectStore) {
		o.GuardedAt = time.Now()
		o.Guarded, err = g.observeGuarded(ctx, key)
	} else {
		o.Guarded, err = g.objects.GuardedDeployments(key.Namespace).Get(key.Name)
	}
	if err != nil {
		return o, err
	}
	if o.DeploymentLive = g.fresh.Lags(key, g.deploymentStore); o.DeploymentLive {
		o.Deployment, err = g.observeDeployment(ctx, key)
	} else if o.Deployment, err = g.deployments.Deployments(key.Namespace).Get(key.Name); apierrors.IsNotFound(err) {
		o.Deployment, err = nil, nil
	}
	if err != nil {
		return o, err
	}
	controlled, err := g.controlled.ByTypedIndex(byController, ownerKey(key.Namespace, o.Guarded.UID))
	if err != nil {
		return o, err
	}
	for _, d := range controlled {
		if cache.MetaObjectToName(d) != key {
			o.Strays = append(o.Strays, d.Name)
		}
	}
	slices.Sort(o.Strays)
	if o.RevisionsLive = g.fresh.Lags(key, g.revisionStore); o.RevisionsLive {
		o.Revisions, err = g.readRevisions(ctx, key, o.Guarded)
	} else {
		o.Revisions, err = g.revisions.ByTypedIndex(byController, ownerKey(key.Namespace, o.Guarded.UID))
	}
	return o, err
}
