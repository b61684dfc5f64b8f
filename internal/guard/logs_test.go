package guard

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/belay-dev/belay/internal/expect"
	fake "github.com/belay-dev/belay/internal/fakecluster"
	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// silent is fake.Crashing without a termination message.
func silent(age time.Duration) corev1.PodStatus {
	status := fake.Crashing(age)
	status.ContainerStatuses[0].LastTerminationState.Terminated.Message = ""
	return status
}

// The last lines of what crashes without a message are kept, from before its pod went, and read once; and where they cannot be, that
// is said.
func TestLog_OfARelease(t *testing.T) {
	for name, row := range map[string]struct {
		log      fake.Log
		edit     func(*v1alpha1.GuardedDeployment)
		lines    string
		says     string
		requests int
	}{
		"lines":       {fake.Log{Text: "connecting\n\x1b[31mno DATABASE_URL\x1b[0m\n"}, nil, "connecting\nno DATABASE_URL", ": no DATABASE_URL", 1},
		"a log hangs": {fake.Log{Hangs: true}, nil, "", "its log could not be read: it did not come within 1s", 1},
		"no right":    {fake.Log{Err: apierrors.NewForbidden(schema.GroupResource{Resource: "pods/log"}, "web", nil)}, nil, "", "its log could not be read: the right to read pods/log is missing", 1},
		"log: false": {fake.Log{Text: "no DATABASE_URL"}, func(g *v1alpha1.GuardedDeployment) { g.Spec.Guard.Log = new(false) }, "",
			"spec.guard.log", 0},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.SetLog("", "app", true, row.log)
				w.UpAndRunning("web")
				expect.Same(t, "logs of a good release", 0, len(w.Requested("get", "pods/log")))
				w.Node.Set("web:2", silent)
				if row.edit != nil {
					fake.Edit(w, "web", row.edit)
				}
				fake.Release(w, "web", "web:2")
				w.Pass(5 * time.Minute)
				fake.WantStatus(w, "web", "Ready=False RolledBack")
				g, _ := fake.Read[*v1alpha1.GuardedDeployment](w, "web")
				if f := g.Status.Failure; f == nil || f.Log != row.lines || !strings.Contains(f.Message, row.says) {
					t.Errorf("the failure is %+v, want the log %q and %q in its message", f, row.lines, row.says)
				}
				expect.Same(t, "logs of the failed one", row.requests, len(w.Requested("get", "pods/log")))
			})
		})
	}
}

// 50 releases show at the same moment that they failed, and their logs hang: none is rolled back 5 seconds later or more.
func TestLog_RollbacksInTimeWhereLogsHang(t *testing.T) {
	const releases = 50
	inWorld(t, func(w *world) {
		w.SetLog("", "app", true, fake.Log{Hangs: true})
		w.Node.Set("web:2", silent)
		for i := range releases {
			g := fake.Webshop(fmt.Sprint("web-", i), "web:1")
			g.Spec.Replicas = new(int32(1))
			fake.Add(w, g)
		}
		w.Pass(time.Minute)
		for i := range releases {
			fake.Release(w, fmt.Sprint("web-", i), "web:2")
		}
		shown := time.Time{}
		for shown.IsZero() {
			w.Pass(100 * time.Millisecond)
			for _, o := range w.Objects("pods") {
				if pod := o.(*corev1.Pod); pod.Status.ContainerStatuses[0].RestartCount > 3 {
					shown = time.Now()
				}
			}
		}
		w.Pass(5*time.Second - 100*time.Millisecond)
		for i := range releases {
			if image := w.Image(fmt.Sprint("web-", i)); image != "web:1" {
				t.Errorf("5 s after it was seen to crash, web-%d runs %s", i, image)
			}
		}
		t.Logf("%d logs were asked for", len(w.Requested("get", "pods/log")))
	})
}

// What is done, and what is refused, is in the log.
func TestLog_OfWhatIsDone(t *testing.T) {
	inWorld(t, func(w *world) {
		logs := func(lines ...string) {
			t.Helper()
			for _, line := range lines {
				if !strings.Contains(w.Logged(), line) {
					t.Errorf("the log has no line %s", line)
				}
			}
		}
		refuse := func(verb, resource string) {
			w.Intercept(func(r request, carryOut func() error) error {
				if r.Verb == verb && r.Resource == resource {
					return apierrors.NewForbidden(schema.GroupResource{Resource: resource}, "web", errors.New("exceeded quota: small"))
				}
				return carryOut()
			})
		}
		w.UpAndRunning("web")
		logs("Recorded a revision", "Updated a revision", "Wrote the Deployment")
		refuse("update", "deployments")
		fake.Release(w, "web", "web:2")
		w.Pass(time.Minute)
		logs(`Refused object="shop/web" reason="Denied"`)
		refuse("delete", "controllerrevisions")
		fake.Edit(w, "web", func(g *v1alpha1.GuardedDeployment) { g.Spec.RevisionHistoryLimit = new(int32(0)) })
		for _, image := range []string{"web:3", "web:4", "web:5"} {
			fake.Release(w, "web", image)
			w.Pass(time.Minute)
		}
		logs("Refused to prune")
		refuse("update", "deployments")
		orphan(w, "web")
		w.Pass(time.Second)
		logs("Refused to let go of the Deployment")
		w.Intercept(nil)
		w.Pass(10 * time.Minute)
		logs("Let go of the Deployment, whose GuardedDeployment is gone")
	})
}
