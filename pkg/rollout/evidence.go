package rollout

import (
	"cmp"
	"fmt"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/types"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// Evidence is what was read from the API server, live, about the Deployment's pods.
type Evidence struct {
	// ReplicaSets are those that the Deployment controls.
	ReplicaSets []*appsv1.ReplicaSet
	// Pods are those that the current ReplicaSet controls, also those that have ended or are being deleted.
	Pods []*corev1.Pod
	// OldPods are those that the other ReplicaSets control.
	OldPods []*corev1.Pod
	// Events are those about the objects that Decision.NeedDetails named, by the object's uid. An object without any has an
	// empty entry.
	Events map[types.UID][]*corev1.Event
	// Nodes are those that Decision.NeedDetails named. One that does not exist is nil.
	Nodes map[string]*corev1.Node
	// Unread says why Events or Nodes that were asked for could not be read, empty if they were.
	Unread string
	// Log is what Decision.NeedDetails asked for.
	Log *Log
	// Objects says what was found of each of those that Decision.NeedObjects named.
	Objects map[Reference]Finding
}

// LogRequest names the lines that a container wrote last, in the run before the present one if Previous.
type LogRequest struct {
	Node, Pod, Container string
	Previous             bool
}

// Log is the answer to a LogRequest: the lines, or why they could not be read.
type Log struct{ Lines, Unread string }

// counts of pods: wanted, the new template's, and the old ones'; oldLeft are those that are still there, also while they end.
type counts struct{ wanted, created, ready, available, old, oldLeft int32 }

// CurrentReplicaSet returns the ReplicaSet with the Deployment's template, nil if there is none yet. Of several it is
// the oldest: the one that the Deployment controller uses.
func CurrentReplicaSet(d *appsv1.Deployment, sets []*appsv1.ReplicaSet) *appsv1.ReplicaSet {
	var current *appsv1.ReplicaSet
	for _, set := range sets {
		if !sameTemplate(&set.Spec.Template, &d.Spec.Template) {
			continue
		}
		if current == nil || cmp.Or(set.CreationTimestamp.Compare(current.CreationTimestamp.Time), strings.Compare(set.Name, current.Name)) < 0 {
			current = set
		}
	}
	return current
}

// sameTemplate compares a ReplicaSet's template with a Deployment's, but for the label that tells ReplicaSets apart.
func sameTemplate(set, template *corev1.PodTemplateSpec) bool {
	return equality.Semantic.DeepEqual(withoutHash(set), withoutHash(template))
}

// count counts the pods of the Deployment. The ReplicaSets' statuses are the ReplicaSet controller's word, which may be old: what
// is ready is counted from the pods.
func count(l *look) counts {
	seen := counts{wanted: valueOr(l.deployment.Spec.Replicas, 1), created: int32(len(l.active))}
	for _, pod := range l.active {
		if readyByOwnWord(pod) {
			seen.ready++
		}
	}
	for _, set := range l.evidence.ReplicaSets {
		if set == l.current {
			seen.available = set.Status.AvailableReplicas
		} else {
			seen.old += max(set.Status.Replicas, valueOr(set.Spec.Replicas, 0))
		}
	}
	for _, pod := range l.evidence.OldPods {
		if _, ended := endOf(pod); !ended {
			seen.oldLeft++
		}
	}
	return seen
}

// active returns the pods that count: not those that are on their way out, or were evicted.
func active(pods []*corev1.Pod) []*corev1.Pod {
	var active []*corev1.Pod
	for _, pod := range pods {
		if pod.DeletionTimestamp == nil && pod.Status.Phase != corev1.PodFailed && pod.Status.Phase != corev1.PodSucceeded {
			active = append(active, pod)
		}
	}
	return active
}

// stuckReasons are the reasons for which the kubelet makes a container wait until somebody mends its image or its
// configuration, and what they are called here. They are from the kubelet and the CRI of Kubernetes 1.37:
//
//   - https://github.com/kubernetes/kubernetes/blob/v1.37.2/pkg/kubelet/images/types.go
//   - https://github.com/kubernetes/kubernetes/blob/v1.37.2/pkg/kubelet/kuberuntime/kuberuntime_container.go
//   - https://github.com/kubernetes/kubernetes/blob/v1.37.2/pkg/kubelet/container/sync_result.go
//   - https://github.com/kubernetes/cri-api/blob/v0.37.2/pkg/errors/errors.go
var stuckReasons = map[string]string{
	"ErrImagePull":               v1alpha1.FailureImagePull,
	"ImagePullBackOff":           v1alpha1.FailureImagePull,
	"InvalidImageName":           v1alpha1.FailureImagePull,
	"ErrImageNeverPull":          v1alpha1.FailureImagePull,
	"ImageInspectError":          v1alpha1.FailureImagePull,
	"RegistryUnavailable":        v1alpha1.FailureImagePull,
	"SignatureValidationFailed":  v1alpha1.FailureImagePull,
	"CreateContainerConfigError": v1alpha1.FailureContainerConfig,
	"CreateContainerError":       v1alpha1.FailureContainerConfig,
	"PreCreateHookError":         v1alpha1.FailureContainerConfig,
	"PreStartHookError":          v1alpha1.FailureContainerConfig,
}

// stuckReason returns the failure reason of a container that waits for one of the stuckReasons.
func stuckReason(c *corev1.ContainerStatus) (string, bool) {
	if c.State.Waiting == nil {
		return "", false
	}
	reason, ok := stuckReasons[c.State.Waiting.Reason]
	return reason, ok
}

// absent says who has to act before anything can be said about the release, nobody if nobody has to.
func absent(l *look) waiting {
	controller := func(words string) waiting {
		return waiting{v1alpha1.ReasonWaitingForDeploymentController, words}
	}
	ending := l.oldLeft > 0 && l.deployment.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType
	switch {
	case ending && l.created == 0:
		return waiting{v1alpha1.ReasonWaitingForOldPods, fmt.Sprintf("%d pods of the release before to end", l.oldLeft)}
	case l.current == nil:
		return controller("the Deployment controller, which has made no ReplicaSet for it")
	case valueOr(l.current.Spec.Replicas, 0) > l.created:
		return controller("the ReplicaSet controller, which has not made its pods")
	}
	for _, pod := range l.active {
		switch {
		case pod.Spec.NodeName == "" && conditionOf(pod, corev1.PodScheduled).Message != "":
			return waiting{v1alpha1.ReasonWaitingForScheduler, fmt.Sprintf("the scheduler%s, which says of pod %s: %s",
				named(pod.Spec.SchedulerName), pod.Name, conditionOf(pod, corev1.PodScheduled).Message)}
		case pod.Spec.NodeName == "":
			return waiting{v1alpha1.ReasonWaitingForScheduler, fmt.Sprintf("the scheduler%s, which has not looked at pod %s", named(pod.Spec.SchedulerName), pod.Name)}
		case nodeSilent(pod):
			return waiting{v1alpha1.ReasonWaitingForNode, fmt.Sprintf("node %s, which does not report: pod %s is ready by its own word; %s",
				pod.Spec.NodeName, pod.Name, l.howManyAreFine())}
		}
	}
	if l.available >= l.created || (l.ready > l.available && l.deployment.Spec.MinReadySeconds == 0) {
		return controller("the Deployment controller, which does not go on")
	}
	return waiting{}
}

// named returns the name of a scheduler that is not the default one, for a sentence.
func named(scheduler string) string {
	if scheduler == "" || scheduler == corev1.DefaultSchedulerName {
		return ""
	}
	return " " + scheduler
}
