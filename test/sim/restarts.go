package sim

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	fake "github.com/belay-dev/belay/internal/fakecluster"
	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// This file is about new ReplicaSets of revisions that are good, and about tags that move. What is right is known from how the pods
// fare that were made.

// perRestart is how many writes one restart may cost: a verdict, what undoes it, and what is said meanwhile.
const perRestart = 10

// helper is the name of the container that somebody adds to a Deployment.
const helper = "helper"

// ---- what must hold

// goodSet is the ReplicaSet that a revision was good with.
type goodSet struct {
	uid      types.UID
	template corev1.PodTemplateSpec
	digests  map[string]bool // that its pods ran by then
}

// ranSets is what is known of ReplicaSets by their pods.
type ranSets struct {
	truth   bool // what is right is known from pods, not from what an image is called
	good    map[string]goodSet
	bad     map[types.UID]bool            // those that had a pod which fares badly
	digests map[types.UID]map[string]bool // what their pods have run
	pinned  map[string]int                // how often pins were changed, by what for
	grown   bool                          // others than rollouts made pods after a tag had moved
	hourly  int                           // how many restarts a tool makes in an hour
}

// hearOfPods notes what becomes of the pods of ReplicaSets.
func (r *run) hearOfPods(change fake.Change) {
	pod, _ := change.After.(*corev1.Pod)
	if !r.ran.truth || pod == nil || metav1.GetControllerOf(pod) == nil {
		return
	}
	set := metav1.GetControllerOf(pod).UID
	if !r.fares(pod).healthy {
		r.ran.bad[set] = true
	}
	if digest := digestOf(pod); digest != "" {
		if r.ran.digests[set] == nil {
			r.ran.digests[set] = map[string]bool{}
		}
		r.ran.digests[set][digest] = true
	}
}

// fares is what becomes of a pod.
func (r *run) fares(pod *corev1.Pod) outcome { return r.outcomeNow(pod.Spec, pod.CreationTimestamp) }

// digestOf returns what a pod's status says that its container runs.
func digestOf(pod *corev1.Pod) string {
	for _, status := range pod.Status.ContainerStatuses {
		if status.Name == "web" {
			_, digest, _ := strings.Cut(status.ImageID, "@")
			return digest
		}
	}
	return ""
}

// failureOf is the failure that a revision has.
func failureOf(r *appsv1.ControllerRevision) (f v1alpha1.Failure) {
	if json.Unmarshal([]byte(r.Annotations[v1alpha1.FailureAnnotation]), &f) != nil {
		return v1alpha1.Failure{}
	}
	return f
}

// restartHasFailed reports whether a revision is good, and its last restart failed.
func restartHasFailed(r *appsv1.ControllerRevision) bool {
	return verdict(r) == v1alpha1.VerdictGood && failureOf(r).ReplicaSet != ""
}

// currentSet returns the ReplicaSet of the Deployment's template, nil if there is none.
func (r *run) currentSet() *appsv1.ReplicaSet {
	if r.deployment() == nil {
		return nil
	}
	current, _ := r.split(r.deployment())
	return current
}

// badPods returns the pods of the current ReplicaSet that fare badly.
func (r *run) badPods() (bad []*corev1.Pod) {
	current := r.currentSet()
	if !r.ran.truth || current == nil {
		return nil
	}
	for _, pod := range r.podsOf(current) {
		if !r.fares(pod).healthy {
			bad = append(bad, pod)
		}
	}
	return bad
}

// mayHaveFailed reports whether a release with this outcome may be found failed now.
func (r *run) mayHaveFailed(o outcome) bool {
	looked := r.seen.set
	if !r.ran.truth || looked == nil || o.nowhere || o.quota {
		return r.mayFail(o)
	}
	return r.ran.bad[looked.UID]
}

// checkMark checks a verdict by what runs, and notes with what a revision is good.
func (r *run) checkMark(write string, revision *appsv1.ControllerRevision) {
	if write == "mark the restart" {
		if live := r.revision(revision.Name); verdict(live) != v1alpha1.VerdictGood {
			r.violated("S25: a restart of %s fails, which is not good", revision.Name)
		}
		set := one[*appsv1.ReplicaSet](r.world, failureOf(revision).ReplicaSet)
		if set == nil || !r.ran.bad[set.UID] {
			r.violated("S25: the restart %s is healthy, and marked failed: %s", failureOf(revision).ReplicaSet, revision.Annotations[v1alpha1.FailureAnnotation])
		}
		return
	}
	if verdict(revision) != v1alpha1.VerdictGood || (write != "mark" && write != "record") {
		return
	}
	if write == "mark" && r.seen.bad > int(r.tolerated) {
		r.violated("S6: %d pods are bad, and it is marked good", r.seen.bad)
	}
	var with struct{ ReplicaSet types.UID }
	if json.Unmarshal([]byte(revision.Annotations[v1alpha1.GoodWithAnnotation]), &with) != nil {
		r.violated("S25: it is good, and does not say with what")
	}
	delete(r.ran.good, revision.Name)
	for _, set := range r.sets() {
		if set.UID == with.ReplicaSet {
			r.ran.good[revision.Name] = goodSet{set.UID, *set.Spec.Template.DeepCopy(), maps.Clone(r.ran.digests[set.UID])}
		}
	}
}

// runs reports whether a Deployment runs the revision, by its image or by one that it was good with.
func (r *run) runs(d *appsv1.Deployment, revision *appsv1.ControllerRevision) bool {
	is, wants := image(d.Spec.Template), image(decode(revision))
	repository, _, _ := strings.Cut(wants, ":")
	digest, pinned := strings.CutPrefix(is, repository+"@")
	return is == wants || (pinned && d.Annotations[v1alpha1.PinnedAnnotation] == "web" && r.ran.good[revision.Name].digests[digest])
}

// unpinned returns a template with another one's image.
func unpinned(t, as *corev1.PodTemplateSpec) *corev1.PodTemplateSpec {
	t = t.DeepCopy()
	t.Spec.Containers[0].Image = as.Spec.Containers[0].Image
	return t
}

// isAsGood reports whether a template is the one that the revision was good with, whatever is pinned.
func (r *run) isAsGood(t *corev1.PodTemplateSpec, revision string) bool {
	good, known := r.ran.good[revision]
	return known && equality.Semantic.DeepEqual(unpinned(t, &good.template), &good.template)
}

// checkUndone checks a write by which a restart is undone, and reports whether it is one.
func (r *run) checkUndone(before, after *appsv1.Deployment, running *appsv1.ControllerRevision) bool {
	r.checkPins(before, after, running)
	if before == nil || running == nil || before.Annotations[v1alpha1.RevisionAnnotation] != running.Name {
		return false
	}
	current := r.currentSet()
	if current == nil || !restartHasFailed(running) || current.Name != failureOf(running).ReplicaSet ||
		equality.Semantic.DeepEqual(before.Spec.Template, after.Spec.Template) || !r.isAsGood(&after.Spec.Template, running.Name) {
		return false
	}
	if r.asked().Spec.Guard.OnFailure == v1alpha1.Hold {
		r.violated("S25: a restart is undone on hold")
	}
	r.tell("  that undoes the restart %s", current.Name)
	return true
}

// checkPins checks what a write pins.
func (r *run) checkPins(before, after *appsv1.Deployment, running *appsv1.ControllerRevision) {
	pins := after.Annotations[v1alpha1.PinnedAnnotation]
	if before == nil || running == nil || (pins == before.Annotations[v1alpha1.PinnedAnnotation] && image(before.Spec.Template) == image(after.Spec.Template)) {
		return
	}
	r.corrections.owed = true
	if pins == "" {
		return
	}
	asked, target := r.asked(), r.targetOf(r.asked())
	switch _, moved := r.world.images.Fare(image(decode(running)), r.Now()); {
	case asked.Spec.Guard.PinImages == v1alpha1.PinNever:
		r.violated("S26: pinned, although it is never to be")
	case !moved && asked.Spec.Guard.PinImages != v1alpha1.PinAlways:
		r.violated("S26: pinned, and the tag has not moved")
	case target == nil || (verdict(target) != "failed" && !restartHasFailed(target)):
		r.violated("S26: pinned, and nothing has failed")
	}
	why := running.Name + target.Annotations[v1alpha1.FailureAnnotation] + running.Annotations[v1alpha1.FailureAnnotation] + string(asked.Spec.Guard.PinImages)
	if r.ran.pinned[why]++; r.ran.pinned[why] > 1 {
		r.violated("S26: pinned %d times for the same", r.ran.pinned[why])
	}
}

// isRestartOver reports whether a restart that failed may be left: that is asked for, or there is nothing to go back to.
func (r *run) isRestartOver() bool {
	current, running := r.currentSet(), r.revision(r.deployment().Annotations[v1alpha1.RevisionAnnotation])
	if current == nil || running == nil || failureOf(running).ReplicaSet != current.Name || !r.ran.bad[current.UID] {
		return false
	}
	return r.isGone(running) || r.guarded().Spec.Guard.OnFailure == v1alpha1.Hold
}

// isGone reports whether the ReplicaSet that a revision was good with is there no more.
func (r *run) isGone(revision *appsv1.ControllerRevision) bool {
	return !slices.ContainsFunc(r.sets(), func(set *appsv1.ReplicaSet) bool { return set.UID == r.ran.good[revision.Name].uid })
}

// isLost reports whether what was good does not come up, and nothing can be done about it: its tag is another image now, and that it
// is not pinned is asked for, or its pods do not show what they run.
func (r *run) isLost() bool {
	bad := r.badPods()
	return len(bad) > 0 && r.reason() != v1alpha1.ReasonContested && (r.guarded().Spec.Guard.PinImages == v1alpha1.PinNever ||
		!slices.ContainsFunc(bad, func(pod *corev1.Pod) bool { return digestOf(pod) != "" }))
}

// isInjected reports whether what others added to the pods is what fares badly.
func (r *run) isInjected() bool {
	bad := r.badPods()
	return len(bad) > 0 && r.teller(&bad[0].Spec, bad[0].CreationTimestamp.Time).Name == helper
}

// comesUp reports whether what failed and was left comes up all the same.
func (r *run) comesUp() bool {
	return r.ran.truth && r.left() && r.currentSet() != nil && *r.deployment().Spec.Replicas > 0 && len(r.podsOf(r.currentSet())) > 0 && len(r.badPods()) == 0
}

// strays returns how many pods are bad that nobody looks at: what was good has come up, for a while at least, with a tag that is
// left as it is, or there is no new ReplicaSet.
func (r *run) strays() int32 {
	if r.guarded().Spec.Guard.PinImages == v1alpha1.PinNever || r.ran.grown {
		return int32(len(r.badPods()))
	}
	return 0
}

// checkRunning checks, in the end, what the pods run.
func (r *run) checkRunning(running *appsv1.ControllerRevision) {
	good := r.reason() == v1alpha1.ReasonRolledOut || r.reason() == v1alpha1.ReasonRolledBack
	current := r.currentSet()
	if !r.ran.truth || !good || running == nil || *r.deployment().Spec.Replicas == 0 {
		return
	}
	if r.isGone(running) {
		return // Nothing tells a restart from the rollback.
	}
	if current == nil || !r.isAsGood(&current.Spec.Template, running.Name) {
		r.violated("S25: it says %s, and another ReplicaSet runs than the one that was good", r.reason())
		return
	}
	for _, pod := range r.podsOf(current) {
		digest := digestOf(pod)
		switch {
		case r.ran.grown || r.guarded().Spec.Guard.PinImages == v1alpha1.PinNever:
		case !r.fares(pod).healthy:
			r.violated("S25: it says %s, and pod %s is bad", r.reason(), pod.Name)
		case !r.ran.good[running.Name].digests[digest]:
			r.violated("S26: it says %s, and pod %s runs %s", r.reason(), pod.Name, digest)
		}
	}
}

// ---- what others do

// restart is "kubectl rollout restart".
var restart = action{"kubectl rollout restart", func(r *run) {
	if r.deployment() != nil {
		fake.Restart(r.World, "web")
	}
}}

// moveTag lets the tag that the spec asks for be another image.
func moveTag(outcome string) action {
	return action{"the tag moves to " + outcome, func(r *run) {
		tag := image(r.guarded().Spec.Template)
		if d := r.deployment(); d != nil {
			if running := r.revision(d.Annotations[v1alpha1.RevisionAnnotation]); running != nil {
				tag = image(decode(running))
			}
		}
		r.MoveTag(tag, outcome)
	}}
}

// restartInto is a restart that takes up a tag which has moved.
func restartInto(outcome string) action {
	return action{"restart into " + outcome, func(r *run) {
		moveTag(outcome).do(r)
		restart.do(r)
	}}
}

// addHelper adds a container by hand.
func addHelper(image string) action {
	return action{"add a container " + image, func(r *run) {
		if r.deployment() == nil {
			return
		}
		fake.Edit(r.World, "web", func(d *appsv1.Deployment) {
			containers := &d.Spec.Template.Spec.Containers
			*containers = append((*containers)[:1:1], corev1.Container{Name: helper, Image: image})
		})
	}}
}

// sameTag releases the same image in another template.
func sameTag(number int) action {
	return spec(fmt.Sprintf("release %d of the same tag", number), func(s *v1alpha1.GuardedDeploymentSpec) {
		s.Template.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "RELEASE", Value: fmt.Sprint(number)}}
	})
}

// movable are the outcomes that an image decides by itself.
var movable = slices.DeleteFunc(slices.Clone(outcomes), func(o outcome) bool { return o.nowhere || o.quota || o.noSet })

func movedTo(random *rand.Rand) string { return movable[random.IntN(len(movable))].name }

func restartAction(random *rand.Rand, number int) action {
	switch random.IntN(16) {
	case 0, 1:
		return restart
	case 2, 3, 4:
		return restartInto("bad-crash")
	case 5, 6:
		return restartInto(movedTo(random))
	case 7:
		return addHelper(fmt.Sprintf("good:helper-%d", number))
	case 8:
		return addHelper(fmt.Sprintf("bad-crash:helper-%d", number))
	case 9:
		return moveTag(movedTo(random))
	case 10, 11:
		return sameTag(number)
	case 12:
		outcome := movedTo(random)
		return action{"the next release, of a tag that has moved to " + outcome, func(r *run) {
			moveTag(outcome).do(r)
			sameTag(number).do(r)
		}}
	case 13:
		return release(fmt.Sprintf("%s:%d", outcomes[random.IntN(len(outcomes))].name, number))
	case 14:
		return release("good:0")
	default:
		return retry(fmt.Sprint("token-", number))
	}
}

var recreate = spec("recreate", func(s *v1alpha1.GuardedDeploymentSpec) { s.Strategy.Type = appsv1.RecreateDeploymentStrategyType })

// ---- the plays

// guarding is how a play of restarts guards.
func guarding(random *rand.Rand) action {
	pins := []v1alpha1.PinImages{"", v1alpha1.PinWhenMoved, v1alpha1.PinNever, v1alpha1.PinAlways}[random.IntN(4)]
	hold, recreates := random.IntN(6) == 0, random.IntN(4) == 0
	return spec(fmt.Sprintf("pin %q, hold %t, recreate %t", pins, hold, recreates), func(s *v1alpha1.GuardedDeploymentSpec) {
		s.Guard.PinImages = pins
		s.Guard.OnFailure = v1alpha1.Rollback
		if hold {
			s.Guard.OnFailure = v1alpha1.Hold
		}
		s.Strategy.Type = ""
		if recreates {
			s.Strategy.Type = appsv1.RecreateDeploymentStrategyType
		}
	})
}

// Whatever a new ReplicaSet brings, a healthy one stays, a bad one is undone, and what is gone back to is what was good.
func (s stage) restarts(t *testing.T) {
	undone, pinned := 0, 0
	seeds(t, func(t *testing.T, seed uint64) {
		s.play(t, seed, func(r *run) {
			r.ran.truth = true
			r.begin()
			random := rand.New(rand.NewPCG(seed, 9))
			r.act(guarding(random))
			r.settle(bound)
			for i := range 6 {
				r.act(restartAction(random, i+1))
				r.settle(bound + patience)
			}
			r.rest()
			for _, l := range r.log {
				undone += btoi(l.write == "mark the restart")
			}
			pinned += len(r.ran.pinned)
		})
	})
	if t.Logf("%d restarts failed, %d times a digest was pinned", undone, pinned); *only == 0 && *count > 5 && (undone == 0 || pinned == 0) {
		t.Error("no restart failed, or none was pinned")
	}
}

// scaleThrough has no replicas for a while.
func scaleThrough(replicas int32) action {
	return action{fmt.Sprintf("scale to %d", replicas), func(r *run) {
		r.ran.grown = true
		scale(replicas).do(r)
	}}
}

// impatientRestart is what is done without waiting.
func impatientRestart(random *rand.Rand, number int) action {
	switch random.IntN(10) {
	case 0:
		return scaleThrough(random.Int32N(5))
	case 1:
		return guarding(random)
	case 2:
		down := time.Duration(random.IntN(120)) * time.Second
		return action{fmt.Sprintf("Belay is down for %s", down), func(r *run) { r.die(down) }}
	case 3:
		down := time.Duration(random.IntN(120)) * time.Second
		return action{fmt.Sprintf("the Deployment controller is down for %s", down), func(r *run) {
			r.stop(&r.deploymentController)
			r.in(down, func() { r.world.start(&r.deploymentController) })
		}}
	case 4:
		return action{loseAPod.name, func(r *run) {
			r.ran.grown = true
			loseAPod.do(r)
		}}
	default:
		return restartAction(random, number)
	}
}

// Nobody waits for a restart, or a release. Whatever is in the middle of what, no healthy restart is undone, and it settles.
func (s stage) impatientRestarts(t *testing.T) {
	seeds(t, func(t *testing.T, seed uint64) {
		s.play(t, seed, func(r *run) {
			r.ran.truth = true
			r.beginApart()
			r.begin()
			r.nasty()
			random := rand.New(rand.NewPCG(seed, 10))
			r.act(guarding(random))
			for i := range 8 {
				r.soon(impatientRestart(random, i+1))
				r.wait(time.Duration(random.IntN(60_000))*time.Millisecond, nil)
			}
			r.hurryUp()
			r.tell("from here on nothing happens any more")
			r.wait(4*time.Minute, nil) // the last outage is over
			r.settle(bound + patience)
			r.wait(2*time.Minute, nil)
			r.rest()
		})
	})
}

// A tool restarts again and again, into what is bad or good. That is no hot loop, and when it ends all is as it was good.
func (s stage) restless(t *testing.T) {
	fewerSeeds(t, 10, func(t *testing.T, seed uint64) {
		s.play(t, seed, func(r *run) {
			r.ran.truth = true
			r.begin()
			random := rand.New(rand.NewPCG(seed, 11))
			r.act(guarding(random))
			r.settle(bound)
			outcome, last := movedTo(random), time.Duration(10+random.IntN(40))*time.Minute
			every := time.Duration(10+random.IntN(50)) * time.Second
			r.act(moveTag(outcome))
			r.ran.hourly = int(time.Hour / every)
			r.tell("a tool restarts every %s, for %s, into %s", every, last, outcome)
			for until := r.now().Add(last); r.now().Before(until); r.wait(every, nil) {
				r.do(func() { restart.do(r) })
			}
			r.tell("the tool is gone")
			r.acted = r.now()
			r.wait(patience+time.Minute, nil)
			r.settle(bound + patience)
			r.wait(2*time.Minute, nil)
			r.rest()
		})
	})
}
