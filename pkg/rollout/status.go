package rollout

import (
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

const (
	// maxMessage is the most bytes of what others say that are kept: with the sentences around them they fit into an Event.
	maxMessage = 600
	// MaxEvent is the most bytes that the API server takes as the note of an Event (k8s.io/kubernetes, NoteLengthLimit).
	MaxEvent = 1024
	// maxCondition is the most bytes of a condition's message. The schema of metav1.Condition allows 32 KiB; nobody reads that.
	maxCondition = 4096
	// mirrorEvery is the least time between two writes of the status for what it mirrors alone: a rollout of a thousand pods
	// changes its counts with each of them.
	mirrorEvery = 10 * time.Second
	// unwatchedRecheck is how often to look again at what no watch may show: somebody else's Deployment, for example.
	unwatchedRecheck = time.Minute
	// takenRecheck is how often that is in the first takenSoon, in which a name that is to change hands is freed. Nothing runs
	// from then until it is taken up.
	takenRecheck, takenSoon = 2 * time.Second, 2 * time.Minute
)

// The types of Events.
const (
	Normal  = corev1.EventTypeNormal
	Warning = corev1.EventTypeWarning
)

// ActionPutBack is the action of the Event about a correction, and actionJudge of one about a failure.
const ActionPutBack, actionJudge = "PutBack", "Judge"

// Event tells a user of an outcome.
type Event struct {
	Type, Reason, Action, Message string
}

// report is what the status says of a decision.
type report struct {
	condition       string // which of Ready, Reconciling and Stalled is True
	reason, message string
}

// underWay reports a rollout that has not ended.
func underWay(progress Progress, doing string) report {
	r := report{condition: v1alpha1.ConditionReconciling, reason: v1alpha1.ReasonProgressing, message: doing}
	switch progress.Phase {
	case PhaseSoaking:
		r.reason = v1alpha1.ReasonSoaking
		r.message = progress.Revision + " is complete, and each of its pods has to stay available for spec.guard.soakSeconds before it counts as good"
		if progress.apart > 0 {
			r.message += fmt.Sprintf("; so many releases are under way that this one is looked at every %s only", progress.apart.Round(time.Second))
		}
	case PhaseBlocked:
		r.reason = progress.WaitingReason
		r.message = fmt.Sprintf("%s: waiting for %s", doing, progress.WaitingFor)
		if progress.Overdue {
			r.condition = v1alpha1.ConditionStalled
		}
	}
	return r
}

// passedOver names the revisions between the target and the last good one that were never judged, and may have served: an
// autoscaler took their pods before they had soaked.
func (s *state) passedOver() string {
	var names []string
	for _, r := range s.revisions {
		if r != s.target && r.Revision > s.lastGood.goodAs() && r.Unjudged() && !r.lastVerdictGood() {
			names = append(names, r.Name)
		}
	}
	switch few := 3; {
	case len(names) == 0:
		return ""
	case len(names) > few:
		return fmt.Sprintf(" (older than %s and %d more, which were never judged)", strings.Join(names[:few], ", "), len(names)-few)
	default:
		return fmt.Sprintf(" (older than %s, never judged)", strings.Join(names, ", "))
	}
}

// pinnedWords says which containers run a digest in the place of their tag.
func (s *state) pinnedWords() string {
	if s.Deployment == nil || !s.isPinned() {
		return ""
	}
	return fmt.Sprintf(", with the images that were good (%s)", strings.ReplaceAll(s.Deployment.Annotations[v1alpha1.PinnedAnnotation], ",", ", "))
}

// report fills in the status, if it has to be written, and the Events of what has changed in it. What merely mirrors the
// Deployment waits for company, or for its turn.
func (s *state) report(d *Decision, r report) {
	before := &s.Guarded.Status
	told := before
	if s.Memory.untold != nil {
		told, d.Memory.untold = s.Memory.untold, nil
	}
	after := before.DeepCopy()
	s.describe(after, d, r)
	news := !sameStatus(before, after)
	s.mirror(after, d)
	mirrored := !news && !sameStatus(before, after)
	if s.isNewProcess() {
		d.Memory.told = s.toldBefore()
	}
	if news || told != before {
		d.Events = append(d.Events, s.tellOnce(d, eventsOf(told, after))...)
	}
	if after.Failure != nil {
		d.Memory.told.failure = identityOf(after.Failure)
	}
	if wait := s.Memory.reportedAt.Add(mirrorEvery).Sub(s.Now); mirrored && wait > 0 {
		d.recheckIn(wait)
		return
	}
	if news || mirrored {
		d.Status = after
		d.Memory.reportedAt = s.Now
	}
}

// toldOf is what was last told by Events.
type toldOf struct {
	end     toldEnd
	failure failureID
}

// toldEnd is how the request for a revision ended.
type toldEnd struct {
	reason, revision string
	number           int64  // of the request
	failed           int64  // when the failure was found, in seconds, 0 if there is none
	set              string // SetNumber of the Deployment: after a restart it is another end, but for a rollback, which was none
}

// failureID tells a failure from others.
type failureID struct {
	revision string
	found    int64 // in seconds
}

func identityOf(f *v1alpha1.Failure) failureID { return failureID{f.Revision, f.Time.Unix()} }

// ends are the reasons of Ready that say how a request ended.
var ends = []string{v1alpha1.ReasonRolledOut, v1alpha1.ReasonRolledBack, v1alpha1.ReasonRollbackFailed, v1alpha1.ReasonNoGoodRevision,
	v1alpha1.ReasonHeld, v1alpha1.ReasonRestartFailed}

// tellOnce returns events without those of a failure and of an end that were told before: a pause, or a write that is refused for a while,
// may have come between.
func (s *state) tellOnce(d *Decision, events []Event) []Event {
	if len(events) > 0 && events[0].Action == actionJudge && d.Memory.told.failure == identityOf(&s.target.Failure.Failure) {
		events = events[1:]
	}
	last := len(events) - 1
	if last < 0 || s.target == nil || !slices.Contains(ends, events[last].Reason) {
		return events
	}
	set := ""
	if s.Deployment != nil {
		set = s.Deployment.Annotations[SetNumber]
	}
	is := s.endBy(events[last].Reason, set)
	if is == d.Memory.told.end {
		return events[:last]
	}
	d.Memory.told.end = is
	return events
}

// endBy returns the end of the request for the target.
func (s *state) endBy(reason, set string) toldEnd {
	is := toldEnd{reason: reason, revision: s.target.Name, number: s.target.Revision}
	if reason != v1alpha1.ReasonRolledBack {
		is.set = set
	}
	if s.target.Failed() || s.target.restartFailed() {
		is.failed = s.target.Failure.Time.Unix()
	}
	return is
}

// isNewProcess reports whether this process has told of the object neither by a status nor by an Event.
func (s *state) isNewProcess() bool {
	return s.Memory.reportedAt.IsZero() && s.Memory.untold == nil && s.Memory.told == toldOf{}
}

// toldBefore returns what the process before has told, as far as the status shows it. What is paused or has no replicas may have come to
// its end before, and so has what was taken back before the good one is restarted.
func (s *state) toldBefore() (was toldOf) {
	status := &s.Guarded.Status
	if status.Failure != nil {
		was.failure = identityOf(status.Failure)
	}
	ready, running := meta.FindStatusCondition(status.Conditions, v1alpha1.ConditionReady), s.named(s.runningName())
	if ready == nil || s.target == nil || status.TargetRevision != s.target.Name || running == nil {
		return was
	}
	reason := ready.Reason
	isOver := reason == v1alpha1.ReasonPaused || reason == v1alpha1.ReasonScaledToZero
	restarts := reason == v1alpha1.ReasonSoaking || strings.HasPrefix(ready.Message, restarting)
	switch {
	case isOver && s.target.Good() && status.GoodRevision == s.target.Name:
		reason = v1alpha1.ReasonRolledOut
	case (isOver || restarts) && s.target.Failed() && status.Failure != nil && running != s.target:
		reason = v1alpha1.ReasonRolledBack
	}
	if slices.Contains(ends, reason) {
		was.end = s.endBy(reason, s.numberBefore(running))
	}
	return was
}

// sameStatus reports whether two of them say the same. That they are equal to the last bit, as they are at rest, is found out for less.
func sameStatus(a, b *v1alpha1.GuardedDeploymentStatus) bool {
	return reflect.DeepEqual(a, b) || equality.Semantic.DeepEqual(a, b)
}

// describe sets what Belay itself has to say.
func (s *state) describe(status *v1alpha1.GuardedDeploymentStatus, d *Decision, r report) {
	status.ObservedGeneration = s.Guarded.Generation
	status.Selector = metav1.FormatLabelSelector(s.Guarded.Spec.Selector)
	status.RunningRevision = s.runningName()
	if d.Deployment != nil && StatesTemplate(d.Deployment) {
		status.RunningRevision = d.Deployment.Annotations[v1alpha1.RevisionAnnotation]
	}
	status.GoodRevision = ""
	if good := s.newestGood(nil); good != nil {
		status.GoodRevision = good.Name
	}
	status.TargetRevision, status.Failure = "", nil
	if s.target != nil {
		status.TargetRevision = s.target.Name
		if s.target.Failed() || s.target.restartFailed() {
			status.Failure = s.target.Failure.DeepCopy()
		}
		if s.target.Failed() {
			status.Failure.Attempt = int32(s.target.Failure.Retries) + 1
			status.Failure.NextAttempt = s.nextAttemptAt()
		}
	}
	for _, condition := range []string{v1alpha1.ConditionReady, v1alpha1.ConditionReconciling, v1alpha1.ConditionStalled} {
		s.set(status, condition, truth(condition == r.condition), r.reason, r.message)
	}
}

// mirror copies the Deployment's counts and its own word on whether it is available.
func (s *state) mirror(status *v1alpha1.GuardedDeploymentStatus, d *Decision) {
	var live appsv1.DeploymentStatus
	available := appsv1.DeploymentCondition{Status: corev1.ConditionFalse, Reason: "NoDeployment", Message: "there is no Deployment"}
	if s.Deployment != nil && !s.foreign {
		live = s.Deployment.Status
	}
	if s.foreign {
		available.Reason, available.Message = v1alpha1.ReasonNameTaken, "the Deployment is not this GuardedDeployment's"
	} else if s.runningName() != "" || d.Deployment != nil {
		available.Reason, available.Message = "NotReported", "the Deployment controller has not reported yet"
	}
	for _, condition := range live.Conditions {
		if condition.Type == appsv1.DeploymentAvailable && isStatus(condition.Status) {
			available = condition
			if !isReason.MatchString(available.Reason) { // Nobody checks what a Deployment's conditions say.
				available.Reason = "NoReason"
			}
		}
	}
	status.Replicas = live.Replicas
	status.UpdatedReplicas = live.UpdatedReplicas
	status.ReadyReplicas = live.ReadyReplicas
	status.AvailableReplicas = live.AvailableReplicas
	s.set(status, v1alpha1.ConditionAvailable, metav1.ConditionStatus(available.Status), available.Reason, available.Message)
}

// isReason matches what the schema of metav1.Condition takes as a reason.
var isReason = regexp.MustCompile(`^[A-Za-z]([A-Za-z0-9_,:]{0,1000}[A-Za-z0-9_])?$`)

// isStatus reports whether the schema of metav1.Condition takes it.
func isStatus(status corev1.ConditionStatus) bool {
	return status == corev1.ConditionTrue || status == corev1.ConditionFalse || status == corev1.ConditionUnknown
}

// StandingStill returns the status of an object while what is decided for it cannot be done. Whether it is ready stays as
// reported, if that is about the present spec and nothing was under way; what is ready is not stalled.
func StandingStill(guarded *v1alpha1.GuardedDeployment, message string, now time.Time) *v1alpha1.GuardedDeploymentStatus {
	s := &state{Observed: Observed{Guarded: guarded, Now: now}}
	status := guarded.Status.DeepCopy()
	status.ObservedGeneration = guarded.Generation
	ready := meta.FindStatusCondition(status.Conditions, v1alpha1.ConditionReady)
	underWay := meta.IsStatusConditionTrue(status.Conditions, v1alpha1.ConditionReconciling)
	if ready == nil || ready.ObservedGeneration != guarded.Generation || underWay {
		s.set(status, v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonSyncFailing, message)
	}
	s.set(status, v1alpha1.ConditionReconciling, metav1.ConditionFalse, v1alpha1.ReasonSyncFailing, message)
	stalled := !meta.IsStatusConditionTrue(status.Conditions, v1alpha1.ConditionReady)
	s.set(status, v1alpha1.ConditionStalled, truth(stalled), v1alpha1.ReasonSyncFailing, message)
	return status
}

// set sets a condition. One that keeps its value keeps its transition time.
func (s *state) set(status *v1alpha1.GuardedDeploymentStatus, kind string, value metav1.ConditionStatus, reason, message string) {
	meta.SetStatusCondition(&status.Conditions, metav1.Condition{Type: kind, Status: value, Reason: reason,
		Message: Clean(message, maxCondition), ObservedGeneration: s.Guarded.Generation, LastTransitionTime: metav1.NewTime(s.Now)})
}

func truth(value bool) metav1.ConditionStatus {
	if value {
		return metav1.ConditionTrue
	}
	return metav1.ConditionFalse
}

// eventsOf returns the Events of what is new in the status: a failure, and how things ended.
func eventsOf(before, after *v1alpha1.GuardedDeploymentStatus) []Event {
	var events []Event
	if f := after.Failure; f != nil && (before.Failure == nil || identityOf(before.Failure) != identityOf(f)) {
		events = append(events, Event{Type: Warning, Reason: f.Reason, Action: actionJudge, Message: Clean(failureSentence(f), MaxEvent)})
	}
	was, is := meta.FindStatusCondition(before.Conditions, v1alpha1.ConditionReady), meta.FindStatusCondition(after.Conditions, v1alpha1.ConditionReady)
	again := was != nil && was.Reason == is.Reason
	if again && (before.TargetRevision == after.TargetRevision || is.Reason == v1alpha1.ReasonNameTaken) {
		return events // Whose the name is has nothing to do with what is asked for.
	}
	event := Event{Type: Warning, Reason: is.Reason, Message: Clean(is.Message, MaxEvent)}
	switch is.Reason {
	case v1alpha1.ReasonRolledOut:
		event.Type, event.Action = Normal, "RollOut"
	case v1alpha1.ReasonRolledBack, v1alpha1.ReasonRollbackFailed:
		event.Action = "RollBack"
	case v1alpha1.ReasonNoGoodRevision, v1alpha1.ReasonHeld:
		event.Action = "Stay"
	case v1alpha1.ReasonRestartFailed:
		if meta.IsStatusConditionTrue(after.Conditions, v1alpha1.ConditionReconciling) {
			return events // The write that undoes it is told.
		}
		event.Action = "Stay"
	case v1alpha1.ReasonInvalid, v1alpha1.ReasonDenied, v1alpha1.ReasonNameTaken, v1alpha1.ReasonContested:
		event.Action = "Write"
	default:
		return events
	}
	return append(events, event)
}

// putBack is the Event about a value of the Deployment of the GuardedDeployment name that rival changed, and Belay changed
// back. A pipeline that sets the image of a Deployment is told success by kubectl: this says what to do instead. undone says
// how the restart failed that ends with it, empty if none does.
func putBack(name, path, rival, undone string) Event {
	if undone != "" {
		return Event{Type: Normal, Reason: v1alpha1.ReasonRestartFailed, Action: ActionPutBack, Message: Clean(fmt.Sprintf(
			"put back %s of the Deployment, which %s had changed, to what it was when its pods were good: %s", path, somebody(rival), undone), MaxEvent)}
	}
	message := fmt.Sprintf("put back %s of the Deployment, which %s had changed", path, somebody(rival))
	if strings.HasPrefix(path, "spec.") { // All else is Belay's own.
		message += fmt.Sprintf(": change it in GuardedDeployment %[1]s instead, in git or with \"kubectl patch gd %[1]s\"", name)
	}
	return Event{Type: Normal, Reason: v1alpha1.ReasonContested, Action: ActionPutBack, Message: Clean(message, MaxEvent)}
}

func somebody(rival string) string {
	if rival == "" {
		return "somebody"
	}
	return strconv.Quote(rival)
}

// Clean returns text as valid UTF-8 on one line without control characters, also those for the direction of the text,
// in at most limit bytes.
func Clean(text string, limit int) string {
	text = strings.Map(func(r rune) rune {
		if unicode.In(r, unicode.Cc, unicode.Bidi_Control, unicode.Zl, unicode.Zp) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text[:min(len(text), 4*limit)], "\uFFFD"))
	if len(text) <= limit {
		return text
	}
	const ellipsis = "..."
	return beginningOf(text, limit-len(ellipsis)) + ellipsis
}

// beginningOf returns the beginning of a text that has more than limit bytes, in at most so many.
func beginningOf(text string, limit int) string {
	for limit > 0 && !utf8.RuneStart(text[limit]) {
		limit--
	}
	return text[:limit]
}
