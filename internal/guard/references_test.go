package guard

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/belay-dev/belay/internal/expect"
	fake "github.com/belay-dev/belay/internal/fakecluster"
	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// configured is a GuardedDeployment of an image whose container has its variables from a ConfigMap.
func configured(image, config string) *v1alpha1.GuardedDeployment {
	g := fake.Webshop("web", image)
	configure(g, config)
	return g
}

func configure(g *v1alpha1.GuardedDeployment, config string) {
	g.Spec.Template.Spec.Containers[0].EnvFrom = []corev1.EnvFromSource{
		{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: config}}}}
}

// A release asks for the ConfigMap that the last good one needs if it has another, once, and once more when it is rolled back.
func TestGuard_AsksForLostReferences(t *testing.T) {
	inWorld(t, func(w *world) {
		fake.Add(w, configured("web:1", "web-a"))
		w.Pass(40 * time.Second)
		fake.Release(w, "web", "web:2") // with the same ConfigMap
		w.Pass(40 * time.Second)
		fake.WantStatus(w, "web", "Ready=True RolledOut")
		expect.Same(t, "requests for ConfigMaps while they are kept", 0, len(w.Requested("get", "configmaps")))

		fake.Edit(w, "web", func(g *v1alpha1.GuardedDeployment) {
			g.Spec.Template.Spec.Containers[0].Image = "web:3"
			configure(g, "web-b")
		})
		w.Pass(10 * time.Second)
		g, _ := fake.Read[*v1alpha1.GuardedDeployment](w, "web")
		const note = "needs ConfigMap web-a, which is not there any more"
		if ready := meta.FindStatusCondition(g.Status.Conditions, v1alpha1.ConditionReady); !strings.Contains(ready.Message, note) {
			t.Errorf("the condition says %q, want %q", ready.Message, note)
		}
		w.Pass(40 * time.Second)
		fake.WantStatus(w, "web", "Ready=True RolledOut")
		expect.Same(t, "requests of a release that is good", 1, len(w.Requested("get", "configmaps")))

		w.ForgetRequests()
		w.Node.Set("web:4", fake.Crashing)
		fake.Edit(w, "web", func(g *v1alpha1.GuardedDeployment) {
			g.Spec.Template.Spec.Containers[0].Image = "web:4"
			configure(g, "web-c")
		})
		w.Pass(4 * time.Minute)
		fake.WantStatus(w, "web", "Ready=False RolledBack")
		expect.Same(t, "requests of a release that is rolled back", 2, len(w.Requested("get", "configmaps")))
		w.ForgetRequests()
		w.Pass(time.Hour)
		expect.Same(t, "requests at rest", map[string]int{}, fake.Counts(w.Asked(fake.Everything)))
	})
}
