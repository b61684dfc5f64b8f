package inplace

import (
	"k8s.io/component-base/metrics"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// States returns a metric that has how many Deployments are in which state. Only the process that works knows of any.
func (g *Guard) States() metrics.StableCollector { return &states{guard: g} }

// states counts what is known of Deployments when it is asked.
type states struct {
	metrics.BaseStableCollector
	guard *Guard
}

var statesDesc = metrics.NewDesc("belay_deployments", "Deployments that are guarded in place, by the state they are in.",
	[]string{"state"}, nil, metrics.ALPHA, "")

func (s *states) DescribeWithStability(descs chan<- *metrics.Desc) { descs <- statesDesc }

func (s *states) CollectWithStability(found chan<- metrics.Metric) {
	for state, count := range s.guard.count() {
		found <- metrics.NewLazyConstMetric(statesDesc, metrics.GaugeValue, float64(count), state)
	}
}

// count returns how many Deployments are in which state. Those with another value of the label than the one that asks are in none.
func (g *Guard) count() map[string]int {
	counts := map[string]int{}
	for m := range g.memories.All {
		switch {
		case m.refusal.text != "":
			counts[v1alpha1.ReasonDenied]++
		case m.State != "":
			counts[m.State]++
		}
	}
	return counts
}
