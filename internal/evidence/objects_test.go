package evidence

import (
	"errors"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/belay-dev/belay/internal/expect"
	fake "github.com/belay-dev/belay/internal/fakecluster"
	"github.com/belay-dev/belay/pkg/rollout"
)

// here and gone are objects that a template refers to, of which the cluster has the first two.
var (
	mapHere, secretHere = rollout.Reference{Kind: rollout.KindConfigMap, Name: "here"}, rollout.Reference{Kind: rollout.KindSecret, Name: "here"}
	mapGone, secretGone = rollout.Reference{Kind: rollout.KindConfigMap, Name: "gone"}, rollout.Reference{Kind: rollout.KindSecret, Name: "gone"}
	allFour             = []rollout.Reference{mapGone, mapHere, secretGone, secretHere}
)

func TestObjects(t *testing.T) {
	forbid := func(resource string) fake.Interceptor {
		return func(q request, carryOut func() error) error {
			if q.Resource == resource {
				return apierrors.NewForbidden(schema.GroupResource{Resource: resource}, q.Name, errors.New("no right"))
			}
			return carryOut()
		}
	}
	for _, row := range []struct {
		name     string
		server   fake.Interceptor
		want     []rollout.Finding // of allFour
		requests map[string]int
		takes    time.Duration
	}{
		{"some are there", nil,
			[]rollout.Finding{rollout.Missing, rollout.Present, rollout.Missing, rollout.Present}, map[string]int{"get configmaps": 2, "get secrets": 2}, 0},
		{"without the right to Secrets", forbid("secrets"),
			[]rollout.Finding{rollout.Missing, rollout.Present, rollout.Forbidden, rollout.Forbidden}, map[string]int{"get configmaps": 2, "get secrets": 1}, 0},
		{"without the right to ConfigMaps", forbid("configmaps"),
			[]rollout.Finding{rollout.Forbidden, rollout.Forbidden, rollout.Missing, rollout.Present}, map[string]int{"get configmaps": 1, "get secrets": 2}, 0},
		{"a server in trouble", func(q request, carryOut func() error) error {
			if q.Name == "gone" {
				return apierrors.NewServiceUnavailable("busy")
			}
			return carryOut()
		}, []rollout.Finding{rollout.Unreadable, rollout.Present, rollout.Unreadable, rollout.Present}, map[string]int{"get configmaps": 2, "get secrets": 2}, 0},
		{"no answer", func(q request, _ func() error) error {
			time.Sleep(detailsTimeout + time.Second)
			return errors.New("no answer")
		}, make([]rollout.Finding, 4), map[string]int{"get configmaps": 1}, detailsTimeout + time.Second},
	} {
		t.Run(row.name, func(t *testing.T) {
			inReader(t, func(r *reader) {
				fake.Add(r.world, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "here", Namespace: namespace}})
				fake.Add(r.world, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "here", Namespace: namespace}})
				r.Intercept(row.server)
				e, began := &rollout.Evidence{}, time.Now()
				r.Reader.Objects(r.T.Context(), namespace, e, allFour)
				var got []rollout.Finding
				for _, object := range allFour {
					finding, known := e.Objects[object]
					if !known {
						r.T.Errorf("nothing is said of %s", object)
					}
					got = append(got, finding)
				}
				expect.Same(r.T, "found", row.want, got)
				expect.Same(r.T, "requests", row.requests, fake.Counts(r.Asked(fake.Everything)))
				expect.Same(r.T, "it takes", row.takes, time.Since(began))
			})
		})
	}
}
