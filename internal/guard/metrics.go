package guard

import (
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/component-base/metrics"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
	belaylisters "github.com/belay-dev/belay/pkg/generated/listers/belay/v1alpha1"
	"github.com/belay-dev/belay/pkg/rollout"
)

// Outcomes of a release.
const outcomeGood, outcomeFailed = "good", "failed"

// Metrics count what becomes of releases. Until they are registered they count nothing.
type Metrics struct {
	releases        *metrics.CounterVec
	failedReleases  *metrics.CounterVec
	releaseDuration *metrics.HistogramVec
	rollbacks       *metrics.Counter
}

// NewMetrics returns metrics that are not registered yet.
func NewMetrics() *Metrics {
	return &Metrics{
		releases: metrics.NewCounterVec(&metrics.CounterOpts{Name: "belay_releases_total", StabilityLevel: metrics.ALPHA,
			Help: "Releases and restarts that were judged, by outcome (good, failed) and the reason of the failure."}, []string{"outcome", "reason"}),
		failedReleases: metrics.NewCounterVec(&metrics.CounterOpts{Name: "belay_failed_releases_total", StabilityLevel: metrics.ALPHA,
			Help: "Releases that failed, by the cause of the failure."}, []string{"cause"}),
		releaseDuration: metrics.NewHistogramVec(&metrics.HistogramOpts{Name: "belay_release_duration_seconds", StabilityLevel: metrics.ALPHA,
			Help:    "Time from the beginning of a rollout to its verdict, by outcome: of failed ones, the time to detection. Times that nobody watched do not count.",
			Buckets: []float64{1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 3600}}, []string{"outcome"}),
		rollbacks: metrics.NewCounter(&metrics.CounterOpts{Name: "belay_rollbacks_total", StabilityLevel: metrics.ALPHA,
			Help: "Times that a Deployment was put back on its last good revision, or a restart that failed was undone."}),
	}
}

// Register registers the metrics, and with them how many of the objects are in which state.
func (m *Metrics) Register(registry metrics.KubeRegistry, objects belaylisters.GuardedDeploymentLister) {
	registry.MustRegister(m.releases, m.failedReleases, m.releaseDuration, m.rollbacks)
	registry.CustomMustRegister(&states{objects: objects})
	m.releases.WithLabelValues(outcomeGood, "")
	for _, reason := range v1alpha1.FailureReasons {
		m.releases.WithLabelValues(outcomeFailed, reason) // A rate needs a zero to begin at.
	}
	for _, cause := range v1alpha1.Causes {
		m.failedReleases.WithLabelValues(cause)
	}
	for _, outcome := range []string{outcomeGood, outcomeFailed} {
		m.releaseDuration.WithLabelValues(outcome)
	}
}

// count counts what was decided and has been written.
func (m *Metrics) count(d rollout.Decision) {
	if d.RollBack {
		m.rollbacks.Inc()
	}
	if d.Verdict == nil {
		return
	}
	outcome := outcomeGood
	if d.Verdict.Failure != "" {
		outcome = outcomeFailed
		m.failedReleases.WithLabelValues(knownCause(d.Memory.Progress.Failure.Cause)).Inc()
	}
	m.releases.WithLabelValues(outcome, d.Verdict.Failure).Inc()
	m.releaseDuration.WithLabelValues(outcome).Observe(d.Verdict.After.Round(time.Millisecond).Seconds())
}

// knownCause returns the cause, Unknown for one that the API does not name: a label must have few values.
func knownCause(cause string) string {
	if slices.Contains(v1alpha1.Causes, cause) {
		return cause
	}
	return v1alpha1.CauseUnknown
}

// states counts objects by their condition Ready when it is asked.
type states struct {
	metrics.BaseStableCollector
	objects belaylisters.GuardedDeploymentLister
}

var statesDesc = metrics.NewDesc("belay_guardeddeployments", "GuardedDeployments by their condition Ready and its reason.",
	[]string{"ready", "reason"}, nil, metrics.ALPHA, "")

func (s *states) DescribeWithStability(descs chan<- *metrics.Desc) { descs <- statesDesc }

func (s *states) CollectWithStability(found chan<- metrics.Metric) {
	all, err := s.objects.List(labels.Everything())
	if err != nil {
		return // never: it is a cache
	}
	type state struct{ ready, reason string }
	counts := map[state]int{}
	for _, g := range all {
		is := state{"Unknown", ""}
		if ready := meta.FindStatusCondition(g.Status.Conditions, v1alpha1.ConditionReady); ready != nil {
			is = state{string(ready.Status), ready.Reason}
		}
		counts[is]++
	}
	for is, count := range counts {
		found <- metrics.NewLazyConstMetric(statesDesc, metrics.GaugeValue, float64(count), is.ready, is.reason)
	}
}
