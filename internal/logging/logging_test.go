package logging_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	logsapi "k8s.io/component-base/logs/api/v1"
	logsjson "k8s.io/component-base/logs/json"
	"k8s.io/klog/v2"
	"k8s.io/klog/v2/textlogger"

	"github.com/belay-dev/belay/internal/expect"
	"github.com/belay-dev/belay/internal/logging"
)

// nasty is what a user, a policy or a registry may make Belay log.
var nasty = []string{
	"two\nlines", "\n", "ends with one\n", "windows\r\nline", "\x1b[2J\x1b[31mred", "nul \x00 bell \a del \x7f", "not \xff\xfe UTF-8 \xc3",
	"next line \u0085, line \u2028 and paragraph \u2029", "C1 \u009b2J", "right to left \u202e", "I1121 12:00:00.000000 1 main.go:1] \"forged\"\nE1121 \"forged\"",
	`{"msg":"forged"}` + "\n" + `{"msg":"forged"}`, `quotes " and \ backslashes`, "tab\there", strings.Repeat("long\n", 20000), "日本語 ünïcödé 🧗",
}

// textRecord is how a record of klog begins.
var textRecord = regexp.MustCompile(`^[IWEF]\d{4} \d\d:\d\d:\d\d\.\d{6} +\d+ [^ ]+:\d+\] `)

// checkText returns what is wrong with a line of the log as text.
func checkText(line string) error {
	if !textRecord.MatchString(line) {
		return errors.New("it does not begin as a record does")
	}
	if !utf8.ValidString(line) {
		return errors.New("it is no UTF-8")
	}
	if i := strings.IndexFunc(line, func(r rune) bool { return unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp) }); i >= 0 {
		return errors.New("it has the control character " + strings.Trim(strings.ToValidUTF8(line[i:min(len(line), i+3)], "?"), " "))
	}
	return nil
}

// checkJSON returns what is wrong with a line of the log as JSON.
func checkJSON(line string) error {
	var record struct {
		Time    *float64 `json:"ts"`
		Message *string  `json:"msg"`
	}
	if err := json.Unmarshal([]byte(line), &record); err != nil {
		return err
	}
	if record.Time == nil || record.Message == nil {
		return errors.New("it has no ts or no msg")
	}
	return nil
}

// checkLog fails the test unless the log has so many lines, 0 for any number, and each is a record.
func checkLog(t *testing.T, log string, lines int, check func(line string) error) {
	t.Helper()
	all := strings.SplitAfter(log, "\n")
	if last := all[len(all)-1]; last != "" {
		t.Errorf("the last line does not end: %.200q", last)
	}
	all = all[:len(all)-1]
	if len(all) != lines && lines > 0 || len(all) == 0 {
		t.Errorf("%d lines, want one for each of %d records", len(all), lines)
	}
	for _, line := range all {
		if err := check(strings.TrimSuffix(line, "\n")); err != nil {
			t.Errorf("%v: %.300q", err, line)
		}
	}
}

// logNasty logs one string in every way there is, and returns in how many records.
func logNasty(logger klog.Logger, s string) int {
	logger.Info(s)
	logger.Info("value", "string", s, "bytes", []byte(s), "struct", struct{ S string }{s}, "map", map[string]string{s: s}, "list", []string{s})
	logger.Error(errors.New(s), "error")
	logger.Error(nil, s, "error", errors.New(s))
	logger.WithName("name").WithValues("before", s).Info("named")
	logger.Info("key", "key "+s, 1)
	_, _ = logging.Writer{Logger: logger}.Write([]byte(s + "\n"))
	return 7
}

// The process under test is this one, started again: it logs, and is looked at from outside.
func TestStart_EveryRecordIsOneLine(t *testing.T) {
	const format = "BELAY_TEST_LOG"
	if os.Getenv(format) != "" {
		config := logging.Flags()
		for name, value := range map[string]string{"logging-format": os.Getenv(format), "v": "2"} {
			expect.NoError(t, flag.Set(name, value))
		}
		expect.NoError(t, logging.Start(config))
		for _, s := range nasty {
			logNasty(klog.FromContext(t.Context()), s)
			klog.Infof("%s", s) // as libraries do
			klog.ErrorS(errors.New(s), s)
		}
		klog.Flush()
		os.Exit(0)
	}
	for name, check := range map[string]func(string) error{logsapi.DefaultLogFormat: checkText, logsapi.JSONLogFormat: checkJSON} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()[:strings.Index(t.Name(), "/")]+"$")
			child.Env = append(os.Environ(), format+"="+name)
			var stdout, stderr bytes.Buffer
			child.Stdout, child.Stderr = &stdout, &stderr
			if err := child.Run(); err != nil || stdout.Len() > 0 {
				t.Fatalf("%v; on standard output %q, and:\n%.2000s", err, stdout.String(), stderr.String())
			}
			records := logNasty(klog.Logger{}, "") + 2
			checkLog(t, stderr.String(), records*len(nasty), check)
		})
	}
}

func FuzzALineOfText(f *testing.F) {
	for _, s := range nasty {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		var log expect.Buffer
		lines := logNasty(textlogger.NewLogger(textlogger.NewConfig(textlogger.Output(logging.OneLine(&log)))), s)
		checkLog(t, log.String(), lines, checkText)
	})
}

func FuzzALineOfJSON(f *testing.F) {
	for _, s := range nasty {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		var log expect.Buffer
		logger, _ := logsjson.NewJSONLogger(2, &log, nil, nil)
		lines := logNasty(logger, s)
		checkLog(t, log.String(), lines, checkJSON)
	})
}

// What is no control character stays as it is: people search for it.
func TestOneLine_StaysReadable(t *testing.T) {
	for record, want := range map[string]string{
		"plain\n":             "plain\n",
		"日本語 ünïcödé 🧗 \" \\": "日本語 ünïcödé 🧗 \" \\\n",
		"a\nb\n":              `a\nb` + "\n",
		"a\x1b[0m\r\n":        `a\x1b[0m\x0d` + "\n",
		"\xff\u2028\u009b":    `\xff\u2028\u009b` + "\n",
		"\ufffd":              "\ufffd\n",
		"":                    "\n",
	} {
		var log bytes.Buffer
		if n, err := logging.OneLine(&log).Write([]byte(record)); err != nil || n != len(record) || log.String() != want {
			t.Errorf("%q became %q (%d, %v), want %q", record, log.String(), n, err, want)
		}
	}
}

func TestFlags_AreThree(t *testing.T) {
	all := flag.CommandLine
	t.Cleanup(func() { flag.CommandLine = all })
	flag.CommandLine = flag.NewFlagSet("", flag.ContinueOnError)
	logging.Flags()
	for _, name := range []string{"logging-format", "v", "vmodule"} {
		if flag.Lookup(name) == nil {
			t.Errorf("there is no --%s", name)
		}
	}
	for _, name := range []string{"log-json-split-stream", "logtostderr", "log-flush-frequency"} {
		if flag.Lookup(name) != nil {
			t.Errorf("there is --%s", name)
		}
	}
}
