package main

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

const (
	plainNamespace   = "bench-plain"
	guardedNamespace = "bench-guarded"
)

// measureBurst creates all objects at once: plain Deployments first, then GuardedDeployments.
func measureBurst(ctx context.Context, b *bench) error {
	if err := b.stop(); err != nil {
		return err
	}
	floor, err := b.burstPlain(ctx)
	if err != nil {
		return err
	}
	seen, err := b.workIn(ctx, guardedNamespace)
	if err != nil {
		return err
	}
	defer seen.stop()
	began := time.Now()
	if err := b.createGuarded(ctx, guardedNamespace, 0, b.Objects, b.Replicas); err != nil {
		return err
	}
	if err := seen.all(ctx, b.Objects, "all are Ready", ready("1")); err != nil {
		return err
	}
	b.results.ratio("burst: all created until all are Ready", time.Since(began), floor, 1.5)
	return nil
}

func (b *bench) burstPlain(ctx context.Context) (time.Duration, error) {
	if err := b.namespace(ctx, plainNamespace); err != nil {
		return 0, err
	}
	seen := b.watchPlain(ctx, plainNamespace)
	defer seen.stop()
	began := time.Now()
	if err := b.createPlain(ctx, plainNamespace, b.Objects); err != nil {
		return 0, err
	}
	err := seen.all(ctx, b.Objects, "all are available", available("1"))
	return time.Since(began), err
}

// measureAlone lets nobody but Belay work: how long it takes until all Deployments exist, against a bare loop that makes
// the same writes, as many at a time. The GuardedDeployments exist before, and both are timed from the first write on.
func measureAlone(ctx context.Context, b *bench) error {
	if err := b.stop(); err != nil {
		return err
	}
	const bare, alone = "bench-bare", "bench-alone"
	for _, namespace := range []string{bare, alone} {
		if err := b.namespace(ctx, namespace); err != nil {
			return err
		}
		// Without pods: what the controllers of the cluster have to catch up with afterwards would be in the way of what follows.
		if err := b.createGuarded(ctx, namespace, 0, b.Objects, 0); err != nil {
			return err
		}
	}
	return b.without("kube-controller-manager", func() error {
		all, err := b.guard.BelayV1alpha1().GuardedDeployments(bare).List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		began := time.Now()
		if err := each(ctx, 0, b.Objects, func(ctx context.Context, i int) error { return b.writeBare(ctx, &all.Items[i]) }); err != nil {
			return err
		}
		floor := time.Since(began)
		seen := b.watchPlain(ctx, alone)
		defer seen.stop()
		if _, err := b.start(ctx, alone); err != nil {
			return err
		}
		if err := seen.all(ctx, b.Objects, "all Deployments exist", func(*appsv1.Deployment) bool { return true }); err != nil {
			return err
		}
		writes, err := b.audit.requests(alone)
		if err != nil {
			return err
		}
		writes = slices.DeleteFunc(writes, request.read)
		var took time.Duration
		began = writes[0].At
		for _, w := range writes {
			if w.Object.Resource == "deployments" {
				took = max(took, w.At.Sub(began))
			}
		}
		b.results.ratio("alone: first write until all Deployments exist", took, floor, 0)
		return b.stop()
	})
}

// writeBare writes what Belay writes for a new object: a revision, the Deployment, the status.
func (b *bench) writeBare(ctx context.Context, live *v1alpha1.GuardedDeployment) error {
	namespace, name := live.Namespace, live.Name
	data, err := json.Marshal(live.Spec.Template)
	if err != nil {
		return err
	}
	labels := map[string]string{v1alpha1.GuardedLabel: "true"}
	_, err = b.kube.AppsV1().ControllerRevisions(namespace).Create(ctx, &appsv1.ControllerRevision{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}, Data: runtime.RawExtension{Raw: data}, Revision: 1}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	_, err = b.kube.AppsV1().Deployments(namespace).Create(ctx, &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}, Spec: live.Spec.DeploymentSpec}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	live.Status.TargetRevision = name
	live.Status.Conditions = []metav1.Condition{{Type: "Ready", Status: metav1.ConditionFalse, Reason: "Progressing",
		Message: fmt.Sprintf("%s is rolling out", name), LastTransitionTime: metav1.Now()}}
	_, err = b.guard.BelayV1alpha1().GuardedDeployments(namespace).UpdateStatus(ctx, live, metav1.UpdateOptions{})
	return err
}
