package kubeclient

import (
	"time"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/belay-dev/belay/internal/slim"
	"github.com/belay-dev/belay/internal/watchhealth"
	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
	"github.com/belay-dev/belay/pkg/generated/clientset/versioned"
	belayinformers "github.com/belay-dev/belay/pkg/generated/informers/externalversions"
)

// owned selects what Belay owns, and labelled that and what is guarded in place, or meant to be.
const owned, labelled = v1alpha1.GuardedLabel + "=true", v1alpha1.GuardedLabel

// Informers returns the factories of the informers that Belay needs: of what it owns, and of what asks for it. How well they
// see is noted in watches. namespace is the only one to watch, empty for all; all says that every Deployment is to be known.
func Informers(watches *watchhealth.Watches, kube kubernetes.Interface, belay versioned.Interface, namespace string, all bool) (informers.SharedInformerFactory, belayinformers.SharedInformerFactory) {
	selector := labelled
	if all {
		selector = ""
	}
	transform := slim.NewTransform()
	kubeFactory := informers.NewSharedInformerFactoryWithOptions(kube, 0, informers.WithTransform(transform))
	belayFactory := belayinformers.NewSharedInformerFactoryWithOptions(belay, 0, belayinformers.WithTransform(transform))
	belayFactory.InformerFor(&v1alpha1.GuardedDeployment{}, func(client versioned.Interface, _ time.Duration) cache.SharedIndexInformer {
		source := watchhealth.Source{Resource: "guardeddeployments", Namespace: namespace, Client: client.BelayV1alpha1().RESTClient()}
		return watchhealth.Informer(watches, source, &v1alpha1.GuardedDeployment{}, client, client.BelayV1alpha1().GuardedDeployments(namespace))
	})
	kubeFactory.InformerFor(&appsv1.Deployment{}, func(client kubernetes.Interface, _ time.Duration) cache.SharedIndexInformer {
		source := watchhealth.Source{Resource: "deployments", Namespace: namespace, Selector: selector, Client: client.AppsV1().RESTClient()}
		return watchhealth.Informer(watches, source, &appsv1.Deployment{}, client, client.AppsV1().Deployments(namespace))
	})
	kubeFactory.InformerFor(&appsv1.ControllerRevision{}, func(client kubernetes.Interface, _ time.Duration) cache.SharedIndexInformer {
		source := watchhealth.Source{Resource: "controllerrevisions", Namespace: namespace, Selector: owned, Client: client.AppsV1().RESTClient()}
		return watchhealth.Informer(watches, source, &appsv1.ControllerRevision{}, client, client.AppsV1().ControllerRevisions(namespace))
	})
	return kubeFactory, belayFactory
}
