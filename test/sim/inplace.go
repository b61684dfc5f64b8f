package sim

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	fake "github.com/belay-dev/belay/internal/fakecluster"
	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
	"github.com/belay-dev/belay/pkg/rollout"
)

// This file plays stories of a Deployment that is guarded in place. What ought to have become of it is told by what its images do
// (outcomes.go), not by what Belay says.

// exact is the Deployment controller of these plays.
type exact struct {
	writes int
	again  time.Time // when it looks again although nothing happens
}

func (e *exact) sync(w *world) {
	sync := w.SyncDeployment("web")
	e.writes += sync.Writes
	if at := time.Now().Add(sync.Again); sync.Again > 0 && (e.again.Before(time.Now()) || at.Before(e.again)) {
		e.again = at
		w.in(sync.Again, func() { w.wake(&w.deploymentController, 0, w.syncDeployment) })
	}
}

// placeRun is one such play.
type placeRun struct {
	*world
	*belay
	t      testing.TB
	seed   uint64
	random *rand.Rand
	story  []string
	failed bool

	policy  bool // artifacts/in-place is installed
	nasty   bool // watches are late, processes die and answers are lost
	pending func()
	inside  bool // of a request: the world is held
	images  []string
	tokens  int
	verdict *capacity // since the last verdict, unless somebody has done something since
	asked   int       // how often a template was asked for
	acted   time.Time // when somebody did something last, or a process began
	written int       // how much Belay had written by then
}

// capacity is what has to be ready after a verdict.
type capacity struct{ least int32 }

func (s stage) inPlace(t *testing.T) {
	seeds(t, func(t *testing.T, seed uint64) {
		s.playInPlace(t, seed, func(r *placeRun) {
			r.begin()
			for range 3 + r.random.IntN(6) {
				if r.random.IntN(4) == 0 {
					r.pending = r.step // at one of the next requests of Belay
				} else {
					r.step()
				}
				r.disturbClock()
				if r.random.IntN(2) == 0 {
					r.hurryUp()
					r.settle()
				} else {
					r.wait(time.Duration(r.random.IntN(90_000))*time.Millisecond, nil)
					r.hurryUp()
				}
				if r.failed {
					return
				}
			}
			r.calm()
			r.settle()
			r.rest()
		})
	}, 1616, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 27, 41, 43, 139, 216) // The last two take the row "unanswered", which is rare.
}

// playInPlace plays, in a bubble, in a world in which there is nothing.
func (s stage) playInPlace(t *testing.T, seed uint64, play func(r *placeRun)) {
	fake.Empty(t, func(cluster *fake.World) {
		w := newWorld(cluster, seed)
		w.exact = &exact{}
		r := &placeRun{world: w, belay: newBelay(w, s.start), t: cluster.T, seed: seed, random: rand.New(rand.NewPCG(seed, 11))}
		hear := w.changed
		w.changed = func(change fake.Change) {
			hear(change)
			r.hearOfPods(change)
		}
		r.belay.between, r.belay.see, r.belay.checkStale = r.checkRequest, func(fake.Request) {}, func(fake.Request) {}
		r.belay.mistell = r.mistell
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

// telling guards the stories: what Belay logs comes from its own goroutines.
var telling sync.Mutex

func (r *placeRun) tell(format string, args ...any) {
	telling.Lock()
	defer telling.Unlock()
	r.story = append(r.story, time.Now().Format("15:04:05.000 ")+fmt.Sprintf(format, args...))
}

// violated tells what went wrong, with the whole story, once in a run.
func (r *placeRun) violated(format string, args ...any) {
	r.t.Helper()
	if !r.failed {
		r.failed = true
		r.t.Errorf("seed %d, %s: %s\n%s\n%s\nwrites:\n%s", r.seed, time.Now().Format("15:04:05.000"), fmt.Sprintf(format, args...),
			strings.Join(r.story, "\n"), r.state(), strings.Join(r.writes(time.Now().Add(-3*time.Minute)), "\n"))
	}
}

// ---- the story

func (r *placeRun) begin() {
	d := &appsv1.Deployment{}
	d.Name, d.Namespace = "web", fake.Namespace
	d.Labels = map[string]string{v1alpha1.GuardedLabel: v1alpha1.GuardedInPlace}
	d.Annotations = map[string]string{v1alpha1.GuardAnnotation: r.guardAs(v1alpha1.Rollback, 0)}
	d.Spec.Replicas, d.Spec.ProgressDeadlineSeconds = new(1+r.random.Int32N(5)), new(int32(deadline/time.Second))
	d.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}
	d.Spec.Template = templateOf("good:0")
	r.images = []string{"good:0"}
	d.Spec.Strategy = strategies[r.random.IntN(len(strategies))].strategy
	r.policy = r.random.IntN(8) > 0
	r.KeepHolds(r.policy)
	if r.nasty = r.random.IntN(2) == 0; r.nasty {
		r.lag = func() time.Duration { return time.Duration(r.random.IntN(400)*r.random.IntN(5)) * time.Millisecond }
		r.belay.crash = func(string) (bool, bool) { return r.random.IntN(30) == 0, r.random.IntN(30) == 0 }
	}
	r.beginApart()
	r.do(func() {
		r.tell("begin with %d replicas, policy %t, %+v", *d.Spec.Replicas, r.policy, d.Spec.Strategy)
		fake.Add(r.World, fake.NamespaceOf())
		fake.Add(r.World, d)
	})
	if r.random.IntN(2) == 0 {
		r.wait(20*time.Second, nil)
	}
	r.do(r.boot)
	r.settle()
}

func (r *placeRun) guardAs(onFailure v1alpha1.OnFailure, retries int) string {
	return fmt.Sprintf(`{"maxRestarts":3,"soakSeconds":%d,"stuckSeconds":%d,"onFailure":%q,"retries":%d}`, soak/time.Second, stuck/time.Second, onFailure, retries)
}

// mistell returns what Belay hears of a write that was not made, or was.
func (r *placeRun) mistell() (refused, lost error) {
	if !r.nasty {
		return nil, nil
	}
	switch r.random.IntN(90) {
	case 0:
		return apierrors.NewConflict(schema.GroupResource{Resource: "things"}, "web", errors.New("modified")), nil
	case 1:
		return nil, errors.New("http2: client connection lost")
	case 2:
		return nil, errSentAgain
	}
	return nil, nil
}

// hurryUp does now what has not been done at a request.
func (r *placeRun) hurryUp() {
	if pending := r.takePending(); pending != nil {
		pending()
	}
}

func (r *placeRun) takePending() (pending func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	pending, r.pending = r.pending, nil
	return pending
}

// now lets something happen now. In the middle of a request no time passes.
func (r *placeRun) now(do func()) {
	if r.inside {
		do()
		return
	}
	r.do(do)
}

func (r *placeRun) pass(most int) {
	if !r.inside {
		r.wait(time.Duration(r.random.IntN(most))*time.Second, nil)
	}
}

// touched notes that somebody did something.
func (r *placeRun) touched() { r.verdict, r.acted, r.written = nil, time.Now(), len(r.log) }

// act lets somebody do something to the Deployment.
func (r *placeRun) act(name string, change func(d *appsv1.Deployment)) {
	r.now(func() {
		r.tell("%s", name)
		r.touched()
		before := r.deployment().Spec.Template
		fake.Edit(r.World, "web", change)
		if after := r.deployment(); !equality.Semantic.DeepEqual(before, after.Spec.Template) {
			r.newTemplate()
		}
	})
}

// newTemplate makes sure that what is asked for now is not kept back for long: nothing that was held before is. A template that is asked
// for again before anybody has seen another one is nothing new.
func (r *placeRun) newTemplate() {
	r.asked++
	for _, set := range r.sets() {
		if _, held := rollout.HeldAt(set); held && r.isCurrent(set) {
			return
		}
	}
	asked, boots := r.asked, r.boots
	r.in(8*time.Second, func() {
		d := r.deployment()
		if asked != r.asked || boots != r.boots || !r.running || d.Spec.Paused || !r.isGuarded() {
			return
		}
		if held := r.held(); len(held) > 0 {
			r.violated("8 s after another template is asked for, these are held: %v", held)
		}
	})
}

// calm ends what disturbs, and lets the Deployment be guarded and run.
func (r *placeRun) calm() {
	r.do(func() {
		r.tell("from here on nothing happens any more")
		r.belay.crash = func(string) (bool, bool) { return false, false }
		r.nasty = false
	})
	r.wait(2*time.Minute, nil)
}
