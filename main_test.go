package main

import (
	"flag"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/belay-dev/belay/internal/expect"
	"github.com/belay-dev/belay/internal/kubeclient"
)

// args makes the command line, and starts the flags anew.
func args(t *testing.T, line ...string) {
	t.Helper()
	before, flags := os.Args, flag.CommandLine
	t.Cleanup(func() { os.Args, flag.CommandLine = before, flags })
	os.Args = append([]string{"belay"}, line...)
	flag.CommandLine = flag.NewFlagSet("belay", flag.ContinueOnError)
	flag.CommandLine.SetOutput(io.Discard)
}

func TestFlags_DefaultsWork(t *testing.T) {
	args(t)
	o := parseFlags()
	if o.kubeconfig != "" || o.master != "" || o.namespace != "" || o.version || o.workers < 1 || o.qps >= 0 {
		t.Errorf("defaults %+v", o)
	}
}

func TestFlags_AreRead(t *testing.T) {
	args(t, "--kubeconfig", "/some/file", "--master=https://server", "--namespace", "shop", "--workers", "3",
		"--kube-api-qps", "20.5", "--kube-api-burst", "40", "--version", "-v", "4", "--logging-format=json",
		"--leader-elect", "--leader-elect-namespace=belay-system", "--health-address=:8081", "--metrics-address=:8443",
		"--tls-cert-file=tls.crt", "--tls-private-key-file=tls.key", "--profiling")
	o := parseFlags()
	if o.kubeconfig != "/some/file" || o.master != "https://server" || o.namespace != "shop" || o.workers != 3 ||
		o.qps != 20.5 || o.burst != 40 || !o.version {
		t.Errorf("options %+v", o)
	}
	if !o.leaderElect || o.leaseNamespace != "belay-system" || o.healthAddress != ":8081" || o.metricsAddress != ":8443" ||
		o.certFile != "tls.crt" || o.keyFile != "tls.key" || !o.profiling {
		t.Errorf("options %+v", o)
	}
	if o.logging.Format != "json" || o.logging.Verbosity != 4 {
		t.Errorf("logging %+v", o.logging)
	}
}

func TestFlags_MetricsReviewedUnlessLoopback(t *testing.T) {
	for address, asks := range map[string]bool{
		"": false, "127.0.0.1:8080": false, "[::1]:8080": false, "localhost:8080": false,
		":8443": true, "0.0.0.0:8443": true, "10.1.2.3:8443": true, "localhost.example:8443": true,
	} {
		o := options{metricsAddress: address}
		if o.reviewsReaders() != asks {
			t.Errorf("%q: asks is %t, want %t", address, !asks, asks)
		}
	}
}

func TestMain_RefusesWhatItCannotDo(t *testing.T) {
	for name, c := range map[string]struct {
		line []string
		want string
	}{
		"an argument":       {[]string{"start"}, `unexpected argument "start"`},
		"no workers":        {[]string{"--workers=0"}, "--workers is 0"},
		"no such file":      {[]string{"--kubeconfig=/no/such/file"}, "/no/such/file"},
		"a broken file":     {[]string{"--kubeconfig=" + writeFile(t, "{")}, "read the kubeconfig"},
		"a file of nothing": {[]string{"--kubeconfig=" + writeFile(t, "")}, "no cluster is configured"},
		"nothing to reach":  {nil, "no cluster is configured"},
		"no lease":          {[]string{"--leader-elect"}, "--leader-elect needs --leader-elect-namespace"},
		"half a key pair":   {[]string{"--tls-cert-file=tls.crt"}, "go together"},
		"no address":        {[]string{"--health-address=8081"}, `--health-address is "8081"; it must be host:port`},
		"no metrics":        {[]string{"--metrics-address=example"}, `--metrics-address is "example"`},
	} {
		t.Run(name, func(t *testing.T) {
			outsideOfAnyCluster(t)
			args(t, c.line...)
			expect.Error(t, run(t.Context(), parseFlags()), c.want)
		})
	}
}

func TestVersion_NeedsNoCluster(t *testing.T) {
	outsideOfAnyCluster(t)
	args(t, "--version")
	if err := run(t.Context(), parseFlags()); err != nil {
		t.Error(err)
	}
}

func TestVersion_OfARelease(t *testing.T) {
	if versionString() == "" {
		t.Error("no version, want at least that of the module")
	}
	version = "v1.2.3"
	t.Cleanup(func() { version = "" })
	if got := versionString(); got != "v1.2.3" {
		t.Errorf("version %q, want v1.2.3", got)
	}
}

func TestKubeconfig_Precedence(t *testing.T) {
	outsideOfAnyCluster(t)
	host := func(o options) string {
		t.Helper()
		config, err := kubeclient.Config(o.client())
		if err != nil {
			t.Fatal(err)
		}
		return config.Host
	}
	clientcmd.RecommendedHomeFile = writeKubeconfig(t, "https://default")
	if got := host(options{}); got != "https://default" {
		t.Errorf("host %s, want that of ~/.kube/config", got)
	}
	t.Setenv("KUBECONFIG", writeKubeconfig(t, "https://environment"))
	if got := host(options{}); got != "https://environment" {
		t.Errorf("host %s, want that of $KUBECONFIG", got)
	}
	flagged := writeKubeconfig(t, "https://flag")
	if got := host(options{kubeconfig: flagged}); got != "https://flag" {
		t.Errorf("host %s, want that of --kubeconfig", got)
	}
	if got := host(options{kubeconfig: flagged, master: "https://master"}); got != "https://master" {
		t.Errorf("host %s, want that of --master", got)
	}
}

func TestKubeconfig_FlagBeforePod(t *testing.T) {
	outsideOfAnyCluster(t)
	t.Setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
	t.Setenv("KUBERNETES_SERVICE_PORT", "443")
	config, err := kubeclient.Config((&options{kubeconfig: writeKubeconfig(t, "https://flag")}).client())
	if err != nil {
		t.Fatal(err)
	}
	if config.Host != "https://flag" {
		t.Errorf("host %s, want that of --kubeconfig", config.Host)
	}
}

func TestKubeconfig_AgentAndLimits(t *testing.T) {
	outsideOfAnyCluster(t)
	config, err := kubeclient.Config((&options{kubeconfig: writeKubeconfig(t, "https://flag"), qps: 7, burst: 9}).client())
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(config.UserAgent, "belay/") || config.QPS != 7 || config.Burst != 9 {
		t.Errorf("user agent %q, %v requests a second, burst %d", config.UserAgent, config.QPS, config.Burst)
	}
}

// outsideOfAnyCluster leaves neither a kubeconfig nor a pod's service account to be found.
func outsideOfAnyCluster(t *testing.T) {
	t.Helper()
	for _, name := range []string{"KUBECONFIG", "KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT"} {
		t.Setenv(name, "")
	}
	before := clientcmd.RecommendedHomeFile
	t.Cleanup(func() { clientcmd.RecommendedHomeFile = before })
	clientcmd.RecommendedHomeFile = filepath.Join(t.TempDir(), "none")
}

func writeKubeconfig(t *testing.T, server string) string {
	t.Helper()
	config := clientcmdapi.NewConfig()
	config.Clusters["it"] = &clientcmdapi.Cluster{Server: server}
	config.AuthInfos["it"] = &clientcmdapi.AuthInfo{}
	config.Contexts["it"] = &clientcmdapi.Context{Cluster: "it", AuthInfo: "it"}
	config.CurrentContext = "it"
	data, err := clientcmd.Write(*config)
	if err != nil {
		t.Fatal(err)
	}
	return writeFile(t, string(data))
}

func writeFile(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestFlags_AddressIsChecked(t *testing.T) {
	for _, address := range []string{"8080", "::1:8080:", "localhost"} {
		for flag, o := range map[string]options{"--health-address": {workers: 1, healthAddress: address}, "--metrics-address": {workers: 1, metricsAddress: address}} {
			args(t)
			expect.Error(t, o.check(), flag, address, "host:port")
		}
	}
}

func TestFlags_AreDocumented(t *testing.T) {
	args(t)
	parseFlags()
	operations, err := os.ReadFile("docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	docs := string(operations)
	flag.VisitAll(func(f *flag.Flag) {
		if !strings.Contains(docs, "`--"+f.Name+"`") && !strings.Contains(docs, "`-"+f.Name+"`") {
			t.Errorf("--%s is not documented", f.Name)
		}
	})
}
