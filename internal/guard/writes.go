package guard

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"github.com/belay-dev/belay/internal/freshness"
	"github.com/belay-dev/belay/internal/leader"
	"github.com/belay-dev/belay/internal/standstill"
	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
	"github.com/belay-dev/belay/pkg/rollout"
)

// Every write of a GuardedDeployment, a Deployment and a ControllerRevision is in this file; carryOut has their order. Each is
// conditional, on a resourceVersion or on a name that must be free, so that repeating it is safe and a stale one fails.

// FieldManager is under whose name the API server records what Belay writes.
const FieldManager = rollout.FieldManager

// carryOut does what was decided. Of Record, Mark and Deployment at most one is set: the verdict is stored before the
// Deployment moves. It reports whether to decide again at once, on o with what it learned.
func (g *Guard) carryOut(ctx context.Context, key cache.ObjectName, o *rollout.Observed, d rollout.Decision) (again bool, err error) {
	answer, err := g.write(ctx, key, o, d)
	if answer.Refusal = refusalOf(err, d.Write(), o.Guarded.Generation); answer.Refusal != nil {
		klog.FromContext(ctx).Info("Refused", "reason", answer.Refusal.Reason, "message", answer.Refusal.Message)
		err = nil
	}
	outcome := d.After(*o, answer)
	g.memories.Keep(key, outcome.Memory)
	if err != nil {
		return false, err
	}
	for _, count := range outcome.Counts {
		g.count(count)
	}
	if outcome.Again {
		*o = outcome.Observed
		return true, nil
	}
	unpruned := g.pruneRevisions(ctx, d.Prune) // keeps nothing from being reported
	if err := g.updateStatus(ctx, key, o.Guarded, d.Status); apierrors.IsConflict(err) {
		g.memories.Keep(key, outcome.Superseded)
		return false, err
	} else if err != nil {
		g.memories.Keep(key, outcome.Unreported)
		return false, err
	}
	g.recordEvents(o.Guarded, answer.Written, o.Deployment, outcome.Events)
	if unpruned != nil {
		return false, &standstill.MinorError{Err: unpruned}
	}
	return false, nil
}

func (g *Guard) count(c rollout.Count) {
	if c.RolledBack {
		g.counter.RolledBack()
	}
	if c.Verdict != nil {
		g.counter.Judged(c.Verdict, c.Cause)
	}
}

// write makes the first write of a decision, if it has one, and returns what the API server answered.
func (g *Guard) write(ctx context.Context, key cache.ObjectName, o *rollout.Observed, d rollout.Decision) (answer rollout.Answer, err error) {
	switch {
	case d.Record != nil:
		answer.Revision, err = g.recordRevision(ctx, key, o, d.Record)
	case d.Mark != nil:
		answer.Revision, err = g.updateRevision(ctx, key, d.Mark)
	case d.Deployment != nil:
		return g.putDeployment(ctx, key, o, d)
	}
	if err != nil {
		answer.Revision = nil // It may have come back without its label or verdict: that is nothing to go on with.
	}
	return answer, err
}

// sent notes that a write for key, to what store is a cache of, was answered with err. Unless it was refused, or has not left, it may have
// taken effect: client-go sends a request again by itself, and a conflict can be the answer to the second one.
func (g *Guard) sent(key cache.ObjectName, store cache.Store, err error) {
	if err != nil && refusalOf(err, "write", 0) == nil && !apierrors.IsTooManyRequests(err) && !errors.Is(err, leader.ErrFenced) {
		g.fresh.Lost(key, store)
	}
}

// recordRevision creates or updates the revision that the spec asks for, and returns what the API server answered.
func (g *Guard) recordRevision(ctx context.Context, key cache.ObjectName, o *rollout.Observed, revision *appsv1.ControllerRevision) (*appsv1.ControllerRevision, error) {
	if err := g.stillAsked(ctx, key, o); err != nil {
		return nil, err
	}
	if revision.ResourceVersion != "" {
		return g.updateRevision(ctx, key, revision)
	}
	client := g.kube.AppsV1().ControllerRevisions(key.Namespace)
	for {
		created, err := client.Create(ctx, revision, metav1.CreateOptions{FieldManager: FieldManager})
		g.sent(key, g.revisionStore, err)
		if err == nil {
			g.fresh.Wrote(key, g.revisionStore, created.ResourceVersion)
			klog.FromContext(ctx).Info("Recorded a revision", "revision", created.Name, "number", created.Revision)
			return created, checkIntact(revision, created)
		}
		if !apierrors.IsAlreadyExists(err) {
			return nil, fmt.Errorf("create ControllerRevision %s: %w", revision.Name, err)
		}
		existing, err := client.Get(ctx, revision.Name, metav1.GetOptions{})
		if err != nil {
			return nil, fmt.Errorf("get ControllerRevision %s: %w", revision.Name, err)
		}
		if rollout.IsRevisionOf(o.Guarded, existing) {
			if existing.Labels[v1alpha1.GuardedLabel] == "true" {
				return nil, freshness.Stale("the cache of ControllerRevisions")
			}
			return g.updateRevision(ctx, key, rollout.WithLabel(existing)) // Without, the cache will never have it.
		}
		name := rollout.OtherName(o.Guarded, revision)
		if name == "" {
			return nil, fmt.Errorf("every name for the revision is taken, the last by ControllerRevision %s; delete it", existing.Name)
		}
		revision = revision.DeepCopy() // The decision keeps what was decided.
		revision.Name = name
	}
}

// updateRevision updates a revision, its number, its attempt or its verdict, and returns what the API server answered.
func (g *Guard) updateRevision(ctx context.Context, key cache.ObjectName, revision *appsv1.ControllerRevision) (*appsv1.ControllerRevision, error) {
	updated, err := g.kube.AppsV1().ControllerRevisions(revision.Namespace).Update(ctx, revision, metav1.UpdateOptions{FieldManager: FieldManager})
	g.sent(key, g.revisionStore, err)
	if err != nil {
		return nil, fmt.Errorf("update ControllerRevision %s: %w", revision.Name, err)
	}
	g.fresh.Wrote(key, g.revisionStore, updated.ResourceVersion)
	var failure rollout.Failure // What the container wrote stays out of Belay's own log.
	_ = json.Unmarshal([]byte(updated.Annotations[v1alpha1.FailureAnnotation]), &failure)
	klog.FromContext(ctx).Info("Updated a revision", "revision", updated.Name, "number", updated.Revision,
		"verdict", updated.Annotations[v1alpha1.VerdictAnnotation], "failure", failure.Message,
		"attempt", updated.Annotations[v1alpha1.AttemptAnnotation])
	return updated, checkIntact(revision, updated)
}

// checkIntact returns an error if the answer lacks what was written and Belay goes by: without its label, no cache will ever have
// the revision; without its verdict, it would be judged for ever.
func checkIntact(written, answer *appsv1.ControllerRevision) error {
	const format = "ControllerRevision %s came back without its %s %s: a mutating policy must leave it there"
	if answer.Labels[v1alpha1.GuardedLabel] != "true" {
		return fmt.Errorf(format, answer.Name, "label", v1alpha1.GuardedLabel)
	}
	for _, key := range []string{v1alpha1.VerdictAnnotation, v1alpha1.FailureAnnotation, v1alpha1.AttemptAnnotation} {
		if answer.Annotations[key] != written.Annotations[key] {
			return fmt.Errorf(format, answer.Name, "annotation", key)
		}
	}
	return nil
}

// putDeployment writes what was decided into the Deployment, or creates it. Everything that the decision rests on is read live before, at
// the same time, and nothing is written if any of it has changed.
func (g *Guard) putDeployment(ctx context.Context, key cache.ObjectName, o *rollout.Observed, d rollout.Decision) (answer rollout.Answer, err error) {
	desired := d.Deployment
	var before *appsv1.Deployment
	var questions errgroup.Group
	questions.Go(func() error { return g.stillAsked(ctx, key, o) })
	if rollout.StatesTemplate(desired) { // Otherwise, whatever runs goes on running.
		revision := desired.Annotations[v1alpha1.RevisionAnnotation]
		questions.Go(func() error { return g.stillRecorded(ctx, key, o, revision) })
		if d.Target != revision { // It is taken back, by its verdict.
			questions.Go(func() error { return g.stillRecorded(ctx, key, o, d.Target) })
		}
	}
	questions.Go(func() (err error) {
		if o.Deployment == nil {
			return nil
		}
		if before, err = g.readDeployment(ctx, key); err == nil && !stillThere(before, o.Deployment) {
			g.fresh.Lost(key, g.deploymentStore)
			err = freshness.Stale("the cache of Deployments")
		}
		return err
	})
	if err := questions.Wait(); err != nil {
		return answer, err
	}
	var written *appsv1.Deployment
	client := g.kube.AppsV1().Deployments(key.Namespace)
	if before != nil {
		written, err = client.Update(ctx, rollout.Overlay(before, desired, d.Template), metav1.UpdateOptions{FieldManager: FieldManager})
	} else {
		written, err = client.Create(ctx, desired, metav1.CreateOptions{FieldManager: FieldManager})
	}
	g.sent(key, g.deploymentStore, err)
	answer = rollout.Answer{Before: before, Manager: FieldManager, Lost: err != nil}
	if apierrors.IsAlreadyExists(err) {
		return answer, freshness.Stale("the cache of Deployments")
	}
	if err != nil {
		return answer, fmt.Errorf("write Deployment: %w", err)
	}
	answer.Written = written
	g.fresh.Wrote(key, g.deploymentStore, written.ResourceVersion)
	klog.FromContext(ctx).Info("Wrote the Deployment", "revision", desired.Annotations[v1alpha1.RevisionAnnotation],
		"generation", written.Generation)
	return answer, nil
}

// letGo takes from a Deployment that its GuardedDeployment has left behind what Belay had put there. It returns when to try
// again, 0 for when there is news.
func (g *Guard) letGo(ctx context.Context, key cache.ObjectName) (time.Duration, error) {
	released, err := g.readLeftBehind(ctx, key)
	if released == nil || err != nil {
		return 0, err
	}
	_, err = g.kube.AppsV1().Deployments(key.Namespace).Update(ctx, released, metav1.UpdateOptions{FieldManager: FieldManager})
	switch {
	case err == nil:
		klog.FromContext(ctx).Info("Let go of the Deployment, whose GuardedDeployment is gone")
		return 0, nil
	case apierrors.IsNotFound(err):
		return 0, nil
	case refusalOf(err, "release", 0) != nil:
		klog.FromContext(ctx).Info("Refused to let go of the Deployment", "reason", err.Error())
		return rollout.RefusedRetry, nil
	default:
		return 0, fmt.Errorf("let go of the Deployment: %w", err)
	}
}

// pruneRevisions deletes revisions that nothing refers to any more. A policy's no is left at that.
func (g *Guard) pruneRevisions(ctx context.Context, revisions []*appsv1.ControllerRevision) error {
	for _, r := range revisions {
		err := g.kube.AppsV1().ControllerRevisions(r.Namespace).Delete(ctx, r.Name, metav1.DeleteOptions{
			Preconditions: &metav1.Preconditions{UID: &r.UID, ResourceVersion: &r.ResourceVersion}})
		switch {
		case err == nil, apierrors.IsNotFound(err):
		case refusalOf(err, "prune", 0) != nil:
			klog.FromContext(ctx).Info("Refused to prune", "revision", r.Name, "reason", err.Error())
		default:
			return fmt.Errorf("delete ControllerRevision %s: %w", r.Name, err)
		}
	}
	return nil
}

// updateStatus writes the status, if there is one to write.
func (g *Guard) updateStatus(ctx context.Context, key cache.ObjectName, guarded *v1alpha1.GuardedDeployment, status *v1alpha1.GuardedDeploymentStatus) error {
	if status == nil {
		return nil
	}
	updated := guarded.DeepCopy()
	updated.Status = *status
	updated, err := g.belay.BelayV1alpha1().GuardedDeployments(key.Namespace).UpdateStatus(ctx, updated, metav1.UpdateOptions{FieldManager: FieldManager})
	g.sent(key, g.objectStore, err)
	if err != nil {
		return fmt.Errorf("update the status: %w", err)
	}
	g.fresh.Wrote(key, g.objectStore, updated.ResourceVersion)
	return nil
}

// ReportStandstill writes into the status, as it is live, that syncs do not come to their end. Nothing is decided from it.
func (g *Guard) ReportStandstill(ctx context.Context, key cache.ObjectName, message string) error {
	live, err := g.readGuarded(ctx, key)
	if err != nil {
		return err
	}
	return g.updateStatus(ctx, key, live, rollout.StandingStill(live, message, time.Now()))
}

// recordEvents tells of what was done. An Event may be lost: the conditions are the truth.
//
// They are related to the Deployment that was written, if one was, and those of a correction to the one that is seen otherwise:
// corrections of different values would be counted as one and the same Event without that.
func (g *Guard) recordEvents(guarded *v1alpha1.GuardedDeployment, written, seen *appsv1.Deployment, events []rollout.Event) {
	for _, e := range events {
		about := written
		if about == nil && e.Action == rollout.ActionPutBack {
			about = seen
		}
		var related runtime.Object
		if about != nil {
			related = &corev1.ObjectReference{APIVersion: appsv1.SchemeGroupVersion.String(), Kind: "Deployment",
				Namespace: about.Namespace, Name: about.Name, UID: about.UID, ResourceVersion: about.ResourceVersion}
		}
		g.recorder.Eventf(guarded, related, e.Type, e.Reason, e.Action, "%s", e.Message)
	}
}
