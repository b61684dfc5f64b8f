package sim

import (
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/belay-dev/belay/internal/expect"
	fake "github.com/belay-dev/belay/internal/fakecluster"
)

// The pretend controllers without Belay.

func TestMain(m *testing.M) { fake.Main(m) }

// alone plays in a world with a Deployment, and without Belay.
func alone(t *testing.T, image string, play func(w *world)) {
	t.Helper()
	fake.Empty(t, func(cluster *fake.World) {
		w := newWorld(cluster, 1)
		d := &appsv1.Deployment{}
		d.Name, d.Namespace, d.Spec.Template = "web", fake.Namespace, templateOf(image)
		d.Spec.Replicas, d.Spec.Selector = new(int32(2)), &metav1.LabelSelector{MatchLabels: d.Spec.Template.Labels}
		w.do(func() { fake.Add(w.World, d) })
		w.wait(10*time.Second, nil)
		play(w)
	})
}

// setImage is what kubectl set image does.
func (w *world) setImage(image string) {
	w.do(func() {
		fake.Edit(w.World, "web", func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Image = image })
	})
}

func TestWorld_NumbersReplicaSets(t *testing.T) {
	alone(t, "good:1", func(w *world) {
		var told []string
		written := map[string]string{} // by object
		w.changed = func(change fake.Change) {
			if change.Resource != "deployments" && change.Resource != "replicasets" || change.After == nil {
				return
			}
			number := change.After.GetAnnotations()[fake.RevisionAnnotation]
			if uid := string(change.After.GetUID()); written[uid] != number {
				written[uid] = number
				told = append(told, change.Resource+" "+number)
			}
		}
		for _, image := range []string{"good:2", "good:1"} {
			w.setImage(image)
			w.wait(20*time.Second, nil)
		}
		expect.Same(t, "numbers", []string{
			"deployments 1", "replicasets 2", "deployments 2", "replicasets 1", "replicasets 3", "deployments 3",
		}, told)
		if d := w.deployment(); d.Generation != 3 || d.Status.ObservedGeneration != 3 {
			t.Errorf("generation %d, observed %d, want 3: the number is no change of the Deployment", d.Generation, d.Status.ObservedGeneration)
		}
		w.changed = func(change fake.Change) { t.Errorf("%s are written while nothing changes", change.Resource) }
		w.wait(time.Minute, nil)
	})
}

// shown returns what the pods show that they run, as "ready good", sorted. names has the names of imageIDs.
func (w *world) shown(names map[string]string) (all []string) {
	for _, pod := range w.pods() {
		for _, status := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses) {
			all = append(all, strings.TrimSpace(map[bool]string{true: "ready "}[isReady(pod)]+names[status.ImageID]))
		}
	}
	slices.Sort(all)
	return all
}

func TestWorld_MoveTag(t *testing.T) {
	alone(t, "good:latest", func(w *world) {
		good := w.images.ImageID("good:latest", time.Now())
		names := map[string]string{good: "good", "": "nothing"}
		expect.Same(t, "at first", []string{"ready good", "ready good"}, w.shown(names))
		w.do(func() { w.MoveTag("good:latest", "bad-crash") })
		bad := w.images.ImageID("good:latest", time.Now())
		names[bad] = "bad"
		w.wait(10*time.Second, nil)
		expect.Same(t, "after the tag has moved", []string{"ready good", "ready good"}, w.shown(names))
		w.do(func() { fake.Restart(w.World, "web") })
		w.wait(20*time.Second, nil)
		expect.Same(t, "after a restart", []string{"bad", "ready good", "ready good"}, w.shown(names))
		w.setImage(bad)
		w.wait(20*time.Second, nil)
		expect.Same(t, "with the bad digest", []string{"bad", "ready good", "ready good"}, w.shown(names))
		w.setImage(good)
		w.wait(20*time.Second, nil)
		expect.Same(t, "with the good digest", []string{"ready good", "ready good"}, w.shown(names))
	})
}

// What has not been created has no imageID.
func TestWorld_ImageIDs(t *testing.T) {
	for image, want := range map[string][]string{
		"bad-pull:1":   {"nothing", "nothing"},
		"bad-config:1": {"nothing", "nothing"},
		"bad-crash:1":  {"bad-crash", "bad-crash"},
		"bad-init:1":   {"bad-init", "bad-init", "nothing", "nothing"},
	} {
		t.Run(image, func(t *testing.T) {
			alone(t, image, func(w *world) {
				expect.Same(t, "what runs", want, w.shown(map[string]string{w.images.ImageID(image, time.Now()): nameOf(image), "": "nothing"}))
			})
		})
	}
}

// A container that is restarted after its tag has moved is what it was.
func TestWorld_MoveTagAndRestarts(t *testing.T) {
	alone(t, "bad-crash:latest", func(w *world) {
		names := map[string]string{w.images.ImageID("bad-crash:latest", time.Now()): "bad"}
		w.do(func() { w.MoveTag("bad-crash:latest", "good") })
		w.wait(time.Minute, nil)
		expect.Same(t, "what runs", []string{"bad", "bad"}, w.shown(names))
	})
}
