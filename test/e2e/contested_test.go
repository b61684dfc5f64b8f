package e2e

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

const contestedImage = "localhost/other:good"

// hasContestedImage is what the second controller wants.
func hasContestedImage(d *appsv1.Deployment) bool {
	return d.Spec.Template.Spec.Containers[0].Image == contestedImage
}

// contest patches the Deployment at once whenever it is not as wanted, as a second controller does. The function that it
// returns ends that, and returns how often it did so.
func (o *object) contest(patch string, wanted func(*appsv1.Deployment) bool) (end func() int32) {
	o.Helper()
	var times atomic.Int32
	set := func(changed any) {
		d := changed.(*appsv1.Deployment)
		if d.Namespace != o.namespace.name || d.Name != o.name || wanted(d) {
			return
		}
		_, err := cluster.kube.AppsV1().Deployments(d.Namespace).Patch(o.Context(), d.Name, types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{})
		if err == nil {
			times.Add(1)
		}
	}
	registration, err := cluster.seen.deployments.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: set, UpdateFunc: func(_, now any) { set(now) }})
	if err != nil {
		o.Fatal(err)
	}
	end = sync.OnceValue(func() int32 {
		if err := cluster.seen.deployments.RemoveEventHandler(registration); err != nil {
			o.Error(err)
		}
		return times.Load()
	})
	o.Cleanup(func() { end() })
	return end
}

// Belay puts it back a few times, says that it is contested, and tries again every 10 minutes only. A new spec wins at
// once, whatever the other does then.
func TestContested_Image(t *testing.T) {
	const watched, most = 60 * time.Second, 6
	n := newNamespace(t)
	web := n.createReady("web", template(good, "1"))
	before := len(web.deploymentWrites())
	began := time.Now()
	end := web.contest(`{"spec":{"template":{"spec":{"containers":[{"name":"app","image":"`+contestedImage+`"}]}}}}`, hasContestedImage)
	g := web.awaitReason(v1alpha1.ReasonContested)
	if text := message(g); !strings.Contains(text, `"belay-e2e" keeps changing spec.template.spec.containers[0].image`) || g.Status.Failure != nil {
		t.Errorf("the condition does not tell who contests what: %q; failure %+v", text, g.Status.Failure)
	}
	n.nothingHappens(watched-time.Since(began), func(context.Context) error {
		if writes := web.deploymentWrites()[before:]; len(writes) > most || reasonOf(web.get()) != v1alpha1.ReasonContested {
			return fmt.Errorf("%d writes of the Deployment, reason %s", len(writes), reasonOf(web.get()))
		}
		return nil
	})
	if n.counting() {
		figures.count(fmt.Sprintf("writes: a contested Deployment in %s", watched), len(web.deploymentWrites())-before, most)
	}

	before = len(web.deploymentWrites())
	web.release(template(good, "2"))
	web.awaitDeployment("carries the new release", func(d *appsv1.Deployment) bool { return version(d) == "2" })
	web.awaitReason(v1alpha1.ReasonContested)
	web.checkDeploymentWrites("a release while contested", before, 1)

	times := end()
	web.release(template(good, "3"))
	web.awaitReady()
	t.Logf("the other set its image %d times", times)
	web.checkDeploymentWrites("a release after the contest", before, 2)
}

// However Belay's own marks are contested, it is no hot loop either. A controller that writes whole objects, and knows
// none but its own labels and annotations, takes them away.
func TestContested_LabelAndAnnotations(t *testing.T) {
	t.Parallel() // with the shared belay
	const watched, most = 20 * time.Second, 6
	for _, contest := range []struct {
		name, patch string
		wanted      func(*appsv1.Deployment) bool
	}{
		{"image and annotations", `{"metadata":{"annotations":{"belay.dev/revision":null,"belay.dev/applied":null}},
			"spec":{"template":{"spec":{"containers":[{"name":"app","image":"` + contestedImage + `"}]}}}}`, hasContestedImage},
		{"label", `{"metadata":{"labels":{"belay.dev/guarded":null}}}`, func(d *appsv1.Deployment) bool { return d.Labels[v1alpha1.GuardedLabel] == "" }},
	} {
		t.Run(contest.name, func(t *testing.T) {
			n := newNamespace(t)
			web := n.createReady("web", template(good, "1"))
			before := len(web.deploymentWrites())
			end := web.contest(contest.patch, contest.wanted)
			time.Sleep(watched)
			times, writes, reason := end(), web.deploymentWrites()[before:], reasonOf(web.get())
			t.Logf("the other had its way %d times", times)
			if n.counting() {
				figures.count(fmt.Sprintf("writes: contested %s in %s", contest.name, watched), len(writes), most)
			}
			if len(writes) > most || reason != v1alpha1.ReasonContested {
				t.Errorf("%d writes of the Deployment in %s, reason %s; want at most %d, and Contested", len(writes), watched, reason, most)
			}
		})
	}
}

// A contest over replicas, with an autoscaler of the Deployment for example, keeps nothing from being judged: the new
// release runs, and has failed.
func TestContested_ReplicasHinderNoRollback(t *testing.T) {
	n := newNamespace(t)
	web := n.createReady("web", template(good, "1"), replicas(2))
	a := web.get().Status.GoodRevision
	web.contest(`{"spec":{"replicas":3}}`, func(d *appsv1.Deployment) bool { return *d.Spec.Replicas == 3 })
	web.awaitReason(v1alpha1.ReasonContested)
	web.release(template(crash, "2"))
	web.awaitDeployment("is back on the release that was good", func(d *appsv1.Deployment) bool {
		return version(d) == "1" && d.Annotations[v1alpha1.RevisionAnnotation] == a && len(web.moves()) == 3
	})
	// The status is written after the Deployment.
	g := web.await("tells of the failure", func(g *v1alpha1.GuardedDeployment) bool { return g.Status.Failure != nil })
	web.checkFailure(g, v1alpha1.FailureCrashLoop)
}
