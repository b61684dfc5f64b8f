package faults

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// told is all that is known of a story that has ended.
type told struct {
	story
	sights  []sight
	byBelay [][]exchange
	events  []eventsv1.Event
}

// move is a template that the Deployment had for a while.
type move struct {
	rv, until uint64 // of etcd, when it came and when the next one did
	version   string
	revision  string // the ControllerRevision that Belay says it is
}

// moves returns the templates that the Deployment had, one after the other.
func (t *told) moves() (all []move) {
	last := ""
	for _, s := range t.sights {
		d, ok := s.object.(*appsv1.Deployment)
		if !ok || s.deleted {
			continue
		}
		version := versionOf(d.Spec.Template)
		if key := string(d.UID) + version; key != last {
			if len(all) > 0 {
				all[len(all)-1].until = s.rv
			}
			last, all = key, append(all, move{rv: s.rv, until: ^uint64(0), version: version})
		}
		all[len(all)-1].revision = d.Annotations[v1alpha1.RevisionAnnotation]
	}
	return all
}

// broken returns which laws the story broke, in words.
func (t *told) broken() []string {
	return breaches(t.course, t.verdictFirst, t.revisions, t.words, t.wordsInPlace, t.sets, t.heldOnce, t.eventsTold, t.oneLeader)
}

// breaches returns what these laws say.
func breaches(laws ...func(say func(format string, args ...any))) (words []string) {
	for _, law := range laws {
		law(func(format string, args ...any) { words = append(words, fmt.Sprintf(format, args...)) })
	}
	slices.Sort(words)
	return slices.Compact(words)
}

// course: there is exactly one rollback for each failed attempt, none of a healthy release, and nothing else moves.
func (t *told) course(say func(string, ...any)) {
	var versions []string
	for _, m := range t.moves() {
		versions = append(versions, m.version)
	}
	if got := strings.Join(versions, " "); got != t.runs {
		say("the Deployment ran %q, want %q", got, t.runs)
	}
}

// failing reports whether a version has to fail. What fails does so, too, when it is restarted.
func (t *told) failing(version string) bool {
	fails := strings.Fields(t.fails)
	return slices.Contains(fails, version) || slices.Contains(fails, strings.TrimSuffix(version, "+"))
}

// verdictFirst: what failed is stored before the Deployment moves away from it.
func (t *told) verdictFirst(say func(string, ...any)) {
	moves := t.moves()
	if t.inPlace() || t.gaps {
		return
	}
	for i, m := range moves {
		if i+1 == len(moves) || !t.failing(m.version) {
			continue
		}
		stored := slices.ContainsFunc(t.sights, func(s sight) bool {
			r, ok := s.object.(*appsv1.ControllerRevision)
			return ok && r.Name == m.revision && s.rv > m.rv && s.rv < m.until && r.Annotations[v1alpha1.FailureAnnotation] != ""
		})
		if !stored {
			say("the Deployment left %s with no failure stored", m.version)
		}
	}
}

// revisions: whatever becomes of an answer, a template is recorded once.
func (t *told) revisions(say func(string, ...any)) {
	names := map[string]string{}
	for _, s := range t.sights {
		r, ok := s.object.(*appsv1.ControllerRevision)
		if !ok {
			continue
		}
		key := string(r.OwnerReferences[0].UID) + string(r.Data.Raw)
		if was, known := names[key]; known && was != r.Name {
			say("the ControllerRevisions %s and %s have the same template", was, r.Name)
		}
		names[key] = r.Name
	}
}

// falseReasons are words about what did not happen in any story.
var falseReasons = []string{v1alpha1.ReasonContested, v1alpha1.ReasonNameTaken, v1alpha1.ReasonInvalid, v1alpha1.ReasonDenied, v1alpha1.ReasonSyncFailing,
	v1alpha1.ReasonNoGoodRevision, v1alpha1.ReasonHeld, v1alpha1.ReasonRollbackFailed}

// versionsOfRevisions returns of which version each ControllerRevision is that the Deployment ran, by its name.
func (t *told) versionsOfRevisions() map[string]string {
	versions := map[string]string{}
	for _, m := range t.moves() {
		versions[m.revision] = m.version
	}
	return versions
}

// words: no status says what is not so.
func (t *told) words(say func(string, ...any)) {
	versions := t.versionsOfRevisions()
	for _, s := range t.sights {
		g, ok := s.object.(*v1alpha1.GuardedDeployment)
		if !ok {
			continue
		}
		if f := g.Status.Failure; f != nil && !t.failing(versions[f.Revision]) && !t.failing(versions[f.Revision]+"+") {
			say("the status says that %s failed: %s", versions[f.Revision], f.Message)
		}
		if good := versions[g.Status.GoodRevision]; t.failing(good) {
			say("the status says that %s is good", good)
		}
		c := meta.FindStatusCondition(g.Status.Conditions, v1alpha1.ConditionReady)
		if c != nil && slices.Contains(falseReasons, c.Reason) {
			say("a condition says %s: %s", c.Reason, c.Message)
		}
		if c != nil && (c.Reason == v1alpha1.ReasonRolledBack || c.Reason == v1alpha1.ReasonRestartFailed) && g.Status.Failure == nil {
			say("a condition says %s, and the status has no failure", c.Reason)
		}
	}
}

// eventsTold: no Event tells of what did not happen, and none of a rollback more often than there was one.
func (t *told) eventsTold(say func(string, ...any)) {
	rollbacks, versions := 0, t.versionsOfRevisions()
	maps.Copy(versions, t.versionsOfSets())
	for _, e := range t.events {
		times := 1
		if e.Series != nil {
			times = int(e.Series.Count)
		}
		if e.ReportingController != "belay" {
			continue
		}
		if slices.Contains(falseReasons, e.Reason) {
			say("an Event says %s: %s", e.Reason, e.Note)
		}
		of, _, told := strings.Cut(e.Note, failed)
		if version, known := versions[of]; told && known && !t.failing(version) && !t.failing(version+"+") {
			say("an Event says that %s failed: %s", version, e.Note)
		}
		if e.Reason == v1alpha1.ReasonRolledBack {
			rollbacks += times
		}
	}
	if most := len(strings.Fields(t.fails)); rollbacks > most {
		say("%d Events tell of a rollback, of %d at most", rollbacks, most)
	}
}

// all returns the requests of each Belay, none of a story that was not told.
func (t *told) all() [][]exchange {
	if t == nil {
		return nil
	}
	return t.byBelay
}

// requests returns how many of Belay's requests about the story were writes that took effect, Events left out, and how many there were.
func (t *told) requests() (writes, all int) {
	for _, e := range slices.Concat(t.byBelay...) {
		if e.number == 0 {
			continue
		}
		all++
		if e.writes() && e.resource != "events" && e.code >= 200 && e.code < 300 {
			writes++
		}
	}
	return writes, all
}
