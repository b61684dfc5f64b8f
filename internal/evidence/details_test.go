package evidence

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/belay-dev/belay/internal/expect"
	fake "github.com/belay-dev/belay/internal/fakecluster"
	"github.com/belay-dev/belay/pkg/rollout"
)

// details reads details as one sync does, in one or several rounds.
func (r *reader) details(e *rollout.Evidence, rounds ...rollout.Details) {
	r.ForgetRequests()
	var spent Budget
	for _, asked := range rounds {
		r.Details(r.T.Context(), namespace, e, asked, &spent)
	}
}

func (r *reader) addEvent(name string, uid types.UID, when func(*corev1.Event, time.Time), seconds int64) {
	e := &corev1.Event{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace}, InvolvedObject: corev1.ObjectReference{UID: uid}}
	when(e, time.Unix(1_000_000+seconds, 0))
	fake.Add(r.world, e)
}

func TestDetails_EventsByTheirTimeAndNodes(t *testing.T) {
	last := func(e *corev1.Event, at time.Time) { e.LastTimestamp = metav1.NewTime(at) }
	first := func(e *corev1.Event, at time.Time) { e.EventTime = metav1.NewMicroTime(at) }
	series := func(e *corev1.Event, at time.Time) {
		first(e, at.Add(-time.Hour))
		e.Series = &corev1.EventSeries{LastObservedTime: metav1.NewMicroTime(at)}
	}
	inReader(t, func(r *reader) {
		r.addEvent("a", "pod", last, 3)
		r.addEvent("b", "pod", first, 1)
		r.addEvent("c", "pod", series, 2)
		r.addEvent("d", "pod", last, 0)
		r.addEvent("e", "else", last, 0)
		fake.Add(r.world, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "here"}})
		e := &rollout.Evidence{}
		r.details(e, rollout.Details{Events: []types.UID{"pod", "quiet"}}, rollout.Details{Nodes: []string{"here", "gone"}})
		var names []string
		for _, event := range e.Events["pod"] {
			names = append(names, event.Name)
		}
		expect.Same(t, "Events of the pod", []string{"d", "b", "c", "a"}, names)
		if events, known := e.Events["quiet"]; !known || len(events) != 0 {
			t.Errorf("an object without Events has %v, %t, want an empty entry", events, known)
		}
		if node := e.Nodes["here"]; node == nil || node.Name != "here" {
			t.Errorf("the Node is %v", node)
		}
		if node, known := e.Nodes["gone"]; node != nil || !known {
			t.Errorf("a Node that does not exist is %v, %t, want nil", node, known)
		}
		expect.Same(t, "what could not be read", "", e.Unread)
		expect.Same(t, "requests", map[string]int{"list events": 2, "get nodes": 2}, fake.Counts(r.Asked(fake.Everything)))
	})
}

func TestDetails_WithoutTheRight(t *testing.T) {
	inReader(t, func(r *reader) {
		r.addEvent("a", "pod", func(*corev1.Event, time.Time) {}, 0)
		r.Intercept(func(q request, carryOut func() error) error {
			if q.Resource == "events" || q.Resource == "nodes" {
				return apierrors.NewForbidden(schema.GroupResource{Resource: q.Resource}, q.Name, errors.New("no\nright"))
			}
			return carryOut()
		})
		e := &rollout.Evidence{}
		r.details(e, rollout.Details{Events: []types.UID{"pod", "set"}, Nodes: []string{"here", "there"}})
		expect.Same(t, "what could not be read", `Events cannot be read: events is forbidden: no right; Nodes cannot be read: nodes "here" is forbidden: no right`, e.Unread)
		if events, known := e.Events["set"]; len(e.Events) != 2 || !known || len(events) != 0 {
			t.Errorf("the Events are %v, want empty entries", e.Events)
		}
		if e.Nodes == nil || len(e.Nodes) != 0 {
			t.Errorf("the Nodes are %v, want no entries", e.Nodes)
		}
		expect.Same(t, "requests", map[string]int{"list events": 1, "get nodes": 1}, fake.Counts(r.Asked(fake.Everything)))
	})
}

func TestDetails_NoAnswer(t *testing.T) {
	inReader(t, func(r *reader) {
		r.Intercept(func(q request, _ func() error) error {
			time.Sleep(detailsTimeout)
			return fmt.Errorf("Get %q: %w", "https://10.0.0.1/api/v1/events", context.DeadlineExceeded)
		})
		e := &rollout.Evidence{}
		began := time.Now()
		r.details(e, rollout.Details{Events: []types.UID{"pod"}}, rollout.Details{Nodes: []string{"here"}})
		expect.Same(t, "it takes", detailsTimeout, time.Since(began))
		expect.Same(t, "what could not be read", "Events cannot be read: there was no answer within 2s; Nodes cannot be read: there was no answer within 2s", e.Unread)
		expect.Same(t, "requests", map[string]int{"list events": 1}, fake.Counts(r.Asked(fake.Everything)))
	})
}

func TestDetails_AtMostEightRequests(t *testing.T) {
	inReader(t, func(r *reader) {
		var uids []types.UID
		for i := range maxDetails - 1 {
			uids = append(uids, types.UID(fmt.Sprint("pod-", i)))
		}
		e := &rollout.Evidence{}
		r.details(e, rollout.Details{Events: uids}, rollout.Details{Events: []types.UID{"set"}, Nodes: []string{"here"}})
		expect.Same(t, "requests", map[string]int{"list events": maxDetails}, fake.Counts(r.Asked(fake.Everything)))
		if _, known := e.Nodes["here"]; known || !strings.HasPrefix(e.Unread, "Nodes cannot be read: ") {
			t.Errorf("the Nodes are %v and unread is %q", e.Nodes, e.Unread)
		}
		r.details(e, rollout.Details{Nodes: []string{"here"}})
		if _, known := e.Nodes["here"]; !known {
			t.Error("the next sync cannot read it either")
		}
	})
}
