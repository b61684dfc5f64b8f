package sim

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
	"github.com/belay-dev/belay/pkg/rollout"
)

// belay does with rollout.Decide what controller.go and writes.go do, on the world's API: caches that lag, live reads
// before what disrupts, writes on a condition, one key.
type belay struct {
	*world
	running bool
	boots   int // how often the process was started
	memory  rollout.Memory
	wrote   map[string]int // the version of its own last write, for every cache
	caches  map[string]*cache
	turn    int // counts the wake-ups, so that only the newest counts
	retry   time.Duration

	// lag returns how long a cache takes to hear of a write, crash whether the process dies before or after one.
	lag   func() time.Duration
	crash func(write string) (before, after bool)
	// checks are what the test looks at: every write, before it is stored.
	check func(write string, object any)
	log   []logged
}

type logged struct {
	at    time.Time
	write string
}

// cache is what the process knows of one kind of object, and up to which version.
type cache struct {
	version    int
	guarded    *v1alpha1.GuardedDeployment
	deployment *appsv1.Deployment
	revisions  map[string]*appsv1.ControllerRevision
}

var (
	errStale    = errors.New("the cache is old")
	errConflict = errors.New("conflict")
	errCrash    = errors.New("the process died")
)

func newBelay(w *world) *belay {
	b := &belay{world: w, lag: func() time.Duration { return time.Millisecond }, check: func(string, any) {},
		crash: func(string) (bool, bool) { return false, false }}
	w.changed = b.hear
	return b
}

// boot starts the process, with no memory and, soon, with caches.
func (b *belay) boot() {
	b.boots++
	b.running, b.memory, b.wrote, b.caches, b.retry = true, rollout.Memory{}, map[string]int{}, map[string]*cache{}, 0
	for _, kind := range []string{"guardeddeployments", "deployments", "controllerrevisions"} {
		b.caches[kind] = b.snapshot()
	}
	b.after(time.Millisecond)
}

// die ends the process. It is started again after down.
func (b *belay) die(down time.Duration) {
	b.running = false
	b.turn++
	b.in(down, func() {
		if !b.running {
			b.boot()
		}
	})
}

// snapshot is what the caches can know now: a Deployment only by its label.
func (b *belay) snapshot() *cache {
	c := &cache{b.version, b.guarded, b.deployment, maps.Clone(b.revisions)}
	if c.deployment != nil && c.deployment.Labels[v1alpha1.GuardedLabel] != "true" {
		c.deployment = nil
	}
	return c
}

// hear brings news of a kind of object to its cache, late.
func (b *belay) hear(kind string) {
	if b.caches[kind] == nil {
		return
	}
	news := b.snapshot()
	b.in(b.lag(), func() {
		if here := b.caches[kind]; b.running && here != nil && here.version < news.version {
			b.caches[kind] = news
			if kind != "deployments" || here.deployment != news.deployment {
				b.after(time.Millisecond)
			}
		}
	})
}

// after syncs in a while, unless something else makes it sync before.
func (b *belay) after(wait time.Duration) {
	b.turn++
	mine := b.turn
	b.in(wait, func() {
		if b.running && b.turn == mine {
			b.next()
		}
	})
}

func (b *belay) next() {
	again, err := b.sync()
	switch {
	case !b.running:
	case errors.Is(err, errCrash):
		b.die(time.Duration(1+b.random.IntN(20)) * time.Second)
	case err != nil:
		b.retry = min(30*time.Second, max(5*time.Millisecond, 2*b.retry))
		if errors.Is(err, errStale) {
			b.retry = 50 * time.Millisecond
		}
		b.after(b.retry)
	default:
		b.retry = 0
		if again > 0 {
			b.after(again)
		}
	}
}

func (b *belay) sync() (time.Duration, error) {
	for kind, version := range b.wrote {
		if b.caches[kind].version < version {
			return 0, errStale
		}
	}
	o := rollout.Observed{
		Guarded: b.caches["guardeddeployments"].guarded, Deployment: b.caches["deployments"].deployment,
		Revisions: slices.Collect(maps.Values(b.caches["controllerrevisions"].revisions)),
		Memory:    b.memory, Now: b.now, LookEvery: lookEvery,
	}
	for range maxSteps {
		d := b.decide(&o)
		if again, err := b.carryOut(&o, d); err != nil || !again {
			return d.Recheck, err
		}
	}
	return 0, errStale
}

func (b *belay) decide(o *rollout.Observed) rollout.Decision {
	for {
		switch d := rollout.Decide(*o); {
		case d.NeedDeployment:
			o.Deployment, o.DeploymentLive = b.deployment, true
		case d.NeedRevisions:
			o.Revisions, o.RevisionsLive = slices.Collect(maps.Values(b.revisions)), true
		case d.NeedEvidence:
			o.Evidence = b.evidence(o.Deployment)
		default:
			return d
		}
	}
}

func (b *belay) evidence(d *appsv1.Deployment) *rollout.Evidence {
	e := &rollout.Evidence{}
	for _, name := range slices.Sorted(maps.Keys(b.sets)) {
		if set := b.sets[name]; metav1.IsControlledBy(set, d) {
			e.ReplicaSets = append(e.ReplicaSets, set)
		}
	}
	if current := rollout.CurrentReplicaSet(d, e.ReplicaSets); current != nil {
		for _, name := range slices.Sorted(maps.Keys(b.pods)) {
			if pod := b.pods[name]; metav1.IsControlledBy(pod, current) {
				e.Pods = append(e.Pods, pod)
			}
		}
	}
	return e
}

func (b *belay) carryOut(o *rollout.Observed, d rollout.Decision) (again bool, err error) {
	var stored *appsv1.ControllerRevision
	switch {
	case d.Record != nil:
		stored, err = b.record(o, d.Record)
	case d.Mark != nil:
		b.memory = d.Memory
		stored, err = b.mark("mark", d.Mark)
	case d.Deployment != nil:
		before := b.deployment
		var answer *appsv1.Deployment
		if answer, err = b.put(o, d.Deployment); err == nil {
			d.Memory.Accepted = rollout.Accept(d.Deployment, answer)
			if d.Correction != "" && answer == before {
				d.Memory.Move = o.Memory.Move
				b.memory, o.Memory = d.Memory, d.Memory
				return true, nil
			}
			if d.Correction != "" {
				d.Events = append(d.Events, rollout.PutBack(o.Guarded.Name, d.Correction, d.Memory.Rival))
			}
		}
	}
	if err != nil {
		return false, err
	}
	b.memory = d.Memory
	if stored != nil {
		o.Stored(stored)
		o.Memory = d.Memory
		return true, nil
	}
	for _, r := range d.Prune {
		err := b.write("prune", "controllerrevisions", r, func() error {
			if live := b.revisions[r.Name]; live == nil || live.UID != r.UID || live.ResourceVersion != r.ResourceVersion {
				return errConflict
			}
			delete(b.revisions, r.Name)
			b.version++
			b.changed("controllerrevisions")
			return nil
		})
		if err != nil {
			return false, err
		}
	}
	if d.Status != nil {
		err := b.write("status", "guardeddeployments", d.Status, func() error {
			if o.Guarded.ResourceVersion != b.guarded.ResourceVersion {
				return errConflict
			}
			b.guarded = b.guarded.DeepCopy()
			b.guarded.Status = *d.Status.DeepCopy()
			b.stamp(b.guarded, "guardeddeployments")
			return nil
		})
		if err != nil {
			return false, err
		}
	}
	for _, e := range d.Events {
		if err := b.write("event "+e.Reason, "", e, func() error { return nil }); err != nil {
			return false, err
		}
	}
	return false, nil
}

// write stores something, unless the process dies before; it may die after, and not know.
func (b *belay) write(what, kind string, object any, store func() error) error {
	before, after := b.crash(what)
	if before {
		return errCrash
	}
	b.check(what, object)
	last := b.version
	if err := store(); err != nil {
		return err
	}
	b.log = append(b.log, logged{b.now, what})
	if after {
		return errCrash
	}
	if kind != "" && b.version > last {
		b.wrote[kind] = b.version
	}
	return nil
}

func (b *belay) record(o *rollout.Observed, r *appsv1.ControllerRevision) (*appsv1.ControllerRevision, error) {
	if err := b.stillAsked(o.Guarded); err != nil {
		return nil, err
	}
	if r.ResourceVersion != "" {
		return b.mark("record again", r)
	}
	stored := r.DeepCopy()
	return stored, b.write("record", "controllerrevisions", r, func() error {
		if b.revisions[r.Name] != nil {
			return errStale
		}
		b.revisions[r.Name] = stored
		b.stamp(stored, "controllerrevisions")
		return nil
	})
}

func (b *belay) mark(what string, r *appsv1.ControllerRevision) (*appsv1.ControllerRevision, error) {
	stored := r.DeepCopy()
	return stored, b.write(what, "controllerrevisions", r, func() error {
		live := b.revisions[r.Name]
		if live == nil || live.ResourceVersion != r.ResourceVersion {
			return errConflict
		}
		b.revisions[r.Name] = stored
		b.stamp(stored, "controllerrevisions")
		return nil
	})
}

func (b *belay) stillAsked(g *v1alpha1.GuardedDeployment) error {
	if b.guarded.Generation != g.Generation || b.guarded.Annotations[v1alpha1.RetryAnnotation] != g.Annotations[v1alpha1.RetryAnnotation] {
		return errStale
	}
	return nil
}

func (b *belay) put(o *rollout.Observed, wanted *appsv1.Deployment) (*appsv1.Deployment, error) {
	if err := b.stillAsked(o.Guarded); err != nil {
		return nil, err
	}
	name := wanted.Annotations[v1alpha1.RevisionAnnotation]
	live := b.revisions[name]
	same := func(r *appsv1.ControllerRevision) bool {
		return r.Name == name && live != nil && r.ResourceVersion == live.ResourceVersion
	}
	if wanted.Spec.Selector != nil && name != "" && !slices.ContainsFunc(o.Revisions, same) {
		return nil, errStale
	}
	seen := o.Deployment
	if (seen == nil) != (b.deployment == nil) || (seen != nil && !stillThere(b.deployment, seen)) {
		return nil, errStale
	}
	updated := wanted
	if seen != nil {
		updated = rollout.Overlay(b.deployment, wanted)
	}
	updated = asStored(updated)
	err := b.write("deployment", "deployments", updated, func() error { b.putDeployment(updated); return nil })
	return b.deployment, err
}

func stillThere(live, seen *appsv1.Deployment) bool {
	return live.UID == seen.UID && live.Generation == seen.Generation &&
		equality.Semantic.DeepEqual(metav1.GetControllerOf(live), metav1.GetControllerOf(seen))
}

// writes tells what was written since, for messages.
func (b *belay) writes(since time.Time) (all []string) {
	for _, l := range b.log {
		if !l.at.Before(since) {
			all = append(all, fmt.Sprintf("%s %s", l.at.Format("15:04:05.000"), l.write))
		}
	}
	return all
}
