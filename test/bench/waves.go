package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
	"github.com/belay-dev/belay/test/evidence"
)

// bystanderEvery is how often something is asked of an object that has nothing to do with a wave.
const bystanderEvery = time.Second

// measureWaves gives all objects of the burst another template at once: a good one, then one that crashes.
func measureWaves(ctx context.Context, b *bench) error {
	seen, plain := b.watchGuarded(ctx, guardedNamespace), b.watchPlain(ctx, plainNamespace)
	defer seen.stop()
	defer plain.stop()
	if len(seen.store.List()) < b.Objects || len(plain.store.List()) < b.Objects {
		return fmt.Errorf("the objects of the burst are not there: run it, too")
	}
	began := time.Now()
	if err := b.releasePlain(ctx, plainNamespace, b.Objects, "good", "2"); err != nil {
		return err
	}
	if err := plain.all(ctx, b.Objects, "all are available", available("2")); err != nil {
		return err
	}
	floor := time.Since(began)
	if _, err := b.start(ctx, metav1.NamespaceAll); err != nil {
		return err
	}
	if err := b.untilQuiet(ctx); err != nil {
		return err
	}
	began = time.Now()
	if err := b.releaseGuarded(ctx, guardedNamespace, b.Objects, "good", "2"); err != nil {
		return err
	}
	if err := seen.all(ctx, b.Objects, "all are Ready", ready("2")); err != nil {
		return err
	}
	b.results.ratio("release wave: all released until all are Ready", time.Since(began), floor, 0)

	bystander, err := b.newBystander(ctx)
	if err != nil {
		return err
	}
	var decisions []time.Duration
	var took time.Duration
	err = b.profiled(ctx, "failure-wave", func() (err error) {
		decisions, took, err = b.fail(ctx, guardedNamespace, b.Objects, seen)
		return err
	})
	if err != nil {
		return err
	}
	waits, floors, err := bystander.stop()
	if err != nil {
		return err
	}
	b.results.ratio("failure wave: all released until all are rolled back", took, floor, 0)
	b.results.quantiles("failure wave: evidence to rollback write", decisions, 60*time.Second)
	b.results.quantiles("failure wave: a bystander's change until it is applied", waits, 2*time.Second)
	b.results.quantiles("failure wave: the same change of a plain Deployment until it is seen", floors, 0)
	return nil
}

// measureSoak gives all objects of the burst a good template and a soak at once: however many there are, it ends. Nine of ten have to be on
// the move when the last one is released.
func measureSoak(ctx context.Context, b *bench) error {
	seen := b.watchGuarded(ctx, guardedNamespace)
	defer seen.stop()
	if len(seen.store.List()) < b.Objects {
		return fmt.Errorf("the objects of the burst are not there: run it, too")
	}
	if _, err := b.start(ctx, metav1.NamespaceAll); err != nil {
		return err
	}
	if err := b.untilQuiet(ctx); err != nil {
		return err
	}
	began := time.Now()
	err := each(ctx, 0, b.Objects, func(ctx context.Context, i int) error {
		patch := fmt.Appendf(nil, `{"spec":{"guard":{"soakSeconds":%d},"template":{"metadata":{"annotations":{"bench":"soak"}}}}}`, int(b.Soak.Seconds()))
		_, err := b.guard.BelayV1alpha1().GuardedDeployments(guardedNamespace).Patch(ctx, nameOf(i), types.MergePatchType, patch, metav1.PatchOptions{})
		return err
	})
	if err != nil {
		return err
	}
	soaked := func(g *v1alpha1.GuardedDeployment) bool {
		return g.Spec.Template.Annotations["bench"] == "soak" && reason(v1alpha1.ReasonRolledOut)(g)
	}
	moving := b.Objects
	for _, g := range seen.store.List() {
		if soaked(g.(*v1alpha1.GuardedDeployment)) {
			moving--
		}
	}
	if moving < b.Objects*9/10 {
		return fmt.Errorf("%d of %d were on the move at once: -soak has to be longer", moving, b.Objects)
	}
	if err := seen.all(ctx, b.Objects, "all have soaked", soaked); err != nil {
		return err
	}
	b.results.number(fmt.Sprintf("soak wave: all released with a soak of %s until all are Ready", b.Soak), time.Since(began).Seconds(), "s",
		fmt.Sprintf("%d of %d on the move when the last one was released", moving, b.Objects))
	return nil
}

// measureDetection lets a few objects fail at once, with nothing else going on.
func measureDetection(ctx context.Context, b *bench) error {
	const namespace = "bench-detection"
	seen, err := b.workIn(ctx, namespace)
	if err != nil {
		return err
	}
	defer seen.stop()
	if err := b.createGuarded(ctx, namespace, 0, b.Moving, b.Replicas); err != nil {
		return err
	}
	if err := seen.all(ctx, b.Moving, "all are Ready", ready("1")); err != nil {
		return err
	}
	decisions, _, err := b.fail(ctx, namespace, b.Moving, seen)
	if err != nil {
		return err
	}
	b.results.quantiles("detection: evidence to rollback write", decisions, 5*time.Second)
	return nil
}

// fail releases a crashing template to all objects, and returns how long it took from the first evidence against each of
// them, as the API server had it, to the write that rolled it back, and until all were reported as rolled back. Each has
// to be rolled back exactly once.
func (b *bench) fail(ctx context.Context, namespace string, count int, seen *watched[*v1alpha1.GuardedDeployment]) ([]time.Duration, time.Duration, error) {
	shownSince, stop, err := evidence.Watch(ctx, b.kube, namespace, maxRestarts, 0) // no image is missing here
	if err != nil {
		return nil, 0, err
	}
	defer stop()
	began := time.Now()
	if err := b.releaseGuarded(ctx, namespace, count, "crash", "3"); err != nil {
		return nil, 0, err
	}
	if err := seen.all(ctx, count, "all are rolled back", reason(v1alpha1.ReasonRolledBack)); err != nil {
		return nil, 0, err
	}
	took := time.Since(began)
	requests, err := b.audit.requests(namespace)
	if err != nil {
		return nil, 0, err
	}
	writes, err := deploymentWrites(since(requests, began))
	if err != nil {
		return nil, 0, err
	}
	var decisions []time.Duration
	for name, moments := range writes {
		if len(moments) != 2 || moments[0].image != "localhost/app:crash" || moments[1].image != "localhost/app:good" {
			return nil, 0, fmt.Errorf("the Deployment of %s was written %v, want the bad release and one rollback", name, moments)
		}
		shown, ok := shownSince(name)
		if !ok {
			return nil, 0, fmt.Errorf("%s was rolled back without evidence", name)
		}
		decisions = append(decisions, moments[1].at.Sub(shown))
	}
	if len(decisions) != count {
		return nil, 0, fmt.Errorf("%d of %d were rolled back", len(decisions), count)
	}
	return decisions, took, nil
}

// bystander is an object of which something is asked again and again.
type bystander struct {
	waits  []time.Duration
	floors []time.Duration // the same with a plain Deployment: what the API server takes
	err    error
	cancel context.CancelFunc
	done   chan struct{}
}

// newBystander creates an object, and goes on changing a field of its spec that leaves its pods alone.
func (b *bench) newBystander(ctx context.Context) (*bystander, error) {
	const namespace, name = "bench-bystander", "bystander"
	if err := b.namespace(ctx, namespace); err != nil {
		return nil, err
	}
	if _, err := b.guard.BelayV1alpha1().GuardedDeployments(namespace).Create(ctx, guarded(name, "good", 1), metav1.CreateOptions{}); err != nil {
		return nil, err
	}
	plain := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "plain"}, Spec: spec("plain", "good", 1)}
	if _, err := b.kube.AppsV1().Deployments(namespace).Create(ctx, plain, metav1.CreateOptions{}); err != nil {
		return nil, err
	}
	seen, deployments := b.watchGuarded(ctx, namespace), b.watchPlain(ctx, namespace)
	err := seen.all(ctx, 1, "the bystander is Ready", ready("1"))
	seen.stop()
	if err != nil {
		return nil, err
	}
	going, cancel := context.WithCancel(ctx)
	by := &bystander{cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(by.done)
		defer deployments.stop()
		for seconds := int32(2); going.Err() == nil && by.err == nil; seconds++ {
			patch := fmt.Appendf(nil, `{"spec":{"minReadySeconds":%d}}`, seconds)
			by.ask(ctx, &by.waits, deployments, name, seconds, func() error {
				_, err := b.guard.BelayV1alpha1().GuardedDeployments(namespace).Patch(ctx, name, types.MergePatchType, patch, metav1.PatchOptions{})
				return err
			})
			by.ask(ctx, &by.floors, deployments, "plain", seconds, func() error {
				_, err := b.kube.AppsV1().Deployments(namespace).Patch(ctx, "plain", types.MergePatchType, patch, metav1.PatchOptions{})
				return err
			})
			_ = sleep(going, bystanderEvery)
		}
	}()
	return by, nil
}

// ask changes something, and notes how long it took until the Deployment shows it.
func (by *bystander) ask(ctx context.Context, took *[]time.Duration, seen *watched[*appsv1.Deployment], name string, seconds int32, change func() error) {
	began := time.Now()
	by.err = errors.Join(by.err, change())
	if by.err == nil {
		by.err = seen.all(ctx, 1, "it is applied", func(d *appsv1.Deployment) bool { return d.Name == name && d.Spec.MinReadySeconds == seconds })
	}
	*took = append(*took, time.Since(began))
}

func (by *bystander) stop() (waits, floors []time.Duration, err error) {
	by.cancel()
	<-by.done
	return by.waits, by.floors, by.err
}
