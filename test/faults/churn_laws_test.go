package faults

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// check makes sure that its history breaks no law, and that it ended as it had to.
func (o *object) check() {
	events, err := cluster.kube.EventsV1().Events(o.namespace).List(o.Context(), metav1.ListOptions{})
	if err != nil {
		o.Fatal(err)
	}
	t := &told{story: story{name: "churn", fails: strings.Join(o.fails, " ")}, sights: cluster.observer.of(o.namespace), events: events.Items, random: true}
	if o.inPlace {
		t.name = "in-place"
	}
	for _, words := range breaches(t.verdicts, t.rolledBack, t.revisions, t.words, t.statesTold, t.countsTold, t.runningTold,
		t.wordsInPlace, t.sets, t.held, t.eventsTold, t.toldOnce, func(say func(string, ...any)) { o.ended(t, say) }) {
		o.Error(words)
	}
	if o.Failed() {
		o.Logf("%s\n%s", t.history(), o.tell())
	}
}

// ended: what was asked to fail at the end was taken back once, and the others were left alone.
func (o *object) ended(t *told, say func(string, ...any)) {
	switch {
	case o.atRest == 0: // It never was, which is said already.
		return
	case o.bad == "":
		if d := cluster.observer.now(o.namespace).deployment; d.Generation != o.atRest || base(versionOf(d.Spec.Template)) != o.good {
			say("the Deployment was changed at rest: it runs %s, generation %d, and ran %s, generation %d", versionOf(d.Spec.Template), d.Generation, o.good, o.atRest)
		}
		return
	}
	times := 0
	for _, h := range t.holds() {
		if h.version == o.bad {
			times++
		}
	}
	for _, r := range t.rollbacks() {
		if r.from == o.bad && r.to == o.good {
			times++
		}
	}
	if times != 1 {
		say("%s was taken back %d times", o.bad, times)
	}
}

// base returns a version without the sign that it was restarted.
func base(version string) string { return strings.TrimSuffix(version, "+") }

// judgement is what was stored of a version.
type judgement struct {
	rv       uint64
	revision string
	version  string
	verdict  string // empty while an attempt is under way
	failure  string
}

// judgements returns what the ControllerRevisions said, one after the other.
func (t *told) judgements() (all []judgement) {
	for _, s := range t.sights {
		r, ok := s.object.(*appsv1.ControllerRevision)
		if !ok || s.deleted {
			continue
		}
		data := struct {
			Spec struct{ Template corev1.PodTemplateSpec }
		}{}
		if err := json.Unmarshal(r.Data.Raw, &data); err != nil || len(data.Spec.Template.Spec.Containers) == 0 {
			panic(fmt.Sprintf("the data of ControllerRevision %s: %s", r.Name, r.Data.Raw))
		}
		j := judgement{rv: s.rv, revision: r.Name, version: versionOf(data.Spec.Template), failure: r.Annotations[v1alpha1.FailureAnnotation]}
		if r.Annotations[v1alpha1.AttemptAnnotation] == "" {
			j.verdict = r.Annotations[v1alpha1.VerdictAnnotation]
		}
		all = append(all, j)
	}
	return all
}

// verdicts: what can only fail is never good, and what works never failed.
func (t *told) verdicts(say func(string, ...any)) {
	for _, j := range t.judgements() {
		switch {
		case j.verdict == v1alpha1.VerdictGood && t.failing(j.version):
			say("%s was found good", j.version)
		case j.verdict == v1alpha1.VerdictFailed && !t.failing(j.version):
			say("%s was found failed: %s", j.version, j.failure)
		}
	}
}

// ask is when a version was asked for.
type ask struct {
	rv      uint64
	version string
}

// asks returns what the GuardedDeployment asked for, one after the other.
func (t *told) asks() (all []ask) {
	for _, s := range t.sights {
		g, ok := s.object.(*v1alpha1.GuardedDeployment)
		if !ok || s.deleted {
			continue
		}
		if version := versionOf(g.Spec.Template); len(all) == 0 || all[len(all)-1].version != version {
			all = append(all, ask{s.rv, version})
		}
	}
	return all
}

// rollback is a move to what was asked for before what was left.
type rollback struct {
	asked, rv uint64 // when what was left had been asked for, and when it was left
	from, to  string
}

// rollbacks returns those of a GuardedDeployment.
func (t *told) rollbacks() (all []rollback) {
	asks := t.asks()
	last := func(version string, before uint64) (rv uint64) {
		for _, a := range asks {
			if a.version == version && a.rv < before {
				rv = a.rv
			}
		}
		return rv
	}
	from := move{}
	for _, to := range t.moves() {
		if to.version = base(to.version); to.version == from.version {
			continue
		}
		// What ran may have been asked for again just now: the move is from what was asked for before it ran.
		if asked := last(from.version, from.rv); last(to.version, to.rv) < asked {
			all = append(all, rollback{asked: asked, rv: to.rv, from: from.version, to: to.version})
		}
		from = to
	}
	return all
}

// rolledBack: a GuardedDeployment goes back once for each time that it asked for what fails, to what is good, and after it is stored.
func (t *told) rolledBack(say func(string, ...any)) {
	judgements, was := t.judgements(), map[uint64]bool{}
	if t.inPlace() {
		return
	}
	for _, r := range t.rollbacks() {
		stored := func(version, verdict string, since uint64) bool {
			return slices.ContainsFunc(judgements, func(j judgement) bool {
				return j.version == version && j.verdict == verdict && j.rv > since && j.rv < r.rv
			})
		}
		if !t.failing(r.from) {
			say("%s works, and %s came in its place at %d", r.from, r.to, r.rv)
		}
		if !stored(r.from, v1alpha1.VerdictFailed, r.asked) {
			say("%s, asked for at %d, was left at %d with no failure stored", r.from, r.asked, r.rv)
		}
		if !stored(r.to, v1alpha1.VerdictGood, 0) {
			say("%s was gone back to at %d, and was not good", r.to, r.rv)
		}
		if was[r.asked] {
			say("%s, asked for at %d, was taken back again at %d", r.from, r.asked, r.rv)
		}
		was[r.asked] = true
	}
}

// history tells, in order, what was asked for, what ran, how many pods it had, and what was found.
func (t *told) history() string {
	sights := t.inOrder()
	var lines []string
	for _, s := range sights {
		line := ""
		switch object := s.object.(type) {
		case *v1alpha1.GuardedDeployment:
			line = fmt.Sprintf("asks for %s, replicas %d, paused %t; Ready: %s %s", versionOf(object.Spec.Template), *object.Spec.Replicas, object.Spec.Paused, ready(object).Reason, ready(object).Message)
		case *appsv1.Deployment:
			line = fmt.Sprintf("runs %s, replicas %d, paused %t; %d pods, %d updated, %d available; %s", versionOf(object.Spec.Template), *object.Spec.Replicas, object.Spec.Paused,
				object.Status.Replicas, object.Status.UpdatedReplicas, object.Status.AvailableReplicas, object.Annotations[v1alpha1.FailureAnnotation])
		case *appsv1.ReplicaSet:
			line = fmt.Sprintf("%s: held at %q, good %t; wants %d, has %d, %d available", versionOf(object.Spec.Template), heldAt(object), isGood(object),
				*object.Spec.Replicas, object.Status.Replicas, object.Status.AvailableReplicas)
		case *appsv1.ControllerRevision:
			line = fmt.Sprintf("%s: %v", object.Name, object.Annotations)
		}
		if s.deleted {
			line += "; deleted"
		}
		lines = append(lines, fmt.Sprintf("%d %T %s", s.rv, s.object, line))
	}
	return strings.Join(lines, "\n")
}
