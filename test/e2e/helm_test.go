package e2e

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"
)

// These tests do what docs/gitops.md says, with the real Helm and a chart whose values choose between a Deployment and a
// GuardedDeployment.

// helm is a release of testdata/charts/web.
type helm struct {
	*object
	method string // of writing: how the chart was installed
}

// newHelm returns a release that is not installed yet. server says that Helm applies server-side, as Helm 4 does by default.
func newHelm(n *namespace, server bool) *helm {
	n.Helper()
	return &helm{&object{namespace: n, name: "web"}, fmt.Sprintf("--server-side=%t", server)}
}

// needTools skips a test where the tools are not built.
func needTools(t *testing.T) {
	t.Helper()
	if *toolsFlag == "" {
		t.Skip("this needs the tools that people release with: use hack/tools.sh, which builds them")
	}
}

// runHelm runs a helm in the namespace.
func (n *namespace) runHelm(helm string, args ...string) (string, error) {
	n.Helper()
	ctx, cancel := context.WithTimeout(n.Context(), 2*patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, helm, append([]string{"--kubeconfig", cluster.kubeconfig, "--namespace", n.name}, args...)...)
	home := n.TempDir()
	cmd.Env = append(cmd.Environ(), "HELM_CACHE_HOME="+home, "HELM_CONFIG_HOME="+home, "HELM_DATA_HOME="+home)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// try runs Helm 4 in the namespace.
func (h *helm) try(args ...string) (string, error) {
	h.Helper()
	return h.runHelm(filepath.Join(*toolsFlag, "helm"), args...)
}

func (h *helm) run(args ...string) {
	h.Helper()
	if out, err := h.try(args...); err != nil {
		h.Fatalf("helm %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// chart returns the arguments of a command about the chart with these values.
func chart(command string, values ...string) []string {
	return []string{command, "web", filepath.Join("testdata", "charts", "web"), "--set", strings.Join(values, ",")}
}

func (h *helm) install(values ...string) {
	h.Helper()
	h.run(append(chart("install", values...), h.method)...)
}

func (h *helm) upgrade(values ...string) {
	h.Helper()
	h.run(chart("upgrade", values...)...)
}

// awaitGuarded waits until the GuardedDeployment of the release is ready.
func (h *helm) awaitGuarded() {
	h.Helper()
	h.uid = h.get().UID
	h.awaitReady()
}

// awaitDeployed waits until the Deployment runs a version in all its pods.
func (h *helm) awaitDeployed(release string) *appsv1.Deployment {
	h.Helper()
	return h.awaitDeployment("runs release "+release, func(d *appsv1.Deployment) bool {
		return version(d) == release && d.Status.ObservedGeneration == d.Generation && d.Status.UpdatedReplicas == 2 &&
			d.Status.AvailableReplicas == 2 && d.Status.Replicas == 2
	})
}

// checkVariables makes sure that the pods have these variables, and no other.
func (h *helm) checkVariables(names ...string) {
	h.Helper()
	var found []string
	for _, e := range h.deployment().Spec.Template.Spec.Containers[0].Env {
		found = append(found, e.Name)
	}
	if fmt.Sprint(found) != fmt.Sprint(names) {
		h.Errorf("the variables are %v, want %v", found, names)
	}
}

// goBack leaves Belay, after the chart has become a Deployment's again, and goes on with two upgrades and a rollback.
func (h *helm) goBack(release string) {
	h.Helper()
	before := h.workload()
	h.delete(metav1.DeletePropagationOrphan)
	h.awaitGone()
	h.awaitReleased()
	h.checkWorkload(before)

	h.upgrade("extra=false", "version="+release)
	h.awaitDeployed(release)
	h.checkVariables("VERSION")
	h.upgrade("extra=false", "version=another")
	h.awaitDeployed("another")
	h.run("rollback", "web")
	d := h.awaitDeployed(release)
	h.checkVariables("VERSION")
	if who := managers(d); len(who) != 1 || who[0] != "helm" {
		h.Errorf("its fields are managed by %v, want helm alone", who)
	}
}

// helmBothWays runs a test with a chart that was installed server-side, and with one that was not.
func helmBothWays(t *testing.T, test func(h *helm)) {
	t.Parallel()
	needTools(t)
	for _, server := range []bool{true, false} {
		t.Run(fmt.Sprintf("server side %t", server), func(t *testing.T) { test(newHelm(newNamespace(t), server)) })
	}
}

func TestHelm_InAndOut(t *testing.T) {
	helmBothWays(t, func(h *helm) {
		h.mayAdopt()
		h.install()
		h.awaitDeployed("1")
		before := h.workload()
		h.upgrade("keep=true", "consent=true")
		h.upgrade("keep=true", "kind=GuardedDeployment")
		h.awaitGuarded()
		h.checkWorkload(before)
		h.upgrade("keep=true", "kind=GuardedDeployment", "version=2")
		h.awaitReady()
		h.awaitDeployed("2")

		h.upgrade("keep=true", "version=2")
		h.goBack("2")
	})
}

// Helm has never had the Deployment that Belay made, and has to be told that it is its own from now on.
func TestHelm_TakesOverDeploymentOfBelay(t *testing.T) {
	helmBothWays(t, func(h *helm) {
		h.install("keep=true", "kind=GuardedDeployment")
		h.awaitGuarded()
		out, err := h.try(chart("upgrade", "keep=true")...)
		if err == nil || !strings.Contains(out, "invalid ownership metadata") {
			h.Errorf("Helm takes the Deployment without being told to: %v\n%s", err, out)
		}
		h.run(append(chart("upgrade", "keep=true"), "--take-ownership")...)
		h.goBack("1")
	})
}

// Whoever has not read the page changes the kind of a live chart in one upgrade. Helm creates the GuardedDeployment, then
// deletes the Deployment, and nothing runs until Belay has seen that.
//
// Helm that waits, as --wait alone says, sees that the name is taken, and gives up. What it has done stays, and Belay goes
// on, unless a rollback deletes the GuardedDeployment: "keep" prevents that.
func TestHelm_KindChangedInOneUpgrade(t *testing.T) {
	needTools(t)
	for _, how := range []string{"--wait=hookOnly", "--wait=watcher", "--rollback-on-failure --set=keep=true"} {
		t.Run(how, func(t *testing.T) {
			n := emptyNamespace(t)
			n.belay = startBelay(t, n.name)
			h := newHelm(n, true)
			h.install()
			was := h.awaitDeployed("1")
			gap := h.watchGap(was)
			out, err := h.try(append(chart("upgrade", "kind=GuardedDeployment"), strings.Fields(how)...)...)
			t.Logf("helm upgrade %s: %v\n%s", how, err, out)
			figures.time("Helm changes the kind: no Deployment", gap(), 2500*time.Millisecond)
			h.awaitGuarded()
			if now := h.deployment(); now.UID == was.UID || !metav1.IsControlledBy(now, h.get()) || strings.Contains(message(h.get()), "exists") {
				t.Errorf("the Deployment is %+v, and the status says %q", now.ObjectMeta, message(h.get()))
			}
		})
	}
}

// watchGap begins to watch for the end of a Deployment and the beginning of the next one. The function that it returns waits
// for both, and returns how long there was none.
func (o *object) watchGap(was *appsv1.Deployment) (gap func() time.Duration) {
	o.Helper()
	gone, back := make(chan time.Time, 1), make(chan time.Time, 1)
	registration, err := cluster.seen.deployments.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(now any) {
			if d := now.(*appsv1.Deployment); d.Namespace == was.Namespace && d.Name == was.Name && d.UID != was.UID {
				back <- time.Now()
			}
		},
		DeleteFunc: func(before any) {
			if d, ok := before.(*appsv1.Deployment); ok && d.UID == was.UID {
				gone <- time.Now()
			}
		},
	})
	if err != nil {
		o.Fatal(err)
	}
	first := func(what string, times <-chan time.Time) time.Time {
		select {
		case at := <-times:
			return at
		case <-time.After(patience):
			o.Fatalf("waited %s until the Deployment is %s", patience, what)
			return time.Time{}
		}
	}
	return func() time.Duration {
		freed, taken := first("gone", gone), first("there again", back)
		if err := cluster.seen.deployments.RemoveEventHandler(registration); err != nil {
			o.Error(err)
		}
		return taken.Sub(freed)
	}
}
