package sim

import (
	"errors"
	"io"
	"maps"
	"math/rand/v2"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	fake "github.com/belay-dev/belay/internal/fakecluster"
	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// This file is about what happens between two requests of one reconcile, about answers that do not say what became of a
// write, about watches that are late, and about policies.

// meanwhile is what may happen while Belay reconciles. It has a random source of its own.
type meanwhile struct {
	random  *rand.Rand
	likely  bool                 // whether anything happens at all
	pending *action              // what users do at one of the next requests
	late    map[string]time.Time // until when the watches of a resource hear of nothing new
}

// oneIn is true once in n times, on average.
func (m *meanwhile) oneIn(n int) bool { return m.likely && m.random.IntN(n) == 0 }

// ---- between two requests

// soon lets users do something before one of Belay's next requests, or at the next hurryUp if there is none.
func (r *run) soon(a action) {
	r.do(func() {
		r.usersAct()
		r.meanwhile.pending = &a
		if r.meanwhile.oneIn(2) {
			r.usersAct()
		}
	})
}

// hurryUp lets users do now what they had not come to.
func (r *run) hurryUp() { r.do(r.usersAct) }

func (r *run) usersAct() {
	if a := r.meanwhile.pending; a != nil {
		r.meanwhile.pending = nil
		r.perform(*a)
	}
}

// between lets happen what comes before a request of Belay. Reads for the judge are left alone: no write is near.
func (r *run) between(request fake.Request) {
	if !request.Writes() && (request.Verb != "get" || request.Resource == "nodes") {
		return
	}
	if r.meanwhile.pending != nil && r.meanwhile.oneIn(3) {
		r.usersAct()
	}
	if !r.meanwhile.oneIn(10) {
		return
	}
	step := steps[r.meanwhile.random.IntN(len(steps))]
	r.tell("    before it can %s %s: %s", request.Verb, request.Resource, step.name)
	step.do(r)
}

// steps are those of the pretend controllers, and of others who change nothing that the end depends on.
var steps = []action{
	{"the Deployment controller steps", func(r *run) { r.step(&r.deploymentController, r.syncDeployment) }},
	{"the ReplicaSet controller steps", func(r *run) { r.step(&r.setController, r.syncSets) }},
	{"the scheduler steps", func(r *run) { r.step(&r.scheduler, r.schedule) }},
	{"somebody annotates the Deployment", func(r *run) {
		if r.deployment() != nil {
			fake.Edit(r.World, "web", func(d *appsv1.Deployment) { r.note(d) })
		}
	}},
	{"somebody annotates the GuardedDeployment", func(r *run) {
		fake.Edit(r.World, "web", func(g *v1alpha1.GuardedDeployment) { r.note(g) })
	}},
	{"somebody annotates the revisions", func(r *run) {
		for _, revision := range r.revisions() {
			fake.Edit(r.World, revision.Name, func(live *appsv1.ControllerRevision) { r.note(live) })
		}
	}},
}

// note changes an annotation that is nobody's business.
func (r *run) note(o fake.Object) {
	annotations := maps.Clone(o.GetAnnotations())
	if annotations == nil {
		annotations = map[string]string{}
	}
	annotations["note"] = r.newName("note")
	o.SetAnnotations(annotations)
}

// step lets a controller step now, if it is not down.
func (w *world) step(c *component, sync func()) {
	if !c.down {
		sync()
	}
}

// seen is what Belay has read live, and when: a write at the same moment is right if it was right then.
type seen struct {
	guardedAt, podsAt time.Time
	guarded           *v1alpha1.GuardedDeployment
	complete          bool
	set               *appsv1.ReplicaSet
	bad               int // how many pods of the current ReplicaSet fare badly
}

// see notes what a read will tell.
func (r *run) see(request fake.Request) {
	switch {
	case request.Verb == "get" && request.Resource == "guardeddeployments":
		r.seen.guarded, r.seen.guardedAt = r.guarded(), r.now()
	case request.Verb == "list" && request.Resource == "pods":
		r.seen.set = r.currentSet()
		r.seen.complete, r.seen.podsAt, r.seen.bad = r.complete(r.knownScale()), r.now(), len(r.badPods())
	}
}

// checkStale checks that no process forgets what it has written itself, unless a watch is late for longer than it waits for.
func (r *run) checkStale(request fake.Request) {
	own := r.own[objectOf(request)]
	if request.Resource != "events" && own.process == r.boots && own.version == r.live(request) && r.now().Sub(own.at) < 30*time.Second {
		r.violated("S24: it would %s %s as it was before its own last write", request.Verb, objectOf(request))
	}
}

// asked returns the GuardedDeployment that a write has to fit.
func (r *run) asked() *v1alpha1.GuardedDeployment {
	if r.seen.guardedAt.Equal(r.now()) {
		return r.seen.guarded
	}
	return r.guarded()
}

// wasComplete reports whether the rollout is complete, as far as Belay can know.
func (r *run) wasComplete() bool {
	return r.complete(r.knownScale()) || r.seen.complete && r.seen.podsAt.Equal(r.now())
}

// knownScale returns how many pods there are to be, as far as Belay can know: a watch may not have told yet that there are to be more.
func (r *run) knownScale() int32 {
	live, cached := r.deployment(), r.cachedDeployment()
	switch {
	case live == nil:
		return 0
	case cached == nil:
		return *live.Spec.Replicas
	default:
		return min(*live.Spec.Replicas, *cached.Spec.Replicas)
	}
}

// ---- answers

// refusals are answers to a write that was not made, losses to one that was.
var (
	refusals = []error{
		apierrors.NewTooManyRequests("slow down", 1),
		apierrors.NewServiceUnavailable("apiserver not ready"),
		apierrors.NewInternalError(errors.New("etcdserver: leader changed")),
	}
	losses = []error{
		apierrors.NewTimeoutError("request did not complete within requested timeout", 0),
		io.ErrUnexpectedEOF,
		errSentAgain,
	}
	// errSentAgain stands for what the API server says to the same request, which client-go sends again by itself.
	errSentAgain = errors.New("sent again")
)

// mistell returns what Belay hears of a write that is refused, or of one that takes effect; mostly nil, which is the truth.
func (r *run) mistell() (refused, lost error) {
	switch {
	case r.meanwhile.oneIn(40):
		return refusals[r.meanwhile.random.IntN(len(refusals))], nil
	case r.meanwhile.oneIn(40):
		return nil, losses[r.meanwhile.random.IntN(len(losses))]
	}
	return nil, nil
}

// ---- watches

// delayWatches lets the watches of one resource hear of nothing for a while, half of the time. It returns when that is over.
func (r *run) delayWatches() (over time.Duration) {
	if !r.meanwhile.oneIn(2) {
		return 0
	}
	resource := []string{"guardeddeployments", "deployments", "controllerrevisions"}[r.meanwhile.random.IntN(3)]
	at := time.Duration(r.meanwhile.random.IntN(60)) * time.Second
	over = at + time.Duration(10+r.meanwhile.random.IntN(90))*time.Second
	end := r.now().Add(over)
	r.in(at, func() {
		r.tell("  watches hear nothing of %s for %s", resource, over-at)
		r.meanwhile.late[resource] = end
	})
	return over
}

// ---- policies

// policies change every Deployment that is written: what Belay does not state, or what it does.
var policies = []func(*appsv1.Deployment){
	func(d *appsv1.Deployment) { metav1.SetMetaDataAnnotation(&d.ObjectMeta, "policy", "was here") },
	func(d *appsv1.Deployment) { metav1.SetMetaDataLabel(&d.Spec.Template.ObjectMeta, "policy", "was-here") },
	func(d *appsv1.Deployment) {
		d.Spec.Template.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "POLICY", Value: "was here"}}
	},
	func(d *appsv1.Deployment) { d.Spec.ProgressDeadlineSeconds = new(int32(2 * deadline / time.Second)) },
	func(d *appsv1.Deployment) { d.Spec.Template.Spec.TerminationGracePeriodSeconds = new(int64(1)) },
}

// obey puts a policy in force, half of the time.
func (r *run) obey() {
	if n := r.meanwhile.random.IntN(2 * len(policies)); n < len(policies) {
		r.tell("policy %d is in force", n)
		r.policy, r.policed = policies[n], true
	}
}
