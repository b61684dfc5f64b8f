package main

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-base/metrics"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// counted is a registry of metrics, in a world those of a running Belay.
type counted struct {
	*belay
	t        *testing.T
	registry metrics.KubeRegistry
}

// inCountedWorld runs test in a world with one running Belay, from before it does anything.
func inCountedWorld(t *testing.T, test func(w *world, p *counted)) {
	t.Helper()
	inEmptyWorld(t, func(w *world) {
		p := &counted{w.startBelay(), t, metrics.NewKubeRegistry()}
		p.metrics.register(p.registry, "v1.2.3", p.guarded)
		p.sights.register(p.registry)
		synctest.Wait()
		test(w, p)
	})
}

// scraped returns the lines that a scrape shows of metrics with these names, without those that are 0.
func (p *counted) scraped(names ...string) []string {
	p.t.Helper()
	code, text := answerOf(metricsHandler(p.registry, false), "/metrics", "")
	if code != http.StatusOK {
		p.t.Fatal(code, text)
	}
	var lines []string
	for line := range strings.Lines(text) {
		name, _, _ := strings.Cut(strings.Fields(line)[0], "{")
		if slices.Contains(names, name) && !strings.HasSuffix(strings.TrimSpace(line), " 0") {
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	return lines
}

// want fails the test unless each of the lines is what a scrape shows.
func (p *counted) want(lines ...string) {
	p.t.Helper()
	for _, line := range lines {
		name, _, _ := strings.Cut(strings.Fields(line)[0], "{")
		want := []string{line}
		if strings.HasSuffix(line, " 0") {
			want = nil
		}
		wantSame(p.t, name, want, p.scraped(name))
	}
}

// judged are the metrics that count what was judged.
var judged = []string{"belay_releases_total", "belay_rollbacks_total", "belay_release_duration_seconds_count", "belay_release_duration_seconds_sum"}

func askAgain(w *world, name, token string) {
	edit(w, name, func(g *v1alpha1.GuardedDeployment) {
		metav1.SetMetaDataAnnotation(&g.ObjectMeta, v1alpha1.RetryAnnotation, token)
	})
}

func TestAReleaseARollbackAndARetryAreCounted(t *testing.T) {
	inCountedWorld(t, func(w *world, p *counted) {
		wantSame(t, "before anything happens", []string(nil), p.scraped(append(judged, "belay_guardeddeployments")...))
		w.upAndRunning("web")
		wantSame(t, "a good release", []string{
			`belay_release_duration_seconds_sum{outcome="good"} 31.5`,
			`belay_release_duration_seconds_count{outcome="good"} 1`,
			`belay_releases_total{outcome="good",reason=""} 1`,
		}, p.scraped(judged...))

		w.node.set("web:2", crashing)
		release(w, "web", "web:2")
		w.pass(10 * time.Minute)
		wantStatus(w, "web", "Ready=False RolledBack")
		wantSame(t, "and one that crashes", []string{
			`belay_release_duration_seconds_sum{outcome="failed"} 72`,
			`belay_release_duration_seconds_count{outcome="failed"} 1`,
			`belay_release_duration_seconds_sum{outcome="good"} 31.5`,
			`belay_release_duration_seconds_count{outcome="good"} 1`,
			`belay_releases_total{outcome="failed",reason="CrashLoop"} 1`,
			`belay_releases_total{outcome="good",reason=""} 1`,
			`belay_rollbacks_total 1`,
		}, p.scraped(judged...))

		askAgain(w, "web", "again")
		w.pass(10 * time.Minute)
		p.want(`belay_rollbacks_total 2`)
		w.node.set("web:2", nil)
		askAgain(w, "web", "once more")
		w.pass(10 * time.Minute)
		wantStatus(w, "web", "Ready=True RolledOut")
		wantSame(t, "and its retries", []string{
			`belay_releases_total{outcome="failed",reason="CrashLoop"} 2`,
			`belay_releases_total{outcome="good",reason=""} 2`,
		}, p.scraped("belay_releases_total"))
		p.want(`belay_rollbacks_total 2`, `belay_sync_errors_total 0`, `belay_events_dropped_total 0`, `belay_build_info{version="v1.2.3"} 1`)
	})
}

func TestAHeldReleaseIsNoRollback(t *testing.T) {
	inCountedWorld(t, func(w *world, p *counted) {
		g := webshop("web", "web:1")
		g.Spec.Guard.OnFailure = v1alpha1.Hold
		add(w, g)
		w.pass(time.Minute)
		w.node.set("web:2", crashing)
		release(w, "web", "web:2")
		w.pass(10 * time.Minute)
		wantStatus(w, "web", "Ready=False Held")
		p.want(`belay_rollbacks_total 0`)
		w.node.set("web:2", nil)
		w.pass(10 * time.Minute)
		wantStatus(w, "web", "Ready=True RolledOut")
		wantSame(t, "releases, the second both failed and good after all", []string{
			`belay_releases_total{outcome="failed",reason="CrashLoop"} 1`,
			`belay_releases_total{outcome="good",reason=""} 2`,
		}, p.scraped("belay_releases_total"))
		p.want(`belay_rollbacks_total 0`)
	})
}

func TestARefusedRollbackIsCountedWhenItIsDone(t *testing.T) {
	inCountedWorld(t, func(w *world, p *counted) {
		w.upAndRunning("web")
		w.node.set("web:2", crashing)
		release(w, "web", "web:2")
		w.pass(10 * time.Second)
		w.intercept(func(r request, carryOut func() error) error {
			if everyWrite["update the Deployment"](r) {
				return deniedByPolicy()
			}
			return carryOut()
		})
		w.pass(4 * time.Minute)
		wantStatus(w, "web", "Ready=False Denied")
		p.want(`belay_rollbacks_total 0`)
		w.intercept(nil)
		w.pass(10 * time.Minute)
		wantStatus(w, "web", "Ready=False RolledBack")
		p.want(`belay_rollbacks_total 1`)
	})
}

func TestAFirstReleaseThatFailsIsNoRollback(t *testing.T) {
	inCountedWorld(t, func(w *world, p *counted) {
		w.node.set("web:1", crashing)
		add(w, webshop("web", "web:1"))
		w.pass(10 * time.Minute)
		wantStatus(w, "web", "Ready=False NoGoodRevision")
		p.want(`belay_releases_total{outcome="failed",reason="CrashLoop"} 1`, `belay_rollbacks_total 0`)
	})
}

func TestAdoptionIsNoRelease(t *testing.T) {
	inCountedWorld(t, func(w *world, p *counted) {
		theirs := deploymentOf(webshop("web", "web:1"))
		theirs.Annotations = map[string]string{v1alpha1.AdoptAnnotation: "web"}
		add(w, theirs)
		w.pass(time.Minute)
		add(w, webshop("web", "web:1"))
		w.pass(10 * time.Minute)
		wantStatus(w, "web", "Ready=True RolledOut")
		wantSame(t, "what was judged", []string(nil), p.scraped(judged...))
		wantSame(t, "objects", []string{`belay_guardeddeployments{ready="True",reason="RolledOut"} 1`}, p.scraped("belay_guardeddeployments"))
	})
}

func TestObjectsAreCountedByTheirState(t *testing.T) {
	inCountedWorld(t, func(w *world, p *counted) {
		w.upAndRunning("a")
		w.upAndRunning("b")
		w.upAndRunning("d")
		w.node.set("web:2", crashing)
		release(w, "b", "web:2")
		w.node.set("web:9", crashing)
		add(w, webshop("c", "web:9"))
		w.pass(10 * time.Minute)
		both := []string{`belay_guardeddeployments{ready="False",reason="NoGoodRevision"} 1`, `belay_guardeddeployments{ready="False",reason="RolledBack"} 1`}
		wantSame(t, "objects", append(slices.Clone(both), `belay_guardeddeployments{ready="True",reason="RolledOut"} 2`), p.scraped("belay_guardeddeployments"))
		remove[*v1alpha1.GuardedDeployment](w, "a")
		w.pass(time.Minute)
		wantSame(t, "objects, one less", append(both, `belay_guardeddeployments{ready="True",reason="RolledOut"} 1`), p.scraped("belay_guardeddeployments"))
	})
}

func TestWhatIsWrittenAgainAfterAConflictIsCountedOnce(t *testing.T) {
	for _, write := range []string{"mark a revision", "update the Deployment", "write the status"} {
		t.Run(write, func(t *testing.T) {
			inCountedWorld(t, func(w *world, p *counted) {
				w.upAndRunning("web")
				w.node.set("web:2", crashing)
				release(w, "web", "web:2")
				w.pass(time.Minute)
				const many = 10 // more than the caches of an undisturbed story are stale
				conflicts := 0
				w.intercept(func(r request, carryOut func() error) error {
					if everyWrite[write](r) && conflicts < many {
						conflicts++
						return passing["conflict"]
					}
					return carryOut()
				})
				w.pass(10 * time.Minute)
				wantStatus(w, "web", "Ready=False RolledBack")
				p.want(`belay_rollbacks_total 1`, `belay_sync_errors_total 0`)
				wantSame(t, "releases", []string{
					`belay_releases_total{outcome="failed",reason="CrashLoop"} 1`,
					`belay_releases_total{outcome="good",reason=""} 1`,
				}, p.scraped("belay_releases_total"))
				if d, _ := read[*appsv1.Deployment](w, "web"); d.Generation != 3 {
					t.Errorf("the Deployment was written %d times, want 3", d.Generation)
				}
				stale := 0
				for _, line := range p.scraped("belay_stale_syncs_total") {
					_, err := fmt.Sscanf(line, "belay_stale_syncs_total %d", &stale)
					must(err)
				}
				if stale < many {
					t.Errorf("%d stale syncs, want one for each of %d conflicts", stale, conflicts)
				}
			})
		})
	}
}

func TestEverySyncThatFailsIsCounted(t *testing.T) {
	inCountedWorld(t, func(w *world, p *counted) {
		failures := 0
		w.intercept(func(r request, carryOut func() error) error {
			if r.verb == "create" && r.resource == "deployments" && failures < 5 {
				failures++
				return apierrors.NewServiceUnavailable("not now")
			}
			return carryOut()
		})
		w.upAndRunning("web")
		p.want(`belay_sync_errors_total 5`, `belay_releases_total{outcome="good",reason=""} 1`)
	})
}
