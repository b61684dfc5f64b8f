package faults

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
	"github.com/belay-dev/belay/pkg/rollout"
)

// eventsTold: no Event tells of what did not happen, and none of a rollback more often than there was one.
func (t *told) eventsTold(say func(string, ...any)) {
	versions := t.versionsOfRevisions()
	maps.Copy(versions, t.versionsOfSets())
	for _, e := range t.eventsOfBelay() {
		if t.isFalse(e.Reason) && !warns(e) {
			say("an Event says %s: %s", e.Reason, e.Note)
		}
		of, _, told := strings.Cut(e.Note, failed)
		of, restarted := strings.CutPrefix(of, "the restart of ")
		if version, known := versions[of]; told && known && !t.failing(version+"+") && (restarted || !t.failing(version)) {
			say("an Event says that %s failed: %s", version, e.Note)
		}
		if good, _, told := strings.Cut(e.Note, " is good and running"); told && t.failing(versions[good]) {
			say("an Event says that %s is good", versions[good])
		}
		if _, back, told := strings.Cut(e.Note, " is back on "); told && t.failing(versions[strings.FieldsFunc(back, isEndOfName)[0]]) {
			say("an Event says that the Deployment is back on what failed: %s", e.Note)
		}
	}
	if told, most := t.rollbacksTold(), len(strings.Fields(t.fails)); told > most {
		say("%d Events tell of a rollback, of %d at most", told, most)
	}
}

// eventsOfBelay returns those that Belay has recorded.
func (t *told) eventsOfBelay() []eventsv1.Event {
	return slices.DeleteFunc(slices.Clone(t.events), func(e eventsv1.Event) bool { return e.ReportingController != "belay" })
}

// isEndOfName reports whether a letter follows a name in a sentence.
func isEndOfName(letter rune) bool { return letter == ' ' || letter == ',' }

// untold: where nothing is disturbed, an Event tells of every rollback.
func (t *told) untold(say func(string, ...any)) {
	if most := len(strings.Fields(t.fails)); t.undisturbed && t.rollbacksTold() != most {
		say("%d Events tell of a rollback, want %d", t.rollbacksTold(), most)
	}
}

// rollbacksTold returns how many Events tell of a rollback, or of a restart that was undone.
func (t *told) rollbacksTold() (n int) {
	for _, e := range t.eventsOfBelay() {
		if e.Reason == v1alpha1.ReasonRolledBack || (e.Reason == v1alpha1.ReasonRestartFailed && e.Action == rollout.ActionPutBack) {
			n += times(e)
		}
	}
	return n
}

// warns reports whether it only tells what would be if something failed.
func warns(e eventsv1.Event) bool { return e.Action == "Guard" && strings.HasPrefix(e.Note, "if ") }

// times returns how often the Event was told.
func times(e eventsv1.Event) int {
	if e.Series != nil {
		return int(e.Series.Count)
	}
	return 1
}

// news is something that came to be stored, and that one Event may tell of.
type news struct {
	reason string
	notes  []string // how that one begins: it has the words of one of the writes that stored this
}

// toldOnce: of what came to be stored an Event tells once at most, of failures and ends of a release at least. What is put back has no such
// place, nor that Belay begins to guard what is under way.
func (t *told) toldOnce(say func(string, ...any)) {
	if t.gaps {
		return
	}
	left := slices.Concat(t.newsOfStatus(), t.newsInPlace())
	for _, e := range t.eventsOfBelay() {
		if e.Action == rollout.ActionPutBack || e.Reason == v1alpha1.ReasonProgressing || warns(e) {
			continue
		}
		for range times(e) {
			i := slices.IndexFunc(left, func(n news) bool {
				return n.reason == e.Reason && slices.ContainsFunc(n.notes, func(note string) bool { return strings.HasPrefix(e.Note, note) })
			})
			if i < 0 {
				say("an Event tells more often than it came to be stored: %s: %s", e.Reason, e.Note)
				break
			}
			left = slices.Delete(left, i, i+1)
		}
	}
}

// newsOfStatus returns what the status of a GuardedDeployment came to say: each failure, and each reason of Ready about what was asked for.
func (t *told) newsOfStatus() (all []news) {
	failure, state, last := "", "", 0
	for _, s := range t.sights {
		g, ok := s.object.(*v1alpha1.GuardedDeployment)
		if !ok || s.deleted {
			continue
		}
		was := failure
		if failure = ""; g.Status.Failure != nil {
			failure = g.Status.Failure.Revision + g.Status.Failure.Time.String()
		}
		if failure != "" && failure != was {
			of := g.Status.Failure.Revision + failed
			all = append(all, news{g.Status.Failure.Reason, []string{of, "the restart of " + of}})
		}
		c := meta.FindStatusCondition(g.Status.Conditions, v1alpha1.ConditionReady)
		if c == nil {
			continue
		}
		if is := string(g.UID) + c.Reason + g.Status.TargetRevision; is != state {
			state, last = is, len(all)
			all = append(all, news{reason: c.Reason})
		}
		// What was stored with no answer is told in the words of the next write.
		all[last].notes = append(all[last].notes, rollout.Clean(c.Message, rollout.MaxEvent))
	}
	return all
}

// newsInPlace returns what a Deployment that is guarded as it is, and its ReplicaSets, came to say: each failure, each that is good and each
// that is held.
func (t *told) newsInPlace() (all []news) {
	stored, good := map[string]bool{}, map[string]bool{}
	for _, s := range t.inOrder() {
		switch object := s.object.(type) {
		case *appsv1.Deployment:
			f := struct{ ReplicaSet, Reason, Time string }{}
			_ = json.Unmarshal([]byte(object.Annotations[v1alpha1.FailureAnnotation]), &f) // One that cannot be read is another law's.
			if key := f.ReplicaSet + f.Time; f.ReplicaSet != "" && !stored[key] {
				stored[key] = true
				all = append(all, news{f.Reason, []string{f.ReplicaSet + failed}})
			}
		case *appsv1.ReplicaSet:
			if is := isGood(object) && !s.deleted; is != good[object.Name] {
				if good[object.Name] = is; is {
					all = append(all, news{v1alpha1.ReasonRolledOut, []string{object.Name + " "}})
				}
			}
		}
	}
	for _, h := range t.holds() {
		all = append(all, news{v1alpha1.ReasonRolledBack, []string{h.set + failed}})
	}
	return all
}
