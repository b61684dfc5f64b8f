package rollout

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// One decision each: what is there, and what is done about it. The sentence on the right is the whole decision but for
// texts and memory; scene.tell makes it.
func TestDecide_Table(t *testing.T) {
	// The scenes that most rows begin with.
	goodV1 := func(asks string) *scene { return asking(asks).knows("v1", 1, good).runningName("v1") }
	failedV2 := func() *scene { return goodV1("v2").knows("v2", 2, failed) }

	for _, row := range []struct {
		name  string
		given *scene
		want  string
	}{
		{"an unknown template is recorded", asking("v1"), "record v1 as 1"},
		{"an unknown template is recorded after the newest", goodV1("v2"), "record v2 as 2"},
		{"an unknown template wins over a rollout under way", goodV1("v3").knows("v2", 2, unjudged).runningName("v2"), "record v3 as 3"},
		{"an unknown template wins over a failed one", failedV2().ask("v3"), "record v3 as 3"},
		{"an unknown template wins over a rollback", failedV2().remembers("v1", PhaseProgressing).ask("v3"), "record v3 as 3"},
		{"an unknown template wins where nothing is good", asking("v2").knows("v1", 1, failed).runningName("v1"), "record v2 as 2"},
		{"an unknown template wins on hold", failedV2().hold().runningName("v2").ask("v3"), "record v3 as 3"},

		{"an unjudged target is created", asking("v1").knows("v1", 1, unjudged), "create v1 x3, Reconciling Progressing, again in 3s"},
		{"an unjudged target is run in place of another", goodV1("v2").knows("v2", 2, unjudged), "run v2 x3, Reconciling Progressing, again in 3s"},
		{"an unjudged target that runs is looked at", goodV1("v2").knows("v2", 2, unjudged).runningName("v2"), "need evidence"},
		{"an unjudged target is waited for", goodV1("v2").knows("v2", 2, unjudged).runningName("v2").looked(&Evidence{}), "Reconciling Progressing, again in 3s"},
		{"an unjudged target that crashes is marked failed", asking("v1").knows("v1", 1, unjudged).runningName("v1").with(func(s *scene) {
			s.remembers("v1", PhaseProgressing)
			s.looked(crashing(s.Deployment))
		}), "mark v1 failed: CrashLoop, attempt 1, again in 3s"},
		{"an unjudged target that is complete soaks", asking("v1").knows("v1", 1, unjudged).runningName("v1").with(func(s *scene) {
			s.looked(allUp(s.Deployment))
		}), "Reconciling Soaking, again in 3s"},
		{"an unjudged target is marked good without a soak", asking("v1").knows("v1", 1, unjudged).runningName("v1").with(func(s *scene) {
			s.Guarded.Spec.Guard.SoakSeconds = new(int32)
			s.looked(allUp(s.Deployment))
		}), "mark v1 good, again in 3s"},

		{"a refusal of another write is none", goodV1("v2").knows("v2", 2, unjudged).with(func(s *scene) {
			s.Memory.Refusal = Refusal{Write: "revision web-1 1", Generation: s.Guarded.Generation, Until: noon.Add(time.Hour)}
		}), "run v2 x3, Reconciling Progressing, again in 3s"},

		{"a failed target is rolled back", failedV2().runningName("v2"), "run v1 x3, Reconciling Progressing, Warning CrashLoop, again in 3s"},
		{"a failed target is rolled back, though the Deployment is gone", failedV2().with(func(s *scene) { s.Deployment = nil }),
			"create v1 x3, Reconciling Progressing, Warning CrashLoop, again in 3s"},
		{"the newest good one is gone back to", asking("v3").knows("v1", 1, good).knows("v2", 2, good).knows("v3", 3, failed).runningName("v3"),
			"run v2 x3, Reconciling Progressing, Warning CrashLoop, again in 3s"},
		{"a failed one is not gone back to", asking("v3").knows("v1", 1, good).knows("v2", 2, failed).knows("v3", 3, failed).runningName("v3"),
			"run v1 x3, Reconciling Progressing, Warning CrashLoop, again in 3s"},
		{"an unjudged one is not gone back to", asking("v3").knows("v1", 1, good).knows("v2", 2, unjudged).knows("v3", 3, failed).runningName("v3"),
			"run v1 x3, Reconciling Progressing, Warning CrashLoop, again in 3s"},
		{"a rollback that is complete is stayed on", failedV2(), "Stalled RolledBack, Warning CrashLoop, Warning RolledBack"},
		{"a rollback is watched", failedV2().down(), "need evidence"},
		{"a rollback that does not come up is not followed by another", failedV2().down().remembers("v1", PhaseFailed),
			"Stalled RollbackFailed, Warning CrashLoop, Warning RollbackFailed"},

		{"on hold, a failed target is left", failedV2().hold().runningName("v2").down().remembers("v2", PhaseFailed), "Stalled Held, Warning CrashLoop, Warning Held"},
		{"on hold, a missing Deployment is created on the target", failedV2().hold().with(func(s *scene) { s.Deployment = nil }),
			"create v2 x3, Stalled Held, Warning CrashLoop, Warning Held, again in 3s"},
		{"on hold after a rollback, the good one is left", failedV2().hold(), "Stalled Held, Warning CrashLoop, Warning Held"},
		{"no hold any more, a failed target is rolled back", failedV2().runningName("v2").remembers("v2", PhaseFailed), "run v1 x3, Reconciling Progressing, Warning CrashLoop, again in 3s"},
		{"on hold, a failed target that seems to come up is looked at", failedV2().hold().runningName("v2").remembers("v2", PhaseFailed), "need evidence"},
		{"on hold, a failed target that is good after all is marked", failedV2().hold().runningName("v2").with(func(s *scene) {
			s.Guarded.Spec.Guard.SoakSeconds = new(int32)
			s.looked(allUp(s.Deployment))
		}), "mark v2 good, again in 3s"},

		{"on hold, what somebody changed is put back to what the annotation names", failedV2().hold().with(func(s *scene) {
			s.Deployment.Annotations[v1alpha1.AppliedAnnotation] = "theirs"
			s.Deployment.Spec.Template.Spec.Containers[0].Image = "theirs"
		}), "run v1 x3, Stalled Held, Warning CrashLoop, Warning Held, again in 3s"},

		{"without a good one, the revisions are listed once more", asking("v1").knows("v1", 1, failed).runningName("v1"), "need revisions"},
		{"without a good one, a failed target is left", asking("v1").knows("v1", 1, failed).runningName("v1").down().listed(),
			"Stalled NoGoodRevision, Warning CrashLoop, Warning NoGoodRevision"},
		{"without a good one, a missing Deployment is created on the target", asking("v1").knows("v1", 1, failed).listed(),
			"create v1 x3, Stalled NoGoodRevision, Warning CrashLoop, Warning NoGoodRevision, again in 3s"},
		{"a good one that only the live list has is gone back to", asking("v2").knows("v1", 1, good).knows("v2", 2, failed).runningName("v2").listed(),
			"run v1 x3, Reconciling Progressing, Warning CrashLoop, again in 3s"},

		{"a good target is created", asking("v1").knows("v1", 1, good), "create v1 x3, Reconciling Progressing, again in 3s"},
		{"a good target is run in place of another", asking("v2").knows("v1", 1, good).knows("v2", 2, good).runningName("v1"), "run v2 x3, Reconciling Progressing, again in 3s"},
		{"a good target that is up is reported", goodV1("v1"), "Ready RolledOut, Normal RolledOut"},
		{"a good target that is not up is looked at", goodV1("v1").down(), "need evidence"},
		{"a good target that does not come up is reported only", goodV1("v1").down().remembers("v1", PhaseFailed), "Stalled DeadlineExceeded"},
		{"a good target that lost a pod later is good and running", goodV1("v1").down().remembers("v1", PhaseHealthy), "Ready RolledOut, Normal RolledOut"},

		{"a restarted process does not take lost pods for a release", goodV1("v1").with(func(s *scene) { s.Deployment.Status.AvailableReplicas = 1 }),
			"Ready RolledOut, Normal RolledOut"},
		{"but what had not been complete for one", goodV1("v1").with(func(s *scene) {
			s.Deployment.Status.AvailableReplicas, s.Deployment.Status.Conditions[1].Reason = 1, "ReplicaSetUpdated"
		}), "need evidence"},
		{"nor old pods for none", goodV1("v1").with(func(s *scene) { s.Deployment.Status.Replicas = 4 }), "need evidence"},
		{"nor what was not observed for done", goodV1("v1").with(func(s *scene) { s.Deployment.Generation++ }), "need evidence"},
		{"nor no pods for all", goodV1("v1").with(func(s *scene) {
			s.Deployment.Status.UpdatedReplicas, s.Deployment.Status.Replicas, s.Deployment.Status.AvailableReplicas = 0, 0, 0
		}), "need evidence"},
		{"nor replicas that are being added", goodV1("v1").with(func(s *scene) {
			s.Deployment.Status.UpdatedReplicas, s.Deployment.Status.Replicas = 2, 2
		}), "Ready RolledOut, Normal RolledOut"},
		{"nor when that was not observed yet", goodV1("v1").with(func(s *scene) {
			s.Deployment.Generation++
			status := &s.Guarded.Status
			status.TargetRevision, status.RunningRevision = s.revision("v1").Name, s.revision("v1").Name
			status.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionReady, Reason: v1alpha1.ReasonRolledOut}}
		}), "Ready RolledOut"},

		{"an older template asked for again becomes the newest, with an attempt", goodV1("v1").knows("v2", 2, unjudged).runningName("v2"), "record v1 as 3, attempt 2"},
		{"a failed template asked for again gets an attempt", asking("v1").knows("v1", 1, failed).knows("v2", 2, good).runningName("v2"), "record v1 as 3, attempt 2"},
		{"an interrupted template asked for again gets an attempt", asking("v2").knows("v2", 2, unjudged).knows("v3", 3, good).runningName("v3"), "record v2 as 4, attempt 2"},
		{"a good template that runs already has nothing to prove", failedV2().ask("v1"), "record v1 as 3"},
		{"a good template that is tried again does", goodV1("v1").knows("v1", 1, tried(2, "", good)).knows("v2", 2, unjudged), "record v1 as 3, attempt 3"},
		{"an attempt makes a good one unjudged", asking("v1").knows("v1", 3, tried(2, "", good)).knows("v2", 2, good).runningName("v1"), "need evidence"},
		{"a further attempt is watched anew", asking("v1").knows("v1", 1, tried(2, "", failed)).runningName("v1").down().remembers("v1", PhaseFailed).with(func(s *scene) {
			s.Memory.Progress.Attempt = 1
		}), "need evidence"},
		{"an attempt makes a failed one unjudged", asking("v1").knows("v1", 3, tried(2, "", failed)).knows("v2", 2, good).runningName("v2"), "run v1 x3, Reconciling Progressing, again in 3s"},
		{"a failed attempt is told by its number", asking("v1").knows("v1", 1, tried(2, "", failed)).runningName("v1").with(func(s *scene) {
			s.remembers("v1", PhaseProgressing)
			s.looked(crashing(s.Deployment))
		}), "mark v1 failed: CrashLoop, attempt 2, again in 3s"},

		{"a new token is another attempt", failedV2().token("!"), "record v2 as 2, attempt 2!"},
		{"a new token is another attempt on hold", failedV2().hold().runningName("v2").token("!"), "record v2 as 2, attempt 2!"},
		{"a new token is another attempt where nothing is good", asking("v1").knows("v1", 1, failed).runningName("v1").token("!"), "record v1 as 1, attempt 2!"},
		{"the token of the failed attempt is none", asking("v2").knows("v1", 1, good).runningName("v1").knows("v2", 2, failedWith("!")).token("!"),
			"Stalled RolledBack, Warning CrashLoop, Warning RolledBack"},
		{"removing the token is no attempt", asking("v2").knows("v1", 1, good).runningName("v1").knows("v2", 2, failedWith("!")),
			"Stalled RolledBack, Warning CrashLoop, Warning RolledBack"},
		{"an empty token is no attempt", failedV2().token(""), "Stalled RolledBack, Warning CrashLoop, Warning RolledBack"},
		{"any other token is an attempt", asking("v2").knows("v1", 1, good).runningName("v1").knows("v2", 2, failedWith("!")).token("?"), "record v2 as 2, attempt 2?"},
		{"a token does not retry a good one", goodV1("v1").token("!"), "Ready RolledOut, Normal RolledOut"},
		{"a failed attempt keeps the token", asking("v1").knows("v1", 1, tried(2, "!", failed)).runningName("v1").token("!").with(func(s *scene) {
			s.remembers("v1", PhaseProgressing)
			s.looked(crashing(s.Deployment))
		}), "mark v1 failed: CrashLoop, attempt 2!, again in 3s"},

		{"a name that is taken is left alone", goodV1("v2").with(func(s *scene) { s.Deployment.OwnerReferences[0].UID = "another" }),
			"Stalled NameTaken, Warning NameTaken, again in 2s"},
		{"an earlier life's Deployment is left alone", goodV1("v2").with(func(s *scene) { s.Guarded.UID = "reborn" }), // its revisions are another's, too
			"Stalled NameTaken, Warning Invalid, Warning NameTaken, again in 2s"},
		{"a Deployment that is being deleted is waited for", goodV1("v2").with(func(s *scene) { s.Deployment.DeletionTimestamp = &metav1.Time{Time: noon} }),
			"Reconciling Progressing, again in 1m0s"},
		{"nothing is done for what is being deleted", goodV1("v2").with(func(s *scene) { s.Guarded.DeletionTimestamp = &metav1.Time{Time: noon} }), ""},

		{"while paused, no template is recorded or run", goodV1("v2").pause(), "pause, with nothing x3, Stalled Paused"},
		{"while paused, a revision gets its label back", goodV1("v1").pause().with(func(s *scene) { s.Revisions[0].Labels = nil }), "record v1 as 1"},
		{"while paused, an unjudged target is not looked at", goodV1("v2").knows("v2", 2, unjudged).runningName("v2").pause(), "pause, with nothing x3, Stalled Paused"},
		{"while paused, no Deployment is created", asking("v1").knows("v1", 1, good).pause(), "Stalled Paused"},
		{"while paused, a failed target is not rolled back", failedV2().runningName("v2").pause(), "pause, with nothing x3, Stalled Paused, Warning CrashLoop"},
		{"while paused, what had come up stays ready", goodV1("v1").pause(), "pause, with nothing x3, Ready Paused"},
		{"while paused, what had not come up is not ready", goodV1("v1").down().pause(), "pause, with nothing x3, Stalled Paused"},
		{"while paused, what was on its way up is not ready", goodV1("v1").remembers("v1", PhaseProgressing).pause(), "pause, with nothing x3, Stalled Paused"},
		{"while paused, replicas are not stated when unset", goodV1("v2").scale(nil).pause(), "pause, with nothing, Stalled Paused"},
		{"after a pause, what was good is ready again", afterPause(goodV1("v1").remembers("v1", PhaseHealthy)), "run v1 x3, Ready RolledOut, Normal RolledOut, again in 3s"},
		{"after a pause, what had not come up is judged", afterPause(goodV1("v2").knows("v2", 2, unjudged).runningName("v2")), "run v2 x3, Reconciling Progressing, again in 3s"},
		{"after a pause, what failed is rolled back", afterPause(failedV2().runningName("v2")), "run v1 x3, Reconciling Progressing, Warning CrashLoop, again in 3s"},
		{"after a pause at zero replicas, there is nothing to judge", afterPause(goodV1("v1").scale(new(int32)).runningName("v1").remembers("v1", PhaseHealthy)), "run v1 x0, Ready ScaledToZero, again in 3s"},
		{"a Deployment paused by hand is not judged", goodV1("v2").knows("v2", 2, unjudged).runningName("v2").with(func(s *scene) { s.Deployment.Spec.Paused = true }),
			"Stalled Paused"},
		{"a rollback paused by hand is not judged", failedV2().down().with(func(s *scene) { s.Deployment.Spec.Paused = true }), "Stalled Paused, Warning CrashLoop"},
		{"a good target paused by hand stays ready", goodV1("v1").with(func(s *scene) { s.Deployment.Spec.Paused = true }), "Ready Paused"},

		{"at zero replicas nothing is judged", asking("v1").knows("v1", 1, unjudged).scale(new(int32)).runningName("v1"), "Ready ScaledToZero"},
		{"at zero replicas a good target is ready", asking("v1").knows("v1", 1, good).scale(new(int32)).runningName("v1"), "Ready ScaledToZero"},
		{"at zero replicas a rollback is complete", asking("v2").knows("v1", 1, good).knows("v2", 2, failed).scale(new(int32)).runningName("v1"),
			"Stalled RolledBack, Warning CrashLoop, Warning RolledBack"},
		{"at zero replicas a held failure stays one", asking("v2").hold().knows("v2", 2, failed).scale(new(int32)).runningName("v2"), "Stalled Held, Warning CrashLoop, Warning Held"},

		{"replicas that are set are written", goodV1("v1").remembers("v1", PhaseHealthy).scale(new(int32(5))), "run v1 x5, Ready RolledOut, Normal RolledOut, again in 3s"},
		{"replicas that are unset are not stated", goodV1("v2").knows("v2", 2, unjudged).scale(nil), "run v2, Reconciling Progressing, again in 3s"},
		{"replicas that are unset are not stated at creation", asking("v1").knows("v1", 1, unjudged).scale(nil), "create v1, Reconciling Progressing, again in 3s"},
		{"replicas that are unset are not stated in a rollback", failedV2().scale(nil).runningName("v2"), "run v1, Reconciling Progressing, Warning CrashLoop, again in 3s"},

		{"revisions over the limit are pruned, oldest first", asking("v5").keep(1).knows("v1", 1, failed).knows("v2", 2, failed).knows("v3", 3, failed).
			knows("v4", 4, good).knows("v5", 5, good).runningName("v5"), "prune v1, prune v2, Ready RolledOut, Normal RolledOut"},
		{"at a limit of 0 the target, the last good and the running one stay", asking("v4").keep(0).knows("v1", 1, good).knows("v2", 2, good).
			knows("v3", 3, unjudged).knows("v4", 4, failed).runningName("v3"), "run v2 x3, prune v1, Reconciling Progressing, Warning CrashLoop, again in 3s"},
		{"ten are kept when there is no limit", asking("v9").knows("v1", 1, failed).knows("v2", 2, failed).knows("v3", 3, failed).knows("v4", 4, failed).
			knows("v5", 5, failed).knows("v6", 6, failed).knows("v7", 7, failed).knows("v8", 8, failed).knows("va", 9, failed).knows("vb", 10, failed).
			knows("vc", 11, failed).knows("v9", 12, good).runningName("v9"), "prune v1, Ready RolledOut, Normal RolledOut"},
	} {
		t.Run(row.name, func(t *testing.T) {
			if diff := cmp.Diff(row.want, row.given.tell(Decide(row.given.Observed))); diff != "" {
				t.Errorf("decided otherwise (-want +got):\n%s", diff)
			}
		})
	}
}

// A rollback is what takes a failed release off the Deployment, and nothing else.
func TestDecide_RollBack(t *testing.T) {
	failedV2 := func() *scene { return asking("v2").knows("v1", 1, good).runningName("v1").knows("v2", 2, failed) }
	for _, row := range []struct {
		name  string
		given *scene
		want  bool
	}{
		{"the failed one runs", failedV2().runningName("v2"), true},
		{"the good one runs, with other replicas", failedV2().scale(new(int32(5))), false},
		{"there is no Deployment", failedV2().with(func(s *scene) { s.Deployment = nil }), false},
		{"the write was refused", failedV2().runningName("v2").with(func(s *scene) {
			d := Decide(s.Observed)
			s.Memory = d.After(s.Observed, Answer{Refusal: &Refusal{Write: d.Write(), Generation: s.Guarded.Generation, Until: noon.Add(time.Hour)}}).Memory
		}), false},
	} {
		if d := Decide(row.given.Observed); d.RollBack != row.want {
			t.Errorf("%s: rolls back: %t", row.name, d.RollBack)
		}
	}
}

// A refusal is forgotten with the next write that is another one.
func TestRefusal_ForgottenWithAnotherWrite(t *testing.T) {
	for _, another := range []bool{false, true} {
		s := asking("v2").knows("v1", 1, good).runningName("v1").knows("v2", 2, unjudged)
		write := Decide(s.Observed)
		s.Memory.Refusal = Refusal{Write: write.Write(), Generation: s.Guarded.Generation, Until: noon} // It is over.
		if another {
			s.Memory.Refusal.Write = "revision web-1 1"
		}
		if d := Decide(s.Observed); d.Write() != write.Write() || (d.Memory.Refusal == Refusal{}) != another {
			t.Errorf("another write: %t: writes %q, remembers %+v", another, d.Write(), d.Memory.Refusal)
		}
	}
}

// Of several times to look again, the first one counts.
func TestDecision_RecheckIn(t *testing.T) {
	var d Decision
	for _, row := range []struct{ wait, want time.Duration }{
		{time.Minute, time.Minute}, {time.Hour, time.Minute}, {time.Second, time.Second}, {-time.Second, time.Millisecond}, {time.Second, time.Millisecond},
	} {
		if d.recheckIn(row.wait); d.Recheck != row.want {
			t.Errorf("in %s: again in %s, want %s", row.wait, d.Recheck, row.want)
		}
	}
}

// A few decisions to the last field.
func TestDecide_AllFields(t *testing.T) {
	s := asking("v1")
	want := Decision{
		Record: &appsv1.ControllerRevision{
			ObjectMeta: metav1.ObjectMeta{Name: "web-cb5d77fb3e", Namespace: "shop", Labels: map[string]string{"belay.dev/guarded": "true"},
				OwnerReferences: []metav1.OwnerReference{{APIVersion: "belay.dev/v1alpha1", Kind: "GuardedDeployment", Name: "web", UID: "uid-of-web",
					Controller: new(true), BlockOwnerDeletion: new(true)}}},
			Revision: 1,
		},
		Memory: Memory{UID: "uid-of-web"},
		row:    "unknown",
	}
	got := Decide(s.Observed)
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(Memory{}, Decision{}, written{}, seenFailure{}, carried{}, unmarked{}, toldOf{}, toldEnd{}, failureID{}), cmpopts.IgnoreFields(Memory{}, "asked", "digests"), cmpopts.IgnoreFields(Progress{}, "clock"),
		cmpopts.IgnoreUnexported(Progress{}), cmpopts.IgnoreFields(appsv1.ControllerRevision{}, "Data")); diff != "" {
		t.Errorf("record (-want +got):\n%s", diff)
	}

	s = asking("v2").knows("v1", 1, good).knows("v2", 2, failed).runningName("v1")
	v1, v2 := s.revision("v1").Name, s.revision("v2").Name
	message := v2 + " failed: it exited; the Deployment is back on " + v1 + ", until the template changes or belay.dev/retry asks for another attempt"
	condition := func(kind string, value metav1.ConditionStatus) metav1.Condition {
		return metav1.Condition{Type: kind, Status: value, Reason: "RolledBack", Message: message, ObservedGeneration: 1, LastTransitionTime: metav1.NewTime(noon)}
	}
	status := &v1alpha1.GuardedDeploymentStatus{
		ObservedGeneration: 1, Replicas: 3, UpdatedReplicas: 3, ReadyReplicas: 3, AvailableReplicas: 3, Selector: "app=web",
		TargetRevision: v2, RunningRevision: v1, GoodRevision: v1,
		Failure: &v1alpha1.Failure{Revision: v2, Reason: "CrashLoop", Message: "it exited", Time: metav1.NewTime(noon.Add(-time.Hour)), Attempt: 1},
		Conditions: []metav1.Condition{condition("Ready", "False"), condition("Reconciling", "False"), condition("Stalled", "True"),
			{Type: "Available", Status: "True", Reason: "MinimumReplicasAvailable", ObservedGeneration: 1, LastTransitionTime: metav1.NewTime(noon)}},
	}
	got = Decide(s.Observed)
	if diff := cmp.Diff(status, got.Status); diff != "" {
		t.Errorf("status (-want +got):\n%s", diff)
	}
	events := []Event{
		{Type: "Warning", Reason: "CrashLoop", Action: "Judge", Message: v2 + " failed: it exited"},
		{Type: "Warning", Reason: "RolledBack", Action: "RollBack", Message: message},
	}
	if diff := cmp.Diff(events, got.Events); diff != "" {
		t.Errorf("Events (-want +got):\n%s", diff)
	}
}

// Whole stories: what is done from the first decision until there is nothing more to do.
func TestStories(t *testing.T) {
	crash := func(s *scene) { s.cluster = crashing }
	for _, story := range []struct {
		name  string
		given *scene
		want  []string
	}{
		{"a release that comes up", asking("v1"), []string{
			"record v1 as 1", "create v1 x3, Reconciling Progressing, again in 3s", "again in 3s",
			"Reconciling Soaking, again in 3s", "again in 3s", "mark v1 good, again in 3s", "Ready RolledOut, Normal RolledOut",
		}},
		{"a release that fails and is rolled back", asking("v2").knows("v1", 1, good).runningName("v1").with(crash), []string{
			"record v2 as 2", "run v2 x3, Reconciling Progressing, again in 3s", "again in 3s", "mark v2 failed: CrashLoop, attempt 1, again in 3s",
			"run v1 x3, Reconciling Progressing, Warning CrashLoop, again in 3s", "again in 3s",
		}},
		{"a release that fails with nothing to go back to", asking("v1").with(crash), []string{
			"record v1 as 1", "create v1 x3, Reconciling Progressing, again in 3s", "again in 3s", "mark v1 failed: CrashLoop, attempt 1, again in 3s",
			"Stalled NoGoodRevision, Warning CrashLoop, Warning NoGoodRevision",
		}},
		{"an attempt that is good begins no other move", asking("v1").knows("v1", 1, tried(2, "!", failed)).runningName("v1").with(func(s *scene) {
			s.down()
			s.cluster = allUp
		}), []string{
			"Reconciling Soaking, again in 3s", "again in 3s", "mark v1 good, again in 3s", "Ready RolledOut, Normal RolledOut",
		}},
		{"a release that fails on hold", asking("v2").knows("v1", 1, good).runningName("v1").hold().with(crash), []string{
			"record v2 as 2", "run v2 x3, Reconciling Progressing, again in 3s", "again in 3s", "mark v2 failed: CrashLoop, attempt 1, again in 3s",
			"Stalled Held, Warning CrashLoop, Warning Held",
		}},
	} {
		t.Run(story.name, func(t *testing.T) {
			got := story.given.play()
			got = got[:min(len(got), len(story.want))] // a crashing cluster crashes in the rollback, too
			if diff := cmp.Diff(story.want, got); diff != "" {
				t.Errorf("went otherwise (-want +got):\n%s", diff)
			}
		})
	}
}

// settled returns every state in which things come to rest.
func settled() map[string]*scene {
	scenes := map[string]*scene{
		"RolledOut":      asking("v1"),
		"RolledBack":     asking("v2").knows("v1", 1, good).runningName("v1").knows("v2", 2, failed),
		"RollbackFailed": asking("v2").knows("v1", 1, good).runningName("v1").knows("v2", 2, failed).down(),
		"Held":           asking("v2").hold().knows("v1", 1, good).knows("v2", 2, failed).runningName("v2").down(),
		"NoGoodRevision": asking("v1").knows("v1", 1, failed).runningName("v1").down(),
		"Paused":         asking("v2").knows("v1", 1, good).runningName("v1").pause(),
		"ScaledToZero":   asking("v1").scale(new(int32)),
		// A good release that does not come up, for example after somebody deleted the Deployment.
		"DeadlineExceeded": asking("v1").knows("v1", 1, good).runningName("v1").down(),
	}
	for _, s := range scenes {
		s.play()
	}
	return scenes
}

func TestDecide_AtRest(t *testing.T) {
	for reason, s := range settled() {
		t.Run(reason, func(t *testing.T) {
			if got := conditions(&s.Guarded.Status); !strings.HasSuffix(got, reason) {
				t.Fatalf("came to rest as %q", got)
			}
			for range 20 {
				s.after(30 * time.Second)
				if _, told := s.step(); told != "" {
					t.Errorf("after %s at rest: %s", s.Now.Sub(noon), told)
				}
			}
		})
	}
}

func TestDecide_LostMemory(t *testing.T) {
	for reason, s := range settled() {
		t.Run(reason, func(t *testing.T) {
			events := 0
			s.restart()
			for range 400 {
				d, told := s.step()
				if d.Record != nil || d.Mark != nil || d.Deployment != nil {
					t.Fatalf("a restarted process writes: %s", told)
				}
				events += len(d.Events)
				s.after(d.Recheck)
			}
			// A rollback that failed is watched anew, and ends as it did: both are told.
			if got := conditions(&s.Guarded.Status); !strings.HasSuffix(got, reason) || events > 1 {
				t.Errorf("ended as %q after %d Events", got, events)
			}
		})
	}
}

func TestDecide_NewTemplateWins(t *testing.T) {
	for reason, s := range settled() {
		t.Run(reason, func(t *testing.T) {
			s.resume().ask("v9")
			s.step()
			if _, told := s.step(); !strings.HasPrefix(told, "run v9") {
				t.Errorf("second step: %s", told)
			}
		})
	}
}

func TestPause_TimersStartAnew(t *testing.T) {
	s := asking("v1").knows("v1", 1, unjudged).runningName("v1").down()
	for range 190 { // of the 200 looks within the deadline
		s.step()
		s.after(pollInterval)
	}
	s.pause().play()
	s.after(time.Hour)
	s.resume()
	begun := s.Now
	s.play()
	if s.revision("v1").Failed() == false || s.Now.Sub(begun) < 600*time.Second {
		t.Errorf("judged %s after the pause", s.Now.Sub(begun))
	}
}

func TestPause_WritesPausedAndReplicasOnly(t *testing.T) {
	s := asking("v2").knows("v1", 1, good).runningName("v1").pause().scale(new(int32(7)))
	want := s.Deployment.DeepCopy()
	want.Spec.Paused, want.Spec.Replicas = true, new(int32(7))
	s.play()
	if diff := cmp.Diff(want, s.Deployment, cmpopts.IgnoreMapEntries(func(k, _ string) bool { return k == v1alpha1.AppliedAnnotation }),
		cmpopts.IgnoreFields(metav1.ObjectMeta{}, "Generation")); diff != "" {
		t.Errorf("paused (-want +got):\n%s", diff)
	}
}

func TestDecide_ChangesOutsideTheTemplate(t *testing.T) {
	for name, change := range map[string]func(*v1alpha1.GuardedDeploymentSpec){
		"guard":    func(s *v1alpha1.GuardedDeploymentSpec) { s.Guard.MaxRestarts = new(int32(9)) },
		"replicas": func(s *v1alpha1.GuardedDeploymentSpec) { s.Replicas = new(int32(9)) },
		"deadline": func(s *v1alpha1.GuardedDeploymentSpec) { s.ProgressDeadlineSeconds = new(int32(300)) },
	} {
		for reason, s := range settled() {
			t.Run(reason+"/"+name, func(t *testing.T) {
				s.Guarded.Generation++
				change(&s.Guarded.Spec)
				before, progress := s.Deployment, s.Memory.Progress
				for range 3 {
					d, told := s.step()
					if d.Record != nil || d.Mark != nil {
						t.Errorf("a new attempt: %s", told)
					}
				}
				if reason != "ScaledToZero" && s.Memory.Progress.Phase != progress.Phase {
					t.Errorf("the move was %s and is %s", progress.Phase, s.Memory.Progress.Phase)
				}
				if diff := cmp.Diff(before.Spec.Template, s.Deployment.Spec.Template); diff != "" {
					t.Errorf("the template changed (-was +is):\n%s", diff)
				}
			})
		}
	}
}

// What is refused beside a rollback does not hide why the release failed.
func TestRefusal_CorrectionWithTheFailure(t *testing.T) {
	s := asking("v2").knows("v1", 1, good).runningName("v1").knows("v2", 2, failed).remembers("v1", PhaseHealthy)
	s.Deployment.Spec.Replicas = new(int32(7))
	s.Memory.Refusal = Refusal{Write: new(Decide(s.Observed)).Write(), Generation: 1, Reason: v1alpha1.ReasonDenied, Message: "the policy says no", Until: noon.Add(time.Hour)}
	d := Decide(s.Observed)
	want := s.revision("v2").Name + " failed: it exited; the policy says no"
	if got := d.Status.Conditions[0]; got.Reason != v1alpha1.ReasonDenied || got.Message != want {
		t.Errorf("reported: %s %q, want %q", got.Reason, got.Message, want)
	}
}

// At zero replicas nothing is seen, and no time passes for a release. What was seen before counts on.
func TestNotJudged_ClocksStopAtZeroReplicas(t *testing.T) {
	for _, phase := range []Phase{PhaseProgressing, PhaseSoaking, PhaseFailed, PhaseHealthy} {
		s := asking("v1").knows("v1", 1, unjudged).scale(new(int32)).runningName("v1").remembers("v1", phase)
		before := s.Memory.Progress
		s.step()
		want := before
		switch phase {
		case PhaseProgressing, PhaseSoaking:
			want.stopped = true
		case PhaseFailed:
			want = Progress{}
		}
		if diff := cmp.Diff(want, s.Memory.Progress, cmp.AllowUnexported(Progress{}, counts{})); diff != "" {
			t.Errorf("%s (-want +got):\n%s", phase, diff)
		}
	}
}

// What is settled stays reported as it is while replicas are written: an HPA must not make a release look unfinished, nor
// tell of its end again each time.
func TestCorrect_ScalingWhatIsSettled(t *testing.T) {
	for _, reason := range []string{"RolledOut", "RolledBack"} {
		s := settled()[reason]
		s.scale(new(int32(9)))
		for range 3 {
			if d, _ := s.step(); !strings.HasSuffix(conditions(&s.Guarded.Status), reason) || len(d.Events) > 0 {
				t.Errorf("%s became %s, Events %v", reason, conditions(&s.Guarded.Status), d.Events)
			}
		}
	}
}

// A copy of our Deployment under another name is told of once, and changes nothing.
func TestStrays_ToldOnce(t *testing.T) {
	s := asking("v1").knows("v1", 1, good).runningName("v1")
	s.play()
	s.Strays = []string{"web-copy", "web-other"}
	d, told := s.step()
	if told != "Warning Invalid" || !strings.Contains(d.Events[0].Message, "Deployment web-copy") || !strings.Contains(d.Events[0].Message, "Deployment web-other") {
		t.Errorf("told %q: %v", told, d.Events)
	}
	s.Strays = []string{"web-other"}
	if _, told := s.step(); told != "" {
		t.Errorf("told again: %s", told)
	}
}

// While a failure is held, whatever the annotation says, and whatever a policy made of the template: the target runs, and the
// annotation is put back.
func TestHold_ForgedAnnotation(t *testing.T) {
	for _, forged := range []string{"garbage", "v1", "garbage, with a policy", "v1, with a policy"} {
		s := asking("v2").hold().knows("v1", 1, failed).knows("v2", 2, failed).runningName("v2").down()
		s.Memory.applied = s.Deployment.Annotations[v1alpha1.AppliedAnnotation]
		forged, policy := strings.CutSuffix(forged, ", with a policy")
		if policy {
			s.Deployment.Spec.Template.Spec.Containers[0].Image = "mirror/v2"
		}
		if forged == "v1" {
			forged = s.revision("v1").Name
		}
		s.Deployment.Annotations[v1alpha1.RevisionAnnotation] = forged
		for range 3 {
			s.step()
		}
		if got := s.Deployment.Spec.Template.Spec.Containers[0].Image; got != "v2" || s.Deployment.Annotations[v1alpha1.RevisionAnnotation] == forged {
			t.Errorf("the template is %s, the annotations are %v", got, s.Deployment.Annotations)
		}
	}
}

func TestHistory_InvalidRevisionsAreNeverUsed(t *testing.T) {
	for name, spoil := range map[string]func(*appsv1.ControllerRevision){
		"changed content": func(r *appsv1.ControllerRevision) { r.Data.Raw = recorded(newGuarded("evil"), 1).Data.Raw },
		"no content":      func(r *appsv1.ControllerRevision) { r.Data.Raw = nil },
		"no JSON":         func(r *appsv1.ControllerRevision) { r.Data.Raw = []byte("{") },
		"another owner":   func(r *appsv1.ControllerRevision) { r.OwnerReferences[0].UID = "another" },
		"another name":    func(r *appsv1.ControllerRevision) { r.Name = "web-0123456789" },
	} {
		t.Run(name, func(t *testing.T) {
			s := asking("v2").knows("v1", 1, good).knows("v2", 2, failed).runningName("v2").down()
			spoil(s.Revisions[0])
			s.Revisions[0].Annotations[v1alpha1.VerdictAnnotation] = v1alpha1.VerdictGood
			d := Decide(s.listed().Observed)
			if got := s.tell(d); got != "Stalled NoGoodRevision, Warning Invalid, Warning CrashLoop, Warning NoGoodRevision" {
				t.Errorf("decided: %s", got)
			}
			if !strings.Contains(d.Status.Conditions[0].Message, s.Revisions[0].Name) {
				t.Errorf("the message does not name it: %s", d.Status.Conditions[0].Message)
			}
			s.play()
			s.Guarded.Generation++ // any reason to write the status
			if d, _ := s.step(); len(d.Events) > 0 {
				t.Errorf("told again: %v", d.Events)
			}
		})
	}
}

// What the API server refused is not tried again until the spec changes or its time has come.
func TestRefusal_Waits(t *testing.T) {
	refuse := func(s *scene) *scene {
		d := Decide(s.Observed)
		s.Memory.Refusal = Refusal{Write: d.Write(), Generation: s.Guarded.Generation, Reason: v1alpha1.ReasonDenied, Message: "denied by policy", Until: s.Now.Add(5 * time.Minute)}
		return s
	}
	for _, row := range []struct {
		name  string
		given *scene
		again string
	}{
		{"a revision", asking("v1"), "record v1 as 1"},
		{"a Deployment", asking("v1").knows("v1", 1, unjudged), "create v1 x3"},
		{"a rollback", asking("v2").knows("v1", 1, good).knows("v2", 2, failed).runningName("v2"), "run v1 x3"},
		{"a pause", asking("v1").knows("v1", 1, good).runningName("v1").pause(), "pause, with nothing x3"},
		{"a target held", asking("v1").hold().knows("v1", 1, failed), "create v1 x3"},
		{"a correction", asking("v1").knows("v1", 1, good).runningName("v1").with(func(s *scene) { s.Deployment.Spec.Replicas = new(int32(1)) }), "run v1 x3, put back spec.replicas"},
	} {
		t.Run(row.name, func(t *testing.T) {
			s := refuse(row.given)
			events := 0
			for range 5 {
				d, told := s.step()
				if d.Write() != "" || !strings.HasSuffix(conditions(&s.Guarded.Status), "Stalled Denied") || d.Recheck <= 0 {
					t.Errorf("refused, and then: %s", told)
				}
				events += len(d.Events)
				s.after(time.Minute - time.Second)
			}
			if s.Guarded.Status.Failure != nil {
				events-- // That the target failed is told, too.
			}
			if events > 1 {
				t.Errorf("%d Events of one refusal", events)
			}
			s.after(5 * time.Second)
			if _, told := s.step(); !strings.HasPrefix(told, row.again) {
				t.Errorf("five minutes later: %s", told)
			}
		})
	}
	t.Run("a new spec", func(t *testing.T) {
		s := refuse(asking("v1"))
		if _, told := s.ask("v2").step(); told != "record v2 as 1" {
			t.Errorf("a new spec: %s", told)
		}
	})
	t.Run("the same spec again", func(t *testing.T) {
		s := refuse(asking("v2").knows("v1", 1, good).runningName("v1").knows("v2", 2, unjudged))
		s.play0(5)
		s.ask("v1").play0(5) // and somebody mends the policy
		s.ask("v2").play0(1)
		if _, told := s.step(); !strings.HasPrefix(told, "run v2") {
			t.Errorf("a spec that was refused, asked for anew: %s", told)
		}
	})
}

// play0 takes steps while no time passes.
func (s *scene) play0(steps int) {
	for range steps {
		s.step()
	}
}

func TestCorrect_WhatOthersChange(t *testing.T) {
	meddle := func(s *scene) {
		s.Deployment = s.Deployment.DeepCopy()
		s.Deployment.Spec.Template.Spec.Containers[0].Image = "theirs"
		s.Deployment.Generation++
	}
	s := asking("v1")
	s.play()
	for i := range freeCorrections {
		meddle(s)
		d, told := s.step()
		if d.Correction != "spec.template.spec.containers[0].image" || d.Deployment == nil || d.Events[0].Reason != v1alpha1.ReasonContested ||
			d.Memory.Progress.Phase != PhaseProgressing { // another template is another rollout, also back
			t.Fatalf("change %d: %s", i+1, told)
		}
		s.up().play()
	}
	// They do not stop.
	meddle(s)
	if _, told := s.step(); !strings.HasPrefix(told, "Stalled Contested, Warning Contested, again in ") {
		t.Fatalf("change 6: %s", told)
	}
	begun := s.Now
	corrections, events := 0, 0
	for s.Now.Sub(begun) < 3*time.Hour {
		d, _ := s.step()
		if d.Correction != "" {
			corrections++
			meddle(s)
		}
		events += len(d.Events)
		s.after(max(d.Recheck, time.Second))
	}
	if corrections < 17 || corrections > 18 || events > 4*corrections {
		t.Errorf("%d corrections and %d Events in three hours", corrections, events)
	}
	// They have stopped, and are forgiven.
	s.step()
	s.up().play()
	s.after(correctionsForgotten)
	for i := range freeCorrections {
		meddle(s)
		if d, told := s.step(); d.Correction == "" {
			t.Fatalf("change %d after an hour: %s", i+1, told)
		}
	}
}

// A correction is one write with one Event; that the release is good and running is no news then.
func TestAfter_CorrectionIsToldOnce(t *testing.T) {
	s := asking("v1")
	s.play()
	s.Deployment.Spec.Replicas = new(int32(1))
	s.Deployment.Generation++
	events := []string{}
	for range 10 {
		d, _ := s.step()
		for _, e := range d.Events {
			events = append(events, e.Reason)
		}
		s.after(pollInterval)
	}
	if !slices.Equal(events, []string{v1alpha1.ReasonContested}) {
		t.Errorf("Events: %v", events)
	}
}

// A mutating policy changes every write. The answer is accepted, and only what changes after that is put back.
func TestAccept_PolicysChange(t *testing.T) {
	s := asking("v1").knows("v1", 1, good)
	d, _ := s.step()
	s.Deployment.Spec.Template.Spec.Containers[0].Image = "mirror/v1"
	s.Memory.accepted = Accept(d.Deployment, s.Deployment)
	s.up().play()
	s.after(time.Hour)
	if _, told := s.step(); told != "" || !strings.HasPrefix(conditions(&s.Guarded.Status), "Ready") {
		t.Errorf("an accepted answer: %q, %s", told, conditions(&s.Guarded.Status))
	}
	again := *s
	again.Memory.accepted = "" // It is not known any more.
	if d, told := again.step(); d.Correction == "" {
		t.Errorf("an answer that was not accepted: %s", told)
	}
	s.Deployment.Spec.Template.Spec.Containers[0].Image = "evil/v1"
	s.Deployment.Generation++
	if d, told := s.step(); d.Correction == "" {
		t.Errorf("a change after that: %s", told)
	}
}

func TestReport_CountsAreWrittenSeldom(t *testing.T) {
	s := asking("v1")
	s.play()
	begun, writes := s.Now, 0
	for s.Now.Sub(begun) < time.Minute {
		s.Deployment.Status.ReadyReplicas = (s.Deployment.Status.ReadyReplicas + 1) % 4
		d, _ := s.step()
		if d.Status != nil {
			writes++
			if len(d.Events) > 0 {
				t.Errorf("Events of counts: %v", d.Events)
			}
		}
		s.after(time.Second)
	}
	if writes < 5 || writes > 7 {
		t.Errorf("%d writes of the status in a minute", writes)
	}
	// They are as soon as ten seconds have passed.
	s.Now = s.Memory.reportedAt.Add(mirrorEvery)
	s.Deployment.Status.ReadyReplicas++
	if d := s.decided(); d.Status == nil {
		t.Errorf("after %s nothing is written", mirrorEvery)
	}
	// The last counts are written though nothing happens any more.
	s.Deployment.Status.ReadyReplicas = 3
	s.play()
	if s.Guarded.Status.ReadyReplicas != 3 {
		t.Errorf("%d replicas ready in the status", s.Guarded.Status.ReadyReplicas)
	}
}

// A generation that changes nothing is observed in one write, and transition times stay.
func TestReport_ConditionsFollowTheGeneration(t *testing.T) {
	for reason, s := range settled() {
		t.Run(reason, func(t *testing.T) {
			before := s.Guarded.Status.DeepCopy()
			s.after(time.Hour)
			s.Guarded.Generation++
			s.step()
			if s.Guarded.Status.ObservedGeneration != s.Guarded.Generation {
				t.Errorf("observed generation %d of %d", s.Guarded.Status.ObservedGeneration, s.Guarded.Generation)
			}
			for i, c := range s.Guarded.Status.Conditions {
				if c.ObservedGeneration != s.Guarded.Generation || c.LastTransitionTime != before.Conditions[i].LastTransitionTime || c.Status != before.Conditions[i].Status {
					t.Errorf("%+v", c)
				}
			}
		})
	}
}

// Only the pods of a template that never ran before have no past.
func TestJudge_RestartsOfThePast(t *testing.T) {
	for _, row := range []struct {
		name  string
		given *scene
		fresh bool
	}{
		{"a new template", asking("v2").knows("v1", 1, good).runningName("v1").knows("v2", 2, unjudged), true},
		{"another attempt", asking("v2").knows("v1", 1, good).runningName("v1").knows("v2", 2, tried(2, "!", failed)), false},
		{"a rollback", asking("v2").knows("v1", 1, good).knows("v2", 2, failed).runningName("v2"), false},
		{"a correction", asking("v1").knows("v1", 1, unjudged).runningName("v1").with(func(s *scene) { s.Deployment.Spec.Template.Spec.Containers[0].Image = "theirs" }), false},
	} {
		d := Decide(row.given.Observed)
		if d.Deployment == nil || d.Memory.Progress.Phase != PhaseProgressing {
			t.Errorf("%s: %+v", row.name, d.Memory.Progress)
		}
	}
}

// What the memory knows of another object of the same name is not believed.
func TestMemory_OfAnotherLife(t *testing.T) {
	s := asking("v1").knows("v1", 1, good).runningName("v1").remembers("v1", PhaseFailed)
	s.Memory.UID = "an earlier life"
	if _, told := s.step(); told != "Ready RolledOut, Normal RolledOut" {
		t.Errorf("decided: %s", told)
	}
}

// A release that was never judged may have served (E3): it is not gone back to, and that is said, before and after.
func TestRollBack_TellsWhatItPassesOver(t *testing.T) {
	message := func(s *scene) string {
		for range 3 {
			s.step()
		}
		return s.Guarded.Status.Conditions[0].Message
	}
	before := asking("v2").scale(new(int32)).knows("v1", 1, good).knows("v2", 2, unjudged).runningName("v2")
	if got, want := message(before), "there are no replicas to judge "+before.revision("v2").Name+" by; a release that fails goes back to "+before.revision("v1").Name; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	for skipped, want := range []string{"", " (older than NAME, never judged)", " (older than NAME, NAME, never judged)",
		" (older than NAME, NAME, NAME, never judged)", " (older than NAME, NAME, NAME and 1 more, which were never judged)"} {
		s := asking("v9").knows("v0", 1, unjudged).knows("v1", 2, good).runningName("v1")
		for i := range skipped {
			s.knows(fmt.Sprint("v", i+2), int64(i+3), unjudged)
		}
		s.knows("v9", 9, failed)
		got := message(s)
		for _, r := range s.Revisions {
			got = strings.ReplaceAll(got, r.Name, "NAME")
		}
		if !strings.Contains(got, "is back on NAME"+want+", until") {
			t.Errorf("%d passed over: %q", skipped, got)
		}
	}
}
