package main

import (
	"context"
	"fmt"
	"maps"
	"os"
	"reflect"
	"slices"
	"text/tabwriter"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	kubernetesscheme "k8s.io/client-go/kubernetes/scheme"

	belayscheme "github.com/belay-dev/belay/pkg/generated/clientset/versioned/scheme"
)

// convert reads an object as it is, makes the Go type of its kind of it, and makes maps of that again. A field that the Go
// type does not have is lost on the way, in silence: who reads a newer object than the program knows, changes it and
// writes it back, deletes what is new. Without omitempty, a field that was not there is added, as zero.
func (c *client) convert(ctx context.Context, resource, name string) error {
	mapping, err := c.resolve(ctx, resource)
	if err != nil {
		return err
	}
	object, err := c.of(mapping, c.namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	// The scheme knows the Go type of each kind. This one is our own: what others add to a global one is their business.
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{kubernetesscheme.AddToScheme, belayscheme.AddToScheme} {
		if err := add(scheme); err != nil {
			return err
		}
	}
	typed, err := scheme.New(object.GroupVersionKind())
	if runtime.IsNotRegisteredError(err) {
		return fmt.Errorf("%s is a %s of %s: this program has no Go type for that", name, object.GetKind(), object.GetAPIVersion())
	}
	if err != nil {
		return err
	}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(object.Object, typed); err != nil {
		return err
	}
	back, err := runtime.DefaultUnstructuredConverter.ToUnstructured(typed)
	if err != nil {
		return err
	}
	goType := reflect.TypeOf(typed).Elem()
	fmt.Printf("%s is a %s of %s: Go type %s.%s\n", name, object.GetKind(), object.GetAPIVersion(), goType.PkgPath(), goType.Name())
	return compare(object.Object, back)
}

// compare prints what differs between two objects.
func compare(before, after map[string]any) error {
	was, is := map[string]any{}, map[string]any{}
	collect(was, "", before)
	collect(is, "", after)
	all := maps.Clone(was)
	maps.Copy(all, is)
	table := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	same := 0
	for _, path := range slices.Sorted(maps.Keys(all)) {
		old, had := was[path]
		value, has := is[path]
		switch {
		case !has:
			fmt.Fprintf(table, "lost\t%s\t%v\n", path, old)
		case !had:
			fmt.Fprintf(table, "added\t%s\t%v\n", path, value)
		case !reflect.DeepEqual(old, value):
			fmt.Fprintf(table, "changed\t%s\t%v -> %v\n", path, old, value)
		default:
			same++
		}
	}
	fmt.Fprintf(table, "%d of %d values are as they were\n", same, len(all))
	return table.Flush()
}

// collect puts the values of an object into a map, by their paths. An empty map or list is a value, too.
func collect(values map[string]any, path string, value any) {
	switch value := value.(type) {
	case map[string]any:
		for key, field := range value {
			collect(values, path+"."+key, field)
		}
		if len(value) > 0 {
			return
		}
	case []any:
		for i, item := range value {
			collect(values, fmt.Sprintf("%s[%d]", path, i), item)
		}
		if len(value) > 0 {
			return
		}
	}
	values[path] = value
}
