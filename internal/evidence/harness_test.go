package evidence

import (
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	fake "github.com/belay-dev/belay/internal/fakecluster"
)

func TestMain(m *testing.M) { fake.Main(m) }

// All objects are in one namespace.
const namespace = fake.Namespace

type (
	world   = fake.World
	request = fake.Request
)

// reader is a Reader in a world where nothing runs, and a Deployment with two ReplicaSets.
type reader struct {
	*world
	*Reader
	polled       poll // the last one
	d            *appsv1.Deployment
	current, old *appsv1.ReplicaSet
}

func inReader(t *testing.T, test func(r *reader)) {
	t.Helper()
	fake.Empty(t, func(w *world) {
		r := &reader{world: w, Reader: New(w.NewProcess().Kube)}
		r.d = fake.Add(w, fake.DeploymentOf(fake.Webshop("web", "web:2")))
		r.current, r.old = r.addSet("web-2", "web:2", r.d), r.addSet("web-1", "web:1", r.d)
		test(r)
	})
}

func (r *reader) addSet(name, image string, owner *appsv1.Deployment) *appsv1.ReplicaSet {
	set := &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace, Labels: r.d.Spec.Template.Labels,
		OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(owner, appsv1.SchemeGroupVersion.WithKind("Deployment"))}}}
	set.Spec.Template = *r.d.Spec.Template.DeepCopy()
	set.Spec.Template.Spec.Containers[0].Image = image
	return fake.Add(r.world, set)
}

func (r *reader) addPod(name string, owner *appsv1.ReplicaSet, phase corev1.PodPhase) {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace, Labels: r.d.Spec.Template.Labels}}
	if owner != nil {
		pod.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(owner, appsv1.SchemeGroupVersion.WithKind("ReplicaSet"))}
	}
	fake.Add(r.world, pod)
	r.setPhase(name, phase)
}

func (r *reader) setPhase(pod string, phase corev1.PodPhase) {
	fake.EditStatus(r.world, pod, func(p *corev1.Pod) { p.Status.Phase = phase })
}
