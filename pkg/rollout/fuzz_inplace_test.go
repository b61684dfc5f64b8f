package rollout

import (
	"cmp"
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// The same of a Deployment that is guarded in place: nothing is held that has not failed by what is stored, what is written can be, and it
// comes to rest.
func FuzzDecideInPlace(f *testing.F) {
	for n := range 40 {
		f.Add(uint16(n*37), said[n%len(said)], []byte(strings.Repeat(string(rune(n*13+1)), n)))
	}
	f.Fuzz(func(t *testing.T, view uint16, text string, data []byte) {
		row := inPlaceCases[int(view)%len(inPlaceCases)]
		(&fuzzedPlace{T: t, source: &source{data, strings.ToValidUTF8(text, "?")}, InPlace: row.site.InPlace}).play()
	})
}

// fuzzedPlace is a Deployment that is guarded in place, on which others write what they like.
type fuzzedPlace struct {
	*testing.T
	*source
	InPlace
	world           *Evidence // what there is to see
	spoke           bool
	failed, returns int
}

// play is as that of fuzzedPlay.
func (p *fuzzedPlace) play() {
	p.Deployment, p.Evidence = p.Deployment.DeepCopy(), copyOf(p.Evidence)
	p.writeAsOthers()
	for step := 0; step < 10 && len(p.data) > 0; step++ {
		p.step()
		p.Now = p.Now.Add(pick(p.source, pollInterval, 0, 15*time.Second, 2*time.Minute, 11*time.Minute))
		p.happen()
	}
	p.data = nil
	p.rest()
}

func copyOf(e *Evidence) *Evidence {
	copied := &Evidence{}
	for _, set := range e.ReplicaSets {
		copied.ReplicaSets = append(copied.ReplicaSets, set.DeepCopy())
	}
	for _, pod := range e.Pods {
		copied.Pods = append(copied.Pods, pod.DeepCopy())
	}
	for _, pod := range e.OldPods {
		copied.OldPods = append(copied.OldPods, pod.DeepCopy())
	}
	return copied
}

// writeAsOthers changes labels and annotations.
func (p *fuzzedPlace) writeAsOthers() {
	d := p.Deployment
	p.world, p.Evidence = p.Evidence, nil
	p.change(d.Annotations, v1alpha1.FailureAnnotation, v1alpha1.RetryAnnotation, SetNumber)
	if f, ok := readFailure(d); ok && p.n(4) == 1 {
		f.Attempt.Number, f.Retries = pick(p.source, 1, 0, -1, math.MaxInt), pick(p.source, 0, -1, math.MaxInt)
		f.Ready, f.Time, f.Token, f.Message = pick[int32](p.source, 3, -1, math.MaxInt32), p.time(), p.text, p.words()
		d.Annotations[v1alpha1.FailureAnnotation] = encoded(f)
	}
	for _, set := range p.world.ReplicaSets {
		for _, label := range []string{v1alpha1.VerdictLabel, v1alpha1.HeldAtLabel, v1alpha1.AttemptLabel} {
			if p.n(4) == 1 {
				set.Labels[label] = pick(p.source, "good", "0", "-1", "2147483647", "2147483648", "2.1.0", "2.9223372036854775807.0", "2.1.9223372036854775807", "2.2.-1", "", p.text) +
					pick(p.source, "."+string(set.UID), "", ".", ".another")
			}
		}
		p.change(set.Annotations, SetNumber, setNumbersBefore, setDesired, setMost, v1alpha1.ImagesAnnotation)
	}
	if p.n(4) == 1 {
		p.Guard = &v1alpha1.Guard{Retries: new(int32(p.n(3))), SoakSeconds: new(int32(p.n(40))), OnFailure: pick(p.source, v1alpha1.Rollback, v1alpha1.Hold)}
	}
	p.Unusable = pick(p.source, "", "", p.text)
	if current := CurrentReplicaSet(d, p.world.ReplicaSets); current != nil && failureOf(d, current) != nil || p.Memory.failure != nil { // What others took away is still known.
		p.failed++
	}
	p.spoke = p.Memory.Progress.Phase == PhaseFailed
	d.Status.Conditions = append(d.Status.Conditions, appsv1.DeploymentCondition{Type: appsv1.DeploymentProgressing, Status: pick(p.source, corev1.ConditionTrue, corev1.ConditionFalse, ""),
		Reason: pick(p.source, "", deadlineExceeded, "NewReplicaSetAvailable", p.text), Message: p.words(), LastUpdateTime: p.time()})
}

// happen lets the pods of each ReplicaSet be anew as many as it is to have.
func (p *fuzzedPlace) happen() {
	before := p.world
	p.world = &Evidence{ReplicaSets: before.ReplicaSets}
	current := CurrentReplicaSet(p.Deployment, before.ReplicaSets)
	st := &p.Deployment.Status
	st.Replicas, st.UpdatedReplicas, st.ReadyReplicas, st.AvailableReplicas = 0, 0, 0, 0
	for i, set := range before.ReplicaSets {
		set = set.DeepCopy()
		if n, held := HeldAt(set); held {
			set.Spec.Replicas = &n
		}
		*set.Spec.Replicas = max(0, min(*set.Spec.Replicas, 9))
		set.Status = appsv1.ReplicaSetStatus{Replicas: *set.Spec.Replicas}
		p.world.ReplicaSets[i] = set
		for n := range int(*set.Spec.Replicas) {
			pod := p.pod(set, n)
			if isUp(pod) {
				set.Status.ReadyReplicas, set.Status.AvailableReplicas = set.Status.ReadyReplicas+1, set.Status.AvailableReplicas+1
			}
			if current != nil && set.Name == current.Name {
				p.world.Pods = append(p.world.Pods, pod)
				st.UpdatedReplicas++
			} else {
				p.world.OldPods = append(p.world.OldPods, pod)
			}
		}
		st.Replicas, st.ReadyReplicas, st.AvailableReplicas = st.Replicas+set.Status.Replicas, st.ReadyReplicas+set.Status.ReadyReplicas, st.AvailableReplicas+set.Status.AvailableReplicas
	}
}

// step decides, checks that, and carries it out. It reports whether anything was written.
func (p *fuzzedPlace) step() bool {
	d := p.decide()
	if d.Status != nil && d.Set != nil {
		p.Fatalf("two writes at once: %+v", d)
	}
	p.checkVerdict(d)
	for _, e := range d.Events {
		checkText(p.T, e.Message, MaxEvent)
	}
	var deployment *appsv1.Deployment
	var set *appsv1.ReplicaSet
	if d.Status != nil {
		deployment = p.writeStatus(d.Status)
	} else if d.Set != nil {
		set = p.writeSet(d.Set)
	}
	wrote := deployment != nil || set != nil
	if wrote && p.n(8) == 1 { // The answer is lost.
		p.Deployment = cmp.Or(deployment, p.Deployment)
		p.Memory.Unanswered(d)
		p.Evidence = nil
		return wrote
	}
	if d.RollBack {
		p.returns++
	}
	p.InPlace = d.Answered(p.InPlace, deployment, set)
	p.Evidence = nil
	return wrote
}

// decide decides twice, the same each time, and reads for it what it asks for.
func (p *fuzzedPlace) decide() InPlaceDecision {
	for range 12 {
		before := p.InPlace
		before.Deployment = p.Deployment.DeepCopy()
		d := DecideInPlace(p.InPlace)
		if !reflect.DeepEqual(before, p.InPlace) || !reflect.DeepEqual(d, DecideInPlace(before)) {
			p.Fatalf("what was observed is changed, or decided twice, differently: %s", told(d))
		}
		switch {
		case d.NeedEvidence && p.Evidence == nil:
			p.Evidence = copyOf(p.world)
		case d.NeedDetails.Any() && p.Evidence != nil:
			p.add(p.Evidence, d.NeedDetails)
		case d.NeedEvidence || d.NeedDetails.Any():
			p.Fatalf("it asks again for %+v", d)
		default:
			return d
		}
		p.spoke = p.spoke || p.Evidence.speaks()
	}
	p.Fatal("it asks without end")
	return InPlaceDecision{}
}

// checkVerdict makes sure that a verdict follows from what was seen.
func (p *fuzzedPlace) checkVerdict(d InPlaceDecision) {
	switch {
	case d.Verdict == nil || d.Row() == "unanswered": // It was checked when it was written.
	case d.Verdict.Failure != "":
		if p.failed++; !p.spoke && d.Verdict.After < defaultDeadline*time.Second {
			p.Errorf("%s after %s, and nothing spoke against it", d.Verdict.Failure, d.Verdict.After)
		}
	default:
		var up int32
		for _, pod := range p.Evidence.podsOf(d.Set.Set) {
			if isUp(pod) {
				up++
			}
		}
		if wanted := valueOr(p.Deployment.Spec.Replicas, 1); up < wanted || wanted == 0 {
			p.Errorf("good with %d of %d pods up", up, wanted)
		}
	}
}

// writeStatus does what the API server does with a change of the status, which is to be read back as it was meant.
func (p *fuzzedPlace) writeStatus(c *StatusChange) *appsv1.Deployment {
	d := p.Deployment.DeepCopy()
	for key, value := range c.Annotations {
		if value == nil {
			delete(d.Annotations, key)
			continue
		}
		d.Annotations[key] = *value
		current := CurrentReplicaSet(d, p.Evidence.ReplicaSets)
		f := failureOf(d, current)
		if f == nil || len(*value) > 8<<10 {
			p.Fatalf("the failure is not read back: %s", *value)
		}
		checkText(p.T, f.Message, maxMessage)
	}
	if c.Progressing != nil {
		checkText(p.T, c.Progressing.Message, MaxEvent)
		d.Status.Conditions = []appsv1.DeploymentCondition{*c.Progressing}
	}
	return d
}

// writeSet does the same with a change of a ReplicaSet: one that takes pods from the release needs a failure that is stored.
func (p *fuzzedPlace) writeSet(c *SetChange) *appsv1.ReplicaSet {
	i := slices.IndexFunc(p.world.ReplicaSets, func(set *appsv1.ReplicaSet) bool { return set.UID == c.Set.UID })
	set := p.world.ReplicaSets[i].DeepCopy()
	current := CurrentReplicaSet(p.Deployment, p.Evidence.ReplicaSets)
	if _, holds := c.Hold(); (holds || c.Replicas != nil) && (current == nil || failureOf(p.Deployment, current) == nil || !metav1.IsControlledBy(set, p.Deployment)) {
		p.Fatalf("pods come or go, and no failure is stored: %+v", c)
	}
	for key, value := range c.Labels {
		if value == nil {
			delete(set.Labels, key)
			continue
		}
		if problems := validation.IsValidLabelValue(*value); len(problems) > 0 {
			p.Errorf("label %s may not be %q: %v", key, *value, problems)
		}
		set.Labels[key] = *value
	}
	for key, value := range c.Annotations {
		set.Annotations[key] = *value
	}
	if c.Replicas != nil {
		set.Spec.Replicas = c.Replicas
	}
	if n, held := HeldAt(set); held {
		set.Spec.Replicas = &n
	}
	p.world.ReplicaSets[i] = set
	return set
}

// rest makes sure that nothing more is written once nothing changes any more, and that nothing was taken back more often than it failed.
func (p *fuzzedPlace) rest() {
	wrote := 0
	for step := range 24 {
		if p.step() && step >= 16 {
			if wrote++; wrote > 2 {
				p.Fatal("there is no rest")
			}
		}
		p.Now = p.Now.Add(10 * time.Minute)
		p.happen()
	}
	if p.returns > p.failed {
		p.Errorf("taken back %d times after %d failures", p.returns, p.failed)
	}
}
