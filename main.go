// Command belay rolls failed releases back: it is the controller of GuardedDeployments.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"syscall"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	k8sruntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/events"
	"k8s.io/klog/v2"

	"github.com/belay-dev/belay/pkg/generated/clientset/versioned"
	belayscheme "github.com/belay-dev/belay/pkg/generated/clientset/versioned/scheme"
	belayinformers "github.com/belay-dev/belay/pkg/generated/informers/externalversions"
)

// version is set when a release is built; otherwise it comes from the module or the commit.
var version string

// options are the flags.
type options struct {
	kubeconfig, master, namespace string
	workers, burst                int
	qps                           float64
	version                       bool
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := run(ctx, parseFlags())
	klog.Flush()
	if err != nil && ctx.Err() == nil { // To be stopped is no failure, also in the middle of starting.
		fmt.Fprintln(os.Stderr, "belay:", err)
		os.Exit(1)
	}
}

func parseFlags() options {
	var o options
	flag.StringVar(&o.kubeconfig, "kubeconfig", "", "path of a kubeconfig; default: in-cluster configuration, else $KUBECONFIG, else ~/.kube/config")
	flag.StringVar(&o.master, "master", "", "URL of the API server, instead of the kubeconfig's")
	flag.StringVar(&o.namespace, "namespace", metav1.NamespaceAll, "the only namespace to work in; default: all")
	flag.IntVar(&o.workers, "workers", 16, "how many GuardedDeployments are worked on at the same time")
	flag.Float64Var(&o.qps, "kube-api-qps", -1, "requests per second to the API server; negative: the server's priority and fairness decides")
	flag.IntVar(&o.burst, "kube-api-burst", 100, "how many requests may exceed --kube-api-qps for a moment")
	flag.BoolVar(&o.version, "version", false, "print the version and exit")
	klog.InitFlags(nil)
	flag.Usage = func() {
		fmt.Fprintf(flag.CommandLine.Output(), "belay rolls failed releases back.\n\nUsage: belay [flags]\n\n")
		flag.PrintDefaults()
	}
	flag.Parse()
	return o
}

// run works until ctx is done. An error is one line that says what to do.
func run(ctx context.Context, o options) error {
	if o.version {
		fmt.Println("belay", versionString())
		return nil
	}
	if flag.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q; see belay --help", flag.Arg(0))
	}
	if o.workers < 1 {
		return fmt.Errorf("--workers is %d; it must be at least 1", o.workers)
	}
	config, err := clientConfig(o)
	if err != nil {
		return err
	}
	kube, belay, err := clients(config)
	if err != nil {
		return err
	}
	if err := preflight(ctx, config.Host, o.namespace, kube); err != nil {
		return err
	}

	broadcaster := events.NewBroadcaster(&events.EventSinkImpl{Interface: kube.EventsV1()})
	defer broadcaster.Shutdown()
	scheme := k8sruntime.NewScheme()
	if err := belayscheme.AddToScheme(scheme); err != nil {
		return err
	}
	recorder := broadcaster.NewRecorder(scheme, fieldManager)

	owned := informers.NewSharedInformerFactoryWithOptions(kube, 0, informers.WithNamespace(o.namespace),
		informers.WithTweakListOptions(func(list *metav1.ListOptions) { list.LabelSelector = guardedOnly }))
	guarded := belayinformers.NewSharedInformerFactoryWithOptions(belay, 0, belayinformers.WithNamespace(o.namespace))
	controller, err := NewController(kube, belay, recorder,
		guarded.Belay().V1alpha1().GuardedDeployments(),
		owned.Apps().V1().Deployments(),
		owned.Apps().V1().ControllerRevisions())
	if err != nil {
		return err
	}

	klog.FromContext(ctx).Info("Starting", "version", versionString(), "server", config.Host, "namespace", o.namespace)
	// The informers and the events outlive the workers: what a worker has begun it can finish.
	background, end := context.WithCancel(context.WithoutCancel(ctx))
	defer owned.Shutdown()
	defer guarded.Shutdown()
	defer end()
	if err := broadcaster.StartRecordingToSinkWithContext(background); err != nil {
		return fmt.Errorf("record events: %w", err)
	}
	owned.StartWithContext(background)
	guarded.StartWithContext(background)
	return controller.Run(ctx, o.workers) // as long as one process does this at a time: leader election goes around it
}

// clientConfig returns how to reach the API server: as the flags say, else as a pod is told, else by kubectl's rules.
func clientConfig(o options) (*rest.Config, error) {
	config, err := rest.InClusterConfig()
	if o.kubeconfig != "" || o.master != "" || err != nil {
		rules := clientcmd.NewDefaultClientConfigLoadingRules()
		rules.ExplicitPath = o.kubeconfig
		overrides := &clientcmd.ConfigOverrides{}
		overrides.ClusterInfo.Server = o.master
		config, err = clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, overrides).ClientConfig()
	}
	if clientcmd.IsEmptyConfig(err) {
		return nil, errors.New("no cluster is configured: give --kubeconfig, or set KUBECONFIG, or run in a pod with a service account")
	}
	if err != nil {
		return nil, fmt.Errorf("read the kubeconfig: %w", err)
	}
	config.UserAgent = fmt.Sprintf("%s/%s (%s/%s)", fieldManager, versionString(), runtime.GOOS, runtime.GOARCH)
	config.QPS, config.Burst = float32(o.qps), o.burst
	return config, nil
}

func clients(config *rest.Config) (kubernetes.Interface, versioned.Interface, error) {
	belay, err := versioned.NewForConfig(config)
	if err != nil {
		return nil, nil, fmt.Errorf("use the kubeconfig: %w", err)
	}
	binary := rest.CopyConfig(config)
	binary.ContentType = k8sruntime.ContentTypeProtobuf
	binary.AcceptContentTypes = k8sruntime.ContentTypeProtobuf + "," + k8sruntime.ContentTypeJSON
	kube, err := kubernetes.NewForConfig(binary)
	if err != nil {
		return nil, nil, fmt.Errorf("use the kubeconfig: %w", err)
	}
	return kube, belay, nil
}

func versionString() string {
	if version != "" {
		return version
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	for _, setting := range info.Settings {
		if setting.Key == "vcs.revision" && info.Main.Version == "(devel)" {
			return setting.Value
		}
	}
	return info.Main.Version
}
