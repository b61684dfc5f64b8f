package rollout

import (
	"fmt"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// Observed is everything that a decision is made from.
type Observed struct {
	Guarded *v1alpha1.GuardedDeployment
	// GuardedLive says that the API server was asked since the cache was read, and that Guarded still asks for the same.
	GuardedLive bool
	// Deployment is the one of the same name, whoever owns it; nil if there is none.
	Deployment *appsv1.Deployment
	// DeploymentLive says that there is no Deployment in the cache, and that Deployment is what the API server says.
	DeploymentLive bool
	// Strays are the names of other Deployments that name Guarded as their controller, sorted: copies, for example.
	Strays []string
	// Revisions are the ControllerRevisions that name Guarded as their controller.
	Revisions []*appsv1.ControllerRevision
	// RevisionsLive says that Revisions were read from the API server just now.
	RevisionsLive bool
	// Evidence is about the Deployment's pods, read from the API server just now; nil if it was not read.
	Evidence *Evidence
	// Memory is that of the last outcome.
	Memory Memory
	Now    time.Time
	// PollInterval is the time between two polls of the evidence of one object. A container whose time is up, and a hint that
	// all is done, may bring one forward.
	PollInterval time.Duration
}

// replace puts a revision, as the API server answered its write, in the place of the one that was observed. What was read of
// the pods is old news after that.
func (o *Observed) replace(revision *appsv1.ControllerRevision) {
	others := slices.DeleteFunc(slices.Clone(o.Revisions), func(r *appsv1.ControllerRevision) bool { return r.Name == revision.Name })
	o.Revisions = append(others, revision)
	o.Evidence = nil
}

// Memory is what one process knows about a GuardedDeployment beyond what is stored. When it is lost, timers begin
// again, a refused write is tried again, Events of writes whose status was not written stay untold, corrections are counted
// anew, and what a mutating policy took from the last write is written once more. Decide says what it is to be, in
// Decision.Memory, and Decision.After what is kept of that.
type Memory struct {
	UID      types.UID
	Progress Progress
	// Refusal is the last write that the API server refused for a reason that trying again does not mend.
	Refusal Refusal

	written
	unanswered []*unanswered // writes of the Deployment whose answers were lost

	reportedAt time.Time // when the status was last written
	// untold is the status from before a write that failed, or may have: what has changed since has no Events yet.
	untold *v1alpha1.GuardedDeploymentStatus
	// toldOf is the resourceVersion of the object whose status was replaced last, with all Events: a cache may still have it.
	toldOf     string
	owed       []Event   // Events of other writes that are not recorded yet
	ignored    []string  // what was told of objects that are not used
	noGood     string    // the target for which a live list showed no good revision
	taken      string    // the Deployment that has the name, and why it is somebody else's
	takenSince time.Time // when it was first seen so
}

// written is what is remembered of the writes of the Deployment.
type written struct {
	applied  string // the hash of what was last desired
	accepted string // what Accept returned for the last answer

	corrections   int       // how often, lately, somebody else's change was put back
	corrected     time.Time // when, last
	correctedPath string    // what, last
	rival         string    // what rivalOf returned for it
}

// Refusal is a write that the API server refused.
type Refusal struct {
	// Write identifies what was to be written, as Decision.Write returns it, and Generation the spec that asked for it.
	Write      string
	Generation int64
	// Reason is ReasonInvalid or ReasonDenied.
	Reason, Message string
	// Until is when to try again although nothing has changed.
	Until time.Time
}

// Decision is what to do, in the order of the fields. Record, Mark and Deployment are each nil if there is nothing to
// write, and at most one of them is not.
type Decision struct {
	// NeedDeployment, NeedEvidence and NeedRevisions ask for a live Deployment, for Observed.Evidence and for live
	// Revisions: nothing was decided without.
	NeedDeployment, NeedEvidence, NeedRevisions bool
	// Record is a revision to create or, if it has a resourceVersion, to update: what the spec asks for.
	Record *appsv1.ControllerRevision
	// Mark is a revision to update with its verdict.
	Mark *appsv1.ControllerRevision
	// Verdict is what Mark says after a rollout that was watched; nil if Mark is nil or says something else.
	Verdict *Verdict
	// Deployment is what to write into the Deployment, which is created if Observed has none.
	Deployment *appsv1.Deployment
	// RollBack says that Deployment goes back to the last good revision.
	RollBack bool
	// Correction is what Deployment puts back, after somebody else changed it; empty if it is no such write.
	Correction string
	// Prune are the revisions to delete.
	Prune []*appsv1.ControllerRevision
	// Status is the status to write, nil if the present one will do.
	Status *v1alpha1.GuardedDeploymentStatus
	// Events tell what was done.
	Events []Event
	// Recheck is when to decide again if nothing happens before, 0 for never.
	Recheck time.Duration
	// Memory is what to remember when all of this is done; After has what to keep.
	Memory Memory

	row string // of the table
}

// Row returns the name of the row of the table that the decision is from, empty if it is from none.
func (d *Decision) Row() string { return d.row }

// Verdict is how a release ended.
type Verdict struct {
	// Failure is the reason of the failure, empty if the release is good.
	Failure string
	// After is how long it took from the beginning of the rollout, without the times that nobody watched.
	After time.Duration
}

// Write identifies what the decision writes, besides status and Events, for Refusal.Write.
func (d *Decision) Write() string {
	switch {
	case d.Record != nil:
		return writeOfRevision(d.Record)
	case d.Deployment != nil:
		return writeOfDeployment(d.Deployment)
	default:
		return ""
	}
}

func writeOfRevision(r *appsv1.ControllerRevision) string {
	return fmt.Sprintf("revision %s %d", r.Name, r.Revision)
}

func writeOfDeployment(d *appsv1.Deployment) string {
	return "deployment " + d.Annotations[v1alpha1.AppliedAnnotation]
}

// recheckIn asks for another decision after wait at the latest.
func (d *Decision) recheckIn(wait time.Duration) {
	wait = max(wait, time.Millisecond)
	if d.Recheck == 0 || wait < d.Recheck {
		d.Recheck = wait
	}
}
