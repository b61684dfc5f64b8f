// Package expect has the few assertions that tests of several packages share.
package expect

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
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
