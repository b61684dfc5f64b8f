package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// app is a Deployment that is guarded in place, and the tool that it is released with.
type app struct {
	*object
	tool releaser
}

// appReplicas is how many pods an app has.
const appReplicas = 2

// manifests returns the Deployment with these pods, and a ConfigMap with their version.
func (a *app) manifests(pods corev1.PodTemplateSpec, annotations map[string]string) []byte {
	a.Helper()
	pods = *pods.DeepCopy()
	pods.Labels = map[string]string{"app": a.name}
	meta := metav1.ObjectMeta{Name: a.name, Namespace: a.namespace.name, Annotations: map[string]string{
		v1alpha1.GuardAnnotation: `{"maxRestarts": 1, "soakSeconds": 1, "stuckSeconds": 5}`}}
	d := &appsv1.Deployment{TypeMeta: metav1.TypeMeta{APIVersion: "apps/v1", Kind: "Deployment"}, ObjectMeta: *meta.DeepCopy(), Spec: appsv1.DeploymentSpec{
		Replicas: new(int32(appReplicas)), Selector: &metav1.LabelSelector{MatchLabels: pods.Labels}, Template: pods}}
	d.Labels = map[string]string{v1alpha1.GuardedLabel: v1alpha1.GuardedInPlace}
	maps.Copy(d.Annotations, annotations)
	c := &corev1.ConfigMap{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"},
		ObjectMeta: metav1.ObjectMeta{Name: meta.Name, Namespace: meta.Namespace}, Data: map[string]string{"version": versionOf(pods.Spec)}}
	var documents [][]byte
	for _, object := range []any{d, c} {
		document, err := json.Marshal(object)
		if err != nil {
			a.Fatal(err)
		}
		documents = append(documents, document)
	}
	return bytes.Join(documents, []byte("\n---\n"))
}

// apply releases with a program of test/tools.
func apply(program string, annotations map[string]string, flags ...string) func(*app, corev1.PodTemplateSpec, time.Duration) toolOutcome {
	return func(a *app, pods corev1.PodTemplateSpec, limit time.Duration) (o toolOutcome) {
		a.Helper()
		cmd := exec.CommandContext(a.Context(), filepath.Join(*toolsFlag, program), append([]string{
			"-kubeconfig", cluster.kubeconfig, "-namespace", a.namespace.name, "-timeout", limit.String()}, flags...)...)
		var stdout, stderr bytes.Buffer
		cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(a.manifests(pods, annotations)), &stdout, &stderr
		began := time.Now()
		err := cmd.Run()
		if decoded := json.Unmarshal(stdout.Bytes(), &o); decoded != nil {
			a.Fatalf("%s: %v\n%s%s", program, err, stdout.Bytes(), stderr.Bytes())
		}
		o.took = time.Since(began)
		return o
	}
}

// helmUpgrade releases with Helm, and a chart that knows nothing of Belay.
func helmUpgrade(program string, flags ...string) func(*app, corev1.PodTemplateSpec, time.Duration) toolOutcome {
	return func(a *app, pods corev1.PodTemplateSpec, limit time.Duration) toolOutcome {
		a.Helper()
		dir := a.TempDir()
		templates := filepath.Join(dir, "templates")
		err := errors.Join(os.Mkdir(templates, 0o755), os.WriteFile(filepath.Join(templates, "app.yaml"), a.manifests(pods, nil), 0o644),
			os.WriteFile(filepath.Join(dir, "Chart.yaml"), []byte("{apiVersion: v2, name: app, version: 1.0.0}"), 0o644))
		if err != nil {
			a.Fatal(err)
		}
		began := time.Now()
		out, err := a.runHelm(filepath.Join(*toolsFlag, program), append([]string{
			"upgrade", "--install", a.name, dir, "--timeout", limit.String()}, flags...)...)
		return toolOutcome{Healthy: err == nil, Words: out, took: time.Since(began)}
	}
}

// holds installs the policies by which ReplicaSets are held, for all tests. It returns what kubectl says.
var holds = sync.OnceValues(func() (output string, err error) {
	policies := filepath.Join(root, "artifacts", "in-place", "policy.yaml")
	leave(func() error {
		_, err := kubectl(nil, "delete", "--ignore-not-found", "-f", policies)
		return err
	})
	return kubectl(nil, "apply", "-f", policies)
})

// needInPlace skips a test where no ReplicaSet can be held.
func (n *namespace) needInPlace() {
	n.Helper()
	if out, err := holds(); strings.Contains(out, "no matches for kind") {
		n.Skip("this API server has no MutatingAdmissionPolicy: Kubernetes has it since 1.36")
	} else if err != nil {
		n.Fatal(err)
	}
}

// newApp returns an app that runs release 1, which Belay has found good.
func (r releaser) newApp(n *namespace, name string) *app {
	n.Helper()
	a := &app{&object{namespace: n, name: name}, r}
	a.succeeds(good, "1")
	a.awaitGood("1")
	return a
}

// awaitGood waits until Belay has found a release good.
func (a *app) awaitGood(release string) {
	a.Helper()
	a.eventually(a.name+" has a good release "+release, func(ctx context.Context) (bool, error) {
		sets, err := cluster.kube.AppsV1().ReplicaSets(a.namespace.name).List(ctx, metav1.ListOptions{LabelSelector: "app=" + a.name})
		return err == nil && slices.ContainsFunc(sets.Items, func(set appsv1.ReplicaSet) bool {
			return versionOf(set.Spec.Template.Spec) == release && strings.HasPrefix(set.Labels[v1alpha1.VerdictLabel], v1alpha1.VerdictGood+".")
		}), err
	})
}

// succeeds makes a release of which the tool is sure when all its pods are ready, and not before.
func (a *app) succeeds(b behaviour, release string) {
	a.Helper()
	o := a.tool.release(a, template(b, release), patience)
	pods := a.pods()
	ready := slices.DeleteFunc(slices.Clone(pods), func(pod corev1.Pod) bool {
		return versionOf(pod.Spec) != release || !slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
			return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
		})
	})
	if !o.Healthy || len(ready) != appReplicas {
		a.Fatalf("release %s of %s with %s: %+v, and of %d pods %d are of the release and ready", release, a.name, a.tool.name, o, len(pods), len(ready))
	}
	a.checkDifference(o)
}

// fails makes a release of which the tool says that it failed, and goes no further.
func (a *app) fails(b behaviour, release string) toolOutcome {
	a.Helper()
	limit := patience
	if a.tool.slow {
		limit = 10 * time.Second
	}
	o := a.tool.release(a, template(b, release), limit)
	says := strings.NewReplacer("NAMESPACE", a.namespace.name, "NAME", a.name).Replace(a.tool.says)
	if o.Healthy || !strings.Contains(o.Words, says) {
		a.Fatalf("release %s of %s with %s fails: %+v, want it to say %q", release, a.name, a.tool.name, o, says)
	}
	if a.tool.waits {
		a.checkDifference(o, "ConfigMap/"+a.name)
	} else {
		a.checkDifference(o)
	}
	return o
}

// checkDifference makes sure that the tool would change nothing but this, if it were asked for the same again.
func (a *app) checkDifference(o toolOutcome, want ...string) {
	a.Helper()
	var found []string
	for _, text := range o.Difference {
		name, _, _ := strings.Cut(text, "\n")
		found = append(found, name)
	}
	if !slices.Equal(found, want) {
		a.Errorf("%s would change %q, want %q:\n%s", a.tool.name, found, want, strings.Join(o.Difference, "\n"))
	}
}

// awaitBack waits until the failed release is asked for, and all pods are of another one.
func (a *app) awaitBack(failed string) {
	a.Helper()
	a.awaitDeployment("is back from release "+failed, func(d *appsv1.Deployment) bool {
		return version(d) == failed && d.Status.ObservedGeneration == d.Generation && d.Status.UpdatedReplicas == 0 &&
			d.Status.Replicas == appReplicas && d.Status.AvailableReplicas == appReplicas && exceeded(d)
	})
}

// exceeded reports whether the Deployment says that its release has failed.
func exceeded(d *appsv1.Deployment) bool {
	return slices.ContainsFunc(d.Status.Conditions, func(c appsv1.DeploymentCondition) bool {
		return c.Type == appsv1.DeploymentProgressing && c.Status == corev1.ConditionFalse && c.Reason == "ProgressDeadlineExceeded"
	})
}
