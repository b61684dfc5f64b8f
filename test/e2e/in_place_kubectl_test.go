package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// These tests do with kubectl what users do with a Deployment that is guarded in place: each from the good state, and from the one in
// which it is rolled back.

// manifest writes a Deployment into a file, as a user has it, and returns the path.
func (n *namespace) manifest(name string, pods corev1.PodTemplateSpec) (path string) {
	n.Helper()
	metav1.SetMetaDataLabel(&pods.ObjectMeta, "app", name)
	data, err := json.Marshal(map[string]any{
		"apiVersion": "apps/v1", "kind": "Deployment",
		"metadata": map[string]any{"name": name, "labels": map[string]string{v1alpha1.GuardedLabel: v1alpha1.GuardedInPlace},
			"annotations": map[string]string{v1alpha1.GuardAnnotation: shortGuard}},
		"spec": map[string]any{"replicas": 4, "selector": map[string]any{"matchLabels": map[string]string{"app": name}}, "template": pods},
	})
	if err != nil {
		n.Fatal(err)
	}
	path = filepath.Join(n.TempDir(), "deployment.json")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		n.Fatal(err)
	}
	return path
}

// checkStatusFails makes sure that "kubectl rollout status" ends, and says that the release failed.
func (p *inPlace) checkStatusFails() {
	p.Helper()
	if out, err := p.tryKubectl("rollout", "status", "deployment/"+p.name); err == nil || !strings.Contains(out, "exceeded its progress deadline") {
		p.Errorf("kubectl rollout status of a failed release: %v\n%s", err, out)
	}
}

// checkNoDiff makes sure that kubectl finds nothing that applying the manifest would change.
func (p *inPlace) checkNoDiff(file string, how ...string) {
	p.Helper()
	if out, err := p.tryKubectl(append([]string{"diff", "--filename", file}, how...)...); err != nil || out != "" {
		p.Errorf("kubectl diff: %v\n%s", err, out)
	}
}

func TestInPlace_KubectlApply(t *testing.T) {
	n := newInPlace(t)
	for _, how := range [][]string{nil, {"--server-side"}} {
		web := &inPlace{&object{namespace: n, name: fmt.Sprintf("web-%d", len(how))}}
		apply := func(b behaviour, release string) (file string) {
			t.Helper()
			file = n.manifest(web.name, template(b, release))
			web.kubectl(append([]string{"apply", "--filename", file}, how...)...)
			return file
		}
		file := apply(good, "1")
		web.kubectl("rollout", "status", "deployment/"+web.name)
		web.awaitGood()
		web.checkNoDiff(file, how...)

		for _, release := range []string{"2", "3"} { // from the good state, and from the one rolled back
			file = apply(crash, release)
			web.checkStatusFails()
			web.awaitRolledBack()
			web.checkStatusFails()
			web.checkNoDiff(file, how...)
			if _, _, others := web.sets(); !slices.ContainsFunc(others, func(set *appsv1.ReplicaSet) bool { return versionOf(set.Spec.Template.Spec) == "1" && is(set, 4) }) {
				t.Errorf("the first release does not run")
			}
		}
		before := web.deployment()
		web.kubectl(append([]string{"apply", "--filename", file}, how...)...)
		if now := web.deployment(); now.Generation != before.Generation {
			t.Errorf("applying the failed release once more made generation %d of %d", now.Generation, before.Generation)
		}

		file = apply(good, "4")
		web.kubectl("rollout", "status", "deployment/"+web.name)
		web.awaitGood()
		web.checkNoDiff(file, how...)
	}
}

func TestInPlace_KubectlUndo(t *testing.T) {
	n := newInPlace(t)
	web := n.guarded("web", template(good, "1"))
	web.release(template(good, "2"))
	web.awaitGood()
	told := len(web.belayEvents(v1alpha1.ReasonRolledOut))
	web.kubectl("rollout", "undo", "deployment/web") // to what was good: nothing has to be judged
	web.awaitGood()
	web.checkVersion("1")
	web.release(template(crash, "3"))
	web.awaitRolledBack()
	web.kubectl("rollout", "undo", "deployment/web") // away from what failed
	web.awaitGood()
	web.checkVersion("1")
	if again := len(web.belayEvents(v1alpha1.ReasonRolledOut)); again != told {
		t.Errorf("what was good was called good again: %d Events, before %d", again, told)
	}

	web.kubectl("rollout", "undo", "deployment/web") // to what failed: another attempt
	web.awaitRolledBack()
	web.checkVersion("3")
	web.checkStatusFails()
	web.awaitEvents(v1alpha1.ReasonRolledBack, 2)
	if _, _, others := web.sets(); !is(others[0], 4) || versionOf(others[0].Spec.Template.Spec) != "1" {
		t.Errorf("the release that was good last does not run: %+v", others[0].Status)
	}
}

func (p *inPlace) checkVersion(want string) {
	p.Helper()
	if now := version(p.deployment()); now != want {
		p.Errorf("release %s is asked for, want %s", now, want)
	}
}

func TestInPlace_KubectlRestart(t *testing.T) {
	n := newInPlace(t)
	web := n.guarded("web", template(good, "1"))
	pods := web.podUIDs()
	web.kubectl("rollout", "restart", "deployment/web")
	web.awaitOtherPods(pods, 4)
	web.awaitGood()
	web.release(template(crash, "2"))
	first := web.awaitRolledBack()
	web.kubectl("rollout", "restart", "deployment/web") // of what failed: another release, that fails like it
	web.checkStatusFails()
	if second := web.awaitRolledBack(); second.ReplicaSet == first.ReplicaSet {
		t.Errorf("the restart was not judged: %+v", *second)
	}
	for _, pod := range web.pods() {
		if pod.DeletionTimestamp == nil && versionOf(pod.Spec) != "1" {
			t.Errorf("a pod of release %s is left", versionOf(pod.Spec))
		}
	}
	web.release(template(good, "3"))
	web.awaitGood()
}

func TestInPlace_Scale(t *testing.T) {
	n := newInPlace(t)
	web := n.guarded("web", template(good, "1"))
	scale := func(n string, await func()) {
		web.kubectl("scale", "deployment/web", "--replicas="+n)
		await()
	}
	made := n.countWrites("replicasets", 0) + n.countWrites("deployments", 0)
	for _, replicas := range []string{"6", "2", "0", "4"} {
		scale(replicas, web.awaitGood)
	}
	if now := n.countWrites("replicasets", 0) + n.countWrites("deployments", 0); now != made {
		t.Errorf("scaling a good release took %d writes:\n%s", now-made, n.describeWrites())
	}
	web.release(template(crash, "2"))
	web.awaitRolledBack()
	back := func() { web.awaitRolledBack() }
	for _, replicas := range []string{"6", "2"} {
		scale(replicas, back)
		web.checkStatusFails()
	}
	scale("0", func() {
		web.awaitSets("has no pods, and nothing is held", func(_ *appsv1.Deployment, current *appsv1.ReplicaSet, others []*appsv1.ReplicaSet) bool {
			return is(current, 0) && held(current) == "" && is(others[0], 0) && held(others[0]) == ""
		})
	})
	scale("4", back)
	web.checkStatusFails()
	web.release(template(good, "3"))
	web.awaitGood()
}

// A fix is applied and at once waited for. Nobody sees the old failure on it.
func TestInPlace_FixAtOnce(t *testing.T) {
	n := newInPlace(t)
	n.fixAtOnce(func() {})
}

// fixAtOnce has as many releases as asked for fail, and applies and waits for a fix of each.
func (n *namespace) fixAtOnce(between func()) {
	n.Helper()
	all := make([]*inPlace, *fixesFlag)
	for i := range all {
		all[i] = n.plain(fmt.Sprintf("web-%d", i), template(good, "1"), asksInPlace)
	}
	for _, web := range all {
		web.awaitGood()
		web.release(template(crash, "2"))
	}
	for _, web := range all {
		web.awaitRolledBack()
	}
	between()
	for _, web := range all {
		misled := watchEach(web.object, cluster.seen.deployments, func(d *appsv1.Deployment) bool {
			return version(d) == "3" && d.Status.ObservedGeneration == d.Generation && progressing(d).Status == corev1.ConditionFalse
		})
		file := n.manifest(web.name, template(good, "3"))
		web.kubectl("apply", "--filename", file)
		if out, err := n.tryKubectl("rollout", "status", "deployment/"+web.name); err != nil {
			n.Errorf("kubectl rollout status of the fix: %v\n%s", err, out)
		}
		if slices.Contains(misled(), true) {
			n.Errorf("%s showed the old failure on the fix", web.name)
		}
		if d := web.deployment(); d.Status.AvailableReplicas < 3 || version(d) != "3" {
			n.Errorf("%s: release %s, status %+v", web.name, version(d), d.Status)
		}
	}
}
