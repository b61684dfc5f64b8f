package inplace

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"github.com/belay-dev/belay/internal/freshness"
	"github.com/belay-dev/belay/internal/leader"
	"github.com/belay-dev/belay/internal/standstill"
	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
	"github.com/belay-dev/belay/pkg/rollout"
)

// Every write of this package is in this file; carryOut has their order. Written are a Deployment's status, with the annotation about
// the failure, and labels, annotations and replicas of its ReplicaSets; never a Deployment's spec. Each may be repeated. That of a
// status is conditional on the Deployment's resourceVersion. That of a ReplicaSet is not on its own, which changes with every pod
// that crashes: where pods may come or go with it, it follows from what the Deployment asks for, and that is read live before. One that
// takes effect later than that is seen by the pods that come or go with it, and put right.

// carryOut does what was decided, at most one write: the verdict is stored before anything moves. It reports whether to decide again at
// once, on o with what it learned, and otherwise when to decide again.
func (g *Guard) carryOut(ctx context.Context, key cache.ObjectName, o *rollout.InPlace, d rollout.InPlaceDecision) (again bool, recheck time.Duration, err error) {
	deployment, set, sent, err := g.write(ctx, key, o, d)
	if err != nil {
		m := g.memories.Of(key)
		if m.LookAgain(); sent {
			m.Unanswered(d) // client-go sends a request again by itself, and any error can be the answer to the second one.
		}
		g.memories.Keep(key, m)
	}
	if refusal := new(apierrors.StatusError); errors.As(err, &refusal) && isRefusal(refusal) {
		g.tellRefusal(ctx, key, o.Deployment, refusal)
		return false, rollout.RefusedRetry, nil
	}
	if err != nil {
		return false, 0, err
	}
	*o = d.Answered(*o, deployment, set)
	m := memory{InPlaceMemory: o.Memory}
	if d.Status != nil || d.Waits() { // What is told may be written although what follows from it is refused.
		m.refusal = g.memories.Of(key).refusal
	}
	g.memories.Keep(key, m)
	if d.Verdict != nil {
		g.counter.Judged(d.Verdict, d.Cause)
	}
	if d.RollBack {
		g.counter.RolledBack()
	}
	g.record(o.Deployment, set, d.Events)
	return d.Again(), d.Recheck, nil
}

// write makes the write of a decision, if it has one, and returns what the API server answered, and whether it was sent.
func (g *Guard) write(ctx context.Context, key cache.ObjectName, o *rollout.InPlace, d rollout.InPlaceDecision) (deployment *appsv1.Deployment, set *appsv1.ReplicaSet, sent bool, err error) {
	if o.Observed {
		deployment, set = g.pretend.carryOut(o.Deployment, d)
		return deployment, set, false, nil
	}
	live := o.Deployment
	if d.Status != nil || (d.Set != nil && d.Set.Moves()) {
		if live, err = g.stillAsked(ctx, o.Deployment); err != nil {
			return nil, nil, false, err
		}
	}
	switch {
	case d.Status != nil:
		deployment, err = g.writeStatus(ctx, key, live, d.Status)
	case d.Set != nil:
		set, err = g.writeSet(ctx, d.Set)
	}
	return deployment, set, true, err
}

// writeStatus writes a change into the Deployment's status, and returns the Deployment as it is then.
func (g *Guard) writeStatus(ctx context.Context, key cache.ObjectName, d *appsv1.Deployment, change *rollout.StatusChange) (*appsv1.Deployment, error) {
	metadata := map[string]any{"resourceVersion": d.ResourceVersion}
	patch := map[string]any{"metadata": metadata}
	if len(change.Annotations) > 0 {
		metadata["annotations"] = change.Annotations
	}
	if change.Progressing != nil {
		patch["status"] = map[string]any{"conditions": withCondition(d.Status.Conditions, *change.Progressing)}
	}
	written, err := g.kube.AppsV1().Deployments(d.Namespace).Patch(ctx, d.Name, types.MergePatchType, encode(patch),
		metav1.PatchOptions{FieldManager: rollout.FieldManager}, "status")
	if err != nil {
		if !errors.Is(err, leader.ErrFenced) { // Otherwise it may have taken effect.
			g.fresh.Lost(key, g.store)
		}
		return nil, fmt.Errorf("patch the status of the Deployment: %w", err)
	}
	g.fresh.Wrote(key, g.store, written.ResourceVersion)
	for name, value := range change.Annotations {
		if !hasAs(written.Annotations, name, value) {
			return nil, fmt.Errorf("the Deployment came back with another annotation %s than was written: a mutating policy must leave it there", name)
		}
	}
	klog.FromContext(ctx).Info("Wrote the status of the Deployment", "failure", written.Annotations[v1alpha1.FailureAnnotation])
	return written, nil
}

// hasAs reports whether a map has this value, or no such name if there is none.
func hasAs(m map[string]string, name string, value *string) bool {
	got, there := m[name]
	return there == (value != nil) && (value == nil || got == *value)
}

// withCondition returns the conditions with this one in the place of the one of its type.
func withCondition(conditions []appsv1.DeploymentCondition, condition appsv1.DeploymentCondition) []appsv1.DeploymentCondition {
	all := []appsv1.DeploymentCondition{condition}
	for _, other := range conditions {
		if other.Type != condition.Type {
			all = append(all, other)
		}
	}
	return all
}

// writeSet writes a change of a ReplicaSet, and returns the ReplicaSet as it is then.
func (g *Guard) writeSet(ctx context.Context, change *rollout.SetChange) (*appsv1.ReplicaSet, error) {
	set, metadata := change.Set, map[string]any{}
	patch := map[string]any{"metadata": metadata}
	if len(change.Labels) > 0 {
		metadata["labels"] = change.Labels
	}
	if len(change.Annotations) > 0 {
		metadata["annotations"] = change.Annotations
	}
	if change.Replicas != nil {
		patch["spec"] = map[string]any{"replicas": *change.Replicas}
	}
	written, err := g.kube.AppsV1().ReplicaSets(set.Namespace).Patch(ctx, set.Name, types.MergePatchType, encode(patch),
		metav1.PatchOptions{FieldManager: rollout.FieldManager})
	if apierrors.IsNotFound(err) || (err == nil && written.UID != set.UID) { // A label with another uid means nothing.
		return nil, freshness.Stale("what was read of the ReplicaSets")
	}
	if err != nil {
		return nil, fmt.Errorf("patch ReplicaSet %s: %w", set.Name, err)
	}
	for name, value := range change.Labels {
		if name != v1alpha1.HeldAtLabel && !hasAs(written.Labels, name, value) { // What is not held is seen by the replicas.
			return nil, fmt.Errorf("ReplicaSet %s came back with another label %s than was written: a mutating policy must leave it there", set.Name, name)
		}
	}
	klog.FromContext(ctx).Info("Wrote a ReplicaSet", "replicaset", written.Name, "replicas", *written.Spec.Replicas,
		"heldAt", written.Labels[v1alpha1.HeldAtLabel], "verdict", written.Labels[v1alpha1.VerdictLabel], "attempt", written.Labels[v1alpha1.AttemptLabel])
	return written, nil
}

// encode returns a patch as JSON.
func encode(patch map[string]any) []byte {
	data, err := json.Marshal(patch)
	if err != nil {
		panic(fmt.Sprintf("encode a patch: %v", err)) // never: it has strings, numbers and what came from the API server
	}
	return data
}

// stillAsked returns the Deployment as it is live, if it asks for the same as when it was decided. Its ReplicaSets may be written although
// it has changed, and its status changes all the time while pods come and go.
func (g *Guard) stillAsked(ctx context.Context, seen *appsv1.Deployment) (*appsv1.Deployment, error) {
	live, err := g.kube.AppsV1().Deployments(seen.Namespace).Get(ctx, seen.Name, metav1.GetOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return nil, fmt.Errorf("get Deployment: %w", err)
	}
	if err != nil || live.UID != seen.UID || live.Labels[v1alpha1.GuardedLabel] != seen.Labels[v1alpha1.GuardedLabel] ||
		!equality.Semantic.DeepEqual(asks(live), asks(seen)) || (live.DeletionTimestamp == nil) != (seen.DeletionTimestamp == nil) ||
		!equality.Semantic.DeepEqual(live.OwnerReferences, seen.OwnerReferences) {
		g.fresh.Lost(cache.MetaObjectToName(seen), g.store) // Among what the cache lacks may be a write of Belay's whose answer was lost.
		return nil, freshness.Stale("the cache of Deployments")
	}
	return live, nil
}

// asks returns what of a Deployment a decision follows from. Other annotations raise its generation, too, and an operator may write some
// all the time.
func asks(d *appsv1.Deployment) []any {
	of := d.Annotations
	return []any{&d.Spec, of[v1alpha1.FailureAnnotation], of[v1alpha1.RetryAnnotation], of[v1alpha1.GuardAnnotation]}
}

// letGoOf ends what is held for the Deployment of this name, if it is not guarded in place, and takes the word about a failure away.
func (g *Guard) letGoOf(ctx context.Context, key cache.ObjectName) error {
	live, err := g.kube.AppsV1().Deployments(key.Namespace).Get(ctx, key.Name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return nil // with its ReplicaSets, or Sweep finds them
	case err != nil:
		return fmt.Errorf("get Deployment: %w", err)
	case g.guards(ctx, live):
		return freshness.Stale("the cache of Deployments")
	}
	sets, err := g.kube.AppsV1().ReplicaSets(key.Namespace).List(ctx, metav1.ListOptions{LabelSelector: v1alpha1.HeldAtLabel})
	if err != nil {
		return fmt.Errorf("list the ReplicaSets: %w", err)
	}
	for i := range sets.Items {
		if !metav1.IsControlledBy(&sets.Items[i], live) {
			continue
		}
		if err := g.endHold(ctx, live, &sets.Items[i]); err != nil {
			return err
		}
	}
	if _, told := live.Annotations[v1alpha1.FailureAnnotation]; !told {
		return nil
	}
	_, err = g.writeStatus(ctx, key, live, &rollout.StatusChange{Annotations: map[string]*string{v1alpha1.FailureAnnotation: nil}})
	return err
}

// endHold takes the hold from a ReplicaSet, if it has one of its own. d is its Deployment, nil if that is gone.
func (g *Guard) endHold(ctx context.Context, d *appsv1.Deployment, set *appsv1.ReplicaSet) error {
	change := rollout.LetGo(d, set)
	if change == nil {
		return nil
	}
	_, err := g.writeSet(ctx, change)
	return err
}

// isRefusal reports whether trying again soon does not help: a right is missing, or a policy or the API server does not want it.
func isRefusal(err *apierrors.StatusError) bool {
	return apierrors.IsForbidden(err) || apierrors.IsInvalid(err) || apierrors.IsBadRequest(err)
}

// tellRefusal says once that the API server refuses a write.
func (g *Guard) tellRefusal(ctx context.Context, key cache.ObjectName, d *appsv1.Deployment, err error) {
	klog.FromContext(ctx).Info("Refused", "message", err.Error())
	m := g.memories.Of(key)
	told := m.refusal.text == err.Error()
	m.refusal = refusal{text: err.Error(), about: askedOf(d), until: time.Now().Add(rollout.RefusedRetry)}
	g.memories.Keep(key, m)
	if !told {
		g.record(d, nil, []rollout.Event{{Type: rollout.Warning, Reason: v1alpha1.ReasonDenied, Action: "Write", Message: rollout.Clean(
			"the Deployment is left as it is: "+err.Error()+"; what Belay needs for this is in artifacts/in-place", rollout.MaxEvent)}})
	}
}

// ReportStandstill returns a report of what stands still: of a Deployment that is guarded in place an Event, of all else what other does.
func (g *Guard) ReportStandstill(other standstill.Report) standstill.Report {
	return func(ctx context.Context, key cache.ObjectName, message string) error {
		d, err := g.deployments.Deployments(key.Namespace).Get(key.Name)
		if err != nil || !g.guards(ctx, d) {
			return other(ctx, key, message)
		}
		g.record(d, nil, []rollout.Event{{Type: rollout.Warning, Reason: v1alpha1.ReasonSyncFailing, Action: "Sync", Message: rollout.Clean(message, rollout.MaxEvent)}})
		return nil
	}
}

// record tells of what was done. An Event may be lost: the Deployment's condition and annotation are the truth.
func (g *Guard) record(d *appsv1.Deployment, set *appsv1.ReplicaSet, events []rollout.Event) {
	about := &corev1.ObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Namespace: d.Namespace, Name: d.Name, UID: d.UID, ResourceVersion: d.ResourceVersion}
	for _, e := range events {
		if set == nil {
			g.recorder.Eventf(about, nil, e.Type, e.Reason, e.Action, "%s", e.Message)
			continue
		}
		related := &corev1.ObjectReference{APIVersion: "apps/v1", Kind: "ReplicaSet", Namespace: set.Namespace, Name: set.Name, UID: set.UID, ResourceVersion: set.ResourceVersion}
		g.recorder.Eventf(about, related, e.Type, e.Reason, e.Action, "%s", e.Message)
	}
}
