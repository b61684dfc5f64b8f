// Command flux-apply applies the manifests of its standard input and waits for them, as Flux's kustomize-controller does and
// with the code that it does so with.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/fluxcd/cli-utils/pkg/kstatus/polling"
	"github.com/fluxcd/pkg/ssa"
	"github.com/fluxcd/pkg/ssa/normalize"
	"github.com/fluxcd/pkg/ssa/utils"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// pollEvery is how often the applied objects are looked at, for the first time at once. Flux does it every 5 seconds; more
// often sees more.
const pollEvery = 500 * time.Millisecond

func main() {
	kubeconfig := flag.String("kubeconfig", "", "of the cluster")
	namespace := flag.String("namespace", "default", "of the Kustomization that the manifests are said to be of")
	timeout := flag.Duration("timeout", time.Minute, "how long to wait")
	flag.Parse()
	exit(run(context.Background(), *kubeconfig, *namespace, *timeout))
}

func run(ctx context.Context, kubeconfig, namespace string, timeout time.Duration) (*outcome, error) {
	manager, err := newManager(kubeconfig)
	if err != nil {
		return nil, err
	}
	objects, err := read(os.Stdin)
	if err != nil {
		return nil, err
	}
	manager.SetOwnerLabels(objects, "app", namespace)

	began := time.Now()
	changes, err := manager.ApplyAll(ctx, objects, ssa.DefaultApplyOptions())
	if err != nil {
		return nil, err
	}
	o := &outcome{Applied: actions(changes), Healthy: true}
	wait := ssa.WaitOptions{Interval: pollEvery, Timeout: timeout, FailFast: true}
	if err := manager.WaitForSetWithContext(ctx, changes.ToObjMetadataSet(), wait); err != nil {
		o.Healthy, o.Words = false, err.Error()
	}
	o.Seconds = time.Since(began).Seconds()
	o.Difference, err = difference(ctx, manager, objects)
	return o, err
}

func newManager(kubeconfig string) (*ssa.ResourceManager, error) {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, err
	}
	c, err := client.New(config, client.Options{})
	if err != nil {
		return nil, err
	}
	poller := polling.NewStatusPoller(c, c.RESTMapper(), polling.Options{})
	return ssa.NewResourceManager(c, poller, ssa.Owner{Field: "kustomize-controller", Group: "kustomize.toolkit.fluxcd.io"}), nil
}

func read(manifests io.Reader) ([]*unstructured.Unstructured, error) {
	objects, err := utils.ReadObjects(manifests)
	if err != nil {
		return nil, err
	}
	return objects, normalize.UnstructuredList(objects)
}

// actions returns what was done to each object.
func actions(changes *ssa.ChangeSet) string {
	var done []string
	for _, entry := range changes.Entries {
		done = append(done, entry.Action.String())
	}
	return strings.Join(done, ", ")
}

// difference returns each object that another apply would change: its name, what it is, and what it would be.
func difference(ctx context.Context, manager *ssa.ResourceManager, objects []*unstructured.Unstructured) (texts []string, err error) {
	for _, object := range objects {
		change, is, would, err := manager.Diff(ctx, object, ssa.DefaultDiffOptions())
		if err != nil {
			return nil, err
		}
		name := object.GetKind() + "/" + object.GetName()
		switch change.Action {
		case ssa.UnchangedAction:
		case ssa.ConfiguredAction:
			texts = append(texts, fmt.Sprintf("%s\n%s---\n%s", name, utils.ObjectToYAML(is), utils.ObjectToYAML(would)))
		default:
			texts = append(texts, fmt.Sprintf("%s\n%s", name, change.Action))
		}
	}
	return texts, nil
}
