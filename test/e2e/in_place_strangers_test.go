package e2e

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// These tests are about Deployments among others that Belay does not know: with the same selector, of an operator, without the rights.

// overlaps has the Deployment select the pods of all others that overlap, too: the same template has the same hash, and the ReplicaSets
// of it the same selector.
func overlaps(d *appsv1.Deployment) {
	labels := map[string]string{"app": "shared"}
	d.Spec.Selector = &metav1.LabelSelector{MatchLabels: labels}
	d.Spec.Template.Labels = labels
}

// checkUntouched makes sure that Belay has written nothing about the Deployment since the first so many writes, and that it is good.
func (p *inPlace) checkUntouched(before int) {
	p.Helper()
	p.awaitGood()
	for _, w := range p.writes()[before:] {
		if name := w.ObjectRef.Name; name == p.name || strings.HasPrefix(name, p.name+"-") || strings.HasPrefix(name, p.name+".") {
			p.Errorf("Belay has written about %s: %s", p.name, w)
		}
	}
}

// What one Deployment's pods do is no evidence about another whose selector overlaps, and what is held for one is not for the other.
func TestInPlace_Overlapping(t *testing.T) {
	n := newInPlace(t)
	one, two := n.guarded("one", template(good, "1"), overlaps), n.guarded("two", template(good, "1"), overlaps)
	made := len(n.writesAtRest())
	one.release(template(crash, "2"), overlaps)
	one.awaitRolledBack()
	two.checkUntouched(made)

	// The other one releases while pods of this crash, and the other way round.
	one.release(template(crash, "3"), overlaps)
	two.release(template(good, "3"), overlaps)
	two.awaitGood()
	if f := one.awaitRolledBack(); f.Reason != v1alpha1.FailureCrashLoop {
		t.Errorf("the failure is %+v", *f)
	}
	two.awaitEvents(v1alpha1.ReasonRolledBack, 0)

	// The template that is held for one is no less free for the other, and fails there by itself.
	two.release(template(crash, "3"), overlaps)
	if f := two.awaitRolledBack(); !strings.HasPrefix(f.Pod, two.name+"-") {
		t.Errorf("it failed for pod %s", f.Pod)
	}
	one.awaitRolledBack()
	two.release(template(good, "4"), overlaps)
	two.awaitGood()
	one.awaitRolledBack()
	one.release(template(good, "4"), overlaps)
	one.awaitGood()
	one.awaitEvents(v1alpha1.ReasonRolledBack, 2)
	two.awaitEvents(v1alpha1.ReasonRolledBack, 1)
}

// A Deployment that nobody has asked to guard crashes beside one with the same selector: it goes on, and the other one stays good.
func TestInPlace_OverlapsUnguarded(t *testing.T) {
	n := newInPlace(t)
	web, stranger := n.guarded("web", template(good, "1"), overlaps), n.plain("stranger", template(good, "1"), overlaps)
	stranger.awaitDeployment("is there", func(d *appsv1.Deployment) bool { return d.Status.AvailableReplicas == 4 })
	made := len(n.writesAtRest())
	stranger.release(template(crash, "2"), overlaps)
	web.release(template(good, "3"), overlaps)
	web.awaitGood()
	stranger.awaitDeployment("says itself that it fails", exceeded)
	stranger.awaitOrdinary()
	stranger.checkStatusFails()
	web.awaitEvents(v1alpha1.ReasonRolledBack, 0)
	for _, w := range n.writes()[made:] {
		if strings.HasPrefix(w.ObjectRef.Name, stranger.name) {
			t.Errorf("Belay has written about what it does not guard: %s", w)
		}
	}
	web.release(template(crash, "4"), overlaps)
	web.awaitRolledBack()
	stranger.awaitOrdinary()
}

// ownedBy gives the Deployment an operator's object as its owner.
func ownedBy(owner *corev1.ConfigMap) change {
	return func(d *appsv1.Deployment) {
		d.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(owner, corev1.SchemeGroupVersion.WithKind("ConfigMap"))}
	}
}

// operate writes the Deployment again and again, as an operator does that never rests, until the function that it returns is called. That
// returns how often it has written.
func (p *inPlace) operate(every time.Duration) (stop func() (times int)) {
	p.Helper()
	ctx, cancel := context.WithCancel(p.Context())
	ended, times := make(chan error, 1), 0
	go func() {
		for ; ctx.Err() == nil; times++ {
			patch := fmt.Sprintf(`{"metadata":{"annotations":{"example.com/seen":"%d"}},"spec":{"replicas":%d}}`, times, 4+times/10%2)
			if _, err := cluster.kube.AppsV1().Deployments(p.namespace.name).Patch(p.Context(), p.name, types.MergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
				ended <- err
				return
			}
			select {
			case <-ctx.Done():
			case <-time.After(every):
			}
		}
		ended <- nil
	}()
	return func() int {
		p.Helper()
		cancel()
		if err := <-ended; err != nil {
			p.Fatalf("the operator: %v", err)
		}
		p.wrote(p.deployment())
		return times
	}
}

// An operator owns the Deployment, and writes its annotations and, more seldom, its size without end: a release that fails is taken back all the same, stays
// so, and Belay does not answer each write with one of its own.
func TestInPlace_Operator(t *testing.T) {
	n := newInPlace(t)
	owner, err := cluster.kube.CoreV1().ConfigMaps(n.name).Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "operated"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	web := n.guarded("web", template(good, "1"), ownedBy(owner))
	stop := web.operate(200 * time.Millisecond)
	web.release(template(crash, "2"))
	web.awaitSets("is taken back", func(_ *appsv1.Deployment, current *appsv1.ReplicaSet, _ []*appsv1.ReplicaSet) bool {
		return held(current) == "0" && is(current, 0)
	})
	const watched = 10 * time.Second
	before := len(n.writes())
	n.nothingHappens(watched, func(context.Context) error {
		d, current, others := web.sets()
		if f := web.failure(d); f == nil || held(current) != "0" || !is(current, 0) || d.Status.AvailableReplicas < 3 || held(others[0]) != "" {
			return fmt.Errorf("it is not back: failure %+v, %d pods of it wanted, %d of all available", f, *current.Spec.Replicas, d.Status.AvailableReplicas)
		}
		return nil
	})
	after := n.writes()
	if times := stop(); times < 20 {
		t.Errorf("the operator wrote %d times only", times)
	}
	if n.counting() { // the condition, at most once a second
		writes, most := len(after)-before, int(watched/time.Second)+2
		if figures.count("writes: in place, rolled back, and an operator that never rests, in 10 s", writes, most); writes > most {
			t.Errorf("%d writes in %s, want at most %d:\n%s", writes, watched, most, n.describeWrites())
		}
	}
	web.awaitRolledBack()
	web.awaitEvents(v1alpha1.ReasonRolledBack, 1)
	web.release(template(good, "3"))
	web.awaitGood()
	if d := web.deployment(); !metav1.IsControlledBy(d, owner) {
		t.Errorf("its owners are %+v", d.OwnerReferences)
	}
}

// Without the rights of artifacts/in-place, or one of them, a release is left as it is, and the Event Denied says so.
func testInPlaceWithoutRights(t *testing.T) {
	needsHolds(t)
	for words, lacks := range map[string][]string{
		`cannot patch resource "replicasets"`: {"patch deployments.apps/status", "patch replicasets.apps", "hold replicasets.apps", "get namespaces"},
		"only who has the verb hold":          {"hold replicasets.apps"},
	} {
		t.Run(words, func(t *testing.T) {
			t.Parallel()
			l := newLimited(t, slices.DeleteFunc(slices.Clone(account.granted), func(right string) bool { return slices.Contains(lacks, right) }))
			l.inPlace = true
			l.startCut()
			l.awaitReadyz(http.StatusOK)
			web := l.plain("web", template(good, "1"), asksInPlace)
			if slices.Contains(lacks, "patch replicasets.apps") { // That the first is good cannot be written down.
				web.awaitEvents(v1alpha1.ReasonDenied, 1)
			} else {
				web.awaitGood()
			}
			web.release(template(crash, "2"))
			web.awaitDeployment("says itself that it fails", exceeded)
			web.awaitOrdinary()
			for _, note := range web.awaitEventsBetween(v1alpha1.ReasonDenied, 1, 2) { // one for each write that is refused
				if !strings.Contains(note, words) || !strings.Contains(note, "artifacts/in-place") {
					t.Errorf("the Event says %q, want %q and what is missing in it", note, words)
				}
			}
			l.checkBudget("in place, a release without the rights", 0, 10)
			web.awaitEvents(v1alpha1.ReasonRolledBack, 0)
			web.checkStatusFails()

			l.grant(account.granted)
			web.release(template(good, "3"))
			web.awaitGood()
			web.release(template(crash, "4"))
			web.awaitRolledBack()
			web.awaitEventsBetween(v1alpha1.ReasonDenied, 1, 2)
		})
	}
}

// A tag has moved to an image that fails: the message has both digests, and says that the good release is not pinned to its own.
func TestInPlace_MovedTag(t *testing.T) {
	needsHolds(t)
	k := newKubelet(t, 1, map[string]script{})
	k.inPlace = true
	k.push(latest, goodDigest, script{})
	web := k.guarded("web", k.ofLatest("1"))
	_, first, _ := web.sets()
	k.push(latest, badDigest, crashesWith(3))
	web.release(k.ofLatest("2"))
	const advice = ", and pods that start may run what it is now: in place no image is pinned"
	want := movedWords(first.Name) + advice
	if f := web.awaitFailed(); !strings.Contains(f.Message, want) {
		t.Errorf("the failure says %q, want %q", f.Message, want)
	}
	// The pod that replaces one of the good ones runs the tag.
	if note := web.awaitEvents(v1alpha1.ReasonRollbackFailed, 1)[0]; strings.Count(note, want) != 2 {
		t.Errorf("the Event says %q, want %q of both", note, want)
	}
	_, _, others := web.sets()
	if image := others[0].Spec.Template.Spec.Containers[0].Image; image != latest {
		t.Errorf("the good ReplicaSet runs %s", image)
	}
	k.push(latest, newDigest, script{})
	web.release(k.ofLatest("3"))
	web.awaitGood()
}
