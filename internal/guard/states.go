package guard

import (
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/component-base/metrics"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
	belaylisters "github.com/belay-dev/belay/pkg/generated/listers/belay/v1alpha1"
)

// States returns a metric that has how many of the objects are in which state.
func States(objects belaylisters.GuardedDeploymentLister) metrics.StableCollector {
	return &states{objects: objects}
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
