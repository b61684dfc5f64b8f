package e2e

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

const artifacts = root + "/artifacts"

// generations returns the uid and the generation of everything that the manifests install, as it is in the cluster.
func (n *namespace) generations() string {
	n.Helper()
	out, err := kubectl(nil, "get", "-k", artifacts, "--output",
		`jsonpath={range .items[*]}{.kind} {.metadata.name} {.metadata.uid} {.metadata.generation}{"\n"}{end}`)
	if err != nil {
		n.Fatal(err)
	}
	if objects, err := kustomize(""); err != nil || len(objects) != strings.Count(out, "\n") {
		n.Fatalf("%v; want %d objects, got\n%s", err, len(objects), out)
	}
	return out
}

// The way of an installation: in, again, out by mistake, in again, and out as it is documented. Nobody loses a workload.
// This is not parallel, because it takes the rights of every belay away.
func TestInstall_InAndOut(t *testing.T) {
	n := emptyNamespace(t)
	embedded(t) // Its nodes only pretend to run a second Belay.
	n.belay = startBelay(t, n.name)
	t.Cleanup(func() { // Whatever fails: the tests after this one need what they had.
		_, _ = kubectl(nil, "delete", "--ignore-not-found", "-f", artifacts+"/keep-crd.yaml")
		_, _ = kubectl(nil, "delete", "--ignore-not-found", "-f", artifacts+"/admission-policy.yaml", "-f", artifacts+"/users.yaml")
		_, _ = kubectl(nil, "delete", "--ignore-not-found", "-k", artifacts+"/controller")
		awaitNoSystem(n)
		if err := installAccount(); err != nil {
			t.Error(err)
		}
	})
	apply := func() {
		t.Helper()
		out, err := kubectl(nil, "apply", "-k", artifacts)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(out) { // The tests have applied the CRD by themselves, in another way.
			if strings.Contains(line, "Warning") && !strings.Contains(line, "last-applied-configuration") {
				t.Error(line)
			}
		}
	}
	apply()
	was := n.generations()
	apply()
	if now := n.generations(); now != was {
		t.Errorf("applied again,\n%s\nhas become\n%s", was, now)
	}
	n.checkRestricted()
	n.checkUserRoles()

	web := n.createReady("web", template(good, "1"), soak(0))
	before := web.workload()
	n.belay.kill()
	n.belay = nil
	if out, err := kubectl(nil, "delete", "-k", artifacts); err == nil || !strings.Contains(out, "this would delete every GuardedDeployment") {
		t.Fatalf("the CRD is not kept: %v\n%s", err, out)
	}
	if g := web.get(); g.UID != web.uid || g.DeletionTimestamp != nil {
		t.Fatalf("the GuardedDeployment is gone, or going: %+v", g.ObjectMeta)
	}
	web.checkWorkload(before)

	awaitNoSystem(n)
	apply()
	if err := installAccount(); err != nil {
		t.Fatal(err)
	}
	writes := len(n.writes())
	n.belay = startBelay(t, n.name)
	n.nothingHappens(5*time.Second, func(context.Context) error {
		if now := n.writes()[writes:]; len(now) > 0 {
			return fmt.Errorf("Belay came back and wrote %v", now)
		}
		return nil
	})
	n.belay.kill()
	n.belay = nil
	n.uninstall(web, before)
}

// awaitNoSystem waits until the namespace of Belay is gone: kubectl does not wait when something was refused.
func awaitNoSystem(n *namespace) {
	n.Helper()
	out, err := kubectl(nil, "wait", "--for=delete", "namespace/"+systemNamespace, "--timeout="+patience.String())
	if err != nil {
		n.Errorf("%v\n%s", err, out)
	}
}

// uninstall takes everything away, as docs/operations.md says.
func (n *namespace) uninstall(web *object, before []string) {
	n.Helper()
	for _, args := range [][]string{
		{"delete", "-k", artifacts + "/controller"},
		{"delete", "gd", "--all", "--namespace", n.name, "--cascade=orphan"}, // The cluster may have others.
		{"delete", "-f", artifacts + "/keep-crd.yaml"},
		{"delete", "-f", artifacts + "/admission-policy.yaml", "-f", artifacts + "/users.yaml"},
	} {
		if _, err := kubectl(nil, args...); err != nil {
			n.Fatal(err)
		}
	}
	n.eventually("the CRD is not kept any more", func(context.Context) (bool, error) {
		out, err := kubectl(nil, "delete", "--dry-run=server", "-f", artifacts+"/crd.yaml")
		return err == nil, ignoreForbidden(out, err)
	})
	deleteCRD(n)
	n.nothingHappens(3*time.Second, func(context.Context) error {
		if d := web.deployment(); len(d.OwnerReferences) > 0 || d.DeletionTimestamp != nil {
			return fmt.Errorf("the Deployment is no orphan: %+v", d.ObjectMeta)
		}
		return nil
	})
	web.checkWorkload(before)
}

func ignoreForbidden(out string, err error) error {
	if strings.Contains(out, "Forbidden") {
		return nil
	}
	return err
}

// checkRestricted makes sure that the pods of Belay are admitted where the level "restricted" is enforced, without a
// warning, and that it is enforced there.
func (n *namespace) checkRestricted() {
	n.Helper()
	config := rest.CopyConfig(cluster.config)
	warnings := &bytes.Buffer{}
	config.WarningHandler = rest.NewWarningWriter(warnings, rest.WarningWriterOptions{})
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		n.Fatal(err)
	}
	objects, err := kustomize("controller")
	if err != nil {
		n.Fatal(err)
	}
	deployment := &appsv1.Deployment{}
	for _, object := range objects {
		if object.GetKind() == "Deployment" {
			if err := runtime.DefaultUnstructuredConverter.FromUnstructured(object.Object, deployment); err != nil {
				n.Fatal(err)
			}
		}
	}
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "tried"}, Spec: deployment.Spec.Template.Spec}
	dry := metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}, FieldValidation: metav1.FieldValidationStrict}
	pods := client.CoreV1().Pods(systemNamespace)
	if _, err := pods.Create(n.Context(), pod, dry); err != nil {
		n.Errorf("the pod of the manifests: %v", err)
	}
	deployment.Name = "tried"
	if _, err := client.AppsV1().Deployments(systemNamespace).Create(n.Context(), deployment, dry); err != nil {
		n.Errorf("the Deployment of the manifests: %v", err)
	}
	if warnings.Len() > 0 {
		n.Errorf("warnings: %s", warnings)
	}
	pod.Spec.Containers[0].SecurityContext.Capabilities = nil
	if _, err := pods.Create(n.Context(), pod, dry); !apierrors.IsForbidden(err) {
		n.Errorf("a pod that keeps its capabilities: %v, want it forbidden", err)
	}
}

// checkUserRoles makes sure that the built-in roles have what users need.
func (n *namespace) checkUserRoles() {
	n.Helper()
	for role, rights := range map[string]map[string]bool{
		"view": {"get guardeddeployments.belay.dev": true, "watch guardeddeployments.belay.dev": true, "get guardeddeployments.belay.dev/status": true,
			"update guardeddeployments.belay.dev": false, "delete guardeddeployments.belay.dev": false, "patch guardeddeployments.belay.dev/scale": false},
		"edit": {"list guardeddeployments.belay.dev": true, "create guardeddeployments.belay.dev": true, "delete guardeddeployments.belay.dev": true,
			"patch guardeddeployments.belay.dev/scale": true, "update guardeddeployments.belay.dev/status": false, "update guardeddeployments.belay.dev/finalizers": false},
		"admin": {"patch guardeddeployments.belay.dev": true, "get guardeddeployments.belay.dev": true, "update guardeddeployments.belay.dev/status": false},
	} {
		n.bind(role, rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role})
		for right, want := range rights {
			n.awaitRight(role, right, want)
		}
	}
}
