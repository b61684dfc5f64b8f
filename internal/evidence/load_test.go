package evidence

import (
	"testing"
	"time"
)

func TestReader_Interval(t *testing.T) {
	for _, row := range []struct {
		load
		want time.Duration
	}{
		{load{}, 3 * time.Second},
		{load{objects: 150, pods: 3000}, 3 * time.Second},
		{load{objects: 200, pods: 3000}, 4 * time.Second},
		{load{objects: 1, pods: 10_000}, 10 * time.Second},
		{load{objects: 3001, pods: 3001}, 3001 * 20 * time.Millisecond},
		{load{objects: 10_000, pods: 10_000}, 200 * time.Second},
	} {
		r := New(nil)
		r.replace(load{}, row.load)
		if got := r.Interval(); got != row.want {
			t.Errorf("%+v: every %s, want %s", row.load, got, row.want)
		}
		r.replace(row.load, load{})
		if got := r.Interval(); got != pollInterval {
			t.Errorf("%+v taken away again: every %s, want %s", row.load, got, pollInterval)
		}
	}
}
