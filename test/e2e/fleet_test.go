package e2e

import (
	"fmt"
	"slices"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
	"github.com/belay-dev/belay/test/evidence"
)

// createMany creates count objects with the same spec.
func (n *namespace) createMany(count int, pods corev1.PodTemplateSpec, options ...option) (objects []*object) {
	n.Helper()
	for i := range count {
		objects = append(objects, n.create(fmt.Sprintf("app%02d", i), pods, options...))
	}
	return objects
}

// After a failed release the Deployment reports, for a moment, that the fix has exceeded its deadline: 20 of 20 fixes
// that changed the replicas too were judged failed by a controller that believed it.
func TestFleet_FixAfterFailure(t *testing.T) {
	n := newNamespace(t)
	fixes := n.createMany(20, template(unready, "1"), replicas(2), deadline(10))
	for _, o := range fixes {
		o.awaitReason(v1alpha1.ReasonNoGoodRevision)
		o.awaitDeployment("has exceeded its deadline", func(d *appsv1.Deployment) bool {
			return slices.ContainsFunc(d.Status.Conditions, func(c appsv1.DeploymentCondition) bool { return c.Reason == "ProgressDeadlineExceeded" })
		})
	}
	for _, o := range fixes {
		o.update(runs(template(good, "2")), replicas(3))
	}
	for _, o := range fixes {
		g := o.awaitReady()
		if failures := o.belayEvents(v1alpha1.FailureDeadlineExceeded); len(failures) != 1 {
			t.Errorf("%s: want one failure, that of the first release: %q", o.name, failures)
		}
		if moves := o.moves(); len(moves) > 0 && (len(moves) != 2 || moves[1] != g.Status.TargetRevision) {
			t.Errorf("%s was put on %q, want the fix second and last", o.name, moves)
		}
	}
}

// When the template and the replicas change in one write, the Deployment reports, for a moment, that the new template is
// complete: 20 of 20 bad releases were judged good by a controller that believed it.
func TestFleet_BadReleaseThatScales(t *testing.T) {
	n := newNamespace(t)
	bad := n.createMany(20, template(good, "1"), replicas(3), soak(0))
	for _, o := range bad {
		o.awaitReady()
	}
	for _, o := range bad {
		o.update(runs(template(crash, "2")), replicas(2))
	}
	for _, o := range bad {
		g := o.awaitReason(v1alpha1.ReasonRolledBack)
		if goods := o.belayEvents(v1alpha1.ReasonRolledOut); len(goods) != 1 {
			t.Errorf("%s: want one release that is good: %q", o.name, goods)
		}
		o.checkMoves(g.Status.RunningRevision, g.Status.TargetRevision, g.Status.RunningRevision)
	}
}

// From the moment when the pods' status, as the API server has it, shows that a release has failed, until the API server
// receives the write that rolls it back. What is promised holds for up to 50 objects on the move: nobody else is there.
func TestFleet_RollbackIsPrompt(t *testing.T) {
	const most = 5 * time.Second
	n := emptyNamespace(t)
	if !n.counting() {
		t.Skip("without an audit log it is not known when the rollback was written")
	}
	n.belay = startBelay(t, n.name)
	figures.watchPace(t)
	fleet := n.createMany(40, template(good, "1"), replicas(2), soak(0))
	for _, o := range fleet {
		o.awaitReady()
	}
	shownSince, stop, err := evidence.Watch(n.Context(), cluster.kube, n.name, 1, 5*time.Second)
	if err != nil {
		n.Fatal(err)
	}
	n.Cleanup(stop)
	for i, o := range fleet {
		does := crash
		if i%4 == 3 {
			does = missing
		}
		o.release(template(does, "2"))
	}
	for _, o := range fleet {
		g := o.awaitReason(v1alpha1.ReasonRolledBack)
		shown, ok := shownSince(o.name)
		if !ok {
			t.Errorf("%s was rolled back without evidence", o.name)
			continue
		}
		writes := o.deploymentWrites()
		took := writes[len(writes)-1].At.Sub(shown)
		figures.time("time from evidence to rollback, "+g.Status.Failure.Reason, took, most)
		figures.time("time from evidence to rollback, all", took, most)
		o.checkMoves(g.Status.RunningRevision, g.Status.TargetRevision, g.Status.RunningRevision)
	}
}
