package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"testing"
	"text/tabwriter"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// figures are what was measured in a run.
var figures = &measurements{}

type measurements struct {
	sync.Mutex
	names  []string
	counts map[string]counted
	times  map[string]timed
	pace   []time.Duration // how long plain requests took while times were measured
}

// usualPace is what half of all plain requests must not exceed for times to be held against Belay: they take about 2 ms
// where the cluster has two cores for itself.
const usualPace = 50 * time.Millisecond

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

// watchPace measures, until the test ends, how fast the API server answers.
func (m *measurements) watchPace(t *testing.T) {
	ticks := time.NewTicker(2 * pollEvery)
	done := make(chan struct{})
	go func() {
		for {
			select {
			case <-done:
				return
			case <-ticks.C:
			}
			began := time.Now()
			_, err := cluster.kube.CoreV1().Namespaces().Get(context.Background(), "default", metav1.GetOptions{})
			if err != nil {
				continue
			}
			m.Lock()
			m.pace = append(m.pace, time.Since(began))
			m.Unlock()
		}
	}()
	t.Cleanup(func() { ticks.Stop(); close(done) })
}

// check returns an error for every promise about times that was not kept, unless nothing was fast.
func (m *measurements) check() error {
	m.Lock()
	defer m.Unlock()
	if len(m.times) > 0 && len(m.pace) > 0 {
		if pace := percentile(m.pace, 50); pace > usualPace {
			fmt.Printf("e2e: the machine is busy, a plain GET takes %s: promises about times are not checked\n", pace.Round(time.Millisecond))
			return nil
		}
	}
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
	if len(m.pace) > 0 {
		fmt.Fprintf(table, "time of a plain GET while times are measured\t%d\t%s\t%s\t%s\t-\n", len(m.pace),
			ms(percentile(m.pace, 50)), ms(percentile(m.pace, 99)), ms(slices.Max(m.pace)))
	}
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
