package guard

import (
	"errors"
	"slices"
	"testing"
	"time"

	fake "github.com/belay-dev/belay/internal/fakecluster"

	appsv1 "k8s.io/api/apps/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/belay-dev/belay/internal/expect"
	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// judged are the metrics that count what was judged.
var judged = []string{"belay_releases_total", "belay_failed_releases_total", "belay_rollbacks_total", "belay_release_duration_seconds_count", "belay_release_duration_seconds_sum"}

func askAgain(w *world, name, token string) {
	fake.Edit(w, name, func(g *v1alpha1.GuardedDeployment) {
		metav1.SetMetaDataAnnotation(&g.ObjectMeta, v1alpha1.RetryAnnotation, token)
	})
}

func TestMetrics_ReleaseRollbackRetry(t *testing.T) {
	inWorldWith(t, func(w *world, p *belay) {
		expect.Same(t, "before anything happens", []string(nil), expect.Scraped(t, p.counted, append(judged, "belay_guardeddeployments")...))
		w.UpAndRunning("web")
		expect.Same(t, "a good release", []string{
			`belay_release_duration_seconds_sum{kind="GuardedDeployment",outcome="good"} 31.5`,
			`belay_release_duration_seconds_count{kind="GuardedDeployment",outcome="good"} 1`,
			`belay_releases_total{kind="GuardedDeployment",outcome="good",reason=""} 1`,
		}, expect.Scraped(t, p.counted, judged...))

		w.Node.Set("web:2", fake.Crashing)
		fake.Release(w, "web", "web:2")
		w.Pass(10 * time.Minute)
		fake.WantStatus(w, "web", "Ready=False RolledBack")
		expect.Same(t, "and one that crashes", []string{
			`belay_failed_releases_total{cause="ExitCode",kind="GuardedDeployment"} 1`,
			`belay_release_duration_seconds_sum{kind="GuardedDeployment",outcome="failed"} 72`,
			`belay_release_duration_seconds_count{kind="GuardedDeployment",outcome="failed"} 1`,
			`belay_release_duration_seconds_sum{kind="GuardedDeployment",outcome="good"} 31.5`,
			`belay_release_duration_seconds_count{kind="GuardedDeployment",outcome="good"} 1`,
			`belay_releases_total{kind="GuardedDeployment",outcome="failed",reason="CrashLoop"} 1`,
			`belay_releases_total{kind="GuardedDeployment",outcome="good",reason=""} 1`,
			`belay_rollbacks_total{kind="GuardedDeployment"} 1`,
		}, expect.Scraped(t, p.counted, judged...))

		askAgain(w, "web", "again")
		w.Pass(10 * time.Minute)
		expect.Counted(t, p.counted, `belay_rollbacks_total{kind="GuardedDeployment"} 2`)
		w.Node.Set("web:2", nil)
		askAgain(w, "web", "once more")
		w.Pass(10 * time.Minute)
		fake.WantStatus(w, "web", "Ready=True RolledOut")
		expect.Same(t, "and its retries", []string{
			`belay_failed_releases_total{cause="ExitCode",kind="GuardedDeployment"} 2`,
			`belay_releases_total{kind="GuardedDeployment",outcome="failed",reason="CrashLoop"} 2`,
			`belay_releases_total{kind="GuardedDeployment",outcome="good",reason=""} 2`,
		}, expect.Scraped(t, p.counted, "belay_releases_total", "belay_failed_releases_total"))
		expect.Counted(t, p.counted, `belay_rollbacks_total{kind="GuardedDeployment"} 2`, `belay_sync_errors_total 0`, `belay_events_dropped_total 0`, `belay_build_info{version="v1.2.3"} 1`)
	})
}

// holdFailure lets a release fail that is then held.
func holdFailure(w *world) {
	w.T.Helper()
	g := fake.Webshop("web", "web:1")
	g.Spec.Guard.OnFailure = v1alpha1.Hold
	fake.Add(w, g)
	w.Pass(time.Minute)
	w.Node.Set("web:2", fake.Crashing)
	fake.Release(w, "web", "web:2")
	w.Pass(10 * time.Minute)
	fake.WantStatus(w, "web", "Ready=False Held")
}

func TestMetrics_HeldIsNoRollback(t *testing.T) {
	inWorldWith(t, func(w *world, p *belay) {
		holdFailure(w)
		expect.Counted(t, p.counted, `belay_rollbacks_total{kind="GuardedDeployment"} 0`)
		w.Node.Set("web:2", nil)
		w.Pass(10 * time.Minute)
		fake.WantStatus(w, "web", "Ready=True RolledOut")
		expect.Same(t, "releases, the second both failed and good after all", []string{
			`belay_releases_total{kind="GuardedDeployment",outcome="failed",reason="CrashLoop"} 1`,
			`belay_releases_total{kind="GuardedDeployment",outcome="good",reason=""} 2`,
		}, expect.Scraped(t, p.counted, "belay_releases_total"))
		expect.Counted(t, p.counted, `belay_rollbacks_total{kind="GuardedDeployment"} 0`)
	})
}

func TestMetrics_RefusedRollback(t *testing.T) {
	inWorldWith(t, func(w *world, p *belay) {
		w.UpAndRunning("web")
		w.Node.Set("web:2", fake.Crashing)
		fake.Release(w, "web", "web:2")
		w.Pass(10 * time.Second)
		w.Intercept(func(r request, carryOut func() error) error {
			if everyWrite["update the Deployment"](r) {
				return deniedByPolicy()
			}
			return carryOut()
		})
		w.Pass(4 * time.Minute)
		fake.WantStatus(w, "web", "Ready=False Denied")
		expect.Counted(t, p.counted, `belay_rollbacks_total{kind="GuardedDeployment"} 0`)
		w.Intercept(nil)
		w.Pass(10 * time.Minute)
		fake.WantStatus(w, "web", "Ready=False RolledBack")
		expect.Counted(t, p.counted, `belay_rollbacks_total{kind="GuardedDeployment"} 1`)
	})
}

func TestMetrics_FirstFailureIsNoRollback(t *testing.T) {
	inWorldWith(t, func(w *world, p *belay) {
		w.Node.Set("web:1", fake.Crashing)
		fake.Add(w, fake.Webshop("web", "web:1"))
		w.Pass(10 * time.Minute)
		fake.WantStatus(w, "web", "Ready=False NoGoodRevision")
		expect.Counted(t, p.counted, `belay_releases_total{kind="GuardedDeployment",outcome="failed",reason="CrashLoop"} 1`, `belay_rollbacks_total{kind="GuardedDeployment"} 0`)
	})
}

func TestMetrics_AdoptionIsNoRelease(t *testing.T) {
	inWorldWith(t, func(w *world, p *belay) {
		theirs := fake.DeploymentOf(fake.Webshop("web", "web:1"))
		theirs.Annotations = map[string]string{v1alpha1.AdoptAnnotation: "web"}
		fake.Add(w, theirs)
		w.Pass(time.Minute)
		fake.Add(w, fake.Webshop("web", "web:1"))
		w.Pass(10 * time.Minute)
		fake.WantStatus(w, "web", "Ready=True RolledOut")
		expect.Same(t, "what was judged", []string(nil), expect.Scraped(t, p.counted, judged...))
		expect.Same(t, "objects", []string{`belay_guardeddeployments{ready="True",reason="RolledOut"} 1`}, expect.Scraped(t, p.counted, "belay_guardeddeployments"))
	})
}

func TestMetrics_ObjectsByState(t *testing.T) {
	inWorldWith(t, func(w *world, p *belay) {
		w.UpAndRunning("a")
		w.UpAndRunning("b")
		w.UpAndRunning("d")
		w.Node.Set("web:2", fake.Crashing)
		fake.Release(w, "b", "web:2")
		w.Node.Set("web:9", fake.Crashing)
		fake.Add(w, fake.Webshop("c", "web:9"))
		w.Pass(10 * time.Minute)
		both := []string{`belay_guardeddeployments{ready="False",reason="NoGoodRevision"} 1`, `belay_guardeddeployments{ready="False",reason="RolledBack"} 1`}
		expect.Same(t, "objects", append(slices.Clone(both), `belay_guardeddeployments{ready="True",reason="RolledOut"} 2`), expect.Scraped(t, p.counted, "belay_guardeddeployments"))
		fake.Remove[*v1alpha1.GuardedDeployment](w, "a")
		w.Pass(time.Minute)
		expect.Same(t, "objects, one less", append(both, `belay_guardeddeployments{ready="True",reason="RolledOut"} 1`), expect.Scraped(t, p.counted, "belay_guardeddeployments"))
	})
}

func TestMetrics_ConflictCountsOnce(t *testing.T) {
	for _, write := range []string{"mark a revision", "update the Deployment", "write the status"} {
		t.Run(write, func(t *testing.T) {
			inWorldWith(t, func(w *world, p *belay) {
				w.UpAndRunning("web")
				w.Node.Set("web:2", fake.Crashing)
				fake.Release(w, "web", "web:2")
				w.Pass(time.Minute)
				const many = 10
				conflicts := 0
				w.Intercept(func(r request, carryOut func() error) error {
					if everyWrite[write](r) && conflicts < many {
						conflicts++
						return passing["conflict"]
					}
					return carryOut()
				})
				w.Pass(10 * time.Minute)
				fake.WantStatus(w, "web", "Ready=False RolledBack")
				expect.Counted(t, p.counted, `belay_rollbacks_total{kind="GuardedDeployment"} 1`)
				expect.Same(t, "releases", []string{
					`belay_releases_total{kind="GuardedDeployment",outcome="failed",reason="CrashLoop"} 1`,
					`belay_releases_total{kind="GuardedDeployment",outcome="good",reason=""} 1`,
				}, expect.Scraped(t, p.counted, "belay_releases_total"))
				if d, _ := fake.Read[*appsv1.Deployment](w, "web"); d.Generation != 3 {
					t.Errorf("the Deployment was written %d times, want 3", d.Generation)
				}
			})
		})
	}
}

// The recorder has retries of its own: the two must not multiply.
func TestEvents_RecorderDoesNotRetry(t *testing.T) {
	for name, c := range map[string]struct {
		err   error
		tries int
	}{"connection lost": {errors.New("connection lost"), 8}, "unavailable": {apierrors.NewServiceUnavailable("not now"), 8}, "forbidden": {forbidden("not here"), 1}} {
		t.Run(name, func(t *testing.T) {
			inWorldWith(t, func(w *world, p *belay) {
				w.Intercept(func(r request, carryOut func() error) error {
					if r.Resource == "events" {
						return c.err
					}
					return carryOut()
				})
				w.UpAndRunning("web")
				w.Pass(time.Hour)
				if tries := len(w.Requested("create", "events")); tries != c.tries {
					t.Errorf("the Event was sent %d times, want %d", tries, c.tries)
				}
				expect.Counted(t, p.counted, "belay_events_dropped_total 1")
			})
		})
	}
}

func TestEvents_ArriveAfterAnOutage(t *testing.T) {
	inWorldWith(t, func(w *world, p *belay) {
		over := time.Now().Add(100 * time.Second)
		arrived := 0
		w.Intercept(func(r request, carryOut func() error) error {
			if r.Resource != "events" {
				return carryOut()
			}
			if time.Now().Before(over) {
				return errors.New("connection lost")
			}
			arrived++
			return carryOut()
		})
		w.UpAndRunning("web")
		w.Pass(10 * time.Minute)
		if arrived != 1 {
			t.Errorf("%d Events arrived, want one", arrived)
		}
		expect.Counted(t, p.counted, "belay_events_dropped_total 0")
	})
}

// What took effect is counted once, also if its answer was lost.
func TestMetrics_LostAnswers(t *testing.T) {
	inWorldWith(t, func(w *world, p *belay) {
		w.UpAndRunning("web")
		w.Node.Set("web:2", fake.Crashing)
		w.Intercept(func(r request, carryOut func() error) error {
			if err := carryOut(); err != nil || !r.Writes() || r.Resource == "events" {
				return err
			}
			return lostAnswers["gateway timeout"]
		})
		fake.Release(w, "web", "web:2")
		w.Pass(10 * time.Minute)
		fake.WantStatus(w, "web", "Ready=False RolledBack")
		expect.Same(t, "one release that failed", []string{
			`belay_failed_releases_total{cause="ExitCode",kind="GuardedDeployment"} 1`,
			`belay_releases_total{kind="GuardedDeployment",outcome="failed",reason="CrashLoop"} 1`,
			`belay_releases_total{kind="GuardedDeployment",outcome="good",reason=""} 1`,
			`belay_rollbacks_total{kind="GuardedDeployment"} 1`,
		}, expect.Scraped(t, p.counted, "belay_failed_releases_total", "belay_releases_total", "belay_rollbacks_total"))
	})
}
