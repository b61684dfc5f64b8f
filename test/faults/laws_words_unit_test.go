package faults

import (
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// scripted is a story of a good version 1, a crashing version 2 and a rollback, with what is stored in it, in its order.
type scripted struct {
	*told
	rv uint64
}

func newScripted() *scripted {
	return &scripted{told: &told{story: story{name: "rollback", runs: "1 2 1", fails: "2"}, ended: true}}
}

// rolledBack is the whole story.
func rolledBack() *scripted {
	s := newScripted()
	s.run("good", "1")
	s.run("crash", "2")
	s.judge("crash", "2", foundFailed)
	s.run("good", "1")
	s.say(metav1.ConditionFalse, v1alpha1.ReasonRolledBack, nil)
	return s
}

func (s *scripted) store(object runtime.Object) {
	s.rv++
	s.sights = append(s.sights, sight{rv: s.rv, object: object})
}

// run stores a Deployment of this version, whose revision is called "web-" and that.
func (s *scripted) run(does, version string) *appsv1.Deployment {
	d := &appsv1.Deployment{Spec: appsv1.DeploymentSpec{Replicas: new(int32(2)), Template: template(does, version)}}
	d.Name, d.UID, d.Annotations = name, "uid", map[string]string{v1alpha1.RevisionAnnotation: "web-" + version}
	s.store(d)
	return d
}

// judge stores a revision with its verdict.
func (s *scripted) judge(does, version string, annotations map[string]string) {
	r := &appsv1.ControllerRevision{Data: runtime.RawExtension{Raw: []byte(`{"spec":{"template":` + mustJSON(template(does, version)) + `}}`)}}
	r.Name, r.Annotations, r.OwnerReferences = "web-"+version, annotations, []metav1.OwnerReference{{UID: "owner"}}
	s.store(r)
}

var foundFailed = map[string]string{v1alpha1.VerdictAnnotation: v1alpha1.VerdictFailed, v1alpha1.FailureAnnotation: "{}"}

// say stores a status, of a spec that asks for version 2.
func (s *scripted) say(status metav1.ConditionStatus, reason string, change func(g *v1alpha1.GuardedDeployment)) {
	g := &v1alpha1.GuardedDeployment{}
	g.Name, g.Generation = name, 2
	g.Spec.Replicas, g.Spec.Template = new(int32(2)), template("crash", "2")
	g.Status = v1alpha1.GuardedDeploymentStatus{RunningRevision: "web-1", GoodRevision: "web-1", Failure: &v1alpha1.Failure{Revision: "web-2", Reason: v1alpha1.FailureCrashLoop}}
	stalled := map[metav1.ConditionStatus]metav1.ConditionStatus{metav1.ConditionTrue: metav1.ConditionFalse, metav1.ConditionFalse: metav1.ConditionTrue}[status]
	for kind, is := range map[string]metav1.ConditionStatus{v1alpha1.ConditionReady: status, v1alpha1.ConditionReconciling: metav1.ConditionFalse, v1alpha1.ConditionStalled: stalled} {
		g.Status.Conditions = append(g.Status.Conditions, metav1.Condition{Type: kind, Status: is, Reason: reason, ObservedGeneration: 2})
	}
	if change != nil {
		change(g)
	}
	s.store(g)
}

func TestLaws_Words(t *testing.T) {
	const yes, no = metav1.ConditionTrue, metav1.ConditionFalse
	runs := func(revision string) func(*v1alpha1.GuardedDeployment) {
		return func(g *v1alpha1.GuardedDeployment) { g.Status.RunningRevision = revision }
	}
	failed := func(revision, reason string) func(*v1alpha1.GuardedDeployment) {
		return func(g *v1alpha1.GuardedDeployment) {
			g.Status.Failure = &v1alpha1.Failure{Revision: revision, Reason: reason}
		}
	}
	asked := func(does, version string, replicas int32) func(*v1alpha1.GuardedDeployment) {
		return func(g *v1alpha1.GuardedDeployment) {
			g.Spec.Template, g.Spec.Replicas = template(does, version), &replicas
		}
	}
	for name, c := range map[string]struct {
		status metav1.ConditionStatus
		reason string
		change func(*v1alpha1.GuardedDeployment)
		early  bool // while version 2 runs
		want   string
	}{
		"rolled out":                      {yes, v1alpha1.ReasonRolledOut, asked("good", "1", 2), false, ""},
		"rolled out, of the spec before":  {yes, v1alpha1.ReasonRolledOut, func(g *v1alpha1.GuardedDeployment) { g.Generation = 3 }, false, ""},
		"rolled out, and 2 is asked for":  {yes, v1alpha1.ReasonRolledOut, nil, false, "RolledOut while 1 runs, and 2 is asked for"},
		"rolled back to nothing":          {no, v1alpha1.ReasonRolledBack, func(g *v1alpha1.GuardedDeployment) { g.Status.GoodRevision = "" }, false, "no good revision"},
		"no replicas":                     {no, v1alpha1.ReasonScaledToZero, asked("crash", "2", 2), false, "says ScaledToZero, and 2 replicas are asked for"},
		"rolled out, and it crashes":      {yes, v1alpha1.ReasonRolledOut, runs("web-2"), true, "a condition says that 2 is ready"},
		"rolled back":                     {no, v1alpha1.ReasonRolledBack, nil, false, ""},
		"rolled back, and it is not":      {no, v1alpha1.ReasonRolledBack, nil, true, "a condition says RolledBack while 2 runs"},
		"rolled back, and ready":          {yes, v1alpha1.ReasonRolledBack, nil, false, "Ready is True by RolledBack"},
		"rolled out, and not ready":       {no, v1alpha1.ReasonRolledOut, nil, false, "Ready is False by RolledOut"},
		"rolled back, and nothing failed": {no, v1alpha1.ReasonRolledBack, func(g *v1alpha1.GuardedDeployment) { g.Status.Failure = nil }, false, "has no failure"},
		"the good one failed":             {no, v1alpha1.ReasonRolledBack, failed("web-1", v1alpha1.FailureCrashLoop), false, "says that 1 failed"},
		"another failure":                 {no, v1alpha1.ReasonRolledBack, failed("web-2", v1alpha1.FailureImagePull), false, "2 failed by ImagePull"},
		"the bad one good":                {no, v1alpha1.ReasonRolledBack, func(g *v1alpha1.GuardedDeployment) { g.Status.GoodRevision = "web-2" }, false, "says that 2 is good"},
		"nothing is contested":            {no, v1alpha1.ReasonContested, nil, false, "says Contested"},
		"there is no quota":               {no, v1alpha1.ReasonWaitingForQuota, nil, false, "says WaitingForQuota"},
		"the controller may be slow":      {no, v1alpha1.ReasonWaitingForDeploymentController, nil, false, ""},
		"nothing was restarted":           {no, v1alpha1.ReasonRestartFailed, nil, false, "says RestartFailed"},
		"paused, and it is not":           {no, v1alpha1.ReasonPaused, nil, false, "says Paused, and the spec is not"},
		"paused":                          {no, v1alpha1.ReasonPaused, func(g *v1alpha1.GuardedDeployment) { g.Spec.Paused = true }, false, ""},
	} {
		t.Run(name, func(t *testing.T) {
			s := newScripted()
			s.run("good", "1")
			s.run("crash", "2")
			if c.early {
				s.say(c.status, c.reason, c.change)
			}
			s.run("good", "1")
			if !c.early {
				s.say(c.status, c.reason, c.change)
			}
			wantBreach(t, func(say func(string, ...any)) { s.words(say); s.statesTold(say) }, c.want)
		})
	}
}

func TestLaws_EventsOfAStory(t *testing.T) {
	for note, want := range map[string]string{
		"web-1 is good and running":                                         "",
		"web-2 is good and running":                                         "an Event says that 2 is good",
		"web-2 failed: it crashes; the Deployment is back on web-1, until":  "",
		"web-2 failed: it crashes; the Deployment is back on web-2 (older)": "back on what failed",
		"web-1 failed: it crashes":                                          "an Event says that 1 failed",
		"the restart of web-1 failed: it crashes":                           "an Event says that 1 failed",
	} {
		s := newScripted()
		s.run("good", "1")
		s.run("crash", "2")
		s.events = []eventsv1.Event{{ReportingController: "belay", Reason: "CrashLoop", Note: note}}
		wantBreach(t, s.eventsTold, want)
	}
	s := rolledBack()
	s.events = []eventsv1.Event{{ReportingController: "belay", Reason: v1alpha1.ReasonNoGoodRevision, Action: "Guard", Note: "if web-2 fails, there is nothing to go back to"}}
	wantBreach(t, s.all, "")
	s.events[0].Note = "there is nothing to go back to"
	wantBreach(t, s.eventsTold, "an Event says NoGoodRevision")
	s.events = nil
	wantBreach(t, s.untold, "")
	s.undisturbed = true
	wantBreach(t, s.untold, "0 Events tell of a rollback, want 1")
	back := eventsv1.Event{ReportingController: "belay", Reason: v1alpha1.ReasonRolledBack}
	s.events = []eventsv1.Event{back}
	wantBreach(t, s.untold, "")
	s.events = append(s.events, back)
	wantBreach(t, s.eventsTold, "2 Events tell of a rollback")
}

func TestLaws_ToldOnce(t *testing.T) {
	const crash, back, good = v1alpha1.FailureCrashLoop, v1alpha1.ReasonRolledBack, v1alpha1.ReasonRolledOut
	type event struct {
		reason, note string
		times        int
	}
	firstBack, secondBack := "web-2 failed: it crashes; the Deployment is back on web-1", "web-2 failed: it crashes, attempt 2; the Deployment is back on web-1"
	for name, c := range map[string]struct {
		events []event
		want   string
	}{
		"each once":             {[]event{{crash, "web-2 failed: it crashes", 2}, {back, firstBack, 1}, {good, "web-1 is good and running", 1}, {back, secondBack, 1}}, ""},
		"none":                  {nil, ""},
		"a failure once more":   {[]event{{crash, "web-2 failed: it crashes", 3}}, "more often than it came to be stored: CrashLoop"},
		"a rollback twice":      {[]event{{back, firstBack, 2}}, "more often than it came to be stored: RolledBack: " + firstBack},
		"that it is good twice": {[]event{{good, "web-1 is good and running", 2}}, "more often than it came to be stored: RolledOut"},
		"what is not stored":    {[]event{{good, "web-2 is good and running", 1}}, "more often than it came to be stored: RolledOut"},
	} {
		t.Run(name, func(t *testing.T) {
			s := rolledBack()
			s.sights, s.fails = nil, "2 2"
			asked := func(reason, target, message string) {
				s.say(metav1.ConditionFalse, reason, func(g *v1alpha1.GuardedDeployment) {
					if g.Status.TargetRevision = target; target == "web-1" {
						g.Status.Failure = nil
					}
					for i := range g.Status.Conditions {
						g.Status.Conditions[i].Message = message
					}
				})
			}
			asked(back, "web-2", firstBack)
			asked(good, "web-1", "web-1 is good and running")
			asked(good, "web-1", "web-1 is good and running") // for other news
			asked(back, "web-2", secondBack)
			for _, e := range c.events {
				s.events = append(s.events, eventsv1.Event{ReportingController: "belay", Reason: e.reason, Note: e.note, Series: &eventsv1.EventSeries{Count: int32(e.times)}})
			}
			wantBreach(t, s.toldOnce, c.want)
		})
	}
}

func TestLaws_Course(t *testing.T) {
	s := newScripted()
	s.run("good", "1")
	s.run("crash", "2")
	s.judge("crash", "2", foundFailed)
	s.run("good", "1")
	for _, law := range []law{s.course, s.verdictFirst, s.replicas, s.paused, s.revisions} {
		wantBreach(t, law, "")
	}
	labelled := s.run("good", "1")
	labelled.Spec.Template.Labels["added"] = "x"
	wantBreach(t, s.course, `the Deployment ran "1 2 1 1"`)
	s.ended = false
	wantBreach(t, s.course, `the Deployment ran "1 2 1 1"`)
	s.ended, s.gaps = true, true
	wantBreach(t, s.course, `the Deployment ran "1 2 1 1"`)
	s.sights = s.sights[:1]
	wantBreach(t, s.course, "") // The others were missed.
	s.run("crash", "2")
	wantBreach(t, s.course, `the Deployment ran "1 2"`)
	s.ended, s.gaps = false, false
	wantBreach(t, s.course, "") // It is not over.

	s = rolledBack()
	s.run("good", "1").Spec.Replicas = new(int32)
	wantBreach(t, s.replicas, "the Deployment has 0 replicas")

	s = rolledBack()
	s.say(metav1.ConditionFalse, v1alpha1.ReasonProgressing, func(g *v1alpha1.GuardedDeployment) { g.Spec.Replicas = new(int32(3)) })
	s.run("good", "1") // It has not been written yet.
	s.run("crash", "2")
	written := &s.sights[len(s.sights)-1]
	for after, want := range map[time.Duration]string{underWay: "", underWay + time.Second: "the Deployment came to 2 with 2 replicas, 6s after 3 were asked for"} {
		written.at = s.sights[len(s.sights)-3].at.Add(after)
		wantBreach(t, s.replicas, want)
	}
	s.byBelay = [][]exchange{{{rv: written.rv, fault: writeLate + "20s"}}}
	wantBreach(t, s.replicas, "")

	s = rolledBack()
	s.say(metav1.ConditionFalse, v1alpha1.ReasonPaused, func(g *v1alpha1.GuardedDeployment) { g.Spec.Paused = true })
	s.run("crash", "2")
	wantBreach(t, s.paused, "the Deployment came to 2 while it was paused")

	s.judge("good", "1", foundFailed)
	wantBreach(t, s.all, "1 was found failed")
	s.judge("crash", "2", map[string]string{v1alpha1.VerdictAnnotation: v1alpha1.VerdictGood})
	wantBreach(t, s.all, "2 was found good")

	other := s.sights[2].object.(*appsv1.ControllerRevision).DeepCopy()
	other.Name = "another"
	s.store(other)
	wantBreach(t, s.revisions, "have the same template")
}

// What is stored of the attempt before is no verdict on this one.
func TestLaws_VerdictFirst(t *testing.T) {
	for name, c := range map[string]struct {
		annotations map[string]string
		want        string
	}{
		"found failed": {foundFailed, ""},
		"under way": {map[string]string{v1alpha1.VerdictAnnotation: v1alpha1.VerdictFailed, v1alpha1.FailureAnnotation: "{}", v1alpha1.AttemptAnnotation: "{}"},
			"left 2 with no failure stored"},
		"good, with a failure": {map[string]string{v1alpha1.VerdictAnnotation: v1alpha1.VerdictGood, v1alpha1.FailureAnnotation: "{}"}, "left 2 with no failure stored"},
		"nothing":              {nil, "left 2 with no failure stored"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newScripted()
			s.run("good", "1")
			s.run("crash", "2")
			s.judge("crash", "2", c.annotations)
			s.run("good", "1")
			wantBreach(t, s.verdictFirst, c.want)
		})
	}
}
