package rollout

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"sigs.k8s.io/yaml"
)

// lines returns the lines from first to last, each of so many bytes with its end.
func lines(first, last, bytes int) string {
	var text strings.Builder
	for i := first; i <= last; i++ {
		fmt.Fprintf(&text, "%0*d\n", bytes-1, i)
	}
	return text.String()
}

func TestTail(t *testing.T) {
	for name, row := range map[string]struct{ log, want string }{
		"nothing":                      {"", ""},
		"blank":                        {" \n\t\r\n\u00a0\n", ""},
		"a line":                       {"no DATABASE_URL\n", "no DATABASE_URL"},
		"a line without an end":        {"no DATABASE_URL", "no DATABASE_URL"},
		"Windows":                      {"one\r\ntwo\r\n", "one\ntwo"},
		"blanks at the ends of lines":  {"  one \t\n\ntwo  \n \n\n", "  one\ntwo"},
		"a stack":                      {"panic: x\n\nmain.go:\n\tmain.go:7 +0x1d\n", "panic: x\nmain.go:\n    main.go:7 +0x1d"},
		"20 lines":                     {lines(1, 20, 10), strings.TrimSpace(lines(1, 20, 10))},
		"21 lines":                     {lines(1, 21, 10), strings.TrimSpace(lines(2, 21, 10))},
		"blank lines do not count":     {strings.ReplaceAll(lines(1, 20, 10), "\n", "\n\n"), strings.TrimSpace(lines(1, 20, 10))},
		"2 KiB, with the line's ends":  {lines(1, 8, 256) + "x", strings.TrimSpace(lines(2, 8, 256)) + "\nx"},
		"2 KiB and no byte more":       {lines(1, 8, 256), strings.TrimSpace(lines(1, 8, 256))},
		"a long line before the last":  {strings.Repeat("x", 2048) + "\nlast\n", "last"},
		"a long last line":             {"first\n" + strings.Repeat("x", 2048) + "end\n", "..." + strings.Repeat("x", 2042) + "end"},
		"cut between characters":       {strings.Repeat("\u20ac", 1000), "..." + strings.Repeat("\u20ac", 681)},
		"what is not UTF-8":            {"caf\xe9 \xff\xfe\n", "caf\uFFFD \uFFFD"},
		"UTF-16":                       {"\xff\xfen\x00o\x00\n\x00", "\uFFFDno"},
		"NUL and other controls":       {"a\x00b\x07c\x7f\u0085d\n\x00\x00", "abcd"},
		"a byte order mark":            {"\uFEFFa", "a"},
		"the direction of the text":    {"a\u202eb\u2066c\u2028d", "abcd"},
		"colours":                      {"\x1b[1;31mERROR\x1b[0m no \x1b[38:2::255:0:0mx\x1b[m\n", "ERROR no x"},
		"colours, in 8 bits":           {"\u009b31mERROR\u009bm", "ERROR"},
		"a colour that is cut off":     {"a\x1b[31\nb\x1b[\n", "a\nb"},
		"a cursor that moves":          {"\x1b[2J\x1b[1;1Ha\x1b[?25h\x1b[4 qb", "ab"},
		"a title":                      {"\x1b]0;title\x07a \x1b]2;title\x1b\\b", "a b"},
		"a link":                       {"\x1b]8;;https://x.example\x1b\\here\x1b]8;;\x1b\\", "here"},
		"a title without an end":       {"\x1b]0;title\nb", "0;title\nb"},
		"device controls":              {"\x1bPq#0\x1b\\a\x1b_x\x1b\\b\u0090c\u009cd", "abd"},
		"other sequences":              {"\x1b(Ba\x1b7b\x1b#8c\x1bMd\x1b", "abcd"},
		"no sequence in a sequence":    {"\x1b\x00[31ma", "[31ma"},
		"a progress bar":               {"0 %\r50 %\r100 %\ndone\n", "100 %\ndone"},
		"a progress bar under way":     {"0 %\r50 %\r", "50 %"},
		"a progress bar that is wiped": {"0 %\r50 %\r\x1b[K\r   \r\n", "50 %"},
		"a megabyte of progress":       {strings.Repeat("x\r", 1<<19) + "end", "end"},
		"a megabyte of blanks":         {"a" + strings.Repeat(" ", 1<<20), ""},
		"a megabyte of ESC":            {strings.Repeat("\x1b]", 1<<19) + "ends", "ends"},
		"a megabyte of C1":             {strings.Repeat("\u009d", 1<<19) + "ends", "ends"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := Tail(row.log); got != row.want {
				t.Errorf("got %q, want %q", got, row.want)
			}
			shown, err := yaml.Marshal(row.want)
			if err != nil || strings.Contains(string(shown), `\n`) {
				t.Errorf("as YAML it is not shown line by line, %v:\n%s", err, shown)
			}
		})
	}
}

// A megabyte takes no longer than the end of it.
func TestTail_TakesNoTime(t *testing.T) {
	for name, log := range map[string]string{
		"x":        strings.Repeat("x", 1<<20),
		"newlines": strings.Repeat("\n", 1<<20),
		"returns":  strings.Repeat("\r", 1<<20),
		"ESC":      strings.Repeat("\x1b]x", 1<<20/3),
		"C1":       strings.Repeat("\u009d", 1<<19),
		"invalid":  strings.Repeat("\xff\x00", 1<<19),
	} {
		began := time.Now()
		if Tail(log) != Tail(log[len(log)-LogWindow:]) {
			t.Errorf("%s: what stands before the window changes something", name)
		}
		if took := time.Since(began); took > time.Second {
			t.Errorf("%s: it takes %s", name, took)
		}
	}
}

func FuzzTail(f *testing.F) {
	for _, log := range []string{"", "a\nb\n", lines(1, 30, 200), strings.Repeat("\u20ac", 1000), "\xff\xfea\x00\n", "\x1b[31mx\x1b[0m\r\n",
		"\x1b]0;t\x07\x1b\\\u009b1m\u2028\u202e", "1 %\r2 %\r", "\t\tx\t\n \n"} {
		f.Add(log)
	}
	f.Fuzz(func(t *testing.T, log string) {
		got := Tail(log)
		if len(got) > 2048 || strings.Count(got, "\n") > 19 {
			t.Errorf("%d bytes, %d ends of lines", len(got), strings.Count(got, "\n"))
		}
		if !utf8.ValidString(got) || strings.ContainsFunc(got, func(r rune) bool { return unicode.IsControl(r) && r != '\n' }) {
			t.Errorf("%q is not UTF-8, or has control characters", got)
		}
		for line := range strings.SplitSeq(got, "\n") {
			if got != "" && (line == "" || line != strings.TrimRightFunc(line, unicode.IsSpace)) {
				t.Errorf("%q ends in a blank, or is blank", line)
			}
		}
		if again := Tail(got); again != got {
			t.Errorf("%q becomes %q", got, again)
		}
		var read string
		written, err := json.Marshal(got)
		if err != nil || json.Unmarshal(written, &read) != nil || read != got {
			t.Errorf("as JSON, %q becomes %q, %v", got, read, err)
		}
	})
}
