package evidence

import (
	"fmt"
	"testing"
	"time"

	"k8s.io/client-go/tools/cache"
)

// isUnderWay is a Memory of an object that is, or is not.
type isUnderWay bool

func (is isUnderWay) UnderWay() bool { return bool(is) }

// What is under way is counted by its last poll, and no longer than it is.
func TestMemories_CountTheLoad(t *testing.T) {
	r := New(nil)
	m := NewMemories[isUnderWay](r)
	want := func(step any, want time.Duration) {
		t.Helper()
		if got := r.Interval(); got != want {
			t.Errorf("step %v: every %s, want %s", step, got, want)
		}
	}
	web, other := cache.NewObjectName(namespace, "web"), cache.NewObjectName(namespace, "other")
	for i, step := range []struct {
		do   func()
		want time.Duration
	}{
		{func() { m.notePoll(web, poll{pods: 7000}) }, pollInterval},
		{func() { m.Keep(web, true) }, 7000 * podStretch},
		{func() { m.notePoll(web, poll{pods: 9000}) }, 9000 * podStretch},
		{func() { m.Keep(other, true) }, 9000 * podStretch},
		{func() { m.notePoll(other, poll{pods: 4000}) }, 13000 * podStretch},
		{func() { m.Keep(web, false) }, 4000 * podStretch},
		{func() { m.Keep(web, true) }, 4000 * podStretch},
		{func() { m.Keep(other, false) }, pollInterval},
		{func() { m.Keep(web, false) }, pollInterval},
	} {
		step.do()
		want(i, step.want)
	}
	const many = 200
	for how, end := range map[string]func(key cache.ObjectName){
		"they are done": func(key cache.ObjectName) { m.Keep(key, false) },
		"they are gone": m.Forget,
	} {
		each := func(do func(key cache.ObjectName)) {
			for i := range many {
				do(cache.NewObjectName(namespace, fmt.Sprint("web-", i)))
			}
		}
		each(func(key cache.ObjectName) { m.Keep(key, true) })
		want("many until "+how, many*pollStretch)
		each(end)
		want(how, pollInterval)
	}
}
