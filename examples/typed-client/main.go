// Command typed-client takes an inventory of the cluster, then leads a Deployment through its life: it is created,
// changed while something else changes it, too, scaled, and deleted.
//
// The clientset has a client for every kind that Kubernetes comes with. What it sends and gets are Go types; what the
// server refuses is an error whose kind k8s.io/apimachinery/pkg/api/errors tells.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"

	"github.com/belay-dev/belay/examples/internal/start"
)

// tour is the life of one Deployment.
type tour struct {
	kubernetes.Interface
	namespace, name string
	uid             types.UID
	timeout         time.Duration
}

func main() {
	name := flag.String("name", "tour", "the Deployment to create and to delete; there must be none of that name")
	image := flag.String("image", "nginx", "what it runs")
	next := flag.String("next-image", "httpd", "what it runs after it was changed")
	propagation := flag.String("propagation", "Background", "how it is deleted: Foreground, Background or Orphan")
	timeout := flag.Duration("timeout", 2*time.Minute, "how long to wait for each step")
	start.Main("takes an inventory, then creates, changes, scales and deletes a Deployment.", func(ctx context.Context, config start.Config) error {
		policy := metav1.DeletionPropagation(*propagation)
		if policy != metav1.DeletePropagationForeground && policy != metav1.DeletePropagationBackground && policy != metav1.DeletePropagationOrphan {
			return fmt.Errorf("--propagation is %q; it must be Foreground, Background or Orphan", policy)
		}
		client, err := kubernetes.NewForConfig(config.Config)
		if err != nil {
			return err
		}
		if err := inventory(ctx, os.Stdout, client, config.Namespace); err != nil {
			return err
		}
		t := &tour{client, config.Namespace, *name, "", *timeout}
		return t.live(ctx, *image, *next, policy)
	})
}

// live leads the Deployment through its life. If that ends early, the Deployment is deleted all the same.
func (t *tour) live(ctx context.Context, image, next string, policy metav1.DeletionPropagation) (err error) {
	created, err := t.create(ctx, image)
	if err != nil {
		return err
	}
	t.uid = created.UID
	defer func() {
		if err != nil {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
			defer cancel()
			_ = t.delete(ctx, metav1.DeletePropagationBackground)
		}
	}()
	if err := t.untilReady(ctx); err != nil {
		return err
	}
	if err := t.change(ctx, created, next); err != nil {
		return err
	}
	if err := t.untilReady(ctx); err != nil {
		return err
	}
	if err := t.scale(ctx, 1); err != nil {
		return err
	}
	if err := t.untilReady(ctx); err != nil {
		return err
	}
	return t.end(ctx, policy)
}

// untilReady waits until all pods are of the newest template, and ready. The status of a Deployment is about an older spec
// until its generation has been observed.
func (t *tour) untilReady(ctx context.Context) error {
	var last appsv1.DeploymentStatus
	err := wait.PollUntilContextTimeout(ctx, 100*time.Millisecond, t.timeout, true, func(ctx context.Context) (bool, error) {
		d, err := t.AppsV1().Deployments(t.namespace).Get(ctx, t.name, metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		last = d.Status
		return last.ObservedGeneration >= d.Generation && last.ReadyReplicas == *d.Spec.Replicas &&
			last.UpdatedReplicas == *d.Spec.Replicas && last.Replicas == *d.Spec.Replicas, nil
	})
	if wait.Interrupted(err) && ctx.Err() == nil {
		return fmt.Errorf("%s has %d of %d pods ready after %s", t.name, last.ReadyReplicas, last.Replicas, t.timeout)
	}
	return err
}
