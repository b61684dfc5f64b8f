package node

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"testing"
)

// stage says which of the three processes this is: each starts the next. doc.go tells why.
const stage = "BELAY_NODE"

func TestMain(m *testing.M) {
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	var err error
	switch os.Getenv(stage) {
	case "":
		fmt.Println("node: not run, use make test-node (as root)")
		return
	case "first":
		err = first()
	case "inside":
		err = inside(ctx, m)
	default:
		err = outside(ctx)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "node:", err)
		stop()
		os.Exit(1)
	}
}

// say prints a line of progress.
func say(format string, args ...any) {
	fmt.Printf("node: "+format+"\n", args...)
}
