package node

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// course is what happens to the pods and the ReplicaSets of a Deployment, as it is seen.
type course struct {
	mu    sync.Mutex
	names map[string]bool      // of the pods that are ready
	sets  []*appsv1.ReplicaSet // each state of each
	told  bool                 // the verdict was seen
	ready []int                // how many pods were, from then on
	odd   []watch.Event
	over  bool
}

// watch begins to look. What it returns ends that.
func (r *inPlaceTrial) watch() (end func() *course) {
	r.Helper()
	of := metav1.ListOptions{LabelSelector: "trial=" + r.name}
	c := &course{names: map[string]bool{}}
	var watches []watch.Interface
	var open sync.WaitGroup
	for _, begin := range []func() (watch.Interface, error){
		func() (watch.Interface, error) { return r.kube.CoreV1().Pods(namespace).Watch(r.Context(), of) },
		func() (watch.Interface, error) { return r.kube.AppsV1().ReplicaSets(namespace).Watch(r.Context(), of) },
		func() (watch.Interface, error) { return r.kube.AppsV1().Deployments(namespace).Watch(r.Context(), of) },
	} {
		w, err := begin()
		if err != nil {
			r.Fatal(err)
		}
		r.Cleanup(w.Stop)
		watches = append(watches, w)
		open.Go(func() {
			for e := range w.ResultChan() {
				c.note(e)
			}
		})
	}
	return func() *course {
		c.mu.Lock()
		c.over = true // That the watches end now is nothing to note.
		c.mu.Unlock()
		for _, w := range watches {
			w.Stop()
		}
		open.Wait()
		return c
	}
}

func (c *course) note(e watch.Event) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over {
		return
	}
	switch o := e.Object.(type) {
	case *corev1.Pod:
		delete(c.names, o.Name)
		if e.Type != watch.Deleted && o.DeletionTimestamp == nil && isReady(o) {
			c.names[o.Name] = true
		}
	case *appsv1.ReplicaSet:
		c.sets = append(c.sets, o)
	case *appsv1.Deployment:
		c.told = c.told || strings.Contains(o.Annotations[v1alpha1.FailureAnnotation], v1alpha1.FailureUnhealthyInSoak)
	default:
		c.odd = append(c.odd, e)
	}
	if c.told {
		c.ready = append(c.ready, len(c.names))
	}
}

func isReady(pod *corev1.Pod) bool {
	return slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// expectNoGap makes sure that the good release came up under its hold before the failed one had gone, and that there were always
// as many ready pods as at the verdict, or as the strategy asks for.
func (r *inPlaceTrial) expectNoGap(seen *course, atVerdict int) {
	r.Helper()
	if !seen.told || len(seen.odd) > 0 {
		r.Fatalf("the verdict was seen: %t, and besides: %s", seen.told, mustJSON(seen.odd))
	}
	least, floor := slices.Min(seen.ready), min(atVerdict, inPlaceLeast)
	say("        %s: since the verdict at least %d of %d pods were ready", r.Name(), least, inPlaceReplicas)
	if least < floor {
		r.Errorf("at some time %d pods were ready, want at least %d: %v", least, floor, slices.Compact(seen.ready))
	}
	heldAt, steps := 0, []string{}
	for _, set := range seen.sets {
		good, failed := hasVersion(set.Spec.Template, "good"), hasVersion(set.Spec.Template, "sickens")
		if good {
			heldAt, _ = strconv.Atoi(held(set))
		}
		steps = append(steps, fmt.Sprintf("%s to be %d, held at %q", set.Name, *set.Spec.Replicas, held(set)))
		if failed && *set.Spec.Replicas == 0 {
			break
		}
	}
	if heldAt < floor {
		r.Errorf("when the failed one went the good one was held at %d, want at least %d:\n%s", heldAt, floor, strings.Join(slices.Compact(steps), "\n"))
	}
}
