package sim

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	fake "github.com/belay-dev/belay/internal/fakecluster"
	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// This file is about others that change the Deployment under Belay, once or again and again.

// ---- what must hold

const (
	// atOnce is how often somebody else's change is put back before it takes a while, patience how long it takes then.
	atOnce, patience = 5, 10 * time.Minute
	// busiest is the most writes in an hour, whatever happens: the counts of pods that come and go, and some.
	busiest = 500
)

// corrections is how often one process has put back what somebody else had changed.
type corrections struct {
	process int
	owed    bool // something has happened since the last write that asks for another one
	made    []time.Time
}

// checkCorrection counts the writes of the Deployment that nothing but somebody else's change can be the reason for, and those that
// undo a restart that failed.
func (r *run) checkCorrection(undone bool) {
	c := &r.corrections
	if c.process != r.boots {
		*c = corrections{process: r.boots, owed: true}
	}
	if c.owed && !undone {
		c.owed = false
		return
	}
	since := func(d time.Duration) (n int) {
		for _, at := range c.made {
			n += btoi(r.now().Sub(at) < d)
		}
		return n
	}
	c.made = append(c.made, r.now())
	if n := since(patience); n > atOnce {
		r.violated("S23: somebody else's change is put back %d times in %s", n, patience)
	}
	if n := since(time.Hour); n > atOnce+6 {
		r.violated("S23: somebody else's change is put back %d times in an hour", n)
	}
}

// checkBusy checks that no hour has too many writes.
func (r *run) checkBusy() {
	most := busiest + perRestart*r.ran.hourly
	if n := len(r.log) - most; n >= 0 && r.now().Sub(r.log[n].at) < time.Hour {
		r.violated("S23: %d writes in an hour", most)
	}
}

// converge waits, and checks that the Deployment says what it should, however often others have changed it before.
func (r *run) converge() {
	if r.failed {
		return
	}
	r.tell("from here on nobody changes anything any more")
	r.wait(patience+time.Minute, nil)
	if wrong := r.wrong(); wrong != "" {
		r.violated("L14: %s after %s", wrong, patience+time.Minute)
	}
}

// wrong returns what in the Deployment is not as the spec, or the last good revision, has it.
func (r *run) wrong() string {
	d, target := r.deployment(), r.target()
	if d == nil || target == nil {
		return "there is no Deployment or no revision"
	}
	running := r.known(d.Annotations[v1alpha1.RevisionAnnotation])
	switch {
	case running == nil && r.left() && !(image(d.Spec.Template) == image(decode(target)) &&
		d.Annotations[v1alpha1.AppliedAnnotation] == r.stated && r.guarded().Generation == r.statedFor):
		return "" // Nothing tells any more what it was left on.
	case r.misled && r.left():
		return ""
	case running == nil:
		return "the annotation names no revision"
	case running.Name != target.Name && (verdict(target) != "failed" || !proven(running)):
		return "another revision runs"
	case !r.runs(d, running):
		return "the template is not the revision's"
	case d.Annotations[v1alpha1.AppliedAnnotation] == "theirs" || d.Annotations[v1alpha1.AppliedAnnotation] == "":
		return "what is applied is not known"
	case d.Labels[v1alpha1.GuardedLabel] != "true":
		return "the label is not there"
	case !metav1.IsControlledBy(d, r.guarded()):
		return "the owner is not there"
	case r.guarded().Spec.Replicas != nil && *r.guarded().Spec.Replicas != *d.Spec.Replicas:
		return "the replicas are not as asked for"
	}
	return ""
}

// known returns the revision of a name. While the Deployment is left as it is, nobody looks for one that has lost its label.
func (r *run) known(name string) *appsv1.ControllerRevision {
	revision := r.revision(name)
	if revision != nil && revision.Labels[v1alpha1.GuardedLabel] == "" && r.left() {
		return nil
	}
	return revision
}

// left reports whether the Deployment is left as it is.
func (r *run) left() bool {
	return r.reason() == v1alpha1.ReasonHeld || r.reason() == v1alpha1.ReasonNoGoodRevision
}

// ---- what others do

func annotated(key, value string) action {
	return meddle(fmt.Sprintf("set %s to %q", key, value), func(d *appsv1.Deployment) {
		metav1.SetMetaDataAnnotation(&d.ObjectMeta, key, value)
		if value == "" {
			delete(d.Annotations, key)
		}
	})
}

// misname lets the annotation name another revision than the one that runs. While paused, nothing else tells which one
// that is.
func misname(random *rand.Rand) action {
	pick := random.IntN(100)
	return action{"name another revision", func(r *run) {
		revisions := r.revisions()
		if len(revisions) > 0 && !r.guarded().Spec.Paused {
			annotated(v1alpha1.RevisionAnnotation, revisions[pick%len(revisions)].Name).do(r)
		}
	}}
}

// unlabelRevision takes the label of a revision, so that no cache has it any more.
func unlabelRevision(random *rand.Rand) action {
	pick := random.IntN(100)
	return action{"take the label of a revision away", func(r *run) {
		if revisions := r.revisions(); len(revisions) > 0 {
			fake.Edit(r.World, revisions[pick%len(revisions)].Name, func(live *appsv1.ControllerRevision) { live.Labels = nil })
		}
	}}
}

func meddling(random *rand.Rand, number int) action {
	return []action{
		setImage, setImage, rolloutRestart(number), unlabel, misname(random), unlabelRevision(random), unlabelRevision(random),
		annotated(v1alpha1.RevisionAnnotation, ""), annotated(v1alpha1.RevisionAnnotation, "theirs"),
		annotated(v1alpha1.AppliedAnnotation, ""), annotated(v1alpha1.AppliedAnnotation, "theirs"),
		meddle("kubectl scale", func(d *appsv1.Deployment) { d.Spec.Replicas = new(1 + random.Int32N(4)) }),
	}[random.IntN(12)]
}

// fights are what somebody does to the Deployment again whenever it is gone.
var fights = map[string][]action{
	"over the image":        {setImage},
	"over the revision":     {annotated(v1alpha1.RevisionAnnotation, "theirs")},
	"over what is applied":  {annotated(v1alpha1.AppliedAnnotation, "theirs")},
	"over two annotations":  {annotated(v1alpha1.RevisionAnnotation, "theirs"), annotated(v1alpha1.AppliedAnnotation, "")},
	"over everything":       {setImage, unlabel, annotated(v1alpha1.RevisionAnnotation, ""), annotated(v1alpha1.AppliedAnnotation, "")},
	"over the label":        {unlabel},
	"over the replicas":     {meddle("kubectl scale", func(d *appsv1.Deployment) { d.Spec.Replicas = new(int32(2)) })},
	"over whose it is":      {consent("web"), orphan},
	"over whose it is, too": {consent("web"), orphan, annotated(v1alpha1.AppliedAnnotation, "theirs")},
}

// fight lets somebody do the same things after every change of the Deployment, for a while.
func (r *run) fight(over []action, last time.Duration) {
	until, due, hear := r.now().Add(last), false, r.changed
	strike := func() {
		due = false
		if r.now().Before(until) {
			for _, a := range over {
				a.do(r)
			}
		}
	}
	r.changed = func(change fake.Change) {
		hear(change)
		if change.Resource == "deployments" && !due {
			due = true
			r.in(time.Duration(r.random.IntN(2000))*time.Millisecond, strike)
		}
	}
	r.do(strike)
}

// ---- the plays

// Others change this and that, in the middle of anything. It is put back, or left alone for a while, and in the end all
// is as the spec asks for.
func (s stage) neighbours(t *testing.T) {
	seeds(t, func(t *testing.T, seed uint64) {
		s.play(t, seed, func(r *run) {
			r.beginApart()
			r.begin()
			r.nasty()
			r.obey()
			random := rand.New(rand.NewPCG(seed, 5))
			for i, a := range script(seed, 4) {
				r.act(a)
				for range random.IntN(5) {
					r.wait(time.Duration(random.IntN(60_000))*time.Millisecond, nil)
					r.soon(meddling(random, i))
				}
			}
			r.hurryUp()
			r.act(spec("resume", func(s *v1alpha1.GuardedDeploymentSpec) { s.Paused = false }))
			r.converge()
			r.settle(bound)
			r.wait(2*time.Minute, nil) // until restarted pods are there
			r.rest()
		})
	}, 456, 462, 726)
}

// Somebody changes the same thing again whenever Belay puts it back, for hours. That is no hot loop, a new release is
// written at once all the same, and when it ends all is as the spec asks for.
func (s stage) fights(t *testing.T) {
	names := slices.Sorted(maps.Keys(fights))
	seeds(t, func(t *testing.T, seed uint64) {
		s.play(t, seed, func(r *run) {
			r.begin()
			random := rand.New(rand.NewPCG(seed, 6))
			r.staleFor, r.lag = 5*time.Second, func() time.Duration { return time.Duration(r.random.IntN(400)) * time.Millisecond }
			r.settle(bound)
			name, last := names[random.IntN(len(names))], time.Duration(10+random.IntN(170))*time.Minute
			r.tell("a fight begins, %s, for %s", name, last)
			r.fight(fights[name], last)
			for i := range 1 + random.IntN(2) {
				r.wait(time.Duration(random.Int64N(int64(last/2))), nil)
				image := fmt.Sprintf("%s:%d", outcomes[random.IntN(len(outcomes))].name, i+1)
				r.act(release(image))
				if r.wait(10*time.Second, nil); !r.images[image] && r.taken() == "" && metav1.IsControlledBy(r.deployment(), r.guarded()) {
					r.violated("L5: the new template is not written within 10 s")
				}
			}
			r.wait(last, nil)
			r.converge()
			r.settle(bound)
			r.wait(2*time.Minute, nil) // until restarted pods are there
			r.rest()
		})
	})
}
