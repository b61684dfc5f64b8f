package node

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
	"github.com/belay-dev/belay/pkg/rollout"
)

// tagTrial is a trial whose image has a tag that moves, while a client calls its service all the time.
type tagTrial struct {
	*trial
	repository string
	good       string // the digest with which the first release is good
	traffic    *traffic
}

func (r *tagTrial) latest() string { return r.repository + ":latest" }

// newTagTrial returns a trial whose image is in a repository of its own.
func newTagTrial(t *testing.T, repository string, edits ...func(*v1alpha1.GuardedDeploymentSpec)) *tagTrial {
	t.Parallel()
	r := &tagTrial{repository: distribution + "/" + repository}
	r.good = theNode.push(t, r.latest(), firstBuild)
	r.trial = beginTrial(t, "", append(edits, func(spec *v1alpha1.GuardedDeploymentSpec) {
		spec.Replicas, spec.Guard.MaxRestarts, spec.Guard.SoakSeconds = new(int32(4)), new(int32(0)), new(int32(3))
		spec.Template.Spec.TerminationGracePeriodSeconds = new(int64(15))
		c := &spec.Template.Spec.Containers[0]
		c.Image, c.ImagePullPolicy = r.latest(), "" // Always, by default
		c.Args = []string{"--version=good", "--drain=5s"}
	})...)
	r.expectGood()
	r.expectDigest(r.good)
	r.traffic = startTraffic(r.expose())
	t.Cleanup(func() { r.traffic.stop() })
	return r
}

// unavailable is how many of the pods may be missing while others come.
func unavailable(pods int32) func(*v1alpha1.GuardedDeploymentSpec) {
	return func(spec *v1alpha1.GuardedDeploymentSpec) {
		most, surge := intstr.FromInt32(pods), intstr.FromInt32(1)
		spec.Strategy.RollingUpdate = &appsv1.RollingUpdateDeployment{MaxUnavailable: &most, MaxSurge: &surge}
	}
}

// expose makes a service of the pods, and returns its address when kube-proxy has rules for it.
func (r *trial) expose() (address string) {
	r.Helper()
	service, err := r.kube.CoreV1().Services(namespace).Create(r.Context(), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: r.name},
		Spec: corev1.ServiceSpec{
			Selector: map[string]string{"trial": r.name},
			Ports:    []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromInt32(8080)}},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		r.Fatal(err)
	}
	r.eventually("rules of kube-proxy", func() error { return proxied(service.Spec.ClusterIP) })
	return service.Spec.ClusterIP
}

func (r *trial) restart() {
	r.Helper()
	if _, err := r.node.kubectl(r.Context(), "", "rollout", "restart", "deployment/"+r.name, "-n", namespace); err != nil {
		r.Fatal(err)
	}
}

func (r *trial) deployment() *appsv1.Deployment {
	r.Helper()
	d, err := r.kube.AppsV1().Deployments(namespace).Get(r.Context(), r.name, metav1.GetOptions{})
	if err != nil {
		r.Fatal(err)
	}
	return d
}

// expectDigest waits until all pods are ready, none is too many, and all run the image with the digest.
func (r *tagTrial) expectDigest(digest string) {
	r.Helper()
	r.eventually("pods of "+digest, func() error {
		pods := r.pods()
		if len(pods) != int(*r.deployment().Spec.Replicas) {
			return fmt.Errorf("there are %d", len(pods))
		}
		for _, pod := range pods {
			for _, c := range pod.Status.ContainerStatuses {
				if !c.Ready || c.ImageID != r.repository+"@"+digest {
					return fmt.Errorf("pod %s: ready %t, %s, %s", pod.Name, c.Ready, c.Image, c.ImageID)
				}
			}
		}
		return nil
	})
}

// expectServed ends the traffic once each of these versions has answered, and makes sure that every request was answered, and by them
// alone. A pod is ready before kube-proxy sends it anything.
func (r *tagTrial) expectServed(versions ...string) {
	r.Helper()
	r.expectAnswers(r.traffic, versions...)
}

// expectAnswers is expectServed of any trial.
func (r *trial) expectAnswers(traffic *traffic, versions ...string) {
	r.Helper()
	for _, version := range versions {
		r.eventually("an answer of "+version, func() error { return traffic.seen.answered(version) })
	}
	seen := traffic.stop()
	say("        %s: failed requests: %d of %d, in %s", r.Name(), len(seen.failures), seen.requests, seen.took.Round(time.Second))
	if len(seen.failures) > 0 {
		r.Errorf("%d of %d requests failed, the first: %s", len(seen.failures), seen.requests, seen.failures[0])
	}
	for _, version := range versions {
		delete(seen.answers, version)
	}
	if len(seen.answers) > 0 {
		r.Errorf("these should not have answered: %v", seen.answers)
	}
}

func (r *trial) uids() (uids []types.UID) {
	r.Helper()
	for _, pod := range r.pods() {
		uids = append(uids, pod.UID)
	}
	slices.Sort(uids)
	return uids
}

// follow returns what Ready was in every state of the object from a version of it until there is one that fits, the last.
func (r *trial) follow(version string, fits func(*v1alpha1.GuardedDeployment) bool) (ready []metav1.Condition, last *v1alpha1.GuardedDeployment) {
	r.Helper()
	ctx, cancel := context.WithTimeout(r.Context(), trialTime)
	defer cancel()
	states, err := r.belay.BelayV1alpha1().GuardedDeployments(namespace).Watch(ctx, metav1.ListOptions{
		FieldSelector: "metadata.name=" + r.name, ResourceVersion: version})
	if err != nil {
		r.Fatal(err)
	}
	defer states.Stop()
	for state := range states.ResultChan() {
		guarded, ok := state.Object.(*v1alpha1.GuardedDeployment)
		if !ok {
			r.Fatalf("the watch ends with %s %+v", state.Type, state.Object)
		}
		c := meta.FindStatusCondition(guarded.Status.Conditions, v1alpha1.ConditionReady)
		if c == nil {
			continue
		}
		if ready = append(ready, *c); fits(guarded) {
			return ready, guarded
		}
	}
	r.Fatalf("it does not come to that: %s", mustJSON(ready))
	return nil, nil
}

// expectDigests makes sure that a message tells what the tag was and is.
func (r *trial) expectDigests(message string, digests ...string) {
	r.Helper()
	for _, digest := range digests {
		if short := digest[:len("sha256:")+12]; !strings.Contains(message, short) {
			r.Errorf("the message %q does not say %s", message, short)
		}
	}
}

// Restarts.

func TestRestart_OfTagThatMovedToGood(t *testing.T) {
	r := newTagTrial(t, "restart-good", unavailable(0))
	second := r.node.push(t, r.latest(), secondBuild)
	if second == r.good {
		t.Fatalf("both images are %s", second)
	}
	r.expectDigest(r.good) // as yet
	r.restart()
	r.expectDigest(second)
	r.expectGood()
	r.expectServed("good")
}

func TestRestart_OfTagThatMoved(t *testing.T) {
	const reason = v1alpha1.ReasonRestartFailed
	r := newTagTrial(t, "restart", unavailable(0))
	served := r.uids()
	bad := r.node.push(t, r.latest(), crashingBuild)
	before, err := r.get()
	if err != nil {
		t.Fatal(err)
	}
	r.restart()
	ready, guarded := r.follow(before.ResourceVersion, func(guarded *v1alpha1.GuardedDeployment) bool {
		return guarded.Status.Failure != nil && meta.IsStatusConditionTrue(guarded.Status.Conditions, v1alpha1.ConditionReady)
	})
	failed := slices.IndexFunc(ready, func(c metav1.Condition) bool { return c.Status == metav1.ConditionFalse && c.Reason == reason })
	if failed < 0 {
		t.Fatalf("Ready is never False for %s: %s", reason, mustJSON(ready))
	}
	r.expectDigests(ready[failed].Message, r.good, bad)
	if last := ready[len(ready)-1]; last.Reason != v1alpha1.ReasonRolledOut {
		t.Errorf("Ready is True for %s, want %s", last.Reason, v1alpha1.ReasonRolledOut)
	}
	failure := guarded.Status.Failure
	say("        %s: %s, %s: %s", t.Name(), failure.Reason, failure.Cause, failure.Message)
	r.expectDigests(failure.Message, r.good, bad)
	if failure.Cause != v1alpha1.CauseExitCode || failure.ExitCode == nil || *failure.ExitCode != 3 {
		t.Errorf("the failure is %s, want %s with 3", mustJSON(failure), v1alpha1.CauseExitCode)
	}
	want := []v1alpha1.MovedImage{{Container: "server", Image: r.latest(), Good: r.good, Now: bad}}
	if !slices.Equal(failure.Images, want) {
		t.Errorf("the moved images are %s, want %s", mustJSON(failure.Images), mustJSON(want))
	}
	if !strings.Contains(failure.Log, "it was told to exit with 3") {
		t.Errorf("the log is %q", failure.Log)
	}
	if mark, ok := r.deployment().Spec.Template.Annotations["kubectl.kubernetes.io/restartedAt"]; ok {
		t.Errorf("the restart of %s is not undone", mark)
	}
	r.expectPutBack(reason, "kubectl-rollout")
	r.expectDigest(r.good)
	if now := r.uids(); !slices.Equal(now, served) {
		t.Errorf("the pods are %v, want those that served before, %v", now, served)
	}
	r.expectServed("good")
}

// expectPutBack waits for the one Event that says why and whose mark was put back.
func (r *trial) expectPutBack(reason, manager string) {
	r.Helper()
	r.eventually("one Event about what "+manager+" wrote", func() error {
		events, err := r.kube.EventsV1().Events(namespace).List(r.Context(), metav1.ListOptions{FieldSelector: "regarding.name=" + r.name})
		if err != nil {
			return err
		}
		var notes []string
		for _, e := range events.Items {
			if e.Action == rollout.ActionPutBack && e.Reason == reason {
				notes = append(notes, e.Note)
			}
		}
		if len(notes) != 1 || !strings.Contains(notes[0], manager) {
			return fmt.Errorf("they are %q", notes)
		}
		return nil
	})
}

// Releases. For the pods that they cost, a rollback needs new ones.

// releaseMoved releases something else with the same tag, which is that of a crashing image by now.
func (r *tagTrial) releaseMoved() (bad string) {
	r.Helper()
	bad = r.node.push(r.T, r.latest(), crashingBuild)
	r.release(func(spec *v1alpha1.GuardedDeploymentSpec) {
		spec.Template.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "RELEASE", Value: "2"}}
	})
	return bad
}

func TestRelease_OfTagThatMovedUnpinned(t *testing.T) {
	r := newTagTrial(t, "unpinned", unavailable(2))
	r.patch(object{"spec": object{"guard": object{"pinImages": v1alpha1.PinNever}, "progressDeadlineSeconds": 30}})
	bad := r.releaseMoved()
	c := r.await(v1alpha1.ConditionStalled, v1alpha1.ReasonRollbackFailed)
	say("        %s: %s", t.Name(), c.Message)
	r.expectDigests(c.Message, r.good, bad)
	if image := r.deployment().Spec.Template.Spec.Containers[0].Image; image != r.latest() {
		t.Errorf("the image is %s, want %s", image, r.latest())
	}
	r.expectServed("good")
}

func TestRelease_OfTagThatMoved(t *testing.T) {
	const pinned = v1alpha1.PinnedAnnotation
	r := newTagTrial(t, "pinned", unavailable(2))
	bad := r.releaseMoved()
	failure := r.expectRolledBack(v1alpha1.FailureCrashLoop, v1alpha1.CauseExitCode)
	r.expectDigests(failure.Message, r.good, bad)
	d, want := r.deployment(), r.repository+"@"+r.good
	if image := d.Spec.Template.Spec.Containers[0].Image; image != want || !strings.Contains(d.Annotations[pinned], "server") {
		t.Errorf("the image is %s, %s says %q, want %s and the container's name", image, pinned, d.Annotations[pinned], want)
	}
	r.version = "good"
	r.expectDigest(r.good)

	fixed := r.node.push(t, r.latest(), secondBuild)
	r.release(func(spec *v1alpha1.GuardedDeploymentSpec) { spec.Template.Spec.Containers[0].Env[0].Value = "3" })
	r.expectDigest(fixed)
	if d := r.deployment(); d.Spec.Template.Spec.Containers[0].Image != r.latest() || d.Annotations[pinned] != "" {
		t.Errorf("the image is %s, %s says %q: the pin does not go with the next release", d.Spec.Template.Spec.Containers[0].Image, pinned, d.Annotations[pinned])
	}
	r.expectServed("good", "tried")
}

// patch changes the object by what it is to be.
func (r *trial) patch(change object) {
	r.Helper()
	data, err := json.Marshal(change)
	if err != nil {
		r.Fatal(err)
	}
	if _, err := r.belay.BelayV1alpha1().GuardedDeployments(namespace).Patch(r.Context(), r.name, types.MergePatchType, data, metav1.PatchOptions{}); err != nil {
		r.Fatal(err)
	}
}
