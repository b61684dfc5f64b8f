package anatomy

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const page = "../../docs/anatomy.md"

var (
	fenced = regexp.MustCompile("(?ms)^```.*?^```$")
	// inline is a link: its text and where it leads, without and with what comes after #.
	inline  = regexp.MustCompile(`\[((?:[^\[\]]|\[[^\]]*\])+)\]\(([^)\s#]*)(?:#([^)\s]+))?\)`)
	code    = regexp.MustCompile("^`([^`]+)`$")
	heading = regexp.MustCompile(`(?m)^#+ (.*)$`)
	atLine  = regexp.MustCompile(`^L(\d+)$`)
	named   = regexp.MustCompile(`\b(?:Test|Benchmark)[A-Z]\w+`)
	defined = regexp.MustCompile(`(?m)^func ((?:Test|Benchmark)[A-Z]\w+)\(`)
)

// Each link of this page, and of the one on what is promised, leads to something that is there. A link to a line leads to the one
// that has the link's text; a link to a file whose text is code leads to a file that has it.
func TestLinksOfThePage(t *testing.T) {
	t.Parallel()
	for page, least := range map[string]int{page: 50, "../../docs/reliability.md": 20} {
		text := fenced.ReplaceAllString(readFile(t, page), "")
		found := 0
		for _, link := range inline.FindAllStringSubmatch(text, -1) {
			name, target, fragment := link[1], link[2], link[3]
			if strings.Contains(target, "://") {
				continue
			}
			found++
			if err := follow(page, name, target, fragment); err != nil {
				t.Errorf("%s: %s: %v", page, link[0], err)
			}
		}
		if found < least {
			t.Errorf("%s: only %d links were found", page, found)
		}
	}
}

func follow(page, name, target, fragment string) error {
	path := page
	if target != "" {
		path = filepath.Join(filepath.Dir(page), filepath.FromSlash(target))
	}
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if info.IsDir() {
		if fragment != "" {
			return fmt.Errorf("%s is a directory", target)
		}
		return nil
	}
	content, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	wanted := code.FindStringSubmatch(name)
	line := atLine.FindStringSubmatch(fragment)
	switch {
	case line != nil && wanted == nil:
		return fmt.Errorf("the text of a link to a line has to be code that is in the line")
	case line != nil:
		return checkLine(strings.Split(string(content), "\n"), line[1], wanted[1])
	case fragment != "" && !slices.Contains(anchors(string(content)), fragment):
		return fmt.Errorf("%s has no heading #%s", path, fragment)
	case fragment == "" && wanted != nil && strings.HasSuffix(target, ".go") && !strings.Contains(string(content), wanted[1]):
		return fmt.Errorf("%s does not contain it", target)
	}
	return nil
}

// checkLine returns an error that says where the text is, if it is not in that line.
func checkLine(lines []string, number, text string) error {
	n, err := strconv.Atoi(number)
	if err != nil {
		return err
	}
	if n >= 1 && n <= len(lines) && strings.Contains(lines[n-1], text) {
		return nil
	}
	var elsewhere []string
	for i, line := range lines {
		if strings.Contains(line, text) {
			elsewhere = append(elsewhere, fmt.Sprintf("#L%d", i+1))
		}
	}
	if elsewhere == nil {
		return fmt.Errorf("line %d does not contain it, and no other does", n)
	}
	return fmt.Errorf("line %d does not contain it; it is at %s", n, strings.Join(elsewhere, ", "))
}

// anchors are what the headings can be linked by.
func anchors(text string) (all []string) {
	drop := regexp.MustCompile(`[^\p{L}\p{N} _-]`)
	for _, h := range heading.FindAllStringSubmatch(fenced.ReplaceAllString(text, ""), -1) {
		all = append(all, strings.ReplaceAll(strings.ToLower(drop.ReplaceAllString(h[1], "")), " ", "-"))
	}
	return all
}

// What the page rests on exists, and what exists is on the page.
func TestThePageNamesItsProofs(t *testing.T) {
	t.Parallel()
	elsewhere := regexp.MustCompile("\\[`\\w+`\\]\\(\\.\\./(?:internal/\\w+/)?\\w+_test\\.go\\)") // proofs of Belay's own
	onPage := named.FindAllString(elsewhere.ReplaceAllString(readFile(t, page), ""), -1)
	files, err := filepath.Glob("*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	var here []string
	for _, file := range files {
		if file == "page_test.go" || file == "main_test.go" {
			continue
		}
		for _, f := range defined.FindAllStringSubmatch(readFile(t, file), -1) {
			here = append(here, f[1])
			if !slices.Contains(onPage, f[1]) {
				t.Errorf("%s in %s: the page does not name it", f[1], file)
			}
		}
	}
	for _, name := range onPage {
		if !slices.Contains(here, name) {
			t.Errorf("the page names %s, which is not here", name)
		}
	}
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}
