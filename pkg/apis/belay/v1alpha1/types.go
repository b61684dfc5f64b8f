package v1alpha1

import (
	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// GuardedDeployment is a Deployment whose failed releases are rolled back.
//
// The spec stays what was asked for. The Deployment of the same name, which it owns, stays what works.
//
// +genclient
// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object
// +kubebuilder:object:root=true
// +kubebuilder:resource:shortName=gd,categories=all
// +kubebuilder:subresource:status
// +kubebuilder:subresource:scale:specpath=.spec.replicas,statuspath=.status.replicas,selectorpath=.status.selector
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="Failure",type=string,JSONPath=`.status.failure.reason`
// +kubebuilder:printcolumn:name="Cause",type=string,JSONPath=`.status.failure.cause`,priority=1
// +kubebuilder:printcolumn:name="Replicas",type=integer,JSONPath=`.status.replicas`
// +kubebuilder:printcolumn:name="Available",type=integer,JSONPath=`.status.availableReplicas`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:printcolumn:name="Target",type=string,JSONPath=`.status.targetRevision`,priority=1
// +kubebuilder:printcolumn:name="Running",type=string,JSONPath=`.status.runningRevision`,priority=1
// +kubebuilder:printcolumn:name="Good",type=string,JSONPath=`.status.goodRevision`,priority=1
// +kubebuilder:printcolumn:name="Message",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].message`,priority=1
type GuardedDeployment struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// What to run: every field of a Deployment's spec, and how to guard its releases.
	//
	// +required
	Spec GuardedDeploymentSpec `json:"spec"`

	// What runs, and why. A report: nothing is decided from it, and deleting it loses nothing. Until the first one, it says
	// that no generation was observed: tools that wait by kstatus would take an object without status for done.
	//
	// +optional
	// +kubebuilder:default={"observedGeneration":-1}
	Status GuardedDeploymentStatus `json:"status,omitempty"`
}

// GuardedDeploymentSpec is a Deployment's spec with a guard.
//
// +kubebuilder:validation:XValidation:rule="self.selector == oldSelf.selector",message="is immutable: create a GuardedDeployment of another name instead",fieldPath=".selector"
// +kubebuilder:validation:XValidation:rule="(has(self.selector.matchLabels) && size(self.selector.matchLabels) > 0) || (has(self.selector.matchExpressions) && size(self.selector.matchExpressions) > 0)",message="must not be empty: set matchLabels, matchExpressions or both",fieldPath=".selector"
// +kubebuilder:validation:XValidation:rule="!has(self.selector.matchLabels) || self.selector.matchLabels.all(k, k in self.template.metadata.labels && self.selector.matchLabels[k] == self.template.metadata.labels[k])",message="must all be among spec.template.metadata.labels, with the same values",fieldPath=".selector.matchLabels"
// +kubebuilder:validation:XValidation:rule="!has(self.selector.matchExpressions) || self.selector.matchExpressions.all(e, e.operator == 'Exists' ? e.key in self.template.metadata.labels : e.operator == 'DoesNotExist' ? !(e.key in self.template.metadata.labels) : has(e.values) && size(e.values) > 0 && (e.key in self.template.metadata.labels && self.template.metadata.labels[e.key] in e.values) == (e.operator == 'In'))",message="must all hold for spec.template.metadata.labels (In and NotIn need values)",fieldPath=".selector.matchExpressions"
// +kubebuilder:validation:XValidation:rule="self.?progressDeadlineSeconds.orValue(600) > self.?minReadySeconds.orValue(0)",message="must be greater than spec.minReadySeconds (left out, it is 600)",fieldPath=".progressDeadlineSeconds"
type GuardedDeploymentSpec struct {
	// Every field of apps/v1 DeploymentSpec has its own name and meaning here, with two remarks.
	//
	// replicas has no default. Left out, the number of replicas belongs to whoever scales the Deployment, an HPA for
	// example, and is never written; the Deployment starts with the API server's default of 1.
	//
	// revisionHistoryLimit (10 if left out) also bounds the ControllerRevisions that are kept, besides the target, the
	// running and the last good one.
	appsv1.DeploymentSpec `json:",inline"`

	// How a release is judged, and what happens when it fails.
	//
	// +optional
	// +kubebuilder:default={}
	Guard Guard `json:"guard,omitempty"`
}

// OnFailure says what happens to a release that failed.
//
// +kubebuilder:validation:Enum=Rollback;Hold
type OnFailure string

const (
	// Rollback puts the Deployment back on the last good revision.
	Rollback OnFailure = "Rollback"
	// Hold judges and reports, and leaves the failed rollout in place.
	Hold OnFailure = "Hold"
)

// Guard says how a release is judged, and what happens when it fails. Changing it is never a new attempt.
type Guard struct {
	// What happens when a release fails. Rollback puts the Deployment back on the last revision that was good; the spec
	// stays as it is. Hold judges and reports, and leaves the failed rollout in place. Default: Rollback.
	//
	// +optional
	// +kubebuilder:default=Rollback
	OnFailure OnFailure `json:"onFailure,omitempty"`

	// How many restarts of one container (init containers too) of a new pod are tolerated in one release, those that a resize,
	// a reboot or a new sandbox makes not counted. One more, and the container not ready, or ready before it, and the release
	// has failed. So it has when more of its pods than this, and one more for every ten wanted, end by themselves, evicted for
	// what they did, for example. 0: the first one fails. Default: 3.
	//
	// +optional
	// +kubebuilder:default=3
	// +kubebuilder:validation:Minimum=0
	MaxRestarts *int32 `json:"maxRestarts,omitempty"`

	// How long, in seconds, a new pod may sit in an image or configuration error (ErrImagePull, ImagePullBackOff,
	// CreateContainerConfigError and their like), or the API server may refuse pods for what they state, before the release has
	// failed: a registry's hiccup is no failure. Also how long a pod that was ready may be unready. Default: 120.
	//
	// +optional
	// +kubebuilder:default=120
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=86400
	StuckSeconds *int32 `json:"stuckSeconds,omitempty"`

	// How long, in seconds, each new pod must stay available before the revision counts as good, and can be gone back to. Each
	// passes its soak once; a restart of its own or an unready moment before that begins it again, for this pod alone. One in the
	// place of a pod that others moved goes on with its time. 0: as soon as the rollout is complete. Default: 30.
	//
	// +optional
	// +kubebuilder:default=30
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=86400
	SoakSeconds *int32 `json:"soakSeconds,omitempty"`

	// How many further attempts at a failed revision are made without being asked, with growing delay (1 minute,
	// doubling, at most 1 hour). Default: 0. They are counted anew when the template is asked for again or a retry is.
	//
	// +optional
	// +kubebuilder:default=0
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=100
	Retries *int32 `json:"retries,omitempty"`

	// How many of the wanted pods, a number or a percentage (rounded down), may be missing for a release to be complete and
	// good, and may fail without the release having failed: a cluster with bad nodes always has some. Default: 0.
	//
	// +optional
	// +kubebuilder:default=0
	// +kubebuilder:validation:XValidation:rule="type(self) == int ? self >= 0 : self.matches('^(100|[1-9]?[0-9])%$')",message="must be a number of pods from 0 on, or a percentage from 0% to 100%"
	ToleratedPods *intstr.IntOrString `json:"toleratedPods,omitempty"`

	// Whether the last lines of a failing container's log are kept in the status, and in the revision that failed: whoever may
	// read these may read the lines. Default: true.
	//
	// +optional
	// +kubebuilder:default=true
	Log *bool `json:"log,omitempty"`

	// Which images are run when the Deployment is put back on what was good. WhenMoved: repository@digest, as it was when it was
	// good, for the containers whose tag points to another image since. Always: that for all containers. Never: what the template
	// says, whatever that is now. The digests go with the next release. Default: WhenMoved.
	//
	// +optional
	// +kubebuilder:default=WhenMoved
	PinImages PinImages `json:"pinImages,omitempty"`
}

// PinImages says when the Deployment runs digests in the place of tags.
//
// +kubebuilder:validation:Enum=WhenMoved;Never;Always
type PinImages string

const (
	// PinWhenMoved: where a tag points to another image than when the revision was good.
	PinWhenMoved PinImages = "WhenMoved"
	// PinNever: nowhere.
	PinNever PinImages = "Never"
	// PinAlways: wherever the digest is known.
	PinAlways PinImages = "Always"
)

// GuardedDeploymentStatus is a report of what runs, and why.
type GuardedDeploymentStatus struct {
	// The generation of the spec that this status reports on.
	//
	// +optional
	// +kubebuilder:default=-1
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`

	// How many pods the Deployment has, of any revision.
	//
	// +optional
	Replicas int32 `json:"replicas"`

	// How many of them have the template that the Deployment carries.
	//
	// +optional
	UpdatedReplicas int32 `json:"updatedReplicas"`

	// How many of them are ready.
	//
	// +optional
	ReadyReplicas int32 `json:"readyReplicas"`

	// How many of them have been ready for minReadySeconds.
	//
	// +optional
	AvailableReplicas int32 `json:"availableReplicas"`

	// The selector of the pods as a string, for the scale subresource.
	//
	// +optional
	Selector string `json:"selector,omitempty"`

	// The ControllerRevision that the spec's template asks for.
	//
	// +optional
	TargetRevision string `json:"targetRevision,omitempty"`

	// The ControllerRevision that the Deployment carries.
	//
	// +optional
	RunningRevision string `json:"runningRevision,omitempty"`

	// The newest ControllerRevision that was good.
	//
	// +optional
	GoodRevision string `json:"goodRevision,omitempty"`

	// Why the target revision failed, or the last restart of it; absent while neither has.
	//
	// +optional
	Failure *Failure `json:"failure,omitempty"`

	// Ready, Reconciling, Stalled (as kstatus reads them) and Available (the Deployment's own).
	//
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// Failure is the evidence that a release failed, as it was before the pods went.
type Failure struct {
	// The ControllerRevision that failed.
	//
	// +optional
	Revision string `json:"revision,omitempty"`

	// The ReplicaSet that failed, if the revision was good before and others gave it this one: by a restart, for example. Absent
	// after a release.
	//
	// +optional
	ReplicaSet string `json:"replicaSet,omitempty"`

	// Why: CrashLoop, PodsEnded, ImagePull, ContainerConfig, DeadlineExceeded, QuotaExceeded, PodsForbidden or UnhealthyInSoak.
	//
	// +optional
	Reason string `json:"reason,omitempty"`

	// The finer word for why: ExitCode, OutOfMemory, Evicted, NoRoom, for example.
	//
	// +optional
	Cause string `json:"cause,omitempty"`

	// What happened, for a person to read.
	//
	// +optional
	Message string `json:"message,omitempty"`

	// The pod that shows it.
	//
	// +optional
	Pod string `json:"pod,omitempty"`

	// Its container that shows it.
	//
	// +optional
	Container string `json:"container,omitempty"`

	// The node of that pod.
	//
	// +optional
	Node string `json:"node,omitempty"`

	// The exit code of the container's last end, if it ended.
	//
	// +optional
	ExitCode *int32 `json:"exitCode,omitempty"`

	// How often it had restarted.
	//
	// +optional
	Restarts int32 `json:"restarts,omitempty"`

	// The last lines that the container wrote, at most 20 and 2 KiB; absent if spec.guard.log is false or they could not be read,
	// which the message says then.
	//
	// +optional
	Log string `json:"log,omitempty"`

	// The images whose tag points to another one than when the revision to go back to was good, at most 10.
	//
	// +optional
	// +listType=atomic
	Images []MovedImage `json:"images,omitempty"`

	// When it was judged.
	//
	// +optional
	Time metav1.Time `json:"time,omitempty"`

	// Which attempt it was: 1, and one more for every automatic retry.
	//
	// +optional
	Attempt int32 `json:"attempt,omitempty"`

	// When the next automatic retry is due; absent if there is none.
	//
	// +optional
	NextAttempt *metav1.Time `json:"nextAttempt,omitempty"`
}

// MovedImage is an image whose tag points to another one than before.
type MovedImage struct {
	// The container, init container or, for an image volume, volume that has it.
	Container string `json:"container"`

	// The image, as the template names it.
	Image string `json:"image"`

	// Its digest when it was good.
	Good string `json:"good"`

	// Its digest in a pod of the release that failed.
	Now string `json:"now"`
}

// GuardedDeploymentList is a list of GuardedDeployments.
//
// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object
// +kubebuilder:object:root=true
type GuardedDeploymentList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata"`

	Items []GuardedDeployment `json:"items"`
}
