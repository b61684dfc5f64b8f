package faults

import (
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// all is the law that stories keep all laws.
func (s *scripted) all(say func(string, ...any)) {
	for _, words := range s.broken() {
		say("%s", words)
	}
}

// counted stores that the Deployment, which runs version 1 again, has so many pods available.
func (s *scripted) counted(available int32, enough corev1.ConditionStatus) {
	d := s.run("good", "1")
	d.Status.AvailableReplicas = available
	d.Status.Conditions = []appsv1.DeploymentCondition{{Type: appsv1.DeploymentAvailable, Status: enough}}
}

// tells returns a change of a status to so many pods, of which it is said whether they are enough.
func tells(available int32, enough metav1.ConditionStatus) func(*v1alpha1.GuardedDeployment) {
	return func(g *v1alpha1.GuardedDeployment) {
		g.Status.AvailableReplicas = available
		meta.SetStatusCondition(&g.Status.Conditions, metav1.Condition{Type: v1alpha1.ConditionAvailable, Status: enough})
	}
}

func TestLaws_Status(t *testing.T) {
	const yes, no, back = metav1.ConditionTrue, metav1.ConditionFalse, v1alpha1.ReasonRolledBack
	is := func(kind string, status metav1.ConditionStatus, reason string) func(*v1alpha1.GuardedDeployment) {
		return func(g *v1alpha1.GuardedDeployment) {
			meta.SetStatusCondition(&g.Status.Conditions, metav1.Condition{Type: kind, Status: status, Reason: reason})
		}
	}
	runs := func(revision string) func(*v1alpha1.GuardedDeployment) {
		return func(g *v1alpha1.GuardedDeployment) { g.Status.RunningRevision = revision }
	}
	for name, c := range map[string]struct {
		do   func(s *scripted)
		want string
	}{
		"nothing": {func(*scripted) {}, ""},
		"stalled by Held while it is rolled out": {func(s *scripted) {
			s.say(yes, v1alpha1.ReasonRolledOut, is(v1alpha1.ConditionStalled, yes, v1alpha1.ReasonHeld))
		}, "Stalled says Held"},
		"stalled while it is rolled out": {func(s *scripted) {
			s.say(yes, v1alpha1.ReasonRolledOut, is(v1alpha1.ConditionStalled, yes, v1alpha1.ReasonRolledOut))
		}, `["Ready" "Stalled"] are True by RolledOut`},
		"stalled while it goes on": {func(s *scripted) { s.say(no, v1alpha1.ReasonProgressing, nil) }, `["Stalled"] are True by Progressing`},
		"nothing is so":            {func(s *scripted) { s.say(no, back, is(v1alpha1.ConditionStalled, no, back)) }, "[] are True by RolledBack"},
		"one is not there": {func(s *scripted) {
			s.say(no, back, func(g *v1alpha1.GuardedDeployment) {
				meta.RemoveStatusCondition(&g.Status.Conditions, v1alpha1.ConditionReconciling)
			})
		}, "has no Reconciling"},

		"available, and there is no pod": {func(s *scripted) { s.say(no, back, tells(0, yes)) }, "the Deployment never did"},
		"not available, and no pod":      {func(s *scripted) { s.say(no, back, tells(0, no)) }, ""},
		"as the Deployment says":         {func(s *scripted) { s.counted(2, "True"); s.say(no, back, tells(2, yes)) }, ""},
		"as it said": {func(s *scripted) {
			s.counted(2, "True")
			s.counted(1, "False")
			s.say(no, back, tells(2, yes))
		}, ""},
		"more than it has": {func(s *scripted) { s.counted(1, "False"); s.say(no, back, tells(2, yes)) }, "available:2 enough:true} of the pods"},
		"half of its word": {func(s *scripted) { s.counted(1, "False"); s.say(no, back, tells(1, yes)) }, "available:1 enough:true} of the pods"},
		"too early":        {func(s *scripted) { s.say(no, back, tells(2, yes)); s.counted(2, "True") }, "available:2 enough:true} of the pods"},

		"another one runs":     {func(s *scripted) { s.say(no, back, runs("nonsense")); s.say(no, back, nil) }, "the status says that nonsense runs"},
		"the one before":       {func(s *scripted) { s.say(no, back, runs("web-2")); s.say(no, back, nil) }, ""},
		"the one before that":  {func(s *scripted) { s.say(no, back, runs("")); s.say(no, back, nil) }, "the status says that  runs"},
		"the one before, last": {func(s *scripted) { s.say(no, back, runs("web-2")) }, "at the end the status says that web-2 runs"},
		"the one after": {func(s *scripted) {
			s.sights = s.sights[:3] // that 2 failed
			s.say(no, back, func(g *v1alpha1.GuardedDeployment) { g.Status.Conditions = nil })
			s.run("good", "1")
		}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			s := rolledBack()
			c.do(s)
			wantBreach(t, s.all, c.want)
		})
	}
}
