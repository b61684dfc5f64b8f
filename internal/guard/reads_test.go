package guard

import (
	"testing"

	"github.com/belay-dev/belay/internal/expect"
)

func TestNewer(t *testing.T) {
	for _, c := range [][3]string{{"9", "10", "10"}, {"10", "9", "10"}, {"7", "7", "7"}, {"", "7", "7"}, {"100", "20", "100"}, {"7", "none", "none"}} {
		expect.Same(t, c[0]+" and "+c[1], c[2], newer(c[0], c[1]))
	}
}
