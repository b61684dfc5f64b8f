package rollout

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// carryOut lets the write of a decision take effect.
func (s *site) carryOut(d InPlaceDecision) {
	if d.Status != nil {
		for key, value := range d.Status.Annotations {
			s.Deployment.Annotations[key] = *value
		}
		return
	}
	for key, value := range d.Set.Labels {
		if delete(d.Set.Set.Labels, key); value != nil {
			d.Set.Set.Labels[key] = *value
		}
	}
	if n, holds := d.Set.Hold(); holds {
		d.Set.Set.Spec.Replicas = &n
	}
}

// What the answer to a write would have had told is told when the write is seen, once, and nothing before.
func TestInPlace_Unanswered(t *testing.T) {
	crashes := func() *site {
		s := inPlace("v2").set("v1", 1, 3, 3, isGood).set("v2", 2, 2, 0)
		for _, p := range s.Evidence.Pods {
			changed(p, restarted(4), waits("CrashLoopBackOff"), exited(1, ""))
		}
		return s
	}
	for _, c := range []struct {
		name       string
		site       *site
		want, then string
	}{
		{"the verdict", crashes(), "!CrashLoop", "Progressing=False/ProgressDeadlineExceeded"},
		{"the hold", inPlace("v2").set("v1", 1, 3, 3, isGood).set("v2", 2, 2, 0).failed("v2", 2, 3), "!RolledBack", "web-v1 replicas=4"},
		{"that it is good", inPlace("v1").set("v1", 1, 4, 4).remembers(isMet).guarded(soaks(0)).progressing(corev1.ConditionTrue, "NewReplicaSetAvailable", ""),
			"!RolledOut", "rests as RolledOut"},
		{"that there is nothing to go back to", inPlace("v2").set("v1", 1, 3, 3, isTried("1.1.0")).set("v2", 2, 2, 0), "!NoGoodRevision", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := c.site
			sent := DecideInPlace(s.InPlace)
			s.Memory.Unanswered(sent)
			if d := DecideInPlace(s.InPlace); d.Row() == "unanswered" || told(d) != told(sent) {
				t.Errorf("before it is seen %s: %q, want what was decided before: %q", d.Row(), told(d), told(sent))
			}
			s.carryOut(sent)
			late := DecideInPlace(s.InPlace)
			if late.Row() != "unanswered" || told(late) != c.want || !late.Again() || late.Verdict != sent.Verdict || late.Cause != sent.Cause || late.RollBack != sent.RollBack {
				t.Errorf("when it is seen %s: %q and %+v, want %q", late.Row(), told(late), late, c.want)
			}
			s.InPlace = late.Answered(s.InPlace, nil, nil)
			if d := DecideInPlace(s.InPlace); d.Row() == "unanswered" || told(d) != c.then {
				t.Errorf("after that %s: %q, want %q", d.Row(), told(d), c.then)
			}
		})
	}
}

// What has not taken effect by the time that another attempt is asked for is not told any more, nor what was written again with an answer.
func TestInPlace_UnansweredForLong(t *testing.T) {
	for name, happens := range map[string]func(s *site, sent InPlaceDecision){
		"another attempt": func(s *site, _ InPlaceDecision) {
			s.Evidence.ReplicaSets[1].Annotations[SetNumber] = "5"
			s.counted()
			s.Memory = DecideInPlace(s.InPlace).Memory
			s.Evidence.ReplicaSets[1].Annotations[SetNumber] = "2"
			s.counted()
		},
		"an answer": func(s *site, sent InPlaceDecision) {
			again := DecideInPlace(s.InPlace)
			s.InPlace = again.Answered(s.InPlace, nil, again.Set.Set)
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := inPlace("v2").set("v1", 1, 3, 3, isGood).set("v2", 2, 2, 0).failed("v2", 2, 3)
			sent := DecideInPlace(s.InPlace)
			s.Memory.Unanswered(sent)
			happens(s, sent)
			s.carryOut(sent)
			if d := DecideInPlace(s.InPlace); d.Row() == "unanswered" {
				t.Errorf("it is told: %q", told(d))
			}
		})
	}
}
