package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// verb is a row of "kubectl, verb by verb" in docs/neighbours.md: what to type in place of a verb that does not know the kind.
type verb struct{ name, command string }

// verbs reads the page.
func verbs(t *testing.T) (all []verb) {
	t.Helper()
	page, err := os.ReadFile(filepath.Join(root, "docs", "neighbours.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(page), "## kubectl, verb by verb\n")
	section, _, _ = strings.Cut(section, "\n## ")
	for _, row := range regexp.MustCompile("(?m)^\\| `([^`]+)` \\| `([^`]+)` \\|").FindAllStringSubmatch(section, -1) {
		all = append(all, verb{name: row[1], command: row[2]})
	}
	return all
}

// outcome makes sure of what came of a command. Before is the Deployment as it was.
type outcome func(web *object, before *appsv1.Deployment, out string, err error)

// verbOutcomes has what comes of each row.
var verbOutcomes = map[string]outcome{
	"set image":          released(func(d *appsv1.Deployment) bool { return d.Spec.Template.Spec.Containers[0].Image == "localhost/app:2" }),
	"set env":            released(func(d *appsv1.Deployment) bool { return len(d.Spec.Template.Spec.Containers[0].Env) == 2 }),
	"set resources":      released(func(d *appsv1.Deployment) bool { return d.Spec.Template.Spec.Containers[0].Resources.Requests != nil }),
	"set serviceaccount": released(func(d *appsv1.Deployment) bool { return d.Spec.Template.Spec.ServiceAccountName == "runner" }),
	"rollout status":     said("guardeddeployment.belay.dev/web condition met\nguardeddeployment.belay.dev/web condition met"),
	"rollout history":    said("OWNER   REVISION   NAME", "web     1", "web     2", "good"),
	"rollout undo":       released(func(d *appsv1.Deployment) bool { return version(d) == "1" }),
	"rollout restart": func(web *object, before *appsv1.Deployment, _ string, _ error) {
		web.awaitDeployment("is restarted", func(d *appsv1.Deployment) bool {
			return len(d.Spec.Template.Annotations) > len(before.Spec.Template.Annotations)
		})
		web.awaitReady()
	},
	"rollout pause":  func(web *object, _ *appsv1.Deployment, _ string, _ error) { web.awaitReason(v1alpha1.ReasonPaused) },
	"rollout resume": func(web *object, _ *appsv1.Deployment, _ string, _ error) { web.awaitReady() },
	"autoscale":      said("autoscaled"),
	"expose": func(web *object, before *appsv1.Deployment, _ string, _ error) {
		service, err := cluster.kube.CoreV1().Services(web.namespace.name).Get(web.Context(), "web", metav1.GetOptions{})
		if err != nil || service.Spec.Selector["app"] != before.Spec.Selector.MatchLabels["app"] {
			web.Errorf("%v; the Service selects %v", err, service.Spec.Selector)
		}
	},
	"logs":         asksNode("containerLogs"),
	"exec":         asksNode("exec"),
	"attach":       asksNode("attach"),
	"cp":           asksNode("exec"),
	"port-forward": refused("error dialing backend"), // by the API server, for the pod's node
	"debug": func(web *object, _ *appsv1.Deployment, _ string, _ error) {
		if !slices.ContainsFunc(web.pods(), func(p corev1.Pod) bool { return len(p.Spec.EphemeralContainers) == 1 }) {
			web.Error("no pod has a container to debug it with")
		}
		web.awaitReady()
	},
	"top": refused("Metrics API not available"),
}

func released(ok func(*appsv1.Deployment) bool) outcome {
	return func(web *object, before *appsv1.Deployment, _ string, _ error) {
		if ok(before) {
			web.Fatal("it was so before")
		}
		web.awaitDeployment("carries the change", ok)
		web.awaitReady()
	}
}

func said(words ...string) outcome {
	return func(web *object, _ *appsv1.Deployment, out string, _ error) {
		for _, word := range words {
			if !strings.Contains(out, word) {
				web.Errorf("it does not say %q:\n%s", word, out)
			}
		}
		web.awaitReady()
	}
}

// refused expects that a command fails with these words: there is no kubelet, and nobody who measures.
func refused(words string) outcome {
	return func(web *object, _ *appsv1.Deployment, out string, err error) {
		if err == nil || !strings.Contains(out, words) {
			web.Errorf("%v, want %q:\n%s", err, words, out)
		}
	}
}

// asksNode expects that the API server asks the kubelet of a pod of web's for something, as far as a fake node goes.
func asksNode(what string) outcome {
	return func(web *object, before *appsv1.Deployment, out string, err error) {
		refused("/"+what+"/"+web.namespace.name+"/"+before.Name+"-")(web, before, out, err)
	}
}

// Whatever kubectl does not do to the kind, the page has another way to, and that way works.
func TestKubectlVerbs(t *testing.T) {
	t.Parallel()
	if *podsFlag != "fake" {
		t.Skip("real nodes have no images of these names, and a kubelet")
	}
	page := verbs(t)
	for name := range verbOutcomes {
		if !slices.ContainsFunc(page, func(v verb) bool { return v.name == name }) {
			t.Errorf("docs/neighbours.md has nothing for %q", name)
		}
	}
	for _, v := range page {
		t.Run(v.name, func(t *testing.T) {
			n := newNamespace(t)
			check := verbOutcomes[v.name]
			if check == nil {
				t.Fatal("docs/neighbours.md has it, and nothing is tested of it")
			}
			web := n.prepareFor(v.name)
			first := web.revisions()[0].Name
			command := strings.NewReplacer("registry.example/", "localhost/", "web-5d1746fc77", first, "8080:80", ":80").Replace(v.command)
			before := web.deployment()
			out, err := n.shell(command)
			web.wrote(web.get())
			web.wrote(web.deployment())
			if err != nil && !slices.Contains([]string{"logs", "exec", "attach", "port-forward", "cp", "top"}, v.name) {
				t.Fatalf("%s: %v\n%s", command, err, out)
			}
			check(web, before, out, err)
		})
	}
}

// prepareFor creates a GuardedDeployment as a verb wants it.
func (n *namespace) prepareFor(verb string) *object {
	n.Helper()
	web := n.createReady("web", template(good, "1"))
	switch verb {
	case "set serviceaccount":
		n.newAccount("runner")
	case "rollout history", "rollout undo":
		web.release(template(good, "2"))
		web.awaitReady()
	case "rollout status":
		web.release(template(slow, "2"))
	case "rollout resume":
		web.update(paused(true))
		web.awaitReason(v1alpha1.ReasonPaused)
	case "autoscale":
		web.update(ownReplicas)
		web.awaitReady()
	}
	return web
}

// shell runs a line as a user types it, with the namespace as the current one.
func (n *namespace) shell(line string) (output string, err error) {
	n.Helper()
	kubectl, err := kubectlPath()
	if err != nil {
		n.Skip("this needs kubectl, beside the kubeconfig or in PATH")
	}
	dir := n.TempDir()
	config, err := clientcmd.LoadFromFile(cluster.kubeconfig)
	if err != nil {
		n.Fatal(err)
	}
	config.Contexts[config.CurrentContext].Namespace = n.name
	if err := clientcmd.WriteToFile(*config, filepath.Join(dir, "kubeconfig")); err != nil {
		n.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(n.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-c", line)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "KUBECONFIG="+filepath.Join(dir, "kubeconfig"),
		fmt.Sprintf("PATH=%s%c%s", filepath.Dir(kubectl), os.PathListSeparator, os.Getenv("PATH")))
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// The replacement of "rollout status" ends when the release has failed, without waiting for the time that it was given.
func TestKubectlVerbs_WaitForFailedRelease(t *testing.T) {
	n := newNamespace(t)
	web := n.createReady("web", template(good, "1"))
	web.release(template(crash, "2"))
	all := verbs(t)
	status := all[slices.IndexFunc(all, func(v verb) bool { return v.name == "rollout status" })]
	out, err := n.shell(status.command)
	if err == nil || !strings.Contains(out, "timed out waiting for the condition") {
		t.Errorf("%v, want it to have waited for Ready in vain:\n%s", err, out)
	}
	if reason := reasonOf(web.get()); reason != v1alpha1.ReasonRolledBack {
		t.Errorf("it has ended while the object was %q", reason)
	}
}

// Of these the page says that they take the kind as they take a Deployment.
func TestKubectlVerbs_Supported(t *testing.T) {
	n := newNamespace(t)
	web := n.createReady("web", template(good, "1"))
	for _, line := range []string{
		"get gd web", "describe gd web", "events --for gd/web", "explain gd.spec.guard", "wait gd/web --for=condition=Ready",
		"label gd web a=b", "annotate gd web a=b", `patch gd web --type=merge -p '{"spec":{"guard":{"soakSeconds":1}}}'`,
		"get gd web -o yaml >web.yaml && kubectl diff -f web.yaml && kubectl apply -f web.yaml", "edit gd web", "scale gd web --replicas=2",
	} {
		if out, err := n.shell("EDITOR=true kubectl " + line); err != nil {
			t.Errorf("kubectl %s: %v\n%s", line, err, out)
		}
		// Apply of what was got minds a change of the status meanwhile, and what the tests have seen may be older than the change.
		n.eventually("the status is about the present spec", func(ctx context.Context) (bool, error) {
			live, err := cluster.belay.BelayV1alpha1().GuardedDeployments(n.name).Get(ctx, web.name, metav1.GetOptions{})
			return err == nil && reasonOf(live) == v1alpha1.ReasonRolledOut, err
		})
	}
	web.awaitDeployment("has 2 replicas", func(d *appsv1.Deployment) bool { return *d.Spec.Replicas == 2 })
	if out, err := n.shell("kubectl delete gd web"); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// The page says which verbs do not know the kind, and what they say.
func TestKubectlVerbs_Unsupported(t *testing.T) {
	n := newNamespace(t)
	n.createReady("web", template(good, "1"))
	for _, line := range []string{
		"set image gd/web app=localhost/app:2", "set env gd/web A=1", "set resources gd/web --limits=cpu=1", "set serviceaccount gd/web runner",
		"rollout status gd/web", "rollout history gd/web", "rollout undo gd/web", "rollout restart gd/web", "rollout pause gd/web",
		"rollout resume gd/web", "expose gd/web --port=80", "logs gd/web", "exec gd/web -- date", "attach gd/web",
		"port-forward gd/web 8080:80", "debug gd/web --image=localhost/app:2",
	} {
		if out, err := n.tryKubectl(strings.Fields(line)...); err == nil || !strings.Contains(out, `no kind "GuardedDeployment" is registered`) {
			t.Errorf("kubectl %s: %v\n%s", line, err, out)
		}
	}
}
