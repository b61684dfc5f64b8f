package e2e

import (
	"fmt"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// These tests release a Deployment that is guarded in place with the tools that people release with: with Helm, and with the
// code by which Flux and Argo CD apply and wait, in the programs of test/tools.

// releaser is a tool that applies a Deployment and a ConfigMap, and waits until they are well.
type releaser struct {
	name    string
	release func(a *app, pods corev1.PodTemplateSpec, limit time.Duration) toolOutcome
	again   string // what it says to have done where a failed release is there already; empty if it does not say
	says    string // what it says of a release that failed
	waits   bool   // until the Deployment is well, before it goes on with the ConfigMap
	slow    bool   // it does not know what a failed release is, and waits until its time is over
}

var releasers = []releaser{
	{name: "Flux", release: apply("flux-apply", nil), again: "unchanged, unchanged", says: "Deployment/NAMESPACE/NAME status: 'Failed'"},
	{name: "Argo CD", release: apply("argo-sync", nil), again: "Succeeded", says: "Degraded: Deployment \"NAME\" exceeded its progress deadline"},
	{name: "Argo CD server-side", release: apply("argo-sync", nil, "-server-side"), again: "Succeeded", says: "Degraded: Deployment"},
	{name: "Argo CD in two waves", release: apply("argo-sync", firstWave), again: "Failed", says: "tasks completed unsuccessfully", waits: true},
	{name: "Helm 4", release: helmUpgrade("helm", "--wait"), says: "Progress deadline exceeded"},
	{name: "Helm 3", release: helmUpgrade("helm3", "--wait"), says: "context deadline exceeded", slow: true},
}

// firstWave has the Deployment in a wave of its own: Argo CD waits for it before it goes on with the ConfigMap.
var firstWave = map[string]string{"argocd.argoproj.io/sync-wave": "-1"}

// toolOutcome is what a tool has made of a release, as the programs of test/tools print it.
type toolOutcome struct {
	Applied    string
	Healthy    bool
	Words      string
	Difference []string // what it would change if it were asked for the same again, each with the object's kind and name first
	took       time.Duration
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
			o := a.fails(crash, "2")
			if !r.slow {
				figures.time("in place: "+r.name+" knows that a release failed", o.took, 20*time.Second)
			}
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

// fixesInOneNamespace bounds how much each tool looks at: Argo CD's code keeps all of a namespace, so hundreds would measure that.
const fixesInOneNamespace = 5

// A fix that is applied, and waited for at once, never ends on the failure before it, whether Belay is there or not.
func TestInPlaceTools_Fixes(t *testing.T) {
	needTools(t)
	for left := *fixesFlag; left > 0; left -= fixesInOneNamespace {
		t.Run(fmt.Sprintf("%d to go", left), func(t *testing.T) { failAndFix(t, min(left, fixesInOneNamespace)) })
	}
}

// failAndFix has each tool fix so many apps while Belay is there, and so many while it is not.
func failAndFix(t *testing.T, fixes int) {
	n := emptyNamespace(t)
	n.needInPlace()
	n.belay = startBelay(t, n.name)
	apps := make([][]*app, len(releasers))
	rolledBack := t.Run("failed", func(t *testing.T) {
		for i, r := range releasers {
			apps[i] = make([]*app, 2*fixes)
			for k := range apps[i] {
				t.Run(fmt.Sprintf("%s %d", r.name, k+1), func(t *testing.T) {
					a := r.newApp(n.with(t), fmt.Sprintf("web-%d-%d", i, k))
					a.fails(crash, "2")
					a.awaitBack("2")
					apps[i][k] = a
				})
			}
		}
	})
	if !rolledBack {
		return
	}
	t.Run("fixed with Belay", func(t *testing.T) {
		for i, r := range releasers {
			t.Run(r.name, func(t *testing.T) { n.with(t).fix(apps[i][:fixes]) })
		}
	})
	n.belay.kill()
	n.belay = nil
	t.Run("fixed without", func(t *testing.T) {
		for i, r := range releasers {
			t.Run(r.name, func(t *testing.T) { n.with(t).fix(apps[i][fixes:]) })
		}
	})
}

// fix releases what is good, one app after the other, and deletes each: there may be hundreds.
func (n *namespace) fix(apps []*app) {
	n.Helper()
	for _, a := range apps {
		a.namespace = n
		a.succeeds(good, "3")
		if err := cluster.kube.AppsV1().Deployments(n.name).Delete(n.Context(), a.name, metav1.DeleteOptions{}); err != nil {
			n.Error(err)
		}
	}
}

// with returns the namespace for a parallel test of its own.
func (n *namespace) with(t *testing.T) *namespace {
	t.Parallel()
	other := *n
	other.T = t
	return &other
}
