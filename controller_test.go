package main

import (
	"regexp"

	logsjson "k8s.io/component-base/logs/json"

	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	restfake "k8s.io/client-go/rest/fake"

	appsv1 "k8s.io/api/apps/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"
	"k8s.io/klog/v2/textlogger"

	"github.com/belay-dev/belay/internal/expect"
	fake "github.com/belay-dev/belay/internal/fakecluster"
	"github.com/belay-dev/belay/internal/kubeclient"
	"github.com/belay-dev/belay/internal/logging"
	"github.com/belay-dev/belay/internal/serve"
	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
	"github.com/belay-dev/belay/test/sim"
)

func TestMain(m *testing.M) { fake.Main(m) }

// The tests run a real process, but for its clients, in a bubble.
type (
	world   = fake.World
	request = fake.Request
)

// inWorld runs test in a bubble, in a world with one running Belay.
func inWorld(t *testing.T, test func(w *world)) {
	t.Helper()
	inWorldWith(t, func(w *world, _ *belay) { test(w) })
}

// inWorldWith is inWorld for a test that looks into that process.
func inWorldWith(t *testing.T, test func(w *world, p *belay)) {
	t.Helper()
	fake.InWith(t, startBelay, test)
}

// belay is one running process of Belay.
type belay struct {
	*process
	*fake.Process
	terminate func() // asks the process to end, as SIGTERM does
	stop      func() // terminate, and wait until it has ended
	mayFail   bool   // an error from Run is no failure of the test
}

// startBelay starts a process. It is stopped when the test ends.
func startBelay(w *world) *belay {
	p := w.NewProcess()
	return startBelayWith(w, p, clients{p.Kube, p.Kube, p.Belay, p.Belay})
}

func startBelayWith(w *world, cluster *fake.Process, c clients) *belay {
	w.T.Helper()
	p := &belay{Process: cluster}
	background, end := context.WithCancel(w.Context())
	var err error
	p.process, err = start(background, c, options{})
	must(err)
	ctx, cancel := context.WithCancel(background)
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx, 4) }()
	p.terminate = cancel
	p.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil && !p.mayFail {
			w.T.Errorf("Run: %v", err)
		}
		end()
		p.process.stop()
	})
	w.T.Cleanup(p.stop)
	return p
}

// Whole rollouts, against pretend controllers that are as late, stale and absent as the real ones can be.
func TestSimulation(t *testing.T) {
	sim.Run(t, func(w *world, p *fake.Process) func() {
		belay := startBelayWith(w, p, clients{p.Kube, p.Kube, p.Belay, p.Belay})
		belay.mayFail = true // It may be ended before it has begun.
		return belay.stop
	})
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func TestRollback_ThenFix(t *testing.T) {
	inWorld(t, func(w *world) {
		fake.Add(w, fake.Webshop("web", "web:1"))
		w.Pass(time.Minute)
		w.Node.Set("web:2", fake.Crashing)
		fake.Release(w, "web", "web:2")
		w.Pass(4 * time.Minute)
		fake.WantStatus(w, "web", "Ready=False RolledBack")
		fake.Release(w, "web", "web:3")
		w.Pass(5 * time.Minute)
		fake.WantStatus(w, "web", "Ready=True RolledOut")

		expect.Same(t, "what was written", []string{
			// A healthy release: the Deployment is done at once, so that the first look comes after 1 s, and it stays so for 30 s.
			"0s create controllerrevisions",
			"0s create deployments: web:1",
			"0s update guardeddeployments/status: Ready=False Progressing",
			"1s update guardeddeployments/status: Ready=False Soaking",
			"31s update controllerrevisions: good",
			"31s update guardeddeployments/status: Ready=True RolledOut",
			// A failing one: the fourth restart comes after 70 s. The verdict is written before the Deployment moves.
			"1m0s create controllerrevisions",
			"1m0s update deployments: web:2",
			"1m0s update guardeddeployments/status: Ready=False Progressing",
			"1m10s update guardeddeployments/status: Ready=False Progressing", // the counts
			"2m12s update controllerrevisions: failed",
			"2m12s update deployments: web:1",
			"2m12s update guardeddeployments/status: Ready=False Progressing",
			"2m13s update guardeddeployments/status: Ready=False RolledBack",
			// The fix.
			"5m0s create controllerrevisions",
			"5m0s update deployments: web:3",
			"5m0s update guardeddeployments/status: Ready=False Progressing",
			"5m1s update guardeddeployments/status: Ready=False Soaking",
			"5m31s update controllerrevisions: good",
			"5m31s update guardeddeployments/status: Ready=True RolledOut",
		}, w.Diary())
		expect.Same(t, "Events", []string{"Normal RolledOut", "Warning CrashLoop", "Warning RolledBack", "Normal RolledOut"}, w.EventsSent())
	})
}

func TestNext_NoSharedBucketOfRetries(t *testing.T) {
	inWorld(t, func(w *world) {
		const objects = 1000
		failed := map[string]bool{}
		w.Intercept(func(r request, carryOut func() error) error {
			if r.String() == "create controllerrevisions" && !failed[r.Name] {
				failed[r.Name] = true
				return apierrors.NewInternalError(fmt.Errorf("not now"))
			}
			return carryOut()
		})
		w.Node.SwitchOff(true)
		for i := range objects {
			fake.Add(w, fake.Webshop(fmt.Sprintf("web-%d", i), "web:1"))
		}
		w.Pass(2 * time.Second)
		// client-go's default limiter shares a bucket of 10 retries a second among all keys: that would take 90 s.
		created := w.Requested("create", "deployments")
		if len(created) != objects {
			t.Fatalf("%d Deployments are created, want %d", len(created), objects)
		}
		if last := created[objects-1].At; last > time.Second {
			t.Errorf("the last Deployment was created after %s, want within a second", last)
		}
	})
}

func TestNext_FailingKeyDelaysNoOther(t *testing.T) {
	inWorld(t, func(w *world) {
		w.Intercept(func(r request, carryOut func() error) error {
			if r.Name == "broken" && r.Writes() {
				return apierrors.NewInternalError(fmt.Errorf("always"))
			}
			return carryOut()
		})
		fake.Add(w, fake.Webshop("broken", "web:1"))
		w.Pass(10*time.Minute + 100*time.Millisecond)
		fake.Add(w, fake.Webshop("web", "web:1"))
		w.Pass(33 * time.Second)
		fake.WantStatus(w, "web", "Ready=True RolledOut")
	})
}

func TestNext_Backoff(t *testing.T) {
	inWorld(t, func(w *world) {
		w.Intercept(func(r request, carryOut func() error) error {
			if r.Writes() {
				return apierrors.NewInternalError(fmt.Errorf("always"))
			}
			return carryOut()
		})
		fake.Add(w, fake.Webshop("web", "web:1"))
		w.Pass(10 * time.Minute)
		var pauses []time.Duration
		tries := w.Requested("create", "controllerrevisions")
		for i := 1; i < len(tries); i++ {
			pauses = append(pauses, tries[i].At-tries[i-1].At)
		}
		ms := time.Millisecond
		want := []time.Duration{5 * ms, 10 * ms, 20 * ms, 40 * ms, 80 * ms, 160 * ms, 320 * ms, 640 * ms, 1280 * ms, 2560 * ms, 5120 * ms, 10240 * ms, 20480 * ms}
		expect.Same(t, "pauses", want, pauses[:len(want)])
		for _, pause := range pauses[len(want):] {
			if pause != 30*time.Second {
				t.Errorf("a pause of %s, want 30s", pause)
			}
		}
	})
}

func TestRun_WaitsForSyncsThatHaveBegun(t *testing.T) {
	fake.In(t, func(w *world) {
		belay := startBelay(w)
		synctest.Wait() // A request that sleeps holds a mutex of the fake client: nothing else may ask for it meanwhile.
		w.Intercept(func(r request, carryOut func() error) error {
			if r.Resource == "deployments" && r.Writes() {
				time.Sleep(2 * time.Second)
			}
			return carryOut()
		})
		fake.Add(w, fake.Webshop("web", "web:1"))
		w.Pass(time.Second)
		belay.stop()
		if took := time.Since(w.Began); took != 2*time.Second {
			t.Errorf("Run returned after %s, want 2s, when the write was answered", took)
		}
		expect.Same(t, "what was written", []string{
			"0s create controllerrevisions",
			"0s create deployments: web:1",
			"2s update guardeddeployments/status: Ready=False Progressing",
		}, w.Diary())
	})
}

func TestRun_LeavesTheBacklog(t *testing.T) {
	fake.In(t, func(w *world) {
		for i := range 1000 {
			fake.Add(w, fake.Webshop(fmt.Sprintf("web-%d", i), "web:1"))
		}
		belay := startBelay(w)
		w.Intercept(func(r request, carryOut func() error) error {
			if r.Writes() {
				belay.terminate()
			}
			return carryOut()
		})
		w.Pass(time.Second)
		belay.stop()
		if begun := len(w.Requested("create", "controllerrevisions")); begun > 50 {
			t.Errorf("%d objects were synced although the end had been asked for at the first, want a handful", begun)
		}
	})
}

func TestRun_StoppedBeforeCachesAreFilled(t *testing.T) {
	fake.In(t, func(w *world) {
		w.Intercept(func(request, func() error) error { return apierrors.NewInternalError(fmt.Errorf("not now")) })
		belay := startBelay(w)
		w.Pass(time.Minute)
		belay.mayFail = true
		belay.stop()
		if writes := w.Asked(request.Writes); len(writes) > 0 {
			t.Errorf("wrote %v without having read anything", writes)
		}
	})
}

func TestRun_DrainTimeout(t *testing.T) {
	for name, c := range map[string]struct {
		answer time.Duration // how long the API server takes
		cut    bool
	}{
		"to finish":                    {answer: drainTimeout - time.Millisecond},
		"and is cut when that is over": {answer: time.Minute, cut: true},
	} {
		t.Run(name, func(t *testing.T) {
			fake.In(t, func(w *world) {
				asked, ended := make(chan time.Time, 100), make(chan error, 100)
				_, slow, err := kubeclient.New(&rest.Config{Host: "https://server", QPS: -1, Transport: restfake.CreateHTTPClient(func(r *http.Request) (*http.Response, error) {
					asked <- time.Now()
					select {
					case <-r.Context().Done():
					case <-time.After(c.answer):
					}
					ended <- r.Context().Err()
					if err := r.Context().Err(); err != nil {
						return nil, err
					}
					return &http.Response{StatusCode: http.StatusNotFound, Body: http.NoBody}, nil
				}).Transport}, kubeclient.RequestTimeout, nil)
				must(err)
				p := w.NewProcess()
				belay := startBelayWith(w, p, clients{kube: p.Kube, kubeWatches: p.Kube, belay: slow, belayWatches: p.Belay})
				synctest.Wait()
				fake.Add(w, fake.Webshop("web", "web:1"))
				<-asked
				terminated := time.Now()
				belay.stop()
				took := time.Since(terminated)
				err = <-ended
				if c.cut != (err == context.Canceled) || took != min(c.answer, drainTimeout) {
					t.Errorf("the request ended with %v, and Belay after %s", err, took)
				}
			})
		})
	}
}

// healthOf is the health of a running Belay, as main.go sets it.
func healthOf(p *belay) *serve.Health {
	h := &serve.Health{}
	h.Set(p.Alive, func() error { return errors.Join(p.Ready(), p.watches.Ready()) })
	return h
}

func TestReady_WaitsForCaches(t *testing.T) {
	fake.In(t, func(w *world) {
		w.Intercept(func(r request, carryOut func() error) error {
			if r.Resource == "deployments" {
				return apierrors.NewForbidden(schema.GroupResource{}, "", errors.New("not now"))
			}
			return carryOut()
		})
		h := healthOf(startBelay(w))
		w.Pass(time.Minute)
		expect.Answer(t, h, "/readyz", "", 503, "waiting for the caches of")
		if _, says := expect.AnswerOf(h, "/readyz", ""); !strings.Contains(says, "Deployment") || strings.Contains(says, "Revision") {
			t.Errorf("it says %q, want the one cache that is missing", says)
		}
		expect.Answer(t, h, "/livez", "", 200, "ok")
		w.Intercept(nil)
		w.Pass(2 * time.Minute) // The informer tries again within a minute.
		expect.Answer(t, h, "/readyz", "", 200, "ok")
	})
}

func TestAlive_StuckWorker(t *testing.T) {
	fake.In(t, func(w *world) {
		p := startBelay(w)
		synctest.Wait()
		h, goOn := healthOf(p), make(chan struct{})
		w.Intercept(func(r request, carryOut func() error) error {
			if r.Verb == "create" {
				<-goOn
			}
			return carryOut()
		})
		fake.Add(w, fake.Webshop("web", "web:1"))
		w.Pass(stuckAfter - time.Second)
		expect.Answer(t, h, "/livez", "", 200, "ok")
		w.Pass(2 * time.Second)
		expect.Answer(t, h, "/livez", "", 503, "stuck at shop/web")
		expect.Answer(t, h, "/readyz", "", 200, "ok")
		w.Intercept(nil)
		close(goOn)
		w.Pass(time.Second)
		expect.Answer(t, h, "/livez", "", 200, "ok")
		w.Pass(10 * stuckAfter) // at rest
		expect.Answer(t, h, "/livez", "", 200, "ok")
	})
}

// conditionsOf returns what is reported of a GuardedDeployment, but for Available.
func conditionsOf(w *world, name string) string {
	g, _ := fake.Read[*v1alpha1.GuardedDeployment](w, name)
	var says []string
	for _, kind := range []string{v1alpha1.ConditionReady, v1alpha1.ConditionReconciling, v1alpha1.ConditionStalled} {
		if c := meta.FindStatusCondition(g.Status.Conditions, kind); c != nil {
			says = append(says, kind+"="+string(c.Status)+" "+c.Reason)
		}
	}
	return strings.Join(says, ", ")
}

// told returns how often Belay has logged a sentence.
func told(w *world, sentence string) int { return strings.Count(w.Logged(), sentence) }

func TestStandstill_ToldOnceAndEnds(t *testing.T) {
	for name, row := range map[string]struct {
		stop, goOn func(w *world)
		says       string
	}{
		"the same error again and again": {
			func(w *world) {
				w.Intercept(func(r request, carryOut func() error) error {
					if r.Verb == "create" && r.Resource == "deployments" {
						return apierrors.NewInternalError(errors.New("etcd is full"))
					}
					return carryOut()
				})
			},
			func(w *world) { w.Intercept(nil) },
			"etcd is full"},
		"a conflict again and again": {
			func(w *world) {
				w.Intercept(func(r request, carryOut func() error) error {
					if r.Verb == "create" && r.Resource == "deployments" {
						return apierrors.NewConflict(schema.GroupResource{Resource: "deployments"}, "web", errors.New("modified"))
					}
					return carryOut()
				})
			},
			func(w *world) { w.Intercept(nil) },
			"modified"},
	} {
		t.Run(name, func(t *testing.T) {
			inWorldWith(t, func(w *world, p *belay) {
				row.stop(w)
				fake.Add(w, fake.Webshop("web", "web:1"))
				w.Pass(50 * time.Second)
				expect.Same(t, "told before a minute", 0, told(w, "Standing still"))
				expect.Counted(t, p.counted, "belay_standstill_objects 0")
				w.Pass(50 * time.Second)
				expect.Counted(t, p.counted, "belay_standstill_objects 1")
				expect.Same(t, "conditions", "Ready=False SyncFailing, Reconciling=False SyncFailing, Stalled=True SyncFailing", conditionsOf(w, "web"))
				g, _ := fake.Read[*v1alpha1.GuardedDeployment](w, "web")
				if says := meta.FindStatusCondition(g.Status.Conditions, v1alpha1.ConditionStalled).Message; !strings.Contains(says, row.says) {
					t.Errorf("the condition says %q, want %q in it", says, row.says)
				}
				w.Pass(10 * time.Minute)
				expect.Same(t, "times that it is told", 1, told(w, "Standing still"))
				expect.Same(t, "times that the status tells it", 1, len(w.Asked(func(r request) bool {
					return r.Verb == "update" && r.Resource == "guardeddeployments/status" && fake.Readiness(r.Object.(*v1alpha1.GuardedDeployment)) == "Ready=False SyncFailing"
				})))

				row.goOn(w)
				w.Pass(2 * time.Minute)
				expect.Same(t, "conditions", "Ready=True RolledOut, Reconciling=False RolledOut, Stalled=False RolledOut", conditionsOf(w, "web"))
				expect.Same(t, "times that the end is told", 1, told(w, "Moving on"))
				expect.Counted(t, p.counted, "belay_standstill_objects 0")
				fake.Remove[*v1alpha1.GuardedDeployment](w, "web")
			})
		})
	}
}

// What was reported of the present spec stays; and with the object, its standstill is gone.
func TestStandstill_ObjectStaysReady(t *testing.T) {
	inWorldWith(t, func(w *world, p *belay) {
		w.UpAndRunning("web")
		w.Intercept(func(r request, carryOut func() error) error {
			if r.Resource == "deployments" && r.Verb != "list" && r.Verb != "watch" {
				return apierrors.NewInternalError(errors.New("etcd is full"))
			}
			return carryOut()
		})
		fake.Edit(w, "web", func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Image = "other:1" })
		w.Pass(2 * time.Minute)
		expect.Same(t, "conditions", "Ready=True RolledOut, Reconciling=False SyncFailing, Stalled=False SyncFailing", conditionsOf(w, "web"))
		expect.Counted(t, p.counted, "belay_standstill_objects 1")
		fake.Release(w, "web", "web:2")
		w.Pass(2 * time.Minute)
		expect.Counted(t, p.counted, "belay_standstill_objects 1")
		fake.Remove[*v1alpha1.GuardedDeployment](w, "web")
		w.Pass(time.Minute)
		expect.Counted(t, p.counted, "belay_standstill_objects 0")
	})
}

// What is left to prune is tried again; all else has been done, and nobody who waits for the release may hear otherwise.
func TestStandstill_NotWhenOnlyPruningFails(t *testing.T) {
	inWorld(t, func(w *world) {
		w.Intercept(func(r request, carryOut func() error) error {
			if r.Verb == "delete" { // a revision is pruned
				return apierrors.NewInternalError(errors.New("etcd is full"))
			}
			return carryOut()
		})
		fake.TellStory(w)
		fake.WantStatus(w, "web", "Ready=True RolledOut")
		expect.Same(t, "times that a standstill is told", 0, told(w, "Standing still"))
		if told(w, "etcd is full") == 0 {
			t.Error("nothing was to be pruned: this tests nothing")
		}
	})
}

// A conflict is no failure: a cache is behind, as happens in an undisturbed release, too.
func TestNext_CountsFailuresAndStaleSyncs(t *testing.T) {
	for name, c := range map[string]struct {
		err    error
		failed int
		stale  int // at least
	}{
		"failures":  {apierrors.NewServiceUnavailable("not now"), 5, 0},
		"conflicts": {apierrors.NewConflict(schema.GroupResource{}, "web", errors.New("modified")), 0, 5},
	} {
		t.Run(name, func(t *testing.T) {
			inWorldWith(t, func(w *world, p *belay) {
				failures := 0
				w.Intercept(func(r request, carryOut func() error) error {
					if r.Verb == "create" && r.Resource == "deployments" && failures < 5 {
						failures++
						return c.err
					}
					return carryOut()
				})
				w.UpAndRunning("web")
				expect.Same(t, "failures that are logged", c.failed, told(w, "Sync failed"))
				expect.Counted(t, p.counted, fmt.Sprint("belay_sync_errors_total ", c.failed), `belay_releases_total{kind="GuardedDeployment",outcome="good",reason=""} 1`)
				stale := 0
				for _, line := range expect.Scraped(t, p.counted, "belay_stale_syncs_total") {
					_, err := fmt.Sscanf(line, "belay_stale_syncs_total %d", &stale)
					must(err)
				}
				if stale < c.stale {
					t.Errorf("%d stale syncs, want at least %d", stale, c.stale)
				}
			})
		})
	}
}

// A whole story, in which a policy answers whatever it likes.
func TestLog_EveryLineIsARecord(t *testing.T) {
	says := "two\nlines, \x1b[31mred, I1121 12:00:00.000000 1 main.go:1] \"forged\"\nE1121"
	for name, c := range map[string]struct {
		logger func(log *expect.Buffer) klog.Logger
		record *regexp.Regexp
	}{
		"text": {func(log *expect.Buffer) klog.Logger {
			return textlogger.NewLogger(textlogger.NewConfig(textlogger.Output(logging.OneLine(log)), textlogger.Verbosity(5)))
		}, regexp.MustCompile(`^[IWEF]\d{4} \d\d:\d\d:\d\d\.\d{6} +\d+ [^ ]+:\d+\] [^\x00-\x1f]*$`)},
		"json": {func(log *expect.Buffer) klog.Logger {
			logger, _ := logsjson.NewJSONLogger(5, log, nil, nil)
			return logger
		}, regexp.MustCompile(`^\{"ts":.*"msg":.*\}$`)},
	} {
		t.Run(name, func(t *testing.T) {
			log, failed, refused := &expect.Buffer{}, false, false
			fake.In(t, func(w *world) {
				w.Logger = c.logger(log)
				startBelay(w)
				w.Intercept(func(r request, carryOut func() error) error {
					switch {
					case r.Verb == "create" && r.Resource == "controllerrevisions" && !failed:
						failed = true
						return apierrors.NewInternalError(errors.New(says)) // tried again
					case r.Verb == "update" && r.Resource == "deployments" && !refused:
						refused = true
						return apierrors.NewForbidden(schema.GroupResource{}, "web", errors.New("denied request: "+says))
					default:
						return carryOut()
					}
				})
				fake.TellStory(w)
			})
			for line := range strings.Lines(log.String()) {
				if !c.record.MatchString(strings.TrimSuffix(line, "\n")) {
					t.Errorf("no record: %.300q", line)
				}
			}
			for _, want := range []string{"Refused", "Sync failed", "Wrote the Deployment", "Updated a revision"} {
				if !strings.Contains(log.String(), want) {
					t.Errorf("the story has no %q: it shows too little", want)
				}
			}
		})
	}
}
