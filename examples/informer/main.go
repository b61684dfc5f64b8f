// Command informer tells which Services lead to which Deployments, and goes on telling, without asking the server again.
//
// An informer lists one kind of object, watches it, and keeps what it has seen in memory. One factory makes one informer
// of each kind for the whole process: who asks for Deployments twice gets the same cache, and the server sends everything
// once. Reads go through a lister (by name) or an index (by whatever a function makes of an object), cost well under a
// microsecond, and return the cached object itself: DeepCopy it before you change it.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"text/tabwriter"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	appsinformers "k8s.io/client-go/informers/apps/v1"
	coreinformers "k8s.io/client-go/informers/core/v1"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/belay-dev/belay/examples/internal/start"
)

// byPodLabel indexes Deployments by each label of their pods, as "key=value".
const byPodLabel = "pod label"

func main() {
	start.Main("tells which Services lead to which Deployments, until it is interrupted.", run)
}

func run(ctx context.Context, config start.Config) error {
	client, err := kubernetes.NewForConfig(config.Config)
	if err != nil {
		return err
	}
	if err := errors.Join(
		start.Probe(ctx, client.AppsV1().Deployments(config.Namespace).List),
		start.Probe(ctx, client.CoreV1().Services(config.Namespace).List),
	); err != nil {
		return err
	}
	// No resync: it would repeat what is known, not ask the server. The transform drops what nobody reads before it is
	// cached, here the managed fields: a fifth of the memory, or more.
	factory := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithNamespace(config.Namespace), informers.WithTransform(withoutManagedFields))
	deployments, services := factory.Apps().V1().Deployments(), factory.Core().V1().Services()
	if err := deployments.TypedInformer().AddTypedIndexers(appsinformers.DeploymentIndexers{byPodLabel: podLabels}); err != nil {
		return err
	}
	// A handler hears of one change after the other. While it takes long, what it has not heard yet piles up in memory,
	// without a bound. These print a line. What takes longer, or may fail, adds a key to a queue (see ../workqueue).
	heardDeployments, err := deployments.TypedInformer().AddTypedEventHandler(appsinformers.DeploymentHandlerFuncs{
		AddFunc: func(d *appsv1.Deployment) { fmt.Printf("Deployment %s: %s\n", d.Name, ready(d)) },
		UpdateFunc: func(before, d *appsv1.Deployment) {
			if ready(before) != ready(d) {
				fmt.Printf("Deployment %s: %s, was %s\n", d.Name, ready(d), ready(before))
			}
		},
		// The last state may have been missed; the name is always known.
		DeleteFunc: func(d appsinformers.DeletedDeployment) { fmt.Printf("Deployment %s: gone\n", d.GetObjectName().Name) },
	})
	if err != nil {
		return err
	}
	heardServices, err := services.TypedInformer().AddTypedEventHandler(coreinformers.ServiceHandlerFuncs{
		AddFunc:    func(s *corev1.Service) { fmt.Printf("Service %s\n", s.Name) },
		DeleteFunc: func(s coreinformers.DeletedService) { fmt.Printf("Service %s: gone\n", s.GetObjectName().Name) },
	})
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	factory.StartWithContext(ctx)
	defer factory.Shutdown() // It waits for the informers, and they end when ctx does.
	defer stop()
	if err := start.Sync(ctx, heardDeployments, heardServices); err != nil {
		return err
	}
	if err := report(services.Lister().Services(config.Namespace), deployments.TypedInformer().GetTypedIndexer()); err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}

// report prints what is in the caches.
func report(services corelisters.ServiceNamespaceLister, deployments cache.TypedIndexer[*appsv1.Deployment]) error {
	all, err := services.List(labels.Everything())
	if err != nil {
		return err
	}
	slices.SortFunc(all, func(a, b *corev1.Service) int { return strings.Compare(a.Name, b.Name) })
	table := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintf(table, "\nSERVICE\tIP\tDEPLOYMENTS\n")
	for _, service := range all {
		found, err := behind(service, deployments)
		if err != nil {
			return err
		}
		fmt.Fprintf(table, "%s\t%s\t%s\n", service.Name, service.Spec.ClusterIP, found)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	bytes, cached := 0, deployments.List()
	for _, d := range cached {
		bytes += d.(*appsv1.Deployment).Size()
	}
	fmt.Printf("cached: %d Deployments (%d bytes as they were sent), %d Services; from here on the server sends changes only\n",
		len(cached), bytes, len(all))
	return nil
}

// behind returns the Deployments whose pods the Service sends to: those in the index under one of the labels that it
// selects, if they have the others, too.
func behind(service *corev1.Service, deployments cache.TypedIndexer[*appsv1.Deployment]) (string, error) {
	var names []string
	for key, value := range service.Spec.Selector {
		candidates, err := deployments.ByTypedIndex(byPodLabel, key+"="+value)
		if err != nil {
			return "", err
		}
		for _, d := range candidates {
			if labels.SelectorFromSet(service.Spec.Selector).Matches(labels.Set(d.Spec.Template.Labels)) {
				names = append(names, d.Name)
			}
		}
		break
	}
	slices.Sort(names)
	if len(names) == 0 {
		return "none", nil
	}
	return strings.Join(names, ", "), nil
}

func podLabels(d *appsv1.Deployment) (values []string, err error) {
	for key, value := range d.Spec.Template.Labels {
		values = append(values, key+"="+value)
	}
	return values, nil
}

func withoutManagedFields(object any) (any, error) {
	if accessor, err := meta.Accessor(object); err == nil {
		accessor.SetManagedFields(nil)
	}
	return object, nil
}

func ready(d *appsv1.Deployment) string {
	return fmt.Sprintf("%d of %d ready", d.Status.ReadyReplicas, *d.Spec.Replicas)
}
