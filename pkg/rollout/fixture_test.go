package rollout

import (
	"flag"
	"fmt"
	"os"
	"reflect"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

func TestMain(m *testing.M) {
	// What lives is a few megabytes, what is decided in thousands of scenes gigabytes: by default, a fifth of the time would
	// be garbage collection. Benchmarks measure with the default.
	if flag.Parse(); flag.Lookup("test.bench").Value.String() == "" {
		debug.SetGCPercent(400)
	}
	code := m.Run()
	if missing := unreached(); code == 0 && wholeSuite() && len(missing) > 0 {
		fmt.Println("no test leads to the failures or causes", strings.Join(missing, ", "))
		code = 1
	}
	os.Exit(code)
}

// wholeSuite reports whether all tests were to run.
func wholeSuite() bool {
	return !slices.ContainsFunc([]string{"run", "skip", "list", "bench", "fuzz"}, func(name string) bool {
		return flag.Lookup("test."+name).Value.String() != ""
	})
}

// noon is when a scene is set.
var noon = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)

// pollInterval is Observed.PollInterval in the tests.
const pollInterval = 3 * time.Second

// template is a pod template with one container. Tests tell revisions apart by its image.
func template(image string) corev1.PodTemplateSpec {
	var t corev1.PodTemplateSpec
	t.Labels = map[string]string{"app": "web"}
	t.Spec.Containers = []corev1.Container{{Name: "web", Image: image}}
	return t
}

func newGuarded(image string) *v1alpha1.GuardedDeployment {
	g := &v1alpha1.GuardedDeployment{}
	g.Name, g.Namespace, g.UID, g.Generation = "web", "shop", "uid-of-web", 1
	g.Spec.Replicas = new(int32(3))
	g.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}
	g.Spec.Template = template(image)
	return g
}

// recorded returns what the revision of what g asks for is written as.
func recorded(g *v1alpha1.GuardedDeployment, number int64) *appsv1.ControllerRevision {
	return newRevision(g, &g.Spec.Template, number)
}

// scene is an Observed that is put together sentence by sentence. It can be played: what is decided is then carried out,
// as the controller does it, and virtual time passes.
type scene struct {
	Observed
	cluster func(*appsv1.Deployment) *Evidence // what is found when Decide needs evidence
	objects map[Reference]Finding              // what is found of objects that a template refers to; nobody has touched the others
	asked   []string                           // the objects that were asked for, in one line each time
	version int
	// losesAnswers is when the answer to the next write of the Deployment gets lost, empty for not.
	losesAnswers string
	admit        func(before, written *appsv1.Deployment) // what a mutating policy does to a write, nil for nothing
}

// asking sets a scene in which a GuardedDeployment of 3 replicas asks for image.
func asking(image string) *scene {
	s := &scene{cluster: allUp}
	s.DeploymentLive, s.TargetLive = true, true
	s.Guarded, s.Now, s.PollInterval = newGuarded(image), noon, pollInterval
	s.Memory.UID = s.Guarded.UID
	return s
}

func (s *scene) with(change func(*scene)) *scene {
	change(s)
	return s
}

// A verdict is what is written on a revision.
type verdict func(*Revision) *appsv1.ControllerRevision

func unjudged(r *Revision) *appsv1.ControllerRevision { return r.ControllerRevision }
func good(r *Revision) *appsv1.ControllerRevision     { return withVerdict(r, nil) }
func failed(r *Revision) *appsv1.ControllerRevision   { return failedWith("")(r) }

func failedWith(token string) verdict {
	return func(r *Revision) *appsv1.ControllerRevision {
		f := Failure{Attempt: Attempt{Number: 1, Token: token}}
		f.Revision, f.Reason, f.Message, f.Time = r.Name, v1alpha1.FailureCrashLoop, "it exited", metav1.NewTime(noon.Add(-time.Hour))
		return withVerdict(r, &f)
	}
}

// tried says that after the verdict a further attempt is under way.
func tried(number int, token string, before verdict) verdict {
	return func(r *Revision) *appsv1.ControllerRevision {
		return withRequest(&Revision{ControllerRevision: before(r)}, r.Revision, &Attempt{Number: number, Token: token})
	}
}

// knows adds the revision with that image under that number.
func (s *scene) knows(image string, number int64, is verdict) *scene {
	g := newGuarded(image)
	r := recorded(g, number)
	r.UID, r.CreationTimestamp = types.UID("uid-of-"+r.Name), metav1.NewTime(noon.Add(-24*time.Hour))
	s.store(is(decode(g, r)))
	return s
}

func (s *scene) store(r *appsv1.ControllerRevision) *appsv1.ControllerRevision {
	s.version++
	r = r.DeepCopy()
	r.ResourceVersion = fmt.Sprint(s.version)
	if r.CreationTimestamp.IsZero() {
		r.CreationTimestamp = metav1.NewTime(s.Now)
	}
	s.forget(r.Name)
	s.Revisions = append(s.Revisions, r)
	return r
}

func (s *scene) forget(name string) {
	s.Revisions = slices.DeleteFunc(slices.Clone(s.Revisions), func(r *appsv1.ControllerRevision) bool { return r.Name == name })
}

// revision returns the decoded revision with that image.
func (s *scene) revision(image string) *Revision {
	h := newHistory(s.Guarded, s.Revisions)
	wanted := template(image)
	found, _ := h.find(&wanted)
	return found
}

// runs adds a Deployment that is up with that image, and says all that the GuardedDeployment states by now.
func (s *scene) runningName(image string) *scene {
	s.write(desiredDeployment(s.Guarded, s.revision(image), nil), nil)
	s.up()
	return s
}

// write does what the API server does with a write of the Deployment.
func (s *scene) write(desired *appsv1.Deployment, template *corev1.PodTemplateSpec) {
	before := s.Deployment
	if before == nil {
		before = &appsv1.Deployment{ObjectMeta: *desired.ObjectMeta.DeepCopy()}
		before.UID = "uid-of-deployment"
	}
	s.Deployment = Overlay(before, desired, template)
	s.Deployment.Generation++
	if s.admit != nil {
		s.admit(before, s.Deployment)
	}
	if s.Deployment.Spec.Replicas == nil {
		s.Deployment.Spec.Replicas = new(int32(1))
	}
}

// up makes the Deployment controller report that all is done.
func (s *scene) up() *scene {
	n := *s.Deployment.Spec.Replicas
	s.Deployment.Status = appsv1.DeploymentStatus{ObservedGeneration: s.Deployment.Generation, Replicas: n, UpdatedReplicas: n,
		ReadyReplicas: n, AvailableReplicas: n, Conditions: []appsv1.DeploymentCondition{
			{Type: appsv1.DeploymentAvailable, Status: corev1.ConditionTrue, Reason: "MinimumReplicasAvailable"},
			{Type: appsv1.DeploymentProgressing, Status: corev1.ConditionTrue, Reason: "NewReplicaSetAvailable"}}}
	return s
}

// down makes the Deployment controller report that nothing is ready.
func (s *scene) down() *scene {
	s.cluster = noneReady
	s.Deployment.Status.ReadyReplicas, s.Deployment.Status.AvailableReplicas, s.Deployment.Status.UpdatedReplicas = 0, 0, 0
	s.Deployment.Status.Conditions = nil
	return s
}

// remembers sets how the rollout to the revision with that image stands, as far as this process knows.
func (s *scene) remembers(image string, phase Phase) *scene {
	s.Memory.Progress = newProgress(s.revision(image), s.Now, s.Now)
	s.Memory.Progress.Phase = phase
	if phase == PhaseFailed {
		s.Memory.Progress.Failure = v1alpha1.Failure{Reason: v1alpha1.FailureDeadlineExceeded, Message: "it is not ready"}
	}
	return s
}

func (s *scene) hold() *scene   { s.Guarded.Spec.Guard.OnFailure = v1alpha1.Hold; return s }
func (s *scene) pause() *scene  { s.Guarded.Spec.Paused = true; s.Guarded.Generation++; return s }
func (s *scene) resume() *scene { s.Guarded.Spec.Paused = false; s.Guarded.Generation++; return s }

// afterPause is s when it goes on after a pause that the Deployment has.
func afterPause(s *scene) *scene {
	s.pause().write(desiredPaused(s.Guarded), nil)
	return s.resume()
}

func (s *scene) scale(n *int32) *scene     { s.Guarded.Spec.Replicas = n; s.Guarded.Generation++; return s }
func (s *scene) listed() *scene            { s.RevisionsLive = true; return s }
func (s *scene) after(d time.Duration)     { s.Now = s.Now.Add(d) }
func (s *scene) restart() *scene           { s.Memory = Memory{}; return s }
func (s *scene) keep(n int32) *scene       { s.Guarded.Spec.RevisionHistoryLimit = &n; return s }
func (s *scene) looked(e *Evidence) *scene { s.Evidence = e; return s }

func (s *scene) ask(image string) *scene {
	s.Guarded.Spec.Template = template(image)
	s.Guarded.Generation++
	return s
}

func (s *scene) token(t string) *scene {
	s.Guarded.Annotations = map[string]string{v1alpha1.RetryAnnotation: t}
	return s
}

// step decides, carries out, and tells what was done.
func (s *scene) step() (Decision, string) { return s.stepFrom(decideTwice(s.Observed)) }

// decideTwice decides, and makes sure that the same follows where nothing is known of what was compared and decoded before.
func decideTwice(o Observed) Decision {
	d := Decide(o)
	o.Memory.carried, o.Memory.digests, o.Memory.asked = carried{}, nil, asked{}
	one, other := d, Decide(o)
	one.Memory.carried, other.Memory.carried = carried{}, carried{}
	if !reflect.DeepEqual(one, other) {
		panic(fmt.Sprintf("what was compared before changes the decision:\n%+v\n%+v", one, other))
	}
	return d
}

// stepFrom is step after a first decision.
func (s *scene) stepFrom(d Decision) (Decision, string) {
	if d.NeedRevisions {
		s.RevisionsLive = true
		d = Decide(s.Observed)
	}
	if d.NeedEvidence {
		s.Evidence = s.cluster(s.Deployment)
		d = Decide(s.Observed)
	}
	for d.NeedDetails.Any() || len(d.NeedObjects) > 0 {
		s.Evidence.answer(d.NeedDetails.Events, d.NeedDetails.Nodes)
		s.find(d.NeedObjects)
		s.Evidence.Log = &Log{}
		d = Decide(s.Observed)
	}
	told := s.tell(d)
	d.Events = s.carryOut(d)
	s.RevisionsLive, s.Evidence = false, nil
	return d, told
}

// carryOut does what was decided, and returns the Events.
func (s *scene) carryOut(d Decision) []Event {
	answer := s.send(d)
	outcome := d.After(s.Observed, answer)
	s.Memory = outcome.Memory
	if outcome.Again || answer.Lost {
		return nil
	}
	for _, r := range d.Prune {
		s.forget(r.Name)
	}
	if d.Status != nil {
		s.Guarded = s.Guarded.DeepCopy()
		s.Guarded.Status = *d.Status
	}
	return outcome.Events
}

// send makes the first write of a decision, and returns the answer.
func (s *scene) send(d Decision) Answer {
	switch before := s.Deployment; {
	case d.Record != nil:
		return Answer{Revision: s.store(d.Record)}
	case d.Mark != nil:
		return Answer{Revision: s.store(d.Mark)}
	case d.Deployment != nil && s.losesAnswers != "":
		if s.losesAnswers == "after it took effect" {
			s.write(d.Deployment, d.Template)
		}
		s.losesAnswers = ""
		return Answer{Before: before, Manager: "belay", Lost: true}
	case d.Deployment != nil:
		s.write(d.Deployment, d.Template)
		return Answer{Before: before, Written: s.Deployment, Manager: "belay"}
	default:
		return Answer{}
	}
}

// play takes steps until there is nothing more to do, and returns what was done, and how it stands.
func (s *scene) play() (done []string) {
	for range 400 {
		d, told := s.step()
		if told != "" && (len(done) == 0 || done[len(done)-1] != told) {
			done = append(done, told)
		}
		wrote := d.Record != nil || d.Mark != nil || d.Deployment != nil || d.Status != nil
		if d.Recheck == 0 && !wrote {
			return done
		}
		if !wrote {
			s.after(d.Recheck)
		}
	}
	return append(done, "and so on")
}

// tell says what a decision is in words: everything in it but texts and memory.
func (s *scene) tell(d Decision) string {
	var words []string
	say := func(format string, args ...any) { words = append(words, fmt.Sprintf(format, args...)) }
	if d.NeedEvidence {
		say("need evidence")
	}
	if d.NeedRevisions {
		say("need revisions")
	}
	if d.NeedDeployment {
		say("need deployment")
	}
	if d.NeedTarget {
		say("need target")
	}
	if d.Record != nil {
		r := decode(s.Guarded, d.Record)
		say("record %s as %d", image(r), r.Revision)
		if r.Retrying {
			say("attempt %d%s", r.Attempt.Number, r.Attempt.Token)
		}
	}
	if d.Mark != nil {
		r := decode(s.Guarded, d.Mark)
		if r.Good() {
			say("mark %s good", image(r))
		} else {
			say("mark %s failed: %s, attempt %d%s", image(r), r.Failure.Reason, r.Failure.Number, r.Failure.Token)
		}
	}
	if d.Deployment != nil {
		verb, what := "run", "nothing"
		if s.Deployment == nil {
			verb = "create"
		}
		if c := d.Deployment.Spec.Template.Spec.Containers; len(c) > 0 {
			what = c[0].Image
		}
		if d.Deployment.Spec.Paused {
			verb = "pause, with"
		}
		if d.Deployment.Spec.Replicas != nil {
			what = fmt.Sprintf("%s x%d", what, *d.Deployment.Spec.Replicas)
		}
		say("%s %s", verb, what)
	}
	if d.Correction != "" {
		say("put back %s", d.Correction)
	}
	for _, r := range d.Prune {
		say("prune %s", image(decode(s.Guarded, r)))
	}
	if d.Status != nil {
		say("%s", conditions(d.Status))
	}
	for _, e := range d.Events {
		say("%s %s", e.Type, e.Reason)
	}
	if d.Recheck != 0 {
		say("again in %s", d.Recheck)
	}
	return strings.Join(words, ", ")
}

func image(r *Revision) string { return r.Template().Spec.Containers[0].Image }

// conditions says which of the conditions are True, and why: Ready, Reconciling, Stalled.
func conditions(status *v1alpha1.GuardedDeploymentStatus) string {
	words := []string{}
	reason := ""
	for _, c := range status.Conditions {
		if c.Type != v1alpha1.ConditionAvailable {
			reason = c.Reason
			if c.Status == metav1.ConditionTrue {
				words = append(words, c.Type)
			}
		}
	}
	return strings.Join(append(words, reason), " ")
}

// evidence of a Deployment's new ReplicaSet with these pods, and of no other.
func evidence(d *appsv1.Deployment, pods ...*corev1.Pod) *Evidence {
	set := &appsv1.ReplicaSet{}
	set.Name, set.UID = d.Name+"-1", "uid-of-set"
	set.Spec.Replicas = d.Spec.Replicas
	d.Spec.Template.DeepCopyInto(&set.Spec.Template)
	for _, pod := range pods {
		if readyByOwnWord(pod) {
			set.Status.AvailableReplicas++
		}
	}
	return &Evidence{ReplicaSets: []*appsv1.ReplicaSet{set}, Pods: pods}
}

// answer adds what was asked for: no Events, and Nodes that are ready.
func (e *Evidence) answer(events []types.UID, nodes []string) {
	for _, uid := range events {
		if e.Events == nil {
			e.Events = map[types.UID][]*corev1.Event{}
		}
		e.Events[uid] = nil
	}
	for _, name := range nodes {
		if e.Nodes == nil {
			e.Nodes = map[string]*corev1.Node{}
		}
		node := &corev1.Node{}
		node.Name = name
		node.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}
		e.Nodes[name] = node
	}
}

// find adds to the evidence what is found of the objects that are asked for.
func (s *scene) find(wanted []Reference) {
	if len(wanted) == 0 {
		return
	}
	var names []string
	s.Evidence.Objects = map[Reference]Finding{}
	for _, object := range wanted {
		finding, known := s.objects[object]
		if !known {
			finding = Present
		}
		s.Evidence.Objects[object] = finding
		names = append(names, object.String())
	}
	s.asked = append(s.asked, strings.Join(names, ", "))
}

func allUp(d *appsv1.Deployment) *Evidence {
	var pods []*corev1.Pod
	for i := range *d.Spec.Replicas {
		pods = append(pods, pod(fmt.Sprint("p", i), isReady))
	}
	return evidence(d, pods...)
}

func noneReady(d *appsv1.Deployment) *Evidence { return evidence(d, pod("p0"), pod("p1"), pod("p2")) }

func crashing(d *appsv1.Deployment) *Evidence {
	return evidence(d, pod("p0", restarted(9), waits("CrashLoopBackOff"), exited(7, "no database")))
}

// pod returns a pod that is bound to a node, runs, and is not ready.
func pod(name string, is ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{}
	p.Name, p.UID = name, types.UID("uid-of-"+name)
	p.Spec.NodeName = "node"
	p.Status.Phase = corev1.PodRunning
	p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "web"}}
	for _, change := range is {
		change(p)
	}
	return p
}

func isReady(p *corev1.Pod) {
	p.Status.ContainerStatuses[0].Ready = true
	p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{Type: corev1.PodReady, Status: corev1.ConditionTrue})
}

func restarted(times int32) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Status.ContainerStatuses[0].RestartCount = times }
}

func waits(reason string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Status.ContainerStatuses[0].State.Waiting = &corev1.ContainerStateWaiting{Reason: reason, Message: "as the kubelet says"}
	}
}

func exited(code int32, message string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Status.ContainerStatuses[0].LastTerminationState.Terminated = &corev1.ContainerStateTerminated{ExitCode: code, Reason: "Error", Message: message}
	}
}
