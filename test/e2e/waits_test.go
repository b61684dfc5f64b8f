package e2e

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// What the last good release would meet just the same is waited for, by name, past the deadline; the release goes on when it ends.

// One pod after the other: the new one comes when an old one has been told to go.
func oneByOne(g *v1alpha1.GuardedDeployment) {
	g.Spec.Strategy = appsv1.DeploymentStrategy{Type: appsv1.RollingUpdateDeploymentStrategyType,
		RollingUpdate: &appsv1.RollingUpdateDeployment{MaxUnavailable: new(intstr.FromInt32(1)), MaxSurge: new(intstr.FromInt32(0))}}
}

func TestWaits_QuotaUntilOldPodsEnd(t *testing.T) {
	k := newKubelet(t, 1, map[string]script{"1": {ends: 45 * time.Second}})
	old := k.template("1")
	old.Spec.TerminationGracePeriodSeconds = new(int64(120))
	web := k.createReady("web", old, replicas(2), oneByOne, deadline(12))
	first := web.get().Status.GoodRevision
	k.setQuota(corev1.ResourcePods, "3")
	web.release(k.template("2"))
	web.awaitWaiting(v1alpha1.ReasonWaitingForQuota, "exceeded quota", "pods=3")
	k.eventually("the old pods are gone", func(context.Context) (bool, error) {
		return !slices.ContainsFunc(web.pods(), func(p corev1.Pod) bool { return versionOf(p.Spec) == "1" }), nil
	})
	web.nudge() // The ReplicaSet controller tries again only after minutes.
	web.checkNotJudged(first)
}

func TestWaits_Quota(t *testing.T) {
	t.Parallel()
	for _, quota := range []struct {
		name     string
		resource corev1.ResourceName
		most     string
	}{
		{"of pods", corev1.ResourcePods, "3"},
		{"of replica sets", "count/replicasets.apps", "1"},
	} {
		t.Run(quota.name, func(t *testing.T) {
			n := newNamespace(t)
			web := n.createReady("web", template(good, "1"), deadline(10))
			first := web.get().Status.GoodRevision
			q := n.setQuota(quota.resource, quota.most)
			web.release(template(good, "2"))
			web.awaitWaiting(v1alpha1.ReasonWaitingForQuota, "exceeded quota")
			web.awaitStalled(v1alpha1.ReasonWaitingForQuota)
			q.lift(web)
			web.checkNotJudged(first)
		})
	}
}

func TestWaits_WebhookDown(t *testing.T) {
	n := newNamespace(t)
	web := n.createReady("web", template(good, "1"), deadline(10))
	first := web.get().Status.GoodRevision
	webhook := n.breakWebhook("inject.e2e.belay.dev")
	web.release(template(good, "2"))
	web.awaitWaiting(v1alpha1.ReasonWaitingForWebhook, "inject.e2e.belay.dev", "connection refused")
	web.awaitStalled(v1alpha1.ReasonWaitingForWebhook)
	if err := webhook.remove(n.Context()); err != nil {
		t.Fatal(err)
	}
	web.nudge()
	web.checkNotJudged(first)
}

func room(cpu string) corev1.ResourceList {
	return corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu), corev1.ResourceMemory: resource.MustParse("1Gi"), corev1.ResourcePods: resource.MustParse("100")}
}

func TestWaits_Room(t *testing.T) {
	k := newKubelet(t, 0, map[string]script{})
	k.addNode(room("1"))
	web := k.createReady("web", asking(k.template("1"), "300m"), deadline(10))
	first := web.get().Status.GoodRevision
	web.release(asking(k.template("2"), "300m"))
	web.awaitWaiting(v1alpha1.ReasonWaitingForRoom, "Insufficient cpu")
	web.awaitStalled(v1alpha1.ReasonWaitingForRoom)
	k.addNode(room("1"))
	web.checkNotJudged(first)
}

func TestWaits_NoRoomForMore(t *testing.T) {
	k := newKubelet(t, 0, map[string]script{})
	k.addNode(room("1"))
	web := k.createReady("web", asking(k.template("1"), "300m"), deadline(10))
	first := web.get().Status.GoodRevision
	web.release(asking(k.template("2"), "301m"))
	g := web.awaitRolledBack(v1alpha1.FailureDeadlineExceeded, first)
	if f := g.Status.Failure; f.Cause != v1alpha1.CauseNoRoom || !strings.Contains(f.Message, "Insufficient cpu") {
		t.Errorf("failure is %+v, want the scheduler's words", *f)
	}
}

// The scheduler makes room for the release, and who has to go takes longer than the deadline.
func TestWaits_Preemption(t *testing.T) {
	k := newKubelet(t, 0, map[string]script{"victim": {ends: 50 * time.Second}})
	node := k.addNode(room("1"))
	classes := cluster.kube.SchedulingV1().PriorityClasses()
	if _, err := classes.Create(t.Context(), &schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: k.name}, Value: 1000}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	remove := func() error {
		return ignoreNotFound(classes.Delete(context.Background(), k.name, metav1.DeleteOptions{}))
	}
	forget := leave(remove)
	t.Cleanup(func() {
		forget()
		if err := remove(); err != nil {
			t.Error(err)
		}
	})
	web := k.createReady("web", asking(k.template("1"), "100m"), replicas(1), deadline(40))
	first := web.get().Status.GoodRevision
	victim := asking(k.template("victim"), "800m")
	victim.Spec.TerminationGracePeriodSeconds = new(int64(120))
	if _, err := cluster.kube.CoreV1().Pods(k.name).Create(t.Context(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "victim"}, Spec: victim.Spec}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	k.eventually("the victim runs", func(ctx context.Context) (bool, error) {
		pod, err := cluster.kube.CoreV1().Pods(k.name).Get(ctx, "victim", metav1.GetOptions{})
		return err == nil && pod.Status.Phase == corev1.PodRunning, err
	})
	urgent := asking(k.template("2"), "500m")
	urgent.Spec.PriorityClassName = k.name
	web.release(urgent)
	web.awaitWaiting(v1alpha1.ReasonWaitingForRoom, "lower priority", node)
	web.checkNotJudged(first)
}

const registryAway = `failed to pull and unpack image "localhost/app:good": failed to resolve reference "localhost/app:good": ` +
	`failed to do request: Head "https://localhost/v2/app/manifests/good": dial tcp 127.0.0.1:443: connect: connection refused`

func TestWaits_RegistryAway(t *testing.T) {
	t.Parallel()
	pull := func(back *gate) script {
		return script{lives: func(p *played) {
			p.takeOn("ContainerCreating")
			for range 3 {
				p.stuck("ErrImagePull", registryAway)
				p.pause(time.Second)
				p.stuck("ImagePullBackOff", fmt.Sprintf("Back-off pulling image %q: ErrImagePull: %s", p.pod.Spec.Containers[0].Image, registryAway))
				p.pause(time.Second)
			}
			p.until(back.open)
			p.start(true)
		}}
	}
	t.Run("that of the last good image", func(t *testing.T) {
		back := newGate()
		k := newKubelet(t, 2, map[string]script{"2": pull(back)})
		web := k.createReady("web", k.template("1"), deadline(15))
		first := web.get().Status.GoodRevision
		web.release(k.template("2"))
		web.awaitWaiting(v1alpha1.ReasonWaitingForRegistry, "the registry localhost", "connection refused")
		web.awaitStalled(v1alpha1.ReasonWaitingForRegistry)
		back.lift()
		web.checkNotJudged(first)
	})
	t.Run("another one", func(t *testing.T) {
		k := newKubelet(t, 2, map[string]script{"2": pull(newGate())})
		web := k.createReady("web", k.template("1"))
		first := web.get().Status.GoodRevision
		other := k.template("2")
		other.Spec.Containers[0].Image = "registry.example/app:good"
		web.release(other)
		web.awaitRolledBack(v1alpha1.FailureImagePull, first)
	})
}

// A database that both releases need goes away.
func TestWaits_CommonCause(t *testing.T) {
	away, back := newGate(), newGate()
	k := newKubelet(t, 1, map[string]script{
		"1": {lives: func(p *played) {
			p.run()
			p.until(away.open)
			p.container(func(c *corev1.ContainerStatus) { c.Ready = false })
			p.until(back.open)
			p.container(func(c *corev1.ContainerStatus) { c.Ready = true })
		}},
		"2": {lives: func(p *played) {
			p.takeOn("ContainerCreating")
			p.start(false)
			p.until(back.open)
			p.container(func(c *corev1.ContainerStatus) { c.Ready = true })
		}},
	})
	web := k.createReady("web", k.template("1"), deadline(40))
	first := web.get().Status.GoodRevision
	away.lift()
	web.release(k.template("2"))
	web.awaitWaiting(v1alpha1.ReasonWaitingForOldPods, "what both releases need", "of the release before are not ready either")
	back.lift()
	web.checkNotJudged(first)
}

// A release may allow itself longer than the deadline.
func TestWaits_StartupProbe(t *testing.T) {
	k := newKubelet(t, 1, map[string]script{"2": {lives: func(p *played) {
		p.takeOn("ContainerCreating")
		p.start(false)
		p.container(func(c *corev1.ContainerStatus) { c.Started = new(false) })
		p.pause(25 * time.Second)
		p.container(func(c *corev1.ContainerStatus) { c.Started, c.Ready = new(true), true })
	}}})
	web := k.createReady("web", k.template("1"), replicas(1), deadline(10))
	first := web.get().Status.GoodRevision
	patient := k.template("2")
	patient.Spec.Containers[0].StartupProbe = &corev1.Probe{PeriodSeconds: 1, FailureThreshold: 60, ProbeHandler: corev1.ProbeHandler{
		Exec: &corev1.ExecAction{Command: []string{"true"}}}}
	web.release(patient)
	web.checkNotJudged(first)
}

// The mesh was upgraded, and its sidecar crashes: that of the last good release's new pods would, too.
func TestWaits_InjectedSidecarCrashes(t *testing.T) {
	n := newNamespace(t)
	web := n.createReady("web", template(good, "1"), deadline(10), maxRestarts(0))
	first := web.get().Status.GoodRevision
	injector := n.mutatePods(`[JSONPatch{op: "add", path: "/spec/containers/-",
		value: Object.spec.containers{name: "proxy", image: "localhost/proxy:crash"}}]`,
		func(pod *corev1.Pod) bool { return len(pod.Spec.Containers) == 2 })
	web.release(template(good, "2"))
	web.awaitWaiting(v1alpha1.ReasonWaitingForInjection, "container proxy", "exited with code 1")
	if err := injector.remove(n.Context()); err != nil {
		t.Fatal(err)
	}
	n.eventually("the injector is gone", func(context.Context) (bool, error) {
		pod, err := n.tryPod()
		return err == nil && len(pod.Spec.Containers) == 1, nil
	})
	for _, pod := range web.pods() {
		if len(pod.Spec.Containers) == 2 {
			_ = cluster.kube.CoreV1().Pods(n.name).Delete(t.Context(), pod.Name, metav1.DeleteOptions{})
		}
	}
	web.checkNotJudged(first)
}

// A policy refuses the new ReplicaSet, and says why: a verdict after stuckSeconds, long before the deadline.
func TestPodsForbidden_ReplicaSetDenied(t *testing.T) {
	n := newNamespace(t)
	web := n.createReady("web", template(good, "1"), deadline(50))
	first := web.get().Status.GoodRevision
	n.validate(n.writesOf("apps", "replicasets", admissionv1.Create), "false", "release 2 is not welcome")
	n.eventually("the policy is in force", func(context.Context) (bool, error) {
		_, err := n.tryReplicaSet()
		return err != nil, nil
	})
	web.release(template(good, "2"))
	g := web.awaitRolledBack(v1alpha1.FailurePodsForbidden, first)
	if f := g.Status.Failure; !strings.Contains(f.Message, "release 2 is not welcome") {
		t.Errorf("failure is %+v, want the policy's words", *f)
	}
}

// The ServiceAccount that the template names is not there.
func TestPodsForbidden_NoServiceAccount(t *testing.T) {
	n := newNamespace(t)
	web := n.createReady("web", template(good, "1"), deadline(50))
	first := web.get().Status.GoodRevision
	pods := template(good, "2")
	pods.Spec.ServiceAccountName = "nobody"
	web.release(pods)
	g := web.awaitRolledBack(v1alpha1.FailurePodsForbidden, first)
	if f := g.Status.Failure; !strings.Contains(f.Message, `serviceaccount "nobody" not found`) {
		t.Errorf("failure is %+v, want the account's name", *f)
	}
}

// A volume that the template names is not there: the cause stands in the pod's Event alone.
func TestContainerConfig_VolumeMissing(t *testing.T) {
	const words = `MountVolume.SetUp failed for volume "config" : configmap "nope" not found`
	k := newKubelet(t, 1, map[string]script{"2": {lives: func(p *played) {
		p.takeOn("ContainerCreating")
		p.pause(time.Second)
		p.tell(corev1.EventTypeWarning, "FailedMount", words)
		p.forever()
	}}})
	web := k.createReady("web", k.template("1"), deadline(60))
	first := web.get().Status.GoodRevision
	pods := k.template("2")
	pods.Spec.Volumes = []corev1.Volume{{Name: "config", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{
		LocalObjectReference: corev1.LocalObjectReference{Name: "nope"}}}}}
	web.release(pods)
	g := web.awaitRolledBack(v1alpha1.FailureContainerConfig, first)
	if f := g.Status.Failure; !strings.Contains(f.Message, `configmap "nope" not found`) || f.Pod == "" {
		t.Errorf("failure is %+v, want the kubelet's text and the pod", *f)
	}
}

// A volume that cannot be attached is nobody's failure if the last good release has it, too.
func TestWaits_Volume(t *testing.T) {
	attached := newGate()
	k := newKubelet(t, 2, map[string]script{"2": {lives: func(p *played) {
		p.takeOn("ContainerCreating")
		p.tell(corev1.EventTypeWarning, "FailedAttachVolume", `Multi-Attach error for volume "pvc-1" Volume is already used by pod(s) web-1`)
		p.until(attached.open)
		p.start(true)
	}}})
	web := k.createReady("web", k.template("1"), deadline(15))
	first := web.get().Status.GoodRevision
	web.release(k.template("2"))
	web.awaitWaiting(v1alpha1.ReasonWaitingForVolume, "Multi-Attach error", k.name)
	web.awaitStalled(v1alpha1.ReasonWaitingForVolume)
	attached.lift()
	web.checkNotJudged(first)
}
