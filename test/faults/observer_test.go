package faults

import (
	"context"
	"strconv"
	"sync"

	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	watchtools "k8s.io/client-go/tools/watch"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// sight is one state of an object, as it was stored.
type sight struct {
	rv      uint64 // of etcd: these are in one order for all objects
	object  runtime.Object
	deleted bool
}

// observer sees all that happens in the namespaces of the stories, by watches of its own that nothing disturbs.
type observer struct {
	mu     sync.Mutex
	sights map[string][]sight // by namespace; each resource's own are in their order
}

// watchFunc begins a watch.
type watchFunc func(context.Context, metav1.ListOptions) (watch.Interface, error)

// WatchWithContext makes it a watch that client-go can begin again.
func (f watchFunc) WatchWithContext(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
	return f(ctx, options)
}

// observe begins to watch, until ctx is done.
func observe(ctx context.Context) (*observer, error) {
	o := &observer{sights: map[string][]sight{}}
	apps := cluster.kube.AppsV1()
	for _, w := range []watchFunc{
		cluster.belay.BelayV1alpha1().GuardedDeployments("").Watch,
		apps.Deployments("").Watch, apps.ReplicaSets("").Watch, apps.ControllerRevisions("").Watch,
		cluster.kube.CoordinationV1().Leases("").Watch,
	} {
		// What is there already is not of a story.
		list, err := cluster.kube.CoreV1().Namespaces().List(ctx, metav1.ListOptions{Limit: 1})
		if err != nil {
			return nil, err
		}
		watcher, err := watchtools.NewRetryWatcherWithContext(ctx, list.ResourceVersion, w)
		if err != nil {
			return nil, err
		}
		go func() {
			for event := range watcher.ResultChan() {
				o.see(event)
			}
		}()
	}
	return o, nil
}

func (o *observer) see(event watch.Event) {
	accessor, err := meta.Accessor(event.Object)
	if err != nil || event.Type == watch.Bookmark {
		return
	}
	rv, _ := strconv.ParseUint(accessor.GetResourceVersion(), 10, 64)
	o.mu.Lock()
	defer o.mu.Unlock()
	o.sights[accessor.GetNamespace()] = append(o.sights[accessor.GetNamespace()], sight{rv: rv, object: event.Object, deleted: event.Type == watch.Deleted})
}

// of returns what has been seen in a namespace.
func (o *observer) of(namespace string) []sight {
	o.mu.Lock()
	defer o.mu.Unlock()
	return append([]sight(nil), o.sights[namespace]...)
}

// forget drops what has been seen in a namespace.
func (o *observer) forget(namespace string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.sights, namespace)
}

// view is a namespace as it is now.
type view struct {
	guarded    *v1alpha1.GuardedDeployment
	deployment *appsv1.Deployment
	sets       map[types.UID]*appsv1.ReplicaSet
	lease      *coordinationv1.Lease
	revisions  map[types.UID]*appsv1.ControllerRevision
}

// now returns the namespace as it was seen last.
func (o *observer) now(namespace string) view {
	v := view{sets: map[types.UID]*appsv1.ReplicaSet{}, revisions: map[types.UID]*appsv1.ControllerRevision{}}
	for _, s := range o.of(namespace) {
		switch object := s.object.(type) {
		case *v1alpha1.GuardedDeployment:
			v.guarded = nil
			if !s.deleted {
				v.guarded = object
			}
		case *appsv1.Deployment:
			v.deployment = nil
			if !s.deleted {
				v.deployment = object
			}
		case *appsv1.ReplicaSet:
			v.sets[object.UID] = object
			if s.deleted {
				delete(v.sets, object.UID)
			}
		case *appsv1.ControllerRevision:
			v.revisions[object.UID] = object
			if s.deleted {
				delete(v.revisions, object.UID)
			}
		case *coordinationv1.Lease:
			v.lease = nil
			if !s.deleted {
				v.lease = object
			}
		}
	}
	return v
}
