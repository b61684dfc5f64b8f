package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

// These tests are about who owns the Deployment next, after its GuardedDeployment has left it behind: whoever applies it,
// and nobody else.

// manifestOf returns the path of a manifest of a Deployment like the object's, with one variable more on request.
func (o *object) manifestOf(image string, extra bool) string {
	o.Helper()
	d := o.deployment()
	pods := template(good, "1")
	pods.Labels = d.Spec.Template.Labels
	pods.Spec.Containers[0].Image = image
	if extra {
		pods.Spec.Containers[0].Env = append(pods.Spec.Containers[0].Env, variable)
	}
	data, err := yaml.Marshal(map[string]any{"apiVersion": "apps/v1", "kind": "Deployment", "metadata": map[string]any{"name": o.name},
		"spec": map[string]any{"replicas": 3, "selector": d.Spec.Selector, "template": pods}})
	if err != nil {
		o.Fatal(err)
	}
	path := filepath.Join(o.TempDir(), "web.yaml")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		o.Fatal(err)
	}
	return path
}

// checkNextOwner applies the orphan's manifest, then one without a variable, then one with another image. Each takes effect.
func (o *object) checkNextOwner(how ...string) {
	o.Helper()
	image := o.deployment().Spec.Template.Spec.Containers[0].Image
	apply := func(path string) *appsv1.Deployment {
		if out, err := o.tryKubectl(append([]string{"apply", "--filename", path}, how...)...); err != nil {
			o.Fatalf("kubectl apply %q: %v\n%s", how, err, out)
		}
		return o.deployment()
	}
	before := o.workload()
	apply(o.manifestOf(image, true))
	o.checkWorkload(before)
	if env := apply(o.manifestOf(image, false)).Spec.Template.Spec.Containers[0].Env; len(env) != 1 {
		o.Errorf("a variable that is no longer in the manifest stays: %v", env)
	}
	d := apply(o.manifestOf("localhost/other:good", false))
	if now := d.Spec.Template.Spec.Containers[0].Image; now != "localhost/other:good" {
		o.Errorf("the image is %s, not the one that was applied", now)
	}
	for _, manager := range managers(d) {
		if !strings.HasPrefix(manager, "kubectl") {
			o.Errorf("%q manages fields of it: %v", manager, managers(d))
		}
	}
}

// leave creates a GuardedDeployment with one variable more, and deletes it without its Deployment.
func (n *namespace) leave(name string) *object {
	n.Helper()
	pods := template(good, "1")
	pods.Spec.Containers[0].Env = append(pods.Spec.Containers[0].Env, variable)
	o := n.createReady(name, pods)
	o.delete(metav1.DeletePropagationOrphan)
	o.awaitGone()
	return o
}

func TestWhoeverAppliesAnOrphanOwnsIt(t *testing.T) {
	t.Parallel()
	for name, how := range map[string][]string{"client side": nil, "server side": {"--server-side"}} {
		t.Run(name, func(t *testing.T) {
			web := newNamespace(t).leave("web")
			web.awaitReleased()
			web.checkNextOwner(how...)
		})
	}
}

// byHand is the command of docs/adoption.md that does what Belay does, where it does not run.
var variable = corev1.EnvVar{Name: "EXTRA", Value: "1"}

var byHand = regexp.MustCompile(`(?m)^    (kubectl patch deployment web --type=json .*)$`)

func TestOrphansAreReleasedByHandWithoutBelay(t *testing.T) {
	kubectl, err := kubectlPath()
	if err != nil {
		t.Skip("this needs kubectl, beside the kubeconfig or in PATH")
	}
	page, err := os.ReadFile(filepath.Join(root, "docs", "adoption.md"))
	if err != nil {
		t.Fatal(err)
	}
	command := byHand.FindStringSubmatch(string(page))
	if command == nil {
		t.Fatal("docs/adoption.md has no such command any more")
	}
	n := emptyNamespace(t)
	n.belay = startBelay(t, n.name)
	pods := template(good, "1")
	pods.Spec.Containers[0].Env = append(pods.Spec.Containers[0].Env, variable)
	web := n.createReady("web", pods)
	n.belay.kill()
	n.belay = nil
	web.delete(metav1.DeletePropagationOrphan)
	web.awaitGone()
	web.awaitDeployment("has no owner", func(d *appsv1.Deployment) bool { return metav1.GetControllerOf(d) == nil })

	script := `kubectl() { "$KUBECTL" --kubeconfig "$CONFIG" --namespace "$NAMESPACE" "$@"; }; ` + command[1]
	shell := exec.CommandContext(t.Context(), "bash", "-c", script)
	shell.Env = append(os.Environ(), "KUBECTL="+kubectl, "CONFIG="+cluster.kubeconfig, "NAMESPACE="+n.name)
	if out, err := shell.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", command[1], err, out)
	}
	if d := web.deployment(); !letGo(d) {
		t.Fatalf("something of Belay's is left: %+v", d.ObjectMeta)
	}
	web.checkNextOwner("--server-side")
}
