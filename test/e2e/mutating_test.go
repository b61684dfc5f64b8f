package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// Patches of a Deployment, as CEL expressions.
const (
	mirrored = `[JSONPatch{op: "replace", path: "/spec/template/spec/containers/0/image",
		value: object.spec.template.spec.containers[0].image.replace("localhost/", "mirror.localhost/")}]`
	labelled = `[JSONPatch{op: "add", path: "/spec/template/metadata/labels/team", value: "a"}]`
	restless = `[JSONPatch{op: "replace", path: "/spec/template/metadata/annotations/build",
		value: has(object.metadata.resourceVersion) ? object.metadata.resourceVersion : "0"}]`
	sidecar = `object.spec.template.spec.containers.exists(c, c.name == "proxy") ? [] :
		[JSONPatch{op: "add", path: "/spec/template/spec/containers/-",
			value: Object.spec.template.spec.containers{name: "proxy", image: "localhost/proxy:good"}}]`
	sidecarInFront = `object.spec.template.spec.containers.exists(c, c.name == "proxy") ? [] :
		[JSONPatch{op: "add", path: "/spec/template/spec/containers/0",
			value: Object.spec.template.spec.containers{name: "proxy", image: "localhost/proxy:good"}}]`
)

// A policy that changes what Belay writes, each time in the same way, is no reason to write again.
func TestMutatingPolicy_Accepted(t *testing.T) {
	t.Parallel()
	twoContainers := func(d *appsv1.Deployment) bool { return len(d.Spec.Template.Spec.Containers) == 2 }
	for _, policy := range []struct {
		name    string
		patch   string
		changed func(*appsv1.Deployment) bool
	}{
		{"an image is taken from a mirror", mirrored, isMirrored},
		{"a label is added", labelled, func(d *appsv1.Deployment) bool { return d.Spec.Template.Labels["team"] == "a" }},
		{"a sidecar is added", sidecar, twoContainers},
		{"a sidecar is added in front", sidecarInFront, twoContainers},
	} {
		t.Run(policy.name, func(t *testing.T) {
			n := newNamespace(t)
			n.mutate(policy.patch, policy.changed)
			web := n.createReady("web", template(good, "1"))
			first := web.get().Status.GoodRevision
			n.checkBudget("release that a policy changes", 0, 9)
			before := len(n.writes())
			web.release(template(crash, "2"))
			second := web.awaitRolledBack(v1alpha1.FailureCrashLoop, first).Status.TargetRevision
			web.awaitAvailable(3)
			web.release(template(good, "3"))
			third := web.awaitReady().Status.TargetRevision
			web.update(replicas(2))
			web.awaitAvailable(2)
			n.checkBudget("failed release that a policy changes, its rollback, a fix and a change of scale", before, 15+9+3)
			web.checkMoves(first, second, first, third)
			web.awaitEvents(v1alpha1.ReasonContested, 0)
			if d := web.deployment(); !policy.changed(d) || len(web.deploymentWrites()) != 5 && n.counting() {
				t.Errorf("Belay wrote the Deployment %d times, want 5; its template is %+v", len(web.deploymentWrites()), d.Spec.Template)
			}
		})
	}
}

func isMirrored(d *appsv1.Deployment) bool {
	return strings.HasPrefix(d.Spec.Template.Spec.Containers[0].Image, "mirror.")
}

// What a policy had changed is not known after a restart: it is written once more, which changes nothing, and nothing is
// told of it.
func testMutatingPolicyBelayRestarted(t *testing.T) {
	n := emptyNamespace(t)
	n.mutate(mirrored, isMirrored)
	n.belay = startBelay(t, n.name)
	web := n.createReady("web", template(good, "1"))
	before, was := len(n.writesAtRest()), web.deployment()

	n.belay.kill()
	n.belay = startBelay(t, n.name)
	n.checkBudget("restart beside a policy that changes Deployments", before, 1)
	web.awaitReady()
	web.awaitEvents(v1alpha1.ReasonContested, 0)
	if d := web.deployment(); d.Generation != was.Generation || d.Status.Replicas != 3 {
		t.Errorf("the Deployment is at generation %d, before the restart %d; status %+v", d.Generation, was.Generation, d.Status)
	}
}

// A policy that overrides a stated value, each time in another way, is not fought: its answer to a write is accepted like
// any other. Where others write too, the value changes behind Belay's back: it is put back a few times, and then reported.
func TestMutatingPolicy_NeverSettles(t *testing.T) {
	n := newNamespace(t)
	n.mutate(restless, func(d *appsv1.Deployment) bool { return d.Spec.Template.Annotations["build"] == "0" })
	pods := template(good, "1")
	pods.Annotations = map[string]string{"build": "stated"}
	web := n.createReady("web", pods)
	first := web.get().Status.GoodRevision
	web.update(func(g *v1alpha1.GuardedDeployment) { g.Spec.Template.Spec.Containers[0].Env[0].Value = "2" })
	second := web.awaitReady().Status.GoodRevision
	before := len(n.writesAtRest())
	n.nothingHappens(refusalWatched, func(context.Context) error {
		if writes := n.writes()[before:]; len(writes) > 0 {
			return fmt.Errorf("%d writes:\n%s", len(writes), n.describeWrites())
		}
		return nil
	})
	web.checkMoves(first, second)
	web.awaitEvents(v1alpha1.ReasonContested, 0)

	for i := 0; reasonOf(web.get()) != v1alpha1.ReasonContested; i++ {
		if i == 10 {
			t.Fatalf("others have written %d times, and nothing is reported: %+v", i, web.get().Status)
		}
		written := web.patchDeployment(types.MergePatchType, map[string]any{"metadata": map[string]any{"annotations": map[string]any{"note": fmt.Sprint(i)}}})
		n.eventually("Belay has put it back, or reports", func(context.Context) (bool, error) {
			return web.deployment().Generation > written.Generation || reasonOf(web.get()) == v1alpha1.ReasonContested, nil
		})
	}
	g := web.awaitReason(v1alpha1.ReasonContested)
	if !strings.Contains(message(g), "annotations.build") {
		t.Errorf("the condition does not tell what is contested: %q", message(g))
	}
	if writes := web.deploymentWrites(); len(writes) != 2+5 && n.counting() {
		t.Errorf("Belay wrote the Deployment %d times, want 2 releases and 5 corrections:\n%s", len(writes), n.describeWrites())
	}
	resting := len(n.writesAtRest())
	web.patchDeployment(types.MergePatchType, map[string]any{"metadata": map[string]any{"annotations": map[string]any{"note": "last"}}})
	patched := time.Now() // The policy makes a rollout of it.
	web.awaitDeployment("is rolled out", func(d *appsv1.Deployment) bool {
		return d.Status.ObservedGeneration >= d.Generation && d.Status.UpdatedReplicas == 3 && d.Status.AvailableReplicas == 3 && d.Status.Replicas == 3
	})
	n.checkBudget("change by others that is contested already", resting, 2+int(time.Since(patched)/(10*time.Second)))
}
