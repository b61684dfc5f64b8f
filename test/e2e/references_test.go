package e2e

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// A release that takes the place of one whose ConfigMap and Secret are gone says so before anything has failed.
func TestReferences_MissingIsTold(t *testing.T) {
	if *externalFlag {
		t.Skip("this needs a right that is not installed by default")
	}
	n := newNamespace(t)
	core := cluster.kube.CoreV1()
	meta := metav1.ObjectMeta{Name: "web-abc"}
	if _, err := core.ConfigMaps(n.name).Create(t.Context(), &corev1.ConfigMap{ObjectMeta: meta}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := core.Secrets(n.name).Create(t.Context(), &corev1.Secret{ObjectMeta: meta}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	pods, name := template(good, "1"), corev1.LocalObjectReference{Name: meta.Name}
	pods.Spec.Containers[0].EnvFrom = []corev1.EnvFromSource{
		{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: name}}, {SecretRef: &corev1.SecretEnvSource{LocalObjectReference: name}}}
	web := n.createReady("web", pods, soak(0))
	first := web.get().Status.GoodRevision
	err := ignoreNotFound(core.ConfigMaps(n.name).Delete(t.Context(), meta.Name, metav1.DeleteOptions{}),
		core.Secrets(n.name).Delete(t.Context(), meta.Name, metav1.DeleteOptions{}))
	if err != nil {
		t.Fatal(err)
	}
	web.update(soak(600), runs(template(good, "2")))
	says := first + ", which it would go back to, needs ConfigMap web-abc and Secret web-abc, which are not there any more"
	web.await("says what is missing", func(g *v1alpha1.GuardedDeployment) bool { return strings.HasSuffix(message(g), says) })
}
