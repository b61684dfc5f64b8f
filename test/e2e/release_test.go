package e2e

import (
	"strings"
	"testing"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

func TestGoodReleaseBecomesReady(t *testing.T) {
	n := newNamespace(t)
	web := n.create("web", template(good, "1"))

	g := web.awaitReady()
	if g.Status.RunningRevision != g.Status.TargetRevision || g.Status.GoodRevision != g.Status.TargetRevision || g.Status.Failure != nil {
		t.Errorf("status is %+v, want one revision that is target, running and good", g.Status)
	}
	web.awaitEvents(v1alpha1.ReasonRolledOut, 1)
	n.checkBudget("first release of 3 replicas, good", 0, 9)
	first := len(n.writes())

	web.release(template(good, "2"))
	second := web.awaitReady()
	if version(web.deployment()) != "2" {
		t.Errorf("the Deployment runs release %q, want 2", version(web.deployment()))
	}
	web.awaitEvents(v1alpha1.ReasonRolledOut, 2)
	n.checkBudget("healthy release of 3 replicas", first, 9)
	web.checkMoves(g.Status.TargetRevision, second.Status.TargetRevision)
}

func TestSlowReleaseIsNotAFailure(t *testing.T) {
	n := newNamespace(t)
	web := n.createReady("web", template(good, "1"), replicas(2), deadline(15))
	web.release(template(slow, "2"))
	g := web.awaitReady()
	if strings.Contains(message(g), "failed") || len(web.belayEvents(v1alpha1.ReasonRolledBack)) > 0 {
		t.Errorf("a slow release was judged: %s", message(g))
	}
}
