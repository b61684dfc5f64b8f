package e2e

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

func TestRelease_Good(t *testing.T) {
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

func TestRelease_Slow(t *testing.T) {
	n := newNamespace(t)
	web := n.createReady("web", template(good, "1"), replicas(2), deadline(15))
	web.release(template(slow, "2"))
	g := web.awaitReady()
	if strings.Contains(message(g), "failed") || len(web.belayEvents(v1alpha1.ReasonRolledBack)) > 0 {
		t.Errorf("a slow release was judged: %s", message(g))
	}
}

func TestRelease_OlderTemplateAgain(t *testing.T) {
	n := newNamespace(t)
	web := n.createReady("web", template(good, "a"))
	a := web.get().Status.GoodRevision
	web.release(template(good, "b"))
	b := web.awaitReady().Status.GoodRevision
	web.release(template(good, "a"))
	if g := web.awaitReady(); g.Status.TargetRevision != a {
		t.Errorf("the target is %s, want %s again", g.Status.TargetRevision, a)
	}
	web.release(template(good, "b"))
	web.awaitReady()
	web.checkMoves(a, b, a, b)
	if all := web.revisions(); len(all) != 2 || all[1].Name != b || all[1].Revision != 4 {
		t.Errorf("revisions are %v, want 2, and %s the newest with number 4", names(all), b)
	}
}

func TestRelease_GoingBackByHand(t *testing.T) {
	n := newNamespace(t)
	web := n.createReady("web", template(good, "1"))
	a := web.get().Status.GoodRevision
	web.release(template(crash, "2"))
	b := web.awaitRolledBack(v1alpha1.FailureCrashLoop, a).Status.TargetRevision
	before := web.deployment()

	web.release(template(good, "1"))
	g := web.awaitReady()
	if g.Status.TargetRevision != a || g.Status.Failure != nil {
		t.Errorf("status is %+v, want target %s and no failure", g.Status, a)
	}
	if after := web.deployment(); after.Generation != before.Generation {
		t.Error("the Deployment was written, although it ran what is asked for")
	}

	// The failed release asked for again is another attempt.
	web.release(template(crash, "2"))
	web.awaitRolledBack(v1alpha1.FailureCrashLoop, a)
	web.awaitEvents(v1alpha1.FailureCrashLoop, 2)
	web.checkMoves(a, b, a, b, a)
}

// What a release drops is gone from the Deployment, and what others put there stays.
func TestRelease_ReplacesWholeTemplate(t *testing.T) {
	n := newNamespace(t)
	full := template(good, "1")
	full.Labels["tier"], full.Annotations = "old", map[string]string{"note": "old"}
	full.Spec.Containers[0].Env = append(full.Spec.Containers[0].Env, corev1.EnvVar{Name: "OLD", Value: "1"})
	full.Spec.Containers = append(full.Spec.Containers, container("sidecar", good))
	web := n.createReady("web", full, func(g *v1alpha1.GuardedDeployment) { g.Spec.MinReadySeconds = 1 })
	web.patchDeployment(types.MergePatchType, map[string]any{"metadata": map[string]any{
		"labels": map[string]string{"team": "a"}, "annotations": map[string]string{"contact": "b"}}})

	web.update(runs(template(good, "2")), func(g *v1alpha1.GuardedDeployment) { g.Spec.MinReadySeconds = 0 })
	web.awaitReady()
	d := web.deployment()
	pods := d.Spec.Template
	if len(pods.Spec.Containers) != 1 || len(pods.Spec.Containers[0].Env) != 1 || pods.Labels["tier"] != "" || pods.Annotations["note"] != "" || d.Spec.MinReadySeconds != 0 {
		t.Errorf("something of the old release is left: %+v, minReadySeconds %d", pods, d.Spec.MinReadySeconds)
	}
	if d.Labels["team"] != "a" || d.Annotations["contact"] != "b" {
		t.Errorf("what others had put on the Deployment is gone: %v %v", d.Labels, d.Annotations)
	}
}
