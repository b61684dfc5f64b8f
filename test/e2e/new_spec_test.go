package e2e

import (
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// promptly is how soon a new spec is acted on, in every state.
const promptly = 5 * time.Second

// A new template always wins, at once, whatever Belay is doing. This is measured, so that no other test runs meanwhile.
func TestNewSpec_WinsInEveryState(t *testing.T) {
	p := startBelay(t, metav1.NamespaceAll)
	figures.watchPace(t)
	for _, state := range []struct {
		name    string
		first   corev1.PodTemplateSpec // ready before, if reach says no other
		options []option
		reach   func(*object) // brings the object into the state
	}{
		{name: "rolling out", reach: func(o *object) {
			o.release(template(slow, "2"))
			o.awaitReason(v1alpha1.ReasonProgressing)
		}},
		{name: "soaking", reach: func(o *object) {
			o.update(soak(600), runs(template(good, "2")))
			o.awaitReason(v1alpha1.ReasonSoaking)
			o.update(soak(2))
		}},
		{name: "rolling back", options: []option{allAtOnce}, first: template(slow, "1"), reach: func(o *object) {
			o.release(template(crash, "2"))
			o.await("is rolling back", func(g *v1alpha1.GuardedDeployment) bool {
				return reasonOf(g) == v1alpha1.ReasonProgressing && g.Status.Failure != nil
			})
		}},
		{name: "rolled back", reach: func(o *object) {
			o.release(template(crash, "2"))
			o.awaitReason(v1alpha1.ReasonRolledBack)
		}},
		{name: "held", options: []option{onFailure(v1alpha1.Hold)}, reach: func(o *object) {
			o.release(template(crash, "2"))
			o.awaitReason(v1alpha1.ReasonHeld)
		}},
		{name: "no good revision", first: template(crash, "1"), reach: func(o *object) {
			o.awaitReason(v1alpha1.ReasonNoGoodRevision)
		}},
		{name: "rolled out", reach: func(o *object) {}},
		{name: "paused", reach: func(o *object) {
			o.update(paused(true), runs(template(good, "2")))
			o.awaitReason(v1alpha1.ReasonPaused)
			o.update(runs(template(good, "3")))
			o.awaitReason(v1alpha1.ReasonPaused)
		}},
		{name: "scaled to zero", reach: func(o *object) {
			o.update(replicas(0))
			o.awaitReason(v1alpha1.ReasonScaledToZero)
			o.update(replicas(2))
		}},
		{name: "invalid", reach: func(o *object) {
			o.release(refusedTemplate("2"))
			o.awaitReason(v1alpha1.ReasonInvalid)
		}},
		{name: "denied", reach: func(o *object) {
			if o.name == "a" {
				o.require(not("2"), "release 2 is not welcome", anyDeployment("2"))
			}
			o.release(template(good, "2"))
			o.awaitReason(v1alpha1.ReasonDenied)
		}},
	} {
		t.Run(state.name, func(t *testing.T) {
			t.Parallel()
			n := emptyNamespace(t)
			n.belay = p
			var objects []*object
			for _, name := range []string{"a", "b", "c"} {
				if state.first.Spec.Containers == nil {
					state.first = template(good, "1")
				}
				objects = append(objects, n.create(name, state.first, append([]option{replicas(2)}, state.options...)...))
			}
			for _, o := range objects {
				if state.name != "no good revision" {
					o.awaitReady()
				}
				state.reach(o)
				asked := time.Now()
				g := o.update(paused(false), runs(template(good, "new")))
				o.measureActedOn(asked)
				if after := o.awaitReady(); after.Generation != g.Generation {
					t.Errorf("the generation went from %d to %d: somebody wrote the spec", g.Generation, after.Generation)
				}
			}
		})
	}
}

// measureActedOn waits until the Deployment carries the release "new", and notes how soon after it was asked for this
// came: when the API server received the write or, without an audit log, when it was seen.
func (o *object) measureActedOn(asked time.Time) {
	o.Helper()
	o.awaitDeployment("carries the new release", func(d *appsv1.Deployment) bool { return version(d) == "new" })
	acted := time.Now()
	if writes := o.deploymentWrites(); len(writes) > 0 {
		acted = writes[len(writes)-1].At
	}
	figures.time("time until a new spec is acted on, all states", acted.Sub(asked), promptly)
}

// allAtOnce replaces all pods at the same time.
func allAtOnce(g *v1alpha1.GuardedDeployment) {
	g.Spec.Strategy = appsv1.DeploymentStrategy{Type: appsv1.RollingUpdateDeploymentStrategyType,
		RollingUpdate: &appsv1.RollingUpdateDeployment{MaxUnavailable: new(intstr.FromString("100%")), MaxSurge: new(intstr.FromInt32(0))}}
}

// refusedTemplate passes the CRD's schema, and is refused by the API server as part of a Deployment.
func refusedTemplate(version string) corev1.PodTemplateSpec {
	pods := template(good, version)
	pods.Spec.Containers[0].Ports = []corev1.ContainerPort{{Name: "http", ContainerPort: 80}, {Name: "http", ContainerPort: 81}}
	return pods
}
