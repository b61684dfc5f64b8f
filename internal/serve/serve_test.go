package serve

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

	"github.com/belay-dev/belay/internal/expect"
)

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
	if err := Serve(ctx, address, encryption, Timeout, hello); err != nil {
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

func TestEncryption_SelfSigned(t *testing.T) {
	config, err := Encryption("", "")
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

func TestEncryption_RenewedCertificate(t *testing.T) {
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
	config, err := Encryption(certFile, keyFile)
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

func TestEncryption_UnreadableCertificate(t *testing.T) {
	_, err := Encryption("/no/such/cert", "/no/such/key")
	expect.Error(t, err, "read the certificate", "/no/such/cert")
}

func TestServe_EndsWithItsContext(t *testing.T) {
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

func TestServe_BadAddress(t *testing.T) {
	taken, _ := serving(t, nil)
	for _, address := range []string{taken, "127.0.0.1:99999"} {
		err := Serve(t.Context(), address, nil, Timeout, http.NotFoundHandler())
		expect.Error(t, err, "serve on "+address, "give another address")
	}
}

func TestIsLoopback(t *testing.T) {
	for address, asks := range map[string]bool{"": false, "127.0.0.1:8080": false, "localhost:8080": false, "[::1]:8080": false, "127.8.8.8:1": false,
		":8443": true, "0.0.0.0:8443": true, "[::]:8443": true, "10.0.0.7:8443": true, "example.com:8443": true} {
		if loopback, err := IsLoopback(address); (err == nil && !loopback) != asks {
			t.Errorf("%q: others reach it: %t, want %t", address, !asks, asks)
		}
	}
}

func TestMetrics_Profiles(t *testing.T) {
	registry := metrics.NewKubeRegistry()
	for path, want := range map[string]int{"/debug/pprof/": 200, "/debug/pprof/goroutine": 200, "/debug/pprof/heap": 200, "/metrics": 200, "/": 404} {
		expect.Answer(t, Metrics(registry, true), path, "", want, "")
		if path != "/metrics" {
			want = 404
		}
		expect.Answer(t, Metrics(registry, false), path, "", want, "")
	}
}

func TestMetrics_OnlyGet(t *testing.T) {
	recorder := httptest.NewRecorder()
	Metrics(metrics.NewKubeRegistry(), false).ServeHTTP(recorder, httptest.NewRequest(http.MethodPost, "/metrics", nil))
	if recorder.Code != http.StatusMethodNotAllowed {
		t.Errorf("%d, want 405", recorder.Code)
	}
}

func TestServe_NoIdleConnections(t *testing.T) {
	address := freeAddress(t)
	expect.NoError(t, Serve(t.Context(), address, nil, Timeout, &Health{}))
	connection, err := net.Dial("tcp", address)
	expect.NoError(t, err)
	defer connection.Close()
	expect.NoError(t, connection.SetDeadline(time.Now().Add(5*time.Second)))
	_, err = io.WriteString(connection, "GET /livez HTTP/1.1\r\nHost: belay\r\n\r\n")
	expect.NoError(t, err)
	answer, err := io.ReadAll(connection)
	if err != nil || !strings.Contains(string(answer), "200 OK") {
		t.Errorf("read %q, then %v: want an answer, and the end of the connection", answer, err)
	}
}
