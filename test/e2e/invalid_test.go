package e2e

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// onlyADeploymentRefuses are pods that the schema of a GuardedDeployment cannot refuse and a Deployment's API does.
var onlyADeploymentRefuses = map[string]func(pods *corev1.PodTemplateSpec, spec *corev1.PodSpec, app *corev1.Container){
	"no-image": func(_ *corev1.PodTemplateSpec, _ *corev1.PodSpec, app *corev1.Container) { app.Image = "" },
	"mount-without-volume": func(_ *corev1.PodTemplateSpec, _ *corev1.PodSpec, app *corev1.Container) {
		app.VolumeMounts = []corev1.VolumeMount{{Name: "nowhere", MountPath: "/nowhere"}}
	},
	"field-ref-to-nowhere": func(_ *corev1.PodTemplateSpec, _ *corev1.PodSpec, app *corev1.Container) {
		app.Env = append(app.Env, corev1.EnvVar{Name: "A", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.nowhere"}}})
	},
	"variable-of-two-sources": func(_ *corev1.PodTemplateSpec, _ *corev1.PodSpec, app *corev1.Container) {
		app.Env = append(app.Env, corev1.EnvVar{Name: "A", Value: "a", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.name"}}})
	},
	"variable-name": func(_ *corev1.PodTemplateSpec, _ *corev1.PodSpec, app *corev1.Container) {
		app.Env = append(app.Env, corev1.EnvVar{Name: "A=B", Value: "a"})
	},
	"container-name": func(_ *corev1.PodTemplateSpec, _ *corev1.PodSpec, app *corev1.Container) { app.Name = "App_1" },
	"port-twice": func(_ *corev1.PodTemplateSpec, _ *corev1.PodSpec, app *corev1.Container) {
		app.Ports = []corev1.ContainerPort{{Name: "http", ContainerPort: 80}, {Name: "http", ContainerPort: 81}}
	},
	"port-out-of-range": func(_ *corev1.PodTemplateSpec, _ *corev1.PodSpec, app *corev1.Container) {
		app.Ports = []corev1.ContainerPort{{ContainerPort: 70000}}
	},
	"host-port": func(_ *corev1.PodTemplateSpec, spec *corev1.PodSpec, app *corev1.Container) {
		spec.HostNetwork = true
		app.Ports = []corev1.ContainerPort{{ContainerPort: 80, HostPort: 81}}
	},
	"probe-without-handler": func(_ *corev1.PodTemplateSpec, _ *corev1.PodSpec, app *corev1.Container) {
		app.LivenessProbe = &corev1.Probe{PeriodSeconds: 1}
	},
	"hook-without-handler": func(_ *corev1.PodTemplateSpec, _ *corev1.PodSpec, app *corev1.Container) {
		app.Lifecycle = &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{}}
	},
	"request-above-limit": func(_ *corev1.PodTemplateSpec, _ *corev1.PodSpec, app *corev1.Container) {
		app.Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("2")}
		app.Resources.Limits = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1")}
	},
	"pull-policy": func(_ *corev1.PodTemplateSpec, _ *corev1.PodSpec, app *corev1.Container) {
		app.ImagePullPolicy = "Sometimes"
	},
	"user": func(_ *corev1.PodTemplateSpec, _ *corev1.PodSpec, app *corev1.Container) {
		app.SecurityContext = &corev1.SecurityContext{RunAsUser: new(int64(-1))}
	},
	"restart-policy": func(_ *corev1.PodTemplateSpec, spec *corev1.PodSpec, _ *corev1.Container) {
		spec.RestartPolicy = "OnFailure"
	},
	"no-restart-policy": func(_ *corev1.PodTemplateSpec, spec *corev1.PodSpec, _ *corev1.Container) {
		spec.RestartPolicy = "Sometimes"
	},
	"active-deadline": func(_ *corev1.PodTemplateSpec, spec *corev1.PodSpec, _ *corev1.Container) {
		spec.ActiveDeadlineSeconds = new(int64(60))
	},
	"volume-of-two-kinds": func(_ *corev1.PodTemplateSpec, spec *corev1.PodSpec, _ *corev1.Container) {
		spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{
			EmptyDir: &corev1.EmptyDirVolumeSource{}, HostPath: &corev1.HostPathVolumeSource{Path: "/v"}}}}
	},
	"toleration": func(_ *corev1.PodTemplateSpec, spec *corev1.PodSpec, _ *corev1.Container) {
		spec.Tolerations = []corev1.Toleration{{Key: "a", Operator: "Maybe"}}
	},
	"skew": func(_ *corev1.PodTemplateSpec, spec *corev1.PodSpec, _ *corev1.Container) {
		spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{TopologyKey: "zone", WhenUnsatisfiable: corev1.DoNotSchedule}}
	},
	"label-key": func(pods *corev1.PodTemplateSpec, _ *corev1.PodSpec, _ *corev1.Container) { pods.Labels["a b/c"] = "d" },
	"annotation-key": func(pods *corev1.PodTemplateSpec, _ *corev1.PodSpec, _ *corev1.Container) {
		pods.Annotations = map[string]string{"a b/c": "d"}
	},
}

func TestInvalid_RefusedTemplate(t *testing.T) {
	n := newNamespace(t)
	web := n.createReady("web", template(good, "1"))
	before := len(n.writesAtRest())
	web.release(refusedTemplate("2"))
	g := web.awaitReason(v1alpha1.ReasonInvalid)
	if !strings.Contains(message(g), "ports") {
		t.Errorf("the condition does not tell what the API server said: %q", message(g))
	}
	web.awaitEvents(v1alpha1.ReasonInvalid, 1)
	n.nothingHappens(30*time.Second, func(context.Context) error {
		if writes := len(n.writes()) - before; writes > 5 {
			return fmt.Errorf("%d writes:\n%s", writes, n.describeWrites())
		}
		return nil
	})
	if n.counting() {
		figures.count("writes: release that the API server refuses, and 30 s", len(n.writes())-before, 5)
	}
	if version(web.deployment()) != "1" {
		t.Error("the Deployment was changed")
	}
	web.release(template(good, "3"))
	web.awaitReady()
	web.awaitEvents(v1alpha1.ReasonInvalid, 1)
}

// The status tells what the API server says about the Deployment, in its words, once; and a good spec ends it.
func TestInvalid_RefusedByDeploymentOnly(t *testing.T) {
	n := newNamespace(t)
	began := time.Now()
	refused := map[string]*object{}
	words := map[string]metav1.StatusCause{}
	for name, spoil := range onlyADeploymentRefuses {
		pods := template(good, "1")
		pods.Labels["app"] = name
		spoil(&pods, &pods.Spec, &pods.Spec.Containers[0])
		words[name] = n.refusalOf(name, pods)
		refused[name] = n.create(name, pods, replicas(1), soak(0))
	}
	for name, o := range refused {
		g := o.awaitReason(v1alpha1.ReasonInvalid)
		if said := message(g); !strings.Contains(said, words[name].Field) || !strings.Contains(said, words[name].Message) {
			t.Errorf("%s: the condition says %q, want %s and %q of the API server", name, said, words[name].Field, words[name].Message)
		}
	}
	t.Logf("%d are reported after %v", len(refused), time.Since(began).Round(time.Second))

	n.nothingHappens(10*time.Second, func(ctx context.Context) error {
		created, err := cluster.kube.AppsV1().Deployments(n.name).List(ctx, metav1.ListOptions{})
		if writes := len(n.writes()); err == nil && (len(created.Items) > 0 || writes > 5*len(refused)) {
			return fmt.Errorf("%d Deployments, and %d writes for %d objects:\n%s", len(created.Items), writes, len(refused), n.describeWrites())
		}
		return err
	})
	for _, o := range refused {
		o.release(template(good, "2"))
	}
	for _, o := range refused {
		o.awaitReady()
	}
}

// refusalOf returns the first cause for which the API server refuses a Deployment of these pods.
func (n *namespace) refusalOf(name string, pods corev1.PodTemplateSpec) metav1.StatusCause {
	n.Helper()
	_, err := n.try(&appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: appsv1.DeploymentSpec{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": name}}, Template: pods}})
	var status apierrors.APIStatus
	if !apierrors.IsInvalid(err) || !errors.As(err, &status) || len(status.Status().Details.Causes) == 0 {
		n.Fatalf("a Deployment %s is not refused as invalid (%v): nothing is shown by it", name, err)
	}
	return status.Status().Details.Causes[0]
}
