package e2e

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
)

// documented returns the line of docs/adoption.md that has these words, as a user types it.
func documented(t *testing.T, words string) string {
	t.Helper()
	page, err := os.ReadFile(filepath.Join(root, "docs", "adoption.md"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(page)) {
		if strings.HasPrefix(line, "      ") && strings.Contains(line, words) {
			return strings.TrimSpace(line)
		}
	}
	t.Fatalf("docs/adoption.md has no line with %q", words)
	return ""
}

// typed runs a line beside a file web.yaml.
func (n *namespace) typed(line, webYAML string) (string, error) {
	n.Helper()
	return n.shell("cat >web.yaml <<'END'\n" + webYAML + "\nEND\n" + line)
}

const webManifest = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      POD
      containers:
      - name: app
        image: localhost/app:TAG
        CONTAINER
`

// manifestOf returns the manifest of a Deployment with this tag, and these lines in its pod and its container.
func manifestOf(tag, pod, container string) string {
	return strings.NewReplacer("TAG", tag, "POD", pod, "CONTAINER", container).Replace(webManifest)
}

func guardedManifest(deployment string) string {
	return strings.NewReplacer("apps/v1", "belay.dev/v1alpha1", "kind: Deployment", "kind: GuardedDeployment").Replace(deployment) +
		"  guard: {soakSeconds: 1}\n"
}

// What a Deployment's API warns of reaches the log and nobody else. Whoever asks beforehand is told.
func TestPreview_Warnings(t *testing.T) {
	n := newNamespace(t)
	manifest := guardedManifest(manifestOf("good", "nodeSelector: {beta.kubernetes.io/os: linux}", `env: [{name: A, value: "1"}, {name: A, value: "2"}]`))
	warnings := []string{"nodeSelector[beta.kubernetes.io/os]: deprecated", `hides previous definition of "A"`}
	out, err := n.typed(documented(t, "--dry-run=server --validate=warn"), manifest)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, warning := range warnings {
		if !strings.Contains(out, warning) {
			t.Errorf("the API server was asked, and did not warn of %q:\n%s", warning, out)
		}
	}
	out, err = n.typed("kubectl apply -f web.yaml", manifest)
	if err != nil || strings.Contains(out, "Warning") {
		t.Errorf("%v, want no warning of the kind:\n%s", err, out)
	}
	if n.belay == nil {
		t.Skip("the log of a belay that runs elsewhere is not at hand")
	}
	for _, warning := range warnings {
		n.eventually("Belay's log tells of "+warning, func(context.Context) (bool, error) {
			return strings.Contains(strings.ReplaceAll(tail(n.belay.log, n.name+"/", 60), `\"`, `"`), warning), nil
		})
	}
}

// What two applies leave in a Deployment and their manifest does not have is seen beforehand, and gone when Belay has it.
func TestPreview_WhatApplyLeftBehind(t *testing.T) {
	n := newNamespace(t)
	n.mayAdopt()
	n.newAccount("runner")
	first := manifestOf("latest", "serviceAccountName: runner", "ports: [{containerPort: 53, name: udp, protocol: UDP}]")
	second := manifestOf("good", "", "ports: [{containerPort: 53, name: udp, protocol: UDP}, {containerPort: 53, name: tcp, protocol: TCP}]")
	for _, manifest := range []string{first, second} {
		if out, err := n.typed("kubectl apply -f web.yaml", manifest); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	if out, err := n.typed("kubectl rollout status deployment/web", ""); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	web := &object{namespace: n, name: "web"}
	web.awaitDeployment("has a status that is not written any more", func(d *appsv1.Deployment) bool { // Old pods may still end.
		for _, c := range d.Status.Conditions {
			if c.Type == appsv1.DeploymentProgressing && c.Reason == "NewReplicaSetAvailable" {
				return d.Status.TerminatingReplicas == nil || *d.Status.TerminatingReplicas == 0
			}
		}
		return false
	})
	out, _ := n.typed(documented(t, "kubectl replace --dry-run=server"), second) // 1: they differ
	for _, change := range []string{
		"<         imagePullPolicy: Always", ">         imagePullPolicy: IfNotPresent", "<       serviceAccountName: runner", ">           name: tcp",
	} {
		if !strings.Contains(out, change) {
			t.Errorf("it does not show %q:\n%s", change, out)
		}
	}
	out, err := n.typed("kubectl annotate deployment web belay.dev/adopt=web && kubectl apply -f web.yaml", guardedManifest(second))
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	web.uid = web.get().UID
	web.wrote(web.get())
	web.wrote(web.deployment())
	web.awaitReady()
	pod := web.deployment().Spec.Template.Spec
	if c := pod.Containers[0]; c.ImagePullPolicy != "IfNotPresent" || len(c.Ports) != 2 || pod.ServiceAccountName != "" {
		t.Errorf("imagePullPolicy %s, ports %v, serviceAccountName %q", c.ImagePullPolicy, c.Ports, pod.ServiceAccountName)
	}
}
