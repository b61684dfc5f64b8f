package sim

import (
	"sync"
	"testing"

	"github.com/go-logr/logr"

	"github.com/belay-dev/belay/pkg/rollout"
)

// unreached are the rows of rollout.Decide's table that no simulation can take, and why.
var unreached = map[string]string{
	"deletion":     "the pretend API deletes a Deployment at once: nothing has finalizers",
	"unrecordable": "nobody asks for a template that cannot be read back",

	inPlacePrefix + "deletion": "the pretend API deletes a Deployment at once: nothing has finalizers",
}

// tables are the tables by what is logged of their decisions, and what the names of their rows begin with here.
var tables = map[string]string{"Decided": "", "Decided in place": inPlacePrefix}

const inPlacePrefix = "in place: "

// rowCounter is a logger's sink that counts the decisions of all simulations by the row that they are from.
type rowCounter struct {
	mu   sync.Mutex
	rows map[string]int
}

func (c *rowCounter) Init(logr.RuntimeInfo)          {}
func (c *rowCounter) Enabled(level int) bool         { return level == 5 }
func (c *rowCounter) Error(error, string, ...any)    {}
func (c *rowCounter) WithName(string) logr.LogSink   { return c }
func (c *rowCounter) WithValues(...any) logr.LogSink { return c }
func (c *rowCounter) Info(_ int, message string, values ...any) {
	prefix, counts := tables[message]
	if !counts {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.rows[prefix+values[1].(string)]++
}

// check fails the test if all simulations together never took a row of the table.
func (c *rowCounter) check(t *testing.T) {
	rows := rollout.Rows()
	for _, row := range rollout.InPlaceRows() {
		rows = append(rows, inPlacePrefix+row)
	}
	for _, row := range rows {
		t.Logf("%8d decisions from the row %q", c.rows[row], row)
		if why, expected := unreached[row]; expected != (c.rows[row] == 0) {
			t.Errorf("%d decisions from the row %q %s", c.rows[row], row, why)
		}
	}
}
