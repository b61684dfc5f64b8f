package node

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/util/retry"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
	"github.com/belay-dev/belay/pkg/generated/clientset/versioned"
)

// trialTime is how long a part of a trial may take on a machine that is busy with all the others.
const trialTime = 4 * time.Minute

// trial is one object with a good release, and then the release that is tried. All trials run at the same time, after the story.
type trial struct {
	*testing.T
	node    *node
	kube    kubernetes.Interface
	belay   versioned.Interface
	name    string
	version string // of the release that is tried
	began   time.Time
}

// trialsReady installs Belay again, which the story has taken away, and starts the second worker.
var trialsReady = sync.OnceValues(func() (second *daemon, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	if err := theNode.installBelay(ctx); err != nil {
		return nil, err
	}
	return theNode.startWorker(ctx, secondWorker)
})

// newTrial returns a trial whose first release is good. That is as the one that is tried, but for what the latter changes.
func newTrial(t *testing.T, edits ...func(*v1alpha1.GuardedDeploymentSpec)) *trial {
	t.Parallel()
	r := beginTrial(t, "", edits...)
	r.expectGood()
	return r
}

// beginTrial returns a trial whose first release is on its way. The suffix tells it from others of the same test.
func beginTrial(t *testing.T, suffix string, edits ...func(*v1alpha1.GuardedDeploymentSpec)) *trial {
	t.Helper()
	r := prepareTrial(t, suffix)
	guarded := r.first()
	for _, edit := range edits {
		edit(&guarded.Spec)
	}
	if _, err := r.belay.BelayV1alpha1().GuardedDeployments(namespace).Create(t.Context(), guarded, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	return r
}

// prepareTrial returns a trial that has no object yet.
func prepareTrial(t *testing.T, suffix string) *trial {
	t.Helper()
	if _, err := trialsReady(); err != nil {
		t.Fatal(err)
	}
	kube, belay := theNode.clients(t)
	name := strings.ToLower(strings.NewReplacer("Test", "", "_", "-", "/", "-").Replace(t.Name())) + suffix
	r := &trial{T: t, node: theNode, kube: kube, belay: belay, name: name, version: "good"}
	t.Cleanup(r.show)
	return r
}

// first is an object whose first release is good.
func (r *trial) first() *v1alpha1.GuardedDeployment {
	labels := map[string]string{"trial": r.name}
	ready := corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/readyz", Port: intstr.FromInt32(8080)}}
	guarded := &v1alpha1.GuardedDeployment{ObjectMeta: metav1.ObjectMeta{Name: r.name}}
	guarded.Spec.Guard = v1alpha1.Guard{MaxRestarts: new(int32(1)), StuckSeconds: new(int32(5)), SoakSeconds: new(int32(1))}
	guarded.Spec.Replicas = new(int32(1))
	guarded.Spec.Selector = &metav1.LabelSelector{MatchLabels: labels}
	guarded.Spec.Template.Labels = labels
	guarded.Spec.Template.Spec = corev1.PodSpec{
		TerminationGracePeriodSeconds: new(int64(3)),
		DNSPolicy:                     corev1.DNSDefault, // the cluster has none
		Containers: []corev1.Container{{
			Name: "server", Image: serverImage, ImagePullPolicy: corev1.PullIfNotPresent,
			Args:           []string{"--version=good", "--drain=100ms"},
			ReadinessProbe: &corev1.Probe{ProbeHandler: ready, PeriodSeconds: 1, FailureThreshold: 1},
		}},
	}
	return guarded
}

// release changes the template to that of the release that is tried.
func (r *trial) release(edit func(*v1alpha1.GuardedDeploymentSpec)) {
	r.Helper()
	r.version, r.began = "tried", time.Now()
	r.edit(func(spec *v1alpha1.GuardedDeploymentSpec) {
		spec.Template.Spec.Containers[0].Args[0] = "--version=tried"
		edit(spec)
	})
}

func (r *trial) edit(edit func(*v1alpha1.GuardedDeploymentSpec)) {
	r.Helper()
	if err := retry.RetryOnConflict(retry.DefaultRetry, func() error {
		guarded, err := r.get()
		if err != nil {
			return err
		}
		edit(&guarded.Spec)
		_, err = r.belay.BelayV1alpha1().GuardedDeployments(namespace).Update(r.Context(), guarded, metav1.UpdateOptions{})
		return err
	}); err != nil {
		r.Fatal(err)
	}
}

func (r *trial) get() (*v1alpha1.GuardedDeployment, error) {
	return r.belay.BelayV1alpha1().GuardedDeployments(namespace).Get(r.Context(), r.name, metav1.GetOptions{})
}

// eventually asks until there is no error.
func (r *trial) eventually(what string, ask func() error) {
	r.Helper()
	for start := time.Now(); ; time.Sleep(300 * time.Millisecond) {
		err := ask()
		if err == nil {
			return
		}
		if time.Since(start) > trialTime {
			r.Fatalf("%s, after %s: %v", what, trialTime, err)
		}
	}
}

// await waits for a condition with this reason. A release that should come up and is rolled back ends the trial.
func (r *trial) await(condition, reason string) (c metav1.Condition) {
	r.Helper()
	r.eventually(reason, func() error {
		guarded, err := r.get()
		if err != nil {
			return err
		}
		if guarded.Status.Failure != nil && reason != v1alpha1.ReasonRolledBack && reason != v1alpha1.ReasonRollbackFailed {
			r.Fatalf("a false verdict: %+v", *guarded.Status.Failure)
		}
		if seen := meta.FindStatusCondition(guarded.Status.Conditions, condition); seen != nil {
			c = *seen
		}
		if guarded.Status.ObservedGeneration != guarded.Generation || c.Reason != reason {
			return fmt.Errorf("generation %d, observed %d, %+v", guarded.Generation, guarded.Status.ObservedGeneration, c)
		}
		return nil
	})
	return c
}

// expectGood waits until the release counts as good, and makes sure that it runs.
func (r *trial) expectGood() {
	r.Helper()
	if c := r.await(v1alpha1.ConditionReady, v1alpha1.ReasonRolledOut); c.Status != metav1.ConditionTrue {
		r.Errorf("%s is %s: %s", c.Type, c.Status, c.Message)
	}
	r.expectRunning(r.version)
}

// expectRolledBack waits until the good release runs again, and returns why.
func (r *trial) expectRolledBack(reason, cause string, words ...string) v1alpha1.Failure {
	r.Helper()
	r.await(v1alpha1.ConditionStalled, v1alpha1.ReasonRolledBack)
	guarded, err := r.get()
	if err != nil {
		r.Fatal(err)
	}
	failure := guarded.Status.Failure
	if failure == nil {
		r.Fatal("it is rolled back without a failure")
	}
	say("%5.1f s  %s: %s, %s: %s", time.Since(r.began).Seconds(), r.Name(), failure.Reason, failure.Cause, failure.Message)
	if failure.Reason != reason || failure.Cause != cause {
		r.Errorf("the failure is %s, %s, want %s, %s", failure.Reason, failure.Cause, reason, cause)
	}
	for _, word := range words {
		if !strings.Contains(failure.Message, word) {
			r.Errorf("the message %q does not say %q", failure.Message, word)
		}
	}
	r.expectRunning("good")
	return *failure
}

func (r *trial) expectRunning(version string) {
	r.Helper()
	d, err := r.kube.AppsV1().Deployments(namespace).Get(r.Context(), r.name, metav1.GetOptions{})
	if err != nil {
		r.Fatal(err)
	}
	if !hasVersion(d.Spec.Template, version) {
		r.Errorf("the Deployment does not run the release %s", version)
	}
}

// pods are those of the release that is tried which are not being deleted.
func (r *trial) pods() (pods []corev1.Pod) {
	r.Helper()
	list, err := r.kube.CoreV1().Pods(namespace).List(r.Context(), metav1.ListOptions{LabelSelector: "trial=" + r.name})
	if err != nil {
		r.Fatal(err)
	}
	for _, pod := range list.Items {
		if pod.DeletionTimestamp == nil && hasVersion(corev1.PodTemplateSpec{Spec: pod.Spec}, r.version) {
			pods = append(pods, pod)
		}
	}
	return pods
}

// awaitPod waits until the only pod of the release fits.
func (r *trial) awaitPod(what string, fits func(*corev1.Pod) bool) (found corev1.Pod) {
	r.Helper()
	r.eventually(what, func() error {
		pods := r.pods()
		if len(pods) != 1 || !fits(&pods[0]) {
			return fmt.Errorf("pods: %s", mustJSON(pods))
		}
		found = pods[0]
		return nil
	})
	return found
}

func restarted(pod *corev1.Pod) bool {
	return len(pod.Status.ContainerStatuses) > 0 && pod.Status.ContainerStatuses[0].RestartCount > 0
}

// show prints what a person would look at, if the trial has failed.
func (r *trial) show() {
	if !r.Failed() {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	for _, args := range [][]string{
		{"get", "guardeddeployments", r.name, "--ignore-not-found", "--output=yaml"},
		{"get", "deployments,replicasets", "-l", "trial=" + r.name, "--output=yaml"},
		{"get", "pods", "-l", "trial=" + r.name, "--output=yaml"},
	} {
		out, err := r.node.kubectl(ctx, "", args...)
		r.Logf("kubectl %s (%v)\n%s", strings.Join(args, " "), err, out)
	}
	out, err := r.node.kubectl(ctx, "", "get", "events", "--sort-by=.metadata.creationTimestamp")
	r.Logf("kubectl get events (%v)", err)
	for line := range strings.Lines(out) {
		if strings.Contains(line, r.name) {
			r.Log(strings.TrimSpace(line))
		}
	}
}

func mustJSON(value any) string {
	data, err := json.Marshal(value)
	if err != nil {
		return err.Error()
	}
	return string(data)
}
