package evidence

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"

	"github.com/belay-dev/belay/pkg/rollout"
)

const (
	// maxDetails is how many requests the details of one sync may take, and detailsTimeout how long they may take together.
	maxDetails, detailsTimeout = 8, 2 * time.Second
	// eventsLimit is how many Events about one object are read.
	eventsLimit = 100
	// maxUnread is how long the sentence may be that says what could not be read, in bytes.
	maxUnread = 400
)

// errNoAnswer says that the time of the details was over.
var errNoAnswer = fmt.Errorf("there was no answer within %s", detailsTimeout)

// Budget is what the details of one sync have taken. The zero value has taken nothing.
type Budget struct {
	requests int
	until    time.Time // when their time is up, zero before the first
}

// take takes one request. It is an error if none is left, or no time.
func (b *Budget) take(ctx context.Context) error {
	if b.requests == maxDetails {
		return fmt.Errorf("%d requests were made for the release already", maxDetails)
	}
	b.requests++
	return ctx.Err()
}

// Details adds to the evidence the Events, the Nodes and the log that are asked for. The sync goes on without those that cannot be
// read, for lack of a right for example: Unread tells it.
func (r *Reader) Details(ctx context.Context, namespace string, evidence *rollout.Evidence, asked rollout.Details, spent *Budget) {
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
	note("Events", r.readEvents(ctx, namespace, evidence, asked.Events, spent))
	note("Nodes", r.readNodes(ctx, evidence, asked.Nodes, spent))
	if asked.Log != nil {
		evidence.Log = r.readLog(ctx, namespace, *asked.Log, spent)
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
func (r *Reader) readEvents(ctx context.Context, namespace string, evidence *rollout.Evidence, uids []types.UID, spent *Budget) (err error) {
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
		list, err = r.kube.CoreV1().Events(namespace).List(ctx, metav1.ListOptions{
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
func (r *Reader) readNodes(ctx context.Context, evidence *rollout.Evidence, names []string, spent *Budget) error {
	if evidence.Nodes == nil {
		evidence.Nodes = map[string]*corev1.Node{}
	}
	for _, name := range names {
		if err := spent.take(ctx); err != nil {
			return err
		}
		node, err := r.kube.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
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
