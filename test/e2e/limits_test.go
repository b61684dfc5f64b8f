package e2e

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

func TestLimits_LargeTemplate(t *testing.T) {
	n := newNamespace(t)
	large := template(good, "large")
	large.Spec.Containers[0].Env = append(large.Spec.Containers[0].Env, corev1.EnvVar{Name: "LARGE", Value: strings.Repeat("x", 1_400_000)})
	web := n.createReady("web", large, replicas(1))
	first := web.get().Status.GoodRevision
	web.release(template(crash, "2"))
	web.awaitRolledBack(v1alpha1.FailureCrashLoop, first)
	if version(web.deployment()) != "large" {
		t.Error("the Deployment is not back on the large template")
	}
}

func TestLimits_LongestName(t *testing.T) {
	n := newNamespace(t)
	name := strings.Repeat("long-name.", 25) + "end" // 253 characters
	web := n.createReady(name, template(good, "1"), replicas(1))
	first := web.get().Status.GoodRevision
	if len(name) != 253 || len(first) > 253 {
		t.Errorf("the name has %d characters, its revision's %d", len(name), len(first))
	}
	web.release(template(crash, "2"))
	web.awaitRolledBack(v1alpha1.FailureCrashLoop, first)
	web.awaitEvents(v1alpha1.ReasonRolledBack, 1)
}

// confusing reports whether r breaks a line, or changes what is seen of others.
func confusing(r rune) bool {
	return unicode.In(r, unicode.Cc, unicode.Zl, unicode.Zp, unicode.Bidi_Control)
}

// What a container says is somebody else's text: too long, on many lines, made to confuse a terminal, or no text at all.
func TestLimits_MessagesOfContainers(t *testing.T) {
	if *podsFlag != "fake" {
		t.Skip("a real kubelet would overwrite the status that this test writes")
	}
	n := newNamespace(t)
	web := n.createReady("web", template(good, "1"), replicas(1))
	first := web.get().Status.GoodRevision
	web.release(template(unready, "2"))
	var pod corev1.Pod
	n.eventually("the new pod runs", func(context.Context) (bool, error) {
		for _, pod = range web.pods() {
			if versionOf(pod.Spec) == "2" && len(pod.Status.ContainerStatuses) == 1 {
				return true, nil
			}
		}
		return false, nil
	})
	text := `no such file: \u001b[31mred\u001b[0m\r\nsecond line\u0000\u202e\u2028 ` + "\xff\xfe " + `é 雪 ` + strings.Repeat(`very long `, 10_000)
	patch := fmt.Appendf(nil, `{"status":{"containerStatuses":[{"name":"app","image":"","imageID":"","ready":false,"restartCount":0,
		"state":{"running":null,"waiting":{"reason":"CreateContainerError","message":"%s"}}}]}}`, text)
	if !bytes.Contains(patch, []byte{0xff}) {
		t.Fatal("the message has no invalid bytes")
	}
	n.patchPod(pod.Name, string(patch))

	g := web.awaitRolledBack(v1alpha1.FailureContainerConfig, first)
	texts := map[string]string{"failure": g.Status.Failure.Message}
	for _, c := range g.Status.Conditions {
		texts["condition "+c.Type] = c.Message
	}
	for _, reason := range []string{v1alpha1.FailureContainerConfig, v1alpha1.ReasonRolledBack} {
		texts["Event "+reason] = web.awaitEvents(reason, 1)[0]
	}
	for what, text := range texts {
		if len(text) > 1024 || !utf8.ValidString(text) || strings.ContainsFunc(text, confusing) {
			t.Errorf("%s (%d bytes) is not clean: %q", what, len(text), clip(text))
		}
		if !strings.HasPrefix(what, "condition Available") && !strings.Contains(text, "second line") {
			t.Errorf("%s does not tell what the container said: %q", what, text)
		}
	}
	web.awaitDeployment("is back", func(d *appsv1.Deployment) bool { return version(d) == "1" })
}

// patchPod changes the status of a pod, as a kubelet does.
func (n *namespace) patchPod(name, patch string) {
	n.Helper()
	_, err := cluster.kube.CoreV1().Pods(n.name).Patch(n.Context(), name, types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{}, "status")
	if err != nil {
		n.Fatalf("patch pod %s: %v", name, err)
	}
}
