package e2e

import (
	"fmt"
	"testing"
	"time"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// At rest Belay writes nothing at all, whatever the state.
func TestAtRest_NoWrites(t *testing.T) {
	n := newNamespace(t)
	if !n.counting() {
		t.Skip("without an audit log writes cannot be counted")
	}
	n.createReady("rolled-out", template(good, "1"))
	back := n.createReady("rolled-back", template(good, "1"))
	back.release(template(missing, "2"))
	held := n.createReady("held", template(good, "1"), onFailure(v1alpha1.Hold))
	held.release(template(missing, "2"))
	nothing := n.create("no-good-revision", template(badConfig, "1"))
	paused := n.create("paused", template(good, "1"), paused(true))
	zero := n.create("zero", template(good, "1"), replicas(0))
	back.awaitReason(v1alpha1.ReasonRolledBack)
	held.awaitReason(v1alpha1.ReasonHeld)
	nothing.awaitReason(v1alpha1.ReasonNoGoodRevision)
	paused.awaitReason(v1alpha1.ReasonPaused)
	zero.awaitReason(v1alpha1.ReasonScaledToZero)

	before := len(n.writesAtRest())
	time.Sleep(*atRestFlag)
	writes := len(n.writes()) - before
	figures.count(fmt.Sprintf("writes: at rest, 6 objects in %s", *atRestFlag), writes, 0)
	if writes > 0 {
		t.Errorf("%d writes in %s at rest:\n%s", writes, *atRestFlag, n.describeWrites())
	}
}
