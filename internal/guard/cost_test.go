package guard

import (
	"fmt"
	"testing"
	"time"

	fake "github.com/belay-dev/belay/internal/fakecluster"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	kubefake "k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/events"

	"github.com/belay-dev/belay/internal/evidence"
	"github.com/belay-dev/belay/internal/expect"
	"github.com/belay-dev/belay/internal/releases"
	"github.com/belay-dev/belay/internal/slim"
	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
	belayfake "github.com/belay-dev/belay/pkg/generated/clientset/versioned/fake"
	belayinformers "github.com/belay-dev/belay/pkg/generated/informers/externalversions"
	"github.com/belay-dev/belay/pkg/rollout"
)

// These are the costs that do not depend on a cluster, and benchmarks of them: go test -bench . -run '^$' ./internal/guard ./pkg/rollout

// resting is a controller whose caches hold objects at rest, each with a typical template and revisions. Nothing runs.
type resting struct {
	*Guard
	kube  *kubefake.Clientset
	belay *belayfake.Clientset
	keys  []cache.ObjectName
}

// newResting puts count objects into the caches as Belay itself leaves them.
func newResting(tb testing.TB, count int) *resting {
	tb.Helper()
	r := &resting{kube: kubefake.NewClientset(), belay: belayfake.NewSimpleClientset()}
	owned, guarded := informers.NewSharedInformerFactory(r.kube, 0), belayinformers.NewSharedInformerFactory(r.belay, 0)
	var err error
	r.Guard, err = New(r.kube, evidence.New(r.kube), r.belay, events.NewFakeRecorder(1), releases.NewMetrics().Of(releases.Guarded),
		guarded.Belay().V1alpha1().GuardedDeployments(), owned.Apps().V1().Deployments(), owned.Apps().V1().ControllerRevisions())
	must(err)
	for i := range count {
		g, d, revision := restingObjects(tb, fmt.Sprintf("web-%d", i))
		must(r.objectStore.Add(g))
		must(r.deploymentStore.Add(d))
		must(r.revisionStore.Add(revision))
		r.keys = append(r.keys, cache.MetaObjectToName(g))
	}
	return r
}

// restingObjects lets Decide decide until there is nothing more to decide.
func restingObjects(tb testing.TB, name string) (*v1alpha1.GuardedDeployment, *appsv1.Deployment, *appsv1.ControllerRevision) {
	tb.Helper()
	g := fake.Webshop(name, "localhost/app:good")
	g.UID, g.ResourceVersion, g.Generation = types.UID("uid-of-"+name), "1", 1
	container := &g.Spec.Template.Spec.Containers[0]
	for i := range 12 {
		container.Env = append(container.Env, corev1.EnvVar{Name: fmt.Sprintf("SETTING_%d", i), Value: fmt.Sprintf("https://backend-%d.%s.svc:8443/v1", i, name)})
	}
	o := rollout.Observed{Guarded: g, DeploymentLive: true, Now: time.Now(), PollInterval: pollInterval}
	revision := rollout.Decide(o).Record
	revision.UID, revision.ResourceVersion = "uid-of-revision", "2"
	o.Revisions = []*appsv1.ControllerRevision{revision}
	d := rollout.Decide(o).Deployment
	d.UID, d.ResourceVersion, d.Generation = "uid-of-deployment", "3", 1
	d.Status = appsv1.DeploymentStatus{ObservedGeneration: 1, Replicas: 3, UpdatedReplicas: 3, ReadyReplicas: 3, AvailableReplicas: 3,
		Conditions: []appsv1.DeploymentCondition{{Type: appsv1.DeploymentAvailable, Status: corev1.ConditionTrue, Reason: "MinimumReplicasAvailable"}}}
	metav1.SetMetaDataAnnotation(&revision.ObjectMeta, v1alpha1.VerdictAnnotation, v1alpha1.VerdictGood)
	o.Deployment, o.DeploymentLive = d, false
	status := rollout.Decide(o).Status
	if status == nil {
		tb.Fatal("there is no status to write")
	}
	g.Status = *status
	return g, d, revision
}

// Every request of a release, and of one that fails. How many looks it takes depends on how long it takes: one each 3 s at
// the most often, of two lists. Everything else is what docs/benchmarks.md argues for.
func TestCost_RequestsOfReleases(t *testing.T) {
	inWorld(t, func(w *world) {
		w.ForgetRequests()
		fake.Add(w, fake.Webshop("web", "web:1"))
		w.Pass(40 * time.Second)
		fake.WantStatus(w, "web", "Ready=True RolledOut")
		looks := w.Requested("list", "pods")
		expect.Same(t, "first release", map[string]int{
			"get guardeddeployments": 1, "get deployments": 1,
			"list replicasets": len(looks), "list pods": len(looks),
			"create controllerrevisions": 1, "create deployments": 1, "update controllerrevisions": 1,
			"update guardeddeployments/status": 3, "create events": 1,
		}, fake.Counts(w.Asked(fake.Everything)))

		w.ForgetRequests()
		w.Node.Set("web:2", fake.Crashing)
		fake.Release(w, "web", "web:2")
		w.Pass(4 * time.Minute)
		fake.WantStatus(w, "web", "Ready=False RolledBack")
		looks = w.Requested("list", "pods")
		expect.Same(t, "failed release with its rollback", map[string]int{
			"get guardeddeployments": 2, "get deployments": 2, "get controllerrevisions": 1,
			"list replicasets": len(looks), "list pods": len(looks),
			"create controllerrevisions": 1, "update deployments": 2, "update controllerrevisions": 1,
			"update guardeddeployments/status": 4, "create events": 2,
		}, fake.Counts(w.Asked(fake.Everything)))
		if got := len(looks); got > 26 { // 72 s until the fourth restart, and the rollback.
			t.Errorf("%d looks, want at most 26", got)
		}

		w.ForgetRequests()
		w.Node.Set("web:3", silent)
		fake.Release(w, "web", "web:3")
		w.Pass(4 * time.Minute)
		fake.WantStatus(w, "web", "Ready=False RolledBack")
		looks = w.Requested("list", "pods")
		expect.Same(t, "one that fails without a word", map[string]int{
			"get guardeddeployments": 2, "get deployments": 2, "get controllerrevisions": 1,
			"list replicasets": len(looks), "list pods": len(looks), "get pods/log": 1,
			"create controllerrevisions": 1, "update deployments": 2, "update controllerrevisions": 1,
			"update guardeddeployments/status": 4, "create events": 2,
		}, fake.Counts(w.Asked(fake.Everything)))
	})
}

// A sync that finds nothing to do asks nothing of the API server, and makes little garbage.
func TestCost_ReconcileAtRest(t *testing.T) {
	const allocations = 100
	r := newResting(t, 1)
	sync := func() {
		if recheck, err := r.Reconcile(t.Context(), r.keys[0]); err != nil || recheck != 0 {
			t.Fatalf("recheck %s, %v", recheck, err)
		}
	}
	if got := testing.AllocsPerRun(100, sync); got > allocations {
		t.Errorf("%.0f allocations, want at most %d", got, allocations)
	} else {
		t.Logf("%.0f allocations", got)
	}
	if requests := len(r.kube.Actions()) + len(r.belay.Actions()); requests != 0 {
		t.Errorf("%d requests, want none", requests)
	}
}

func BenchmarkSyncAtRest(b *testing.B) {
	r := newResting(b, 100)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if _, err := r.Reconcile(b.Context(), r.keys[i%len(r.keys)]); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkFreshness(b *testing.B) {
	r := newResting(b, 1000)
	for _, key := range r.keys {
		r.fresh.Wrote(key, r.objectStore, "1")
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		_ = r.fresh.Check(r.keys[i%len(r.keys)])
	}
}

func BenchmarkSlim(b *testing.B) {
	g, _, _ := restingObjects(b, "web")
	g.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: "kubectl"}}
	g.Annotations = map[string]string{"kubectl.kubernetes.io/last-applied-configuration": string(make([]byte, 4096))}
	var object runtime.Object = g
	slim := slim.NewTransform()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := slim(object); err != nil {
			b.Fatal(err)
		}
	}
}
