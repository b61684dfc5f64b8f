package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/wait"
)

const (
	// manager owns the fields that are applied. What it owned and does not apply any more is removed.
	manager = "belay-example-dynamic-client"
	// servedWithin is how long to wait until the server knows the kinds of the CustomResourceDefinitions that were applied.
	servedWithin = 20 * time.Second
)

// application is what has become of a file so far.
type application struct {
	*client
	force   bool
	failed  int
	defined []schema.GroupKind // by the CustomResourceDefinitions that were applied
}

// applyAll applies every document that can be applied, whatever becomes of the others.
func (c *client) applyAll(ctx context.Context, documents []document, force bool) error {
	a := &application{client: c, force: force}
	unknown := a.round(ctx, documents)
	if len(unknown) > 0 {
		// What was applied may have made them known. The server takes a moment to say so.
		_ = wait.PollUntilContextTimeout(ctx, 100*time.Millisecond, servedWithin, true, func(ctx context.Context) (bool, error) {
			meta.MaybeResetRESTMapperWithContext(ctx, c.mapper)
			unknown = a.round(ctx, unknown)
			return !slices.ContainsFunc(unknown, a.defines), nil
		})
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	for _, d := range unknown {
		_, err := c.mapper.RESTMappingWithContext(ctx, d.object.GroupVersionKind().GroupKind(), d.object.GroupVersionKind().Version)
		a.report(d, c.unknown(err))
	}
	if a.failed > 0 {
		return fmt.Errorf("%d of %d documents were not applied", a.failed, len(documents))
	}
	return nil
}

// round applies the documents in their order, and returns those of unknown kinds.
func (a *application) round(ctx context.Context, documents []document) (unknown []document) {
	for _, d := range documents {
		if ctx.Err() != nil {
			return unknown
		}
		err := d.err
		if err == nil {
			err = a.apply(ctx, d.object)
		}
		if meta.IsNoMatchError(err) {
			unknown = append(unknown, d)
		} else if err != nil {
			a.report(d, err)
		}
	}
	return unknown
}

func (a *application) report(d document, err error) {
	a.failed++
	text := strings.Join(strings.Fields(err.Error()), " ")
	if apierrors.IsConflict(err) {
		text += "; --force-conflicts takes these fields"
	}
	fmt.Fprintf(os.Stderr, "%s: %s\n", d, text)
}

// apply applies one object, and prints what became of it.
func (a *application) apply(ctx context.Context, object *unstructured.Unstructured) error {
	kind := object.GroupVersionKind()
	if kind.Version == "" {
		return errors.New("it has no apiVersion, or no kind")
	}
	mapping, err := a.mapper.RESTMappingWithContext(ctx, kind.GroupKind(), kind.Version)
	if err != nil {
		return err
	}
	objects := a.of(mapping, cmp.Or(object.GetNamespace(), a.namespace))
	// An apply creates what is missing, and does not say which of the two it did.
	before, read := objects.Get(ctx, object.GetName(), metav1.GetOptions{})
	after, err := objects.Apply(ctx, object.GetName(), object, metav1.ApplyOptions{FieldManager: manager, Force: a.force})
	if err != nil {
		return err
	}
	outcome := "applied" // It may be written, but not read.
	switch {
	case apierrors.IsNotFound(read):
		outcome = "created"
	case read == nil && before.GetResourceVersion() == after.GetResourceVersion():
		outcome = "unchanged"
	case read == nil:
		outcome = "configured"
	}
	fmt.Printf("%s/%s %s\n", strings.ToLower(kind.GroupKind().String()), after.GetName(), outcome)
	if kind.Group == "apiextensions.k8s.io" && kind.Kind == "CustomResourceDefinition" {
		group, _, _ := unstructured.NestedString(object.Object, "spec", "group")
		name, _, _ := unstructured.NestedString(object.Object, "spec", "names", "kind")
		a.defined = append(a.defined, schema.GroupKind{Group: group, Kind: name})
	}
	return nil
}

func (a *application) defines(d document) bool {
	return slices.Contains(a.defined, d.object.GroupVersionKind().GroupKind())
}
