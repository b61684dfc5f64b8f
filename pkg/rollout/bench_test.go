package rollout

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// released is an object with so many pods that rests on the last of so many releases, all of them good, each of a template
// of about 1 KB.
func released(b *testing.B, releases int, pods int32) *scene {
	b.Helper()
	s := asking("web:0").scale(&pods)
	for i := range releases {
		s.ask(fmt.Sprint("web:", i))
		container := &s.Guarded.Spec.Template.Spec.Containers[0]
		for j := range 12 {
			container.Env = append(container.Env, corev1.EnvVar{Name: fmt.Sprint("SETTING_", j), Value: fmt.Sprintf("https://backend-%d.web.svc:8443/v1", j)})
		}
		s.play()
		s.up()
	}
	s.play()
	if got := conditions(&s.Guarded.Status); got != "Ready RolledOut" || len(s.Revisions) != releases {
		b.Fatalf("%s, with %d revisions", got, len(s.Revisions))
	}
	s.step()
	return s
}

func BenchmarkDecide(b *testing.B) {
	run := func(name string, s *scene, expected func(Decision) bool) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if d := Decide(s.Observed); !expected(d) {
					b.Fatal(s.tell(d))
				}
			}
		})
	}
	nothing := func(d Decision) bool { return d.Status == nil && d.Recheck == 0 }
	for _, revisions := range []int{1, 11} {
		run(fmt.Sprint("rest/revisions=", revisions), released(b, revisions, 3), nothing)
	}
	for _, pods := range []int32{3, 100} {
		s := released(b, 2, pods)
		s.ask("web:new")
		for s.Deployment.Spec.Template.Spec.Containers[0].Image != "web:new" {
			s.step()
		}
		s.after(pollInterval)
		s.looked(noneReady(s.Deployment))
		for i := range pods {
			s.Evidence.Pods = append(s.Evidence.Pods, pod(fmt.Sprint("new-", i)))
		}
		s.Memory.carried = Decide(s.Observed).Memory.carried // at an earlier look
		run(fmt.Sprint("look/pods=", pods), s, func(d Decision) bool { return d.Memory.Progress.Phase == PhaseProgressing && d.Recheck == pollInterval })
	}
	s := released(b, 2, 3)
	s.ask("web:new")
	run("release", s, func(d Decision) bool {
		return d.Record != nil && d.Record.Annotations[v1alpha1.VerdictAnnotation] == ""
	})
}
