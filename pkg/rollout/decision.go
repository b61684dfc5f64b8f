package rollout

import (
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// Decision is what to do, in the order of the fields. Record, Mark and Deployment are each nil if there is nothing to
// write, and at most one of them is not.
type Decision struct {
	// NeedDeployment, NeedEvidence, NeedRevisions and NeedTarget ask for a live Deployment, for Observed.Evidence, for live
	// Revisions, and whether the revision named Target is still as observed: nothing was decided without.
	NeedDeployment, NeedEvidence, NeedRevisions, NeedTarget bool
	// NeedDetails asks for what is to be added to Observed.Evidence: nothing was decided without.
	NeedDetails Details
	// NeedObjects asks whether these are there, to be added to Observed.Evidence: nothing was decided without. What cannot be read is
	// told there, too, and asked for once.
	NeedObjects []Reference
	// Record is a revision to create or, if it has a resourceVersion, to update: what the spec asks for.
	Record *appsv1.ControllerRevision
	// Mark is a revision to update with its verdict.
	Mark *appsv1.ControllerRevision
	// Verdict is what Mark says after a rollout that was watched; nil if Mark is nil or says something else.
	Verdict *Verdict
	// Deployment is what to write into the Deployment, which is created if Observed has none.
	Deployment *appsv1.Deployment
	// Template is what its template is to be with all that others have added to it; nil if Overlay is to say that.
	Template *corev1.PodTemplateSpec
	// Target names the revision that the spec asks for, by whose verdict was decided; empty if there is none.
	Target string
	// RollBack says that Deployment goes back to the last good revision, or to the ReplicaSet that was good.
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
	d.Recheck = sooner(d.Recheck, wait)
}

// sooner returns the sooner of a recheck, 0 for none, and one after wait.
func sooner(recheck, wait time.Duration) time.Duration {
	wait = max(wait, time.Millisecond)
	if recheck == 0 {
		return wait
	}
	return min(recheck, wait)
}
