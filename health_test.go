package main

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

func TestAWorkerThatIsStuckIsNotAlive(t *testing.T) {
	inEmptyWorld(t, func(w *world) {
		belay := w.startBelay()
		synctest.Wait()
		stuck := 3 * time.Minute
		w.intercept(func(r request, carryOut func() error) error {
			if r.resource == "deployments" && r.writes() {
				time.Sleep(stuck) // and it does not hear that the sync has a timeout
				stuck = 0
			}
			return carryOut()
		})
		add(w, webshop("web", "web:1"))
		w.pass(stuckAfter)
		if err := belay.Alive(); err != nil {
			t.Errorf("after %s: %v", stuckAfter, err)
		}
		w.pass(time.Second)
		wantError(t, belay.Alive(), "stuck", namespace+"/web", "2m1s")
		w.pass(3 * time.Minute)
		if err := belay.Alive(); err != nil {
			t.Errorf("when the worker goes on: %v", err)
		}
		wantStatus(w, "web", "Ready=True RolledOut")
	})
}

func TestBelayIsReadyWhenEveryCacheIs(t *testing.T) {
	inEmptyWorld(t, func(w *world) {
		w.intercept(func(r request, carryOut func() error) error {
			if r.resource == "controllerrevisions" {
				return apierrors.NewForbidden(schema.GroupResource{Resource: r.resource}, "", nil)
			}
			return carryOut()
		})
		belay := w.startBelay()
		w.pass(time.Minute)
		wantError(t, belay.Ready(), "ControllerRevision")
		if strings.Contains(belay.Ready().Error(), "Deployment") {
			t.Errorf("%v, want the cache named that is not synced, and no other", belay.Ready())
		}
		w.intercept(nil)
		w.pass(time.Minute)
		if err := belay.Ready(); err != nil {
			t.Error(err)
		}
	})
}
