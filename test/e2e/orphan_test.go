package e2e

import (
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// These tests are about a Deployment that its GuardedDeployment has left behind: it goes on, and its next owner is whoever
// applies it, and nobody else.

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

// managers returns who manages fields of the Deployment, but for its status.
func managers(d *appsv1.Deployment) (names []string) {
	for _, entry := range d.ManagedFields {
		if entry.Subresource == "" {
			names = append(names, entry.Manager)
		}
	}
	return names
}

// letGo reports whether nothing of Belay's is left on a Deployment.
func letGo(d *appsv1.Deployment) bool {
	for key := range d.Annotations {
		if strings.HasPrefix(key, v1alpha1.GroupName+"/") && key != v1alpha1.AdoptAnnotation {
			return false
		}
	}
	return d.Labels[v1alpha1.GuardedLabel] == "" && metav1.GetControllerOf(d) == nil && !slices.Contains(managers(d), "belay")
}

// awaitReleased waits until the Deployment goes on without an owner, and without anything of Belay's, and the Deployment
// controller has seen it.
func (o *object) awaitReleased() *appsv1.Deployment {
	o.Helper()
	return o.awaitDeployment("is let go of", func(d *appsv1.Deployment) bool {
		return letGo(d) && d.Status.ObservedGeneration == d.Generation
	})
}

// checkReleased makes sure that Belay let go of the Deployment in one write, with all that it runs as it was.
func (o *object) checkReleased(was *appsv1.Deployment, running map[string]string, writesBefore int) {
	o.Helper()
	orphan := o.awaitReleased()
	if orphan.UID != was.UID || !equality.Semantic.DeepEqual(orphan.Spec, was.Spec) {
		o.Errorf("the Deployment is uid %s: %+v\nwas uid %s: %+v", orphan.UID, orphan.Spec, was.UID, was.Spec)
	}
	o.nothingHappens(5*time.Second, func(context.Context) error {
		if now := o.running(); !maps.Equal(now, running) {
			return fmt.Errorf("what runs is %v, before %v", now, running)
		}
		if cluster.audit != nil && len(o.deploymentWrites()) != writesBefore+1 {
			return fmt.Errorf("it is not one write that lets go of it:\n%s", o.describeWrites())
		}
		return nil
	})
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

func TestOrphan_GoesOn(t *testing.T) {
	n := newNamespace(t)
	web := n.createReady("web", template(good, "1"))
	was, running, writes := web.deployment(), web.running(), len(web.deploymentWrites())
	web.delete(metav1.DeletePropagationOrphan)
	web.awaitGone()
	web.checkReleased(was, running, writes)
	if left := web.revisions(); len(left) != 0 {
		t.Errorf("revisions %v have an owner still", names(left))
	}
}

func TestOrphan_AppliedByAnother(t *testing.T) {
	t.Parallel()
	for name, how := range map[string][]string{"client side": nil, "server side": {"--server-side"}} {
		t.Run(name, func(t *testing.T) {
			web := newNamespace(t).leave("web")
			web.awaitReleased()
			web.checkNextOwner(how...)
		})
	}
}

var variable = corev1.EnvVar{Name: "EXTRA", Value: "1"}

// byHand is the command of docs/adoption.md that does what Belay does, where it does not run.
var byHand = regexp.MustCompile(`(?m)^    (kubectl patch deployment web --type=json .*)$`)

func testOrphanReleasedByHand(t *testing.T) {
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
