package v1alpha1

// Names that Belay writes on the objects it owns, and reads on those it guards.
const (
	// GuardedLabel is on every object that Belay owns, with the value "true"; its informers filter on it.
	GuardedLabel = "belay.dev/guarded"

	// RevisionAnnotation, on the Deployment, names the ControllerRevision that it runs.
	RevisionAnnotation = "belay.dev/revision"
	// AppliedAnnotation, on the Deployment, is the hash of everything that Belay states about it.
	AppliedAnnotation = "belay.dev/applied"

	// AdoptAnnotation, on a Deployment, is its owner's consent that the GuardedDeployment of this name takes it over.
	AdoptAnnotation = "belay.dev/adopt"

	// VerdictAnnotation, on a ControllerRevision, is VerdictGood or VerdictFailed; absent while it is unjudged.
	VerdictAnnotation = "belay.dev/verdict"
	// FailureAnnotation, on a ControllerRevision, is the evidence of the failure, as JSON.
	FailureAnnotation = "belay.dev/failure"
	// AttemptAnnotation, on a ControllerRevision, is a further attempt under way, as JSON: it is unjudged again.
	AttemptAnnotation = "belay.dev/attempt"

	// RetryAnnotation, on a GuardedDeployment: any new value retries a failed revision.
	RetryAnnotation = "belay.dev/retry"

	// VerdictGood is the verdict on a revision that came up and stayed up.
	VerdictGood = "good"
	// VerdictFailed is the verdict on a revision that did not.
	VerdictFailed = "failed"
)

// The types of the conditions in the status.
const (
	// ConditionReady is True only when the revision that the spec asks for is good and running.
	ConditionReady = "Ready"
	// ConditionReconciling is True while a rollout, a soak or a rollback is under way.
	ConditionReconciling = "Reconciling"
	// ConditionStalled is True when only a person, or a set retry, can move it on.
	ConditionStalled = "Stalled"
	// ConditionAvailable is the Deployment's own.
	ConditionAvailable = "Available"
)

// The reasons of conditions and Events: how the object stands.
const (
	// ReasonRolledOut: what the spec asks for is good and running. Ready is True.
	ReasonRolledOut = "RolledOut"
	// ReasonProgressing: a rollout or a rollback is under way, and the judge reads the pods.
	ReasonProgressing = "Progressing"
	// ReasonSoaking: every pod is new and available, and has to stay so for spec.guard.soakSeconds.
	ReasonSoaking = "Soaking"
	// ReasonRolledBack: the release failed, and the Deployment is back on the last good revision. It stays there until the spec
	// changes or a retry is due.
	ReasonRolledBack = "RolledBack"
	// ReasonNoGoodRevision: the release failed, and no revision was ever good. The Deployment is left on it.
	ReasonNoGoodRevision = "NoGoodRevision"
	// ReasonHeld: the release failed, and is left in place, as spec.guard.onFailure asks.
	ReasonHeld = "Held"
	// ReasonRollbackFailed: the release failed, and the good revision that is back does not come up either.
	ReasonRollbackFailed = "RollbackFailed"
	// ReasonPaused: the spec or the Deployment is paused. Nothing is rolled out or judged until it is resumed.
	ReasonPaused = "Paused"
	// ReasonScaledToZero: there are no replicas to judge by. Ready is True.
	ReasonScaledToZero = "ScaledToZero"
	// ReasonInvalid: the API server refuses what the spec asks for, in its own words. The spec has to change.
	ReasonInvalid = "Invalid"
	// ReasonDenied: an admission policy or webhook refuses it, or the namespace is being deleted. It is tried again every five minutes.
	ReasonDenied = "Denied"
	// ReasonNameTaken: a Deployment of this name is somebody else's, and is left alone. The message says how to consent.
	ReasonNameTaken = "NameTaken"
	// ReasonWaitingForDeploymentController: nothing happens, and kube-controller-manager or the scheduler has to act first.
	ReasonWaitingForDeploymentController = "WaitingForDeploymentController"
	// ReasonContested: somebody keeps changing what the spec states about the Deployment. It is put back less and less often.
	ReasonContested = "Contested"
	// ReasonSyncFailing: for a minute nothing that was decided could be done. It goes on by itself when the cause is gone.
	ReasonSyncFailing = "SyncFailing"
)

// The reasons of a failure: what the verdict rests on.
const (
	// FailureCrashLoop: a container was restarted more often than spec.guard.maxRestarts.
	FailureCrashLoop = "CrashLoop"
	// FailureImagePull: a container waited for its image for spec.guard.stuckSeconds.
	FailureImagePull = "ImagePull"
	// FailureContainerConfig: a container waited that long for its configuration, a Secret that is missing for example.
	FailureContainerConfig = "ContainerConfig"
	// FailureDeadlineExceeded: nothing got better for spec.progressDeadlineSeconds, and the pods say why.
	FailureDeadlineExceeded = "DeadlineExceeded"
	// FailureQuotaExceeded: a quota refused pods until the deadline.
	FailureQuotaExceeded = "QuotaExceeded"
	// FailurePodsForbidden: the API server refused the pods or their ReplicaSet until the deadline.
	FailurePodsForbidden = "PodsForbidden"
	// FailureUnhealthyInSoak: it was complete, and did not stay healthy for spec.guard.soakSeconds.
	FailureUnhealthyInSoak = "UnhealthyInSoak"
)
