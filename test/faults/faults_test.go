package faults

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// lawBroken is how the words begin that a law was broken, or a promise, and not just that something did not come.
const lawBroken = "a law is broken: "

// tell tells a story, with a fault at the request of this number, and checks what has become of it. It returns what happened.
func tell(t *testing.T, story story, f *fault, at int) *told {
	t.Helper()
	s := newScene(t)
	s.late = f != nil && strings.HasPrefix(f.name, writeLate)
	if f != nil && f.leaders {
		s.start("--leader-elect", "--leader-elect-namespace", s.namespace)
		s.start("--leader-elect", "--leader-elect-namespace", s.namespace)
		s.belays[0].other, s.belays[1].other = s.belays[1].proxy, s.belays[0].proxy
		f = once(f)
	} else {
		s.start()
	}
	if story.before != nil {
		story.before(s)
	}
	for _, b := range s.belays {
		b.begin(f, at)
	}
	result := &told{story: story, undisturbed: f == nil && !story.gaps}
	defer s.judge(result, f) // also if it does not come to its end
	story.told(s)
	s.awaitRest()
	result.ended = true
	return result
}

// judge notes what has happened, and says which laws it broke.
func (s *scene) judge(result *told, f *fault) {
	s.Helper()
	result.until = time.Now()
	s.insist(func() error {
		events, err := cluster.kube.EventsV1().Events(s.namespace).List(s.Context(), metav1.ListOptions{})
		if err == nil {
			result.events = events.Items
		}
		return err
	})
	result.sights = cluster.observer.of(s.namespace)
	for _, b := range s.belays {
		result.byBelay = append(result.byBelay, b.noted())
		for _, e := range b.endings() {
			if f == nil || !f.leaders || !e.isOfLease() {
				s.Errorf(lawBroken+"belay has ended by itself: %s\n%s", e.how, e.log)
			}
		}
	}
	for _, words := range result.broken() {
		s.Error(lawBroken + words)
	}
	if s.Failed() {
		s.Log(s.tell())
	}
}

// start starts one more Belay in the namespace, and waits until it watches.
func (s *scene) start(args ...string) {
	s.Helper()
	s.startIn(s.namespace, args...)
}

// startIn is start for another namespace, or for all.
func (s *scene) startIn(namespace string, args ...string) {
	s.Helper()
	b := startBelay(s.T, namespace, args...)
	s.belays = append(s.belays, b)
	b.awaitWatching(s.T)
}

// reached reports whether the fault took effect.
func (t *told) reached() bool {
	return slices.ContainsFunc(slices.Concat(t.byBelay...), func(e exchange) bool { return e.fault != "" })
}

// perturbed is a story with a fault at one of its requests.
type perturbed struct {
	story
	fault *fault
	at    int
}

const (
	// sampled is at how many requests, of all stories, a fault is tried that is not tried at every one.
	sampled, sampledLong = 40, 30
	// moreWrites is how many more writes than undisturbed a story with one fault may take, moreEvents of Events, and moreRequests of all
	// requests.
	moreWrites, moreEvents, moreRequests = 4, 2, 60
	// longShare is of how many stories one has a long fault, if not all are told.
	longShare = 30
)

// TestFaults tells each story once undisturbed, and then again and again with one fault at one request.
func TestFaults(t *testing.T) {
	plain := map[string]*told{}
	var mu sync.Mutex
	t.Run("undisturbed", func(t *testing.T) {
		for _, story := range stories {
			if !matches(*storyFlag, story.name) {
				continue
			}
			t.Run(story.name, func(t *testing.T) {
				t.Parallel()
				result := tell(t, story, nil, 0)
				mu.Lock()
				defer mu.Unlock()
				plain[story.name] = result
			})
		}
	})
	if t.Failed() {
		return
	}
	for _, name := range slices.Sorted(maps.Keys(plain)) {
		all, writes, events := plain[name].requests()
		t.Logf("%-12s %3d writes, %d of Events, %3d requests", name, writes, events, all)
	}
	figures := newFigures()
	t.Cleanup(func() { figures.print(t) })
	all := chosen(t, plain)
	if len(all) == 0 {
		t.Fatal("there is no such fault at such a request of such a story")
	}
	for _, p := range all {
		t.Run(fmt.Sprintf("%s/%d/%s", p.name, p.at, p.fault.name), func(t *testing.T) {
			t.Parallel()
			defer figures.count(t, p, len(all))
			result := tell(t, p.story, p.fault, p.at)
			if !result.reached() {
				figures.miss(p)
				return
			}
			for _, words := range breaches(result.bounded(plain[p.name])) {
				t.Error(lawBroken + words)
			}
		})
	}
}

// bounded: a story takes not many more requests than it does undisturbed.
func (t *told) bounded(plain *told) func(say func(string, ...any)) {
	return func(say func(string, ...any)) {
		all, writes, events := t.requests()
		plainAll, plainWrites, plainEvents := plain.requests()
		for _, c := range []struct {
			what                string
			made, plainly, more int
		}{{"requests", all, plainAll, moreRequests}, {"writes", writes, plainWrites, moreWrites}, {"writes of Events", events, plainEvents, moreEvents}} {
			if c.made > c.plainly+c.more {
				say("%d %s, want at most %d more than %d", c.made, c.what, c.more, c.plainly)
			}
		}
	}
}

func matches(expression, name string) bool { return regexp.MustCompile(expression).MatchString(name) }

// chosen returns the perturbed stories to tell: a fault that can part what was written from what is known of it at every write, others
// at some requests.
func chosen(t *testing.T, plain map[string]*told) (all []perturbed) {
	if *seedFlag == 0 {
		*seedFlag = uint64(time.Now().UnixNano())
	}
	t.Logf("-seed %d", *seedFlag)
	random := rand.New(rand.NewPCG(*seedFlag, 0))
	some := func(of []perturbed, n int) []perturbed {
		random.Shuffle(len(of), func(i, j int) { of[i], of[j] = of[j], of[i] })
		return of[:min(len(of), n)]
	}
	everything := *storyFlag != "" || *faultFlag != "" || *atFlag != 0
	for _, f := range faults() {
		var writes, others []perturbed
		for _, story := range stories {
			for _, e := range slices.Concat(plain[story.name].all()...) {
				switch p := (perturbed{story, f, e.number}); {
				case e.number == 0 || !matches(*faultFlag, f.name) || *atFlag != 0 && *atFlag != e.number:
				case f.only != nil && !f.only(e.request):
				case f.parts && e.writes():
					writes = append(writes, p)
				default:
					others = append(others, p)
				}
			}
		}
		switch {
		case everything:
		case f.long:
			others = some(others, sampledLong)
		default:
			others = some(others, sampled)
		}
		all = slices.Concat(all, writes, others)
	}
	if *storiesFlag == 0 {
		return some(all, len(all))
	}
	if everything {
		return some(all, *storiesFlag)
	}
	long := slices.DeleteFunc(slices.Clone(all), func(p perturbed) bool { return !p.fault.long })
	all = slices.DeleteFunc(all, func(p perturbed) bool { return p.fault.long })
	few := *storiesFlag / longShare
	return slices.Concat(some(long, few), some(all, *storiesFlag-few)) // The long ones begin first.
}
