#!/usr/bin/env bash
# One reported error sets the clock of a testing/synctest bubble forward by decades.
#
# Versions: apimachinery v0.37.2 (util/runtime), Go 1.26.8.
# Expected: in a bubble time goes on only while everybody waits for it; utilruntime.HandleError logs and returns, or waits
#   for a millisecond at most, which is the limit it sets to the rate of errors.
# Seen: it sleeps for 1 ms less the time since the last error. That time is first taken at the start of the program,
#   outside of the bubble: today. The clock of a bubble starts in the year 2000, so the first error sleeps from there to
#   today: every timer and deadline in the bubble is over at once, while the test takes no time. The second error, decades
#   later, does not wait. For tests, cut utilruntime.ErrorHandlers to its first element, which logs.
set -o errexit -o nounset -o pipefail

dir=$(mktemp -d)
trap 'rm -rf "${dir}"' EXIT
cd "${dir}"

cat >finding_test.go <<'END'
package finding

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"
	"testing/synctest"
	"time"

	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
)

func TestHandleError(t *testing.T) {
	began := time.Now()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(context.Background(), 5*365*24*time.Hour)
		defer cancel()
		now := ""
		for range 2 {
			start := time.Now()
			utilruntime.HandleError(errors.New("one object cannot be read"))
			if took := time.Since(start); took > 20*365*24*time.Hour {
				now += "took decades\n"
			} else {
				now += fmt.Sprintf("took %v\n", took)
			}
		}
		now += fmt.Sprintln("a timeout of five years:", ctx.Err())
		if err := os.WriteFile("now", []byte(now), 0o600); err != nil {
			t.Error(err)
		}
	})
	if took := time.Since(began); took > time.Minute {
		t.Errorf("it took %v of real time", took)
	}
}
END

cat >seen <<'END'
took decades
took 0s
a timeout of five years: context deadline exceeded
END

{
  go mod init finding
  go get k8s.io/apimachinery@v0.37.2
  go get -t .
  go test .
} >log 2>&1 || { cat log >&2; exit 1; }
diff --unified seen now || { echo "changed: HandleError does what stands above behind a +" >&2; exit 1; }
echo "as described"
