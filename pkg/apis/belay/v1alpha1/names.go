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

// The reasons of conditions and Events.
const (
	ReasonRolledOut                      = "RolledOut"
	ReasonProgressing                    = "Progressing"
	ReasonSoaking                        = "Soaking"
	ReasonRolledBack                     = "RolledBack"
	ReasonNoGoodRevision                 = "NoGoodRevision"
	ReasonHeld                           = "Held"
	ReasonRollbackFailed                 = "RollbackFailed"
	ReasonPaused                         = "Paused"
	ReasonScaledToZero                   = "ScaledToZero"
	ReasonInvalid                        = "Invalid"
	ReasonDenied                         = "Denied"
	ReasonNameTaken                      = "NameTaken"
	ReasonWaitingForDeploymentController = "WaitingForDeploymentController"
	ReasonContested                      = "Contested"
	ReasonSyncFailing                    = "SyncFailing"
)

// The reasons of a failure.
const (
	FailureCrashLoop        = "CrashLoop"
	FailureImagePull        = "ImagePull"
	FailureContainerConfig  = "ContainerConfig"
	FailureDeadlineExceeded = "DeadlineExceeded"
	FailureQuotaExceeded    = "QuotaExceeded"
	FailurePodsForbidden    = "PodsForbidden"
	FailureUnhealthyInSoak  = "UnhealthyInSoak"
)
