package sim

import (
	"flag"
	"fmt"
	"os"
	"sync"
	"testing"

	"github.com/belay-dev/belay/pkg/rollout"
)

// rowsTaken counts the decisions of all simulations by the row of rollout.Decide's table that they are from.
var rowsTaken = struct {
	sync.Mutex
	decisions map[string]int
}{decisions: map[string]int{}}

// unreached are the rows that no simulation can take, and why.
var unreached = map[string]string{
	"deletion":     "the pretend API deletes a Deployment at once: nothing has finalizers",
	"label":        "nobody takes the label of a revision, and the pretend caches do not select by it",
	"unrecordable": "nobody asks for a template that cannot be read back",
}

func (b *belay) countRows() {
	rowsTaken.Lock()
	defer rowsTaken.Unlock()
	for row, n := range b.rows {
		rowsTaken.decisions[row] += n
	}
}

// TestMain fails if all simulations together never take a row of the table.
func TestMain(m *testing.M) {
	code := m.Run()
	all := flag.Lookup("test.run").Value.String() == "" && flag.Lookup("test.skip").Value.String() == "" && *seed == 0 && !testing.Short()
	for _, row := range rollout.Rows() {
		taken := rowsTaken.decisions[row]
		if testing.Verbose() {
			fmt.Printf("%8d decisions from the row %q\n", taken, row)
		}
		if why, expected := unreached[row]; all && expected != (taken == 0) {
			fmt.Printf("FAIL: %d decisions from the row %q %s\n", taken, row, why)
			code = max(code, 1)
		}
	}
	os.Exit(code)
}
