package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// These tests release a Deployment that is guarded in place with the tools that people release with: with Helm, and with the
// code by which Flux and Argo CD apply and wait, in the programs of test/tools.

// releaser is a tool that applies a Deployment and a ConfigMap, and waits until they are well.
type releaser struct {
	name    string
	release func(a *app, pods corev1.PodTemplateSpec, limit time.Duration) toolOutcome
	again   string // what it says to have done where a failed release is there already; empty if it does not say
	says    string // what it says of a release that failed
	waits   bool   // with the ConfigMap, until the Deployment is well
	slow    bool   // it does not know what a failed release is, and waits until its time is over
}

var releasers = []releaser{
	{name: "Flux", release: apply("flux-apply", onlyWave), again: "unchanged, unchanged", says: "Deployment/NAMESPACE/NAME status: 'Failed'"},
	{name: "Argo CD", release: apply("argo-sync", onlyWave), again: "Succeeded", says: "Degraded: Deployment \"NAME\" exceeded its progress deadline"},
	{name: "Argo CD server-side", release: apply("argo-sync", onlyWave, "-server-side"), again: "Succeeded", says: "Degraded: Deployment"},
	{name: "Argo CD in two waves", release: apply("argo-sync", firstWave), again: "Failed", says: "tasks completed unsuccessfully", waits: true},
	{name: "Helm 4", release: helmUpgrade("helm", "--wait"), says: "Progress deadline exceeded"},
	{name: "Helm 3", release: helmUpgrade("helm3", "--wait"), says: "context deadline exceeded", slow: true},
}

// The annotations by which the Deployment is healthy before Argo CD goes on with the ConfigMap, and those without which it is
// not asked.
var (
	onlyWave  = map[string]string{}
	firstWave = map[string]string{"argocd.argoproj.io/sync-wave": "-1"}
)

// toolOutcome is what a tool has made of a release, as the programs of test/tools print it.
type toolOutcome struct {
	Applied    string
	Healthy    bool
	Words      string
	Difference []string // what it would change if it were asked for the same again, each with the object's kind and name first
	took       time.Duration
}

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

// succeeds makes a release of which the tool is sure when all pods are available, and not before.
func (a *app) succeeds(b behaviour, release string) {
	a.Helper()
	o := a.tool.release(a, template(b, release), patience)
	d := a.deployment()
	if s := d.Status; !o.Healthy || version(d) != release || s.UpdatedReplicas != appReplicas || s.AvailableReplicas != appReplicas || s.Replicas != appReplicas {
		a.Fatalf("release %s of %s with %s: %+v, and the Deployment is at release %s, %+v", release, a.name, a.tool.name, o, version(d), s)
	}
	a.checkDifference(o)
}

// fails makes a release of which the tool says that it failed.
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
	if !a.tool.slow {
		figures.time("in place: "+a.tool.name+" knows that a release failed", o.took, 20*time.Second)
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

// Every tool says of each release what is true, from the good state and from the one that was rolled back, and never has
// anything to correct.
func TestInPlaceTools_Releases(t *testing.T) {
	t.Parallel()
	needTools(t)
	for _, r := range releasers {
		t.Run(r.name, func(t *testing.T) {
			n := newNamespace(t)
			n.needInPlace()
			a := r.newApp(n, "web")
			a.fails(crash, "2")
			a.awaitBack("2")
			if o := a.fails(crash, "2"); r.again != "" && o.Applied != r.again {
				t.Errorf("it applies the same again: %+v", o)
			}
			a.awaitBack("2")
			a.fails(crash, "3")
			a.awaitBack("3")
			a.succeeds(slow, "4")
			a.awaitGood("4")
		})
	}
}

// What a tool undoes by itself, Belay has nothing to do with any more.
func TestInPlaceTools_HelmGoesBack(t *testing.T) {
	t.Parallel()
	needTools(t)
	for _, r := range []releaser{
		{name: "Helm 4", release: helmUpgrade("helm", "--rollback-on-failure"), says: "Progress deadline exceeded"},
		{name: "Helm 3", release: helmUpgrade("helm3", "--atomic"), says: "context deadline exceeded", slow: true},
	} {
		t.Run(r.name, func(t *testing.T) {
			n := newNamespace(t)
			n.needInPlace()
			a := r.newApp(n, "web")
			for _, release := range []string{"2", "3"} {
				a.fails(crash, release)
				a.awaitDeployment("is at release 1 again", func(d *appsv1.Deployment) bool {
					return version(d) == "1" && d.Status.ObservedGeneration == d.Generation && !exceeded(d) &&
						d.Status.UpdatedReplicas == appReplicas && d.Status.AvailableReplicas == appReplicas && d.Status.Replicas == appReplicas
				})
			}
			a.succeeds(slow, "4")
		})
	}
}

// A fix that is applied, and waited for at once, never ends on the failure before it, whether Belay is there or not.
func TestInPlaceTools_Fixes(t *testing.T) {
	needTools(t)
	for _, there := range []bool{true, false} {
		t.Run(fmt.Sprintf("with Belay %t", there), func(t *testing.T) {
			n := emptyNamespace(t)
			n.needInPlace()
			n.belay = startBelay(t, n.name)
			apps := make([][]*app, len(releasers))
			t.Run("failed", func(t *testing.T) {
				forEach(t, n, func(n *namespace, i int) { apps[i] = failedApps(n, i) })
			})
			if !there {
				n.belay.kill()
				n.belay = nil
			}
			t.Run("fixed", func(t *testing.T) {
				forEach(t, n, func(n *namespace, i int) {
					for _, a := range apps[i] {
						a.namespace = n
						a.succeeds(good, "3")
					}
				})
			})
		})
	}
}

// forEach runs a test for each tool, all in one namespace.
func forEach(t *testing.T, n *namespace, test func(n *namespace, i int)) {
	for i, r := range releasers {
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			test(&namespace{T: t, name: n.name, belay: n.belay}, i)
		})
	}
}

// failedApps returns as many apps as -fixes says, each back from its release 2.
func failedApps(n *namespace, i int) (apps []*app) {
	n.Helper()
	for k := range *fixesFlag {
		a := releasers[i].newApp(n, fmt.Sprintf("web-%d-%d", i, k))
		a.fails(crash, "2")
		a.awaitBack("2")
		apps = append(apps, a)
	}
	return apps
}
