package e2e

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

const (
	overLimit = "Pod ephemeral local storage usage exceeds the total limit of containers 100Mi. "
	lowMemory = "The node was low on resource: memory. Threshold quantity: 100Mi, available: 90Mi. " +
		"Container app was using 900Mi, request is 0, has larger consumption of memory. "
)

// A release whose pods end by themselves fails, however well they look in between.
func TestEnds_OwnEnds(t *testing.T) {
	t.Parallel()
	for _, release := range []struct {
		name          string
		lives         func(*played)
		reason, cause string
		says          string
		exitCode      *int32
		options       []option
	}{
		{name: "evicted in the soak, again and again", reason: v1alpha1.FailurePodsEnded, cause: v1alpha1.CauseEvicted, says: overLimit[:40],
			options: []option{soak(15)}, lives: func(p *played) {
				p.run()
				p.pause(5 * time.Second)
				p.tell(corev1.EventTypeWarning, "Evicted", overLimit)
				p.finish(137, "Evicted", overLimit)
			}},
		{name: "evicted before it is ready", reason: v1alpha1.FailurePodsEnded, cause: v1alpha1.CauseEvicted, says: overLimit[:40],
			lives: func(p *played) {
				p.takeOn("ContainerCreating")
				p.start(false)
				p.pause(2 * time.Second)
				p.tell(corev1.EventTypeWarning, "Evicted", overLimit)
				p.finish(137, "Evicted", overLimit)
			}},
		// A container that obeys SIGTERM leaves no word of the eviction but an Event.
		{name: "evicted, and succeeded", reason: v1alpha1.FailurePodsEnded, cause: v1alpha1.CauseEvicted, says: overLimit[:40],
			options: []option{soak(15)}, lives: func(p *played) {
				p.run()
				p.pause(5 * time.Second)
				p.tell(corev1.EventTypeWarning, "Evicted", overLimit)
				p.finish(0, "", "")
			}},
		{name: "refused for what the template states", reason: v1alpha1.FailurePodsEnded, cause: v1alpha1.CauseRefused,
			says: `forbidden sysctl: "net.core.somaxconn" not allowlisted`, lives: func(p *played) {
				p.pause(150 * time.Millisecond)
				p.refuse("SysctlForbidden", `forbidden sysctl: "net.core.somaxconn" not allowlisted`)
			}},
		// As with restartPolicy Never of a container: the pod ends with it.
		{name: "exits and is not restarted", reason: v1alpha1.FailureCrashLoop, cause: v1alpha1.CauseExitCode, says: "no config", exitCode: new(int32(1)),
			lives: func(p *played) {
				p.takeOn("ContainerCreating")
				p.start(false)
				p.pause(time.Second)
				p.container(func(c *corev1.ContainerStatus) { c.State = terminated(1, "Error", "no config") })
				p.finish(1, "", "")
			}},
		{name: "done, and not restarted", reason: v1alpha1.FailurePodsEnded, cause: v1alpha1.CauseEndedByItself, says: "exited with code 0",
			options: []option{soak(15)}, lives: func(p *played) {
				p.run()
				p.pause(4 * time.Second)
				p.finish(0, "", "")
			}},
		{name: "out of memory in the soak, again and again", reason: v1alpha1.FailureCrashLoop, cause: v1alpha1.CauseOutOfMemory, says: "OOMKilled",
			exitCode: new(int32(137)), options: []option{soak(15)}, lives: func(p *played) {
				for p.run(); ; {
					p.pause(5 * time.Second)
					p.restart(terminated(137, "OOMKilled", ""), time.Second)
				}
			}},
		{name: "eats its nodes", reason: v1alpha1.FailurePodsEnded, cause: v1alpha1.CauseEatsNodes, says: "low on resource: memory",
			options: []option{soak(15)}, lives: func(p *played) {
				p.run()
				p.pause(5 * time.Second)
				p.write(func(s *corev1.PodStatus) {
					set(s, corev1.DisruptionTarget, true, corev1.PodReasonTerminationByKubelet, lowMemory)
				})
				p.tell(corev1.EventTypeWarning, "Evicted", lowMemory)
				p.finish(137, "Evicted", lowMemory)
			}},
	} {
		t.Run(release.name, func(t *testing.T) {
			k := newKubelet(t, 2, map[string]script{"2": {lives: release.lives}})
			web := k.createReady("web", k.template("1"), append([]option{replicas(2), deadline(60)}, release.options...)...)
			first := web.get().Status.GoodRevision
			began := time.Now()
			web.release(k.template("2"))
			g := web.awaitRolledBack(release.reason, first)
			t.Logf("%s after %s: %s", release.reason, time.Since(began).Round(time.Second), g.Status.Failure.Message)
			f := g.Status.Failure
			if f.Cause != release.cause || !strings.Contains(f.Message, release.says) {
				t.Errorf("failure is %+v, want cause %s and %q in the message", *f, release.cause, release.says)
			}
			if release.exitCode != nil && (f.ExitCode == nil || *f.ExitCode != *release.exitCode) {
				t.Errorf("failure is %+v, want exit code %d", *f, *release.exitCode)
			}
			web.checkMoves(first, g.Status.TargetRevision, first)
		})
	}
}

// What an earlier attempt has left behind is no evidence.
func TestEnds_OfAnEarlierAttempt(t *testing.T) {
	k := newKubelet(t, 1, map[string]script{"2": {lives: func(p *played) {
		p.run()
		p.pause(2 * time.Second)
		p.finish(137, "Evicted", overLimit)
	}}})
	web := k.createReady("web", k.template("1"), soak(12))
	first := web.get().Status.GoodRevision
	web.release(k.template("2"))
	second := web.awaitRolledBack(v1alpha1.FailurePodsEnded, first).Status.TargetRevision
	if !slices.ContainsFunc(web.pods(), func(p corev1.Pod) bool { return p.Status.Reason == "Evicted" }) {
		t.Fatal("nothing is left of the attempt")
	}
	k.play("2", script{})
	web.update(retryToken("again"))
	web.awaitReady()
	web.checkMoves(first, second, first, second)
}

// Nothing of this is the doing of the pods: no restart is tolerated, and the release is good.
func TestEnds_OthersEnds(t *testing.T) {
	t.Parallel()
	for _, release := range []struct {
		name    string
		script  script
		disturb func(*kubelet, *object) // while it soaks
	}{
		{name: "a drain", script: script{exits: 143}, disturb: func(k *kubelet, web *object) {
			for range 5 {
				_ = cluster.kube.CoreV1().Pods(k.name).Delete(k.Context(), web.activePod().Name, metav1.DeleteOptions{})
				time.Sleep(3 * time.Second)
			}
		}},
		{name: "a scale down", script: script{exits: 143}, disturb: func(_ *kubelet, web *object) {
			time.Sleep(3 * time.Second)
			web.update(replicas(1))
		}},
		{name: "a reboot", script: script{lives: func(p *played) {
			p.run()
			if p.index > 0 {
				return
			}
			p.pause(6 * time.Second)
			p.write(func(s *corev1.PodStatus) {
				s.Phase = corev1.PodPending
				set(s, corev1.PodReadyToStartContainers, false, "PodSandboxNotReady", "pod sandbox is not ready")
				c := &s.ContainerStatuses[0]
				c.Ready, c.State, c.LastTerminationState = false, waiting("ContainerCreating", ""), terminated(255, "Unknown", "")
				judgeReady(s)
			})
			p.pause(2 * time.Second)
			p.write(func(s *corev1.PodStatus) {
				s.Phase = corev1.PodRunning
				set(s, corev1.PodReadyToStartContainers, true, "", "")
				for _, list := range [][]corev1.ContainerStatus{s.InitContainerStatuses, s.ContainerStatuses} {
					for i := range list {
						list[i].RestartCount++
					}
				}
				s.InitContainerStatuses[0].LastTerminationState = s.InitContainerStatuses[0].State
				s.InitContainerStatuses[0].State = terminated(0, "Completed", "")
				c := &s.ContainerStatuses[0]
				c.Ready, c.State = true, running()
				judgeReady(s)
			})
		}}},
		{name: "resizes", disturb: func(k *kubelet, web *object) {
			time.Sleep(3 * time.Second)
			for cpu := range 2 {
				k.resize(web.activePod(), fmt.Sprintf("%dm", 200+cpu))
				time.Sleep(3 * time.Second)
			}
		}},
	} {
		t.Run(release.name, func(t *testing.T) {
			k := newKubelet(t, 1, map[string]script{"2": release.script})
			web := k.createReady("web", k.template("1"), deadline(10), maxRestarts(0))
			web.update(soak(12))
			pods := asking(k.template("2"), "100m")
			pods.Spec.InitContainers = []corev1.Container{container("migrate", good)}
			pods.Spec.Containers[0].ResizePolicy = []corev1.ContainerResizePolicy{{ResourceName: corev1.ResourceCPU, RestartPolicy: corev1.RestartContainer}}
			web.release(pods)
			web.awaitReason(v1alpha1.ReasonSoaking)
			if release.disturb != nil {
				release.disturb(k, web)
			}
			g := web.awaitReady()
			if g.Status.Failure != nil || len(web.belayEvents(v1alpha1.ReasonRolledBack)) > 0 {
				t.Errorf("what others did was held against the release: %+v", g.Status)
			}
		})
	}
}

// activePod returns a pod of the newest release that is not being deleted.
func (o *object) activePod() (found corev1.Pod) {
	o.Helper()
	o.eventually("a pod is there", func(context.Context) (bool, error) {
		for _, pod := range o.pods() {
			if pod.DeletionTimestamp == nil && versionOf(pod.Spec) == version(o.deployment()) && pod.Status.Phase == corev1.PodRunning {
				found = pod
				return true, nil
			}
		}
		return false, nil
	})
	return found
}

// resize has a pod ask for other resources, which restarts its container: a kubelet writes the new resources together with the
// restart.
func (k *kubelet) resize(pod corev1.Pod, cpu string) {
	k.Helper()
	patch := fmt.Sprintf(`{"spec":{"containers":[{"name":"app","resources":{"requests":{"cpu":%q}}}]}}`, cpu)
	_, err := cluster.kube.CoreV1().Pods(k.name).Patch(k.Context(), pod.Name, types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{}, "resize")
	if err != nil {
		k.Fatal(err)
	}
	p := &played{kubelet: k, ctx: k.Context(), pod: &pod}
	p.container(func(c *corev1.ContainerStatus) {
		c.RestartCount++
		c.LastTerminationState, c.State = terminated(0, "Completed", ""), running()
		c.Resources = &corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu)}}
	})
}
