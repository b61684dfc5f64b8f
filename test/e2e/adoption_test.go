package e2e

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// deploy creates a Deployment as anybody does, and waits until it is up.
func (n *namespace) deploy(name string, pods corev1.PodTemplateSpec, replicas int32, changes ...func(*appsv1.Deployment)) *object {
	n.Helper()
	n.mayAdopt()
	metav1.SetMetaDataLabel(&pods.ObjectMeta, "app", name)
	d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: appsv1.DeploymentSpec{
		Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": name}}, Template: pods}}
	for _, change := range changes {
		change(d)
	}
	created, err := cluster.kube.AppsV1().Deployments(n.name).Create(n.Context(), d, metav1.CreateOptions{FieldManager: "kubectl-create"})
	if err != nil {
		n.Fatalf("create Deployment %s: %v", name, err)
	}
	o := &object{namespace: n, name: name}
	o.wrote(created)
	o.awaitDeployment("is rolled out, with nothing of it left to report", func(d *appsv1.Deployment) bool {
		return d.Status.ObservedGeneration == d.Generation && d.Status.AvailableReplicas == replicas && d.Status.UpdatedReplicas == replicas &&
			slices.ContainsFunc(d.Status.Conditions, func(c appsv1.DeploymentCondition) bool { return c.Reason == "NewReplicaSetAvailable" })
	})
	return o
}

func consenting(d *appsv1.Deployment) {
	metav1.SetMetaDataAnnotation(&d.ObjectMeta, v1alpha1.AdoptAnnotation, d.Name)
}

func (o *object) consent() {
	o.Helper()
	o.mayAdopt()
	o.patchDeployment(types.MergePatchType, map[string]any{"metadata": map[string]any{"annotations": map[string]string{v1alpha1.AdoptAnnotation: o.name}}})
}

// guard creates the GuardedDeployment of the object's name.
func (o *object) guard(pods corev1.PodTemplateSpec, options ...option) *object {
	o.Helper()
	return o.namespace.create(o.name, pods, options...)
}

// workload is what must not change while a Deployment changes hands: the Deployment, its ReplicaSets and pods, by uid.
func (o *object) workload() []string {
	o.Helper()
	return append(slices.Sorted(maps.Keys(o.running())), fmt.Sprintf("Deployment %s %s", o.name, o.deployment().UID))
}

func (o *object) checkWorkload(before []string) {
	o.Helper()
	if now := o.workload(); !slices.Equal(before, now) {
		o.Errorf("the workload of %s was\n\t%s\nand is\n\t%s", o.name, strings.Join(before, "\n\t"), strings.Join(now, "\n\t"))
	}
}

func TestAdoption_ReplacesNoPod(t *testing.T) {
	n := newNamespace(t)
	pods := template(good, "1") // "kubectl rollout restart" was said once: that is in no manifest
	pods.Annotations = map[string]string{"kubectl.kubernetes.io/restartedAt": "2024-01-01T00:00:00Z"}
	web := n.deploy("web", pods, 4, consenting)
	before := web.workload()
	web = web.guard(template(good, "1"), ownReplicas)
	g := web.awaitReady()
	web.checkWorkload(before)
	web.checkReplicas(4)
	d := web.deployment()
	if !metav1.IsControlledBy(d, g) || d.Labels[v1alpha1.GuardedLabel] != "true" || d.Annotations[v1alpha1.RevisionAnnotation] != g.Status.GoodRevision {
		t.Errorf("the Deployment is not the GuardedDeployment's: %+v", d.ObjectMeta)
	}
	web.awaitEvents(v1alpha1.ReasonRolledOut, 1)
	n.checkBudget("an adoption", 0, 11) // 10, and one that is refused because the Deployment controller wrote meanwhile
	web.checkWorkload(before)
}

// The template that runs when a Deployment is taken over is what the first release is rolled back to.
func TestAdoption_RollbackToWhatRan(t *testing.T) {
	n := newNamespace(t)
	old := template(good, "1")
	old.Spec.Containers[0].Env = append(old.Spec.Containers[0].Env, corev1.EnvVar{Name: "OLD", Value: "1"})
	web := n.deploy("web", old, 3, consenting)
	before := web.workload()
	found := web.deployment().Spec.Template

	web = web.guard(template(crash, "2"), ownReplicas)
	g := web.awaitReason(v1alpha1.ReasonRolledBack)
	web.checkFailure(g, v1alpha1.FailureCrashLoop)
	if d := web.deployment(); d.Spec.Template.String() != found.String() {
		t.Errorf("the Deployment runs\n%s\nwant what it had\n%s", d.Spec.Template.String(), found.String())
	}
	web.awaitAvailable(3)
	now := web.workload()
	for _, thing := range before { // Some of the pods made way for the new release, as maxSurge and maxUnavailable ask.
		if !strings.HasPrefix(thing, "Pod ") && !slices.Contains(now, thing) {
			t.Errorf("%s is gone", thing)
		}
	}
	web.release(template(good, "3"))
	web.awaitReady()
	web.checkReplicas(3)
	if env := web.deployment().Spec.Template.Spec.Containers[0].Env; len(env) != 1 {
		t.Errorf("what the release dropped is still there: %v", env)
	}
}

// Whoever had applied it before: what the template does not have is gone.
func TestAdoption_DropsWhatTheTemplateDrops(t *testing.T) {
	n := newNamespace(t)
	n.mayAdopt()
	const applied = `{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"web","annotations":{"belay.dev/adopt":"web"}},"spec":{
		"selector":{"matchLabels":{"app":"web"}},"minReadySeconds":1,"template":{"metadata":{"labels":{"app":"web","tier":"old"}},"spec":{
		"containers":[{"name":"app","image":"localhost/app:good","env":[{"name":"VERSION","value":"1"},{"name":"OLD","value":"1"}]},
			{"name":"sidecar","image":"localhost/app:good"}]}}}}`
	_, err := cluster.kube.AppsV1().Deployments(n.name).Patch(t.Context(), "web", types.ApplyPatchType, []byte(applied),
		metav1.PatchOptions{FieldManager: "kubectl", Force: new(true)})
	if err != nil {
		t.Fatal(err)
	}
	web := n.create("web", template(good, "1"), ownReplicas)
	web.awaitReady()
	d := web.deployment()
	if pods := d.Spec.Template; len(pods.Spec.Containers) != 1 || len(pods.Spec.Containers[0].Env) != 1 || pods.Labels["tier"] != "" || d.Spec.MinReadySeconds != 0 {
		t.Errorf("something is left of what was applied before: %s, minReadySeconds %d", d.Spec.Template.String(), d.Spec.MinReadySeconds)
	}
}

// Without consent not a byte changes, the message says what to do, and doing that is enough.
func TestAdoption_WithoutConsent(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		found  func(*appsv1.Deployment)
		says   string
		mend   func(*object)
		amends func(before, after []string) bool
	}{
		"none":       {func(*appsv1.Deployment) {}, "kubectl annotate deployment web --namespace ", (*object).consent, slices.Equal[[]string]},
		"to another": {func(d *appsv1.Deployment) { d.Annotations = map[string]string{v1alpha1.AdoptAnnotation: "wob"} }, `"wob"`, (*object).consent, slices.Equal[[]string]},
		"another controller": {func(d *appsv1.Deployment) {
			consenting(d)
			d.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "ConfigMap", Name: "kube-root-ca.crt", UID: "set below", Controller: new(true)}}
		}, "controlled by ConfigMap kube-root-ca.crt", func(o *object) {
			o.patchDeployment(types.MergePatchType, map[string]any{"metadata": map[string]any{"ownerReferences": nil}})
		}, slices.Equal[[]string]},
		"another selector": {func(d *appsv1.Deployment) {
			consenting(d)
			d.Spec.Selector.MatchLabels["tier"] = "front"
			d.Spec.Template.Labels["tier"] = "front"
		},
			"app=web,tier=front", func(o *object) { o.deleteDeployment() }, nil},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNamespace(t)
			web := n.deploy("web", template(good, "1"), 2, func(d *appsv1.Deployment) {
				c.found(d)
				for i := range d.OwnerReferences {
					d.OwnerReferences[i].UID = n.configMap("kube-root-ca.crt")
				}
			})
			before, workload := web.deployment(), web.workload()
			web = web.guard(template(good, "1"), ownReplicas)
			g := web.awaitReason(v1alpha1.ReasonNameTaken)
			if !strings.Contains(message(g), c.says) {
				t.Errorf("the message does not say %q: %s", c.says, message(g))
			}
			n.nothingHappens(8*time.Second, func(context.Context) error {
				if now := web.deployment(); now.ResourceVersion != before.ResourceVersion {
					return fmt.Errorf("the Deployment was written: resourceVersion %s, before %s", now.ResourceVersion, before.ResourceVersion)
				}
				return nil
			})
			c.mend(web)
			web.awaitReady()
			if c.amends != nil && !c.amends(workload, web.workload()) {
				t.Errorf("the workload was %q and is %q", workload, web.workload())
			}
		})
	}
}

// configMap returns the uid of a ConfigMap, when it is there.
func (n *namespace) configMap(name string) (uid types.UID) {
	n.Helper()
	n.eventually("ConfigMap "+name+" is there", func(ctx context.Context) (bool, error) {
		found, err := cluster.kube.CoreV1().ConfigMaps(n.name).Get(ctx, name, metav1.GetOptions{})
		if err == nil {
			uid = found.UID
		}
		return err == nil, nil
	})
	return uid
}

// Leaving and coming back: an orphaned Deployment is taken back by a new GuardedDeployment of that name, with consent.
func TestAdoption_OfOrphan(t *testing.T) {
	n := newNamespace(t)
	web := n.createReady("web", template(good, "1"))
	earlier, before := web.get(), web.workload()
	web.delete(metav1.DeletePropagationOrphan)
	web.awaitGone()
	orphan := web.awaitReleased()

	web = web.guard(template(good, "1"))
	web.awaitReason(v1alpha1.ReasonNameTaken)
	if d := web.deployment(); d.ResourceVersion != orphan.ResourceVersion {
		t.Error("the orphan was written, without consent")
	}
	web.consent()
	g := web.awaitReady()
	web.checkWorkload(before)
	for _, r := range web.revisions() {
		if metav1.IsControlledBy(&r, earlier) || !metav1.IsControlledBy(&r, g) {
			t.Errorf("revision %s belongs to %v, want uid %s", r.Name, r.OwnerReferences, g.UID)
		}
	}
	if g.Status.GoodRevision == earlier.Status.GoodRevision {
		t.Errorf("the revision of the earlier life is used: %s", g.Status.GoodRevision)
	}
}
