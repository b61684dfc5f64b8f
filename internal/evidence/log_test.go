package evidence

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/belay-dev/belay/internal/expect"
	fake "github.com/belay-dev/belay/internal/fakecluster"
	"github.com/belay-dev/belay/pkg/rollout"
)

// previousLog asks for the log of the run before the present one.
func previousLog(pod string) rollout.Details { return previousLogOn("node", pod) }

func previousLogOn(node, pod string) rollout.Details {
	return rollout.Details{Log: &rollout.LogRequest{Node: node, Pod: pod, Container: "app", Previous: true}}
}

var podLogs = schema.GroupResource{Resource: "pods/log"}

func TestReadLog(t *testing.T) {
	const noPrevious = `previous terminated container "app" in pod "web" not found`
	text := func(text string) fake.Log { return fake.Log{Text: text} }
	fails := func(err *apierrors.StatusError) fake.Log { return fake.Log{Err: err} }
	refused := fails(apierrors.NewForbidden(podLogs, "web", errors.New("no\nright")))
	for name, row := range map[string]struct {
		previous, present fake.Log
		want              rollout.Log
		requests          int
	}{
		"lines":         {text("one\ntwo\n"), text("present"), rollout.Log{Lines: "one\ntwo"}, 1},
		"nothing":       {text(""), text("present"), rollout.Log{}, 1},
		"the last 20":   {text(strings.Repeat("early\n", 1<<20) + strings.Repeat("late\n", 20)), fake.Log{}, rollout.Log{Lines: strings.TrimSpace(strings.Repeat("late\n", 20))}, 1},
		"binary":        {text("\x1b[31m\x00\xff\x01PNG\x00\n"), fake.Log{}, rollout.Log{Lines: "\uFFFDPNG"}, 1},
		"a megabyte":    {text(strings.Repeat("x", 1<<20) + "end"), fake.Log{}, rollout.Log{Lines: "..." + strings.Repeat("x", 2042) + "end"}, 1},
		"too much":      {text(strings.Repeat("x", 4<<20)), fake.Log{}, rollout.Log{Unread: "its last lines are longer than 2 MiB"}, 1},
		"a file gone":   {text("unable to retrieve container logs for containerd://4f1c"), text("present"), rollout.Log{Unread: "the node does not have it any more"}, 1},
		"a path gone":   {text(`failed to try resolving symlinks in path "/var/log/pods/x/app/3.log": lstat /var: no such file`), fake.Log{}, rollout.Log{Unread: "the node does not have it any more"}, 1},
		"words like it": {text("unable to retrieve container logs for x\nbye\n"), fake.Log{}, rollout.Log{Lines: "unable to retrieve container logs for x\nbye"}, 1},

		"400 for the run before": {fails(apierrors.NewBadRequest(noPrevious)), text("present\n"), rollout.Log{Lines: "present"}, 2},
		"400 for both":           {fails(apierrors.NewBadRequest(noPrevious)), fails(apierrors.NewBadRequest("x")), rollout.Log{Unread: "the node has none of this container"}, 2},
		"400, and a hang":        {fails(apierrors.NewBadRequest(noPrevious)), fake.Log{Hangs: true}, rollout.Log{Unread: "it did not come within 1s"}, 2},
		"403":                    {refused, text("present"), rollout.Log{Unread: "the right to read pods/log is missing"}, 1},
		"404":                    {fails(apierrors.NewNotFound(podLogs, "web")), text("present"), rollout.Log{Unread: "the pod is gone"}, 1},
		"429":                    {fails(apierrors.NewTooManyRequests("later", 1)), text("present"), rollout.Log{Unread: "later"}, 1},
		"500":                    {fails(apierrors.NewInternalError(errors.New("dial tcp:\nno route"))), text("present"), rollout.Log{Unread: "Internal error occurred: dial tcp: no route"}, 1},
		"a kubelet that is down": {fails(&apierrors.StatusError{ErrStatus: metav1.Status{Status: metav1.StatusFailure, Code: 500,
			Message: `Get "https://node:10250/containerLogs/shop/web/app?previous=true": dial tcp 192.0.2.10:10250: connect: connection refused`}}), text("present"),
			rollout.Log{Unread: "the node does not answer: dial tcp 192.0.2.10:10250: connect: connection refused"}, 1},
		"no answer":                {fake.Log{Hangs: true}, text("present"), rollout.Log{Unread: "it did not come within 1s"}, 1},
		"an answer without an end": {fake.Log{Text: "one\n", Hangs: true}, text("present"), rollout.Log{Unread: "it did not come within 1s"}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			inReader(t, func(r *reader) {
				r.addPod("web", r.current, corev1.PodRunning)
				r.SetLog("web", "app", true, row.previous)
				r.SetLog("web", "app", false, row.present)
				e, began := &rollout.Evidence{}, time.Now()
				r.details(e, previousLog("web"))
				expect.Same(t, "the log", &row.want, e.Log)
				expect.Same(t, "requests", map[string]int{"get pods/log": row.requests}, fake.Counts(r.Asked(fake.Everything)))
				expect.Same(t, "what else could not be read", "", e.Unread)
				want := time.Duration(0)
				if row.want.Unread == errNoLog.Error() {
					want = logTimeout
				}
				expect.Same(t, "it takes", want, time.Since(began))
			})
		})
	}
}

// However much comes, no more is kept than is looked at.
func TestLogEnd(t *testing.T) {
	var end logEnd
	const text = "0123456789abcdef!"
	for range 1 << 16 {
		if _, err := end.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	if len(end) != rollout.LogWindow || !strings.HasSuffix(string(end), text+text) || cap(end) > 4*rollout.LogWindow {
		t.Errorf("%d bytes are kept in %d, the last are %q", len(end), cap(end), end[len(end)-40:])
	}
}

func TestReadLog_Of(t *testing.T) {
	inReader(t, func(r *reader) {
		r.addPod("web", r.current, corev1.PodRunning)
		r.SetLog("", "app", false, fake.Log{Text: "app"})
		r.SetLog("", "sidecar", false, fake.Log{Text: "sidecar"})
		e := &rollout.Evidence{}
		r.details(e, rollout.Details{Log: &rollout.LogRequest{Pod: "web", Container: "sidecar"}})
		expect.Same(t, "the log", &rollout.Log{Lines: "sidecar"}, e.Log)
		r.details(e, rollout.Details{Log: &rollout.LogRequest{Pod: "gone", Container: "app"}})
		expect.Same(t, "the log of no pod", &rollout.Log{Unread: "the pod is gone"}, e.Log)
		asked := r.Requested("get", "pods/log")
		if len(asked) != 1 || asked[0].Namespace != namespace || asked[0].Name != "gone" {
			t.Errorf("asked for %v", asked)
		}
	})
}

func TestReadLog_NobodyListens(t *testing.T) {
	inReader(t, func(r *reader) {
		r.Intercept(func(request, func() error) error { return fake.ErrRefused })
		e := &rollout.Evidence{}
		r.details(e, previousLog("web"))
		expect.Same(t, "the log", &rollout.Log{Unread: fake.ErrRefused.Error()}, e.Log)
	})
}

// Events, Nodes and the log of one sync share its requests and its time.
func TestReadLog_SharesTheBudget(t *testing.T) {
	for name, row := range map[string]struct {
		events int
		takes  time.Duration // each list of Events
		log    fake.Log
		want   rollout.Log
	}{
		"one request left":         {maxDetails - 1, 0, fake.Log{Text: "one"}, rollout.Log{Lines: "one"}},
		"no request left":          {maxDetails, 0, fake.Log{Text: "one"}, rollout.Log{Unread: "8 requests were made for the release already"}},
		"none for a second try":    {maxDetails - 1, 0, fake.Log{Err: apierrors.NewBadRequest("no")}, rollout.Log{Unread: "8 requests were made for the release already"}},
		"less than its time left":  {1, detailsTimeout - logTimeout/2, fake.Log{Hangs: true}, rollout.Log{Unread: "it did not come within 1s"}},
		"no time left":             {1, detailsTimeout, fake.Log{Text: "one"}, rollout.Log{Unread: errNoAnswer.Error()}},
		"no time after many":       {maxDetails / 2, detailsTimeout / (maxDetails / 2), fake.Log{Text: "one"}, rollout.Log{Unread: errNoAnswer.Error()}},
		"slow Events, and a reply": {1, detailsTimeout / 2, fake.Log{Text: "one"}, rollout.Log{Lines: "one"}},
	} {
		t.Run(name, func(t *testing.T) {
			inReader(t, func(r *reader) {
				r.addPod("web", r.current, corev1.PodRunning)
				r.SetLog("web", "app", true, row.log)
				r.Intercept(func(q request, carryOut func() error) error {
					if q.Resource == "events" {
						time.Sleep(row.takes)
					}
					return carryOut()
				})
				first := rollout.Details{}
				for i := range row.events {
					first.Events = append(first.Events, types.UID(fmt.Sprint(i)))
				}
				e, began := &rollout.Evidence{}, time.Now()
				r.details(e, first, previousLog("web"))
				expect.Same(t, "the log", &row.want, e.Log)
				if took, asked := time.Since(began), len(r.Asked(fake.Everything)); took > detailsTimeout || asked > maxDetails {
					t.Errorf("it takes %s and %d requests", took, asked)
				}
			})
		})
	}
}

// A log that does not come is waited for, those of its node after it are not; nor are any after those of three nodes.
func TestReadLog_NoneForAWhileAfterOneThatHangs(t *testing.T) {
	inReader(t, func(r *reader) {
		r.addPod("stuck", r.current, corev1.PodRunning)
		r.addPod("web", r.current, corev1.PodRunning)
		r.SetLog("stuck", "app", true, fake.Log{Hangs: true})
		r.SetLog("web", "app", true, fake.Log{Text: "one"})
		ask := func(node, pod string, want rollout.Log, requests int) {
			t.Helper()
			e := &rollout.Evidence{}
			r.details(e, previousLogOn(node, pod))
			expect.Same(t, "the log of "+pod+" on "+node, &want, e.Log)
			expect.Same(t, "requests", requests, len(r.Requested("get", "pods/log")))
		}
		lines, hangs := rollout.Log{Lines: "one"}, rollout.Log{Unread: "it did not come within 1s"}
		pauses := rollout.Log{Unread: "other logs did not come in the last 10s"}
		ask("a", "web", lines, 1)
		ask("a", "stuck", hangs, 1)
		ask("a", "web", pauses, 0)
		ask("b", "stuck", hangs, 1)
		ask("c", "web", lines, 1)
		ask("d", "stuck", hangs, 1)
		ask("c", "web", pauses, 0)
		time.Sleep(logPause - 2*logTimeout - time.Millisecond)
		ask("c", "web", pauses, 0)
		time.Sleep(time.Millisecond)
		ask("c", "web", lines, 1)
		ask("d", "web", pauses, 0)
		time.Sleep(2 * logTimeout)
		ask("d", "web", lines, 1)
	})
}

// Whoever is told to stop does not hold it against the logs.
func TestReadLog_Stopped(t *testing.T) {
	inReader(t, func(r *reader) {
		r.addPod("web", r.current, corev1.PodRunning)
		r.SetLog("web", "app", true, fake.Log{Hangs: true})
		ctx, cancel := context.WithCancel(r.T.Context())
		time.AfterFunc(logTimeout/2, cancel)
		began := time.Now()
		r.Details(ctx, namespace, &rollout.Evidence{}, previousLog("web"), &Budget{})
		expect.Same(t, "it takes", logTimeout/2, time.Since(began))
		if r.logsPause("node") {
			t.Error("no log is asked for now")
		}
	})
}

// 50 releases fail at once, their logs hang, and 16 workers see to them: the last one waits no longer than the first.
func TestReadLog_ManyThatHang(t *testing.T) {
	const releases, workers = 50, 16
	inReader(t, func(r *reader) {
		r.addPod("web", r.current, corev1.PodRunning)
		r.SetLog("web", "app", true, fake.Log{Hangs: true})
		began, todo := time.Now(), make(chan int, releases)
		for i := range releases {
			todo <- i
		}
		close(todo)
		var done sync.WaitGroup
		for range workers {
			done.Go(func() {
				for range todo {
					e := &rollout.Evidence{}
					r.Details(r.T.Context(), namespace, e, previousLog("web"), &Budget{})
					if e.Log == nil || e.Log.Unread == "" {
						t.Errorf("the log is %v", e.Log)
					}
				}
			})
		}
		done.Wait()
		expect.Same(t, "all take", logTimeout, time.Since(began))
		expect.Same(t, "requests", workers, len(r.Requested("get", "pods/log")))
	})
}
