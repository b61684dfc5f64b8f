package sim

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	fake "github.com/belay-dev/belay/internal/fakecluster"
	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// This file plays releases to which something happens, or that do something. What is right is known from what was made to
// happen, not from the rules of the judge. The causes are in failing.go, harmless.go and waiting.go.

// cause is something that happens to a release, or that it does. What is right is that it fails, unless it is harmless, or is waited
// for: then it is not judged while the cause is there, and is good when that has gone.
type cause struct {
	name     string
	harmless bool
	waitsFor string   // the reason of the condition
	fails    []string // the reasons of the failure that are right
	// order is the place of a cause in the order in which the judge asks. The answer to two causes is that of the first.
	order int
	// alone says that it leaves nothing for another cause to do, wide that all new pods are to be created at once.
	alone, wide bool
	// brief says that it is excused for one deadline only, fading that it goes when the pods of a silent node are moved.
	brief, fading bool
	// needsGood says that without a good release before it something else would be right.
	needsGood bool
	guard     func(*v1alpha1.Guard)
	// scales says that somebody else than the spec scales.
	scales bool
	// state changes the templates of the last good release and of this one.
	state func(before, release *corev1.PodTemplateSpec)
	// begin is called a little before the release is written.
	begin func(*causing)
}

// The order of causes that fail.
const (
	ownEnds = iota // crashes and ends
	inSoak
	excusable // what is waited for
	stuckPods // waits and refusals
	overdue   // the deadline
	nothing   // harmless
)

// causing is a cause at work. Its functions are about pods of the release that are its own.
type causing struct {
	*cast
	*cause
	random *rand.Rand
	part   int // which of the pods are its own
	parts  int
	gone   bool // the cause

	// admit changes a pod or refuses it, place says why it fits nowhere or, with "", that nobody looks, live is its life; they
	// return false for what goes as usual.
	admit func(*corev1.Pod) (refused string)
	place func(*corev1.Pod) (nowhere string, placed bool)
	live  func(*corev1.Pod) bool
}

// cast is all that are at work in a play.
type cast struct {
	*run
	causes   []*causing
	numbered map[string]int // the pods of the release
	placed   int
	replicas int32
	first    bool // there is no release before this one
}

var allCauses = slices.Concat(failing, harmless, awaited)

// Whatever happens to a release, or whatever it does, the end is the right one.
func (s stage) causes(t *testing.T) {
	played := map[string]int{}
	seeds(t, func(t *testing.T, seed uint64) {
		s.play(t, seed, func(r *run) {
			c := newCast(r, seed)
			for _, one := range c.causes {
				played[one.name]++
			}
			c.play()
		})
	})
	for _, c := range allCauses {
		if played[c.name] == 0 && *count >= len(allCauses) && *only == 0 {
			t.Errorf("no seed plays %q", c.name)
		}
	}
}

func newCast(r *run, seed uint64) *cast {
	random := rand.New(rand.NewPCG(seed, 8))
	c := &cast{run: r, numbered: map[string]int{}, replicas: 1 + random.Int32N(5)}
	turns := rand.New(rand.NewPCG(0, 8)).Perm(len(allCauses)) // a few seeds play some of each kind
	picked := []*cause{&allCauses[turns[int(seed-1)%len(turns)]]}
	if other := &allCauses[random.IntN(len(allCauses))]; random.IntN(2) == 0 && together(picked[0], other) {
		picked = append(picked, other)
	}
	slices.SortStableFunc(picked, func(a, b *cause) int { return a.order - b.order })
	judged := 0
	for _, one := range picked {
		at := &causing{cast: c, cause: one, random: random, parts: 1}
		if !one.harmless {
			at.part = judged
			judged++
		}
		if one.wide {
			r.tricks.surge, c.replicas = 5, 5
		}
		c.causes = append(c.causes, at)
	}
	for _, at := range c.causes {
		if at.parts = max(1, judged); judged > 1 {
			r.tricks.surge, c.replicas = 5, 5
		}
	}
	if r.tricks.surge == 1 {
		r.tricks.surge = 1 + random.Int32N(3)
	}
	c.first = random.IntN(4) == 0 && !slices.ContainsFunc(picked, func(one *cause) bool { return one.needsGood || one.scales })
	return c
}

// together reports whether two causes can be at work at once so that it is known what is right.
func together(a, b *cause) bool {
	if a.order > b.order {
		a, b = b, a
	}
	switch {
	case a == b, a.alone, b.alone, a.scales && b.scales:
		return false
	case b.harmless:
		return true
	default: // Pods that do not start on a part of the nodes are one thing, an excuse beside what has none another.
		return a.order == ownEnds && b.order > ownEnds && !a.brief && !b.brief
	}
}

// main is the cause whose answer is right.
func (c *cast) main() *causing { return c.causes[0] }

// judged reports whether there is a verdict on the release.
func (c *cast) judged() bool { return c.target() != nil && verdict(c.target()) != "" }

// play plays one release.
func (c *cast) play() {
	first := c.main()
	ends := "failed"
	if first.harmless {
		ends = "good"
	} else if first.waitsFor != "" {
		ends, c.waits = "waits", first.waitsFor
	}
	before, release := templateOf("good:0"), templateOf("case-"+ends+":1")
	for _, at := range c.causes {
		if at.state != nil {
			at.state(&before, &release)
		}
	}
	c.direct()
	c.beginApart()
	if c.first {
		c.beginAll()
		c.run.create(release)
		c.act(c.scene())
	} else {
		c.run.create(before)
		c.act(c.scene())
		c.settle(bound)
		c.lag = func() time.Duration { return time.Duration(c.run.random.IntN(400)) * time.Millisecond }
		c.staleFor = 2 * time.Second
		if slices.ContainsFunc(c.causes, func(at *causing) bool { return at.scales }) {
			c.act(spec("unset replicas", func(s *v1alpha1.GuardedDeploymentSpec) { s.Replicas = nil }))
		}
		c.wait(2*time.Second, nil)
		c.beginAll()
		c.wait(3*time.Second, nil)
		c.act(spec("release", func(s *v1alpha1.GuardedDeploymentSpec) { s.Template = release }))
	}
	c.disturbClock()
	c.end()
}

func (c *cast) beginAll() {
	for _, at := range c.causes {
		c.tell("cause: %s (%d replicas, surge %d, first: %t)", at.name, c.replicas, c.tricks.surge, c.first)
		if at.begin != nil {
			c.do(func() { at.begin(at) })
		}
	}
}

// scene sets the guard.
func (c *cast) scene() action {
	return spec("set the scene", func(s *v1alpha1.GuardedDeploymentSpec) {
		random := c.main().random
		s.Replicas, s.ProgressDeadlineSeconds = &c.replicas, new(int32(90))
		if random.IntN(3) == 0 {
			s.Guard.SoakSeconds = new(int32(20))
		}
		if random.IntN(3) == 0 {
			s.Guard.MaxRestarts = new(int32(0))
		}
		for _, at := range c.causes {
			if at.guard != nil {
				at.guard(&s.Guard)
			}
		}
	})
}

// end waits for what is right.
func (c *cast) end() {
	const long = 25 * time.Minute
	first, back := c.main(), v1alpha1.ReasonRolledBack
	judged := func() bool { return c.judged() && c.settled() }
	if c.first {
		back = v1alpha1.ReasonNoGoodRevision
	}
	switch {
	case c.failed:
	case first.harmless:
		if !c.wait(long, judged) || c.reason() != v1alpha1.ReasonRolledOut {
			c.violated("K1: it is healthy, and after %s %s", long, c.reason())
		}
	case first.waitsFor != "":
		c.endWait(judged)
	case !c.wait(long, judged):
		c.violated("K2: it is bad, and not judged after %s", long)
	case c.reason() != back:
		c.violated("K2: it is bad, and ends as %s", c.reason())
	default:
		f := c.guarded().Status.Failure
		right := func(at *causing) bool { return !at.harmless && slices.Contains(at.fails, f.Reason) }
		if f == nil || !slices.ContainsFunc(c.causes, right) {
			c.violated("K3: it failed for another reason: %+v", f)
		}
		longest := 600
		if c.first { // It stays as it is: pods that end are replaced, some of them at once.
			longest = 60
		}
		c.wait(time.Duration(first.random.IntN(longest))*time.Second, nil)
		if c.first || first.random.IntN(2) == 0 {
			c.tryAgain(judged)
		}
	}
	c.wait(8*time.Minute, nil) // nothing happens any more
	c.settle(bound)
}

// tryAgain tries the release again when the cause has gone: what its first attempt has left behind does not count. One that had to
// stay heals by itself.
func (c *cast) tryAgain(judged func() bool) {
	c.mended = true
	c.leave()
	if c.first { // Not all that these pods do ends with the cause.
		c.do(func() {
			for _, pod := range c.pods() {
				c.removePod(pod)
			}
		})
	}
	c.wait(30*time.Second, nil)
	c.act(retry("!"))
	if c.wait(5*time.Second, nil); (!judged() && !c.wait(10*time.Minute, judged)) || c.reason() != v1alpha1.ReasonRolledOut {
		c.violated("K1: the cause has gone, it is tried again, and is %s: %+v", c.reason(), c.guarded().Status.Failure)
	}
}

// untilMoved returns how long it takes until the pods of the node that fell silent first are to go.
func (c *cast) untilMoved() time.Duration {
	left := movedAfter
	for _, since := range c.tricks.silent {
		left = min(left, movedAfter-time.Since(since))
	}
	return max(0, left)
}

// leave lets the causes go.
func (c *cast) leave() {
	c.do(func() {
		c.tell("the cause has gone")
		for _, at := range c.causes {
			at.gone = true
		}
		c.tricks.rewrite = nil
		c.waits = ""
		c.wakeAll()
	})
}

// endWait waits until it is told that somebody is waited for, and then until the cause has gone.
func (c *cast) endWait(judged func() bool) {
	first := c.main()
	over := func() bool { return c.run.failed }
	switch {
	case first.brief:
		if c.wait(75*time.Second, over); c.reason() != first.waitsFor {
			c.violated("K4: it should wait for a while, with %s, and says %s", first.waitsFor, c.reason())
		}
		c.wait(time.Duration(first.random.IntN(80))*time.Second, over)
	case !c.wait(10*time.Minute, c.settled): // A slow release goes on for a while beside it.
		c.violated("K4: it should wait, with %s, and says %s", first.waitsFor, c.reason())
	default:
		longest := 10 * time.Minute
		if first.fading {
			longest = c.untilMoved()
		}
		c.wait(min(longest, time.Duration(first.random.IntN(600))*time.Second), over)
		if !c.settled() {
			c.violated("K4: it does not go on waiting, with %s, and says %s", first.waitsFor, c.reason())
		}
	}
	c.leave()
	if !c.wait(25*time.Minute, judged) || c.reason() != v1alpha1.ReasonRolledOut {
		c.violated("K1: the cause has gone, and it is %s", c.reason())
	}
}

// direct lets the pretend controllers do as the causes say.
func (c *cast) direct() {
	c.tricks.place, c.tricks.live, c.tricks.admit = c.placePod, c.livePod, c.admitted
}

// own yields the causes that have a say about a pod.
func (c *cast) own(pod *corev1.Pod) (own []*causing) {
	if !isNew(pod) {
		return nil
	}
	n, known := c.numbered[pod.Name]
	if !known {
		n = len(c.numbered)
		c.numbered[pod.Name] = n
	}
	for _, at := range c.causes {
		if !at.gone && (at.harmless || n%at.parts == at.part) {
			own = append(own, at)
		}
	}
	return own
}

// isNew reports whether a pod is the release's.
func isNew(pod *corev1.Pod) bool { return strings.HasPrefix(pod.Spec.Containers[0].Image, "case-") }

func (c *cast) admitted(pod *corev1.Pod) string {
	for _, at := range c.own(pod) {
		if at.admit != nil {
			if refused := at.admit(pod); refused != "" {
				return refused
			}
		}
	}
	return ""
}

func (c *cast) placePod(pod *corev1.Pod) (node, nowhere string) {
	for _, at := range c.own(pod) {
		if at.place == nil {
			continue
		}
		if nowhere, placed := at.place(pod); !placed {
			return "", nowhere
		}
	}
	if c.scheduler.down {
		return "", ""
	}
	for range nodes {
		c.placed++
		node = fmt.Sprint("node-", c.placed%nodes+1)
		if since, silent := c.tricks.silent[node]; !silent || time.Since(since) < unknownAfter {
			return node, ""
		}
	}
	return "", "0/5 nodes are available"
}

func (c *cast) livePod(pod *corev1.Pod) {
	for _, at := range c.own(pod) {
		if at.live != nil && at.live(pod) {
			return
		}
	}
	c.healthy(pod.Name)
}

// ---- what causes are made of

// healthy lets a pod become ready.
func (c *cast) healthy(name string) {
	c.says(name, false, false, "ContainerCreating", 0)
	c.in(time.Duration(500+c.run.random.IntN(2500))*time.Millisecond, func() {
		c.report(name, func(s *corev1.PodStatus) { c.condition(s, gate, true, "", "") }) // whether the pod has that gate or not
		c.says(name, false, true, "", 0)
	})
}

// fresh returns the new pods that are ready.
func (c *cast) fresh() (ready []*corev1.Pod) {
	for _, pod := range c.pods() {
		if isNew(pod) && isReady(pod) && pod.DeletionTimestamp == nil {
			ready = append(ready, pod)
		}
	}
	return ready
}

// seconds returns a random time.
func (c *causing) seconds(least, most int) time.Duration {
	return time.Duration(least*1000+c.random.IntN((most-least)*1000+1)) * time.Millisecond
}

// every does something again and again, until it returns false or the cause has gone.
func (c *causing) every(pause func() time.Duration, do func() bool) {
	c.in(pause(), func() {
		if !c.gone && do() {
			c.every(pause, do)
		}
	})
}

// inSoak does something once when the first new pods are ready, some seconds later.
func (c *causing) inSoak(do func()) {
	c.every(func() time.Duration { return time.Second }, func() bool {
		if len(c.fresh()) == 0 {
			return true
		}
		c.in(c.seconds(0, 8), do)
		return false
	})
}

// hold lets a pod be in a state, that show writes, until the cause has gone.
func (c *causing) hold(pod *corev1.Pod, show func(*corev1.PodStatus)) bool {
	c.report(pod.Name, show)
	c.release(pod.Name)
	return true
}

func (c *causing) release(name string) {
	c.in(2*time.Second, func() {
		switch {
		case c.pod(name) == nil:
		case c.gone:
			c.healthy(name)
		default:
			c.release(name)
		}
	})
}

// stuckIn is the state of a pod whose container waits for its image or its configuration.
func (c *causing) stuckIn(reason, message string) func(*corev1.PodStatus) {
	return func(s *corev1.PodStatus) {
		s.Phase = corev1.PodPending
		s.ContainerStatuses = []corev1.ContainerStatus{{Name: "web", Started: new(false), Resources: given(0),
			State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: message}}}}
		c.conditions(s, false)
	}
}

// finish ends a pod. disruption is the reason of its condition DisruptionTarget, if it has one.
func (c *cast) finish(name string, phase corev1.PodPhase, reason, message string, code int32, disruption string) {
	c.report(name, func(s *corev1.PodStatus) {
		s.Phase, s.Reason, s.Message = phase, reason, message
		for i := range s.ContainerStatuses {
			status := &s.ContainerStatuses[i]
			status.Ready, status.Started = false, new(false)
			status.State = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: code, Reason: "Error", Message: "last words"}}
		}
		if disruption != "" {
			c.condition(s, corev1.DisruptionTarget, true, "", "")
			target := &s.Conditions[len(s.Conditions)-1]
			target.Reason, target.Message = disruption, message
			target.LastTransitionTime = metav1.NewTime(c.Now()) // exact, as the creation of the revision is here
			s.Reason, s.Message = "", ""
		}
		c.condition(s, corev1.ContainersReady, false, "PodFailed", "")
		c.condition(s, corev1.PodReady, false, "PodFailed", "")
	})
}

// refusedByKubelet is what a pod shows that its kubelet refuses.
func (c *cast) refusedByKubelet(name, reason, message string) {
	c.report(name, func(s *corev1.PodStatus) {
		*s = corev1.PodStatus{Phase: corev1.PodFailed, Reason: reason, Message: "Pod was rejected: " + message}
	})
}

// crash lets a container exit again and again: some time after it was ready, or after its start.
func (c *causing) crash(name string, ready, after time.Duration, restarts int32, times int32) {
	c.says(name, false, false, "", restarts)
	over := c.gone || restarts >= times
	if over {
		ready = time.Second
	}
	if ready > 0 {
		c.in(ready, func() { c.says(name, false, true, "", restarts) })
	}
	if over {
		return
	}
	c.in(ready+after, func() {
		c.says(name, false, false, "CrashLoopBackOff", restarts)
		c.in([]time.Duration{time.Second, 10 * time.Second, 20 * time.Second, 40 * time.Second}[min(3, restarts)], func() {
			if c.pod(name) != nil {
				c.crash(name, ready, after, restarts+1, times)
			}
		})
	})
}

// scaleTo is what an autoscaler does to the Deployment.
func (c *cast) scaleTo(n int32) {
	if d := c.deployment(); d != nil && *d.Spec.Replicas != n {
		c.tell("  an autoscaler asks for %d", n)
		fake.Edit(c.World, "web", func(d *appsv1.Deployment) { d.Spec.Replicas = &n })
	}
}

const (
	// unknownAfter is after what time of silence a Node is not ready, movedAfter after what its pods are to go.
	unknownAfter, movedAfter = 46 * time.Second, 346 * time.Second
)

// silence lets the kubelet of a node fall silent, for good.
func (c *cast) silence(node string) {
	c.tell("  %s falls silent", node)
	c.tricks.silent[node] = c.now()
	each := func(do func(*corev1.Pod)) {
		for _, pod := range c.pods() {
			if pod.Spec.NodeName == node && pod.DeletionTimestamp == nil && !hasEnded(pod) {
				do(pod)
			}
		}
	}
	c.in(unknownAfter, func() {
		c.setNode(node, corev1.ConditionUnknown)
		each(func(pod *corev1.Pod) {
			if isReady(pod) {
				fake.EditStatus(c.World, pod.Name, func(p *corev1.Pod) { c.condition(&p.Status, corev1.PodReady, false, "", "") })
			}
		})
	})
	c.in(movedAfter, func() {
		each(func(pod *corev1.Pod) {
			fake.EditStatus(c.World, pod.Name, func(p *corev1.Pod) {
				p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue,
					Reason: "DeletionByTaintManager", LastTransitionTime: metav1.NewTime(c.Now())})
			})
			fake.Remove[*corev1.Pod](c.World, pod.Name) // It stays: nobody confirms its end.
		})
	})
}
