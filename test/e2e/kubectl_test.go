package e2e

import (
	"context"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// These tests do to a Deployment of Belay's what users do to Deployments, with the real kubectl.

// tryKubectl runs kubectl in the namespace. It skips the test where there is none.
func (n *namespace) tryKubectl(args ...string) (output string, err error) {
	n.Helper()
	kubectl, err := kubectlPath()
	if err != nil {
		n.Skip("this needs kubectl, beside the kubeconfig or in PATH")
	}
	ctx, cancel := context.WithTimeout(n.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, kubectl, append([]string{"--kubeconfig", cluster.kubeconfig, "--namespace", n.name}, args...)...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// kubectl runs kubectl, and notes that the object and its Deployment may have been changed.
func (o *object) kubectl(args ...string) {
	o.Helper()
	if out, err := o.tryKubectl(args...); err != nil {
		o.Fatalf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	o.wrote(o.get())
	o.wrote(o.deployment())
}

// podUIDs returns the uids of the pods that are not being deleted, sorted.
func (o *object) podUIDs() (uids []string) {
	o.Helper()
	for _, pod := range o.pods() {
		if pod.DeletionTimestamp == nil {
			uids = append(uids, string(pod.UID))
		}
	}
	slices.Sort(uids)
	return uids
}

// awaitPods waits until the pods are exactly these.
func (o *object) awaitPods(uids []string) {
	o.Helper()
	o.eventually("the pods of "+o.name+" are those from before", func(context.Context) (bool, error) {
		return slices.Equal(o.podUIDs(), uids), nil
	})
}

// awaitOtherPods waits until so many pods are available, and none of those from before is left.
func (o *object) awaitOtherPods(before []string, replicas int32) {
	o.Helper()
	o.eventually("all pods of "+o.name+" are new", func(context.Context) (bool, error) {
		return !slices.ContainsFunc(o.podUIDs(), func(uid string) bool { return slices.Contains(before, uid) }), nil
	})
	o.awaitAvailable(replicas)
}

// checkDeploymentWrites makes sure that Belay wrote the Deployment so many times since it had done so before times.
func (o *object) checkDeploymentWrites(what string, before, want int) {
	o.Helper()
	if !o.counting() {
		return
	}
	if writes := o.deploymentWrites()[before:]; len(writes) != want {
		o.Errorf("%s: %d writes of the Deployment, want %d: %v", what, len(writes), want, writes)
	}
}

// awaitPutBack waits until Belay has told, in an Event, that it put this back.
func (o *object) awaitPutBack(path string) {
	o.Helper()
	o.eventually("an Event tells that "+path+" was put back", func(context.Context) (bool, error) {
		time.Sleep(2 * pollEvery) // Nobody watches Events.
		return slices.ContainsFunc(o.belayEvents(v1alpha1.ReasonContested), func(note string) bool {
			return strings.Contains(note, "put back "+path)
		}), nil
	})
}

// The new image is a release that nobody asked Belay for: it neither stays nor is judged.
func TestKubectl_SetImage(t *testing.T) {
	n := newNamespace(t)
	web := n.createReady("web", template(good, "1"))
	image, pods := web.deployment().Spec.Template.Spec.Containers[0].Image, web.podUIDs()
	web.kubectl("set", "image", "deployment/web", "app=localhost/app:crash")
	web.awaitDeployment("has its image again", func(d *appsv1.Deployment) bool { return d.Spec.Template.Spec.Containers[0].Image == image })
	web.awaitPutBack("spec.template.spec.containers[0].image")
	if note := web.belayEvents(v1alpha1.ReasonContested)[0]; !strings.Contains(note, `"kubectl-set" had changed: change it in GuardedDeployment web instead`) {
		t.Errorf("the Event does not say what to do: %q", note)
	}
	web.awaitReady()
	web.awaitPods(pods)
	if g := web.get(); g.Status.Failure != nil || len(web.revisions()) != 1 {
		t.Errorf("somebody else's image was recorded or judged: %+v, %v", g.Status.Failure, names(web.revisions()))
	}
	web.checkDeploymentWrites("a release and a correction", 0, 2)
}

// A variable that the spec does not have belongs to who set it, until the next release, and is judged like a restart. One that it has is put back, and
// the whole template with it.
func TestKubectl_SetEnv(t *testing.T) {
	n := newNamespace(t)
	web := n.createReady("web", template(good, "1"))
	has := func(name string) func(*appsv1.Deployment) bool {
		return func(d *appsv1.Deployment) bool {
			for _, e := range d.Spec.Template.Spec.Containers[0].Env {
				if e.Name == name {
					return true
				}
			}
			return false
		}
	}
	pods := web.podUIDs()
	web.kubectl("set", "env", "deployment/web", "DEBUG=1")
	web.awaitOtherPods(pods, 3)
	web.awaitReady()
	web.checkDeploymentWrites("a variable that is not in the spec", 0, 1)
	if !has("DEBUG")(web.deployment()) {
		t.Error("DEBUG is not there")
	}

	web.release(template(good, "2"))
	web.awaitReady()
	if has("DEBUG")(web.deployment()) {
		t.Error("DEBUG is there after the next release")
	}

	web.kubectl("set", "env", "deployment/web", "VERSION=by-hand")
	web.awaitDeployment("has its variable again", func(d *appsv1.Deployment) bool { return version(d) == "2" })
	web.kubectl("set", "env", "deployment/web", "VERSION-", "DEBUG=2")
	web.awaitDeployment("has its variable again", func(d *appsv1.Deployment) bool { return version(d) == "2" && !has("DEBUG")(d) })
	web.awaitReady()
	web.checkDeploymentWrites("two releases and two corrections", 0, 4)
}

func TestKubectl_RemovedLabel(t *testing.T) {
	n := newNamespace(t)
	web := n.createReady("web", template(good, "1"))
	was, pods := web.deployment(), web.podUIDs()
	available := watchEach(web, cluster.seen.guarded, func(g *v1alpha1.GuardedDeployment) bool {
		return meta.IsStatusConditionTrue(g.Status.Conditions, v1alpha1.ConditionAvailable) && g.Status.AvailableReplicas == 3
	})
	web.kubectl("label", "deployment/web", v1alpha1.GuardedLabel+"-")
	web.awaitDeployment("has its label again", func(d *appsv1.Deployment) bool { return d.Labels[v1alpha1.GuardedLabel] == "true" })
	web.awaitReady()
	web.awaitPods(pods)
	web.nothingHappens(3*time.Second, func(context.Context) error { return nil }) // until it looks again
	web.awaitReady()
	if slices.Contains(available(), false) {
		t.Error("the status said that the service was not available")
	}
	if d := web.deployment(); d.UID != was.UID {
		t.Errorf("the Deployment is another: uid %s, before %s", d.UID, was.UID)
	}
	web.checkDeploymentWrites("a release and a correction", 0, 2)
	web.awaitPutBack("metadata.labels[" + v1alpha1.GuardedLabel + "]")
}

// Whoever takes the owner reference away takes the Deployment from Belay. It is not taken back without consent.
func TestKubectl_RemovedOwnerReference(t *testing.T) {
	n := newNamespace(t)
	web := n.createReady("web", template(good, "1"))
	pods, owners := web.podUIDs(), web.deployment().OwnerReferences
	web.kubectl("patch", "deployment/web", "--type=merge", "--patch", `{"metadata":{"ownerReferences":null}}`)
	without := web.deployment()
	g := web.awaitReason(v1alpha1.ReasonNameTaken)
	web.awaitEvents(v1alpha1.ReasonNameTaken, 1)
	if g.Status.Replicas != 0 || g.Status.RunningRevision != "" {
		t.Errorf("the status reports what is not ours any more: %+v", g.Status)
	}
	web.release(template(good, "2"))
	n.nothingHappens(5*time.Second, func(context.Context) error {
		if d := web.deployment(); d.ResourceVersion != without.ResourceVersion {
			return fmt.Errorf("the Deployment was written: resourceVersion %s, before %s", d.ResourceVersion, without.ResourceVersion)
		}
		return nil
	})
	web.awaitPods(pods)
	web.checkDeploymentWrites("a release", 0, 1)

	web.kubectl("patch", "deployment/web", "--type=merge", "--patch",
		fmt.Sprintf(`{"metadata":{"ownerReferences":[{"apiVersion":%q,"kind":%q,"name":%q,"uid":%q,"controller":true,"blockOwnerDeletion":true}]}}`,
			owners[0].APIVersion, owners[0].Kind, owners[0].Name, owners[0].UID))
	web.awaitReady()
	web.awaitDeployment("runs release 2", func(d *appsv1.Deployment) bool { return version(d) == "2" && metav1.IsControlledBy(d, g) })
}

// The Deployment controller obeys this old annotation, on the Deployment only.
func TestKubectl_RollbackAnnotation(t *testing.T) {
	const annotation = "deprecated.deployment.rollback.to"
	n := newNamespace(t)
	web := n.createReady("web", template(good, "1"))
	web.release(template(good, "2"))
	web.awaitReady()
	web.kubectl("annotate", "gd/web", annotation+"=1")
	n.nothingHappens(3*time.Second, func(context.Context) error {
		if d := web.deployment(); version(d) != "2" || d.Annotations[annotation] != "" {
			return fmt.Errorf("release %q, annotations %v", version(d), d.Annotations)
		}
		return nil
	})
	web.checkDeploymentWrites("two releases", 0, 2)

	web.kubectl("annotate", "deployment/web", annotation+"=1")
	web.eventually("the Deployment controller has obeyed", func(context.Context) (bool, error) {
		return web.deployment().Annotations[annotation] == "", nil
	})
	web.awaitDeployment("is back on release 2", func(d *appsv1.Deployment) bool { return version(d) == "2" && d.Annotations[annotation] == "" })
	web.awaitReady()
	web.checkDeploymentWrites("two releases and a correction", 0, 3)
	web.awaitPutBack("")
}
