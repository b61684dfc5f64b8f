package e2e

import (
	"context"
	"errors"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
	belayinformers "github.com/belay-dev/belay/pkg/generated/informers/externalversions"
)

// seen is what the tests watch, all together with one watch for each kind: waiting costs the API server nothing.
type seen struct {
	guarded, deployments cache.SharedIndexInformer
	misread              misread
}

func (s *seen) start() error {
	ctx := context.Background()
	guarded := belayinformers.NewSharedInformerFactory(cluster.belay, 0)
	s.guarded = guarded.Belay().V1alpha1().GuardedDeployments().Informer()
	_, err := s.guarded.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(now any) { s.misread.check(now.(*v1alpha1.GuardedDeployment)) },
		UpdateFunc: func(_, now any) { s.misread.check(now.(*v1alpha1.GuardedDeployment)) },
	})
	if err != nil {
		return err
	}
	kube := informers.NewSharedInformerFactory(cluster.kube, 0)
	s.deployments = kube.Apps().V1().Deployments().Informer()
	guarded.Start(ctx.Done())
	kube.Start(ctx.Done())
	if !cache.WaitForCacheSync(ctx.Done(), s.guarded.HasSynced, s.deployments.HasSynced) {
		return errors.New("watch GuardedDeployments and Deployments")
	}
	return nil
}

// seenGuarded returns what was seen of the object last, nil if it is not there or older than what the test wrote.
func (o *object) seenGuarded() *v1alpha1.GuardedDeployment {
	found, ok, _ := cluster.seen.guarded.GetStore().GetByKey(o.namespace.name + "/" + o.name)
	if !ok || o.older(found.(metav1.Object)) || found.(metav1.Object).GetUID() != o.uid {
		return nil
	}
	return found.(*v1alpha1.GuardedDeployment).DeepCopy()
}

// seenDeployment returns what was seen of the Deployment last, nil if it is not there or older than what the test wrote.
func (o *object) seenDeployment() *appsv1.Deployment {
	found, ok, _ := cluster.seen.deployments.GetStore().GetByKey(o.namespace.name + "/" + o.name)
	if !ok || o.older(found.(metav1.Object)) {
		return nil
	}
	return found.(*appsv1.Deployment).DeepCopy()
}

// wrote notes what the test wrote: waiting does not end with anything older of that object.
func (o *object) wrote(object metav1.Object) {
	if o.written == nil {
		o.written = map[string]string{}
	}
	o.written[string(object.GetUID())] = object.GetResourceVersion()
}

func (o *object) older(found metav1.Object) bool {
	written, ok := o.written[string(found.GetUID())]
	if !ok {
		return false
	}
	order, err := resourceversion.CompareResourceVersion(found.GetResourceVersion(), written)
	return err == nil && order < 0
}

// watchEach begins to note a value at each change of the object, or its Deployment, that the informer shows. The function
// that it returns ends that, and returns the values, one after the other.
func watchEach[K metav1.Object, V comparable](o *object, informer cache.SharedIndexInformer, value func(K) V) (end func() []V) {
	o.Helper()
	values := make(chan V, 10_000)
	registration, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		UpdateFunc: func(_, now any) {
			if found := now.(K); found.GetNamespace() == o.namespace.name && found.GetName() == o.name {
				values <- value(found)
			}
		},
	})
	if err != nil {
		o.Fatal(err)
	}
	return func() (all []V) {
		if err := informer.RemoveEventHandler(registration); err != nil {
			o.Error(err)
		}
		for {
			select {
			case v := <-values:
				all = append(all, v)
			default:
				return slices.Compact(all)
			}
		}
	}
}

// watchAvailable begins to watch how many pods of the Deployment are available. The function that it returns ends that,
// and returns the lowest number.
func (o *object) watchAvailable() (lowest func() int32) {
	o.Helper()
	end := watchEach(o, cluster.seen.deployments, func(d *appsv1.Deployment) int32 { return d.Status.AvailableReplicas })
	least := o.deployment().Status.AvailableReplicas
	return func() int32 { return slices.Min(append(end(), least)) }
}
