package e2e

import (
	"fmt"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// annotate sets Belay's settings for all in the namespace.
func (n *namespace) annotate(settings string) {
	n.Helper()
	patch := fmt.Sprintf(`{"metadata":{"annotations":{%q:%q}}}`, v1alpha1.GuardAnnotation, settings)
	if _, err := cluster.kube.CoreV1().Namespaces().Patch(n.Context(), n.name, types.MergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
		n.Fatal(err)
	}
}

func withoutSettings(d *appsv1.Deployment) { delete(d.Annotations, v1alpha1.GuardAnnotation) }

// Field by field, a Deployment's own settings win over those of its Namespace.
func TestInPlace_Settings(t *testing.T) {
	n := newInPlace(t)
	n.annotate("soakSeconds: 2\nmaxRestarts: 1\nonFailure: Hold\n")
	all := n.guarded("all", template(good, "1"), withoutSettings)
	one := n.guarded("one", template(good, "1"), settings(`{"onFailure": "Rollback"}`))
	for _, web := range []*inPlace{all, one} {
		web.release(template(crash, "2"))
	}
	one.awaitRolledBack()
	all.awaitFailed()
	all.awaitEvents(v1alpha1.ReasonHeld, 1)
	all.awaitOrdinary()
	all.checkStatusFails()
	all.awaitEvents(v1alpha1.ReasonRolledBack, 0)
}

// A mistake in the settings is told once, and what they do not set is as it would be without. The guard goes on.
func TestInPlace_SettingsWithTypo(t *testing.T) {
	n := newInPlace(t)
	n.annotate(shortGuard)
	web := n.guarded("web", template(good, "1"), settings(`{"soakSecond": 2}`))
	if note := web.awaitEvents(v1alpha1.ReasonInvalid, 1)[0]; !strings.Contains(note, "soakSecond") || !strings.Contains(note, v1alpha1.GuardAnnotation) {
		t.Errorf("the Event says %q", note)
	}
	web.release(template(crash, "2"))
	web.awaitRolledBack()
	web.awaitEvents(v1alpha1.ReasonInvalid, 1)
}

// What nobody sets is as Belay was started.
func testInPlaceGuardDefaults(t *testing.T) {
	needsHolds(t)
	n := emptyNamespace(t)
	n.inPlace = true
	n.belay = startBelayWith(n, "--guard-defaults", `{"onFailure": "Hold", "soakSeconds": 1, "maxRestarts": 0}`)
	web := n.guarded("web", template(good, "1"), withoutSettings)
	web.release(template(crash, "2"))
	web.awaitFailed()
	web.awaitEvents(v1alpha1.ReasonHeld, 1)
	web.update(settings(`{"onFailure": "Rollback"}`)) // From now on it is to be taken back.
	web.awaitRolledBack()
}
