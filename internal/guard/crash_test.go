package guard

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/belay-dev/belay/internal/expect"
	fake "github.com/belay-dev/belay/internal/fakecluster"

	appsv1 "k8s.io/api/apps/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// The crash plans: the story of tellStory, disturbed at each of its writes in turn, has to end as it does undisturbed.

func TestCrash_AfterAnyWrite(t *testing.T) {
	forEveryWrite(t, func(w *world, k int, undisturbed telling) {
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
		wantHardlyMore(w, undisturbed.writes)
	})
}

// lostAnswers are what Belay may hear of a request that has been carried out.
var lostAnswers = map[string]error{
	"connection lost": errors.New("http2: client connection lost"),
	"half an answer":  io.ErrUnexpectedEOF,
	"gateway timeout": apierrors.NewTimeoutError("the request timed out", 1),
	"sent again":      apierrors.NewConflict(schema.GroupResource{Resource: "things"}, "web", errors.New("modified")), // by client-go
}

func TestLostAnswer_ToAnyWrite(t *testing.T) {
	forEveryWrite(t, func(w *world, k int, undisturbed telling) {
		startBelay(w)
		why := slices.Sorted(maps.Keys(lostAnswers))[k%len(lostAnswers)]
		afterWrite(w, k, func() error { return lostAnswers[why] })
		fake.TellStory(w)
		wantTheEnding(w)
		wantHardlyMore(w, undisturbed.writes)
		expect.Same(w.T, "Events, with "+why, undisturbed.events, story(w).events)
	})
}

func TestLostAnswer_ToEveryWrite(t *testing.T) {
	for why, err := range lostAnswers {
		t.Run(why, func(t *testing.T) {
			var undisturbed telling
			inWorld(t, func(w *world) {
				fake.TellStory(w)
				undisturbed = story(w)
			})
			inWorld(t, func(w *world) {
				w.Intercept(func(r request, carryOut func() error) error {
					if failed := carryOut(); failed != nil || !r.Writes() || r.Resource == "events" {
						return failed
					}
					return err
				})
				fake.TellStory(w)
				wantTheEnding(w)
				expect.Same(t, "Events", undisturbed.events, story(w).events)
			})
		})
	}
}

// More releases in an hour than somebody's changes are put back at once.
func TestLostAnswer_EveryFailureIsRolledBack(t *testing.T) {
	for why, err := range lostAnswers {
		t.Run(why, func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.UpAndRunning("web")
				w.Intercept(func(r request, carryOut func() error) error {
					if failed := carryOut(); failed != nil || r.Resource != "deployments" || !r.Writes() {
						return failed
					}
					return err
				})
				for i := range 8 {
					image := fmt.Sprint("bad:", i)
					w.Node.Set(image, fake.Crashing)
					fake.Release(w, "web", image)
					w.Pass(5 * time.Minute)
					expect.Same(t, "image after "+image, "web:1", w.Image("web"))
					fake.WantStatus(w, "web", "Ready=False RolledBack")
				}
				d, _ := fake.Read[*appsv1.Deployment](w, "web")
				expect.Same(t, "writes of the Deployment", int64(1+2*8), d.Generation)
				for _, e := range w.EventsSent() {
					if strings.HasSuffix(e, v1alpha1.ReasonContested) {
						t.Errorf("an Event tells of a change by somebody: %s", e)
					}
				}
			})
		})
	}
}

func TestCrash_AfterEachWrite(t *testing.T) {
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

// telling is what Belay wrote in a story, but for Events, and the Events, sorted.
type telling struct {
	writes []request
	events []string
}

func story(w *world) telling {
	events := w.EventsSent()
	slices.Sort(events) // Each is sent on its own.
	return telling{storyWrites(w), events}
}

// forEveryWrite runs test for each of the writes of the undisturbed story, in a world without Belay.
func forEveryWrite(t *testing.T, test func(w *world, k int, undisturbed telling)) {
	var undisturbed telling
	inWorld(t, func(w *world) {
		fake.TellStory(w)
		wantTheEnding(w)
		undisturbed = story(w)
	})
	for k, write := range undisturbed.writes {
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
