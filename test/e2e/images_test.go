package e2e

import (
	"context"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// These tests are about tags that move. The kubelet of the test has the registry.

func pinImages(when v1alpha1.PinImages) option {
	return func(g *v1alpha1.GuardedDeployment) { g.Spec.Guard.PinImages = when }
}

// None of the old pods is left when the new ones come.
func recreate(g *v1alpha1.GuardedDeployment) {
	g.Spec.Strategy = appsv1.DeploymentStrategy{Type: appsv1.RecreateDeploymentStrategyType}
}

const pinnedImage = "registry.e2e.belay.dev/app@" + goodDigest

// A release under the same tag fails, and the tag does not bring back what was good: its digest does.
func TestImages_RollbackIsPinned(t *testing.T) {
	t.Parallel()
	for _, strategy := range []struct {
		name   string
		option option
		writes int // of the Deployment
	}{
		{"no old pod is left: pinned at once", recreate, 3},
		{"some are: pinned when a new one shows the other image", oneByOne, 4},
	} {
		t.Run(strategy.name, func(t *testing.T) {
			k := newKubelet(t, 1, map[string]script{})
			k.push(latest, goodDigest, script{})
			web := k.createReady("web", k.ofLatest("1"), strategy.option)
			first, made := web.get().Status.GoodRevision, len(k.writesAtRest())
			k.push(latest, badDigest, crashesWith(3))
			web.release(k.ofLatest("2"))
			g := web.awaitRolledBack(v1alpha1.FailureCrashLoop, first)
			web.checkMovedTag(g, first)
			if want := "with the images that were good (app)"; !strings.Contains(message(g), want) {
				t.Errorf("the condition says %q, want %q in it", message(g), want)
			}
			web.checkPinned()
			web.awaitAvailable(3)
			web.awaitEvents(v1alpha1.ReasonRolledBack, 1)
			web.awaitEvents(v1alpha1.ReasonContested, 0)
			k.checkBudget("failed release under a moved tag, rolled back to the digest", made, 17)
			web.checkDeploymentWrites("two releases and a pinned rollback", 0, strategy.writes)

			// The spec is as it was asked for, and the next release runs its tag.
			k.push(latest, newDigest, script{})
			web.release(k.ofLatest("3"))
			web.awaitReady()
			if d := web.deployment(); d.Annotations[v1alpha1.PinnedAnnotation] != "" || d.Spec.Template.Spec.Containers[0].Image != latest {
				t.Errorf("something is pinned after the next release: %v, %s", d.Annotations, d.Spec.Template.Spec.Containers[0].Image)
			}
			web.checkDeploymentWrites("three releases and a pinned rollback", 0, strategy.writes+1)
		})
	}
}

// checkPinned makes sure that the Deployment runs the good digest in the place of the tag.
func (o *object) checkPinned() {
	o.Helper()
	if d := o.deployment(); d.Annotations[v1alpha1.PinnedAnnotation] != "app" || d.Spec.Template.Spec.Containers[0].Image != pinnedImage {
		o.Errorf("the Deployment runs %s, pinned %q, want %s", d.Spec.Template.Spec.Containers[0].Image, d.Annotations[v1alpha1.PinnedAnnotation], pinnedImage)
	}
}

// Without a pin the rollback meets what the release has met, and the message has both digests.
func TestImages_NeverPinned(t *testing.T) {
	k := newKubelet(t, 1, map[string]script{})
	k.push(latest, goodDigest, script{})
	web := k.createReady("web", k.ofLatest("1"), recreate, pinImages(v1alpha1.PinNever))
	first := web.get().Status.GoodRevision
	k.push(latest, badDigest, crashesWith(3))
	web.release(k.ofLatest("2"))
	g := web.awaitReason(v1alpha1.ReasonRollbackFailed)
	web.checkMovedTag(g, first)
	if d := web.deployment(); version(d) != "1" || d.Spec.Template.Spec.Containers[0].Image != latest || d.Annotations[v1alpha1.PinnedAnnotation] != "" {
		t.Errorf("the Deployment runs release %s with %s", version(d), d.Spec.Template.Spec.Containers[0].Image)
	}
	web.awaitEvents(v1alpha1.ReasonRollbackFailed, 1)

	// Whoever then allows it gets it.
	web.update(pinImages(v1alpha1.PinWhenMoved))
	web.awaitRolledBack(v1alpha1.FailureCrashLoop, first)
	web.checkPinned()
	web.awaitAvailable(3)
}

// checkMovedTag makes sure that the failure, and the condition, have both digests of the tag that has moved since this revision.
func (o *object) checkMovedTag(g *v1alpha1.GuardedDeployment, since string) {
	o.Helper()
	o.checkFailure(g, v1alpha1.FailureCrashLoop)
	want := v1alpha1.MovedImage{Container: "app", Image: latest, Good: goodDigest, Now: badDigest}
	if f := g.Status.Failure; len(f.Images) != 1 || f.Images[0] != want || !strings.Contains(f.Message, movedWords(since)) {
		o.Errorf("the failure is %+v, want the image %+v and %q", *f, want, movedWords(since))
	}
}

// movedWords is what is said of the tag that has moved since this revision.
func movedWords(since string) string {
	const shown = len("sha256:") + 12
	return "image " + latest + " of container app is " + badDigest[:shown] + " now, was " + goodDigest[:shown] + " when " + since + " was good"
}

// A restart that leaves no old pod is undone with the digest, as the tag would bring back what has failed.
func TestImages_UndoneRestartIsPinned(t *testing.T) {
	k := newKubelet(t, 1, map[string]script{})
	k.push(latest, goodDigest, script{})
	web := k.createReady("web", k.ofLatest("1"), recreate)
	k.push(latest, badDigest, crashesWith(3))
	web.kubectl("rollout", "restart", "deployment/web")
	web.awaitUndone()
	web.checkPinned()
	web.awaitAvailable(3)
	web.checkDeploymentWrites("a release and an undone restart", 0, 2)

	// The next restart runs the tag again.
	k.push(latest, newDigest, script{})
	pods := web.podUIDs()
	web.kubectl("rollout", "restart", "deployment/web")
	web.awaitOtherPods(pods, 3)
	web.await("is good after the next restart", func(g *v1alpha1.GuardedDeployment) bool {
		return g.Status.Failure == nil && reasonOf(g) == v1alpha1.ReasonRolledOut
	})
	if d := web.deployment(); d.Annotations[v1alpha1.PinnedAnnotation] != "" || d.Spec.Template.Spec.Containers[0].Image != latest {
		t.Errorf("something is pinned still: %v, %s", d.Annotations, d.Spec.Template.Spec.Containers[0].Image)
	}
}

// Where a kubelet says what an image volume has, that is kept and pinned like the image of a container.
func TestImages_Volume(t *testing.T) {
	const data = "registry.e2e.belay.dev/data:latest"
	k := newKubelet(t, 1, map[string]script{})
	k.push(data, goodDigest, script{})
	pods := k.template("1")
	pods.Spec.Volumes = []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{Image: &corev1.ImageVolumeSource{Reference: data}}}}
	pods.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "data", MountPath: "/data"}}
	web := k.createReady("web", pods, recreate)
	first := web.get().Status.GoodRevision
	if !k.tellsOfVolumes(web) {
		t.Skip("the API server keeps nothing of what image volumes have: ImageVolumeWithDigest is off")
	}
	if _, images := web.wentGood(); images != `{"volume/data":{"digests":["`+goodDigest+`"]}}` {
		t.Errorf("the revision was good with %s", images)
	}
	k.push(data, badDigest, script{})
	k.play("2", crashesWith(3))
	pods.Spec.Containers[0].Env = k.template("2").Spec.Containers[0].Env
	web.release(pods)
	g := web.awaitRolledBack(v1alpha1.FailureCrashLoop, first)
	if f := g.Status.Failure; len(f.Images) != 1 || f.Images[0].Container != "volume/data" || !strings.Contains(f.Message, "of volume data is") {
		t.Errorf("the failure is %+v, want the volume's image", *f)
	}
	if d := web.deployment(); d.Annotations[v1alpha1.PinnedAnnotation] != "volume/data" ||
		d.Spec.Template.Spec.Volumes[0].Image.Reference != "registry.e2e.belay.dev/data@"+goodDigest {
		t.Errorf("the Deployment has %+v, pinned %v", d.Spec.Template.Spec.Volumes, d.Annotations)
	}
	web.awaitAvailable(3)
}

// tellsOfVolumes reports whether the API server keeps what a kubelet says of image volumes.
func (k *kubelet) tellsOfVolumes(web *object) (yes bool) {
	k.Helper()
	k.eventually("a pod runs", func(context.Context) (bool, error) { return len(web.activePod().Status.ContainerStatuses) > 0, nil })
	for _, mount := range web.activePod().Status.ContainerStatuses[0].VolumeMounts {
		yes = yes || mount.VolumeStatus != nil && mount.VolumeStatus.Image != nil
	}
	return yes
}
