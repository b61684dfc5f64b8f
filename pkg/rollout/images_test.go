package rollout

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

func TestImages_DigestIn(t *testing.T) {
	for _, row := range []struct {
		name, image, id, digest string
		local                   bool
	}{
		{"containerd, pulled", "registry.example.com:5000/team/app:1", "registry.example.com:5000/team/app@sha256:abc", "sha256:abc", false},
		{"a short name", "app:1", "docker.io/library/app@sha256:abc", "sha256:abc", false},
		{"a short name with a path, of CRI-O", "team/app", "quay.io/team/app@sha256:abc", "sha256:abc", false},
		{"by digest", "team/app:1@sha256:abc", "docker.io/team/app@sha256:abc", "sha256:abc", false},
		{"built or imported without a repository", "app:1", "sha256:abc", "sha256:abc", true},
		{"cri-dockerd, pulled", "app:1", "docker-pullable://app@sha256:abc", "sha256:abc", false},
		{"cri-dockerd, built", "app:1", "docker://sha256:abc", "sha256:abc", true},
		{"named by another repository that has the same content", "m/app:1", "localhost:5000/a/app@sha256:def", "", false},
		{"of which the end is the same", "app:1", "docker.io/library/myapp@sha256:def", "", false},
		{"kind load", "app:1", "docker.io/library/import-2026-11-29@sha256:def", "", false},
		{"not created yet", "app:1", "", "", true},
	} {
		p := pod("a")
		p.Status.ContainerStatuses[0].ImageID = row.id
		if digest, local := digestIn(p, "web", row.image); digest != row.digest || local != row.local {
			t.Errorf("%s: %q, local: %t", row.name, digest, local)
		}
	}
	p := pod("a")
	p.Status.InitContainerStatuses = []corev1.ContainerStatus{{Name: "init", ImageID: "init@sha256:def"}}
	p.Status.ContainerStatuses[0].VolumeMounts = []corev1.VolumeMountStatus{{Name: "data"}, {Name: "model",
		VolumeStatus: &corev1.VolumeStatus{Image: &corev1.ImageVolumeStatus{ImageRef: "models@sha256:123"}}}}
	for key, want := range map[string]string{"init": "sha256:def", "volume/model": "sha256:123", "volume/data": "", "model": "", "other": ""} {
		if digest, _ := digestIn(p, key, map[string]string{"init": "init", "volume/model": "models:v1"}[key]); digest != want {
			t.Errorf("%s: %q, want %q", key, digest, want)
		}
	}
}

// A node names any repository from which it has an image.
func TestImages_DigestInAnotherRepository(t *testing.T) {
	for _, row := range []struct {
		image, id string
		known     bool
	}{
		{"registry:5000/team/app:1", "registry:5000/team/app@sha256:a", true},
		{"registry:5000/team/app:1", "mirror.example.com/team/app@sha256:a", false},
		{"team/app", "docker.io/team/app@sha256:a", true},
		{"app:1", "docker.io/library/app@sha256:a", true},
		{"docker.io/app:1", "docker.io/library/app@sha256:a", true},
		{"index.docker.io/library/app:1", "docker-pullable://app@sha256:a", true},
		{"app:1", "quay.io/team/app@sha256:a", true}, // completed, by a node's search list
		{"app:1@sha256:a", "docker.io/library/app@sha256:a", true},
		{"app:1", "docker.io/library/myapp@sha256:a", false},
		{"app:1", "sha256:a", true},
	} {
		p := pod("a", func(p *corev1.Pod) { p.Status.ContainerStatuses[0].ImageID = row.id })
		p.Spec.Containers = template(row.image).Spec.Containers
		if digest, _ := digestIn(p, "web", ""); (digest != "") != row.known {
			t.Errorf("%s as %s: %q", row.image, row.id, digest)
		}
	}
}

// ranAs returns pods whose container web runs these images.
func ranAs(ids ...string) (pods []*corev1.Pod) {
	for i, id := range ids {
		pods = append(pods, pod(fmt.Sprint("p", i), func(p *corev1.Pod) { p.Status.ContainerStatuses[0].ImageID = id }))
	}
	return pods
}

func TestImages_OfPods(t *testing.T) {
	tagged, byDigest := template("app:1"), template("app@sha256:a")
	for _, row := range []struct {
		name string
		of   corev1.PodTemplateSpec
		pods []*corev1.Pod
		want images
	}{
		{"all the same", tagged, ranAs("app@sha256:a", "app@sha256:a"), images{"web": {Digests: []string{"sha256:a"}}}},
		{"pods that disagree: that of most is the first", tagged, ranAs("app@sha256:a", "app@sha256:b", "app@sha256:b"), images{"web": {Digests: []string{"sha256:b", "sha256:a"}}}},
		{"as many: always in the same order", tagged, ranAs("app@sha256:b", "app@sha256:a"), images{"web": {Digests: []string{"sha256:a", "sha256:b"}}}},
		{"no more than three", tagged, ranAs("app@sha256:a", "app@sha256:b", "app@sha256:c", "app@sha256:d"), images{"web": {Digests: []string{"sha256:a", "sha256:b", "sha256:c"}}}},
		{"built on the node", tagged, ranAs("sha256:a"), images{"web": {Digests: []string{"sha256:a"}, Local: true}}},
		{"imported on most nodes, pulled on one", tagged, ranAs("sha256:x", "app@sha256:a", "sha256:x"), images{"web": {Digests: []string{"sha256:a"}}}},
		{"nothing known", tagged, ranAs("", ""), images{}},
		{"a digest in the template never moves", byDigest, ranAs("app@sha256:a"), images{}},
	} {
		if diff := cmp.Diff(row.want, imagesOf(row.pods, &row.of)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", row.name, diff)
		}
	}
	unknown := asking("v1")
	unknown.play()
	if text, there := unknown.revision("v1").Annotations[v1alpha1.ImagesAnnotation]; there || !unknown.revision("v1").Good() {
		t.Errorf("of pods that say nothing of their images these are kept: %q", text)
	}
	many := template("app:1")
	p := pod("p")
	for i := range 1000 {
		name := fmt.Sprint("c", i)
		many.Spec.Containers = append(many.Spec.Containers, corev1.Container{Name: name, Image: "app:1"})
		p.Status.ContainerStatuses = append(p.Status.ContainerStatuses, corev1.ContainerStatus{Name: name, ImageID: "app@sha256:" + strings.Repeat("a", 64)})
	}
	r := newRevision(newGuarded("app:1"), &many, 1)
	annotate(r, v1alpha1.ImagesAnnotation, imagesOf([]*corev1.Pod{p}, &many))
	if size := len(r.Annotations[v1alpha1.ImagesAnnotation]); size > 32<<10 {
		t.Errorf("the annotation has %d bytes", size)
	}
}

func TestImages_Moved(t *testing.T) {
	web := func(image string) *corev1.PodSpec {
		return &corev1.PodSpec{Containers: []corev1.Container{{Name: "web", Image: image}}}
	}
	known := images{"web": {Digests: []string{"sha256:a", "sha256:b"}}}
	for _, row := range []struct {
		name       string
		known      images
		good, runs *corev1.PodSpec
		pods       []*corev1.Pod
		want       string
	}{
		{"another digest", known, web("app:1"), web("app:1"), ranAs("app@sha256:a", "app@sha256:c"), "sha256:c"},
		{"one of those that were good", known, web("app:1"), web("app:1"), ranAs("app@sha256:a", "app@sha256:b"), ""},
		{"another reference", known, web("app:1"), web("app:2"), ranAs("app@sha256:c"), ""},
		{"named by another repository", known, web("app:1"), web("app:1"), ranAs("other@sha256:c"), ""},
		{"not known yet", known, web("app:1"), web("app:1"), ranAs(""), ""},
		{"not known of the good one", nil, web("app:1"), web("app:1"), ranAs("app@sha256:c"), ""},
		{"a node's own id and a repository's digest do not compare", known, web("app:1"), web("app:1"), ranAs("sha256:c"), ""},
		{"two ids of nodes do", images{"web": {Digests: []string{"sha256:a"}, Local: true}}, web("app:1"), web("app:1"), ranAs("sha256:c"), "sha256:c"},
	} {
		var got string
		for _, m := range row.known.moved(row.good, row.runs, row.pods) {
			got += m.Now
		}
		if got != row.want {
			t.Errorf("%s: %q, want %q", row.name, got, row.want)
		}
	}
}

func TestImages_Words(t *testing.T) {
	g := newGuarded("app:1")
	r := decode(g, recorded(g, 1))
	annotate(r.ControllerRevision, v1alpha1.ImagesAnnotation, images{"local": {Digests: []string{"sha256:x"}, Local: true}, "mixed": {Digests: []string{"sha256:x", "sha256:y"}}})
	l := &look{limits: limits{was: r}}
	moved := func(names ...string) (all []v1alpha1.MovedImage) {
		for _, name := range names {
			all = append(all, v1alpha1.MovedImage{Container: name, Image: "app:1", Good: "sha256:" + strings.Repeat("a", 64), Now: "sha256:bb"})
		}
		return all
	}
	for want, names := range map[string][]string{
		"": nil,
		"; image app:1 of container web is sha256:bb now, was sha256:aaaaaaaaaaaa when NAME was good":                                                       {"web"},
		"; image app:1 of volume model is sha256:bb now, was sha256:aaaaaaaaaaaa when NAME was good":                                                        {"volume/model"},
		"; image app:1 of container mixed is sha256:bb now, was sha256:aaaaaaaaaaaa when NAME was good (of 2 that its pods ran)":                            {"mixed"},
		"; image app:1 of container local is sha256:bb now, was sha256:aaaaaaaaaaaa when NAME was good, and cannot be gone back to: no repository has that": {"local"},
	} {
		if got := strings.ReplaceAll(l.movedWords(moved(names...)), r.Name, "NAME"); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	if got := l.movedWords(moved("a", "b", "c", "d")); !strings.HasSuffix(got, "; so are 2 more images") {
		t.Error(got)
	}
}

func TestImages_Pins(t *testing.T) {
	g := newGuarded("registry:5000/team/app:1.2")
	spec := &g.Spec.Template.Spec
	spec.InitContainers = []corev1.Container{{Name: "init", Image: "init"}}
	spec.Containers = append(spec.Containers, corev1.Container{Name: "fixed", Image: "app@sha256:f"}, corev1.Container{Name: "built", Image: "built:1"})
	spec.Volumes = []corev1.Volume{{Name: "model", VolumeSource: corev1.VolumeSource{Image: &corev1.ImageVolumeSource{Reference: "models:v1"}}}, {Name: "data"}}
	r := decode(g, recorded(g, 1))
	annotate(r.ControllerRevision, v1alpha1.ImagesAnnotation, images{"web": {Digests: []string{"sha256:a", "sha256:z"}}, "init": {Digests: []string{"sha256:b"}},
		"fixed": {Digests: []string{"sha256:c"}}, "built": {Digests: []string{"sha256:d"}, Local: true}, "volume/model": {Digests: []string{"sha256:e"}}, "gone": {Digests: []string{"sha256:g"}}})
	pinned := r.pins(maps.Keys(r.images()))
	want := pins{"web": "registry:5000/team/app@sha256:a", "init": "init@sha256:b", "volume/model": "models@sha256:e"}
	if diff := cmp.Diff(want, pinned); diff != "" {
		t.Fatal(diff)
	}
	if forged := r.pins(slices.Values([]string{"", "other", "data", "volume/data"})); len(forged) > 0 {
		t.Errorf("pinned: %v", forged)
	}
	if pinned.String() != "init,volume/model,web" {
		t.Error(pinned.String())
	}
	live := r.Template().DeepCopy()
	pinned.in(live)
	var set []string
	for _, image := range imagesIn(&live.Spec) {
		set = append(set, *image)
	}
	if diff := cmp.Diff([]string{"init@sha256:b", "registry:5000/team/app@sha256:a", "app@sha256:f", "built:1", "models@sha256:e"}, set); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(r.Template(), r.unpinned(live)); diff != "" {
		t.Error(diff)
	}
}

// rollsBack lets a release with the same tag fail, which points to another image by then.
func (s *stage) rollsBack(mode v1alpha1.PinImages) {
	s.Guarded.Spec.Guard.PinImages = mode
	s.moves(badDigest)
	s.ask("app:latest")
	s.Guarded.Spec.Template.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "RELEASE", Value: "2"}}
	s.pass(12 * time.Minute)
}

func TestImages_RollbackRunsWhatWasGood(t *testing.T) {
	const pinned = "app@" + goodDigest
	for _, row := range []struct {
		name    string
		serving int
		mode    v1alpha1.PinImages
		status  string
		wrote   []string
		runs    string
	}{
		{"all old pods serve: they are not replaced", 3, "", "Stalled RolledBack", []string{"app:latest", "app:latest"}, "aaa"},
		{"some do: pods made anew show it, and it is corrected once", 2, "", "Stalled RolledBack", []string{"app:latest", "app:latest", pinned}, "aaa"},
		{"none does: at once", 0, "", "Stalled RolledBack", []string{"app:latest", pinned}, "aaa"},
		{"never, and all serve", 3, v1alpha1.PinNever, "Stalled RolledBack", []string{"app:latest", "app:latest"}, "aaa"},
		{"never, and some serve", 2, v1alpha1.PinNever, "Stalled RollbackFailed", []string{"app:latest", "app:latest"}, "aab"},
		{"always", 3, v1alpha1.PinAlways, "Stalled RolledBack", []string{"app:latest", pinned}, "aaa"},
	} {
		t.Run(row.name, func(t *testing.T) {
			s := onStage(t, func(s *stage) { s.serving = row.serving })
			s.rollsBack(row.mode)
			s.wants(row.status)
			s.wantsWritten(row.wrote...)
			if got := s.running(); got != row.runs {
				t.Errorf("the pods run %s, want %s", got, row.runs)
			}
			s.says("image app:latest of container web is sha256:bbbbbbbbbbbb now, was sha256:aaaaaaaaaaaa when web-")
			if told := strings.Contains(s.message(), "pinImages is Never"); told != (row.status == "Stalled RollbackFailed") {
				t.Errorf("it tells of pinImages: %t: %s", told, s.message())
			}
			s.restart() // of Belay's process
			s.pass(2 * time.Minute)
			s.wantsWritten()

			s.tag = "sha256:v3" // The pin goes with the next release.
			s.Guarded.Spec.Template.Spec.Containers[0].Env = nil
			s.ask("app:v3")
			s.pass(2 * time.Minute)
			s.wants("Ready RolledOut")
			s.wantsWritten("app:v3")
			if got, ok := s.Deployment.Annotations[v1alpha1.PinnedAnnotation]; ok {
				t.Errorf("still pinned: %q", got)
			}
		})
	}
}

// Whoever forbade pins, and allows them when the rollback has failed for it, gets them.
func TestImages_PinsAreAllowedLater(t *testing.T) {
	s := onStage(t, func(s *stage) { s.serving = 0 })
	s.rollsBack(v1alpha1.PinNever)
	s.wants("Stalled RollbackFailed")
	s.Guarded.Spec.Guard.PinImages = v1alpha1.PinWhenMoved
	s.Guarded.Generation++
	s.pass(2 * time.Minute)
	s.wants("Stalled RolledBack")
	s.wantsWritten("app:latest", "app:latest", "app@"+goodDigest)
	if got := s.running(); got != "aaa" {
		t.Errorf("the pods run %s", got)
	}
}

// What others had added to the template when it was good is there again, pinned or not, and stays.
func TestImages_RollbackKeepsAdditions(t *testing.T) {
	for serving := range 4 {
		s := onStage(t, func(s *stage) { s.serving = serving })
		s.restarts()
		s.pass(2 * time.Minute)
		s.wants("Ready RolledOut")
		mark := s.Deployment.Spec.Template.Annotations[restartedAt]
		s.rollsBack("")
		s.wants("Stalled RolledBack")
		if got := s.Deployment.Spec.Template.Annotations[restartedAt]; got != mark {
			t.Errorf("with %d old pods: the mark is %q, want %q", serving, got, mark)
		}
		if got := s.running(); got != "aaa" {
			t.Errorf("with %d old pods: the pods run %s", serving, got)
		}
	}
}

// A process that begins after the Deployment went back, and before its pods were looked at, does not take them for good.
func TestImages_CorrectedAfterAStart(t *testing.T) {
	for name, fail := range map[string]func(*stage){
		"a restart is undone": func(s *stage) { s.restarts() },
		"a rollback": func(s *stage) {
			s.ask("app:latest")
			s.Guarded.Spec.Template.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "RELEASE", Value: "2"}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := onStage(t, func(s *stage) { s.serving = 2 })
			s.moves(badDigest)
			fail(s)
			for range 300 {
				if s.pass(time.Second); len(s.wrote) > 0 && s.wrote[len(s.wrote)-1] == "app:latest" && s.mark() == "" && s.Deployment.Annotations[v1alpha1.RevisionAnnotation] == s.revision("app:latest").Name {
					break
				}
			}
			for _, pods := range s.pods { // It seems to be well for a while.
				for i, p := range pods {
					if start := s.fares[p.UID]; start != nil {
						pods[i] = p.DeepCopy()
						start(pods[i])
						pods[i].Status.ContainerStatuses[0] = corev1.ContainerStatus{Name: "web", ImageID: pods[i].Status.ContainerStatuses[0].ImageID}
						isReady(pods[i])
						delete(s.fares, p.UID)
					}
				}
			}
			s.control()
			s.restart()
			s.pass(time.Minute)
			if got := s.running(); got != "aaa" {
				t.Errorf("the pods run %s", got)
			}
		})
	}
}

// A change of scale, or of anything else outside the template, moves no pod while images are pinned.
func TestImages_PinsStay(t *testing.T) {
	s := onStage(t, func(s *stage) { s.serving = 0 })
	s.rollsBack("")
	s.wantsWritten("app:latest", "app@"+goodDigest)
	sets := len(s.sets)
	s.scale(new(int32(4)))
	s.pass(time.Minute)
	s.wants("Stalled RolledBack")
	s.wantsWritten("app@" + goodDigest)
	s.says(", with the images that were good (web), until")
	if len(s.sets) != sets || s.running() != "aaaa" {
		t.Errorf("%d ReplicaSets, before %d; the pods run %s", len(s.sets), sets, s.running())
	}
	s.restarts() // of the rolled back Deployment: it goes on running what was good
	s.pass(2 * time.Minute)
	s.wants("Stalled RolledBack")
	if s.running() != "aaaa" || s.mark() == "" {
		t.Errorf("the pods run %s, mark: %q", s.running(), s.mark())
	}
}

// What a digest cannot be gone back to is said.
func TestImages_BuiltOnTheNode(t *testing.T) {
	s := onStage(t, func(s *stage) { s.serving = 2 })
	r := s.revision("app:latest").ControllerRevision.DeepCopy()
	annotate(r, v1alpha1.ImagesAnnotation, images{"web": {Digests: []string{goodDigest}, Local: true}})
	s.store(r)
	s.local = true
	s.rollsBack("")
	s.wants("Stalled RollbackFailed")
	s.says("no repository has that")
	s.wantsWritten("app:latest", "app:latest")
}

// A registry that has lost the digest is told as what it is.
func TestImages_DigestIsGone(t *testing.T) {
	s := onStage(t, func(s *stage) { s.serving = 0; s.lost = true })
	s.rollsBack("")
	s.wants("Stalled RollbackFailed")
	s.says("container web cannot start (ErrImagePull)", "not found")
}

// No request is made and nothing is written more for a release whose images have not moved.
func TestImages_HealthyCostsNothing(t *testing.T) {
	s := onStage(t)
	reads := 0
	cluster := s.cluster
	s.cluster = func(d *appsv1.Deployment) *Evidence { reads++; return cluster(d) }
	s.tag = "sha256:v2"
	s.ask("app:v2")
	s.pass(2 * time.Minute)
	s.wants("Ready RolledOut")
	s.wantsWritten("app:v2")
	if reads == 0 || reads > 14 {
		t.Errorf("%d looks at the pods", reads)
	}
	if got := s.revision("app:v2").images(); !slices.Equal(got["web"].Digests, []string{"sha256:v2"}) {
		t.Errorf("good with %+v", got)
	}
}

func TestImages_ForgedAnnotationsSayNothing(t *testing.T) {
	for _, text := range []string{"", "null", "[]", `{"web":null}`, `{"web":{"digests":[]}}`, `{"web":{"digests":[""]}}`, "{", `{"":{"digests":["sha256:a"]}}`, `{"web":{"digests":["sha256:a b"]}}`} {
		s := onStage(t, func(s *stage) { s.serving = 0 })
		r := s.revision("app:latest").ControllerRevision.DeepCopy()
		metav1.SetMetaDataAnnotation(&r.ObjectMeta, v1alpha1.ImagesAnnotation, text)
		metav1.SetMetaDataAnnotation(&r.ObjectMeta, v1alpha1.GoodWithAnnotation, text)
		s.store(r)
		s.rollsBack("")
		s.wants("Stalled RollbackFailed")
		if got := s.Deployment.Spec.Template.Spec.Containers[0].Image; got != "app:latest" {
			t.Errorf("%s: the image is %s", text, got)
		}
	}
}

// A change of the guard moves no pod: what is pinned stays so, and what is not, too.
func TestImages_ChangeOfTheGuard(t *testing.T) {
	for serving, mode := range map[int]v1alpha1.PinImages{0: v1alpha1.PinNever, 3: v1alpha1.PinAlways} {
		s := onStage(t, func(s *stage) { s.serving = serving })
		s.rollsBack("")
		s.wants("Stalled RolledBack")
		s.wrote = nil
		s.Guarded.Spec.Guard.PinImages = mode
		s.Guarded.Generation++
		s.pass(time.Minute)
		s.wants("Stalled RolledBack")
		s.wantsWritten()
	}
}

// A pin outlives that the failed release is taken back in git: the tag still points to what failed. It goes with the next restart.
func TestImages_RevertKeepsThePin(t *testing.T) {
	for _, serving := range []int{0, 2} {
		s := onStage(t, func(s *stage) { s.serving = serving })
		s.rollsBack("")
		if serving == 0 {
			s.wantsWritten("app:latest", "app@"+goodDigest)
		}
		s.wrote = nil
		s.ask("app:latest")
		s.pass(2 * time.Minute)
		s.wants("Ready RolledOut")
		s.says("is good and running, with the images that were good (web)")
		s.wantsWritten()
		s.restart() // of Belay's process
		s.pass(time.Minute)
		s.wants("Ready RolledOut")
		s.wantsWritten()
		if got := s.running(); got != "aaa" {
			t.Errorf("the pods run %s", got)
		}
		s.takesUpAnother()
	}
}

// An attempt at the last good one that a newer release cut short takes nothing away from it.
func TestImages_RollbackToAnAttemptCutShort(t *testing.T) {
	s := onStage(t, func(s *stage) { s.serving = 0 })
	for _, release := range []struct{ image, digest string }{{"app:v2", "sha256:v2"}, {"app:latest", goodDigest}} {
		s.tag = release.digest
		s.ask(release.image)
		s.pass(3 * time.Second)
		s.wants("Reconciling Progressing")
	}
	s.wrote = nil
	s.rollsBack("")
	s.wants("Stalled RolledBack")
	s.wantsWritten("app:latest", "app@"+goodDigest)
}

// Undoing an addition to a rolled back Deployment keeps the pins: the pods that serve run by digest.
func TestImages_UndoKeepsThePin(t *testing.T) {
	s := onStage(t, func(s *stage) { s.serving = 0 })
	s.rollsBack("")
	s.wants("Stalled RolledBack")
	s.wrote, s.serving = nil, 3
	s.s(func(d *appsv1.Deployment) {
		d.Spec.Template.Spec.Containers = append(d.Spec.Template.Spec.Containers, corev1.Container{Name: "sidecar", Image: "side:1"})
	}, "helper", `{}`)
	s.pass(2 * time.Minute)
	s.wants("Stalled RolledBack")
	s.wantsWritten("app@" + goodDigest)
}

// What a pod ran that is tolerated and does not come up is not among what was good.
func TestImages_OfToleratedPods(t *testing.T) {
	s := onStage(t, func(s *stage) { s.serving = 1; s.Guarded.Spec.Guard.ToleratedPods = new(intstr.FromInt32(1)) })
	s.restarts()
	s.pass(time.Second)
	current := CurrentReplicaSet(s.Deployment, s.sets).UID
	s.pods[current] = s.pods[current][:2]
	s.moves(badDigest)
	s.pass(2 * time.Minute)
	s.wants("Ready RolledOut")
	if got := s.running(); got != "aab" {
		t.Fatalf("the pods run %s", got)
	}
	if got := s.revision("app:latest").images(); !slices.Equal(got["web"].Digests, []string{goodDigest}) {
		t.Errorf("good with %+v", got)
	}
}

// A pod that was made anew before what failed, from what the tag was by then, and serves, is no reason to replace all of them.
func TestImages_PodOfTheNightBefore(t *testing.T) {
	for name, failing := range map[string]func(*stage){
		"a release": func(s *stage) { s.ask("app:v2") },
		"a restart": func(s *stage) { s.restarts() },
	} {
		t.Run(name, func(t *testing.T) {
			s := onStage(t)
			first := s.sets[0].UID
			s.moves("sha256:cccccccccccccccc")
			s.pods[first] = s.pods[first][:2]
			s.pass(time.Minute)
			if got := s.running(); got != "aac" {
				t.Fatalf("the pods run %s", got)
			}
			s.moves(badDigest)
			failing(s)
			s.pass(2 * time.Minute)
			if got := s.running(); got != "aac" {
				t.Errorf("the pods run %s", got)
			}
			if s.Deployment.Annotations[v1alpha1.PinnedAnnotation] != "" {
				t.Errorf("written: %v", s.wrote)
			}
		})
	}
}

// Pods that serve by digest since an earlier rollback are those to go back to, also from a release of another image.
func TestImages_BackToWhatIsPinned(t *testing.T) {
	s := onStage(t, func(s *stage) { s.serving = 0 })
	s.rollsBack("")
	s.wants("Stalled RolledBack")
	s.wrote, s.serving = nil, 3
	sets := len(s.sets)
	s.Guarded.Spec.Template.Spec.Containers[0].Env = nil
	s.ask("app:v3")
	s.pass(2 * time.Minute)
	s.wants("Stalled RolledBack")
	s.wantsWritten("app:v3", "app@"+goodDigest)
	if got := s.running(); got != "aaa" || len(s.sets) != sets+1 {
		t.Errorf("the pods run %s; %d ReplicaSets, before %d", got, len(s.sets), sets)
	}
}

// A restart of what is pinned that fails for another reason goes back to the pods that serve by digest.
func TestImages_RestartOfWhatIsPinned(t *testing.T) {
	s := onStage(t, func(s *stage) { s.serving = 0 })
	s.moves(badDigest)
	s.restarts()
	s.pass(2 * time.Minute)
	s.wants("Ready RolledOut")
	s.wantsWritten("app@" + goodDigest)
	s.serving = 3
	s.s(func(d *appsv1.Deployment) {
		d.Spec.Template.Spec.Containers = append(d.Spec.Template.Spec.Containers, corev1.Container{Name: "sidecar", Image: "side:1"})
	}, "helper", `{}`)
	s.moves(goodDigest)
	s.pass(2 * time.Minute)
	s.wants("Ready RolledOut")
	s.wantsWritten("app:latest", "app@"+goodDigest)
	if got := s.running(); got != "aaa" {
		t.Errorf("the pods run %s", got)
	}
}

// At zero replicas no pod serves any more, and those to come would run what failed.
func TestImages_ToZeroAndBack(t *testing.T) {
	for name, failing := range map[string]func(*stage){
		"after a rollback":           func(s *stage) { s.rollsBack("") },
		"after a restart was undone": func(s *stage) { s.moves(badDigest); s.restarts() },
	} {
		t.Run(name, func(t *testing.T) {
			s := onStage(t)
			failing(s)
			s.pass(2 * time.Minute)
			s.wrote = nil
			s.scale(new(int32(0)))
			s.pass(time.Minute)
			s.wantsWritten("app:latest", "app@"+goodDigest)
			s.scale(new(int32(3)))
			s.pass(time.Minute)
			if got := s.running(); got != "aaa" {
				t.Errorf("the pods run %s", got)
			}
		})
	}
}

// A policy that takes images from a mirror pins nothing, and is no reason to.
func TestImages_FromAMirror(t *testing.T) {
	for serving := range 4 {
		s := onStage(t, func(s *stage) {
			s.serving = serving
			s.admit = func(_, written *appsv1.Deployment) {
				c := &written.Spec.Template.Spec.Containers[0]
				c.Image = "mirror/" + strings.TrimPrefix(c.Image, "mirror/")
			}
		})
		s.bad["sha256:v2"] = true
		s.tag = "sha256:v2"
		s.ask("app:v2")
		s.pass(2 * time.Second)
		s.tag = goodDigest
		s.pass(2 * time.Minute)
		s.wants("Stalled RolledBack")
		s.wantsWritten("mirror/app:v2", "mirror/app:latest")
	}
}
