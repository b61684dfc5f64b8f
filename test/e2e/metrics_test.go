package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// A Belay lives through a release, a rollback and a denial, once for each format of the log. What it counts is
// exact, and each line that it logs is a record, whatever a policy answers.
func testMetricsAndLog(t *testing.T) {
	for _, log := range []struct {
		format, verbosity string
		check             func(t *testing.T, line []byte)
	}{
		{"json", "8", checkJSONRecord}, // with every request and its body,
		{"text", "8", checkTextRecord},
	} {
		t.Run(log.format, func(t *testing.T) {
			n := emptyNamespace(t)
			metrics := "127.0.0.1" + freeAddress(t)
			health := "127.0.0.1" + freeAddress(t)
			n.belay = startBelayWith(n, "--metrics-address", metrics, "--health-address", health, "--logging-format", log.format, "-v", log.verbosity)
			web := n.createReady("web", template(good, "1"), deadline(10))
			first := web.get().Status.GoodRevision
			web.release(template(crash, "2"))
			web.awaitRolledBack(v1alpha1.FailureCrashLoop, first)
			const rude = "\x1b[31m \u2028 release 3 is \"not\" welcome \\ \u202e"
			n.require(not("3"), rude, anyDeployment("3"))
			web.release(template(good, "3"))
			web.awaitReason(v1alpha1.ReasonDenied)

			// Belay hears of its own write by its watch, and has a last key to look at then: that comes after the test has seen it.
			var code int
			var scrape string
			_ = poll(t.Context(), 10*time.Second, func(ctx context.Context) (bool, error) {
				code, scrape = get(ctx, "http://"+metrics+"/metrics", "")
				return strings.Contains(scrape, `reason="Denied"} 1`) && strings.Contains(scrape, `workqueue_depth{name="guardeddeployments"} 0`), nil
			})
			if code != 200 {
				t.Fatalf("/metrics: %d %s", code, scrape)
			}
			for _, line := range []string{
				`belay_releases_total{kind="GuardedDeployment",outcome="good",reason=""} 1`,
				`belay_releases_total{kind="GuardedDeployment",outcome="failed",reason="CrashLoop"} 1`,
				`belay_failed_releases_total{cause="ExitCode",kind="GuardedDeployment"} 1`,
				`belay_rollbacks_total{kind="GuardedDeployment"} 1`,
				`belay_release_duration_seconds_count{kind="GuardedDeployment",outcome="good"} 1`,
				`belay_release_duration_seconds_count{kind="GuardedDeployment",outcome="failed"} 1`,
				`belay_guardeddeployments{ready="False",reason="Denied"} 1`,
				`belay_events_dropped_total 0`,
				`belay_sync_errors_total 0`,
			} {
				if !strings.Contains(scrape, "\n"+line+"\n") {
					name, _, _ := strings.Cut(line, "{")
					name, _, _ = strings.Cut(name, " ")
					t.Errorf("the scrape has no %s, but\n%s", line, grep(scrape, name))
				}
			}
			for _, family := range []string{`workqueue_depth{name="guardeddeployments"} 0`, `workqueue_work_duration_seconds_count{name="guardeddeployments"} `,
				`rest_client_requests_total{code="201",`, `rest_client_request_duration_seconds_bucket{`, `process_resident_memory_bytes `, `go_goroutines `, `belay_build_info{version="`} {
				if !strings.Contains(scrape, "\n"+family) {
					t.Errorf("the scrape has no %s", family)
				}
			}
			for _, path := range []string{"/livez", "/readyz"} {
				if code, body := get(t.Context(), "http://"+health+path, ""); code != 200 {
					t.Errorf("%s: %d %s", path, code, body)
				}
			}
			checkRecords(n, log.check)
		})
	}
}

// startBelayWith is startBelay, with further flags.
func startBelayWith(n *namespace, args ...string) *process {
	n.Helper()
	if *externalFlag {
		n.Skip("this needs a belay of its own, and -external says that one runs already")
	}
	p, err := startProcess(filepath.Join(n.TempDir(), "belay.log"), append([]string{"--namespace", n.name}, args...)...)
	if err != nil {
		n.Fatal(err)
	}
	n.Cleanup(func() {
		if err := p.stop(); err != nil {
			n.Error(err)
		}
	})
	return p
}

// checkRecords makes sure that each line of belay's log is a record, and that the story is in them.
func checkRecords(n *namespace, check func(t *testing.T, line []byte)) {
	n.Helper()
	log, err := os.ReadFile(n.belay.log)
	if err != nil {
		n.Fatal(err)
	}
	for line := range bytes.Lines(log) {
		check(n.T, bytes.TrimSuffix(line, []byte("\n")))
	}
	for _, told := range []string{"Starting", "Recorded a revision", "Wrote the Deployment", "Updated a revision", "CrashLoop", "Refused", "welcome", "Response"} {
		if !bytes.Contains(log, []byte(told)) {
			n.Errorf("the log does not say %q", told)
		}
	}
}

func checkJSONRecord(t *testing.T, line []byte) {
	var record struct {
		Time    *float64 `json:"ts"`
		Message *string  `json:"msg"`
	}
	if err := json.Unmarshal(line, &record); err != nil || record.Time == nil || record.Message == nil {
		t.Errorf("no record (%v): %q", err, line)
	}
}

func checkTextRecord(t *testing.T, line []byte) {
	head, _, ok := bytes.Cut(line, []byte("] "))
	if !ok || len(head) < 20 || !bytes.ContainsRune([]byte("IWE"), rune(head[0])) || bytes.Count(head, []byte(":")) != 3 {
		t.Errorf("no record: %q", line)
	}
	if bytes.ContainsAny(line, "\x1b\u2028\u202e\r\x00") {
		t.Errorf("a record with control characters: %q", line)
	}
}

// grep returns the lines of text that begin so.
func grep(text, prefix string) (found string) {
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, prefix) {
			found += line
		}
	}
	return found
}
