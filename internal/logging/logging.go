// Package logging sets up klog: text or JSON, each record on one line whatever is in it.
package logging

import (
	"bytes"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode"
	"unicode/utf8"

	logsapi "k8s.io/component-base/logs/api/v1"
	_ "k8s.io/component-base/logs/json/register" // --logging-format=json
	"k8s.io/klog/v2"
)

// Flags adds the flags for logging, without those that are alpha.
func Flags() *logsapi.LoggingConfiguration {
	config, all := logsapi.NewLoggingConfiguration(), flag.NewFlagSet("", flag.ContinueOnError)
	logsapi.AddGoFlags(config, all)
	for name, usage := range map[string]string{
		"logging-format": "text or json",
		"v":              "how much is logged: 2 adds the connections to the metrics, 4 the syncs that wait for a cache, 5 the row of the table that each decision is from, 6 and more every request",
		"vmodule":        "pattern=N,...: another -v for these source files; with text only",
	} {
		flag.Var(all.Lookup(name).Value, name, usage)
	}
	return config
}

// Start makes klog write as the flags say, to standard error. It can be called once.
func Start(config *logsapi.LoggingConfiguration) error {
	streams := &logsapi.LoggingOptions{ErrorStream: os.Stderr, InfoStream: os.Stderr}
	if config.Format == logsapi.DefaultLogFormat {
		streams.ErrorStream, streams.InfoStream = oneLine{os.Stderr}, oneLine{os.Stderr}
	}
	return logsapi.ValidateAndApplyWithOptions(config, streams, nil)
}

// OneLine returns a writer to out that keeps each record on one line: as text, klog breaks the line where a value does, and that
// value may come from anybody.
func OneLine(out io.Writer) io.Writer { return oneLine{out} }

type oneLine struct{ out io.Writer }

// Write writes one record, with its control characters, what else breaks lines, and what is no UTF-8 escaped.
func (w oneLine) Write(record []byte) (int, error) {
	var line bytes.Buffer
	for rest := bytes.TrimSuffix(record, []byte("\n")); len(rest) > 0; {
		r, size := utf8.DecodeRune(rest)
		switch {
		case r == '\n':
			line.WriteString(`\n`)
		case r == utf8.RuneError && size == 1, r < ' ', r == 0x7f:
			fmt.Fprintf(&line, `\x%02x`, rest[0])
		case unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp):
			fmt.Fprintf(&line, `\u%04x`, r)
		default:
			line.Write(rest[:size])
		}
		rest = rest[size:]
	}
	line.WriteByte('\n')
	if _, err := w.out.Write(line.Bytes()); err != nil {
		return 0, err
	}
	return len(record), nil
}

// Writer is where an http.Server writes its errors to: each becomes a record of Logger.
type Writer struct{ Logger klog.Logger }

func (w Writer) Write(line []byte) (int, error) {
	w.Logger.Info("Serving", "error", strings.TrimSpace(string(line)))
	return len(line), nil
}
