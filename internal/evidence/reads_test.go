package evidence

import (
	"fmt"
	"slices"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/belay-dev/belay/internal/expect"
	fake "github.com/belay-dev/belay/internal/fakecluster"
	"github.com/belay-dev/belay/pkg/rollout"
)

func (r *reader) poll() *rollout.Evidence {
	r.T.Helper()
	r.ForgetRequests()
	evidence, polled, err := r.read(r.T.Context(), r.d, r.polled)
	if err != nil {
		r.T.Fatal(err)
	}
	r.polled = polled
	return evidence
}

func namesOf(pods []*corev1.Pod) (names []string) {
	for _, pod := range pods {
		names = append(names, pod.Name)
	}
	return names
}

func TestRead_PodsByTheirReplicaSet(t *testing.T) {
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

func TestRead_ManyEndedPods(t *testing.T) {
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
