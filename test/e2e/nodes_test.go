package e2e

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// awaitWaiting waits until a release is said to wait for this reason, with these words, and not to have failed.
func (o *object) awaitWaiting(reason string, words ...string) *v1alpha1.GuardedDeployment {
	o.Helper()
	g := o.await("waits: "+reason+" "+strings.Join(words, ", "), func(g *v1alpha1.GuardedDeployment) bool {
		return reasonOf(g) == reason && !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(message(g), w) })
	})
	o.Logf("%s: %s", reason, message(g))
	o.checkUnjudged(g)
	return g
}

// awaitStalled waits until whoever waits for the release is told to stop waiting, for this reason.
func (o *object) awaitStalled(reason string) {
	o.Helper()
	g := o.await("is stalled: "+reason, func(g *v1alpha1.GuardedDeployment) bool {
		return reasonOf(g) == reason && meta.IsStatusConditionTrue(g.Status.Conditions, v1alpha1.ConditionStalled)
	})
	o.checkUnjudged(g)
}

func (o *object) checkUnjudged(g *v1alpha1.GuardedDeployment) {
	o.Helper()
	if g.Status.Failure != nil || g.Status.RunningRevision != g.Status.TargetRevision {
		o.Errorf("%s was judged: %+v", o.name, g.Status)
	}
}

// checkNotJudged makes sure that a release that is good in the end was never taken for a failure.
func (o *object) checkNotJudged(first string) {
	o.Helper()
	g := o.awaitReady()
	o.checkMoves(first, g.Status.TargetRevision)
	o.awaitEvents(v1alpha1.ReasonRolledBack, 0)
}

// gate is opened once.
type gate struct {
	open chan struct{}
	once sync.Once
}

func newGate() *gate { return &gate{open: make(chan struct{})} }

func (g *gate) lift() { g.once.Do(func() { close(g.open) }) }

func (g *gate) isLifted() bool {
	select {
	case <-g.open:
		return true
	default:
		return false
	}
}

func toleratedPods(of string) option {
	return func(g *v1alpha1.GuardedDeployment) { g.Spec.Guard.ToleratedPods = new(intstr.FromString(of)) }
}

// In the soak a node falls silent: its pods are called unready, and are ready by their own word.
func TestNode_SilentInTheSoak(t *testing.T) {
	k := newKubelet(t, 1, map[string]script{})
	web := k.createReady("web", k.template("1"), deadline(10))
	first := web.get().Status.GoodRevision
	web.update(soak(12), runs(k.template("2")))
	web.awaitReason(v1alpha1.ReasonSoaking)
	node := k.nodes[0]
	k.silence(node, true)
	k.reportNode(node, corev1.ConditionUnknown, "NodeStatusUnknown", "Kubelet stopped posting node status.")
	for _, pod := range web.pods() {
		if pod.DeletionTimestamp == nil {
			k.notReadyByNode(pod.Name)
		}
	}
	web.awaitWaiting(v1alpha1.ReasonWaitingForNode, node, "does not report")

	k.silence(node, false)
	k.reportNode(node, corev1.ConditionTrue, "KubeletReady", "")
	for _, pod := range web.pods() {
		k.patchPod(pod.Name, `{"status":{"conditions":[{"type":"Ready","status":"True"}]}}`)
	}
	web.checkNotJudged(first)
}

// A pod that was still starting when its node fell silent carries no sign of it: the Node does.
func TestNode_SilentWhilePodsStart(t *testing.T) {
	started, back := newGate(), newGate()
	k := newKubelet(t, 1, map[string]script{"2": {lives: func(p *played) {
		p.takeOn("ContainerCreating")
		p.start(false)
		started.lift()
		p.until(back.open)
		p.container(func(c *corev1.ContainerStatus) { c.Ready = true })
	}}})
	web := k.createReady("web", k.template("1"), deadline(12))
	first := web.get().Status.GoodRevision
	web.release(k.template("2"))
	web.eventually("a pod of the release is starting", func(context.Context) (bool, error) { return started.isLifted(), nil })
	node := k.nodes[0]
	k.silence(node, true)
	k.reportNode(node, corev1.ConditionUnknown, "NodeStatusUnknown", "Kubelet stopped posting node status.")
	web.awaitWaiting(v1alpha1.ReasonWaitingForNode, node, "does not report")
	web.awaitStalled(v1alpha1.ReasonWaitingForNode)

	k.silence(node, false)
	k.reportNode(node, corev1.ConditionTrue, "KubeletReady", "")
	back.lift()
	web.checkNotJudged(first)
}

// spread puts the pods of each release on all nodes alike.
func spread(pods corev1.PodTemplateSpec) corev1.PodTemplateSpec {
	pods.Spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{MaxSkew: 1, TopologyKey: corev1.LabelHostname,
		WhenUnsatisfiable: corev1.DoNotSchedule, LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}},
		MatchLabelKeys: []string{appsv1.DefaultDeploymentUniqueLabelKey}}}
	return pods
}

const noSpace = `failed to pull and unpack image "localhost/app:good": failed to extract layer: write /var/lib/containerd/x: no space left on device`

// One node of five cannot pull.
func TestNode_OneCannotPull(t *testing.T) {
	t.Parallel()
	for _, guard := range []struct {
		name      string
		tolerated string
	}{
		{"the release waits for it", "0%"},
		{"the pods on it are tolerated", "20%"},
	} {
		t.Run(guard.name, func(t *testing.T) {
			mended := newGate()
			k := newKubelet(t, 5, map[string]script{"2": {lives: func(p *played) {
				if !strings.HasSuffix(p.pod.Spec.NodeName, "-c") {
					p.run()
					return
				}
				p.takeOn("ContainerCreating")
				p.stuck("ErrImagePull", noSpace)
				p.pause(time.Second)
				p.stuck("ImagePullBackOff", `Back-off pulling image "localhost/app:good": ErrImagePull: `+noSpace)
				p.until(mended.open)
				p.start(true)
			}}})
			web := k.createReady("web", spread(k.template("1")), replicas(10), toleratedPods(guard.tolerated), deadline(15))
			first := web.get().Status.GoodRevision
			web.release(spread(k.template("2")))
			if guard.tolerated == "0%" {
				web.awaitWaiting(v1alpha1.ReasonWaitingForNode, k.nodes[2], "8 of 10 new pods are fine", "no space left")
				web.awaitStalled(v1alpha1.ReasonWaitingForNode)
				mended.lift()
			}
			web.checkNotJudged(first)
		})
	}
}

// On all nodes it is the release's own failure, and the message says how many are fine.
func TestNode_AllCannotPull(t *testing.T) {
	k := newKubelet(t, 2, map[string]script{"2": {lives: func(p *played) {
		p.takeOn("ContainerCreating")
		p.stuck("ErrImagePull", noSpace)
	}}})
	web := k.createReady("web", spread(k.template("1")), replicas(4), allAtOnce)
	first := web.get().Status.GoodRevision
	web.release(spread(k.template("2")))
	g := web.awaitRolledBack(v1alpha1.FailureImagePull, first)
	if f := g.Status.Failure; !strings.HasPrefix(f.Node, k.name) || !strings.Contains(f.Message, "no space left") {
		t.Errorf("failure is %+v, want the node and the kubelet's text", *f)
	}
}

// Until its taint is there, a node under pressure refuses one pod after the other, which are made at once.
func TestNode_RefusesPods(t *testing.T) {
	pressed := newGate()
	k := newKubelet(t, 1, map[string]script{"2": {lives: func(p *played) {
		p.pause(200 * time.Millisecond)
		select {
		case <-pressed.open:
			p.run()
		default:
			p.refuse("Evicted", "The node had condition: [MemoryPressure]. ")
		}
	}}})
	web := k.createReady("web", k.template("1"), deadline(120), maxRestarts(0), stuckFor(60))
	first := web.get().Status.GoodRevision
	web.release(k.template("2"))
	k.eventually("pods have been refused", func(context.Context) (bool, error) {
		k.mu.Lock()
		defer k.mu.Unlock()
		return k.started["2"] > 10, nil
	})
	pressed.lift()
	web.checkNotJudged(first)
}

// A node that goes on refusing is waited for while pods start on others.
func TestNode_OneRefusesPods(t *testing.T) {
	well := newGate()
	k := newKubelet(t, 2, map[string]script{"2": {lives: func(p *played) {
		p.pause(500 * time.Millisecond)
		select {
		case <-well.open:
		default:
			if strings.HasSuffix(p.pod.Spec.NodeName, "-b") {
				p.refuse("Evicted", "The node had condition: [DiskPressure]. ")
				return
			}
		}
		p.run()
	}}})
	web := k.createReady("web", spread(k.template("1")), replicas(2), oneByOne, deadline(15))
	first := web.get().Status.GoodRevision
	web.release(spread(k.template("2")))
	web.awaitWaiting(v1alpha1.ReasonWaitingForNode, k.nodes[1], "DiskPressure", "1 of 2 new pods are fine")
	web.awaitStalled(v1alpha1.ReasonWaitingForNode)
	well.lift()
	web.checkNotJudged(first)
}

// A crash of one pod of ten: tolerated where the guard says so, and a failure where it does not.
func TestNode_OnePodCrashes(t *testing.T) {
	t.Parallel()
	for _, tolerated := range []string{"0%", "10%"} {
		t.Run(fmt.Sprintf("%s tolerated", tolerated), func(t *testing.T) {
			k := newKubelet(t, 1, map[string]script{"2": {lives: func(p *played) {
				p.run()
				for p.index == 0 {
					p.pause(time.Second)
					p.restart(terminated(1, "Error", "bad luck"), time.Second)
				}
			}}})
			web := k.createReady("web", k.template("1"), replicas(10), toleratedPods(tolerated), soak(8), deadline(30))
			first := web.get().Status.GoodRevision
			web.release(k.template("2"))
			if tolerated != "0%" {
				web.checkNotJudged(first)
				return
			}
			if g := web.awaitRolledBack(v1alpha1.FailureCrashLoop, first); !strings.Contains(g.Status.Failure.Message, "new pods are fine") {
				t.Errorf("the message does not say how many are fine: %q", g.Status.Failure.Message)
			}
		})
	}
}
