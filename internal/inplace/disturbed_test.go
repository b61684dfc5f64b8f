package inplace

import (
	"errors"
	"fmt"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/belay-dev/belay/internal/expect"
	fake "github.com/belay-dev/belay/internal/fakecluster"
	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// What others do to held ReplicaSets, and to Deployments that have some.

func toRecreate(d *appsv1.Deployment) {
	d.Spec.Strategy = appsv1.DeploymentStrategy{Type: appsv1.RecreateDeploymentStrategyType}
}

// The Deployment controller takes the pods of a good one whose hold somebody takes away. There is no condition that would show it.
func TestDisturbed_HoldOfTheGoodOneTaken(t *testing.T) {
	guarded(t, func(w *world, _ *belay) {
		edit(w, toRecreate)
		release(w, "bad:2")
		w.Pass(5 * time.Minute)
		const back = "bad:2=0 held at 0, good:1=4 held at 4"
		wantRuns(w, back)
		fake.Edit(w, setOf(w, "good:1").Name, func(set *appsv1.ReplicaSet) { delete(set.Labels, v1alpha1.HeldAtLabel) })
		w.Pass(3 * time.Minute)
		wantRuns(w, back)
		wantRest(w)
	})
}

// Nothing is held for a good one that is gone, whether or not the Deployment has a condition that shows it.
func TestDisturbed_GoodOneDeleted(t *testing.T) {
	for name, change := range map[string]func(d *appsv1.Deployment){
		"deadline": func(*appsv1.Deployment) {},
		"none":     func(d *appsv1.Deployment) { d.Spec.ProgressDeadlineSeconds = nil },
		"Recreate": toRecreate,
	} {
		t.Run(name, func(t *testing.T) {
			guarded(t, func(w *world, _ *belay) {
				edit(w, change)
				release(w, "bad:2")
				w.Pass(5 * time.Minute)
				fake.Remove[*appsv1.ReplicaSet](w, setOf(w, "good:1").Name)
				w.CollectGarbage()
				w.Pass(time.Minute)
				wantRuns(w, "bad:2=4")
			})
		})
	}
}

// A failed one that is deleted is made anew, under the same name and with the same number, and judged again.
func TestDisturbed_FailedOneDeleted(t *testing.T) {
	guarded(t, func(w *world, _ *belay) {
		release(w, "bad:2")
		w.Pass(3 * time.Minute)
		wantRuns(w, heldBack)
		w.Node.Set("bad:2", fake.Running)
		fake.Remove[*appsv1.ReplicaSet](w, setOf(w, "bad:2").Name)
		w.Pass(5 * time.Minute)
		wantRuns(w, "bad:2=4")
		expect.Same(t, "what is left of the failure", "", failure(w))
		wantRest(w)
	})
}

// To zero and back while it is paused: the Deployment controller has somebody to give the replicas to.
func TestDisturbed_PausedToZeroAndBack(t *testing.T) {
	for _, restarted := range []bool{false, true} {
		guarded(t, func(w *world, p *belay) {
			release(w, "bad:2")
			w.Pass(3 * time.Minute)
			wantRuns(w, heldBack)
			edit(w, func(d *appsv1.Deployment) { d.Spec.Paused = true })
			w.Pass(time.Minute)
			if restarted {
				p.Kill()
				p.stop()
				startBelay(w)
			}
			wantRuns(w, heldBack)
			scale(w, 0)
			w.Pass(time.Minute)
			wantRuns(w, "")
			scale(w, 4)
			w.Pass(3 * time.Minute)
			wantRuns(w, "bad:2=4") // It is not judged while it is paused.
			wantRest(w)
			edit(w, func(d *appsv1.Deployment) { d.Spec.Paused = false })
			w.Pass(5 * time.Minute)
			wantRuns(w, heldBack)
		})
	}
}

// A hold on a Deployment that is well, set by hand or by a process that was stopped long before, goes with the next sweep.
func TestDisturbed_HeldWhileGood(t *testing.T) {
	guarded(t, func(w *world, _ *belay) {
		fake.Edit(w, setOf(w, "good:1").Name, func(set *appsv1.ReplicaSet) { set.Labels[v1alpha1.HeldAtLabel] = "0." + string(set.UID) })
		w.Pass(11 * time.Minute)
		wantRuns(w, "good:1=4")
	})
}

// A name in other letters means the same field, and takes the place of what is set farther away.
func TestSettings_NameInOtherLetters(t *testing.T) {
	set, err := ParseSettings("SoakSeconds: 5\nretries: null")
	if err != nil {
		t.Fatal(err)
	}
	expect.Same(t, "what is set", Settings{"soakSeconds": 5.0}, set)
}

// Whoever has set a value reads what is wrong with it, without the names of Go.
func TestSettings_WrongType(t *testing.T) {
	for text, want := range map[string]string{
		"{soakSeconds: x}":     "soakSeconds is of the wrong type: string",
		"{soakSeconds: 1.5}":   "soakSeconds is of the wrong type: number 1.5",
		"{toleratedPods: [1]}": "toleratedPods is of the wrong type: array",
		"soakSeconds 1":        "the whole is of the wrong type: string",
	} {
		if _, err := ParseSettings(text); err == nil || err.Error() != want {
			t.Errorf("%s: %v, not %s", text, err, want)
		}
	}
}

// While nobody knows what the Namespace asks for, nothing is decided by the defaults.
func TestSettings_NamespaceThatCannotBeReadYet(t *testing.T) {
	guarded(t, func(w *world, p *belay) {
		p.Kill()
		p.stop()
		fake.Edit(w, fake.Namespace, func(n *corev1.Namespace) {
			n.Annotations = map[string]string{v1alpha1.GuardAnnotation: "onFailure: Hold"}
		})
		w.Intercept(func(r request, carryOut func() error) error {
			if r.Resource == "namespaces" {
				return apierrors.NewInternalError(errors.New("etcd has no leader"))
			}
			return carryOut()
		})
		startBelay(w)
		release(w, "bad:2")
		w.Pass(5 * time.Minute)
		w.Intercept(nil)
		w.Pass(5 * time.Minute)
		wantRuns(w, "bad:2=2, good:1=3")
		wantEvents(w, "Warning CrashLoop", "Warning Held")
	})
}

// A held good one takes the Deployment controller's note of another number of replicas, but not the number. Where that note stays, the
// Deployment controller takes each sync for a scaling, and a fix is never rolled out.
func TestDisturbed_ScaledAndFixedWithoutBelay(t *testing.T) {
	for name, leave := range map[string]func(w *world){
		"a fix":        func(*world) {},
		"and no label": func(w *world) { edit(w, func(d *appsv1.Deployment) { d.Labels = nil }) },
	} {
		for _, alive := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, belay there: %t", name, alive), func(t *testing.T) {
				guarded(t, func(w *world, p *belay) {
					edit(w, toRecreate)
					release(w, "bad:2")
					w.Pass(5 * time.Minute)
					wantRuns(w, "bad:2=0 held at 0, good:1=4 held at 4")
					if !alive {
						p.Kill()
						p.stop()
					}
					scale(w, 2)
					w.Pass(600 * time.Millisecond)
					edit(w, func(d *appsv1.Deployment) {
						d.Spec.Replicas = new(int32(4))
						d.Spec.Template.Spec.Containers[0].Image = "good:5"
					})
					leave(w)
					if !alive {
						w.Pass(time.Minute)
						startBelay(w)
					}
					w.Pass(5 * time.Minute)
					wantRuns(w, "good:5=4")
				})
			})
		}
	}
}

// An operator that annotates the Deployment before whatever is read of it live does not keep a release from being taken back.
func TestDisturbed_AnnotatedAllTheTime(t *testing.T) {
	guarded(t, func(w *world, _ *belay) {
		times := 0
		w.Intercept(func(r request, carryOut func() error) error {
			if r.Verb == "get" && r.Resource == "deployments" {
				times++
				annotate(w, "example.com/seen", fmt.Sprint(times))
			}
			return carryOut()
		})
		release(w, "bad:2")
		w.Pass(3 * time.Minute)
		wantRuns(w, heldBack)
		wantEvents(w, "Warning CrashLoop", "Warning RolledBack")
		if times == 0 {
			t.Error("nothing was read live")
		}
	})
}
