package rollout

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// stage is a scene with a Deployment controller, whose pods run the image that their tag points to when they are made.
type stage struct {
	*scene
	t *testing.T
	// tag is the digest to which every tag points now. Pods of a digest in bad crash.
	tag string
	bad map[string]bool
	// serving is how many old pods a rollout leaves.
	serving int

	sets  []*appsv1.ReplicaSet
	pods  map[types.UID][]*corev1.Pod
	fares map[types.UID]func(*corev1.Pod) // of pods whose containers have not started
	made  int
	// ended are pods that have ended, and are still there.
	ended map[types.UID][]*corev1.Pod
	// local has nodes know images by their own ids, and lost has the registry lose what it had.
	local, lost bool
	// wrote are the Deployment's writes by Belay, and told its Events.
	wrote []string
	told  []Event
}

const goodDigest, badDigest = "sha256:aaaaaaaaaaaaaaaa", "sha256:bbbbbbbbbbbbbbbb"

// onStage sets a stage on which a release of app:latest is judged good.
func onStage(t *testing.T, set ...func(*stage)) *stage {
	t.Helper()
	s := &stage{scene: asking("app:latest"), t: t, tag: goodDigest, bad: map[string]bool{badDigest: true}, serving: 3, pods: map[types.UID][]*corev1.Pod{},
		fares: map[types.UID]func(*corev1.Pod){}}
	s.cluster = func(*appsv1.Deployment) *Evidence { return s.evidence() }
	s.Guarded.Spec.Guard.MaxRestarts = new(int32(0))
	for _, change := range set {
		change(s)
	}
	s.pass(time.Minute)
	s.wants("Ready RolledOut")
	s.wrote, s.told = nil, nil
	return s
}

// restarts does what "kubectl rollout restart" does.
func (s *stage) restarts() {
	s.s(func(d *appsv1.Deployment) {
		metav1.SetMetaDataAnnotation(&d.Spec.Template.ObjectMeta, restartedAt, s.Now.Format(time.RFC3339))
	}, "kubectl-rollout", `{"f:spec":{"f:template":{"f:metadata":{"f:annotations":{"f:kubectl.kubernetes.io/restartedAt":{}}}}}}`)
}

// takesUpAnother restarts when the tag points to another image, which is good: who restarts wants what it points to now, whatever
// was pinned.
func (s *stage) takesUpAnother() {
	s.t.Helper()
	s.moves("sha256:cccccccccccccccc")
	s.restarts()
	s.pass(2 * time.Minute)
	s.wants("Ready RolledOut")
	s.wantsWritten("app:latest restarted")
	if got := s.running(); got != "ccc" {
		s.t.Errorf("the pods run %s", got)
	}
}

// s changes the Deployment, as somebody else.
func (s *stage) s(change func(*appsv1.Deployment), manager, fields string) {
	s.Deployment = s.Deployment.DeepCopy()
	change(s.Deployment)
	s.Deployment.Generation++
	s.Deployment.ManagedFields = append(s.Deployment.ManagedFields, metav1.ManagedFieldsEntry{Manager: manager,
		Time: new(metav1.NewTime(s.Now)), FieldsV1: metav1.NewFieldsV1(fields)})
}

// moves lets the tag point to another image.
func (s *stage) moves(digest string) { s.tag = digest }

// pass plays for some time: each second as long as much happens, and then as often as Belay looks.
func (s *stage) pass(during time.Duration) {
	began, step := s.Now, time.Second
	for end := s.Now.Add(during); s.Now.Before(end); s.after(step) {
		if s.Now.Sub(began) >= 15*time.Second {
			step = pollInterval
		}
		for range 8 {
			s.control()
			before := s.Deployment
			d, _ := s.step()
			s.told = append(s.told, d.Events...)
			if s.Deployment != before {
				s.wrote = append(s.wrote, s.Deployment.Spec.Template.Spec.Containers[0].Image+s.mark())
			}
			if d.Record == nil && d.Mark == nil && d.Deployment == nil && d.Status == nil {
				break
			}
		}
	}
}

// mark is what others have added to the template.
func (s *stage) mark() string {
	if at := s.Deployment.Spec.Template.Annotations[restartedAt]; at != "" {
		return " restarted"
	}
	return ""
}

// control is the Deployment controller: it numbers, scales and counts.
func (s *stage) control() {
	if s.Deployment == nil {
		return
	}
	s.start()
	d := s.Deployment.DeepCopy()
	wanted := int(*d.Spec.Replicas)
	current := CurrentReplicaSet(d, s.sets)
	if current == nil {
		current = &appsv1.ReplicaSet{}
		s.made++
		current.Name, current.UID, current.CreationTimestamp = fmt.Sprint("web-", s.made), types.UID(fmt.Sprint("uid-of-set-", s.made)), metav1.NewTime(s.Now)
		d.Spec.Template.DeepCopyInto(&current.Spec.Template)
		metav1.SetMetaDataLabel(&current.Spec.Template.ObjectMeta, appsv1.DefaultDeploymentUniqueLabelKey, fmt.Sprint(s.made))
		s.sets = append(s.sets, current)
	}
	if number := current.Annotations[SetNumber]; number == "" || d.Annotations[SetNumber] != number {
		current.Annotations = map[string]string{SetNumber: strconv.Itoa(s.highest() + 1), setNumbersBefore: number}
		metav1.SetMetaDataAnnotation(&d.ObjectMeta, SetNumber, current.Annotations[SetNumber])
	}
	s.scaleSet(current, wanted)
	up := 0
	for _, pod := range s.pods[current.UID] {
		up += int(count1(readyByOwnWord(pod)))
	}
	current.Status.AvailableReplicas = int32(up)
	all := wanted
	for _, set := range s.sets {
		if set != current {
			s.pods[set.UID] = slices.DeleteFunc(s.pods[set.UID], func(p *corev1.Pod) bool { return !readyByOwnWord(p) })
			left := min(len(s.pods[set.UID]), s.serving)
			if up == wanted {
				left = 0
			}
			s.scaleSet(set, left)
			all += left
		}
	}
	reason := "ReplicaSetUpdated"
	if up == wanted && all == wanted {
		reason = "NewReplicaSetAvailable"
	}
	d.Status = appsv1.DeploymentStatus{ObservedGeneration: d.Generation, Replicas: int32(all), UpdatedReplicas: int32(wanted), AvailableReplicas: int32(up + all - wanted),
		ReadyReplicas: int32(up + all - wanted), Conditions: []appsv1.DeploymentCondition{{Type: appsv1.DeploymentProgressing, Status: corev1.ConditionTrue, Reason: reason,
			LastUpdateTime: metav1.NewTime(s.Now)}}}
	s.Deployment = d
}

func (s *stage) highest() (n int) {
	for _, set := range s.sets {
		number, _ := strconv.Atoi(set.Annotations[SetNumber])
		n = max(n, number)
	}
	return n
}

func (s *stage) scaleSet(set *appsv1.ReplicaSet, wanted int) {
	set.Spec.Replicas, set.Status.Replicas = new(int32(wanted)), int32(wanted)
	for len(s.pods[set.UID]) < wanted {
		s.pods[set.UID] = append(s.pods[set.UID], s.pod(set))
	}
	s.pods[set.UID] = s.pods[set.UID][:wanted]
}

// pod makes a pod of a ReplicaSet.
func (s *stage) pod(set *appsv1.ReplicaSet) *corev1.Pod {
	s.made++
	image := set.Spec.Template.Spec.Containers[0].Image
	name, digest, pinned := strings.Cut(image, "@")
	if !pinned {
		name, digest = repository(image), s.tag
	}
	p := pod(fmt.Sprint("pod-", s.made), waits("ContainerCreating"))
	p.CreationTimestamp = metav1.NewTime(s.Now)
	fare := isReady
	if s.bad[digest] || len(set.Spec.Template.Spec.Containers) > 1 {
		fare = func(p *corev1.Pod) { changed(p, restarted(9), waits("CrashLoopBackOff"), exited(7, "no database")) }
	}
	if s.lost && pinned {
		fare = func(p *corev1.Pod) {
			changed(p, waits("ErrImagePull"))
			p.Status.ContainerStatuses[0].State.Waiting.Message = image + ": not found"
		}
	}
	s.fares[p.UID] = func(p *corev1.Pod) {
		p.Status.ContainerStatuses[0] = corev1.ContainerStatus{Name: "web", ImageID: name + "@" + digest}
		if s.local {
			p.Status.ContainerStatuses[0].ImageID = digest
		}
		fare(p)
	}
	return p
}

// start starts the containers of pods that are old enough for that.
func (s *stage) start() {
	for _, pods := range s.pods {
		for i, p := range pods {
			if start := s.fares[p.UID]; start != nil && s.Now.Sub(p.CreationTimestamp.Time) > 4*time.Second {
				pods[i] = p.DeepCopy()
				start(pods[i])
				delete(s.fares, p.UID)
			}
		}
	}
}

func (s *stage) evidence() *Evidence {
	e := &Evidence{}
	current := CurrentReplicaSet(s.Deployment, s.sets)
	for _, set := range s.sets {
		e.ReplicaSets = append(e.ReplicaSets, set.DeepCopy())
		if set == current {
			e.Pods = slices.Concat(s.pods[set.UID], s.ended[set.UID])
		} else {
			e.OldPods = append(e.OldPods, s.pods[set.UID]...)
		}
	}
	return e
}

// wants checks how the GuardedDeployment stands.
func (s *stage) wants(want string) {
	s.t.Helper()
	if got := conditions(&s.Guarded.Status); got != want {
		s.t.Errorf("it is %s, want %s: %s", got, want, s.message())
	}
}

func (s *stage) message() string {
	if len(s.Guarded.Status.Conditions) == 0 {
		return ""
	}
	return s.Guarded.Status.Conditions[0].Message
}

// says checks what the condition says.
func (s *stage) says(parts ...string) {
	s.t.Helper()
	for _, part := range parts {
		if !strings.Contains(s.message(), part) {
			s.t.Errorf("it does not say %q: %s", part, s.message())
		}
	}
}

func (s *stage) wantsWritten(want ...string) {
	s.t.Helper()
	if diff := cmp.Diff(want, s.wrote); diff != "" {
		s.t.Errorf("the Deployment was written (-want +got):\n%s", diff)
	}
	s.wrote = nil
}

// running returns the digests that the pods of the current ReplicaSet run.
func (s *stage) running() string {
	var digests []string
	for _, pod := range s.pods[CurrentReplicaSet(s.Deployment, s.sets).UID] {
		digest, _ := digestIn(pod, "web", "app")
		digests = append(digests, strings.TrimPrefix(digest, "sha256:")[:1])
	}
	return strings.Join(digests, "")
}

// events returns the Events as reasons.
func (s *stage) events() []string {
	var reasons []string
	for _, e := range s.told {
		reasons = append(reasons, e.Type+" "+e.Reason)
	}
	s.told = nil
	return reasons
}

func TestRestart_GoodIsJudgedLikeARelease(t *testing.T) {
	s := onStage(t)
	before := s.revision("app:latest").goodWith()
	s.restarts()
	s.pass(2 * time.Second)
	s.wants("Reconciling Progressing")
	s.says("restarting web-")
	s.pass(10 * time.Second)
	s.wants("Reconciling Soaking")
	s.pass(time.Minute)
	s.wants("Ready RolledOut")
	s.wantsWritten()
	after := s.revision("app:latest").goodWith()
	if after.ReplicaSet == before.ReplicaSet || after.Number != "2" {
		t.Errorf("good with %+v, before with %+v", after, before)
	}
	if diff := cmp.Diff([]string{"Normal RolledOut"}, s.events()); diff != "" {
		t.Error(diff)
	}
}

func TestRestart_FailedIsUndone(t *testing.T) {
	s := onStage(t)
	s.moves(badDigest)
	s.restarts()
	s.pass(4 * time.Second)
	s.pass(time.Minute)
	s.wants("Ready RolledOut")
	s.says("is good and running; the restart of web-", "exited with code 7", "what was good runs again")
	s.wantsWritten("app:latest")
	if got := s.running(); got != "aaa" {
		t.Errorf("the pods run %s", got)
	}
	f := s.Guarded.Status.Failure
	if f == nil || f.ReplicaSet != "web-5" || f.Reason != v1alpha1.FailureCrashLoop || *f.ExitCode != 7 || f.Cause != v1alpha1.CauseExitCode {
		t.Fatalf("the failure is %+v", f)
	}
	want := []v1alpha1.MovedImage{{Container: "web", Image: "app:latest", Good: goodDigest, Now: badDigest}}
	if diff := cmp.Diff(want, f.Images); diff != "" {
		t.Error(diff)
	}
	if !strings.Contains(f.Message, "image app:latest of container web is sha256:bbbbbbbbbbbb now, was sha256:aaaaaaaaaaaa when web-") {
		t.Error(f.Message)
	}
	told := s.told
	if diff := cmp.Diff([]string{"Warning CrashLoop", "Normal RestartFailed", "Normal RolledOut"}, s.events()); diff != "" {
		t.Fatal(diff)
	}
	if !strings.Contains(told[1].Message, `which "kubectl-rollout" had changed`) || !strings.HasPrefix(told[0].Message, "the restart of web-") {
		t.Errorf("%q, %q", told[0].Message, told[1].Message)
	}

	s.restart() // of Belay's process
	s.pass(time.Minute)
	s.wants("Ready RolledOut")
	s.wantsWritten()

	s.moves(goodDigest) // The next restart is the next attempt.
	s.restarts()
	s.pass(2 * time.Minute)
	s.wants("Ready RolledOut")
	s.wantsWritten()
	if s.Guarded.Status.Failure != nil || s.mark() == "" {
		t.Errorf("the failure is still %+v, the mark is %q", s.Guarded.Status.Failure, s.mark())
	}
}

func TestRestart_StatusWhileItIsUndone(t *testing.T) {
	s := onStage(t, func(s *stage) { s.serving = 2 })
	s.Guarded.Spec.Guard.PinImages = v1alpha1.PinNever
	s.moves(badDigest)
	s.restarts()
	s.pass(9 * time.Second)
	s.wants("Reconciling RestartFailed")
	s.says("it is undone")
	s.pass(11 * time.Minute) // The pods that are made anew run what the tag points to.
	s.wants("Stalled DeadlineExceeded")
	s.says("was good, and does not come up", "sha256:bbbbbbbbbbbb now, was sha256:aaaaaaaaaaaa")
}

// Who has to act first while a restart is undone is said.
func TestRestart_UndoneWaits(t *testing.T) {
	s := onStage(t, func(s *stage) { s.serving = 2 })
	s.moves(badDigest)
	s.restarts()
	for range 60 {
		if s.pass(time.Second); len(s.wrote) > 0 {
			break
		}
	}
	for _, pods := range s.pods {
		for i, p := range pods {
			if s.fares[p.UID] != nil {
				s.fares[p.UID] = func(*corev1.Pod) {}
				pods[i] = pod(p.Name, func(p *corev1.Pod) { p.Spec.NodeName = "" })
				pods[i].Status = corev1.PodStatus{}
			}
		}
	}
	s.pass(2 * time.Minute)
	s.wants("Reconciling WaitingForScheduler")
	s.pass(11 * time.Minute)
	s.wants("Stalled WaitingForScheduler")
}

func TestRestart_PinsWhereOldPodsAreGone(t *testing.T) {
	for name, serving := range map[string]int{"two of three serve": 2, "none serves": 0} {
		t.Run(name, func(t *testing.T) {
			s := onStage(t, func(s *stage) { s.serving = serving })
			s.moves(badDigest)
			s.restarts()
			s.pass(2 * time.Minute)
			s.wants("Ready RolledOut")
			if got := s.running(); got != "aaa" {
				t.Errorf("the pods run %s", got)
			}
			pinned := "app@" + goodDigest
			if serving == 0 {
				s.wantsWritten(pinned)
			} else {
				s.wantsWritten("app:latest", pinned)
			}
			s.restart()
			s.pass(time.Minute)
			s.wantsWritten()

			s.takesUpAnother()
		})
	}
}

// What was good by digest is gone back to by digest: its pods serve.
func TestRestart_OfWhatIsPinnedIsUndone(t *testing.T) {
	for name, back := range map[string]func(*stage){
		"from a restart": func(s *stage) { s.restarts() },
		"from a release": func(s *stage) { s.Guarded.Spec.Template.Spec.Containers[0].Image = "app:v2"; s.ask("app:v2") },
	} {
		t.Run(name, func(t *testing.T) {
			s := onStage(t, func(s *stage) { s.serving = 0 })
			s.rollsBack("")
			s.restarts() // That is good with the digest.
			s.pass(2 * time.Minute)
			s.Guarded.Spec.Template.Spec.Containers[0].Env = nil
			s.ask("app:latest")
			s.pass(time.Minute)
			s.wants("Ready RolledOut")
			s.serving, s.wrote = 3, nil
			was := CurrentReplicaSet(s.Deployment, s.sets)
			back(s)
			s.pass(3 * time.Minute)
			if got := s.wrote[len(s.wrote)-1]; got != "app@"+goodDigest+" restarted" || s.running() != "aaa" {
				t.Errorf("it was written %v, and %s runs", s.wrote, s.running())
			}
			if got := CurrentReplicaSet(s.Deployment, s.sets); got != was {
				t.Errorf("%s runs, not %s, whose pods served", got.Name, was.Name)
			}
		})
	}
}

func TestRestart_HeldIsLeft(t *testing.T) {
	s := onStage(t)
	s.hold()
	s.moves(badDigest)
	s.restarts()
	s.pass(20 * time.Minute)
	s.wants("Stalled RestartFailed")
	s.wantsWritten()
	if diff := cmp.Diff([]string{"Warning CrashLoop", "Warning RestartFailed"}, s.events()); diff != "" {
		t.Error(diff)
	}
	s.Guarded.Spec.Guard.OnFailure = v1alpha1.Rollback // Then it is undone at once.
	s.pass(5 * time.Second)
	s.wantsWritten("app:latest")
	s.pass(time.Minute)
	s.wants("Ready RolledOut")
}

func TestRestart_HeldThatComesUpLateIsGood(t *testing.T) {
	s := onStage(t)
	s.hold()
	s.moves(badDigest)
	s.restarts()
	s.pass(time.Minute)
	s.wants("Stalled RestartFailed")
	current := CurrentReplicaSet(s.Deployment, s.sets)
	s.pods[current.UID] = nil // It is made anew, from an image that is mended.
	s.moves(goodDigest)
	s.pass(2 * time.Minute)
	s.wants("Ready RolledOut")
	if s.Guarded.Status.Failure != nil {
		t.Errorf("the failure is still %+v", s.Guarded.Status.Failure)
	}
}

func TestRestart_OfWhatIsGoneIsReported(t *testing.T) {
	s := onStage(t, func(s *stage) { s.serving = 0 })
	s.moves(badDigest)
	s.restarts()
	s.control()
	s.sets = s.sets[1:]
	s.pass(20 * time.Minute)
	s.wants("Stalled RestartFailed")
	s.says("the ReplicaSet that was good is gone")
	s.wantsWritten()
}

func TestRestart_AdditionOfAnotherTool(t *testing.T) {
	s := onStage(t)
	s.s(func(d *appsv1.Deployment) {
		d.Spec.Template.Spec.Containers = append(d.Spec.Template.Spec.Containers, corev1.Container{Name: "sidecar", Image: "side:1"})
	}, "helper", `{"f:spec":{"f:template":{"f:spec":{"f:containers":{"k:{\"name\":\"sidecar\"}":{}}}}}}`)
	s.pass(time.Minute)
	s.wants("Ready RolledOut")
	s.wantsWritten("app:latest")
	if n := len(s.Deployment.Spec.Template.Spec.Containers); n != 1 {
		t.Errorf("there are %d containers", n)
	}
	if got := s.told[1].Message; !strings.Contains(got, `put back spec.template.spec.containers of the Deployment, which "helper" had changed`) {
		t.Error(got)
	}
}

func TestRestart_AgainAndAgainIsContested(t *testing.T) {
	s := onStage(t)
	s.moves(badDigest)
	undone := 0
	for range 20 {
		s.restarts()
		s.pass(30 * time.Second)
		undone += len(s.wrote)
		s.wrote = nil
	}
	if undone < freeCorrections || undone > freeCorrections+2 {
		t.Errorf("undone %d times in ten minutes", undone)
	}
	s.wants("Stalled Contested")
	s.says(`"kubectl-rollout" keeps changing`, "exited with code 7")
	if d := Decide(s.Observed); d.NeedEvidence {
		t.Error("pods are read while it is contested")
	}
}

func TestRestart_SameMarkIsNotJudgedTwice(t *testing.T) {
	s := onStage(t)
	s.moves(badDigest)
	s.restarts()
	mark := s.Deployment.Spec.Template.Annotations[restartedAt]
	s.pass(time.Minute)
	s.events()
	s.s(func(d *appsv1.Deployment) {
		metav1.SetMetaDataAnnotation(&d.Spec.Template.ObjectMeta, restartedAt, mark)
	}, "tool", `{}`)
	s.wrote = nil
	s.pass(5 * time.Second)
	s.wantsWritten("app:latest")
	if diff := cmp.Diff([]string{"Normal RestartFailed", "Normal RolledOut"}, s.events()); diff != "" {
		t.Error(diff)
	}
}

func TestRestart_WhileBelayIsAway(t *testing.T) {
	s := onStage(t)
	s.moves(badDigest)
	s.restarts()
	for range 5 {
		s.control()
	}
	s.restart()
	s.pass(time.Minute)
	s.wants("Ready RolledOut")
	s.wantsWritten("app:latest")
}

// Belay's process ends after each step of the story.
func TestRestart_ProcessEndsAtEachStep(t *testing.T) {
	for second := range 16 {
		s := onStage(t)
		s.moves(badDigest)
		s.restarts()
		s.pass(time.Duration(second) * time.Second)
		s.restart()
		s.pass(2 * time.Minute)
		s.wants("Ready RolledOut")
		s.wantsWritten("app:latest")
	}
}

func TestRestart_WhileRolledBack(t *testing.T) {
	rolledBack := func(t *testing.T) *stage {
		s := onStage(t)
		s.bad["sha256:v2"] = true
		s.tag = "sha256:v2"
		s.ask("app:v2")
		s.pass(time.Minute)
		s.wants("Stalled RolledBack")
		s.wantsWritten("app:v2", "app:latest")
		s.tag = goodDigest
		s.events()
		s.restarts()
		return s
	}
	t.Run("good", func(t *testing.T) {
		s := rolledBack(t)
		s.pass(9 * time.Second)
		s.wants("Reconciling Soaking")
		s.pass(time.Minute)
		s.wants("Stalled RolledBack")
		s.wantsWritten()
	})
	t.Run("failed", func(t *testing.T) {
		s := rolledBack(t)
		s.tag = badDigest
		s.pass(time.Minute)
		s.wants("Stalled RolledBack")
		s.wantsWritten("app:latest")
		if f := s.Guarded.Status.Failure; f == nil || f.ReplicaSet != "" {
			t.Errorf("the failure of the release is not told any more: %+v", f)
		}
	})
}

func TestRestart_DuringAReleaseIsLeftBehind(t *testing.T) {
	s := onStage(t)
	s.bad["sha256:v2"] = true
	s.tag = "sha256:v2"
	s.ask("app:v2")
	s.pass(2 * time.Second)
	s.restarts()
	s.pass(time.Minute)
	s.wants("Stalled RolledBack")
	s.wantsWritten("app:v2", "app:latest") // without the mark: those are the pods that serve
	if got := s.running(); got != "aaa" {
		t.Errorf("the pods run %s", got)
	}
}

func TestRestart_NewTemplateWins(t *testing.T) {
	s := onStage(t)
	s.moves(badDigest)
	s.restarts()
	s.pass(2 * time.Second)
	s.bad = nil
	s.ask("app:v2")
	s.pass(2 * time.Minute)
	s.wants("Ready RolledOut")
	s.wantsWritten("app:v2 restarted")
}

func TestRestart_UndoneByHand(t *testing.T) {
	s := onStage(t)
	s.moves(badDigest)
	s.restarts()
	s.pass(2 * time.Second)
	s.wants("Reconciling Progressing")
	s.s(func(d *appsv1.Deployment) { delete(d.Spec.Template.Annotations, restartedAt) }, "kubectl", `{}`)
	s.pass(20 * time.Second)
	s.wants("Ready RolledOut")
	s.wantsWritten()
}

// A template that a newer server or library reads otherwise is no new ReplicaSet.
func TestRestart_AnotherHashOfTheSameReplicaSet(t *testing.T) {
	s := onStage(t)
	r := s.revision("app:latest")
	changed := r.ControllerRevision.DeepCopy()
	good := r.goodWith()
	good.Template, good.Number = "another", "another"
	annotate(changed, v1alpha1.GoodWithAnnotation, good)
	s.store(changed)
	s.restart()
	s.pass(time.Minute)
	s.wants("Ready RolledOut")
	s.wantsWritten()
	if len(s.told) > 0 {
		t.Errorf("told: %v", s.told)
	}
}

// Nothing is read or written at rest, also after a process has begun anew.
func TestRestart_NothingAtRest(t *testing.T) {
	s := onStage(t)
	for range 2 {
		if d := Decide(s.Observed); d.NeedEvidence || d.Status != nil || d.Recheck != 0 {
			t.Errorf("at rest: %s", s.tell(d))
		}
		s.restart()
		s.Memory.UID = s.Guarded.UID
	}
}

func TestRestart_VerdictIsStoredFirst(t *testing.T) {
	s := onStage(t)
	s.moves(badDigest)
	s.restarts()
	for range 20 {
		s.control()
		before := s.revision("app:latest").Failure.ReplicaSet
		d, _ := s.step()
		if d.Deployment != nil {
			if before == "" {
				t.Error("the Deployment moves before the verdict is stored")
			}
			return
		}
		s.after(time.Second)
	}
	t.Error("not undone")
}

// A policy that brings the addition back is not fought.
func TestRestart_PolicyChangesItBack(t *testing.T) {
	s := onStage(t)
	s.admit = func(before, written *appsv1.Deployment) { before.Spec.DeepCopyInto(&written.Spec) }
	s.moves(badDigest)
	s.restarts()
	s.pass(30 * time.Minute)
	s.wants("Stalled RestartFailed")
	s.says("a policy changes it back")
	s.wantsWritten("app:latest restarted")
}

// What is not the template's business does not begin the story anew.
func TestRestart_ScaledWhileHeld(t *testing.T) {
	s := onStage(t)
	s.hold()
	s.moves(badDigest)
	s.restarts()
	s.pass(time.Minute)
	s.wants("Stalled RestartFailed")
	s.events()
	s.scale(new(int32(5)))
	s.pass(time.Minute)
	s.wants("Stalled RestartFailed")
	if told := s.events(); len(told) > 0 {
		t.Errorf("told again: %v", told)
	}
}

func TestRestart_ScaledWhileItIsJudged(t *testing.T) {
	s := onStage(t)
	s.moves(badDigest)
	s.restarts()
	s.pass(2 * time.Second)
	s.scale(new(int32(5)))
	s.pass(time.Minute)
	s.wants("Ready RolledOut")
	s.wantsWritten("app:latest restarted", "app:latest", "app@"+goodDigest) // Two pods more are made, of what the tag points to now.
}

// An older ReplicaSet that becomes the current one again is not judged by what its pods did before.
func TestRestart_OlderReplicaSetAgain(t *testing.T) {
	s := onStage(t)
	first := s.sets[0]
	s.restarts()
	s.pass(time.Minute)
	s.wants("Ready RolledOut")
	s.ended = map[types.UID][]*corev1.Pod{first.UID: nil}
	for i := range 9 {
		ended := pod(fmt.Sprint("ended-", i), evictedForStorage)
		ended.CreationTimestamp = metav1.NewTime(noon)
		s.ended[first.UID] = append(s.ended[first.UID], ended)
	}
	s.s(func(d *appsv1.Deployment) { delete(d.Spec.Template.Annotations, restartedAt) }, "kubectl", `{}`)
	s.pass(time.Minute)
	s.wants("Ready RolledOut")
	s.wantsWritten()
	if good := s.revision("app:latest").goodWith(); good.ReplicaSet != first.UID || s.Guarded.Status.Failure != nil {
		t.Errorf("good with %+v; failure %+v", good, s.Guarded.Status.Failure)
	}
}

// An answer that is lost says nothing: the write is found, or made again, and told once.
func TestRestart_LostAnswer(t *testing.T) {
	for _, when := range []string{"after it took effect", "before it took effect"} {
		t.Run(when, func(t *testing.T) {
			s := onStage(t)
			s.moves(badDigest)
			s.restarts()
			s.losesAnswers = when
			s.pass(2 * time.Minute)
			s.wants("Ready RolledOut")
			s.wantsWritten("app:latest")
			if diff := cmp.Diff([]string{"Normal RestartFailed", "Normal RolledOut", "Warning CrashLoop"}, slices.Sorted(slices.Values(s.events()))); diff != "" {
				t.Error(diff)
			}
			if s.Memory.corrections != 1 {
				t.Errorf("%d corrections", s.Memory.corrections)
			}
		})
	}
}

// While rolled back, "kubectl rollout undo" goes to the release that failed, with Belay's own annotations of that time. No restart is undone
// by putting that back.
func TestRestart_UndoToTheFailedReleaseIsNone(t *testing.T) {
	s := onStage(t)
	s.rollsBack("")
	s.wants("Stalled RolledBack")
	s.told = nil
	failed := desiredDeployment(s.Guarded, newState(s.Observed).target, nil)
	s.s(func(d *appsv1.Deployment) {
		d.Spec.Template = failed.Spec.Template
		maps.Copy(d.Annotations, failed.Annotations)
	}, "kubectl", `{}`)
	s.pass(time.Minute)
	s.wants("Stalled RolledBack")
	var reasons []string
	for _, event := range s.told {
		reasons = append(reasons, event.Reason)
	}
	if !slices.Contains(reasons, v1alpha1.ReasonContested) || slices.Contains(reasons, v1alpha1.ReasonRestartFailed) {
		t.Errorf("the Events are %+v", s.told)
	}
}

// While a restart that failed is left as it is, the next one is judged all the same.
func TestRestart_AnotherWhileOneIsHeld(t *testing.T) {
	s := onStage(t)
	s.hold()
	s.moves(badDigest)
	s.restarts()
	s.pass(time.Minute)
	s.wants("Stalled RestartFailed")
	first := s.Guarded.Status.Failure.ReplicaSet
	s.events()
	s.restarts()
	s.pass(3 * time.Second)
	s.wants("Reconciling Progressing")
	s.pass(time.Minute)
	s.wants("Stalled RestartFailed")
	if f := s.Guarded.Status.Failure; f.ReplicaSet == first {
		t.Errorf("the failure is still that of %s", first)
	}
	if diff := cmp.Diff([]string{"Warning CrashLoop", "Warning RestartFailed"}, s.events()); diff != "" {
		t.Error(diff)
	}
	s.moves(goodDigest)
	s.restarts()
	s.pass(2 * time.Second)
	s.wants("Reconciling Progressing")
	s.Guarded.Spec.Guard.OnFailure = v1alpha1.Rollback
	s.pass(time.Minute)
	s.wants("Ready RolledOut")
	s.wantsWritten()
}

// Of a revision that was good before anything was kept of its ReplicaSet, a restart that crashes is reported by the deadline.
func TestRestart_NothingIsKnownOfTheGoodOne(t *testing.T) {
	for name, again := range map[string]bool{"in one process": false, "after the process began": true} {
		t.Run(name, func(t *testing.T) {
			s := onStage(t)
			r := s.revision("app:latest").ControllerRevision.DeepCopy()
			delete(r.Annotations, v1alpha1.GoodWithAnnotation)
			delete(r.Annotations, v1alpha1.ImagesAnnotation)
			s.store(r)
			if again {
				s.restart()
				s.pass(time.Minute)
				s.wants("Ready RolledOut")
			}
			s.moves(badDigest)
			s.restarts()
			s.pass(time.Minute)
			s.wants("Reconciling Progressing")
			s.pass(10 * time.Minute)
			s.wants("Stalled DeadlineExceeded")
			s.wantsWritten()
		})
	}
}

// A rollback whose good ReplicaSet is gone has nothing to put back. That its restart crashes is reported.
func TestRestart_WhileRolledBackToWhatIsGone(t *testing.T) {
	s := onStage(t, func(s *stage) { s.serving = 0 })
	s.bad["sha256:v2"] = true
	s.tag = "sha256:v2"
	s.ask("app:v2")
	s.pass(2 * time.Second)
	s.sets = s.sets[1:]
	s.tag = goodDigest
	s.pass(time.Minute)
	s.Guarded.Spec.Guard.PinImages = v1alpha1.PinNever
	s.pass(time.Minute)
	s.wants("Stalled RolledBack")
	s.serving = 3
	s.moves(badDigest)
	s.restarts()
	s.pass(time.Minute)
	s.wants("Reconciling Progressing")
	s.pass(10 * time.Minute)
	s.wants("Stalled RollbackFailed")
}

// Who restarts once more, before the first one is undone, has that judged.
func TestRestart_AnotherBeforeOneIsUndone(t *testing.T) {
	s := onStage(t)
	s.moves(badDigest)
	s.restarts()
	for s.revision("app:latest").Failure.ReplicaSet == "" {
		s.control()
		s.step()
		s.after(time.Second)
	}
	s.moves(goodDigest)
	s.restarts()
	s.pass(2 * time.Minute)
	s.wants("Ready RolledOut")
	s.wantsWritten()
	if s.Guarded.Status.Failure != nil || s.mark() == "" {
		t.Errorf("the failure is %+v, the mark is %q", s.Guarded.Status.Failure, s.mark())
	}
}

// What a policy has made of the template cannot be told from what somebody forged: that is said.
func TestRestart_PolicyRewritesTheImage(t *testing.T) {
	s := onStage(t, func(s *stage) {
		s.admit = func(_, written *appsv1.Deployment) {
			written.Spec.Template.Spec.Containers[0].Image = "mirror/app:latest"
		}
	})
	s.moves(badDigest)
	s.restarts()
	s.pass(2 * time.Minute)
	s.wants("Stalled RestartFailed")
	s.says("the ReplicaSet that was good differs from what the revision states")
}

// After an adoption, the template tells which ReplicaSet was good.
func TestRestart_AfterAnAdoption(t *testing.T) {
	s := onStage(t)
	r := s.revision("app:latest")
	adopted, good := r.ControllerRevision.DeepCopy(), r.goodWith()
	good.ReplicaSet = ""
	annotate(adopted, v1alpha1.GoodWithAnnotation, good)
	s.store(adopted)
	s.restart()
	s.pass(time.Minute)
	s.wants("Ready RolledOut")
	s.moves(badDigest)
	s.restarts()
	s.pass(time.Minute)
	s.wants("Ready RolledOut")
	s.wantsWritten("app:latest")
	if s.Guarded.Status.Failure == nil {
		t.Error("no failure is told")
	}
}

// What was rolled out while nobody looked has to soak, too.
func TestRestart_CompleteBeforeTheFirstLook(t *testing.T) {
	s := onStage(t)
	s.restarts()
	for range 20 {
		s.after(time.Second)
		s.control()
	}
	s.restart()
	s.pass(time.Second)
	s.wants("Reconciling Soaking")
	s.pass(time.Minute)
	s.wants("Ready RolledOut")
}

// A process that begins knows of a restart that was left.
func TestRestart_HeldAcrossProcesses(t *testing.T) {
	s := onStage(t)
	s.hold()
	s.moves(badDigest)
	s.restarts()
	s.pass(time.Minute)
	s.wants("Stalled RestartFailed")
	failed := s.Guarded.Status.Failure.Time
	s.events()
	s.restart()
	s.pass(time.Minute)
	s.wants("Stalled RestartFailed")
	if told := s.events(); len(told) > 0 || !s.Guarded.Status.Failure.Time.Equal(&failed) {
		t.Errorf("told %v; judged again at %s, before at %s", told, s.Guarded.Status.Failure.Time, failed)
	}
}
