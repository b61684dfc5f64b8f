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
	// Done says that nothing which was to be written has failed.
	Done bool
	// Again says that the rest of the decision is void: to decide again at once, on Observed.
	Again    bool
	Observed Observed
	// Events are to be recorded when the status has been written.
	Events []Event
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
		outcome.Done = true
		return outcome
	case d.Mark != nil:
		return Outcome{Memory: d.Memory} // What was judged was judged, whether or not it can be stored.
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
		outcome.Done = true
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
	outcome := Outcome{Done: true, Memory: d.Memory, Events: d.Events}
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
	outcome.Unreported.owed, outcome.Unreported.ignored = owed, known.ignored
	if outcome.Unreported.untold = known.untold; known.untold == nil && (known.toldOf == "" || known.toldOf != guarded.ResourceVersion) {
		outcome.Unreported.untold = &guarded.Status
	}
	return outcome
}

// stored is the memory after revision was stored. The attempts at a good revision are counted anew.
func (d Decision) stored(revision *appsv1.ControllerRevision) Memory {
	memory := d.Memory
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
	memory.unanswered = nil
	memory.written.accepted = Accept(d.Deployment, answer.Written)
	return memory
}

// unchanged reports whether a write left a Deployment as it was, in all that Belay may set.
func unchanged(before, after *appsv1.Deployment) bool {
	return equality.Semantic.DeepEqual(before.Spec, after.Spec) && equality.Semantic.DeepEqual(before.Labels, after.Labels) &&
		equality.Semantic.DeepEqual(before.Annotations, after.Annotations) &&
		equality.Semantic.DeepEqual(before.OwnerReferences, after.OwnerReferences)
}
