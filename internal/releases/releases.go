// Package releases counts what becomes of releases, however they are guarded.
package releases

import (
	"slices"
	"time"

	"k8s.io/component-base/metrics"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
	"github.com/belay-dev/belay/pkg/rollout"
)

// Kinds of what is guarded: the kind of the object that a person writes.
const Guarded, InPlace = "GuardedDeployment", "Deployment"

// Outcomes of a release.
const outcomeGood, outcomeFailed = "good", "failed"

// Metrics count the releases of all kinds. Until they are registered they count nothing.
type Metrics struct {
	releases  *metrics.CounterVec
	failed    *metrics.CounterVec
	duration  *metrics.HistogramVec
	rollbacks *metrics.CounterVec
}

// NewMetrics returns metrics that are not registered yet.
func NewMetrics() *Metrics {
	counter := func(name, help string, labels ...string) *metrics.CounterVec {
		return metrics.NewCounterVec(&metrics.CounterOpts{Name: name, Help: help, StabilityLevel: metrics.ALPHA}, append([]string{"kind"}, labels...))
	}
	return &Metrics{
		releases: counter("belay_releases_total", "Releases and restarts that were judged, by the kind of what is guarded (GuardedDeployment, or Deployment for those "+
			"in place), the outcome (good, failed) and the reason of the failure.", "outcome", "reason"),
		failed: counter("belay_failed_releases_total", "Releases that failed, by the cause of the failure.", "cause"),
		duration: metrics.NewHistogramVec(&metrics.HistogramOpts{Name: "belay_release_duration_seconds", StabilityLevel: metrics.ALPHA,
			Help:    "Time from the beginning of a rollout to its verdict, by outcome: of failed ones, the time to detection. Times that nobody watched do not count.",
			Buckets: []float64{1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 3600}}, []string{"kind", "outcome"}),
		rollbacks: counter("belay_rollbacks_total", "Times that a Deployment was put back on what was good last, or a restart that failed was undone."),
	}
}

// Register registers the metrics, each with a zero: a rate needs one to begin at.
func (m *Metrics) Register(registry metrics.KubeRegistry) {
	registry.MustRegister(m.releases, m.failed, m.duration, m.rollbacks)
	for _, kind := range []string{Guarded, InPlace} {
		m.releases.WithLabelValues(kind, outcomeGood, "")
		for _, reason := range v1alpha1.FailureReasons {
			m.releases.WithLabelValues(kind, outcomeFailed, reason)
		}
		for _, cause := range v1alpha1.Causes {
			m.failed.WithLabelValues(kind, cause)
		}
		for _, outcome := range []string{outcomeGood, outcomeFailed} {
			m.duration.WithLabelValues(kind, outcome)
		}
		m.rollbacks.WithLabelValues(kind)
	}
}

// Of returns what counts those of one kind.
func (m *Metrics) Of(kind string) Counter { return Counter{m, kind} }

// Counter counts the releases of one kind.
type Counter struct {
	*Metrics
	kind string
}

// Judged counts a verdict. Of a failure it has the cause.
func (c Counter) Judged(verdict *rollout.Verdict, cause string) {
	outcome := outcomeGood
	if verdict.Failure != "" {
		outcome = outcomeFailed
		c.failed.WithLabelValues(c.kind, knownCause(cause)).Inc()
	}
	c.releases.WithLabelValues(c.kind, outcome, verdict.Failure).Inc()
	c.duration.WithLabelValues(c.kind, outcome).Observe(verdict.After.Round(time.Millisecond).Seconds())
}

// RolledBack counts a rollback that has begun.
func (c Counter) RolledBack() { c.rollbacks.WithLabelValues(c.kind).Inc() }

// knownCause returns the cause, Unknown for one that the API does not name: a label must have few values.
func knownCause(cause string) string {
	if slices.Contains(v1alpha1.Causes, cause) {
		return cause
	}
	return v1alpha1.CauseUnknown
}
