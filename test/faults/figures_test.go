package faults

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
)

// figures are how often each fault was tried, and what came of it.
type figures struct {
	mu                     sync.Mutex
	tried, missed, against map[string]int // by fault
}

func newFigures() *figures {
	return &figures{tried: map[string]int{}, missed: map[string]int{}, against: map[string]int{}}
}

// count counts a story that has ended.
func (f *figures) count(t *testing.T, p perturbed) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.tried[p.fault.name]++
	if t.Failed() {
		f.against[p.fault.name]++
	}
}

// miss says that a story had ended before the request that the fault was for.
func (f *figures) miss(p perturbed) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.missed[p.fault.name]++
}

// print prints a table of all.
func (f *figures) print() {
	f.mu.Lock()
	defer f.mu.Unlock()
	table := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "fault\tstories\tviolations\t")
	tried, against := 0, 0
	for _, fault := range faults() {
		n := f.tried[fault.name] - f.missed[fault.name]
		tried, against = tried+n, against+f.against[fault.name]
		fmt.Fprintf(table, "%s\t%d\t%d\t\n", fault.name, n, f.against[fault.name])
	}
	fmt.Fprintf(table, "%s\t%d\t%d\t\n", strings.ToUpper("all"), tried, against)
	_ = table.Flush()
}
