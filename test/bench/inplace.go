package main

import (
	"context"
	"fmt"
	"os/exec"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
	"github.com/belay-dev/belay/test/evidence"
)

const (
	barePlainNamespace = "bench-in-place-plain"
	inPlaceNamespace   = "bench-in-place"
)

// measureInPlace does with Deployments that are guarded in place what the other parts do with GuardedDeployments: all created at once,
// and some that fail. The burst of labelled ones is between two of plain Deployments, each in a namespace of its own, because what is
// there already makes each a little slower.
func measureInPlace(ctx context.Context, b *bench) error {
	kubectl := exec.CommandContext(ctx, b.file(b.place, "bin/kubectl"), "--kubeconfig", b.kubeconfig(), "apply", "-k", "artifacts/in-place")
	if err := b.namespace(ctx, "belay-system"); err != nil {
		return err
	}
	if text, err := kubectl.CombinedOutput(); err != nil {
		return fmt.Errorf("apply the policies: %w: %s", err, text)
	}
	if err := b.stop(); err != nil {
		return err
	}
	before, err := b.burstOf(ctx, barePlainNamespace+"-before", b.Objects, nil)
	if err != nil {
		return err
	}
	if err := b.startInPlace(ctx, inPlaceNamespace); err != nil {
		return err
	}
	took, err := b.burstOf(ctx, inPlaceNamespace, b.Objects, guardInPlace)
	if err != nil {
		return err
	}
	if err := b.stop(); err != nil {
		return err
	}
	after, err := b.burstOf(ctx, barePlainNamespace+"-after", b.Objects, nil)
	if err != nil {
		return err
	}
	b.results.ratio("in place: burst: all created until all are available", took, (before+after)/2, 1.25)
	return b.detectInPlace(ctx, min(b.Moving, b.Objects))
}

// startInPlace starts Belay, and waits until it has taken in what is there.
func (b *bench) startInPlace(ctx context.Context, namespace string) error {
	if err := b.namespace(ctx, namespace); err != nil {
		return err
	}
	_, err := b.start(ctx, namespace)
	return err
}

// guardInPlace asks for a Deployment to be guarded as the other parts have it.
func guardInPlace(d *appsv1.Deployment) {
	d.Labels = map[string]string{v1alpha1.GuardedLabel: v1alpha1.GuardedInPlace}
	d.Annotations = map[string]string{v1alpha1.GuardAnnotation: fmt.Sprintf(`{"soakSeconds":0,"maxRestarts":%d}`, maxRestarts)}
}

// detectInPlace lets a few fail at once, with nothing else going on.
func (b *bench) detectInPlace(ctx context.Context, count int) error {
	const namespace = "bench-in-place-detection"
	if err := b.startInPlace(ctx, namespace); err != nil {
		return err
	}
	if _, err := b.burstOf(ctx, namespace, count, guardInPlace); err != nil {
		return err
	}
	if err := b.untilQuiet(ctx); err != nil {
		return err
	}
	return b.failInPlace(ctx, namespace, count)
}

// burstOf creates so many plain Deployments, changed, at once, and waits until all are available.
func (b *bench) burstOf(ctx context.Context, namespace string, count int, change func(*appsv1.Deployment)) (time.Duration, error) {
	if err := b.namespace(ctx, namespace); err != nil {
		return 0, err
	}
	seen := b.watchPlain(ctx, namespace)
	defer seen.stop()
	began := time.Now()
	err := each(ctx, 0, count, func(ctx context.Context, i int) error {
		d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: nameOf(i)}, Spec: spec(nameOf(i), "good", b.Replicas)}
		if change != nil {
			change(d)
		}
		_, err := b.kube.AppsV1().Deployments(namespace).Create(ctx, d, metav1.CreateOptions{})
		return err
	})
	if err != nil {
		return 0, err
	}
	err = seen.all(ctx, count, "all are available", available("1"))
	return time.Since(began), err
}

// failInPlace releases a crashing template to some of them, and measures from the first evidence against each to the verdict in its
// condition, and to the hold.
func (b *bench) failInPlace(ctx context.Context, namespace string, count int) error {
	shownSince, stop, err := evidence.Watch(ctx, b.kube, namespace, maxRestarts, 0)
	if err != nil {
		return err
	}
	defer stop()
	began := time.Now()
	if err := b.releasePlain(ctx, namespace, count, "crash", "3"); err != nil {
		return err
	}
	seen := b.watchPlain(ctx, namespace)
	defer seen.stop()
	back := func(d *appsv1.Deployment) bool {
		return d.Annotations[v1alpha1.FailureAnnotation] != "" && d.Status.UpdatedReplicas == 0 && d.Status.AvailableReplicas == *d.Spec.Replicas &&
			slices.ContainsFunc(d.Status.Conditions, func(c appsv1.DeploymentCondition) bool {
				return c.Type == appsv1.DeploymentProgressing && c.Status == corev1.ConditionFalse
			})
	}
	if err := seen.all(ctx, count, "all are back", back); err != nil {
		return err
	}
	requests, err := b.audit.requests(namespace)
	if err != nil {
		return err
	}
	var holds []time.Duration
	for _, r := range since(requests, began) {
		if r.Verb != "patch" || r.Object.Resource != "replicasets" {
			continue
		}
		set, err := b.kube.AppsV1().ReplicaSets(namespace).Get(ctx, r.Object.Name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if set.Labels[v1alpha1.HeldAtLabel] != "0."+string(set.UID) {
			continue
		}
		shown, ok := shownSince(metav1.GetControllerOf(set).Name)
		if !ok {
			return fmt.Errorf("%s is held without evidence", set.Name)
		}
		holds = append(holds, r.At.Sub(shown))
	}
	if len(holds) != count {
		return fmt.Errorf("%d holds of %d releases that failed", len(holds), count)
	}
	b.results.quantiles("in place: evidence to hold", holds, 5*time.Second)
	return nil
}

// mostRevisions is how many ReplicaSets a Deployment has: the current one, and the old ones that Kubernetes keeps by default.
const mostRevisions = 11

// measureInPlaceMemory measures Belay at rest with labelled Deployments, on a cluster that is empty at first. They have no pods, and their
// ReplicaSets are not cached, but looked at when it starts.
func measureInPlaceMemory(ctx context.Context, b *bench) error {
	if err := b.anew(ctx); err != nil {
		return err
	}
	size := b.Memory[len(b.Memory)-1]
	for first := 0; first < size; first += perNamespace {
		namespace := fmt.Sprintf("bench-in-place-%d", first/perNamespace)
		if err := b.namespace(ctx, namespace); err != nil {
			return err
		}
		err := each(ctx, first, min(first+perNamespace, size), func(ctx context.Context, i int) error { return b.createInPlace(ctx, namespace, nameOf(i)) })
		if err != nil {
			return err
		}
	}
	took, err := b.start(ctx, metav1.NamespaceAll)
	if err != nil {
		return err
	}
	if err := b.untilQuiet(ctx); err != nil {
		return err
	}
	heap, rss, err := b.weigh(ctx)
	if err != nil {
		return err
	}
	b.results.number(fmt.Sprintf("in place: resident with %d Deployments at rest, %d ReplicaSets each", size, b.Revisions), rss/mib, "MiB",
		fmt.Sprintf("heap %.0f MiB, ready in %.1f s", heap/mib, took.Seconds()))
	return nil
}

// createInPlace creates a labelled Deployment without pods, and the ReplicaSets of its releases before.
func (b *bench) createInPlace(ctx context.Context, namespace, name string) error {
	d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{v1alpha1.GuardedLabel: v1alpha1.GuardedInPlace}}, Spec: spec(name, "good", 0)}
	d, err := b.kube.AppsV1().Deployments(namespace).Create(ctx, d, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	for i := range b.Revisions - 1 {
		hash := fmt.Sprintf("old%d", i)
		pods := template(name, "good", hash)
		pods.Labels[appsv1.DefaultDeploymentUniqueLabelKey] = hash
		set := &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Name: name + "-" + hash, Labels: pods.Labels,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(d, appsv1.SchemeGroupVersion.WithKind("Deployment"))}}}
		set.Spec = appsv1.ReplicaSetSpec{Replicas: new(int32(0)), Template: pods,
			Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": name, appsv1.DefaultDeploymentUniqueLabelKey: hash}}}
		if _, err := b.kube.AppsV1().ReplicaSets(namespace).Create(ctx, set, metav1.CreateOptions{}); err != nil {
			return err
		}
	}
	return nil
}
