// Package watchhealth tells how well informers see: whether each follows the API server, which object keeps one from it, and
// whether what they have seen is still there.
//
// One object that cannot be decoded is enough to keep an informer from seeing anything, for as long as it is there: its
// reflector tries again and again, and tells nobody but the log.
package watchhealth

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/rest"
	"k8s.io/component-base/metrics"
	"k8s.io/klog/v2"
)

const (
	// blindAfter is how long a resource may go unseen before that is told. A restart of the API server takes less.
	blindAfter = 30 * time.Second
	// tellEvery is how often the resources are checked for something to tell. That costs no request.
	tellEvery = 5 * time.Second
	// searchEvery is the time between two searches for objects that cannot be decoded; it is searchSoon if something else is
	// wrong than at the last one. searchTimeout bounds one.
	searchEvery, searchSoon, searchTimeout = 5 * time.Minute, 30 * time.Second, time.Minute
)

// Source is what an informer is filled from, and where to search for objects that cannot be decoded.
type Source struct {
	// Resource is its plural name, as in a URL.
	Resource string
	// Namespace is the only one of the objects, empty for all.
	Namespace string
	// Selector selects the objects by their labels, empty for all.
	Selector string
	// Client reads the group and version of the resource.
	Client rest.Interface

	list func() objectList // a new one, to decode to
}

// sight is how well one resource is seen: whether its cache follows the API server. It has no clock.
type sight struct {
	source   Source
	since    time.Time // of the first request that has brought nothing, since one last did; zero if the last one did
	err      error     // what the last one brought, nil if there was no answer yet
	told     bool      // that it is blind
	searched time.Time // when the objects that cannot be decoded were last searched for
	searchOf string    // what was wrong then
	found    []string  // these objects

	reached func() string                         // the resourceVersion that the cache has, empty before it has one
	newest  func(context.Context) (string, error) // that of the API server
	highest string                                // of those that it was seen to have
	last    string                                // the one that it had when it was last looked at
	compare time.Time                             // when to compare the two next
}

// asked notes a request for all objects, or for what changes.
func (s *sight) asked(now time.Time) {
	if s.since.IsZero() {
		s.since = now
	}
}

// answered notes what has become of it. A resource that the API server does not know has no objects that could be missed:
// a CRD that was deleted makes nobody blind.
func (s *sight) answered(err error) {
	if s.err = err; err == nil {
		s.compare = time.Time{}
	}
	if err == nil || apierrors.IsNotFound(err) {
		s.since, s.err = time.Time{}, nil
	}
}

// unseen returns for how long nothing has been seen of the resource, 0 if it is seen.
func (s *sight) unseen(now time.Time) time.Duration {
	if s.since.IsZero() {
		return 0
	}
	return now.Sub(s.since)
}

// blind returns what is wrong with the resource, nil if nothing is.
func (s *sight) blind(resource string, now time.Time) error {
	unseen, err := s.unseen(now), s.err
	if unseen < blindAfter {
		return nil
	}
	if err == nil {
		err = errors.New("the API server has not answered yet")
	}
	if len(s.found) > 0 && unreadable(err) {
		err = fmt.Errorf("%w; correct or delete what cannot be decoded: %s", err, strings.Join(s.found, ", "))
	}
	return fmt.Errorf("no change of %s has been seen for %s: %w", resource, unseen.Round(time.Second), err)
}

// toSearch reports whether it is time to search for the objects that cannot be decoded.
func (s *sight) toSearch(now time.Time) bool {
	if !unreadable(s.err) {
		return false
	}
	since := now.Sub(s.searched)
	return since >= searchEvery || since >= searchSoon && s.err.Error() != s.searchOf
}

// unreadable reports whether err says that the API server has answered, and the answer could not be decoded.
func unreadable(err error) bool {
	var status apierrors.APIStatus
	var network *url.Error
	return err != nil && !errors.As(err, &status) && !errors.As(err, &network) &&
		!errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded)
}

// Watches are all resources that are watched.
type Watches struct {
	mu     sync.Mutex
	of     map[string]*sight
	errors *metrics.CounterVec
	search Search
}

// Search returns the objects of a resource that cannot be decoded, each with the reason.
type Search func(context.Context, Source) ([]string, error)

// New returns Watches without any resource: each Informer adds one. search is Undecodable, but in tests.
func New(search Search) *Watches {
	return &Watches{of: map[string]*sight{}, search: search, errors: metrics.NewCounterVec(&metrics.CounterOpts{
		Name: "belay_watch_errors_total", StabilityLevel: metrics.ALPHA,
		Help: "Lists and watches of the caches that failed and are tried again, by resource."}, []string{"resource"})}
}

func (w *Watches) asked(resource string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.of[resource].asked(time.Now())
}

func (w *Watches) answered(resource string, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.of[resource].answered(err); err != nil {
		w.errors.WithLabelValues(resource).Inc()
	}
}

// Ready returns an error that says what is not seen, and why.
func (w *Watches) Ready() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, resource := range slices.Sorted(maps.Keys(w.of)) {
		if err := w.of[resource].blind(resource, time.Now()); err != nil {
			return err
		}
	}
	return nil
}

// Run tells of what is not seen, and of what is seen again, once each, until ctx is done.
func (w *Watches) Run(ctx context.Context) {
	ticker := time.NewTicker(tellEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		for _, resource := range slices.Sorted(maps.Keys(w.of)) {
			if w.tell(ctx, resource) {
				w.find(ctx, resource)
			}
		}
	}
}

// tell logs what is new of a resource. It reports whether it is time to search for what cannot be decoded.
func (w *Watches) tell(ctx context.Context, resource string) (search bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	logger, at, now := klog.FromContext(ctx), w.of[resource], time.Now()
	blind := at.blind(resource, now)
	switch {
	case blind != nil && !at.told:
		logger.Error(blind, "Blind, trying again", "resource", resource)
	case blind == nil && at.told:
		logger.Info("Not blind any more", "resource", resource)
		at.found, at.searched, at.searchOf = nil, time.Time{}, ""
	}
	at.told = blind != nil
	if search = at.told && at.toSearch(now); search {
		at.searched, at.searchOf = now, at.err.Error()
	}
	return search
}

// find searches for the objects that cannot be decoded, and logs those that the last search has not found.
func (w *Watches) find(ctx context.Context, resource string) {
	searching, cancel := context.WithTimeout(ctx, searchTimeout)
	defer cancel()
	w.mu.Lock()
	source := w.of[resource].source
	w.mu.Unlock()
	found, err := w.search(searching, source)
	w.mu.Lock()
	before := w.of[resource].found
	if err == nil || len(found) > 0 {
		w.of[resource].found = found
	}
	w.mu.Unlock()
	for _, object := range found {
		if slices.Contains(before, object) {
			continue
		}
		klog.FromContext(ctx).Error(nil, "An object that cannot be decoded: correct or delete it", "resource", resource, "object", object)
	}
	if err != nil || len(found) == 0 {
		klog.FromContext(ctx).Info("Searched for the object that cannot be decoded", "resource", resource, "found", len(found), "error", err)
	}
}

// Register registers what alerts need.
func (w *Watches) Register(registry metrics.KubeRegistry) {
	registry.MustRegister(w.errors)
	registry.CustomMustRegister(&unseen{watches: w})
	for resource := range w.of {
		w.errors.WithLabelValues(resource)
	}
}

// unseen is the metric that says for how long resources have not been seen.
type unseen struct {
	metrics.BaseStableCollector
	watches *Watches
}

var unseenDesc = metrics.NewDesc("belay_unseen_seconds", "For how long nothing has been seen of a resource; 0 while its cache follows the API server.",
	[]string{"resource"}, nil, metrics.ALPHA, "")

func (u *unseen) DescribeWithStability(descs chan<- *metrics.Desc) { descs <- unseenDesc }

func (u *unseen) CollectWithStability(found chan<- metrics.Metric) {
	u.watches.mu.Lock()
	defer u.watches.mu.Unlock()
	for resource, at := range u.watches.of {
		found <- metrics.NewLazyConstMetric(unseenDesc, metrics.GaugeValue, at.unseen(time.Now()).Seconds(), resource)
	}
}
