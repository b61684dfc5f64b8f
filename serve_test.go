package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/util/cert"
	"k8s.io/component-base/metrics"
)

// answerOf returns what a handler answers to GET path.
func answerOf(handler http.Handler, path, token string) (code int, body string) {
	r := httptest.NewRequest(http.MethodGet, path, nil)
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	recorder := httptest.NewRecorder()
	handler.ServeHTTP(recorder, r)
	return recorder.Code, strings.TrimSpace(recorder.Body.String())
}

func wantAnswer(t *testing.T, handler http.Handler, path, token string, want int, says string) {
	t.Helper()
	if code, body := answerOf(handler, path, token); code != want || !strings.Contains(body, says) {
		t.Errorf("%s: %d %q, want %d and %q in it", path, code, body, want, says)
	}
}

// freeAddress returns an address of this machine on which nobody listens.
func freeAddress(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

// serving serves "hello" with the encryption, and returns where.
func serving(t *testing.T, encryption *tls.Config) (address string, end context.CancelFunc) {
	t.Helper()
	ctx, end := context.WithCancel(t.Context())
	t.Cleanup(end)
	address = freeAddress(t)
	hello := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "hello") })
	if err := serve(ctx, address, encryption, serveTimeout, hello); err != nil {
		t.Fatal(err)
	}
	return address, end
}

// shown asks over a new connection, and returns for whom the certificate is that is shown.
func shown(address string) (string, error) {
	client := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	response, err := client.Get("https://" + address)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	if body, err := io.ReadAll(response.Body); err != nil || string(body) != "hello" {
		return "", fmt.Errorf("answer %q, %v", body, err)
	}
	return response.TLS.PeerCertificates[0].DNSNames[0], nil
}

func TestACertificateIsMadeIfNoneIsGiven(t *testing.T) {
	config, err := encryption("", "")
	if err != nil {
		t.Fatal(err)
	}
	address, _ := serving(t, config)
	if name, err := shown(address); err != nil || name != "localhost" {
		t.Errorf("certificate for %q, %v", name, err)
	}
	if response, err := http.Get("http://" + address); err == nil {
		response.Body.Close()
		if response.StatusCode == 200 {
			t.Error("it is served without encryption, too")
		}
	}
}

func TestARenewedCertificateIsShownWithoutARestart(t *testing.T) {
	certFile, keyFile := filepath.Join(t.TempDir(), "tls.crt"), filepath.Join(t.TempDir(), "tls.key")
	write := func(name string) {
		t.Helper()
		certPEM, keyPEM, err := cert.GenerateSelfSignedCertKey(name, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		for file, data := range map[string][]byte{certFile: certPEM, keyFile: keyPEM} {
			if err := os.WriteFile(file, data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	write("first")
	config, err := encryption(certFile, keyFile)
	if err != nil {
		t.Fatal(err)
	}
	address, _ := serving(t, config)
	if name, err := shown(address); err != nil || name != "first" {
		t.Errorf("certificate for %q, %v, want the first", name, err)
	}
	if err := os.WriteFile(keyFile, []byte("half writ"), 0o600); err != nil {
		t.Fatal(err)
	}
	if name, err := shown(address); err == nil {
		t.Errorf("certificate for %q, though its key cannot be read", name)
	}
	write("second")
	if name, err := shown(address); err != nil || name != "second" {
		t.Errorf("certificate for %q, %v, want the second", name, err)
	}
}

func TestACertificateThatCannotBeReadIsSaidAtStart(t *testing.T) {
	_, err := encryption("/no/such/cert", "/no/such/key")
	wantError(t, err, "read the certificate", "/no/such/cert")
}

func TestServingEndsWithItsContext(t *testing.T) {
	address, end := serving(t, nil)
	end()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		connection, err := net.Dial("tcp", address)
		if err != nil {
			return
		}
		connection.Close()
		if time.Now().After(deadline) {
			t.Fatal("it is served 10 s later still")
		}
	}
}

func TestAnAddressThatCannotBeServedOnIsOneClearLine(t *testing.T) {
	taken, _ := serving(t, nil)
	for _, address := range []string{taken, "127.0.0.1:99999"} {
		err := serve(t.Context(), address, nil, serveTimeout, http.NotFoundHandler())
		wantError(t, err, "serve on "+address, "give another address")
	}
	for _, address := range []string{"8080", "::1:8080:", "localhost"} {
		for flag, o := range map[string]options{"--health-address": {workers: 1, healthAddress: address}, "--metrics-address": {workers: 1, metricsAddress: address}} {
			args(t)
			wantError(t, o.check(), flag, address, "host:port")
		}
	}
}

func TestOnlyALoopbackAddressIsServedWithoutAsking(t *testing.T) {
	for address, asks := range map[string]bool{"": false, "127.0.0.1:8080": false, "localhost:8080": false, "[::1]:8080": false, "127.8.8.8:1": false,
		":8443": true, "0.0.0.0:8443": true, "[::]:8443": true, "10.0.0.7:8443": true, "example.com:8443": true} {
		if o := (options{metricsAddress: address}); o.asksWhoScrapes() != asks {
			t.Errorf("%q: asks who scrapes: %t, want %t", address, !asks, asks)
		}
	}
}

func TestProfilesAreServedOnlyIfAskedFor(t *testing.T) {
	registry := metrics.NewKubeRegistry()
	for path, want := range map[string]int{"/debug/pprof/": 200, "/debug/pprof/goroutine": 200, "/debug/pprof/heap": 200, "/metrics": 200, "/": 404} {
		wantAnswer(t, metricsHandler(registry, true), path, "", want, "")
		if path != "/metrics" {
			want = 404
		}
		wantAnswer(t, metricsHandler(registry, false), path, "", want, "")
	}
}

func TestMetricsCanOnlyBeGotten(t *testing.T) {
	recorder := httptest.NewRecorder()
	metricsHandler(metrics.NewKubeRegistry(), false).ServeHTTP(recorder, httptest.NewRequest(http.MethodPost, "/metrics", nil))
	if recorder.Code != http.StatusMethodNotAllowed {
		t.Errorf("%d, want 405", recorder.Code)
	}
}

func TestWhoHasGotAnAnswerHoldsNoConnection(t *testing.T) {
	address := freeAddress(t)
	must(serve(t.Context(), address, nil, serveTimeout, &health{}))
	connection, err := net.Dial("tcp", address)
	must(err)
	defer connection.Close()
	must(connection.SetDeadline(time.Now().Add(5 * time.Second)))
	_, err = io.WriteString(connection, "GET /livez HTTP/1.1\r\nHost: belay\r\n\r\n")
	must(err)
	answer, err := io.ReadAll(connection)
	if err != nil || !strings.Contains(string(answer), "200 OK") {
		t.Errorf("read %q, then %v: want an answer, and the end of the connection", answer, err)
	}
}
