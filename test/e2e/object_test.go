package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/retry"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// object is a GuardedDeployment in the namespace of a test.
type object struct {
	*namespace
	name    string
	uid     types.UID         // of the GuardedDeployment
	written map[string]string // resource versions of what the test wrote, by uid
}

// option changes a GuardedDeployment before it is created, or later.
type option func(*v1alpha1.GuardedDeployment)

func replicas(n int32) option { return func(g *v1alpha1.GuardedDeployment) { g.Spec.Replicas = &n } }

func soak(seconds int32) option {
	return func(g *v1alpha1.GuardedDeployment) { g.Spec.Guard.SoakSeconds = &seconds }
}

func deadline(seconds int32) option {
	return func(g *v1alpha1.GuardedDeployment) { g.Spec.ProgressDeadlineSeconds = &seconds }
}

func stuckFor(seconds int32) option {
	return func(g *v1alpha1.GuardedDeployment) { g.Spec.Guard.StuckSeconds = &seconds }
}

func maxRestarts(n int32) option {
	return func(g *v1alpha1.GuardedDeployment) { g.Spec.Guard.MaxRestarts = &n }
}

func onFailure(what v1alpha1.OnFailure) option {
	return func(g *v1alpha1.GuardedDeployment) { g.Spec.Guard.OnFailure = what }
}

func paused(yes bool) option { return func(g *v1alpha1.GuardedDeployment) { g.Spec.Paused = yes } }

func runs(t corev1.PodTemplateSpec) option {
	return func(g *v1alpha1.GuardedDeployment) { g.Spec.Template = t }
}

func retryToken(token string) option {
	return func(g *v1alpha1.GuardedDeployment) {
		metav1.SetMetaDataAnnotation(&g.ObjectMeta, v1alpha1.RetryAnnotation, token)
	}
}

// guarded returns a GuardedDeployment with 3 replicas and a short guard.
func guarded(name string, pods corev1.PodTemplateSpec, options ...option) *v1alpha1.GuardedDeployment {
	g := &v1alpha1.GuardedDeployment{ObjectMeta: metav1.ObjectMeta{Name: name}}
	g.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"app": name[:min(len(name), 63)]}}
	g.Spec.Guard.StuckSeconds = new(int32(5))
	for _, o := range append([]option{replicas(3), soak(2), deadline(20), maxRestarts(1), runs(pods)}, options...) {
		o(g)
	}
	named(g)
	return g
}

// named gives the template the label that the selector asks for.
func named(g *v1alpha1.GuardedDeployment) {
	for key, value := range g.Spec.Selector.MatchLabels {
		metav1.SetMetaDataLabel(&g.Spec.Template.ObjectMeta, key, value)
	}
}

// create creates a GuardedDeployment.
func (n *namespace) create(name string, pods corev1.PodTemplateSpec, options ...option) *object {
	n.Helper()
	created, err := cluster.belay.BelayV1alpha1().GuardedDeployments(n.name).Create(n.Context(), guarded(name, pods, options...), metav1.CreateOptions{})
	if err != nil {
		n.Fatalf("create %s: %v", name, err)
	}
	o := &object{namespace: n, name: name, uid: created.UID}
	o.wrote(created)
	return o
}

// createReady creates a GuardedDeployment and waits until it is ready.
func (n *namespace) createReady(name string, pods corev1.PodTemplateSpec, options ...option) *object {
	n.Helper()
	o := n.create(name, pods, options...)
	o.awaitReady()
	return o
}

// update changes the GuardedDeployment.
func (o *object) update(options ...option) *v1alpha1.GuardedDeployment {
	o.Helper()
	updated, err := o.tryUpdate(options...)
	if err != nil {
		o.Fatalf("update %s: %v", o.name, err)
	}
	return updated
}

func (o *object) tryUpdate(options ...option) (updated *v1alpha1.GuardedDeployment, err error) {
	client := cluster.belay.BelayV1alpha1().GuardedDeployments(o.namespace.name)
	err = retry.RetryOnConflict(conflicting, func() error {
		g, err := client.Get(o.Context(), o.name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		for _, option := range options {
			option(g)
		}
		named(g)
		if updated, err = client.Update(o.Context(), g, metav1.UpdateOptions{}); err == nil {
			o.wrote(updated)
		}
		return err
	})
	return updated, err
}

// release asks for another pod template.
func (o *object) release(pods corev1.PodTemplateSpec) *v1alpha1.GuardedDeployment {
	o.Helper()
	return o.update(runs(pods))
}

func (o *object) get() *v1alpha1.GuardedDeployment {
	o.Helper()
	g, err := cluster.belay.BelayV1alpha1().GuardedDeployments(o.namespace.name).Get(o.Context(), o.name, metav1.GetOptions{})
	if err != nil {
		o.Fatalf("get GuardedDeployment %s: %v", o.name, err)
	}
	return g
}

func (o *object) deployment() *appsv1.Deployment {
	o.Helper()
	d, err := cluster.kube.AppsV1().Deployments(o.namespace.name).Get(o.Context(), o.name, metav1.GetOptions{})
	if err != nil {
		o.Fatalf("get Deployment %s: %v", o.name, err)
	}
	return d
}

// awaitDeployment waits until the Deployment is as it should be.
func (o *object) awaitDeployment(what string, ok func(*appsv1.Deployment) bool) (found *appsv1.Deployment) {
	o.Helper()
	o.eventually("Deployment "+o.name+" "+what, func(context.Context) (bool, error) {
		found = o.seenDeployment()
		return found != nil && ok(found), nil
	})
	return found
}

// patchDeployment changes the Deployment behind Belay's back.
func (o *object) patchDeployment(kind types.PatchType, patch any, subresources ...string) *appsv1.Deployment {
	o.Helper()
	data, err := json.Marshal(patch)
	if err != nil {
		o.Fatal(err)
	}
	d, err := cluster.kube.AppsV1().Deployments(o.namespace.name).Patch(o.Context(), o.name, kind, data, metav1.PatchOptions{}, subresources...)
	if err != nil {
		o.Fatalf("patch Deployment %s: %v", o.name, err)
	}
	o.wrote(d)
	return d
}

// version returns what release the Deployment runs.
func version(d *appsv1.Deployment) string { return versionOf(d.Spec.Template.Spec) }

// versionOf returns what release the pods are.
func versionOf(pod corev1.PodSpec) string {
	for _, e := range pod.Containers[0].Env {
		if e.Name == "VERSION" {
			return e.Value
		}
	}
	return ""
}

// revisions returns the ControllerRevisions of the object, oldest first.
func (o *object) revisions() []appsv1.ControllerRevision {
	o.Helper()
	all, err := cluster.kube.AppsV1().ControllerRevisions(o.namespace.name).List(o.Context(), metav1.ListOptions{})
	if err != nil {
		o.Fatal(err)
	}
	owned := slices.DeleteFunc(all.Items, func(r appsv1.ControllerRevision) bool {
		owner := metav1.GetControllerOf(&r)
		return owner == nil || owner.Name != o.name
	})
	slices.SortFunc(owned, func(a, b appsv1.ControllerRevision) int { return int(a.Revision - b.Revision) })
	return owned
}

// pods returns the pods of the object.
func (o *object) pods() []corev1.Pod {
	o.Helper()
	all, err := cluster.kube.CoreV1().Pods(o.namespace.name).List(o.Context(), metav1.ListOptions{LabelSelector: "app=" + o.name})
	if err != nil {
		o.Fatal(err)
	}
	return all.Items
}

func (n *namespace) events(ctx context.Context) []eventsv1.Event {
	all, err := cluster.kube.EventsV1().Events(n.name).List(ctx, metav1.ListOptions{})
	if err != nil {
		n.Errorf("list Events: %v", err)
		return nil
	}
	return all.Items
}

// belayEvents returns Belay's Events about the object with this reason, one for each time it was recorded.
func (o *object) belayEvents(reason string) (notes []string) {
	o.Helper()
	for _, e := range o.events(o.Context()) {
		if e.ReportingController != "belay" || e.Regarding.Name != o.name || e.Reason != reason {
			continue
		}
		times := 1
		if e.Series != nil {
			times = int(e.Series.Count)
		}
		notes = append(notes, slices.Repeat([]string{e.Note}, times)...)
	}
	return notes
}

// awaitEvents waits until Belay has recorded this reason so many times, and returns what it said.
func (o *object) awaitEvents(reason string, times int) (notes []string) {
	o.Helper()
	return o.awaitEventsBetween(reason, times, times)
}

// awaitEventsBetween is awaitEvents for so many at least, and so many at most.
func (o *object) awaitEventsBetween(reason string, least, most int) (notes []string) {
	o.Helper()
	o.eventually(fmt.Sprintf("%s has %d Events %s", o.name, least, reason), func(context.Context) (bool, error) {
		time.Sleep(2 * pollEvery) // Nobody watches Events.
		notes = o.belayEvents(reason)
		if len(notes) > most {
			return false, fmt.Errorf("there are %d: %q", len(notes), notes)
		}
		return len(notes) >= least, nil
	})
	return notes
}

func names(revisions []appsv1.ControllerRevision) (names []string) {
	for _, r := range revisions {
		names = append(names, fmt.Sprintf("%s (%d)", r.Name, r.Revision))
	}
	return names
}
