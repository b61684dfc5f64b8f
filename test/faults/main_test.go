package faults

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilrand "k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/client-go/kubernetes"
	kubescheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/belay-dev/belay/pkg/generated/clientset/versioned"
	belayscheme "github.com/belay-dev/belay/pkg/generated/clientset/versioned/scheme"
)

const (
	root     = "../.." // of the repository
	runLabel = "faults.belay.dev/run"
)

var (
	storiesFlag = flag.Int("stories", 150, "how many stories to tell with a fault, chosen by -seed; 0 for all")
	seedFlag    = flag.Uint64("seed", 0, "what the choice follows from; 0 for another one each time")
	storyFlag   = flag.String("story", "", "tell these stories only, a regular expression, with every fault at every request to choose from")
	faultFlag   = flag.String("fault", "", "try these faults only, likewise")
	atFlag      = flag.Int("at", 0, "try them at this request only")
	patience    = flag.Duration("patience", 150*time.Second, "how long to wait for anything: the longest fault takes a minute, and belay tries again within another half")
	writeFlag   = flag.Bool("write", false, "write what the tests have to tell into docs/reliability.md")
	serverFlag  = flag.Bool("server", false, "tell all stories while the API server and etcd of the cluster are killed and started again, too")
	sourceFlag  = flag.String("source", root, "the directory of the belay to build")

	// quiet is where the proxies complain: connections are cut all the time.
	quiet   = log.New(io.Discard, "", 0)
	decoder = func() runtime.Decoder {
		scheme := runtime.NewScheme()
		if err := errors.Join(kubescheme.AddToScheme(scheme), belayscheme.AddToScheme(scheme)); err != nil {
			panic(err)
		}
		return serializer.NewCodecFactory(scheme).UniversalDeserializer()
	}()
)

// cluster is where the stories are told. It is set up once.
var cluster struct {
	kube         kubernetes.Interface
	belay        versioned.Interface
	api          upstream
	observer     *observer
	certificates *certificates // of the proxies
	binary       string        // belay, just built
	run          string        // value of runLabel
	empty        chan string   // namespaces that are
}

func TestMain(m *testing.M) {
	flag.Parse()
	if os.Getenv("BELAY_FAULTS") == "" {
		fmt.Println("faults: only the page, the laws and the proxy are looked at; make faults tells the stories")
		_ = flag.Set("test.run", "^Test(Page|Laws|Proxy)")
		os.Exit(m.Run())
	}
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "test.parallel" })
	if !given { // Stories wait most of the time, a quarter of it for nothing to happen, and so do the objects of a churn.
		atOnce := 38
		if *churnFlag > 0 {
			atOnce = max(atOnce, *objectsFlag)
		}
		_ = flag.Set("test.parallel", strconv.Itoa(atOnce))
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	scratch, err := os.MkdirTemp("", "belay-faults-")
	if err != nil {
		fmt.Fprintln(os.Stderr, "faults:", err)
		return 1
	}
	defer os.RemoveAll(scratch)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() { // The Belays end with this process.
		interrupted := make(chan os.Signal, 1)
		signal.Notify(interrupted, os.Interrupt, syscall.SIGTERM)
		<-interrupted
		_ = os.RemoveAll(scratch)
		os.Exit(1)
	}()
	if err := setUp(ctx, scratch); err != nil {
		fmt.Fprintln(os.Stderr, "faults:", err)
		return 1
	}
	code := m.Run()
	if err := deleteNamespaces(); err != nil {
		fmt.Fprintln(os.Stderr, "faults:", err)
		return 1
	}
	return code
}

func setUp(ctx context.Context, scratch string) error {
	c := &cluster
	c.empty = make(chan string, 1000)
	c.run, c.binary = utilrand.String(6), filepath.Join(scratch, "belay")
	path, err := filepath.Abs(os.Getenv("KUBECONFIG"))
	if err != nil {
		return err
	}
	config, err := clientcmd.BuildConfigFromFlags("", path)
	if err != nil {
		return err
	}
	config.QPS, config.UserAgent, config.WarningHandler = -1, "faults", rest.NoWarnings{}
	if c.api.url, err = url.Parse(config.Host); err != nil {
		return err
	}
	if c.kube, err = kubernetes.NewForConfig(config); err != nil {
		return err
	}
	if c.belay, err = versioned.NewForConfig(config); err != nil {
		return err
	}
	if c.api.transport, err = rest.TransportFor(config); err != nil {
		return err
	}
	if c.certificates, err = newCertificates(); err != nil {
		return err
	}
	for _, install := range []string{"artifacts/crd.yaml", "artifacts/in-place/policy.yaml"} {
		kubectl := exec.Command(filepath.Join(filepath.Dir(path), "bin", "kubectl"), "--kubeconfig", path, "apply", "--server-side", "-f", filepath.Join(root, install))
		if out, err := kubectl.CombinedOutput(); err != nil {
			return fmt.Errorf("install %s: %w\n%s", install, err, out)
		}
	}
	build := exec.Command("go", "build", "-o", c.binary, ".")
	build.Dir = *sourceFlag
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build belay: %w\n%s", err, out)
	}
	if err := awaitCRD(ctx); err != nil {
		return err
	}
	c.observer, err = observe(ctx)
	return err
}

// awaitCRD waits until GuardedDeployments are served.
func awaitCRD(ctx context.Context) error {
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(pollEvery) {
		_, err := cluster.belay.BelayV1alpha1().GuardedDeployments("").List(ctx, metav1.ListOptions{Limit: 1})
		if err == nil || time.Now().After(deadline) {
			return err
		}
	}
}

// deleteNamespaces waits until the namespaces of this run are gone, for a while.
func deleteNamespaces() error {
	ctx := context.Background()
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(time.Second) {
		left, err := cluster.kube.CoreV1().Namespaces().List(ctx, metav1.ListOptions{LabelSelector: runLabel + "=" + cluster.run})
		if err != nil {
			return err
		}
		if len(left.Items) == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%d namespaces are left", len(left.Items))
		}
		for _, n := range left.Items {
			if err := cluster.kube.CoreV1().Namespaces().Delete(ctx, n.Name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
				return err
			}
		}
	}
}
