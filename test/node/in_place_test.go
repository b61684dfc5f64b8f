package node

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/retry"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

const (
	inPlaceReplicas = 4
	inPlaceLeast    = 3 // ready ones: a quarter may be unavailable, by default
)

// inPlaceTrial is a trial of a plain Deployment that is guarded in place, while a client calls its service all the time.
type inPlaceTrial struct {
	*trial
	shared  string // the directory that its servers look into
	traffic *traffic
}

// failure is the Deployment's annotation of that name.
type failure struct {
	ReplicaSet, Reason, Cause, Message string
	Ready                              int32
}

// TestInPlace puts the label on a Deployment that runs, and releases: a server that exits, one that sickens in the soak, and the fix.
func TestInPlace(t *testing.T) {
	t.Parallel()
	r := newInPlaceTrial(t)
	r.release("exits", `{maxRestarts: 0}`, "--exit=1")
	r.expectTakenBack(v1alpha1.FailureCrashLoop, v1alpha1.CauseExitCode)

	seen := r.watch()
	sicken := filepath.Join(r.shared, "sicken")
	r.release("sickens", `{soakSeconds: 60, stuckSeconds: 5}`, "--sicken="+sicken)
	r.expectComplete("sickens")
	if err := os.WriteFile(sicken, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	f := r.expectTakenBack(v1alpha1.FailureUnhealthyInSoak, v1alpha1.CauseReadinessProbe)
	if f.Ready != inPlaceReplicas-1 {
		t.Errorf("%d pods were ready at the verdict, want %d", f.Ready, inPlaceReplicas-1)
	}
	r.expectNoGap(seen(), int(f.Ready))

	r.release("fixed", `{soakSeconds: 2}`)
	r.expectComplete("fixed")
	r.expectGood()
	r.expectNothingHeld()
	r.expectAnswers(r.traffic, "good", "sickens", "fixed")
}

// newInPlaceTrial installs what guards in place, and returns a trial whose Deployment was given the label when it was complete.
func newInPlaceTrial(t *testing.T) *inPlaceTrial {
	r := &inPlaceTrial{trial: prepareTrial(t, ""), shared: filepath.Join(theNode.scratch, "in-place")}
	r.mustKubectl("apply", "-k", filepath.Join(repository(), "artifacts", "in-place"))
	if err := errors.Join(os.Mkdir(r.shared, 0o755), os.Chmod(r.shared, 0o777)); err != nil { // whatever the umask
		t.Fatal(err)
	}
	if _, err := r.kube.AppsV1().Deployments(namespace).Create(t.Context(), r.plain(), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	r.expectComplete("good")
	r.traffic = startTraffic(r.expose())
	t.Cleanup(func() { r.traffic.stop() })
	r.began = time.Now()
	r.mustKubectl("label", "deployment", r.name, v1alpha1.GuardedLabel+"="+v1alpha1.GuardedInPlace)
	r.expectGood()
	return r
}

// plain is a Deployment as there are many, that nobody guards.
func (r *inPlaceTrial) plain() *appsv1.Deployment {
	pods := r.first().Spec.Template
	pods.Spec.TerminationGracePeriodSeconds = new(int64(15))
	pods.Spec.Volumes = []corev1.Volume{{Name: "shared", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: r.shared}}}}
	c := &pods.Spec.Containers[0]
	c.Args = serverArgs("good")
	c.ReadinessProbe.TimeoutSeconds = 5 // However busy the machine is, none is unready but the one that sickens.
	c.VolumeMounts = []corev1.VolumeMount{{Name: "shared", MountPath: r.shared}}
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: r.name, Labels: pods.Labels},
		Spec:       appsv1.DeploymentSpec{Replicas: new(int32(inPlaceReplicas)), Selector: &metav1.LabelSelector{MatchLabels: pods.Labels}, Template: pods},
	}
}

func serverArgs(version string, more ...string) []string {
	return append([]string{"--version=" + version, "--drain=5s"}, more...)
}

// release changes the template, and how it is guarded.
func (r *inPlaceTrial) release(version, guard string, args ...string) {
	r.Helper()
	r.version, r.began = version, time.Now()
	err := retry.RetryOnConflict(retry.DefaultRetry, func() error {
		d := r.deployment()
		metav1.SetMetaDataAnnotation(&d.ObjectMeta, v1alpha1.GuardAnnotation, guard)
		d.Spec.Template.Spec.Containers[0].Args = serverArgs(version, args...)
		_, err := r.kube.AppsV1().Deployments(namespace).Update(r.Context(), d, metav1.UpdateOptions{})
		return err
	})
	if err != nil {
		r.Fatal(err)
	}
}

func (r *inPlaceTrial) mustKubectl(args ...string) {
	r.Helper()
	if _, err := r.node.kubectl(r.Context(), "", args...); err != nil {
		r.Fatal(err)
	}
}

// set is the Deployment's ReplicaSet of a version.
func (r *inPlaceTrial) set(version string) *appsv1.ReplicaSet {
	r.Helper()
	sets, err := r.kube.AppsV1().ReplicaSets(namespace).List(r.Context(), metav1.ListOptions{LabelSelector: "trial=" + r.name})
	if err != nil {
		r.Fatal(err)
	}
	i := slices.IndexFunc(sets.Items, func(set appsv1.ReplicaSet) bool { return hasVersion(set.Spec.Template, version) })
	if i < 0 {
		r.Fatalf("no ReplicaSet of %s", version)
	}
	return &sets.Items[i]
}

// expectComplete waits until all pods are of the version, and available.
func (r *inPlaceTrial) expectComplete(version string) {
	r.Helper()
	r.eventually("pods of "+version, func() error {
		d := r.deployment()
		if s := d.Status; !hasVersion(d.Spec.Template, version) || s.ObservedGeneration != d.Generation || s.Replicas != inPlaceReplicas ||
			s.UpdatedReplicas != inPlaceReplicas || s.AvailableReplicas != inPlaceReplicas || d.Annotations[v1alpha1.FailureAnnotation] != "" {
			return fmt.Errorf("generation %d: %s", d.Generation, mustJSON(s))
		}
		return nil
	})
}

// expectGood waits until Belay has found the release good.
func (r *inPlaceTrial) expectGood() {
	r.Helper()
	r.eventually(r.version+" is good", func() error {
		set := r.set(r.version)
		if verdict := set.Labels[v1alpha1.VerdictLabel]; verdict != v1alpha1.VerdictGood+"."+string(set.UID) {
			return fmt.Errorf("the verdict is %q", verdict)
		}
		return nil
	})
	say("%5.1f s  %s: %s is good", time.Since(r.began).Seconds(), r.Name(), r.version)
}

// expectTakenBack waits until the good release runs alone, and makes sure that the condition, the annotation, the Events and kubectl say
// that the release under way failed, and that it is still what is asked for.
func (r *inPlaceTrial) expectTakenBack(reason, cause string) (f failure) {
	r.Helper()
	r.eventually("the good release alone", func() error {
		d, failed, good := r.deployment(), r.set(r.version), r.set("good")
		told, s := progressing(d), d.Status
		f = failure{}
		if err := json.Unmarshal([]byte(d.Annotations[v1alpha1.FailureAnnotation]), &f); err != nil || f.ReplicaSet != failed.Name {
			return fmt.Errorf("the annotation is %q: %v", d.Annotations[v1alpha1.FailureAnnotation], err)
		}
		if told.Status != corev1.ConditionFalse || told.Reason != "ProgressDeadlineExceeded" || !strings.Contains(told.Message, f.Message) {
			return fmt.Errorf("the condition is %s", mustJSON(told))
		}
		if s.ObservedGeneration != d.Generation || s.UpdatedReplicas != 0 || s.Replicas != inPlaceReplicas || s.AvailableReplicas != inPlaceReplicas {
			return fmt.Errorf("generation %d: %s", d.Generation, mustJSON(s))
		}
		if held(failed) != "0" || held(good) != "" {
			return fmt.Errorf("the failed one is held at %q and the good one at %q", held(failed), held(good))
		}
		return nil
	})
	say("%5.1f s  %s: %s, %s: %s", time.Since(r.began).Seconds(), r.Name(), f.Reason, f.Cause, f.Message)
	if f.Reason != reason || f.Cause != cause {
		r.Errorf("the failure is %s, %s, want %s, %s", f.Reason, f.Cause, reason, cause)
	}
	r.expectEvents(f, reason, v1alpha1.ReasonRolledBack)
	if !hasVersion(r.deployment().Spec.Template, r.version) {
		r.Errorf("%s is no longer asked for", r.version)
	}
	_, err := r.node.kubectl(r.Context(), "", "rollout", "status", "deployment/"+r.name, "--timeout=30s")
	if err == nil || !strings.Contains(err.Error(), "exceeded its progress deadline") {
		r.Errorf("kubectl rollout status ends with %v", err)
	}
	return f
}

// expectEvents waits for one Event of each of the reasons about the failure.
func (r *inPlaceTrial) expectEvents(f failure, reasons ...string) {
	r.Helper()
	r.eventually(fmt.Sprint("the Events ", reasons), func() error {
		events, err := r.kube.EventsV1().Events(namespace).List(r.Context(), metav1.ListOptions{FieldSelector: "regarding.kind=Deployment,regarding.name=" + r.name})
		if err != nil {
			return err
		}
		var found []string
		for _, e := range events.Items {
			if slices.Contains(reasons, e.Reason) && strings.Contains(e.Note, f.ReplicaSet) {
				found = append(found, e.Reason)
			}
		}
		if slices.Sort(found); !slices.Equal(found, slices.Sorted(slices.Values(reasons))) {
			return fmt.Errorf("they are %q", found)
		}
		return nil
	})
}

// expectNothingHeld makes sure that nothing of a failure is left.
func (r *inPlaceTrial) expectNothingHeld() {
	r.Helper()
	for _, version := range []string{"good", "exits", "sickens", "fixed"} {
		if at := held(r.set(version)); at != "" {
			r.Errorf("%s is held at %s", version, at)
		}
	}
	d := r.deployment()
	if told := progressing(d); told.Status != corev1.ConditionTrue || d.Annotations[v1alpha1.FailureAnnotation] != "" {
		r.Errorf("the condition is %s, and the failure %q", mustJSON(told), d.Annotations[v1alpha1.FailureAnnotation])
	}
}

func progressing(d *appsv1.Deployment) (found appsv1.DeploymentCondition) {
	for _, c := range d.Status.Conditions {
		if c.Type == appsv1.DeploymentProgressing {
			found = c
		}
	}
	return found
}

// held is the number that the ReplicaSet is held at, empty if it is not.
func held(set *appsv1.ReplicaSet) string {
	return strings.TrimSuffix(set.Labels[v1alpha1.HeldAtLabel], "."+string(set.UID))
}
