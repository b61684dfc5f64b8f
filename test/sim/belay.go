package sim

import (
	"fmt"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/klog/v2"
	"k8s.io/klog/v2/textlogger"

	fake "github.com/belay-dev/belay/internal/fakecluster"
	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// Start starts a process of Belay with the clients of p, and returns what ends it, which waits until it has ended.
type Start func(w *fake.World, p *fake.Process) (stop func())

// belay is the one process of Belay at a time, as the world can hinder and observe it.
type belay struct {
	*world
	startProcess Start
	process      *fake.Process
	stopProcess  func()
	running      bool
	cut          bool // nothing passes between the process and the API server
	boots        int  // how often a process was started
	// cached is what the process can know, by resource, newest the version of the last change of anything.
	cached map[string]fake.Change
	newest int64

	// lag returns how long a watch takes to hear of a write, crash whether the process dies before or after one.
	lag   func() time.Duration
	crash func(write string) (before, after bool)
	// mistell returns what the process hears of a write that was not made, or was: nil is the truth.
	mistell func() (refused, lost error)
	// between is called before each request, see with each read.
	between, see func(r fake.Request)
	// check is what the simulation looks at: every write, before it is stored.
	check func(write string, object any)
	// checkStale is called with every write that will be refused because its object has changed.
	checkStale func(r fake.Request)
	log        []logged
	own        map[string]ownWrite // by object
}

// logged is one write that was stored.
type logged struct {
	at    time.Time
	write string
}

// ownWrite is what a process knows that it has written: the version, and when.
type ownWrite struct {
	process int
	version string
	at      time.Time
}

func newBelay(w *world, start Start) *belay {
	b := &belay{world: w, startProcess: start, lag: func() time.Duration { return time.Millisecond }, check: func(string, any) {}, own: map[string]ownWrite{},
		crash:  func(string) (bool, bool) { return false, false },
		cached: map[string]fake.Change{"guardeddeployments": {}, "deployments": {}, "controllerrevisions": {}}}
	w.changed = b.hear
	w.Intercept(b.answer)
	b.holdBack()
	return b
}

// boot starts a process, soon.
func (b *belay) boot() {
	b.in(0, func() {
		if b.running {
			return
		}
		b.boots++
		b.running, b.cut = true, false
		b.holdBack()
		b.process = b.NewProcess()
		b.stopProcess = b.startProcess(b.World, b.process)
	})
}

// die ends the process. Another one is started after down.
func (b *belay) die(down time.Duration) {
	if b.running {
		b.running = false
		b.process.Kill()
		go b.stopProcess() // It waits for what this very request is a part of.
	}
	b.in(down, b.boot)
}

// holdBack lets the watches see everything that there is, and from now on only what is shown.
func (b *belay) holdBack() {
	for resource := range b.cached {
		b.Hold(resource)
		b.show(fake.Change{Resource: resource, Version: b.newest})
	}
	if g := b.guarded(); g != nil {
		b.cached["guardeddeployments"] = fake.Change{Version: b.newest, After: g}
	}
	if d := b.deployment(); d != nil {
		b.cached["deployments"] = fake.Change{Version: b.newest, After: d}
	}
}

// hear lets the watches hear of a change, late.
func (b *belay) hear(change fake.Change) {
	b.newest = change.Version
	if _, watched := b.cached[change.Resource]; watched {
		b.in(max(b.lag(), time.Until(b.meanwhile.late[change.Resource])), func() {
			if !b.cut {
				b.show(change)
			}
		})
	}
}

func (b *belay) show(change fake.Change) {
	b.Show(change.Resource, change.Version)
	if b.cached[change.Resource].Version < change.Version {
		b.cached[change.Resource] = change
	}
}

func (b *belay) cachedGuarded() *v1alpha1.GuardedDeployment {
	g, _ := b.cached["guardeddeployments"].After.(*v1alpha1.GuardedDeployment)
	return g
}

// cachedDeployment is known by its label only.
func (b *belay) cachedDeployment() *appsv1.Deployment {
	d, _ := b.cached["deployments"].After.(*appsv1.Deployment)
	if d == nil || d.Labels[v1alpha1.GuardedLabel] != "true" {
		return nil
	}
	return d
}

// cutOff lets nothing pass between the process and the API server for a while.
func (b *belay) cutOff(d time.Duration) {
	if !b.running || b.cut {
		return
	}
	b.cut = true
	boot := b.boots
	b.in(d, func() {
		if b.boots == boot && b.cut {
			b.cut = false
			b.holdBack()
		}
	})
}

// answer answers a request of Belay, unless the process dies before; it may die after, and not know.
func (b *belay) answer(r fake.Request, carryOut func() error) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.cut {
		return fake.ErrRefused
	}
	b.between(r)
	if !r.Writes() {
		b.see(r)
		return carryOut()
	}
	write, object := b.classify(r)
	before, after := b.crash(write)
	if before {
		b.die(time.Duration(1+b.random.IntN(20)) * time.Second)
		return fake.ErrRefused
	}
	refused, lost := b.mistell()
	if refused != nil {
		return refused
	}
	if b.stale(r) {
		b.checkStale(r)
	} else {
		b.check(write, object)
	}
	err := carryOut()
	if err != nil && (r.Verb != "patch" || r.Resource != "events") { // An Event that is told again would be patched, and cannot be here.
		return err
	}
	b.log = append(b.log, logged{time.Now(), write})
	if after {
		b.die(time.Duration(1+b.random.IntN(20)) * time.Second)
		return fake.ErrRefused
	}
	switch lost {
	case nil:
		b.own[objectOf(r)] = ownWrite{b.boots, b.live(r), time.Now()}
		return err
	case errSentAgain:
		return carryOut()
	}
	return lost
}

// stale reports whether a write will be refused because something else was written meanwhile.
func (b *belay) stale(r fake.Request) bool {
	return r.Object != nil && r.Object.GetResourceVersion() != b.live(r)
}

// live returns the version of the object that a request is about, empty if there is none.
func (b *belay) live(r fake.Request) string {
	resource, _, _ := strings.Cut(r.Resource, "/")
	for _, o := range b.Objects(resource) {
		if o.GetName() == r.Name {
			return o.GetResourceVersion()
		}
	}
	return ""
}

func objectOf(r fake.Request) string {
	resource, _, _ := strings.Cut(r.Resource, "/")
	return resource + " " + r.Name
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

// classify says what a request writes: record, record again, label, mark, mark the restart, deployment, prune, status or event.
func (b *belay) classify(r fake.Request) (write string, object any) {
	switch o := r.Object.(type) {
	case *appsv1.Deployment:
		d := o.DeepCopy()
		fake.SetDefaults(d)
		b.policy(d)
		return "deployment", d
	case *v1alpha1.GuardedDeployment:
		return "status", &o.Status
	case *eventsv1.Event:
		return "event " + o.Reason, o
	case *appsv1.ControllerRevision:
		live := b.revision(o.Name)
		switch {
		case r.Verb == "create":
			return "record", o
		case live != nil && live.Labels[v1alpha1.GuardedLabel] == "":
			return "label", o
		case o.Annotations[v1alpha1.AttemptAnnotation] != "" || (live != nil && o.Revision != live.Revision):
			return "record again", o
		case verdict(o) == v1alpha1.VerdictGood && failureOf(o).ReplicaSet != "":
			return "mark the restart", o
		}
		return "mark", o
	}
	if r.Resource == "controllerrevisions" {
		if live := b.revision(r.Name); live != nil {
			return "prune", live
		}
	}
	return r.Verb + " " + r.Resource, nil
}

// lines is a logger's output that goes into the story.
type lines func(line string)

func (l lines) Write(line []byte) (int, error) {
	l(string(line))
	return len(line), nil
}

func loggerTo(tell lines) klog.Logger {
	return textlogger.NewLogger(textlogger.NewConfig(textlogger.Output(tell), textlogger.Verbosity(4)))
}
