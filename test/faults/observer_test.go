package faults

import (
	"cmp"
	"context"
	"maps"
	"strconv"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
	belayinformers "github.com/belay-dev/belay/pkg/generated/informers/externalversions"
)

// sight is one state of an object, as it was stored.
type sight struct {
	rv      uint64    // of etcd: these are in one order for all objects
	at      time.Time // when it was seen
	object  runtime.Object
	deleted bool
}

// resourceOf returns what an object that is observed is called in a request.
func resourceOf(object runtime.Object) string {
	switch object.(type) {
	case *v1alpha1.GuardedDeployment:
		return "guardeddeployments"
	case *appsv1.Deployment:
		return "deployments"
	case *appsv1.ReplicaSet:
		return "replicasets"
	case *appsv1.ControllerRevision:
		return "controllerrevisions"
	case *coordinationv1.Lease:
		return "leases"
	}
	return ""
}

// byVersion orders sights of all objects as they came.
func byVersion(a, b sight) int { return cmp.Compare(a.rv, b.rv) }

// observer sees all that happens in the namespaces of the stories, by watches of its own that nothing disturbs.
type observer struct {
	mu     sync.Mutex
	sights map[string][]sight // by namespace; each resource's own are in their order
	views  map[string]*view   // likewise: what they come to
}

// observe begins to watch, until ctx is done. Where an API server that was started anew has forgotten what to go on from, what is there is
// listed, and a state that an object had only for a moment before is not seen.
func observe(ctx context.Context) (*observer, error) {
	o := &observer{sights: map[string][]sight{}, views: map[string]*view{}}
	kube, belay := informers.NewSharedInformerFactory(cluster.kube, 0), belayinformers.NewSharedInformerFactory(cluster.belay, 0)
	for _, informer := range []cache.SharedIndexInformer{
		belay.Belay().V1alpha1().GuardedDeployments().Informer(),
		kube.Apps().V1().Deployments().Informer(), kube.Apps().V1().ReplicaSets().Informer(), kube.Apps().V1().ControllerRevisions().Informer(),
		kube.Coordination().V1().Leases().Informer(),
	} {
		if err := informer.SetTransform(withoutManagedFields); err != nil {
			return nil, err
		}
		if _, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc:    func(object any) { o.see(object, false) },
			UpdateFunc: func(_, object any) { o.see(object, false) },
			DeleteFunc: func(object any) {
				if unknown, ok := object.(cache.DeletedFinalStateUnknown); ok {
					object = unknown.Obj
				}
				o.see(object, true)
			},
		}); err != nil {
			return nil, err
		}
	}
	kube.StartWithContext(ctx)
	belay.StartWithContext(ctx)
	kube.WaitForCacheSyncWithContext(ctx)
	belay.WaitForCacheSyncWithContext(ctx)
	return o, nil
}

// withoutManagedFields returns the object without what nobody asks for, and what is half of it.
func withoutManagedFields(object any) (any, error) {
	if accessor, err := meta.Accessor(object); err == nil {
		accessor.SetManagedFields(nil)
	}
	return object, nil
}

func (o *observer) see(object any, deleted bool) {
	accessor, err := meta.Accessor(object)
	if err != nil {
		return
	}
	rv, _ := strconv.ParseUint(accessor.GetResourceVersion(), 10, 64)
	namespace, sight := accessor.GetNamespace(), sight{rv: rv, at: time.Now(), object: object.(runtime.Object), deleted: deleted}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.sights[namespace] = append(o.sights[namespace], sight)
	if o.views[namespace] == nil {
		o.views[namespace] = &view{sets: map[types.UID]*appsv1.ReplicaSet{}, revisions: map[types.UID]*appsv1.ControllerRevision{}}
	}
	o.views[namespace].see(sight)
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
	delete(o.views, namespace)
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
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.views[namespace] == nil {
		return view{}
	}
	v := *o.views[namespace]
	v.sets, v.revisions = maps.Clone(v.sets), maps.Clone(v.revisions)
	return v
}

func (v *view) see(s sight) {
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
