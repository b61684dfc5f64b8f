package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/go/packages"
)

const till = "./testdata/till"

// mutantsOfTill are all mutants of testdata/till, with what is told of those that survive or do not end.
var mutantsOfTill = []struct{ mutant, told string }{
	{"11: early return in Price: Price", ""},
	{"12: negation in Price: count < 1 || each < 0", ""},
	{"12: && for || in Price: count < 1 || each < 0", "survives 1 tests"},
	{"12: boundary in Price: count < 1", ""},
	{"12: off by one in Price: 1", ""},
	{"12: boundary in Price: each < 0", "survives 1 tests"},
	{"12: off by one in Price: 0", "survives 1 tests"},
	{"15: negation in Price: member && count >= dozen", ""},
	{"15: arithmetic in Price: count * each", ""},
	{"15: && for || in Price: member && count >= dozen", ""},
	{"15: boundary in Price: count >= dozen", ""},
	{"15: off by one in Price: dozen", ""},
	{"16: removal in Price: price -= each", ""},
	{"22: early return in Coins: Coins", ""},
	{"23: off by one in Coins: 0", ""},
	{"24: negation in Coins: change > 0", ""},
	{"24: boundary in Coins: change > 0", ""},
	{"24: off by one in Coins: 0", "survives 1 tests"},
	{"25: removal in Coins: change -= coin", "is found: tests did not end"},
	{"26: removal in Coins: coins++", ""},
	{"32: early return in Open: Open", ""},
	{"32: off by one in Open: 2", "survives 1 tests"},
	{"35: early return in Next: Next", "survives 0 tests"},
	{"35: arithmetic in Next: seconds + 1", "survives 0 tests"},
}

func TestMutantsOf(t *testing.T) {
	pkgs, err := packages.Load(&packages.Config{Mode: packages.LoadSyntax}, till)
	if err != nil {
		t.Fatal(err)
	}
	mutants, err := mutantsOf(pkgs[0], []string{"till.go"})
	if err != nil {
		t.Fatal(err)
	}
	var got, want []string
	for _, m := range mutants {
		got = append(got, withoutPath(m.String()))
	}
	for _, m := range mutantsOfTill {
		want = append(want, m.mutant)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// What is chosen stays in order: what encloses another is put into the source before it.
func TestChoose(t *testing.T) {
	var all []mutant
	for line := range 100 {
		all = append(all, mutant{line: line})
	}
	lines := func(seed uint64) (lines []int) {
		for _, m := range choose(all, 20, seed) {
			lines = append(lines, m.line)
		}
		return lines
	}
	if got := lines(1); len(got) != 20 || !slices.IsSorted(got) || !slices.Equal(got, lines(1)) || slices.Equal(got, lines(2)) {
		t.Errorf("got %v, then %v, and %v with another seed", got, lines(1), lines(2))
	}
}

func TestRun(t *testing.T) {
	emptyScratch(t)
	var out bytes.Buffer
	err := run(t.Context(), &out, options{limit: time.Second, least: 71}, till)
	if want := "70.8 % of the mutants were found, and -least is 71"; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got error %v, want %q in it", err, want)
	}
	if want := ": found 17 of 24 (70.8 %), 1 of them by tests that did not end\n"; !strings.Contains(out.String(), want) {
		t.Errorf("got\n%s, want %q in it", &out, want)
	}
	var got, want []string
	for line := range strings.Lines(out.String()) {
		if strings.Contains(line, "till.go:") {
			got = append(got, withoutPath(strings.TrimSpace(line)))
		}
	}
	for _, m := range mutantsOfTill {
		if m.told != "" {
			want = append(want, m.mutant+" "+m.told)
		}
	}
	slices.Sort(got) // They are told of as they are found.
	slices.Sort(want)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func withoutPath(told string) string {
	_, told, _ = strings.Cut(told, "till.go:")
	return told
}

func TestRun_Mistakes(t *testing.T) {
	for name, test := range map[string]struct {
		options options
		pattern string
		want    string
	}{
		"no such file":    {options{files: []string{"money.go"}}, till, "there is nothing to change"},
		"no such package": {options{}, till + "s", "directory not found"},
	} {
		t.Run(name, func(t *testing.T) {
			if err := run(t.Context(), &bytes.Buffer{}, test.options, test.pattern); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got error %v, want %q in it", err, test.want)
			}
		})
	}
}

// Whoever interrupts it waits for no test, and finds nothing left behind.
func TestRun_Interrupted(t *testing.T) {
	emptyScratch(t)
	ctx, interrupt := context.WithCancel(t.Context())
	out := writer(func(told string) {
		if strings.Contains(told, "24: off by one in Coins: 0") { // Next is the one with which tests do not end.
			interrupt()
		}
	})
	if err := run(ctx, out, options{limit: time.Hour}, till); !errors.Is(err, context.Canceled) {
		t.Errorf("got error %v, want that it was cancelled", err)
	}
}

type writer func(told string)

func (w writer) Write(told []byte) (int, error) {
	w(string(told))
	return len(told), nil
}

// emptyScratch has temporary folders made in one that has to be empty when the test ends.
func emptyScratch(t *testing.T) {
	scratch := t.TempDir()
	t.Setenv("TMPDIR", scratch)
	t.Cleanup(func() {
		if left, err := os.ReadDir(scratch); err != nil || len(left) > 0 {
			t.Errorf("got %v and error %v, want nothing left", left, err)
		}
	})
}
