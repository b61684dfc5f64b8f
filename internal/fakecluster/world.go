package fakecluster

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"runtime/debug"
	"slices"
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
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/klog/v2"
	"k8s.io/klog/v2/ktesting"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
	belayfake "github.com/belay-dev/belay/pkg/generated/clientset/versioned/fake"
)

// Namespace is where all objects of a World are.
const Namespace = "shop"

// Main runs the tests of a package that has worlds.
func Main(m *testing.M) {
	// The second of the error handlers limits the rate of error messages by sleeping until a time that it took when the
	// process began. In a bubble, where it is the year 2000, that would be a sleep of 26 years.
	utilruntime.ErrorHandlers = utilruntime.ErrorHandlers[:1]
	// What lives is a few megabytes, what worlds throw away gigabytes: by default, a quarter of the time would be garbage
	// collection. Benchmarks measure with the default.
	if flag.Parse(); flag.Lookup("test.bench").Value.String() == "" {
		debug.SetGCPercent(400)
	}
	os.Exit(m.Run())
}

// World is a cluster in a synctest bubble, with what stands around it in a test: time is virtual, and passes when every
// goroutine waits.
type World struct {
	*Cluster
	T      *testing.T
	Node   *Node
	Logger klog.Logger // of the processes

	requests     []Request
	interceptor  atomic.Pointer[Interceptor]
	intercepting sync.Mutex // one request at a time
}

// Interceptor decides what becomes of a request: whether it is carried out, and what Belay hears of it.
type Interceptor func(r Request, carryOut func() error) error

// Intercept puts do between Belay and the API server, in place of what was there before; nil carries everything out.
func (w *World) Intercept(do Interceptor) {
	w.interceptor.Store(&do)
}

// In runs test in a bubble, in a world without any process of Belay.
func In(t *testing.T, test func(w *World)) {
	t.Helper()
	Empty(t, func(w *World) {
		w.Logger = ktesting.NewLogger(w.T, ktesting.NewConfig(ktesting.Verbosity(1), ktesting.BufferLogs(true)))
		w.Node = StartNode(w.T.Context(), w.Cluster)
		test(w)
	})
}

// InWith is In with a process, of which test begins when it has done all that there is to do at first.
func InWith[P any](t *testing.T, start func(w *World) P, test func(w *World, p P)) {
	t.Helper()
	In(t, func(w *World) {
		p := start(w)
		synctest.Wait()
		test(w, p)
	})
}

// Empty is In without a Node and without a log.
func Empty(t *testing.T, test func(w *World)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { test(&World{Cluster: New(), T: t}) })
}

// Process is one process of Belay: its clients, and whether it lives.
type Process struct {
	Kube  *Kube
	Belay *belayfake.Clientset

	world *World
	dead  atomic.Bool
}

// NewProcess returns a process, of which nothing runs yet.
func (w *World) NewProcess() *Process {
	p := &Process{Belay: belayfake.NewSimpleClientset(), world: w}
	p.Kube = newKube(p)
	w.Serve(&p.Kube.Fake, p.intercept)
	w.Serve(&p.Belay.Fake, p.intercept)
	return p
}

// ErrRefused is what a client hears when nobody listens.
var ErrRefused = errors.New("dial tcp: connect: connection refused")

// Kill lets no request of the process reach the API server any more.
func (p *Process) Kill() { p.dead.Store(true) }

func (p *Process) intercept(r Request, carryOut func() error) error {
	do := p.world.interceptor.Load()
	if do != nil && *do != nil {
		p.world.intercepting.Lock()
		defer p.world.intercepting.Unlock()
	}
	if p.dead.Load() {
		return ErrRefused
	}
	p.world.record(r)
	if do == nil || *do == nil {
		return carryOut()
	}
	return (*do)(r, carryOut)
}

// Logged returns what Belay has logged.
func (w *World) Logged() string {
	return w.Logger.GetSink().(ktesting.Underlier).GetBuffer().String()
}

// Pass lets time pass.
func (w *World) Pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// Webshop returns a GuardedDeployment of three pods of an image.
func Webshop(name, image string) *v1alpha1.GuardedDeployment {
	g := &v1alpha1.GuardedDeployment{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: Namespace}}
	g.Spec.Replicas = new(int32(3))
	g.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"app": name}}
	g.Spec.Template.Labels = map[string]string{"app": name}
	g.Spec.Template.Spec.Containers = []corev1.Container{{Name: "app", Image: image}}
	return g
}

// What users and others do to the cluster does not count as requests of Belay.

// Add creates an object.
func Add[T Object](w *World, o T) T {
	w.T.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	created, err := w.create(ResourceOf(o), o)
	must(err)
	return created.(T)
}

// Read returns an object, false if there is none.
func Read[T Object](w *World, name string) (T, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var kind T
	found, err := w.get(ResourceOf(kind), Namespace, name)
	if err != nil {
		return kind, false
	}
	return found.(T), true
}

// Edit changes an object, but for its status.
func Edit[T Object](w *World, name string, change func(T)) T {
	return editPart(w, name, change, false)
}

// EditStatus changes an object's status.
func EditStatus[T Object](w *World, name string, change func(T)) T {
	return editPart(w, name, change, true)
}

func editPart[T Object](w *World, name string, change func(T), status bool) T {
	w.mu.Lock()
	defer w.mu.Unlock()
	var kind T
	live, err := w.get(ResourceOf(kind), namespaceOf(kind), name)
	must(err)
	change(live.(T))
	updated, err := w.update(ResourceOf(kind), live, status)
	must(err)
	return updated.(T)
}

// namespaceOf returns where the objects of a type are: Nodes and Namespaces are in no namespace.
func namespaceOf(o Object) string {
	switch o.(type) {
	case *corev1.Node, *corev1.Namespace:
		return ""
	}
	return Namespace
}

// Release changes the image that a GuardedDeployment asks for.
func Release(w *World, name, image string) {
	Edit(w, name, func(g *v1alpha1.GuardedDeployment) { g.Spec.Template.Spec.Containers[0].Image = image })
}

// Restart does to a Deployment what kubectl rollout restart does.
func Restart(w *World, name string) {
	const manager, mark = "kubectl-rollout", "kubectl.kubernetes.io/restartedAt"
	Edit(w, name, func(d *appsv1.Deployment) {
		metav1.SetMetaDataAnnotation(&d.Spec.Template.ObjectMeta, mark, w.Now().Format(time.RFC3339))
		d.ManagedFields = slices.DeleteFunc(d.ManagedFields, func(e metav1.ManagedFieldsEntry) bool { return e.Manager == manager })
		d.ManagedFields = append(d.ManagedFields, metav1.ManagedFieldsEntry{Manager: manager, Operation: metav1.ManagedFieldsOperationUpdate,
			APIVersion: "apps/v1", Time: new(w.stamped()), FieldsType: "FieldsV1",
			FieldsV1: metav1.NewFieldsV1(`{"f:spec":{"f:template":{"f:metadata":{"f:annotations":{".":{},"f:` + mark + `":{}}}}}}`)})
	})
}

// Remove deletes an object.
func Remove[T Object](w *World, name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var kind T
	must(w.delete(ResourceOf(kind), Namespace, name, nil))
}

// CollectGarbage deletes everything whose owner is gone.
func (w *World) CollectGarbage() {
	w.mu.Lock()
	defer w.mu.Unlock()
	alive := map[types.UID]bool{}
	for _, resource := range []string{"guardeddeployments", "deployments", "controllerrevisions", "replicasets", "pods"} {
		for _, o := range w.matching(resource, "", nil) {
			if owner := metav1.GetControllerOf(o); owner != nil && !alive[owner.UID] {
				must(w.delete(ResourceOf(o), o.GetNamespace(), o.GetName(), nil))
				continue
			}
			alive[o.GetUID()] = true
		}
	}
}

// Image returns the image that the Deployment runs, empty if there is none.
func (w *World) Image(name string) string {
	d, ok := Read[*appsv1.Deployment](w, name)
	if !ok {
		return ""
	}
	return d.Spec.Template.Spec.Containers[0].Image
}

// Status returns what is reported of a GuardedDeployment, as "Ready=True RolledOut".
func (w *World) Status(name string) string {
	g, ok := Read[*v1alpha1.GuardedDeployment](w, name)
	if !ok {
		return "gone"
	}
	return Readiness(g)
}

func Readiness(g *v1alpha1.GuardedDeployment) string {
	ready := meta.FindStatusCondition(g.Status.Conditions, v1alpha1.ConditionReady)
	if ready == nil {
		return "nothing"
	}
	return fmt.Sprintf("Ready=%s %s", ready.Status, ready.Reason)
}

// record notes a request that has reached the API server, unless it is a watch.
func (w *World) record(r Request) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if r.Verb != "watch" {
		w.requests = append(w.requests, r)
	}
}

// ForgetRequests empties the record of what Belay asked of the API server.
func (w *World) ForgetRequests() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.requests = nil
}

// Asked returns the requests for which keep is true.
func (w *World) Asked(keep func(Request) bool) []Request {
	w.mu.Lock()
	defer w.mu.Unlock()
	var kept []Request
	for _, r := range w.requests {
		if keep(r) {
			kept = append(kept, r)
		}
	}
	return kept
}

// Requested returns the requests of a verb for a resource.
func (w *World) Requested(verb, resource string) []Request {
	return w.Asked(func(r Request) bool { return r.Verb == verb && r.Resource == resource })
}

// Counts counts requests by verb and resource.
func Counts(requests []Request) map[string]int {
	counts := map[string]int{}
	for _, r := range requests {
		counts[r.Verb+" "+r.Resource]++
	}
	return counts
}

// Diary tells what Belay wrote, and in which second, in the order in which it did. Events, which are sent on their own,
// are left out.
func (w *World) Diary() []string {
	var lines []string
	for _, r := range w.Asked(Request.Writes) {
		if r.Resource != "events" {
			lines = append(lines, fmt.Sprintf("%s %s", r.At.Truncate(time.Second), r))
		}
	}
	return lines
}

// String tells a request by what it is about.
func (r Request) String() string {
	line := r.Verb + " " + r.Resource
	switch o := r.Object.(type) {
	case *appsv1.Deployment:
		return line + ": " + o.Spec.Template.Spec.Containers[0].Image
	case *appsv1.ControllerRevision:
		return strings.TrimSuffix(line+": "+o.Annotations[v1alpha1.VerdictAnnotation], ": ")
	case *v1alpha1.GuardedDeployment:
		return line + ": " + Readiness(o)
	case *eventsv1.Event:
		return line + ": " + o.Type + " " + o.Reason
	}
	return line + " " + r.Name
}

// EventsSent returns the Events as "Warning RolledBack", in the order in which they arrived.
func (w *World) EventsSent() []string {
	var sent []string
	for _, r := range w.Requested("create", "events") {
		e := r.Object.(*eventsv1.Event)
		sent = append(sent, fmt.Sprintf("%s %s", e.Type, e.Reason))
	}
	return sent
}

// coreEvents are the Events that a list of the core group shows. An API server shows those of events.k8s.io, too: here they
// are kept apart.
var coreEvents = corev1.SchemeGroupVersion.WithResource("events")

// ResourceOf returns the resource of an object's type.
func ResourceOf(o Object) schema.GroupVersionResource {
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
	case *corev1.Node:
		return corev1.SchemeGroupVersion.WithResource("nodes")
	case *corev1.Namespace:
		return corev1.SchemeGroupVersion.WithResource("namespaces")
	case *corev1.ConfigMap:
		return corev1.SchemeGroupVersion.WithResource("configmaps")
	case *corev1.Secret:
		return corev1.SchemeGroupVersion.WithResource("secrets")
	case *corev1.Event:
		return coreEvents
	case *eventsv1.Event:
		return eventsv1.SchemeGroupVersion.WithResource("events")
	}
	panic(fmt.Sprintf("no resource for %T", o))
}

func Everything(Request) bool { return true }

// UpAndRunning creates a GuardedDeployment of web:1 and waits until it is ready.
func (w *World) UpAndRunning(name string) {
	w.T.Helper()
	Add(w, Webshop(name, "web:1"))
	w.Pass(40 * time.Second)
	WantStatus(w, name, "Ready=True RolledOut")
}

// WantStatus fails the test unless that is what is reported of a GuardedDeployment.
func WantStatus(w *World, name, want string) {
	w.T.Helper()
	if got := w.Status(name); got != want {
		w.T.Errorf("after %s, %s is %s, want %s", time.Since(w.Began), name, got, want)
	}
}

// Context returns a context whose log is the world's.
func (w *World) Context() context.Context { return klog.NewContext(context.Background(), w.Logger) }

// WantOnce fails the test unless exactly one Event of this type and reason was sent.
func WantOnce(w *World, event string) {
	w.T.Helper()
	sent := w.EventsSent()
	if n := len(slices.DeleteFunc(slices.Clone(sent), func(s string) bool { return s != event })); n != 1 {
		w.T.Errorf("%d Events %q, want 1; all: %v", n, event, sent)
	}
}

// DeploymentOf returns a Deployment, nobody's, as somebody would write it who wants the same as g.
func DeploymentOf(g *v1alpha1.GuardedDeployment) *appsv1.Deployment {
	d := &appsv1.Deployment{Spec: g.Spec.DeploymentSpec}
	d.Name, d.Namespace = g.Name, g.Namespace
	return d
}

// Objects returns the objects of a resource, by name.
func (w *World) Objects(resource string) []Object {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.matching(resource, Namespace, nil)
}

// History returns what each write of an object of the resource has stored, in order, without deletions.
func (w *World) History(resource string) (stored []Object) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, change := range w.changes {
		if change.Resource == resource && change.After != nil {
			stored = append(stored, copied(change.After))
		}
	}
	return stored
}

// TellStory lives through a good release, one that fails, and a third, which is good. No old revision is kept.
func TellStory(w *World) {
	g := Webshop("web", "web:1")
	g.Spec.RevisionHistoryLimit = new(int32(0))
	Add(w, g)
	w.Pass(20 * time.Minute)
	w.Node.Set("web:2", Crashing)
	Release(w, "web", "web:2")
	w.Pass(40 * time.Minute)
	Release(w, "web", "web:3")
	w.Pass(20 * time.Minute)
}
