package preflight

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	apiversion "k8s.io/apimachinery/pkg/version"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"

	"github.com/belay-dev/belay/internal/expect"
	"github.com/belay-dev/belay/internal/kubeclient"
	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// server answers what preflight asks an API server.
type server struct {
	installed time.Time       // from when on the CRD is
	denied    map[string]bool // rights, as "list apps/deployments"
	asked     []authorizationv1.ResourceAttributes
}

// never is later than any test.
var never = time.Now().AddDate(1000, 0, 0)

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	answer := func(code int, body any) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(code)
		_ = json.NewEncoder(w).Encode(body)
	}
	switch r.URL.Path {
	case "/version":
		answer(http.StatusOK, apiversion.Info{Major: "1", Minor: "36"})
	case "/apis/" + v1alpha1.GroupVersion.String():
		if time.Now().Before(s.installed) {
			answer(http.StatusNotFound, metav1.Status{Status: metav1.StatusFailure, Code: 404, Reason: metav1.StatusReasonNotFound,
				Message: "the server could not find the requested resource"})
			return
		}
		answer(http.StatusOK, metav1.APIResourceList{GroupVersion: v1alpha1.GroupVersion.String()})
	case "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews":
		body, _ := io.ReadAll(r.Body)
		review := &authorizationv1.SelfSubjectAccessReview{}
		if _, _, err := scheme.Codecs.UniversalDeserializer().Decode(body, nil, review); err != nil {
			answer(http.StatusBadRequest, metav1.Status{Status: metav1.StatusFailure, Code: 400, Message: err.Error()})
			return
		}
		right := review.Spec.ResourceAttributes
		s.asked = append(s.asked, *right)
		resource := right.Resource
		if right.Subresource != "" {
			resource += "/" + right.Subresource
		}
		review.Status.Allowed = !s.denied[right.Verb+" "+resource]
		review.APIVersion, review.Kind = "authorization.k8s.io/v1", "SelfSubjectAccessReview"
		answer(http.StatusCreated, review)
	default:
		answer(http.StatusNotFound, metav1.Status{Status: metav1.StatusFailure, Code: 404, Message: r.URL.Path})
	}
}

// RoundTrip makes server a transport without a network, which works in a synctest bubble.
func (s *server) RoundTrip(r *http.Request) (*http.Response, error) {
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	recorder := httptest.NewRecorder()
	s.ServeHTTP(recorder, r)
	return recorder.Result(), nil
}

// clientOf returns the client that main would use.
func clientOf(t *testing.T, config *rest.Config) kubernetes.Interface {
	t.Helper()
	config.QPS = -1
	kube, _, err := kubeclient.New(config, kubeclient.RequestTimeout, nil)
	if err != nil {
		t.Fatal(err)
	}
	return kube
}

func TestPreflight_OverTheWire(t *testing.T) {
	s := &server{}
	web := httptest.NewServer(s)
	defer web.Close()
	if err := Run(t.Context(), web.URL, clientOf(t, &rest.Config{Host: web.URL}), Config{}, func(error) {}); err != nil {
		t.Error(err)
	}
	rights := 0
	for _, right := range required(Config{}) {
		rights += len(strings.Fields(right.verbs))
	}
	if len(s.asked) != rights {
		t.Errorf("asked for %d rights, want %d", len(s.asked), rights)
	}
}

func TestPreflight_ServerUnreachable(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := "http://" + listener.Addr().String()
	listener.Close() // nobody listens there any more
	err = Run(t.Context(), address, clientOf(t, &rest.Config{Host: address}), Config{}, func(error) {})
	expect.Error(t, err, address, "cannot be used", "check the kubeconfig")
}

func TestPreflight_SilentServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		silent := roundTrip(func(r *http.Request) (*http.Response, error) {
			<-r.Context().Done()
			return nil, r.Context().Err()
		})
		err := Run(t.Context(), "https://silent", clientOf(t, &rest.Config{Host: "https://silent", Transport: silent}), Config{}, func(error) {})
		expect.Error(t, err, "https://silent", "cannot be used")
		if took := time.Since(began); took != reachTimeout {
			t.Errorf("gave up after %s, want %s", took, reachTimeout)
		}
	})
}

type roundTrip func(r *http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestPreflight_NoCRD(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		err := Run(t.Context(), "https://server", clientOf(t, &rest.Config{Host: "https://server", Transport: &server{installed: never}}), Config{}, func(error) {})
		expect.Error(t, err, v1alpha1.GroupVersion.String(), "kubectl apply -f artifacts/crd.yaml")
		if took := time.Since(began); took != installTimeout {
			t.Errorf("gave up after %s, want %s", took, installTimeout)
		}
	})
}

func TestPreflight_CRDInstalledMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &server{installed: time.Now().Add(2500 * time.Millisecond)}
		began := time.Now()
		if err := Run(t.Context(), "https://server", clientOf(t, &rest.Config{Host: "https://server", Transport: s}), Config{}, func(error) {}); err != nil {
			t.Error(err)
		}
		if took := time.Since(began); took != 3*time.Second {
			t.Errorf("passed after %s, want 3s", took)
		}
	})
}

func TestPreflight_MissingPermissions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &server{denied: map[string]bool{
			"update guardeddeployments/status": true, "delete controllerrevisions": true, "list pods": true}}
		err := Run(t.Context(), "https://server", clientOf(t, &rest.Config{Host: "https://server", Transport: s}), Config{}, func(error) {})
		expect.Error(t, err, "missing rights", "update guardeddeployments/status", "delete controllerrevisions", "list pods")
		if strings.Contains(err.Error(), "create deployments") {
			t.Errorf("error %q names a right that is there", err)
		}
	})
}

func TestPreflight_OneNamespace(t *testing.T) {
	s := &server{}
	err := Run(t.Context(), "https://server", clientOf(t, &rest.Config{Host: "https://server", Transport: s}), Config{Namespace: "shop"}, func(error) {})
	if err != nil {
		t.Error(err)
	}
	for _, right := range s.asked {
		if right.Namespace != "shop" {
			t.Errorf("asked for %+v, want namespace shop", right)
		}
	}
}

func TestPreflight_Interrupted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second/2, cancel)
		began := time.Now()
		err := Run(ctx, "https://server", clientOf(t, &rest.Config{Host: "https://server", Transport: &server{installed: never}}), Config{}, func(error) {})
		expect.Error(t, err)
		if took := time.Since(began); took != time.Second/2 {
			t.Errorf("ended after %s, want 500ms", took)
		}
	})
}
