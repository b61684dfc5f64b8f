// Package sim plays whole rollouts with virtual time: a real process of Belay against an API server in memory and pretend
// controllers that are as late, stale and absent as the real ones can be. What must always hold is checked at every write.
//
// The tests of the root hand it the real process:
//
//	go test . -run TestSimulation -sim.seeds 1000
//	go test . -run TestSimulation/Fights -sim.seed 17 -v
package sim

import (
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	fake "github.com/belay-dev/belay/internal/fakecluster"
	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

var (
	count = flag.Int("sim.seeds", 4, "how many seeds to play in each of the random simulations")
	only  = flag.Uint64("sim.seed", 0, "play this seed only, and tell what happens")
)

// The guard in every run.
const (
	deadline = 60 * time.Second
	soak     = 10 * time.Second
	// pollInterval is within what time something new is seen.
	pollInterval = 3 * time.Second
	stuck        = 20 * time.Second
	// bound is how long after the last disturbance a release has settled: the deadline may begin anew for each of up to
	// four pods, and a rollback takes its time, too.
	bound = 6 * time.Minute
)

// run is one play: the world, Belay, and what was seen of them.
type run struct {
	*world
	*belay
	t        testing.TB
	seed     uint64
	telling  sync.Mutex
	story    []string
	failed   bool
	acted    time.Time        // when the users did something last
	took     time.Duration    // until it had settled
	rolled   map[string]int   // how often each attempt was rolled back
	images   map[string]bool  // the images that Belay has written
	numbers  map[string]int64 // the highest number of each revision
	observed int64            // the highest observed generation
	// What Belay applied last, and for which spec.
	stated    string
	statedFor int64
	meddled   int // how often others have changed the Deployment since then
	// misled says that others changed so much at once that nothing told any more what the Deployment was left on.
	misled bool

	// What the checks in the other files remember.
	failedAt    map[string]time.Time // when each revision was found failed, whatever is stored of that
	automatic   map[string]int       // the attempts at each revision since it was last asked for that nobody asked for
	adoption    *adoption            // the last one
	corrections corrections
	seen        seen   // what a write is checked against
	waits       string // for what the release of causes.go waits
	mended      bool   // that release is good from now on
	tolerated   int32  // how many of its pods may be missing
	ran         ranSets
}

func (r *run) now() time.Time { return time.Now() }

// begin creates the GuardedDeployment of most plays, and starts Belay.
func (r *run) begin() { r.create(templateOf("good:0")) }

// create creates the GuardedDeployment and starts Belay.
func (r *run) create(template corev1.PodTemplateSpec) {
	g := &v1alpha1.GuardedDeployment{}
	g.Name, g.Namespace = "web", fake.Namespace
	g.Spec.Replicas, g.Spec.ProgressDeadlineSeconds = new(int32(3)), new(int32(deadline/time.Second))
	g.Spec.Guard = v1alpha1.Guard{MaxRestarts: new(int32(3)), SoakSeconds: new(int32(soak / time.Second)), StuckSeconds: new(int32(stuck / time.Second))}
	g.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}
	g.Spec.Template = template
	r.do(func() {
		fake.Add(r.World, g)
		r.boot()
	})
}

func templateOf(image string) (t corev1.PodTemplateSpec) {
	t.Labels = map[string]string{"app": "web"}
	t.Spec.Containers = []corev1.Container{{Name: "web", Image: image}}
	t.Spec.RestartPolicy = corev1.RestartPolicyAlways
	t.Spec.TerminationGracePeriodSeconds = new(int64(5))
	if o := outcomeOf(&t); o.nowhere {
		t.Spec.NodeSelector = map[string]string{"disk": "none"}
	} else if o.quota || o.name == "ill-quota" {
		t.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("2")}
	}
	return t
}

func (r *run) tell(format string, args ...any) {
	r.telling.Lock()
	defer r.telling.Unlock()
	r.story = append(r.story, r.now().Format("15:04:05.000 ")+fmt.Sprintf(format, args...))
}

// violated tells what went wrong, with the whole story, once in a run.
func (r *run) violated(format string, args ...any) {
	r.t.Helper()
	if !r.failed {
		r.failed = true
		r.t.Errorf("seed %d, %s: %s\n%s\nwrites:\n%s\nstatus: %s", r.seed, r.now().Format("15:04:05.000"), fmt.Sprintf(format, args...),
			strings.Join(r.story, "\n"), strings.Join(r.writes(r.now().Add(-3*time.Minute)), "\n"), r.reason())
	}
}

// ---- what must hold at every write

func (r *run) checkWrite(write string, object any) {
	r.checkBusy()
	switch o := object.(type) {
	case *appsv1.Deployment:
		r.checkDeployment(o)
	case *appsv1.ControllerRevision:
		r.checkRevision(write, o)
	case *v1alpha1.GuardedDeploymentStatus:
		r.checkStatus(o)
	case *eventsv1.Event:
		if len(o.Note) > 1024 {
			r.violated("an Event of %d bytes", len(o.Note))
		}
	}
}

// target returns the stored revision with the template that the spec asks for now.
func (r *run) target() *appsv1.ControllerRevision { return r.targetOf(r.guarded()) }

func (r *run) targetOf(g *v1alpha1.GuardedDeployment) *appsv1.ControllerRevision {
	for _, revision := range r.revisions() {
		if equality.Semantic.DeepEqual(decode(revision), g.Spec.Template) {
			return revision
		}
	}
	return nil
}

func decode(r *appsv1.ControllerRevision) corev1.PodTemplateSpec {
	var data struct {
		Spec struct{ Template corev1.PodTemplateSpec }
	}
	if err := json.Unmarshal(r.Data.Raw, &data); err != nil {
		panic(err)
	}
	return data.Spec.Template
}

func verdict(r *appsv1.ControllerRevision) string {
	if r.Annotations[v1alpha1.AttemptAnnotation] != "" {
		return ""
	}
	return r.Annotations[v1alpha1.VerdictAnnotation]
}

// proven reports whether the last verdict is good: an attempt that was cut short takes nothing away from it.
func proven(r *appsv1.ControllerRevision) bool {
	return r.Annotations[v1alpha1.VerdictAnnotation] == v1alpha1.VerdictGood
}

// attemptOf identifies the last attempt at a revision, if there is one.
func attemptOf(r *appsv1.ControllerRevision) string {
	if r == nil {
		return ""
	}
	return r.Name + r.Annotations[v1alpha1.FailureAnnotation]
}

func image(t corev1.PodTemplateSpec) string { return t.Spec.Containers[0].Image }

func (r *run) checkDeployment(d *appsv1.Deployment) {
	asked := r.asked()
	before, target := r.deployment(), r.targetOf(asked)
	running := r.revision(d.Annotations[v1alpha1.RevisionAnnotation])
	r.tell("  Belay writes the Deployment: %s", image(d.Spec.Template))
	r.images[image(d.Spec.Template)] = true
	r.stated, r.statedFor = d.Annotations[v1alpha1.AppliedAnnotation], asked.Generation
	defer func() { r.meddled = 0 }()
	r.checkCorrection(r.checkUndone(before, d, running))
	r.corrections.owed = asked.Generation != r.guarded().Generation
	if before != nil && !metav1.IsControlledBy(before, r.guarded()) {
		r.checkAdoption(before, d)
		return
	}
	same := before != nil && equality.Semantic.DeepEqual(before.Spec.Template.Spec, d.Spec.Template.Spec)
	switch {
	case asked.Spec.Paused && !same:
		r.violated("S16: a template is written while paused")
	case asked.Spec.Paused:
	case running == nil || target == nil || !r.runs(d, running):
		r.violated("S5: a template is written that is no revision's")
	case running.Name != target.Name && !same && (!proven(running) || verdict(target) != "failed") && r.meddled < 2:
		r.violated("S5, S6: %s (%q) is written in place of %s (%q)", image(decode(running)), verdict(running), image(decode(target)), verdict(target))
	case running.Name == target.Name && verdict(target) == "failed" && before != nil && !same && r.meddled == 0:
		r.violated("S9: %s failed, and is written again without an attempt", image(d.Spec.Template))
	}
	if before != nil && asked.Spec.Replicas == nil && *before.Spec.Replicas != *d.Spec.Replicas {
		r.violated("S12: replicas are unset, and written")
	}
	if target == nil || running == nil {
		return
	}
	r.misled = r.misled || (r.meddled > 1 && running.Name != target.Name)
	attempt := attemptOf(target)
	if before == nil && running.Name == target.Name {
		r.rolled[attempt] = 0 // On hold, a Deployment that was deleted is created on the target.
	}
	if before != nil && before.Annotations[v1alpha1.RevisionAnnotation] == target.Name && running.Name != target.Name && r.meddled == 0 {
		if r.rolled[attempt]++; r.rolled[attempt] > 1 && asked.Spec.Guard.OnFailure != v1alpha1.Hold {
			r.violated("S8: an attempt is rolled back twice")
		}
	}
}

func (r *run) checkRevision(write string, revision *appsv1.ControllerRevision) {
	template := decode(revision)
	o := outcomeOf(&template)
	r.tell("  Belay writes (%s) %s: #%d, %q, attempt %q", write, image(template), revision.Revision, verdict(revision), revision.Annotations[v1alpha1.AttemptAnnotation])
	r.corrections.owed = true
	if write == "mark" && verdict(revision) == "failed" {
		r.failedAt[revision.Name] = r.now().Truncate(time.Second)
	}
	if write == "mark" && !r.mayHaveFailed(o) && verdict(revision) == "failed" {
		r.violated("S7: %s is healthy, and marked failed: %s", image(template), revision.Annotations[v1alpha1.FailureAnnotation])
	}
	r.checkMark(write, revision)
	if write == "mark" && !o.healthy && !o.ill && !r.mended && !r.ran.truth && verdict(revision) == "good" {
		r.violated("S6: %s is bad, and marked good", image(template))
	}
	if write == "mark" && verdict(revision) == "good" && !r.wasComplete() {
		r.violated("S6: %s is marked good, and is not complete", image(template))
	}
	if r.guarded().Spec.Paused && write == "mark" && r.guarded().Generation == r.cachedGuarded().Generation {
		r.violated("S16: a verdict while paused")
	}
	if write == "prune" {
		target := r.target()
		if target != nil && target.Name == revision.Name || r.deployment() != nil && r.deployment().Annotations[v1alpha1.RevisionAnnotation] == revision.Name {
			r.violated("S13: the target or the running revision is pruned")
		}
		return
	}
	if revision.Revision < r.numbers[revision.Name] {
		r.violated("S10: the number of %s falls", image(template))
	}
	r.numbers[revision.Name] = revision.Revision
	if write == "record again" {
		r.checkAttempt(revision)
	}
	if write == "record" && verdict(revision) == "good" && o.ready == 0 {
		r.violated("S6: %s never comes up, and is recorded as good", image(template))
	}
}

// complete reports whether all that runs is of the Deployment's template, and so many of it are available.
func (r *run) complete(wanted int32) bool {
	if r.deployment() == nil {
		return false
	}
	var ready, old int32
	for _, set := range r.sets() {
		if equality.Semantic.DeepEqual(set.Spec.Template, r.deployment().Spec.Template) {
			ready = set.Status.AvailableReplicas
		} else {
			old += max(set.Status.Replicas, *set.Spec.Replicas)
		}
	}
	return old <= r.tolerated && ready >= wanted-r.tolerated
}

func (r *run) checkStatus(status *v1alpha1.GuardedDeploymentStatus) {
	if status.ObservedGeneration < r.observed {
		r.violated("S10: the observed generation falls")
	}
	r.observed = status.ObservedGeneration
	before := r.guarded().Status
	for _, c := range status.Conditions {
		if was := meta.FindStatusCondition(before.Conditions, c.Type); was != nil && was.Status == c.Status && was.LastTransitionTime != c.LastTransitionTime {
			r.violated("S10: the transition time of %s moves by itself", c.Type)
		}
	}
	if len(before.Conditions) > 0 && r.reasonOf(&before) != r.reasonOf(status) {
		r.tell("  Belay reports %s", r.reasonOf(status))
	}
}

func (r *run) reasonOf(status *v1alpha1.GuardedDeploymentStatus) string {
	if c := meta.FindStatusCondition(status.Conditions, v1alpha1.ConditionReady); c != nil {
		return c.Reason
	}
	return ""
}

func (r *run) reason() string { return r.reasonOf(&r.guarded().Status) }

// ---- what must hold in the end

// settled reports whether the status says that nothing more is coming.
func (r *run) settled() bool {
	status := &r.guarded().Status
	if status.ObservedGeneration != r.guarded().Generation || !r.running || r.cut {
		return false
	}
	if taken := r.taken() != ""; taken || r.reason() == v1alpha1.ReasonNameTaken {
		return taken && r.reason() == v1alpha1.ReasonNameTaken
	}
	switch r.reason() {
	case v1alpha1.ReasonRolledOut, v1alpha1.ReasonRolledBack, v1alpha1.ReasonNoGoodRevision, v1alpha1.ReasonHeld, v1alpha1.ReasonPaused, v1alpha1.ReasonScaledToZero:
	case v1alpha1.ReasonRestartFailed:
		return meta.IsStatusConditionTrue(status.Conditions, v1alpha1.ConditionStalled) && r.isRestartOver()
	default:
		if meta.IsStatusConditionTrue(status.Conditions, v1alpha1.ConditionStalled) && r.isLost() {
			return true
		}
		return strings.HasPrefix(r.reason(), "WaitingFor") && meta.IsStatusConditionTrue(status.Conditions, v1alpha1.ConditionStalled) && r.mayWait() == r.reason()
	}
	target := r.target()
	return r.guarded().Spec.Paused || (target != nil && status.TargetRevision == target.Name &&
		(status.Failure == nil) == (verdict(target) != "failed" && !restartHasFailed(target)) && !r.retryComes() && !r.comesUp())
}

// mayWait returns for what the target may wait for ever, empty if it is to be judged: what the last good one would meet as well,
// or anything like it where none is good that has kept its label: nobody looks for the others meanwhile.
func (r *run) mayWait() string {
	target, o := r.target(), outcomeOf(&r.guarded().Spec.Template)
	if o.name == "case-waits" {
		return r.waits
	}
	if target != nil && verdict(target) == "" && r.isInjected() {
		return v1alpha1.ReasonWaitingForInjection
	}
	if target == nil || (!o.nowhere && !o.quota) {
		return ""
	}
	if good := r.lastGood(target); good != nil && good.Labels[v1alpha1.GuardedLabel] != "" && !(o.quota && outcomeOf(new(decode(good))).name == "ill-quota") {
		return ""
	}
	if o.nowhere {
		return v1alpha1.ReasonWaitingForRoom
	}
	return v1alpha1.ReasonWaitingForQuota
}

// settle waits until everything has settled, at most so long.
func (r *run) settle(most time.Duration) {
	if r.failed {
		return
	}
	r.wait(pollInterval, nil) // until the last action is seen
	if !r.settled() && !r.wait(most, r.settled) {
		r.violated("L1: not settled after %s", most)
		return
	}
	r.took = r.now().Sub(r.acted)
	r.wait(20*time.Second, nil)
	if !r.settled() && !r.wait(most, r.settled) {
		r.violated("L1: it does not stay settled")
	}
	r.checkHonest()
}

// checkHonest checks the status against what is there.
func (r *run) checkHonest() {
	target := r.target()
	if r.failed || r.guarded().Spec.Paused || target == nil || r.deployment() == nil || r.taken() != "" {
		return
	}
	running := r.deployment().Annotations[v1alpha1.RevisionAnnotation]
	runs := r.known(running)
	o := outcomeOf(&r.guarded().Spec.Template)
	bad, good := !o.healthy || r.ran.truth, o.healthy || o.ill || r.mended || r.ran.truth
	zero := *r.deployment().Spec.Replicas == 0
	lost := runs == nil && r.wrong() == ""
	ok := runs != nil && r.runs(r.deployment(), runs)
	switch r.reason() {
	case v1alpha1.ReasonRolledOut:
		ok = ok && running == target.Name && verdict(target) == "good" && good &&
			r.deployment().Status.AvailableReplicas >= *r.deployment().Spec.Replicas-r.tolerated-r.strays()
	case v1alpha1.ReasonRolledBack:
		ok = ok && running != target.Name && verdict(target) == "failed" && proven(runs) && bad
	case v1alpha1.ReasonNoGoodRevision:
		ok = ok && verdict(target) == "failed" && (r.mayFail(o) || r.ran.truth || running != target.Name) && r.lastGood(target) == nil
	case v1alpha1.ReasonHeld:
		ok = ok && verdict(target) == "failed" && (r.mayFail(o) || r.ran.truth || running != target.Name) && r.guarded().Spec.Guard.OnFailure == v1alpha1.Hold
	case v1alpha1.ReasonRestartFailed:
		ok = ok && r.isRestartOver()
	case v1alpha1.ReasonScaledToZero:
		ok = ok && zero && running == target.Name
	case r.mayWait():
		ok = ok && running == target.Name && verdict(target) == ""
	}
	if n := r.guarded().Spec.Replicas; n != nil && *r.deployment().Spec.Replicas != *n {
		ok = false
	}
	if !ok && !lost {
		r.violated("S11: it says %s of %s (%q), and %s runs", r.reason(), image(r.guarded().Spec.Template), verdict(target), image(r.deployment().Spec.Template))
	}
	templates := map[string]bool{}
	for _, revision := range r.revisions() {
		if templates[string(revision.Data.Raw)] {
			r.violated("S13: two revisions of one template")
		}
		templates[string(revision.Data.Raw)] = true
	}
	r.checkRunning(runs)
	r.checkRetried(target)
	r.checkAdopted(target)
}

// lastGood returns the good revision to go back to from the target, nil if there is none.
func (r *run) lastGood(target *appsv1.ControllerRevision) (last *appsv1.ControllerRevision) {
	for _, other := range r.revisions() {
		if proven(other) && other.Name != target.Name && (last == nil || other.Revision > last.Revision) {
			last = other
		}
	}
	return last
}

// rest checks that nothing is written in ten minutes, but for the counts of pods that come and go. A process that dies of that
// states once more what a policy takes away, and client-go says when an Event is not repeated any more.
func (r *run) rest() {
	if r.failed {
		return
	}
	begun, boots := len(r.log), r.boots
	r.wait(10*time.Minute, nil)
	restless := false
	for _, pod := range r.pods() {
		restless = restless || r.outcomeNow(pod.Spec, pod.CreationTimestamp).name == "bad-flap"
	}
	for _, l := range r.log[begun:] {
		again := l.write == "status" || l.write == "deployment" && r.policed && r.boots > boots
		if l.write != "patch events" && !(restless && again) {
			r.violated("S18: at rest, %s is written", l.write)
			return
		}
	}
}

// ending is what a run leaves behind, but for times, names and numbers.
func (r *run) ending() map[string]string {
	end := map[string]string{"asked": image(r.guarded().Spec.Template), "reason": r.reason()}
	if r.deployment() != nil {
		end["running"] = fmt.Sprintf("%s x%d, paused %t", image(r.deployment().Spec.Template), *r.deployment().Spec.Replicas, r.deployment().Spec.Paused)
	}
	for _, revision := range r.revisions() {
		template := decode(revision)
		end[fmt.Sprint(image(template), template.Spec.Containers[0].Env)] = verdict(revision)
		if restartHasFailed(revision) {
			end["restart of "+image(template)] = "failed"
		}
	}
	return end
}

// ---- what users do

type action struct {
	name string
	do   func(*run)
}

func (r *run) act(a action) {
	r.do(func() { r.perform(a) })
}

func (r *run) perform(a action) {
	r.tell("%s", a.name)
	r.acted = r.now()
	r.touched()
	a.do(r)
}

func spec(name string, change func(*v1alpha1.GuardedDeploymentSpec)) action {
	return action{name, func(r *run) {
		r.corrections.owed = true
		r.putGuarded(func(g *v1alpha1.GuardedDeployment) { change(&g.Spec) })
	}}
}

func release(image string) action {
	return spec("release "+image, func(s *v1alpha1.GuardedDeploymentSpec) { s.Template = templateOf(image) })
}

func scale(n int32) action {
	return spec(fmt.Sprintf("scale to %d", n), func(s *v1alpha1.GuardedDeploymentSpec) { s.Replicas = &n })
}

func retry(token string) action {
	return action{"retry " + token, func(r *run) {
		r.corrections.owed = true
		r.putGuarded(func(g *v1alpha1.GuardedDeployment) {
			g.Annotations = map[string]string{v1alpha1.RetryAnnotation: token}
		})
	}}
}

// meddle is what somebody does to the Deployment by hand.
func meddle(name string, change func(*appsv1.Deployment)) action {
	return action{name, func(r *run) {
		if r.deployment() != nil {
			r.meddled++
			fake.Edit(r.World, "web", change)
		}
	}}
}

var loseAPod = action{"a pod is lost", func(r *run) {
	r.touched()
	for _, set := range r.sets() {
		for _, pod := range r.podsOf(set) {
			r.removePod(pod)
			return
		}
	}
}}

var deleteDeployment = action{"delete the Deployment", func(r *run) {
	if r.deployment() != nil {
		r.corrections.owed = true
		fake.Remove[*appsv1.Deployment](r.World, "web")
		r.syncDeployment()
	}
}}

// script returns what the users of a seed do. Bad outcomes and good ones take turns at random.
func script(seed uint64, length int) []action {
	random := rand.New(rand.NewPCG(seed, 1))
	var images []string
	var actions []action
	fresh := func() action {
		image := fmt.Sprintf("%s:%d", outcomes[random.IntN(len(outcomes))].name, len(images)+1)
		images = append(images, image)
		return release(image)
	}
	for range length {
		a := fresh()
		switch random.IntN(20) {
		case 0, 1, 2:
			a = release(append(images, "good:0")[random.IntN(len(images)+1)])
		case 3:
			a = retry(fmt.Sprint("token-", random.IntN(3)))
		case 4:
			a = scale(random.Int32N(5))
		case 5:
			a = spec("unset replicas", func(s *v1alpha1.GuardedDeploymentSpec) { s.Replicas = nil })
		case 6:
			a = spec("pause", func(s *v1alpha1.GuardedDeploymentSpec) { s.Paused = true })
		case 7, 8:
			a = spec("resume", func(s *v1alpha1.GuardedDeploymentSpec) { s.Paused = false })
		case 9:
			a = spec("hold", func(s *v1alpha1.GuardedDeploymentSpec) { s.Guard.OnFailure = v1alpha1.Hold })
		case 10:
			a = spec("roll back", func(s *v1alpha1.GuardedDeploymentSpec) { s.Guard.OnFailure = v1alpha1.Rollback })
		case 11:
			a = meddle("kubectl set image", func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Image = "theirs:0" })
		case 12:
			a = meddle("kubectl scale", func(d *appsv1.Deployment) { d.Spec.Replicas = new(1 + random.Int32N(4)) })
		case 13:
			n := random.Int32N(3)
			a = spec("release and scale", func(s *v1alpha1.GuardedDeploymentSpec) { s.Replicas, s.Template = &n, templateOf("good:x") })
		}
		actions = append(actions, a)
	}
	return actions
}

// ---- the disturbances

// disturb makes the next while as hard as it gets, and returns when it is over.
func (r *run) disturb() (over time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	over = r.delayWatches()
	r.disturbClock()
	for range 1 + r.random.IntN(3) {
		at := time.Duration(r.random.IntN(60_000)) * time.Millisecond
		outage := time.Duration(r.random.IntN(150)) * time.Second
		over = max(over, at+outage)
		switch c := r.random.IntN(7); c {
		case 0, 1, 2:
			down := []*component{&r.deploymentController, &r.setController, &r.scheduler}[c]
			r.in(at, func() {
				r.tell("  %s is down", []string{"the Deployment controller", "the ReplicaSet controller", "the scheduler"}[c])
				r.stop(down)
			})
			r.in(at+outage, func() { r.tell("  and is back"); r.world.start(down) })
		case 3:
			r.in(at, func() { r.tell("  Belay is down"); r.die(outage) })
		case 4:
			r.in(at, func() { r.tell("  Belay sees nothing"); r.cutOff(outage) })
		case 5:
			r.in(at, func() { r.tell("  %s", loseAPod.name); loseAPod.do(r) })
		case 6:
			r.staleFor = time.Duration(1+r.random.IntN(10_000)) * time.Millisecond
		}
	}
	return over
}

// nasty makes caches lag, conditions stale, the process die at writes now and then, and others act while it reconciles.
func (r *run) nasty() {
	r.meanwhile.likely = true
	r.staleFor = 5 * time.Second
	r.lag = func() time.Duration { return time.Duration(r.random.IntN(400)*r.random.IntN(5)) * time.Millisecond }
	r.belay.crash = func(string) (bool, bool) { return r.random.IntN(50) == 0, r.random.IntN(50) == 0 }
}
