package e2e

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

func TestFailure_CrashLoop(t *testing.T) {
	n := newNamespace(t)
	web := n.createReady("web", template(good, "1"))
	first := web.get().Status.GoodRevision
	before := len(n.writesAtRest())
	lowest := web.watchAvailable()

	asked := web.release(template(crash, "2"))
	g := web.awaitRolledBack(v1alpha1.FailureCrashLoop, first)

	f := g.Status.Failure
	if !strings.HasPrefix(f.Pod, "web-") || f.Container != "app" || f.ExitCode == nil || *f.ExitCode != 1 {
		t.Errorf("failure is %+v, want pod, container and exit code of the crash", *f)
	}
	for _, reason := range []string{v1alpha1.FailureCrashLoop, v1alpha1.ReasonRolledBack} {
		if note := web.awaitEvents(reason, 1)[0]; !strings.Contains(note, f.Pod) || !strings.Contains(note, "exited with code 1") {
			t.Errorf("Event %s says %q, want pod %s and its exit code", reason, note, f.Pod)
		}
	}
	if version(web.deployment()) != "1" {
		t.Errorf("the Deployment runs release %q, want 1", version(web.deployment()))
	}
	if g.Generation != asked.Generation || versionOf(g.Spec.Template.Spec) != "2" {
		t.Error("the spec was changed")
	}
	n.checkBudget("failed release of 3 replicas, with its rollback", before, 15)
	web.checkMoves(first, g.Status.TargetRevision, first)
	if least := lowest(); least < 3 {
		t.Errorf("at some time %d pods were available, want always 3", least)
	}
}

// A release may fail in many ways. Each is found, named and rolled back.
func TestFailure_RolledBack(t *testing.T) {
	t.Parallel()
	withInit := template(good, "2")
	withInit.Spec.InitContainers = []corev1.Container{container("migrate", crash)}
	nowhere := template(good, "2")
	nowhere.Spec.NodeSelector = map[string]string{"e2e.belay.dev/no-such": "node"}
	modest, greedy := asking(template(good, "1"), "100m"), asking(template(good, "2"), "200m")

	for _, release := range []struct {
		name     string
		first    corev1.PodTemplateSpec // left out if it asks for nothing
		pods     corev1.PodTemplateSpec
		obstacle func(*namespace) // put up when the first release is ready
		failure  string           // the reason, empty if it may be one or another
		says     string           // in the message
		options  []option

		replacesOld bool // it looks healthy for so long that old pods may be gone when it fails
	}{
		{name: "an init container crashes", pods: withInit, failure: v1alpha1.FailureCrashLoop, says: "container migrate"},
		{name: "the image is missing", pods: template(missing, "2"), failure: v1alpha1.FailureImagePull, says: "ImagePull"},
		{name: "the configuration is missing", pods: template(badConfig, "2"), failure: v1alpha1.FailureContainerConfig, says: "app-config"},
		{name: "it never gets ready", pods: template(unready, "2"), failure: v1alpha1.FailureDeadlineExceeded, says: "is not ready"},
		{name: "it fits on no node", pods: nowhere, failure: v1alpha1.FailureDeadlineExceeded, says: "fits on no node"},
		{name: "its pods are over quota", first: modest, pods: greedy, failure: v1alpha1.FailureQuotaExceeded, says: "exceeded quota",
			obstacle: func(n *namespace) { n.setQuota(corev1.ResourceRequestsCPU, "400m") }},
		{name: "its pods are forbidden", pods: template(good, "2"), failure: v1alpha1.FailurePodsForbidden, says: "PodSecurity",
			obstacle: func(n *namespace) { n.label("pod-security.kubernetes.io/enforce", "restricted") }},
		// In the soak, or before it on a machine so slow that nobody saw it healthy.
		{name: "it sickens", pods: template(sicken, "2"), says: "is not ready", options: []option{replicas(1), soak(12)}, replacesOld: true},
		// Ready for 3 of every 4 seconds: each crash is followed by recovery, but restarts count.
		{name: "it flaps", pods: template(flap, "2"), says: "exited with code 2",
			options: []option{soak(15), maxRestarts(0)}, replacesOld: true},
	} {
		t.Run(release.name, func(t *testing.T) {
			n := newNamespace(t)
			if len(release.first.Spec.Containers) == 0 {
				release.first = template(good, "1")
			}
			web := n.createReady("web", release.first, append([]option{deadline(10)}, release.options...)...)
			first := web.get().Status.GoodRevision
			before := len(n.writes())
			if release.obstacle != nil {
				release.obstacle(n)
			}
			lowest := web.watchAvailable()
			web.release(release.pods)
			g := web.awaitReason(v1alpha1.ReasonRolledBack)
			if release.failure == "" { // As it happens.
				release.failure = g.Status.Failure.Reason
			}
			g = web.awaitRolledBack(release.failure, first)
			if !strings.Contains(g.Status.Failure.Message, release.says) {
				t.Errorf("the failure's message is %q, want %q in it", g.Status.Failure.Message, release.says)
			}
			web.awaitEvents(release.failure, 1)
			web.awaitEvents(v1alpha1.ReasonRolledBack, 1)
			n.checkBudget("failed release, with its rollback", before, 15+2) // and one for every 10 s of a deadline
			web.checkMoves(first, g.Status.TargetRevision, first)
			if least := lowest(); least < *g.Spec.Replicas && !release.replacesOld {
				t.Errorf("at some time %d pods were available, want always %d", least, *g.Spec.Replicas)
			}
		})
	}
}

// asking has the first container ask for so much.
func asking(pods corev1.PodTemplateSpec, cpu string) corev1.PodTemplateSpec {
	pods.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu)}
	return pods
}

func TestFailure_InTheSoak(t *testing.T) {
	if *podsFlag != "fake" {
		t.Skip("a real kubelet would overwrite the status that this test writes")
	}
	n := newNamespace(t)
	web := n.createReady("web", template(good, "1"))
	first := web.get().Status.GoodRevision
	web.update(soak(60), runs(template(good, "2")))
	web.awaitReason(v1alpha1.ReasonSoaking)
	pod := web.pods()[0]
	n.patchPod(pod.Name, `{"status":{"conditions":[{"type":"Ready","status":"False","reason":"ContainersNotReady"},
		{"type":"ContainersReady","status":"False","reason":"ContainersNotReady"}],
		"containerStatuses":[{"name":"app","image":"","imageID":"","restartCount":0,"ready":false}]}}`)

	g := web.awaitRolledBack(v1alpha1.FailureUnhealthyInSoak, first)
	if g.Status.Failure.Pod != pod.Name || g.Status.Failure.Container != "app" {
		t.Errorf("failure is %+v, want container app of pod %s", *g.Status.Failure, pod.Name)
	}
	web.awaitEvents(v1alpha1.FailureUnhealthyInSoak, 1)
	web.checkMoves(first, g.Status.TargetRevision, first)
}

func TestFailure_FirstRelease(t *testing.T) {
	n := newNamespace(t)
	web := n.create("web", template(crash, "1"))
	g := web.awaitReason(v1alpha1.ReasonNoGoodRevision)
	web.checkFailure(g, v1alpha1.FailureCrashLoop)
	web.awaitEvents(v1alpha1.ReasonNoGoodRevision, 1)
	if version(web.deployment()) != "1" || g.Status.GoodRevision != "" {
		t.Errorf("the Deployment was not left as it is: release %q, good revision %q", version(web.deployment()), g.Status.GoodRevision)
	}

	web.release(template(good, "2"))
	fixed := web.awaitReady()
	if fixed.Status.Failure != nil {
		t.Errorf("the fix has a failure: %+v", *fixed.Status.Failure)
	}
	web.checkMoves(g.Status.TargetRevision, fixed.Status.TargetRevision)
}

func TestFailure_FirstReleaseRecoversLate(t *testing.T) {
	n := newNamespace(t)
	n.label(enforce, restricted)
	web := n.create("web", template(good, "1"), deadline(10))
	failed := web.awaitReason(v1alpha1.ReasonNoGoodRevision)
	web.checkFailure(failed, v1alpha1.FailurePodsForbidden)

	n.label(enforce, "")
	web.nudge()
	g := web.awaitReady()
	if g.Status.Failure != nil || g.Status.GoodRevision != failed.Status.TargetRevision {
		t.Errorf("status is %+v, want %s good and no failure", g.Status, failed.Status.TargetRevision)
	}
	web.checkMoves(g.Status.TargetRevision)
}

func TestFailure_Hold(t *testing.T) {
	n := newNamespace(t)
	web := n.createReady("web", template(good, "1"), onFailure(v1alpha1.Hold))
	first := web.get().Status.GoodRevision
	web.release(template(crash, "2"))
	g := web.awaitReason(v1alpha1.ReasonHeld)
	web.checkFailure(g, v1alpha1.FailureCrashLoop)
	web.awaitEvents(v1alpha1.ReasonHeld, 1)
	if version(web.deployment()) != "2" {
		t.Errorf("the Deployment runs release %q, want 2 held", version(web.deployment()))
	}

	// The guard is no part of the release: asking for rollbacks now has this one rolled back, and not tried again.
	web.update(onFailure(v1alpha1.Rollback))
	web.awaitRolledBack(v1alpha1.FailureCrashLoop, first)
	web.checkMoves(first, g.Status.TargetRevision, first)
}
