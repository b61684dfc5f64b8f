package faults

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

const (
	// pollEvery is how often what was seen is looked at.
	pollEvery = 50 * time.Millisecond
	// name is what everything is called that a story is about, and field who changes it.
	name, field = "web", "faults"
)

// scene is where a story is told: a namespace, and the Belays that work in it.
type scene struct {
	*testing.T
	namespace string
	belays    []*belay
	late      bool // a write may take effect after Belay has given it up

	awaited string // what was waited for last
	isSo    func() bool
}

// newScene returns a scene in a namespace that is empty. Afterwards it is emptied for another story: to delete it takes the cluster longer
// than to tell one.
func newScene(t *testing.T) *scene {
	t.Helper()
	s := openScene(t)
	t.Cleanup(s.empty)
	return s
}

// openScene is newScene for who empties it himself.
func openScene(t *testing.T) *scene {
	t.Helper()
	s := &scene{T: t}
	select {
	case s.namespace = <-cluster.empty:
	default:
		s.insist(func() error {
			created, err := cluster.kube.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "faults-", Labels: map[string]string{runLabel: cluster.run}}}, metav1.CreateOptions{})
			if err == nil {
				s.namespace = created.Name
			}
			return err
		})
		s.await("the namespace has its service account", func() bool {
			_, err := cluster.kube.CoreV1().ServiceAccounts(s.namespace).Get(t.Context(), "default", metav1.GetOptions{})
			return err == nil
		})
	}
	return s
}

// empty deletes all that a story leaves, and lets another one have the namespace when that is gone.
func (s *scene) empty() {
	err := errors.New("nothing is deleted yet")
	for deadline := time.Now().Add(*patience); time.Now().Before(deadline); time.Sleep(pollEvery) {
		if err != nil { // The API server may be away.
			err = s.deleteAll()
			continue
		}
		if v := cluster.observer.now(s.namespace); v.guarded == nil && v.deployment == nil && len(v.sets)+len(v.revisions) == 0 && v.lease == nil {
			cluster.observer.forget(s.namespace)
			cluster.empty <- s.namespace
			return
		}
	}
	s.Errorf("what a story left in %s is not gone after %s: %v", s.namespace, *patience, err)
}

// deleteAll has all deleted that a story makes, and what belongs to it.
func (s *scene) deleteAll() error {
	ctx, background := context.Background(), metav1.DeleteOptions{PropagationPolicy: new(metav1.DeletePropagationBackground)}
	all := metav1.ListOptions{}
	return errors.Join(
		cluster.belay.BelayV1alpha1().GuardedDeployments(s.namespace).DeleteCollection(ctx, background, all),
		cluster.kube.AppsV1().Deployments(s.namespace).DeleteCollection(ctx, background, all),
		cluster.kube.CoordinationV1().Leases(s.namespace).DeleteCollection(ctx, background, all),
		cluster.kube.EventsV1().Events(s.namespace).DeleteCollection(ctx, background, all),
	)
}

// await waits until something is so.
func (s *scene) await(what string, is func() bool) {
	s.Helper()
	s.awaited, s.isSo = what, is
	for deadline := time.Now().Add(*patience); !is(); time.Sleep(pollEvery) {
		if time.Now().After(deadline) {
			s.Fatalf("waited %s until %s\n%s", *patience, what, s.tell())
		}
	}
}

// tell returns what there is to know of a story that went wrong.
func (s *scene) tell() (text string) {
	v := cluster.observer.now(s.namespace)
	if v.guarded != nil {
		text += fmt.Sprintf("GuardedDeployment: generation %d, %+v\n", v.guarded.Generation, v.guarded.Status)
	}
	if v.deployment != nil {
		text += fmt.Sprintf("Deployment: runs %s, generation %d, %v, %+v\n", versionOf(v.deployment.Spec.Template), v.deployment.Generation, v.deployment.Annotations, v.deployment.Status)
	}
	for _, set := range v.sets {
		text += fmt.Sprintf("ReplicaSet %s: runs %s, %v, %+v\n", set.Name, versionOf(set.Spec.Template), set.Labels, set.Status)
	}
	for i, b := range s.belays {
		text += fmt.Sprintf("requests of belay %d:\n", i)
		for _, e := range b.noted() {
			text += fmt.Sprintf("  %s %3d %s: %d %d %s\n", e.at.Format("15:04:05.000"), e.number, e.request, e.code, e.rv, e.fault)
		}
		text += fmt.Sprintf("log of belay %d:\n%s\n", i, b.logged(40))
	}
	return text
}

// template returns a pod template of a version whose image does what its tag says on the nodes of hack/cluster.
func template(does, version string) corev1.PodTemplateSpec {
	return corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": name}},
		Spec: corev1.PodSpec{
			TerminationGracePeriodSeconds: new(int64(1)),
			Containers:                    []corev1.Container{{Name: "app", Image: "localhost/app:" + does, Env: []corev1.EnvVar{{Name: versionVariable, Value: version}}}},
		},
	}
}

const versionVariable, restartedAt = "VERSION", "kubectl.kubernetes.io/restartedAt"

// versionOf returns the version that a template is of, with a plus if it has been restarted.
func versionOf(pods corev1.PodTemplateSpec) (version string) {
	for _, variable := range pods.Spec.Containers[0].Env {
		if variable.Name == versionVariable {
			version = variable.Value
		}
	}
	if pods.Annotations[restartedAt] != "" {
		version += "+"
	}
	return version
}

// insist writes until that has been done: others write the same object, and the API server may be away.
func (s *scene) insist(write func() error) {
	s.Helper()
	for deadline := time.Now().Add(*patience); ; time.Sleep(pollEvery) {
		err := write()
		if err == nil || apierrors.IsAlreadyExists(err) { // The answer to the first try may have been lost.
			return
		}
		if time.Now().After(deadline) {
			s.Fatal(err)
		}
	}
}

// create creates a GuardedDeployment that runs this, with what else is wanted otherwise.
func (s *scene) create(does, version string, otherwise ...func(*v1alpha1.GuardedDeployment)) {
	s.Helper()
	g := &v1alpha1.GuardedDeployment{ObjectMeta: metav1.ObjectMeta{Name: name}}
	g.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"app": name}}
	g.Spec.Replicas, g.Spec.ProgressDeadlineSeconds = new(int32(2)), new(int32(20))
	g.Spec.Guard.SoakSeconds, g.Spec.Guard.StuckSeconds, g.Spec.Guard.MaxRestarts = new(int32(2)), new(int32(5)), new(int32(1))
	g.Spec.Template = template(does, version)
	for _, change := range otherwise {
		change(g)
	}
	s.insist(func() error {
		_, err := cluster.belay.BelayV1alpha1().GuardedDeployments(s.namespace).Create(s.Context(), g, metav1.CreateOptions{FieldManager: field})
		return err
	})
}

// change changes the GuardedDeployment.
func (s *scene) change(how func(g *v1alpha1.GuardedDeployment)) {
	s.Helper()
	client := cluster.belay.BelayV1alpha1().GuardedDeployments(s.namespace)
	s.insist(func() error {
		g, err := client.Get(s.Context(), name, metav1.GetOptions{})
		if err == nil {
			how(g)
			_, err = client.Update(s.Context(), g, metav1.UpdateOptions{FieldManager: field})
		}
		return err
	})
}

// release has the GuardedDeployment ask for this.
func (s *scene) release(does, version string) {
	s.Helper()
	s.change(func(g *v1alpha1.GuardedDeployment) { g.Spec.Template = template(does, version) })
}

// deploy creates a Deployment that runs this, and waits until it does.
func (s *scene) deploy(does, version string, annotations, labels map[string]string) {
	s.Helper()
	d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: annotations, Labels: labels}}
	d.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"app": name}}
	d.Spec.Replicas, d.Spec.ProgressDeadlineSeconds = new(int32(2)), new(int32(20))
	d.Spec.Template = template(does, version)
	s.insist(func() error {
		_, err := cluster.kube.AppsV1().Deployments(s.namespace).Create(s.Context(), d, metav1.CreateOptions{FieldManager: field})
		return err
	})
	s.await("the Deployment is rolled out", func() bool {
		d := cluster.observer.now(s.namespace).deployment
		return d != nil && runsAlone(d, version, 2) && slices.ContainsFunc(d.Status.Conditions, func(c appsv1.DeploymentCondition) bool { return c.Reason == "NewReplicaSetAvailable" })
	})
}

// redeploy changes the Deployment, behind Belay's back or because it is guarded as it is.
func (s *scene) redeploy(how func(d *appsv1.Deployment)) {
	s.Helper()
	client := cluster.kube.AppsV1().Deployments(s.namespace)
	s.insist(func() error {
		d, err := client.Get(s.Context(), name, metav1.GetOptions{})
		if err == nil {
			how(d)
			_, err = client.Update(s.Context(), d, metav1.UpdateOptions{FieldManager: field})
		}
		return err
	})
}

// runsAlone reports whether all pods of the Deployment, so many, run this version and are available.
func runsAlone(d *appsv1.Deployment, version string, replicas int32) bool {
	return d != nil && versionOf(d.Spec.Template) == version && d.Status.ObservedGeneration == d.Generation && *d.Spec.Replicas == replicas &&
		d.Status.Replicas == replicas && d.Status.UpdatedReplicas == replicas && d.Status.AvailableReplicas == replicas
}

// ready returns the GuardedDeployment's Ready condition, if it is about the present spec.
func ready(g *v1alpha1.GuardedDeployment) metav1.Condition {
	if g == nil || g.Status.ObservedGeneration != g.Generation {
		return metav1.Condition{}
	}
	if c := meta.FindStatusCondition(g.Status.Conditions, v1alpha1.ConditionReady); c != nil {
		return *c
	}
	return metav1.Condition{}
}

// awaitGood waits until the version that is asked for is good, and runs alone.
func (s *scene) awaitGood(version string, replicas int32) {
	s.Helper()
	s.await(version+" is good", func() bool {
		v := cluster.observer.now(s.namespace)
		return ready(v.guarded).Reason == v1alpha1.ReasonRolledOut && runsAlone(v.deployment, version, replicas) &&
			v.guarded.Status.AvailableReplicas == replicas && v.guarded.Status.GoodRevision == v.guarded.Status.TargetRevision
	})
}

// awaitBack waits until what is asked for has failed, and this version runs alone in its place.
func (s *scene) awaitBack(version string, replicas int32) {
	s.Helper()
	s.await(version+" runs again", func() bool {
		v := cluster.observer.now(s.namespace)
		return ready(v.guarded).Reason == v1alpha1.ReasonRolledBack && runsAlone(v.deployment, version, replicas) && v.guarded.Status.AvailableReplicas == replicas
	})
}
