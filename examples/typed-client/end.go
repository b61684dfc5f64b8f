package main

import (
	"context"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
)

// settled is how long the number of what is left has to stay the same before it is believed.
const settled = 3 * time.Second

// delete deletes the Deployment that was created, and no other of the same name.
func (t *tour) delete(ctx context.Context, policy metav1.DeletionPropagation) error {
	return t.AppsV1().Deployments(t.namespace).Delete(ctx, t.name, metav1.DeleteOptions{
		PropagationPolicy: &policy,
		Preconditions:     metav1.NewUIDPreconditions(string(t.uid)),
	})
}

// end deletes the Deployment and shows what becomes of its ReplicaSets and pods:
//
//	Foreground  the Deployment stays, with a deletionTimestamp, until they are gone
//	Background  the Deployment goes at once; the garbage collector deletes what it owned
//	Orphan      the ReplicaSets lose their owner and live on with their pods
func (t *tour) end(ctx context.Context, policy metav1.DeletionPropagation) error {
	if err := t.delete(ctx, policy); err != nil {
		return err
	}
	fmt.Printf("deleted %s, propagation %s\n", t.name, policy)
	began, last, since := time.Now(), "", time.Now()
	err := wait.PollUntilContextTimeout(ctx, 20*time.Millisecond, t.timeout, true, func(ctx context.Context) (bool, error) {
		now, gone, err := t.left(ctx)
		if err != nil {
			return false, err
		}
		if now != last {
			fmt.Printf("%5.2fs %s\n", time.Since(began).Seconds(), now)
			last, since = now, time.Now()
		}
		return gone || (policy == metav1.DeletePropagationOrphan && time.Since(since) > settled), nil
	})
	if err != nil {
		return err
	}
	if policy == metav1.DeletePropagationOrphan {
		fmt.Printf("to delete what lives on: kubectl -n %s delete replicasets -l app=%s\n", t.namespace, t.name)
	}
	return nil
}

// left tells what there is of the Deployment, its ReplicaSets and its pods, and whether that is nothing.
func (t *tour) left(ctx context.Context) (text string, gone bool, err error) {
	mine := metav1.ListOptions{LabelSelector: "app=" + t.name}
	deployment := "there"
	found, err := t.AppsV1().Deployments(t.namespace).Get(ctx, t.name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		deployment = "gone"
	case err != nil:
		return "", false, err
	case found.DeletionTimestamp != nil:
		deployment = "waits until the rest is gone"
	}
	sets, err := t.AppsV1().ReplicaSets(t.namespace).List(ctx, mine)
	if err != nil {
		return "", false, err
	}
	owned := 0
	for _, set := range sets.Items {
		owned += len(set.OwnerReferences)
	}
	pods, err := t.CoreV1().Pods(t.namespace).List(ctx, mine)
	if err != nil {
		return "", false, err
	}
	return fmt.Sprintf("Deployment %s; %d ReplicaSets, %d with an owner; %d pods", deployment, len(sets.Items), owned, len(pods.Items)),
		deployment == "gone" && len(sets.Items)+len(pods.Items) == 0, nil
}
