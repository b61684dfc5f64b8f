package rollout

import (
	"fmt"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// InPlace is everything that a decision about a Deployment which is guarded in place is made from.
type InPlace struct {
	Deployment *appsv1.Deployment
	// Unlabelled says that it is to be guarded although its label does not say so.
	Unlabelled bool
	// Observed says that its releases are judged and nothing is done about them: what is decided to be written is only noted.
	Observed bool
	// Guard has its settings, and Unusable what of them cannot be read.
	Guard    *v1alpha1.Guard
	Unusable string
	// Evidence is about its ReplicaSets and pods, read from the API server just now; nil if it was not read.
	Evidence *Evidence
	// Memory is that of the last decision.
	Memory       InPlaceMemory
	Now          time.Time
	PollInterval time.Duration
}

// InPlaceDecision is what to do. Of Status and Set at most one is set: the verdict is stored before anything moves.
type InPlaceDecision struct {
	// NeedEvidence and NeedDetails are as those of Decision.
	NeedEvidence bool
	NeedDetails  Details
	// Status is what to write into the Deployment's status.
	Status *StatusChange
	// Set is what to write into one of its ReplicaSets.
	Set *SetChange
	// Verdict is what was found of the release, if that is written.
	Verdict *Verdict
	// Cause is the cause of a failure that Verdict has.
	Cause string
	// RollBack says that Set is the first that takes the failed release back.
	RollBack bool
	// Events tell what was done. They are recorded when it is written.
	Events []Event
	// Recheck is when to decide again if nothing happens before, 0 for never.
	Recheck time.Duration
	Memory  InPlaceMemory

	row string
}

// StatusChange is what to write into a Deployment's status: the annotations, nil for one to take away, and the condition Progressing, nil
// if it stays. A write of a Deployment's status takes annotations, too, and does not raise the generation
// (k8s.io/kubernetes/pkg/registry/apps/deployment, deploymentStatusStrategy).
type StatusChange struct {
	Annotations map[string]*string
	Progressing *appsv1.DeploymentCondition
}

// Row returns the name of the row of the table that the decision is from.
func (d *InPlaceDecision) Row() string { return d.row }

// Again reports whether to decide again at once, on what Answered returns.
func (d *InPlaceDecision) Again() bool {
	return d.Status != nil || d.Set != nil || d.row == "unanswered"
}

// Waits reports whether nothing was looked at, as it is too soon.
func (d *InPlaceDecision) Waits() bool { return d.row == "look" && !d.NeedEvidence }

func (d *InPlaceDecision) recheckIn(wait time.Duration) {
	d.Recheck = sooner(d.Recheck, wait)
}

func (d *InPlaceDecision) tell(kind, reason, action, format string, args ...any) {
	d.Events = append(d.Events, Event{Type: kind, Reason: reason, Action: action, Message: Clean(fmt.Sprintf(format, args...), MaxEvent)})
}

// place is what was observed, in terms of the table.
type place struct {
	InPlace
	sets    []*appsv1.ReplicaSet
	current *appsv1.ReplicaSet // with the template that is asked for, nil if there is none yet
	good    *appsv1.ReplicaSet // the other one that was found good last, nil if there is none
	failure *failedRelease     // of the current one
	arrived bool               // the write without an answer has taken effect
}

type inPlaceRow struct {
	name    string
	applies func(*place) bool
	act     func(*place, *InPlaceDecision)
}

// inPlaceRows is the table for a Deployment that is guarded in place: the first row that applies is taken. The ones from
// "unanswered" on have evidence.
var inPlaceRows = []inPlaceRow{
	{"not asked", (*place).isNotAsked, (*place).askBack},
	{"deletion", (*place).isEnding, (*place).end},
	{"pause", (*place).isPaused, (*place).pause},
	{"rest", (*place).isSettled, (*place).rest},
	{"look", (*place).isUnread, (*place).look},
	{"unanswered", (*place).hasArrived, (*place).catchUp},
	{"new template", (*place).isUnmade, (*place).awaitSet},
	{"no replicas", (*place).isAtZero, (*place).letGo},
	{"first sight", (*place).isFirstSight, (*place).begin},
	{"good", (*place).isGood, (*place).keepGood},
	{"retry", (*place).isRetryAsked, (*place).retryAsAsked},
	{"automatic retry", (*place).isRetryDue, (*place).retryByItself},
	{"unjudged", (*place).isUnjudged, (*place).watchRelease},
	{"left", (*place).isLeft, (*place).leave},
	{"rollback", func(*place) bool { return true }, (*place).rollBack},
}

// InPlaceRows returns the names of the rows of that table, in its order.
func InPlaceRows() []string {
	var names []string
	for _, r := range inPlaceRows {
		names = append(names, r.name)
	}
	return names
}

// DecideInPlace says what to do next about a Deployment that is guarded in place. It is a function of what was observed.
func DecideInPlace(o InPlace) InPlaceDecision {
	p := newPlace(o)
	d := InPlaceDecision{Memory: p.Memory}
	p.complain(&d)
	row := inPlaceRows[slices.IndexFunc(inPlaceRows, func(r inPlaceRow) bool { return r.applies(p) })]
	d.row = row.name
	if p.Evidence != nil {
		d.Memory.lookedAt, d.Memory.seen, d.Memory.settled, d.Memory.due = p.Now, p.glance(), false, time.Time{}
		d.Memory.holds, d.Memory.met = p.firstHold() != nil, p.isMet()
	}
	row.act(p, &d)
	if d.NeedEvidence || d.NeedDetails.Any() {
		return InPlaceDecision{NeedEvidence: d.NeedEvidence, NeedDetails: d.NeedDetails, Memory: p.Memory, row: d.row}
	}
	return d
}

func newPlace(o InPlace) *place {
	if o.Memory.UID != o.Deployment.UID || o.Memory.observed != o.Observed { // What was only noted is not there for the guard.
		o.Memory = InPlaceMemory{UID: o.Deployment.UID, observed: o.Observed}
	}
	p := &place{InPlace: o}
	if o.Evidence == nil {
		return p
	}
	p.sets = o.Evidence.ReplicaSets
	p.current = CurrentReplicaSet(o.Deployment, p.sets)
	for _, set := range p.sets {
		if set != p.current && wasGood(set) && (p.good == nil || goodAs(set) > goodAs(p.good)) {
			p.good = set
		}
	}
	p.lookForUnanswered()
	if at := p.at(); at != p.Memory.at {
		p.Memory.at, p.Memory.Progress, p.Memory.State, p.Memory.unheld = at, Progress{}, "", ""
		p.Memory.failedAt, p.Memory.failure, p.Memory.back = time.Time{}, nil, false
	}
	p.recall()
	return p
}

// recall finds how the current release failed: as the Deployment tells, or as it told before others took that away.
func (p *place) recall() {
	if p.current == nil || p.isGood() {
		p.Memory.failure = nil
		return
	}
	if told := failureOf(p.Deployment, p.current); told != nil {
		p.Memory.failure = told
	}
	if p.failure = p.Memory.failure; p.failure != nil && p.Memory.failedAt.IsZero() {
		p.Memory.failedAt = measured(p.failure.Time.Time, p.Now)
	}
}

// at identifies the attempt that is under way or was the last one.
func (p *place) at() string {
	if p.current == nil {
		return ""
	}
	attempt, _ := attemptAt(p.current)
	return fmt.Sprintf("%s/%d/%d", p.current.UID, numberOf(p.current), attempt.Number)
}

func (p *place) asked() string    { return p.Deployment.Labels[v1alpha1.GuardedLabel] }
func (p *place) isNotAsked() bool { return p.asked() != v1alpha1.GuardedInPlace && !p.Unlabelled }
func (p *place) isEnding() bool   { return p.Deployment.DeletionTimestamp != nil }
func (p *place) isUnread() bool   { return p.Evidence == nil }
func (p *place) isAtZero() bool   { return valueOr(p.Deployment.Spec.Replicas, 1) == 0 }
func (p *place) isGood() bool     { return wasGood(p.current) }
func (p *place) isUnjudged() bool { return p.failure == nil }

// isPaused reports whether the Deployment is paused, so that nothing is decided about it. But what is held goes at zero replicas also then:
// when they come back, the Deployment controller gives them to the newest ReplicaSet alone, and tries without end if that is held.
func (p *place) isPaused() bool {
	mayHold := p.Memory.holds || p.Memory.seen == (glance{}) // or it was not looked at yet
	return p.Deployment.Spec.Paused && !(p.isAtZero() && mayHold)
}

// isUnmade reports whether the Deployment controller has not seen the template yet: there is no ReplicaSet of it, or that is still numbered
// as when it was asked for before, so that what is known of it is about that time.
func (p *place) isUnmade() bool {
	return p.current == nil || slices.ContainsFunc(p.sets, func(set *appsv1.ReplicaSet) bool {
		return numberOf(p.current) > 0 && numberOf(set) > numberOf(p.current)
	})
}

// isMet reports whether the Deployment was guarded before: something is written down about it, or was, as the ReplicaSets that tell of
// it can be deleted as soon as a release is complete.
func (p *place) isMet() bool {
	if p.Memory.met {
		return true
	}
	failed, _ := readFailure(p.Deployment)
	return slices.ContainsFunc(p.sets, func(set *appsv1.ReplicaSet) bool {
		return wasGood(set) || own(set, v1alpha1.AttemptLabel) != "" || failed.UID == string(set.UID)
	})
}

func (p *place) isFirstSight() bool { return !p.isMet() }

// end leaves all to the garbage collector.
func (p *place) end(d *InPlaceDecision) { d.Memory.LookAgain() }

// askBack forgets what was known: if the label has a value that nobody understands, that is told.
func (p *place) askBack(d *InPlaceDecision) {
	d.Memory = InPlaceMemory{UID: d.Memory.UID, complaint: d.Memory.complaint}
}

// pause lets the timers begin again when the Deployment goes on. What is held stays so.
func (p *place) pause(d *InPlaceDecision) {
	d.Memory.Progress, d.Memory.State = Progress{}, v1alpha1.ReasonPaused
	d.Memory.LookAgain()
}

// awaitSet waits for the Deployment controller. A new template wins at once: nothing is held for the one before it.
func (p *place) awaitSet(d *InPlaceDecision) {
	if d.Set = p.firstHold(); d.Set != nil {
		return
	}
	if d.Set = p.misnoted(); d.Set != nil {
		return
	}
	awaited := &Revision{ControllerRevision: &appsv1.ControllerRevision{}, template: &p.Deployment.Spec.Template, Attempt: Attempt{Number: 1}}
	awaited.Name = fmt.Sprintf("generation %d of the Deployment", p.Deployment.Generation)
	awaited.CreationTimestamp = metav1.NewTime(p.Now) // What was refused before is not about it.
	p.watch(d, awaited, p.Deployment, p.Evidence, p.limits(awaited))
	d.Memory.State = v1alpha1.ReasonProgressing
	if d.Memory.Progress.Phase == PhaseFailed {
		d.tell(Warning, d.Memory.Progress.Failure.Reason, actionJudge, "%s has no ReplicaSet: %s", awaited.Name, d.Memory.Progress.Failure.Message)
		p.settle(d, v1alpha1.ReasonNoGoodRevision, time.Time{})
	}
}

// letGo ends all holds: at zero there is nothing to hold, and nothing to judge. Pods that come again are judged anew: those before them
// were taken away, and what they had come to is no sign.
func (p *place) letGo(d *InPlaceDecision) {
	if d.Set = p.firstHold(); d.Set != nil {
		return
	}
	d.Memory.Progress = Progress{}
	p.settle(d, v1alpha1.ReasonScaledToZero, time.Time{})
}

// complain tells once of a label or of settings that nobody understands.
func (p *place) complain(d *InPlaceDecision) {
	var complaint string
	switch {
	case p.isNotAsked() && p.asked() != "" && p.asked() != v1alpha1.NotGuarded && !LeftBehind(p.Deployment):
		complaint = fmt.Sprintf("label %[1]s is %[2]q, and nothing is guarded: to have this Deployment guarded, kubectl label deployment %[3]s --namespace %[4]s --overwrite %[1]s=%[5]s",
			v1alpha1.GuardedLabel, p.asked(), p.Deployment.Name, p.Deployment.Namespace, v1alpha1.GuardedInPlace)
	case !p.isNotAsked() && p.Unusable != "":
		complaint = p.Unusable
	}
	if complaint != "" && complaint != p.Memory.complaint {
		d.tell(Warning, v1alpha1.ReasonInvalid, "Ignore", "%s", strings.TrimSpace(complaint))
	}
	d.Memory.complaint = complaint
}
