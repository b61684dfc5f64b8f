package sim

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// This file is about the attempts that nobody asks for: spec.guard.retries.

// ---- what must hold

// lateness is how long after the last illness something may still fail of it: until its next restart, and a deadline.
const lateness = 2 * time.Minute

// mayFail reports whether a revision may be found failed now, or still be: without pods, nobody can tell.
func (r *run) mayFail(o outcome) bool {
	return !o.healthy && (!o.ill || r.now().Before(r.healed.Add(lateness)) || r.deployment() == nil || *r.deployment().Spec.Replicas == 0)
}

func (r *run) retries() int { return retriesOf(r.guarded()) }

func retriesOf(g *v1alpha1.GuardedDeployment) int {
	if n := g.Spec.Guard.Retries; n != nil {
		return int(*n)
	}
	return 0
}

// delayAfter returns how long after a failure the next attempt may come, when so many came by themselves before.
func delayAfter(made int) time.Duration {
	return min(time.Hour, time.Minute<<made)
}

// checkAttempt counts the attempts that nobody asked for, from what was stored and is to be stored.
func (r *run) checkAttempt(revision *appsv1.ControllerRevision) {
	live := r.revision(revision.Name)
	var failure struct {
		Token string
		Time  metav1.Time
	}
	if recorded := live.Annotations[v1alpha1.FailureAnnotation]; recorded != "" {
		if err := json.Unmarshal([]byte(recorded), &failure); err != nil {
			r.violated("S10: the failure does not parse: %v", err)
		}
	}
	asked := r.asked()
	token := asked.Annotations[v1alpha1.RetryAnnotation]
	switch {
	case revision.Revision != live.Revision, token != "" && token != failure.Token:
		r.automatic[revision.Name] = 0
		return
	case revision.Annotations[v1alpha1.AttemptAnnotation] == live.Annotations[v1alpha1.AttemptAnnotation]:
		return
	}
	made := r.automatic[revision.Name]
	r.automatic[revision.Name]++
	if allowed := retriesOf(asked); made >= allowed {
		r.violated("S22: attempt %d by itself, of %d allowed", made+1, allowed)
	}
	since := failure.Time.Time
	if at := r.failedAt[revision.Name]; at.Before(since) { // A clock was set back: to those who saw it fail, that changes nothing.
		since = at
	}
	if due := since.Add(delayAfter(made)); r.now().Before(due) {
		r.violated("S22: attempt %d by itself comes %s early", made+1, due.Sub(r.now()))
	}
	if verdict(live) != "failed" {
		r.violated("S22: another attempt at a revision that has not failed")
	}
}

// retryComes reports whether an attempt is due that nobody will have to ask for.
func (r *run) retryComes() bool {
	failure := r.guarded().Status.Failure
	return failure != nil && failure.NextAttempt != nil && r.deployment() != nil && *r.deployment().Spec.Replicas > 0
}

// checkRetried checks, in the end, that no attempt is left.
func (r *run) checkRetried(target *appsv1.ControllerRevision) {
	if made := r.automatic[target.Name]; verdict(target) == "failed" && *r.deployment().Spec.Replicas > 0 && made < r.retries() {
		r.violated("L12: it ends as failed after %d of %d attempts", made, r.retries())
	}
}

// ---- the plays

// settleRetries waits for every attempt there may be.
func (r *run) settleRetries() {
	r.wait(max(0, r.healed.Add(lateness).Sub(r.now())), nil)
	most := bound + r.late
	for made := range r.retries() {
		most += delayAfter(made) + bound
	}
	r.settle(most)
}

// ail releases something that is bad for a while, and then good.
func ail(number int, after time.Duration) action {
	kinds := []string{"crash", "pull", "config", "quota", "set"}
	image := fmt.Sprintf("ill-%s:%d", kinds[number%len(kinds)], number)
	return action{fmt.Sprintf("release %s, which heals after %s", image, after), func(r *run) {
		r.heal(after)
		release(image).do(r)
	}}
}

func retries(n int32) action {
	return spec(fmt.Sprintf("retries %d", n), func(s *v1alpha1.GuardedDeploymentSpec) { s.Guard.Retries = &n })
}

func retryAction(random *rand.Rand, number int) action {
	switch random.IntN(14) {
	case 0, 1:
		return release(fmt.Sprintf("%s:%d", outcomes[random.IntN(len(outcomes))].name, number))
	case 2:
		return release("good:0")
	case 3:
		return retry([]string{"", "a", "b"}[random.IntN(3)])
	case 4, 5:
		return retries(random.Int32N(4))
	case 6:
		return scale(random.Int32N(4))
	case 7:
		paused := random.IntN(3) == 0
		return spec(fmt.Sprintf("paused: %t", paused), func(s *v1alpha1.GuardedDeploymentSpec) { s.Paused = paused })
	case 8:
		mode := []v1alpha1.OnFailure{v1alpha1.Hold, v1alpha1.Rollback}[random.IntN(2)]
		return spec(string(mode), func(s *v1alpha1.GuardedDeploymentSpec) { s.Guard.OnFailure = mode })
	case 9:
		down := time.Duration(random.IntN(300)) * time.Second
		return action{fmt.Sprintf("Belay is down for %s", down), func(r *run) { r.die(down) }}
	default:
		return ail(number, time.Duration(random.IntN(600))*time.Second)
	}
}

// Whatever happens in between, no attempt comes too soon or too often, and none that is left is forgotten.
func (s stage) retries(t *testing.T) {
	healed := 0
	seeds(t, func(t *testing.T, seed uint64) {
		s.play(t, seed, func(r *run) {
			r.beginApart()
			r.begin()
			r.nasty()
			r.obey()
			random := rand.New(rand.NewPCG(seed, 3))
			r.act(retries(random.Int32N(6)))
			for i := range 6 {
				r.soon(retryAction(random, i+1))
				r.wait(time.Duration(random.IntN(300_000))*time.Millisecond, nil)
				if random.IntN(6) == 0 {
					r.disturb()
				}
			}
			r.hurryUp()
			r.tell("from here on nothing happens any more")
			r.wait(4*time.Minute, nil) // the last outage is over
			r.settleRetries()
			if target := r.target(); target != nil && r.automatic[target.Name] > 0 && verdict(target) == "good" {
				healed++
			}
			r.rest()
		})
	})
	if t.Logf("%d plays were healed by an attempt that nobody asked for", healed); healed == 0 && *only == 0 {
		t.Error("no play was healed by an attempt that nobody asked for")
	}
}

// What is bad for a while heals by itself, each attempt at its time.
func (s stage) transientFailures(t *testing.T) {
	t.Parallel()
	for number := range 5 {
		s.play(t, uint64(number+1), func(r *run) {
			r.begin()
			r.settle(bound)
			r.act(retries(5))
			r.act(ail(number, 5*time.Minute))
			r.settleRetries()
			made := r.automatic[r.target().Name]
			if r.reason() != v1alpha1.ReasonRolledOut || made < 2 || made > 3 {
				r.violated("L12: it ends as %s, after %d further attempts", r.reason(), made)
			}
			r.rest()
		})
	}
}
