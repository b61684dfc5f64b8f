package guard

import (
	"errors"
	"fmt"
	"testing"
	"time"

	fake "github.com/belay-dev/belay/internal/fakecluster"

	appsv1 "k8s.io/api/apps/v1"
)

// The crash plans: the story of tellStory, disturbed at each of its writes in turn, has to end as it does undisturbed.

func TestTheStoryEndsTheSameIfBelayDiesAfterAnyOfItsWrites(t *testing.T) {
	forEveryWrite(t, func(w *world, k int, undisturbed []request) {
		belay := startBelay(w)
		afterWrite(w, k, func() error {
			belay.Kill() // whatever it was about to do has no effect
			go func() {
				belay.stop()
				time.Sleep(time.Second)
				startBelay(w)
			}()
			return nil
		})
		fake.TellStory(w)
		wantTheEnding(w)
		wantHardlyMore(w, undisturbed)
	})
}

func TestTheStoryEndsTheSameIfTheAnswerToAnyWriteIsLost(t *testing.T) {
	forEveryWrite(t, func(w *world, k int, undisturbed []request) {
		startBelay(w)
		afterWrite(w, k, func() error { return errors.New("http2: client connection lost") })
		fake.TellStory(w)
		wantTheEnding(w)
		wantHardlyMore(w, undisturbed)
	})
}

func TestTheStoryEndsTheSameIfBelayDiesAfterEachOfItsWrites(t *testing.T) {
	fake.In(t, func(w *world) {
		lives := make(chan *belay, 1)
		lives <- startBelay(w)
		w.Intercept(func(r request, carryOut func() error) error {
			err := carryOut()
			if err != nil || !r.Writes() || r.Resource == "events" {
				return err
			}
			life := <-lives
			life.Kill()
			go func() {
				life.stop()
				lives <- startBelay(w)
			}()
			return nil
		})
		fake.TellStory(w)
		wantTheEnding(w)
	})
}

// forEveryWrite runs test for each of the writes of the undisturbed story, in a world without Belay.
func forEveryWrite(t *testing.T, test func(w *world, k int, undisturbed []request)) {
	var undisturbed []request
	inWorld(t, func(w *world) {
		fake.TellStory(w)
		wantTheEnding(w)
		undisturbed = storyWrites(w)
	})
	for k, write := range undisturbed {
		t.Run(fmt.Sprintf("%d %s", k+1, write), func(t *testing.T) {
			fake.In(t, func(w *world) { test(w, k+1, undisturbed) })
		})
	}
}

// afterWrite calls do when the k-th write, Events not counted, has been carried out. What it returns is the answer.
func afterWrite(w *world, k int, do func() error) {
	w.Intercept(func(r request, carryOut func() error) error {
		err := carryOut()
		if r.Writes() && r.Resource != "events" {
			if k--; k == 0 {
				return do()
			}
		}
		return err
	})
}

// storyWrites returns what Belay wrote, but for Events.
func storyWrites(w *world) []request {
	return w.Asked(func(r request) bool { return r.Writes() && r.Resource != "events" })
}

// wantHardlyMore fails the test if the Deployment was written more often than in the undisturbed story, or anything else
// more than once more.
func wantHardlyMore(w *world, undisturbed []request) {
	w.T.Helper()
	before, after := fake.Counts(undisturbed), fake.Counts(storyWrites(w))
	d, _ := fake.Read[*appsv1.Deployment](w, "web")
	if want := int64(before["create deployments"] + before["update deployments"]); d.Generation != want {
		w.T.Errorf("the Deployment was written %d times, want %d", d.Generation, want)
	}
	for kind, n := range after {
		// A status may also be written for counts that come in another second, and a deletion asked for while the cache lags.
		if spare := map[string]int{"update guardeddeployments/status": 3, "delete controllerrevisions": 1}[kind]; n > before[kind]+1+spare {
			w.T.Errorf("%d requests to %s, want at most %d", n, kind, before[kind]+1+spare)
		}
	}
}
