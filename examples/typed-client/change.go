package main

import (
	"context"
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/util/retry"
)

// patience is how long a conflict is tried again: six times, after 10 ms, 30 ms, 90 ms and so on. Each try reads anew.
var patience = wait.Backoff{Steps: 7, Duration: 10 * time.Millisecond, Factor: 3, Jitter: 0.1}

func (t *tour) create(ctx context.Context, image string) (*appsv1.Deployment, error) {
	labels := map[string]string{"app": t.name}
	created, err := t.AppsV1().Deployments(t.namespace).Create(ctx, &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: t.name},
		Spec: appsv1.DeploymentSpec{
			Replicas: new(int32(2)),
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "app", Image: image}}},
			},
		},
	}, metav1.CreateOptions{})
	if err == nil {
		fmt.Printf("\ncreated %s: %d replicas of %s\n", t.name, *created.Spec.Replicas, image)
	}
	return created, err
}

// change gives the Deployment another image and a third replica. The first try is made with an object that was read a
// while ago, as a cache would return it: by now others have changed it, so that the server refuses the write (409). Never
// send such an object again as if nothing had happened: what the others wrote would be lost.
func (t *tour) change(ctx context.Context, deployment *appsv1.Deployment, image string) error {
	stop := t.rival(ctx)
	defer stop()
	tries := 0
	err := retry.RetryOnConflict(patience, func() (err error) {
		if tries++; tries > 1 {
			if deployment, err = t.AppsV1().Deployments(t.namespace).Get(ctx, t.name, metav1.GetOptions{}); err != nil {
				return err
			}
		}
		changed := deployment.DeepCopy()
		changed.Spec.Replicas = new(int32(3))
		changed.Spec.Template.Spec.Containers[0].Image = image
		_, err = t.AppsV1().Deployments(t.namespace).Update(ctx, changed, metav1.UpdateOptions{})
		if apierrors.IsConflict(err) {
			fmt.Printf("try %d: resourceVersion %s is not the latest any more\n", tries, deployment.ResourceVersion)
		}
		return err
	})
	if err == nil {
		fmt.Printf("changed %s at try %d: 3 replicas of %s\n", t.name, tries, image)
	}
	return err
}

// rival writes an annotation again and again, until it is stopped: a patch without resourceVersion meets no conflict.
func (t *tour) rival(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		wait.JitterUntilWithContext(ctx, func(ctx context.Context) {
			patch := fmt.Appendf(nil, `{"metadata":{"annotations":{"rival":"%d"}}}`, time.Now().UnixNano())
			_, _ = t.AppsV1().Deployments(t.namespace).Patch(ctx, t.name, types.MergePatchType, patch, metav1.PatchOptions{})
		}, 50*time.Millisecond, 1, true)
	}()
	return func() { cancel(); <-done }
}

// scale goes through the subresource: who may scale a Deployment need not be allowed to change what it runs.
func (t *tour) scale(ctx context.Context, replicas int32) error {
	return retry.RetryOnConflict(patience, func() error {
		scale, err := t.AppsV1().Deployments(t.namespace).GetScale(ctx, t.name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		before := scale.Spec.Replicas
		scale.Spec.Replicas = replicas
		if _, err = t.AppsV1().Deployments(t.namespace).UpdateScale(ctx, t.name, scale, metav1.UpdateOptions{}); err == nil {
			fmt.Printf("scaled %s from %d to %d\n", t.name, before, replicas)
		}
		return err
	})
}
