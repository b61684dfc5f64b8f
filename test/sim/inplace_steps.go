package sim

import (
	"fmt"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	fake "github.com/belay-dev/belay/internal/fakecluster"
	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// What somebody does to a Deployment that is guarded in place.

// step is what is done next.
func (r *placeRun) step() {
	switch r.random.IntN(28) {
	default:
		image := fmt.Sprintf("%s:%d", r.anyOutcome(), len(r.images))
		r.images = append(r.images, image)
		r.release(image)
	case 0, 1:
		r.release(r.images[r.random.IntN(len(r.images))])
	case 2, 3:
		r.tokens++
		token := fmt.Sprint("token-", r.tokens)
		r.act("retry "+token, func(d *appsv1.Deployment) {
			metav1.SetMetaDataAnnotation(&d.ObjectMeta, v1alpha1.RetryAnnotation, token)
		})
	case 4, 5:
		n := r.random.Int32N(6)
		r.act(fmt.Sprintf("scale to %d", n), func(d *appsv1.Deployment) { d.Spec.Replicas = &n })
	case 6:
		r.release(fmt.Sprintf("bad-pull:%d", len(r.images)))
		r.images = append(r.images, image(r.deployment().Spec.Template))
		r.pass(60)
		r.act("scale to 0", func(d *appsv1.Deployment) { d.Spec.Replicas = new(int32) })
		r.pass(30)
		r.act("and back to 4", func(d *appsv1.Deployment) { d.Spec.Replicas = new(int32(4)) })
	case 7:
		r.act("pause", func(d *appsv1.Deployment) { d.Spec.Paused = true })
		r.pass(60)
		r.act("resume", func(d *appsv1.Deployment) { d.Spec.Paused = false })
	case 8, 9:
		r.setLabel([]string{"", v1alpha1.NotGuarded, "yes", "true"}[r.random.IntN(4)])
		r.pass(60)
		r.setLabel(v1alpha1.GuardedInPlace)
	case 10, 11:
		r.undo()
	case 12:
		r.now(func() {
			r.tell("restart")
			r.touched()
			fake.Restart(r.World, "web")
			r.newTemplate()
		})
	case 13:
		s := strategies[r.random.IntN(len(strategies))]
		r.act("strategy "+s.name, func(d *appsv1.Deployment) { d.Spec.Strategy = s.strategy })
	case 14, 15:
		onFailure, retries := []v1alpha1.OnFailure{v1alpha1.Rollback, v1alpha1.Hold}[r.random.IntN(2)], r.random.IntN(2)
		r.act(fmt.Sprintf("%s, %d retries", onFailure, retries), func(d *appsv1.Deployment) {
			metav1.SetMetaDataAnnotation(&d.ObjectMeta, v1alpha1.GuardAnnotation, r.guardAs(onFailure, retries))
		})
	case 16:
		down := time.Duration(r.random.IntN(90)) * time.Second
		r.now(func() { r.tell("Belay is down for %s", down); r.touched(); r.die(down) })
	case 17:
		r.outage()
	case 18:
		r.now(func() {
			pods := slices.DeleteFunc(r.pods(), func(pod *corev1.Pod) bool { return !isReady(pod) })
			if len(pods) > 0 { // One that is lost after some restarts counts as one that does not come up.
				r.tell("a pod is lost")
				r.touched()
				r.removePod(pods[r.random.IntN(len(pods))])
			}
		})
	}
}

// outage takes a controller down for a while.
func (r *placeRun) outage() {
	r.now(func() {
		n := r.random.IntN(2)
		down := []*component{&r.deploymentController, &r.setController}[n]
		r.tell("the %s controller is down", []string{"Deployment", "ReplicaSet"}[n])
		r.touched()
		r.stop(down)
		r.in(time.Duration(r.random.IntN(40))*time.Second, func() { r.tell("and is back"); r.touched(); r.world.start(down) })
	})
}

var strategies = []struct {
	name     string
	strategy appsv1.DeploymentStrategy
}{
	{"25%/25%", rolling("25%", "25%")}, {"25%/25%", rolling("25%", "25%")}, {"1/0", rolling("1", "0")}, {"0/1", rolling("0", "1")}, {"100%/100%", rolling("100%", "100%")}, {"25%/100%", rolling("25%", "100%")},
	{"Recreate", appsv1.DeploymentStrategy{Type: appsv1.RecreateDeploymentStrategyType}},
}

func rolling(surge, unavailable string) appsv1.DeploymentStrategy {
	return appsv1.DeploymentStrategy{Type: appsv1.RollingUpdateDeploymentStrategyType,
		RollingUpdate: &appsv1.RollingUpdateDeployment{MaxSurge: new(intstr.Parse(surge)), MaxUnavailable: new(intstr.Parse(unavailable))}}
}

// anyOutcome returns the name of an outcome: half of them are healthy. A ReplicaSet that is refused is not in these plays.
func (r *placeRun) anyOutcome() string {
	healthy := r.random.IntN(2) == 0
	fit := slices.DeleteFunc(slices.Clone(outcomes), func(o outcome) bool { return o.noSet || o.healthy != healthy })
	return fit[r.random.IntN(len(fit))].name
}

func (r *placeRun) release(image string) {
	r.act("release "+image, func(d *appsv1.Deployment) { d.Spec.Template = templateOf(image) })
}

func (r *placeRun) setLabel(value string) {
	r.act("label "+value, func(d *appsv1.Deployment) {
		d.Labels = map[string]string{v1alpha1.GuardedLabel: value}
		if value == "" {
			d.Labels = nil
		}
	})
}

// undo does what kubectl rollout undo does: the template of an older ReplicaSet comes back, with its annotations.
func (r *placeRun) undo() {
	sets := r.sets()
	set := sets[r.random.IntN(len(sets))]
	r.act("undo to "+image(set.Spec.Template), func(d *appsv1.Deployment) {
		kept := map[string]string{}
		for key, value := range set.Annotations {
			if !strings.HasPrefix(key, "deployment.kubernetes.io/") {
				kept[key] = value
			}
		}
		d.Annotations = kept
		d.Spec.Template = *set.Spec.Template.DeepCopy()
		delete(d.Spec.Template.Labels, appsv1.DefaultDeploymentUniqueLabelKey)
	})
}
