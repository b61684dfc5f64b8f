package faults

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// law is one of those that stories are checked by.
type law func(say func(string, ...any))

// wantBreach makes sure that a law is broken, in one word if that is said, or kept if it is empty.
func wantBreach(t *testing.T, of law, want string) {
	t.Helper()
	got := breaches(of)
	if want == "" && len(got) > 0 || want != "" && !slices.ContainsFunc(got, func(words string) bool { return strings.Contains(words, want) }) {
		t.Errorf("the law says %q, want %q", got, want)
	}
}

// inPlaceStory is one of a good version 1 and a failing version 2, whose Deployment tells this of what failed.
func inPlaceStory(annotation, message string) *told {
	meta := func(name, rv string) metav1.ObjectMeta {
		return metav1.ObjectMeta{Namespace: "n", Name: name, ResourceVersion: rv}
	}
	good := &appsv1.ReplicaSet{ObjectMeta: meta("web-good", "1"), Spec: appsv1.ReplicaSetSpec{Template: template("good", "1")}}
	bad := &appsv1.ReplicaSet{ObjectMeta: meta("web-bad", "2"), Spec: appsv1.ReplicaSetSpec{Template: template("crash", "2")}}
	d := &appsv1.Deployment{ObjectMeta: meta(name, "3"), Spec: appsv1.DeploymentSpec{Template: template("crash", "2")}}
	if annotation != "" {
		d.Annotations = map[string]string{v1alpha1.FailureAnnotation: annotation}
	}
	d.Status.Conditions = []appsv1.DeploymentCondition{{Type: appsv1.DeploymentProgressing, Status: corev1.ConditionFalse, Reason: "ProgressDeadlineExceeded", Message: message}}
	return &told{story: story{name: "in-place", fails: "2"}, sights: []sight{{rv: 1, object: good}, {rv: 2, object: bad}, {rv: 3, object: d}}}
}

func TestLaws_WordsInPlace(t *testing.T) {
	for name, c := range map[string]struct{ annotation, message, want string }{
		"what failed":                   {`{"replicaSet": "web-bad"}`, "web-bad failed: it crashes", ""},
		"the good one in the condition": {`{"replicaSet": "web-bad"}`, "web-good failed: it crashes", "a condition says that 1 failed"},
		"the good one, nothing moves":   {"", "web-good failed: it crashes", "a condition says that 1 failed"},
		"the good one in the failure":   {`{"replicaSet": "web-good"}`, "web-bad failed: it crashes", "1 was found failed"},
		"no failure that can be read":   {`{`, "", "found failed"},
		"the controller's own words":    {"", `ReplicaSet "web-good" has timed out progressing.`, ""},
	} {
		t.Run(name, func(t *testing.T) {
			wantBreach(t, inPlaceStory(c.annotation, c.message).wordsInPlace, c.want)
			if broken := inPlaceStory(c.annotation, c.message).broken(); c.want != "" && !strings.Contains(strings.Join(broken, "\n"), c.want) {
				t.Errorf("a story is checked by other laws: %q", broken)
			}
		})
	}
}

func TestLaws_EventsTold(t *testing.T) {
	story := inPlaceStory("", "")
	event := func(note string) {
		story.events = []eventsv1.Event{{ReportingController: "belay", Reason: "CrashLoop", Note: note}}
	}
	event("web-bad failed: it crashes")
	wantBreach(t, story.eventsTold, "")
	event("web-good failed: it crashes")
	wantBreach(t, story.eventsTold, "an Event says that 1 failed")
}

func TestLaws_ToldOnceInPlace(t *testing.T) {
	s := inPlaceStory(`{"replicaSet": "web-bad", "reason": "CrashLoop", "time": "then"}`, "")
	good, bad := s.sights[0].object.(*appsv1.ReplicaSet), s.sights[1].object.(*appsv1.ReplicaSet)
	good.Labels = map[string]string{v1alpha1.VerdictLabel: v1alpha1.VerdictGood + "."}
	held := bad.DeepCopy()
	held.Labels = map[string]string{v1alpha1.HeldAtLabel: "0."}
	s.sights = append(s.sights, sight{rv: 4, object: s.sights[2].object}, sight{rv: 5, object: held})
	for _, e := range []eventsv1.Event{{Reason: "CrashLoop", Note: "web-bad failed: it crashes"}, {Reason: v1alpha1.ReasonRolledOut, Note: "web-good is good and running"},
		{Reason: v1alpha1.ReasonRolledBack, Note: "web-bad failed: it crashes; the Deployment is back on web-good"}} {
		e.ReportingController = "belay"
		s.events = append(s.events, e)
		wantBreach(t, s.toldOnce, "")
		twice := *s
		twice.events = append(slices.Clone(s.events), e)
		wantBreach(t, twice.toldOnce, "more often than it came to be stored: "+e.Reason)
	}
}

func TestLaws_Held(t *testing.T) {
	for name, c := range map[string]struct {
		set    int // which is held
		random bool
		good   bool // it was found good
		since  bool // another was found good since
		want   string
	}{
		"what failed":                         {1, false, false, false, ""},
		"what works":                          {0, false, false, false, "1 was held, and works"},
		"what works, and was passed over":     {0, true, false, false, ""},
		"what works, and was good":            {0, true, true, false, "1 was held, and works"},
		"what was good, before another":       {0, true, true, true, ""},
		"what failed, of many":                {1, true, false, false, ""},
		"what was good, by another failure":   {0, true, true, false, "the failure that is stored is not of web-good"},
		"what works, and nothing is chance's": {0, false, false, false, "the failure that is stored is not of web-good"},
	} {
		t.Run(name, func(t *testing.T) {
			s := inPlaceStory(`{"replicaSet": "web-bad"}`, "")
			s.random = c.random
			see := func(name string, labels map[string]string) {
				set := s.sights[c.set].object.(*appsv1.ReplicaSet).DeepCopy()
				set.Name, set.Labels = cmp.Or(name, set.Name), labels
				s.sights = append(s.sights, sight{rv: uint64(len(s.sights) + 1), object: set})
			}
			good := map[string]string{v1alpha1.VerdictLabel: v1alpha1.VerdictGood + "."}
			held := map[string]string{v1alpha1.HeldAtLabel: "0."}
			if c.good {
				see("", good)
				maps.Copy(held, good)
			}
			if c.since {
				see("web-other", good)
			}
			see("", held)
			wantBreach(t, s.held, c.want)
		})
	}
}

func TestLaws_Bounded(t *testing.T) {
	made := func(gets, updates, events int) *told {
		var all []exchange
		for resource, n := range map[string]int{"deployments": updates, "events": events} {
			all = slices.Concat(all, slices.Repeat([]exchange{{request: request{verb: "update", resource: resource}, number: 1, code: 200}}, n))
		}
		return &told{byBelay: [][]exchange{all, slices.Repeat([]exchange{{request: request{verb: "get", resource: "deployments"}, number: 1, code: 200}}, gets)}}
	}
	plain := made(10, 10, 10)
	for want, s := range map[string]*told{
		"": made(10, 10, 10),
		"91 requests, want at most 60 more than 30": made(71, 10, 10),
		"15 writes, want at most 4 more than 10":    made(10, 15, 10),
		"13 writes of Events, want at most 2 more":  made(10, 10, 13),
	} {
		wantBreach(t, s.bounded(plain), want)
	}
	wantBreach(t, made(10, 14, 12).bounded(plain), "")
}

func TestLaws_Rest(t *testing.T) {
	end := time.Now()
	for name, c := range map[string]struct {
		every        time.Duration
		rested, late bool
	}{
		"nothing is asked":        {time.Hour, true, false},
		"each second":             {time.Second, false, true},
		"each look":               {3 * time.Second, false, true},
		"each five seconds":       {5 * time.Second, false, true},
		"each status, and longer": {10*time.Second + 500*time.Millisecond, false, true},
	} {
		t.Run(name, func(t *testing.T) {
			var asked []exchange
			rested, late := false, false
			for now := end; !rested && !late && now.Before(end.Add(2*restWithin)); now = now.Add(pollEvery) {
				if next := end.Add(time.Duration(len(asked)+1) * c.every); !now.Before(next) {
					asked = append(asked, exchange{number: len(asked) + 1, at: next})
				}
				rested, late = restsSince(end, now, asked)
			}
			if rested != c.rested || late != c.late {
				t.Errorf("at rest: %t, too late: %t; want %t, %t", rested, late, c.rested, c.late)
			}
		})
	}
}

func TestLaws_Endings(t *testing.T) {
	for log, c := range map[string]struct {
		how string
		of  bool
	}{
		"belay: the Lease is lost: another process may lead now; start again":                         {"exit status 1", true},
		"panic: the Lease is lost: another process may lead now; start again":                         {"exit status 2", false},
		"belay: no change of deployments has been seen for 5m":                                        {"exit status 1", false},
		"belay: the Lease is lost: start again\nbelay: no change of deployments has been seen for 5m": {"exit status 1", false},
		"I0101 Wrote the Deployment":                                                                  {"signal: killed", false}, // by somebody else
	} {
		if of := (ending{c.how, log}).isOfLease(); of != c.of {
			t.Errorf("%s, %q: ended for the Lease: %t, want %t", c.how, log, of, c.of)
		}
	}
}

// Of stories that are told in a few minutes some have a long fault, and these begin first.
func TestLaws_Chosen(t *testing.T) {
	plain := map[string]*told{}
	for _, story := range stories {
		s := &told{byBelay: [][]exchange{nil}}
		for number := range 20 {
			verb := []string{"get", "update"}[number%2]
			s.byBelay[0] = append(s.byBelay[0], exchange{request: request{verb: verb, resource: []string{"deployments", "events"}[number/2%2]}, number: number + 1})
		}
		plain[story.name] = s
	}
	all := chosen(t, plain)
	if len(all) != *storiesFlag {
		t.Errorf("%d stories, want %d", len(all), *storiesFlag)
	}
	for i, p := range all {
		if p.fault.long != (i < *storiesFlag/longShare) {
			t.Errorf("story %d is of %s: long %t", i, p.fault.name, p.fault.long)
		}
		if e := plain[p.name].byBelay[0][p.at-1]; p.fault.only != nil && !p.fault.only(e.request) {
			t.Errorf("%s at %s", p.fault.name, e.request)
		}
	}
}

// twoLeaders is a story in which Belay 0 led from 10 to 20, and then Belay 1, of whose ControllerRevision "old" was deleted at 15.
func twoLeaders(by int, e exchange) *told {
	lease := func(rv uint64, holder string) sight {
		return sight{rv: rv, object: &coordinationv1.Lease{Spec: coordinationv1.LeaseSpec{HolderIdentity: &holder}}}
	}
	renewed := func(rv uint64) exchange {
		return exchange{request: request{verb: "update", resource: "leases", namespace: "n", name: "belay"}, code: 200, rv: rv}
	}
	old := &appsv1.ControllerRevision{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "old"}}
	s := &told{sights: []sight{lease(10, "a"), {rv: 15, object: old, deleted: true}, lease(20, "b")},
		byBelay: [][]exchange{{renewed(10)}, {renewed(20)}, nil}}
	s.byBelay[by] = append(s.byBelay[by], e)
	return s
}

func TestLaws_LedAgain(t *testing.T) {
	begun := time.Now()
	for name, c := range map[string]struct {
		stored []time.Duration // the Lease, after the beginning; the last is the end
		holder string
		want   string
	}{
		"renewed":         {[]time.Duration{0, time.Second, 2 * time.Second, 3 * time.Second}, "a", ""},
		"taken":           {[]time.Duration{0, ledWithin, ledWithin + time.Second}, "a", ""},
		"taken late":      {[]time.Duration{0, ledWithin + time.Second, ledWithin + 2*time.Second}, "a", "nobody had led for 26s"},
		"not taken again": {[]time.Duration{0, time.Second, ledWithin + 2*time.Second}, "a", "nobody had led for 26s"},
		"only given back": {[]time.Duration{0, time.Second, 2 * time.Second}, "", "nobody has ever led"},
		"never taken":     {[]time.Duration{0}, "", "nobody has ever led"},
	} {
		t.Run(name, func(t *testing.T) {
			end := len(c.stored) - 1
			s := &told{until: begun.Add(c.stored[end]), byBelay: [][]exchange{nil, nil}}
			for _, after := range c.stored[:end] {
				s.sights = append(s.sights, sight{at: begun.Add(after), object: &coordinationv1.Lease{Spec: coordinationv1.LeaseSpec{HolderIdentity: &c.holder}}})
			}
			wantBreach(t, s.ledAgain, c.want)
		})
	}
}

func TestLaws_OneLeader(t *testing.T) {
	write := func(verb, resource, name string, code int, rv uint64) exchange {
		return exchange{request: request{verb: verb, resource: resource, namespace: "n", name: name}, code: code, rv: rv}
	}
	for name, c := range map[string]struct {
		by   int
		e    exchange
		want string
	}{
		"its own":               {0, write("update", "deployments", "web", 200, 15), ""},
		"refused":               {1, write("update", "deployments", "web", 409, 0), ""},
		"before anybody led":    {0, write("update", "deployments", "web", 200, 5), "at [5] by belay 0"},
		"after it led":          {0, write("update", "deployments", "web", 200, 25), "at [25] by belay 0"},
		"a status":              {0, write("update", "guardeddeployments/status", "web", 200, 25), "at [25] by belay 0"},
		"an Event":              {0, write("create", "events", "", 201, 25), "at [25] by belay 0"},
		"its own delete":        {0, write("delete", "controllerrevisions", "old", 200, 0), ""},
		"another's delete":      {1, write("delete", "controllerrevisions", "old", 200, 0), "at [15] by belay 1"},
		"of another name":       {1, write("delete", "controllerrevisions", "other", 200, 0), ""},
		"by who never led":      {2, write("delete", "controllerrevisions", "other", 200, 0), "which never led"},
		"and has no version":    {2, write("create", "events", "", 201, 0), "which never led"},
		"no answer is not told": {2, write("create", "events", "", 0, 0), ""},
	} {
		t.Run(name, func(t *testing.T) { wantBreach(t, twoLeaders(c.by, c.e).oneLeader, c.want) })
	}
}
