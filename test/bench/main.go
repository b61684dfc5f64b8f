// Command bench measures how fast Belay is, how small, and how both grow, on the embedded cluster.
//
//	make bench                                        # small, under five minutes
//	go run ./test/bench -objects 1000 -memory 1000,5000,10000 -rest 2m
//	go run ./test/bench -only memory                  # some of it
//	make bench-compare                                # measure again, and compare with what is committed
//
// Every time is compared with the same work done without Belay, in the same run: machines differ, and the same machine
// differs from hour to hour. The files, in the order in which they are used: cluster.go, load.go, then one for each part
// of the table, then results.go and chart.go.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// sizes say how much is measured.
type sizes struct {
	Objects  int   `json:"objects"`  // in bursts and waves
	Replicas int32 `json:"replicas"` // of each of them
	Moving   int   `json:"moving"`   // objects that fail at once where the time to detection is measured
	Memory   []int `json:"memory"`   // numbers of objects at which memory is measured
	// Revisions is how many ReplicaSets each Deployment has where memory is measured in place.
	Revisions int           `json:"revisions"`
	Rest      time.Duration `json:"rest"` // how long objects at rest are watched
	Soak      time.Duration `json:"soak"` // of the releases in the soak wave
	// ControllerQPS is how many requests each controller of kube-controller-manager makes in a second.
	ControllerQPS int `json:"controllerQPS"`
}

// part is one part of the benchmark.
type part struct {
	name string
	run  func(context.Context, *bench) error
}

// parts are in the order in which they run: the later ones find what the earlier ones left.
var parts = []part{
	{"requests", measureRequests},
	{"detection", measureDetection},
	{"burst", measureBurst},
	{"alone", measureAlone},
	{"waves", measureWaves},
	{"soak", measureSoak},
	{"memory", measureMemory},
	{"inplace", measureInPlace},
	{"inplace-memory", measureInPlaceMemory},
}

func main() {
	var s sizes
	flag.IntVar(&s.Objects, "objects", 100, "how many objects are created, released and failed at once")
	replicas := flag.Int("replicas", 1, "how many pods each has")
	flag.IntVar(&s.Moving, "moving", 40, "how many objects fail at once where the time from evidence to rollback is measured")
	memory := flag.String("memory", "1000", "numbers of objects at which memory is measured, growing")
	flag.IntVar(&s.Revisions, "revisions", mostRevisions, "how many ReplicaSets each Deployment has where memory is measured in place; to create them takes longest")
	flag.DurationVar(&s.Rest, "rest", 10*time.Second, "how long objects at rest are watched")
	flag.DurationVar(&s.Soak, "soak", 30*time.Second, "the soak of the releases in the soak wave, in whole seconds")
	flag.IntVar(&s.ControllerQPS, "controller-qps", 200, "how many requests each controller of kube-controller-manager makes in a second; most clusters have Kubernetes' default, 20")
	only := flag.String("only", "", "parts to run, of "+names(parts)+"; default: all")
	out := flag.String("out", "bench/results.json", "where the results go; charts go beside it")
	profiles := flag.String("profiles", "", "a directory for heap and CPU profiles of Belay; default: none are taken")
	compare := flag.String("compare", "", "results to compare with; -out is not written then")
	flag.Parse()
	s.Replicas = int32(*replicas)

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := s.read(*memory)
	if err == nil {
		err = run(ctx, s, strings.FieldsFunc(*only, func(r rune) bool { return r == ',' }), *out, *compare, *profiles)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func (s *sizes) read(memory string) error {
	for _, field := range strings.Split(memory, ",") {
		size, err := strconv.Atoi(field)
		if err != nil || size < 1 || (len(s.Memory) > 0 && size <= s.Memory[len(s.Memory)-1]) {
			return fmt.Errorf("-memory is %q; it must be growing numbers, as in 1000,5000", memory)
		}
		s.Memory = append(s.Memory, size)
	}
	if s.Objects < 1 || s.Moving < 1 || s.Replicas < 1 || s.ControllerQPS < 1 {
		return errors.New("-objects, -moving, -replicas and -controller-qps must be at least 1")
	}
	if s.Revisions < 1 || s.Revisions > mostRevisions {
		return fmt.Errorf("-revisions must be from 1 to %d: Kubernetes keeps no more", mostRevisions)
	}
	return nil
}

func run(ctx context.Context, s sizes, only []string, out, compare, profiles string) (err error) {
	for _, name := range only {
		if !slices.ContainsFunc(parts, func(p part) bool { return p.name == name }) {
			return fmt.Errorf("-only: there is no %q, there are %s", name, names(parts))
		}
	}
	var committed *results
	if compare != "" {
		if committed, err = readResults(compare); err != nil {
			return err
		}
	}
	b, err := newBench(ctx, s, profiles)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	for _, p := range parts {
		if len(only) > 0 && !slices.Contains(only, p.name) {
			continue
		}
		began := time.Now()
		fmt.Printf("%s ...\n", p.name)
		if err := p.run(ctx, b); err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
		fmt.Printf("%s took %s\n", p.name, time.Since(began).Round(time.Second))
	}
	if committed != nil {
		return b.results.compare(os.Stdout, committed)
	}
	if err := b.results.print(os.Stdout); err != nil {
		return err
	}
	return b.results.write(out)
}

func names(parts []part) string {
	var all []string
	for _, p := range parts {
		all = append(all, p.name)
	}
	return strings.Join(all, ", ")
}
