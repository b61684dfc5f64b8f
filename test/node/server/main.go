// Command server is the service of the story: it answers with its version, and fails as its flags say.
package main

import (
	"context"
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
	"time"
)

func main() {
	version := flag.String("version", "", "what it answers")
	exit := flag.Int("exit", 0, "exit with this code at once, unless it is 0")
	sicken := flag.String("sicken", "", "stop being ready when this file is there; of several servers only the one that removes it")
	drain := flag.Duration("drain", 5*time.Second, "how long it goes on answering after SIGTERM, not ready: the time that clients need to turn elsewhere")
	flag.Parse()
	if *exit != 0 {
		fmt.Fprintf(os.Stderr, "version %s cannot start: it was told to exit with %d\n", *version, *exit)
		os.Exit(*exit)
	}

	stop, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer cancel()
	var sick atomic.Bool
	http.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, *version) })
	http.HandleFunc("/readyz", func(w http.ResponseWriter, _ *http.Request) {
		if *sicken != "" && os.Remove(*sicken) == nil {
			sick.Store(true)
		}
		if sick.Load() || stop.Err() != nil {
			http.Error(w, "not ready", http.StatusServiceUnavailable)
		}
	})
	if err := serve(stop, *drain); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
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
