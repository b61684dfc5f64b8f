package node

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// TestStory is one story: each part goes on where the one before it ended.
func TestStory(t *testing.T) {
	s := newStory(t)
	s.part("Belay is installed from its image and its manifests", s.install)
	s.part("the first release comes up", func() {
		s.release(release{Version: "v1"})
		s.expectGood()
	})
	s.traffic = startTraffic(s.serviceAddress())
	s.part("a good release replaces it", func() {
		s.release(release{Version: "v2"})
		s.expectGood()
	})
	s.part("a server that exits is rolled back", func() {
		s.release(release{Version: "exits", Args: []string{"--exit=1"}})
		failure := s.expectRolledBack(v1alpha1.FailureCrashLoop)
		if failure.ExitCode == nil || *failure.ExitCode != 1 {
			s.Errorf("the exit code in %+v is not 1", failure)
		}
	})
	s.part("an image that does not exist is rolled back", func() {
		s.release(release{Version: "missing", Image: registry + "/missing:1"})
		s.expectRolledBack(v1alpha1.FailureImagePull)
	})
	s.part("a ConfigMap that does not exist is rolled back", func() {
		s.release(release{Version: "unconfigured", ConfigMap: "nowhere"})
		s.expectRolledBack(v1alpha1.FailureContainerConfig)
	})
	s.part("a server that sickens in the soak is rolled back", s.sicken)
	s.part("the leader is killed in the middle of a rollback", s.killLeader)
	s.part("the fix comes up", func() {
		s.release(release{Version: "v3"})
		s.expectGood()
	})
	s.part("a command is run in a container, and its process is attached to", s.exec)
	s.part("Belay at rest is small", s.measureMemory)
	s.part("Belay is uninstalled", s.uninstall)
	s.part("the client saw none of it", s.checkTraffic)
}

// install applies the manifests as a user would, with the image that was just built.
func (s *story) install() {
	if err := s.node.installBelay(s.Context()); err != nil {
		s.Fatal(err)
	}
	pods := s.belayPods()
	if len(pods) != 2 {
		s.Fatalf("%d pods of Belay run, want 2", len(pods))
	}
	for _, pod := range pods {
		s.checkVersion(pod)
	}
}

// sicken releases a server one of whose pods stops being ready as soon as the soak has begun.
func (s *story) sicken() {
	shared := filepath.Join(s.node.scratch, "shared")
	if err := os.Mkdir(shared, 0o755); err != nil {
		s.Fatal(err)
	}
	if err := os.Chmod(shared, 0o777); err != nil { // whatever the umask
		s.Fatal(err)
	}
	s.release(release{Version: "sickens", Soak: 60, Shared: shared, Args: []string{"--sicken=/shared/sicken"}})
	s.eventually(partTime, "a soak", func() error {
		return s.status(v1alpha1.ConditionReconciling, v1alpha1.ReasonSoaking, s.want)
	})
	if err := os.WriteFile(filepath.Join(shared, "sicken"), nil, 0o644); err != nil {
		s.Fatal(err)
	}
	s.expectRolledBack(v1alpha1.FailureUnhealthyInSoak)
}

// killLeader fails a release and kills the leader when it has written the verdict. The Deployment moves right after
// that: who is the next has to find out how far it came.
func (s *story) killLeader() {
	leader, pid := s.leader()
	s.release(release{Version: "exits-again", Args: []string{"--exit=1"}})
	s.waitForVerdict(v1alpha1.VerdictFailed)
	killed := time.Now()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		s.Fatal(err)
	}
	s.eventually(40*time.Second, "another leader", func() error {
		if now := s.leaseHolder(); now == leader || now == "" {
			return fmt.Errorf("the Lease is held by %q", now)
		}
		return nil
	})
	takeover := time.Since(killed)
	figures.add("another leader after the leader is killed", takeover.Round(100*time.Millisecond))
	if takeover > 22*time.Second {
		s.Errorf("another leader took %s, want at most 22s", takeover)
	}
	s.expectRolledBack(v1alpha1.FailureCrashLoop)
	moves := s.moves()
	back := moves[len(moves)-1]
	figures.add("the rollback after the kill, and who wrote it", fmt.Sprintf("%s, %s", back.At.Sub(killed).Round(time.Millisecond), back.pod()))
	s.kubectl("rollout", "status", "deployment/"+belayName, "-n", belayNamespace, "--timeout=60s")
}

// measureMemory looks at every process of Belay after a while without work. None but the one that was killed has ended
// by now.
func (s *story) measureMemory() {
	time.Sleep(10 * time.Second)
	leader, _ := s.leader()
	var restarts int32
	for _, pod := range s.belayPods() {
		restarts += pod.Status.ContainerStatuses[0].RestartCount
		role := "standby"
		if strings.HasPrefix(leader, pod.Name+"_") {
			role = "leader"
		}
		figures.add("memory at rest, "+role, fmt.Sprintf("%.1f MiB", residentMiB(s, s.pid(pod))))
	}
	if restarts != 1 {
		s.Errorf("Belay was restarted %d times, want once", restarts)
	}
}

// uninstall takes everything away in the order of docs/operations.md, and makes sure that nothing happens to what Belay
// has guarded.
func (s *story) uninstall() {
	artifacts := filepath.Join(repository(), "artifacts")
	before := s.uids()
	s.kubectl("delete", "-k", filepath.Join(artifacts, "controller"), "--timeout=60s")
	s.eventually(30*time.Second, "Belay's end", func() error {
		if left := len(s.belayPods()); left > 0 {
			return fmt.Errorf("%d pods are left", left)
		}
		return nil
	})
	s.expectUnchanged(before)
	s.kubectl("delete", "guardeddeployments", "--all", "--all-namespaces", "--cascade=orphan", "--timeout=30s")
	s.kubectl("delete", "-f", filepath.Join(artifacts, "keep-crd.yaml"))
	s.kubectl("delete", "-f", filepath.Join(artifacts, "admission-policy.yaml"), "-f", filepath.Join(artifacts, "users.yaml"))
	s.eventually(30*time.Second, "the CRD's end", func() error {
		_, err := s.node.kubectl(s.Context(), "", "delete", "-f", filepath.Join(artifacts, "crd.yaml"), "--ignore-not-found", "--timeout=20s")
		return err
	})
	s.expectUnchanged(before)
	d, err := s.kube.AppsV1().Deployments(namespace).Get(s.Context(), name, metav1.GetOptions{})
	if err != nil {
		s.Fatal(err)
	}
	if len(d.OwnerReferences) > 0 || d.Status.AvailableReplicas != replicas {
		s.Errorf("the Deployment is owned by %v and has %d available pods", d.OwnerReferences, d.Status.AvailableReplicas)
	}
}

// expectUnchanged gives whoever would clean up after Belay some time, and makes sure that nobody does.
func (s *story) expectUnchanged(before []string) {
	s.Helper()
	time.Sleep(10 * time.Second)
	if after := s.uids(); strings.Join(before, "\n") != strings.Join(after, "\n") {
		s.Errorf("before:\n%s\nafter:\n%s", strings.Join(before, "\n"), strings.Join(after, "\n"))
	}
}

// checkTraffic ends the traffic and judges it.
func (s *story) checkTraffic() {
	seen := s.traffic.stop()
	figures.add("requests while all this happened: failed", fmt.Sprintf("%d of %d, in %s", len(seen.failures), seen.requests, seen.took.Round(time.Second)))
	for i, failure := range seen.failures {
		if i == 10 {
			s.Errorf("and %d more", len(seen.failures)-i)
			break
		}
		s.Error(failure)
	}
	// Of the failed releases only the one that was ready for a while ever answered.
	for _, version := range []string{"v1", "v2", "v3", "sickens"} {
		if seen.answers[version] == 0 {
			s.Errorf("%s never answered", version)
		}
		delete(seen.answers, version)
	}
	if len(seen.answers) > 0 {
		s.Errorf("these should not have answered: %v", seen.answers)
	}
}
