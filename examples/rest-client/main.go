// Command rest-client lists the pods of a namespace in pages, or reads a GuardedDeployment, with requests that it puts
// together itself.
//
// Every other client sends its requests through a RESTClient. It is bound to one group and version; it makes the URL,
// tries again when the server asks for that, decodes the answer, and turns a refusal into an error. Use it for what the
// other clients have no method for. For anything else they are better: here a wrong path, or a resource that does not fit
// the type it is decoded into, is found by nobody but the server.
//
// A large list is better read in pages: a limit, and the token of the last page for the next one. All pages show the list
// as it was at the first, for as long as the server remembers that: some minutes. Who takes longer gets 410, at any page.
// k8s.io/client-go/tools/pager does all this; here it is done by hand, to be seen.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"

	"github.com/belay-dev/belay/examples/internal/start"
	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
	belayscheme "github.com/belay-dev/belay/pkg/generated/clientset/versioned/scheme"
)

const (
	timeout    = 30 * time.Second // of one request
	mostExpiry = 3                // how often a list may expire before it is given up
)

func main() {
	size := flag.Int64("page-size", 100, "how many pods to ask for at once; 0: all")
	guarded := flag.String("guarded", "", "show this GuardedDeployment, instead of the pods")
	start.Main("lists the pods of a namespace in pages, or reads a GuardedDeployment.", func(ctx context.Context, config start.Config) error {
		config.Timeout = timeout
		if *guarded != "" {
			return show(ctx, config, *guarded)
		}
		if *size < 0 {
			return fmt.Errorf("--page-size is %d; it must not be negative", *size)
		}
		return list(ctx, config, *size)
	})
}

// clientFor returns a client for one group and version. The core group alone is below /api, all others are below /apis.
func clientFor(config start.Config, version schema.GroupVersion, path string, codecs serializer.CodecFactory) (rest.Interface, error) {
	own := rest.CopyConfig(config.Config)
	own.GroupVersion, own.APIPath, own.NegotiatedSerializer = &version, path, codecs.WithoutConversion()
	return rest.RESTClientFor(own)
}

// list prints the pods once it has them all: a list that had to be begun again would show some of them twice.
func list(ctx context.Context, config start.Config, size int64) error {
	client, err := clientFor(config, corev1.SchemeGroupVersion, "/api", scheme.Codecs)
	if err != nil {
		return err
	}
	var rows []string
	options := metav1.ListOptions{Limit: size}
	for pages, expired := 1, 0; ; {
		page := &corev1.PodList{}
		err := client.Get().Namespace(config.Namespace).Resource("pods").
			VersionedParams(&options, scheme.ParameterCodec).Do(ctx).Into(page)
		if apierrors.IsResourceExpired(err) && options.Continue != "" && expired < mostExpiry {
			expired++
			if options.Continue = goOn(err); options.Continue == "" {
				rows, pages = nil, 1
			}
			continue
		}
		if err != nil {
			return err
		}
		for _, pod := range page.Items {
			rows = append(rows, fmt.Sprintf("%s\t%s\t%s\n", pod.Name, pod.Status.Phase, pod.Status.PodIP))
		}
		if options.Continue = page.Continue; options.Continue == "" {
			table := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
			fmt.Fprintf(table, "NAME\tPHASE\tIP\n%s", strings.Join(rows, ""))
			err := table.Flush()
			fmt.Printf("%d pods in %d pages\n", len(rows), pages)
			return err
		}
		pages++
	}
}

// goOn returns the token that an expired list can be continued with, if the error brings one. What follows is then the
// rest of a later list: a pod that came meanwhile may be in it, one that went may be missing; none is seen twice.
func goOn(expired error) (token string) {
	if status := apierrors.APIStatus(nil); errors.As(expired, &status) {
		token = status.Status().ListMeta.Continue
	}
	if token == "" {
		fmt.Fprintln(os.Stderr, "the list has expired: it is begun again")
	} else {
		fmt.Fprintln(os.Stderr, "the list has expired: the rest is as of now")
	}
	return token
}

func show(ctx context.Context, config start.Config, name string) error {
	client, err := clientFor(config, schema.GroupVersion(v1alpha1.GroupVersion), "/apis", belayscheme.Codecs)
	if err != nil {
		return err
	}
	guarded := &v1alpha1.GuardedDeployment{}
	err = client.Get().Namespace(config.Namespace).Resource("guardeddeployments").Name(name).Do(ctx).Into(guarded)
	// A missing kind is a 404, too. It comes from no API, and so without a Status.
	if apierrors.IsNotFound(err) && apierrors.HasStatusCause(err, metav1.CauseTypeUnexpectedServerResponse) {
		return fmt.Errorf("%w; install Belay's CRD: kubectl apply -f artifacts/crd.yaml", err)
	}
	if err != nil {
		return err
	}
	ready := "not reported yet"
	if c := meta.FindStatusCondition(guarded.Status.Conditions, v1alpha1.ConditionReady); c != nil {
		ready = fmt.Sprintf("%s, %s: %s", c.Status, c.Reason, c.Message)
	}
	table := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintf(table, "ready\t%s\n", ready)
	fmt.Fprintf(table, "wanted\t%s\n", guarded.Status.TargetRevision)
	fmt.Fprintf(table, "running\t%s\n", guarded.Status.RunningRevision)
	fmt.Fprintf(table, "good\t%s\n", guarded.Status.GoodRevision)
	return table.Flush()
}
