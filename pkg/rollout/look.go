package rollout

import (
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// limits is the guard and the deadline, with their defaults, and what the revisions say that the judge compares.
type limits struct {
	maxRestarts           int32
	stuck, soak, deadline time.Duration
	tolerated             intstr.IntOrString
	log                   bool // the last lines of a failing container's log may be told
	inPlace               bool // no line of a log is kept, and no image is pinned, whatever the guard says
	pinned                bool // what a tag pointed to when it was good may be run again
	knownGood             bool // the revision was good before: only whether it comes up is watched
	// template is the revision's, and good the last good one's, nil if there is none: a rollback must be able to help.
	template, good *corev1.PodTemplateSpec
	// was is the revision with whose images those of the pods are compared, nil if there is none.
	was *Revision
}

// defaultDeadline is the API server's default of spec.progressDeadlineSeconds.
const defaultDeadline = 600

// limitsOf returns the limits that the guard sets, with a deadline in seconds.
func limitsOf(guard *v1alpha1.Guard, deadline *int32, knownGood bool) limits {
	seconds := func(value *int32, otherwise int32) time.Duration {
		return time.Duration(valueOr(value, otherwise)) * time.Second
	}
	l := limits{
		maxRestarts: valueOr(guard.MaxRestarts, 3),
		stuck:       seconds(guard.StuckSeconds, 120),
		soak:        seconds(guard.SoakSeconds, 30),
		deadline:    seconds(deadline, defaultDeadline),
		log:         valueOr(guard.Log, true),
		pinned:      guard.PinImages != v1alpha1.PinNever,
		knownGood:   knownGood,
	}
	if guard.ToleratedPods != nil {
		l.tolerated = *guard.ToleratedPods
	}
	return l
}

func valueOr[T any](value *T, otherwise T) T {
	if value == nil {
		return otherwise
	}
	return *value
}

// look is one poll: the evidence, and what it is compared with.
type look struct {
	limits
	deployment *appsv1.Deployment
	evidence   *Evidence
	current    *appsv1.ReplicaSet // nil if there is none yet
	active     []*corev1.Pod      // its pods that are there to stay
	counts
	tolerated int32         // how many pods may be missing
	fine      int32         // how many new pods are fine
	elapsed   time.Duration // what the clock has gone on since the last poll
	began     metav1.Time   // when the attempt did, zero if nothing tells
	recorded  metav1.Time

	// What excuses share, if there is anything to excuse.
	common string   // what both releases need and do not have
	lonely []string // the nodes on which alone pods do not start
}

func newLook(d *appsv1.Deployment, e *Evidence, limits limits) *look {
	l := &look{limits: limits, deployment: d, evidence: e, current: CurrentReplicaSet(d, e.ReplicaSets), active: active(e.Pods)}
	l.counts = count(l)
	// A value that is neither a number nor a percentage tolerates nothing; the schema lets none through.
	tolerated, _ := intstr.GetScaledValueFromIntOrPercent(&limits.tolerated, int(l.wanted), false)
	l.tolerated = max(0, min(int32(tolerated), l.wanted-1))
	return l
}

// fromBefore reports whether the pod is from before the attempt: it counts only by what it does since.
func (l *look) fromBefore(pod *corev1.Pod) bool { return pod.CreationTimestamp.Before(&l.began) }

// since returns when the attempt began at the earliest.
func (l *look) since() metav1.Time {
	if l.began.IsZero() {
		return l.recorded
	}
	return l.began
}

// allAvailable reports whether the ReplicaSet controller calls every pod that is ready available.
func (l *look) allAvailable() bool { return l.current != nil && l.available >= l.ready }

func (l *look) setUID() types.UID {
	if l.current == nil {
		return ""
	}
	return l.current.UID
}
