package sim

import (
	"path"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// outcome is what becomes of the pods of an image.
type outcome struct {
	name    string
	healthy bool
	// ready is how long after its start a pod is ready, crash how long after its start it exits. 0 is never.
	ready, crash time.Duration
	// crashes is how often it exits before it stays up, -1 is for ever.
	crashes int
	init    bool          // the init container is the one that exits
	pull    time.Duration // how long its image cannot be pulled, -1 is for ever
	config  bool          // its configuration is wrong
	unready time.Duration // how long after it was ready it is unready for ever
	nowhere bool          // it fits on no node
	quota   bool          // its pods are refused
	noSet   bool          // its ReplicaSet is refused
	ill     bool          // it is bad until it heals, and good after that
}

// What a template can turn out to be. The healthy ones are ready well within the deadline, exit no more often than is
// tolerated, and can be pulled before that counts as stuck. The bad ones are never ready for as long as the soak, not
// even two pods one after the other: one that is lost and replaced between two looks is not missed.
var outcomes = []outcome{
	{name: "good", healthy: true, ready: 2 * time.Second},
	{name: "good-slow", healthy: true, ready: 12 * time.Second},
	{name: "good-late-database", healthy: true, ready: 4 * time.Second, crash: 2 * time.Second, crashes: 3},
	{name: "good-slow-pull", healthy: true, ready: 3 * time.Second, pull: 8 * time.Second},
	{name: "bad-crash", crash: 2 * time.Second, crashes: -1},
	{name: "bad-init", crash: time.Second, crashes: -1, init: true},
	{name: "bad-flap", ready: 2 * time.Second, crash: 5 * time.Second, crashes: -1},
	{name: "bad-pull", pull: -1},
	{name: "bad-config", config: true},
	{name: "bad-unready"},
	{name: "bad-nowhere", nowhere: true},
	{name: "bad-quota", quota: true},
	{name: "bad-set", noSet: true},
	{name: "bad-in-soak", ready: 2 * time.Second, unready: 3500 * time.Millisecond},
}

func outcomeOf(t *corev1.PodTemplateSpec) outcome { return outcomeNamed(nameOf(image(*t))) }

// nameOf returns the last part of an image's repository.
func nameOf(image string) string {
	repository, _, _ := strings.Cut(image, "@")
	name, _, _ := strings.Cut(path.Base(repository), ":")
	return name
}

func outcomeNamed(name string) outcome {
	if name == "theirs" { // what somebody puts there by hand
		return outcome{name: name, ready: 2 * time.Second}
	}
	if ends, is := strings.CutPrefix(name, "case-"); is { // causes.go says what becomes of it
		return outcome{name: name, healthy: ends != "failed", ready: 2 * time.Second}
	}
	if strings.HasPrefix(name, "ill-") {
		return outcome{name: name, ill: true, ready: 2 * time.Second}
	}
	return outcomes[slices.IndexFunc(outcomes, func(o outcome) bool { return o.name == name })]
}

// outcomeNow is what becomes of a pod that is begun now: an image "ill-crash" is a "bad-crash" until it heals, and good
// from then on. One whose tag has moved before the pod was created is what it has become.
func (w *world) outcomeNow(spec corev1.PodSpec, created metav1.Time) outcome {
	o := w.outcomeThen(w.teller(&spec, created.Time).Image, created.Time)
	if !o.ill {
		return o
	}
	name := "good"
	if time.Now().Before(w.healed) {
		name = "bad" + strings.TrimPrefix(o.name, "ill")
	}
	o = outcomes[slices.IndexFunc(outcomes, func(o outcome) bool { return o.name == name })]
	o.ill = true
	return o
}

// outcomeThen is what becomes of the pods that were created at a time, by this image of theirs.
func (w *world) outcomeThen(image string, created time.Time) outcome {
	name, moved := w.images.Fare(image, created)
	if !moved {
		name = nameOf(image)
	}
	return outcomeNamed(name)
}

// teller returns the container of a pod by which it fares as it does: a helper that is not healthy, or else the first.
func (w *world) teller(spec *corev1.PodSpec, created time.Time) *corev1.Container {
	for i := range spec.Containers {
		if c := &spec.Containers[i]; c.Name == helper && !w.outcomeThen(c.Image, created).healthy {
			return c
		}
	}
	return &spec.Containers[0]
}

// MoveTag lets an image be another one in pods that are created from now on: one with that outcome.
func (w *world) MoveTag(image, outcome string) { w.images.Move(image, w.Now(), outcome) }

// heal lets everything that is ill heal after a while.
func (w *world) heal(after time.Duration) {
	w.healed = time.Now().Add(after)
	w.in(after, func() {
		w.wake(&w.deploymentController, 10*time.Millisecond, w.syncDeployment)
		w.wake(&w.setController, 10*time.Millisecond, w.syncSets)
	})
}
