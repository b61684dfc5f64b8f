package guard

import (
	"fmt"
	"testing"
	"time"

	"k8s.io/client-go/tools/cache"

	"github.com/belay-dev/belay/internal/evidence"
	"github.com/belay-dev/belay/internal/freshness"
	"github.com/belay-dev/belay/pkg/rollout"
)

// What is under way is counted by its last poll, and no longer than it is.
func TestGuard_CountsTheLoad(t *testing.T) {
	underWay, done := rollout.Memory{}, rollout.Memory{}
	underWay.Progress.Revision, underWay.Progress.Phase = "web-1", rollout.PhaseProgressing
	done.Progress.Revision, done.Progress.Phase = "web-1", rollout.PhaseHealthy
	g := &Guard{evidence: evidence.New(nil), fresh: freshness.New(), memories: map[cache.ObjectName]memory{}}
	want := func(step any, want time.Duration) {
		t.Helper()
		if got := g.evidence.Interval(); got != want {
			t.Errorf("step %v: every %s, want %s", step, got, want)
		}
	}
	web, other := cache.NewObjectName(namespace, "web"), cache.NewObjectName(namespace, "other")
	for i, step := range []struct {
		do   func()
		want time.Duration
	}{
		{func() { g.notePoll(web, evidence.Poll{Pods: 7000}) }, pollInterval},
		{func() { g.remember(web, underWay) }, 7000 * podStretch},
		{func() { g.notePoll(web, evidence.Poll{Pods: 9000}) }, 9000 * podStretch},
		{func() { g.remember(other, underWay) }, 9000 * podStretch},
		{func() { g.notePoll(other, evidence.Poll{Pods: 4000}) }, 13000 * podStretch},
		{func() { g.remember(web, done) }, 4000 * podStretch},
		{func() { g.remember(web, underWay) }, 4000 * podStretch},
		{func() { g.remember(other, done) }, pollInterval},
		{func() { g.remember(web, rollout.Memory{}) }, pollInterval},
	} {
		step.do()
		want(i, step.want)
	}
	const many = 200
	for how, end := range map[string]func(key cache.ObjectName){
		"they are done": func(key cache.ObjectName) { g.remember(key, done) },
		"they are gone": g.forget,
	} {
		each := func(do func(key cache.ObjectName)) {
			for i := range many {
				do(cache.NewObjectName(namespace, fmt.Sprint("web-", i)))
			}
		}
		each(func(key cache.ObjectName) { g.remember(key, underWay) })
		want("many until "+how, many*pollStretch)
		each(end)
		want(how, pollInterval)
	}
}
