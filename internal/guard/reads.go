package guard

import (
	"context"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"k8s.io/client-go/tools/cache"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
	"github.com/belay-dev/belay/pkg/rollout"
)

// readGuarded reads, live, the GuardedDeployment of that name.
func (g *Guard) readGuarded(ctx context.Context, key cache.ObjectName) (*v1alpha1.GuardedDeployment, error) {
	live, err := g.belay.BelayV1alpha1().GuardedDeployments(key.Namespace).Get(ctx, key.Name, metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("get GuardedDeployment: %w", err)
	}
	return live, nil
}

// observeGuarded is readGuarded of one that the cache will show, too.
func (g *Guard) observeGuarded(ctx context.Context, key cache.ObjectName) (*v1alpha1.GuardedDeployment, error) {
	live, err := g.readGuarded(ctx, key)
	if live != nil {
		g.fresh.Read(key, g.objectStore, live.ResourceVersion)
	}
	return live, err
}

// observeDeployment is readDeployment of one that the cache will show, too.
func (g *Guard) observeDeployment(ctx context.Context, key cache.ObjectName) (*appsv1.Deployment, error) {
	live, err := g.readDeployment(ctx, key)
	if live != nil {
		g.fresh.Read(key, g.deploymentStore, live.ResourceVersion)
	}
	return live, err
}

// readDeployment reads, live, the Deployment of that name, whoever owns it; nil if there is none.
func (g *Guard) readDeployment(ctx context.Context, key cache.ObjectName) (*appsv1.Deployment, error) {
	live, err := g.kube.AppsV1().Deployments(key.Namespace).Get(ctx, key.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("get Deployment: %w", err)
	}
	return live, nil
}

// readLeftBehind reads, live, the Deployment that a GuardedDeployment which is gone has left behind, and returns it as it is
// to be from now on; nil if there is none. A GuardedDeployment that is there after all brings the key back by itself.
func (g *Guard) readLeftBehind(ctx context.Context, key cache.ObjectName) (*appsv1.Deployment, error) {
	cached, err := g.deployments.Deployments(key.Namespace).Get(key.Name)
	if apierrors.IsNotFound(err) || (err == nil && !rollout.LeftBehind(cached)) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	live, err := g.readDeployment(ctx, key)
	if live == nil || err != nil {
		return nil, err
	}
	released := rollout.Release(live, FieldManager)
	if released == nil {
		return nil, nil
	}
	if _, err = g.readGuarded(ctx, key); apierrors.IsNotFound(err) {
		return released, nil
	}
	return nil, err
}

// readRevisions reads, live, the revisions of guarded, also those that have lost their label.
func (g *Guard) readRevisions(ctx context.Context, key cache.ObjectName, guarded *v1alpha1.GuardedDeployment) ([]*appsv1.ControllerRevision, error) {
	list, err := g.kube.AppsV1().ControllerRevisions(key.Namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list the ControllerRevisions: %w", err)
	}
	var revisions []*appsv1.ControllerRevision
	newest := ""
	for i := range list.Items {
		if metav1.IsControlledBy(&list.Items[i], guarded) {
			revisions = append(revisions, &list.Items[i])
			newest = newer(newest, list.Items[i].ResourceVersion)
		}
	}
	if newest != "" {
		g.fresh.Read(key, g.revisionStore, newest)
	}
	return revisions, nil
}

// newer returns the newer one of two resourceVersions.
func newer(a, b string) string {
	if order, err := resourceversion.CompareResourceVersion(a, b); err == nil && order > 0 {
		return a
	}
	return b
}
