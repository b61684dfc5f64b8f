package e2e

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"text/tabwriter"
	"time"
)

// figures are what was measured in a run.
var figures = &measurements{}

type measurements struct {
	sync.Mutex
	names  []string
	counts map[string]counted
	times  map[string]timed
}

type counted struct{ values, most []int }

type timed struct {
	values []time.Duration
	limit  time.Duration
}

// count notes a number. most is what it must not exceed, -1 if nothing is promised: then numbers add up.
func (m *measurements) count(name string, value, most int) {
	m.Lock()
	defer m.Unlock()
	if m.counts == nil {
		m.counts = map[string]counted{}
	}
	c, known := m.counts[name]
	if !known {
		m.names = append(m.names, name)
	}
	if most < 0 && known {
		c.values[0] += value
	} else {
		c.values, c.most = append(c.values, value), append(c.most, most)
	}
	m.counts[name] = c
}

// time notes how long something took. The 99th percentile of all must be below the limit.
func (m *measurements) time(name string, took, limit time.Duration) {
	m.Lock()
	defer m.Unlock()
	if m.times == nil {
		m.times = map[string]timed{}
	}
	t, known := m.times[name]
	if !known {
		m.names = append(m.names, name)
	}
	m.times[name] = timed{append(t.values, took), limit}
}

// percentile returns the smallest value that p percent of all do not exceed.
func percentile(values []time.Duration, p int) time.Duration {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[(len(sorted)*p+99)/100-1]
}

// check returns an error for every promise about times that was not kept.
func (m *measurements) check() error {
	m.Lock()
	defer m.Unlock()
	var errs []error
	for name, t := range m.times {
		if p99 := percentile(t.values, 99); p99 >= t.limit {
			errs = append(errs, fmt.Errorf("%s: p99 is %s, want below %s", name, p99.Round(time.Millisecond), t.limit))
		}
	}
	return errors.Join(errs...)
}

func (m *measurements) print() {
	m.Lock()
	defer m.Unlock()
	if len(m.names) == 0 {
		return
	}
	slices.Sort(m.names)
	table := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "measured\tn\tp50\tp99\tmax\tpromised")
	ms := func(d time.Duration) time.Duration { return d.Round(time.Millisecond) }
	for _, name := range m.names {
		if t, ok := m.times[name]; ok {
			fmt.Fprintf(table, "%s\t%d\t%s\t%s\t%s\tp99 < %s\n", name, len(t.values), ms(percentile(t.values, 50)),
				ms(percentile(t.values, 99)), ms(slices.Max(t.values)), t.limit)
			continue
		}
		c := m.counts[name]
		promised := fmt.Sprintf("<= %d", slices.Max(c.most))
		if slices.Max(c.most) < 0 {
			promised = "-"
		}
		sorted := slices.Sorted(slices.Values(c.values))
		fmt.Fprintf(table, "%s\t%d\t%d\t\t%d\t%s\n", name, len(sorted), sorted[(len(sorted)-1)/2], sorted[len(sorted)-1], promised)
	}
	table.Flush()
}
