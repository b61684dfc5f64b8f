package main

import (
	"net/http"
	"os"
	"strings"
	"testing"
	"testing/synctest"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	clienttesting "k8s.io/client-go/testing"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
	"github.com/belay-dev/belay/pkg/generated/clientset/versioned/fake"
)

// The second handler limits how often errors are logged, with a clock that has run since before the bubble.
func TestMain(m *testing.M) {
	utilruntime.ErrorHandlers = utilruntime.ErrorHandlers[:1]
	os.Exit(m.Run())
}

// A fake clientset is a map with a client's face. It is good for what a program makes of the answers, fast, and exact in
// a synctest bubble, where nothing happens between two steps of the test. It is not an API server: it sets no generation,
// uid or resourceVersion; it knows no defaults, no schema and no rights; it accepts a write based on an old read; its
// UpdateStatus writes the spec, too; it ignores field selectors; and no controller works behind it. The same release on
// a real server, judged by a real Belay, is TestExampleGeneratedClient in test/e2e.
func TestRelease_WithFake(t *testing.T) {
	for name, test := range map[string]struct {
		status  v1alpha1.GuardedDeploymentStatus
		verdict string
		failure string
	}{
		"good": {
			status:  v1alpha1.GuardedDeploymentStatus{RunningRevision: "web-1", Conditions: conditions("RolledOut", v1alpha1.ConditionReady)},
			verdict: "web is good: web-1 runs",
		},
		"failed": {
			status:  v1alpha1.GuardedDeploymentStatus{Conditions: conditions("RolledBack", v1alpha1.ConditionStalled)},
			failure: "web is not good: RolledBack: as the test says",
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				client := fake.NewSimpleClientset()
				objects := client.BelayV1alpha1().GuardedDeployments("default")
				result := make(chan string)
				go func() {
					verdict, err := release(t.Context(), client, "default", "web", "localhost/app:good")
					if err != nil {
						verdict = err.Error()
					}
					result <- verdict
				}()
				synctest.Wait() // It has created the object, and waits for news of it.
				created, err := objects.Get(t.Context(), "web", metav1.GetOptions{})
				if err != nil {
					t.Fatal(err)
				}
				created.Status = test.status
				if _, err := objects.UpdateStatus(t.Context(), created, metav1.UpdateOptions{}); err != nil {
					t.Fatal(err)
				}
				if got, want := <-result, test.verdict+test.failure; got != want {
					t.Errorf("got %q, want %q", got, want)
				}
			})
		})
	}
}

// The CRD is missing on a server where nobody has installed it: it says so in the same way as for a missing object.
func TestRelease_WithoutCRD(t *testing.T) {
	client := fake.NewSimpleClientset()
	client.PrependReactor("create", "guardeddeployments", func(clienttesting.Action) (bool, runtime.Object, error) {
		return true, nil, apierrors.NewGenericServerResponse(http.StatusNotFound, "post", v1alpha1.Resource("guardeddeployments"), "", "", 0, true)
	})
	_, err := release(t.Context(), client, "default", "web", "localhost/app:good")
	if !apierrors.IsNotFound(err) || !strings.Contains(err.Error(), "kubectl apply -f artifacts/crd.yaml") {
		t.Errorf("got %v, want that it is not found, and what to do", err)
	}
}

// conditions returns one that says whether it is ready, and one of this type that is true, which may be the same.
func conditions(reason, isTrue string) []metav1.Condition {
	ready := metav1.Condition{Type: v1alpha1.ConditionReady, Status: metav1.ConditionFalse, Reason: reason, Message: "as the test says"}
	if isTrue == v1alpha1.ConditionReady {
		ready.Status = metav1.ConditionTrue
		return []metav1.Condition{ready}
	}
	return []metav1.Condition{ready, {Type: isTrue, Status: metav1.ConditionTrue, Reason: reason}}
}
