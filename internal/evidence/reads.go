package evidence

import (
	"context"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/belay-dev/belay/pkg/rollout"
)

// manyEnded is from how many pods that have ended on they are read apart from the live ones, at most endedLimit of each phase.
const manyEnded, endedLimit = 200, 500

// poll is how many pods one read has answered, and how many of them had ended.
type poll struct{ pods, ended int }

// read reads the ReplicaSets and the pods of d. The chain of uids, Deployment to ReplicaSet to pod, keeps out what merely has the
// same labels. before is the poll of the last read for the same rollout, zero if there was none.
func (r *Reader) read(ctx context.Context, d *appsv1.Deployment, before poll) (*rollout.Evidence, poll, error) {
	evidence := &rollout.Evidence{}
	sets, err := r.kube.AppsV1().ReplicaSets(d.Namespace).List(ctx, selecting(d.Spec.Selector))
	if err != nil {
		return nil, poll{}, fmt.Errorf("list the ReplicaSets: %w", err)
	}
	ours := map[types.UID]bool{}
	for i := range sets.Items {
		if metav1.IsControlledBy(&sets.Items[i], d) {
			evidence.ReplicaSets = append(evidence.ReplicaSets, &sets.Items[i])
			ours[sets.Items[i].UID] = true
		}
	}
	read := r.readPods
	if before.ended > manyEnded {
		read = r.readPodsApart
	}
	pods, err := read(ctx, d)
	if err != nil {
		return nil, poll{}, fmt.Errorf("list the pods: %w", err)
	}
	current := rollout.CurrentReplicaSet(d, evidence.ReplicaSets)
	polled := poll{pods: len(pods)}
	for i := range pods {
		if pods[i].Status.Phase == corev1.PodFailed || pods[i].Status.Phase == corev1.PodSucceeded {
			polled.ended++
		}
		switch owner := metav1.GetControllerOfNoCopy(&pods[i]); {
		case owner == nil || !ours[owner.UID]:
		case current != nil && owner.UID == current.UID:
			evidence.Pods = append(evidence.Pods, &pods[i])
		default:
			evidence.OldPods = append(evidence.OldPods, &pods[i])
		}
	}
	return evidence, polled, nil
}

// readPods reads the pods that the Deployment selects.
func (r *Reader) readPods(ctx context.Context, d *appsv1.Deployment) ([]corev1.Pod, error) {
	list, err := r.kube.CoreV1().Pods(d.Namespace).List(ctx, selecting(d.Spec.Selector))
	if err != nil {
		return nil, err
	}
	return list.Items, nil
}

// readPodsApart reads the same, but of those that have ended a part: they stay until the garbage collector finds that there are
// too many in the whole cluster, which may be thousands. The live ones come first, so that none is missed; one that ends
// meanwhile is in two lists.
func (r *Reader) readPodsApart(ctx context.Context, d *appsv1.Deployment) ([]corev1.Pod, error) {
	var pods []corev1.Pod
	place := map[types.UID]int{}
	for _, options := range []metav1.ListOptions{
		{FieldSelector: "status.phase!=Failed,status.phase!=Succeeded"},
		{FieldSelector: "status.phase=Failed", Limit: endedLimit},
		{FieldSelector: "status.phase=Succeeded", Limit: endedLimit},
	} {
		options.LabelSelector = selecting(d.Spec.Selector).LabelSelector
		list, err := r.kube.CoreV1().Pods(d.Namespace).List(ctx, options)
		if err != nil {
			return nil, err
		}
		for _, pod := range list.Items {
			if i, twice := place[pod.UID]; twice {
				pods[i] = pod
				continue
			}
			place[pod.UID] = len(pods)
			pods = append(pods, pod)
		}
	}
	return pods, nil
}

func selecting(selector *metav1.LabelSelector) metav1.ListOptions {
	return metav1.ListOptions{LabelSelector: metav1.FormatLabelSelector(selector)}
}
