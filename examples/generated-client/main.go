// Command generated-client releases an image as a GuardedDeployment and waits for Belay's verdict.
//
// The clientset, the lister and the informer of a kind of one's own are generated from its Go types (see
// ../../hack/update-codegen.sh), and look like those of the kinds that Kubernetes comes with.
package main

import (
	"context"
	"flag"
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/util/retry"

	"github.com/belay-dev/belay/examples/internal/start"
	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
	"github.com/belay-dev/belay/pkg/generated/clientset/versioned"
	"github.com/belay-dev/belay/pkg/generated/informers/externalversions"
	belayinformers "github.com/belay-dev/belay/pkg/generated/informers/externalversions/belay/v1alpha1"
)

func main() {
	name := flag.String("name", "tour", "the GuardedDeployment")
	image := flag.String("image", "nginx", "what its first container is to run")
	timeout := flag.Duration("timeout", 15*time.Minute, "how long to wait for the verdict")
	start.Main("releases an image as a GuardedDeployment, and waits for the verdict.", func(ctx context.Context, config start.Config) error {
		client, err := versioned.NewForConfig(config.Config)
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeoutCause(ctx, *timeout, fmt.Errorf("no verdict after %s; is Belay running?", *timeout))
		defer cancel()
		verdict, err := release(ctx, client, config.Namespace, *name, *image)
		if err == nil {
			fmt.Println(verdict)
		}
		return err
	})
}

// release creates the GuardedDeployment, or changes its image, and returns what became of that. That it failed is an error.
func release(ctx context.Context, client versioned.Interface, namespace, name, image string) (verdict string, err error) {
	guarded, err := put(ctx, client, desired(namespace, name, image))
	if apierrors.IsNotFound(err) {
		return "", fmt.Errorf("%w; install Belay's CRD: kubectl apply -f artifacts/crd.yaml", err)
	}
	if err != nil {
		return "", err
	}
	// An informer for one object, and for as long as it takes: its cache never falls behind what it has told of.
	factory := externalversions.NewSharedInformerFactoryWithOptions(client, 0, externalversions.WithNamespace(namespace),
		externalversions.WithTweakListOptions(func(list *metav1.ListOptions) {
			list.FieldSelector = fields.OneTermEqualSelector(metav1.ObjectNameField, name).String()
		}))
	informer := factory.Belay().V1alpha1().GuardedDeployments()
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	news := make(chan struct{}, 1) // One waits; more would say the same.
	tell := func(*v1alpha1.GuardedDeployment) {
		select {
		case news <- struct{}{}:
		default:
		}
	}
	heard, err := informer.TypedInformer().AddTypedEventHandler(belayinformers.GuardedDeploymentHandlerFuncs{
		AddFunc:    tell,
		UpdateFunc: func(_, g *v1alpha1.GuardedDeployment) { tell(g) },
		DeleteFunc: func(belayinformers.DeletedGuardedDeployment) {
			fail(fmt.Errorf("%s was deleted before the verdict", name))
		},
	})
	if err != nil {
		return "", err
	}
	factory.StartWithContext(ctx)
	defer factory.Shutdown()
	defer fail(nil)
	if err := start.Sync(ctx, heard); err != nil {
		return "", err
	}
	for last := ""; ; {
		select {
		case <-ctx.Done():
			return "", fmt.Errorf("%w (last seen: %s)", context.Cause(ctx), last)
		case <-news:
		}
		seen, err := informer.Lister().GuardedDeployments(namespace).Get(name)
		if err != nil {
			continue // It is not in the cache yet, or no more: then the handler has said so.
		}
		says, verdict, err := verdictOf(seen, guarded.Generation)
		if says != "" && says != last {
			fmt.Println(says)
			last = says
		}
		if verdict != "" || err != nil {
			return verdict, err
		}
	}
}

// verdictOf returns what the status says about a generation, and the verdict, or an error that is one, if there is one. What is
// reported about an older generation is about another spec: that says nothing.
func verdictOf(g *v1alpha1.GuardedDeployment, generation int64) (says, verdict string, err error) {
	ready := meta.FindStatusCondition(g.Status.Conditions, v1alpha1.ConditionReady)
	if ready == nil || g.Status.ObservedGeneration < generation {
		return "", "", nil
	}
	says = fmt.Sprintf("%s: %s", ready.Reason, ready.Message)
	switch {
	case ready.Status == metav1.ConditionTrue:
		verdict = fmt.Sprintf("%s is good: %s runs", g.Name, g.Status.RunningRevision)
	case meta.IsStatusConditionTrue(g.Status.Conditions, v1alpha1.ConditionStalled):
		err = fmt.Errorf("%s is not good: %s", g.Name, says)
	}
	return says, verdict, err
}

// put creates the object, or gives the first container of the one that is there its image.
func put(ctx context.Context, client versioned.Interface, desired *v1alpha1.GuardedDeployment) (*v1alpha1.GuardedDeployment, error) {
	objects := client.BelayV1alpha1().GuardedDeployments(desired.Namespace)
	created, err := objects.Create(ctx, desired, metav1.CreateOptions{})
	if !apierrors.IsAlreadyExists(err) {
		return created, err
	}
	var updated *v1alpha1.GuardedDeployment
	err = retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		live, err := objects.Get(ctx, desired.Name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		live.Spec.Template.Spec.Containers[0].Image = desired.Spec.Template.Spec.Containers[0].Image
		updated, err = objects.Update(ctx, live, metav1.UpdateOptions{})
		return err
	})
	return updated, err
}

func desired(namespace, name, image string) *v1alpha1.GuardedDeployment {
	labels := map[string]string{"app": name}
	return &v1alpha1.GuardedDeployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec: v1alpha1.GuardedDeploymentSpec{
			DeploymentSpec: appsv1.DeploymentSpec{
				Replicas: new(int32(2)),
				Selector: &metav1.LabelSelector{MatchLabels: labels},
				Template: corev1.PodTemplateSpec{
					ObjectMeta: metav1.ObjectMeta{Labels: labels},
					Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "app", Image: image}}},
				},
			},
			Guard: v1alpha1.Guard{SoakSeconds: new(int32(5)), MaxRestarts: new(int32(1))},
		},
	}
}
