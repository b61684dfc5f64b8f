package serve

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"

	"github.com/belay-dev/belay/internal/expect"
)

// reviewer is an API server that knows one user. It is a transport without a network.
type reviewer struct {
	token string
	user  authenticationv1.UserInfo
	may   bool
	fails string        // path at which it answers 500
	takes time.Duration // how long it takes to answer

	mu     sync.Mutex
	now    int // being asked
	most   int // at the same time
	asked  []string
	review authorizationv1.SubjectAccessReviewSpec // the last one
}

func (v *reviewer) RoundTrip(r *http.Request) (*http.Response, error) {
	v.mu.Lock()
	v.now++
	v.most = max(v.most, v.now)
	v.mu.Unlock()
	select {
	case <-r.Context().Done():
	case <-time.After(v.takes):
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.now--
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	v.asked = append(v.asked, r.URL.Path)
	data, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	object, _, err := scheme.Codecs.UniversalDeserializer().Decode(data, nil, nil)
	if err != nil {
		return nil, err
	}
	code := http.StatusCreated
	switch review := object.(type) {
	case *authenticationv1.TokenReview:
		if review.Status.Authenticated = review.Spec.Token == v.token; review.Status.Authenticated {
			review.Status.User = v.user
		}
	case *authorizationv1.SubjectAccessReview:
		v.review = review.Spec
		review.Status.Allowed = v.may
	}
	if v.fails != "" && strings.HasSuffix(r.URL.Path, v.fails) {
		code, object = http.StatusInternalServerError, &metav1.Status{Status: metav1.StatusFailure, Code: 500, Message: "no"}
	}
	body, err := json.Marshal(object)
	return &http.Response{StatusCode: code, Header: http.Header{"Content-Type": {"application/json"}},
		Body: io.NopCloser(bytes.NewReader(body)), Request: r}, err
}

// behind returns a handler that says "secret" to whom the reviewer lets get it.
func behind(t *testing.T, v *reviewer) http.Handler {
	kube, err := kubernetes.NewForConfig(&rest.Config{Host: "https://server", Transport: v, QPS: -1})
	expect.NoError(t, err)
	return Authorized(kube, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "secret") }))
}

func TestAuthorized(t *testing.T) {
	for name, c := range map[string]struct {
		reviewer *reviewer
		token    string
		want     int
		asked    int // requests to the API server
	}{
		"no token":              {&reviewer{token: "t", may: true}, "", 401, 0},
		"unknown token":         {&reviewer{token: "t", may: true}, "other", 401, 1},
		"no right":              {&reviewer{token: "t"}, "t", 403, 2},
		"all is well":           {&reviewer{token: "t", may: true}, "t", 200, 2},
		"no answer who it is":   {&reviewer{token: "t", may: true, fails: "tokenreviews"}, "t", 500, 1},
		"no answer what it may": {&reviewer{token: "t", may: true, fails: "subjectaccessreviews"}, "t", 500, 2},
	} {
		t.Run(name, func(t *testing.T) {
			code, body := expect.AnswerOf(behind(t, c.reviewer), "/metrics", c.token)
			if code != c.want || (body == "secret") != (c.want == 200) {
				t.Errorf("%d %q, want %d", code, body, c.want)
			}
			if len(c.reviewer.asked) != c.asked {
				t.Errorf("asked the API server for %v, want %d requests", c.reviewer.asked, c.asked)
			}
		})
	}
}

func TestAuthorized_OnlyBearerTokens(t *testing.T) {
	for _, header := range []string{"Basic dTpw", "Bearer ", "Bearer", "t"} {
		v := &reviewer{token: "t", may: true}
		r := httptest.NewRequest(http.MethodGet, "/metrics", nil)
		r.Header.Set("Authorization", header)
		recorder := httptest.NewRecorder()
		behind(t, v).ServeHTTP(recorder, r)
		if recorder.Code != 401 || recorder.Header().Get("WWW-Authenticate") != "Bearer" || len(v.asked) > 0 {
			t.Errorf("%q: %d, %v, asked %v; want 401 and a hint", header, recorder.Code, recorder.Header(), v.asked)
		}
	}
}

func TestAuthorized_PassesOnAllOfTheUser(t *testing.T) {
	v := &reviewer{token: "t", may: true, user: authenticationv1.UserInfo{Username: "scraper", UID: "7", Groups: []string{"a", "b"},
		Extra: map[string]authenticationv1.ExtraValue{"scopes": {"x", "y"}}}}
	expect.Answer(t, behind(t, v), "/debug/pprof/heap", "t", 200, "secret")
	expect.Same(t, "review", authorizationv1.SubjectAccessReviewSpec{User: "scraper", UID: "7", Groups: []string{"a", "b"},
		Extra:                 map[string]authorizationv1.ExtraValue{"scopes": {"x", "y"}},
		NonResourceAttributes: &authorizationv1.NonResourceAttributes{Path: "/debug/pprof/heap", Verb: "get"}}, v.review)
}

func TestAuthorized_BadTokensLockNobodyOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := &reviewer{token: "good", may: true, takes: 20 * time.Millisecond}
		handler := behind(t, v)
		end := time.Now().Add(20 * time.Second)
		for range 50 {
			go func() {
				for time.Now().Before(end) {
					expect.AnswerOf(handler, "/metrics", "bad")
					time.Sleep(time.Millisecond)
				}
			}()
		}
		for range 10 {
			time.Sleep(time.Second)
			expect.Answer(t, handler, "/metrics", "good", 200, "secret")
		}
		time.Sleep(time.Until(end) + time.Second)
		v.mu.Lock()
		defer v.mu.Unlock()
		if v.most != scrapes {
			t.Errorf("the API server was asked about %d at the same time, want %d", v.most, scrapes)
		}
	})
}

func TestAuthorized_HangingAPIServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		handler := behind(t, &reviewer{takes: time.Hour})
		began := time.Now()
		expect.Answer(t, handler, "/metrics", "t", 500, "cannot be asked")
		if took := time.Since(began); took >= Timeout {
			t.Errorf("answered after %s, when the server had given the answer up", took)
		}
	})
}
