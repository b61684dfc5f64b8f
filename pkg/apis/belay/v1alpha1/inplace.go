package v1alpha1

// The values of GuardedLabel that the owner of a Deployment sets.
const (
	// GuardedInPlace has the Deployment guarded as it is, without a GuardedDeployment.
	GuardedInPlace = "in-place"
	// NotGuarded has it guarded by nothing, and nothing said about it.
	NotGuarded = "false"
)

// What Belay reads and writes where a Deployment is guarded in place. On the Deployment itself it writes FailureAnnotation: how the
// release failed, and of which ReplicaSet.
const (
	// GuardAnnotation, on the Deployment or its Namespace, has fields of spec.guard, as JSON or YAML. It is set by people.
	GuardAnnotation = "belay.dev/guard"

	// The labels below are on ReplicaSets, and end with a dot and the ReplicaSet's own uid: with another one, in a copy or a backup that
	// was restored, they mean nothing. They are labels because annotations of ReplicaSets are copied, by "kubectl rollout undo" to the
	// Deployment and from there to every later ReplicaSet.

	// HeldAtLabel begins with a number: a MutatingAdmissionPolicy keeps spec.replicas at it, whoever writes.
	HeldAtLabel = "belay.dev/held-at"
	// VerdictLabel begins with VerdictGood: a release that fails goes back to the newest of these.
	VerdictLabel = VerdictAnnotation
	// AttemptLabel begins with the number that the Deployment controller had given the ReplicaSet when it was asked for, how many
	// attempts were made since, and how many of these without being asked, with dots between them. It says ".back" after them once the
	// attempt has failed and was taken back.
	AttemptLabel = AttemptAnnotation
)

// EventNotHeld is the reason of an Event about a Deployment that is guarded in place: its release failed and is left as it is, because
// the API server has no policy that holds a ReplicaSet back. All others are as for a GuardedDeployment.
const EventNotHeld = "NotHeld"
