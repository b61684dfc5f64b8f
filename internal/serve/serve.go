// Package serve answers over HTTP: health, and metrics to whom the API server allows them.
package serve

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"net/http/pprof"
	"strings"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/util/cert"
	"k8s.io/component-base/metrics"
	"k8s.io/klog/v2"

	"github.com/belay-dev/belay/internal/logging"
)

const (
	// scrapes is how many requests to the metrics are answered at the same time: for each, the API server is asked who sent it.
	scrapes = 4
	// askTimeout bounds the wait for a turn and the questions to the API server: it leaves time for the answer.
	askTimeout = 10 * time.Second
	// Timeout bounds an answer; a profile takes longer.
	Timeout, ProfileTimeout = 15 * time.Second, 2 * time.Minute
)

// Serve answers requests to address until ctx is done, each within timeout. It listens already when it returns. Without
// encryption it speaks plain HTTP.
func Serve(ctx context.Context, address string, encryption *tls.Config, timeout time.Duration, handler http.Handler) error {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return fmt.Errorf("serve on %s: %w; give another address", address, err)
	}
	if encryption != nil {
		listener = tls.NewListener(listener, encryption)
	}
	logger := klog.FromContext(ctx)
	server := &http.Server{
		Handler:           handler,
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ErrorLog:          log.New(logging.Writer{Logger: logger.V(2)}, "", 0), // Handshakes fail whenever somebody knocks.
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      timeout,
		MaxHeaderBytes:    64 << 10,
	}
	server.SetKeepAlivesEnabled(false) // Idle connections would hold memory, and anyone can open one.
	context.AfterFunc(ctx, func() { _ = server.Close() })
	go func() {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			logger.Error(err, "Serving ended", "address", address)
		}
	}()
	return nil
}

// IsLoopback reports whether only processes of the same machine, or of the same pod, reach the address.
func IsLoopback(address string) (bool, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false, err
	}
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback(), nil
}

// Encryption returns the certificate to serve with: that of the files, read again for each connection because they are
// renewed, or one of its own.
func Encryption(certFile, keyFile string) (*tls.Config, error) {
	if certFile != "" {
		read := func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			pair, err := tls.LoadX509KeyPair(certFile, keyFile)
			return &pair, err
		}
		if _, err := read(nil); err != nil {
			return nil, fmt.Errorf("read the certificate: %w", err)
		}
		return &tls.Config{GetCertificate: read}, nil
	}
	certPEM, keyPEM, err := cert.GenerateSelfSignedCertKey("localhost", nil, nil)
	if err != nil {
		return nil, fmt.Errorf("make a certificate: %w", err)
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, fmt.Errorf("make a certificate: %w", err)
	}
	return &tls.Config{Certificates: []tls.Certificate{pair}}, nil
}

// Metrics answers /metrics with what is registered, and profiles if they are asked for.
func Metrics(registered metrics.Gatherer, profiling bool) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", metrics.HandlerFor(registered, metrics.HandlerOpts{MaxRequestsInFlight: scrapes, Timeout: Timeout}))
	if profiling {
		mux.HandleFunc("GET /debug/pprof/", pprof.Index)
		mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	}
	return mux
}

// Authorized hands to next the requests whose bearer token the API server accepts for the path (TokenReview and
// SubjectAccessReview). Unknown tokens get 401, users without the right 403. A few reviews run at the same time, and the others
// queue, so that requests with bad tokens cannot lock out good ones.
func Authorized(kube kubernetes.Interface, next http.Handler) http.Handler {
	turns := make(chan struct{}, scrapes)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		token, found := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		if !found || token == "" {
			w.Header().Set("WWW-Authenticate", "Bearer")
			http.Error(w, "give the token of a service account that may get "+r.URL.Path, http.StatusUnauthorized)
			return
		}
		ctx, cancel := context.WithTimeout(r.Context(), askTimeout)
		defer cancel()
		select {
		case turns <- struct{}{}:
		case <-ctx.Done():
			http.Error(w, "too many requests at the same time", http.StatusServiceUnavailable)
			return
		}
		code, err := mayGet(ctx, r, kube, token)
		<-turns
		switch {
		case err != nil:
			klog.FromContext(r.Context()).Error(err, "Cannot tell who asks for the metrics")
			http.Error(w, "the API server cannot be asked", http.StatusInternalServerError)
		case code != http.StatusOK:
			http.Error(w, http.StatusText(code), code)
		default:
			next.ServeHTTP(w, r)
		}
	})
}

// mayGet asks the API server whether the token's user may make the request: 200, 401 or 403.
func mayGet(ctx context.Context, r *http.Request, kube kubernetes.Interface, token string) (int, error) {
	who, err := kube.AuthenticationV1().TokenReviews().Create(ctx, &authenticationv1.TokenReview{
		Spec: authenticationv1.TokenReviewSpec{Token: token}}, metav1.CreateOptions{})
	if err != nil {
		return 0, fmt.Errorf("review the token: %w", err)
	}
	if !who.Status.Authenticated {
		return http.StatusUnauthorized, nil
	}
	user := who.Status.User
	spec := authorizationv1.SubjectAccessReviewSpec{User: user.Username, UID: user.UID, Groups: user.Groups,
		Extra:                 map[string]authorizationv1.ExtraValue{},
		NonResourceAttributes: &authorizationv1.NonResourceAttributes{Path: r.URL.Path, Verb: strings.ToLower(r.Method)}}
	for key, values := range user.Extra {
		spec.Extra[key] = authorizationv1.ExtraValue(values)
	}
	may, err := kube.AuthorizationV1().SubjectAccessReviews().Create(ctx, &authorizationv1.SubjectAccessReview{Spec: spec}, metav1.CreateOptions{})
	if err != nil {
		return 0, fmt.Errorf("review the rights: %w", err)
	}
	if !may.Status.Allowed {
		return http.StatusForbidden, nil
	}
	return http.StatusOK, nil
}
