package e2e

import (
	"context"
	"encoding/json"
	"math"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/retry"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
	"github.com/belay-dev/belay/pkg/rollout"
)

// inPlace is a Deployment in the namespace of a test that is guarded in place, or will be.
type inPlace struct{ *object }

// newInPlace returns the namespace of a parallel test in which Deployments are guarded in place.
func newInPlace(t *testing.T) *namespace {
	t.Helper()
	needsHolds(t)
	n := newNamespace(t)
	n.inPlace = true
	return n
}

// change changes a Deployment before it is created, or later.
type change func(*appsv1.Deployment)

// asksInPlace asks Belay to guard the Deployment.
func asksInPlace(d *appsv1.Deployment) {
	metav1.SetMetaDataLabel(&d.ObjectMeta, v1alpha1.GuardedLabel, v1alpha1.GuardedInPlace)
}

func settings(text string) change {
	return func(d *appsv1.Deployment) {
		metav1.SetMetaDataAnnotation(&d.ObjectMeta, v1alpha1.GuardAnnotation, text)
	}
}

func size(n int32) change { return func(d *appsv1.Deployment) { d.Spec.Replicas = &n } }

func runsPods(pods corev1.PodTemplateSpec) change {
	return func(d *appsv1.Deployment) {
		metav1.SetMetaDataLabel(&pods.ObjectMeta, "app", d.Name)
		d.Spec.Template = pods
	}
}

func recreates(d *appsv1.Deployment) {
	d.Spec.Strategy = appsv1.DeploymentStrategy{Type: appsv1.RecreateDeploymentStrategyType}
}

// shortGuard is a guard with short times.
const shortGuard = `{"soakSeconds": 2, "stuckSeconds": 5, "maxRestarts": 1}`

// plain creates a Deployment with 4 replicas and settings for Belay, that nobody guards yet.
func (n *namespace) plain(name string, pods corev1.PodTemplateSpec, changes ...change) *inPlace {
	n.Helper()
	d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: name}}
	d.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"app": name}}
	d.Spec.ProgressDeadlineSeconds = new(int32(10))
	for _, change := range append([]change{size(4), settings(shortGuard), runsPods(pods)}, changes...) {
		change(d)
	}
	created, err := cluster.kube.AppsV1().Deployments(n.name).Create(n.Context(), d, metav1.CreateOptions{})
	if err != nil {
		n.Fatalf("create Deployment %s: %v", name, err)
	}
	p := &inPlace{&object{namespace: n, name: name}}
	p.wrote(created)
	return p
}

// guarded creates such a Deployment that is guarded, and waits until its first release is good.
func (n *namespace) guarded(name string, pods corev1.PodTemplateSpec, changes ...change) *inPlace {
	n.Helper()
	p := n.plain(name, pods, append(changes, asksInPlace)...)
	p.awaitGood()
	return p
}

// update changes the Deployment, as somebody does who applies it.
func (p *inPlace) update(changes ...change) {
	p.Helper()
	client := cluster.kube.AppsV1().Deployments(p.namespace.name)
	err := retry.RetryOnConflict(conflicting, func() error {
		d, err := client.Get(p.Context(), p.name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		for _, change := range changes {
			change(d)
		}
		updated, err := client.Update(p.Context(), d, metav1.UpdateOptions{FieldManager: "e2e"})
		if err == nil {
			p.wrote(updated)
		}
		return err
	})
	if err != nil {
		p.Fatalf("update %s: %v", p.name, err)
	}
}

// release asks for another pod template.
func (p *inPlace) release(pods corev1.PodTemplateSpec, changes ...change) {
	p.Helper()
	p.update(append([]change{runsPods(pods)}, changes...)...)
}

// kubectl runs kubectl, and returns what it says.
func (p *inPlace) kubectl(args ...string) string {
	p.Helper()
	out, err := p.tryKubectl(args...)
	if err != nil {
		p.Fatalf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	p.wrote(p.deployment())
	return out
}

// sets returns the Deployment's ReplicaSet of the template that it asks for, nil if there is none yet, and all others, newest first.
func (p *inPlace) sets() (d *appsv1.Deployment, current *appsv1.ReplicaSet, others []*appsv1.ReplicaSet) {
	p.Helper()
	d = p.deployment()
	list, err := cluster.kube.AppsV1().ReplicaSets(p.namespace.name).List(p.Context(), metav1.ListOptions{LabelSelector: metav1.FormatLabelSelector(d.Spec.Selector)})
	if err != nil {
		p.Fatal(err)
	}
	for i := range list.Items {
		if metav1.IsControlledBy(&list.Items[i], d) {
			others = append(others, &list.Items[i])
		}
	}
	slices.SortFunc(others, func(a, b *appsv1.ReplicaSet) int { return number(b) - number(a) })
	current = rollout.CurrentReplicaSet(d, others)
	return d, current, slices.DeleteFunc(others, func(set *appsv1.ReplicaSet) bool { return set == current })
}

// number returns the number that the Deployment controller has given the ReplicaSet.
func number(set *appsv1.ReplicaSet) int {
	n, _ := strconv.Atoi(set.Annotations["deployment.kubernetes.io/revision"])
	return n
}

// isGood reports whether Belay has found the ReplicaSet good.
func isGood(set *appsv1.ReplicaSet) bool {
	return set.Labels[v1alpha1.VerdictLabel] == v1alpha1.VerdictGood+"."+string(set.UID)
}

// is reports whether the ReplicaSet is to have so many pods, and that many are ready.
func is(set *appsv1.ReplicaSet, n int32) bool {
	return *set.Spec.Replicas == n && set.Status.Replicas == n && set.Status.ReadyReplicas == n && set.Status.ObservedGeneration == set.Generation
}

// awaitSets waits until the Deployment and its ReplicaSets are as they should be.
func (p *inPlace) awaitSets(what string, ok func(d *appsv1.Deployment, current *appsv1.ReplicaSet, others []*appsv1.ReplicaSet) bool) {
	p.Helper()
	p.eventually(p.name+" "+what, func(context.Context) (bool, error) {
		d, current, others := p.sets()
		if current != nil && ok(d, current, others) {
			return true, nil
		}
		time.Sleep(pollEvery) // This asks the API server.
		return false, nil
	})
}

// awaitGood waits until what is asked for is good, runs alone, and nothing is held.
func (p *inPlace) awaitGood() {
	p.Helper()
	p.awaitSets("is good", func(d *appsv1.Deployment, current *appsv1.ReplicaSet, others []*appsv1.ReplicaSet) bool {
		return isGood(current) && is(current, *d.Spec.Replicas) && held(current) == "" && p.failure(d) == nil &&
			!slices.ContainsFunc(others, func(set *appsv1.ReplicaSet) bool { return !is(set, 0) || held(set) != "" })
	})
}

// rolledBack creates a guarded Deployment whose second release has failed, and waits until it is back on the first.
func (n *namespace) rolledBack(name string, changes ...change) *inPlace {
	n.Helper()
	p := n.guarded(name, template(good, "1"), changes...)
	p.release(template(crash, "2"))
	p.awaitRolledBack()
	return p
}

// failed is what Belay writes about a failed release.
type failed struct {
	ReplicaSet string
	Attempt    int
	Reason     string
	Message    string
	Pod        string
	Ready      int32
	Time       time.Time
}

func (p *inPlace) failure(d *appsv1.Deployment) *failed {
	p.Helper()
	text, there := d.Annotations[v1alpha1.FailureAnnotation]
	if !there {
		return nil
	}
	f := &failed{}
	if err := json.Unmarshal([]byte(text), f); err != nil {
		p.Fatalf("%s: %v", text, err)
	}
	return f
}

// awaitFailed waits until what is asked for has failed, and returns how.
func (p *inPlace) awaitFailed() (f *failed) {
	p.Helper()
	p.awaitSets("has failed", func(d *appsv1.Deployment, current *appsv1.ReplicaSet, _ []*appsv1.ReplicaSet) bool {
		f = p.failure(d)
		return f != nil && f.ReplicaSet == current.Name
	})
	return f
}

// awaitRolledBack waits until what is asked for has failed, and the newest good release has all replicas, ready.
func (p *inPlace) awaitRolledBack() (f *failed) {
	p.Helper()
	p.awaitSets("is rolled back", func(d *appsv1.Deployment, current *appsv1.ReplicaSet, others []*appsv1.ReplicaSet) bool {
		f = p.failure(d)
		at := slices.IndexFunc(others, isGood)
		return f != nil && f.ReplicaSet == current.Name && is(current, 0) && held(current) == "0" && at >= 0 && is(others[at], *d.Spec.Replicas) &&
			d.Status.ObservedGeneration == d.Generation && d.Status.AvailableReplicas == *d.Spec.Replicas && d.Status.Replicas == *d.Spec.Replicas &&
			(p.tells(d) || d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType || *d.Spec.ProgressDeadlineSeconds == math.MaxInt32)
	})
	return f
}

// tells reports whether the Deployment's own condition tells of the failure.
func (p *inPlace) tells(d *appsv1.Deployment) bool {
	p.Helper()
	c, f := progressing(d), p.failure(d)
	return f != nil && c.Status == corev1.ConditionFalse && c.Reason == "ProgressDeadlineExceeded" && strings.Contains(c.Message, f.Message)
}

func progressing(d *appsv1.Deployment) appsv1.DeploymentCondition {
	for _, c := range d.Status.Conditions {
		if c.Type == appsv1.DeploymentProgressing {
			return c
		}
	}
	return appsv1.DeploymentCondition{}
}

// held returns the number that the ReplicaSet is held at, empty if it is not.
func held(set *appsv1.ReplicaSet) string {
	number, ours := strings.CutSuffix(set.Labels[v1alpha1.HeldAtLabel], "."+string(set.UID))
	if !ours {
		return ""
	}
	return number
}

// checkNothingHeld makes sure that no ReplicaSet of the Deployment is held.
func (p *inPlace) checkNothingHeld() {
	p.Helper()
	_, current, others := p.sets()
	for _, set := range append(others, current) {
		if held(set) != "" {
			p.Errorf("ReplicaSet %s is held at %s", set.Name, held(set))
		}
	}
}
