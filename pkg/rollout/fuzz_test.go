package rollout

import (
	"fmt"
	"math"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// source makes what others write from the bytes of a fuzzer. Where these are used up, it makes what is ordinary: the first of
// the values that it may choose from.
type source struct {
	data []byte
	text string // what others say in their own words; names and annotations are UTF-8
}

// n returns a number from 0 on, below the given one.
func (s *source) n(below int) int {
	if len(s.data) == 0 {
		return 0
	}
	b := s.data[0]
	s.data = s.data[1:]
	return int(b) % below
}

func (s *source) yes() bool { return s.n(2) == 1 }

func pick[T any](s *source, from ...T) T { return from[s.n(len(from))] }

// said are words that mean something to the judge.
var said = []string{
	"", "no database", `secret "token" not found`, `configmap "settings" not found`, "couldn't find key URL in Secret shop/token",
	"failed to pull image: manifest unknown: not found", "failed to pull image: 401 Unauthorized", "dial tcp: i/o timeout", "toomanyrequests",
	`Error creating: pods "p" is forbidden: exceeded quota: small`, `Error creating: admission webhook "a.b" denied the request: no`,
	`Error creating: pods "p" is forbidden: violates PodSecurity "restricted:latest"`, "Error creating: Internal error occurred: failed calling webhook",
	"0/3 nodes are available: 3 node(s) had untolerated taint {a: b}. preemption: 0/3 nodes are available", `0/1 nodes are available: persistentvolumeclaim "data" not found.`,
	"Container web failed liveness probe, will be restarted", "Liveness probe failed: 500", "Readiness probe errored and resulted in unknown state: no",
	"The node was low on resource: memory. Container web was using 2Gi, request is 1Gi, has larger consumption of memory.",
	"Pod was rejected: no", "The node had condition: [MemoryPressure]. ", "Container web exceeded its local ephemeral storage limit \"1Gi\". ",
	"Failed to create pod sandbox", "(combined from similar events): Error creating: x", "\x00\x1b[31m\u202e\xff\n\u2028", "line\nlast line\n",
}

func (s *source) words() string { return pick(s, append(slices.Clone(said), s.text)...) }

// time returns one that may be anybody's word.
func (s *source) time() metav1.Time {
	return pick(s, metav1.NewTime(noon.Add(time.Minute)), metav1.Time{}, metav1.NewTime(noon.Add(-2*time.Hour)), metav1.NewTime(noon.Add(time.Hour)),
		metav1.NewTime(time.Date(9999, 12, 31, 23, 59, 59, 1, time.UTC)), metav1.NewTime(time.Unix(-1<<40, 0)))
}

// pod returns one of the ReplicaSet, up as a rule.
func (s *source) pod(set *appsv1.ReplicaSet, i int) *corev1.Pod {
	p := pod(fmt.Sprintf("%s-%d", set.Name, i))
	p.CreationTimestamp = set.CreationTimestamp
	p.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(set, appsv1.SchemeGroupVersion.WithKind("ReplicaSet"))}
	set.Spec.Template.Spec.DeepCopyInto(&p.Spec)
	p.Spec.NodeName = "node"
	if !s.yes() {
		isReady(p)
		return p
	}
	p.Spec.NodeName = pick(s, "node", "", "other", s.text)
	p.CreationTimestamp = s.time()
	if s.n(4) == 1 {
		p.DeletionTimestamp = new(s.time())
	}
	st := &p.Status
	st.Phase = pick(s, corev1.PodRunning, corev1.PodPending, corev1.PodFailed, corev1.PodSucceeded, corev1.PodUnknown, "", corev1.PodPhase(s.text))
	st.Reason = pick(s, "", "Evicted", "NodeShutdown", "SysctlForbidden", "DeadlineExceeded", "OutOfcpu", "UnexpectedAdmissionError", s.text)
	st.Message = s.words()
	for range s.n(5) {
		st.Conditions = append(st.Conditions, corev1.PodCondition{
			Type:   pick(s, corev1.PodReady, corev1.ContainersReady, corev1.PodScheduled, corev1.DisruptionTarget, corev1.PodReadyToStartContainers, corev1.PodInitialized, corev1.PodConditionType(s.text)),
			Status: pick(s, corev1.ConditionFalse, corev1.ConditionTrue, corev1.ConditionUnknown, "", corev1.ConditionStatus(s.text)),
			Reason: pick(s, "", corev1.PodReasonUnschedulable, corev1.PodReasonSchedulingGated, corev1.PodReasonTerminationByKubelet, "ReadinessGatesNotReady", s.text), Message: s.words(),
			LastTransitionTime: s.time()})
	}
	st.ContainerStatuses = nil
	for range s.n(3) {
		st.ContainerStatuses = append(st.ContainerStatuses, s.container())
	}
	for range s.n(2) {
		st.InitContainerStatuses = append(st.InitContainerStatuses, s.container())
	}
	return p
}

func (s *source) container() corev1.ContainerStatus {
	c := corev1.ContainerStatus{Name: pick(s, "web", "", "mesh", s.text), State: s.state(), LastTerminationState: s.state(), Ready: s.yes(),
		RestartCount: pick[int32](s, 0, 1, 4, 9, math.MaxInt32, -1), Started: pick(s, nil, new(true), new(false)),
		ImageID: pick(s, "", "v2@sha256:aa", "docker-pullable://v2@sha256:bb", "sha256:cc", "@", "://@", "localhost/v2@", s.text)}
	return c
}

func (s *source) state() (state corev1.ContainerState) {
	if s.yes() {
		state.Waiting = &corev1.ContainerStateWaiting{Reason: pick(s, "ContainerCreating", "CrashLoopBackOff", "ImagePullBackOff", "ErrImagePull", "CreateContainerConfigError",
			"RunContainerError", "PostStartHookError", "PodInitializing", restartingAll, "", "Novel", s.text), Message: s.words()}
	}
	if s.yes() {
		state.Running = &corev1.ContainerStateRunning{StartedAt: s.time()}
	}
	if s.yes() {
		state.Terminated = &corev1.ContainerStateTerminated{ExitCode: pick[int32](s, 1, 0, 128, 137, 255, math.MinInt32, math.MaxInt32), Signal: pick[int32](s, 0, 9, -1),
			Reason: pick(s, "Error", "OOMKilled", "StartError", "Completed", "ContainerStatusUnknown", "Unknown", restartingAll, "", s.text), Message: s.words(),
			StartedAt: s.time(), FinishedAt: s.time()}
	}
	return state
}

// events returns those about one object.
func (s *source) events() (events []*corev1.Event) {
	for i := range s.n(4) {
		e := &corev1.Event{Reason: pick(s, "FailedCreate", "Killing", "Unhealthy", "FailedMount", "Pulling", "BackOff", "FailedPostStartHook", "Preempted", "Evicted",
			"ReplicaSetCreateError", "FailedScheduling", "TriggeredScaleUp", "NotTriggerScaleUp", "FailedCreatePodSandBox", "Failed", s.text), Message: s.words()}
		e.UID, e.Name = types.UID(fmt.Sprint(i)), s.text
		e.InvolvedObject.FieldPath = pick(s, "spec.containers{web}", "spec.initContainers{web}", "", s.text)
		e.FirstTimestamp, e.LastTimestamp = s.time(), s.time()
		if s.yes() {
			e.EventTime = metav1.NewMicroTime(s.time().Time)
			e.Series = &corev1.EventSeries{Count: 2, LastObservedTime: metav1.NewMicroTime(s.time().Time)}
		}
		events = append(events, e)
	}
	return events
}

// annotation returns what may stand in the place of an annotation or a label.
func (s *source) annotation(is string) string {
	return pick(s, is, is, is, s.text, "", "null", "{}", "[]", "0", `{"n":1}`, `{"n":9223372036854775807}`, `{"n":-1}`, `{"n":2,"retries":-7}`, `{"n":2,"retries":9223372036854775807}`,
		`{"n":2,"reason":"CrashLoop","message":"no","time":"9999-12-31T23:59:59-01:00","images":[{"container":"web","image":"v2","good":"x","now":"y"}]}`,
		`{"n":1,"replicaSet":"web-1","time":"0000-01-01T00:00:00+01:00","exitCode":-1,"restarts":-1}`, `{"web":{"digests":["sha256:aa"]}}`, `{"web":{"digests":[""],"local":true}}`,
		`{"replicaSet":"uid-of-set","number":"1","template":"a"}`, v1alpha1.VerdictGood, v1alpha1.VerdictFailed)
}

// change puts others' words in the place of some annotations.
func (s *source) change(annotations map[string]string, keys ...string) {
	for _, key := range keys {
		if is, there := annotations[key]; there || s.n(4) == 1 {
			annotations[key] = s.annotation(is)
		}
	}
}

// newSet returns a ReplicaSet of the Deployment.
func newSet(d *appsv1.Deployment, name string, template *corev1.PodTemplateSpec, replicas int32) *appsv1.ReplicaSet {
	set := &appsv1.ReplicaSet{}
	set.Name, set.Namespace, set.UID, set.CreationTimestamp = name, d.Namespace, types.UID("uid-of-"+name), metav1.NewTime(noon)
	set.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(d, appsv1.SchemeGroupVersion.WithKind("Deployment"))}
	set.Annotations = map[string]string{SetNumber: d.Annotations[SetNumber]}
	set.Spec.Replicas, set.Status.Replicas = &replicas, replicas
	template.DeepCopyInto(&set.Spec.Template)
	return set
}

// evidence returns what is seen of a Deployment: all up, as a rule.
func (s *source) evidence(d *appsv1.Deployment) *Evidence {
	e := &Evidence{}
	if s.n(8) == 1 {
		return e
	}
	wanted := valueOr(d.Spec.Replicas, 1)
	current := newSet(d, "web-1", &d.Spec.Template, wanted)
	e.ReplicaSets = append(e.ReplicaSets, current)
	for i := range int(wanted) + pick(s, 0, -1, 1) {
		p := s.pod(current, i)
		if e.Pods = append(e.Pods, p); isUp(p) {
			current.Status.AvailableReplicas++
		}
	}
	if s.n(4) == 1 {
		current.Status.Conditions = []appsv1.ReplicaSetCondition{{Type: appsv1.ReplicaSetReplicaFailure, Status: corev1.ConditionTrue, Reason: "FailedCreate", Message: s.words()}}
	}
	if s.n(4) == 1 {
		older := template("v1")
		old := newSet(d, "web-0", &older, int32(s.n(3)))
		old.Annotations[SetNumber] = pick(s, "0", "7", "-1", s.text)
		e.ReplicaSets = append(e.ReplicaSets, old)
		for i := range s.n(3) {
			e.OldPods = append(e.OldPods, s.pod(old, i))
		}
	}
	return e
}

// add adds to the evidence what is asked for.
func (s *source) add(e *Evidence, asked Details) {
	e.answer(nil, asked.Nodes)
	for _, name := range asked.Nodes {
		switch s.n(4) {
		case 1:
			e.Nodes[name] = nil
		case 2:
			e.Nodes[name].Status.Conditions[0].Status = pick(s, corev1.ConditionUnknown, corev1.ConditionStatus(s.text))
		}
	}
	for _, uid := range asked.Events {
		e.answer([]types.UID{uid}, nil)
		e.Events[uid] = s.events()
	}
	if asked.Log != nil {
		e.Log = &Log{Lines: s.words(), Unread: pick(s, "", "", s.text)}
	}
	if s.n(8) == 1 {
		e.Unread = Clean("Events cannot be read: "+s.words(), maxMessage)
	}
}

// isUp reports whether a pod is there to stay and ready, in its own words, or in those of others where it has none.
func isUp(p *corev1.Pod) bool {
	ready := map[corev1.PodConditionType]corev1.ConditionStatus{}
	for _, c := range slices.Backward(p.Status.Conditions) {
		ready[c.Type] = c.Status
	}
	word := ready[corev1.ContainersReady]
	if word == "" {
		word = ready[corev1.PodReady]
	}
	return word == corev1.ConditionTrue && p.DeletionTimestamp == nil && p.Status.Phase != corev1.PodFailed && p.Status.Phase != corev1.PodSucceeded
}

// speaks reports whether the evidence has anything that may speak against a release before its deadline.
func (e *Evidence) speaks() bool {
	loud := func(c *corev1.ContainerStatus) bool {
		w := c.State.Waiting
		return c.RestartCount != 0 || c.State.Terminated != nil || c.LastTerminationState.Terminated != nil ||
			(w != nil && w.Reason != "ContainerCreating" && w.Reason != "PodInitializing" && w.Reason != "" && w.Reason != "Novel")
	}
	for _, p := range slices.Concat(e.Pods, e.OldPods) {
		ended := p.DeletionTimestamp != nil || p.Status.Phase == corev1.PodFailed || p.Status.Phase == corev1.PodSucceeded
		for c := range containers(p) {
			ended = ended || loud(c)
		}
		if ended || isUp(p) || p.Spec.NodeName == "" {
			return true
		}
	}
	for _, set := range e.ReplicaSets {
		if len(set.Status.Conditions) > 0 {
			return true
		}
	}
	return len(e.ReplicaSets) > 1 || len(e.Events) > 0
}
