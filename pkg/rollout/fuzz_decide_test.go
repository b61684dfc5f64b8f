package rollout

import (
	"encoding/json"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// Whatever others write, what is decided is allowed, can be written and read back, follows from what was seen, and comes to rest.
func FuzzDecide(f *testing.F) {
	for view := range uint32(40) {
		f.Add(view*7919, said[int(view)%len(said)], []byte(strings.Repeat(string(rune(view*13+1)), int(view))))
	}
	valid := statusSchema(f)
	f.Fuzz(func(t *testing.T, view uint32, text string, data []byte) {
		(&fuzzedPlay{T: t, scene: fuzzedScene(view), source: &source{data, strings.ToValidUTF8(text, "?")}, valid: valid}).play()
	})
}

// fuzzedScene is one of the enumerated views.
func fuzzedScene(view uint32) *scene {
	s := asking("v2").keep(0)
	s.Guarded.Spec.Guard.SoakSeconds = new(int32(0))
	rest := int(view)
	for _, c := range choices {
		c[rest%len(c)](s)
		rest /= len(c)
	}
	return s
}

// fuzzedPlay is a scene in which others write what they like.
type fuzzedPlay struct {
	*testing.T
	*scene
	*source
	valid           func(*v1alpha1.GuardedDeploymentStatus) error
	spoke           bool // something may have spoken against the release
	wasUp           bool // what is remembered says that the release came up
	failed, returns int  // releases, and restarts, that had failed or were found to; moves back
}

// play lets others write, and decides as long as there is something to choose from, and then until it is at rest.
func (p *fuzzedPlay) play() {
	p.writeAsOthers()
	for step := 0; step < 10 && len(p.data) > 0; step++ {
		p.step()
		p.after(pick(p.source, pollInterval, 0, 15*time.Second, 2*time.Minute, 11*time.Minute))
	}
	p.data = nil // From here on, all is up.
	p.rest()
}

// writeAsOthers changes what Belay has written, and what only others write.
func (p *fuzzedPlay) writeAsOthers() {
	for i, r := range p.Revisions {
		if r = r.DeepCopy(); r.Annotations == nil {
			r.Annotations = map[string]string{}
		}
		p.change(r.Annotations, v1alpha1.VerdictAnnotation, v1alpha1.FailureAnnotation, v1alpha1.AttemptAnnotation, v1alpha1.ImagesAnnotation, v1alpha1.GoodWithAnnotation)
		p.change(r.Labels, v1alpha1.GuardedLabel)
		r.Revision = pick(p.source, r.Revision, 0, -1, math.MaxInt64-100)
		r.Data.Raw = []byte(pick(p.source, string(r.Data.Raw), string(r.Data.Raw), string(r.Data.Raw), p.text, ""))
		p.Revisions[i] = r
	}
	if p.yes() {
		p.Guarded.Annotations = map[string]string{v1alpha1.RetryAnnotation: p.text}
	}
	if p.n(4) == 1 {
		p.Guarded.Spec.Guard.Retries = new(int32(p.n(3)))
	}
	for _, r := range newHistory(p.Guarded, p.Revisions).revisions {
		if r.Failed() || r.Failure.ReplicaSet != "" {
			p.failed++
		}
	}
	p.spoke, p.wasUp = p.Memory.Progress.Phase == PhaseFailed, p.Memory.Progress.Phase == PhaseHealthy
	if p.Deployment == nil {
		return
	}
	if p.Deployment.Annotations == nil {
		p.Deployment.Annotations = map[string]string{}
	}
	p.change(p.Deployment.Annotations, v1alpha1.RevisionAnnotation, v1alpha1.AppliedAnnotation, v1alpha1.PinnedAnnotation, v1alpha1.AdoptAnnotation, SetNumber)
	st := &p.Deployment.Status
	for range p.n(3) {
		st.Conditions = append(st.Conditions, appsv1.DeploymentCondition{Type: pick(p.source, appsv1.DeploymentAvailable, appsv1.DeploymentProgressing, appsv1.DeploymentReplicaFailure),
			Status: pick(p.source, corev1.ConditionFalse, corev1.ConditionTrue, corev1.ConditionUnknown, corev1.ConditionStatus(p.text)),
			Reason: pick(p.source, "MinimumReplicasUnavailable", "NewReplicaSetAvailable", "ReplicaSetCreateError", "", p.text), Message: p.words(), LastUpdateTime: p.source.time()})
	}
	if p.n(4) == 1 {
		st.CollisionCount, p.spoke = new(int32(p.n(5))), true
	}
	st.ObservedGeneration -= int64(p.n(2))
}

// step decides, checks that, and carries it out.
func (p *fuzzedPlay) step() Decision {
	d := p.decide()
	if problem := forbidden(p.scene, d); problem != "" {
		p.Fatalf("%s: %s", problem, p.tell(d))
	}
	p.checkWrites(d)
	p.checkVerdict(d)
	if d.RollBack {
		p.returns++
	}
	d.Events = p.carryOut(d)
	for _, e := range d.Events {
		checkText(p.T, e.Message, MaxEvent)
		if e.Type == "" || e.Action == "" {
			p.Errorf("an incomplete Event: %+v", e)
		}
	}
	p.RevisionsLive, p.Evidence = false, nil
	return d
}

// decide decides, and reads for it what it asks for, each thing once.
func (p *fuzzedPlay) decide() Decision {
	for range 12 {
		d := decideStrictly(p.T, p.scene)
		switch {
		case d.NeedRevisions && !p.RevisionsLive:
			p.RevisionsLive = true
		case (d.NeedDeployment && !p.DeploymentLive) || (d.NeedTarget && !p.TargetLive):
			p.DeploymentLive, p.TargetLive = p.DeploymentLive || d.NeedDeployment, p.TargetLive || d.NeedTarget
		case d.NeedEvidence && p.Evidence == nil:
			p.Evidence = p.source.evidence(p.Deployment)
		case d.NeedDetails.Any() && p.Evidence != nil:
			p.add(p.Evidence, d.NeedDetails)
		case len(d.NeedObjects) > 0 && p.Evidence != nil:
			p.find(d.NeedObjects)
		case d.NeedDeployment || d.NeedTarget || d.NeedEvidence || d.NeedRevisions || d.NeedDetails.Any() || len(d.NeedObjects) > 0:
			p.Fatalf("it asks again for %+v", d)
		default:
			return d
		}
		p.spoke = p.spoke || (p.Evidence != nil && p.Evidence.speaks())
	}
	p.Fatal("it asks without end")
	return Decision{}
}

// checkWrites makes sure that what is written can be, and is read back as it was meant.
func (p *fuzzedPlay) checkWrites(d Decision) {
	for _, written := range []*appsv1.ControllerRevision{d.Record, d.Mark} {
		if written == nil {
			continue
		}
		r := decode(p.Guarded, written)
		if r == nil || r.Attempt.Number < 1 || r.Attempt.Retries < 0 {
			p.Fatalf("%+v is read back as %+v", written.Annotations, r)
		}
		before := newHistory(p.Guarded, p.Revisions).named(written.Name)
		if d.Record != nil && d.Row() != "label" && before != nil && before.Failed() && (!r.Unjudged() || r.Attempt.Number <= before.Attempt.Number) {
			p.Errorf("the next attempt after %+v is %+v", before.Attempt, r.Attempt)
		}
		if size := len(written.Annotations[v1alpha1.FailureAnnotation]); d.Mark != nil && size > 8<<10 {
			p.Errorf("%d bytes of evidence", size)
		}
		if d.Verdict != nil && (d.Verdict.Failure == "" && !r.Good() || d.Verdict.Failure != r.Failure.Reason && d.Verdict.Failure != "") {
			p.Errorf("the verdict %+v is read back as %+v", d.Verdict, r.Failure)
		}
	}
	if d.Status == nil {
		return
	}
	if err := p.valid(d.Status); err != nil {
		p.Errorf("the API server refuses the status: %v", err)
	}
	var read v1alpha1.GuardedDeploymentStatus
	if data, err := json.Marshal(d.Status); err != nil || json.Unmarshal(data, &read) != nil || !equality.Semantic.DeepEqual(d.Status, &read) {
		p.Errorf("the status is read back otherwise, %v: %+v, and %+v", err, d.Status, read)
	}
	for _, c := range d.Status.Conditions {
		checkText(p.T, c.Message, maxCondition)
	}
	if failure := d.Status.Failure; failure != nil {
		checkText(p.T, failure.Message, maxMessage)
	}
}

// checkVerdict makes sure that a verdict follows from what was seen: what is not known counts neither as good nor as failed.
func (p *fuzzedPlay) checkVerdict(d Decision) {
	if d.Verdict == nil {
		return
	}
	if d.Verdict.Failure != "" {
		if p.failed++; !p.spoke && d.Verdict.After < defaultDeadline*time.Second {
			p.Errorf("%s after %s, and nothing spoke against it", d.Verdict.Failure, d.Verdict.After)
		}
		return
	}
	var up int32
	for _, pod := range p.Evidence.Pods {
		if isUp(pod) {
			up++
		}
	}
	if wanted := valueOr(p.Deployment.Spec.Replicas, 1); (up < wanted || wanted == 0) && !p.wasUp {
		p.Errorf("good with %d of %d pods up", up, wanted)
	}
}

// rest makes sure that nothing more is written once nothing changes any more, and that nothing was moved back more often than it failed.
func (p *fuzzedPlay) rest() {
	wrote := 0
	for step := range 24 {
		if d := p.step(); step >= 16 && (d.Record != nil || d.Mark != nil || d.Deployment != nil || d.Status != nil || len(d.Prune) > 0) {
			if wrote++; wrote > 2 {
				p.Fatalf("there is no rest: %s", p.tell(d))
			}
		}
		p.after(10 * time.Minute)
		if p.Deployment != nil && p.Deployment.Generation > p.Deployment.Status.ObservedGeneration {
			p.up()
		}
	}
	if p.returns > p.failed {
		p.Errorf("%d moves back for %d failures", p.returns, p.failed)
	}
}

// What is read of a revision can be told, and is written as it was read.
func FuzzRevision(f *testing.F) {
	s := asking("v1").knows("v1", 1, failedWith("!"))
	r := s.Revisions[0]
	f.Add("", "", `{"web":{"digests":["sha256:aa"]}}`)
	f.Add(r.Annotations[v1alpha1.FailureAnnotation], "", "{}")
	src := &source{}
	for n := range 20 {
		src.data = []byte{byte(n)}
		text := src.annotation("")
		f.Add(text, text, text)
	}
	f.Fuzz(func(t *testing.T, failure, attempt, images string) {
		object := r.DeepCopy()
		object.Annotations = map[string]string{v1alpha1.VerdictAnnotation: v1alpha1.VerdictFailed, v1alpha1.FailureAnnotation: failure, v1alpha1.ImagesAnnotation: images}
		if attempt != "" {
			object.Annotations[v1alpha1.AttemptAnnotation] = attempt
		}
		read := decode(s.Guarded, object)
		if read.Attempt.Number < 1 || read.Attempt.Retries < 0 {
			t.Errorf("attempt %+v", read.Attempt)
		}
		checkText(t, read.Failure.Message, maxMessage)
		again := decode(s.Guarded, withVerdict(read, &read.Failure))
		if read.Failure.Number > 0 && !reflect.DeepEqual(again.Failure, read.Failure) {
			t.Errorf("%+v becomes %+v", read.Failure, again.Failure)
		}
		next := &Attempt{Number: read.Attempt.Number + 1}
		if tried := decode(s.Guarded, withRequest(read, 2, next)); tried.Attempt.Number != next.Number || !tried.Unjudged() {
			t.Errorf("attempt %+v is read as %+v", next, tried.Attempt)
		}
		for key, pinned := range read.pins(func(yield func(string) bool) { yield("web") }) {
			if strings.Count(pinned, "@") != 1 || !strings.HasPrefix(pinned, "v1@") {
				t.Errorf("%s is pinned to %q", key, pinned)
			}
		}
	})
}
