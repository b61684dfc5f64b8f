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

// annotate sets annotations of the Deployment, behind Belay's back.
func (o *object) annotate(annotations map[string]string) {
	o.Helper()
	o.patchDeployment(types.MergePatchType, map[string]any{"metadata": map[string]any{"annotations": annotations}})
}

// checkPutBack forges annotations of Belay's, and makes sure that nothing comes of it.
func (o *object) checkPutBack(forged map[string]string) {
	o.Helper()
	was, pods, sets := o.deployment(), o.podUIDs(), o.replicaSets()
	writes, reason := len(o.deploymentWrites()), reasonOf(o.get())
	o.annotate(forged)
	is := func(d *appsv1.Deployment) bool {
		for key := range forged {
			if d.Annotations[key] != was.Annotations[key] {
				return false
			}
		}
		return true
	}
	o.awaitDeployment(fmt.Sprintf("has its annotations again instead of %v", forged), is)
	o.awaitReason(reason)
	o.checkDeploymentWrites(fmt.Sprintf("%v put back", forged), writes, 1)
	if now := o.replicaSets(); !slices.Equal(now, sets) {
		o.Errorf("ReplicaSets with %v: %q, before %q", forged, now, sets)
	}
	o.awaitPods(pods)
	o.eventually(fmt.Sprintf("an Event tells that %v was put back", forged), func(context.Context) (bool, error) {
		tells := func(note string) bool { return strings.Contains(note, "annotations") }
		return slices.ContainsFunc(o.belayEvents(v1alpha1.ReasonContested), tells), nil
	})
}

// replicaSets returns the uids of the ReplicaSets that have pods, sorted.
func (o *object) replicaSets() (uids []string) {
	o.Helper()
	all, err := cluster.kube.AppsV1().ReplicaSets(o.namespace.name).List(o.Context(), metav1.ListOptions{LabelSelector: "app=" + o.name})
	if err != nil {
		o.Fatal(err)
	}
	for _, set := range all.Items {
		if *set.Spec.Replicas > 0 {
			uids = append(uids, string(set.UID))
		}
	}
	slices.Sort(uids)
	return uids
}

// Whatever Belay's annotations say, the same pods go on running, of the release that should.
func TestForged_Annotations(t *testing.T) {
	t.Parallel() // with the shared belay
	const revision, applied = v1alpha1.RevisionAnnotation, v1alpha1.AppliedAnnotation
	for _, forge := range []struct {
		name  string
		forge func(good, failed string) map[string]string
	}{
		{"revision of another good release", func(good, _ string) map[string]string { return map[string]string{revision: good} }},
		{"revision that failed", func(_, failed string) map[string]string { return map[string]string{revision: failed} }},
		{"revision that is none", func(_, _ string) map[string]string { return map[string]string{revision: "nonsense"} }},
		{"applied", func(_, _ string) map[string]string { return map[string]string{applied: "nonsense"} }},
		{"both, of another good release", func(good, _ string) map[string]string {
			return map[string]string{revision: good, applied: "nonsense"}
		}},
		{"both, of a release that failed", func(_, failed string) map[string]string {
			return map[string]string{revision: failed, applied: "nonsense"}
		}},
	} {
		t.Run(forge.name, func(t *testing.T) {
			n := newNamespace(t)
			web := n.createReady("web", template(good, "1"), soak(0))
			a := web.get().Status.GoodRevision
			web.release(template(missing, "2"))
			failed := web.awaitRolledBack(v1alpha1.FailureImagePull, a).Status.TargetRevision
			web.awaitAvailable(3)
			if forged := forge.forge(a, failed); forged[revision] != a {
				web.checkPutBack(forged) // while rolled back
			}
			web.release(template(good, "3"))
			b := web.awaitReady().Status.GoodRevision
			web.awaitAvailable(3)
			web.checkPutBack(forge.forge(a, failed))
			if g := web.get(); g.Status.RunningRevision != b || g.Status.GoodRevision != b || g.Status.Failure != nil {
				t.Errorf("the status is %+v, want %s good and running", g.Status, b)
			}
			web.checkMoves(a, failed, a, b)
		})
	}
}

// To put an annotation back is no release: what others added to the template stays.
func TestForged_AnnotationAfterRestart(t *testing.T) {
	n := newNamespace(t)
	web := n.createReady("web", template(good, "1"))
	pods := web.podUIDs()
	web.kubectl("rollout", "restart", "deployment/web")
	web.awaitOtherPods(pods, 3)
	pods, restarted := web.podUIDs(), web.deployment().Spec.Template.Annotations
	web.annotate(map[string]string{v1alpha1.RevisionAnnotation: "nonsense"})
	d := web.awaitDeployment("has its annotation again", func(d *appsv1.Deployment) bool {
		return d.Annotations[v1alpha1.RevisionAnnotation] != "nonsense"
	})
	if now := d.Spec.Template.Annotations; !maps.Equal(now, restarted) {
		t.Errorf("the annotations of the template are %v, before %v: the pods are replaced again", now, restarted)
	}
	web.awaitReady()
	web.awaitPods(pods)
}

// claimed returns a controller reference to the GuardedDeployment of this uid.
func (o *object) claimed(uid types.UID) []metav1.OwnerReference {
	return []metav1.OwnerReference{{APIVersion: v1alpha1.GroupVersion.String(), Kind: "GuardedDeployment", Name: o.name,
		UID: uid, Controller: new(true), BlockOwnerDeletion: new(true)}}
}

// A Deployment of another name is not the object's, whatever it says.
func TestForged_DeploymentOfAnotherName(t *testing.T) {
	n := newNamespace(t)
	web := n.createReady("web", template(good, "1"))
	pods := template(crash, "other")
	pods.Labels["app"] = "other"
	d, err := cluster.kube.AppsV1().Deployments(n.name).Create(t.Context(), &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "other", Labels: map[string]string{v1alpha1.GuardedLabel: "true"}, OwnerReferences: web.claimed(web.uid),
			Annotations: map[string]string{v1alpha1.RevisionAnnotation: web.get().Status.GoodRevision}},
		Spec: appsv1.DeploymentSpec{Selector: &metav1.LabelSelector{MatchLabels: pods.Labels}, Template: pods},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if note := web.awaitEvents(v1alpha1.ReasonInvalid, 1)[0]; !strings.Contains(note, "Deployment other") {
		t.Errorf("the Event does not tell of it: %q", note)
	}
	was, writes := web.deployment(), len(n.writes())
	n.nothingHappens(5*time.Second, func(context.Context) error {
		if now := web.deployment(); now.ResourceVersion != was.ResourceVersion || len(n.writes()) != writes || reasonOf(web.get()) != v1alpha1.ReasonRolledOut {
			return fmt.Errorf("reason %s, %d writes:\n%s", reasonOf(web.get()), len(n.writes())-writes, n.describeWrites())
		}
		return nil
	})
	web.release(template(good, "2"))
	web.awaitReady()
	other := &object{namespace: n, name: "other"}
	if now := other.deployment(); now.Generation != d.Generation || len(other.deploymentWrites()) > 0 {
		t.Errorf("the other Deployment was written: generation %d, before %d", now.Generation, d.Generation)
	}
}

// A Deployment of the right name that names another uid as its owner is somebody else's, until it is gone: the garbage
// collector takes it when there is no such owner.
func TestForged_DeploymentOfAnotherOwner(t *testing.T) {
	n := newNamespace(t)
	web := n.createReady("web", template(good, "1"))
	web.patchDeployment(types.MergePatchType, map[string]any{"metadata": map[string]any{
		"ownerReferences": web.claimed("00000000-0000-0000-0000-000000000000"), "finalizers": []string{hold}}})
	forged := web.deployment()
	web.awaitReason(v1alpha1.ReasonNameTaken)
	web.awaitEvents(v1alpha1.ReasonNameTaken, 1)
	web.eventually("the garbage collector has come", func(context.Context) (bool, error) {
		return web.deployment().DeletionTimestamp != nil, nil
	})
	web.checkDeploymentWrites("a release", 0, 1)
	web.patchDeployment(types.MergePatchType, map[string]any{"metadata": map[string]any{"finalizers": nil}})
	web.awaitDeployment("is created again", func(d *appsv1.Deployment) bool { return d.UID != forged.UID })
	web.awaitReady()
	web.checkDeploymentWrites("a release, created again", 0, 2)
}

// Pods count by the chain of owners only: what merely has the labels of a release neither breaks nor saves it.
func TestForged_PodsOfOthers(t *testing.T) {
	n := newNamespace(t)
	web := n.createReady("web", template(good, "1"))
	a := web.get().Status.GoodRevision
	others := []*object{web.otherPod("naked-crash", crash, nil), web.otherPod("naked-good", good, nil)}
	// Another Deployment's ReplicaSet and pods have the labels, too.
	pods := template(crash, "other")
	pods.Labels = map[string]string{"app": "web", "tier": "other"}
	if _, err := cluster.kube.AppsV1().Deployments(n.name).Create(t.Context(), &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "other"},
		Spec:       appsv1.DeploymentSpec{Replicas: new(int32(2)), Selector: &metav1.LabelSelector{MatchLabels: pods.Labels}, Template: pods},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	n.eventually("the pods of others crash", func(context.Context) (bool, error) {
		crashing := 0
		for _, pod := range web.pods() {
			for _, c := range pod.Status.ContainerStatuses {
				if c.RestartCount > 1 {
					crashing++
				}
			}
		}
		return crashing == 3, nil
	})

	web.release(template(good, "2"))
	b := web.awaitReady().Status.GoodRevision
	web.release(template(crash, "3"))
	g := web.awaitRolledBack(v1alpha1.FailureCrashLoop, b)
	if pod := g.Status.Failure.Pod; strings.HasPrefix(pod, "naked") || strings.HasPrefix(pod, "other") {
		t.Errorf("pod %s of others is blamed", pod)
	}
	web.checkMoves(a, b, g.Status.TargetRevision, b)
	for _, other := range others {
		if _, err := cluster.kube.CoreV1().Pods(n.name).Get(t.Context(), other.name, metav1.GetOptions{}); err != nil {
			t.Errorf("a pod of others: %v", err)
		}
	}
}

// A pod that names a release's ReplicaSet as its owner is the ReplicaSet's, which has one too many then and deletes one
// that is not ready.
func TestForged_PodOfReplicaSet(t *testing.T) {
	n := newNamespace(t)
	web := n.createReady("web", template(good, "1"), soak(6), deadline(30))
	a := web.get().Status.GoodRevision
	web.release(template(good, "2"))
	b := web.awaitReason(v1alpha1.ReasonSoaking).Status.TargetRevision
	set := metav1.GetControllerOf(&web.pods()[0])
	web.otherPod("forged", crash, set)
	n.eventually("the forged pod is gone", func(context.Context) (bool, error) {
		return !slices.ContainsFunc(web.pods(), func(pod corev1.Pod) bool { return pod.Name == "forged" }), nil
	})
	web.awaitReady()
	web.checkMoves(a, b)
}

// A ReplicaSet that names the Deployment as its owner is the Deployment's, of no release that is asked for: it is scaled
// down, and its pods are not those that are judged.
func TestForged_ReplicaSetOfDeployment(t *testing.T) {
	n := newNamespace(t)
	web := n.createReady("web", template(good, "1"), soak(6), deadline(30))
	a := web.get().Status.GoodRevision
	web.release(template(good, "2"))
	b := web.awaitReason(v1alpha1.ReasonSoaking).Status.TargetRevision
	pods := template(crash, "forged")
	pods.Labels = map[string]string{"app": "web", appsv1.DefaultDeploymentUniqueLabelKey: "forged"}
	forged, err := cluster.kube.AppsV1().ReplicaSets(n.name).Create(t.Context(), &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{Name: "web-forged", Labels: pods.Labels,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(web.deployment(), appsv1.SchemeGroupVersion.WithKind("Deployment"))}},
		Spec: appsv1.ReplicaSetSpec{Replicas: new(int32(2)), Selector: &metav1.LabelSelector{MatchLabels: pods.Labels}, Template: pods},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	n.eventually("the forged ReplicaSet has no pods", func(ctx context.Context) (bool, error) {
		set, err := cluster.kube.AppsV1().ReplicaSets(n.name).Get(ctx, forged.Name, metav1.GetOptions{})
		return err == nil && *set.Spec.Replicas == 0 && set.Status.ObservedGeneration == set.Generation && set.Status.Replicas == 0, err
	})
	web.awaitReady()
	web.awaitAvailable(3)
	web.checkMoves(a, b)
}

// otherPod creates a pod with the labels of the object's pods. With an owner it has the owner's hash, too.
func (o *object) otherPod(name string, b behaviour, owner *metav1.OwnerReference) *object {
	o.Helper()
	t := template(b, name)
	t.Labels["app"] = o.name
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: t.Labels}, Spec: t.Spec}
	if owner != nil {
		pod.OwnerReferences = []metav1.OwnerReference{*owner}
		pod.Labels[appsv1.DefaultDeploymentUniqueLabelKey] = owner.Name[strings.LastIndex(owner.Name, "-")+1:]
	}
	if _, err := cluster.kube.CoreV1().Pods(o.namespace.name).Create(o.Context(), pod, metav1.CreateOptions{}); err != nil {
		o.Fatal(err)
	}
	return &object{namespace: o.namespace, name: name}
}
