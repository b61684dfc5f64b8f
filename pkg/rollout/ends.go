package rollout

import (
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// endings is what is remembered of pods that are gone.
type endings struct {
	known map[types.UID]bool // the pods that ended by themselves, or were evicted for what they took of their node
	own   int                // how many of them did the former
	// first and last are the first and the last of those. A kubelet is late with its Events: they may be there for the first alone.
	first, last *podEnd
	// pressed are the nodes from which pods were evicted for what they took, and lastPressed the last of these.
	pressed     []string
	pressedPods int
	lastPressed *podEnd

	refused      []string    // the nodes that refuse pods
	lastRefused  *podEnd     // the last pod that was refused
	refusedAt    metav1.Time // when it was created
	refusedSince instant     // since when pods are refused again and again
	refusedSeen  instant     // when one more had been

	lost   int32           // pods that went unready, after manyRestarts of a container
	handed []time.Duration // the soaks of pods that others moved, for those in their places
	vacant int             // pods that ended by themselves and are not replaced yet
	added  int             // pods that are wanted more since others have passed their soak
}

// podEnd is a pod that has ended.
type podEnd struct {
	pod *corev1.Pod
	end
}

// noteEnd notes how a pod ended. One that ended before the attempt began is no evidence.
func (p *Progress) noteEnd(pod *corev1.Pod, e end, counts bool) {
	if !counts {
		return
	}
	gone := &podEnd{pod, e}
	switch e.kind {
	case endRefusedByNode:
		if p.refusedAt.Before(&pod.CreationTimestamp) {
			if p.refusedSince == 0 || p.since(p.refusedSeen) > maxBlind {
				p.refusedSince, p.refused = p.clock, nil
			}
			p.refusedAt, p.refusedSeen, p.lastRefused = pod.CreationTimestamp, p.clock, gone
			p.refused = withName(p.refused, pod.Spec.NodeName)
		}
	case endOwn, endPressure:
		if p.known[pod.UID] {
			p.first, p.last = p.first.again(gone), p.last.again(gone)
			return
		}
		if len(p.known) >= p.maxRecords() {
			return
		}
		p.known = with(p.known, pod.UID, true)
		if e.kind == endOwn {
			p.own++
			p.vacant++
			p.last = gone
			if p.first == nil {
				p.first = gone
			}
			return
		}
		p.pressedPods++
		p.lastPressed = gone
		p.pressed = withName(p.pressed, pod.Spec.NodeName)
	}
}

// maxRecords bounds how many ended pods are remembered one by one.
func (p *Progress) maxRecords() int { return 2*int(p.best.wanted) + 100 }

// part takes leave of a pod that did not end by itself. If nothing speaks against it, the one in its place goes on where it was.
func (p *Progress) part(gone podRecord) {
	restarts := gone.counted()
	if gone.ready == 0 && restarts >= manyRestarts {
		p.lost++
	}
	if restarts == 0 && !gone.isStuck() && (gone.served || gone.spared) && len(p.handed) < p.maxRecords() {
		p.handed = append(slices.Clone(p.handed), gone.soaked)
		slices.Sort(p.handed)
	}
}

// withName returns names with another one, which is copied if it is changed: a Progress is a value.
func withName(names []string, name string) []string {
	if name == "" || slices.Contains(names, name) {
		return names
	}
	return append(slices.Clip(names), name)
}

// with returns a copy of the map with another entry.
func with[K comparable, V any](entries map[K]V, key K, value V) map[K]V {
	bigger := make(map[K]V, len(entries)+1)
	maps.Copy(bigger, entries)
	bigger[key] = value
	return bigger
}

// hear returns the end with the kubelet's word for it, where these are the Events of its pod, and the pod itself has none: one that
// obeys SIGTERM and ends with 0 when it is evicted shows nothing.
func (e *podEnd) hear(pod types.UID, events []*corev1.Event) *podEnd {
	if e == nil || e.pod.UID != pod || e.cause != v1alpha1.CauseEndedByItself {
		return e
	}
	for _, event := range events {
		if event.Reason == "Evicted" {
			told := *e
			told.cause, told.words = v1alpha1.CauseEvicted, "Evicted: "+event.Message
			return &told
		}
	}
	return e
}

// again returns the end as the kubelet shows it now: it may say only later that it has evicted the pod.
func (e *podEnd) again(now *podEnd) *podEnd {
	if e != nil && e.pod.UID == now.pod.UID && now.cause == v1alpha1.CauseEvicted {
		return now
	}
	return e
}

// tellingEnd returns the last pod that ended by itself or, if only the first one says why, that.
func (p *Progress) tellingEnd() *podEnd {
	if p.last.cause == v1alpha1.CauseEndedByItself && p.first.cause == v1alpha1.CauseEvicted {
		return p.first
	}
	return p.last
}
