package inplace

import (
	"testing"

	"k8s.io/client-go/tools/cache"
	"k8s.io/component-base/metrics"

	"github.com/belay-dev/belay/internal/evidence"
	"github.com/belay-dev/belay/internal/expect"
	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
	"github.com/belay-dev/belay/pkg/rollout"
)

// A write that is refused is told as that, and one with a label that asks for nothing is in no state.
func TestStates(t *testing.T) {
	in := func(state string) memory { return memory{InPlaceMemory: rollout.InPlaceMemory{State: state}} }
	refused := in(v1alpha1.ReasonProgressing)
	refused.refusal.text = "no"
	g := &Guard{memories: evidence.NewMemories[memory](evidence.New(nil))}
	for name, m := range map[string]memory{
		"a": in(v1alpha1.ReasonRolledOut), "b": in(v1alpha1.ReasonRolledOut), "c": in(v1alpha1.EventNotHeld), "d": refused, "e": in(""),
	} {
		g.memories.Keep(cache.NewObjectName("", name), m)
	}
	registry := metrics.NewKubeRegistry()
	registry.CustomMustRegister(g.States())
	expect.Same(t, "states", []string{
		`belay_deployments{state="Denied"} 1`,
		`belay_deployments{state="NotHeld"} 1`,
		`belay_deployments{state="RolledOut"} 2`,
	}, expect.Scraped(t, registry, "belay_deployments"))
}
