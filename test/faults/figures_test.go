package faults

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// figures are how often each fault was tried, and what came of it.
type figures struct {
	mu                     sync.Mutex
	began                  time.Time
	ended                  int
	tried, missed, against map[string]int // by fault
}

func newFigures() *figures {
	return &figures{began: time.Now(), tried: map[string]int{}, missed: map[string]int{}, against: map[string]int{}}
}

// count counts a story that has ended, of so many, and says how far it is now and then.
func (f *figures) count(t *testing.T, p perturbed, of int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.tried[p.fault.name]++
	if f.ended++; f.ended%100 == 0 {
		fmt.Printf("%d of %d stories, after %s\n", f.ended, of, time.Since(f.began).Round(time.Second))
	}
	if t.Failed() {
		f.against[p.fault.name]++
	}
}

// miss says that a story had ended before the fault took effect.
func (f *figures) miss(p perturbed) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.missed[p.fault.name]++
}

// kinds are the parts of the table: what they are about, and how the names of their faults begin.
var kinds = []struct {
	title    string
	prefixes []string
}{
	{"the answer is lost: a write took effect", []string{"answer-lost-"}},
	{"unanswered, the write takes effect late", []string{writeLate}},
	{"refused or lost before it took effect", []string{"refused-"}},
	{"the process is killed, and starts again", []string{"killed-"}},
	{"the process is stopped for a while", []string{"stopped-"}},
	{"a watch stands still, lags, or is expired", []string{"watch-", "events-late", "relist-"}},
	{"certificate or token is rotated", []string{"server-certificate-", "client-certificate-", "token-"}},
	{"two processes, and one Lease", []string{"lease-", "leader-"}},
}

// table is all of them, in Markdown.
func (f *figures) table() string {
	var table strings.Builder
	row := func(name string, stories, violations any) {
		fmt.Fprintf(&table, "| %-55s | %7v | %10v |\n", name, stories, violations)
	}
	row("fault", "stories", "violations")
	table.WriteString("|---|---:|---:|\n")
	tried, against := 0, 0
	for _, kind := range kinds {
		var rows []*fault
		kindTried, kindAgainst := 0, 0
		for _, fault := range faults() {
			if !slices.ContainsFunc(kind.prefixes, func(prefix string) bool { return strings.HasPrefix(fault.name, prefix) }) {
				continue
			}
			rows = append(rows, fault)
			kindTried, kindAgainst = kindTried+f.happened(fault), kindAgainst+f.against[fault.name]
		}
		row("**"+kind.title+"**", kindTried, kindAgainst)
		for _, fault := range rows {
			row("`"+fault.name+"`", f.happened(fault), f.against[fault.name])
		}
		tried, against = tried+kindTried, against+kindAgainst
	}
	row("**all**", tried, against)
	return table.String()
}

// happened returns in how many stories the fault took effect.
func (f *figures) happened(fault *fault) int { return f.tried[fault.name] - f.missed[fault.name] }

// print prints them, and writes them into the page if that is asked for.
func (f *figures) print(t *testing.T) {
	f.mu.Lock()
	defer f.mu.Unlock()
	version, err := cluster.kube.Discovery().ServerVersion()
	if err != nil {
		t.Error(err)
		return
	}
	all, missed := 0, 0
	for _, fault := range faults() {
		all, missed = all+f.happened(fault), missed+f.missed[fault.name]
	}
	told := fmt.Sprintf("Kubernetes %s, `-seed %d`: %d stories met their fault, told in %s; %d more had ended before it took effect.\n\n%s",
		version.GitVersion, *seedFlag, all, time.Since(f.began).Round(time.Second), missed, f.table())
	_, _ = os.Stdout.WriteString(told)
	if *writeFlag {
		rewrite(t, "faults", told)
	}
}
