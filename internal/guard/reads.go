package guard

import (
	"context"
	"fmt"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"k8s.io/client-go/tools/cache"

	"github.com/belay-dev/belay/internal/freshness"
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

// believed is for how long a sync may act on what the API server said of the spec. Its requests take less, unless one is slow.
const believed = time.Second

// stillAsked makes sure, live, that the spec asks for the same as when it was decided.
func (g *Guard) stillAsked(ctx context.Context, key cache.ObjectName, o *rollout.Observed) error {
	if time.Since(o.GuardedAt) < believed {
		return nil
	}
	asked := time.Now()
	guarded := o.Guarded
	live, err := g.readGuarded(ctx, key)
	if err != nil && !apierrors.IsNotFound(err) {
		return err
	}
	retry := v1alpha1.RetryAnnotation
	if err != nil || live.UID != guarded.UID || live.Generation != guarded.Generation || live.DeletionTimestamp != nil ||
		live.Annotations[retry] != guarded.Annotations[retry] {
		g.fresh.Lost(key, g.objectStore)
		return freshness.Stale("the cache of GuardedDeployments")
	}
	o.GuardedAt = asked
	return nil
}

// stillRecorded makes sure that the revision of this name is as it was when it was decided: live, or by the answer to the write of this
// very sync.
func (g *Guard) stillRecorded(ctx context.Context, key cache.ObjectName, o *rollout.Observed, name string) error {
	i := slices.IndexFunc(o.Revisions, func(r *appsv1.ControllerRevision) bool { return r.Name == name })
	if i >= 0 && g.fresh.Unseen(key, g.revisionStore) == o.Revisions[i].ResourceVersion {
		return nil
	}
	live, err := g.kube.AppsV1().ControllerRevisions(key.Namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("get ControllerRevision %s: %w", name, err)
	}
	if err != nil || i < 0 || o.Revisions[i].UID != live.UID || o.Revisions[i].ResourceVersion != live.ResourceVersion {
		g.fresh.Lost(key, g.revisionStore)
		return freshness.Stale("the cache of ControllerRevisions")
	}
	return nil
}

// stillThere reports whether the live Deployment is the one that was decided on, in the same hands.
func stillThere(live, seen *appsv1.Deployment) bool {
	const revision, applied = v1alpha1.RevisionAnnotation, v1alpha1.AppliedAnnotation
	return live != nil && live.UID == seen.UID && live.Generation == seen.Generation &&
		(live.DeletionTimestamp == nil) == (seen.DeletionTimestamp == nil) &&
		equality.Semantic.DeepEqual(metav1.GetControllerOfNoCopy(live), metav1.GetControllerOfNoCopy(seen)) &&
		live.Annotations[revision] == seen.Annotations[revision] && live.Annotations[applied] == seen.Annotations[applied]
}

// newer returns the newer one of two resourceVersions.
func newer(a, b string) string {
	if order, err := resourceversion.CompareResourceVersion(a, b); err == nil && order > 0 {
		return a
	}
	return b
}
