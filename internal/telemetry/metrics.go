// Package telemetry is what a controller tells of itself: metrics, and Events that are tried again.
package telemetry

import (
	"k8s.io/component-base/metrics"
	_ "k8s.io/component-base/metrics/prometheus/clientgo" // requests, the queue, the election
)

// Metrics count what a controller does, whatever that is. Until they are registered they count nothing.
type Metrics struct {
	SyncErrors    *metrics.Counter
	StaleSyncs    *metrics.Counter
	Standstills   *metrics.Gauge
	EventsDropped *metrics.Counter
}

// NewMetrics returns metrics that are not registered yet.
func NewMetrics() *Metrics {
	counter := func(name, help string) *metrics.Counter {
		return metrics.NewCounter(&metrics.CounterOpts{Name: name, Help: help, StabilityLevel: metrics.ALPHA})
	}
	return &Metrics{
		SyncErrors: counter("belay_sync_errors_total", "Syncs that failed and are tried again. Conflicts and stale caches do not count."),
		StaleSyncs: counter("belay_stale_syncs_total", "Syncs that were put off because a cache was older than the API server."),
		Standstills: metrics.NewGauge(&metrics.GaugeOpts{Name: "belay_standstill_objects", StabilityLevel: metrics.ALPHA,
			Help: "Objects of which no sync has come to its end for a minute: it is put off, or fails, again and again."}),
		EventsDropped: counter("belay_events_dropped_total", "Events that the API server did not take, not after trying again either."),
	}
}

// Register registers the metrics, and one that says which version runs.
func (m *Metrics) Register(registry metrics.KubeRegistry, version string) {
	build := metrics.NewGaugeVec(&metrics.GaugeOpts{Name: "belay_build_info", StabilityLevel: metrics.ALPHA,
		Help: "1, with the version of Belay."}, []string{"version"})
	registry.MustRegister(m.SyncErrors, m.StaleSyncs, m.Standstills, m.EventsDropped, build)
	build.WithLabelValues(version).Set(1)
}
