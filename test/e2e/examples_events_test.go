package e2e

import (
	"context"
	"net/http"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// toured returns the ConfigMaps that the example has left in the namespace, which should be none.
func (n *namespace) toured(ctx context.Context) (left []string, err error) {
	maps, err := cluster.kube.CoreV1().ConfigMaps(n.name).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	for _, m := range maps.Items {
		if strings.HasPrefix(m.Name, "events-") {
			left = append(left, m.Name)
		}
	}
	return left, nil
}

// The numbers of the table are those of the API server, asked in its older way, which counts in other fields.
func TestExampleEvents(t *testing.T) {
	t.Parallel()
	n := emptyNamespace(t)
	p := startExample(t, "events", "--namespace", n.name)
	p.ends(0)
	all, err := cluster.kube.CoreV1().Events(n.name).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	stored, counted, notes := map[string]int{}, map[string]int{}, map[string]string{}
	for _, e := range all.Items {
		reason := strings.TrimRight(e.Reason, "0123456789")
		stored[reason]++
		counted[reason] += max(1, int(e.Count))
		if e.Series != nil {
			counted[reason] += int(e.Series.Count) - 1
		}
		if strings.Contains(e.Message, "note") || strings.Contains(e.Message, "combined") {
			notes[reason] += e.Message
		}
	}
	for reason, want := range map[string][4]int{ // recorded, Events, counted, lost
		"Once":     {1, 1, 1, 0},
		"Repeated": {10, 1, 2, 8},
		"Noted":    {3, 1, 2, 1},
		"Changed":  {2, 2, 2, 0},
		"Combined": {12, 10, 12, 0},
		"Spam":     {40, 25, 25, 15},
		"Refused":  {1, 0, 0, 1},
	} {
		shown := row(t, p.stdout.String(), reason)
		for i, number := range want {
			if shown[1+i] != strconv.Itoa(number) {
				t.Errorf("%s is shown as %q, want %d", reason, shown, want)
				break
			}
		}
		if stored[reason] != want[1] || counted[reason] != want[2] {
			t.Errorf("%s: the API server has %d Events that count %d, want %d and %d", reason, stored[reason], counted[reason], want[1], want[2])
		}
	}
	for reason, want := range map[string]string{"Noted": "note 1 of 3", "Combined": "(combined from similar events): message 12 of 12"} {
		if notes[reason] != want || !strings.Contains(strings.Join(row(t, p.stdout.String(), reason), " "), want) {
			t.Errorf("%s: the note is %q, want %q, also in the table", reason, notes[reason], want)
		}
	}
	if log := p.stderr.String(); strings.Count(log, "\n") != 1 || !strings.Contains(log, "Server rejected event (will not retry!)") {
		t.Errorf("want one line about the Event that was refused, got:\n%s", log)
	}
	if left, err := n.toured(t.Context()); err != nil || len(left) > 0 {
		t.Errorf("left behind: %q, %v", left, err)
	}
}

func TestExampleEvents_Interrupted(t *testing.T) {
	t.Parallel()
	n := emptyNamespace(t)
	asked := make(chan struct{}, 100)
	p := startExampleWith(t, func(*exec.Cmd) {}, "events", "--namespace", n.name, "--kubeconfig",
		meddledConfig(t, func(_ http.ResponseWriter, r *http.Request) bool {
			if r.Method == http.MethodPost && strings.Contains(r.URL.Path, "/events") {
				asked <- struct{}{}
				hang(r)
			}
			return false
		}))
	select {
	case <-asked:
	case <-p.ended:
		t.Fatal("it has ended")
	}
	if there, err := n.toured(t.Context()); err != nil || len(there) != 1 {
		t.Errorf("it works with %q, %v, want one ConfigMap", there, err)
	}
	if err := p.cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	p.ends(130)
	if left, err := n.toured(t.Context()); err != nil || len(left) > 0 {
		t.Errorf("left behind: %q, %v", left, err)
	}
}

// Eventf returns no error, but the program finds out that it lacks a right, and says so.
func TestExampleEvents_WithoutRights(t *testing.T) {
	t.Parallel()
	n := emptyNamespace(t)
	kubeconfig := n.accountThatMay("create configmaps", "delete configmaps", "list events.events.k8s.io")
	p := startExampleWith(t, func(*exec.Cmd) {}, "events", "--namespace", n.name, "--kubeconfig", kubeconfig)
	p.ends(1)
	says(t, p.stderr.String(), "\nevents: Once: the API server refused an Event: events.events.k8s.io is forbidden")
	if left, err := n.toured(t.Context()); err != nil || len(left) > 0 {
		t.Errorf("left behind: %q, %v", left, err)
	}
}
