package main

import (
	"errors"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/belay-dev/belay/internal/expect"
	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// conditionsOf returns what is reported of a GuardedDeployment, but for Available.
func conditionsOf(w *world, name string) string {
	g, _ := read[*v1alpha1.GuardedDeployment](w, name)
	var says []string
	for _, kind := range []string{v1alpha1.ConditionReady, v1alpha1.ConditionReconciling, v1alpha1.ConditionStalled} {
		if c := meta.FindStatusCondition(g.Status.Conditions, kind); c != nil {
			says = append(says, kind+"="+string(c.Status)+" "+c.Reason)
		}
	}
	return strings.Join(says, ", ")
}

// told returns how often Belay has logged a sentence.
func told(w *world, sentence string) int { return strings.Count(w.logged(), sentence) }

func TestAStandstillIsToldOnceAndEnds(t *testing.T) {
	for name, row := range map[string]struct {
		stop, goOn func(w *world)
		says       string
	}{
		"a cache that shows nothing new": {
			func(w *world) { w.hold("controllerrevisions") },
			func(w *world) { w.letGo("controllerrevisions") },
			"the cache of ControllerRevisions is older than the API server's"},
		"the same error again and again": {
			func(w *world) {
				w.intercept(func(r request, carryOut func() error) error {
					if r.verb == "create" && r.resource == "deployments" {
						return apierrors.NewInternalError(errors.New("etcd is full"))
					}
					return carryOut()
				})
			},
			func(w *world) { w.intercept(nil) },
			"etcd is full"},
		"a conflict again and again": {
			func(w *world) {
				w.intercept(func(r request, carryOut func() error) error {
					if r.verb == "create" && r.resource == "deployments" {
						return apierrors.NewConflict(schema.GroupResource{Resource: "deployments"}, "web", errors.New("modified"))
					}
					return carryOut()
				})
			},
			func(w *world) { w.intercept(nil) },
			"modified"},
	} {
		t.Run(name, func(t *testing.T) {
			inCountedWorld(t, func(w *world, p *counted) {
				row.stop(w)
				add(w, webshop("web", "web:1"))
				w.pass(50 * time.Second)
				expect.Same(t, "told before a minute", 0, told(w, "Standing still"))
				p.want("belay_standstill_objects 0")
				w.pass(50 * time.Second)
				p.want("belay_standstill_objects 1")
				expect.Same(t, "conditions", "Ready=False SyncFailing, Reconciling=False SyncFailing, Stalled=True SyncFailing", conditionsOf(w, "web"))
				g, _ := read[*v1alpha1.GuardedDeployment](w, "web")
				if says := meta.FindStatusCondition(g.Status.Conditions, v1alpha1.ConditionStalled).Message; !strings.Contains(says, row.says) {
					t.Errorf("the condition says %q, want %q in it", says, row.says)
				}
				w.pass(10 * time.Minute)
				expect.Same(t, "times that it is told", 1, told(w, "Standing still"))
				expect.Same(t, "times that the status tells it", 1, len(w.asked(func(r request) bool {
					return r.verb == "update" && r.resource == "guardeddeployments/status" && readiness(r.object.(*v1alpha1.GuardedDeployment)) == "Ready=False SyncFailing"
				})))

				row.goOn(w)
				w.pass(2 * time.Minute)
				expect.Same(t, "conditions", "Ready=True RolledOut, Reconciling=False RolledOut, Stalled=False RolledOut", conditionsOf(w, "web"))
				expect.Same(t, "times that the end is told", 1, told(w, "Moving on"))
				p.want("belay_standstill_objects 0")
				remove[*v1alpha1.GuardedDeployment](w, "web")
			})
		})
	}
}

// What was reported of the present spec stays; and with the object, its standstill is gone.
func TestAStandstillOfAnObjectThatIsReady(t *testing.T) {
	inCountedWorld(t, func(w *world, p *counted) {
		w.upAndRunning("web")
		w.intercept(func(r request, carryOut func() error) error {
			if r.resource == "deployments" && r.verb != "list" && r.verb != "watch" {
				return apierrors.NewInternalError(errors.New("etcd is full"))
			}
			return carryOut()
		})
		edit(w, "web", func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Image = "other:1" })
		w.pass(2 * time.Minute)
		expect.Same(t, "conditions", "Ready=True RolledOut, Reconciling=False SyncFailing, Stalled=False SyncFailing", conditionsOf(w, "web"))
		p.want("belay_standstill_objects 1")
		release(w, "web", "web:2")
		w.pass(2 * time.Minute)
		p.want("belay_standstill_objects 1")
		remove[*v1alpha1.GuardedDeployment](w, "web")
		w.pass(time.Minute)
		p.want("belay_standstill_objects 0")
	})
}

// What is left to prune is tried again; all else has been done, and nobody who waits for the release may hear otherwise.
func TestWhatCannotBePrunedIsNoStandstill(t *testing.T) {
	inWorld(t, func(w *world) {
		w.intercept(func(r request, carryOut func() error) error {
			if everyWrite["prune a revision"](r) {
				return apierrors.NewInternalError(errors.New("etcd is full"))
			}
			return carryOut()
		})
		tellStory(w)
		wantStatus(w, "web", "Ready=True RolledOut")
		expect.Same(t, "times that a standstill is told", 0, told(w, "Standing still"))
		if told(w, "etcd is full") == 0 {
			t.Error("nothing was to be pruned: this tests nothing")
		}
	})
}
