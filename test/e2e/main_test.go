package e2e

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime/pprof"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"
)

var (
	podsFlag     = flag.String("pods", "fake", "what the nodes are: fake (kwok) or real")
	externalFlag = flag.Bool("external", false, "use the belay that runs in the cluster already, and start none")
	buildFlag    = flag.String("build", "", "a further flag for building belay, -race for example")
	toolsFlag    = flag.String("tools", "", "a directory with the tools that people release with; hack/tools.sh builds them")
	fixesFlag    = flag.Int("fixes", 3, "how often kubectl and each of these tools waits for a fix of a Deployment that is guarded in place")
	atRestFlag   = flag.Duration("at-rest", 60*time.Second, "how long an object at rest is watched")
	sweepFlag    = flag.Bool("sweep", false, "try every edge value at every field of the CRD: some minutes")
)

// cleaningTime is how long before the timeout of "go test" the run ends by itself, to leave nothing behind.
const cleaningTime = 30 * time.Second

func TestMain(m *testing.M) {
	flag.Parse()
	if os.Getenv("BELAY_E2E") == "" {
		fmt.Println("e2e: not run, use make test")
		return
	}
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "test.parallel" })
	if !given { // Tests wait most of the time.
		_ = flag.Set("test.parallel", "24")
	}
	if err := setUp(); err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		os.Exit(1)
	}
	go cleanUpWhenInterrupted()
	code := m.Run()
	if err := errors.Join(figures.check(), checkRights(), cleanUp()); err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		code = max(code, 1)
	}
	figures.print()
	os.Exit(code)
}

// cleanUpWhenInterrupted ends the run at Ctrl-C, and before "go test" would end it without asking.
func cleanUpWhenInterrupted() {
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	timeout := make(<-chan time.Time)
	if all := flag.Lookup("test.timeout").Value.(flag.Getter).Get().(time.Duration); all > 2*cleaningTime {
		timeout = time.After(all - cleaningTime)
	}
	select {
	case <-interrupted:
		fmt.Fprintln(os.Stderr, "e2e: interrupted, cleaning up")
	case <-timeout:
		fmt.Fprintln(os.Stderr, "e2e: out of time; this is where the tests are:")
		_ = pprof.Lookup("goroutine").WriteTo(os.Stderr, 1)
	}
	if err := cleanUp(); err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
	}
	os.Exit(1)
}

// leftovers are what has to be undone, whatever happens: processes that run, and some that were stopped.
var leftovers struct {
	sync.Mutex
	undo []*func() error
}

// leave registers how to undo something. It returns how to forget about it.
func leave(undo func() error) (forget func()) {
	leftovers.Lock()
	defer leftovers.Unlock()
	leftovers.undo = append(leftovers.undo, &undo)
	return func() {
		leftovers.Lock()
		defer leftovers.Unlock()
		leftovers.undo = slices.DeleteFunc(leftovers.undo, func(u *func() error) bool { return u == &undo })
	}
}

// cleanUp undoes what is left, the last thing first.
func cleanUp() error {
	leftovers.Lock()
	undo := slices.Clone(leftovers.undo)
	leftovers.Unlock()
	var errs []error
	for _, u := range slices.Backward(undo) {
		errs = append(errs, (*u)())
	}
	return errors.Join(errs...)
}
