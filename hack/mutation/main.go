// Command mutation measures what the tests of a package notice: it changes the source in many small ways, runs the tests with one
// change at a time, and tells of each change with which all of them pass.
//
//	make mutation
//	go run ./hack/mutation -files writes.go ./internal/guard
//	go run ./hack/mutation -sample 50 -seed 7 ./pkg/rollout
//
// All changes, called mutants, are put into the source at once, each beside what it replaces, and compiled into one test binary; an
// environment variable says which one takes effect. First, each test runs alone and without any, to see that it passes, what it
// reaches and how long it takes. Then, for each mutant, the tests that reach it run, the quickest first, until one fails. A mutant
// with which they do not come to an end is found as well, and told of. What is written goes into a temporary folder.
//
// The files, in the order in which they are used: mutants.go says what is changed, instrument.go puts it into the source, run.go runs
// the tests.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/tools/go/packages"
)

type options struct {
	files  []string       // the names of those that are changed, none for all
	sample int            // how many mutants are tried, 0 for all
	seed   uint64         // what their choice follows from
	skip   *regexp.Regexp // the tests that do not run, nil for none
	limit  time.Duration  // the CPU time that tests may take with a mutant, beside ten times what they take without
	least  float64        // the percentage of mutants that has to be found
}

func main() {
	var o options
	files := flag.String("files", "", "the files that are changed, with commas between; default: all of the package")
	flag.IntVar(&o.sample, "sample", 0, "how many mutants are tried, chosen at random; 0 for all")
	flag.Uint64Var(&o.seed, "seed", 0, "what the choice follows from; 0 for another one each time")
	flag.Func("skip", "the tests that do not run, a regular expression", func(text string) (err error) {
		o.skip, err = regexp.Compile(text)
		return err
	})
	flag.DurationVar(&o.limit, "limit", 30*time.Second, "the CPU time that tests may take with a mutant, beside ten times what they take without")
	flag.Float64Var(&o.least, "least", 90, "the percentage of mutants that has to be found")
	flag.Parse()
	o.files = strings.FieldsFunc(*files, func(r rune) bool { return r == ',' })
	o.seed = cmp.Or(o.seed, rand.Uint64N(1_000_000))

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Stdout, o, flag.Args()...); err != nil {
		fmt.Fprintln(os.Stderr, "hack/mutation:", err)
		os.Exit(1)
	}
}

// run measures each package, also after one of which too few mutants were found.
func run(ctx context.Context, out io.Writer, o options, patterns ...string) error {
	scratch, err := os.MkdirTemp("", "mutation-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(scratch)
	pkgs, err := packages.Load(&packages.Config{Context: ctx, Mode: packages.LoadSyntax}, patterns...)
	if err != nil {
		return err
	}
	var failed []error
	for i, pkg := range pkgs {
		dir := filepath.Join(scratch, strconv.Itoa(i))
		err := measure(ctx, log.New(out, "", 0), pkg, dir, o)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			failed = append(failed, fmt.Errorf("%s: %w", pkg.PkgPath, err))
		}
	}
	return errors.Join(failed...)
}

// measure tries mutants of the package, and returns an error if too few were found.
func measure(ctx context.Context, out *log.Logger, pkg *packages.Package, dir string, o options) error {
	if len(pkg.Errors) > 0 {
		return pkg.Errors[0]
	}
	all, err := mutantsOf(pkg, o.files)
	if err != nil {
		return err
	}
	mutants := choose(all, o.sample, o.seed)
	if len(mutants) == 0 {
		return errors.New("there is nothing to change")
	}
	out.Printf("%s: %d mutants of %d (-seed %d)", pkg.PkgPath, len(mutants), len(all), o.seed)
	s, err := build(ctx, pkg, mutants, dir, o.limit)
	if err != nil {
		return err
	}
	tests, err := s.baseline(ctx, o.skip)
	if err != nil {
		return err
	}
	out.Printf("%s: %d tests, which pass without any", pkg.PkgPath, len(tests))
	counts, err := tryAll(ctx, out, s, mutants, tests)
	if err != nil {
		return err
	}
	found := len(mutants) - counts[survived]
	score := 100 * float64(found) / float64(len(mutants))
	out.Printf("%s: found %d of %d (%.1f %%), %d of them by tests that did not end\n\n", pkg.PkgPath, found, len(mutants), score, counts[endless])
	if score < o.least {
		return fmt.Errorf("%.1f %% of the mutants were found, and -least is %v", score, o.least)
	}
	return nil
}

// choose returns as many of the mutants, in their order.
func choose(all []mutant, sample int, seed uint64) []mutant {
	if sample == 0 || sample >= len(all) {
		return all
	}
	chosen := rand.New(rand.NewPCG(seed, 0)).Perm(len(all))[:sample]
	slices.Sort(chosen)
	var mutants []mutant
	for _, i := range chosen {
		mutants = append(mutants, all[i])
	}
	return mutants
}

// tryAll tells of each mutant that survives or does not let the tests end, and counts how the mutants fared.
func tryAll(ctx context.Context, out *log.Logger, s *suite, mutants []mutant, tests []*test) (map[outcome]int, error) {
	outcomes := make([]outcome, len(mutants))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(runtime.GOMAXPROCS(0))
	for i, m := range mutants {
		group.Go(func() (err error) {
			number := i + 1
			reaching := slices.DeleteFunc(slices.Clone(tests), func(t *test) bool { return !t.reaches[number] })
			outcomes[i], err = s.try(ctx, number, reaching)
			switch {
			case err != nil:
			case outcomes[i] == survived:
				out.Printf("%s survives %d tests", m, len(reaching))
			case outcomes[i] == endless:
				out.Printf("%s is found: tests did not end", m)
			}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	counts := map[outcome]int{}
	for _, o := range outcomes {
		counts[o]++
	}
	return counts, nil
}
