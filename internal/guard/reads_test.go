package guard

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"

	"github.com/belay-dev/belay/internal/expect"
	fake "github.com/belay-dev/belay/internal/fakecluster"
	"github.com/belay-dev/belay/pkg/rollout"
)

// reader is a Guard that only reads, in a world where nothing runs, and a Deployment with two ReplicaSets.
type reader struct {
	*world
	*Guard
	key          cache.ObjectName
	d            *appsv1.Deployment
	current, old *appsv1.ReplicaSet
}

func inReader(t *testing.T, test func(r *reader)) {
	t.Helper()
	fake.Empty(t, func(w *world) {
		r := &reader{world: w, Guard: &Guard{kube: w.NewProcess().Kube, memories: map[cache.ObjectName]memory{}}}
		r.d = fake.Add(w, fake.DeploymentOf(fake.Webshop("web", "web:2")))
		r.key = cache.MetaObjectToName(r.d)
		r.current, r.old = r.addSet("web-2", "web:2", r.d), r.addSet("web-1", "web:1", r.d)
		test(r)
	})
}

func (r *reader) addSet(name, image string, owner *appsv1.Deployment) *appsv1.ReplicaSet {
	set := &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace, Labels: r.d.Spec.Template.Labels,
		OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(owner, appsv1.SchemeGroupVersion.WithKind("Deployment"))}}}
	set.Spec.Template = *r.d.Spec.Template.DeepCopy()
	set.Spec.Template.Spec.Containers[0].Image = image
	return fake.Add(r.world, set)
}

func (r *reader) addPod(name string, owner *appsv1.ReplicaSet, phase corev1.PodPhase) {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace, Labels: r.d.Spec.Template.Labels}}
	if owner != nil {
		pod.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(owner, appsv1.SchemeGroupVersion.WithKind("ReplicaSet"))}
	}
	fake.Add(r.world, pod)
	r.setPhase(name, phase)
}

func (r *reader) setPhase(pod string, phase corev1.PodPhase) {
	fake.EditStatus(r.world, pod, func(p *corev1.Pod) { p.Status.Phase = phase })
}

func (r *reader) poll() *rollout.Evidence {
	r.T.Helper()
	r.ForgetRequests()
	evidence, err := r.readEvidence(r.T.Context(), r.key, r.d)
	if err != nil {
		r.T.Fatal(err)
	}
	return evidence
}

func namesOf(pods []*corev1.Pod) (names []string) {
	for _, pod := range pods {
		names = append(names, pod.Name)
	}
	return names
}

func TestReadEvidence_PodsByTheirReplicaSet(t *testing.T) {
	inReader(t, func(r *reader) {
		r.addPod("new-1", r.current, corev1.PodRunning)
		r.addPod("new-2", r.current, corev1.PodFailed)
		r.addPod("old-1", r.old, corev1.PodRunning)
		r.addPod("nobodys", nil, corev1.PodRunning)
		other := fake.Add(r.world, fake.DeploymentOf(fake.Webshop("other", "web:2")))
		r.addPod("others", r.addSet("other-1", "web:2", other), corev1.PodRunning)

		e := r.poll()
		expect.Same(t, "new pods", []string{"new-1", "new-2"}, namesOf(e.Pods))
		expect.Same(t, "old pods", []string{"old-1"}, namesOf(e.OldPods))
		expect.Same(t, "ReplicaSets", 2, len(e.ReplicaSets))
		expect.Same(t, "requests", map[string]int{"list replicasets": 1, "list pods": 1}, fake.Counts(r.Asked(fake.Everything)))

		fake.Remove[*appsv1.ReplicaSet](r.world, "web-2")
		e = r.poll()
		expect.Same(t, "new pods without a ReplicaSet", []string(nil), namesOf(e.Pods))
		expect.Same(t, "old pods without a ReplicaSet for the new ones", []string{"old-1"}, namesOf(e.OldPods))
	})
}

func TestReadEvidence_ManyEndedPods(t *testing.T) {
	inReader(t, func(r *reader) {
		r.addPod("live", r.current, corev1.PodRunning)
		for i := range manyEnded {
			r.addPod(fmt.Sprintf("failed-%04d", i), r.current, corev1.PodFailed)
		}
		poll := func(name string, pods, lists int) {
			t.Helper()
			e := r.poll()
			got := namesOf(e.Pods)
			slices.Sort(got)
			if len(slices.Compact(got)) != pods || len(e.Pods) != pods || !slices.Contains(got, "live") {
				t.Errorf("%s: %d pods, want %d with the live one", name, len(e.Pods), pods)
			}
			expect.Same(t, name, map[string]int{"list replicasets": 1, "list pods": lists}, fake.Counts(r.Asked(fake.Everything)))
		}
		poll("at the limit", manyEnded+1, 1)
		poll("still so", manyEnded+1, 1)
		for i := range 2 * endedLimit {
			r.addPod(fmt.Sprintf("more-%04d", i), r.current, corev1.PodFailed)
			r.addPod(fmt.Sprintf("done-%04d", i), r.current, corev1.PodSucceeded)
		}
		poll("the first with more", manyEnded+4*endedLimit+1, 1)
		poll("from then on", 2*endedLimit+1, 3)

		r.Intercept(func(q request, carryOut func() error) error {
			err := carryOut()
			if lists := len(r.Requested("list", "pods")); q.Resource == "pods" && lists == 1 {
				r.setPhase("live", corev1.PodFailed)
			}
			return err
		})
		fake.Remove[*corev1.Pod](r.world, "failed-0000")
		r.setPhase("live", corev1.PodRunning)
		for i := range 2 * endedLimit {
			fake.Remove[*corev1.Pod](r.world, fmt.Sprintf("more-%04d", i))
			fake.Remove[*corev1.Pod](r.world, fmt.Sprintf("done-%04d", i))
		}
		poll("one ends between two lists", manyEnded, 3)
		r.Intercept(nil)
		poll("there are few again", manyEnded, 1)
	})
}

// details reads details as one sync does, in one or several rounds.
func (r *reader) details(e *rollout.Evidence, rounds ...rollout.Decision) {
	r.ForgetRequests()
	var spent budget
	for _, d := range rounds {
		r.readDetails(r.T.Context(), namespace, e, d, &spent)
	}
}

func (r *reader) addEvent(name string, uid types.UID, when func(*corev1.Event, time.Time), seconds int64) {
	e := &corev1.Event{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace}, InvolvedObject: corev1.ObjectReference{UID: uid}}
	when(e, time.Unix(1_000_000+seconds, 0))
	fake.Add(r.world, e)
}

func TestReadDetails_EventsByTheirTimeAndNodes(t *testing.T) {
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
		r.details(e, rollout.Decision{NeedEvents: []types.UID{"pod", "quiet"}}, rollout.Decision{NeedNodes: []string{"here", "gone"}})
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

func TestReadDetails_WithoutTheRight(t *testing.T) {
	inReader(t, func(r *reader) {
		r.addEvent("a", "pod", func(*corev1.Event, time.Time) {}, 0)
		r.Intercept(func(q request, carryOut func() error) error {
			if q.Resource == "events" || q.Resource == "nodes" {
				return apierrors.NewForbidden(schema.GroupResource{Resource: q.Resource}, q.Name, errors.New("no\nright"))
			}
			return carryOut()
		})
		e := &rollout.Evidence{}
		r.details(e, rollout.Decision{NeedEvents: []types.UID{"pod", "set"}, NeedNodes: []string{"here", "there"}})
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

func TestReadDetails_NoAnswer(t *testing.T) {
	inReader(t, func(r *reader) {
		r.Intercept(func(q request, _ func() error) error {
			time.Sleep(detailsTimeout)
			return fmt.Errorf("Get %q: %w", "https://10.0.0.1/api/v1/events", context.DeadlineExceeded)
		})
		e := &rollout.Evidence{}
		began := time.Now()
		r.details(e, rollout.Decision{NeedEvents: []types.UID{"pod"}}, rollout.Decision{NeedNodes: []string{"here"}})
		expect.Same(t, "it takes", detailsTimeout, time.Since(began))
		expect.Same(t, "what could not be read", "Events cannot be read: there was no answer within 2s; Nodes cannot be read: there was no answer within 2s", e.Unread)
		expect.Same(t, "requests", map[string]int{"list events": 1}, fake.Counts(r.Asked(fake.Everything)))
	})
}

func TestReadDetails_AtMostEightRequests(t *testing.T) {
	inReader(t, func(r *reader) {
		var uids []types.UID
		for i := range maxDetails - 1 {
			uids = append(uids, types.UID(fmt.Sprint("pod-", i)))
		}
		e := &rollout.Evidence{}
		r.details(e, rollout.Decision{NeedEvents: uids}, rollout.Decision{NeedEvents: []types.UID{"set"}, NeedNodes: []string{"here"}})
		expect.Same(t, "requests", map[string]int{"list events": maxDetails}, fake.Counts(r.Asked(fake.Everything)))
		if _, known := e.Nodes["here"]; known || !strings.HasPrefix(e.Unread, "Nodes cannot be read: ") {
			t.Errorf("the Nodes are %v and unread is %q", e.Nodes, e.Unread)
		}
		r.details(e, rollout.Decision{NeedNodes: []string{"here"}})
		if _, known := e.Nodes["here"]; !known {
			t.Error("the next sync cannot read it either")
		}
	})
}

func TestLoad_Interval(t *testing.T) {
	for _, row := range []struct {
		load
		want time.Duration
	}{
		{load{}, 3 * time.Second},
		{load{objects: 150, pods: 3000}, 3 * time.Second},
		{load{objects: 200, pods: 3000}, 4 * time.Second},
		{load{objects: 1, pods: 10_000}, 10 * time.Second},
	} {
		if got := row.interval(); got != row.want {
			t.Errorf("%+v: every %s, want %s", row.load, got, row.want)
		}
	}
}

// What is under way is counted by its last poll, and no longer than it is.
func TestGuard_CountsTheLoad(t *testing.T) {
	underWay, done := rollout.Memory{}, rollout.Memory{}
	underWay.Progress.Revision, underWay.Progress.Phase = "web-1", rollout.PhaseProgressing
	done.Progress.Revision, done.Progress.Phase = "web-1", rollout.PhaseHealthy
	web, other := cache.NewObjectName(namespace, "web"), cache.NewObjectName(namespace, "other")
	inReader(t, func(r *reader) {
		for i, step := range []struct {
			do   func()
			want load
		}{
			{func() { r.notePoll(web, poll{pods: 7}) }, load{}},
			{func() { r.remember(web, underWay) }, load{1, 7}},
			{func() { r.notePoll(web, poll{pods: 9}) }, load{1, 9}},
			{func() { r.remember(other, underWay) }, load{2, 9}},
			{func() { r.notePoll(other, poll{pods: 1}) }, load{2, 10}},
			{func() { r.remember(web, done) }, load{1, 1}},
			{func() { r.remember(web, underWay) }, load{2, 1}},
			{func() { r.remember(other, done) }, load{1, 0}},
			{func() { r.remember(web, rollout.Memory{}) }, load{}},
		} {
			if step.do(); r.underWay != step.want {
				t.Errorf("step %d: %+v, want %+v", i, r.underWay, step.want)
			}
		}
	})
}
