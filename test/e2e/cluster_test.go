package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilrand "k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/belay-dev/belay/pkg/generated/clientset/versioned"
	"github.com/belay-dev/belay/test/localcluster"
)

const (
	root = "../.." // of the repository

	// runLabel is on every namespace of a run.
	runLabel = "e2e.belay.dev/run"
	// pollEvery is how often what is waited for is looked at.
	pollEvery = 100 * time.Millisecond
)

// cluster is where the tests run. It is set up once, before all tests.
var cluster struct {
	kubeconfig string
	config     *rest.Config
	kube       kubernetes.Interface
	belay      versioned.Interface
	dynamic    dynamic.Interface // for objects without a type here
	audit      *auditLog         // nil where there is no audit log to read
	seen       seen
	holds      bool   // the API server has the policies of artifacts/in-place
	binary     string // belay, just built
	scratch    string // directory of the binary and the logs
	run        string // value of runLabel
}

func setUp() error {
	c := &cluster
	c.run = utilrand.String(6)
	var err error
	if c.kubeconfig, err = findKubeconfig(); err != nil {
		return err
	}
	if c.config, err = clientcmd.BuildConfigFromFlags("", c.kubeconfig); err != nil {
		return fmt.Errorf("read %s: %w", c.kubeconfig, err)
	}
	c.config.UserAgent, c.config.QPS, c.config.Timeout = "belay-e2e", -1, time.Minute
	c.config.WarningHandler = rest.NoWarnings{}
	if c.kube, err = kubernetes.NewForConfig(c.config); err != nil {
		return err
	}
	if c.belay, err = versioned.NewForConfig(c.config); err != nil {
		return err
	}
	if c.dynamic, err = dynamic.NewForConfig(c.config); err != nil {
		return err
	}
	if _, err := c.kube.Discovery().ServerVersion(); err != nil {
		return fmt.Errorf("the cluster of %s does not answer (%w); start one with \"make cluster\", or set KUBECONFIG", c.kubeconfig, err)
	}
	if log := filepath.Join(filepath.Dir(c.kubeconfig), "audit.log"); exists(log) {
		c.audit = &auditLog{path: log}
	} else {
		fmt.Printf("e2e: no audit log at %s: Belay's writes are not counted\n", log)
	}
	if err := installCRD(); err != nil {
		return err
	}
	leave(deleteNamespaces)
	if err := c.seen.start(); err != nil {
		return err
	}
	if c.scratch, err = os.MkdirTemp("", "belay-e2e-"); err != nil {
		return err
	}
	leave(func() error { return os.RemoveAll(c.scratch) })
	if !*externalFlag {
		if err := installAccount(); err != nil {
			return fmt.Errorf("install what belay may do: %w", err)
		}
	}
	if err := installHolds(); err != nil {
		return fmt.Errorf("install what holds ReplicaSets: %w", err)
	}
	c.binary = filepath.Join(c.scratch, "belay")
	build := exec.Command("go", "build", "-o", c.binary)
	if *buildFlag != "" {
		build.Args = append(build.Args, *buildFlag)
	}
	build.Args, build.Dir = append(build.Args, "."), root
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build belay: %w\n%s", err, out)
	}
	return nil
}

func findKubeconfig() (string, error) {
	if path := os.Getenv("KUBECONFIG"); path != "" {
		return path, nil
	}
	path, err := filepath.Abs(filepath.Join(root, ".cluster", "kubeconfig"))
	if err != nil || exists(path) {
		return path, err
	}
	return "", errors.New("there is no cluster: start one with \"make cluster\", or set KUBECONFIG")
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// deleteNamespaces deletes the namespaces of this run and waits until they are gone.
func deleteNamespaces() error {
	ctx := context.Background()
	namespaces := cluster.kube.CoreV1().Namespaces()
	var left *corev1.NamespaceList
	err := poll(ctx, cleaningTime-5*time.Second, func(context.Context) (done bool, err error) {
		if left, err = namespaces.List(ctx, metav1.ListOptions{LabelSelector: runLabel + "=" + cluster.run}); err != nil {
			return false, err
		}
		for _, n := range left.Items {
			if err := namespaces.Delete(ctx, n.Name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
				return false, err
			}
		}
		return len(left.Items) == 0, nil
	})
	if err != nil {
		return fmt.Errorf("%d namespaces are being deleted still: %w", len(left.Items), err)
	}
	return nil
}

func poll(ctx context.Context, within time.Duration, done wait.ConditionWithContextFunc) error {
	return wait.PollUntilContextTimeout(ctx, pollEvery, within, true, done)
}

// embedded returns the directory of the embedded cluster. It skips the test on any other.
func embedded(t *testing.T) string {
	t.Helper()
	dir := localcluster.Dir(filepath.Dir(cluster.kubeconfig))
	if !exists(dir) {
		t.Skip("this needs the embedded cluster, whose processes can be stopped")
	}
	return dir
}
