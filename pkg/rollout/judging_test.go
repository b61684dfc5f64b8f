package rollout

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// Each rule of docs/judging.md names tests that there are, and each case of a real cluster is named there.
func TestCases_AreDocumented(t *testing.T) {
	var names []string
	for _, c := range cases {
		names = append(names, c.name)
	}
	documented := documentedTests(t, "../../docs/judging.md", "| what comes of it | rule | test |\n|---|---|---|\n")
	for _, name := range names {
		if !slices.Contains(documented, name) {
			t.Errorf("docs/judging.md does not name the case %q", name)
		}
	}
	names = append(names, judgeTests(t)...)
	for _, name := range documented {
		if !slices.Contains(names, name) {
			t.Errorf("docs/judging.md names %q, which is no case, no row of TestJudge and no test", name)
		}
	}
}

// Each reason and each cause is in one row of docs/failures.md, and the tests that a cause names are there.
func TestFailures_AreDocumented(t *testing.T) {
	const path, head = "../../docs/failures.md", "| cause | means | see more | mend | test |\n|---|---|---|---|---|\n"
	page := readFile(t, path)
	for _, name := range slices.Concat(v1alpha1.FailureReasons, v1alpha1.Causes) {
		if rows := strings.Count(page, "\n| `"+name+"` | "); rows != 1 {
			t.Errorf("docs/failures.md has %d rows for %s", rows, name)
		}
	}
	names := judgeTests(t)
	for _, c := range cases {
		names = append(names, c.name)
	}
	for _, name := range documentedTests(t, path, head) {
		if !slices.Contains(names, name) {
			t.Errorf("docs/failures.md names %q, which is no case, no row of a table and no test", name)
		}
	}
}

// documentedTests returns what stands in the last column of the table of a page that begins with head, which no row leaves empty.
func documentedTests(t *testing.T, path, head string) (names []string) {
	_, table, found := strings.Cut(readFile(t, path), "\n"+head)
	if !found {
		t.Fatalf("%s has no table that begins with %s", path, head)
	}
	table, _, _ = strings.Cut(table, "\n\n")
	for row := range strings.Lines(table) {
		cells := strings.Split(strings.Trim(row, "|\n "), "|")
		found := regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(cells[len(cells)-1], -1)
		if len(found) == 0 && !strings.HasPrefix(row, "| **") {
			t.Errorf("no test proves the rule %s", row)
		}
		for _, name := range found {
			names = append(names, name[1])
		}
	}
	return names
}

// judgeTests returns the names of the rows of TestJudge and of the tests of causes, and those of the package's tests.
func judgeTests(t *testing.T) (names []string) {
	rows := regexp.MustCompile(`(?m)^\t\t\{"([^"]+)", `).FindAllStringSubmatch(readFile(t, "judge_test.go")+readFile(t, "cause_test.go"), -1)
	files, err := filepath.Glob("*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		rows = append(rows, regexp.MustCompile(`(?m)^func (Test\w+)\(`).FindAllStringSubmatch(readFile(t, file), -1)...)
	}
	for _, row := range rows {
		names = append(names, row[1])
	}
	return names
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}
