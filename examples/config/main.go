// Command config shows where the configuration of a client comes from, and what it reaches.
//
// A program looks in the same places as kubectl, so that the same command works on a laptop and in a pod, and nothing has
// to be configured twice: --kubeconfig, the service account of a pod, $KUBECONFIG (a list of files that are merged),
// ~/.kube/config. The first that there is wins; how is written in ../internal/start, with which all examples begin.
package main

import (
	"context"
	"fmt"
	"os"
	"text/tabwriter"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/belay-dev/belay/examples/internal/start"
)

// timeout bounds what is asked of the server: without one, a server that is silent is waited for without an end.
const timeout = 30 * time.Second

func main() {
	start.Main("shows which configuration is used, and what it reaches.", run)
}

func run(ctx context.Context, config start.Config) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	client, err := kubernetes.NewForConfig(config.Config)
	if err != nil {
		return err
	}
	// Making a client asks nothing of the server yet: a wrong address, or a wrong password, shows only now.
	version, err := client.Discovery().ServerVersionWithContext(ctx)
	if err != nil {
		return fmt.Errorf("ask %s for its version: %w", config.Host, err)
	}
	self, err := client.AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("ask %s who we are: %w", config.Host, err)
	}
	table := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintf(table, "source\t%s\n", config.Source)
	fmt.Fprintf(table, "server\t%s\n", config.Host)
	fmt.Fprintf(table, "version\t%s\n", version.GitVersion)
	fmt.Fprintf(table, "namespace\t%s\n", config.Namespace)
	fmt.Fprintf(table, "credentials\t%s\n", credentials(config.Config))
	fmt.Fprintf(table, "user\t%s\n", self.Status.UserInfo.Username)
	return table.Flush()
}

// credentials tells of what kind they are. What they are is nobody's business.
func credentials(config *rest.Config) string {
	switch {
	case config.ExecProvider != nil:
		return "what the command " + config.ExecProvider.Command + " says"
	case config.AuthProvider != nil:
		return "auth provider " + config.AuthProvider.Name
	case config.BearerTokenFile != "":
		return "token, read again from its file when that changes"
	case config.BearerToken != "":
		return "token"
	case config.CertFile != "" || len(config.CertData) > 0:
		return "client certificate"
	case config.Username != "":
		return "user and password"
	}
	return "none"
}
