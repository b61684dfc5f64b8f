package releases

import (
	"fmt"
	"slices"
	"testing"

	"k8s.io/component-base/metrics"

	"github.com/belay-dev/belay/internal/expect"
	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
	"github.com/belay-dev/belay/pkg/rollout"
)

func registered() (*Metrics, metrics.KubeRegistry) {
	m, registry := NewMetrics(), metrics.NewKubeRegistry()
	m.Register(registry)
	return m, registry
}

// A rate needs a zero to begin at, for each kind.
func TestMetrics_BeginAtZero(t *testing.T) {
	_, registry := registered()
	families, err := registry.Gather()
	expect.NoError(t, err)
	got := map[string]int{}
	for _, family := range families {
		got[family.GetName()] = len(family.GetMetric())
	}
	expect.Same(t, "series before anything happens", map[string]int{
		"belay_releases_total":           2 * (1 + len(v1alpha1.FailureReasons)),
		"belay_failed_releases_total":    2 * len(v1alpha1.Causes),
		"belay_release_duration_seconds": 2 * 2,
		"belay_rollbacks_total":          2,
	}, got)
}

// A label must have few values.
func TestMetrics_Causes(t *testing.T) {
	m, registry := registered()
	for _, cause := range slices.Concat(v1alpha1.Causes, []string{"", "made up"}) {
		m.Of(Guarded).Judged(&rollout.Verdict{Failure: v1alpha1.FailureCrashLoop}, cause)
	}
	var want []string
	for _, cause := range v1alpha1.Causes {
		count := 1
		if cause == v1alpha1.CauseUnknown {
			count = 3
		}
		want = append(want, fmt.Sprintf(`belay_failed_releases_total{cause=%q,kind="GuardedDeployment"} %d`, cause, count))
	}
	slices.Sort(want)
	expect.Same(t, "failed releases", want, expect.Scraped(t, registry, "belay_failed_releases_total"))
}

func TestMetrics_KindsApart(t *testing.T) {
	m, registry := registered()
	m.Of(Guarded).Judged(&rollout.Verdict{}, "")
	m.Of(InPlace).Judged(&rollout.Verdict{Failure: v1alpha1.FailureImagePull}, v1alpha1.CauseImageAuth)
	m.Of(InPlace).RolledBack()
	expect.Same(t, "counts", []string{
		`belay_failed_releases_total{cause="ImageAuth",kind="Deployment"} 1`,
		`belay_releases_total{kind="Deployment",outcome="failed",reason="ImagePull"} 1`,
		`belay_releases_total{kind="GuardedDeployment",outcome="good",reason=""} 1`,
		`belay_rollbacks_total{kind="Deployment"} 1`,
	}, expect.Scraped(t, registry, "belay_failed_releases_total", "belay_releases_total", "belay_rollbacks_total"))
}
