// Package fakecluster is a cluster in memory, for tests: an API server behind the fake clientsets, and what stands for the
// controllers and the kubelet.
package fakecluster

import (
	"cmp"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes/scheme"
	clienttesting "k8s.io/client-go/testing"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// Cluster is a small API server in memory, behind the fake clientsets. They alone would accept what a server refuses;
// cluster adds what Belay relies on, and contract_test.go proves it:
//
//   - uid, creationTimestamp and one resourceVersion that every write of any object increases; a write that changes
//     nothing leaves it
//   - generation, which moves with the spec, but not when a pod is bound, and with the annotations of a Deployment
//   - a conflict for a stale resourceVersion or another uid; a GuardedDeployment cannot be updated without one
//   - /status changes the status, of a Deployment its annotations, too, and nothing else; every other update leaves it
//   - AlreadyExists, NotFound, preconditions of deletions, finalizers, the immutable data of a ControllerRevision
//   - watches that resume at a resourceVersion and see an object that stops matching their selector as deleted
//   - some of a Deployment's defaults: its replicas and deadline, and of its template what nearly every release leaves out
//   - field selectors of pods by phase and of core Events by the uid of their object, and lists in pages
//   - in the managed fields of a ControllerRevision, the time of its last write
//   - of pods/log the last lines, of a run that the pod has had
//   - of a ConfigMap or a Secret that it is there, as a line of a table
//   - JSON merge patches; in the managed fields of a ReplicaSet, who has patched it, and when
//   - ReplicaSets that are held at a number, as the policies of artifacts/in-place have it
//   - all times by a clock of its own, which SetAhead sets
//
// It does not validate, knows no other patches, and there is no garbage collector but CollectGarbage.
type Cluster struct {
	mu      sync.Mutex
	Began   time.Time
	ahead   atomic.Int64 // how far its clock is ahead of Belay's
	version int64
	objects map[string]map[types.NamespacedName]Object // by resource
	changes []Change
	expired int64 // watches cannot resume at this version or before
	watches []*clusterWatch
	held    map[string]int64 // the resources of which watches see nothing newer than a version
	heard   func(Change)
	logs    map[logOf]Log
	admit   func(Object)

	holdsLost bool // the policies of artifacts/in-place are not there
}

type Object interface {
	metav1.Object
	runtime.Object
}

// Change is one write; Before or After is nil when the object was created or deleted. They are as stored: not to be changed.
type Change struct {
	Resource      string
	Version       int64
	Before, After Object
}

// Request is what a client asked for.
type Request struct {
	Verb, Resource, Namespace, Name string // resource: with its subresource, as in deployments/status
	Object                          Object // what was sent, nil for reads and patches
	Patch                           string // the patch that was sent
	At                              time.Duration
}

func (r Request) Writes() bool {
	return r.Verb == "create" || r.Verb == "update" || r.Verb == "patch" || r.Verb == "delete"
}

var clusterScheme = runtime.NewScheme()

func init() {
	utilruntime.Must(scheme.AddToScheme(clusterScheme))
	utilruntime.Must(v1alpha1.Install(clusterScheme))
}

func New() *Cluster {
	return &Cluster{Began: time.Now(), version: 100, objects: map[string]map[types.NamespacedName]Object{}, held: map[string]int64{}, logs: map[logOf]Log{}}
}

// Now returns what the clock of the cluster shows: the API server's, and that of all who work there. Belay has its own.
func (c *Cluster) Now() time.Time { return time.Now().Add(time.Duration(c.ahead.Load())) }

// SetAhead sets how far the clock of the cluster is ahead of Belay's from now on.
func (c *Cluster) SetAhead(ahead time.Duration) { c.ahead.Store(int64(ahead)) }

// stamped returns the time of the cluster as it is stored.
func (c *Cluster) stamped() metav1.Time {
	now := metav1.NewTime(c.Now())
	return now.Rfc3339Copy()
}

// Serve makes the fake client talk to the cluster. intercept, which stands between the two, decides whether a request
// is carried out and what the client hears of it. It must not use the client.
func (c *Cluster) Serve(client *clienttesting.Fake, intercept func(r Request, carryOut func() error) error) {
	client.ReactionChain, client.WatchReactionChain = nil, nil
	client.AddReactor("*", "*", func(action clienttesting.Action) (bool, runtime.Object, error) {
		var answer runtime.Object
		err := intercept(c.requestOf(action), func() (err error) {
			c.mu.Lock()
			defer c.mu.Unlock()
			answer, err = c.carryOut(action)
			return err
		})
		if err != nil {
			return true, nil, err
		}
		return true, answer, nil
	})
	client.AddWatchReactor("*", func(action clienttesting.Action) (bool, watch.Interface, error) {
		w := action.(clienttesting.WatchActionImpl)
		var opened watch.Interface
		err := intercept(Request{Verb: "watch", Resource: w.Resource.Resource}, func() (err error) {
			opened, err = c.watch(w.Resource.Resource, w.Namespace, w.WatchRestrictions.Labels, w.ListOptions.ResourceVersion)
			return err
		})
		return true, opened, err
	})
}

func (c *Cluster) requestOf(action clienttesting.Action) Request {
	r := Request{Verb: action.GetVerb(), Resource: action.GetResource().Resource, Namespace: action.GetNamespace(), At: time.Since(c.Began)}
	if action.GetSubresource() != "" {
		r.Resource += "/" + action.GetSubresource()
	}
	switch action := action.(type) {
	case clienttesting.CreateActionImpl:
		r.Object = action.Object.(Object)
	case clienttesting.UpdateActionImpl:
		r.Object = action.Object.(Object)
	case clienttesting.PatchActionImpl:
		r.Name, r.Patch = action.Name, string(action.Patch)
	case interface{ GetName() string }:
		r.Name = action.GetName()
	}
	if r.Object != nil {
		r.Name = r.Object.GetName()
	}
	return r
}

func (c *Cluster) carryOut(action clienttesting.Action) (runtime.Object, error) {
	resource, namespace := action.GetResource(), action.GetNamespace()
	switch action := action.(type) {
	case clienttesting.GetActionImpl:
		return c.get(resource, namespace, action.Name)
	case clienttesting.ListActionImpl:
		return c.list(resource, action)
	case clienttesting.CreateActionImpl:
		return c.create(resource, action.Object.(Object))
	case clienttesting.UpdateActionImpl:
		return c.update(resource, action.Object.(Object), action.Subresource == "status")
	case clienttesting.PatchActionImpl:
		return c.patch(resource, action)
	case clienttesting.DeleteActionImpl:
		return nil, c.delete(resource, namespace, action.Name, action.DeleteOptions.Preconditions)
	}
	return nil, apierrors.NewMethodNotSupported(resource.GroupResource(), action.GetVerb())
}

func (c *Cluster) get(resource schema.GroupVersionResource, namespace, name string) (Object, error) {
	found, err := c.find(resource, namespace, name)
	if err != nil {
		return nil, err
	}
	return copied(found), nil
}

// find returns an object itself.
func (c *Cluster) find(resource schema.GroupVersionResource, namespace, name string) (Object, error) {
	if found := c.objects[resource.Resource][types.NamespacedName{Namespace: namespace, Name: name}]; found != nil {
		return found, nil
	}
	return nil, apierrors.NewNotFound(resource.GroupResource(), name)
}

// list answers as an API server does that reads from its watch cache: a limit counts, unless any version will do.
func (c *Cluster) list(resource schema.GroupVersionResource, action clienttesting.ListActionImpl) (runtime.Object, error) {
	kind := action.Kind
	kind.Kind += "List"
	list, err := clusterScheme.New(kind)
	if err != nil {
		return nil, err
	}
	answer := list.(metav1.ListInterface)
	answer.SetResourceVersion(strconv.FormatInt(c.version, 10))
	var items []runtime.Object
	for _, o := range c.matching(resource.Resource, action.Namespace, action.ListRestrictions.Labels) {
		if resource == coreEvents && ResourceOf(o) != coreEvents {
			continue
		}
		if fits, err := selectedByField(o, action.ListRestrictions.Fields); err != nil {
			return nil, err
		} else if !fits || pageKey(o) <= action.ListOptions.Continue {
			continue
		}
		if limit := action.ListOptions.Limit; limit > 0 && int64(len(items)) == limit && action.ListOptions.ResourceVersion != "0" {
			answer.SetContinue(pageKey(items[limit-1].(Object)))
			break
		}
		items = append(items, copied(o))
	}
	return list, meta.SetList(list, items)
}

// pageKey is by what matching sorts, and where the next page of a list begins.
func pageKey(o Object) string { return o.GetNamespace() + "\x00" + o.GetName() }

// selectedByField reports whether the selector selects the object. It is an error if it asks for a field that objects of
// this type are not selected by.
func selectedByField(o Object, selector fields.Selector) (bool, error) {
	if selector == nil || selector.Empty() {
		return true, nil
	}
	of := fields.Set{"metadata.name": o.GetName(), "metadata.namespace": o.GetNamespace()}
	switch o := o.(type) {
	case *corev1.Pod:
		of["status.phase"] = string(o.Status.Phase)
	case *corev1.Event:
		of["involvedObject.uid"] = string(o.InvolvedObject.UID)
	}
	for _, requirement := range selector.Requirements() {
		if !of.Has(requirement.Field) {
			return false, apierrors.NewBadRequest(fmt.Sprintf("field label not supported: %s", requirement.Field))
		}
	}
	return selector.Matches(of), nil
}

// matching returns the objects that match, themselves, sorted by name.
func (c *Cluster) matching(resource, namespace string, selector labels.Selector) []Object {
	var found []Object
	for _, o := range c.objects[resource] {
		if matches(o, namespace, selector) {
			found = append(found, o)
		}
	}
	slices.SortFunc(found, func(a, b Object) int {
		return cmp.Or(strings.Compare(a.GetNamespace(), b.GetNamespace()), strings.Compare(a.GetName(), b.GetName()))
	})
	return found
}

func matches(o Object, namespace string, selector labels.Selector) bool {
	return o != nil && (namespace == "" || o.GetNamespace() == namespace) &&
		(selector == nil || selector.Matches(labels.Set(o.GetLabels())))
}

func (c *Cluster) create(resource schema.GroupVersionResource, sent Object) (Object, error) {
	if _, err := c.find(resource, sent.GetNamespace(), sent.GetName()); err == nil {
		return nil, apierrors.NewAlreadyExists(resource.GroupResource(), sent.GetName())
	}
	created := copied(sent)
	created.SetUID(types.UID(fmt.Sprintf("uid-%d", c.version+1)))
	created.SetCreationTimestamp(metav1.NewTime(c.Now()))
	created.SetGeneration(1)
	setStatus(created, emptyLike(created))
	SetDefaults(created)
	c.admitted(created)
	c.stamp("", created)
	return c.store(resource.Resource, nil, created), nil
}

func (c *Cluster) update(resource schema.GroupVersionResource, sent Object, status bool) (Object, error) {
	return c.updateAs("", resource, sent, status)
}

// updateAs is update by a manager of fields.
func (c *Cluster) updateAs(manager string, resource schema.GroupVersionResource, sent Object, status bool) (Object, error) {
	live, err := c.find(resource, sent.GetNamespace(), sent.GetName())
	if err != nil {
		return nil, err
	}
	conflict := func(why string) error {
		return apierrors.NewConflict(resource.GroupResource(), sent.GetName(), fmt.Errorf("%s", why))
	}
	_, custom := sent.(*v1alpha1.GuardedDeployment)
	switch {
	case sent.GetResourceVersion() == "" && custom:
		return nil, apierrors.NewInvalid(schema.GroupKind{Kind: resource.Resource}, sent.GetName(), nil)
	case sent.GetResourceVersion() != "" && sent.GetResourceVersion() != live.GetResourceVersion():
		return nil, conflict("the object has been modified")
	case sent.GetUID() != "" && sent.GetUID() != live.GetUID():
		return nil, conflict("the uid is another")
	}
	if status {
		return c.updateStatus(resource.Resource, live, sent), nil
	}
	updated := copied(sent)
	setStatus(updated, live)
	SetDefaults(updated)
	updated.SetUID(live.GetUID())
	c.admitted(updated)
	c.hold(updated)
	updated.SetCreationTimestamp(live.GetCreationTimestamp())
	updated.SetDeletionTimestamp(live.GetDeletionTimestamp())
	updated.SetGeneration(live.GetGeneration())
	if !equality.Semantic.DeepEqual(desired(live), desired(updated)) {
		updated.SetGeneration(live.GetGeneration() + 1)
	}
	if r, ok := updated.(*appsv1.ControllerRevision); ok && string(r.Data.Raw) != string(live.(*appsv1.ControllerRevision).Data.Raw) {
		return nil, apierrors.NewInvalid(schema.GroupKind{Kind: "ControllerRevision"}, r.Name, nil)
	}
	updated.SetResourceVersion(live.GetResourceVersion())
	if len(updated.GetManagedFields()) == 0 {
		updated.SetManagedFields(live.GetManagedFields()) // as when a write leaves them out
	}
	if equality.Semantic.DeepEqual(live, updated) {
		return copied(live), nil
	}
	c.stamp(manager, updated)
	if updated.GetDeletionTimestamp() != nil && len(updated.GetFinalizers()) == 0 {
		c.store(resource.Resource, live, nil)
		return copied(updated), nil
	}
	return c.store(resource.Resource, live, updated), nil
}

func (c *Cluster) updateStatus(resource string, live, sent Object) Object {
	if equality.Semantic.DeepEqual(reported(live), reported(sent)) {
		return copied(live)
	}
	updated := copied(live)
	setStatus(updated, copied(sent))
	if d, ok := updated.(*appsv1.Deployment); ok {
		d.Annotations = maps.Clone(sent.GetAnnotations())
	}
	return c.store(resource, live, updated)
}

func (c *Cluster) delete(resource schema.GroupVersionResource, namespace, name string, only *metav1.Preconditions) error {
	live, err := c.find(resource, namespace, name)
	if err != nil {
		return err
	}
	if only != nil && ((only.UID != nil && *only.UID != live.GetUID()) ||
		(only.ResourceVersion != nil && *only.ResourceVersion != live.GetResourceVersion())) {
		return apierrors.NewConflict(resource.GroupResource(), name, fmt.Errorf("the preconditions do not hold"))
	}
	if len(live.GetFinalizers()) > 0 {
		leaving := copied(live)
		leaving.SetDeletionTimestamp(new(metav1.NewTime(c.Now())))
		leaving.SetGeneration(live.GetGeneration() + 1)
		c.store(resource.Resource, live, leaving)
		return nil
	}
	c.store(resource.Resource, live, nil)
	return nil
}

// store replaces before by after, either of which may be nil, and tells the watches. It returns a copy.
func (c *Cluster) store(resource string, before, after Object) Object {
	c.version++
	if c.objects[resource] == nil {
		c.objects[resource] = map[types.NamespacedName]Object{}
	}
	if after == nil {
		delete(c.objects[resource], types.NamespacedName{Namespace: before.GetNamespace(), Name: before.GetName()})
	} else {
		after.SetResourceVersion(strconv.FormatInt(c.version, 10))
		c.objects[resource][types.NamespacedName{Namespace: after.GetNamespace(), Name: after.GetName()}] = after
	}
	changed := Change{resource, c.version, before, after}
	c.changes = append(c.changes, changed)
	if c.heard != nil {
		c.heard(changed)
	}
	for _, w := range c.watches {
		w.deliver()
	}
	if after == nil {
		return nil
	}
	return copied(after)
}

// stamp notes when an object was written: in the managed fields of a ControllerRevision as if all were written by one manager, in those
// of a ReplicaSet for a manager that says who it is.
func (c *Cluster) stamp(manager string, written Object) {
	switch written.(type) {
	case *appsv1.ControllerRevision:
		written.SetManagedFields([]metav1.ManagedFieldsEntry{c.managedBy("test")})
	case *appsv1.ReplicaSet:
		if manager != "" {
			others := slices.DeleteFunc(slices.Clone(written.GetManagedFields()), func(e metav1.ManagedFieldsEntry) bool { return e.Manager == manager })
			written.SetManagedFields(append(others, c.managedBy(manager)))
		}
	}
}

func (c *Cluster) managedBy(manager string) metav1.ManagedFieldsEntry {
	return metav1.ManagedFieldsEntry{Manager: manager, Operation: metav1.ManagedFieldsOperationUpdate,
		APIVersion: "apps/v1", Time: new(c.stamped()), FieldsType: "FieldsV1", FieldsV1: metav1.NewFieldsV1("{}")}
}

// desired returns what a change of which moves the generation.
func desired(o Object) any {
	switch o := o.(type) {
	case *v1alpha1.GuardedDeployment:
		return o.Spec
	case *appsv1.Deployment:
		return []any{o.Spec, o.Annotations}
	case *appsv1.ReplicaSet:
		return o.Spec
	case *corev1.Pod:
		spec := o.Spec
		spec.NodeName = ""
		return spec
	}
	return nil
}

// Admit lets f change every object that is going to be stored, but for a status, as a mutating policy does. It must not use the
// cluster.
func (c *Cluster) Admit(f func(Object)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.admit = f
}

func (c *Cluster) admitted(o Object) {
	if c.admit != nil {
		c.admit(o)
	}
}

// setStatus gives to the status of from, which is of the same type, without a copy.
func setStatus(to, from Object) {
	if status := statusOf(to); status != nil {
		reflect.ValueOf(status).Elem().Set(reflect.ValueOf(statusOf(from)).Elem())
	}
}

// statusOf returns a pointer to the status, nil if there is none.
func statusOf(o Object) any {
	switch o := o.(type) {
	case *v1alpha1.GuardedDeployment:
		return &o.Status
	case *appsv1.Deployment:
		return &o.Status
	case *appsv1.ReplicaSet:
		return &o.Status
	case *corev1.Pod:
		return &o.Status
	case *corev1.Node:
		return &o.Status
	}
	return nil
}

// reported returns what a write of the status may change. The Deployment controller writes its annotation that way.
func reported(o Object) any {
	if d, ok := o.(*appsv1.Deployment); ok {
		return []any{d.Status, d.Annotations}
	}
	return statusOf(o)
}

// SetDefaults sets what the API server sets where it is left out.
func SetDefaults(o Object) {
	d, ok := o.(*appsv1.Deployment)
	if !ok {
		return
	}
	setDefault(&d.Spec.Replicas, new(int32(1)))
	setDefault(&d.Spec.ProgressDeadlineSeconds, new(int32(600)))
	pod := &d.Spec.Template.Spec
	setDefault(&pod.RestartPolicy, corev1.RestartPolicyAlways)
	setDefault(&pod.DNSPolicy, corev1.DNSClusterFirst)
	for i := range pod.Containers {
		setDefault(&pod.Containers[i].ImagePullPolicy, corev1.PullIfNotPresent)
		setDefault(&pod.Containers[i].TerminationMessagePath, corev1.TerminationMessagePathDefault)
	}
}

func setDefault[T comparable](field *T, value T) {
	*field = cmp.Or(*field, value)
}

func copied[T Object](o T) T { return o.DeepCopyObject().(T) }

func emptyLike(o Object) Object { return reflect.New(reflect.TypeOf(o).Elem()).Interface().(Object) }
