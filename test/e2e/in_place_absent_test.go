package e2e

import (
	"context"
	"fmt"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// step is where Belay is killed while it takes a release back.
type step struct {
	name   string
	change change
	soaks  bool   // the release fails when it has been complete
	denied string // of a write of Belay's, in CEL: where it gets no further; empty if it gets to the end
	held   map[string]string
	alone  bool // a fix rolls out without Belay
}

// What Belay writes next is told by the ReplicaSet: the failed one has no verdict.
const (
	toGood    = "'" + v1alpha1.VerdictLabel + "' in object.metadata.labels"
	heldLabel = "'" + v1alpha1.HeldAtLabel + "'"
	holdsAt0  = heldLabel + " in object.metadata.labels && object.metadata.labels[" + heldLabel + "].startsWith('0.')"
	letsGo    = heldLabel + " in oldObject.metadata.labels && !(" + heldLabel + " in object.metadata.labels)"
)

var steps = []step{
	{name: "verdict", denied: "true", held: map[string]string{}, alone: true},
	{name: "failed one held", denied: toGood, held: map[string]string{"2": "0"}, alone: true},
	{name: "rolled back", held: map[string]string{"2": "0"}, alone: true},
	{name: "verdict in the soak", soaks: true, denied: "true", held: map[string]string{}, alone: true},
	{name: "good one held in the soak", soaks: true, denied: "!(" + toGood + ")", held: map[string]string{"1": "any"}},
	{name: "both held in the soak", soaks: true, denied: holdsAt0, held: map[string]string{"1": "any", "2": "any"}},
	{name: "failed one gone in the soak", soaks: true, denied: letsGo, held: map[string]string{"1": "any", "2": "0"}},
	{name: "failed one held, Recreate", change: recreates, denied: toGood, held: map[string]string{"2": "0"}, alone: true},
	{name: "rolled back, Recreate", change: recreates, held: map[string]string{"1": "4", "2": "0"}},
	{name: "rolled back, maxSurge 0", change: rolling("0", "25%"), held: map[string]string{"1": "4", "2": "0"}},
}

// Belay is killed at a step. A fix that comes then rolls out without it, or is held until Belay is there again; and without a fix Belay
// goes on where it was.
func testInPlaceBelayKilled(t *testing.T) {
	needsHolds(t)
	t.Run("a fix is waited for at once", func(t *testing.T) {
		t.Parallel()
		n := emptyNamespace(t)
		n.inPlace = true
		n.belay = startBelay(t, n.name)
		n.fixAtOnce(func() {
			n.belay.kill()
			n.belay = nil
		})
	})
	for _, s := range steps {
		for _, fixed := range []bool{true, false} {
			if !fixed && s.denied == "" {
				continue // There is nothing to go on with.
			}
			t.Run(fmt.Sprintf("%s, fixed %v", s.name, fixed), func(t *testing.T) {
				t.Parallel()
				complete := newGate()
				k := newKubeletIn(t, emptyNamespace, 1, map[string]script{"2": crashesWith(1)})
				n := k.namespace
				n.inPlace = true
				n.belay = startBelay(t, n.name)
				if s.soaks {
					k.play("2", crashesWhen(complete, 2))
				}
				web, undo := k.takenBackTo(s, complete)
				n.belay.kill()
				n.belay = nil
				undo()
				if fixed {
					web.release(k.template("3"))
					web.checkWithoutBelay(s.alone)
				}
				n.belay = startBelay(t, n.name)
				if fixed {
					web.awaitGood()
				} else {
					web.awaitRolledBack()
				}
			})
		}
	}
}

// takenBackTo has a release fail, and taken back up to a step.
func (k *kubelet) takenBackTo(s step, complete *gate) (web *inPlace, undo func()) {
	k.Helper()
	if s.change == nil {
		s.change = rolling("25%", "25%")
	}
	web = k.guarded("web", k.template("1"), s.change)
	undo = func() {}
	if s.denied != "" {
		undo = web.deny(s.denied)
	}
	k.play("1", startsLate(2*time.Second)) // when it comes back
	web.release(k.template("2"), settings(`{"soakSeconds": 30, "maxRestarts": 1}`))
	if s.soaks {
		web.awaitSets("is complete", func(_ *appsv1.Deployment, current *appsv1.ReplicaSet, others []*appsv1.ReplicaSet) bool {
			return is(current, 4) && is(others[0], 0)
		})
		complete.lift()
	}
	web.awaitFailed()
	if s.denied == "" {
		web.awaitRolledBack()
	}
	web.awaitSets(fmt.Sprintf("is held like %v", s.held), func(_ *appsv1.Deployment, current *appsv1.ReplicaSet, others []*appsv1.ReplicaSet) bool {
		for _, set := range append(others, current) {
			want := s.held[versionOf(set.Spec.Template.Spec)]
			if at := held(set); at != want && (want != "any" || at == "") {
				return false
			}
		}
		return true
	})
	if s.denied != "" {
		web.awaitEvents(v1alpha1.ReasonDenied, 1)
	}
	return web, undo
}

// deny has writes of ReplicaSets refused to Belay, and waits until that is in force. The function that it returns ends that.
func (p *inPlace) deny(which string) (undo func()) {
	p.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", account.kubeconfig)
	if err != nil {
		p.Fatal(err)
	}
	belay := kubernetes.NewForConfigOrDie(config)
	const probe = "e2e.belay.dev/probe"
	_, current, _ := p.sets()
	inForce := func(want bool) {
		p.eventually(fmt.Sprintf("Belay is refused writes: %v", want), func(ctx context.Context) (bool, error) {
			_, err := belay.AppsV1().ReplicaSets(p.namespace.name).Patch(ctx, current.Name, types.MergePatchType,
				[]byte(`{"metadata":{"annotations":{"`+probe+`":""}}}`), metav1.PatchOptions{DryRun: []string{metav1.DryRunAll}})
			return (err != nil) == want, nil
		})
	}
	mine := "request.userInfo.username == '" + accountUser + "' && ('" + probe + "' in object.metadata.annotations || (" + which + "))"
	policy := p.validate(p.writesOf("apps", "replicasets", admissionv1.Update), "!("+mine+")", "not now")
	inForce(true)
	return func() {
		if err := policy.remove(p.Context()); err != nil {
			p.Fatal(err)
		}
		inForce(false)
	}
}

// checkWithoutBelay makes sure that a fix is complete without Belay, or is not.
func (p *inPlace) checkWithoutBelay(alone bool) {
	p.Helper()
	complete := func() bool {
		_, current, _ := p.sets()
		return current != nil && is(current, 4)
	}
	if alone {
		p.awaitSets("is fixed without Belay", func(*appsv1.Deployment, *appsv1.ReplicaSet, []*appsv1.ReplicaSet) bool { return complete() })
		return
	}
	time.Sleep(5 * time.Second)
	if complete() {
		p.Error("the fix rolled out without Belay, which is more than is promised")
	}
}
