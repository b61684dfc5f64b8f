package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
	"github.com/belay-dev/belay/test/auditlog"
)

// auditLog is the API server's record of who asked for what. The embedded cluster answers a request after its line is
// written: what was answered is there.
type auditLog struct {
	path string

	mu     sync.Mutex
	offset int64
	writes map[string][]write // Belay's, by namespace
}

// write is a mutating request of Belay's.
type write struct {
	UserAgent string
	Verb      string
	ObjectRef struct{ Namespace, Resource, Subresource, Name string }
	Response  struct {
		Code    int
		Message string
	} `json:"responseStatus"`
	Body json.RawMessage `json:"requestObject"`
	At   time.Time       `json:"requestReceivedTimestamp"`
}

func (w write) String() string {
	what := w.Verb + " " + w.ObjectRef.Resource
	if w.ObjectRef.Subresource != "" {
		what += "/" + w.ObjectRef.Subresource
	}
	return strings.TrimSpace(fmt.Sprintf("%s %d %s %s %s", w.At.Format("15:04:05.000"), w.Response.Code, what, w.ObjectRef.Name, w.Response.Message))
}

// reads are the verbs that are no writes.
var reads = []string{"get", "list", "watch"}

// in returns Belay's writes in the namespace so far.
func (a *auditLog) in(namespace string) ([]write, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	var err error
	a.offset, err = auditlog.Read(a.path, a.offset, `"userAgent":"belay/`, func(line []byte) error {
		var w write
		if err := json.Unmarshal(line, &w); err != nil {
			return fmt.Errorf("%s: %w", a.path, err)
		}
		if slices.Contains(reads, w.Verb) {
			return nil
		}
		if a.writes == nil {
			a.writes = map[string][]write{}
		}
		a.writes[w.ObjectRef.Namespace] = append(a.writes[w.ObjectRef.Namespace], w)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return slices.Clone(a.writes[namespace]), nil
}

// counting reports whether there is an audit log to count in.
func (n *namespace) counting() bool {
	if cluster.audit == nil {
		n.Log("no audit log here: Belay's writes are not counted")
	}
	return cluster.audit != nil
}

// writes returns Belay's writes in the namespace so far. There are none to see without an audit log.
func (n *namespace) writes() []write {
	n.Helper()
	if cluster.audit == nil {
		return nil
	}
	writes, err := cluster.audit.in(n.name)
	if err != nil {
		n.Fatalf("read the audit log: %v", err)
	}
	return writes
}

// writesAtRest waits until Belay has written nothing for a while, longer than it waits to report mere counts, and
// returns its writes.
func (n *namespace) writesAtRest() []write {
	n.Helper()
	const quiet = 11 * time.Second
	writes, since := n.writes(), time.Now()
	for time.Since(since) < quiet {
		time.Sleep(pollEvery)
		if now := n.writes(); len(now) != len(writes) {
			writes, since = now, time.Now()
		}
	}
	return writes
}

// checkBudget makes sure that Belay has come to rest and has not written more than most times since the first so many
// writes.
func (n *namespace) checkBudget(what string, before, most int) {
	n.Helper()
	if !n.counting() {
		return
	}
	writes := n.writesAtRest()[before:]
	figures.count("writes: "+what, len(writes), most)
	if len(writes) > most {
		n.Errorf("%s took %d writes, want at most %d:\n%s", what, len(writes), most, n.describeWrites())
	}
}

func (n *namespace) describeWrites() string {
	if cluster.audit == nil {
		return "(no audit log)"
	}
	var text strings.Builder
	for _, w := range n.writes() {
		fmt.Fprintln(&text, w)
	}
	return text.String()
}

// deploymentWrites returns the successful writes of the object's Deployment.
func (o *object) deploymentWrites() []write {
	o.Helper()
	return slices.DeleteFunc(o.writes(), func(w write) bool {
		return w.ObjectRef.Resource != "deployments" || w.ObjectRef.Name != o.name || w.Response.Code >= 300
	})
}

// moves returns the revisions that Belay put the Deployment on, one after the other.
func (o *object) moves() (revisions []string) {
	o.Helper()
	for _, w := range o.deploymentWrites() {
		if r := w.revision(); r != "" && (len(revisions) == 0 || revisions[len(revisions)-1] != r) {
			revisions = append(revisions, r)
		}
	}
	return revisions
}

// checkMoves makes sure that Belay put the Deployment on these revisions, in this order, and on no other.
func (o *object) checkMoves(want ...string) {
	o.Helper()
	if !o.counting() {
		return
	}
	if got := o.moves(); !slices.Equal(got, want) {
		o.Errorf("Belay put Deployment %s on the revisions %q, want %q", o.name, got, want)
	}
}

// revision returns the revision that a written Deployment runs.
func (w write) revision() string {
	var d struct {
		Metadata struct{ Annotations map[string]string }
	}
	_ = json.Unmarshal(w.Body, &d)
	return d.Metadata.Annotations[v1alpha1.RevisionAnnotation]
}

// allowed is all that Belay ever writes: nothing else, and never a GuardedDeployment itself.
var allowed = []string{
	"create deployments", "update deployments",
	"create controllerrevisions", "update controllerrevisions", "delete controllerrevisions",
	"update guardeddeployments/status", "create events", "patch events",
	"patch deployments/status", "patch replicasets", // where it guards in place
}

// allowedInPlace is what Belay writes besides where it guards Deployments in place: never what one asks for.
var allowedInPlace = []string{"patch deployments/status", "patch replicasets"}

// checkWrites makes sure of what holds for every write: it is one of the few that are allowed, Belay has the right to
// it, and it is conditional.
func (n *namespace) checkWrites() {
	n.Helper()
	if cluster.audit == nil {
		return
	}
	writes, err := cluster.audit.in(n.name)
	if err != nil {
		n.Error(err)
	}
	for _, w := range writes {
		kind := strings.TrimSuffix(w.Verb+" "+w.ObjectRef.Resource+"/"+w.ObjectRef.Subresource, "/")
		switch {
		case !slices.Contains(allowed, kind) && !(n.inPlace && slices.Contains(allowedInPlace, kind)):
			n.Errorf("Belay never does this: %s", w)
		case w.Response.Code == 403 && strings.Contains(w.Response.Message, "cannot "):
			if !n.lacks {
				n.Errorf("Belay lacks a right: %s", w)
			}
			continue // Nobody has looked at its body.
		case w.Response.Code == 409 && kind != "create events" && kind != "patch events":
			figures.count("conflicts of Belay's writes", 1, -1)
		}
		switch {
		case w.Verb == "update", kind == "patch deployments/status":
			if !bytes.Contains(w.Body, []byte(`"resourceVersion":"`)) {
				n.Errorf("an update without a resourceVersion: %s", w)
			}
		case w.Verb == "delete":
			if !bytes.Contains(w.Body, []byte(`"preconditions":{`)) {
				n.Errorf("a delete without preconditions: %s %s", w, w.Body)
			}
		}
	}
}
