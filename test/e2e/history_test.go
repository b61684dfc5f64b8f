package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

func (o *object) deleteRevision(name string) {
	o.Helper()
	if err := cluster.kube.AppsV1().ControllerRevisions(o.namespace.name).Delete(o.Context(), name, metav1.DeleteOptions{}); err != nil {
		o.Fatal(err)
	}
}

// badReleaseUnderWay returns an object whose second release will fail by its deadline, and its good revision.
func badReleaseUnderWay(n *namespace) (*object, appsv1.ControllerRevision) {
	n.Helper()
	web := n.createReady("web", template(good, "1"), deadline(10))
	first := web.revisions()[0]
	web.release(template(unready, "2"))
	web.awaitReason(v1alpha1.ReasonProgressing)
	return web, first
}

func TestHistory_DeletedRevision(t *testing.T) {
	n := newNamespace(t)
	web, first := badReleaseUnderWay(n)
	web.deleteRevision(first.Name)
	g := web.awaitReason(v1alpha1.ReasonNoGoodRevision)
	web.checkFailure(g, v1alpha1.FailureDeadlineExceeded)
	web.awaitEvents(v1alpha1.ReasonNoGoodRevision, 1)
	web.checkMoves(first.Name, g.Status.TargetRevision)

	web.release(template(good, "3"))
	web.awaitReady()
}

// Somebody puts other content under the name of the good revision, to have it run.
func TestHistory_ForgedRevision(t *testing.T) {
	n := newNamespace(t)
	web, first := badReleaseUnderWay(n)
	forged := first.DeepCopy()
	forged.ResourceVersion, forged.UID = "", ""
	forged.Data.Raw = []byte(strings.ReplaceAll(string(first.Data.Raw), "localhost/app", "localhost/forged"))
	web.deleteRevision(first.Name)
	if _, err := cluster.kube.AppsV1().ControllerRevisions(n.name).Create(t.Context(), forged, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}

	g := web.awaitReason(v1alpha1.ReasonNoGoodRevision)
	if !strings.Contains(message(g), forged.Name) {
		t.Errorf("the condition does not tell of %s: %q", forged.Name, message(g))
	}
	if note := web.awaitEvents(v1alpha1.ReasonInvalid, 1)[0]; !strings.Contains(note, forged.Name) {
		t.Errorf("the Event does not tell of %s: %q", forged.Name, note)
	}
	web.checkMoves(first.Name, g.Status.TargetRevision)
	if version(web.deployment()) != "2" {
		t.Errorf("the Deployment runs release %q, want 2, left as it is", version(web.deployment()))
	}
}

func TestHistory_Pruned(t *testing.T) {
	const limit = 2
	n := newNamespace(t)
	web := n.createReady("web", template(good, "0"), replicas(1), soak(0), func(g *v1alpha1.GuardedDeployment) {
		g.Spec.RevisionHistoryLimit = new(int32(limit))
	})
	for i := range 6 {
		web.release(template(good, fmt.Sprint(i+1)))
		web.awaitReady()
	}
	g := web.get()
	all := web.revisions()
	// Besides the target, which runs, and the good one to go back to.
	if len(all) != limit+2 || all[len(all)-1].Name != g.Status.TargetRevision || all[len(all)-1].Revision != 7 {
		t.Errorf("revisions are %v, want the newest %d up to number 7, %s", names(all), limit+2, g.Status.TargetRevision)
	}

	// The good one is kept through failures, however many there are.
	good := g.Status.GoodRevision
	for i := range 4 {
		web.release(template(missing, fmt.Sprint("bad ", i)))
		web.awaitRolledBack(v1alpha1.FailureImagePull, good)
	}
	if all := web.revisions(); len(all) > limit+2 || !slices.ContainsFunc(all, func(r appsv1.ControllerRevision) bool { return r.Name == good }) {
		t.Errorf("revisions are %v, want at most %d, and %s among them", names(all), limit+2, good)
	}
}

// The status is a report: nothing is decided from it.
func TestHistory_DeletedStatus(t *testing.T) {
	n := newNamespace(t)
	web := n.createReady("web", template(good, "1"))
	a := web.get().Status.GoodRevision
	web.release(template(crash, "2"))
	before := web.awaitRolledBack(v1alpha1.FailureCrashLoop, a)

	g := web.get()
	g.Status = v1alpha1.GuardedDeploymentStatus{}
	if _, err := cluster.belay.BelayV1alpha1().GuardedDeployments(n.name).UpdateStatus(t.Context(), g, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	after := web.awaitRolledBack(v1alpha1.FailureCrashLoop, a)
	if *after.Status.Failure.ExitCode != 1 || after.Status.Failure.Message != before.Status.Failure.Message {
		t.Errorf("failure is %+v, was %+v", *after.Status.Failure, *before.Status.Failure)
	}
	web.checkMoves(a, before.Status.TargetRevision, a)
}
