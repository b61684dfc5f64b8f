// Package kubeclient makes the clients and the informers: how to reach the API server, and what to watch there.
package kubeclient

import (
	"fmt"
	"net/http"
	"os"
	"runtime"
	"strings"
	"time"

	k8sruntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/belay-dev/belay/pkg/generated/clientset/versioned"
)

const (
	// RequestTimeout bounds every request of the workers and of the metrics.
	RequestTimeout = 15 * time.Second
	// A connection on which nothing comes in for readIdle seconds is tried, and given up pingTimeout seconds later: a
	// server that is gone without a word is noticed within both. client-go has 30 and 15, and no other way to say so.
	readIdle, pingTimeout = "10", "5"
)

// Options say how to reach the API server. The zero value leaves it to the pod, or else to kubectl's rules.
type Options struct {
	Kubeconfig, Master string
	// QPS is negative for as many requests as the API server lets through.
	QPS   float32
	Burst int
	// Agent is who the requests are from, and Version which.
	Agent, Version string
}

// Config returns how to reach the API server: as the options say, else as a pod is told, else by kubectl's rules.
func Config(o Options) (*rest.Config, error) {
	config, err := rest.InClusterConfig()
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	if o.Kubeconfig != "" || o.Master != "" || err != nil {
		rules.ExplicitPath = o.Kubeconfig
		overrides := &clientcmd.ConfigOverrides{}
		overrides.ClusterInfo.Server = o.Master
		config, err = clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, overrides).ClientConfig()
	}
	if clientcmd.IsEmptyConfig(err) {
		return nil, fmt.Errorf("no cluster is configured, there is none in %s: give --kubeconfig, or set KUBECONFIG, or run in a pod with a service account",
			strings.Join(rules.GetLoadingPrecedence(), ", "))
	}
	if err != nil {
		return nil, fmt.Errorf("read the kubeconfig: %w", err)
	}
	config.UserAgent = fmt.Sprintf("%s/%s (%s/%s)", o.Agent, o.Version, runtime.GOOS, runtime.GOARCH)
	config.QPS, config.Burst = o.QPS, o.Burst
	for name, value := range map[string]string{"HTTP2_READ_IDLE_TIMEOUT_SECONDS": readIdle, "HTTP2_PING_TIMEOUT_SECONDS": pingTimeout} {
		if os.Getenv(name) == "" {
			if err := os.Setenv(name, value); err != nil {
				return nil, err
			}
		}
	}
	return config, nil
}

// New returns clients whose requests take at most timeout, 0 for as long as they may, and go through wrap unless it
// is nil.
func New(config *rest.Config, timeout time.Duration, wrap func(http.RoundTripper) http.RoundTripper) (kubernetes.Interface, versioned.Interface, error) {
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
