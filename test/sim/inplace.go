package sim

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
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
	}, 1616, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 27, 41, 43)
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

// step is what is done next.
func (r *placeRun) step() {
	switch r.random.IntN(28) {
	default:
		image := fmt.Sprintf("%s:%d", r.anyOutcome(), len(r.images))
		r.images = append(r.images, image)
		r.release(image)
	case 0, 1:
		r.release(r.images[r.random.IntN(len(r.images))])
	case 2, 3:
		r.tokens++
		token := fmt.Sprint("token-", r.tokens)
		r.act("retry "+token, func(d *appsv1.Deployment) {
			metav1.SetMetaDataAnnotation(&d.ObjectMeta, v1alpha1.RetryAnnotation, token)
		})
	case 4, 5:
		n := r.random.Int32N(6)
		r.act(fmt.Sprintf("scale to %d", n), func(d *appsv1.Deployment) { d.Spec.Replicas = &n })
	case 6:
		r.release(fmt.Sprintf("bad-pull:%d", len(r.images)))
		r.images = append(r.images, image(r.deployment().Spec.Template))
		r.pass(60)
		r.act("scale to 0", func(d *appsv1.Deployment) { d.Spec.Replicas = new(int32) })
		r.pass(30)
		r.act("and back to 4", func(d *appsv1.Deployment) { d.Spec.Replicas = new(int32(4)) })
	case 7:
		r.act("pause", func(d *appsv1.Deployment) { d.Spec.Paused = true })
		r.pass(60)
		r.act("resume", func(d *appsv1.Deployment) { d.Spec.Paused = false })
	case 8, 9:
		r.setLabel([]string{"", v1alpha1.NotGuarded, "yes", "true"}[r.random.IntN(4)])
		r.pass(60)
		r.setLabel(v1alpha1.GuardedInPlace)
	case 10, 11:
		r.undo()
	case 12:
		r.now(func() {
			r.tell("restart")
			r.touched()
			fake.Restart(r.World, "web")
			r.newTemplate()
		})
	case 13:
		s := strategies[r.random.IntN(len(strategies))]
		r.act("strategy "+s.name, func(d *appsv1.Deployment) { d.Spec.Strategy = s.strategy })
	case 14, 15:
		onFailure, retries := []v1alpha1.OnFailure{v1alpha1.Rollback, v1alpha1.Hold}[r.random.IntN(2)], r.random.IntN(2)
		r.act(fmt.Sprintf("%s, %d retries", onFailure, retries), func(d *appsv1.Deployment) {
			metav1.SetMetaDataAnnotation(&d.ObjectMeta, v1alpha1.GuardAnnotation, r.guardAs(onFailure, retries))
		})
	case 16:
		down := time.Duration(r.random.IntN(90)) * time.Second
		r.now(func() { r.tell("Belay is down for %s", down); r.touched(); r.die(down) })
	case 17:
		r.outage()
	case 18:
		r.now(func() {
			pods := slices.DeleteFunc(r.pods(), func(pod *corev1.Pod) bool { return !isReady(pod) })
			if len(pods) > 0 { // One that is lost after some restarts counts as one that does not come up.
				r.tell("a pod is lost")
				r.touched()
				r.removePod(pods[r.random.IntN(len(pods))])
			}
		})
	}
}

// outage takes a controller down for a while.
func (r *placeRun) outage() {
	r.now(func() {
		n := r.random.IntN(2)
		down := []*component{&r.deploymentController, &r.setController}[n]
		r.tell("the %s controller is down", []string{"Deployment", "ReplicaSet"}[n])
		r.touched()
		r.stop(down)
		r.in(time.Duration(r.random.IntN(40))*time.Second, func() { r.tell("and is back"); r.touched(); r.world.start(down) })
	})
}

var strategies = []struct {
	name     string
	strategy appsv1.DeploymentStrategy
}{
	{"25%/25%", rolling("25%", "25%")}, {"25%/25%", rolling("25%", "25%")}, {"1/0", rolling("1", "0")}, {"0/1", rolling("0", "1")}, {"100%/100%", rolling("100%", "100%")}, {"25%/100%", rolling("25%", "100%")},
	{"Recreate", appsv1.DeploymentStrategy{Type: appsv1.RecreateDeploymentStrategyType}},
}

// anyOutcome returns the name of an outcome: half of them are healthy. A ReplicaSet that is refused is not in these plays.
func (r *placeRun) anyOutcome() string {
	healthy := r.random.IntN(2) == 0
	fit := slices.DeleteFunc(slices.Clone(outcomes), func(o outcome) bool { return o.noSet || o.healthy != healthy })
	return fit[r.random.IntN(len(fit))].name
}

func (r *placeRun) release(image string) {
	r.act("release "+image, func(d *appsv1.Deployment) { d.Spec.Template = templateOf(image) })
}

func (r *placeRun) setLabel(value string) {
	r.act("label "+value, func(d *appsv1.Deployment) {
		d.Labels = map[string]string{v1alpha1.GuardedLabel: value}
		if value == "" {
			d.Labels = nil
		}
	})
}

// undo does what kubectl rollout undo does: the template of an older ReplicaSet comes back, with its annotations.
func (r *placeRun) undo() {
	sets := r.sets()
	set := sets[r.random.IntN(len(sets))]
	r.act("undo to "+image(set.Spec.Template), func(d *appsv1.Deployment) {
		kept := map[string]string{}
		for key, value := range set.Annotations {
			if !strings.HasPrefix(key, "deployment.kubernetes.io/") {
				kept[key] = value
			}
		}
		d.Annotations = kept
		d.Spec.Template = *set.Spec.Template.DeepCopy()
		delete(d.Spec.Template.Labels, appsv1.DefaultDeploymentUniqueLabelKey)
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

// ---- what must hold at every request and change

func (r *placeRun) checkRequest(request fake.Request) {
	if r.pending != nil && r.random.IntN(3) == 0 {
		pending := r.pending
		r.pending, r.inside = nil, true
		r.tell("    before it can %s %s:", request.Verb, request.Resource)
		pending()
		r.inside = false
	}
	if request.Verb != "patch" {
		return
	}
	switch request.Resource {
	case "deployments/status":
		r.checkVerdict(request)
	case "replicasets":
		r.checkSet(request)
	}
}

// checkVerdict checks what is written about the failure of a release.
func (r *placeRun) checkVerdict(request fake.Request) {
	var patch struct {
		Metadata struct {
			ResourceVersion string
			Annotations     map[string]*string
		}
	}
	if err := json.Unmarshal([]byte(request.Patch), &patch); err != nil {
		panic(err)
	}
	text := patch.Metadata.Annotations[v1alpha1.FailureAnnotation]
	if text == nil {
		r.tell("  Belay writes the status: %s", request.Patch)
		return
	}
	var failure struct {
		ReplicaSet, Message string
		Ready               int32
	}
	if err := json.Unmarshal([]byte(*text), &failure); err != nil {
		panic(err)
	}
	set := one[*appsv1.ReplicaSet](r.world, failure.ReplicaSet)
	r.tell("  Belay writes that %s failed: %s", image(set.Spec.Template), failure.Message)
	if outcomeOf(&set.Spec.Template).healthy {
		r.violated("%s is healthy, and is said to have failed: %s", image(set.Spec.Template), failure.Message)
	}
	if d := r.deployment(); patch.Metadata.ResourceVersion == d.ResourceVersion && d.Spec.Strategy.Type != appsv1.RecreateDeploymentStrategyType && r.verdict == nil {
		r.verdict = &capacity{min(failure.Ready, r.ready(), replicasOf(d)-unavailable(d))}
	}
}

// checkSet checks what is written about a ReplicaSet.
func (r *placeRun) checkSet(request fake.Request) {
	var patch struct {
		Metadata struct{ Labels map[string]*string }
	}
	if err := json.Unmarshal([]byte(request.Patch), &patch); err != nil {
		panic(err)
	}
	set := one[*appsv1.ReplicaSet](r.world, request.Name)
	if set == nil {
		return
	}
	r.tell("  Belay writes %s: %s", image(set.Spec.Template), request.Patch)
	o := outcomeOf(&set.Spec.Template)
	if v := patch.Metadata.Labels[v1alpha1.VerdictLabel]; v != nil && strings.HasPrefix(*v, v1alpha1.VerdictGood) && !o.healthy {
		r.violated("%s is bad, and is said to be good", image(set.Spec.Template))
	}
	held := patch.Metadata.Labels[v1alpha1.HeldAtLabel]
	if held != nil && strings.HasPrefix(*held, "0.") && o.healthy && r.isCurrent(set) {
		r.violated("%s is healthy and asked for, and is held at 0", image(set.Spec.Template))
	}
	if held != nil && !r.isGuarded() && r.cachedAsks() == r.deployment().Labels[v1alpha1.GuardedLabel] {
		r.violated("%s is held for a Deployment that is not guarded", image(set.Spec.Template))
	}
}

func (r *placeRun) cachedAsks() string {
	if d, _ := r.cached["deployments"].After.(*appsv1.Deployment); d != nil {
		return d.Labels[v1alpha1.GuardedLabel]
	}
	return ""
}

// hearOfPods checks that no ready pod goes that is needed.
func (r *placeRun) hearOfPods(change fake.Change) {
	before, was := change.Before.(*corev1.Pod)
	after, is := change.After.(*corev1.Pod)
	leaves := was && before.DeletionTimestamp == nil && isReady(before) && (!is || after.DeletionTimestamp != nil)
	if r.verdict == nil || !leaves {
		return
	}
	r.in(0, func() { // Nothing may be read here.
		if r.verdict != nil && r.ready() < r.verdict.least {
			r.violated("%s was ready and goes: %d are left, and %d are needed", before.Name, r.ready(), r.verdict.least)
		}
	})
}

// ---- what is there

func (r *placeRun) isGuarded() bool {
	return r.deployment().Labels[v1alpha1.GuardedLabel] == v1alpha1.GuardedInPlace
}

func (r *placeRun) isCurrent(set *appsv1.ReplicaSet) bool {
	return rollout.CurrentReplicaSet(r.deployment(), []*appsv1.ReplicaSet{set}) != nil
}

func (r *placeRun) ready() (n int32) {
	for _, set := range r.sets() {
		n += r.readyOf(set)
	}
	return n
}

func (r *placeRun) readyOf(set *appsv1.ReplicaSet) (n int32) {
	for _, pod := range r.podsOf(set) {
		n += int32(btoi(isReady(pod)))
	}
	return n
}

func (r *placeRun) held() (all []string) {
	for _, set := range r.sets() {
		if n, held := rollout.HeldAt(set); held {
			all = append(all, fmt.Sprintf("%s at %d", image(set.Spec.Template), n))
		}
	}
	return all
}

// state tells what is there, for messages.
func (r *placeRun) state() string {
	d := r.deployment()
	all := []string{fmt.Sprintf("asked: %s x%d, paused %t, labels %v, failure %s, conditions %+v", image(d.Spec.Template), replicasOf(d), d.Spec.Paused, d.Labels, d.Annotations[v1alpha1.FailureAnnotation], d.Status.Conditions)}
	for _, set := range r.sets() {
		all = append(all, fmt.Sprintf("%s %s: %d, %d ready, labels %v, annotations %v", set.Name, image(set.Spec.Template), *set.Spec.Replicas, r.readyOf(set), set.Labels, set.Annotations["deployment.kubernetes.io/revision"]))
	}
	return strings.Join(all, "\n")
}
