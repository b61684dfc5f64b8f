package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"

	"github.com/belay-dev/belay/examples/internal/start"
)

// timeout is that of one request.
const timeout = 30 * time.Second

// client works with objects of any kind, in one namespace where nothing else is said.
type client struct {
	dynamic.Interface
	mapper    meta.RESTMapperWithContext
	namespace string
	missing   error // what discovery could not tell, if anything
}

// newClient returns a client that knows what the server can do.
func newClient(ctx context.Context, config start.Config) (*client, error) {
	config.Timeout = timeout
	config.WarningHandler = rest.NewWarningWriter(os.Stderr, rest.WarningWriterOptions{Deduplicate: true})
	server, err := discovery.NewDiscoveryClientForConfig(config.Config)
	if err != nil {
		return nil, err
	}
	objects, err := dynamic.NewForConfig(config.Config)
	if err != nil {
		return nil, err
	}
	utilruntime.ErrorHandlers = nil // The cache logs the errors that it returns, too.
	cached := memory.NewMemCacheClientWithContext(server)
	mapper := restmapper.NewDeferredDiscoveryRESTMapperWithContext(cached)
	c := &client{objects, restmapper.NewShortcutExpanderWithContext(mapper, cached, nil), config.Namespace, nil}
	// One aggregated API that is down makes this an error, beside the answers of all others. The mapper says nothing of it.
	_, _, err = cached.ServerGroupsAndResourcesWithContext(ctx)
	if discovery.IsGroupDiscoveryFailedError(err) {
		c.missing, err = err, nil
	}
	return c, err
}

// resolve finds the resource that is meant: by its plural, singular or short name, alone or with the group, or version and
// group, behind it.
func (c *client) resolve(ctx context.Context, name string) (*meta.RESTMapping, error) {
	versioned, grouped := schema.ParseResourceArg(name)
	kind, err := schema.GroupVersionKind{}, error(&meta.NoResourceMatchError{})
	if versioned != nil {
		kind, err = c.mapper.KindForWithContext(ctx, *versioned)
		kind.Version = versioned.Version // Where a short name is expanded, the version that was asked for is forgotten.
	}
	if meta.IsNoMatchError(err) { // The dots may all be those of the group.
		kind, err = c.mapper.KindForWithContext(ctx, grouped.WithVersion(""))
	}
	var mapping *meta.RESTMapping
	if err == nil {
		mapping, err = c.mapper.RESTMappingWithContext(ctx, kind.GroupKind(), kind.Version)
	}
	if meta.IsNoMatchError(err) {
		err = c.unknown(fmt.Errorf("the server has no resource %q", name))
	}
	return mapping, err
}

// unknown adds to an error about something unknown that discovery is not complete, if so.
func (c *client) unknown(err error) error {
	if c.missing != nil {
		return fmt.Errorf("%w (%w)", err, c.missing)
	}
	return err
}

// of returns the client for one resource: in the namespace, or in the cluster if the resource is not namespaced.
func (c *client) of(mapping *meta.RESTMapping, namespace string) dynamic.ResourceInterface {
	if mapping.Scope.Name() == meta.RESTScopeNameNamespace {
		return c.Resource(mapping.Resource).Namespace(namespace)
	}
	return c.Resource(mapping.Resource)
}
