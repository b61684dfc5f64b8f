package rollout

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

func (s *scene) retries(n int32) *scene { s.Guarded.Spec.Guard.Retries = &n; return s }

func TestRetryDelay(t *testing.T) {
	want := []time.Duration{time.Minute, 2 * time.Minute, 4 * time.Minute, 8 * time.Minute, 16 * time.Minute, 32 * time.Minute, time.Hour, time.Hour}
	for made, delay := range want {
		if got := retryDelay(made); got != delay {
			t.Errorf("after %d retries %s, want %s", made, got, delay)
		}
	}
	if got := retryDelay(100); got != time.Hour {
		t.Errorf("after 100 retries %s, want an hour", got)
	}
}

// crashingRelease is a release that crashes at once, each time, with something to go back to.
func crashingRelease(retries int32) *scene {
	s := asking("v2").knows("v1", 1, good).runningName("v1").retries(retries)
	s.Guarded.Spec.Guard.MaxRestarts = new(int32(0))
	image := func() string { return s.Deployment.Spec.Template.Spec.Containers[0].Image }
	s.cluster = func(d *appsv1.Deployment) *Evidence {
		if image() == "v2" {
			p := pod("p"+s.Now.Format("150405"), restarted(0), waits("CrashLoopBackOff"))
			p.Status.ContainerStatuses[0].RestartCount = 1
			p.CreationTimestamp = metav1.NewTime(s.Now)
			return evidence(d, p)
		}
		return allUp(d)
	}
	return s
}

// failures plays for a time, with a restart of the process every so often, and returns when the target failed.
func (s *scene) failures(during, restartEvery time.Duration) (at []time.Duration) {
	begun, restarted := s.Now, s.Now
	for s.Now.Sub(begun) < during {
		d, _ := s.step()
		if d.Mark != nil && d.Mark.Annotations[v1alpha1.VerdictAnnotation] == v1alpha1.VerdictFailed {
			at = append(at, s.Now.Sub(begun))
		}
		if s.Deployment != nil && s.Deployment.Status.ObservedGeneration < s.Deployment.Generation {
			s.up()
			if s.Deployment.Spec.Template.Spec.Containers[0].Image == "v2" {
				s.Deployment.Status.AvailableReplicas, s.Deployment.Status.Conditions = 0, []appsv1.DeploymentCondition{{Type: "Available", Status: corev1.ConditionFalse}}
			}
		}
		if restartEvery > 0 && s.Now.Sub(restarted) >= restartEvery {
			s.restart()
			restarted = s.Now
		}
		s.after(time.Second)
	}
	return at
}

// A release that is left as it is comes up for its next attempt without anything else that happens.
func TestRetry_OfWhatIsHeld(t *testing.T) {
	s := crashingRelease(1).hold()
	if at := s.failures(10*time.Second, 0); len(at) != 1 {
		t.Fatalf("failed at %s, want once", at)
	}
	if d, _ := s.step(); d.Recheck < 45*time.Second || d.Recheck > time.Minute {
		t.Errorf("to look again in %s, want when a minute is over since it failed", d.Recheck)
	}
}

// So many attempts are made as are asked for, and one; each so long after the failure before it, however often the
// process is started anew.
func TestRetry_AsManyAsAsked(t *testing.T) {
	t.Parallel()
	for _, every := range []time.Duration{0, 7 * time.Second, 45 * time.Second, 10 * time.Minute} {
		s := crashingRelease(3)
		at := s.failures(30*time.Minute, every)
		if len(at) != 4 {
			t.Fatalf("a restart every %s: failed at %s, want 4 times", every, at)
		}
		for retry, least := range []time.Duration{time.Minute, 2 * time.Minute, 4 * time.Minute} {
			if gap := at[retry+1] - at[retry]; gap < least || gap > least+30*time.Second {
				t.Errorf("a restart every %s: retry %d came to its end %s after the failure before, want soon after %s", every, retry+1, gap, least)
			}
		}
		if got := conditions(&s.Guarded.Status); got != "Stalled RolledBack" {
			t.Errorf("ended as %s", got)
		}
		if f := s.Guarded.Status.Failure; f.Attempt != 4 || f.NextAttempt != nil {
			t.Errorf("the status tells of attempt %d, the next at %v, want the 4th and no next", f.Attempt, f.NextAttempt)
		}
	}
}

func TestRetry_IsTold(t *testing.T) {
	s := crashingRelease(2)
	s.step() // recorded
	s.step() // run
	if message := s.Guarded.Status.Conditions[0].Message; !strings.HasPrefix(message, "rolling out") || strings.Contains(message, "attempt") {
		t.Errorf("during the first attempt the message is %q", message)
	}
	s.failures(30*time.Second, 0)
	f := s.Guarded.Status.Failure
	if f == nil || f.Attempt != 1 || f.NextAttempt == nil || !f.NextAttempt.Time.Equal(f.Time.Add(time.Minute)) {
		t.Fatalf("failure %+v, want attempt 1, and the next a minute after %s", f, f.Time)
	}
	message := s.Guarded.Status.Conditions[0].Message
	if want := "attempt 1 of 3, the next is due at " + f.NextAttempt.UTC().Format(time.RFC3339); !strings.Contains(message, want) {
		t.Errorf("the message %q does not say %q", message, want)
	}
	for s.Now.Before(f.NextAttempt.Time) {
		s.step()
		s.after(time.Second)
	}
	s.step()
	s.step()
	if message := s.Guarded.Status.Conditions[0].Message; !strings.Contains(message, "attempt 2 of 3") {
		t.Errorf("during the retry the message is %q", message)
	}
}

func TestRetry_Rows(t *testing.T) {
	failedAt := func(ago time.Duration, made int) verdict {
		return func(r *Revision) *appsv1.ControllerRevision {
			f := Failure{Attempt: Attempt{Number: made + 1, Retries: made}}
			f.Revision, f.Reason, f.Message, f.Time = r.Name, v1alpha1.FailureCrashLoop, "it exited", metav1.NewTime(noon.Add(-ago))
			return withVerdict(r, &f)
		}
	}
	rolledBack := func(ago time.Duration, made int) *scene {
		return asking("v2").knows("v1", 1, good).runningName("v1").knows("v2", 2, failedAt(ago, made))
	}
	stepped := func(later time.Duration) func(*scene) { // what is stored is as much later, by another clock, than this process knows
		return func(s *scene) {
			s.Memory = Decide(s.Observed).Memory
			failed := s.revision("v2")
			failed.Failure.Time = metav1.NewTime(failed.Failure.Time.Add(later))
			s.store(withVerdict(failed, &failed.Failure))
		}
	}
	const back, told = "Stalled RolledBack, Warning CrashLoop, Warning RolledBack", ", again in "
	for _, row := range []struct {
		name  string
		given *scene
		want  string
	}{
		{"the first is not due, and its failure is still to come: the clock was set back", rolledBack(-time.Hour, 0).retries(1), back + told + "1m0s"},
		{"the first is not due, and the clock was set forward", rolledBack(20*time.Second, 0).retries(1).with(stepped(-time.Hour)), back + told + "40s"},
		{"the first is due, and the clock was set back", rolledBack(time.Minute, 0).retries(1).with(stepped(time.Hour)), "record v2 as 2, attempt 2"},
		{"none is asked for", rolledBack(time.Hour, 0), back},
		{"the first is not due", rolledBack(20*time.Second, 0).retries(1), back + told + "40s"},
		{"the first is due", rolledBack(time.Minute, 0).retries(1), "record v2 as 2, attempt 2"},
		{"the second is not due", rolledBack(time.Minute, 1).retries(2), back + told + "1m0s"},
		{"the second is due", rolledBack(2*time.Minute, 1).retries(2), "record v2 as 2, attempt 3"},
		{"all were made", rolledBack(time.Hour, 2).retries(2), back},
		{"fewer are asked for by now", rolledBack(time.Hour, 2).retries(1), back},
		{"more are asked for by now", rolledBack(time.Hour, 2).retries(3), "record v2 as 2, attempt 4"},
		{"on hold", rolledBack(time.Minute, 0).retries(1).hold().runningName("v2").down(), "record v2 as 2, attempt 2"},
		{"nothing to go back to", asking("v2").knows("v2", 2, failedAt(time.Minute, 0)).runningName("v2").down().retries(1), "record v2 as 2, attempt 2"},
		{"a new spec cancels it", rolledBack(time.Hour, 0).retries(1).ask("v3"), "record v3 as 3"},
		{"a token comes first", rolledBack(time.Second, 0).retries(1).token("!"), "record v2 as 2, attempt 2!"},
		{"not without pods", rolledBack(time.Hour, 0).retries(1).scale(new(int32)).runningName("v1"), back},
		{"not while paused", rolledBack(time.Hour, 0).retries(1).pause(), "pause, with nothing x3, Stalled Paused, Warning CrashLoop"},
		{"not before it is known that the rollback has come up", rolledBack(time.Hour, 0).retries(1).down(), "need evidence"},
		{"not while a rollback is paused by hand", rolledBack(time.Hour, 0).retries(1).down().with(func(s *scene) { s.Deployment.Spec.Paused = true }), "Stalled Paused, Warning CrashLoop"},
		{"not while paused by hand", rolledBack(time.Hour, 0).retries(1).with(func(s *scene) { s.Deployment.Spec.Paused = true }), "Stalled Paused, Warning CrashLoop"},
	} {
		t.Run(row.name, func(t *testing.T) {
			if got := row.given.tell(Decide(row.given.Observed)); got != row.want {
				t.Errorf("%s, want %s", got, row.want)
			}
		})
	}
}

// A retry does not cut a rollback short: the service comes first.
func TestRetry_WaitsForTheRollback(t *testing.T) {
	for _, restart := range []bool{false, true} {
		s := crashingRelease(5)
		s.failures(20*time.Second, 0)
		s.down().cluster = noneReady // v1 takes minutes to start
		s.Memory.Progress = newProgress(s.revision("v1"), s.Now, s.Now)
		if restart {
			s.restart()
		}
		for range 60 {
			if d, told := s.step(); d.Record != nil {
				t.Fatalf("after %s, while the rollback is under way: %s", s.Now.Sub(noon), told)
			}
			s.after(pollInterval)
		}
		s.up().cluster = allUp
		due := func() bool {
			for range 5 {
				if d, _ := s.step(); d.Record != nil {
					return true
				}
				s.after(pollInterval)
			}
			return false
		}
		if !due() {
			t.Error("the rollback has come up, and the retry is not made")
		}
	}
}

// Whoever asks again gets as many automatic retries as before.
func TestRetry_CountedAnewWhenAskedAgain(t *testing.T) {
	s := crashingRelease(1)
	if at := s.failures(10*time.Minute, 0); len(at) != 2 {
		t.Fatalf("failed at %s, want twice", at)
	}
	s.token("!")
	if at := s.failures(10*time.Minute, 0); len(at) != 2 {
		t.Errorf("after the token it failed at %s, want twice", at)
	}
}

// When the next attempt is due is told in whole seconds, as the API server stores it, also if the failure was stored by a clock that was
// ahead: nothing is written again.
func TestRetry_IsToldOnce(t *testing.T) {
	s := asking("v2").knows("v1", 1, good).runningName("v1").retries(1).knows("v2", 2, func(r *Revision) *appsv1.ControllerRevision {
		f := Failure{Attempt: Attempt{Number: 1}}
		f.Revision, f.Reason, f.Time = r.Name, v1alpha1.FailureCrashLoop, metav1.NewTime(noon.Add(time.Hour))
		return withVerdict(r, &f)
	})
	s.Now = s.Now.Add(time.Second / 3)
	if d, _ := s.step(); d.Status == nil || d.Status.Failure == nil || d.Status.Failure.NextAttempt == nil {
		t.Fatalf("no next attempt is told: %+v", d.Status)
	}
	stored, err := json.Marshal(s.Guarded)
	if err != nil {
		t.Fatal(err)
	}
	s.Guarded = &v1alpha1.GuardedDeployment{}
	if err := json.Unmarshal(stored, s.Guarded); err != nil {
		t.Fatal(err)
	}
	if d := Decide(s.Observed); d.Status != nil {
		t.Errorf("the next attempt, due at %v, is told again as due at %v", s.Guarded.Status.Failure.NextAttempt, d.Status.Failure.NextAttempt)
	}
}

// When a retry is due goes by a clock that does not step, which what is told cannot have.
func TestRetry_ClockThatSteps(t *testing.T) {
	s := asking("v2").knows("v1", 1, good).runningName("v1").knows("v2", 2, failed).retries(1)
	s.Now = time.Now()
	o := newState(s.Observed)
	if at := o.retryAt(); at == nil || *at == at.Round(0) {
		t.Errorf("a retry is due at %v, by the time of day alone", at)
	}
}
