package e2e

import (
	"context"
	"strings"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// What a template chose itself keeps nobody waiting for ever.
func TestAbsent_Judged(t *testing.T) {
	t.Parallel()
	for _, release := range []struct {
		name   string
		change func(*corev1.PodSpec)
		cause  string
		says   string
	}{
		{"a scheduler of its own", func(s *corev1.PodSpec) { s.SchedulerName = "volcanoo" }, v1alpha1.CauseSchedulerMissing, `"volcanoo"`},
		{"a resource claim without a template", func(s *corev1.PodSpec) {
			s.ResourceClaims = []corev1.PodResourceClaim{{Name: "g", ResourceClaimTemplateName: new("nope")}}
		}, v1alpha1.CauseResourceClaim, `"g"`},
		{"a scheduling gate of its own", func(s *corev1.PodSpec) {
			s.SchedulingGates = []corev1.PodSchedulingGate{{Name: "example.com/quota"}}
		}, v1alpha1.CauseSchedulingGate, "example.com/quota"},
	} {
		t.Run(release.name, func(t *testing.T) {
			n := newNamespace(t)
			web := n.createReady("web", template(good, "1"), deadline(10))
			first := web.get().Status.GoodRevision
			pods := template(good, "2")
			release.change(&pods.Spec)
			web.release(pods)
			g := web.awaitRolledBack(v1alpha1.FailureDeadlineExceeded, first)
			if f := g.Status.Failure; f.Cause != release.cause || !strings.Contains(f.Message, release.says) {
				t.Errorf("failure is %+v, want cause %s and %s in the message", *f, release.cause, release.says)
			}
		})
	}
}

// The same scheduler as before, which is away.
func TestAbsent_Scheduler(t *testing.T) {
	n := newNamespace(t)
	scheduled := func(version string) corev1.PodTemplateSpec {
		pods := template(good, version)
		pods.Spec.SchedulerName = "volcano"
		return pods
	}
	web := n.create("web", scheduled("1"), deadline(10))
	web.bindPods("1", 3)
	first := web.awaitReady().Status.GoodRevision
	web.release(scheduled("2"))
	web.awaitWaiting(v1alpha1.ReasonWaitingForScheduler, "the scheduler volcano")
	web.awaitStalled(v1alpha1.ReasonWaitingForScheduler)
	web.bindPods("2", 3)
	web.checkNotJudged(first)
}

// bindPods does what the scheduler would, until so many pods of a release have a node.
func (o *object) bindPods(version string, want int) {
	o.Helper()
	o.eventually("the pods have a node", func(ctx context.Context) (bool, error) {
		bound := 0
		for _, pod := range o.pods() {
			switch {
			case versionOf(pod.Spec) != version:
			case pod.Spec.NodeName != "":
				bound++
			default:
				_ = cluster.kube.CoreV1().Pods(pod.Namespace).Bind(ctx, &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: pod.Name},
					Target: corev1.ObjectReference{Kind: "Node", Name: "node-0"}}, metav1.CreateOptions{})
			}
		}
		return bound == want, nil
	})
}

// A gate that others put on the pods is waited for.
func TestAbsent_InjectedSchedulingGate(t *testing.T) {
	n := newNamespace(t)
	web := n.createReady("web", template(good, "1"), deadline(10))
	first := web.get().Status.GoodRevision
	gated := func(pod *corev1.Pod) bool { return len(pod.Spec.SchedulingGates) > 0 }
	p := n.mutatePods(`[JSONPatch{op: "add", path: "/spec/schedulingGates", value: [Object.spec.schedulingGates{name: "example.com/quota"}]}]`, gated)
	web.release(template(good, "2"))
	web.awaitWaiting(v1alpha1.ReasonWaitingForSchedulingGate, "scheduling gate example.com/quota")
	web.awaitStalled(v1alpha1.ReasonWaitingForSchedulingGate)
	if err := p.remove(n.Context()); err != nil {
		t.Fatal(err)
	}
	n.eventually("no gates are put on pods any more", func(context.Context) (bool, error) {
		pod, err := n.tryPod()
		return err == nil && !gated(pod), nil
	})
	n.eventually("the gates are lifted", func(ctx context.Context) (bool, error) {
		left := false
		for _, pod := range web.pods() {
			if gated(&pod) {
				left = true
				pod.Spec.SchedulingGates = nil
				_, _ = cluster.kube.CoreV1().Pods(n.name).Update(ctx, &pod, metav1.UpdateOptions{})
			}
		}
		return !left, nil
	})
	web.checkNotJudged(first)
}

// A policy changes every ReplicaSet's template: the Deployment controller does not know its own, and makes one after the other.
func TestAbsent_ReplicaSetsRewritten(t *testing.T) {
	n := newNamespace(t)
	web := n.createReady("web", template(good, "1"), deadline(50))
	first := web.get().Status.GoodRevision
	n.mutateWrites(n.writesOf("apps", "replicasets", admissionv1.Create),
		`[JSONPatch{op: "add", path: "/spec/template/metadata/labels/rewritten", value: "yes"}]`)
	n.eventually("the policy is in force", func(context.Context) (bool, error) {
		set, err := n.tryReplicaSet()
		return err == nil && set.Spec.Template.Labels["rewritten"] != "", nil
	})
	web.release(template(good, "2"))
	g := web.awaitRolledBack(v1alpha1.FailureDeadlineExceeded, first)
	if f := g.Status.Failure; f.Cause != v1alpha1.CauseTemplateRewritten || !strings.Contains(f.Message, "rewritten") {
		t.Errorf("failure is %+v, want cause %s and the field", *f, v1alpha1.CauseTemplateRewritten)
	}
}

// With strategy Recreate the new pods come when the old ones have ended.
func TestAbsent_OldPodsEndSlowly(t *testing.T) {
	k := newKubelet(t, 1, map[string]script{"1": {ends: 50 * time.Second}})
	old := k.template("1")
	old.Spec.TerminationGracePeriodSeconds = new(int64(120))
	web := k.createReady("web", old, replicas(2), deadline(10), func(g *v1alpha1.GuardedDeployment) {
		g.Spec.Strategy.Type = appsv1.RecreateDeploymentStrategyType
	})
	first := web.get().Status.GoodRevision
	web.release(k.template("2"))
	web.awaitWaiting(v1alpha1.ReasonWaitingForOldPods, "2 pods of the release before to end")
	web.checkNotJudged(first)
}

// Whatever the scale does meanwhile, a release that hangs fails.
func TestAbsent_ScaledWhileItHangs(t *testing.T) {
	t.Parallel()
	for _, scaling := range []struct {
		name  string
		sizes []int
	}{
		{"to and fro", []int{5, 3, 5, 3, 5, 3, 5, 3, 5, 3, 5, 3}},
		{"one more, again and again", []int{4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}},
	} {
		t.Run(scaling.name, func(t *testing.T) {
			n := newNamespace(t)
			web := n.createReady("web", template(good, "1"), ownReplicas, deadline(12))
			first := web.get().Status.GoodRevision
			web.scale(3)
			web.awaitAvailable(3)
			web.release(template(unready, "2"))
			for _, size := range scaling.sizes {
				time.Sleep(4 * time.Second)
				if reasonOf(web.get()) == v1alpha1.ReasonRolledBack {
					break
				}
				web.scale(size)
			}
			if g := web.get(); g.Status.Failure == nil {
				t.Errorf("it did not fail while it was scaled: %+v", g.Status.Conditions)
			}
			web.awaitRolledBack(v1alpha1.FailureDeadlineExceeded, first)
		})
	}
}

// A ramp in the soak: the pods that come later need only become available.
func TestSoak_ScaledUpMeanwhile(t *testing.T) {
	n := newNamespace(t)
	web := n.createReady("web", template(good, "1"), ownReplicas)
	web.update(soak(15), runs(template(good, "2")))
	web.awaitReason(v1alpha1.ReasonSoaking)
	began := time.Now()
	for size := 2; reasonOf(web.get()) != v1alpha1.ReasonRolledOut; size++ {
		if time.Since(began) > 40*time.Second {
			t.Fatalf("no verdict after %s: %s", time.Since(began), message(web.get()))
		}
		web.scale(size)
		time.Sleep(7 * time.Second)
	}
}

// A release that runs in bursts alone, as an autoscaler for events has it, is judged by all of them together.
func TestSoak_AddsUpOverBursts(t *testing.T) {
	n := newNamespace(t)
	web := n.createReady("web", template(good, "1"), ownReplicas)
	web.update(soak(20), runs(template(good, "2")))
	target := web.await("is asked for the release", func(g *v1alpha1.GuardedDeployment) bool {
		return g.Status.ObservedGeneration == g.Generation && g.Status.TargetRevision != g.Status.GoodRevision
	}).Status.TargetRevision
	for burst := 0; web.get().Status.GoodRevision != target; burst++ {
		if burst == 6 {
			t.Fatalf("no verdict after %d bursts: %s", burst, message(web.get()))
		}
		web.scale(2)
		web.awaitAvailable(2)
		time.Sleep(9 * time.Second)
		web.scale(0)
		web.awaitAvailable(0)
		time.Sleep(2 * time.Second)
	}
	web.awaitEvents(v1alpha1.ReasonRolledBack, 0)
}
