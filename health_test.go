package main

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestAWorkerThatIsStuckIsNotAlive(t *testing.T) {
	inEmptyWorld(t, func(w *world) {
		belay := w.startBelay()
		synctest.Wait()
		stuck := 10 * time.Minute
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
		w.pass(10 * time.Minute)
		if err := belay.Alive(); err != nil {
			t.Errorf("when the worker goes on: %v", err)
		}
		wantStatus(w, "web", "Ready=True RolledOut")
	})
}

func TestBelayIsReadyWhenEveryCacheIs(t *testing.T) {
	inEmptyWorld(t, func(w *world) {
		filled := false
		w.intercept(func(r request, carryOut func() error) error {
			if r.resource == "controllerrevisions" && !filled {
				time.Sleep(time.Minute)
				filled = true
			}
			return carryOut()
		})
		belay := w.startBelay()
		w.pass(59 * time.Second)
		wantError(t, belay.Ready(), "ControllerRevision")
		w.pass(2 * time.Second)
		if err := belay.Ready(); err != nil {
			t.Error(err)
		}
	})
}
