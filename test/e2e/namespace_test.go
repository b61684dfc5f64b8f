package e2e

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/yaml"
)

// namespace is where a test runs: nobody else is there.
type namespace struct {
	*testing.T
	name  string
	belay *process // nil if it runs elsewhere, with -external
	lacks bool     // Belay lacks rights here, on purpose
	// inPlace says that Deployments here are guarded in place.
	inPlace bool
}

// newNamespace returns the namespace of a parallel test, in which the shared belay works.
func newNamespace(t *testing.T) *namespace {
	t.Helper()
	t.Parallel()
	n := emptyNamespace(t)
	if *externalFlag {
		return n
	}
	var err error
	if n.belay, err = shared(); err != nil {
		t.Fatal("start belay: ", err)
	}
	return n
}

var capitals = regexp.MustCompile(`[A-Z]`)

// emptyNamespace returns a namespace in which no belay works yet. It is deleted after the test.
func emptyNamespace(t *testing.T) *namespace {
	t.Helper()
	name := capitals.ReplaceAllStringFunc(strings.TrimPrefix(t.Name(), "Test"), func(s string) string { return "-" + strings.ToLower(s) })
	name = regexp.MustCompile(`[^a-z0-9]+`).ReplaceAllString(name, "-")
	namespaces := cluster.kube.CoreV1().Namespaces()
	created, err := namespaces.Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{
		GenerateName: "e2e" + name[:min(len(name), 45)] + "-",
		Labels:       map[string]string{runLabel: cluster.run},
	}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	n := &namespace{T: t, name: created.Name}
	t.Cleanup(func() {
		n.checkWrites()
		n.checkKstatus()
		if t.Failed() {
			n.dump()
		}
		if err := namespaces.Delete(context.Background(), n.name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			t.Error(err)
		}
	})
	// Pods are refused while it is not there.
	n.eventually("the default service account is there", func(ctx context.Context) (bool, error) {
		_, err := cluster.kube.CoreV1().ServiceAccounts(n.name).Get(ctx, "default", metav1.GetOptions{})
		return err == nil, nil
	})
	return n
}

// conflicting is how a test goes on trying to change an object that others write all the time.
var conflicting = wait.Backoff{Steps: 30, Duration: 10 * time.Millisecond, Factor: 1.2, Jitter: 0.5, Cap: time.Second}

// patience bounds every wait. It is long, for slow machines: what has to be fast is measured.
const patience = 60 * time.Second

// eventually waits until done.
func (n *namespace) eventually(what string, done func(context.Context) (bool, error)) {
	n.Helper()
	n.within(patience, what, done)
}

func (n *namespace) within(limit time.Duration, what string, done func(context.Context) (bool, error)) {
	n.Helper()
	err := poll(n.Context(), limit, func(ctx context.Context) (bool, error) {
		if n.belay != nil {
			select {
			case <-n.belay.ended:
				return false, fmt.Errorf("belay has ended (%v); its log ends with:\n%s", n.belay.err, tail(n.belay.log, "", 20))
			default:
			}
		}
		return done(ctx)
	})
	if err != nil {
		n.Fatalf("waited %s until %s: %v", limit, what, err)
	}
}

// nothingHappens watches for the time given, and fails as soon as something is not as it should stay.
func (n *namespace) nothingHappens(watched time.Duration, check func(context.Context) error) {
	n.Helper()
	for end := time.Now().Add(watched); time.Now().Before(end); time.Sleep(3 * pollEvery) {
		if err := check(n.Context()); err != nil {
			n.Fatalf("watched for %s that nothing happens: %v", watched, err)
		}
	}
}

// dump prints what a person needs to see why a test failed.
func (n *namespace) dump() {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	all := metav1.ListOptions{}
	show := func(what string, object any, err error) {
		if err != nil {
			n.Logf("%s: %v", what, err)
			return
		}
		text, _ := yaml.Marshal(object)
		n.Logf("--- %s of %s\n%s", what, n.name, clip(string(text)))
	}
	guarded, err := cluster.belay.BelayV1alpha1().GuardedDeployments(n.name).List(ctx, all)
	for i := range guarded.Items {
		guarded.Items[i].ManagedFields = nil
	}
	show("GuardedDeployments", guarded.Items, err)
	deployments, err := cluster.kube.AppsV1().Deployments(n.name).List(ctx, all)
	for i := range deployments.Items {
		deployments.Items[i].ManagedFields = nil
	}
	show("Deployments", deployments.Items, err)
	n.Logf("--- Pods of %s\n%s", n.name, n.describePods(ctx))
	revisions, err := cluster.kube.AppsV1().ControllerRevisions(n.name).List(ctx, all)
	var lines []string
	for _, r := range revisions.Items {
		lines = append(lines, fmt.Sprintf("%d %s %v %s", r.Revision, r.Name, r.Annotations, clip(string(r.Data.Raw))))
	}
	show("Revisions", lines, err)
	lines = nil
	for _, e := range n.events(ctx) {
		if slices.Contains([]string{"Scheduled", "SuccessfulCreate", "SuccessfulDelete"}, e.Reason) {
			continue
		}
		lines = append(lines, fmt.Sprintf("%s %s %s %s: %s", e.CreationTimestamp.UTC().Format(time.TimeOnly), e.Regarding.Kind, e.Regarding.Name, e.Reason, clip(e.Note)))
	}
	show("Events", lines, nil)
	n.Logf("--- Belay's writes in %s\n%s", n.name, n.describeWrites())
	if n.belay != nil {
		n.Logf("--- Belay's log about %s\n%s", n.name, clip(tail(n.belay.log, n.name+"/", 60)))
	}
}

func clip(text string) string {
	const most = 12000
	if len(text) > most {
		return text[:most] + "... (cut)"
	}
	return text
}

func (n *namespace) describePods(ctx context.Context) string {
	pods, err := cluster.kube.CoreV1().Pods(n.name).List(ctx, metav1.ListOptions{})
	if err != nil {
		return err.Error()
	}
	var text strings.Builder
	for _, pod := range pods.Items {
		fmt.Fprintf(&text, "%s node=%q phase=%s deleted=%v", pod.Name, pod.Spec.NodeName, pod.Status.Phase, pod.DeletionTimestamp)
		for _, c := range append(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses...) {
			fmt.Fprintf(&text, " [%s ready=%v restarts=%d %s]", c.Name, c.Ready, c.RestartCount, clip(c.State.String()))
		}
		text.WriteString("\n")
	}
	return text.String()
}
