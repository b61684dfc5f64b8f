package e2e

import (
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
	"github.com/belay-dev/belay/test/kstatus"
)

// misread has every status that was seen, of any test, and that the kstatus library does not read as it is meant.
type misread struct {
	sync.Mutex
	found map[string]map[string]bool // by namespace: each once
}

func (m *misread) check(g *v1alpha1.GuardedDeployment) {
	err := kstatus.Check(g)
	if err == nil {
		return
	}
	m.Lock()
	defer m.Unlock()
	if m.found == nil {
		m.found = map[string]map[string]bool{}
	}
	if m.found[g.Namespace] == nil {
		m.found[g.Namespace] = map[string]bool{}
	}
	m.found[g.Namespace][g.Name+": "+err.Error()] = true
}

// checkKstatus makes sure that tools which wait by kstatus were told nothing wrong in the test, at any time.
func (n *namespace) checkKstatus() {
	n.Helper()
	m := &cluster.seen.misread
	m.Lock()
	defer m.Unlock()
	if found := slices.Sorted(maps.Keys(m.found[n.name])); len(found) > 0 {
		n.Errorf("%d statuses are misread, for example:\n%s", len(found), strings.Join(found[:min(len(found), 3)], "\n"))
	}
}
