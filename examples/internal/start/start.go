// Package start is how every example starts and ends: two flags, a configuration, one line and exit code 1 on an error.
package start

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/util/exec"
	"k8s.io/klog/v2"
)

// interruptedCode is what shells expect of a program that SIGINT ended in the middle of its work.
const interruptedCode = 130

// Config is how to reach the cluster, and where to work in it.
type Config struct {
	*rest.Config
	// Namespace is --namespace, else that of the kubeconfig's context, or of the pod, else "default".
	Namespace string
	// Source tells where the configuration comes from.
	Source string
}

// Main runs a program: it reads the flags, also those that the caller has declared, finds the cluster and calls run. At
// SIGINT or SIGTERM the context that run gets is done; if run then returns nil, the program has ended well. An error of
// run is printed on one line; the exit code is 1, or what an error in the chain of exec.ExitError says.
func Main(does string, run func(context.Context, Config) error) {
	kubeconfig := flag.String("kubeconfig", "", "path of a kubeconfig; default: in-cluster configuration, else $KUBECONFIG, else ~/.kube/config")
	namespace := flag.String("namespace", "", "the namespace to work in; default: the kubeconfig's, or the pod's")
	logging := flag.NewFlagSet("", flag.PanicOnError)
	klog.InitFlags(logging)
	flag.Var(logging.Lookup("v").Value, "v", "how much client-go logs: 6 shows every request, 9 what is in it, too")
	name := filepath.Base(os.Args[0])
	flag.Usage = func() {
		fmt.Fprintf(flag.CommandLine.Output(), "%s %s\n\nFlags:\n", name, does)
		flag.PrintDefaults()
	}
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // A second one ends a program that does not end by itself.
	config, err := Load(*kubeconfig, *namespace)
	if err == nil {
		config.UserAgent = "belay-example-" + name
		err = run(ctx, config)
	}
	interrupted := ctx.Err() != nil
	stop()
	klog.Flush()
	var command exec.ExitError
	switch {
	case err == nil:
		return
	case errors.As(err, &command):
		os.Exit(command.ExitStatus())
	case interrupted:
		fmt.Fprintf(os.Stderr, "%s: interrupted\n", name)
		os.Exit(interruptedCode)
	default:
		fmt.Fprintf(os.Stderr, "%s: %s\n", name, explain(err))
		os.Exit(1)
	}
}

// Load finds the cluster: the one of the kubeconfig that is given; in a pod its own; else by kubectl's rules. The path
// and the namespace may be empty.
func Load(kubeconfig, namespace string) (Config, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = kubeconfig
	overrides := &clientcmd.ConfigOverrides{}
	overrides.Context.Namespace = namespace
	files := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, overrides)

	var source string
	config, err := rest.InClusterConfig()
	if err == nil && kubeconfig == "" {
		source = "in-cluster: the service account of this pod"
	} else {
		config, err = files.ClientConfig()
		source = "~/.kube/config"
		if list := os.Getenv(clientcmd.RecommendedConfigPathEnvVar); list != "" {
			source = "KUBECONFIG: " + list
		}
		if kubeconfig != "" {
			source = "--kubeconfig: " + kubeconfig
		}
	}
	if err != nil {
		return Config{}, err
	}
	if namespace, _, err = files.Namespace(); err != nil {
		return Config{}, err
	}
	// client-go's own limit is 5 requests a second. The server has a better one: API priority and fairness.
	config.QPS = -1
	return Config{Config: config, Namespace: namespace, Source: source}, nil
}

// explain returns what is wrong on one line, with what to do about it where that is known.
func explain(err error) string {
	text := strings.Join(strings.Fields(err.Error()), " ")
	var unreachable *url.Error
	switch {
	case clientcmd.IsEmptyConfig(err):
		return "no cluster is configured: give --kubeconfig, or set KUBECONFIG, or run in a pod with a service account"
	case apierrors.IsForbidden(err):
		return text + "; ask whoever administers the cluster for this right"
	case apierrors.IsUnauthorized(err):
		return text + "; the server does not accept the credentials of the kubeconfig"
	case errors.As(err, &unreachable):
		return text + "; is the server running, and is this the right kubeconfig?"
	}
	return text
}
