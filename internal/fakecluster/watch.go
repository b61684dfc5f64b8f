package fakecluster

import (
	"maps"
	"slices"
	"strconv"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
)

// clusterWatch is one open watch: where it stands in the changes, and what it sees of them.
type clusterWatch struct {
	Cluster   *Cluster
	resource  string
	namespace string
	selector  labels.Selector
	after     int64 // the version from which on it watches
	next      int   // index into cluster.changes
	events    chan watch.Event
}

func (c *Cluster) watch(resource, namespace string, selector labels.Selector, after string) (watch.Interface, error) {
	version, err := strconv.ParseInt(after, 10, 64)
	if err != nil {
		return nil, apierrors.NewBadRequest("this cluster only watches from a version on")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if version < c.expired {
		return nil, apierrors.NewResourceExpired("too old resource version")
	}
	w := &clusterWatch{Cluster: c, resource: resource, namespace: namespace, selector: selector, after: version, events: make(chan watch.Event, 10_000)}
	c.watches = append(c.watches, w)
	w.deliver()
	return w, nil
}

// deliver sends what has changed since the last time, unless it is held back.
func (w *clusterWatch) deliver() {
	shown, held := w.Cluster.held[w.resource]
	for ; w.next < len(w.Cluster.changes); w.next++ {
		change := w.Cluster.changes[w.next]
		if change.Resource != w.resource || change.Version <= w.after {
			continue
		}
		if held && change.Version > shown {
			return
		}
		was, is := matches(change.Before, w.namespace, w.selector), matches(change.After, w.namespace, w.selector)
		switch {
		case is && was:
			w.events <- watch.Event{Type: watch.Modified, Object: copied(change.After)}
		case is:
			w.events <- watch.Event{Type: watch.Added, Object: copied(change.After)}
		case was:
			gone := copied(change.Before)
			gone.SetResourceVersion(strconv.FormatInt(change.Version, 10))
			w.events <- watch.Event{Type: watch.Deleted, Object: gone}
		}
	}
}

func (w *clusterWatch) ResultChan() <-chan watch.Event { return w.events }

// Stop ends the watch, once.
func (w *clusterWatch) Stop() {
	w.Cluster.mu.Lock()
	defer w.Cluster.mu.Unlock()
	if i := slices.Index(w.Cluster.watches, w); i >= 0 {
		w.Cluster.watches = slices.Delete(w.Cluster.watches, i, i+1)
		close(w.events)
	}
}

// Hold keeps every watch of a resource from seeing what changes, until LetGo.
func (c *Cluster) Hold(resource string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.held[resource] = c.version
}

// Show lets the watches of a resource that is held see what changed up to a version.
func (c *Cluster) Show(resource string, version int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if shown, held := c.held[resource]; held {
		c.held[resource] = max(shown, version)
	}
	for _, w := range c.watches {
		w.deliver()
	}
}

// Hear calls f after every change, before any watch sees it. f must not use the cluster.
func (c *Cluster) Hear(f func(Change)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.heard = f
}

func (c *Cluster) LetGo(resource string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.held, resource)
	for _, w := range c.watches {
		w.deliver()
	}
}

// Compact forgets what changed: no watch can resume at a version before now.
func (c *Cluster) Compact() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.expired = c.version
}

// Cut ends every watch. The clients open them again, or list anew if that is not possible.
func (c *Cluster) Cut() {
	c.mu.Lock()
	open := slices.Clone(c.watches)
	c.mu.Unlock()
	for _, w := range open {
		w.Stop()
	}
}

// Snapshot returns what puts the cluster back, once, into its present state, versions included, as etcd is restored. A watch from a later
// version on, also one that is open, sees nothing then until as much has been written again. Requests stay recorded.
func (c *Cluster) Snapshot() (restore func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	version, changes, objects := c.version, slices.Clone(c.changes), map[string]map[types.NamespacedName]Object{}
	for resource, of := range c.objects {
		objects[resource] = maps.Clone(of)
	}
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		for _, w := range c.watches {
			w.after, w.next = max(w.after, c.version), 0
		}
		c.version, c.changes, c.objects = version, changes, objects
	}
}
