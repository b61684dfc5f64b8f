package node

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"text/template"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
	"github.com/belay-dev/belay/pkg/generated/clientset/versioned"
)

const (
	namespace, name = "default", "web"
	replicas        = 3

	belayNamespace, belayName = "belay-system", "belay"

	partTime = 2 * time.Minute
)

// story is what the parts of the story have in common.
type story struct {
	*testing.T
	node     *node
	kube     kubernetes.Interface
	belay    versioned.Interface
	manifest *template.Template
	traffic  *traffic

	good  string // the version of the last good release
	want  string // that of the release under way
	moved int    // how often Belay had moved the Deployment before that
}

// release is what a manifest is made from.
type release struct {
	Version, Image, ConfigMap, Shared string
	Args                              []string
	Soak                              int
}

func newStory(t *testing.T) *story {
	kube, belay := theNode.clients(t)
	manifest, err := template.ParseFiles("testdata/web.yaml")
	if err != nil {
		t.Fatal(err)
	}
	return &story{T: t, node: theNode, kube: kube, belay: belay, manifest: manifest}
}

// part tells one part of the story. If it fails the story ends.
func (s *story) part(title string, tell func()) {
	start := time.Now()
	all := s.T
	if !all.Run(strings.ReplaceAll(title, " ", "_"), func(t *testing.T) {
		s.T = t
		defer func() {
			if t.Failed() {
				s.show()
			}
			s.T = all
		}()
		tell()
	}) {
		all.FailNow()
	}
	say("%5.1f s  %s", time.Since(start).Seconds(), title)
}

// show prints what a person would look at.
func (s *story) show() {
	for _, args := range [][]string{
		{"get", "pods", "--all-namespaces", "--output=wide"},
		{"get", "guardeddeployments", name, "--output=yaml"},
		{"get", "events", "--sort-by=.metadata.creationTimestamp"},
		{"describe", "pods", "-n", belayNamespace},
	} {
		out, err := s.node.kubectl(context.Background(), "", args...)
		s.Logf("kubectl %s (%v)\n%s", strings.Join(args, " "), err, out)
	}
	logs, err := filepath.Glob(filepath.Join(podLogs(firstWorker), belayNamespace+"_*/*/*.log"))
	for _, file := range logs {
		s.Logf("%s (%v)\n%s", file, err, tail(file, 30))
	}
}

func (s *story) kubectl(args ...string) string {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.Context(), partTime)
	defer cancel()
	out, err := s.node.kubectl(ctx, "", args...)
	if err != nil {
		s.Fatal(err)
	}
	return out
}

// eventually asks until there is no error, for a while.
func (s *story) eventually(most time.Duration, what string, ask func() error) {
	s.Helper()
	for start := time.Now(); ; time.Sleep(50 * time.Millisecond) {
		err := ask()
		if err == nil {
			return
		}
		if time.Since(start) > most {
			s.Fatalf("%s, after %s: %v", what, most, err)
		}
	}
}

// release applies a manifest.
func (s *story) release(r release) {
	s.Helper()
	if r.Image == "" {
		r.Image = serverImage
	}
	if r.Soak == 0 {
		r.Soak = 5
	}
	var manifest strings.Builder
	if err := s.manifest.Execute(&manifest, r); err != nil {
		s.Fatal(err)
	}
	s.want, s.moved = r.Version, len(s.moves())
	if _, err := s.node.kubectl(s.Context(), manifest.String(), "apply", "-f", "-"); err != nil {
		s.Fatal(err)
	}
}

// expectGood waits until the release counts as good.
func (s *story) expectGood() {
	s.Helper()
	s.eventually(partTime, "a good release", func() error {
		return s.status(v1alpha1.ConditionReady, v1alpha1.ReasonRolledOut, s.want)
	})
	s.good = s.want
	if moves := len(s.moves()) - s.moved; moves != 1 {
		s.Errorf("Belay moved the Deployment %d times, want once", moves)
	}
}

// expectRolledBack waits until the last good release runs again, and makes sure that the release under way failed for
// the reason, that the spec still asks for it, and that Belay moved the Deployment there and back, and no more.
func (s *story) expectRolledBack(reason string) v1alpha1.Failure {
	s.Helper()
	s.eventually(partTime, "a rollback", func() error {
		return s.status(v1alpha1.ConditionStalled, v1alpha1.ReasonRolledBack, s.good)
	})
	gd, err := s.get()
	if err != nil {
		s.Fatal(err)
	}
	if !hasVersion(gd.Spec.Template, s.want) {
		s.Errorf("the spec asks no longer for %s", s.want)
	}
	if gd.Status.Failure == nil || gd.Status.Failure.Reason != reason {
		s.Fatalf("the failure is %+v, want %s", gd.Status.Failure, reason)
	}
	say("        %s: %s", reason, gd.Status.Failure.Message)
	if moves := len(s.moves()) - s.moved; moves != 2 {
		s.Errorf("Belay moved the Deployment %d times, want 2", moves)
	}
	return *gd.Status.Failure
}

func (s *story) get() (*v1alpha1.GuardedDeployment, error) {
	return s.belay.BelayV1alpha1().GuardedDeployments(namespace).Get(s.Context(), name, metav1.GetOptions{})
}

// status is an error until the condition is true for the reason, the report is fresh, and nothing runs but the version.
func (s *story) status(condition, reason, version string) error {
	gd, err := s.get()
	if err != nil {
		return err
	}
	c := meta.FindStatusCondition(gd.Status.Conditions, condition)
	if gd.Status.ObservedGeneration != gd.Generation || c == nil || c.Status != metav1.ConditionTrue || c.Reason != reason {
		return fmt.Errorf("generation %d, observed %d: %s is %+v", gd.Generation, gd.Status.ObservedGeneration, condition, c)
	}
	d, err := s.kube.AppsV1().Deployments(namespace).Get(s.Context(), name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	if !hasVersion(d.Spec.Template, version) || !complete(d) {
		return fmt.Errorf("the Deployment does not run %s alone: generation %d, %+v", version, d.Generation, d.Status)
	}
	return nil
}

func hasVersion(template corev1.PodTemplateSpec, version string) bool {
	return slices.Contains(template.Spec.Containers[0].Args, "--version="+version)
}

func complete(d *appsv1.Deployment) bool {
	return d.Status.ObservedGeneration == d.Generation && d.Status.Replicas == replicas &&
		d.Status.UpdatedReplicas == replicas && d.Status.AvailableReplicas == replicas
}

// waitForVerdict returns as soon as the revision of the release under way has the verdict.
func (s *story) waitForVerdict(verdict string) {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.Context(), partTime)
	defer cancel()
	gd, err := s.get()
	if err != nil {
		s.Fatal(err)
	}
	revisions, err := s.kube.AppsV1().ControllerRevisions(namespace).Watch(ctx, metav1.ListOptions{})
	if err != nil {
		s.Fatal(err)
	}
	defer revisions.Stop()
	for event := range revisions.ResultChan() {
		r, ok := event.Object.(*appsv1.ControllerRevision)
		if ok && metav1.IsControlledBy(r, gd) && strings.Contains(string(r.Data.Raw), "--version="+s.want+`"`) &&
			r.Annotations[v1alpha1.VerdictAnnotation] == verdict {
			return
		}
	}
	s.Fatalf("no revision of %s with the verdict %s", s.want, verdict)
}

func (s *story) serviceAddress() string {
	service, err := s.kube.CoreV1().Services(namespace).Get(s.Context(), name, metav1.GetOptions{})
	if err != nil {
		s.Fatal(err)
	}
	s.eventually(partTime, "rules of kube-proxy", func() error { return proxied(service.Spec.ClusterIP) })
	return service.Spec.ClusterIP
}

// uids lists the Deployment with its ReplicaSets and pods.
func (s *story) uids() (uids []string) {
	s.Helper()
	out := s.kubectl("get", "deployments,replicasets,pods", "-n", namespace, "--sort-by=.metadata.uid", "--no-headers",
		"--output=custom-columns=KIND:.kind,NAME:.metadata.name,UID:.metadata.uid,RESTARTS:.status.containerStatuses[*].restartCount")
	uids = strings.Split(strings.TrimSpace(out), "\n")
	if want := 1 + replicas + 1; len(uids) < want {
		s.Fatalf("want at least a Deployment, a ReplicaSet and %d pods, got:\n%s", replicas, out)
	}
	return uids
}
