package inplace

import (
	"context"
	"math"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/belay-dev/belay/internal/expect"
	fake "github.com/belay-dev/belay/internal/fakecluster"
	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
	"github.com/belay-dev/belay/pkg/rollout"
)

// Faults that were found by trying to break the guard.

// unlabelled returns the Deployment of labelled without its label.
func unlabelled(image string) *appsv1.Deployment {
	d := labelled(image)
	d.Labels = nil
	return d
}

// sickAfter lets a pod be ready from one age to another only.
func sickAfter(ready, sick time.Duration) fake.Fare {
	return func(age time.Duration) corev1.PodStatus {
		if age >= ready && age < sick {
			return fake.Running(age)
		}
		return fake.NeverReady(age)
	}
}

// A Deployment that was observed and gets the label is guarded: what was only noted of it is not taken for written.
func TestFound_ObservedThenLabelled(t *testing.T) {
	for name, when := range map[string]func(w *world){
		"before a bad release": func(w *world) { label(w, v1alpha1.GuardedInPlace); w.Pass(time.Minute); release(w, "bad:2") },
		"after one": func(w *world) {
			release(w, "bad:2")
			w.Pass(3 * time.Minute)
			label(w, v1alpha1.GuardedInPlace)
		},
	} {
		t.Run(name, func(t *testing.T) {
			in(t, func(w *world) {
				fake.Add(w, unlabelled("good:1"))
				startBelayWith(w, Options{Others: OthersObserved})
				w.Pass(time.Minute)
				when(w)
				w.Pass(3 * time.Minute)
				wantRuns(w, heldBack)
				wantRest(w)
			})
		})
	}
}

// One that loses its label and is observed from then on is let go at once, as any other, and guarded again with the label.
func TestFound_LabelledThenObserved(t *testing.T) {
	in(t, func(w *world) {
		fake.Add(w, labelled("good:1"))
		startBelayWith(w, Options{Others: OthersObserved})
		w.Pass(time.Minute)
		release(w, "bad:2")
		w.Pass(3 * time.Minute)
		wantRuns(w, heldBack)
		edit(w, func(d *appsv1.Deployment) { d.Labels = nil })
		w.Pass(3 * time.Minute)
		wantRuns(w, "bad:2=2, good:1=3")
		if told := failure(w); told != "" {
			t.Errorf("left on it: %s", told)
		}
		wantRest(w)
		label(w, v1alpha1.GuardedInPlace)
		w.Pass(3 * time.Minute)
		wantRuns(w, heldBack)
		wantRest(w)
	})
}

// A first release that is complete when a pause ends has not soaked.
func TestFound_FirstReleasePaused(t *testing.T) {
	in(t, func(w *world) {
		w.Node.Set("sick:1", sickAfter(10*time.Second, 45*time.Second))
		fake.Add(w, labelled("sick:1"))
		startBelay(w)
		w.Pass(3 * time.Second)
		edit(w, func(d *appsv1.Deployment) { d.Spec.Paused = true })
		w.Pass(17 * time.Second)
		edit(w, func(d *appsv1.Deployment) { d.Spec.Paused = false })
		w.Pass(5 * time.Minute)
		if failure(w) == "" {
			t.Errorf("%s has not failed", runs(w))
		}
	})
}

// A good ReplicaSet that is deleted by hand is made anew, judged, and gone back to.
func TestFound_GoodOneDeletedAtRest(t *testing.T) {
	for name, deadline := range map[string]int32{"deadline": 100, "none": math.MaxInt32} {
		t.Run(name, func(t *testing.T) {
			guarded(t, func(w *world, _ *belay) {
				edit(w, func(d *appsv1.Deployment) { d.Spec.ProgressDeadlineSeconds = &deadline })
				w.Pass(time.Minute)
				fake.Remove[*appsv1.ReplicaSet](w, setOf(w, "good:1").Name)
				w.CollectGarbage()
				w.Pass(3 * time.Minute)
				wantRest(w)
				release(w, "bad:2")
				w.Pass(3 * time.Minute)
				wantRuns(w, heldBack)
			})
		})
	}
}

// A copy, with all annotations of another Deployment, is judged from its creation on as any other.
func TestFound_CopyCompleteBeforeSeen(t *testing.T) {
	in(t, func(w *world) {
		began := time.Now()
		w.Intercept(func(r request, carryOut func() error) error {
			if r.Verb == "list" && r.Resource == "replicasets" && time.Since(began) < 6*time.Second {
				return apierrors.NewTooManyRequests("later", 1)
			}
			return carryOut()
		})
		startBelay(w)
		w.Pass(time.Second)
		w.Node.Set("sick:1", sickAfter(0, 20*time.Second))
		d := labelled("sick:1")
		d.Annotations = map[string]string{fake.RevisionAnnotation: "7"}
		fake.Add(w, d)
		w.Pass(5 * time.Minute)
		if failure(w) == "" {
			t.Errorf("%s has not failed", runs(w))
		}
	})
}

// A mutating policy that takes what tells that a release was good is no reason to judge it again and again, and to tell of it each time.
func TestFound_VerdictTakenByAPolicy(t *testing.T) {
	guarded(t, func(w *world, _ *belay) {
		w.Admit(func(o fake.Object) {
			if set, is := o.(*appsv1.ReplicaSet); is {
				delete(set.Labels, v1alpha1.VerdictLabel)
			}
		})
		release(w, "good:2")
		w.Pass(10 * time.Minute)
		for _, told := range w.EventsSent() {
			if strings.Contains(told, v1alpha1.ReasonRolledOut) {
				t.Errorf("%s, want no word of what is not written", told)
			}
		}
		w.Admit(nil)
		w.Pass(time.Minute)
		release(w, "bad:3")
		w.Pass(5 * time.Minute)
		wantRuns(w, "bad:3=0 held at 0, good:2=4")
	})
}

// The release that was good does not come up for longer than the deadline, as its database is away, and then does.
func TestFound_GoodComesUpLate(t *testing.T) {
	guarded(t, func(w *world, b *belay) {
		w.Node.Set("good:1", fake.NeverReady)
		release(w, "bad:2")
		w.Pass(8 * time.Minute)
		expect.Same(t, "states while it is away", map[string]int{v1alpha1.ReasonRollbackFailed: 1}, b.count())
		wantRuns(w, heldBack)
		w.Node.Set("good:1", fake.Running)
		w.Pass(time.Minute)
		expect.Same(t, "states", map[string]int{v1alpha1.ReasonRolledBack: 1}, b.count())
		expect.Same(t, "the condition", "ProgressDeadlineExceeded", progressing(w))
		wantRest(w)
	})
}

// A process that starts while a GuardedDeployment takes the Deployment over ends no hold before that has given it a template.
func TestFound_AdoptedHalf(t *testing.T) {
	owner := fake.Webshop("web", "good:1")
	owner.UID = "owner"
	guarded(t, func(w *world, p *belay) {
		release(w, "bad:2")
		w.Pass(3 * time.Minute)
		p.Kill()
		p.stop()
		edit(w, func(d *appsv1.Deployment) { adopt(d, owner); d.Annotations[v1alpha1.RevisionAnnotation] = "" })
		startBelay(w)
		w.Pass(time.Minute)
		wantRuns(w, heldBack)
		edit(w, func(d *appsv1.Deployment) { d.Annotations[v1alpha1.RevisionAnnotation] = "web-1" })
		w.Pass(11 * time.Minute)
		if text := runs(w); strings.Contains(text, "held") {
			t.Errorf("%s, want no hold of what is adopted", text)
		}
	})
}

// Under Recreate the Deployment controller does not look again and again for a complete rollout to go on, which was taken back.
func TestFound_RecreateNoLoop(t *testing.T) {
	for name, c := range map[string]struct {
		release func(w *world)
		back    string
	}{
		"from the soak, after the deadline": {func(w *world) {
			annotate(w, v1alpha1.GuardAnnotation, `{"soakSeconds": 600}`)
			w.Node.Set("sick:2", sickAfter(0, 150*time.Second))
			release(w, "sick:2")
			w.Pass(2 * time.Minute)
		}, "good:1=4 held at 4, sick:2=0 held at 0"},
		"to zero and back": {func(w *world) {
			release(w, "bad:2")
			w.Pass(5 * time.Minute)
			scale(w, 0)
			w.Pass(5 * time.Minute)
			scale(w, 4)
		}, "bad:2=0 held at 0, good:1=4 held at 4"},
	} {
		t.Run(name, func(t *testing.T) {
			guarded(t, func(w *world, _ *belay) {
				edit(w, toRecreate)
				c.release(w)
				w.Node.Set("good:1", fake.NeverReady)
				w.Pass(4 * time.Minute)
				wantRuns(w, c.back)
				before := w.Node.Writes()
				if w.Pass(8 * time.Minute); w.Node.Writes() > before+5 { // that the deadline is over, and what Belay tells of it
					t.Errorf("the Deployment controller wrote %d times in eight minutes", w.Node.Writes()-before)
				}
				w.Node.Set("good:1", fake.Running)
				w.Pass(2 * time.Minute)
				wantRuns(w, c.back)
				wantRest(w)
			})
		})
	}
}

// A refused write is no reason to wait with a fix that the Deployment controller has not numbered: while the good one is held it does not.
func TestFound_FixAfterARefusal(t *testing.T) {
	guarded(t, func(w *world, _ *belay) {
		edit(w, toRecreate)
		release(w, "bad:2")
		w.Pass(5 * time.Minute)
		w.Intercept(func(r request, carryOut func() error) error {
			if r.Resource == "replicasets" && r.Writes() {
				return apierrors.NewForbidden(schema.GroupResource{Resource: "replicasets"}, r.Name, nil)
			}
			return carryOut()
		})
		scale(w, 6)
		w.Pass(10 * time.Second)
		w.Intercept(nil)
		release(w, "good:3")
		w.Pass(15 * time.Second)
		wantRuns(w, "good:3=6")
	})
}

// An operator that states all annotations takes away what is told of the failure: it is told again, in time, and nothing is judged again.
func TestFound_AnnotationsStatedByOthers(t *testing.T) {
	guarded(t, func(w *world, _ *belay) {
		release(w, "bad:2")
		w.Pass(3 * time.Minute)
		wantRuns(w, heldBack)
		was := failure(w)
		w.ForgetRequests()
		for range 10 {
			edit(w, func(d *appsv1.Deployment) {
				d.Annotations = map[string]string{rollout.SetNumber: d.Annotations[rollout.SetNumber]}
			})
			for range 120 {
				w.Pass(time.Second)
				wantRuns(w, heldBack)
			}
		}
		wantEvents(w)
		expect.Same(t, "the failure that is told", was, failure(w))
		if n := len(writes(w)); n > 10 {
			t.Errorf("%d writes, want one each time", n)
		}
		wantRest(w)
	})
}

// Where one takes it away as soon as it is there, it is told once a minute.
func TestFound_AnnotationsTakenAtOnce(t *testing.T) {
	guarded(t, func(w *world, _ *belay) {
		release(w, "bad:2")
		w.Pass(3 * time.Minute)
		w.ForgetRequests()
		for range 600 {
			if failure(w) != "" {
				edit(w, func(d *appsv1.Deployment) { delete(d.Annotations, v1alpha1.FailureAnnotation) })
			}
			w.Pass(time.Second)
		}
		wantRuns(w, heldBack)
		if n := len(writes(w)); n < 5 || n > 12 {
			t.Errorf("%d writes in ten minutes, want about one a minute", n)
		}
		wantEvents(w)
	})
}

// A hold that takes effect long after it was given up is found by the pods that it brings, and ended.
func TestFound_LateHold(t *testing.T) {
	guarded(t, func(w *world, _ *belay) {
		edit(w, toRecreate)
		edit(w, func(d *appsv1.Deployment) { d.Spec.ProgressDeadlineSeconds = new(int32(math.MaxInt32)) })
		annotate(w, v1alpha1.GuardAnnotation, `{"soakSeconds": 5}`)
		var late atomic.Bool
		w.Intercept(func(r request, carryOut func() error) error {
			if r.Resource == "replicasets" && r.Writes() && strings.Contains(r.Patch, `held-at":"4.`) && late.CompareAndSwap(false, true) {
				time.AfterFunc(40*time.Second, func() { _ = carryOut() })
				return context.DeadlineExceeded
			}
			return carryOut()
		})
		release(w, "bad:2")
		for !late.Load() {
			w.Pass(time.Second)
		}
		w.Pass(2 * time.Second)
		release(w, "good:3")
		w.Pass(time.Minute)
		wantRuns(w, "good:3=4")
		wantRest(w)
	})
}

// What was back once is not said to have failed to come back when it loses its pods later.
func TestFound_ReturnIsJudgedOnce(t *testing.T) {
	guarded(t, func(w *world, _ *belay) {
		release(w, "bad:2")
		w.Pass(5 * time.Minute)
		w.Node.Set("good:1", fake.NeverReady)
		scale(w, 6)
		w.Pass(20 * time.Minute)
		wantEvents(w, "Warning CrashLoop", "Warning RolledBack")
	})
}
