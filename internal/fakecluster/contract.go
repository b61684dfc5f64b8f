package fakecluster

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// ContractOfHolds returns what an API server does otherwise than guarding in place relies on: with patches, with the managed fields of
// ReplicaSets and, if policies says that artifacts/in-place is there, with held ReplicaSets. It is asked of the cluster in memory and
// of a real one. It makes a Deployment and ReplicaSets that nobody controls, without pods, in the namespace.
func ContractOfHolds(ctx context.Context, kube kubernetes.Interface, namespace string, policies bool) error {
	c := &holdContract{ctx: ctx, kube: kube, namespace: namespace}
	return errors.Join(c.patchesOfStatus(), c.patchesOfSets(), c.holds(policies))
}

type holdContract struct {
	ctx       context.Context
	kube      kubernetes.Interface
	namespace string
}

// wrong returns an error that names what is not as it should be, nil if all is.
func wrong(what string, err error, facts map[string]bool) error {
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	var all []error
	for fact, holds := range facts {
		if !holds {
			all = append(all, fmt.Errorf("%s: it is not so that %s", what, fact))
		}
	}
	return errors.Join(all...)
}

func (c *holdContract) patchDeployment(name, patch string) (*appsv1.Deployment, error) {
	return c.kube.AppsV1().Deployments(c.namespace).Patch(c.ctx, name, types.MergePatchType, []byte(patch), metav1.PatchOptions{FieldManager: "belay"}, "status")
}

func (c *holdContract) patchSet(name, patch string, subresources ...string) (*appsv1.ReplicaSet, error) {
	return c.kube.AppsV1().ReplicaSets(c.namespace).Patch(c.ctx, name, types.MergePatchType, []byte(patch), metav1.PatchOptions{FieldManager: "belay"}, subresources...)
}

// patchesOfStatus is about what tells of a failure: annotations and a condition, in one write that moves no generation.
func (c *holdContract) patchesOfStatus() error {
	d := DeploymentOf(Webshop("patched", "localhost/web:1"))
	d.Namespace, d.Spec.Paused, d.Spec.Replicas = c.namespace, true, new(int32)
	d, err := c.kube.AppsV1().Deployments(c.namespace).Create(c.ctx, d, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	const patch = `{"metadata":{"annotations":{"a":"b"}%s},"spec":{"paused":false},"status":{"conditions":[{"type":"Progressing","status":"False","reason":"ProgressDeadlineExceeded","message":"m"}]}}`
	written, err := c.patchDeployment(d.Name, fmt.Sprintf(patch, ""))
	if err := wrong("a patch of a status", err, map[string]bool{
		"annotations are taken":               written.Annotations["a"] == "b",
		"a list is replaced":                  len(written.Status.Conditions) == 1 && written.Status.Conditions[0].Message == "m",
		"the spec stays":                      written.Spec.Paused,
		"the generation stays":                written.Generation == d.Generation,
		"the write moves the resourceVersion": written.ResourceVersion != d.ResourceVersion,
	}); err != nil {
		return err
	}
	if _, err := c.patchDeployment(d.Name, fmt.Sprintf(patch, `,"resourceVersion":"`+d.ResourceVersion+`"`)); !apierrors.IsConflict(err) {
		return fmt.Errorf("a patch with an old resourceVersion: %v, want a conflict", err)
	}
	written, err = c.patchDeployment(d.Name, `{"metadata":{"annotations":{"a":null,"none":null}}}`)
	if _, there := written.Annotations["a"]; err != nil || there {
		return fmt.Errorf("null takes nothing away: %v, %v", err, written.Annotations)
	}
	return nil
}

func (c *holdContract) createSet(name string, labels map[string]string) (*appsv1.ReplicaSet, error) {
	template := Webshop(name, "localhost/web:1").Spec.Template
	template.Spec.NodeSelector = map[string]string{"never": "there"}
	set := &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: c.namespace, Labels: labels},
		Spec: appsv1.ReplicaSetSpec{Replicas: new(int32), Selector: &metav1.LabelSelector{MatchLabels: template.Labels}, Template: template}}
	return c.kube.AppsV1().ReplicaSets(c.namespace).Create(c.ctx, set, metav1.CreateOptions{})
}

// patchesOfSets is about who has written a ReplicaSet when: an attempt begins at that time.
func (c *holdContract) patchesOfSets() error {
	set, err := c.createSet("patched", nil)
	if err != nil {
		return err
	}
	written := func(what, patch string, subresources ...string) (at time.Time, err error) {
		set, err := c.patchSet(set.Name, patch, subresources...)
		if err != nil {
			return at, fmt.Errorf("%s: %w", what, err)
		}
		for _, entry := range set.ManagedFields {
			if entry.Manager == "belay" {
				at = entry.Time.Time
			}
		}
		return at, nil
	}
	first, err := written("the first patch", `{"metadata":{"labels":{"a":"b"}}}`)
	if err != nil {
		return err
	}
	time.Sleep(1100 * time.Millisecond) // These times are in full seconds.
	same, err := written("the same patch", `{"metadata":{"labels":{"a":"b"}}}`)
	if err != nil {
		return err
	}
	second, err := written("another patch", `{"metadata":{"labels":{"a":"c"}}}`)
	return wrong("the managed fields", err, map[string]bool{
		"a patch is noted":                       !first.IsZero(),
		"one that changes nothing is not":        same.Equal(first),
		"one that changes something is":          second.After(first),
		"the time is that of the API server now": time.Since(second) < 10*time.Second,
	})
}

// holds is about what the policies make of the label.
func (c *holdContract) holds(policies bool) error {
	set, err := c.createSet("held", map[string]string{v1alpha1.HeldAtLabel: "3.somebody-elses"})
	if err != nil {
		return err
	}
	sets := c.kube.AppsV1().ReplicaSets(c.namespace)
	held := func(number any) string {
		return fmt.Sprintf(`{"metadata":{"labels":{%q:"%v.%s"}}}`, v1alpha1.HeldAtLabel, number, set.UID)
	}
	for _, step := range []struct {
		what, patch   string
		with, without int32
	}{
		{"what is held elsewhere", `{"spec":{"replicas":1}}`, 1, 1},
		{"a hold", held(0), 0, 1},
		{"a write against it", `{"spec":{"replicas":2}}`, 0, 2},
		{"another hold", held(1), 1, 2},
		{"a hold and a write in one", strings.Replace(held(0), `{"metadata"`, `{"spec":{"replicas":2},"metadata"`, 1), 0, 2},
		{"no number", held("x"), 0, 2},
		{"without a hold", fmt.Sprintf(`{"metadata":{"labels":{%q:null}},"spec":{"replicas":0}}`, v1alpha1.HeldAtLabel), 0, 0},
	} {
		want := step.without
		if policies {
			want = step.with
		}
		written, err := c.patchSet(set.Name, step.patch)
		if err != nil || *written.Spec.Replicas != want {
			return fmt.Errorf("%s: %v, %d replicas, want %d", step.what, err, ptrOr(written.Spec.Replicas), want)
		}
	}
	return c.holdsOfStatus(sets.Get, set.Name, held(2))
}

// holdsOfStatus is about a label that comes with a status: the hold begins with the next write.
func (c *holdContract) holdsOfStatus(get func(context.Context, string, metav1.GetOptions) (*appsv1.ReplicaSet, error), name, patch string) error {
	if _, err := c.patchSet(name, patch, "status"); err != nil {
		return fmt.Errorf("a hold with a status: %w", err)
	}
	set, err := get(c.ctx, name, metav1.GetOptions{})
	return wrong("a hold with a status", err, map[string]bool{"replicas stay": ptrOr(set.Spec.Replicas) == 0})
}

func ptrOr(n *int32) int32 { return *cmp.Or(n, new(int32)) }

// NamespaceOf returns the Namespace that all objects of a World are in.
func NamespaceOf() *corev1.Namespace {
	return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: Namespace}}
}
