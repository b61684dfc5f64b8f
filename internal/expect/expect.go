// Package expect has the few assertions that tests of several packages share.
package expect

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/component-base/metrics"
)

// Same reports what is not the same, and where.
func Same(t *testing.T, what string, want, got any) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

// Error ends the test without an error, and reports one that is not one line with all the parts.
func Error(t *testing.T, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want one that says %q", parts)
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("error %q, want it to say %q", err, part)
		}
	}
	if strings.Contains(err.Error(), "\n") {
		t.Errorf("error %q, want one line", err)
	}
}

// NoError ends the test with an error.
func NoError(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Answer reports that a handler answers AnswerOf otherwise than with the code and a text that says this.
func Answer(t *testing.T, handler http.Handler, path, token string, code int, says string) {
	t.Helper()
	if got, body := AnswerOf(handler, path, token); got != code || !strings.Contains(body, says) {
		t.Errorf("%s: %d %q, want %d and %q in it", path, got, body, code, says)
	}
}

// AnswerOf returns what a handler answers to GET path, with a bearer token if it is not empty.
func AnswerOf(handler http.Handler, path, token string) (code int, body string) {
	r := httptest.NewRequest(http.MethodGet, path, nil)
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	recorder := httptest.NewRecorder()
	handler.ServeHTTP(recorder, r)
	return recorder.Code, strings.TrimSpace(recorder.Body.String())
}

// Counted reports each of the lines that a scrape does not show. A line that ends in " 0" is one that may be left out.
func Counted(t *testing.T, registered metrics.Gatherer, lines ...string) {
	t.Helper()
	for _, line := range lines {
		name, _, _ := strings.Cut(strings.Fields(line)[0], "{")
		want := []string{line}
		if strings.HasSuffix(line, " 0") {
			want = nil
		}
		Same(t, name, want, Scraped(t, registered, name))
	}
}

// Scraped returns the lines that a scrape shows of metrics with these names, without those that are 0.
func Scraped(t *testing.T, registered metrics.Gatherer, names ...string) (lines []string) {
	t.Helper()
	code, text := AnswerOf(metrics.HandlerFor(registered, metrics.HandlerOpts{}), "/metrics", "")
	if code != http.StatusOK {
		t.Fatal(code, text)
	}
	for line := range strings.Lines(text) {
		name, _, _ := strings.Cut(strings.Fields(line)[0], "{")
		if slices.Contains(names, name) && !strings.HasSuffix(strings.TrimSpace(line), " 0") {
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	return lines
}

// Buffer is a log that many may write to at the same time.
type Buffer struct {
	mu sync.Mutex
	bytes.Buffer
}

func (b *Buffer) Write(data []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.Write(data)
}

// Sync does nothing: there is no file behind it.
func (b *Buffer) Sync() error { return nil }
