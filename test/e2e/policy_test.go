package e2e

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// refusalWatched is how long a refusal is watched. Without a change, Belay tries again after 5 minutes.
const refusalWatched = 20 * time.Second

func TestPolicy_DeniesRelease(t *testing.T) {
	n := newNamespace(t)
	web := n.createReady("web", template(good, "1"), deadline(10))
	first := web.get().Status.GoodRevision
	n.require(not("2"), "release 2 is not welcome", anyDeployment("2"))
	before := len(n.writesAtRest())

	web.release(template(good, "2"))
	web.checkDenied("release 2 is not welcome", "1")
	n.checkBudget("release that a policy denies, and 20 s", before, 4) // revision, Deployment (refused), status, Event
	if s := web.get().Status; s.Failure != nil || s.GoodRevision != first || s.RunningRevision != first {
		t.Errorf("a release that never ran was judged: %+v", s)
	}
	web.awaitAvailable(3)

	web.release(template(good, "3"))
	g := web.awaitReady()
	web.awaitEvents(v1alpha1.ReasonDenied, 1)
	web.checkMoves(first, g.Status.TargetRevision)
}

func TestPolicy_DeniesFirstRelease(t *testing.T) {
	n := newNamespace(t)
	n.require(not("1"), "release 1 is not welcome", anyDeployment("1"))
	web := n.create("web", template(good, "1"))
	web.checkDenied("release 1 is not welcome", "")
	n.checkBudget("release that a policy denies, and 20 s", 0, 4)

	web.release(template(good, "2"))
	g := web.awaitReady()
	web.checkMoves(g.Status.TargetRevision)
}

// A policy can come after the release that it denies: what was good may not be good enough to go back to.
func TestPolicy_DeniesRollback(t *testing.T) {
	t.Parallel()
	for _, way := range []struct {
		name string
		out  func(*object, policy)
	}{
		{"the policy goes and the spec changes", func(web *object, p policy) {
			first := web.get().Status.GoodRevision
			p.lift(anyDeployment("1"))
			web.update(replicas(4))
			g := web.awaitRolledBack(v1alpha1.FailureCrashLoop, first)
			web.awaitAvailable(4)
			web.checkMoves(first, g.Status.TargetRevision, first)
		}},
		{"a fix comes", func(web *object, _ policy) {
			s := web.get().Status
			web.release(template(good, "3"))
			g := web.awaitReady()
			if g.Status.Failure != nil {
				web.Errorf("the fix has a failure: %+v", *g.Status.Failure)
			}
			web.checkMoves(s.GoodRevision, s.TargetRevision, g.Status.TargetRevision)
		}},
	} {
		t.Run(way.name, func(t *testing.T) {
			n := newNamespace(t)
			web := n.createReady("web", template(good, "1"))
			first := web.get().Status.GoodRevision
			p := n.require(not("1"), "release 1 is too old", anyDeployment("1"))
			before := len(n.writesAtRest())

			web.release(template(crash, "2"))
			web.checkDenied("release 1 is too old", "2")
			n.checkBudget("failed release, with a rollback that a policy denies, and 20 s", before, 10)
			s := web.get().Status
			if s.GoodRevision != first || s.RunningRevision != s.TargetRevision {
				t.Errorf("status is %+v, want %s good, and the release that failed running", s, first)
			}
			if s.Failure == nil || s.Failure.Reason != v1alpha1.FailureCrashLoop || s.Failure.Revision != s.TargetRevision {
				t.Errorf("failure is %+v, want the crash", s.Failure)
			}
			if told := message(web.get()); !strings.Contains(told, s.TargetRevision+" failed: container app exited with code 1") || !strings.Contains(told, "rolling back to "+first) {
				t.Errorf("the condition does not tell that a rollback was denied, and of what: %q", told)
			}
			web.awaitEvents(v1alpha1.FailureCrashLoop, 1)
			way.out(web, p)
		})
	}
}

// checkDenied makes sure that the status tells what the policy said, that this was said once, and that Belay tried once;
// meanwhile the Deployment runs the release that it ran, empty if there is none.
func (o *object) checkDenied(says, running string) {
	o.Helper()
	g := o.awaitReason(v1alpha1.ReasonDenied)
	if !strings.Contains(message(g), says) {
		o.Errorf("the condition says %q, want what the policy said: %q", message(g), says)
	}
	o.nothingHappens(refusalWatched, func(context.Context) error {
		runs := ""
		if d := o.seenDeployment(); d != nil {
			runs = version(d)
		}
		if reason := reasonOf(o.get()); reason != v1alpha1.ReasonDenied || runs != running {
			return fmt.Errorf("the reason is %s, and the Deployment runs release %q, want %q", reason, runs, running)
		}
		return nil
	})
	if note := o.awaitEvents(v1alpha1.ReasonDenied, 1)[0]; !strings.Contains(note, says) {
		o.Errorf("Event Denied says %q, want what the policy said: %q", note, says)
	}
	refused := slices.DeleteFunc(o.writes(), func(w write) bool { return !strings.Contains(w.Response.Message, says) })
	if len(refused) != 1 && o.counting() {
		o.Errorf("Belay tried %d times, want once: %v", len(refused), refused)
	}
}
