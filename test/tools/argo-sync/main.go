// Command argo-sync syncs the manifests of its standard input and waits until they are healthy, as Argo CD does and with the
// code that it does so with.
package main

import (
	"context"
	"flag"
	"io"
	"os"
	"time"

	"github.com/argoproj/argo-cd/gitops-engine/pkg/cache"
	"github.com/argoproj/argo-cd/gitops-engine/pkg/utils/kube"
	"github.com/argoproj/argo-cd/gitops-engine/pkg/utils/tracing"
	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/tools/clientcmd"
)

func main() {
	kubeconfig := flag.String("kubeconfig", "", "of the cluster")
	namespace := flag.String("namespace", "default", "of the manifests")
	timeout := flag.Duration("timeout", time.Minute, "how long to wait")
	serverSide := flag.Bool("server-side", false, "apply and compare server-side")
	flag.Parse()
	ctx, cancel := context.WithTimeout(context.Background(), *timeout)
	defer cancel()
	exit(run(ctx, *kubeconfig, *namespace, *serverSide))
}

func run(ctx context.Context, kubeconfig, namespace string, serverSide bool) (*outcome, error) {
	a, err := newApplication(kubeconfig, namespace, serverSide)
	if err != nil {
		return nil, err
	}
	defer a.cache.Invalidate()
	began := time.Now()
	phase, message, err := a.sync(ctx)
	if err != nil {
		return nil, err
	}
	o := &outcome{Applied: string(phase), Words: message}
	if phase.Successful() {
		if o.Healthy, o.Words, err = a.wait(ctx); err != nil {
			return nil, err
		}
	}
	o.Seconds = time.Since(began).Seconds()
	o.Difference, err = a.difference()
	return o, err
}

func newApplication(kubeconfig, namespace string, serverSide bool) (*application, error) {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, err
	}
	config.QPS = -1 // It asks for every kind that the API server has.
	manifests, err := io.ReadAll(os.Stdin)
	if err != nil {
		return nil, err
	}
	targets, err := kube.SplitYAML(manifests)
	if err != nil {
		return nil, err
	}
	for _, target := range targets {
		target.SetNamespace(namespace)
	}
	a := &application{
		config: config, namespace: namespace, serverSide: serverSide, targets: targets,
		kubectl: &kube.KubectlCmd{Log: logr.Discard(), Tracer: tracing.NopTracer{}},
	}
	a.cache = cache.NewClusterCache(config, cache.SetLogr(logr.Discard()), cache.SetKubectl(a.kubectl),
		cache.SetNamespaces([]string{namespace}),
		cache.SetPopulateResourceInfoHandler(func(*unstructured.Unstructured, bool) (info any, keep bool) { return nil, true }))
	return a, a.cache.EnsureSynced()
}
