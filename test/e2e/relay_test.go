package e2e

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// relay passes connections on to the API server, until they are cut or fall silent. See meddled for changing what passes.
type relay struct {
	net.Listener
	mu    sync.Mutex
	conns []net.Conn
	quiet chan struct{} // closed for the connections that there are when it falls silent
	made  int           // connections so far
}

// newRelay returns a relay to the API server. It ends with the test.
func newRelay(t *testing.T) *relay {
	t.Helper()
	server, err := url.Parse(cluster.config.Host)
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{quiet: make(chan struct{})}
	if r.Listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(); r.cut() })
	go func() {
		for {
			client, err := r.Accept()
			if err != nil {
				return
			}
			upstream, err := net.Dial("tcp", server.Host)
			if err != nil {
				client.Close()
				continue
			}
			r.mu.Lock()
			r.conns = append(r.conns, client, upstream)
			r.made++
			quiet := r.quiet
			r.mu.Unlock()
			go pass(upstream, client, quiet)
			go pass(client, upstream, quiet)
		}
	}()
	return r
}

// pass copies until quiet is closed. After that it passes nothing on, not an end either.
func pass(to, from net.Conn, quiet <-chan struct{}) {
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		select {
		case <-quiet:
			return
		default:
		}
		if _, failed := to.Write(buffer[:n]); err != nil || failed != nil {
			to.Close()
			return
		}
	}
}

// silence lets the connections that there are fall silent, without a word to either end. New ones work. It returns how
// many were made so far.
func (r *relay) silence() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	close(r.quiet)
	r.quiet = make(chan struct{})
	return r.made
}

// cut ends the connections that there are, and with them every watch.
func (r *relay) cut() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, conn := range r.conns {
		conn.Close()
	}
	r.conns = nil
}

// through returns a kubeconfig of the administrator that leads to the server by way of a relay.
func through(t *testing.T, r *relay) string {
	t.Helper()
	config, err := clientcmd.LoadFromFile(cluster.kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range config.Clusters {
		c.Server = "https://" + r.Addr().String()
	}
	path := filepath.Join(t.TempDir(), "kubeconfig")
	if err := clientcmd.WriteToFile(*config, path); err != nil {
		t.Fatal(err)
	}
	return path
}

// onlyRead is a connection that fails when it is read, not when it is written to: the proxy would end at once then, with what
// can still be read lost.
type onlyRead struct{ net.Conn }

func (c onlyRead) Write(data []byte) (int, error) {
	_, _ = c.Conn.Write(data)
	return len(data), nil
}

// lastWords is a listener whose connections, when they are closed, let the other side read what was written last: one that is
// closed while something that came is unread is reset, and what was written with it.
type lastWords struct{ net.Listener }

func (l lastWords) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return lastWordsConn{conn.(*net.TCPConn)}, nil
}

type lastWordsConn struct{ *net.TCPConn }

func (c lastWordsConn) Close() error {
	if c.CloseWrite() == nil && c.SetReadDeadline(time.Now().Add(time.Second)) == nil {
		_, _ = io.Copy(io.Discard, c.TCPConn)
	}
	return c.TCPConn.Close()
}

// meddled returns the URL of an API that answers as the cluster's does to its administrator, unless meddle has answered.
// It may also change the request.
func meddled(t *testing.T, meddle func(http.ResponseWriter, *http.Request) (answered bool)) string {
	t.Helper()
	target, err := url.Parse(cluster.config.Host)
	if err != nil {
		t.Fatal(err)
	}
	config := rest.CopyConfig(cluster.config)
	config.NextProtos = []string{"http/1.1"} // What upgrades its connection needs one of its own.
	config.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, address)
		return onlyRead{conn}, err
	}
	transport, err := rest.TransportFor(config)
	if err != nil {
		t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(target)
	proxy.Transport, proxy.FlushInterval = transport, -1
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !meddle(w, r) {
			proxy.ServeHTTP(w, r)
		}
	}))
	server.Listener = lastWords{server.Listener}
	server.Start()
	t.Cleanup(func() { server.CloseClientConnections(); server.Close() })
	return server.URL
}

// meddledConfig returns a kubeconfig of such an API.
func meddledConfig(t *testing.T, meddle func(http.ResponseWriter, *http.Request) (answered bool)) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "kubeconfig")
	if err := writeKubeconfig(path, meddled(t, meddle), ""); err != nil {
		t.Fatal(err)
	}
	return path
}
