// Package inplace guards Deployments as they are, those that carry the label belay.dev/guarded=in-place: it observes, lets
// rollout.DecideInPlace decide, and writes. A failed release is held back by labels on ReplicaSets, which the policy in
// artifacts/in-place makes the API server keep to; the Deployment's spec is never written.
package inplace

import (
	"context"
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	appsinformers "k8s.io/client-go/informers/apps/v1"
	"k8s.io/client-go/kubernetes"
	appslisters "k8s.io/client-go/listers/apps/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/events"
	"k8s.io/klog/v2"

	"github.com/belay-dev/belay/internal/evidence"
	"github.com/belay-dev/belay/internal/freshness"
	"github.com/belay-dev/belay/internal/releases"
	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
	"github.com/belay-dev/belay/pkg/rollout"
)

const (
	// maxSteps bounds the decisions of one sync: the verdict, a hold for each ReplicaSet that has pods, and what became of them.
	maxSteps = 12
	// syncTimeout bounds one sync, with all its requests.
	syncTimeout = 30 * time.Second
)

// Guard takes failed releases of labelled Deployments back.
type Guard struct {
	kube     kubernetes.Interface
	read     *evidence.Reader
	recorder events.EventRecorder
	counter  releases.Counter
	settings *settings
	others   Others
	pretend  pretence

	deployments appslisters.DeploymentLister
	store       cache.Store // behind it, for freshness
	fresh       *freshness.Tracker
	memories    *evidence.Memories[memory]
}

// memory is what is known of one Deployment.
type memory struct {
	rollout.InPlaceMemory
	refusal refusal // of a write, zero if none was refused
}

// refusal is what the API server has refused for as long as nobody has changed anything about it, and what was told of it.
type refusal struct {
	text  string
	about string    // what was asked for
	until time.Time // when to try again
}

// left returns how long there is nothing to try for the Deployment.
func (r refusal) left(d *appsv1.Deployment) time.Duration {
	wait := time.Until(r.until)
	if wait <= 0 || r.about != askedOf(d) {
		return 0
	}
	return wait
}

// askedOf names what a Deployment asks for: each release is another one, whether or not the Deployment controller has seen it, and so is
// each retry.
func askedOf(d *appsv1.Deployment) string {
	return fmt.Sprintf("%s/%s/%s/%s", d.UID, rollout.TemplateHash(&d.Spec.Template), d.Annotations[rollout.SetNumber], d.Annotations[v1alpha1.RetryAnnotation])
}

// Options are what the flags say.
type Options struct {
	// Defaults is what neither a Deployment nor its Namespace sets.
	Defaults Settings
	// Others says what becomes of Deployments without the label.
	Others Others
}

// New returns a Guard of the Deployments that the informer knows.
func New(kube kubernetes.Interface, read *evidence.Reader, recorder events.EventRecorder, counter releases.Counter, o Options, deployments appsinformers.DeploymentInformer) *Guard {
	return &Guard{
		kube:        kube,
		read:        read,
		recorder:    recorder,
		counter:     counter,
		settings:    newSettings(kube, o.Defaults),
		others:      o.Others,
		pretend:     pretence{},
		deployments: deployments.Lister(),
		store:       deployments.Informer().GetStore(),
		fresh:       freshness.New(),
		memories:    evidence.NewMemories[memory](read),
	}
}

// Reconcile brings one Deployment as far as it goes without waiting. It returns when to look again although nothing happened, 0 for
// never; an error says that trying again may help.
func (g *Guard) Reconcile(ctx context.Context, key cache.ObjectName) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, syncTimeout)
	defer cancel()
	if err := g.fresh.Check(key); err != nil {
		return 0, err
	}
	d, err := g.deployment(ctx, key)
	switch {
	case apierrors.IsNotFound(err):
		return 0, g.leave(ctx, key)
	case err != nil:
		return 0, err
	case isBeingAdopted(d):
		return 0, nil
	case isOwned(d):
		return 0, g.leave(ctx, key)
	}
	if asksFor(d) || g.others != OthersNot {
		if _, err := g.settings.read(ctx, key.Namespace); err != nil {
			return 0, err // What is asked for is not known: the defaults may be the contrary.
		}
	}
	if !g.guards(ctx, d) {
		if err := g.letGoIfTold(ctx, key, d); err != nil {
			return 0, err
		}
	}
	if wait := g.memories.Of(key).refusal.left(d); wait > 0 {
		return wait, nil
	}
	observed := g.observe(ctx, key, d)
	for range maxSteps {
		decision, err := g.decide(ctx, key, &observed)
		if err != nil {
			return 0, err
		}
		again, recheck, err := g.carryOut(ctx, key, &observed, decision)
		if err != nil || !again {
			return recheck, err
		}
	}
	return 0, &freshness.StaleError{Reason: "too many steps in one sync, beginning again"}
}

// deployment returns the Deployment, live if the cache lags behind what this process has seen or written: a cache that stands still is no
// reason to stop half way.
func (g *Guard) deployment(ctx context.Context, key cache.ObjectName) (*appsv1.Deployment, error) {
	if !g.fresh.Lags(key, g.store) {
		return g.deployments.Deployments(key.Namespace).Get(key.Name)
	}
	live, err := g.kube.AppsV1().Deployments(key.Namespace).Get(ctx, key.Name, metav1.GetOptions{})
	if err == nil {
		g.fresh.Read(key, g.store, live.ResourceVersion)
	}
	return live, err
}

// isOwned reports whether a GuardedDeployment owns the Deployment: then that guards it.
func isOwned(d *appsv1.Deployment) bool {
	owner := metav1.GetControllerOfNoCopy(d)
	return owner != nil && owner.Kind == "GuardedDeployment" && owner.APIVersion == v1alpha1.GroupVersion.String()
}

// isBeingAdopted reports whether a GuardedDeployment is about to give the Deployment, which is its own since a moment, a template. Until
// then a failed one must not come back.
func isBeingAdopted(d *appsv1.Deployment) bool {
	return isOwned(d) && d.Annotations[v1alpha1.RevisionAnnotation] == ""
}

// asksFor reports whether the Deployment is to be guarded in place.
func asksFor(d *appsv1.Deployment) bool {
	return d.Labels[v1alpha1.GuardedLabel] == v1alpha1.GuardedInPlace && !isOwned(d)
}

// observe gathers what the cache and this process know about key.
func (g *Guard) observe(ctx context.Context, key cache.ObjectName, d *appsv1.Deployment) rollout.InPlace {
	o := rollout.InPlace{Deployment: d, Unlabelled: g.takesUnasked(ctx, d), Memory: g.memories.Of(key).InPlaceMemory, PollInterval: g.read.Interval()}
	if o.Memory.UID != d.UID { // It was deleted and created.
		g.pretend.forget(o.Memory.UID)
	}
	if o.Unlabelled || asksFor(d) {
		o.Guard, o.Unusable = g.settings.of(ctx, d)
	}
	if o.Unlabelled && g.others == OthersObserved {
		o.Deployment, o.Observed = g.pretend.deployment(d), true
	}
	return o
}

// decide lets rollout.DecideInPlace decide, and reads, live, what the decision asks for. No read is asked for twice.
func (g *Guard) decide(ctx context.Context, key cache.ObjectName, o *rollout.InPlace) (rollout.InPlaceDecision, error) {
	var spent evidence.Budget
	for {
		o.Now = time.Now()
		decision := rollout.DecideInPlace(*o)
		klog.FromContext(ctx).V(5).Info("Decided in place", "row", decision.Row())
		switch {
		case decision.NeedEvidence:
			read, err := g.memories.Read(ctx, key, o.Deployment)
			if err != nil {
				return decision, err
			}
			if o.Evidence = read; o.Observed {
				g.pretend.sets(o.Deployment, read)
			}
		case decision.NeedDetails.Any():
			g.read.Details(ctx, key.Namespace, o.Evidence, decision.NeedDetails, &spent)
		default:
			return decision, nil
		}
	}
}

// leave ends what is held for a Deployment that is not guarded in place any more, takes away what is told on it, and forgets it. What
// another process held is found by Sweep.
func (g *Guard) leave(ctx context.Context, key cache.ObjectName) error {
	if err := g.letGoIfTold(ctx, key, nil); err != nil {
		return err
	}
	g.pretend.forget(g.memories.Of(key).UID)
	g.memories.Forget(key)
	g.fresh.Forget(key)
	return nil
}

// letGoIfTold ends what is held for a Deployment that is not guarded in place any more, if this process or the Deployment, nil if it is gone
// or another's, knows of anything.
func (g *Guard) letGoIfTold(ctx context.Context, key cache.ObjectName, d *appsv1.Deployment) error {
	m := g.memories.Of(key)
	if !m.Holds() && !m.Told() && (d == nil || d.Annotations[v1alpha1.FailureAnnotation] == "") {
		return nil
	}
	if err := g.letGoOf(ctx, key); err != nil {
		return err
	}
	m.InPlaceMemory = rollout.InPlaceMemory{UID: m.UID}
	g.memories.Keep(key, m)
	return nil
}
