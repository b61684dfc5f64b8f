package main

import (
	"cmp"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
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

// cluster is a small API server in memory, behind the fake clientsets. They alone would accept what a server refuses;
// cluster adds what Belay relies on, and fakecluster_contract_test.go proves it:
//
//   - uid, creationTimestamp and one resourceVersion that every write of any object increases; a write that changes
//     nothing leaves it
//   - generation, which moves with the spec, and with the annotations of a Deployment
//   - a conflict for a stale resourceVersion or another uid; a GuardedDeployment cannot be updated without one
//   - /status changes the status and nothing else, every other update leaves it
//   - AlreadyExists, NotFound, preconditions of deletions, finalizers, the immutable data of a ControllerRevision
//   - watches that resume at a resourceVersion and see an object that stops matching their selector as deleted
//
// It does not validate, default (but for a Deployment's replicas) or patch, and there is no garbage collector but
// collectGarbage.
type cluster struct {
	mu      sync.Mutex
	began   time.Time
	version int64
	objects map[string]map[types.NamespacedName]object // by resource
	changes []change
	expired int64 // watches cannot resume at this version or before
	watches []*clusterWatch
	held    map[string]bool // resources whose changes no watch sees
}

type object interface {
	metav1.Object
	runtime.Object
}

// change is one write; before or after is nil when the object was created or deleted.
type change struct {
	resource      string
	version       int64
	before, after object
}

// request is what a client asked for.
type request struct {
	verb, resource, namespace, name string // resource: with its subresource, as in deployments/status
	object                          object // what was sent, nil for reads
	at                              time.Duration
}

func (r request) writes() bool {
	return r.verb == "create" || r.verb == "update" || r.verb == "patch" || r.verb == "delete"
}

var clusterScheme = runtime.NewScheme()

func init() {
	utilruntime.Must(scheme.AddToScheme(clusterScheme))
	utilruntime.Must(v1alpha1.Install(clusterScheme))
}

func newCluster() *cluster {
	return &cluster{began: time.Now(), version: 100, objects: map[string]map[types.NamespacedName]object{}, held: map[string]bool{}}
}

// serve makes the fake client talk to the cluster. intercept, which stands between the two, decides whether a request
// is carried out and what the client hears of it. It must not use the client.
func (c *cluster) serve(client *clienttesting.Fake, intercept func(r request, carryOut func() error) error) {
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
		err := intercept(request{verb: "watch", resource: w.Resource.Resource}, func() (err error) {
			opened, err = c.watch(w.Resource.Resource, w.Namespace, w.WatchRestrictions.Labels, w.ListOptions.ResourceVersion)
			return err
		})
		return true, opened, err
	})
}

func (c *cluster) requestOf(action clienttesting.Action) request {
	r := request{verb: action.GetVerb(), resource: action.GetResource().Resource, namespace: action.GetNamespace(), at: time.Since(c.began)}
	if action.GetSubresource() != "" {
		r.resource += "/" + action.GetSubresource()
	}
	switch action := action.(type) {
	case clienttesting.CreateActionImpl:
		r.object = action.Object.(object)
	case clienttesting.UpdateActionImpl:
		r.object = action.Object.(object)
	case interface{ GetName() string }:
		r.name = action.GetName()
	}
	if r.object != nil {
		r.name = r.object.GetName()
	}
	return r
}

func (c *cluster) carryOut(action clienttesting.Action) (runtime.Object, error) {
	resource, namespace := action.GetResource(), action.GetNamespace()
	switch action := action.(type) {
	case clienttesting.GetActionImpl:
		return c.get(resource, namespace, action.Name)
	case clienttesting.ListActionImpl:
		return c.list(resource.Resource, action.Kind, namespace, action.ListRestrictions.Labels)
	case clienttesting.CreateActionImpl:
		return c.create(resource, action.Object.(object))
	case clienttesting.UpdateActionImpl:
		return c.update(resource, action.Object.(object), action.Subresource == "status")
	case clienttesting.DeleteActionImpl:
		return nil, c.delete(resource, namespace, action.Name, action.DeleteOptions.Preconditions)
	}
	return nil, apierrors.NewMethodNotSupported(resource.GroupResource(), action.GetVerb())
}

func (c *cluster) get(resource schema.GroupVersionResource, namespace, name string) (object, error) {
	if found := c.objects[resource.Resource][types.NamespacedName{Namespace: namespace, Name: name}]; found != nil {
		return copied(found), nil
	}
	return nil, apierrors.NewNotFound(resource.GroupResource(), name)
}

func (c *cluster) list(resource string, kind schema.GroupVersionKind, namespace string, selector labels.Selector) (runtime.Object, error) {
	kind.Kind += "List"
	list, err := clusterScheme.New(kind)
	if err != nil {
		return nil, err
	}
	var items []runtime.Object
	for _, o := range c.matching(resource, namespace, selector) {
		items = append(items, copied(o))
	}
	list.(metav1.ListInterface).SetResourceVersion(strconv.FormatInt(c.version, 10))
	return list, meta.SetList(list, items)
}

// matching returns the objects that match, themselves, sorted by name.
func (c *cluster) matching(resource, namespace string, selector labels.Selector) []object {
	var found []object
	for _, o := range c.objects[resource] {
		if matches(o, namespace, selector) {
			found = append(found, o)
		}
	}
	slices.SortFunc(found, func(a, b object) int {
		return cmp.Or(strings.Compare(a.GetNamespace(), b.GetNamespace()), strings.Compare(a.GetName(), b.GetName()))
	})
	return found
}

func matches(o object, namespace string, selector labels.Selector) bool {
	return o != nil && (namespace == "" || o.GetNamespace() == namespace) &&
		(selector == nil || selector.Matches(labels.Set(o.GetLabels())))
}

func (c *cluster) create(resource schema.GroupVersionResource, sent object) (object, error) {
	if _, err := c.get(resource, sent.GetNamespace(), sent.GetName()); err == nil {
		return nil, apierrors.NewAlreadyExists(resource.GroupResource(), sent.GetName())
	}
	created := copied(sent)
	created.SetUID(types.UID(fmt.Sprintf("uid-%d", c.version+1)))
	created.SetCreationTimestamp(metav1.NewTime(time.Now()))
	created.SetGeneration(1)
	setStatus(created, emptyLike(created))
	setDefaults(created)
	return c.store(resource.Resource, nil, created), nil
}

func (c *cluster) update(resource schema.GroupVersionResource, sent object, status bool) (object, error) {
	live, err := c.get(resource, sent.GetNamespace(), sent.GetName())
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
	updated := copied(sent)
	if status {
		updated = copied(live)
		setStatus(updated, sent)
	} else {
		setStatus(updated, live)
		setDefaults(updated)
		updated.SetUID(live.GetUID())
		updated.SetCreationTimestamp(live.GetCreationTimestamp())
		updated.SetDeletionTimestamp(live.GetDeletionTimestamp())
		updated.SetGeneration(live.GetGeneration())
		if !equality.Semantic.DeepEqual(desired(live), desired(updated)) {
			updated.SetGeneration(live.GetGeneration() + 1)
		}
	}
	if r, ok := updated.(*appsv1.ControllerRevision); ok && string(r.Data.Raw) != string(live.(*appsv1.ControllerRevision).Data.Raw) {
		return nil, apierrors.NewInvalid(schema.GroupKind{Kind: "ControllerRevision"}, r.Name, nil)
	}
	updated.SetResourceVersion(live.GetResourceVersion())
	if equality.Semantic.DeepEqual(live, updated) {
		return live, nil
	}
	if updated.GetDeletionTimestamp() != nil && len(updated.GetFinalizers()) == 0 {
		c.store(resource.Resource, live, nil)
		return updated, nil
	}
	return c.store(resource.Resource, live, updated), nil
}

func (c *cluster) delete(resource schema.GroupVersionResource, namespace, name string, only *metav1.Preconditions) error {
	live, err := c.get(resource, namespace, name)
	if err != nil {
		return err
	}
	if only != nil && ((only.UID != nil && *only.UID != live.GetUID()) ||
		(only.ResourceVersion != nil && *only.ResourceVersion != live.GetResourceVersion())) {
		return apierrors.NewConflict(resource.GroupResource(), name, fmt.Errorf("the preconditions do not hold"))
	}
	if len(live.GetFinalizers()) > 0 {
		leaving := copied(live)
		leaving.SetDeletionTimestamp(new(metav1.Now()))
		leaving.SetGeneration(live.GetGeneration() + 1)
		c.store(resource.Resource, live, leaving)
		return nil
	}
	c.store(resource.Resource, live, nil)
	return nil
}

// store replaces before by after, either of which may be nil, and tells the watches. It returns a copy.
func (c *cluster) store(resource string, before, after object) object {
	c.version++
	if c.objects[resource] == nil {
		c.objects[resource] = map[types.NamespacedName]object{}
	}
	if after == nil {
		delete(c.objects[resource], types.NamespacedName{Namespace: before.GetNamespace(), Name: before.GetName()})
	} else {
		after.SetResourceVersion(strconv.FormatInt(c.version, 10))
		c.objects[resource][types.NamespacedName{Namespace: after.GetNamespace(), Name: after.GetName()}] = after
	}
	c.changes = append(c.changes, change{resource, c.version, before, after})
	for _, w := range c.watches {
		w.deliver()
	}
	if after == nil {
		return nil
	}
	return copied(after)
}

// desired returns what a change of which moves the generation.
func desired(o object) any {
	switch o := o.(type) {
	case *v1alpha1.GuardedDeployment:
		return o.Spec
	case *appsv1.Deployment:
		return []any{o.Spec, o.Annotations}
	case *appsv1.ReplicaSet:
		return o.Spec
	}
	return nil
}

// setStatus gives to the status of from, which is of the same type.
func setStatus(to, from object) {
	switch to := to.(type) {
	case *v1alpha1.GuardedDeployment:
		to.Status = *from.(*v1alpha1.GuardedDeployment).Status.DeepCopy()
	case *appsv1.Deployment:
		to.Status = *from.(*appsv1.Deployment).Status.DeepCopy()
	case *appsv1.ReplicaSet:
		to.Status = *from.(*appsv1.ReplicaSet).Status.DeepCopy()
	case *corev1.Pod:
		to.Status = *from.(*corev1.Pod).Status.DeepCopy()
	}
}

func setDefaults(o object) {
	if d, ok := o.(*appsv1.Deployment); ok && d.Spec.Replicas == nil {
		d.Spec.Replicas = new(int32(1))
	}
}

func copied[T object](o T) T { return o.DeepCopyObject().(T) }

func emptyLike(o object) object { return reflect.New(reflect.TypeOf(o).Elem()).Interface().(object) }
