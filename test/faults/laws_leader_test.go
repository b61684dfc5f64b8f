package faults

import (
	"slices"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	"k8s.io/apimachinery/pkg/api/meta"
)

// tenure is that the Lease was stored.
type tenure struct {
	rv uint64
	by int // the Belay that stored it as its own, -1 if that is not known or it was given back
}

// tenures returns them in order.
func (t *told) tenures() (all []tenure) {
	owner := map[uint64]int{} // by the resourceVersion of the Lease
	for i, exchanges := range t.byBelay {
		for _, e := range exchanges {
			if e.resource == "leases" && e.writes() && e.rv > 0 {
				owner[e.rv] = i
			}
		}
	}
	for _, s := range t.sights {
		lease, ok := s.object.(*coordinationv1.Lease)
		if !ok {
			continue
		}
		by, known := owner[s.rv]
		if !known || s.deleted || !isHeld(lease) {
			by = -1
		}
		all = append(all, tenure{s.rv, by})
	}
	return all
}

// storedAt returns the resourceVersions at which a write may have taken effect, none if that is not known. The answer to a delete has
// none: it is that of a deletion of what has this name, and there may be several.
func (t *told) storedAt(e exchange) (all []uint64) {
	if e.rv > 0 {
		return []uint64{e.rv}
	}
	if e.verb != "delete" {
		return nil
	}
	for _, s := range t.sights {
		accessor, err := meta.Accessor(s.object)
		if err == nil && s.deleted && accessor.GetNamespace() == e.namespace && accessor.GetName() == e.name && resourceOf(s.object) == e.resource {
			all = append(all, s.rv)
		}
	}
	return all
}

// oneLeader: a write of whatever kind, Events and statuses, too, takes effect only while the Lease is stored as that process's. Not known
// is what became of a request whose answer the proxy never got: these are left out.
func (t *told) oneLeader(say func(string, ...any)) {
	if len(t.byBelay) < 2 {
		return
	}
	tenures := t.tenures()
	for i, exchanges := range t.byBelay {
		leads := func(rv uint64) bool {
			after, _ := slices.BinarySearchFunc(tenures, rv, func(held tenure, rv uint64) int {
				if held.rv < rv {
					return -1
				}
				return 1
			})
			return after > 0 && tenures[after-1].by == i
		}
		led := slices.ContainsFunc(tenures, func(held tenure) bool { return held.by == i })
		for _, e := range exchanges {
			if !e.wrote() || e.resource == "leases" || e.namespace == "" {
				continue
			}
			at := t.storedAt(e)
			switch {
			case !led:
				say("%s was written by belay %d, which never led", e.request, i)
			case len(at) > 0 && !slices.ContainsFunc(at, leads):
				say("%s was written at %d by belay %d, and the Lease was not its own then", e.request, at, i)
			}
		}
	}
}

// ledWithin is how long it may take until another one leads. A Lease lasts 15 s; who waits for it looks at it every second, or up to 2.2 times
// as late, so it may see that late that it was renewed last and, when that has lasted, that late that nobody has it: 19.4 s. The rest is for
// a machine with many Belays.
const ledWithin = 25 * time.Second

// isHeld reports whether somebody has the Lease.
func isHeld(lease *coordinationv1.Lease) bool {
	return lease.Spec.HolderIdentity != nil && *lease.Spec.HolderIdentity != ""
}

// ledAgain: where there are two, the Lease is renewed or taken, again and again, whatever becomes of who has it.
func (t *told) ledAgain(say func(string, ...any)) {
	var last time.Time
	again := func(at time.Time) {
		if !last.IsZero() && at.Sub(last) > ledWithin {
			say("nobody had led for %s, want at most %s", at.Sub(last), ledWithin)
		}
		last = at
	}
	for _, s := range t.sights {
		if lease, ok := s.object.(*coordinationv1.Lease); ok && !s.deleted && isHeld(lease) {
			again(s.at)
		}
	}
	if last.IsZero() && len(t.byBelay) > 1 {
		say("nobody has ever led")
	}
	again(t.until)
}
