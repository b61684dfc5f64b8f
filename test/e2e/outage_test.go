package e2e

import (
	"context"
	"math/rand/v2"
	"syscall"
	"testing"
	"time"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
	"github.com/belay-dev/belay/test/localcluster"
)

// A Deployment controller that was away for longer than the deadline reports first that healthy rollouts have exceeded
// it: 64 of 150 were judged failed by a controller that believed it. Not parallel: all others need that controller.
func TestOutage_DeploymentController(t *testing.T) {
	pid := pidOf(t, "kube-controller-manager")
	n := emptyNamespace(t)
	n.belay = startBelay(t, n.name)
	fleet := n.createMany(20, template(good, "1"), replicas(2), deadline(10), soak(0))
	for _, o := range fleet {
		o.awaitReady()
	}
	for _, o := range fleet {
		o.release(template(slow, "2"))
	}
	time.Sleep(2 * time.Second) // The rollouts are in the middle.
	resume := stopProcess(t, pid)
	n.nothingHappens(20*time.Second, func(context.Context) error { return nil })
	for _, o := range fleet {
		if g := o.get(); g.Status.Failure != nil {
			t.Errorf("%s failed while the Deployment controller was away: %s", o.name, g.Status.Failure.Message)
		}
	}
	resume()
	for _, o := range fleet {
		g := o.awaitReady()
		if moves := o.moves(); len(moves) > 0 && (len(moves) != 2 || moves[1] != g.Status.TargetRevision) {
			t.Errorf("%s was put on %q, want the new revision second and last", o.name, moves)
		}
	}
}

// However often Belay is killed, and wherever: the failed releases are rolled back, each once.
func testOutageBelayKilled(t *testing.T) {
	const lives = 10
	n := emptyNamespace(t)
	n.belay = startBelay(t, n.name)
	fleet := n.createMany(5, template(good, "1"), replicas(2), soak(0), maxRestarts(0))
	for _, o := range fleet {
		o.awaitReady()
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	for life := range lives {
		if life%2 == 0 && life/2 < len(fleet) {
			fleet[life/2].release(template(crash, "2"))
		}
		time.Sleep(500*time.Millisecond + time.Duration(random.Int64N(int64(5*time.Second))))
		n.belay.kill()
		n.belay = startBelay(t, n.name)
	}
	for _, o := range fleet {
		g := o.awaitReason(v1alpha1.ReasonRolledBack)
		o.checkFailure(g, v1alpha1.FailureCrashLoop)
		o.checkMoves(g.Status.RunningRevision, g.Status.TargetRevision, g.Status.RunningRevision)
		if writes := o.deploymentWrites(); len(writes) > 0 && len(writes) != 3 {
			t.Errorf("%s: %d writes of the Deployment, want 3: the first release, the second, its rollback", o.name, len(writes))
		}
		if revisions := o.revisions(); len(revisions) != 2 {
			t.Errorf("revisions are %v, want 2", names(revisions))
		}
	}
}

// pidOf returns the process of a component of the embedded cluster.
func pidOf(t *testing.T, component string) int {
	t.Helper()
	if !exists("/proc/self/cmdline") {
		t.Skip("processes can be told by /proc only")
	}
	pid, _, err := localcluster.Process(embedded(t), component)
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

// stopProcess stops a process in the middle of what it does. It goes on after resume, or the test.
func stopProcess(t *testing.T, pid int) (resume func()) {
	t.Helper()
	goOn := func() error { return syscall.Kill(pid, syscall.SIGCONT) }
	forget := leave(goOn)
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	resume = func() {
		forget()
		if err := goOn(); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(resume)
	return resume
}
