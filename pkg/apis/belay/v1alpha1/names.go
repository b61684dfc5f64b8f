package v1alpha1

// The label and the annotations that Belay writes on the objects it owns, and reads on those it guards.
const (
	// GuardedLabel is on every object that Belay owns, with the value "true"; its informers filter on it. Taken away, it is put
	// back. On a Deployment that is nobody's, its owner may set it to GuardedInPlace.
	GuardedLabel = "belay.dev/guarded"

	// RevisionAnnotation, on the Deployment, names the ControllerRevision that it runs. Belay writes it with the template.
	RevisionAnnotation = "belay.dev/revision"
	// AppliedAnnotation, on the Deployment, is the hash of everything that Belay states about it. Another hash than the one
	// that would be stated now has Belay write the Deployment.
	AppliedAnnotation = "belay.dev/applied"

	// PinnedAnnotation, on the Deployment, names the containers that run the digest that was good in the place of a tag that
	// points to another image since. It goes with the next release.
	PinnedAnnotation = "belay.dev/pinned"

	// AdoptAnnotation, on a Deployment, is its owner's consent that the GuardedDeployment of this name takes it over. Without
	// it a Deployment that Belay does not own is left alone, and NameTaken is reported.
	AdoptAnnotation = "belay.dev/adopt"

	// VerdictAnnotation, on a ControllerRevision, is VerdictGood or VerdictFailed; absent while it is unjudged. It is written
	// before anything acts on the verdict.
	VerdictAnnotation = "belay.dev/verdict"
	// FailureAnnotation, on a ControllerRevision, is the evidence of the failure, as JSON: of the release with VerdictFailed, of its
	// last restart with VerdictGood. The status shows it while the spec asks for this revision.
	FailureAnnotation = "belay.dev/failure"
	// GoodWithAnnotation, on a ControllerRevision, is the ReplicaSet with which it was good last, as JSON. Another one under the
	// same revision, a restart for example, is judged like a release.
	GoodWithAnnotation = "belay.dev/good-with"
	// ImagesAnnotation, on a ControllerRevision, has the digests of the images that its pods ran when it was good, as JSON.
	ImagesAnnotation = "belay.dev/images"
	// AttemptAnnotation, on a ControllerRevision, is a further attempt under way, as JSON: it is unjudged again. The next
	// verdict ends the attempt.
	AttemptAnnotation = "belay.dev/attempt"

	// RetryAnnotation, on a GuardedDeployment or on a Deployment that is guarded in place, is set by a person: any new value
	// retries a failed release, once. To take it away is no retry.
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
	// ReasonRestartFailed: others gave a good revision another ReplicaSet, by a restart or an addition to the template, and its pods
	// failed. The Deployment goes back to the ReplicaSet that was good (Reconciling), and is RolledOut again; with Hold, and
	// where that ReplicaSet is gone, it is left as it is (Stalled).
	ReasonRestartFailed = "RestartFailed"
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
	// The reasons WaitingFor...: the release does not go on, and that is not held against it: somebody else has to act, or the
	// revision to go back to would meet the same. The message says who, and what is known of it. Reconciling is True, and
	// Stalled after spec.progressDeadlineSeconds: it may still go on by itself.

	// ReasonWaitingForDeploymentController: the Deployment or the ReplicaSet controller has not acted.
	ReasonWaitingForDeploymentController = "WaitingForDeploymentController"
	// ReasonWaitingForScheduler: no scheduler has looked at a new pod.
	ReasonWaitingForScheduler = "WaitingForScheduler"
	// ReasonWaitingForOldPods: pods of the release before have to end first, or are unready at the same time as the new ones:
	// a common cause.
	ReasonWaitingForOldPods = "WaitingForOldPods"
	// ReasonWaitingForSchedulingGate: a scheduling gate that others put on the pods has not been lifted.
	ReasonWaitingForSchedulingGate = "WaitingForSchedulingGate"
	// ReasonWaitingForReadinessGate: nobody has written the condition of a readiness gate.
	ReasonWaitingForReadinessGate = "WaitingForReadinessGate"
	// ReasonWaitingForRoom: a new pod fits on no node, and the last good one would not either; or room is being made for it.
	ReasonWaitingForRoom = "WaitingForRoom"
	// ReasonWaitingForQuota: a ResourceQuota keeps pods from being created, and would keep the last good one's.
	ReasonWaitingForQuota = "WaitingForQuota"
	// ReasonWaitingForWebhook: the API server cannot create pods because a webhook does not answer, or for another reason of
	// the cluster's own.
	ReasonWaitingForWebhook = "WaitingForWebhook"
	// ReasonWaitingForRegistry: the registry does not answer or throttles, or another pull is before this one.
	ReasonWaitingForRegistry = "WaitingForRegistry"
	// ReasonWaitingForNode: a node does not report, refuses pods, or is the only one on which pods do not start.
	ReasonWaitingForNode = "WaitingForNode"
	// ReasonWaitingForVolume: a volume cannot be attached or mounted, or a pod's sandbox cannot be made, and the last good one has
	// the same volumes.
	ReasonWaitingForVolume = "WaitingForVolume"
	// ReasonWaitingForInjection: a container crashes, waits or is not ready that is not in the template, and no old pod was seen
	// in which it was up with the same image.
	ReasonWaitingForInjection = "WaitingForInjection"
	// ReasonContested: somebody keeps changing what the spec says of the Deployment (Stalled); it is put back at a slow pace.
	// The Normal Event of this reason tells of a single value put back.
	ReasonContested = "Contested"
	// ReasonSyncFailing: for a minute or more no attempt to bring the object up to date came to its end (Stalled, unless it was
	// Ready before). Belay goes on trying; the message has the error.
	ReasonSyncFailing = "SyncFailing"
)

// The reasons of a failure: Failure.Reason, and the Event about it. RolledBack, Held or NoGoodRevision comes next.
const (
	// FailureCrashLoop: a container of a new pod restarted more than spec.guard.maxRestarts times, also because it cannot be
	// started; or as with PodsEnded, and the last one ended with a code other than 0; or pods on more than one node get new sandboxes
	// again and again. It rests on the statuses of pods and containers.
	FailureCrashLoop = "CrashLoop"
	// FailurePodsEnded: more new pods than spec.guard.maxRestarts, and one more for every ten, ended by themselves: evicted for
	// what they did, refused for what the template states, or done. It rests on the phase and the reason of ended pods.
	FailurePodsEnded = "PodsEnded"
	// FailureImagePull: a container of a new pod waited for its image for spec.guard.stuckSeconds. It rests on the reason for
	// which the kubelet lets the container wait, ImagePullBackOff for example.
	FailureImagePull = "ImagePull"
	// FailureContainerConfig: the same, of a container that cannot be made: a missing Secret or ConfigMap, for example. It rests
	// on the kubelet's reason, CreateContainerConfigError for example, or on the pod's Events.
	FailureContainerConfig = "ContainerConfig"
	// FailureDeadlineExceeded: no progress for spec.progressDeadlineSeconds, while something spoke against the release: a new
	// pod that has a node and is not ready, one that fits on no node, or pods that cannot be created; or a pod was in such trouble
	// for as long; or, at once, somebody rewrites every ReplicaSet. It rests on pods and ReplicaSets.
	FailureDeadlineExceeded = "DeadlineExceeded"
	// FailureQuotaExceeded: the same, because a ResourceQuota keeps pods from being created that ask for more than those of the
	// last good release. It rests on the words of the API server in the ReplicaSet's Events.
	FailureQuotaExceeded = "QuotaExceeded"
	// FailurePodsForbidden: for spec.guard.stuckSeconds admission, Pod Security for example, has forbidden the pods. It rests on
	// the same words.
	FailurePodsForbidden = "PodsForbidden"
	// FailureUnhealthyInSoak: pods that had been ready were unready for spec.guard.stuckSeconds, or did not stay up for long
	// enough to be good. It rests on the pods as they were in the soak.
	FailureUnhealthyInSoak = "UnhealthyInSoak"
)

// The causes of a failure: Failure.Cause, what a person can act on. Each is found from evidence that stays, whatever moment the
// look met; where that is gone, the cause is a coarser one and not a wrong one. A cause is never given another meaning; more may
// come. docs/failures.md has for each what to do.
const (
	// CauseExitCode: the container's program ended with a code other than 0.
	CauseExitCode = "ExitCode"
	// CauseCompleted: it ended with 0, which no pod of a Deployment should.
	CauseCompleted = "Completed"
	// CauseOutOfMemory: the kernel killed it, because it took more memory than its limit.
	CauseOutOfMemory = "OutOfMemory"
	// CauseLivenessProbe: the kubelet ended it, because its liveness probe failed.
	CauseLivenessProbe = "LivenessProbe"
	// CauseStartupProbe: the kubelet ended it, because its startup probe failed; or that has not succeeded yet.
	CauseStartupProbe = "StartupProbe"
	// CausePostStartHook: its postStart hook failed.
	CausePostStartHook = "PostStartHook"
	// CauseCannotStart: its command is not there or cannot be run.
	CauseCannotStart = "CannotStart"
	// CauseRestartsWholePod: its rule restarts all containers of the pod, again and again.
	CauseRestartsWholePod = "RestartsWholePod"
	// CauseSandbox: pods get new sandboxes again and again, on more than one node; or the sandbox of a pod cannot be made.
	CauseSandbox = "Sandbox"

	// CauseEvicted: the kubelet evicted pods for what they did, for example more storage than their limit.
	CauseEvicted = "Evicted"
	// CauseRefused: the kubelet refuses pods for what the template states, a sysctl for example; or node after node refuses them.
	CauseRefused = "Refused"
	// CauseEndedByItself: pods ended, and nobody had asked them to.
	CauseEndedByItself = "EndedByItself"
	// CauseEatsNodes: pods are evicted from one node after the other for the memory or the storage that they take.
	CauseEatsNodes = "EatsNodes"

	// CauseImageNotFound: the registry does not have the image.
	CauseImageNotFound = "ImageNotFound"
	// CauseImageAuth: the registry does not give the image with these credentials. Some say so of an image that they do not have.
	CauseImageAuth = "ImageAuth"
	// CauseRegistryUnavailable: the registry does not answer or throttles.
	CauseRegistryUnavailable = "RegistryUnavailable"
	// CauseInvalidImageName: the image's name cannot be read.
	CauseInvalidImageName = "InvalidImageName"
	// CauseImageNeverPull: the image is not on the node, and imagePullPolicy is Never.
	CauseImageNeverPull = "ImageNeverPull"
	// CauseImage: the image cannot be pulled, for another reason.
	CauseImage = "Image"

	// CauseSecretMissing: a Secret is not there.
	CauseSecretMissing = "SecretMissing"
	// CauseConfigMapMissing: a ConfigMap is not there.
	CauseConfigMapMissing = "ConfigMapMissing"
	// CauseKeyMissing: a Secret or a ConfigMap is there, and does not have a key.
	CauseKeyMissing = "KeyMissing"
	// CauseClaimMissing: the claim of a volume is not there.
	CauseClaimMissing = "ClaimMissing"
	// CauseMountFailed: a volume cannot be attached or mounted.
	CauseMountFailed = "MountFailed"
	// CauseSecurityContext: what the security context states cannot be had, to run as another user than root for example.
	CauseSecurityContext = "SecurityContext"
	// CauseConfiguration: something else that the container or the pod needs to be made is missing or wrong.
	CauseConfiguration = "Configuration"

	// CauseReadinessProbe: pods run and are not ready, because a readiness probe does not succeed.
	CauseReadinessProbe = "ReadinessProbe"
	// CauseReadinessGate: the condition of a readiness gate is missing or False.
	CauseReadinessGate = "ReadinessGate"
	// CauseNotReady: pods run and are not ready, for another reason.
	CauseNotReady = "NotReady"
	// CauseNodeSelector: no node has the labels that the pods' node selector or affinity asks for.
	CauseNodeSelector = "NodeSelector"
	// CauseTaints: every node that the pods could be on has a taint that they do not tolerate.
	CauseTaints = "Taints"
	// CauseNoRoom: pods fit on no node, for another reason: they ask for more than is left, for example.
	CauseNoRoom = "NoRoom"
	// CauseSchedulerMissing: no scheduler of the name that the template states looks at the pods.
	CauseSchedulerMissing = "SchedulerMissing"
	// CauseSchedulingGate: a scheduling gate that the template states is not lifted.
	CauseSchedulingGate = "SchedulingGate"
	// CauseResourceClaim: a resource claim that the template states is not made.
	CauseResourceClaim = "ResourceClaim"

	// CauseQuota: a ResourceQuota keeps pods from being created.
	CauseQuota = "Quota"
	// CauseForbidden: admission forbids the pods or calls them invalid.
	CauseForbidden = "Forbidden"
	// CauseWebhookDenied: an admission webhook denies the pods.
	CauseWebhookDenied = "WebhookDenied"
	// CauseTemplateRewritten: somebody rewrites the template of every ReplicaSet.
	CauseTemplateRewritten = "TemplateRewritten"
	// CauseUnknown: none of the others is certain.
	CauseUnknown = "Unknown"
)

// FailureReasons are all reasons of a failure.
var FailureReasons = []string{FailureCrashLoop, FailurePodsEnded, FailureImagePull, FailureContainerConfig, FailureDeadlineExceeded,
	FailureQuotaExceeded, FailurePodsForbidden, FailureUnhealthyInSoak}

// Causes are all causes of a failure.
var Causes = []string{
	CauseExitCode, CauseCompleted, CauseOutOfMemory, CauseLivenessProbe, CauseStartupProbe, CausePostStartHook,
	CauseCannotStart, CauseRestartsWholePod, CauseSandbox, CauseEvicted, CauseRefused, CauseEndedByItself, CauseEatsNodes,
	CauseImageNotFound, CauseImageAuth, CauseRegistryUnavailable, CauseInvalidImageName, CauseImageNeverPull, CauseImage,
	CauseSecretMissing, CauseConfigMapMissing, CauseKeyMissing, CauseClaimMissing, CauseMountFailed, CauseSecurityContext,
	CauseConfiguration, CauseReadinessProbe, CauseReadinessGate, CauseNotReady, CauseNodeSelector, CauseTaints, CauseNoRoom,
	CauseSchedulerMissing, CauseSchedulingGate, CauseResourceClaim, CauseQuota, CauseForbidden, CauseWebhookDenied,
	CauseTemplateRewritten, CauseUnknown,
}
