package fakecluster

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/belay-dev/belay/internal/expect"
	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// The pretend Deployment controller, as what docs/in-place.md rests on was seen on the real one.

// exactly runs test in a world with a Deployment of four pods of good:1.
func exactly(t *testing.T, test func(w *World)) {
	t.Helper()
	In(t, func(w *World) {
		w.Node.ActExactly(w)
		w.Node.Set("bad:2", Crashing)
		d := DeploymentOf(Webshop("web", "good:1"))
		d.Spec.Replicas, d.Spec.ProgressDeadlineSeconds = new(int32(4)), new(int32(15))
		Add(w, d)
		w.Pass(10 * time.Second)
		test(w)
	})
}

func setImage(w *World, image string) {
	Edit(w, "web", func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Image = image })
}

func setOf(w *World, image string) *appsv1.ReplicaSet {
	for _, o := range w.Objects("replicasets") {
		if set := o.(*appsv1.ReplicaSet); set.Spec.Template.Spec.Containers[0].Image == image {
			return set
		}
	}
	return nil
}

// sizes tells who has how many pods, by number, and what is said of the rollout.
func sizes(w *World) string {
	var all []string
	for _, o := range w.Objects("replicasets") {
		set := o.(*appsv1.ReplicaSet)
		all = append(all, fmt.Sprintf("%s=%d", set.Spec.Template.Spec.Containers[0].Image, *set.Spec.Replicas))
	}
	slices.Sort(all)
	d, _ := Read[*appsv1.Deployment](w, "web")
	return strings.Join(append(all, conditionOf(&d.Status).Reason), " ")
}

func holdAt(w *World, image string, n int) {
	Edit(w, setOf(w, image).Name, func(set *appsv1.ReplicaSet) {
		set.Labels[v1alpha1.HeldAtLabel] = fmt.Sprintf("%d.%s", n, set.UID)
	})
}

func scaleGood(w *World, n int32) {
	Edit(w, setOf(w, "good:1").Name, func(set *appsv1.ReplicaSet) { set.Spec.Replicas = &n })
}

func (w *World) tellExceeded() {
	EditStatus(w, "web", func(d *appsv1.Deployment) {
		c := conditionOf(&d.Status)
		c.Status, c.Reason, c.Message = "False", "ProgressDeadlineExceeded", "ours"
	})
}

func TestSyncDeployment_RollingUpdate(t *testing.T) {
	exactly(t, func(w *World) {
		expect.Same(t, "at first", "good:1=4 NewReplicaSetAvailable", sizes(w))
		setImage(w, "bad:2")
		w.Pass(10 * time.Second)
		expect.Same(t, "a bad one", "bad:2=2 good:1=3 ReplicaSetUpdated", sizes(w))
		w.Pass(20 * time.Second)
		expect.Same(t, "after the deadline", "bad:2=2 good:1=3 ProgressDeadlineExceeded", sizes(w))
		setImage(w, "good:3")
		w.Pass(20 * time.Second)
		expect.Same(t, "a good one", "bad:2=0 good:1=0 good:3=4 NewReplicaSetAvailable", sizes(w))
		expect.Same(t, "its number", "3", setOf(w, "good:3").Annotations[RevisionAnnotation])
		writes := w.Node.Writes()
		w.Pass(time.Minute)
		expect.Same(t, "writes at rest", 0, w.Node.Writes()-writes)
	})
}

// A held ReplicaSet ends no rollout and begins no loop where the condition is there first; without it, there is no end.
func TestSyncDeployment_Held(t *testing.T) {
	exactly(t, func(w *World) {
		setImage(w, "bad:2")
		w.Pass(5 * time.Second)
		w.tellExceeded()
		holdAt(w, "bad:2", 0)
		scaleGood(w, 4)
		w.Pass(5 * time.Second)
		w.tellExceeded() // A count has risen.
		w.Pass(5 * time.Second)
		expect.Same(t, "held", "bad:2=0 good:1=4 ProgressDeadlineExceeded", sizes(w))
		writes := w.Node.Writes()
		w.Pass(time.Minute)
		expect.Same(t, "writes at rest", 0, w.Node.Writes()-writes)
		d, _ := Read[*appsv1.Deployment](w, "web")
		expect.Same(t, "the message stays", "ours", conditionOf(&d.Status).Message)

		Edit(w, "web", func(d *appsv1.Deployment) { d.Spec.Replicas = new(int32(6)) })
		w.Pass(5 * time.Second)
		expect.Same(t, "scaled", "bad:2=0 good:1=6 ReplicaSetUpdated", sizes(w))

		EditStatus(w, "web", func(d *appsv1.Deployment) { conditionOf(&d.Status).Reason = "NewReplicaSetAvailable" })
		w.Pass(20 * time.Second)
		writes = w.Node.Writes()
		w.Pass(10 * time.Second)
		if got := w.Node.Writes() - writes; got < 10 {
			t.Errorf("%d writes in 10 s without the condition, want one at each look", got)
		}
	})
}

// Where the good one's annotation says another number than the Deployment, each sync is taken for a scaling: a fix never comes.
func TestSyncDeployment_OldAnnotation(t *testing.T) {
	exactly(t, func(w *World) {
		Edit(w, setOf(w, "good:1").Name, func(set *appsv1.ReplicaSet) { set.Annotations[desiredAnnotation] = "6" })
		setImage(w, "good:2")
		w.Pass(time.Minute)
		expect.Same(t, "never rolled out", "good:1=4 NewReplicaSetAvailable", sizes(w))
	})
}

func TestSyncDeployment_ZeroAndBack(t *testing.T) {
	exactly(t, func(w *World) {
		setImage(w, "bad:2")
		w.Pass(5 * time.Second)
		w.tellExceeded()
		holdAt(w, "bad:2", 0)
		scaleGood(w, 4)
		w.Pass(5 * time.Second)
		for _, step := range []struct {
			n    int32
			want string
		}{{0, "bad:2=0 good:1=0"}, {4, "bad:2=0 good:1=0"}} {
			Edit(w, "web", func(d *appsv1.Deployment) { d.Spec.Replicas = &step.n })
			w.Pass(10 * time.Second)
			if got := sizes(w); !strings.HasPrefix(got, step.want) {
				t.Errorf("%s at %d, want %s", got, step.n, step.want)
			}
		}
	})
}

func TestSyncDeployment_Recreate(t *testing.T) {
	exactly(t, func(w *World) {
		Edit(w, "web", func(d *appsv1.Deployment) { d.Spec.Strategy.Type = appsv1.RecreateDeploymentStrategyType })
		setImage(w, "bad:2")
		w.Pass(10 * time.Second)
		expect.Same(t, "a bad one", "bad:2=4 good:1=0 ReplicaSetUpdated", sizes(w))
	})
}

func TestSyncDeployment_InProportion(t *testing.T) {
	exactly(t, func(w *World) {
		setImage(w, "bad:2")
		w.Pass(5 * time.Second)
		Edit(w, "web", func(d *appsv1.Deployment) { d.Spec.Replicas = new(int32(8)) })
		w.Pass(5 * time.Second)
		expect.Same(t, "twice as many", "bad:2=4 good:1=6 ReplicaSetUpdated", sizes(w))
	})
}

func TestSyncDeployment_CleanUp(t *testing.T) {
	exactly(t, func(w *World) {
		Edit(w, "web", func(d *appsv1.Deployment) {
			d.Spec.RevisionHistoryLimit = new(int32)
			d.Spec.Strategy.RollingUpdate = &appsv1.RollingUpdateDeployment{MaxSurge: new(intstr.FromInt32(0)), MaxUnavailable: new(intstr.FromInt32(1))}
		})
		setImage(w, "good:2")
		w.Pass(20 * time.Second)
		expect.Same(t, "no history", "good:2=4 NewReplicaSetAvailable", sizes(w))
	})
}
