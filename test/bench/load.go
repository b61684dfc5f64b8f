package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
	"github.com/belay-dev/belay/pkg/generated/informers/externalversions"
)

const (
	// clients is how many requests are under way at once, as Belay's --workers.
	clients = 16
	// maxRestarts is the guard's.
	maxRestarts int32 = 1
	// patience bounds the wait for all objects of a part.
	patience = 20 * time.Minute
)

// template is a pod template as services have them: about 2 KB of JSON.
func template(name, tag, version string) corev1.PodTemplateSpec {
	probe := corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/healthz", Port: intstr.FromString("http")}}
	amounts := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1m"), corev1.ResourceMemory: resource.MustParse("1Mi")}
	app := corev1.Container{
		Name: "app", Image: "localhost/app:" + tag,
		Args:            []string{"--listen=:8080", "--config=/etc/app/config.yaml", "--log-format=json"},
		Ports:           []corev1.ContainerPort{{Name: "http", ContainerPort: 8080}, {Name: "metrics", ContainerPort: 9090}},
		Env:             []corev1.EnvVar{{Name: "VERSION", Value: version}},
		Resources:       corev1.ResourceRequirements{Requests: amounts},
		LivenessProbe:   &corev1.Probe{ProbeHandler: probe, PeriodSeconds: 10},
		ReadinessProbe:  &corev1.Probe{ProbeHandler: probe, PeriodSeconds: 5},
		VolumeMounts:    []corev1.VolumeMount{{Name: "config", MountPath: "/etc/app"}, {Name: "tmp", MountPath: "/tmp"}},
		SecurityContext: &corev1.SecurityContext{AllowPrivilegeEscalation: new(false), ReadOnlyRootFilesystem: new(true)},
	}
	for i := range 12 {
		app.Env = append(app.Env, corev1.EnvVar{Name: fmt.Sprintf("SETTING_%d", i), Value: fmt.Sprintf("https://backend-%d.%s.svc:8443/v1", i, name)})
	}
	return corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{
			Labels:      map[string]string{"app": name, "team": "platform", "app.kubernetes.io/managed-by": "bench"},
			Annotations: map[string]string{"prometheus.io/scrape": "true", "prometheus.io/port": "9090"},
		},
		Spec: corev1.PodSpec{
			TerminationGracePeriodSeconds: new(int64(1)),
			Containers:                    []corev1.Container{app},
			Volumes: []corev1.Volume{
				{Name: "config", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: name}, Optional: new(true)}}},
				{Name: "tmp", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
			},
		},
	}
}

func spec(name, tag string, replicas int32) appsv1.DeploymentSpec {
	return appsv1.DeploymentSpec{
		Replicas: &replicas,
		Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": name}},
		Template: template(name, tag, "1"),
	}
}

func guarded(name, tag string, replicas int32) *v1alpha1.GuardedDeployment {
	return &v1alpha1.GuardedDeployment{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: v1alpha1.GuardedDeploymentSpec{DeploymentSpec: spec(name, tag, replicas),
			Guard: v1alpha1.Guard{SoakSeconds: new(int32(0)), MaxRestarts: new(maxRestarts)}},
	}
}

func nameOf(i int) string { return fmt.Sprintf("app-%05d", i) }

// each calls do for the numbers from first to last-1, clients at a time. It returns the first error.
func each(ctx context.Context, first, last int, do func(context.Context, int) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	numbers := make(chan int)
	var running sync.WaitGroup
	for range clients {
		running.Go(func() {
			for i := range numbers {
				if err := do(ctx, i); err != nil {
					cancel(err)
				}
			}
		})
	}
	for i := first; i < last && ctx.Err() == nil; i++ {
		select {
		case numbers <- i:
		case <-ctx.Done():
		}
	}
	close(numbers)
	running.Wait()
	return context.Cause(ctx)
}

func (b *bench) createGuarded(ctx context.Context, namespace string, first, last int, replicas int32) error {
	return each(ctx, first, last, func(ctx context.Context, i int) error {
		_, err := b.guard.BelayV1alpha1().GuardedDeployments(namespace).Create(ctx, guarded(nameOf(i), "good", replicas), metav1.CreateOptions{})
		return err
	})
}

func (b *bench) createPlain(ctx context.Context, namespace string, count int) error {
	return each(ctx, 0, count, func(ctx context.Context, i int) error {
		d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: nameOf(i)}, Spec: spec(nameOf(i), "good", b.Replicas)}
		_, err := b.kube.AppsV1().Deployments(namespace).Create(ctx, d, metav1.CreateOptions{})
		return err
	})
}

// release is the patch that gives an object another template.
func release(tag, version string) []byte {
	return fmt.Appendf(nil, `[{"op":"replace","path":"/spec/template/spec/containers/0/image","value":"localhost/app:%s"},
		{"op":"replace","path":"/spec/template/spec/containers/0/env/0/value","value":%q}]`, tag, version)
}

func (b *bench) releaseGuarded(ctx context.Context, namespace string, count int, tag, version string) error {
	return each(ctx, 0, count, func(ctx context.Context, i int) error {
		_, err := b.guard.BelayV1alpha1().GuardedDeployments(namespace).Patch(ctx, nameOf(i), types.JSONPatchType, release(tag, version), metav1.PatchOptions{})
		return err
	})
}

func (b *bench) releasePlain(ctx context.Context, namespace string, count int, tag, version string) error {
	return each(ctx, 0, count, func(ctx context.Context, i int) error {
		_, err := b.kube.AppsV1().Deployments(namespace).Patch(ctx, nameOf(i), types.JSONPatchType, release(tag, version), metav1.PatchOptions{})
		return err
	})
}

// namespace creates a namespace and waits until pods are accepted in it.
func (b *bench) namespace(ctx context.Context, name string) error {
	_, err := b.kube.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return err
	}
	return poll(ctx, time.Minute, "the namespace is there", func(ctx context.Context) (bool, error) {
		_, err := b.kube.CoreV1().ServiceAccounts(name).Get(ctx, "default", metav1.GetOptions{})
		return err == nil, nil
	})
}

// watched is the objects of one kind in a namespace, as a cache has them.
type watched[T any] struct {
	store cache.Store
	stop  func()
}

// all waits until count objects are as ok says.
func (w *watched[T]) all(ctx context.Context, count int, what string, ok func(T) bool) error {
	found := 0
	err := poll(ctx, patience, what, func(context.Context) (bool, error) {
		found = 0
		for _, object := range w.store.List() {
			if ok(object.(T)) {
				found++
			}
		}
		return found >= count, nil
	})
	if err != nil {
		return fmt.Errorf("%d of %d: %w", found, count, err)
	}
	return nil
}

func (b *bench) watchGuarded(ctx context.Context, namespace string) *watched[*v1alpha1.GuardedDeployment] {
	ctx, cancel := context.WithCancel(ctx)
	factory := externalversions.NewSharedInformerFactoryWithOptions(b.guard, 0, externalversions.WithNamespace(namespace))
	informer := factory.Belay().V1alpha1().GuardedDeployments().Informer()
	factory.StartWithContext(ctx)
	factory.WaitForCacheSync(ctx.Done())
	return &watched[*v1alpha1.GuardedDeployment]{informer.GetStore(), func() { cancel(); factory.Shutdown() }}
}

// workIn starts Belay for a namespace that it creates, and watches what is guarded there.
func (b *bench) workIn(ctx context.Context, namespace string) (*watched[*v1alpha1.GuardedDeployment], error) {
	if err := b.namespace(ctx, namespace); err != nil {
		return nil, err
	}
	if _, err := b.start(ctx, namespace); err != nil {
		return nil, err
	}
	return b.watchGuarded(ctx, namespace), nil
}

func (b *bench) watchPlain(ctx context.Context, namespace string) *watched[*appsv1.Deployment] {
	ctx, cancel := context.WithCancel(ctx)
	factory := informers.NewSharedInformerFactoryWithOptions(b.kube, 0, informers.WithNamespace(namespace))
	informer := factory.Apps().V1().Deployments().Informer()
	factory.StartWithContext(ctx)
	factory.WaitForCacheSync(ctx.Done())
	return &watched[*appsv1.Deployment]{informer.GetStore(), func() { cancel(); factory.Shutdown() }}
}

// ready tells whether the spec of this version is good and runs.
func ready(version string) func(*v1alpha1.GuardedDeployment) bool {
	return func(g *v1alpha1.GuardedDeployment) bool {
		return g.Spec.Template.Spec.Containers[0].Env[0].Value == version && g.Status.ObservedGeneration == g.Generation &&
			meta.IsStatusConditionTrue(g.Status.Conditions, v1alpha1.ConditionReady)
	}
}

// reason tells whether the condition Ready has this reason for the present spec.
func reason(want string) func(*v1alpha1.GuardedDeployment) bool {
	return func(g *v1alpha1.GuardedDeployment) bool {
		condition := meta.FindStatusCondition(g.Status.Conditions, v1alpha1.ConditionReady)
		return condition != nil && condition.Reason == want && g.Status.ObservedGeneration == g.Generation
	}
}

// available tells whether a Deployment runs its template of this version, and nothing else.
func available(version string) func(*appsv1.Deployment) bool {
	return func(d *appsv1.Deployment) bool {
		return d.Spec.Template.Spec.Containers[0].Env[0].Value == version && d.Status.ObservedGeneration == d.Generation &&
			d.Status.UpdatedReplicas == *d.Spec.Replicas && d.Status.AvailableReplicas == *d.Spec.Replicas && d.Status.Replicas == *d.Spec.Replicas
	}
}

func poll(ctx context.Context, within time.Duration, what string, done wait.ConditionWithContextFunc) error {
	err := wait.PollUntilContextTimeout(ctx, pollEvery, within, true, done)
	if wait.Interrupted(err) && ctx.Err() == nil {
		return fmt.Errorf("waited %s until %s", within, what)
	}
	return err
}
