package faults

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// page tells what is promised, and what was tried. Whatever stands between two of its marks is written by these tests.
const page = root + "/docs/reliability.md"

// cut returns the page before, between and after the marks of a part.
func cut(t *testing.T, part string) (before, between, after string) {
	t.Helper()
	content, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	begin, end := fmt.Sprintf("<!-- %s: begin -->\n", part), fmt.Sprintf("<!-- %s: end -->\n", part)
	before, rest, begun := strings.Cut(string(content), begin)
	between, after, ended := strings.Cut(rest, end)
	if !begun || !ended {
		t.Fatalf("%s lacks %s or %s", page, begin, end)
	}
	return before + begin, between, end + after
}

func rewrite(t *testing.T, part, between string) {
	t.Helper()
	before, _, after := cut(t, part)
	if err := os.WriteFile(page, []byte(before+between+after), 0o644); err != nil {
		t.Error(err)
	}
}

// fresh makes sure that a part of the page is this, or makes it so if that is asked for.
func fresh(t *testing.T, part, want string) {
	t.Helper()
	if _, got, _ := cut(t, part); *writeFlag {
		rewrite(t, part, want)
	} else if got != want {
		t.Errorf("the part %q of %s is\n%s\nwant\n%s\nwrite it by: go test ./test/faults -write", part, page, got, want)
	}
}

// leastStories is how many stories have to have met their fault for the page to show it.
const leastStories = 1500

// TestPage_Faults makes sure that the table names what is tried, and nothing else, that it was tried often enough, and that its sums are
// right.
func TestPage_Faults(t *testing.T) {
	_, told, _ := cut(t, "faults")
	start := strings.Index(told, "| fault")
	if start < 0 {
		t.Fatal("there is no table")
	}
	f := newFigures()
	all := 0
	for _, row := range regexp.MustCompile("(?m)^\\| `(.+)` +\\| +(\\d+) \\| +(\\d+) \\|$").FindAllStringSubmatch(told, -1) {
		f.tried[row[1]], _ = strconv.Atoi(row[2])
		f.against[row[1]], _ = strconv.Atoi(row[3])
		all += f.tried[row[1]]
		if f.against[row[1]] > 0 {
			t.Errorf("%s: violations of what the page promises", row[1])
		}
	}
	for _, fault := range faults() {
		if !strings.Contains(f.table(), "`"+fault.name+"`") {
			t.Errorf("%s is of none of the kinds", fault.name)
		}
		if f.tried[fault.name] == 0 {
			t.Errorf("%s was never met", fault.name)
		}
	}
	if all < leastStories {
		t.Errorf("%d stories met their fault, want at least %d", all, leastStories)
	}
	if want := f.table(); told[start:] != want {
		t.Errorf("the table is\n%s\nwant\n%s\nwrite it by: hack/faults.sh -stories 0 -write", told[start:], want)
	}
	if want := fmt.Sprintf(": %d stories met their fault,", all); !strings.Contains(told[:start], want) {
		t.Errorf("the words above the table are %q, want in them %q", told[:start], want)
	}
}

// TestPage_Stories makes sure that the page names each story with what has to become of it.
func TestPage_Stories(t *testing.T) {
	want := "| story | versions that the Deployment has, one after the other | what has to fail |\n|---|---|---|\n"
	for _, s := range stories {
		want += fmt.Sprintf("| `%s` | %s | %s |\n", s.name, s.runs, s.fails)
	}
	fresh(t, "stories", want)
}

// TestPage_Mutants makes sure that the page names each way in which Belay is broken on purpose.
func TestPage_Mutants(t *testing.T) {
	patches, err := filepath.Glob("mutants/*.patch")
	if err != nil || len(patches) == 0 {
		t.Fatalf("%d mutants: %v", len(patches), err)
	}
	want := "| mutant | what is broken |\n|---|---|\n"
	for _, patch := range patches {
		content, err := os.ReadFile(patch)
		if err != nil {
			t.Fatal(err)
		}
		what, _, _ := strings.Cut(string(content), "\n")
		want += fmt.Sprintf("| `%s` | %s |\n", strings.TrimSuffix(filepath.Base(patch), ".patch"), what)
	}
	fresh(t, "mutants", want)
}
