package rollout

import (
	"go/ast"
	"go/parser"
	"go/token"
	"strconv"
	"strings"
	"testing"

	"github.com/fluxcd/cli-utils/pkg/kstatus/status"
	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
	"github.com/belay-dev/belay/test/kstatus"
)

// reported is a status that Decide writes, with the reason of its Ready condition and what the tools around a cluster
// have to make of it.
type reported struct {
	name, reason string
	given        *scene
	kstatus      status.Status // Flux, Helm 4
	argo         string        // Argo CD, with artifacts/argocd
}

const (
	current    = status.CurrentStatus
	inProgress = status.InProgressStatus
	stalled    = status.FailedStatus
)

// everyReport has every reason of the API, and each phase in which it is reported.
func everyReport() []reported {
	failedV2 := func() *scene { return asking("v2").knows("v1", 1, good).runningName("v1").knows("v2", 2, failed) }
	goodV1 := func() *scene { return asking("v1").knows("v1", 1, good).runningName("v1") }
	rows := []reported{
		{"created", v1alpha1.ReasonProgressing, asking("v1").knows("v1", 1, unjudged), inProgress, "Progressing"},
		{"rolling out", v1alpha1.ReasonProgressing, asking("v2").knows("v1", 1, good).runningName("v1").knows("v2", 2, unjudged), inProgress, "Progressing"},
		{"rolling back", v1alpha1.ReasonProgressing, failedV2().runningName("v2"), inProgress, "Progressing"},
		{"the Deployment is being deleted", v1alpha1.ReasonProgressing, goodV1().with(dying), inProgress, "Progressing"},
		{"soaking", v1alpha1.ReasonSoaking, asking("v1").knows("v1", 1, unjudged).runningName("v1").with(func(s *scene) {
			s.looked(allUp(s.Deployment))
		}), inProgress, "Progressing"},
		{"nobody works on it", v1alpha1.ReasonWaitingForDeploymentController,
			asking("v1").knows("v1", 1, unjudged).runningName("v1").with(unattended), inProgress, "Progressing"},
		{"good", v1alpha1.ReasonRolledOut, goodV1(), current, "Healthy"},
		{"no replicas", v1alpha1.ReasonScaledToZero, asking("v1").scale(new(int32)).knows("v1", 1, unjudged).runningName("v1"), current, "Healthy"},
		{"paused while it was good", v1alpha1.ReasonPaused, goodV1().remembers("v1", PhaseHealthy).pause(), current, "Healthy"},
		{"paused before it was good", v1alpha1.ReasonPaused, asking("v2").knows("v1", 1, good).runningName("v1").pause(), stalled, "Suspended"},
		{"paused before there was anything", v1alpha1.ReasonPaused, asking("v1").pause(), stalled, "Suspended"},
		{"paused by hand", v1alpha1.ReasonPaused, asking("v1").knows("v1", 1, unjudged).runningName("v1").with(func(s *scene) {
			s.Deployment.Spec.Paused = true
		}), stalled, "Suspended"},
		{"rolled back", v1alpha1.ReasonRolledBack, failedV2(), stalled, "Degraded"},
		{"rolled back, in vain", v1alpha1.ReasonRollbackFailed, failedV2().down().remembers("v1", PhaseFailed), stalled, "Degraded"},
		{"a restart failed, and is undone", v1alpha1.ReasonRestartFailed, goodV1().with(restartFailed).with(func(s *scene) {
			s.remembers("v1", PhaseProgressing)
			s.Memory.Progress.undone, s.Memory.Progress.pollAfter = "it failed", s.Now.Add(pollInterval)
		}), inProgress, "Progressing"},
		{"a restart failed, and was undone", v1alpha1.ReasonRolledOut, goodV1().with(restartFailed), current, "Healthy"},
		{"a restart failed, and is left", v1alpha1.ReasonRestartFailed, goodV1().with(restartFailed).hold().with(func(s *scene) {
			s.remembers("v1", PhaseFailed).down()
			s.Memory.Progress.restart = s.revision("v1").Failure.ReplicaSet
		}), stalled, "Degraded"},
		{"failed, and left", v1alpha1.ReasonHeld, failedV2().hold().runningName("v2").down(), stalled, "Degraded"},
		{"failed, with nothing to go back to", v1alpha1.ReasonNoGoodRevision,
			asking("v1").knows("v1", 1, failed).runningName("v1").down().listed(), stalled, "Degraded"},
		{"a name taken", v1alpha1.ReasonNameTaken, goodV1().with(func(s *scene) { s.Deployment.OwnerReferences = nil }), stalled, "Degraded"},
		{"refused as invalid", v1alpha1.ReasonInvalid, refusedFor(v1alpha1.ReasonInvalid), stalled, "Degraded"},
		{"what is decided cannot be done", v1alpha1.ReasonSyncFailing, asking("v1").with(func(s *scene) {
			s.Guarded.Status = *StandingStill(s.Guarded, "etcd is full", s.Now)
		}), stalled, "Degraded"},
		{"refused by a policy", v1alpha1.ReasonDenied, refusedFor(v1alpha1.ReasonDenied), stalled, "Degraded"},
		{"changed back again and again", v1alpha1.ReasonContested, goodV1().with(func(s *scene) {
			s.Deployment.Spec.Template.Spec.Containers[0].Image = "theirs"
			s.Memory.corrections, s.Memory.corrected = freeCorrections, s.Now
		}), stalled, "Degraded"},
	}
	waiting := []string{v1alpha1.ReasonWaitingForScheduler}
	for _, excuse := range excuses {
		waiting = append(waiting, excuse.reason)
	}
	for _, reason := range waiting {
		waits := func() *scene {
			s := asking("v1").knows("v1", 1, unjudged).runningName("v1").remembers("v1", PhaseBlocked)
			s.Memory.Progress.WaitingReason, s.Memory.Progress.WaitingFor = reason, "somebody"
			s.Memory.Progress.pollAfter = s.Now.Add(pollInterval)
			return s
		}
		overdue := waits()
		overdue.Memory.Progress.Overdue = true
		rows = append(rows, reported{"waits", reason, waits(), inProgress, "Progressing"},
			reported{"waits beyond the deadline", reason, overdue, stalled, "Degraded"})
	}
	for _, failure := range v1alpha1.FailureReasons {
		down := goodV1().down().remembers("v1", PhaseFailed)
		down.Memory.Progress.Failure.Reason = failure
		rows = append(rows, reported{"good before, and does not come up", failure, down, stalled, "Degraded"})
	}
	return rows
}

// restartFailed lets the last restart of v1 have failed.
func restartFailed(s *scene) {
	failure := Failure{Attempt: Attempt{Number: 1}}
	failure.Reason, failure.ReplicaSet, failure.Time = v1alpha1.FailureCrashLoop, "web-2", metav1.NewTime(noon)
	marked := s.revision("v1").ControllerRevision.DeepCopy()
	annotate(marked, v1alpha1.FailureAnnotation, failure)
	s.store(marked)
}

func dying(s *scene) { s.Deployment.DeletionTimestamp = &metav1.Time{Time: noon} }

// unattended lets nothing happen for so long that somebody must be absent.
func unattended(s *scene) {
	s.cluster = func(*appsv1.Deployment) *Evidence { return &Evidence{} }
	s.step()
	s.after(blockedAfter)
	s.step()
	s.Guarded.Status = v1alpha1.GuardedDeploymentStatus{} // to be written again
}

// refusedFor sets a scene in which the API server has refused the Deployment.
func refusedFor(reason string) *scene {
	s := asking("v1").knows("v1", 1, unjudged)
	d := Decide(s.Observed)
	s.Memory.Refusal = Refusal{Write: d.Write(), Generation: s.Guarded.Generation, Reason: reason, Message: "refused", Until: s.Now.Add(pollInterval)}
	return s
}

// object returns the GuardedDeployment with the status that is written.
func (r reported) object(t *testing.T) *v1alpha1.GuardedDeployment {
	t.Helper()
	if r.reason == v1alpha1.ReasonSyncFailing {
		return r.given.Guarded // The controller writes it, as it could not do what was decided.
	}
	d := Decide(r.given.Observed)
	if d.Status == nil {
		t.Fatalf("no status is written: %s", r.given.tell(d))
	}
	g := r.given.Guarded.DeepCopy()
	g.Status = *d.Status
	if ready := meta.FindStatusCondition(g.Status.Conditions, v1alpha1.ConditionReady); ready == nil || ready.Reason != r.reason {
		t.Fatalf("the reason is not %s: %+v", r.reason, g.Status.Conditions)
	}
	return g
}

func TestGitOps_ToolsReadEveryStatus(t *testing.T) {
	for _, row := range everyReport() {
		t.Run(row.reason+"/"+row.name, func(t *testing.T) {
			g := row.object(t)
			if got, err := kstatus.Compute(g); got != row.kstatus || err != nil {
				t.Errorf("kstatus says %s (%v), want %s: %+v", got, err, row.kstatus, g.Status.Conditions)
			}
			if err := kstatus.Check(g); err != nil {
				t.Error(err)
			}
			ready := meta.FindStatusCondition(g.Status.Conditions, v1alpha1.ConditionReady)
			if got := argoHealth(t, g); got != (health{row.argo, ready.Message}) {
				t.Errorf("Argo CD says %+v, want %s: %+v", got, row.argo, g.Status.Conditions)
			}

			g.Generation++
			if got, err := kstatus.Compute(g); got != inProgress || err != nil {
				t.Errorf("of a spec that Belay has not seen yet kstatus says %s (%v)", got, err)
			}
			if got := argoHealth(t, g); got.Status != "Progressing" {
				t.Errorf("of a spec that Belay has not seen yet Argo CD says %+v", got)
			}
		})
	}
}

// A reason that is added has to be given a meaning for these tools, too.
func TestReport_EveryReason(t *testing.T) {
	missing := reasonsOfTheAPI(t)
	for _, row := range everyReport() {
		delete(missing, row.reason)
	}
	for reason, name := range missing {
		t.Errorf("everyReport does not have %s (%s)", name, reason)
	}
}

// reasonsOfTheAPI returns the values and names of the constants for reasons.
func reasonsOfTheAPI(t *testing.T) map[string]string {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "../apis/belay/v1alpha1/names.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	reasons := map[string]string{}
	for node := range ast.Preorder(file) {
		spec, ok := node.(*ast.ValueSpec)
		if !ok || !strings.HasPrefix(spec.Names[0].Name, "Reason") && !strings.HasPrefix(spec.Names[0].Name, "Failure") || spec.Names[0].Name == "FailureAnnotation" {
			continue
		}
		text, ok := spec.Values[0].(*ast.BasicLit)
		if !ok {
			continue // a list of them
		}
		value, err := strconv.Unquote(text.Value)
		if err != nil {
			t.Fatal(err)
		}
		reasons[value] = spec.Names[0].Name
	}
	if len(reasons) < 21 {
		t.Fatalf("found only %v", reasons)
	}
	return reasons
}
