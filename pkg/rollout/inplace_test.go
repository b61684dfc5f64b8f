package rollout

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// site is a Deployment guarded in place that is put together sentence by sentence, with its ReplicaSets and their pods.
type site struct{ InPlace }

// inPlace sets a site in which the Deployment asks for image, with 4 replicas, and the evidence was read.
func inPlace(image string) *site {
	d := &appsv1.Deployment{}
	d.Name, d.Namespace, d.UID, d.Generation = "web", "shop", "uid-of-web", 7
	d.Labels = map[string]string{v1alpha1.GuardedLabel: v1alpha1.GuardedInPlace}
	d.Annotations = map[string]string{}
	d.Spec.Replicas, d.Spec.ProgressDeadlineSeconds, d.Spec.RevisionHistoryLimit = new(int32(4)), new(int32(600)), new(int32(10))
	d.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}
	d.Spec.Template = template(image)
	d.Status.ObservedGeneration = d.Generation
	s := &site{InPlace{Deployment: d, Guard: &v1alpha1.Guard{}, Evidence: &Evidence{}, Now: noon, PollInterval: pollInterval}}
	s.Memory.UID = d.UID
	return s
}

// set adds the ReplicaSet of image, the Deployment controller's number-th, with so many replicas and the first of their pods ready.
func (s *site) set(image string, number int, replicas, ready int32, marks ...func(*appsv1.ReplicaSet)) *site {
	set := &appsv1.ReplicaSet{}
	set.Name, set.Namespace, set.UID = "web-"+image, "shop", types.UID("uid-of-"+image)
	set.CreationTimestamp = metav1.NewTime(noon.Add(-time.Hour + time.Duration(number)*time.Minute))
	set.Labels = map[string]string{"pod-template-hash": image}
	set.Annotations = map[string]string{SetNumber: fmt.Sprint(number), setDesired: "4", setMost: "5"}
	set.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(s.Deployment, appsv1.SchemeGroupVersion.WithKind("Deployment"))}
	set.Spec.Replicas, set.Spec.Template = &replicas, template(image)
	set.Status.Replicas, set.Status.ReadyReplicas, set.Status.AvailableReplicas = replicas, ready, ready
	for _, mark := range marks {
		mark(set)
	}
	s.Evidence.ReplicaSets = append(s.Evidence.ReplicaSets, set)
	for i := range replicas {
		p := pod(fmt.Sprintf("%s-%d", set.Name, i))
		if i < ready {
			isReady(p)
		}
		p.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(set, appsv1.SchemeGroupVersion.WithKind("ReplicaSet"))}
		s.Evidence.Pods = append(s.Evidence.Pods, p)
	}
	return s.counted()
}

// counted gives the Deployment the status of what its ReplicaSets have, and tells the pods of the current one from the others.
func (s *site) counted() *site {
	d, status := s.Deployment, &s.Deployment.Status
	current := CurrentReplicaSet(d, s.Evidence.ReplicaSets)
	status.Replicas, status.ReadyReplicas, status.AvailableReplicas, status.UpdatedReplicas = 0, 0, 0, 0
	for _, set := range s.Evidence.ReplicaSets {
		status.Replicas += set.Status.Replicas
		status.ReadyReplicas += set.Status.ReadyReplicas
		status.AvailableReplicas += set.Status.AvailableReplicas
		if set == current {
			status.UpdatedReplicas, d.Annotations[SetNumber] = set.Status.Replicas, set.Annotations[SetNumber]
		}
	}
	pods := slices.Concat(s.Evidence.Pods, s.Evidence.OldPods)
	s.Evidence.Pods, s.Evidence.OldPods = nil, nil
	for _, p := range pods {
		if current != nil && metav1.IsControlledBy(p, current) {
			s.Evidence.Pods = append(s.Evidence.Pods, p)
		} else {
			s.Evidence.OldPods = append(s.Evidence.OldPods, p)
		}
	}
	return s
}

func (s *site) with(change func(*appsv1.Deployment)) *site { change(s.Deployment); return s.counted() }
func (s *site) guarded(change func(*v1alpha1.Guard)) *site { change(s.Guard); return s }
func (s *site) remembers(change func(*InPlaceMemory)) *site {
	change(&s.Memory)
	return s
}

func (s *site) observed() *site {
	s.Observed = true
	return s
}

// failed says that the release of image failed, when so many pods were ready, and that the condition tells it.
func (s *site) failed(image string, number int64, ready int32, change ...func(*failedRelease)) *site {
	f := &failedRelease{Set: "web-" + image, UID: "uid-of-" + image, Number: number, Attempt: Attempt{Number: 1}, Reason: v1alpha1.FailureCrashLoop, Message: "it exited",
		Time: metav1.NewTime(noon.Add(-time.Hour)), Ready: ready}
	for _, c := range change {
		c(f)
	}
	s.Deployment.Annotations[v1alpha1.FailureAnnotation] = encoded(f)
	return s.progressing(corev1.ConditionFalse, deadlineExceeded, f.sentence())
}

func wasTold(reason string) func(*failedRelease) {
	return func(f *failedRelease) { f.Told = []string{reason} }
}

func (s *site) progressing(status corev1.ConditionStatus, reason, message string) *site {
	s.Deployment.Status.Conditions = []appsv1.DeploymentCondition{{Type: appsv1.DeploymentProgressing, Status: status, Reason: reason, Message: message}}
	return s
}

func isGood(set *appsv1.ReplicaSet) {
	set.Labels[v1alpha1.VerdictLabel] = *owned(set, v1alpha1.VerdictGood)
}

func isHeld(n int) func(*appsv1.ReplicaSet) {
	return func(set *appsv1.ReplicaSet) { set.Labels[v1alpha1.HeldAtLabel] = *owned(set, fmt.Sprint(n)) }
}

func isTried(attempt string) func(*appsv1.ReplicaSet) {
	return func(set *appsv1.ReplicaSet) { set.Labels[v1alpha1.AttemptLabel] = *owned(set, attempt) }
}

func annotated(key, value string) func(*appsv1.ReplicaSet) {
	return func(set *appsv1.ReplicaSet) { set.Annotations[key] = value }
}

// isMet lets the Deployment be guarded from its creation on.
func isMet(m *InPlaceMemory) { m.met = true }

func soaks(seconds int32) func(*v1alpha1.Guard) {
	return func(g *v1alpha1.Guard) { g.SoakSeconds = &seconds }
}

func hadNumber(set *appsv1.ReplicaSet) { set.Annotations[setNumbersBefore] = "1" }

// told returns a decision in one line.
func told(d InPlaceDecision) string {
	var words []string
	say := func(format string, args ...any) { words = append(words, fmt.Sprintf(format, args...)) }
	if d.NeedEvidence {
		say("look")
	}
	if c := d.Status; c != nil {
		for key, value := range c.Annotations {
			say("%s %s", strings.TrimPrefix(key, "belay.dev/"), map[bool]string{true: "gone", false: "written"}[value == nil])
		}
		if p := c.Progressing; p != nil {
			say("Progressing=%s/%s", p.Status, p.Reason)
		}
	}
	if c := d.Set; c != nil {
		say("%s", c.Set.Name)
		for _, key := range slices.Sorted(maps.Keys(c.Labels)) {
			if value := c.Labels[key]; value == nil {
				say("-%s", strings.TrimPrefix(key, "belay.dev/"))
			} else {
				say("%s=%s", strings.TrimPrefix(key, "belay.dev/"), strings.TrimSuffix(*value, "."+string(c.Set.UID)))
			}
		}
		for _, key := range slices.Sorted(maps.Keys(c.Annotations)) {
			if key == setDesired || key == setMost {
				say("%s=%s", strings.TrimPrefix(key, "deployment.kubernetes.io/"), *c.Annotations[key])
			}
		}
		if c.Replicas != nil {
			say("replicas=%d", *c.Replicas)
		}
	}
	for _, e := range d.Events {
		say("!%s", e.Reason)
	}
	if d.Memory.settled && d.Status == nil && d.Set == nil && !d.NeedEvidence {
		say("rests as %s", d.Memory.State)
	}
	return strings.Join(words, " ")
}

func recreate(d *appsv1.Deployment) { d.Spec.Strategy.Type = appsv1.RecreateDeploymentStrategyType }

func rolling(surge, unavailable string) func(*appsv1.Deployment) {
	return func(d *appsv1.Deployment) {
		s, u := intstr.Parse(surge), intstr.Parse(unavailable)
		d.Spec.Strategy.RollingUpdate = &appsv1.RollingUpdateDeployment{MaxSurge: &s, MaxUnavailable: &u}
	}
}

func wants(n int32) func(*appsv1.Deployment) {
	return func(d *appsv1.Deployment) { d.Spec.Replicas = &n }
}

func labelled(value string) func(*appsv1.Deployment) {
	return func(d *appsv1.Deployment) { d.Labels[v1alpha1.GuardedLabel] = value }
}

func asksAgain(token string) func(*appsv1.Deployment) {
	return func(d *appsv1.Deployment) { d.Annotations[v1alpha1.RetryAnnotation] = token }
}

// inPlaceCases are the table for a Deployment that is guarded in place, each as the first decision about it.
var inPlaceCases = []struct {
	name string
	site *site
	row  string
	want string
}{
	{"another value", inPlace("v1").with(labelled("yes")), "not asked", "!Invalid"},
	{"opted out", inPlace("v1").with(labelled("false")), "not asked", ""},
	{"another value, told before", inPlace("v1").with(labelled("yes")).remembers(func(m *InPlaceMemory) {
		m.complaint = `label belay.dev/guarded is "yes", and nothing is guarded: to have this Deployment guarded, kubectl label deployment web --namespace shop --overwrite belay.dev/guarded=in-place`
	}), "not asked", ""},
	{"being deleted", inPlace("v1").with(func(d *appsv1.Deployment) { d.DeletionTimestamp = &metav1.Time{Time: noon} }), "deletion", ""},
	{"paused", inPlace("v2").set("v1", 1, 4, 4, isGood).with(func(d *appsv1.Deployment) { d.Spec.Paused = true }), "pause", ""},
	{"paused while held", inPlace("v2").set("v1", 1, 4, 4, isGood).set("v2", 2, 0, 0, isHeld(0)).failed("v2", 2, 3).
		with(func(d *appsv1.Deployment) { d.Spec.Paused = true }), "pause", ""},

	{"no ReplicaSet yet", inPlace("v2").set("v1", 1, 4, 4, isGood), "new template", ""},
	{"no ReplicaSet yet, the one before is held", inPlace("v3").set("v1", 1, 4, 4, isGood, isHeld(4)).set("v2", 2, 0, 0, isHeld(0)).failed("v2", 2, 3),
		"new template", "web-v1 -held-at"},
	{"no ReplicaSet yet, and the good one has a note of another size", inPlace("v2").set("v1", 1, 4, 4, isGood, annotated(setDesired, "2")),
		"new template", "web-v1 desired-replicas=4"},
	{"no ReplicaSet yet, at zero", inPlace("v2").set("v1", 1, 0, 0, isGood, annotated(setDesired, "2")).with(wants(0)), "new template", ""},
	{"at zero", inPlace("v1").set("v1", 1, 0, 0, isGood).with(wants(0)), "no replicas", "rests as ScaledToZero"},
	{"at zero and held", inPlace("v2").set("v1", 1, 0, 0, isGood).set("v2", 2, 0, 0, isHeld(0)).failed("v2", 2, 3).with(wants(0)), "no replicas", "web-v2 -held-at"},

	{"first sight of what is complete", inPlace("v1").set("v1", 1, 4, 4), "first sight", "web-v1 verdict=good !RolledOut"},
	{"first sight of what was complete and has lost a pod", inPlace("v1").set("v1", 1, 4, 3).progressing(corev1.ConditionTrue, "NewReplicaSetAvailable", ""),
		"first sight", "web-v1 verdict=good !RolledOut"},
	{"first sight of what was complete and has lost all", inPlace("v1").set("v1", 1, 4, 0).progressing(corev1.ConditionTrue, "NewReplicaSetAvailable", ""),
		"first sight", ""},
	{"first sight of the first rollout", inPlace("v1").set("v1", 1, 4, 0), "first sight", ""},
	{"first sight in a rollout", inPlace("v2").set("v1", 1, 3, 3).set("v2", 2, 2, 0), "first sight", "web-v1 verdict=good !Progressing"},
	{"first sight in a rollout, one pod serves", inPlace("v2").set("v1", 1, 3, 1).set("v2", 2, 2, 0), "first sight", "web-v1 verdict=good !Progressing"},
	{"first sight in a rollout, nothing served before", inPlace("v2").set("v1", 1, 3, 0).set("v2", 2, 2, 0), "first sight", "web-v2 attempt=2.1.0 -held-at !NoGoodRevision"},
	{"a release after the first one, which failed", inPlace("v2").set("v1", 1, 3, 3).set("v2", 2, 2, 0).failed("v1", 1, 3), "unjudged", "web-v2 attempt=2.1.0 -held-at !NoGoodRevision"},
	{"first sight, and a verdict of another ReplicaSet was copied", inPlace("v1").set("v1", 1, 4, 4, func(set *appsv1.ReplicaSet) {
		set.Labels[v1alpha1.VerdictLabel] = "good.uid-of-another"
	}), "first sight", "web-v1 verdict=good !RolledOut"},

	{"good", inPlace("v1").set("v1", 1, 4, 4, isGood), "good", "rests as RolledOut"},
	{"good, with the next one held", inPlace("v1").set("v1", 3, 4, 4, isGood, hadNumber).set("v2", 2, 0, 0, isHeld(0)).failed("v2", 2, 3), "good", "web-v2 -held-at"},
	{"good, with an old failure", inPlace("v1").set("v1", 3, 4, 4, isGood, hadNumber).set("v2", 2, 0, 0).failed("v2", 2, 3), "good", "failure gone"},
	{"good, asked for again and complete", inPlace("v1").set("v1", 3, 4, 4, isGood, hadNumber).set("v2", 2, 0, 0, isGood), "good", "web-v1 attempt=3.1.0 verdict=good"},
	{"good, asked for again and noted", inPlace("v1").set("v1", 3, 4, 4, isGood, hadNumber, isTried("3.1.0")).set("v2", 2, 0, 0, isGood), "good", "rests as RolledOut"},
	{"good, and on its way", inPlace("v1").set("v1", 3, 2, 1, isGood, hadNumber).set("v2", 2, 3, 3, isGood), "good", ""},

	{"a release begins", inPlace("v2").set("v1", 1, 3, 3, isGood).set("v2", 2, 2, 0), "unjudged", ""},
	{"a release of a template that there was before", inPlace("v2").set("v1", 1, 3, 3, isGood).set("v2", 4, 2, 0, hadNumber), "unjudged", "web-v2 attempt=4.1.0 -held-at"},
	{"a release of a template that there was before, tried then", inPlace("v2").set("v1", 1, 3, 3, isGood).set("v2", 4, 2, 0, hadNumber, isTried("2.3.0")),
		"unjudged", "web-v2 attempt=4.1.0 -held-at"},
	{"one that was taken back, and nobody knows how it failed", inPlace("v2").set("v1", 1, 3, 3, isGood).set("v2", 2, 2, 0, isTried("2.1.0.back")),
		"unjudged", "web-v2 attempt=2.1.0 -held-at"},
	{"a release with nothing to go back to", inPlace("v2").set("v1", 1, 3, 3, isTried("1.1.0")).set("v2", 2, 2, 0), "unjudged", "web-v2 attempt=2.1.0 -held-at !NoGoodRevision"},
	{"a release that will have nothing to go back to", inPlace("v2").set("v1", 1, 3, 3, isGood).set("v2", 2, 2, 0).
		with(func(d *appsv1.Deployment) { d.Spec.RevisionHistoryLimit = new(int32(0)) }), "unjudged", "web-v2 attempt=2.1.0 -held-at !NoGoodRevision"},
	{"the first release", inPlace("v1").set("v1", 1, 4, 0).remembers(isMet), "unjudged", ""},
	{"the first release, complete", inPlace("v1").set("v1", 1, 4, 4).remembers(isMet).guarded(soaks(0)), "unjudged", "web-v1 verdict=good !RolledOut"},
	{"the first release, complete but not soaked", inPlace("v1").set("v1", 1, 4, 4).remembers(isMet).guarded(soaks(30)), "unjudged", "web-v1 attempt=1.1.0 -held-at"},
	{"the first release, found in its soak", inPlace("v1").set("v1", 1, 4, 4, isTried("1.1.0")).guarded(soaks(30)), "unjudged", ""},
	{"a release after one that failed", inPlace("v3").set("v1", 1, 4, 4, isGood).set("v2", 2, 0, 0, isHeld(0)).set("v3", 3, 1, 0).failed("v2", 2, 3),
		"unjudged", "web-v2 -held-at"},
	{"a release after one that failed, nothing held", inPlace("v3").set("v1", 1, 4, 4, isGood).set("v2", 2, 0, 0).set("v3", 3, 1, 0).failed("v2", 2, 3).
		progressing(corev1.ConditionTrue, "NewReplicaSetCreated", ""), "unjudged", "failure gone"},
	{"a release after one that failed, whose ReplicaSet could not be created", inPlace("v3").set("v1", 1, 4, 4, isGood).set("v2", 2, 0, 0).set("v3", 3, 1, 0).failed("v2", 2, 3).
		progressing(corev1.ConditionFalse, "ReplicaSetCreateError", ""), "unjudged", "failure gone"},
	{"the failed template, asked for again", inPlace("v2").set("v1", 1, 4, 4, isGood).set("v2", 5, 1, 0, hadNumber, isTried("5.1.0")).failed("v2", 2, 3),
		"unjudged", "failure gone Progressing=True/ReplicaSetUpdated"},
	{"a failure of another attempt", inPlace("v2").set("v1", 1, 4, 4, isGood).set("v2", 2, 1, 0, isTried("2.2.0")).failed("v2", 2, 3),
		"unjudged", "failure gone Progressing=True/ReplicaSetUpdated"},
	{"a failure of another attempt, and the Deployment controller has not seen it asked for", inPlace("v2").set("v1", 1, 4, 4, isGood).set("v2", 2, 1, 0, isTried("2.2.0")).
		failed("v2", 2, 3).with(func(d *appsv1.Deployment) { d.Generation++ }), "unjudged", ""},
	{"a broken failure", inPlace("v2").set("v1", 1, 4, 4, isGood).set("v2", 2, 1, 0).with(func(d *appsv1.Deployment) {
		d.Annotations[v1alpha1.FailureAnnotation] = `{"replicaSet":`
	}), "unjudged", "failure gone"},

	{"a retry is asked for", inPlace("v2").set("v1", 1, 4, 4, isGood).set("v2", 2, 0, 0, isHeld(0)).failed("v2", 2, 3).with(asksAgain("a")),
		"retry", "web-v2 attempt=2.2.0 -held-at"},
	{"the token from before", inPlace("v2").set("v1", 1, 4, 4, isGood).set("v2", 2, 0, 0, isHeld(0)).
		failed("v2", 2, 3, func(f *failedRelease) { f.Token = "a" }).with(asksAgain("a")), "rollback", "rests as RolledBack"},
	{"a retry is due", inPlace("v2").set("v1", 1, 4, 4, isGood).set("v2", 2, 0, 0, isHeld(0)).failed("v2", 2, 3).
		guarded(func(g *v1alpha1.Guard) { g.Retries = new(int32(1)) }).remembers(func(m *InPlaceMemory) { m.at, m.due = "uid-of-v2/2/1", noon.Add(-time.Minute) }),
		"automatic retry", "web-v2 attempt=2.2.1 -held-at"},
	{"a retry is due, and the clock was set back since", stepped(time.Hour, inPlace("v2").set("v1", 1, 4, 4, isGood).set("v2", 2, 0, 0, isHeld(0)).failed("v2", 2, 3).
		guarded(func(g *v1alpha1.Guard) { g.Retries = new(int32(1)) })),
		"automatic retry", "web-v2 attempt=2.2.1 -held-at"},
	{"no retry is left", inPlace("v2").set("v1", 1, 4, 4, isGood).set("v2", 2, 0, 0, isHeld(0), isTried("2.2.1")).
		failed("v2", 2, 3, func(f *failedRelease) { f.Attempt = Attempt{Number: 2, Retries: 1} }).
		guarded(func(g *v1alpha1.Guard) { g.Retries = new(int32(1)) }).remembers(func(m *InPlaceMemory) { m.at, m.due = "uid-of-v2/2/2", noon.Add(-time.Minute) }),
		"rollback", "rests as RolledBack"},

	{"failed, with Hold", inPlace("v2").set("v1", 1, 3, 3, isGood).set("v2", 2, 2, 0).failed("v2", 2, 3).
		guarded(func(g *v1alpha1.Guard) { g.OnFailure = v1alpha1.Hold }), "left", "rests as Held"},
	{"held, and Hold is asked for", inPlace("v2").set("v1", 1, 4, 4, isGood).set("v2", 2, 0, 0, isHeld(0)).failed("v2", 2, 3).
		guarded(func(g *v1alpha1.Guard) { g.OnFailure = v1alpha1.Hold }), "left", "web-v2 -held-at"},
	{"failed, with Hold, and good after all", inPlace("v2").set("v1", 1, 0, 0, isGood).set("v2", 2, 4, 4).failed("v2", 2, 3).
		guarded(func(g *v1alpha1.Guard) { g.OnFailure, g.SoakSeconds = v1alpha1.Hold, new(int32(0)) }), "left", "web-v2 verdict=good !RolledOut"},
	{"failed, with Hold, and complete but not soaked", inPlace("v2").set("v1", 1, 0, 0, isGood).set("v2", 2, 4, 4).failed("v2", 2, 3).
		guarded(func(g *v1alpha1.Guard) { g.OnFailure, g.SoakSeconds = v1alpha1.Hold, new(int32(30)) }), "left", ""},
	{"failed, and what was told of it is gone, which nobody remembers", inPlace("v2").set("v1", 1, 3, 3, isGood).set("v2", 2, 2, 0, isHeld(0)), "unjudged", "web-v2 -held-at"},
	{"failed, and what was told of it is gone", forgotten(time.Hour, inPlace("v2").set("v1", 1, 4, 4, isGood).set("v2", 2, 0, 0, isHeld(0)).failed("v2", 2, 3)),
		"rollback", "failure written Progressing=False/ProgressDeadlineExceeded"},
	{"failed, and what was told of it is gone again", forgotten(time.Second, inPlace("v2").set("v1", 1, 3, 3, isGood).set("v2", 2, 2, 0).failed("v2", 2, 3)),
		"rollback", "rests as RolledBack"}, // for a minute
	{"left, and what was told of it is gone", forgotten(time.Hour, inPlace("v2").set("v1", 1, 3, 3, isGood).set("v2", 2, 2, 0).failed("v2", 2, 3).
		guarded(func(g *v1alpha1.Guard) { g.OnFailure = v1alpha1.Hold })), "left", "failure written Progressing=False/ProgressDeadlineExceeded"},
	{"failed, with nothing to go back to", inPlace("v1").set("v1", 1, 4, 0).failed("v1", 1, 0), "left", "rests as NoGoodRevision"},
	{"failed, and the policy is not there", inPlace("v2").set("v1", 1, 3, 3, isGood).set("v2", 2, 2, 0, isHeld(0)).failed("v2", 2, 3).
		remembers(func(m *InPlaceMemory) { m.at, m.unheld = "uid-of-v2/2/1", "uid-of-v2/2/1" }), "left", "web-v2 -held-at"},
	{"failed, and the policy is not there, nothing held", inPlace("v2").set("v1", 1, 3, 3, isGood).set("v2", 2, 2, 0).failed("v2", 2, 3).
		remembers(func(m *InPlaceMemory) { m.at, m.unheld = "uid-of-v2/2/1", "uid-of-v2/2/1" }), "left", "failure written !NotHeld"},
	{"failed, and the policy is not there, told before", inPlace("v2").set("v1", 1, 3, 3, isGood).set("v2", 2, 2, 0).failed("v2", 2, 3, wasTold(v1alpha1.EventNotHeld)).
		remembers(func(m *InPlaceMemory) { m.at, m.unheld = "uid-of-v2/2/1", "uid-of-v2/2/1" }), "left", "rests as NotHeld"},
	{"failed, and only observed", inPlace("v2").set("v1", 1, 3, 3, isGood).set("v2", 2, 2, 0).failed("v2", 2, 3).observed(), "left", "rests as Held"},
	{"failed, only observed, with nothing to go back to", inPlace("v2").set("v1", 1, 3, 3).set("v2", 2, 2, 0, isTried("2.1.0")).failed("v2", 2, 3).observed(),
		"left", "rests as NoGoodRevision"},
	{"given up", inPlace("v2").set("v1", 1, 3, 3, isGood).set("v2", 2, 2, 0).failed("v2", 2, 3, func(f *failedRelease) { f.GivenUp = "no room" }),
		"left", "rests as RollbackFailed"},

	{"failed: the failed one goes", inPlace("v2").set("v1", 1, 3, 3, isGood).set("v2", 2, 2, 0).failed("v2", 2, 3), "rollback", "web-v2 attempt=2.1.0.back held-at=0 !RolledBack"},
	{"failed: what was good last comes back", inPlace("v3").set("v1", 3, 1, 0, isGood, hadNumber).set("v2", 2, 2, 2, isGood).set("v3", 4, 0, 0, isHeld(0)).failed("v3", 4, 3),
		"rollback", "web-v1 held-at=0"},
	{"failed: then the good one is whole again", inPlace("v2").set("v1", 1, 3, 3, isGood).set("v2", 2, 0, 0, isHeld(0)).failed("v2", 2, 3), "rollback", "web-v1 replicas=4"},
	{"failed: and then it rests", inPlace("v2").set("v1", 1, 4, 4, isGood).set("v2", 2, 0, 0, isHeld(0)).failed("v2", 2, 3), "rollback", "rests as RolledBack"},
	{"failed, and the condition is another one", inPlace("v2").set("v1", 1, 4, 4, isGood).set("v2", 2, 0, 0).failed("v2", 2, 3).
		progressing(corev1.ConditionTrue, "NewReplicaSetAvailable", ""), "rollback", "Progressing=False/ProgressDeadlineExceeded"},
	{"rolled back, and the condition was written just now", inPlace("v2").set("v1", 1, 4, 4, isGood).set("v2", 2, 0, 0, isHeld(0)).failed("v2", 2, 3).
		progressing(corev1.ConditionTrue, "ReplicaSetUpdated", "").remembers(func(m *InPlaceMemory) { m.at, m.toldAt = "uid-of-v2/2/1", noon }), "rollback", "rests as RolledBack"}, // for a second
	{"rolled back, and scaled since", inPlace("v2").set("v1", 1, 4, 4, isGood).set("v2", 2, 0, 0, isHeld(0)).failed("v2", 2, 3).with(wants(6)),
		"rollback", "web-v1 desired-replicas=6 max-replicas=8 replicas=6"},
	{"rolled back, and the failed one has pods again", inPlace("v2").set("v1", 1, 4, 4, isGood).set("v2", 2, 1, 0, isHeld(0)).failed("v2", 2, 3),
		"rollback", "web-v2 attempt=2.1.0.back held-at=0 !RolledBack"},
	{"rolled back, and let go since", inPlace("v2").set("v1", 1, 3, 3, isGood).set("v2", 2, 2, 0, isTried("2.1.0.back")).failed("v2", 2, 3),
		"rollback", "web-v2 held-at=0"},
	{"rolled back before the present attempt", inPlace("v2").set("v1", 1, 3, 3, isGood).set("v2", 5, 2, 0, hadNumber, isTried("2.1.0.back")).failed("v2", 5, 3),
		"rollback", "web-v2 attempt=5.1.0.back held-at=0 !RolledBack"},
	{"rolled back, and the good one does not come up", polled(600*time.Second, inPlace("v2").set("v1", 1, 4, 0, isGood).set("v2", 2, 0, 0, isHeld(0)).failed("v2", 2, 3)),
		"rollback", "failure written !RollbackFailed"},
	{"rolled back, and the good one does not come up, told before", polled(600*time.Second, inPlace("v2").set("v1", 1, 4, 0, isGood).set("v2", 2, 0, 0, isHeld(0)).
		failed("v2", 2, 3, wasTold(v1alpha1.ReasonRollbackFailed))), "rollback", "rests as RollbackFailed"},
	{"in transition, and the good one does not come up", polled(600*time.Second, inPlace("v2").set("v1", 1, 3, 0, isGood, isHeld(3)).set("v2", 2, 2, 2, isHeld(2)).failed("v2", 2, 4)),
		"rollback", "failure written Progressing=False/ProgressDeadlineExceeded !RollbackFailed"},
	{"in transition, and the good one is on its way", polled(597*time.Second, inPlace("v2").set("v1", 1, 3, 0, isGood, isHeld(3)).set("v2", 2, 2, 2, isHeld(2)).failed("v2", 2, 4)),
		"rollback", ""},
	{"without a deadline no condition", inPlace("v2").set("v1", 1, 4, 4, isGood).set("v2", 2, 0, 0, isHeld(0)).failed("v2", 2, 3).
		progressing(corev1.ConditionTrue, "ReplicaSetUpdated", "").with(func(d *appsv1.Deployment) { d.Spec.ProgressDeadlineSeconds = nil }), "rollback", "rests as RolledBack"},
	{"under Recreate nothing may say that it is complete", inPlace("v2").set("v1", 1, 0, 0, isGood).set("v2", 2, 4, 0).failed("v2", 2, 3).
		progressing(corev1.ConditionTrue, "NewReplicaSetAvailable", "").with(recreate), "rollback", "Progressing=True/ReplicaSetUpdated"},
	{"Recreate has no condition either", inPlace("v2").set("v1", 1, 4, 4, isGood, isHeld(4), annotated(setMost, "4")).set("v2", 2, 0, 0, isHeld(0)).failed("v2", 2, 3).
		progressing(corev1.ConditionTrue, "ReplicaSetUpdated", "").with(recreate), "rollback", "rests as RolledBack"},
}

func TestInPlace_Table(t *testing.T) {
	reached := map[string]bool{"rest": true, "look": true, "unanswered": true} // TestInPlace_Looks, TestInPlace_Unanswered
	for _, c := range inPlaceCases {
		t.Run(c.name, func(t *testing.T) {
			d := DecideInPlace(c.site.InPlace)
			if reached[d.Row()] = true; d.Row() != c.row || told(d) != c.want {
				t.Errorf("%s: %q, want %s: %q", d.Row(), told(d), c.row, c.want)
			}
		})
	}
	for _, row := range inPlaceRows {
		if !reached[row.name] {
			t.Errorf("no case is in row %s", row.name)
		}
	}
}

// Who has how many pods at each step of the way back, with 4 replicas.
func TestInPlace_Plan(t *testing.T) {
	sick := func(good, goodReady, failed, failedReady, ready int32) *site {
		return inPlace("v2").set("v1", 1, good, goodReady, isGood).set("v2", 2, failed, failedReady).failed("v2", 2, ready)
	}
	for _, c := range []struct {
		name string
		site *site
		want string
	}{
		{"in the rollout", sick(3, 3, 2, 0, 3), "v2=0 v1=4"},
		{"in the soak, all but one ready", sick(0, 0, 4, 3, 3), "v1(2) v2=3"},
		{"in the soak, with one good one back", sick(2, 1, 3, 3, 3), "v2=2 v1(3)"},
		{"in the soak, with enough back", sick(3, 3, 1, 1, 3), "v2=0 v1=4"},
		{"in the soak, none ready", sick(0, 0, 4, 0, 0), "v1=4 v2=0"},
		{"in the soak, no surge", sick(0, 0, 4, 4, 4).with(rolling("0", "25%")), "v2=3 v1(1)"},
		{"no surge, at its end", sick(4, 4, 0, 0, 4).with(rolling("0", "25%")), "v2=0 v1(4)"},
		{"all may be unavailable", sick(0, 0, 4, 4, 4).with(rolling("25%", "100%")), "v1=4 v2=0"},
		{"one replica, still ready", inPlace("v2").set("v1", 1, 0, 0, isGood).set("v2", 2, 1, 1).failed("v2", 2, 1).with(wants(1)), "v1(1) v2=1"},
		{"one replica, not ready", inPlace("v2").set("v1", 1, 0, 0, isGood).set("v2", 2, 1, 0).failed("v2", 2, 0).with(wants(1)), "v1=1 v2=0"},
		{"Recreate, with pods of the failed one", sick(0, 0, 4, 4, 4).with(recreate), "v2=0"},
		{"Recreate, without", sick(0, 0, 0, 0, 4).with(recreate), "v2=0 v1(4)"},
		{"an older one has pods, too", inPlace("v3").set("v1", 1, 2, 2, isGood).set("v2", 2, 1, 1).set("v3", 3, 2, 0).failed("v3", 3, 3), "v2=1 v3=0 v1(4)"},
		{"an older one has pods that nobody needs", inPlace("v3").set("v1", 1, 3, 3, isGood).set("v2", 2, 1, 1).set("v3", 3, 1, 0).failed("v3", 3, 3), "v2=0 v3=0 v1=4"},
		{"scaled down meanwhile", sick(4, 4, 2, 0, 3).with(wants(2)), "v2=0 v1=2"},
		{"neither surge nor unavailable", sick(0, 0, 4, 4, 4).with(rolling("0", "0")), "v2=3 v1(1)"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := newPlace(c.site.InPlace)
			plan, _ := p.plan(p.failure.Ready)
			var got []string
			for _, s := range plan {
				format := "%s=%d"
				if s.set == p.good && s.held {
					format = "%s(%d)"
				}
				got = append(got, fmt.Sprintf(format, strings.TrimPrefix(s.set.Name, "web-"), s.n))
			}
			if got := strings.Join(got, " "); got != c.want {
				t.Errorf("%s, want %s", got, c.want)
			}
		})
	}
}

// forgotten lets a process know of the failure that is told, and others take that away; it was told again so long ago.
func forgotten(ago time.Duration, s *site) *site {
	s.Memory = newPlace(s.InPlace).Memory
	s.Memory.State, s.Memory.restated = v1alpha1.ReasonRolledBack, s.Now.Add(-ago)
	delete(s.Deployment.Annotations, v1alpha1.FailureAnnotation)
	return s
}

// polled lets the time pass, and decides at each poll. The node is fine.
func polled(d time.Duration, s *site) *site {
	s.Evidence.answer(nil, []string{"node"})
	for end := s.Now.Add(d); s.Now.Before(end); s.Now = s.Now.Add(s.PollInterval) {
		s.Memory = DecideInPlace(s.InPlace).Memory
	}
	return s
}

// What a Deployment is at, for the metrics.
func TestInPlace_States(t *testing.T) {
	release := func(ready int32) *site {
		return inPlace("v2").set("v1", 1, 0, 0, isGood).set("v2", 2, 4, ready).guarded(soaks(30)).
			remembers(func(m *InPlaceMemory) { m.State = v1alpha1.ReasonSoaking })
	}
	for _, c := range []struct {
		name string
		site *site
		want string
	}{
		{"on its way", release(3), v1alpha1.ReasonProgressing},
		{"complete", release(4), v1alpha1.ReasonSoaking},
		{"paused", release(4).with(func(d *appsv1.Deployment) { d.Spec.Paused = true }), v1alpha1.ReasonPaused},
		{"the label is of no known value", release(4).with(labelled("yes")), ""},
	} {
		m := DecideInPlace(c.site.InPlace).Memory
		if m.State != c.want {
			t.Errorf("%s: %q, want %q", c.name, m.State, c.want)
		}
		if looks := c.want == v1alpha1.ReasonProgressing || c.want == v1alpha1.ReasonSoaking; m.UnderWay() != looks {
			t.Errorf("%s: under way is %v", c.name, m.UnderWay())
		}
	}
}

// stepped lets a process know of the failure, which is an hour ago, and the clock step: what is stored is as much later, and the retry is due.
func stepped(later time.Duration, s *site) *site {
	s.Memory = newPlace(s.InPlace).Memory
	s.Memory.due = noon
	return s.failed("v2", 2, 3, func(f *failedRelease) { f.Time = metav1.NewTime(f.Time.Add(later)) })
}

// The Deployment controller's deadline for a release that is tried again begins by the cluster's clock, not by this process's.
func TestInPlace_TriedAgainByTheClusterClock(t *testing.T) {
	began := metav1.NewTime(noon.Add(-time.Hour))
	s := inPlace("v2").set("v1", 1, 4, 4, isGood).set("v2", 2, 1, 0, isTried("2.2.0"), func(set *appsv1.ReplicaSet) {
		set.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: FieldManager, Time: &began}}
	}).failed("v2", 2, 3)
	d := DecideInPlace(s.InPlace)
	if d.Status == nil || d.Status.Progressing == nil || !d.Status.Progressing.LastUpdateTime.Equal(&began) {
		t.Errorf("the status that is written is %+v, want a condition as of %s", d.Status, began)
	}
}

// An attempt at a ReplicaSet that was never asked for before began with it, whatever was written since.
func TestInPlace_AttemptSince(t *testing.T) {
	wrote := metav1.NewTime(noon)
	for label, since := range map[string]metav1.Time{"2.1.0": {}, "2.2.0": wrote} {
		set := inPlace("v2").set("v2", 2, 1, 0, isTried(label), func(set *appsv1.ReplicaSet) {
			set.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: FieldManager, Time: &wrote}, {Manager: "another", Time: new(metav1.NewTime(noon.Add(time.Hour)))}}
		}).Evidence.ReplicaSets[0]
		if attempt, noted := attemptAt(set); !noted || !attempt.Since.Equal(&since) {
			t.Errorf("attempt %s, noted %v, is since %s, want %s", label, noted, attempt.Since, since)
		}
	}
}

// When evidence is read, of a Deployment that has shown something at the last look, or shows something else now.
func TestInPlace_Looks(t *testing.T) {
	rests := func(s *site) *site {
		s.Memory = DecideInPlace(s.InPlace).Memory
		s.Evidence, s.Now = nil, s.Now.Add(time.Minute)
		return s
	}
	good := func() *site { return rests(inPlace("v1").set("v1", 1, 4, 4, isGood)) }
	back := func() *site {
		return rests(inPlace("v2").set("v1", 1, 4, 4, isGood).set("v2", 2, 0, 0, isHeld(0)).failed("v2", 2, 3))
	}
	change := func(s *site, change func(d *appsv1.Deployment)) *site {
		s.Deployment = s.Deployment.DeepCopy()
		change(s.Deployment)
		return s
	}
	generation := func(n int32) func(*appsv1.Deployment) {
		return func(d *appsv1.Deployment) { d.Generation++; d.Spec.Replicas = &n }
	}
	unread := func(status ...func(*appsv1.Deployment)) *site {
		s := inPlace("v1")
		for _, change := range status {
			s.with(change)
		}
		s.Evidence = nil
		return s
	}
	created := func() *site { // twice the interval ago, less a second
		s := unread(func(d *appsv1.Deployment) { d.Status.ObservedGeneration = 0 })
		s.Memory = DecideInPlace(s.InPlace).Memory
		s.Now = s.Now.Add(2*pollInterval - time.Second)
		return s
	}
	acted := func(ready int32) func(*appsv1.Deployment) {
		return func(d *appsv1.Deployment) {
			d.Annotations[SetNumber], d.Status.ObservedGeneration = "1", d.Generation
			d.Status.Replicas, d.Status.UpdatedReplicas, d.Status.ReadyReplicas, d.Status.AvailableReplicas = 4, 4, ready, ready
		}
	}
	noDeadline := func(d *appsv1.Deployment) { d.Spec.ProgressDeadlineSeconds, d.Status.Conditions = nil, nil }
	// underWay is soon after a look at the way back, when pods of the good one come up.
	underWay := func(ready int32) *site {
		s := inPlace("v2").set("v1", 1, 4, 1, isGood).set("v2", 2, 0, 0, isHeld(0)).failed("v2", 2, 3)
		s.Memory = DecideInPlace(s.InPlace).Memory
		s.Evidence, s.Now = nil, s.Now.Add(hintPause)
		return change(s, func(d *appsv1.Deployment) { d.Status.ReadyReplicas = ready })
	}
	replaced := unread(func(d *appsv1.Deployment) { d.Status.ObservedGeneration--; delete(d.Annotations, SetNumber) })
	if DecideInPlace(replaced.InPlace).Memory.met {
		t.Error("a Deployment that was replaced is taken for one that was created")
	}
	for _, c := range []struct {
		name string
		site *site
		want string
	}{
		{"a Deployment that nobody knows", unread(), "look"},
		{"just created", created(), ""},
		{"just created, and it comes up", change(created(), acted(3)), ""},
		{"just created, and complete", change(created(), acted(4)), "look"},
		{"good and at rest", good(), "rests as RolledOut"},
		{"good and scaled", change(good(), generation(6)), "rests as RolledOut"},
		{"good and short of a pod", change(good(), func(d *appsv1.Deployment) { d.Status.ReadyReplicas, d.Status.AvailableReplicas = 3, 3 }), "rests as RolledOut"},
		{"good, and another template", change(good(), func(d *appsv1.Deployment) { d.Generation++; d.Spec.Template = template("v2") }), "look"},
		{"good, and another number", change(good(), func(d *appsv1.Deployment) { d.Annotations[SetNumber] = "2" }), "look"},
		{"good, without a deadline", change(rests(inPlace("v1").set("v1", 1, 4, 4, isGood).with(noDeadline)), func(d *appsv1.Deployment) {}), "rests as RolledOut"},
		{"good, without a deadline, and its ReplicaSet has pods again", change(rests(inPlace("v1").set("v1", 1, 0, 0, isGood).with(noDeadline)), acted(4)), "look"},
		{"on the way back, and nothing new", underWay(1), ""},
		{"on the way back, and one more is ready", underWay(2), "look"},
		{"on the way back, and scaled", change(underWay(1), generation(6)), "look"},
		{"on the way back, and another number", change(underWay(1), func(d *appsv1.Deployment) { d.Annotations[SetNumber] = "3" }), "look"},
		{"rolled back and at rest", back(), "rests as RolledBack"},
		{"rolled back and scaled", change(back(), generation(6)), "look"},
		{"rolled back, and a pod of the failed one", change(back(), func(d *appsv1.Deployment) { d.Status.UpdatedReplicas = 1 }), "look"},
		{"rolled back, and overruled", change(back(), func(d *appsv1.Deployment) {
			d.Status.Conditions = []appsv1.DeploymentCondition{{Type: appsv1.DeploymentProgressing, Status: corev1.ConditionTrue, Reason: "ReplicaSetUpdated"}}
		}), "look"},
		{"rolled back and short of a pod", change(back(), func(d *appsv1.Deployment) { d.Status.ReadyReplicas = 3 }), "rests as RolledBack"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := told(DecideInPlace(c.site.InPlace)); got != c.want {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
}

// The API server's answer tells whether there is a policy that holds.
func TestInPlace_NotHeld(t *testing.T) {
	s := inPlace("v2").set("v1", 1, 3, 3, isGood).set("v2", 2, 2, 0).failed("v2", 2, 3)
	d := DecideInPlace(s.InPlace)
	answer := d.Set.Set.DeepCopy()
	for key, value := range d.Set.Labels {
		answer.Labels[key] = *value
	}
	s.InPlace = d.Answered(s.InPlace, nil, answer)
	if got := told(d); got != "web-v2 attempt=2.1.0.back held-at=0" || d.RollBack {
		t.Errorf("%q with RollBack %v, want no word of a return", got, d.RollBack)
	}
	d = DecideInPlace(s.InPlace)
	if got := told(d); got != "web-v2 attempt=2.1.0 -held-at" {
		t.Errorf("%q, want the labels taken off", got)
	}
	answer = answer.DeepCopy()
	delete(answer.Labels, v1alpha1.HeldAtLabel)
	answer.Labels[v1alpha1.AttemptLabel] = *d.Set.Labels[v1alpha1.AttemptLabel]
	s.InPlace = d.Answered(s.InPlace, nil, answer)
	if got := told(DecideInPlace(s.InPlace)); got != "failure written !NotHeld" {
		t.Errorf("%q, want the Event NotHeld", got)
	}
}

// There is no place for a log, and no field that asks for none: nothing is said about one.
func TestInPlace_TellsNothingOfLogs(t *testing.T) {
	s := inPlace("v2").set("v1", 1, 3, 3, isGood).set("v2", 2, 2, 0)
	for _, p := range s.Evidence.Pods {
		changed(p, restarted(4), waits("CrashLoopBackOff"), exited(1, ""))
	}
	d := DecideInPlace(s.InPlace)
	const want = "web-v2 failed: container web exited with code 1 after 4 restarts in pod web-v2-0 on node node"
	if d.NeedDetails.Log != nil || d.Status == nil || d.Status.Progressing.Message != want {
		t.Errorf("log asked for: %+v, %+v, want %q", d.NeedDetails.Log, d.Status, want)
	}
}

// In place no image is pinned, and no setting changes that: a message about a tag that has moved says so, and advises nothing else.
func TestInPlace_TellsOfMovedTags(t *testing.T) {
	const moved = "; image v2 of container web is sha256:bb now, was sha256:aa when web-v1 was good, and pods that start may run what it is now: in place no image is pinned"
	ranSameTag := func(set *appsv1.ReplicaSet) {
		set.Spec.Template = template("v2")
		set.Spec.Template.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "VERSION", Value: "1"}}
		set.Annotations[v1alpha1.ImagesAnnotation] = encoded(setImages{string(set.UID), images{"web": {Digests: []string{"sha256:aa"}}}})
	}
	for _, pin := range []v1alpha1.PinImages{"", v1alpha1.PinNever, v1alpha1.PinAlways} {
		s := inPlace("v2").set("v1", 1, 3, 3, isGood, ranSameTag).set("v2", 2, 2, 0).guarded(func(g *v1alpha1.Guard) { g.PinImages = pin })
		for _, p := range s.Evidence.Pods {
			changed(p, restarted(4), waits("CrashLoopBackOff"), exited(1, ""))
			p.Status.ContainerStatuses[0].ImageID = "v2@sha256:bb"
		}
		d := DecideInPlace(s.InPlace)
		if d.Status == nil || !strings.HasSuffix(d.Status.Progressing.Message, "in pod web-v2-0 on node node"+moved) {
			t.Errorf("pinImages %q: %+v, want %q about the release", pin, d.Status, moved)
		}
		p := newPlace(s.InPlace)
		back := newLook(p.Deployment, p.Evidence, p.limitsOfGood(asRevision(p.good)))
		if got := back.movedWords(back.moved("")); got != moved {
			t.Errorf("pinImages %q: %q, want %q about the return", pin, got, moved)
		}
	}
}
