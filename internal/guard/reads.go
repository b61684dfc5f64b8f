package guard

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
	"github.com/belay-dev/belay/pkg/rollout"
)

const (
	// manyEnded is from how many pods that have ended on they are read apart from the live ones, at most endedLimit of each phase.
	manyEnded, endedLimit = 200, 500
	// maxDetails is how many requests the details of one sync may take, and detailsTimeout how long they may take together.
	maxDetails, detailsTimeout = 8, 2 * time.Second
	// eventsLimit is how many Events about one object are read.
	eventsLimit = 100
	// maxUnread is how long the sentence may be that says what could not be read, in bytes.
	maxUnread = 400
)

// readEvidence reads, live, what the judge goes by. The chain of uids, Deployment to ReplicaSet to pod, keeps out what
// merely has the same labels.
func (g *Guard) readEvidence(ctx context.Context, key cache.ObjectName, d *appsv1.Deployment) (*rollout.Evidence, error) {
	evidence := &rollout.Evidence{}
	sets, err := g.kube.AppsV1().ReplicaSets(d.Namespace).List(ctx, selecting(d.Spec.Selector))
	if err != nil {
		return nil, fmt.Errorf("list the ReplicaSets: %w", err)
	}
	ours := map[types.UID]bool{}
	for i := range sets.Items {
		if metav1.IsControlledBy(&sets.Items[i], d) {
			evidence.ReplicaSets = append(evidence.ReplicaSets, &sets.Items[i])
			ours[sets.Items[i].UID] = true
		}
	}
	read := g.readPods
	if g.lastPoll(key).ended > manyEnded {
		read = g.readPodsApart
	}
	pods, err := read(ctx, d)
	if err != nil {
		return nil, fmt.Errorf("list the pods: %w", err)
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
	g.notePoll(key, polled)
	return evidence, nil
}

// readPods reads the pods that the Deployment selects.
func (g *Guard) readPods(ctx context.Context, d *appsv1.Deployment) ([]corev1.Pod, error) {
	list, err := g.kube.CoreV1().Pods(d.Namespace).List(ctx, selecting(d.Spec.Selector))
	if err != nil {
		return nil, err
	}
	return list.Items, nil
}

// readPodsApart reads the same, but of those that have ended a part: they stay until the garbage collector finds that there are
// too many in the whole cluster, which may be thousands. The live ones come first, so that none is missed; one that ends
// meanwhile is in two lists.
func (g *Guard) readPodsApart(ctx context.Context, d *appsv1.Deployment) ([]corev1.Pod, error) {
	var pods []corev1.Pod
	place := map[types.UID]int{}
	for _, options := range []metav1.ListOptions{
		{FieldSelector: "status.phase!=Failed,status.phase!=Succeeded"},
		{FieldSelector: "status.phase=Failed", Limit: endedLimit},
		{FieldSelector: "status.phase=Succeeded", Limit: endedLimit},
	} {
		options.LabelSelector = selecting(d.Spec.Selector).LabelSelector
		list, err := g.kube.CoreV1().Pods(d.Namespace).List(ctx, options)
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

// errNoAnswer says that the time of the details was over.
var errNoAnswer = fmt.Errorf("there was no answer within %s", detailsTimeout)

// budget is what the details of one sync have taken.
type budget struct {
	requests int
	until    time.Time // when their time is up, zero before the first
}

// take takes one request. It is an error if none is left, or no time.
func (b *budget) take(ctx context.Context) error {
	if b.requests == maxDetails {
		return fmt.Errorf("%d requests were made for the release already", maxDetails)
	}
	b.requests++
	return ctx.Err()
}

// readDetails adds to the evidence the Events, the Nodes and the log that the decision needs. The sync goes on without those that
// cannot be read, for lack of a right for example: Unread tells it.
func (g *Guard) readDetails(ctx context.Context, namespace string, evidence *rollout.Evidence, d rollout.Decision, spent *budget) {
	if spent.until.IsZero() {
		spent.until = time.Now().Add(detailsTimeout)
	}
	ctx, cancel := context.WithDeadline(ctx, spent.until)
	defer cancel()
	var unread []string
	note := func(what string, err error) {
		if err == nil {
			return
		}
		if ctx.Err() != nil || errors.Is(err, context.DeadlineExceeded) {
			err = errNoAnswer
		}
		unread = append(unread, fmt.Sprintf("%s cannot be read: %v", what, err))
	}
	note("Events", g.readEvents(ctx, namespace, evidence, d.NeedEvents, spent))
	note("Nodes", g.readNodes(ctx, evidence, d.NeedNodes, spent))
	if d.NeedLog != nil {
		evidence.Log = g.readLog(ctx, namespace, *d.NeedLog, spent)
	}
	if len(unread) == 0 {
		return
	}
	klog.FromContext(ctx).V(2).Info("Judging by less", "unread", unread)
	if evidence.Unread != "" {
		unread = slices.Insert(unread, 0, evidence.Unread)
	}
	evidence.Unread = rollout.Clean(strings.Join(unread, "; "), maxUnread)
}

// readEvents adds the Events about the objects with these uids, oldest first. After an error the entries are empty.
func (g *Guard) readEvents(ctx context.Context, namespace string, evidence *rollout.Evidence, uids []types.UID, spent *budget) (err error) {
	if evidence.Events == nil {
		evidence.Events = map[types.UID][]*corev1.Event{}
	}
	for _, uid := range uids {
		evidence.Events[uid] = nil
		if err != nil {
			continue
		}
		if err = spent.take(ctx); err != nil {
			continue
		}
		var list *corev1.EventList
		list, err = g.kube.CoreV1().Events(namespace).List(ctx, metav1.ListOptions{
			FieldSelector: fields.OneTermEqualSelector("involvedObject.uid", string(uid)).String(), Limit: eventsLimit})
		if err != nil {
			continue
		}
		for i := range list.Items {
			evidence.Events[uid] = append(evidence.Events[uid], &list.Items[i])
		}
		slices.SortStableFunc(evidence.Events[uid], func(a, b *corev1.Event) int { return rollout.LastSeen(a).Compare(rollout.LastSeen(b)) })
	}
	return err
}

// readNodes adds the Nodes of these names, nil for one that does not exist. After an error there are no more entries.
func (g *Guard) readNodes(ctx context.Context, evidence *rollout.Evidence, names []string, spent *budget) error {
	if evidence.Nodes == nil {
		evidence.Nodes = map[string]*corev1.Node{}
	}
	for _, name := range names {
		if err := spent.take(ctx); err != nil {
			return err
		}
		node, err := g.kube.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
		switch {
		case apierrors.IsNotFound(err):
			evidence.Nodes[name] = nil
		case err != nil:
			return err
		default:
			evidence.Nodes[name] = node
		}
	}
	return nil
}

// readDeployment reads, live, the Deployment of that name, whoever owns it; nil if there is none.
func (g *Guard) readDeployment(ctx context.Context, key cache.ObjectName) (*appsv1.Deployment, error) {
	live, err := g.kube.AppsV1().Deployments(key.Namespace).Get(ctx, key.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("get Deployment: %w", err)
	}
	return live, nil
}

// readLeftBehind reads, live, the Deployment that a GuardedDeployment which is gone has left behind, and returns it as it is
// to be from now on; nil if there is none. A GuardedDeployment that is there after all brings the key back by itself.
func (g *Guard) readLeftBehind(ctx context.Context, key cache.ObjectName) (*appsv1.Deployment, error) {
	cached, err := g.deployments.Deployments(key.Namespace).Get(key.Name)
	if apierrors.IsNotFound(err) || (err == nil && !rollout.LeftBehind(cached)) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	live, err := g.readDeployment(ctx, key)
	if live == nil || err != nil {
		return nil, err
	}
	released := rollout.Release(live, FieldManager)
	if released == nil {
		return nil, nil
	}
	_, err = g.belay.BelayV1alpha1().GuardedDeployments(key.Namespace).Get(ctx, key.Name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return released, nil
	case err != nil:
		return nil, fmt.Errorf("get GuardedDeployment: %w", err)
	default:
		return nil, nil
	}
}

// readRevisions reads, live, the revisions of guarded, also those that have lost their label.
func (g *Guard) readRevisions(ctx context.Context, guarded *v1alpha1.GuardedDeployment) ([]*appsv1.ControllerRevision, error) {
	list, err := g.kube.AppsV1().ControllerRevisions(guarded.Namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list the ControllerRevisions: %w", err)
	}
	var revisions []*appsv1.ControllerRevision
	for i := range list.Items {
		if metav1.IsControlledBy(&list.Items[i], guarded) {
			revisions = append(revisions, &list.Items[i])
		}
	}
	return revisions, nil
}

func selecting(selector *metav1.LabelSelector) metav1.ListOptions {
	return metav1.ListOptions{LabelSelector: metav1.FormatLabelSelector(selector)}
}
