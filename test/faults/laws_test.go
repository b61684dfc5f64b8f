package faults

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	eventsv1 "k8s.io/api/events/v1"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// told is all that is known of a story that has ended.
type told struct {
	story
	sights  []sight
	byBelay [][]exchange
	events  []eventsv1.Event
	// undisturbed says that nothing was done to Belay, random that what people do was chosen by chance, and ended that all was told.
	undisturbed, random, ended bool
	until                      time.Time // when it was looked at
}

// inOrder returns the sights in the order in which all of them were stored.
func (t *told) inOrder() []sight { return slices.SortedStableFunc(slices.Values(t.sights), byVersion) }

// move is a template that the Deployment had for a while.
type move struct {
	rv, until uint64 // of etcd, when it came and when the next one did
	version   string
	revision  string // the ControllerRevision that Belay says it is
}

// moves returns the templates that the Deployment had, one after the other. One that differs in anything is another one, whatever its version.
func (t *told) moves() (all []move) {
	last := ""
	for _, s := range t.sights {
		d, ok := s.object.(*appsv1.Deployment)
		if !ok || s.deleted {
			continue
		}
		version := versionOf(d.Spec.Template)
		if key := string(d.UID) + mustJSON(d.Spec.Template); key != last {
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
	return breaches(t.course, t.replicas, t.paused, t.verdicts, t.verdictFirst, t.revisions, t.words, t.statesTold, t.countsTold, t.runningTold,
		t.wordsInPlace, t.sets, t.held, t.heldOnce, t.eventsTold, t.toldOnce, t.untold, t.oneLeader, t.ledAgain)
}

// mustJSON returns a value as JSON.
func mustJSON(value any) string {
	data, err := json.Marshal(value)
	if err != nil {
		panic(err)
	}
	return string(data)
}

// breaches returns what these laws say.
func breaches(laws ...func(say func(format string, args ...any))) (words []string) {
	for _, law := range laws {
		law(func(format string, args ...any) { words = append(words, fmt.Sprintf(format, args...)) })
	}
	slices.Sort(words)
	return slices.Compact(words)
}

// course: there is exactly one rollback for each failed attempt, none of a healthy release, and nothing else moves. A story that has not come
// to its end has not come to its last versions.
func (t *told) course(say func(string, ...any)) {
	var ran []string
	for _, m := range t.moves() {
		ran = append(ran, m.version)
	}
	want := strings.Fields(t.runs)
	if !t.ended {
		want = want[:min(len(ran), len(want))]
	}
	if !slices.Equal(ran, want) && !(t.gaps && isPartOf(ran, want)) {
		say("the Deployment ran %q, want %q", strings.Join(ran, " "), t.runs)
	}
}

// isPartOf reports whether seen has the last of all and, of the others, some in their order.
func isPartOf(seen, all []string) bool {
	if len(seen) == 0 || seen[len(seen)-1] != all[len(all)-1] {
		return false
	}
	for _, one := range all {
		if len(seen) > 0 && seen[0] == one {
			seen = seen[1:]
		}
	}
	return len(seen) == 0
}

// underWay is how long after the spec was changed a write may still take effect that was decided before.
const underWay = 5 * time.Second

// replicas: the Deployment never has another number of pods than somebody asked for, and when it gets another template, it is the number that
// is asked for by then, give or take a write that is under way.
func (t *told) replicas(say func(string, ...any)) {
	asked, wanted, since, template := map[int32]bool{}, int32(0), time.Time{}, ""
	for _, s := range t.inOrder() {
		switch object := s.object.(type) {
		case *v1alpha1.GuardedDeployment:
			if replicas := *object.Spec.Replicas; len(asked) == 0 || replicas != wanted {
				asked[replicas], wanted, since = true, replicas, s.at
			}
		case *appsv1.Deployment:
			version := versionOf(object.Spec.Template)
			switch has, late := object.Spec.Replicas, s.at.Sub(since); {
			case len(asked) == 0:
			case !asked[*has]:
				say("the Deployment has %d replicas", *has)
			case *has != wanted && version != template && late > underWay && !t.isLate(s.rv):
				say("the Deployment came to %s with %d replicas, %s after %d were asked for", version, *has, late.Round(time.Second), wanted)
			}
			template = version
		}
	}
}

// isLate reports whether a write took effect after it was given up.
func (t *told) isLate(rv uint64) bool {
	return slices.ContainsFunc(slices.Concat(t.byBelay...), func(e exchange) bool { return e.rv == rv && strings.HasPrefix(e.fault, writeLate) })
}

// paused: while the spec is paused, no template changes.
func (t *told) paused(say func(string, ...any)) {
	paused, last := false, ""
	for _, s := range t.inOrder() {
		switch object := s.object.(type) {
		case *v1alpha1.GuardedDeployment:
			paused = object.Spec.Paused && !s.deleted
		case *appsv1.Deployment:
			template := mustJSON(object.Spec.Template)
			if paused && last != "" && template != last {
				say("the Deployment came to %s while it was paused", versionOf(object.Spec.Template))
			}
			last = template
		}
	}
}

// failing reports whether a version has to fail. What fails does so, too, when it is restarted.
func (t *told) failing(version string) bool {
	fails := strings.Fields(t.fails)
	return slices.Contains(fails, version) || slices.Contains(fails, strings.TrimSuffix(version, "+"))
}

// verdictFirst: that an attempt failed is stored before the Deployment moves away from it.
func (t *told) verdictFirst(say func(string, ...any)) {
	moves, judgements := t.moves(), t.judgements()
	if t.inPlace() || t.gaps {
		return
	}
	for i, m := range moves {
		if i+1 == len(moves) || !t.failing(m.version) {
			continue
		}
		stored := slices.ContainsFunc(judgements, func(j judgement) bool {
			failed := j.verdict == v1alpha1.VerdictFailed || (strings.HasSuffix(m.version, "+") && j.failure != "") // What was good stays it.
			return j.revision == m.revision && j.rv > m.rv && j.rv < m.until && failed
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

// all returns the requests of each Belay, none of a story that was not told.
func (t *told) all() [][]exchange {
	if t == nil {
		return nil
	}
	return t.byBelay
}

// requests returns how many requests Belay made about the story, how many of them were writes that took effect, and how many were those of
// Events, which are none of the others.
func (t *told) requests() (all, writes, events int) {
	for _, e := range slices.Concat(t.byBelay...) {
		if e.number == 0 {
			continue
		}
		all++
		switch {
		case !e.wrote():
		case e.resource == "events":
			events++
		default:
			writes++
		}
	}
	return all, writes, events
}
