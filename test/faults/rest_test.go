package faults

import "time"

// restFor is how long a Belay that has nothing to do must ask for nothing, within restWithin of the end of a story. While something is
// under way it looks every three seconds and writes a status every ten: a loop that is left behind shows in a gap that is longer.
const restFor, restWithin = 12 * time.Second, 45 * time.Second

// awaitRest waits until no Belay asks for anything any more, and then for the end of the story once more: what a fault has still done
// must not have changed it.
func (s *scene) awaitRest() {
	s.Helper()
	what, is, end := s.awaited, s.isSo, time.Now()
	s.await("nothing is asked for at rest", func() bool {
		var exchanges [][]exchange
		for _, b := range s.belays {
			exchanges = append(exchanges, b.noted())
			if over := b.overAt(); over.After(end) { // Who is stopped, or sees nothing, is not at rest.
				end = over
			}
		}
		rested, late := restsSince(end, time.Now(), exchanges...)
		if late {
			s.Fatalf(lawBroken+"belay goes on asking at rest\n%s", s.tell())
		}
		return rested
	})
	s.await(what+", at rest", is)
}

// restOthers is how many requests there may be in restFor that have no number: each of three caches is compared with what is stored, and
// its watch may have to be opened again.
const restOthers = 6

// restsSince reports whether nothing has been asked for long enough since the end of a story, and whether something still was so late that it
// is no rest.
func restsSince(end, now time.Time, byBelay ...[]exchange) (rested, late bool) {
	last, others := end, 0
	for _, exchanges := range byBelay {
		for _, e := range exchanges {
			switch {
			case e.number > 0 && e.at.After(last):
				last = e.at
			case e.number == 0 && e.resource != "leases" && now.Sub(e.at) < restFor:
				others++
			}
		}
	}
	return now.Sub(last) > restFor && others <= restOthers*len(byBelay), last.Sub(end) > restWithin
}
