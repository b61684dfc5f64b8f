package inplace

import (
	"context"
	"errors"
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

const (
	// sweepEvery is how often holds are looked for that have outlived their reason, and sweepTimeout how long that may take.
	sweepEvery, sweepTimeout = 10 * time.Minute, time.Minute
	// sweepPage is how many ReplicaSets are read at once.
	sweepPage = 500
)

// Sweep ends, at once and then every ten minutes until ctx is done, the holds whose Deployment is not guarded in place: its label was
// taken away or it changed hands while no Belay was there to see. namespace is the only one to look in, empty for all. The cache has to
// have synced.
func (g *Guard) Sweep(ctx context.Context, namespace string) {
	for {
		if err := g.sweep(ctx, namespace); err != nil && ctx.Err() == nil {
			klog.FromContext(ctx).Error(err, "Some holds were not looked at, trying again later")
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(sweepEvery):
		}
	}
}

func (g *Guard) sweep(ctx context.Context, namespace string) error {
	ctx, cancel := context.WithTimeout(ctx, sweepTimeout)
	defer cancel()
	options := metav1.ListOptions{LabelSelector: v1alpha1.HeldAtLabel, Limit: sweepPage}
	var failed error
	for {
		page, err := g.kube.AppsV1().ReplicaSets(namespace).List(ctx, options)
		if err != nil {
			return errors.Join(failed, fmt.Errorf("list the held ReplicaSets: %w", err))
		}
		for i := range page.Items {
			failed = errors.Join(failed, g.sweepSet(ctx, &page.Items[i]))
		}
		if options.Continue = page.Continue; options.Continue == "" {
			return failed
		}
	}
}

// sweepSet ends the hold of a ReplicaSet whose Deployment is gone or not guarded in place, or rests without one: somebody has set it by
// hand, or a process that was stopped before. All others are looked after with their Deployments.
func (g *Guard) sweepSet(ctx context.Context, set *appsv1.ReplicaSet) error {
	owner := metav1.GetControllerOfNoCopy(set)
	if owner == nil || owner.Kind != "Deployment" {
		return g.endHold(ctx, nil, set)
	}
	if cached, err := g.deployments.Deployments(set.Namespace).Get(owner.Name); err == nil && cached.UID == owner.UID && g.guards(ctx, cached) {
		if !g.restsWithoutHold(cached) {
			return nil
		}
		return g.endHold(ctx, cached, set)
	}
	live, err := g.kube.AppsV1().Deployments(set.Namespace).Get(ctx, owner.Name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err) || (err == nil && live.UID != owner.UID):
		return g.endHold(ctx, nil, set)
	case err != nil:
		return fmt.Errorf("get Deployment: %w", err)
	case g.guards(ctx, live) || isBeingAdopted(live):
		return nil
	default:
		return g.letGoOf(ctx, cache.MetaObjectToName(live))
	}
}

// restsWithoutHold reports whether the Deployment was seen to the end, and nothing is to be held for it.
func (g *Guard) restsWithoutHold(d *appsv1.Deployment) bool {
	m := g.memories.Of(cache.MetaObjectToName(d))
	return m.UID == d.UID && m.HoldsNone()
}
