package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"runtime"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	k8sruntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
	"github.com/belay-dev/belay/pkg/generated/clientset/versioned"
	belayinformers "github.com/belay-dev/belay/pkg/generated/informers/externalversions"
)

const (
	// requestTimeout bounds every request of the workers and of the metrics.
	requestTimeout = 15 * time.Second
	// listTimeout bounds a list of the informers, in seconds: ten thousand objects take a while. A watch has its own.
	listTimeout = int64(60)
	// A connection on which nothing comes in for readIdle seconds is tried, and given up pingTimeout seconds later: a
	// server that is gone without a word is noticed within both. client-go has 30 and 15, and no other way to say so.
	readIdle, pingTimeout = "10", "5"
)

// clientConfig returns how to reach the API server: as the flags say, else as a pod is told, else by kubectl's rules.
func clientConfig(o options) (*rest.Config, error) {
	config, err := rest.InClusterConfig()
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	if o.kubeconfig != "" || o.master != "" || err != nil {
		rules.ExplicitPath = o.kubeconfig
		overrides := &clientcmd.ConfigOverrides{}
		overrides.ClusterInfo.Server = o.master
		config, err = clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, overrides).ClientConfig()
	}
	if clientcmd.IsEmptyConfig(err) {
		return nil, fmt.Errorf("no cluster is configured, there is none in %s: give --kubeconfig, or set KUBECONFIG, or run in a pod with a service account",
			strings.Join(rules.GetLoadingPrecedence(), ", "))
	}
	if err != nil {
		return nil, fmt.Errorf("read the kubeconfig: %w", err)
	}
	config.UserAgent = fmt.Sprintf("%s/%s (%s/%s)", fieldManager, versionString(), runtime.GOOS, runtime.GOARCH)
	config.QPS, config.Burst = float32(o.qps), o.burst
	for name, value := range map[string]string{"HTTP2_READ_IDLE_TIMEOUT_SECONDS": readIdle, "HTTP2_PING_TIMEOUT_SECONDS": pingTimeout} {
		if os.Getenv(name) == "" {
			if err := os.Setenv(name, value); err != nil {
				return nil, err
			}
		}
	}
	return config, nil
}

// clients returns clients whose requests take at most timeout, 0 for as long as they may, and go through wrap unless it
// is nil.
func clients(config *rest.Config, timeout time.Duration, wrap func(http.RoundTripper) http.RoundTripper) (kubernetes.Interface, versioned.Interface, error) {
	config = rest.CopyConfig(config)
	config.Timeout = timeout
	if wrap != nil {
		config.Wrap(wrap)
	}
	belay, err := versioned.NewForConfig(config)
	if err != nil {
		return nil, nil, fmt.Errorf("use the kubeconfig: %w", err)
	}
	config.ContentType = k8sruntime.ContentTypeProtobuf
	config.AcceptContentTypes = k8sruntime.ContentTypeProtobuf + "," + k8sruntime.ContentTypeJSON
	kube, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, nil, fmt.Errorf("use the kubeconfig: %w", err)
	}
	return kube, belay, nil
}

// caches returns the factories of the informers that belay needs: of what it owns, and of what asks for it. How well they
// see is noted in s.
func caches(s *sights, kube kubernetes.Interface, belay versioned.Interface, namespace string) (informers.SharedInformerFactory, belayinformers.SharedInformerFactory) {
	slim := newSlimmer().slim
	owned := informers.NewSharedInformerFactoryWithOptions(kube, 0, informers.WithTransform(slim))
	guarded := belayinformers.NewSharedInformerFactoryWithOptions(belay, 0, belayinformers.WithTransform(slim))
	ours := func(list *metav1.ListOptions) { list.LabelSelector = guardedOnly; bounded(list) }
	guarded.InformerFor(&v1alpha1.GuardedDeployment{}, func(client versioned.Interface, _ time.Duration) cache.SharedIndexInformer {
		return informer(s, "guardeddeployments", &v1alpha1.GuardedDeployment{}, client, client.BelayV1alpha1().GuardedDeployments(namespace), bounded)
	})
	owned.InformerFor(&appsv1.Deployment{}, func(client kubernetes.Interface, _ time.Duration) cache.SharedIndexInformer {
		return informer(s, "deployments", &appsv1.Deployment{}, client, client.AppsV1().Deployments(namespace), ours)
	})
	owned.InformerFor(&appsv1.ControllerRevision{}, func(client kubernetes.Interface, _ time.Duration) cache.SharedIndexInformer {
		return informer(s, "controllerrevisions", &appsv1.ControllerRevision{}, client, client.AppsV1().ControllerRevisions(namespace), ours)
	})
	return owned, guarded
}

// undecodable returns how to search what the caches hold for objects that cannot be decoded.
func undecodable(kube kubernetes.Interface, belay versioned.Interface, namespace string) func(context.Context, string) ([]string, error) {
	apps := searched{client: kube.AppsV1().RESTClient(), namespace: namespace, selector: guardedOnly}
	return func(ctx context.Context, resource string) ([]string, error) {
		in := apps
		switch in.resource = resource; resource {
		case "guardeddeployments":
			in.client, in.selector = belay.BelayV1alpha1().RESTClient(), ""
			in.list = func() objectList { return &v1alpha1.GuardedDeploymentList{} }
		case "deployments":
			in.list = func() objectList { return &appsv1.DeploymentList{} }
		default:
			in.list = func() objectList { return &appsv1.ControllerRevisionList{} }
		}
		return in.undecodable(ctx)
	}
}

// bounded gives a list its timeout. A watch comes with one.
func bounded(list *metav1.ListOptions) {
	if list.TimeoutSeconds == nil {
		list.TimeoutSeconds = new(listTimeout)
	}
}
