package node

import (
	"fmt"
	"net"
	"net/http"
)

// emptyRegistry has no image and says so. Who does not answer at all is waited for: nothing is known of its images then.
const emptyRegistry = "localhost:5000"

func startEmptyRegistry() error {
	listener, err := net.Listen("tcp", "127.0.0.1:5000")
	if err != nil {
		return err
	}
	go func() {
		_ = http.Serve(listener, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusNotFound)
			fmt.Fprintln(w, `{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}`)
		}))
	}()
	return nil
}
