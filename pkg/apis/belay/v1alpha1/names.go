package v1alpha1

// The label and the annotations that Belay writes on the objects it owns, and reads on those it guards.
const (
	// GuardedLabel is on every object that Belay owns, with the value "true"; its informers filter on it. Taken away, it is put
	// back.
	GuardedLabel = "belay.dev/guarded"

	// RevisionAnnotation, on the Deployment, names the ControllerRevision that it runs. Belay writes it with the template.
	RevisionAnnotation = "belay.dev/revision"
	// AppliedAnnotation, on the Deployment, is the hash of everything that Belay states about it. Another hash than the one
	// that would be stated now has Belay write the Deployment.
	AppliedAnnotation = "belay.dev/applied"

	// AdoptAnnotation, on a Deployment, is its owner's consent that the GuardedDeployment of this name takes it over. Without
	// it a Deployment that Belay does not own is left alone, and NameTaken is reported.
	AdoptAnnotation = "belay.dev/adopt"

	// VerdictAnnotation, on a ControllerRevision, is VerdictGood or VerdictFailed; absent while it is unjudged. It is written
	// before anything acts on the verdict.
	VerdictAnnotation = "belay.dev/verdict"
	// FailureAnnotation, on a ControllerRevision, is the evidence of the failure, as JSON. It comes with VerdictFailed, and the
	// status shows it while the spec asks for this revision.
	FailureAnnotation = "belay.dev/failure"
	// AttemptAnnotation, on a ControllerRevision, is a further attempt under way, as JSON: it is unjudged again. The next
	// verdict ends the attempt.
	AttemptAnnotation = "belay.dev/attempt"

	// RetryAnnotation, on a GuardedDeployment, is set by a person: any new value retries a failed revision, once. To take it
	// away is no retry.
	RetryAnnotation = "belay.dev/retry"

	// VerdictGood is the verdict on a revision that came up and stayed up for spec.guard.soakSeconds: one to go back to.
	VerdictGood = "good"
	// VerdictFailed is the verdict on a revision that did not. It is not run again until the spec or a retry asks for it.
	VerdictFailed = "failed"
)

// The types of the conditions in the status.
const (
	// ConditionReady is True only when the revision that the spec asks for is good and running, or has no replicas to judge it
	// by. Its reason says what keeps it from that.
	ConditionReady = "Ready"
	// ConditionReconciling is True while a rollout, a soak or a rollback is under way: wait.
	ConditionReconciling = "Reconciling"
	// ConditionStalled is True when only a person, or a set retry, can move it on: whoever waits should stop waiting.
	ConditionStalled = "Stalled"
	// ConditionAvailable is the Deployment's own: whether the service is fine, whatever became of the release.
	ConditionAvailable = "Available"
)

// The reasons of the conditions, and of the Events about how things ended. In brackets: which condition is True with it.
const (
	// ReasonRolledOut: the revision that the spec asks for is good and running (Ready). Nothing comes next.
	ReasonRolledOut = "RolledOut"
	// ReasonProgressing: the Deployment moves to a revision, the one asked for or the last good one, or is about to
	// (Reconciling). A soak comes next, or a failure.
	ReasonProgressing = "Progressing"
	// ReasonSoaking: the rollout is complete, and has to stay healthy for spec.guard.soakSeconds (Reconciling). RolledOut comes
	// next, or a failure.
	ReasonSoaking = "Soaking"
	// ReasonRolledBack: the release failed, and the Deployment is back on the last good revision (Stalled). It stays there until
	// the template changes or a retry is asked for or due.
	ReasonRolledBack = "RolledBack"
	// ReasonNoGoodRevision: the release failed, and there is no good revision: the Deployment is left as it is (Stalled). Mend
	// the template; a release that comes up late is good after all.
	ReasonNoGoodRevision = "NoGoodRevision"
	// ReasonHeld: the release failed, and is left as it is, because spec.guard.onFailure is Hold (Stalled). What comes next is
	// as with NoGoodRevision.
	ReasonHeld = "Held"
	// ReasonRollbackFailed: the release failed, and the last good revision does not come up either (Stalled). The Deployment
	// stays on that: look at its pods, the cause is hardly in the template.
	ReasonRollbackFailed = "RollbackFailed"
	// ReasonPaused: spec.paused is set, or the Deployment was paused by hand: nothing is judged (Stalled, or Ready if the
	// revision had come up before). The release starts to be watched anew on resume.
	ReasonPaused = "Paused"
	// ReasonScaledToZero: the Deployment has no replicas to judge its revision by (Ready). It is judged when it has some.
	ReasonScaledToZero = "ScaledToZero"
	// ReasonInvalid: the API server refuses what the spec asks for as invalid, or it cannot be written down (Stalled). Change
	// the spec; the message has the API server's words.
	ReasonInvalid = "Invalid"
	// ReasonDenied: a policy, a webhook, a quota or a namespace that is being deleted keeps Belay from a write (Stalled). It is
	// tried again when the spec changes, and now and then. (A right that Belay lacks is SyncFailing.)
	ReasonDenied = "Denied"
	// ReasonNameTaken: the Deployment of this name is somebody else's and is left alone (Stalled). Delete it, or consent to its
	// adoption with AdoptAnnotation.
	ReasonNameTaken = "NameTaken"
	// ReasonWaitingForDeploymentController: a release makes no progress, and somebody has yet to act: the Deployment or
	// ReplicaSet controller, or the scheduler; the message says who (Reconciling). It is no failure of the release.
	ReasonWaitingForDeploymentController = "WaitingForDeploymentController"
	// ReasonContested: somebody keeps changing what the spec says of the Deployment (Stalled); it is put back at a slow pace.
	// The Normal Event of this reason tells of a single value put back.
	ReasonContested = "Contested"
	// ReasonSyncFailing: for a minute or more no attempt to bring the object up to date came to its end (Stalled, unless it was
	// Ready before). Belay goes on trying; the message has the error.
	ReasonSyncFailing = "SyncFailing"
)

// The reasons of a failure: Failure.Reason, and the Event about it. RolledBack, Held or NoGoodRevision comes next.
const (
	// FailureCrashLoop: a container of a new pod restarted more than spec.guard.maxRestarts times and is not ready. It rests on
	// the pod's container statuses.
	FailureCrashLoop = "CrashLoop"
	// FailureImagePull: a container of a new pod waited for its image for spec.guard.stuckSeconds. It rests on the reason for
	// which the kubelet lets the container wait, ImagePullBackOff for example.
	FailureImagePull = "ImagePull"
	// FailureContainerConfig: the same, of a container that cannot be made or started: a missing Secret or ConfigMap, a command
	// that is not there. The kubelet's reason is CreateContainerConfigError, for example.
	FailureContainerConfig = "ContainerConfig"
	// FailureDeadlineExceeded: no progress for spec.progressDeadlineSeconds, while something spoke against the release: a new
	// pod that has a node and is not ready, one that fits on no node, or pods that cannot be created. It rests on the conditions
	// of pods and ReplicaSets.
	FailureDeadlineExceeded = "DeadlineExceeded"
	// FailureQuotaExceeded: the same, because a ResourceQuota keeps pods from being created. It rests on the words of the API
	// server in the ReplicaSet's condition ReplicaFailure.
	FailureQuotaExceeded = "QuotaExceeded"
	// FailurePodsForbidden: the same, because admission, Pod Security for example, forbids the pods.
	FailurePodsForbidden = "PodsForbidden"
	// FailureUnhealthyInSoak: the rollout was complete, and then a pod was unready for spec.guard.stuckSeconds, a container
	// restarted once too often, or the pods did not stay up. It rests on the pods as they were in the soak.
	FailureUnhealthyInSoak = "UnhealthyInSoak"
)

// FailureReasons are all reasons of a failure.
var FailureReasons = []string{FailureCrashLoop, FailureImagePull, FailureContainerConfig, FailureDeadlineExceeded, FailureQuotaExceeded,
	FailurePodsForbidden, FailureUnhealthyInSoak}
