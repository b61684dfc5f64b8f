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

	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// tell tells a story, with a fault at the request of this number, and checks what has become of it. It returns what happened.
func tell(t *testing.T, story story, f *fault, at int) *told {
	t.Helper()
	s := newScene(t)
	s.late = f != nil && strings.HasPrefix(f.name, writeLate)
	if f != nil && f.leaders {
		s.start("--leader-elect", "--leader-elect-namespace", s.namespace)
		s.start("--leader-elect", "--leader-elect-namespace", s.namespace)
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
	story.told(s)
	s.awaitRest()
	var events *eventsv1.EventList
	s.insist(func() (err error) {
		events, err = cluster.kube.EventsV1().Events(s.namespace).List(t.Context(), metav1.ListOptions{})
		return err
	})
	result := &told{story: story, sights: cluster.observer.of(s.namespace), events: events.Items, undisturbed: f == nil && !story.gaps}
	for _, b := range s.belays {
		result.byBelay = append(result.byBelay, b.noted())
		for _, e := range b.endings() {
			if f == nil || !f.leaders || !e.isOfLease() {
				t.Errorf("belay has ended by itself: %s\n%s", e.how, e.log)
			}
		}
	}
	for _, words := range result.broken() {
		t.Error(words)
	}
	if t.Failed() {
		t.Log(s.tell())
	}
	return result
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
	// moreWrites is how many more writes than undisturbed a story with one fault may take, and moreRequests of all requests.
	moreWrites, moreRequests = 4, 60
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
		writes, requests := plain[name].requests()
		t.Logf("%-12s %3d writes, %3d requests", name, writes, requests)
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
			plainWrites, plainRequests := plain[p.name].requests()
			writes, requests := result.requests()
			if writes > plainWrites+moreWrites {
				t.Errorf("%d writes, want at most %d more than %d", writes, moreWrites, plainWrites)
			}
			if requests > plainRequests+moreRequests {
				t.Errorf("%d requests, want at most %d more than %d", requests, moreRequests, plainRequests)
			}
		})
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
				case f.parts && e.writes():
					writes = append(writes, p)
				case f.onlyWrites:
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
	if !everything {
		all = slices.DeleteFunc(all, func(p perturbed) bool { return p.fault.long })
	}
	return some(all, *storiesFlag)
}
