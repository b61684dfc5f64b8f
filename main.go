// Command belay rolls failed releases back: it is the controller of GuardedDeployments.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"runtime/debug"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	k8sruntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/events"
	"k8s.io/client-go/tools/leaderelection"
	logsapi "k8s.io/component-base/logs/api/v1"
	"k8s.io/component-base/metrics"
	"k8s.io/component-base/metrics/legacyregistry"
	"k8s.io/klog/v2"

	"github.com/belay-dev/belay/internal/evidence"
	"github.com/belay-dev/belay/internal/gc"
	"github.com/belay-dev/belay/internal/guard"
	"github.com/belay-dev/belay/internal/inplace"
	"github.com/belay-dev/belay/internal/kubeclient"
	"github.com/belay-dev/belay/internal/leader"
	"github.com/belay-dev/belay/internal/logging"
	"github.com/belay-dev/belay/internal/preflight"
	"github.com/belay-dev/belay/internal/releases"
	"github.com/belay-dev/belay/internal/serve"
	"github.com/belay-dev/belay/internal/telemetry"
	"github.com/belay-dev/belay/internal/watchhealth"
	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
	"github.com/belay-dev/belay/pkg/generated/clientset/versioned"
	belayscheme "github.com/belay-dev/belay/pkg/generated/clientset/versioned/scheme"
)

// stopTimeout bounds the wait for the informers and the broadcaster to end. A reflector that was refused waits for up to 30 s
// until it tries again, and does not hear of the end meanwhile.
const stopTimeout = 2 * time.Second

// version is set when a release is built; otherwise it comes from the module or the commit.
var version string

// options are the flags.
type options struct {
	kubeconfig, master, namespace string
	workers, burst                int
	qps                           float64
	leaderElect                   bool
	leaseNamespace                string
	healthAddress, metricsAddress string
	certFile, keyFile             string
	inPlace                       inplace.Options
	profiling, version            bool
	logging                       *logsapi.LoggingConfiguration
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	o := parseFlags()
	say := func(err error) { fmt.Fprintln(logging.OneLine(os.Stderr), "belay:", err) }
	err := logging.Start(o.logging)
	if err == nil {
		if o.logging.Format == logsapi.JSONLogFormat {
			say = func(err error) { klog.FromContext(ctx).Error(err, "Ended") }
		}
		err = run(ctx, o)
	}
	failed := err != nil && ctx.Err() == nil // To be stopped is no failure, also in the middle of starting.
	if failed {
		say(err)
	}
	klog.Flush()
	if failed {
		os.Exit(1)
	}
}

func parseFlags() options {
	var o options
	flag.StringVar(&o.kubeconfig, "kubeconfig", "", "path of a kubeconfig; default: in-cluster configuration, else $KUBECONFIG, else ~/.kube/config")
	flag.StringVar(&o.master, "master", "", "URL of the API server, instead of the kubeconfig's")
	flag.StringVar(&o.namespace, "namespace", metav1.NamespaceAll, "the only namespace to work in; default: all")
	flag.IntVar(&o.workers, "workers", 16, "how many GuardedDeployments and Deployments guarded in place are worked on at the same time")
	flag.Float64Var(&o.qps, "kube-api-qps", -1, "requests per second to the API server; negative: the server's priority and fairness decides")
	flag.IntVar(&o.burst, "kube-api-burst", 100, "how many requests may exceed --kube-api-qps for a moment")
	flag.BoolVar(&o.leaderElect, "leader-elect", false, "work only while holding the Lease \""+leader.LeaseName+"\", so that several processes may run")
	flag.StringVar(&o.leaseNamespace, "leader-elect-namespace", leader.PodNamespace(), "the namespace of the Lease; default: that of the pod")
	flag.Func("guard-defaults", "fields of spec.guard, as JSON or YAML, for Deployments that are guarded in place: what neither they nor their Namespaces set with the annotation "+v1alpha1.GuardAnnotation, func(text string) (err error) {
		o.inPlace.Defaults, err = inplace.ParseSettings(text)
		return err
	})
	flag.Func("guard-all-deployments", "a trial of a whole cluster, or of --namespace: \"observe\" judges the releases of all Deployments without the label "+v1alpha1.GuardedLabel+", by Events and metrics, and writes nothing else; \"on\" guards them in place; neither those in kube-system nor in Namespaces with that label and the value false", func(text string) (err error) {
		o.inPlace.Others, err = inplace.ParseOthers(text)
		return err
	})
	flag.StringVar(&o.healthAddress, "health-address", "", "host:port to serve /livez and /readyz on, for example :8081; default: not at all")
	flag.StringVar(&o.metricsAddress, "metrics-address", "", "host:port to serve /metrics on: with HTTPS, to whom the API server allows it, for example :8443; plain on a loopback address; default: not at all")
	flag.StringVar(&o.certFile, "tls-cert-file", "", "certificate for --metrics-address; default: a self-signed one, made at start")
	flag.StringVar(&o.keyFile, "tls-private-key-file", "", "key of the certificate")
	flag.BoolVar(&o.profiling, "profiling", false, "serve /debug/pprof/, too, on --metrics-address")
	flag.BoolVar(&o.version, "version", false, "print the version and exit")
	o.logging = logging.Flags()
	flag.Usage = func() {
		fmt.Fprintf(flag.CommandLine.Output(), "belay rolls failed releases back.\n\nUsage: belay [flags]\n\n")
		flag.PrintDefaults()
	}
	flag.Parse()
	return o
}

// check returns an error that says which flag to give otherwise.
func (o *options) check() error {
	if flag.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q; see belay --help", flag.Arg(0))
	}
	if o.workers < 1 {
		return fmt.Errorf("--workers is %d; it must be at least 1", o.workers)
	}
	if o.leaderElect && o.leaseNamespace == "" {
		return errors.New("--leader-elect needs --leader-elect-namespace, outside of a pod: the one that all who take part have the Lease in")
	}
	if (o.certFile == "") != (o.keyFile == "") {
		return errors.New("--tls-cert-file and --tls-private-key-file go together")
	}
	for name, address := range map[string]string{"--health-address": o.healthAddress, "--metrics-address": o.metricsAddress} {
		if _, err := serve.IsLoopback(address); address != "" && err != nil {
			return fmt.Errorf("%s is %q; it must be host:port or :port: %w", name, address, err)
		}
	}
	return nil
}

// client returns how to reach the API server with these flags.
func (o *options) client() kubeclient.Options {
	return kubeclient.Options{Kubeconfig: o.kubeconfig, Master: o.master, QPS: float32(o.qps), Burst: o.burst, Agent: guard.FieldManager, Version: versionString()}
}

// preflight returns what has to be there for these flags.
func (o *options) preflight() preflight.Config {
	config := preflight.Config{Namespace: o.namespace, Reviews: o.reviewsReaders(), Wait: o.healthAddress != ""}
	if o.leaderElect {
		config.LeaseNamespace, config.LeaseName = o.leaseNamespace, leader.LeaseName
	}
	return config
}

// reviewsReaders reports whether the metrics are served to others than this machine: then the API server decides who may read them.
func (o *options) reviewsReaders() bool {
	loopback, err := serve.IsLoopback(o.metricsAddress)
	return o.metricsAddress != "" && err == nil && !loopback
}

// run works until ctx is done. An error is one line that says what to do.
func run(ctx context.Context, o options) error {
	if o.version {
		fmt.Println("belay", versionString())
		return nil
	}
	if err := o.check(); err != nil {
		return err
	}
	config, err := kubeclient.Config(o.client())
	if err != nil {
		return err
	}
	// What runs in the background outlives the workers: what they have begun they can finish.
	background, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	go gc.ReturnMemory(background)
	if os.Getenv("GOGC") == "" {
		go gc.Adapt(background)
	}
	health := &serve.Health{}
	health.Set(nil, func() error { return errors.New("starting") })
	if o.healthAddress != "" {
		if err := serve.Serve(background, o.healthAddress, nil, serve.Timeout, health); err != nil {
			return err
		}
	}
	kube, _, err := kubeclient.New(config, kubeclient.RequestTimeout, nil)
	if err != nil {
		return err
	}
	if err := preflight.Run(ctx, config.Host, kube, o.preflight(), func(why error) { health.Set(nil, func() error { return why }) }); err != nil {
		return err
	}
	var fence *leader.Fence
	if o.leaderElect {
		fence = &leader.Fence{}
	}
	all, err := newClients(config, fence)
	if err != nil {
		return err
	}
	process, err := start(background, all, o)
	if err != nil {
		return err
	}
	defer process.stop()
	defer end() // before that
	watchdog := leaderelection.NewLeaderHealthzAdaptor(leader.RenewDeadline)
	health.Set(func() error { return errors.Join(watchdog.Check(nil), process.Alive()) },
		func() error { return errors.Join(process.Ready(), process.watches.Ready()) })
	if o.metricsAddress != "" {
		if err := serveMetrics(background, o, kube, process.counted); err != nil {
			return err
		}
	}
	klog.FromContext(ctx).Info("Starting", "version", versionString(), "server", config.Host, "namespace", o.namespace, "guardAllDeployments", o.inPlace.Others)
	work := func(ctx context.Context) error { return process.Run(ctx, o.workers) }
	if fence == nil {
		return process.watches.While(ctx, work)
	}
	return process.watches.While(ctx, func(ctx context.Context) error { // Also those who wait for the Lease have seen what is gone.
		return elect(ctx, config, o.leaseNamespace, fence, watchdog, work)
	})
}

// elect does work while this process is the leader.
func elect(ctx context.Context, config *rest.Config, namespace string, fence *leader.Fence, watchdog *leaderelection.HealthzAdaptor, work func(context.Context) error) error {
	kube, _, err := kubeclient.New(config, leader.RenewDeadline/2, nil) // It shares no limit of --kube-api-qps with anything.
	if err != nil {
		return err
	}
	lease, err := leader.NewLease(kube, namespace)
	if err != nil {
		return err
	}
	return leader.Lead(ctx, lease, fence, watchdog, work)
}

// clients are the clients of a process: with kube and belay the workers read and write, the others fill the caches.
type clients struct {
	kube, kubeWatches   kubernetes.Interface
	belay, belayWatches versioned.Interface
}

// newClients returns clients whose writes pass the fence, unless it is nil.
func newClients(config *rest.Config, fence *leader.Fence) (c clients, err error) {
	var wrap func(http.RoundTripper) http.RoundTripper
	if fence != nil {
		wrap = fence.Around
	}
	if c.kube, c.belay, err = kubeclient.New(config, kubeclient.RequestTimeout, wrap); err != nil {
		return c, err
	}
	c.kubeWatches, c.belayWatches, err = kubeclient.New(config, 0, nil)
	return c, err
}

// process is everything that runs beside the workers, and what they need.
type process struct {
	*Controller
	watches *watchhealth.Watches
	counted metrics.KubeRegistry  // what it counts itself
	sweep   func(context.Context) // ends, now and then, what is held without a reason
	stop    func()                // ends the rest, when the workers have ended and background is over
}

// Run works until ctx is done, as the one process that does.
func (p *process) Run(ctx context.Context, workers int) error {
	var sweeping sync.WaitGroup
	defer sweeping.Wait()
	sweeping.Go(func() {
		if cache.WaitFor(ctx, "", p.synced...) { // The Controller, which waits for the same, says so.
			p.sweep(ctx)
		}
	})
	return p.Controller.Run(ctx, workers)
}

// start wires and starts the informers, the sink of Events and the metrics.
func start(background context.Context, c clients, o options) (*process, error) {
	watches := watchhealth.New(watchhealth.Undecodable)
	owned, guarded := kubeclient.Informers(watches, c.kubeWatches, c.belayWatches, o.namespace, o.inPlace.Others != inplace.OthersNot)
	objects, deployments, revisions := guarded.Belay().V1alpha1().GuardedDeployments(), owned.Apps().V1().Deployments(), owned.Apps().V1().ControllerRevisions()
	scheme := k8sruntime.NewScheme()
	if err := belayscheme.AddToScheme(scheme); err != nil {
		return nil, err
	}
	releaseMetrics, controllerMetrics := releases.NewMetrics(), telemetry.NewMetrics()
	broadcaster := events.NewBroadcaster(&telemetry.EventSink{EventSink: &events.EventSinkImpl{Interface: c.kube.EventsV1()}, Dropped: controllerMetrics.EventsDropped, Final: leader.ErrFenced})
	recorder, reader := broadcaster.NewRecorder(scheme, guard.FieldManager), evidence.New(c.kube)
	reconciler, err := guard.New(c.kube, reader, c.belay, recorder, releaseMetrics.Of(releases.Guarded), objects, deployments, revisions)
	if err != nil {
		return nil, err
	}
	inPlace := inplace.New(c.kube, reader, recorder, releaseMetrics.Of(releases.InPlace), o.inPlace, deployments)
	controller, err := NewController(Both(reconciler.Reconcile, inPlace.Reconcile), inPlace.ReportStandstill(reconciler.ReportStandstill), controllerMetrics, objects, deployments, revisions)
	if err != nil {
		return nil, err
	}
	p := &process{Controller: controller, watches: watches, counted: metrics.NewKubeRegistry()}
	p.sweep = func(ctx context.Context) { inPlace.Sweep(ctx, o.namespace) }
	controllerMetrics.Register(p.counted, versionString())
	releaseMetrics.Register(p.counted)
	p.counted.CustomMustRegister(guard.States(objects.Lister()), inPlace.States())
	watches.Register(p.counted)
	if err := broadcaster.StartRecordingToSinkWithContext(background); err != nil {
		return nil, fmt.Errorf("record events: %w", err)
	}
	owned.StartWithContext(background)
	guarded.StartWithContext(background)
	go watches.Run(background)
	p.stop = func() {
		stopped := make(chan struct{})
		go func() { owned.Shutdown(); guarded.Shutdown(); broadcaster.Shutdown(); close(stopped) }()
		select {
		case <-stopped:
		case <-time.After(stopTimeout):
		}
	}
	return p, nil
}

// serveMetrics serves what is counted until ctx is done.
func serveMetrics(ctx context.Context, o options, kube kubernetes.Interface, counted prometheus.Gatherer) error {
	all := prometheus.Gatherers{legacyregistry.DefaultGatherer, counted}
	handler, timeout := serve.Metrics(all, o.profiling), serve.Timeout
	if o.profiling {
		timeout = serve.ProfileTimeout
	}
	if !o.reviewsReaders() {
		return serve.Serve(ctx, o.metricsAddress, nil, timeout, handler)
	}
	certificate, err := serve.Encryption(o.certFile, o.keyFile)
	if err != nil {
		return err
	}
	return serve.Serve(ctx, o.metricsAddress, certificate, timeout, serve.Authorized(kube, handler))
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
