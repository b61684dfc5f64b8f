package guard

import (
	"errors"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/belay-dev/belay/internal/expect"
	fake "github.com/belay-dev/belay/internal/fakecluster"
	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
	"github.com/belay-dev/belay/pkg/rollout"
)

// here and gone are objects that a template refers to, of which the cluster has the first two.
var (
	mapHere, secretHere = rollout.Reference{Kind: rollout.KindConfigMap, Name: "here"}, rollout.Reference{Kind: rollout.KindSecret, Name: "here"}
	mapGone, secretGone = rollout.Reference{Kind: rollout.KindConfigMap, Name: "gone"}, rollout.Reference{Kind: rollout.KindSecret, Name: "gone"}
	allFour             = []rollout.Reference{mapGone, mapHere, secretGone, secretHere}
)

func TestFindObjects(t *testing.T) {
	forbid := func(resource string) fake.Interceptor {
		return func(q request, carryOut func() error) error {
			if q.Resource == resource {
				return apierrors.NewForbidden(schema.GroupResource{Resource: resource}, q.Name, errors.New("no right"))
			}
			return carryOut()
		}
	}
	for _, row := range []struct {
		name     string
		server   fake.Interceptor
		want     []rollout.Finding // of allFour
		requests map[string]int
		takes    time.Duration
	}{
		{"some are there", nil,
			[]rollout.Finding{rollout.Missing, rollout.Present, rollout.Missing, rollout.Present}, map[string]int{"get configmaps": 2, "get secrets": 2}, 0},
		{"without the right to Secrets", forbid("secrets"),
			[]rollout.Finding{rollout.Missing, rollout.Present, rollout.Forbidden, rollout.Forbidden}, map[string]int{"get configmaps": 2, "get secrets": 1}, 0},
		{"without the right to ConfigMaps", forbid("configmaps"),
			[]rollout.Finding{rollout.Forbidden, rollout.Forbidden, rollout.Missing, rollout.Present}, map[string]int{"get configmaps": 1, "get secrets": 2}, 0},
		{"a server in trouble", func(q request, carryOut func() error) error {
			if q.Name == "gone" {
				return apierrors.NewServiceUnavailable("busy")
			}
			return carryOut()
		}, []rollout.Finding{rollout.Unreadable, rollout.Present, rollout.Unreadable, rollout.Present}, map[string]int{"get configmaps": 2, "get secrets": 2}, 0},
		{"no answer", func(q request, _ func() error) error {
			time.Sleep(detailsTimeout + time.Second)
			return errors.New("no answer")
		}, make([]rollout.Finding, 4), map[string]int{"get configmaps": 1}, detailsTimeout + time.Second},
	} {
		t.Run(row.name, func(t *testing.T) {
			inReader(t, func(r *reader) {
				fake.Add(r.world, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "here", Namespace: namespace}})
				fake.Add(r.world, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "here", Namespace: namespace}})
				r.Intercept(row.server)
				e, began := &rollout.Evidence{}, time.Now()
				r.findObjects(r.T.Context(), namespace, e, allFour)
				var got []rollout.Finding
				for _, object := range allFour {
					finding, known := e.Objects[object]
					if !known {
						r.T.Errorf("nothing is said of %s", object)
					}
					got = append(got, finding)
				}
				expect.Same(r.T, "found", row.want, got)
				expect.Same(r.T, "requests", row.requests, fake.Counts(r.Asked(fake.Everything)))
				expect.Same(r.T, "it takes", row.takes, time.Since(began))
			})
		})
	}
}

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
