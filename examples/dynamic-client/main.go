// Command dynamic-client lists, converts and applies objects of any kind, built-in or custom, without knowing one of them.
//
//	dynamic-client list RESOURCE                             names and ages
//	dynamic-client convert RESOURCE NAME                     to the Go type of the object, and back
//	dynamic-client apply -f FILE [--force-conflicts]         all documents of the file; -f - reads standard input
//
// The dynamic client sends and gets unstructured.Unstructured: what the JSON holds, in maps. What it has to be told is the
// resource, which is part of a URL, while people and manifests name short forms and kinds. A RESTMapper finds it, from what
// the server says about itself (discovery). Use it for kinds that the program need not understand; where there is a Go
// type, the compiler finds mistakes that nobody finds here.
//
// The trap: the memory cache of discovery is never too old for itself, so that a kind that is added later stays unknown
// until the mapper is reset (see apply.go).
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"text/tabwriter"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/client-go/tools/pager"

	"github.com/belay-dev/belay/examples/internal/start"
)

func main() {
	start.Main("[flags] list RESOURCE | convert RESOURCE NAME | apply -f FILE", run)
}

func run(ctx context.Context, config start.Config) error {
	var do func(*client) error
	args := flag.Args()
	switch {
	case len(args) == 2 && args[0] == "list":
		do = func(c *client) error { return c.list(ctx, args[1]) }
	case len(args) == 3 && args[0] == "convert":
		do = func(c *client) error { return c.convert(ctx, args[1], args[2]) }
	case len(args) > 0 && args[0] == "apply":
		options := flag.NewFlagSet("apply", flag.ExitOnError)
		file := options.String("f", "", "the file to apply; -: standard input")
		force := options.Bool("force-conflicts", false, "take the fields that others have set to something else")
		_ = options.Parse(args[1:])
		if *file == "" || options.NArg() > 0 {
			return errors.New("apply takes one file, with -f")
		}
		documents, err := read(ctx, *file)
		if err != nil {
			return err
		}
		do = func(c *client) error { return c.applyAll(ctx, documents, *force) }
	default:
		return errors.New("say what to do: list RESOURCE, convert RESOURCE NAME, or apply -f FILE")
	}
	c, err := newClient(ctx, config)
	if err != nil {
		return err
	}
	return do(c)
}

// list prints names and ages. Where no more is needed than that, k8s.io/client-go/metadata gets no more.
func (c *client) list(ctx context.Context, resource string) error {
	mapping, err := c.resolve(ctx, resource)
	if err != nil {
		return err
	}
	all, _, err := pager.New(func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
		return c.of(mapping, c.namespace).List(ctx, options)
	}).List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	table := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "NAME\tAGE")
	err = meta.EachListItem(all, func(object runtime.Object) error {
		item, err := meta.Accessor(object)
		if err == nil {
			fmt.Fprintf(table, "%s\t%s\n", item.GetName(), duration.HumanDuration(time.Since(item.GetCreationTimestamp().Time)))
		}
		return err
	})
	return errors.Join(err, table.Flush())
}
