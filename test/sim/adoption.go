package sim

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	fake "github.com/belay-dev/belay/internal/fakecluster"
	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// This file is about Deployments that somebody else has made.

// ---- what must hold

// adoption is what was there when a Deployment was taken over.
type adoption struct {
	first    bool // nothing was known of it
	template corev1.PodTemplateSpec
	complete bool
	pods     []types.UID // those that have to stay
}

// taken returns why the Deployment may not be written, empty if it may.
func (r *run) taken() string {
	d := r.deployment()
	switch {
	case d == nil || metav1.IsControlledBy(d, r.guarded()):
		return ""
	case metav1.GetControllerOf(d) != nil:
		return "has another controller"
	case !equality.Semantic.DeepEqual(d.Spec.Selector, r.guarded().Spec.Selector):
		return "has another selector"
	case d.Annotations[v1alpha1.AdoptAnnotation] != r.guarded().Name:
		return "does not consent"
	}
	return ""
}

// others returns what in a Deployment is not Belay's to write when it takes it over.
func (r *run) others(d *appsv1.Deployment) *appsv1.Deployment {
	d = d.DeepCopy()
	delete(d.Labels, v1alpha1.GuardedLabel)
	delete(d.Annotations, v1alpha1.RevisionAnnotation)
	delete(d.Annotations, v1alpha1.AppliedAnnotation)
	d.OwnerReferences = slices.DeleteFunc(d.OwnerReferences, func(o metav1.OwnerReference) bool { return o.UID == r.guarded().UID })
	return d
}

// checkAdoption checks the write that takes a Deployment over.
func (r *run) checkAdoption(before, after *appsv1.Deployment) {
	if why := r.taken(); why != "" {
		r.violated("S3: a Deployment is written that %s", why)
	}
	if was, is := r.others(before), r.others(after); !equality.Semantic.DeepEqual(was, is) {
		r.violated("S3: more is written than whose it is: %s", cmp.Diff(was, is))
	}
	if !metav1.IsControlledBy(after, r.guarded()) {
		r.violated("S3: a Deployment is written that stays somebody else's")
	}
	first := r.adoption == nil && before.Annotations[v1alpha1.RevisionAnnotation] == ""
	r.adoption = &adoption{first: first, template: before.Spec.Template, complete: r.seenComplete()}
	if r.adoption.complete && !slices.ContainsFunc(r.revisions(), r.isRunning) {
		r.violated("S3: %s is complete, and no revision has its template", image(before.Spec.Template))
	}
	if r.adoption.complete && r.asksForWhatRuns() {
		for _, pod := range r.pods() {
			r.adoption.pods = append(r.adoption.pods, pod.UID)
		}
	}
	r.corrections.owed = true
}

// seenComplete reports whether the rollout is complete, for the Deployment controller and for Belay's cache, too.
func (r *run) seenComplete() bool {
	says := func(d *appsv1.Deployment) bool {
		n := *d.Spec.Replicas
		return n > 0 && d.Status.ObservedGeneration >= d.Generation && d.Status.Replicas == n &&
			d.Status.UpdatedReplicas == n && d.Status.AvailableReplicas == n
	}
	live, cached := r.deployment(), r.cachedDeployment()
	return live != nil && r.complete(*live.Spec.Replicas) && says(live) && (cached == nil || says(cached))
}

// stored returns a template as the API server stores it.
func stored(t corev1.PodTemplateSpec) corev1.PodTemplateSpec {
	d := &appsv1.Deployment{Spec: appsv1.DeploymentSpec{Template: *t.DeepCopy()}}
	fake.SetDefaults(d)
	return d.Spec.Template
}

// isRunning reports whether the Deployment's pods are the revision's, whatever was added to them.
func (r *run) isRunning(revision *appsv1.ControllerRevision) bool {
	return equality.Semantic.DeepEqual(stored(decode(revision)).Spec, r.deployment().Spec.Template.Spec)
}

func (r *run) asksForWhatRuns() bool {
	replicas := r.guarded().Spec.Replicas
	return equality.Semantic.DeepEqual(stored(r.guarded().Spec.Template), r.deployment().Spec.Template) &&
		(replicas == nil || *replicas == *r.deployment().Spec.Replicas)
}

// touched notes that users did something: pods may go after it.
func (r *run) touched() {
	if r.adoption != nil {
		r.adoption.pods = nil
	}
}

// checkAdopted checks, in the end, what has become of what was taken over.
func (r *run) checkAdopted(target *appsv1.ControllerRevision) {
	if r.adoption == nil {
		return
	}
	for _, uid := range r.adoption.pods {
		if !slices.ContainsFunc(r.pods(), func(p *corev1.Pod) bool { return p.UID == uid }) {
			r.violated("S3: the template is the same, and a pod is gone")
		}
	}
	others := 0 // that somebody could go back to
	for _, revision := range r.revisions() {
		if proven(revision) && !equality.Semantic.DeepEqual(decode(revision), r.adoption.template) {
			others++
		}
	}
	if !r.adoption.first || !r.adoption.complete || others > 0 || verdict(target) != "failed" ||
		r.guarded().Spec.Guard.OnFailure == v1alpha1.Hold || *r.deployment().Spec.Replicas == 0 {
		return
	}
	if r.reason() != v1alpha1.ReasonRolledBack || !equality.Semantic.DeepEqual(r.deployment().Spec.Template.Spec, r.adoption.template.Spec) {
		r.violated("L13: the first release failed, and it is %s on %s", r.reason(), image(r.deployment().Spec.Template))
	}
}

// ---- what others do

func consent(name string) action {
	return meddle("consent to "+name, func(d *appsv1.Deployment) {
		metav1.SetMetaDataAnnotation(&d.ObjectMeta, v1alpha1.AdoptAnnotation, name)
	})
}

var (
	withdraw = meddle("take the consent back", func(d *appsv1.Deployment) { delete(d.Annotations, v1alpha1.AdoptAnnotation) })
	orphan   = meddle("take the owner reference away", func(d *appsv1.Deployment) {
		d.OwnerReferences = slices.DeleteFunc(d.OwnerReferences, func(o metav1.OwnerReference) bool { return o.Kind == "GuardedDeployment" })
	})
	letGo = action{"let it go", func(r *run) {
		withdraw.do(r)
		orphan.do(r)
	}}
	unlabel = meddle("take the label away", func(d *appsv1.Deployment) { delete(d.Labels, v1alpha1.GuardedLabel) })
	claim   = meddle("another controller claims it", func(d *appsv1.Deployment) {
		if metav1.GetControllerOf(d) == nil { // The API server allows for one.
			d.OwnerReferences = append(d.OwnerReferences, metav1.OwnerReference{Kind: "Other", Name: "other", UID: "other", Controller: new(true)})
		}
	})
	disclaim = meddle("the other controller lets it go", func(d *appsv1.Deployment) {
		d.OwnerReferences = slices.DeleteFunc(d.OwnerReferences, func(o metav1.OwnerReference) bool { return o.Kind == "Other" })
	})
	setImage = meddle("kubectl set image", func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Image = "theirs:0" })
)

func rolloutRestart(number int) action {
	return meddle("kubectl rollout restart", func(d *appsv1.Deployment) {
		metav1.SetMetaDataAnnotation(&d.Spec.Template.ObjectMeta, "kubectl.kubernetes.io/restartedAt", fmt.Sprint(number))
	})
}

// theirs creates a Deployment as somebody else does.
func (r *run) theirs(random *rand.Rand) {
	images := []string{"good:0", "good:0", "good-slow:0", "good-late-database:0", "bad-crash:0", "bad-unready:0", "bad-quota:0"}
	d := &appsv1.Deployment{}
	d.Name, d.Namespace, d.Labels = "web", fake.Namespace, map[string]string{"team": "shop"}
	d.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}
	d.Spec.Replicas, d.Spec.Template = new(int32(3)), templateOf(images[random.IntN(len(images))])
	switch random.IntN(16) {
	case 0, 1:
		d.Spec.Selector.MatchLabels["app"] = "other"
	case 2:
		d.Spec.Replicas = new(int32(0))
	}
	r.do(func() { fake.Add(r.World, d) })
	r.tell("somebody has a Deployment: %s x%d, selector %v", image(d.Spec.Template), *d.Spec.Replicas, d.Spec.Selector.MatchLabels)
	for _, a := range []action{rolloutRestart(0), claim} {
		if random.IntN(6) == 0 {
			r.act(a)
		}
	}
	switch random.IntN(6) {
	case 0:
	case 1:
		r.act(consent("other"))
	default:
		r.act(consent("web"))
	}
}

func adoptionAction(random *rand.Rand, number int) action {
	fresh := release(fmt.Sprintf("%s:%d", outcomes[random.IntN(len(outcomes))].name, number))
	return []action{
		fresh, fresh, release("good:0"), consent("web"), consent("web"), consent("other"), withdraw, orphan, letGo, letGo, unlabel, claim, disclaim,
		disclaim, setImage, rolloutRestart(number), deleteDeployment, scale(random.Int32N(4)),
		spec("pause", func(s *v1alpha1.GuardedDeploymentSpec) { s.Paused = true }),
		spec("resume", func(s *v1alpha1.GuardedDeploymentSpec) { s.Paused = false }),
	}[random.IntN(19)]
}

// ---- the plays

// A Deployment was there before. Only what consents is written, what ran and is complete is what a failed release goes
// back to, and the same template keeps its pods.
func (s stage) adoptions(t *testing.T) {
	adopted, kept := 0, 0
	seeds(t, func(t *testing.T, seed uint64) {
		s.play(t, seed, func(r *run) {
			random := rand.New(rand.NewPCG(seed, 4))
			r.beginApart()
			r.theirs(random)
			r.wait(time.Duration(random.IntN(90_000))*time.Millisecond, nil)
			template := templateOf(image(r.deployment().Spec.Template))
			if random.IntN(2) == 0 {
				template = templateOf(fmt.Sprintf("%s:1", outcomes[random.IntN(len(outcomes))].name))
			}
			r.tell("a GuardedDeployment asks for %s", image(template))
			r.create(template)
			r.nasty()
			if random.IntN(2) == 0 {
				r.act(spec("unset replicas", func(s *v1alpha1.GuardedDeploymentSpec) { s.Replicas = nil }))
			}
			if random.IntN(3) == 0 {
				r.wait(r.disturb(), nil)
			}
			r.settle(bound)
			if r.adoption != nil {
				adopted++
				kept += min(1, len(r.adoption.pods))
			}
			for i := range 6 {
				r.soon(adoptionAction(random, i+2))
				r.wait(time.Duration(random.IntN(90_000))*time.Millisecond, nil)
			}
			r.hurryUp()
			r.tell("from here on nothing happens any more")
			r.settle(bound)
			r.wait(2*time.Minute, nil) // until what is not ours was looked at once more
			r.rest()
		})
	}, 546)
	if t.Logf("%d Deployments were taken over at first, %d with the same pods", adopted, kept); *only == 0 && (adopted == 0 || kept == 0) {
		t.Error("no Deployment was taken over at first, or none with the same pods")
	}
}
