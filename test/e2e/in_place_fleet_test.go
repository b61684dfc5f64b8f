package e2e

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
	"github.com/belay-dev/belay/test/evidence"
)

// From the moment when the pods' status shows that a release has failed, until the API server receives the write that holds it at 0.
// Also: a fix that changes the replicas too, and a bad release that does, are judged by what they are. Not parallel, because this
// measures.
func TestInPlace_HoldIsPrompt(t *testing.T) {
	needsHolds(t)
	const most = 5 * time.Second
	n := emptyNamespace(t)
	n.inPlace = true
	if !n.counting() {
		t.Skip("without an audit log it is not known when the hold was written")
	}
	n.belay = startBelay(t, n.name)
	figures.watchPace(t)
	fleet := make([]*inPlace, 30)
	for i := range fleet {
		fleet[i] = n.plain(fmt.Sprintf("app%02d", i), template(good, "1"), asksInPlace, size(2))
	}
	for _, p := range fleet {
		p.awaitGood()
	}
	shownSince, stop, err := evidence.Watch(n.Context(), cluster.kube, n.name, 1, 5*time.Second)
	if err != nil {
		n.Fatal(err)
	}
	n.Cleanup(stop)
	for i, p := range fleet {
		does := crash
		if i%4 == 3 {
			does = missing
		}
		p.release(template(does, "2"), size(int32(2+i%2)))
	}
	for _, p := range fleet {
		p.awaitRolledBack()
		shown, ok := shownSince(p.name)
		if !ok {
			t.Errorf("%s was rolled back without evidence", p.name)
			continue
		}
		figures.time("in place: time from evidence to the hold", p.heldSince().Sub(shown), most)
	}
	for i, p := range fleet {
		p.release(template(good, "3"), size(int32(3-i%2)))
	}
	for _, p := range fleet {
		p.awaitGood()
		p.awaitEvents(v1alpha1.ReasonRolledBack, 1)
	}
}

// heldSince returns when the API server received the write that holds the failed ReplicaSet at 0.
func (p *inPlace) heldSince() time.Time {
	p.Helper()
	_, current, _ := p.sets()
	for _, w := range p.writes() {
		if w.ObjectRef.Resource == "replicasets" && w.ObjectRef.Name == current.Name && w.Response.Code == 200 &&
			bytes.Contains(w.Body, []byte(`"`+v1alpha1.HeldAtLabel+`":"0.`)) {
			return w.At
		}
	}
	p.Fatalf("%s was never held at 0", current.Name)
	return time.Time{}
}
