// Package restore restores the etcd of a cluster from a snapshot while Belay runs, with etcd's own tools.
package restore

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

const (
	namespace = metav1.NamespaceDefault
	// noticedWithin is how long the API server may be there again until each process has ended: one that was refused may wait for
	// half a minute until it tries again, and then compares within 5 s.
	noticedWithin = time.Minute
	// lost is how many writes the restore takes back, more than what the cluster itself writes when it starts.
	lost = 1500
)

func TestMain(m *testing.M) {
	if os.Getenv("BELAY_RESTORE") == "" {
		fmt.Println("restore: not run, use hack/long.sh restore")
		return
	}
	os.Exit(m.Run())
}

// A process that works and one that waits for the Lease notice it, say so and end. The one that is started then guards.
func TestRestore(t *testing.T) {
	c := startCluster(t)
	binary := filepath.Join(t.TempDir(), "belay")
	c.run(c.ctx, "go", "build", "-C", root, "-o", binary, ".")
	c.holdLease()
	worker := c.start(binary, "worker")
	standby := c.start(binary, "standby", "--leader-elect", "--leader-elect-namespace", namespace)

	c.create("web")
	c.await("web", v1alpha1.ReasonRolledOut)
	snapshot := c.save()
	c.release("web", "better")
	c.await("web", v1alpha1.ReasonRolledOut)
	c.create("later")
	c.await("later", v1alpha1.ReasonRolledOut)
	c.writeMuch(lost)

	c.restore(snapshot)
	began := time.Now()
	for _, p := range []*process{worker, standby} {
		p.awaitRestored(began)
	}
	if _, err := c.belay.BelayV1alpha1().GuardedDeployments(namespace).Get(c.ctx, "later", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("what was created after the snapshot: %v", err)
	}

	c.start(binary, "next")
	c.await("web", v1alpha1.ReasonRolledOut)
	c.wantImage("web", "good")
	c.release("web", "crash")
	c.await("web", v1alpha1.ReasonRolledBack)
	c.wantImage("web", "good")
	c.release("web", "better")
	c.await("web", v1alpha1.ReasonRolledOut)
	c.wantImage("web", "better")
}

// awaitRestored waits until the process has ended because it noticed the restore, and said so once.
func (p *process) awaitRestored(began time.Time) {
	p.Helper()
	select {
	case <-p.ended:
	case <-p.ctx.Done():
		p.Fatal(p.ctx.Err())
	case <-time.After(noticedWithin):
		p.Fatalf("%s runs on, %s after the restore; /readyz: %v", p.name, noticedWithin, p.ready(p.ctx))
	}
	p.Logf("%s has noticed the restore %.1f s after the API server was there again", p.name, time.Since(began).Seconds())
	if code := p.cmd.ProcessState.ExitCode(); code != 1 {
		p.Errorf("%s ended with %d, want 1", p.name, code)
	}
	if n := strings.Count(p.logged(), "the API server has gone back to an older state"); n != 1 {
		p.Errorf("%s said %d times that it has noticed, want once", p.name, n)
	}
}

// holdLease has somebody else hold the Lease for the whole test.
func (c *cluster) holdLease() {
	c.Helper()
	now := metav1.NewMicroTime(time.Now())
	lease := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: "belay"}, Spec: coordinationv1.LeaseSpec{
		HolderIdentity: new("somebody"), LeaseDurationSeconds: new(int32(3600)), AcquireTime: &now, RenewTime: &now}}
	_, err := c.kube.CoordinationV1().Leases(namespace).Create(c.ctx, lease, metav1.CreateOptions{})
	c.must(err)
}

func (c *cluster) create(name string) {
	c.Helper()
	g := &v1alpha1.GuardedDeployment{ObjectMeta: metav1.ObjectMeta{Name: name}}
	g.Spec.Replicas = new(int32(2))
	g.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"app": name}}
	g.Spec.Template.Labels = map[string]string{"app": name}
	g.Spec.Template.Spec.Containers = []corev1.Container{{Name: "app", Image: "localhost/app:good"}}
	g.Spec.Guard = v1alpha1.Guard{SoakSeconds: new(int32(0)), MaxRestarts: new(int32(0))}
	_, err := c.belay.BelayV1alpha1().GuardedDeployments(namespace).Create(c.ctx, g, metav1.CreateOptions{})
	c.must(err)
}

func (c *cluster) release(name, tag string) {
	c.Helper()
	content := fmt.Appendf(nil, `{"spec":{"template":{"spec":{"containers":[{"name":"app","image":"localhost/app:%s"}]}}}}`, tag)
	_, err := c.belay.BelayV1alpha1().GuardedDeployments(namespace).Patch(c.ctx, name, types.MergePatchType, content, metav1.PatchOptions{})
	c.must(err)
}

// await waits until the present spec is reported with a reason.
func (c *cluster) await(name, reason string) {
	c.Helper()
	c.eventually(name+" is "+reason, func(ctx context.Context) error {
		g, err := c.belay.BelayV1alpha1().GuardedDeployments(namespace).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		ready := meta.FindStatusCondition(g.Status.Conditions, v1alpha1.ConditionReady)
		switch {
		case ready == nil || g.Status.ObservedGeneration != g.Generation:
			return errors.New("nothing is reported")
		case ready.Reason != reason:
			return fmt.Errorf("%s: %s", ready.Reason, ready.Message)
		}
		return nil
	})
}

func (c *cluster) wantImage(name, tag string) {
	c.Helper()
	d, err := c.kube.AppsV1().Deployments(namespace).Get(c.ctx, name, metav1.GetOptions{})
	c.must(err)
	if got, want := imageOf(d), "localhost/app:"+tag; got != want {
		c.Errorf("%s runs %s, want %s", name, got, want)
	}
}

func imageOf(d *appsv1.Deployment) string { return d.Spec.Template.Spec.Containers[0].Image }

// writeMuch writes so many times to the API server.
func (c *cluster) writeMuch(times int) {
	c.Helper()
	var writing errgroup.Group
	writing.SetLimit(16)
	for range times {
		writing.Go(func() error {
			one := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{GenerateName: "many-"}}
			_, err := c.kube.CoreV1().ConfigMaps(namespace).Create(c.ctx, one, metav1.CreateOptions{})
			return err
		})
	}
	c.must(writing.Wait())
}

// freeAddress returns an address on which nobody listens.
func freeAddress(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}
