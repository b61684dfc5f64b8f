package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
	"github.com/belay-dev/belay/test/auditlog"
)

// These tests are about another ReplicaSet under a revision that is good: "kubectl rollout restart", and what others add to the
// template of a Deployment of Belay's.

const (
	restartedAt = "kubectl.kubernetes.io/restartedAt"

	latest     = "registry.e2e.belay.dev/app:latest"
	goodDigest = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	newDigest  = "sha256:cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc"
	badDigest  = "sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
)

// crashesWith is what becomes of pods whose first container exits with this code, again and again.
func crashesWith(code int32) script {
	return script{lives: func(p *played) {
		p.takeOn("ContainerCreating")
		for p.start(false); ; {
			p.pause(time.Second)
			p.container(func(c *corev1.ContainerStatus) { c.State = terminated(code, "Error", "no such table") })
			p.pause(time.Second)
			p.container(func(c *corev1.ContainerStatus) {
				c.LastTerminationState, c.State = c.State, running()
				c.RestartCount++
			})
		}
	}}
}

// ofLatest returns a template of this release with a tag that may move.
func (k *kubelet) ofLatest(version string) corev1.PodTemplateSpec {
	pods := k.template(version)
	pods.Spec.Containers[0].Image = latest
	return pods
}

// wentGood returns with which ReplicaSet, and with which images, the newest revision was good.
func (o *object) wentGood() (set, images string) {
	o.Helper()
	newest := o.revisions()[len(o.revisions())-1]
	var with struct{ ReplicaSet string }
	if err := json.Unmarshal([]byte(newest.Annotations[v1alpha1.GoodWithAnnotation]), &with); err != nil {
		o.Fatalf("%v: %v", newest.Annotations, err)
	}
	return with.ReplicaSet, newest.Annotations[v1alpha1.ImagesAnnotation]
}

// reasonsSeen begins to note the reasons that the status gives, from the next one on.
func (o *object) reasonsSeen() (end func() []string) {
	o.Helper()
	reasons, first := watchEach(o, cluster.seen.guarded, reasonOf), reasonOf(o.get())
	return func() []string {
		seen := reasons()
		if len(seen) > 0 && seen[0] == first { // Its counts may have changed once more.
			seen = seen[1:]
		}
		if len(seen) == 0 {
			o.Fatalf("the reason has been %s all the time", first)
		}
		return seen
	}
}

// The tag has moved, and the pods of the restart do not run. The old pods serve on, and remain; whoever restarted is named.
func TestRestart_FailedIsUndone(t *testing.T) {
	k := newKubelet(t, 1, map[string]script{})
	k.push(latest, goodDigest, script{})
	web := k.createReady("web", k.ofLatest("1"))
	first, before, pods, made := web.get().Status.GoodRevision, web.deployment(), web.podUIDs(), len(k.writesAtRest())
	set, images := web.wentGood()
	if want := `{"app":{"digests":["` + goodDigest + `"]}}`; images != want {
		t.Errorf("the revision was good with the images %s, want %s", images, want)
	}

	k.push(latest, badDigest, crashesWith(3))
	reasons, lowest := web.reasonsSeen(), web.watchAvailable()
	web.kubectl("rollout", "restart", "deployment/web")
	g := web.await("has a failed restart, and is ready again", func(g *v1alpha1.GuardedDeployment) bool {
		return g.Status.Failure != nil && reasonOf(g) == v1alpha1.ReasonRolledOut
	})
	if least := lowest(); least < 3 {
		t.Errorf("at some time %d pods were available, want always 3", least)
	}
	web.checkConditions(g)
	web.checkRestartFailure(g, first)
	moved := []v1alpha1.MovedImage{{Container: "app", Image: latest, Good: goodDigest, Now: badDigest}}
	if !slices.Equal(g.Status.Failure.Images, moved) {
		t.Errorf("the images of the failure are %+v, want %+v", g.Status.Failure.Images, moved)
	}
	web.awaitPods(pods)
	if seen := reasons(); !slices.Equal(seen, []string{v1alpha1.ReasonProgressing, v1alpha1.ReasonRestartFailed, v1alpha1.ReasonRolledOut}) {
		t.Errorf("the reasons were %q", seen)
	}
	if after := web.deployment(); after.Spec.Template.Annotations[restartedAt] != "" || after.Annotations[v1alpha1.PinnedAnnotation] != "" ||
		after.Spec.Template.Spec.Containers[0].Image != latest || after.UID != before.UID {
		t.Errorf("the Deployment is not as it was: %v, %+v", after.Annotations, after.Spec.Template)
	}
	if now, still := web.wentGood(); now != set || still != images {
		t.Errorf("the revision is good with %s, %s, before with %s, %s", now, still, set, images)
	}
	web.awaitEvents(v1alpha1.FailureCrashLoop, 1)
	web.awaitEvents(v1alpha1.ReasonRolledOut, 2)
	web.awaitEvents(v1alpha1.ReasonContested, 0)
	if note := web.awaitEvents(v1alpha1.ReasonRestartFailed, 1)[0]; !strings.Contains(note, `"kubectl-rollout"`) || !strings.Contains(note, restartedAt) {
		t.Errorf("the Event does not tell what was undone, and whose it was: %q", note)
	}
	k.checkBudget("failed restart of 3 replicas, undone", made, 12)
	web.checkDeploymentWrites("a release and an undone restart", 0, 2)

	// The next one is the next attempt.
	k.push(latest, newDigest, script{})
	web.kubectl("rollout", "restart", "deployment/web")
	web.awaitOtherPods(pods, 3)
	if g := web.await("is good after the next restart", func(g *v1alpha1.GuardedDeployment) bool {
		return g.Status.Failure == nil && reasonOf(g) == v1alpha1.ReasonRolledOut
	}); strings.Contains(message(g), "failed") {
		t.Errorf("the condition still tells of the failure: %q", message(g))
	}
	if now, images := web.wentGood(); now == set || !strings.Contains(images, newDigest) {
		t.Errorf("the revision is good with %s, %s; that is not the restart", now, images)
	}
	web.checkDeploymentWrites("a release and an undone restart, and a good one", 0, 2)
}

// checkRestartFailure makes sure that the status tells of the failed restart of a revision.
func (o *object) checkRestartFailure(g *v1alpha1.GuardedDeployment, revision string) {
	o.Helper()
	f := g.Status.Failure
	if f.Revision != revision || f.Reason != v1alpha1.FailureCrashLoop || f.Cause != v1alpha1.CauseExitCode || f.ExitCode == nil || *f.ExitCode != 3 ||
		f.Container != "app" || !strings.HasPrefix(f.ReplicaSet, o.name+"-") || !strings.HasPrefix(f.Pod, f.ReplicaSet+"-") {
		o.Errorf("the failure is %+v", *f)
	}
	want := movedWords(revision)
	if !strings.Contains(f.Message, want) || !strings.Contains(message(g), f.Message) {
		o.Errorf("the condition says %q and the failure %q, want in both %q", message(g), f.Message, want)
	}
}

// A good restart is judged, and costs no write of the Deployment. Its mark stays.
func TestRestart_Good(t *testing.T) {
	n := newNamespace(t)
	web := n.createReady("web", template(good, "1"))
	before, pods := len(n.writesAtRest()), web.podUIDs()
	reasons := web.reasonsSeen()
	web.kubectl("rollout", "restart", "deployment/web")
	web.awaitOtherPods(pods, 3)
	web.awaitReady()
	n.checkBudget("good restart of 3 replicas", before, 6)
	if seen := reasons(); seen[0] != v1alpha1.ReasonProgressing || seen[len(seen)-1] != v1alpha1.ReasonRolledOut { // A short soak may go unseen.
		t.Errorf("the reasons were %q", seen)
	}
	web.checkDeploymentWrites("a release and a good restart", 0, 1)
	if marks := n.countWrites("controllerrevisions", before); marks != 1 && n.counting() {
		t.Errorf("the revision was written %d times, want once:\n%s", marks, n.describeWrites())
	}
	web.awaitEvents(v1alpha1.ReasonRolledOut, 2)
	if web.deployment().Spec.Template.Annotations[restartedAt] == "" {
		t.Error("the mark is gone")
	}
}

// countWrites counts the writes of these since the first so many.
func (n *namespace) countWrites(resource string, before int) (times int) {
	n.Helper()
	for _, w := range n.writes()[min(before, len(n.writes())):] {
		if w.ObjectRef.Resource == resource {
			times++
		}
	}
	return times
}

// checkRestOfAnotherProcess restarts Belay, and makes sure that it looks at nothing but its caches.
func (n *namespace) checkRestOfAnotherProcess() {
	n.Helper()
	if !n.counting() {
		return
	}
	before := len(n.writesAtRest())
	info, err := os.Stat(cluster.audit.path)
	if err != nil {
		n.Fatal(err)
	}
	n.belay.kill()
	n.belay = startBelay(n.T, n.name)
	if writes := n.writesAtRest()[before:]; len(writes) > 0 {
		n.Errorf("another process writes: %v", writes)
	}
	cached := []string{"guardeddeployments", "deployments", "controllerrevisions"}
	_, err = auditlog.Read(cluster.audit.path, info.Size(), `"userAgent":"belay/`, func(line []byte) error {
		var a asked
		if err := json.Unmarshal(line, &a); err != nil {
			return err
		}
		inCache := slices.Contains(cached, a.ObjectRef.Resource) && (a.Verb == "list" || a.Verb == "watch")
		sweeps := strings.Contains(a.RequestURI, url.QueryEscape(v1alpha1.HeldAtLabel)) // once, for what is guarded in place
		if a.ObjectRef.Namespace == n.name && !inCache && !sweeps {
			n.Errorf("another process asks for %s %s", a.Verb, a.RequestURI)
		}
		return nil
	})
	if err != nil {
		n.Fatal(err)
	}
}

// Another process writes nothing, and reads nobody's pods, of restarts that were judged before it began.
func testRestartBelayRestarted(t *testing.T) {
	n := emptyNamespace(t)
	n.belay = startBelay(t, n.name)
	fine, undone := n.create("fine", template(good, "1")), n.create("undone", template(good, "1"))
	fine.awaitReady()
	undone.awaitReady()
	pods := fine.podUIDs()
	fine.kubectl("rollout", "restart", "deployment/fine")
	undone.patchSidecar(crash)
	fine.awaitOtherPods(pods, 3)
	undone.awaitUndone()
	fine.awaitReady()
	n.checkRestOfAnotherProcess()
	if g := undone.get(); g.Status.Failure == nil || reasonOf(g) != v1alpha1.ReasonRolledOut {
		t.Errorf("another process has forgotten: %+v", g.Status)
	}
}

// patchSidecar adds a container to the Deployment by hand.
func (o *object) patchSidecar(b behaviour) {
	o.Helper()
	image := container("", b).Image
	o.kubectl("patch", "deployment/"+o.name, "--patch", `{"spec":{"template":{"spec":{"containers":[{"name":"proxy","image":"`+image+`"}]}}}}`)
}

// awaitUndone waits until a restart has failed, and what it had changed is as it was.
func (o *object) awaitUndone() *v1alpha1.GuardedDeployment {
	o.Helper()
	g := o.await("has a restart undone", func(g *v1alpha1.GuardedDeployment) bool {
		return g.Status.Failure != nil && g.Status.Failure.ReplicaSet != "" && reasonOf(g) == v1alpha1.ReasonRolledOut
	})
	o.checkConditions(g)
	return g
}

// A sidecar that somebody adds by hand stays as long as it runs. One that crashes is taken away again.
func TestRestart_Sidecar(t *testing.T) {
	n := newNamespace(t)
	web := n.createReady("web", template(good, "1"))
	pods := web.podUIDs()
	web.patchSidecar(crash)
	g := web.awaitUndone()
	if f := g.Status.Failure; f.Container != "proxy" || f.Reason != v1alpha1.FailureCrashLoop {
		t.Errorf("the failure is %+v, want the sidecar's", *f)
	}
	web.awaitPods(pods)
	if d := web.deployment(); len(d.Spec.Template.Spec.Containers) != 1 {
		t.Errorf("the sidecar is still there: %+v", d.Spec.Template.Spec.Containers)
	}
	if note := web.awaitEvents(v1alpha1.ReasonRestartFailed, 1)[0]; !strings.Contains(note, `"kubectl-patch"`) || !strings.Contains(note, "spec.template.spec.containers") {
		t.Errorf("the Event does not tell what was undone, and whose it was: %q", note)
	}

	web.patchSidecar(good)
	web.awaitOtherPods(pods, 3)
	web.await("is good with the sidecar", func(g *v1alpha1.GuardedDeployment) bool {
		return g.Status.Failure == nil && reasonOf(g) == v1alpha1.ReasonRolledOut
	})
	pods = web.podUIDs()
	// What others had put there by then belongs to what is gone back to.
	web.kubectl("set", "image", "deployment/web", "proxy="+container("", missing).Image)
	web.awaitUndone()
	web.awaitPods(pods)
	web.awaitDeployment("has the sidecar as it was", func(d *appsv1.Deployment) bool {
		containers := d.Spec.Template.Spec.Containers
		return len(containers) == 2 && containers[1].Image == container("", good).Image
	})
}

// With Hold a failed restart is reported, and left until somebody undoes it by hand.
func TestRestart_Hold(t *testing.T) {
	n := newNamespace(t)
	web := n.createReady("web", template(good, "1"), onFailure(v1alpha1.Hold))
	pods := web.podUIDs()
	web.patchSidecar(crash)
	g := web.awaitReason(v1alpha1.ReasonRestartFailed)
	web.checkStalled(g)
	if !strings.Contains(message(g), "spec.guard.onFailure") || g.Status.Failure == nil || g.Status.Failure.Container != "proxy" {
		t.Errorf("it says %q, of %+v", message(g), g.Status.Failure)
	}
	web.awaitEvents(v1alpha1.ReasonRestartFailed, 1)
	n.nothingHappens(5*time.Second, func(context.Context) error {
		if d := web.deployment(); len(d.Spec.Template.Spec.Containers) != 2 {
			return fmt.Errorf("it was undone: %+v", d.Spec.Template)
		}
		return nil
	})
	web.checkDeploymentWrites("a release and a restart that is left", 0, 1)
	web.kubectl("rollout", "undo", "deployment/web")
	web.awaitReady()
	web.awaitPods(pods)
	web.checkDeploymentWrites("a release, a restart that is left, and an undo", 0, 1)
}

// checkStalled makes sure that the conditions say that only a person can help.
func (o *object) checkStalled(g *v1alpha1.GuardedDeployment) {
	o.Helper()
	if !meta.IsStatusConditionTrue(g.Status.Conditions, v1alpha1.ConditionStalled) || !meta.IsStatusConditionFalse(g.Status.Conditions, v1alpha1.ConditionReady) ||
		!meta.IsStatusConditionFalse(g.Status.Conditions, v1alpha1.ConditionReconciling) {
		o.Errorf("want it stalled, and not ready: %+v", g.Status.Conditions)
	}
}

// While rolled back, a restart of the good release that fails is undone, and the release is as failed as it was.
func TestRestart_FailsWhileRolledBack(t *testing.T) {
	k := newKubelet(t, 1, map[string]script{"2": crashesWith(1)})
	k.push(latest, goodDigest, script{})
	web := k.createReady("web", k.ofLatest("1"))
	first := web.get().Status.GoodRevision
	pods := web.podUIDs()
	failing := k.template("2")
	web.release(failing)
	failed := web.awaitRolledBack(v1alpha1.FailureCrashLoop, first)
	k.push(latest, badDigest, crashesWith(3))
	web.kubectl("rollout", "restart", "deployment/web")
	note := web.awaitEvents(v1alpha1.ReasonRestartFailed, 1)[0]
	if !strings.Contains(note, `"kubectl-rollout"`) {
		t.Errorf("the Event does not tell whose it was: %q", note)
	}
	g := web.awaitRolledBack(v1alpha1.FailureCrashLoop, first)
	web.awaitPods(pods)
	if !g.Status.Failure.Time.Equal(&failed.Status.Failure.Time) {
		t.Errorf("the release was judged again: %+v, before %+v", *g.Status.Failure, *failed.Status.Failure)
	}
	web.checkDeploymentWrites("two releases, a rollback and an undone restart", 0, 4)
}
