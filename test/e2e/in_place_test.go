package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/retry"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
	"github.com/belay-dev/belay/pkg/rollout"
)

// unheldLabel, on a Namespace, leaves it out of the policy that holds ReplicaSets: as if somebody had deleted that.
const unheldLabel = "e2e.belay.dev/unheld"

// installHolds installs the policies of artifacts/in-place, if the API server has such.
func installHolds() error {
	served, err := cluster.kube.Discovery().ServerResourcesForGroupVersion("admissionregistration.k8s.io/v1")
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(served.APIResources, func(r metav1.APIResource) bool { return r.Name == "mutatingadmissionpolicies" }) {
		return nil
	}
	if *externalFlag {
		_, err := cluster.kube.AdmissionregistrationV1().MutatingAdmissionPolicies().Get(context.Background(), "belay-in-place", metav1.GetOptions{})
		cluster.holds = err == nil
		return ignoreNotFound(err)
	}
	objects, err := kustomize("in-place")
	if err != nil {
		return err
	}
	var install []byte
	for _, object := range objects {
		if !strings.Contains(object.GetKind(), "AdmissionPolicy") {
			continue
		}
		if object.GetKind() == "MutatingAdmissionPolicyBinding" {
			selector := map[string]any{"matchExpressions": []any{map[string]any{"key": unheldLabel, "operator": "DoesNotExist"}}}
			if err := unstructured.SetNestedMap(object.Object, selector, "spec", "matchResources", "namespaceSelector"); err != nil {
				return err
			}
		}
		document, err := object.MarshalJSON()
		if err != nil {
			return err
		}
		install = append(install, document...)
		leave(func() error {
			_, err := kubectl(nil, "delete", "--ignore-not-found", object.GetKind(), object.GetName())
			return err
		})
	}
	_, err = kubectl(install, "apply", "-f", "-")
	cluster.holds = err == nil
	return err
}

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

// needsHolds skips the test where the API server holds no ReplicaSets.
func needsHolds(t *testing.T) {
	t.Helper()
	if !cluster.holds {
		t.Skip("this API server has no MutatingAdmissionPolicy: Kubernetes has it since 1.36")
	}
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
	err := retry.RetryOnConflict(retry.DefaultBackoff, func() error {
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
	list, err := cluster.kube.AppsV1().ReplicaSets(p.namespace.name).List(p.Context(), metav1.ListOptions{LabelSelector: "app=" + p.name})
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

// holdsUp leaves the namespace to the policy that holds ReplicaSets, or out of it, and waits until that is in force.
func (p *inPlace) holdsUp(yes bool) {
	p.Helper()
	if *externalFlag {
		p.Skip("the policy is not the tests' own")
	}
	value := any("")
	if yes {
		value = nil
	}
	patch, _ := json.Marshal(map[string]any{"metadata": map[string]any{"labels": map[string]any{unheldLabel: value}}})
	if _, err := cluster.kube.CoreV1().Namespaces().Patch(p.Context(), p.namespace.name, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
		p.Fatal(err)
	}
	if cluster.holds {
		p.eventually(fmt.Sprintf("ReplicaSets are held: %v", yes), func(context.Context) (bool, error) { return p.isHolding() == yes, nil })
	}
}

// isHolding reports whether a hold would be kept.
func (p *inPlace) isHolding() bool {
	p.Helper()
	_, current, _ := p.sets()
	client := cluster.kube.AppsV1().ReplicaSets(p.namespace.name)
	const other = 77
	patch := fmt.Sprintf(`{"metadata":{"labels":{%q:"%d.%s"}}}`, v1alpha1.HeldAtLabel, other, current.UID)
	set, err := client.Patch(p.Context(), current.Name, types.MergePatchType, []byte(patch), metav1.PatchOptions{DryRun: []string{metav1.DryRunAll}})
	if err != nil && !apierrors.IsConflict(err) {
		p.Fatal(err)
	}
	return err == nil && *set.Spec.Replicas == other
}

// The story: a running Deployment gets the label, and its releases are judged.
func TestInPlace_Story(t *testing.T) {
	n := newInPlace(t)
	web := n.plain("web", template(good, "1"))
	web.awaitAvailable(4)
	before := web.deployment()
	pods := web.podUIDs()
	web.kubectl("label", "deployment/web", v1alpha1.GuardedLabel+"="+v1alpha1.GuardedInPlace)
	web.awaitGood()
	web.awaitPods(pods)
	if note := web.awaitEvents(v1alpha1.ReasonRolledOut, 1)[0]; !strings.Contains(note, "counts as good") {
		t.Errorf("the Event says %q", note)
	}
	if now := web.deployment(); now.Generation != before.Generation {
		t.Errorf("the label made generation %d of %d", now.Generation, before.Generation)
	}
	n.checkBudget("in place: label on a Deployment that runs", 0, 2)

	made := len(n.writesAtRest())
	web.release(template(good, "2"))
	web.awaitGood()
	n.checkBudget("in place: healthy release", made, 2)
	_, second, _ := web.sets()

	made = len(n.writesAtRest())
	web.release(template(crash, "3"))
	f := web.awaitRolledBack()
	if f.Reason != v1alpha1.FailureCrashLoop || !strings.HasPrefix(f.Pod, f.ReplicaSet+"-") {
		t.Errorf("the failure is %+v", *f)
	}
	d, _, others := web.sets()
	if others[0].UID != second.UID || version(d) != "3" {
		t.Errorf("release %s is asked for, and %s runs; want 3 and %s", version(d), others[0].Name, second.Name)
	}
	web.checkShown(f, second.Name)
	n.checkBudget("in place: rollback of 4 replicas", made, 12)

	web.release(template(good, "4"))
	web.awaitGood()
	if d := web.deployment(); progressing(d).Reason != "NewReplicaSetAvailable" {
		t.Errorf("after the fix the condition is %+v", progressing(d))
	}
	web.awaitEvents(v1alpha1.ReasonRolledOut, 3)
}

// checkShown makes sure that whoever looks at the Deployment sees what failed, and what runs.
func (p *inPlace) checkShown(f *failed, back string) {
	p.Helper()
	if note := p.awaitEvents(v1alpha1.ReasonRolledBack, 1)[0]; !strings.Contains(note, f.Message) || !strings.Contains(note, back) {
		p.Errorf("the Event does not tell what failed, and what runs: %q", note)
	}
	if note := p.awaitEvents(f.Reason, 1)[0]; !strings.Contains(note, f.Message) {
		p.Errorf("the Event does not tell what failed: %q", note)
	}
	described := p.kubectl("describe", "deployment/"+p.name)
	for _, want := range []string{f.Message, f.Pod, "Progressing    False   ProgressDeadlineExceeded", v1alpha1.ReasonRolledBack} {
		if !strings.Contains(described, want) {
			p.Errorf("kubectl describe does not show %q:\n%s", want, described)
		}
	}
	if line := p.kubectl("get", "deployment/"+p.name, "--no-headers"); !strings.HasPrefix(strings.Join(strings.Fields(line), " "), p.name+" 4/4 0 4 ") {
		p.Errorf("kubectl get shows %q, want 4/4 ready, 0 up to date, 4 available", line)
	}
}
