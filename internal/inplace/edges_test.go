package inplace

import (
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

	"github.com/belay-dev/belay/internal/expect"
	fake "github.com/belay-dev/belay/internal/fakecluster"
	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// Without the policy the failed release is left as it is: that is said once, and no label stays.
func TestEdge_NoPolicy(t *testing.T) {
	guarded(t, func(w *world, _ *belay) {
		w.KeepHolds(false)
		release(w, "bad:2")
		w.Pass(5 * time.Minute)
		wantRuns(w, "bad:2=2, good:1=3")
		wantEvents(w, "Warning CrashLoop", "Warning NotHeld")
		wantRest(w)
		w.KeepHolds(true)
		w.Node.Set("bad:2", fake.Running)
		w.Pass(6 * time.Minute) // It comes up late.
		wantRuns(w, "bad:2=4")
		wantRest(w)
	})
}

// The policy goes while something is held: that is not fought, and said once.
func TestEdge_PolicyLost(t *testing.T) {
	guarded(t, func(w *world, _ *belay) {
		release(w, "bad:2")
		w.Pass(3 * time.Minute)
		wantRuns(w, heldBack)
		w.KeepHolds(false)
		edit(w, func(d *appsv1.Deployment) { d.Spec.Replicas = new(int32(5)) })
		w.Pass(5 * time.Minute)
		var told int
		for _, e := range w.EventsSent() {
			told += strings.Count(e, v1alpha1.EventNotHeld)
		}
		expect.Same(t, "how often it is told", 1, told)
		if strings.Contains(runs(w), "held") {
			t.Errorf("%s, want no hold", runs(w))
		}
		wantRest(w)
	})
}

// What does not ask any more is let go: the Deployment is an ordinary one, and its template rolls out.
func TestEdge_Left(t *testing.T) {
	owner := fake.Webshop("web", "bad:2")
	owner.UID = "owner"
	for name, leave := range map[string]func(w *world){
		"no label":       func(w *world) { edit(w, func(d *appsv1.Deployment) { d.Labels = nil }) },
		"opt out":        func(w *world) { label(w, v1alpha1.NotGuarded) },
		"another value":  func(w *world) { label(w, "yes") },
		"adopted":        func(w *world) { edit(w, func(d *appsv1.Deployment) { adopt(d, owner) }) },
		"adopted by tag": func(w *world) { label(w, "true"); edit(w, func(d *appsv1.Deployment) { adopt(d, owner) }) },
	} {
		for _, alive := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, belay there: %t", name, alive), func(t *testing.T) {
				guarded(t, func(w *world, p *belay) {
					release(w, "bad:2")
					w.Pass(3 * time.Minute)
					wantRuns(w, heldBack)
					if !alive {
						p.Kill()
						p.stop()
					}
					leave(w)
					w.Pass(time.Minute)
					if !alive {
						startBelay(w)
						w.Pass(time.Minute)
					}
					wantRuns(w, "bad:2=2, good:1=3")
					expect.Same(t, "the failure", "", failure(w))
					w.Pass(2 * time.Minute) // The deadline is over.
					wantRest(w)
				})
			})
		}
	}
}

func adopt(d *appsv1.Deployment, by *v1alpha1.GuardedDeployment) {
	d.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(by, schema.GroupVersion(v1alpha1.GroupVersion).WithKind("GuardedDeployment"))}
	metav1.SetMetaDataAnnotation(&d.ObjectMeta, v1alpha1.RevisionAnnotation, by.Name+"-1") // with the template that it is given
}

// Away and back: it is held again.
func TestEdge_LabelAwayAndBack(t *testing.T) {
	guarded(t, func(w *world, _ *belay) {
		release(w, "bad:2")
		w.Pass(3 * time.Minute)
		label(w, v1alpha1.NotGuarded)
		w.Pass(time.Minute)
		label(w, v1alpha1.GuardedInPlace)
		w.Pass(5 * time.Minute)
		wantRuns(w, heldBack)
		wantRest(w)
	})
}

func TestEdge_UnknownLabel(t *testing.T) {
	for value, want := range map[string][]string{"yes": {"Warning Invalid"}, "true": {"Warning Invalid"}, "false": nil} {
		t.Run(value, func(t *testing.T) {
			in(t, func(w *world) {
				d := labelled("good:1")
				d.Labels[v1alpha1.GuardedLabel] = value
				fake.Add(w, d)
				startBelay(w)
				w.Pass(time.Minute)
				release(w, "bad:2")
				w.Pass(5 * time.Minute)
				wantEvents(w, want...)
				expect.Same(t, "writes", 0, len(writes(w)))
			})
		})
	}
}

// A copy of a held ReplicaSet, or one that somebody has labelled, holds nothing, and is nobody's business.
func TestEdge_LabelOfOthers(t *testing.T) {
	guarded(t, func(w *world, _ *belay) {
		fake.Edit(w, setOf(w, "good:1").Name, func(set *appsv1.ReplicaSet) { set.Labels[v1alpha1.HeldAtLabel] = "0.another" })
		edit(w, func(d *appsv1.Deployment) { d.Spec.Replicas = new(int32(5)) })
		w.Pass(15 * time.Minute)
		wantRuns(w, "good:1=5")
		expect.Same(t, "writes", 0, len(writes(w)))
	})
}

// A hold that somebody sets on a Deployment that is well goes with the next sweep or look.
func TestEdge_HeldByHand(t *testing.T) {
	guarded(t, func(w *world, _ *belay) {
		release(w, "bad:2")
		w.Pass(3 * time.Minute)
		bad := setOf(w, "bad:2")
		fake.Edit(w, bad.Name, func(set *appsv1.ReplicaSet) { delete(set.Labels, v1alpha1.HeldAtLabel) }) // and the controller scales it up
		w.Pass(3 * time.Minute)
		wantRuns(w, heldBack)
		wantRest(w)
	})
}

// A right that is missing is told once, and asked for every five minutes.
func TestEdge_Forbidden(t *testing.T) {
	guarded(t, func(w *world, _ *belay) {
		w.Intercept(func(r request, carryOut func() error) error {
			if r.Verb == "patch" && r.Resource != "events" {
				return apierrors.NewForbidden(schema.GroupResource{Resource: r.Resource}, r.Name, errors.New("no"))
			}
			return carryOut()
		})
		release(w, "bad:2")
		w.Pass(22 * time.Minute)
		wantEvents(w, "Warning Denied")
		if n := len(writes(w)); n < 3 || n > 6 {
			t.Errorf("%d writes were tried in 22 minutes, want one each five", n)
		}
		w.Intercept(nil)
		w.Pass(6 * time.Minute)
		wantRuns(w, heldBack)
	})
}

// It is told once also where somebody writes the Deployment all the time, and the verdict may be written, but no hold.
func TestEdge_ForbiddenIsToldOnce(t *testing.T) {
	for name, c := range map[string]struct {
		refused []string
		events  []string
	}{
		"all":         {[]string{"deployments/status", "replicasets"}, []string{"Warning Denied"}},
		"the hold":    {[]string{"replicasets"}, []string{"Warning CrashLoop", "Warning Denied"}},
		"the verdict": {[]string{"deployments/status"}, []string{"Warning Denied"}},
	} {
		t.Run(name, func(t *testing.T) {
			guarded(t, func(w *world, b *belay) {
				w.Intercept(func(r request, carryOut func() error) error {
					if r.Verb == "patch" && slices.Contains(c.refused, r.Resource) {
						return apierrors.NewForbidden(schema.GroupResource{Resource: r.Resource}, r.Name, errors.New("no"))
					}
					return carryOut()
				})
				release(w, "bad:2")
				for i := range 600 {
					w.Pass(300 * time.Millisecond)
					annotate(w, "touched", fmt.Sprint(i))
				}
				wantEvents(w, c.events...)
				if n := len(writes(w)); n > 3 {
					t.Errorf("%d writes were tried in three minutes", n)
				}
				w.Pass(time.Second)
				expect.Same(t, "states", map[string]int{v1alpha1.ReasonDenied: 1}, b.count())
				for range 15 { // What may be told is taken away and told again, and the refused write is tried again.
					edit(w, func(d *appsv1.Deployment) { delete(d.Annotations, v1alpha1.FailureAnnotation) })
					w.Pass(time.Minute)
				}
				fake.WantOnce(w, "Warning Denied")
				w.Intercept(nil)
				w.Pass(6 * time.Minute)
				wantRuns(w, heldBack)
				expect.Same(t, "states", map[string]int{v1alpha1.ReasonRolledBack: 1}, b.count())
			})
		})
	}
}

func TestEdge_Settings(t *testing.T) {
	for name, c := range map[string]struct {
		defaults                       Settings
		ofNamespace, ofDeployment, end string
		events                         []string
	}{
		"none":                  {nil, "", "", heldBack, []string{"Warning CrashLoop", "Warning RolledBack"}},
		"of the Deployment":     {nil, "", "onFailure: Hold", "bad:2=2, good:1=3", []string{"Warning CrashLoop", "Warning Held"}},
		"of the Namespace":      {nil, `{"onFailure":"Hold"}`, "", "bad:2=2, good:1=3", []string{"Warning CrashLoop", "Warning Held"}},
		"defaults":              {Settings{"onFailure": "Hold"}, "", "", "bad:2=2, good:1=3", []string{"Warning CrashLoop", "Warning Held"}},
		"the nearest, by field": {Settings{"onFailure": "Hold", "maxRestarts": 1}, "onFailure: Hold", "onFailure: Rollback", heldBack, []string{"Warning CrashLoop", "Warning RolledBack"}},
		"a bad value":           {nil, "", "maxRestarts: -1", heldBack, []string{"Warning Invalid", "Warning CrashLoop", "Warning RolledBack"}},
		"a typo":                {nil, "", "onFailur: Hold", heldBack, []string{"Warning Invalid", "Warning CrashLoop", "Warning RolledBack"}},
		"no YAML":               {nil, "", "{", heldBack, []string{"Warning Invalid", "Warning CrashLoop", "Warning RolledBack"}},
		"a typo above":          {nil, "onFailur: Hold", "", heldBack, []string{"Warning Invalid", "Warning CrashLoop", "Warning RolledBack"}},
		"a typo hides no other": {nil, "onFailure: Hold", "onFailur: Rollback", "bad:2=2, good:1=3", []string{"Warning Invalid", "Warning CrashLoop", "Warning Held"}},
	} {
		t.Run(name, func(t *testing.T) {
			in(t, func(w *world) {
				set := func(o metav1.Object, text string) {
					if text != "" {
						o.SetAnnotations(map[string]string{v1alpha1.GuardAnnotation: text})
					}
				}
				fake.Edit(w, fake.Namespace, func(n *corev1.Namespace) { set(n, c.ofNamespace) })
				d := labelled("good:1")
				set(d, c.ofDeployment)
				fake.Add(w, d)
				startBelayWith(w, Options{Defaults: c.defaults})
				w.Pass(time.Minute)
				release(w, "bad:2")
				w.Pass(4 * time.Minute)
				wantRuns(w, c.end)
				told := w.EventsSent()
				warnings := told[:0:0]
				for _, e := range told {
					if !strings.HasPrefix(e, "Normal") {
						warnings = append(warnings, e)
					}
				}
				slices.Sort(warnings)
				slices.Sort(c.events)
				expect.Same(t, "Events", c.events, warnings)
				wantRest(w)
			})
		})
	}
}

// What a Deployment is at when it is first seen.
func TestEdge_FirstSight(t *testing.T) {
	for name, c := range map[string]struct {
		before func(w *world) // without Belay
		end    string
	}{
		"complete": {func(w *world) { w.Pass(time.Minute) }, heldBack},
		"in a good rollout": {func(w *world) {
			w.Pass(time.Minute)
			release(w, "good:9")
			w.Pass(2 * time.Second)
		}, "bad:2=0 held at 0, good:9=4"},
		"in a bad one": {func(w *world) {
			w.Pass(time.Minute)
			release(w, "bad:3")
			w.Pass(10 * time.Second)
		}, heldBack},
		"in a bad one for long": {func(w *world) {
			w.Pass(time.Minute)
			release(w, "bad:3")
			w.Pass(time.Hour)
		}, heldBack},
		"at zero": {func(w *world) {
			w.Pass(time.Minute)
			edit(w, func(d *appsv1.Deployment) { d.Spec.Replicas = new(int32) })
			w.Pass(time.Minute)
		}, heldBack},
		"just made": {func(w *world) {}, heldBack},
	} {
		t.Run(name, func(t *testing.T) {
			in(t, func(w *world) {
				fake.Add(w, labelled("good:1"))
				c.before(w)
				startBelay(w)
				w.Pass(4 * time.Minute)
				edit(w, func(d *appsv1.Deployment) { d.Spec.Replicas = new(int32(4)) })
				w.Pass(time.Minute)
				wantRest(w)
				release(w, "bad:2")
				w.Pass(4 * time.Minute)
				wantRuns(w, c.end)
				wantRest(w)
			})
		})
	}
}

// A first release that fails has nothing to go back to.
func TestEdge_FirstReleaseFails(t *testing.T) {
	in(t, func(w *world) {
		fake.Add(w, labelled("bad:2"))
		startBelay(w)
		w.Pass(5 * time.Minute)
		wantRuns(w, "bad:2=4")
		wantEvents(w, "Warning CrashLoop", "Warning NoGoodRevision")
		wantRest(w)
		release(w, "good:3")
		w.Pass(5 * time.Minute)
		wantRuns(w, "good:3=4")
		wantRest(w)
	})
}

// Failed ones push the good one out of a short history. What soaks then is not taken for good because nothing tells of it.
func TestEdge_ShortHistory(t *testing.T) {
	guarded(t, func(w *world, _ *belay) {
		edit(w, func(d *appsv1.Deployment) { d.Spec.RevisionHistoryLimit = new(int32(1)) })
		w.Node.Set("sick:4", func(age time.Duration) corev1.PodStatus {
			if age < 15*time.Second {
				return fake.Running(age)
			}
			return fake.NeverReady(age)
		})
		release(w, "bad:2")
		w.Pass(3 * time.Minute)
		release(w, "sick:4")
		w.Pass(5 * time.Minute)
		wantRuns(w, "sick:4=4")
		if told := strings.Join(w.EventsSent(), ", "); strings.Count(told, v1alpha1.ReasonNoGoodRevision) != 2 {
			t.Errorf("Events: %s, want it to be told twice that there is no good revision", told)
		}
	})
}

// Without a history the good one is gone when the release is complete: told at the beginning, and at the end. A release that is complete
// before Belay has seen it is judged all the same.
func TestEdge_NoHistory(t *testing.T) {
	for _, seen := range []bool{true, false} {
		t.Run(fmt.Sprintf("seen: %t", seen), func(t *testing.T) {
			in(t, func(w *world) {
				d := labelled("good:1")
				d.Spec.RevisionHistoryLimit = new(int32)
				fake.Add(w, d)
				startBelay(w)
				w.Pass(time.Minute)
				began := time.Now()
				w.Node.Set("sick:2", func(time.Duration) corev1.PodStatus {
					if age := time.Since(began); age < 15*time.Second {
						return fake.Running(age)
					}
					return fake.NeverReady(time.Since(began))
				})
				w.Intercept(func(r request, carryOut func() error) error {
					if !seen && r.Verb == "list" && time.Since(began) < 4*time.Second {
						return apierrors.NewTooManyRequests("later", 1)
					}
					return carryOut()
				})
				release(w, "sick:2")
				w.Pass(5 * time.Minute)
				wantRuns(w, "sick:2=4")
				told := strings.Count(strings.Join(w.EventsSent(), ", "), v1alpha1.ReasonNoGoodRevision)
				expect.Same(t, "how often is told that there is no good revision", 2, told)
				if failure(w) == "" {
					t.Error("the release has not failed")
				}
				wantRest(w)
			})
		})
	}
}

// Pods that are taken away while they still look for their database speak against nothing.
func TestEdge_ZeroAndBackInARollout(t *testing.T) {
	guarded(t, func(w *world, _ *belay) {
		w.Node.Set("late:2", func(age time.Duration) corev1.PodStatus {
			restarts := min(3, int32(age/(5*time.Second)))
			s := fake.NeverReady(age)
			if restarts == 3 {
				s = fake.Running(age)
			}
			s.ContainerStatuses[0].RestartCount = restarts
			s.ContainerStatuses[0].LastTerminationState.Terminated = &corev1.ContainerStateTerminated{ExitCode: 1, Reason: "Error"}
			return s
		})
		release(w, "late:2")
		w.Pass(13 * time.Second)
		scale(w, 0)
		w.Pass(20 * time.Second)
		scale(w, 4)
		w.Pass(3 * time.Minute)
		wantRuns(w, "late:2=4")
	})
}

// A failed template that is asked for again is a new attempt, however late the Deployment controller is.
func TestEdge_AskedAgainWhileTheControllerIsAway(t *testing.T) {
	guarded(t, func(w *world, _ *belay) {
		release(w, "bad:2")
		w.Pass(3 * time.Minute)
		carried := failure(w)
		release(w, "good:3")
		w.Pass(3 * time.Minute)
		w.ForgetRequests()
		w.Node.SwitchOff(true)
		release(w, "bad:2")
		annotate(w, v1alpha1.FailureAnnotation, carried)
		w.Pass(20 * time.Second)
		expect.Same(t, "writes before it is seen", 0, len(writes(w)))
		w.Node.SwitchOff(false)
		w.Pass(20 * time.Second)
		wantRuns(w, "bad:2=2, good:3=3")
		w.Pass(3 * time.Minute)
		wantRuns(w, "bad:2=0 held at 0, good:3=4")
	})
}

// Another attempt at a release that is left as it is: whoever waits for it does not see how the one before it failed.
func TestEdge_RetryUnderHold(t *testing.T) {
	guarded(t, func(w *world, _ *belay) {
		annotate(w, v1alpha1.GuardAnnotation, `{"onFailure": "Hold"}`)
		release(w, "bad:2")
		w.Pass(3 * time.Minute)
		expect.Same(t, "the condition after the failure", "ProgressDeadlineExceeded", progressing(w))
		annotate(w, v1alpha1.RetryAnnotation, "1")
		w.Pass(5 * time.Second)
		expect.Same(t, "the condition in the next attempt", "ReplicaSetUpdated", progressing(w))
		w.Pass(3 * time.Minute)
		expect.Same(t, "the condition after the next failure", "ProgressDeadlineExceeded", progressing(w))
		wantRest(w)
	})
}
