package guard

import (
	"context"
	"sync"
	"testing"
	"time"

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
	belayscheme "github.com/belay-dev/belay/pkg/generated/clientset/versioned/scheme"
)

func TestMain(m *testing.M) { fake.Main(m) }

// The tests run a real Guard, with real informers, in a bubble. All objects are in one namespace.
const namespace = fake.Namespace

// pollInterval is the time between two reads of the evidence of one object, and pollStretch and podStretch what each rollout under way
// and each of its pods may stretch it by.
const pollInterval, pollStretch, podStretch = 3 * time.Second, 20 * time.Millisecond, time.Millisecond

type (
	world   = fake.World
	request = fake.Request
)

// inWorld runs test in a bubble, in a world with one running Belay.
func inWorld(t *testing.T, test func(w *world)) {
	t.Helper()
	inWorldWith(t, func(w *world, _ *belay) { test(w) })
}

// inWorldWith is inWorld for a test that looks into that process.
func inWorldWith(t *testing.T, test func(w *world, p *belay)) {
	t.Helper()
	fake.InWith(t, startBelay, test)
}

// belay is one running process of Belay.
type belay struct {
	*Guard
	*fake.Process
	counted metrics.KubeRegistry
	lead    func() // begins to work
	stop    func() // and wait until it has ended
}

// startBelay starts a process. It is stopped when the test ends.
func startBelay(w *world) *belay {
	w.T.Helper()
	p := standBy(w)
	p.lead()
	return p
}

// standBy starts a process that has its caches and does not work, like one that waits for the Lease.
func standBy(w *world) *belay {
	w.T.Helper()
	p := &belay{Process: w.NewProcess(), counted: metrics.NewKubeRegistry()}
	background, end := context.WithCancel(w.Context())
	watches := watchhealth.New(watchhealth.Undecodable)
	owned, guarded := kubeclient.Informers(watches, p.Kube, p.Belay, metav1.NamespaceAll, false)
	scheme := k8sruntime.NewScheme()
	must(belayscheme.AddToScheme(scheme))
	counted, frame := releases.NewMetrics(), telemetry.NewMetrics()
	broadcaster := events.NewBroadcaster(&telemetry.EventSink{EventSink: &events.EventSinkImpl{Interface: p.Kube.EventsV1()}, Dropped: frame.EventsDropped})
	objects, deployments, revisions := guarded.Belay().V1alpha1().GuardedDeployments(), owned.Apps().V1().Deployments(), owned.Apps().V1().ControllerRevisions()
	var err error
	p.Guard, err = New(p.Kube, evidence.New(p.Kube), p.Belay, broadcaster.NewRecorder(scheme, FieldManager), counted.Of(releases.Guarded), objects, deployments, revisions)
	must(err)
	frame.Register(p.counted, "v1.2.3")
	counted.Register(p.counted)
	p.counted.CustomMustRegister(States(objects.Lister()))
	watches.Register(p.counted)
	must(broadcaster.StartRecordingToSinkWithContext(background))
	owned.StartWithContext(background)
	guarded.StartWithContext(background)

	ctx, cancel := context.WithCancel(background)
	var work sync.WaitGroup
	p.lead = func() {
		work.Go(func() { fake.Drive(ctx, p.Reconcile, objects.Informer(), deployments.Informer(), revisions.Informer()) })
	}
	p.stop = sync.OnceFunc(func() {
		cancel()
		work.Wait()
		end()
		owned.Shutdown()
		guarded.Shutdown()
		broadcaster.Shutdown()
	})
	w.T.Cleanup(p.stop)
	return p
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}
