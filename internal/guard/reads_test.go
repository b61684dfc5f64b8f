package guard

import (
	"fmt"
	"testing"
	"time"

	"github.com/belay-dev/belay/internal/expect"
	fake "github.com/belay-dev/belay/internal/fakecluster"
)

func TestNewer(t *testing.T) {
	for _, c := range [][3]string{{"9", "10", "10"}, {"10", "9", "10"}, {"7", "7", "7"}, {"", "7", "7"}, {"100", "20", "100"}, {"7", "none", "none"}} {
		expect.Same(t, c[0]+" and "+c[1], c[2], newer(c[0], c[1]))
	}
}

// unseen carries a write out, whose answer is lost and which no watch shows from then on.
func unseen(w *world, watched string, carryOut func() error) error {
	w.T.Helper()
	w.Hold(watched)
	expect.NoError(w.T, carryOut())
	return lostAnswers["gateway timeout"]
}

// A write whose answer is lost, and that no watch shows for minutes, is noticed all the same: all goes on meanwhile, it is told once, and
// not sent again and again.
func TestSent_UnseenForMinutes(t *testing.T) {
	for _, lost := range []struct{ verb, resource, watched string }{
		{"update", "guardeddeployments/status", "guardeddeployments"},
		{"update", "deployments", "deployments"},
		{"create", "controllerrevisions", "controllerrevisions"},
		{"update", "controllerrevisions", "controllerrevisions"},
	} {
		t.Run(lost.verb+" "+lost.resource, func(t *testing.T) {
			tell := func(nth int) (writes int, events []string) {
				inWorld(t, func(w *world) {
					w.UpAndRunning("web")
					w.Node.Set("bad:2", fake.Crashing)
					w.ForgetRequests()
					n := 0
					w.Intercept(func(r request, carryOut func() error) error {
						if r.Verb != lost.verb || r.Resource != lost.resource {
							return carryOut()
						}
						if n++; n != nth {
							return carryOut()
						}
						return unseen(w, lost.watched, carryOut)
					})
					for _, release := range []struct{ image, status string }{
						{"bad:2", "Ready=False RolledBack"}, {"web:1", "Ready=True RolledOut"}, {"bad:2", "Ready=False RolledBack"},
					} {
						fake.Release(w, "web", release.image)
						w.Pass(5 * time.Minute)
						expect.Same(t, "what runs after "+release.image, "web:1", w.Image("web"))
						fake.WantStatus(w, "web", release.status)
						w.LetGo(lost.watched)
						w.Pass(5 * time.Minute)
					}
					fake.WantStatus(w, "web", "Ready=False RolledBack")
					writes, events = len(w.Requested(lost.verb, lost.resource)), w.EventsSent()
				})
				return writes, events
			}
			writes, events := tell(0)
			for nth := range writes {
				more, told := tell(nth + 1)
				expect.Same(t, fmt.Sprintf("Events, with the answer to the %d. lost", nth+1), events, told)
				if more > writes+2 {
					t.Errorf("%d such writes, want at most 2 more than %d", more, writes)
				}
			}
		})
	}
}

// The answer to the write of a release is lost, and no watch shows it, while that release is given up for what ran before: nothing but a
// read tells that it is not what runs any more.
func TestSent_GivenUpMeanwhile(t *testing.T) {
	inWorld(t, func(w *world) {
		w.UpAndRunning("web")
		w.Intercept(func(r request, carryOut func() error) error {
			if r.Verb != "update" || r.Resource != "deployments" || w.Image("web") != "web:1" {
				return carryOut()
			}
			answer := unseen(w, "deployments", carryOut)
			fake.Release(w, "web", "web:1")
			time.Sleep(time.Millisecond) // That is seen before the answer comes.
			return answer
		})
		fake.Release(w, "web", "web:2")
		w.Pass(5 * time.Minute)
		expect.Same(t, "what runs", "web:1", w.Image("web"))
		fake.WantStatus(w, "web", "Ready=True RolledOut")
	})
}
