package rollout

import (
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/api/equality"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// Answer is what the API server said to a decision's write of a revision or of the Deployment. The zero value says that
// nothing was written: there was nothing to write, or it failed before anything was sent.
type Answer struct {
	// Revision is the revision that was recorded or marked, as it is stored now.
	Revision *appsv1.ControllerRevision
	// Before is the Deployment that the write was sent for, nil if it was to be created; Written is the Deployment after it.
	Before, Written *appsv1.Deployment
	// Refusal is set if the API server refused the write.
	Refusal *Refusal
	// Lost says that the write of the Deployment was sent and ended in an error. It may have taken effect, whatever the
	// error is: client-go sends a request again by itself, and a conflict can be the answer to the second one.
	Lost bool
	// Manager is the field manager of the write.
	Manager string
}

// Outcome is what follows from a decision and the answer to its write.
type Outcome struct {
	// Memory is what to keep, also when the write failed.
	Memory Memory
	// Unreported is what to keep in its place if the status cannot be written after that, or may not have been.
	Unreported Memory
	// Superseded is what to keep in its place if there is another status by now, and no request to write this one was without an answer.
	Superseded Memory
	// Counts are what has to be counted now.
	Counts []Count
	// Again says that the rest of the decision is void: to decide again at once, on Observed.
	Again    bool
	Observed Observed
	// Events are to be recorded when the status has been written.
	Events []Event
}

// Count is what a write that took effect is counted as.
type Count struct {
	RolledBack bool
	// Verdict is nil if it was none. Of a failure, Cause is the finer word for why.
	Verdict *Verdict
	Cause   string
}

// count returns what the write of the decision is counted as, the zero value if it is not counted.
func (d Decision) count() Count {
	c := Count{RolledBack: d.RollBack, Verdict: d.Verdict}
	if d.Verdict != nil && d.Verdict.Failure != "" {
		c.Cause = d.Memory.Progress.Failure.Cause
	}
	return c
}

// counts returns what is to be counted when its write was answered well.
func (d Decision) counts(known Memory) []Count {
	counts := known.uncounted
	if own := d.count(); own != (Count{}) {
		counts = append(slices.Clip(counts), own)
	}
	return counts
}

// After returns the outcome of d, which was decided on o, when the API server has answered its first write.
func (d Decision) After(o Observed, answer Answer) Outcome {
	known := o.recall()
	switch {
	case answer.Refusal != nil:
		known.Refusal = *answer.Refusal
		if answer.Lost { // client-go may have been refused what it had sent again.
			known.unanswered = d.sent(o, known, answer)
		}
		return again(o, known)
	case answer.Revision != nil:
		o.replace(answer.Revision)
		if d.Record != nil {
			o.Evidence = nil // An attempt begins: what was read of the pods is old news.
		}
		outcome := again(o, d.stored(answer.Revision))
		outcome.Counts = d.counts(known)
		return outcome
	case d.Mark != nil: // What was judged was judged, whether or not it can be stored.
		memory := d.Memory
		memory.unmarked = d.marked(known)
		return Outcome{Memory: memory}
	case d.Record != nil:
		return Outcome{Memory: known}
	case d.Deployment != nil && answer.Written == nil:
		if answer.Lost {
			known.unanswered = d.sent(o, known, answer)
		}
		return Outcome{Memory: known}
	case d.Deployment != nil && d.Correction != "" && unchanged(answer.Before, answer.Written):
		// A policy wants it so, for example: nothing was put back, and no rollout begins.
		memory := d.accepted(answer)
		if memory.Progress = known.Progress; d.Template != nil {
			memory.Progress.final = "a policy changes it back"
		}
		outcome := again(o, memory)
		outcome.Counts = d.counts(known)
		return outcome
	default:
		return d.done(known, o.Guarded, answer)
	}
}

func again(o Observed, memory Memory) Outcome {
	o.Memory = memory
	return Outcome{Memory: memory, Again: true, Observed: o}
}

// done is the outcome of a decision of which all but the status has been written.
func (d Decision) done(known Memory, guarded *v1alpha1.GuardedDeployment, answer Answer) Outcome {
	outcome := Outcome{Counts: d.counts(known), Memory: d.Memory, Events: d.Events}
	outcome.Memory.uncounted = nil
	owed := known.owed
	if d.Deployment != nil {
		outcome.Memory = d.accepted(answer)
	}
	if d.Correction != "" {
		outcome.Memory.rival = rivalOf(answer.Before, d.Correction, answer.Manager)
		told := []Event{putBack(guarded.Name, d.Correction, outcome.Memory.rival, d.Memory.Progress.undoneBy(d.Template))}
		outcome.Events = slices.Concat(d.Events, told)
		owed = slices.Concat(owed, told)
	}
	outcome.Unreported = outcome.Memory
	if d.Status != nil {
		outcome.Memory.toldOf = guarded.ResourceVersion
	}
	outcome.Unreported.owed, outcome.Unreported.ignored, outcome.Unreported.told = owed, known.ignored, known.told
	if outcome.Unreported.untold = known.untold; known.untold == nil && (known.toldOf == "" || known.toldOf != guarded.ResourceVersion) {
		outcome.Unreported.untold = &guarded.Status
	}
	outcome.Superseded = outcome.Unreported
	if !known.confirmed && isReported(guarded) { // It is another process's, which has told of it.
		outcome.Superseded.untold, outcome.Superseded.confirmed = known.untold, false
	}
	return outcome
}

// stored is the memory after revision was stored. The attempts at a good revision are counted anew.
func (d Decision) stored(revision *appsv1.ControllerRevision) Memory {
	memory := d.Memory
	memory.uncounted, memory.unmarked = nil, unmarked{}
	if d.Mark != nil && revision.Annotations[v1alpha1.VerdictAnnotation] == v1alpha1.VerdictGood {
		memory.Progress.Attempt = 1
	}
	if d.Verdict != nil && d.Verdict.Failure == "" {
		memory.Progress.restart = "" // It is what was good now.
	}
	return memory
}

// accepted is the memory after the Deployment was written.
func (d Decision) accepted(answer Answer) Memory {
	memory := d.Memory
	memory.unanswered, memory.uncounted = nil, nil
	memory.written.accepted = Accept(d.Deployment, answer.Written)
	return memory
}

// unchanged reports whether a write left a Deployment as it was, in all that Belay may set.
func unchanged(before, after *appsv1.Deployment) bool {
	return equality.Semantic.DeepEqual(before.Spec, after.Spec) && equality.Semantic.DeepEqual(before.Labels, after.Labels) &&
		equality.Semantic.DeepEqual(before.Annotations, after.Annotations) &&
		equality.Semantic.DeepEqual(before.OwnerReferences, after.OwnerReferences)
}
