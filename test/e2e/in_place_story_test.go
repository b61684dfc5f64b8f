package e2e

import (
	"strings"
	"testing"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// The story: a running Deployment gets the label, and its releases are judged.
func TestInPlace_Story(t *testing.T) {
	n := newInPlace(t)
	web := n.plain("web", template(good, "1"))
	web.awaitAvailable(4)
	before := web.deployment()
	pods := web.podUIDs()
	web.kubectl("label", "deployment/web", v1alpha1.GuardedLabel+"="+v1alpha1.GuardedInPlace)
	web.awaitGood()
	web.awaitPods(pods)
	if note := web.awaitEvents(v1alpha1.ReasonRolledOut, 1)[0]; !strings.Contains(note, "counts as good") {
		t.Errorf("the Event says %q", note)
	}
	if now := web.deployment(); now.Generation != before.Generation {
		t.Errorf("the label made generation %d of %d", now.Generation, before.Generation)
	}
	n.checkBudget("in place: label on a Deployment that runs", 0, 2)

	made := len(n.writesAtRest())
	web.release(template(good, "2"))
	web.awaitGood()
	n.checkBudget("in place: healthy release", made, 2)
	_, second, _ := web.sets()

	made = len(n.writesAtRest())
	web.release(template(crash, "3"))
	f := web.awaitRolledBack()
	if f.Reason != v1alpha1.FailureCrashLoop || !strings.HasPrefix(f.Pod, f.ReplicaSet+"-") {
		t.Errorf("the failure is %+v", *f)
	}
	d, _, others := web.sets()
	if others[0].UID != second.UID || version(d) != "3" {
		t.Errorf("release %s is asked for, and %s runs; want 3 and %s", version(d), others[0].Name, second.Name)
	}
	web.checkShown(f, second.Name)
	n.checkBudget("in place: rollback of 4 replicas", made, 12)

	web.release(template(good, "4"))
	web.awaitGood()
	if d := web.deployment(); progressing(d).Reason != "NewReplicaSetAvailable" {
		t.Errorf("after the fix the condition is %+v", progressing(d))
	}
	web.awaitEvents(v1alpha1.ReasonRolledOut, 3)
}

// checkShown makes sure that whoever looks at the Deployment sees what failed, and what runs.
func (p *inPlace) checkShown(f *failed, back string) {
	p.Helper()
	if note := p.awaitEvents(v1alpha1.ReasonRolledBack, 1)[0]; !strings.Contains(note, f.Message) || !strings.Contains(note, back) {
		p.Errorf("the Event does not tell what failed, and what runs: %q", note)
	}
	if note := p.awaitEvents(f.Reason, 1)[0]; !strings.Contains(note, f.Message) {
		p.Errorf("the Event does not tell what failed: %q", note)
	}
	described := p.kubectl("describe", "deployment/"+p.name)
	for _, want := range []string{f.Message, f.Pod, "Progressing    False   ProgressDeadlineExceeded", v1alpha1.ReasonRolledBack} {
		if !strings.Contains(described, want) {
			p.Errorf("kubectl describe does not show %q:\n%s", want, described)
		}
	}
	if line := p.kubectl("get", "deployment/"+p.name, "--no-headers"); !strings.HasPrefix(strings.Join(strings.Fields(line), " "), p.name+" 4/4 0 4 ") {
		p.Errorf("kubectl get shows %q, want 4/4 ready, 0 up to date, 4 available", line)
	}
}
