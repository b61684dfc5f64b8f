package inplace

import (
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/belay-dev/belay/internal/expect"
	fake "github.com/belay-dev/belay/internal/fakecluster"
	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

const heldBack = "bad:2=0 held at 0, good:1=4"

// A healthy release costs one write: that it was good. Nothing else is asked at rest.
func TestStory_Healthy(t *testing.T) {
	guarded(t, func(w *world, _ *belay) {
		release(w, "good:2")
		w.Pass(3 * time.Minute)
		wantRuns(w, "good:2=4")
		expect.Same(t, "writes", map[string]int{"patch replicasets": 1}, fake.Counts(writes(w)))
		wantEvents(w, "Normal RolledOut")
		wantRest(w)
	})
}

func TestStory_FailedThenFixed(t *testing.T) {
	guarded(t, func(w *world, _ *belay) {
		release(w, "bad:2")
		w.Pass(3 * time.Minute)
		wantRuns(w, heldBack)
		expect.Same(t, "the condition", "ProgressDeadlineExceeded", progressing(w))
		counts := fake.Counts(writes(w))
		if counts["patch replicasets"] != 2 || counts["patch deployments/status"] > 3 {
			t.Errorf("written: %v, want the hold, the good one's replicas, the verdict and what the counts have overruled of it", counts)
		}
		wantEvents(w, "Warning CrashLoop", "Warning RolledBack")
		wantRest(w)

		w.ForgetRequests()
		release(w, "good:3")
		w.Pass(3 * time.Minute)
		wantRuns(w, "good:3=4")
		expect.Same(t, "the condition", "NewReplicaSetAvailable", progressing(w))
		expect.Same(t, "the failure", "", failure(w))
		wantRest(w)
	})
}

// In the soak, the good one comes up beside the failed one before that goes: capacity never falls below what was ready at the verdict.
func TestStory_SickInSoak(t *testing.T) {
	guarded(t, func(w *world, _ *belay) {
		var atVerdict, least int32 = -1, 100
		w.Hear(func(c fake.Change) {
			if d, is := c.After.(*appsv1.Deployment); is && d.Annotations[v1alpha1.FailureAnnotation] != "" {
				if atVerdict < 0 {
					atVerdict = d.Status.ReadyReplicas
				}
				least = min(least, d.Status.ReadyReplicas)
			}
		})
		w.Node.Set("sick:2", halfSickening(w))
		release(w, "sick:2")
		w.Pass(6 * time.Minute)
		wantRuns(w, "good:1=4, sick:2=0 held at 0")
		if atVerdict < 1 || least < min(atVerdict, 3) {
			t.Errorf("%d pods were ready at the verdict, and %d later", atVerdict, least)
		}
		wantRest(w)
	})
}

func TestStory_OneAndZero(t *testing.T) {
	for name, change := range map[string]func(*appsv1.Deployment){
		"one replica": func(d *appsv1.Deployment) { d.Spec.Replicas = new(int32(1)) },
		"all may be unavailable": func(d *appsv1.Deployment) {
			d.Spec.Strategy.RollingUpdate = &appsv1.RollingUpdateDeployment{MaxSurge: new(intstr.FromString("25%")), MaxUnavailable: new(intstr.FromString("100%"))}
		},
	} {
		t.Run(name, func(t *testing.T) {
			guarded(t, func(w *world, _ *belay) {
				edit(w, change)
				w.Pass(time.Minute)
				was := runs(w)
				release(w, "bad:2")
				w.Pass(3 * time.Minute)
				wantRuns(w, "bad:2=0 held at 0, "+was)
				wantRest(w)
				edit(w, func(d *appsv1.Deployment) { d.Spec.Replicas = new(int32) })
				w.Pass(time.Minute)
				wantRuns(w, "")
				wantRest(w)
				edit(w, func(d *appsv1.Deployment) { d.Spec.Replicas = new(int32(2)) })
				w.Pass(3 * time.Minute)
				wantRuns(w, "bad:2=0 held at 0, good:1=2")
				wantRest(w)
			})
		})
	}
}

// Where the good one has to be held, a fix is let through, and a scaling follows.
func TestStory_GoodOneHeld(t *testing.T) {
	for name, strategy := range map[string]appsv1.DeploymentStrategy{
		"Recreate": {Type: appsv1.RecreateDeploymentStrategyType},
		"no surge": {RollingUpdate: &appsv1.RollingUpdateDeployment{MaxSurge: new(intstr.FromInt32(0)), MaxUnavailable: new(intstr.FromInt32(1))}},
	} {
		t.Run(name, func(t *testing.T) {
			guarded(t, func(w *world, _ *belay) {
				edit(w, func(d *appsv1.Deployment) { d.Spec.Strategy = strategy })
				release(w, "bad:2")
				w.Pass(4 * time.Minute)
				wantRuns(w, "bad:2=0 held at 0, good:1=4 held at 4")
				wantRest(w)
				edit(w, func(d *appsv1.Deployment) { d.Spec.Replicas = new(int32(6)) })
				w.Pass(time.Minute)
				wantRuns(w, "bad:2=0 held at 0, good:1=6 held at 6")
				w.Pass(2 * time.Minute) // The deadline is over.
				wantRest(w)
				release(w, "good:3")
				w.Pass(3 * time.Minute)
				wantRuns(w, "good:3=6")
				wantRest(w)
			})
		})
	}
}

func TestStory_Scaled(t *testing.T) {
	guarded(t, func(w *world, _ *belay) {
		release(w, "bad:2")
		w.Pass(3 * time.Minute)
		for _, n := range []int32{6, 2, 4, 6, 4} {
			edit(w, func(d *appsv1.Deployment) { d.Spec.Replicas = &n })
			w.Pass(time.Minute)
		}
		wantRuns(w, heldBack)
		wantRest(w)
		release(w, "good:3")
		w.Pass(3 * time.Minute)
		wantRuns(w, "good:3=4")
	})
}

func TestStory_Retry(t *testing.T) {
	guarded(t, func(w *world, _ *belay) {
		release(w, "bad:2")
		w.Pass(3 * time.Minute)
		annotate(w, v1alpha1.RetryAnnotation, "1")
		w.Pass(20 * time.Second)
		wantRuns(w, "bad:2=2, good:1=3")
		w.Pass(3 * time.Minute)
		wantRuns(w, heldBack)
		wantRest(w)
		w.Node.Set("bad:2", fake.Running)
		annotate(w, v1alpha1.RetryAnnotation, "2")
		w.Pass(3 * time.Minute)
		wantRuns(w, "bad:2=4")
		wantRest(w)
	})
}

func TestStory_RetryByItself(t *testing.T) {
	guarded(t, func(w *world, _ *belay) {
		annotate(w, v1alpha1.GuardAnnotation, `{"retries":2}`)
		release(w, "bad:2")
		w.Pass(100 * time.Second)
		wantRuns(w, heldBack)
		w.Node.Set("bad:2", fake.Running)
		w.Pass(time.Hour)
		wantRuns(w, "bad:2=4")
		wantRest(w)
	})
}

// undo is what kubectl rollout undo does: template and annotations of the ReplicaSet come back.
func undo(w *world, image string) {
	set := setOf(w, image)
	edit(w, func(d *appsv1.Deployment) {
		d.Spec.Template = *set.Spec.Template.DeepCopy()
		delete(d.Spec.Template.Labels, appsv1.DefaultDeploymentUniqueLabelKey)
		kept := map[string]string{}
		for key, value := range set.Annotations {
			if !strings.HasPrefix(key, "deployment.kubernetes.io/") {
				kept[key] = value
			}
		}
		d.Annotations = kept
	})
}

func TestStory_Undo(t *testing.T) {
	guarded(t, func(w *world, _ *belay) {
		release(w, "bad:2")
		w.Pass(3 * time.Minute)
		undo(w, "good:1")
		w.Pass(3 * time.Minute)
		wantRuns(w, "good:1=4")
		wantRest(w)
		undo(w, "bad:2") // It carries the failure along, of another attempt.
		w.Pass(20 * time.Second)
		wantRuns(w, "bad:2=2, good:1=3")
		w.Pass(3 * time.Minute)
		wantRuns(w, heldBack)
		wantRest(w)
	})
}

// 2 has run well. An older one is asked for again, does not come up by now, and is given up for the next one, which fails.
func TestStory_BackToWhatWasGoodLast(t *testing.T) {
	guarded(t, func(w *world, _ *belay) {
		release(w, "good:2")
		w.Pass(3 * time.Minute)
		w.Node.Set("good:1", fake.Crashing)
		release(w, "good:1")
		w.Pass(10 * time.Second)
		release(w, "bad:2")
		w.Pass(5 * time.Minute)
		wantRuns(w, "bad:2=0 held at 0, good:2=4")
		wantRest(w)
	})
}

// An older one that is asked for again, and runs well, is what was good last.
func TestStory_BackToWhatIsGoodAgain(t *testing.T) {
	guarded(t, func(w *world, _ *belay) {
		for _, image := range []string{"good:2", "good:1"} {
			release(w, image)
			w.Pass(3 * time.Minute)
		}
		wantRest(w)
		w.Node.Set("good:2", fake.Crashing)
		release(w, "bad:2")
		w.Pass(5 * time.Minute)
		wantRuns(w, "bad:2=0 held at 0, good:1=4")
		wantRest(w)
	})
}

// A restart of the good template makes a new ReplicaSet, which is judged.
func TestStory_Restart(t *testing.T) {
	guarded(t, func(w *world, _ *belay) {
		release(w, "bad:2")
		w.Pass(3 * time.Minute)
		fake.Restart(w, "web")
		w.Pass(20 * time.Second)
		if got := strings.Count(runs(w), "bad:2=2"); got != 1 || strings.Contains(runs(w), "held at 0") && strings.Contains(runs(w), "bad:2=4") {
			t.Errorf("after a restart: %s", runs(w))
		}
		w.Pass(4 * time.Minute)
		expect.Same(t, "pods of the good one", int32(4), *setOf(w, "good:1").Spec.Replicas)
		wantRest(w)
	})
}

func TestStory_Pause(t *testing.T) {
	guarded(t, func(w *world, _ *belay) {
		release(w, "bad:2")
		w.Pass(3 * time.Minute)
		edit(w, func(d *appsv1.Deployment) { d.Spec.Paused = true })
		w.Pass(3 * time.Minute)
		wantRuns(w, heldBack)
		edit(w, func(d *appsv1.Deployment) { d.Spec.Paused = false })
		w.Pass(3 * time.Minute)
		wantRuns(w, heldBack)
		wantRest(w)
	})
}

// What was taken back is scaled to nothing, and scaled up again when its retry has long been due.
func TestStory_RetryWhenScaledUp(t *testing.T) {
	guarded(t, func(w *world, _ *belay) {
		annotate(w, v1alpha1.GuardAnnotation, `{"retries": 3}`)
		release(w, "bad:2")
		w.Pass(100 * time.Second)
		edit(w, func(d *appsv1.Deployment) { d.Spec.Replicas = new(int32(0)) })
		w.Pass(time.Hour)
		edit(w, func(d *appsv1.Deployment) { d.Spec.Replicas = new(int32(4)) })
		tried := false
		for range 60 {
			w.Pass(time.Second)
			d, _ := fake.Read[*appsv1.Deployment](w, "web")
			if tried = tried || !strings.Contains(runs(w), "bad:2=0"); tried && d.Status.AvailableReplicas < 3 {
				t.Fatalf("the failed release is tried again while %d pods are available", d.Status.AvailableReplicas)
			}
		}
		expect.Same(t, "tried again when the good ones are there", true, tried)
	})
}
