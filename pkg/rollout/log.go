package rollout

import (
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// LogWindow is of how many bytes at the end of a log Tail makes something: what stands before them changes nothing.
const LogWindow = 32 << 10

// maxLogLines and maxLogBytes bound what is kept of a log.
const maxLogLines, maxLogBytes = 20, 2 << 10

// escapeSequence is what a terminal obeys and does not show (ECMA-48): a control sequence, colours for example, also one that is
// cut off; a string up to its end, which is on the same line, a title or the address of a link for example; any other.
var escapeSequence = regexp.MustCompile(`(?:\x1b\[|\x{9b})[0-?]*[ -/]*[@-~]?` +
	`|(?:\x1b[\]PX^_]|[\x{90}\x{98}\x{9d}-\x{9f}])[^\x07\x1b\x{9c}\r\n]*(?:\x07|\x1b\\|\x{9c})` +
	`|\x1b[ -/]*[0-~]`)

// Tail returns the end of what a program wrote, for a person to read: at most 20 lines and 2 KiB of valid UTF-8, without
// control characters and blank lines. Lines are whole, but for a last one that is longer than that, of which the end is kept. Of a
// line that was written over and over, a progress bar for example, the last state is kept. A tab becomes spaces: as YAML, text with
// a tab is shown on one line.
func Tail(log string) string {
	log = strings.ToValidUTF8(log[max(0, len(log)-LogWindow):], "\uFFFD")
	log = escapeSequence.ReplaceAllString(log, "")
	var kept []string
	for left := maxLogBytes; log != "" && len(kept) < maxLogLines; {
		end := strings.LastIndexByte(log, '\n')
		line := lastState(log[end+1:])
		log = log[:max(0, end)]
		if line == "" {
			continue
		}
		if len(kept) == 0 {
			line = lastOf(line, maxLogBytes)
		}
		if left -= len(line); left < 0 {
			break
		}
		left-- // for the line's end
		kept = append(kept, line)
	}
	slices.Reverse(kept)
	return strings.Join(kept, "\n")
}

// lastState returns what a line shows that carriage returns write over, without what cannot be seen.
func lastState(line string) string {
	for _, state := range slices.Backward(strings.Split(line, "\r")) {
		state = strings.Map(func(r rune) rune {
			if unicode.In(r, unicode.Cc, unicode.Bidi_Control, unicode.Zl, unicode.Zp) || r == '\uFEFF' {
				return -1
			}
			return r
		}, strings.ReplaceAll(state, "\t", "    "))
		if state = strings.TrimRightFunc(state, unicode.IsSpace); state != "" {
			return state
		}
	}
	return ""
}

// lastOf returns the end of a text, in at most limit bytes.
func lastOf(text string, limit int) string {
	if len(text) <= limit {
		return text
	}
	const ellipsis = "..."
	cut := len(text) - limit + len(ellipsis)
	for !utf8.RuneStart(text[cut]) {
		cut++
	}
	return ellipsis + text[cut:]
}
