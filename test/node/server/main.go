// Command server is the service of the story: it answers with its version, and fails as its flags say. With "cat", "exit"
// or "wait" it is a command to be run in a container, as its image has no other.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"
)

// eaten is kept until the end.
var eaten [][]byte

func main() {
	version := flag.String("version", "", "what it answers")
	exit := flag.Int("exit", 0, "exit with this code at once, unless it is 0")
	sicken := flag.String("sicken", "", "stop being ready when this file is there; of several servers only the one that removes it")
	warm := flag.Duration("warm", 0, "how long it is not ready after its start")
	fill := flag.Int("fill", 0, "how many MiB it writes into its file system")
	eat := flag.Int("eat", 0, "how many MiB of memory it takes")
	after := flag.Int("after", 0, "exit with this code after SIGTERM")
	drain := flag.Duration("drain", 5*time.Second, "how long it goes on answering after SIGTERM, not ready: the time that clients need to turn elsewhere")
	flag.Parse()
	if flag.NArg() > 0 {
		os.Exit(command(flag.Args()))
	}
	if *exit != 0 {
		fmt.Fprintf(os.Stderr, "version %s cannot start: it was told to exit with %d\n", *version, *exit)
		os.Exit(*exit)
	}

	if err := os.WriteFile("/filled", make([]byte, *fill<<20), 0o644); *fill > 0 && err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}

	for range *eat {
		block := make([]byte, 1<<20)
		for i := range block {
			block[i] = byte(i)
		}
		eaten = append(eaten, block)
	}

	start := time.Now()
	stop, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer cancel()
	var sick atomic.Bool
	http.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, *version) })
	http.HandleFunc("/readyz", func(w http.ResponseWriter, _ *http.Request) {
		if *sicken != "" && os.Remove(*sicken) == nil {
			sick.Store(true)
		}
		if sick.Load() || stop.Err() != nil || time.Since(start) < *warm {
			http.Error(w, "not ready", http.StatusServiceUnavailable)
		}
	})
	if err := serve(stop, *drain); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(*after)
}

// command does one of the small things, and returns its exit code.
func command(args []string) int {
	switch args[0] {
	case "cat":
		if _, err := io.Copy(os.Stdout, os.Stdin); err != nil {
			return 1
		}
		return 0
	case "exit":
		code, _ := strconv.Atoi(args[1])
		fmt.Println("on standard output")
		fmt.Fprintln(os.Stderr, "on standard error")
		if len(args) > 2 {
			delay, _ := time.ParseDuration(args[2])
			time.Sleep(delay)
		}
		return code
	case "wait":
		fmt.Println("waiting")
		time.Sleep(time.Hour)
	}
	return 2
}

// serve answers until stop is done, and for the time of drain after that. What is being answered then is finished.
func serve(stop context.Context, drain time.Duration) error {
	server := &http.Server{Addr: ":8080", ReadHeaderTimeout: 5 * time.Second}
	failed := make(chan error, 1)
	go func() { failed <- server.ListenAndServe() }()
	select {
	case err := <-failed:
		return err
	case <-stop.Done():
		time.Sleep(drain)
	}
	end, cancel := context.WithTimeout(context.Background(), drain)
	defer cancel()
	return server.Shutdown(end)
}
