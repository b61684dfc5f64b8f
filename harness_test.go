package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	k8sruntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	kubefake "k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/events"
	"k8s.io/klog/v2"
	"k8s.io/klog/v2/ktesting"

	"github.com/belay-dev/belay/internal/kubeclient"
	"github.com/belay-dev/belay/internal/telemetry"
	"github.com/belay-dev/belay/internal/watchhealth"
	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
	belayfake "github.com/belay-dev/belay/pkg/generated/clientset/versioned/fake"
	belayscheme "github.com/belay-dev/belay/pkg/generated/clientset/versioned/scheme"
)

func TestMain(m *testing.M) {
	// The second of the error handlers limits the rate of error messages by sleeping until a time that it took when the
	// process began. In a bubble, where it is the year 2000, that would be a sleep of 26 years.
	utilruntime.ErrorHandlers = utilruntime.ErrorHandlers[:1]
	os.Exit(m.Run())
}

// The tests run a real Controller, with real informers and a real queue, in a synctest bubble: time is virtual, and
// passes when every goroutine waits. All objects are in one namespace.
const namespace = "shop"

// world is a cluster with what stands around it in a test.
type world struct {
	*cluster
	t      *testing.T
	node   *node
	logger klog.Logger

	requests     []request
	undecodable  []string // what a search for what cannot be decoded finds
	searches     int      // of that
	interceptor  atomic.Pointer[interceptor]
	intercepting sync.Mutex // one request at a time
}

// interceptor decides what becomes of a request: whether it is carried out, and what Belay hears of it.
type interceptor func(r request, carryOut func() error) error

// intercept puts do between Belay and the API server, in place of what was there before; nil carries everything out.
func (w *world) intercept(do interceptor) {
	w.interceptor.Store(&do)
}

// inWorld runs test in a bubble, in a world with one running Belay.
func inWorld(t *testing.T, test func(w *world)) {
	t.Helper()
	inEmptyWorld(t, func(w *world) {
		w.startBelay()
		synctest.Wait()
		test(w)
	})
}

// inEmptyWorld runs test in a bubble, in a world without Belay.
func inEmptyWorld(t *testing.T, test func(w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &world{cluster: newCluster(), t: t,
			logger: ktesting.NewLogger(t, ktesting.NewConfig(ktesting.Verbosity(1), ktesting.BufferLogs(true)))}
		w.node = startNode(t.Context(), w.cluster)
		test(w)
	})
}

// belay is one running process of Belay.
type belay struct {
	*Controller
	watches *watchhealth.Watches
	world   *world
	dead    atomic.Bool // no request of it reaches the API server any more

	terminate func() // asks the process to end, as SIGTERM does
	stop      func() // terminate, and wait until it has ended
	mayFail   bool   // an error from Run is no failure of the test
}

// startBelay does what run does in main.go after it has its clients. The process is stopped when the test ends.
func (w *world) startBelay() *belay {
	w.t.Helper()
	p := &belay{world: w}
	kube, guardedClient := kubefake.NewClientset(), belayfake.NewSimpleClientset()
	w.serve(&kube.Fake, p.intercept)
	w.serve(&guardedClient.Fake, p.intercept)

	background, end := context.WithCancel(klog.NewContext(context.Background(), w.logger))
	counted := telemetry.NewMetrics()
	broadcaster := events.NewBroadcaster(&telemetry.EventSink{EventSink: &events.EventSinkImpl{Interface: kube.EventsV1()}, Dropped: counted.EventsDropped})
	scheme := k8sruntime.NewScheme()
	must(belayscheme.AddToScheme(scheme))
	p.watches = watchhealth.New(func(context.Context, watchhealth.Source) ([]string, error) { w.searches++; return w.undecodable, nil })
	owned, guarded := kubeclient.Informers(p.watches, kube, guardedClient, metav1.NamespaceAll)
	controller, err := NewController(kube, guardedClient, broadcaster.NewRecorder(scheme, fieldManager), counted,
		guarded.Belay().V1alpha1().GuardedDeployments(),
		owned.Apps().V1().Deployments(),
		owned.Apps().V1().ControllerRevisions())
	must(err)
	p.Controller = controller
	must(broadcaster.StartRecordingToSinkWithContext(background))
	owned.StartWithContext(background)
	guarded.StartWithContext(background)
	go p.watches.Run(background)

	ctx, cancel := context.WithCancel(background)
	done := make(chan error, 1)
	go func() { done <- controller.Run(ctx, 4) }()
	p.terminate = cancel
	p.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil && !p.mayFail {
			w.t.Errorf("Run: %v", err)
		}
		end()
		owned.Shutdown()
		guarded.Shutdown()
		broadcaster.Shutdown()
	})
	w.t.Cleanup(p.stop)
	return p
}

func (p *belay) intercept(r request, carryOut func() error) error {
	do := p.world.interceptor.Load()
	if p.dead.Load() {
		return fmt.Errorf("dial tcp: connect: connection refused")
	}
	p.world.record(r)
	if do == nil || *do == nil {
		return carryOut()
	}
	p.world.intercepting.Lock()
	defer p.world.intercepting.Unlock()
	return (*do)(r, carryOut)
}

// logged returns what Belay has logged.
func (w *world) logged() string {
	return w.logger.GetSink().(ktesting.Underlier).GetBuffer().String()
}

// pass lets time pass.
func (w *world) pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// webshop returns a GuardedDeployment of three pods of an image.
func webshop(name, image string) *v1alpha1.GuardedDeployment {
	g := &v1alpha1.GuardedDeployment{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace}}
	g.Spec.Replicas = new(int32(3))
	g.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"app": name}}
	g.Spec.Template.Labels = map[string]string{"app": name}
	g.Spec.Template.Spec.Containers = []corev1.Container{{Name: "app", Image: image}}
	return g
}

// What users and others do to the cluster does not count as requests of Belay.

// add creates an object.
func add[T object](w *world, o T) T {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	created, err := w.create(resourceOf(o), o)
	must(err)
	return created.(T)
}

// read returns an object, false if there is none.
func read[T object](w *world, name string) (T, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var kind T
	found, err := w.get(resourceOf(kind), namespace, name)
	if err != nil {
		return kind, false
	}
	return found.(T), true
}

// edit changes an object, but for its status.
func edit[T object](w *world, name string, change func(T)) T {
	return editPart(w, name, change, false)
}

// editStatus changes an object's status.
func editStatus[T object](w *world, name string, change func(T)) T {
	return editPart(w, name, change, true)
}

func editPart[T object](w *world, name string, change func(T), status bool) T {
	w.mu.Lock()
	defer w.mu.Unlock()
	var kind T
	live, err := w.get(resourceOf(kind), namespace, name)
	must(err)
	change(live.(T))
	updated, err := w.update(resourceOf(kind), live, status)
	must(err)
	return updated.(T)
}

// release changes the image that a GuardedDeployment asks for.
func release(w *world, name, image string) {
	edit(w, name, func(g *v1alpha1.GuardedDeployment) { g.Spec.Template.Spec.Containers[0].Image = image })
}

// remove deletes an object.
func remove[T object](w *world, name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var kind T
	must(w.delete(resourceOf(kind), namespace, name, nil))
}

// collectGarbage deletes everything whose owner is gone.
func (w *world) collectGarbage() {
	w.mu.Lock()
	defer w.mu.Unlock()
	alive := map[types.UID]bool{}
	for _, resource := range []string{"guardeddeployments", "deployments", "controllerrevisions", "replicasets", "pods"} {
		for _, o := range w.matching(resource, "", nil) {
			if owner := metav1.GetControllerOf(o); owner != nil && !alive[owner.UID] {
				must(w.delete(resourceOf(o), o.GetNamespace(), o.GetName(), nil))
				continue
			}
			alive[o.GetUID()] = true
		}
	}
}

// image returns the image that the Deployment runs, empty if there is none.
func (w *world) image(name string) string {
	d, ok := read[*appsv1.Deployment](w, name)
	if !ok {
		return ""
	}
	return d.Spec.Template.Spec.Containers[0].Image
}

// status returns what is reported of a GuardedDeployment, as "Ready=True RolledOut".
func (w *world) status(name string) string {
	g, ok := read[*v1alpha1.GuardedDeployment](w, name)
	if !ok {
		return "gone"
	}
	return readiness(g)
}

func readiness(g *v1alpha1.GuardedDeployment) string {
	ready := meta.FindStatusCondition(g.Status.Conditions, v1alpha1.ConditionReady)
	if ready == nil {
		return "nothing"
	}
	return fmt.Sprintf("Ready=%s %s", ready.Status, ready.Reason)
}

// record notes a request that has reached the API server, unless it is a watch.
func (w *world) record(r request) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if r.verb != "watch" {
		w.requests = append(w.requests, r)
	}
}

// forgetRequests empties the record of what Belay asked of the API server.
func (w *world) forgetRequests() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.requests = nil
}

// asked returns the requests for which keep is true.
func (w *world) asked(keep func(request) bool) []request {
	w.mu.Lock()
	defer w.mu.Unlock()
	var kept []request
	for _, r := range w.requests {
		if keep(r) {
			kept = append(kept, r)
		}
	}
	return kept
}

// requested returns the requests of a verb for a resource.
func (w *world) requested(verb, resource string) []request {
	return w.asked(func(r request) bool { return r.verb == verb && r.resource == resource })
}

// counts counts requests by verb and resource.
func counts(requests []request) map[string]int {
	counts := map[string]int{}
	for _, r := range requests {
		counts[r.verb+" "+r.resource]++
	}
	return counts
}

// diary tells what Belay wrote, and in which second, in the order in which it did. Events, which are sent on their own,
// are left out.
func (w *world) diary() []string {
	var lines []string
	for _, r := range w.asked(request.writes) {
		if r.resource != "events" {
			lines = append(lines, fmt.Sprintf("%s %s", r.at.Truncate(time.Second), r))
		}
	}
	return lines
}

// String tells a request by what it is about.
func (r request) String() string {
	line := r.verb + " " + r.resource
	switch o := r.object.(type) {
	case *appsv1.Deployment:
		return line + ": " + o.Spec.Template.Spec.Containers[0].Image
	case *appsv1.ControllerRevision:
		return strings.TrimSuffix(line+": "+o.Annotations[v1alpha1.VerdictAnnotation], ": ")
	case *v1alpha1.GuardedDeployment:
		return line + ": " + readiness(o)
	case *eventsv1.Event:
		return line + ": " + o.Type + " " + o.Reason
	}
	return line + " " + r.name
}

// eventsSent returns the Events as "Warning RolledBack", in the order in which they arrived.
func (w *world) eventsSent() []string {
	var sent []string
	for _, r := range w.requested("create", "events") {
		e := r.object.(*eventsv1.Event)
		sent = append(sent, fmt.Sprintf("%s %s", e.Type, e.Reason))
	}
	return sent
}

// resourceOf returns the resource of an object's type.
func resourceOf(o object) schema.GroupVersionResource {
	switch o.(type) {
	case *v1alpha1.GuardedDeployment:
		return schema.GroupVersion(v1alpha1.GroupVersion).WithResource("guardeddeployments")
	case *appsv1.Deployment:
		return appsv1.SchemeGroupVersion.WithResource("deployments")
	case *appsv1.ReplicaSet:
		return appsv1.SchemeGroupVersion.WithResource("replicasets")
	case *appsv1.ControllerRevision:
		return appsv1.SchemeGroupVersion.WithResource("controllerrevisions")
	case *corev1.Pod:
		return corev1.SchemeGroupVersion.WithResource("pods")
	}
	panic(fmt.Sprintf("no resource for %T", o))
}

func everything(request) bool { return true }
