package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// awaitOrdinary waits until nothing is held, and what is asked for has pods: as if nobody guarded the Deployment.
func (p *inPlace) awaitOrdinary() {
	p.Helper()
	p.awaitSets("is an ordinary Deployment", func(_ *appsv1.Deployment, current *appsv1.ReplicaSet, others []*appsv1.ReplicaSet) bool {
		for _, set := range others {
			if held(set) != "" {
				return false
			}
		}
		return held(current) == "" && *current.Spec.Replicas > 0 && current.Status.Replicas > 0
	})
}

func TestInPlace_FirstReleaseFails(t *testing.T) {
	n := newInPlace(t)
	web := n.plain("web", template(crash, "1"), asksInPlace)
	web.awaitFailed()
	if note := web.awaitEvents(v1alpha1.ReasonNoGoodRevision, 1)[0]; !strings.Contains(note, "left as it is") {
		t.Errorf("the Event says %q", note)
	}
	web.checkStatusFails()
	web.awaitOrdinary()
	web.release(template(good, "2"))
	web.awaitGood()
}

func keepsHistory(n int32) change {
	return func(d *appsv1.Deployment) { d.Spec.RevisionHistoryLimit = &n }
}

// Without a history there is something to go back to only until a release is complete. From then on it is judged all the same.
func TestInPlace_NoHistory(t *testing.T) {
	needsHolds(t)
	complete := newGate()
	k := newKubelet(t, 1, map[string]script{"2": crashesWith(1), "3": crashesWhen(complete, 2)})
	k.inPlace = true
	web := k.guarded("web", k.template("1"), keepsHistory(0))
	web.release(k.template("2"))
	web.awaitRolledBack()
	if note := web.awaitEvents(v1alpha1.ReasonNoGoodRevision, 1)[0]; !strings.Contains(note, "revisionHistoryLimit is 0") {
		t.Errorf("the Event says %q", note)
	}
	web.release(k.template("3"), settings(`{"soakSeconds": 30, "maxRestarts": 1}`))
	web.awaitSets("is complete, and has no others", func(_ *appsv1.Deployment, current *appsv1.ReplicaSet, others []*appsv1.ReplicaSet) bool {
		return is(current, 4) && len(others) == 0
	})
	complete.lift()
	web.awaitFailed()
	web.awaitOrdinary()
	web.checkStatusFails()
	web.awaitEvents(v1alpha1.ReasonNoGoodRevision, 3) // at the beginning of both, and at the end
	web.release(k.template("4"), settings(shortGuard))
	web.awaitGood()
}

// Somebody deletes the ReplicaSet that runs while the release is rolled back: what is asked for has the pods again.
func TestInPlace_GoodReplicaSetDeleted(t *testing.T) {
	n := newInPlace(t)
	web := n.rolledBack("web")
	_, _, others := web.sets()
	web.kubectl("delete", "replicaset/"+others[0].Name)
	web.awaitOrdinary()
	web.awaitEvents(v1alpha1.ReasonNoGoodRevision, 1)
	web.release(template(good, "3"))
	web.awaitGood()
}

// Whoever takes the label away has an ordinary Deployment, also while something is held.
func TestInPlace_LabelTakenAway(t *testing.T) {
	n := newInPlace(t)
	for value, events := range map[string]int{"": 0, "false": 0, "yes": 1} {
		web := n.rolledBack("web-" + value + "x")
		label := v1alpha1.GuardedLabel + "=" + value
		if value == "" {
			label = v1alpha1.GuardedLabel + "-"
		}
		web.kubectl("label", "deployment/"+web.name, "--overwrite", label)
		web.awaitOrdinary()
		for _, note := range web.awaitEvents(v1alpha1.ReasonInvalid, events) {
			if !strings.Contains(note, "kubectl label deployment "+web.name+" --namespace "+n.name+" --overwrite belay.dev/guarded=in-place") {
				t.Errorf("the Event does not say what to do: %q", note)
			}
		}
		web.release(template(good, "3"))
		web.awaitDeployment("is rolled out, and tells of no failure", func(d *appsv1.Deployment) bool {
			return d.Status.AvailableReplicas == 4 && progressing(d).Reason == "NewReplicaSetAvailable" && d.Annotations[v1alpha1.FailureAnnotation] == ""
		})
	}
}

// A GuardedDeployment takes the Deployment over while it is rolled back. Its pods stay.
func TestInPlace_Adopted(t *testing.T) {
	n := newInPlace(t)
	web := n.rolledBack("web")
	pods := web.podUIDs()
	web.consent()
	guarded := web.guard(template(good, "1"), ownReplicas)
	guarded.awaitReady()
	web.checkNothingHeld()
	guarded.awaitPods(pods)
	if d := web.deployment(); d.Labels[v1alpha1.GuardedLabel] != "true" || d.Annotations[v1alpha1.FailureAnnotation] != "" {
		t.Errorf("of the guard in place is left: %v, %v", d.Labels, d.Annotations)
	}
	a := guarded.get().Status.GoodRevision
	guarded.release(template(crash, "2"))
	guarded.awaitRolledBack(v1alpha1.FailureCrashLoop, a)
	web.checkNothingHeld()
}

// Without the policy a release is judged, and left as it is: on servers before Kubernetes 1.36 that is all.
func TestInPlace_NotHeld(t *testing.T) {
	n := newNamespace(t)
	n.inPlace = true
	web := n.guarded("web", template(good, "1"))
	web.holdsUp(false)
	web.release(template(crash, "2"))
	web.awaitFailed()
	if note := web.awaitEvents(v1alpha1.EventNotHeld, 1)[0]; !strings.Contains(note, "artifacts/in-place") {
		t.Errorf("the Event does not say what is missing: %q", note)
	}
	web.awaitOrdinary()
	web.checkStatusFails()
	made := len(n.writesAtRest())
	n.nothingHappens(3*time.Second, func(context.Context) error {
		if writes := n.writes(); len(writes) > made {
			return fmt.Errorf("Belay writes: %v", writes[made:])
		}
		return nil
	})
	web.awaitEvents(v1alpha1.ReasonRolledBack, 0)
	web.release(template(good, "3"))
	web.awaitGood()
}

// Somebody deletes the policy while something is held: that is noticed, said once, and not fought.
func TestInPlace_PolicyDeleted(t *testing.T) {
	n := newInPlace(t)
	web := n.rolledBack("web")
	web.holdsUp(false)
	web.kubectl("annotate", "deployment/web", "example.com/touched=yes") // Something makes the Deployment controller look.
	web.awaitOrdinary()
	web.awaitEvents(v1alpha1.EventNotHeld, 1)
	made := len(n.writesAtRest())
	web.kubectl("annotate", "deployment/web", "--overwrite", "example.com/touched=again")
	if writes := n.writesAtRest()[made:]; len(writes) > 0 {
		t.Errorf("Belay fights: %v", writes)
	}
	web.holdsUp(true)
	web.release(template(good, "3"))
	web.awaitGood()
	web.release(template(crash, "4"))
	web.awaitRolledBack()
}

// Nobody but who has the verb hold sets a hold or changes it. Whoever may write ReplicaSets may end one; Belay sets it again.
func TestInPlace_HoldByHand(t *testing.T) {
	n := newInPlace(t)
	user := n.newAccount("deployer")
	n.bindAccount(rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "admin"}, n.name, "deployer")
	n.awaitRight("system:serviceaccount:"+n.name+":deployer", "patch replicasets.apps", true)
	web := n.rolledBack("web")
	_, failed, others := web.sets()
	label := func(set *appsv1.ReplicaSet, label string) (string, error) {
		return n.tryKubectl("--kubeconfig", user, "label", "--overwrite", "replicaset/"+set.Name, label)
	}
	for _, set := range []*appsv1.ReplicaSet{failed, others[0]} {
		if out, err := label(set, v1alpha1.HeldAtLabel+"=1."+string(set.UID)); err == nil || !strings.Contains(out, "only who has the verb hold") {
			t.Errorf("a user held ReplicaSet %s: %v\n%s", set.Name, err, out)
		}
	}
	if out, err := label(failed, v1alpha1.HeldAtLabel+"-"); err != nil {
		t.Fatalf("a user may not end a hold: %v\n%s", err, out)
	}
	web.awaitRolledBack()
	web.awaitEvents(v1alpha1.EventNotHeld, 0)
}

// A ReplicaSet of somebody else with the label of another one, as a copy has it, is as free as any.
func TestInPlace_CopiedLabel(t *testing.T) {
	n := newInPlace(t)
	web := n.rolledBack("web")
	_, failed, _ := web.sets()
	pods := template(good, "1")
	pods.Labels = map[string]string{"app": "other"}
	other := &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Name: "other", Labels: map[string]string{v1alpha1.HeldAtLabel: failed.Labels[v1alpha1.HeldAtLabel]}},
		Spec: appsv1.ReplicaSetSpec{Replicas: new(int32(2)), Selector: &metav1.LabelSelector{MatchLabels: pods.Labels}, Template: pods}}
	sets := cluster.kube.AppsV1().ReplicaSets(n.name)
	if _, err := sets.Create(t.Context(), other, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if out, err := n.tryKubectl("scale", "replicaset/other", "--replicas=3"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	n.eventually("the copy has 3 pods", func(ctx context.Context) (bool, error) {
		set, err := sets.Get(ctx, "other", metav1.GetOptions{})
		return err == nil && is(set, 3) && set.Labels[v1alpha1.HeldAtLabel] != "", err
	})
}

// The failed release is tried again when somebody asks for that.
func TestInPlace_Retry(t *testing.T) {
	n := newInPlace(t)
	web := n.rolledBack("web")
	web.kubectl("annotate", "deployment/web", v1alpha1.RetryAnnotation+"=once")
	web.awaitEvents(v1alpha1.ReasonRolledBack, 2)
	if f := web.awaitRolledBack(); f.Reason != v1alpha1.FailureCrashLoop {
		t.Errorf("the failure is %+v", *f)
	}
	web.checkStatusFails()
	n.nothingHappens(3*time.Second, func(context.Context) error {
		if _, current, _ := web.sets(); !is(current, 0) {
			return fmt.Errorf("it is tried once more")
		}
		return nil
	})
}
