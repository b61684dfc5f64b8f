package inplace

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	k8sruntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/events"
	"k8s.io/component-base/metrics"

	"github.com/belay-dev/belay/internal/evidence"
	fake "github.com/belay-dev/belay/internal/fakecluster"
	"github.com/belay-dev/belay/internal/kubeclient"
	"github.com/belay-dev/belay/internal/releases"
	"github.com/belay-dev/belay/internal/telemetry"
	"github.com/belay-dev/belay/internal/watchhealth"
	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
	belayscheme "github.com/belay-dev/belay/pkg/generated/clientset/versioned/scheme"
	"github.com/belay-dev/belay/pkg/rollout"
)

func TestMain(m *testing.M) { fake.Main(m) }

// The tests run a real Guard, with real informers, in a bubble, against controllers that act as those of Kubernetes.
type (
	world   = fake.World
	request = fake.Request
)

// belay is one running process of Belay, as far as it guards in place.
type belay struct {
	*Guard
	*fake.Process
	counted metrics.KubeRegistry
	stop    func() // and wait until it has ended
}

// startBelay starts a process. It is stopped when the test ends.
func startBelay(w *world) *belay { return startBelayWith(w, Options{}) }

func startBelayWith(w *world, o Options) *belay {
	w.T.Helper()
	p := &belay{Process: w.NewProcess(), counted: metrics.NewKubeRegistry()}
	background, end := context.WithCancel(w.Context())
	owned, _ := kubeclient.Informers(watchhealth.New(watchhealth.Undecodable), p.Kube, p.Belay, metav1.NamespaceAll, o.Others != OthersNot)
	scheme := k8sruntime.NewScheme()
	must(belayscheme.AddToScheme(scheme))
	broadcaster := events.NewBroadcaster(&telemetry.EventSink{EventSink: &events.EventSinkImpl{Interface: p.Kube.EventsV1()}, Dropped: telemetry.NewMetrics().EventsDropped})
	deployments, counter := owned.Apps().V1().Deployments(), releases.NewMetrics()
	counter.Register(p.counted)
	p.Guard = New(p.Kube, evidence.New(p.Kube), broadcaster.NewRecorder(scheme, rollout.FieldManager), counter.Of(releases.InPlace), o, deployments)
	informer := deployments.Informer()
	must(broadcaster.StartRecordingToSinkWithContext(background))
	owned.StartWithContext(background)

	ctx, cancel := context.WithCancel(background)
	var running sync.WaitGroup
	running.Go(func() { fake.Drive(ctx, p.Reconcile, informer) })
	running.Go(func() {
		owned.WaitForCacheSyncWithContext(ctx)
		p.Sweep(ctx, metav1.NamespaceAll)
	})
	p.stop = sync.OnceFunc(func() {
		cancel()
		running.Wait()
		end()
		owned.Shutdown()
		broadcaster.Shutdown()
	})
	w.T.Cleanup(p.stop)
	return p
}

// in runs test in a bubble, without a process.
func in(t *testing.T, test func(w *world)) {
	t.Helper()
	fake.In(t, func(w *world) {
		w.Node.ActExactly(w)
		for _, image := range []string{"bad:2", "bad:3"} {
			w.Node.Set(image, fake.Crashing)
		}
		fake.Add(w, fake.NamespaceOf())
		fake.Add(w, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node"}})
		fake.EditStatus(w, "node", func(n *corev1.Node) {
			n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}
		})
		test(w)
	})
}

// guarded runs test in a bubble, with a labelled Deployment of good:1 that one running process has taken in.
func guarded(t *testing.T, test func(w *world, p *belay)) {
	t.Helper()
	in(t, func(w *world) {
		fake.Add(w, labelled("good:1"))
		p := startBelay(w)
		w.Pass(time.Minute)
		wantRuns(w, "good:1=4")
		w.ForgetRequests()
		test(w, p)
	})
}

// halfSickening lets the pods that were created first be ready for 10 s only, and all others for ever.
func halfSickening(w *world) fake.Fare {
	began := time.Now()
	return func(age time.Duration) corev1.PodStatus {
		if created := time.Now().Add(-age); created.Sub(began) < 1200*time.Millisecond && age > 10*time.Second {
			return fake.NeverReady(age)
		}
		return fake.Running(age)
	}
}

// labelled returns a Deployment of four pods that is to be guarded in place.
func labelled(image string) *appsv1.Deployment {
	d := fake.DeploymentOf(fake.Webshop("web", image))
	d.Labels = map[string]string{v1alpha1.GuardedLabel: v1alpha1.GuardedInPlace}
	d.Spec.Replicas, d.Spec.ProgressDeadlineSeconds = new(int32(4)), new(int32(100))
	return d
}

func edit(w *world, change func(d *appsv1.Deployment)) { fake.Edit(w, "web", change) }

func release(w *world, image string) {
	edit(w, func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Image = image })
}

func annotate(w *world, key, value string) {
	edit(w, func(d *appsv1.Deployment) { metav1.SetMetaDataAnnotation(&d.ObjectMeta, key, value) })
}

func label(w *world, value string) {
	edit(w, func(d *appsv1.Deployment) { d.Labels = map[string]string{v1alpha1.GuardedLabel: value, "app": "web"} })
}

func sets(w *world) (all []*appsv1.ReplicaSet) {
	for _, o := range w.Objects("replicasets") {
		all = append(all, o.(*appsv1.ReplicaSet))
	}
	return all
}

func imageOf(set *appsv1.ReplicaSet) string { return set.Spec.Template.Spec.Containers[0].Image }

func setOf(w *world, image string) *appsv1.ReplicaSet {
	i := slices.IndexFunc(sets(w), func(set *appsv1.ReplicaSet) bool { return imageOf(set) == image })
	return sets(w)[i]
}

// runs tells what has pods, and what is held.
func runs(w *world) string {
	var all []string
	for _, set := range sets(w) {
		line := fmt.Sprintf("%s=%d", imageOf(set), *set.Spec.Replicas)
		n, held := rollout.HeldAt(set)
		if held {
			line += fmt.Sprintf(" held at %d", n)
		}
		if held || *set.Spec.Replicas > 0 {
			all = append(all, line)
		}
	}
	slices.Sort(all)
	return strings.Join(all, ", ")
}

func wantRuns(w *world, want string) {
	w.T.Helper()
	if got := runs(w); got != want {
		w.T.Errorf("after %s: %s, want %s", time.Since(w.Began), got, want)
	}
}

// progressing returns what is said of the rollout.
func progressing(w *world) string {
	d, _ := fake.Read[*appsv1.Deployment](w, "web")
	for _, c := range d.Status.Conditions {
		if c.Type == appsv1.DeploymentProgressing {
			return c.Reason
		}
	}
	return ""
}

func failure(w *world) string {
	d, _ := fake.Read[*appsv1.Deployment](w, "web")
	return d.Annotations[v1alpha1.FailureAnnotation]
}

// writes returns what was written, but for Events.
func writes(w *world) []request {
	return w.Asked(func(r request) bool { return r.Writes() && r.Resource != "events" })
}

// wantRest fails the test if anything is asked of the API server, or the Deployment controller writes anything, while nothing changes.
func wantRest(w *world) {
	w.T.Helper()
	w.ForgetRequests()
	before := w.Node.Writes()
	w.Pass(9 * time.Minute) // Sweep looks every ten.
	if asked := w.Asked(func(r request) bool { return r.Resource != "replicasets" || r.Verb != "list" }); len(asked) > 0 {
		w.T.Errorf("at rest: %v", asked)
	}
	if n := w.Node.Writes() - before; n > 0 {
		w.T.Errorf("the Deployment controller wrote %d times at rest", n)
	}
}

func wantEvents(w *world, want ...string) {
	w.T.Helper()
	synctest.Wait()
	got := w.EventsSent() // Each is sent on its own.
	slices.Sort(got)
	if slices.Sort(want); !slices.Equal(got, want) {
		w.T.Errorf("Events %v, want %v", got, want)
	}
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}
