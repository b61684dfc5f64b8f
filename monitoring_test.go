package main

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/kubernetes"
	restfake "k8s.io/client-go/rest/fake"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/component-base/metrics/legacyregistry"
	"sigs.k8s.io/yaml"

	fake "github.com/belay-dev/belay/internal/fakecluster"
	"github.com/belay-dev/belay/internal/leader"
	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// The alerts and the dashboard may ask only for what Belay serves: a name that is misspelt is an alert that never fires.

// served is what a scrape has: the labels of each metric, and the values of each label.
type served struct {
	labels, values map[string][]string
}

// scrape returns what a Belay serves that has released something.
func scrape(t *testing.T) served {
	t.Helper()
	s := served{map[string][]string{}, map[string][]string{}}
	inWorldWith(t, func(w *world, p *belay) {
		answers := restfake.CreateHTTPClient(func(*http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(strings.NewReader("{}"))}, nil
		}).Transport
		kube := kubernetes.NewForConfigOrDie(&rest.Config{Host: "https://server", Transport: answers})
		_, err := kube.Discovery().ServerVersion() // requests
		must(err)
		lease, err := leader.NewLease(kube, "belay")
		must(err)
		_, err = leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
			Name: leader.LeaseName, Lock: lease, LeaseDuration: 15 * time.Second, RenewDeadline: leader.RenewDeadline, RetryPeriod: time.Second,
			Callbacks: leaderelection.LeaderCallbacks{OnStartedLeading: func(context.Context) {}, OnStoppedLeading: func() {}}})
		must(err)
		w.UpAndRunning("web")
		paused := fake.DeploymentOf(fake.Webshop("paused", "web:1"))
		paused.Labels, paused.Spec.Paused = map[string]string{v1alpha1.GuardedLabel: v1alpha1.GuardedInPlace}, true
		fake.Add(w, paused)
		w.Pass(time.Second)
		families, err := prometheus.Gatherers{legacyregistry.DefaultGatherer, p.counted}.Gather()
		must(err)
		for _, family := range families {
			own := []string{"job", "instance", "namespace"} // the target's
			for _, metric := range family.GetMetric() {
				for _, pair := range metric.GetLabel() {
					own = append(own, pair.GetName())
					s.values[pair.GetName()] = append(s.values[pair.GetName()], pair.GetValue())
				}
			}
			if family.GetType().String() != "HISTOGRAM" {
				s.labels[family.GetName()] = own
				continue
			}
			s.labels[family.GetName()+"_bucket"] = append(slices.Clone(own), "le")
			s.labels[family.GetName()+"_sum"], s.labels[family.GetName()+"_count"] = own, own
		}
	})
	s.values["reason"] = append(s.values["reason"], v1alpha1.ReasonRollbackFailed, v1alpha1.ReasonNoGoodRevision, v1alpha1.ReasonContested,
		v1alpha1.ReasonDenied, v1alpha1.ReasonInvalid, v1alpha1.ReasonNameTaken, "WaitingFor.+")
	s.values["state"] = append(s.values["state"], v1alpha1.ReasonRollbackFailed, v1alpha1.ReasonNoGoodRevision, v1alpha1.ReasonDenied, v1alpha1.EventNotHeld,
		v1alpha1.ReasonRolledOut, v1alpha1.ReasonScaledToZero, "WaitingFor.+")
	s.values["code"] = append(s.values["code"], "401", "429", "5..", "<error>")
	return s
}

var (
	metricAsked  = regexp.MustCompile(`\b([a-z]+(?:_[a-z]+)+)\b(?:\{([^}]*)\})?`)
	matcherAsked = regexp.MustCompile(`(\w+)\s*(?:=~|!~|!=|=)\s*"([^"]*)"`)
	labelsAsked  = regexp.MustCompile(`\b(?:by|on)\s*\(([^)]*)\)`)
	functions    = []string{"histogram_quantile"}
)

// check returns what an expression asks for that is not there.
func (s served) check(expression string) (wrong []string) {
	var labels []string // of any metric in the expression
	for _, asked := range metricAsked.FindAllStringSubmatch(expression, -1) {
		name := asked[1]
		if slices.Contains(functions, name) {
			continue
		}
		if s.labels[name] == nil {
			wrong = append(wrong, "no metric "+name)
		}
		labels = append(labels, s.labels[name]...)
		for _, matcher := range matcherAsked.FindAllStringSubmatch(asked[2], -1) {
			if !slices.Contains(s.labels[name], matcher[1]) {
				wrong = append(wrong, "no label "+matcher[1]+" of "+name)
			}
			for value := range strings.SplitSeq(matcher[2], "|") {
				if !slices.Contains(s.values[matcher[1]], value) {
					wrong = append(wrong, "no value "+value+" of "+matcher[1])
				}
			}
		}
	}
	for _, list := range labelsAsked.FindAllStringSubmatch(expression, -1) {
		for label := range strings.SplitSeq(list[1], ",") {
			if label = strings.TrimSpace(label); !slices.Contains(labels, label) {
				wrong = append(wrong, "no label "+label)
			}
		}
	}
	return wrong
}

func TestMonitoring_CheckFindsMistakes(t *testing.T) {
	s := scrape(t)
	for expression, want := range map[string]string{
		`belay_rollback_total`:                           "no metric",
		`rate(belay_sync_errors_totals[5m])`:             "no metric",
		`belay_releases_total{result="good"}`:            "no label result",
		`belay_releases_total{outcome="bad"}`:            "no value bad",
		`sum by (outcom) (belay_releases_total)`:         "no label outcom",
		`belay_guardeddeployments{reason=~"Held|Holds"}`: "no value",
		`leader_election_master_status{name="other"}`:    "no value other",
	} {
		if wrong := s.check(expression); !strings.Contains(strings.Join(wrong, "; "), want) {
			t.Errorf("%s: found %q, want %q", expression, wrong, want)
		}
	}
}

type alert struct {
	Alert, Expr, For string
	Labels           map[string]string
	Annotations      map[string]string
}

func alerts(t *testing.T) []alert {
	t.Helper()
	var file struct {
		Spec struct{ Groups []struct{ Rules []alert } }
	}
	must(yaml.Unmarshal([]byte(readText("artifacts/monitoring/alerts.yaml")), &file))
	return file.Spec.Groups[0].Rules
}

func TestMonitoring_AlertsUseServedMetrics(t *testing.T) {
	s := scrape(t)
	all := alerts(t)
	if len(all) < 5 {
		t.Fatalf("%d alerts", len(all))
	}
	for _, a := range all {
		for _, wrong := range s.check(a.Expr) {
			t.Errorf("%s: %s", a.Alert, wrong)
		}
	}
}

func TestMonitoring_AlertsSayWhatToDo(t *testing.T) {
	docs := operations()
	for _, a := range alerts(t) {
		for _, text := range []string{a.For, a.Labels["severity"], a.Annotations["summary"], a.Annotations["description"]} {
			if text == "" {
				t.Errorf("%s lacks its for, severity, summary or description", a.Alert)
			}
		}
		if want := "/docs/operations.md#" + strings.ToLower(a.Alert); !strings.HasSuffix(a.Annotations["runbook_url"], want) {
			t.Errorf("%s: runbook_url %q, want it to end with %s", a.Alert, a.Annotations["runbook_url"], want)
		}
		if !strings.Contains(docs, "\n### "+a.Alert+"\n") {
			t.Errorf("%s has no section in the documentation", a.Alert)
		}
	}
}

func TestMonitoring_DashboardUsesServedMetrics(t *testing.T) {
	var dashboard struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	must(json.Unmarshal([]byte(readText("artifacts/monitoring/dashboard.json")), &dashboard))
	s, expressions := scrape(t), 0
	for _, panel := range dashboard.Panels {
		for _, target := range panel.Targets {
			expressions++
			for _, wrong := range s.check(target.Expr) {
				t.Errorf("%s: %s", panel.Title, wrong)
			}
		}
	}
	if expressions < 10 {
		t.Errorf("%d expressions: is this the dashboard?", expressions)
	}
}

// The other way round: what Belay itself counts is shown or alerted on, and explained.
func TestMonitoring_MetricsAreUsedAndDocumented(t *testing.T) {
	used := readText("artifacts/monitoring/alerts.yaml") + readText("artifacts/monitoring/dashboard.json")
	docs := operations()
	for name := range scrape(t).labels {
		if name = strings.TrimSuffix(strings.TrimSuffix(strings.TrimSuffix(name, "_bucket"), "_sum"), "_count"); !strings.HasPrefix(name, "belay_") {
			continue
		}
		if !strings.Contains(used, name) {
			t.Errorf("nothing uses %s", name)
		}
		if !strings.Contains(docs, "`"+name+"`") {
			t.Errorf("%s is not documented", name)
		}
	}
}

func TestMonitoring_ReasonsAreDocumented(t *testing.T) {
	names, docs := readText("pkg/apis/belay/v1alpha1/names.go"), operations()+readText("docs/failures.md")
	reasons := regexp.MustCompile(`\b(?:Reason|Failure)\w+\s+= "(\w+)"`).FindAllStringSubmatch(names, -1)
	if want := 27 + len(v1alpha1.FailureReasons); len(reasons) != want {
		t.Errorf("%d reasons, want %d: is one missing in FailureReasons?", len(reasons), want)
	}
	for _, reason := range reasons {
		if !strings.Contains(docs, "\n| `"+reason[1]+"` |") {
			t.Errorf("%s is not documented", reason[1])
		}
	}
}

// operations is what is written for who operates Belay.
func operations() string { return readText("docs/operations.md") }

func readText(path string) string {
	data, err := os.ReadFile(path)
	must(err)
	return string(data)
}
