#!/usr/bin/env bash
# The last lines of a log are the last records of its file, and a limit of bytes cuts off what was written last.
#
# Version: cri-client v0.37.2 (pkg/logs), with which the kubelet reads what `kubectl logs` and pods/log show.
# Expected: tailLines=2 is the last two lines that the container wrote. limitBytes beside it keeps the end, which is what
#   whoever asks for a tail is after. Lines of standard output and of standard error do not mix.
# Seen: a runtime writes a long line in pieces of 16 KiB (containerd's default), each a record of its own, and
#   tailLines counts records: of one line of three pieces, tailLines=2 shows the last two, so it begins in the middle of a
#   word, and nothing says so. limitBytes keeps the beginning of the tail: with tailLines=2 and limitBytes=8 the line that
#   says why it ended is not there. A line that is written to the other stream between two pieces stands in the middle of
#   the long line. Whoever wants the last 2 KiB reads the whole tail and cuts it.
set -o errexit -o nounset -o pipefail

dir=$(mktemp -d)
trap 'rm -rf "${dir}"' EXIT
cd "${dir}"

# A log as a runtime writes it, with shorter pieces: time, stream, P for a piece of a line or F for its end, text.
cat >pieces.log <<'END'
2026-11-01T00:00:00.000000001Z stdout F before
2026-11-01T00:00:00.000000002Z stdout P one-
2026-11-01T00:00:00.000000003Z stdout P two-
2026-11-01T00:00:00.000000004Z stdout F three
END
cat >lines.log <<'END'
2026-11-01T00:00:00.000000001Z stdout F starting
2026-11-01T00:00:00.000000002Z stdout F loading the configuration
2026-11-01T00:00:00.000000003Z stderr F fatal: no database
END
cat >mixed.log <<'END'
2026-11-01T00:00:00.000000001Z stdout P one-
2026-11-01T00:00:00.000000002Z stderr F warning
2026-11-01T00:00:00.000000003Z stdout F two
END

cat >main.go <<'END'
package main

import (
	"bytes"
	"context"
	"fmt"
	"os"

	"k8s.io/cri-client/pkg/logs"
)

func show(title, file string, lines, limit int64) {
	options := &logs.LogOptions{TailLines: &lines}
	if limit > 0 {
		options.LimitBytes = &limit
	}
	var out bytes.Buffer
	if err := logs.ReadLogs(context.Background(), file, "", options, nil, &out, &out); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Printf("%s: %q\n", title, out.String())
}

func main() {
	show("the last 2 lines, the last of which is one-two-three", "pieces.log", 2, 0)
	show("the last 2 lines", "lines.log", 2, 0)
	show("the last 2 lines, at most 8 bytes", "lines.log", 2, 8)
	show("two lines on two streams", "mixed.log", 9, 0)
}
END

cat >seen <<'END'
the last 2 lines, the last of which is one-two-three: "two-three\n"
the last 2 lines: "loading the configuration\nfatal: no database\n"
the last 2 lines, at most 8 bytes: "loading "
two lines on two streams: "one-warning\ntwo\n"
END

{
  go mod init finding
  go get k8s.io/cri-client@v0.37.2
  go mod tidy
  go build -o finding .
} >log 2>&1 || { cat log >&2; exit 1; }
./finding >now
diff --unified seen now || { echo "changed: the tail of a log is what stands above behind a +" >&2; exit 1; }
echo "as described"
