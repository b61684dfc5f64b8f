package sim

import (
	"flag"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/types"

	fake "github.com/belay-dev/belay/internal/fakecluster"
	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// Run plays every simulation, at the same time, with the processes that start starts.
func Run(t *testing.T, start Start) {
	s := stage{start, &rowCounter{rows: map[string]int{}}}
	t.Cleanup(func() { // after the last of the plays, which go on beside one another
		chosen := flag.Lookup("test.run").Value.String() + flag.Lookup("test.skip").Value.String()
		if !strings.Contains(chosen, "/") && *only == 0 && !testing.Short() && !t.Failed() {
			s.rows.check(t)
		}
	})
	for name, simulate := range map[string]func(t *testing.T){
		"Outcomes":          s.everyOutcome,
		"Conditions":        s.staleAndFalseConditions,
		"CrashAtEveryWrite": s.crashAtEveryWrite,
		"Disturbed":         s.disturbed,
		"ImpatientUsers":    s.impatientUsers,
		"Retries":           s.retries,
		"TransientFailures": s.transientFailures,
		"Adoptions":         s.adoptions,
		"Neighbours":        s.neighbours,
		"Fights":            s.fights,
		"Causes":            s.causes,
		"Restarts":          s.restarts,
		"ImpatientRestarts": s.impatientRestarts,
		"RestlessTool":      s.restless,
		"InPlace":           s.inPlace,
		"WrongClocks":       s.wrongClocks,
	} {
		t.Run(name, simulate)
	}
}

// stage is where plays are played.
type stage struct {
	start Start
	rows  *rowCounter
}

// play plays, in a bubble, in a world in which there is nothing.
func (s stage) play(t *testing.T, seed uint64, play func(r *run)) {
	fake.Empty(t, func(cluster *fake.World) {
		w := newWorld(cluster, seed)
		r := &run{world: w, belay: newBelay(w, s.start), t: cluster.T, seed: seed,
			rolled: map[string]int{}, images: map[string]bool{}, numbers: map[string]int64{}, automatic: map[string]int{}, failedAt: map[string]time.Time{}}
		r.ran = ranSets{good: map[string]goodSet{}, bad: map[types.UID]bool{}, digests: map[types.UID]map[string]bool{}, pinned: map[string]int{}}
		hear := w.changed
		w.changed = func(change fake.Change) {
			hear(change)
			r.hearOfPods(change)
		}
		r.check, r.belay.checkStale = r.checkWrite, r.checkStale
		r.belay.between, r.belay.see, r.belay.mistell = r.between, r.see, r.mistell
		cluster.Logger = logr.New(s.rows)
		if *only != 0 {
			cluster.Logger = loggerTo(func(line string) {
				if !strings.Contains(line, " reflector.go:") {
					r.tell("    %s", strings.TrimSpace(line))
				}
			})
		}
		play(r)
		if *only != 0 {
			r.t.Log(strings.Join(r.story, "\n"))
		}
	})
}

// seeds plays for every seed, first for those that found something once, or that take a row of rollout.Decide which the few
// seeds of every day do not take.
func seeds(t *testing.T, play func(t *testing.T, seed uint64), first ...uint64) {
	fewerSeeds(t, 1, play, first...)
}

// fewerSeeds plays for one of so many seeds: for what takes that much longer.
func fewerSeeds(t *testing.T, of int, play func(t *testing.T, seed uint64), first ...uint64) {
	t.Parallel()
	if *only != 0 {
		play(t, *only)
		return
	}
	for _, seed := range first {
		play(t, seed)
	}
	n := max(min(2, *count), *count/of)
	if testing.Short() {
		n = max(2, n/10) // One does not play all that is asked for.
	}
	for i := range n {
		if play(t, uint64(i+1)); t.Failed() {
			return
		}
	}
}

// Users wait for each release to settle. Whatever disturbs in between, it ends as it would have without.
func (s stage) disturbed(t *testing.T) {
	seeds(t, func(t *testing.T, seed uint64) {
		var undisturbed map[string]string
		s.play(t, seed, func(r *run) { undisturbed = r.patient(false) })
		s.play(t, seed, func(r *run) {
			diff := cmp.Diff(undisturbed, r.patient(true))
			if diff != "" && undisturbed != nil {
				r.violated("it ends otherwise (-undisturbed +disturbed):\n%s", diff)
			}
		})
	}, 1396)
}

// patient plays the users who wait, and returns the end, nil if something was violated.
func (r *run) patient(disturbed bool) map[string]string {
	if disturbed {
		r.beginApart()
	}
	r.begin()
	if disturbed {
		r.nasty()
		r.obey()
	}
	for _, a := range append([]action{{"begin", func(*run) {}}}, script(r.seed, 4)...) {
		r.act(a)
		if disturbed {
			r.wait(r.disturb(), nil)
		}
		r.settle(bound)
	}
	r.rest()
	if r.failed {
		return nil
	}
	return r.ending()
}

// Users do not wait. Whatever they do in the middle of what, nothing forbidden is ever done, and it settles in the end.
func (s stage) impatientUsers(t *testing.T) {
	seeds(t, func(t *testing.T, seed uint64) {
		s.play(t, seed, func(r *run) {
			r.beginApart()
			r.begin()
			r.nasty()
			r.obey()
			random := rand.New(rand.NewPCG(seed, 2))
			for _, a := range script(seed, 8) {
				r.wait(time.Duration(random.IntN(90_000))*time.Millisecond, nil)
				r.soon(a)
				switch random.IntN(6) {
				case 0:
					r.disturb()
				case 1:
					r.act(deleteDeployment)
				}
			}
			r.hurryUp()
			r.tell("from here on nothing happens any more")
			r.wait(4*time.Minute, nil) // the last outage is over
			r.settle(bound)
			r.rest()
		})
	}, 39, 581, 939, 25, 28, 37, 38)
}

// One release each, undisturbed: how it is judged, how soon, and with how many writes.
func (s stage) everyOutcome(t *testing.T) {
	t.Parallel()
	for _, o := range outcomes {
		t.Run(o.name, func(t *testing.T) {
			s.play(t, 1, func(r *run) { r.outcome(o) })
		})
	}
}

func (r *run) outcome(o outcome) {
	r.begin()
	r.settle(bound)
	r.rest()
	if got := r.reason(); got != v1alpha1.ReasonRolledOut {
		r.t.Fatalf("the first release: %v", got)
	}
	begun, written := r.now(), len(r.log)
	r.act(release(o.name + ":1"))
	r.wait(5*time.Second, nil)
	if image(r.deployment().Spec.Template) != o.name+":1" {
		r.t.Error("L5: the new template is not acted on within 5 s")
	}
	r.settle(bound)
	budget, reason := 9, v1alpha1.ReasonRolledOut
	if !o.healthy {
		budget, reason = 15, v1alpha1.ReasonRolledBack
	}
	if got := r.reason(); got != reason {
		r.t.Errorf("it ended as %s", got)
	}
	budget += int(r.took / (10 * time.Second))
	if n := len(r.log) - written; n > budget {
		r.t.Errorf("S21: %d writes in %s, of %d:\n%s", n, r.took, budget, strings.Join(r.writes(begun), "\n"))
	}
	r.t.Logf("%s after %s, with %d writes of at most %d", reason, r.took.Round(time.Second), len(r.log)-written, budget)
	r.rest()
}

// unlikely are T1 to T5 on purpose, and longer than they were ever measured.
var unlikely = map[string]func(r *run){
	"T1 a stale exceeded deadline": func(r *run) {
		r.act(spec("hold", func(s *v1alpha1.GuardedDeploymentSpec) { s.Guard.OnFailure = v1alpha1.Hold }))
		r.act(release("bad-unready:1"))
		r.settle(bound)
		r.staleFor = 30 * time.Second
		r.act(release("good:2"))
	},
	"T2 a stale completion": func(r *run) {
		r.staleFor = 30 * time.Second
		r.act(spec("release and scale", func(s *v1alpha1.GuardedDeploymentSpec) {
			s.Replicas, s.Template = new(int32(2)), templateOf("bad-quota:1")
		}))
		r.settle(bound)
		if got := r.reason(); got != v1alpha1.ReasonRolledBack {
			r.t.Errorf("the bad one ended as %s", got)
		}
		r.act(release("good:2"))
	},
	"T3 an exceeded deadline that never comes": func(r *run) {
		r.act(release("bad-quota:1"))
		r.settle(bound)
		r.act(retry("!"))
		r.settle(bound)
		if got := r.progressing(r.deployment()).Reason; r.reason() != v1alpha1.ReasonRolledBack || got == "ProgressDeadlineExceeded" {
			r.t.Errorf("the bad one ended as %s, with %s", r.reason(), got)
		}
		r.act(release("good:2"))
	},
	"T4 a false exceeded deadline": func(r *run) {
		r.staleFor = 30 * time.Second
		r.act(release("good-slow:1"))
		r.wait(5*time.Second, nil)
		r.do(func() { r.stop(&r.deploymentController) })
		r.wait(10*time.Minute, nil)
		r.do(func() { r.world.start(&r.deploymentController) })
		r.wait(time.Second, nil)
		if got := r.progressing(r.deployment()).Reason; got != "ProgressDeadlineExceeded" {
			r.t.Errorf("the pretend Deployment controller says %s", got)
		}
		r.settle(bound)
	},
	"T5 a generation that is never observed": func(r *run) {
		r.act(release("bad-set:1"))
		r.wait(30*time.Second, nil)
		if r.deployment().Status.ObservedGeneration >= r.deployment().Generation {
			r.t.Error("the pretend Deployment controller observed it")
		}
		r.settle(bound)
		if got := r.reason(); got != v1alpha1.ReasonRolledBack {
			r.t.Errorf("the bad one ended as %s", got)
		}
		r.act(release("good:2"))
	},
}

// No healthy release fails, and no bad one is missed, whatever the conditions say.
func (s stage) staleAndFalseConditions(t *testing.T) {
	t.Parallel()
	for name, play := range unlikely {
		t.Run(name, func(t *testing.T) {
			s.play(t, 1, func(r *run) {
				r.begin()
				r.settle(bound)
				play(r)
				r.settle(bound)
				if got := r.reason(); got != v1alpha1.ReasonRolledOut {
					r.t.Errorf("the good one ended as %s", got)
				}
				r.rest()
			})
		})
	}
}

// The process dies before or after every single write, at once or with its answer lost. It ends the same, and what was
// written is written at most once more.
func (s stage) crashAtEveryWrite(t *testing.T) {
	t.Parallel()
	for name, story := range map[string][]action{
		"releases": {release("good:1"), release("bad-crash:2"), retry("!"), release("good-slow:3"), release("bad-quota:4")},
		"restarts": {recreate, restart, restartInto("bad-crash"), sameTag(1), moveTag("good"), restart},
	} {
		want := s.withCrash(t, story, 0, false)
		for _, before := range []bool{true, false} {
			t.Run(name+map[bool]string{true: ", before", false: ", after"}[before], func(t *testing.T) {
				t.Parallel()
				for crash := 1; crash <= len(want.log); crash++ {
					s.checkCrash(t, story, crash, before, want)
				}
			})
		}
	}
}

// ended is what a play leaves behind.
type ended struct {
	ending map[string]string
	log    []logged
}

// withCrash plays a story in which the process dies before or after the write of that number.
func (s stage) withCrash(t *testing.T, story []action, crash int, before bool) (end ended) {
	s.play(t, 1, func(r *run) {
		n := 0
		r.crash = func(string) (bool, bool) {
			n++
			return n == crash && before, n == crash && !before
		}
		r.ran.truth = true
		r.begin()
		for _, a := range story {
			r.settle(bound)
			r.act(a)
		}
		r.settle(bound)
		r.rest()
		end = ended{r.ending(), r.log}
	})
	return end
}

func (s stage) checkCrash(t *testing.T, story []action, crash int, before bool, want ended) {
	got := s.withCrash(t, story, crash, before)
	if diff := cmp.Diff(want.ending, got.ending); diff != "" {
		t.Errorf("crash at write %d (before: %t): -without +with\n%s", crash, before, diff)
	}
	for _, kind := range []string{"record", "record again", "mark", "mark the restart", "deployment", "prune"} {
		if a, b := want.count(kind), got.count(kind); a != b {
			t.Errorf("crash at write %d (before: %t): %d writes of kind %s instead of %d", crash, before, b, kind, a)
		}
	}
	if a, b := len(want.log), len(got.log); b > a+3 {
		t.Errorf("crash at write %d (before: %t): %d writes instead of %d", crash, before, b, a)
	}
}

func (e ended) count(write string) (n int) {
	for _, l := range e.log {
		if l.write == write {
			n++
		}
	}
	return n
}
