package rollout

import (
	"math"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
	"github.com/belay-dev/belay/test/kstatus"
)

func TestClean(t *testing.T) {
	for _, row := range []struct {
		text  string
		limit int
		want  string
	}{
		{"as it is", 100, "as it is"},
		{"exactly!", 8, "exactly!"},
		{"one more!", 8, "one m..."},
		{"a\nb\tc\rd\x00e\x7ff\u0085g", 100, "a b c d e f g"},
		{"\x1b[31mred\x1b[0m", 100, " [31mred [0m"},
		{"abc\u202edef\u2066 \u2028 \u2029", 100, "abc def     "},
		{"bad \xff\xfe bytes", 100, "bad \uFFFD bytes"},
		{"ünïcödé", 100, "ünïcödé"},
		{"ü" + "ü" + "ü" + "ü", 6, "ü..."}, // four would be 8 bytes: cut before a half one
		{strings.Repeat("語", 40000), 10, "語語..."},
		{strings.Repeat("\n", 40000), 10, "       ..."},
		{"", 10, ""},
	} {
		if got := Clean(row.text, row.limit); got != row.want {
			t.Errorf("Clean(%.20q, %d) = %q, want %q", row.text, row.limit, got, row.want)
		}
	}
}

// unprintable says of what Clean must leave nothing: it would change a terminal, or what a line seems to say.
func unprintable(r rune) bool {
	return unicode.In(r, unicode.Cc, unicode.Bidi_Control, unicode.Zl, unicode.Zp)
}

func FuzzClean(f *testing.F) {
	for _, seed := range []string{"", "plain", "\x00\x1b\n", "\xff\xfe\xfd", "語語語", strings.Repeat("\xf0\x9f", 99), strings.Repeat("x", 5000), "\u0085\u009b"} {
		f.Add(seed, 10)
		f.Add(seed, MaxEvent)
	}
	f.Fuzz(func(t *testing.T, text string, limit int) {
		limit = 3 + (limit&0xffff)%5000
		got := Clean(text, limit)
		switch {
		case len(got) > limit:
			t.Errorf("%d bytes of %d", len(got), limit)
		case !utf8.ValidString(got):
			t.Errorf("no valid UTF-8: %q", got)
		case strings.ContainsFunc(got, unprintable):
			t.Errorf("a control character: %q", got)
		case Clean(got, limit) != got:
			t.Errorf("cleaned again: %q", Clean(got, limit))
		case len(text) <= limit && utf8.ValidString(text) && utf8.RuneCountInString(got) != utf8.RuneCountInString(text) && len(got) < len(text)/2:
			t.Errorf("%q became %q", text, got)
		}
	})
}

// Whatever a container says, what Belay writes about it can be stored and shown.
func TestClean_WhatOthersSay(t *testing.T) {
	for _, words := range []string{strings.Repeat("x", 100_000), strings.Repeat("語", 40_000), "\x1b[2J\n\x00\u009b", strings.Repeat("\xff", 5000), ""} {
		s := asking("v2").knows("v1", 1, good).runningName("v1")
		s.cluster = func(d *appsv1.Deployment) *Evidence {
			return evidence(d, pod("p", restarted(9), waits("CrashLoopBackOff"), exited(1, words)))
		}
		for range 30 {
			d, _ := s.step()
			if d.Mark != nil && len(d.Mark.Annotations[v1alpha1.FailureAnnotation]) > 2000 {
				t.Errorf("%d bytes of evidence", len(d.Mark.Annotations[v1alpha1.FailureAnnotation]))
			}
			for _, e := range d.Events {
				checkText(t, e.Message, MaxEvent)
			}
			for _, c := range s.Guarded.Status.Conditions {
				checkText(t, c.Message, maxCondition)
			}
			s.after(d.Recheck)
		}
		if s.Guarded.Status.Failure == nil {
			t.Fatal("it did not fail")
		}
		checkText(t, s.Guarded.Status.Failure.Message, maxMessage)
	}
}

func checkText(t *testing.T, text string, limit int) {
	t.Helper()
	if len(text) > limit || !utf8.ValidString(text) || strings.ContainsFunc(text, unprintable) {
		t.Errorf("%d bytes of %d: %.100q", len(text), limit, text)
	}
}

func TestOutcomes(t *testing.T) {
	status := func(target, reason string, failedAt int) *v1alpha1.GuardedDeploymentStatus {
		st := &v1alpha1.GuardedDeploymentStatus{TargetRevision: target}
		st.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionReady, Reason: reason}}
		if failedAt > 0 {
			st.Failure = &v1alpha1.Failure{Revision: target, Reason: "CrashLoop", Time: metav1.NewTime(noon.Add(time.Duration(failedAt) * time.Hour))}
		}
		return st
	}
	none := &v1alpha1.GuardedDeploymentStatus{}
	for _, row := range []struct {
		name          string
		before, after *v1alpha1.GuardedDeploymentStatus
		want          string
	}{
		{"the first success", none, status("a", "RolledOut", 0), "Normal RolledOut RollOut"},
		{"the same again", status("a", "RolledOut", 0), status("a", "RolledOut", 0), ""},
		{"another revision's", status("a", "RolledOut", 0), status("b", "RolledOut", 0), "Normal RolledOut RollOut"},
		{"progress", none, status("a", "Progressing", 0), ""},
		{"a soak", none, status("a", "Soaking", 0), ""},
		{"somebody absent", none, status("a", "WaitingForDeploymentController", 0), ""},
		{"a pause", none, status("a", "Paused", 0), ""},
		{"no replicas", none, status("a", "ScaledToZero", 0), ""},
		{"a failure", status("a", "Progressing", 0), status("a", "Progressing", 1), "Warning CrashLoop Judge"},
		{"the same failure", status("a", "Progressing", 1), status("a", "Progressing", 1), ""},
		{"another attempt's failure", status("a", "Progressing", 1), status("a", "Progressing", 2), "Warning CrashLoop Judge"},
		{"another revision's failure", status("a", "Progressing", 1), status("b", "Progressing", 1), "Warning CrashLoop Judge"},
		{"a rollback", status("a", "Progressing", 1), status("a", "RolledBack", 1), "Warning RolledBack RollBack"},
		{"a failed rollback", status("a", "Progressing", 1), status("a", "RollbackFailed", 1), "Warning RollbackFailed RollBack"},
		{"nothing to go back to", status("a", "Progressing", 0), status("a", "NoGoodRevision", 1), "Warning CrashLoop Judge, Warning NoGoodRevision Stay"},
		{"held", status("a", "Progressing", 1), status("a", "Held", 1), "Warning Held Stay"},
		{"invalid", status("a", "Progressing", 0), status("a", "Invalid", 0), "Warning Invalid Write"},
		{"denied", status("a", "Progressing", 0), status("a", "Denied", 0), "Warning Denied Write"},
		{"a name taken", none, status("", "NameTaken", 0), "Warning NameTaken Write"},
		{"contested", status("a", "RolledOut", 0), status("a", "Contested", 0), "Warning Contested Write"},
		{"over", status("a", "RolledOut", 1), status("a", "RolledOut", 0), ""},
	} {
		var got []string
		for _, e := range eventsOf(row.before, row.after) {
			got = append(got, e.Type+" "+e.Reason+" "+e.Action)
		}
		if strings.Join(got, ", ") != row.want {
			t.Errorf("%s: %q, want %q", row.name, got, row.want)
		}
	}
}

// The other Event, about what was put back, has all that the API server asks for.
func TestReport_EventsAreComplete(t *testing.T) {
	e := putBack("web", "spec.replicas", "", "")
	if e.Type != Normal || e.Reason == "" || e.Action == "" || !strings.Contains(e.Message, "spec.replicas") {
		t.Errorf("%+v", e)
	}
}

func TestPutBack_SaysWhatToDoInstead(t *testing.T) {
	for _, row := range []struct{ path, rival, want string }{
		{"spec.template.spec.containers[0].image", "kubectl-set", `put back spec.template.spec.containers[0].image of the Deployment, ` +
			`which "kubectl-set" had changed: change it in GuardedDeployment web instead, in git or with "kubectl patch gd web"`},
		{"metadata.labels[belay.dev/guarded]", "", "put back metadata.labels[belay.dev/guarded] of the Deployment, which somebody had changed"},
	} {
		if e := putBack("web", row.path, row.rival, ""); e.Message != row.want {
			t.Errorf("%q, want %q", e.Message, row.want)
		}
	}
	long := strings.Repeat("x", 253)
	if e := putBack(long, "spec.template.metadata.annotations["+long+"/"+long+"]", long, ""); len(e.Message) > MaxEvent {
		t.Errorf("%d bytes: %s", len(e.Message), e.Message)
	}
}

// The phases of a rollout as they are reported.
func TestUnderWay(t *testing.T) {
	for _, row := range []struct {
		progress Progress
		want     report
	}{
		{Progress{Phase: PhaseProgressing}, report{condition: v1alpha1.ConditionReconciling, reason: "Progressing", message: "rolling out web-1"}},
		{Progress{Phase: PhaseSoaking, Revision: "web-1"}, report{condition: v1alpha1.ConditionReconciling, reason: "Soaking",
			message: "web-1 is complete, and each of its pods has to stay available for spec.guard.soakSeconds before it counts as good"}},
		{Progress{Phase: PhaseBlocked, WaitingReason: "WaitingForScheduler", WaitingFor: "the scheduler"},
			report{condition: v1alpha1.ConditionReconciling, reason: "WaitingForScheduler", message: "rolling out web-1: waiting for the scheduler"}},
		{Progress{Phase: PhaseBlocked, WaitingReason: "WaitingForScheduler", WaitingFor: "the scheduler", Overdue: true},
			report{condition: v1alpha1.ConditionStalled, reason: "WaitingForScheduler", message: "rolling out web-1: waiting for the scheduler"}},
	} {
		if diff := cmp.Diff(row.want, underWay(row.progress, "rolling out web-1"), cmp.AllowUnexported(report{})); diff != "" {
			t.Errorf("-want +got:\n%s", diff)
		}
	}
	for phase, want := range map[Phase]bool{PhaseProgressing: true, PhaseSoaking: true, PhaseBlocked: true, PhaseHealthy: false, PhaseFailed: false} {
		if got := (Progress{Revision: "a", Phase: phase}).UnderWay(); got != want {
			t.Errorf("%s is under way: %t", phase, got)
		}
	}
	if (Progress{}).UnderWay() {
		t.Error("no move is under way")
	}
}

// Available is the Deployment's own word, and the counts are its counts. A stranger's are not shown.
func TestMirror(t *testing.T) {
	available := func(s *scene) string {
		status := Decide(s.Observed).Status
		i := slices.IndexFunc(status.Conditions, func(c metav1.Condition) bool { return c.Type == v1alpha1.ConditionAvailable })
		return string(status.Conditions[i].Status) + " " + status.Conditions[i].Reason
	}
	s := asking("v1").knows("v1", 1, good).runningName("v1")
	if got := available(s); got != "True MinimumReplicasAvailable" {
		t.Error(got)
	}
	s.Deployment.Status = appsv1.DeploymentStatus{Replicas: 4, UpdatedReplicas: 3, ReadyReplicas: 2, AvailableReplicas: 1,
		Conditions: []appsv1.DeploymentCondition{{Type: appsv1.DeploymentAvailable, Status: corev1.ConditionFalse, Reason: "MinimumReplicasUnavailable"}}}
	status := Decide(s.remembers("v1", PhaseHealthy).Observed).Status
	if status.Replicas != 4 || status.UpdatedReplicas != 3 || status.ReadyReplicas != 2 || status.AvailableReplicas != 1 {
		t.Errorf("counts: %+v", status)
	}
	if got := available(s); got != "False MinimumReplicasUnavailable" {
		t.Error(got)
	}
	s.Deployment.Status = appsv1.DeploymentStatus{}
	if got := available(s); got != "False NotReported" {
		t.Error(got)
	}
	s.Deployment.OwnerReferences = nil
	s.Deployment.Status.Replicas = 9
	if got := available(s); got != "False NameTaken" || Decide(s.Observed).Status.Replicas != 0 {
		t.Errorf("a stranger's: %s, %d replicas", got, Decide(s.Observed).Status.Replicas)
	}
	s.Deployment = nil
	if got := available(s.pause()); got != "False NoDeployment" {
		t.Error(got)
	}
}

func TestStandingStill(t *testing.T) {
	for name, row := range map[string]struct {
		scene *scene
		want  string
	}{
		"nothing is reported yet":      {asking("v1"), "Stalled; Ready SyncFailing"},
		"ready":                        {asking("v1").knows("v1", 1, good).runningName("v1").up(), "Ready; Ready RolledOut"},
		"ready, before the spec":       {asking("v1").knows("v1", 1, good).runningName("v1").up(), "Stalled; Ready SyncFailing"},
		"rolled back":                  {asking("v2").knows("v1", 1, good).knows("v2", 2, failed).runningName("v1").up(), "Stalled; Ready RolledBack"},
		"rolling out":                  {asking("v1").knows("v1", 1, unjudged).runningName("v1").down(), "Stalled; Ready SyncFailing"},
		"rolling out, before the spec": {asking("v1").knows("v1", 1, unjudged).runningName("v1").down(), "Stalled; Ready SyncFailing"},
	} {
		t.Run(name, func(t *testing.T) {
			if name != "nothing is reported yet" {
				row.scene.step()
			}
			if strings.HasSuffix(name, "before the spec") {
				row.scene.Guarded.Generation++
			}
			status := StandingStill(row.scene.Guarded, "why", noon)
			told := row.scene.Guarded.DeepCopy()
			told.Status = *status
			if err := kstatus.Check(told); err != nil {
				t.Error(err)
			}
			got := strings.TrimSuffix(conditions(status), " SyncFailing") + "; Ready " + meta.FindStatusCondition(status.Conditions, v1alpha1.ConditionReady).Reason
			if got != row.want || status.ObservedGeneration != row.scene.Guarded.Generation {
				t.Errorf("%s of generation %d, want %s", got, status.ObservedGeneration, row.want)
			}
		})
	}
}

// wants fails the test unless that is the reason of Ready, at the present generation.
func (s *scene) wants(t *testing.T, reason string) {
	t.Helper()
	if c := meta.FindStatusCondition(s.Guarded.Status.Conditions, v1alpha1.ConditionReady); c == nil || c.Reason != reason || c.ObservedGeneration != s.Guarded.Generation {
		t.Errorf("generation %d, and Ready is %+v, want %s", s.Guarded.Generation, c, reason)
	}
}

// toldIn returns the reasons of the Events of so many seconds.
func (s *scene) toldIn(seconds int) (all []string) {
	for range seconds {
		d, _ := s.step()
		for _, e := range d.Events {
			all = append(all, e.Reason)
		}
		s.after(time.Second)
	}
	return all
}

// One failure is told once, whatever else was asked for meanwhile, and one end whatever process comes.
func TestReport_ToldOnce(t *testing.T) {
	s := asking("v2").knows("v1", 1, good).runningName("v1").knows("v2", 2, failed)
	if told := s.toldIn(6); len(told) != 2 {
		t.Fatalf("told: %q, want a failure and an end", told)
	}
	s.pause()
	s.toldIn(3)
	s.ask("v3")
	s.toldIn(3)
	s.ask("v2")
	told := s.toldIn(3)
	s.restart()
	told = append(told, s.toldIn(3)...)
	s.resume()
	s.up()
	if told = append(told, s.toldIn(6)...); len(told) > 0 {
		t.Errorf("told again: %q", told)
	}
	s.wants(t, v1alpha1.ReasonRolledBack)
}

// What the write of a scale says is about the replicas that it asks for.
func TestReport_ScaledUpFromZero(t *testing.T) {
	s := asking("v1").knows("v1", 1, good).runningName("v1")
	s.play()
	s.scale(new(int32(0)))
	s.step()
	s.wants(t, v1alpha1.ReasonScaledToZero)
	s.up()
	s.play()
	s.scale(new(int32(3)))
	if d, _ := s.step(); d.Deployment == nil {
		t.Fatal("nothing is written")
	}
	s.wants(t, v1alpha1.ReasonRolledOut)
}

// Without a deadline the Deployment controller keeps no word on the rollout. One that had come up is not watched again by the next process
// because a node is away.
func TestReport_NoDeadline(t *testing.T) {
	s := asking("v1").knows("v1", 1, good).runningName("v1")
	s.Guarded.Spec.ProgressDeadlineSeconds = new(int32(math.MaxInt32))
	s.write(desiredDeployment(s.Guarded, s.revision("v1"), nil), nil)
	s.up()
	s.Deployment.Status.Conditions = nil
	s.Deployment.Status.ReadyReplicas, s.Deployment.Status.AvailableReplicas = 2, 2
	s.cluster = func(d *appsv1.Deployment) *Evidence {
		return evidence(d, pod("p0", isReady), pod("p1", isReady), pod("p2"))
	}
	s.restart()
	if d, _ := s.step(); d.Recheck != 0 {
		t.Errorf("another look in %s", d.Recheck)
	}
	s.wants(t, v1alpha1.ReasonRolledOut)
}
