package faults

import (
	"encoding/json"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

func (t *told) inPlace() bool { return t.name == "in-place" }

// hold is that a ReplicaSet came to be held at nothing.
type hold struct {
	version, set string
	failure      string // that was stored by then, empty if none was
	passedOver   bool   // it was neither asked for by then nor what was found good last, which is the way back
}

// holds returns what came to be held at nothing, in its order. One that took effect after it was given up is none of them: Belay has written
// it for what was asked for then.
func (t *told) holds() (all []hold) {
	failure, asked, good := "", "", ""
	was, found := map[string]string{}, map[string]bool{}
	for _, s := range t.inOrder() {
		switch object := s.object.(type) {
		case *appsv1.Deployment:
			failure, asked = object.Annotations[v1alpha1.FailureAnnotation], versionOf(object.Spec.Template)
		case *appsv1.ReplicaSet:
			held, version := heldAt(object), versionOf(object.Spec.Template)
			if as := object.Name + object.Labels[v1alpha1.AttemptLabel]; isGood(object) && !found[as] { // That label tells for which number.
				good, found[as] = object.Name, true
			}
			if held == "0" && was[object.Name] != "0" && !t.isLate(s.rv) {
				all = append(all, hold{version, object.Name, failure, version != asked && object.Name != good})
			}
			was[object.Name] = held
		}
	}
	return all
}

// sets: of a Deployment that is guarded as it is, nothing that fails is labelled good, and nothing is held at nothing before it is said why.
func (t *told) sets(say func(string, ...any)) {
	for _, s := range t.sights {
		set, ok := s.object.(*appsv1.ReplicaSet)
		if ok && isGood(set) && t.failing(versionOf(set.Spec.Template)) && !strings.HasSuffix(t.fails, "+") {
			say("the ReplicaSet of %s is labelled good", versionOf(set.Spec.Template))
		}
	}
	for _, h := range t.holds() {
		if h.failure == "" && !t.gaps {
			say("%s is held before a failure is stored", h.version)
		}
	}
}

// held: nothing but what fails, or is passed over on the way back, is held at nothing, and when it fails, it is said that it did. In the
// stories nothing is passed over.
func (t *told) held(say func(string, ...any)) {
	for _, h := range t.holds() {
		if t.random && h.passedOver {
			continue
		}
		if !t.failing(h.version) {
			say("%s was held, and works", h.version)
		}
		failure := struct{ ReplicaSet string }{}
		if err := json.Unmarshal([]byte(h.failure), &failure); !t.gaps && (err != nil || failure.ReplicaSet != h.set) {
			say("%s is held, and the failure that is stored is not of %s: %q", h.version, h.set, h.failure)
		}
	}
}

// heldOnce: what fails is held once.
func (t *told) heldOnce(say func(string, ...any)) {
	times := map[string]int{}
	for _, h := range t.holds() {
		if times[h.version]++; times[h.version] > 1 {
			say("%s was held %d times", h.version, times[h.version])
		}
	}
}

// failed is what stands, in Belay's words, between the name of what failed and the cause.
const failed = " failed: "

// versionsOfSets returns of which version each ReplicaSet was, by its name.
func (t *told) versionsOfSets() map[string]string {
	versions := map[string]string{}
	for _, s := range t.sights {
		if set, ok := s.object.(*appsv1.ReplicaSet); ok {
			versions[set.Name] = versionOf(set.Spec.Template)
		}
	}
	return versions
}

// wordsInPlace: neither the failure that is stored with a Deployment nor Belay's words in its condition are about what works.
func (t *told) wordsInPlace(say func(string, ...any)) {
	versions := t.versionsOfSets()
	for _, s := range t.sights {
		d, ok := s.object.(*appsv1.Deployment)
		if !ok {
			continue
		}
		if stored := d.Annotations[v1alpha1.FailureAnnotation]; stored != "" {
			failure := struct{ ReplicaSet string }{}
			if err := json.Unmarshal([]byte(stored), &failure); err != nil || !t.failing(versions[failure.ReplicaSet]) {
				say("%s was found failed: %s", versions[failure.ReplicaSet], stored)
			}
		}
		for _, c := range d.Status.Conditions {
			set, _, ours := strings.Cut(c.Message, failed) // The Deployment controller has other words for a deadline.
			if c.Type == appsv1.DeploymentProgressing && c.Status == corev1.ConditionFalse && c.Reason == "ProgressDeadlineExceeded" && ours && !t.failing(versions[set]) {
				say("a condition says that %s failed: %s", versions[set], c.Message)
			}
		}
	}
}
