package node

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"flag"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	admissionv1 "k8s.io/api/admission/v1"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

var times = flag.Int("causes.times", 1, "how often each cause is made, each time for another moment of the verdict")

// made is a cause that is made for real.
type made struct {
	cause, reason string
	release       func(*v1alpha1.GuardedDeploymentSpec)
	words         []string // of the message
	log           string   // of the last lines of the container's log
	exitCode      int32
}

// container returns a release that changes its only container.
func container(edit func(*corev1.Container)) func(*v1alpha1.GuardedDeploymentSpec) {
	return func(spec *v1alpha1.GuardedDeploymentSpec) { edit(&spec.Template.Spec.Containers[0]) }
}

// pod returns a release that changes its pods.
func pod(edit func(*corev1.PodSpec)) func(*v1alpha1.GuardedDeploymentSpec) {
	return func(spec *v1alpha1.GuardedDeploymentSpec) { edit(&spec.Template.Spec) }
}

func image(name string) func(*v1alpha1.GuardedDeploymentSpec) {
	return container(func(c *corev1.Container) { c.Image = name })
}

func args(more ...string) func(*v1alpha1.GuardedDeploymentSpec) {
	return container(func(c *corev1.Container) { c.Args = append(c.Args, more...) })
}

// volume returns a release that mounts something.
func volume(source corev1.VolumeSource) func(*v1alpha1.GuardedDeploymentSpec) {
	return pod(func(spec *corev1.PodSpec) {
		spec.Volumes = []corev1.Volume{{Name: "data", VolumeSource: source}}
		spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "data", MountPath: "/data"}}
	})
}

// nobodyListens is what a probe asks in vain.
var nobodyListens = corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/healthz", Port: intstr.FromInt32(8081)}}

var causes = []made{
	{cause: v1alpha1.CauseExitCode, reason: v1alpha1.FailureCrashLoop, exitCode: 3, release: args("--exit=3"),
		words: []string{"container server", "exited with code 3", "cannot start: it was told to exit with 3"}, log: "cannot start: it was told to exit with 3"},
	{cause: v1alpha1.CauseCompleted, reason: v1alpha1.FailureCrashLoop, release: args("exit", "0"), log: "on standard output"},
	{cause: v1alpha1.CauseOutOfMemory, reason: v1alpha1.FailureCrashLoop, exitCode: 137, release: container(func(c *corev1.Container) {
		c.Args = append(c.Args, "--eat=64")
		c.Resources.Limits = corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("32Mi")}
	}), words: []string{"OOMKilled"}},
	{cause: v1alpha1.CauseLivenessProbe, reason: v1alpha1.FailureCrashLoop, release: container(func(c *corev1.Container) {
		c.LivenessProbe = &corev1.Probe{ProbeHandler: nobodyListens, PeriodSeconds: 1, FailureThreshold: 2}
	}), words: []string{"liveness probe", "connection refused"}},
	{cause: v1alpha1.CauseStartupProbe, reason: v1alpha1.FailureCrashLoop, release: container(func(c *corev1.Container) {
		c.StartupProbe = &corev1.Probe{ProbeHandler: nobodyListens, PeriodSeconds: 1, FailureThreshold: 2}
	}), words: []string{"startup probe", "connection refused"}},
	{cause: v1alpha1.CausePostStartHook, reason: v1alpha1.FailureCrashLoop, release: container(func(c *corev1.Container) {
		hook := &corev1.ExecAction{Command: []string{"/server", "exit", "7"}}
		c.Lifecycle = &corev1.Lifecycle{PostStart: &corev1.LifecycleHandler{Exec: hook}}
	}), words: []string{"postStart hook"}}, // with its code only if a poll falls into the kubelet's short PostStartHookError
	{cause: v1alpha1.CauseCannotStart, reason: v1alpha1.FailureCrashLoop, exitCode: 128,
		release: container(func(c *corev1.Container) { c.Command = []string{"/nope"} }), words: []string{"/nope"}},
	{cause: v1alpha1.CauseRestartsWholePod, reason: v1alpha1.FailureCrashLoop, exitCode: 42, release: pod(func(spec *corev1.PodSpec) {
		spec.InitContainers = []corev1.Container{{Name: "before", Image: serverImage, Args: []string{"exit", "0"}}}
		spec.Containers = append(spec.Containers, corev1.Container{
			Name: "culprit", Image: serverImage, Args: []string{"exit", "42", "3s"}, RestartPolicy: new(corev1.ContainerRestartPolicyNever),
			RestartPolicyRules: []corev1.ContainerRestartRule{{
				Action:    corev1.ContainerRestartRuleActionRestartAllContainers,
				ExitCodes: &corev1.ContainerRestartRuleOnExitCodes{Operator: corev1.ContainerRestartRuleOnExitCodesOpIn, Values: []int32{42}},
			}},
		})
	}), words: []string{"container culprit", "whole pod", "42"}},
	{cause: v1alpha1.CauseSandbox, reason: v1alpha1.FailureDeadlineExceeded,
		release: pod(func(spec *corev1.PodSpec) { spec.RuntimeClassName = new("nope") }), words: []string{"nope"}},
	{cause: v1alpha1.CauseRefused, reason: v1alpha1.FailurePodsEnded, release: pod(func(spec *corev1.PodSpec) {
		spec.SecurityContext = &corev1.PodSecurityContext{Sysctls: []corev1.Sysctl{{Name: "net.core.somaxconn", Value: "1024"}}}
	}), words: []string{"SysctlForbidden", `forbidden sysctl: "net.core.somaxconn" not allowlisted`}},

	{cause: v1alpha1.CauseImageNotFound, reason: v1alpha1.FailureImagePull, release: image(registry + "/missing:1"), words: []string{"/missing:1"}},
	{cause: v1alpha1.CauseImageAuth, reason: v1alpha1.FailureImagePull, release: image(registry + "/private:1"), words: []string{"/private:1"}},
	{cause: v1alpha1.CauseRegistryUnavailable, reason: v1alpha1.FailureImagePull, release: image("localhost:5001/app:1"), words: []string{"connection refused"}},
	{cause: v1alpha1.CauseImage, reason: v1alpha1.FailureImagePull, release: image(registry + "/broken:1"), words: []string{"/broken:1"}},
	{cause: v1alpha1.CauseInvalidImageName, reason: v1alpha1.FailureImagePull, release: image("localhost/UPPER:1"), words: []string{"UPPER"}},
	{cause: v1alpha1.CauseImageNeverPull, reason: v1alpha1.FailureImagePull, release: container(func(c *corev1.Container) {
		c.Image, c.ImagePullPolicy = "localhost/never:1", corev1.PullNever
	}), words: []string{"localhost/never:1"}},

	{cause: v1alpha1.CauseSecretMissing, reason: v1alpha1.FailureContainerConfig,
		release: volume(corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "nowhere"}}), words: []string{`secret "nowhere" not found`}},
	{cause: v1alpha1.CauseConfigMapMissing, reason: v1alpha1.FailureContainerConfig, release: container(func(c *corev1.Container) {
		c.EnvFrom = []corev1.EnvFromSource{{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "nowhere"}}}}
	}), words: []string{`configmap "nowhere" not found`}},
	{cause: v1alpha1.CauseKeyMissing, reason: v1alpha1.FailureContainerConfig, release: container(func(c *corev1.Container) {
		c.Env = []corev1.EnvVar{{Name: "TOKEN", ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{
			LocalObjectReference: corev1.LocalObjectReference{Name: "present"}, Key: "absent"}}}}
	}), words: []string{"absent"}},
	{cause: v1alpha1.CauseClaimMissing, reason: v1alpha1.FailureContainerConfig,
		release: volume(corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "nowhere"}}), words: []string{`persistentvolumeclaim "nowhere" not found`}},
	{cause: v1alpha1.CauseMountFailed, reason: v1alpha1.FailureContainerConfig,
		release: volume(corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/nowhere", Type: new(corev1.HostPathDirectory)}}), words: []string{"/nowhere"}},
	{cause: v1alpha1.CauseSecurityContext, reason: v1alpha1.FailureContainerConfig, release: container(func(c *corev1.Container) {
		c.SecurityContext = &corev1.SecurityContext{RunAsNonRoot: new(true), RunAsUser: new(int64(0))}
	})},
	{cause: v1alpha1.CauseConfiguration, reason: v1alpha1.FailureContainerConfig, release: pod(func(spec *corev1.PodSpec) {
		spec.Volumes = []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
		spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "data", MountPath: "/data", SubPathExpr: "$(NOWHERE)"}}
	}), words: []string{"NOWHERE"}},

	{cause: v1alpha1.CauseReadinessProbe, reason: v1alpha1.FailureDeadlineExceeded, release: args("--warm=1h"), words: []string{"readiness probe", "503"}},
	{cause: v1alpha1.CauseReadinessGate, reason: v1alpha1.FailureDeadlineExceeded, release: pod(func(spec *corev1.PodSpec) {
		spec.ReadinessGates = []corev1.PodReadinessGate{{ConditionType: "belay.dev/nobody-writes-it"}}
	}), words: []string{"belay.dev/nobody-writes-it"}},
	{cause: v1alpha1.CauseNodeSelector, reason: v1alpha1.FailureDeadlineExceeded,
		release: pod(func(spec *corev1.PodSpec) {
			spec.NodeSelector = map[string]string{"belay.dev/disk": "none"}
			spec.Tolerations = []corev1.Toleration{{Operator: corev1.TolerationOpExists}} // also a kubelet that is stopped
		}), words: []string{"node affinity/selector"}},
	{cause: v1alpha1.CauseNoRoom, reason: v1alpha1.FailureDeadlineExceeded, release: container(func(c *corev1.Container) {
		c.Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1000")}
	}), words: []string{"Insufficient cpu"}},
	{cause: v1alpha1.CauseSchedulerMissing, reason: v1alpha1.FailureDeadlineExceeded,
		release: pod(func(spec *corev1.PodSpec) { spec.SchedulerName = "nobody" }), words: []string{"nobody"}},
	{cause: v1alpha1.CauseSchedulingGate, reason: v1alpha1.FailureDeadlineExceeded,
		release: pod(func(spec *corev1.PodSpec) {
			spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "belay.dev/shut"}}
		}), words: []string{"belay.dev/shut"}},
	{cause: v1alpha1.CauseResourceClaim, reason: v1alpha1.FailureDeadlineExceeded, release: pod(func(spec *corev1.PodSpec) {
		spec.ResourceClaims = []corev1.PodResourceClaim{{Name: "gpu", ResourceClaimTemplateName: new("nowhere")}}
	}), words: []string{"gpu"}},

	{cause: v1alpha1.CauseQuota, reason: v1alpha1.FailureQuotaExceeded,
		release: pod(func(spec *corev1.PodSpec) { spec.PriorityClassName = noPods }), words: []string{"exceeded quota"}},
	{cause: v1alpha1.CauseForbidden, reason: v1alpha1.FailurePodsForbidden,
		release: pod(func(spec *corev1.PodSpec) { spec.ServiceAccountName = "nowhere" }), words: []string{`serviceaccount "nowhere" not found`}},
	{cause: v1alpha1.CauseWebhookDenied, reason: v1alpha1.FailurePodsForbidden, release: func(spec *v1alpha1.GuardedDeploymentSpec) {
		spec.Template.Labels["belay.dev/deny"] = "true"
	}, words: []string{"deny.node.belay.dev", "not today"}},
}

// TestCause makes each cause for real, and the status names it.
func TestCause(t *testing.T) {
	t.Parallel() // after the story, which takes Belay away
	var right atomic.Int32
	t.Run("of", func(t *testing.T) {
		for _, m := range causes {
			t.Run(m.cause, func(t *testing.T) {
				r := newTrial(t)
				if err := prepareCauses(); err != nil {
					t.Fatal(err)
				}
				for moment := range *times {
					if r.make(m, moment); t.Failed() {
						return
					}
					right.Add(1)
				}
			})
		}
	})
	say("%d of %d causes are named rightly", right.Load(), len(causes)**times)
}

// make releases what the cause makes fail. Other bounds are met at other moments: of a back-off, for example.
func (r *trial) make(m made, moment int) {
	first := r.first()
	r.release(func(spec *v1alpha1.GuardedDeploymentSpec) {
		spec.Template = first.Spec.Template
		spec.Template.Spec.Containers[0].Args[0] = "--version=tried"
		spec.Template.Annotations = map[string]string{"moment": fmt.Sprint(moment)}
		spec.ProgressDeadlineSeconds = new(int32(12 + 5*moment))
		spec.Guard.SoakSeconds = new(int32(30))
		spec.Guard.MaxRestarts, spec.Guard.StuckSeconds = new([]int32{1, 2, 0}[moment%3]), new(int32(5+3*moment))
		if m.reason == v1alpha1.FailureCrashLoop { // A back-off is longer.
			spec.ProgressDeadlineSeconds, spec.Guard.StuckSeconds = new(int32(120)), new(int32(60))
		}
		m.release(spec)
	})
	failure := r.expectRolledBack(m.reason, m.cause, m.words...)
	var code int32
	if failure.ExitCode != nil {
		code = *failure.ExitCode
	}
	if code != m.exitCode {
		r.Errorf("the exit code is %d, want %d", code, m.exitCode)
	}
	if !strings.Contains(failure.Log, m.log) {
		r.Errorf("the log is %q, want %q in it", failure.Log, m.log)
	}
	if failure.Log != "" && slices.Contains([]string{v1alpha1.FailureImagePull, v1alpha1.FailureContainerConfig}, failure.Reason) {
		r.Errorf("there is a log of what never ran: %q", failure.Log)
	}
	if failure.Pod != "" && failure.Node == "" && failure.Reason == v1alpha1.FailureCrashLoop {
		r.Errorf("pod %s has no node", failure.Pod)
	}
}

// noPods is a priority class of which the namespace may have no pods.
const noPods = "no-pods"

// prepareCauses makes what some causes need.
var prepareCauses = sync.OnceValue(func() error {
	config, err := clientcmd.BuildConfigFromFlags("", theNode.kubeconfig())
	if err != nil {
		return err
	}
	kube, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	ctx, options := context.Background(), metav1.CreateOptions{}
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "present"}, StringData: map[string]string{"key": "value"}}
	if _, err := kube.CoreV1().Secrets(namespace).Create(ctx, secret, options); err != nil {
		return err
	}
	runtimeClass := &nodev1.RuntimeClass{ObjectMeta: metav1.ObjectMeta{Name: "nope"}, Handler: "nope"}
	if _, err := kube.NodeV1().RuntimeClasses().Create(ctx, runtimeClass, options); err != nil {
		return err
	}
	class := &schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: noPods}, Value: 1}
	if _, err := kube.SchedulingV1().PriorityClasses().Create(ctx, class, options); err != nil {
		return err
	}
	quota := &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: noPods}, Spec: corev1.ResourceQuotaSpec{
		Hard: corev1.ResourceList{corev1.ResourcePods: resource.MustParse("0")},
		ScopeSelector: &corev1.ScopeSelector{MatchExpressions: []corev1.ScopedResourceSelectorRequirement{
			{ScopeName: corev1.ResourceQuotaScopePriorityClass, Operator: corev1.ScopeSelectorOpIn, Values: []string{noPods}}}},
	}}
	if _, err := kube.CoreV1().ResourceQuotas(namespace).Create(ctx, quota, options); err != nil {
		return err
	}
	_, err = kube.AdmissionregistrationV1().ValidatingWebhookConfigurations().Create(ctx, denying(), options)
	return err
})

// denying is a webhook that denies the pods with a label. It answers until the process ends.
func denying() *admissionregistrationv1.ValidatingWebhookConfiguration {
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var review admissionv1.AdmissionReview
		if err := json.NewDecoder(r.Body).Decode(&review); err != nil || review.Request == nil {
			http.Error(w, "no review", http.StatusBadRequest)
			return
		}
		review.Response = &admissionv1.AdmissionResponse{UID: review.Request.UID, Result: &metav1.Status{Code: http.StatusForbidden, Message: "not today"}}
		review.Request = nil
		_ = json.NewEncoder(w).Encode(review)
	}))
	authority := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	return &admissionregistrationv1.ValidatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "deny.node.belay.dev"},
		Webhooks: []admissionregistrationv1.ValidatingWebhook{{
			Name:                    "deny.node.belay.dev",
			ClientConfig:            admissionregistrationv1.WebhookClientConfig{URL: &server.URL, CABundle: authority},
			ObjectSelector:          &metav1.LabelSelector{MatchLabels: map[string]string{"belay.dev/deny": "true"}},
			SideEffects:             new(admissionregistrationv1.SideEffectClassNone),
			AdmissionReviewVersions: []string{"v1"},
			Rules: []admissionregistrationv1.RuleWithOperations{{
				Operations: []admissionregistrationv1.OperationType{admissionregistrationv1.Create},
				Rule:       admissionregistrationv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"pods"}},
			}},
		}}}
}
