package node

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// A kubelet is stopped under a pod that is ready and under one that is still starting, which carries no sign of it: only the Node
// tells, after 20 s here.
func TestNode_Silent(t *testing.T) {
	onSecond := func(spec *v1alpha1.GuardedDeploymentSpec) {
		spec.Template.Spec.NodeSelector = map[string]string{corev1.LabelHostname: secondWorker.name}
		spec.Template.Spec.Tolerations = []corev1.Toleration{{Key: secondTaint, Operator: corev1.TolerationOpExists}}
	}
	t.Parallel()
	ready, starting := beginTrial(t, "-ready", onSecond), beginTrial(t, "-starting", onSecond)
	ready.expectGood()
	starting.expectGood()
	ready.release(func(spec *v1alpha1.GuardedDeploymentSpec) { spec.Guard.SoakSeconds = new(int32(60)) })
	starting.release(func(spec *v1alpha1.GuardedDeploymentSpec) {
		spec.ProgressDeadlineSeconds = new(int32(60))
		c := &spec.Template.Spec.Containers[0]
		c.Args = append(c.Args, "--warm=60s")
	})
	ready.await(v1alpha1.ConditionReconciling, v1alpha1.ReasonSoaking)
	starting.awaitPod("a started container", func(pod *corev1.Pod) bool {
		return len(pod.Status.ContainerStatuses) > 0 && pod.Status.ContainerStatuses[0].State.Running != nil && !pod.Status.ContainerStatuses[0].Ready
	})
	kubelet, err := trialsReady()
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(kubelet.pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	goOn := func() { _ = syscall.Kill(kubelet.pid, syscall.SIGCONT) }
	t.Cleanup(goOn)
	stopped := time.Now()
	for _, r := range []*trial{ready, starting} {
		c := r.await(v1alpha1.ConditionReconciling, v1alpha1.ReasonWaitingForNode)
		say("%5.1f s after the silence began  %s: %s", time.Since(stopped).Seconds(), r.name, c.Message)
		if !strings.Contains(c.Message, "node "+secondWorker.name) {
			t.Errorf("the message %q does not name the node", c.Message)
		}
	}
	goOn()
	ready.expectGood()
	starting.expectGood()
}

// What pods did.

func TestEviction_OfPodsThatExitWithZero(t *testing.T) { evict(t) }

func TestEviction_OfPodsThatExitWithAnotherCode(t *testing.T) { evict(t, "--after=3") }

// evict releases pods that fill their disk. One that exits with 0 when it is evicted mostly leaves no word of it but an Event, and
// a kubelet that is busy is late with those: until there is one, many ends are tolerated.
func evict(t *testing.T, args ...string) {
	const words = "Pod ephemeral local storage usage exceeds the total limit of containers 10Mi."
	r := newTrial(t)
	r.release(func(spec *v1alpha1.GuardedDeploymentSpec) {
		spec.Guard.SoakSeconds, spec.Guard.MaxRestarts = new(int32(120)), new(int32(20))
		c := &spec.Template.Spec.Containers[0]
		c.Args = append(append(c.Args, "--fill=30"), args...)
		c.SecurityContext = &corev1.SecurityContext{RunAsUser: new(int64(0))}
		c.Resources.Limits = corev1.ResourceList{corev1.ResourceEphemeralStorage: resource.MustParse("10Mi")}
	})
	r.eventually("the Event about the first pod's eviction", func() error {
		pods := r.pods()
		if len(pods) == 0 {
			return errors.New("no pods")
		}
		first := slices.MinFunc(pods, func(a, b corev1.Pod) int { return a.CreationTimestamp.Compare(b.CreationTimestamp.Time) })
		events, err := r.kube.CoreV1().Events(namespace).List(t.Context(), metav1.ListOptions{FieldSelector: "reason=Evicted,involvedObject.name=" + first.Name})
		if err == nil && len(events.Items) == 0 {
			err = fmt.Errorf("none about pod %s, which is %s", first.Name, first.Status.Phase)
		}
		return err
	})
	r.edit(func(spec *v1alpha1.GuardedDeploymentSpec) { spec.Guard.MaxRestarts = new(int32(1)) })
	r.expectRolledBack(v1alpha1.FailurePodsEnded, v1alpha1.CauseEvicted, words)
}

func TestCrash_WithoutRestart(t *testing.T) {
	r := newTrial(t)
	r.release(func(spec *v1alpha1.GuardedDeploymentSpec) {
		c := &spec.Template.Spec.Containers[0]
		c.RestartPolicy = new(corev1.ContainerRestartPolicyNever)
		c.Args = append(c.Args, "--exit=5")
	})
	r.expectRolledBack(v1alpha1.FailureCrashLoop, v1alpha1.CauseExitCode, "exited with code 5")
}

// What was done to pods, or takes time.

func TestDrain_InSoak(t *testing.T) {
	r := newTrial(t, func(spec *v1alpha1.GuardedDeploymentSpec) {
		spec.Replicas, spec.Guard.MaxRestarts = new(int32(2)), new(int32(0))
	})
	r.release(func(spec *v1alpha1.GuardedDeploymentSpec) {
		spec.Guard.SoakSeconds = new(int32(20))
		c := &spec.Template.Spec.Containers[0]
		c.Args = append(c.Args, "--after=3")
	})
	for range 4 {
		r.await(v1alpha1.ConditionReconciling, v1alpha1.ReasonSoaking)
		eviction := &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: r.pods()[0].Name}}
		if err := r.kube.CoreV1().Pods(namespace).EvictV1(t.Context(), eviction); err != nil {
			t.Fatal(err)
		}
		time.Sleep(4 * time.Second)
	}
	r.expectGood()
}

func TestResize_InSoak(t *testing.T) {
	memory := func(value string) corev1.ResourceRequirements {
		list := corev1.ResourceList{corev1.ResourceMemory: resource.MustParse(value)}
		return corev1.ResourceRequirements{Requests: list, Limits: list}
	}
	r := newTrial(t, func(spec *v1alpha1.GuardedDeploymentSpec) {
		spec.Guard.MaxRestarts = new(int32(0))
		c := &spec.Template.Spec.Containers[0]
		c.Resources = memory("64Mi")
		c.ResizePolicy = []corev1.ContainerResizePolicy{{ResourceName: corev1.ResourceMemory, RestartPolicy: corev1.RestartContainer}}
	})
	r.release(func(spec *v1alpha1.GuardedDeploymentSpec) { spec.Guard.SoakSeconds = new(int32(15)) })
	r.await(v1alpha1.ConditionReconciling, v1alpha1.ReasonSoaking)
	pod := r.pods()[0]
	pod.Spec.Containers[0].Resources = memory("96Mi")
	if _, err := r.kube.CoreV1().Pods(namespace).UpdateResize(t.Context(), pod.Name, &pod, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	r.awaitPod("a restart", restarted)
	r.expectGood()
}

func TestSandbox_KilledInSoak(t *testing.T) {
	r := newTrial(t, func(spec *v1alpha1.GuardedDeploymentSpec) {
		spec.Guard.MaxRestarts = new(int32(0))
		spec.Template.Spec.InitContainers = []corev1.Container{{Name: "before", Image: serverImage, Args: []string{"exit", "0"}}}
	})
	r.release(func(spec *v1alpha1.GuardedDeploymentSpec) { spec.Guard.SoakSeconds = new(int32(15)) })
	r.await(v1alpha1.ConditionReconciling, v1alpha1.ReasonSoaking)
	r.killSandbox(r.pods()[0])
	r.awaitPod("a restart", restarted)
	r.expectGood()
}

func (r *trial) killSandbox(pod corev1.Pod) {
	r.Helper()
	ids, err := r.node.ctr(r.Context(), firstWorker, "containers", "list", "--quiet",
		`labels."io.kubernetes.pod.uid"==`+string(pod.UID)+`,labels."io.cri-containerd.kind"==sandbox`)
	if err != nil {
		r.Fatal(err)
	}
	pid, err := r.node.task(r.Context(), firstWorker, strings.TrimSpace(ids))
	if err != nil {
		r.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		r.Fatal(err)
	}
}

func TestStartupProbe_LongerThanDeadline(t *testing.T) {
	r := newTrial(t)
	r.release(func(spec *v1alpha1.GuardedDeploymentSpec) {
		spec.ProgressDeadlineSeconds = new(int32(10))
		c := &spec.Template.Spec.Containers[0]
		c.Args = append(c.Args, "--warm=30s")
		c.StartupProbe = &corev1.Probe{ProbeHandler: c.ReadinessProbe.ProbeHandler, PeriodSeconds: 1, FailureThreshold: 90}
	})
	r.expectGood()
	if took := time.Since(r.began); took < 30*time.Second {
		t.Errorf("good after %s, want more than 30s: was there a startup probe?", took)
	}
}
