package sim

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"

	fake "github.com/belay-dev/belay/internal/fakecluster"
	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// This file is about clocks that are wrong. How long something takes, Belay measures by a clock that nobody can set. What it compares
// with the clock of its machine is what others have written, and the time of a failure that it has stored itself.

// aheads are how far the cluster's clock may be ahead of Belay's.
var aheads = []time.Duration{0, time.Hour, -time.Hour}

func (w *world) ahead() time.Duration { return time.Until(w.Now()) }

// beginApart sets both clocks apart, or not. It is for the beginning: the tags of images that move later have their times by it.
func (w *world) beginApart() { w.SetAhead(aheads[w.clocks.IntN(len(aheads))]) }

// stepClock lets the cluster's clock step, or Belay's, and tells which.
func (w *world) stepClock() string {
	before, after := w.ahead(), aheads[w.clocks.IntN(len(aheads))]
	if w.clocks.IntN(2) == 0 {
		w.SetAhead(after)
		return fmt.Sprintf("the cluster's clock steps by %s, and is %s ahead of Belay's", after-before, after)
	}
	w.stepBelay(before - after)
	return fmt.Sprintf("Belay's clock steps by %s, and the cluster's is %s ahead of it", before-after, after)
}

// stepBelay lets Belay's clock step. For it, that is as if all others had stepped the other way, and what it has stored had been
// stored at another time.
func (w *world) stepBelay(by time.Duration) {
	w.SetAhead(w.ahead() - by)
	if by < 0 {
		w.late -= by
	}
	for _, revision := range w.revisions() {
		if failed, there := failedEarlier(revision, by); there {
			fake.Edit(w.World, revision.Name, func(live *appsv1.ControllerRevision) { live.Annotations[v1alpha1.FailureAnnotation] = failed })
		}
	}
	if d := w.deployment(); d != nil {
		if failed, there := failedEarlier(d, by); there {
			fake.Edit(w.World, d.Name, func(live *appsv1.Deployment) { live.Annotations[v1alpha1.FailureAnnotation] = failed })
		}
	}
}

// failedEarlier returns what is stored of a failure, as if it had been so much earlier, and whether anything is.
func failedEarlier(o fake.Object, by time.Duration) (failed string, there bool) {
	var stored map[string]any
	if json.Unmarshal([]byte(o.GetAnnotations()[v1alpha1.FailureAnnotation]), &stored) != nil {
		return "", false
	}
	text, _ := stored["time"].(string)
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return "", false
	}
	stored["time"] = at.Add(-by).Format(time.RFC3339)
	written, err := json.Marshal(stored)
	if err != nil {
		panic(err)
	}
	return string(written), true
}

// disturbClock lets a clock step within a minute, half of the time.
func (r *run) disturbClock() {
	at := time.Duration(r.clocks.IntN(60_000)) * time.Millisecond
	if r.clocks.IntN(2) == 0 {
		r.in(at, func() {
			rolled := r.rolled[attemptOf(r.target())]
			r.tell("  %s", r.stepClock())
			r.rolled[attemptOf(r.target())] = rolled
		})
	}
}

// disturbClock lets a clock step within a minute, half of the time.
func (r *placeRun) disturbClock() {
	at := time.Duration(r.clocks.IntN(60_000)) * time.Millisecond
	if r.clocks.IntN(2) == 0 {
		r.in(at, func() { r.tell("%s", r.stepClock()) })
	}
}

// clockStory is a release in the middle of which a clock steps.
type clockStory struct {
	name    string
	act     action
	retries int32
	reason  string        // what is reported when the clock steps
	after   time.Duration // or so long after that
	ends    string        // what is reported in the end
}

var clockStories = []clockStory{
	{"a soak", release("good:1"), 0, v1alpha1.ReasonSoaking, 4 * time.Second, v1alpha1.ReasonRolledOut},
	{"a soak that fails", release("bad-in-soak:1"), 0, v1alpha1.ReasonProgressing, 8 * time.Second, v1alpha1.ReasonRolledBack},
	{"a slow release", release("good-slow:1"), 0, v1alpha1.ReasonProgressing, 20 * time.Second, v1alpha1.ReasonRolledOut},
	{"a deadline", release("bad-unready:1"), 0, v1alpha1.ReasonProgressing, 40 * time.Second, v1alpha1.ReasonRolledBack},
	{"crashes", release("bad-crash:1"), 0, v1alpha1.ReasonProgressing, 5 * time.Second, v1alpha1.ReasonRolledBack},
	{"a quota", release("bad-quota:1"), 0, v1alpha1.ReasonProgressing, 30 * time.Second, v1alpha1.ReasonRolledBack},
	{"a refused ReplicaSet", release("bad-set:1"), 0, v1alpha1.ReasonProgressing, 8 * time.Second, v1alpha1.ReasonRolledBack},
	{"a retry that helps", ail(5, 45*time.Second), 1, v1alpha1.ReasonRolledBack, 20 * time.Second, v1alpha1.ReasonRolledOut},
	{"a retry that does not", release("bad-crash:1"), 1, v1alpha1.ReasonRolledBack, 20 * time.Second, v1alpha1.ReasonRolledBack},
}

// clockTrouble is what becomes of the clocks in a story.
type clockTrouble struct {
	ahead    time.Duration // how far the cluster's is ahead from the beginning
	cluster  time.Duration // by how much it steps
	belay    time.Duration // by how much Belay's does
	restarts bool          // Belay, at that moment
}

// Whosever clock is wrong, from the beginning or from the middle of a release on, it ends as it would have, and when it would have.
func (s stage) wrongClocks(t *testing.T) {
	t.Parallel()
	for _, story := range clockStories {
		t.Run(story.name, func(t *testing.T) {
			t.Parallel()
			for _, restarts := range []bool{false, true} {
				want := s.withClocks(t, story, clockTrouble{restarts: restarts})
				for _, by := range []time.Duration{time.Hour, -time.Hour} {
					for _, trouble := range []clockTrouble{{by, 0, 0, restarts}, {0, by, 0, restarts}, {0, 0, by, restarts}} {
						got, most := s.withClocks(t, story, trouble), 2*pollInterval
						if story.retries > 0 && restarts && trouble.belay != 0 { // All that is left of the failure is when it was, by a wrong clock.
							most += time.Minute
						}
						if off := got - want; off.Abs() > most {
							t.Errorf("%+v: it ends after %s, and would have after %s", trouble, got, want)
						}
					}
				}
			}
		})
	}
}

// withClocks plays a story, and returns how long it takes.
func (s stage) withClocks(t *testing.T, story clockStory, trouble clockTrouble) (took time.Duration) {
	s.play(t, 1, func(r *run) {
		r.SetAhead(trouble.ahead)
		r.begin()
		r.settle(bound)
		r.act(retries(story.retries))
		r.settle(bound)
		r.act(story.act)
		if !r.wait(bound, func() bool { return r.reason() == story.reason }) {
			r.violated("%s is never reported", story.reason)
		}
		r.wait(story.after, nil)
		r.do(func() {
			r.tell("%+v", trouble)
			r.SetAhead(r.ahead() + trouble.cluster)
			r.stepBelay(trouble.belay)
			if trouble.restarts {
				r.die(time.Second)
			}
		})
		r.settle(bound + time.Duration(story.retries)*bound + r.late)
		if r.reason() != story.ends {
			r.violated("it ends as %s", r.reason())
		}
		took = r.took
		r.rest()
	})
	return took
}
