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

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

func TestImages_DigestIn(t *testing.T) {
	for _, row := range []struct {
		name, id, digest string
		local            bool
	}{
		{"containerd, pulled", "registry.example.com:5000/team/app@sha256:abc", "sha256:abc", false},
		{"containerd, built or imported without a repository", "sha256:abc", "sha256:abc", true},
		{"cri-dockerd, pulled", "docker-pullable://app@sha256:abc", "sha256:abc", false},
		{"cri-dockerd, built", "docker://sha256:abc", "sha256:abc", true},
		{"not created yet", "", "", true},
	} {
		p := pod("a")
		p.Status.ContainerStatuses[0].ImageID = row.id
		if digest, local := digestIn(p, "web"); digest != row.digest || local != row.local {
			t.Errorf("%s: %q, local: %t", row.name, digest, local)
		}
	}
	p := pod("a")
	p.Status.InitContainerStatuses = []corev1.ContainerStatus{{Name: "init", ImageID: "init@sha256:def"}}
	p.Status.ContainerStatuses[0].VolumeMounts = []corev1.VolumeMountStatus{{Name: "data"}, {Name: "model",
		VolumeStatus: &corev1.VolumeStatus{Image: &corev1.ImageVolumeStatus{ImageRef: "models@sha256:123"}}}}
	for key, want := range map[string]string{"init": "sha256:def", "volume/model": "sha256:123", "volume/data": "", "model": "", "other": ""} {
		if digest, _ := digestIn(p, key); digest != want {
			t.Errorf("%s: %q, want %q", key, digest, want)
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
		{"no more than three", tagged, ranAs("a@sha256:a", "a@sha256:b", "a@sha256:c", "a@sha256:d"), images{"web": {Digests: []string{"sha256:a", "sha256:b", "sha256:c"}}}},
		{"built on the node", tagged, ranAs("sha256:a"), images{"web": {Digests: []string{"sha256:a"}, Local: true}}},
		{"nothing known", tagged, ranAs("", ""), images{}},
		{"a digest in the template never moves", byDigest, ranAs("app@sha256:a"), images{}},
	} {
		if diff := cmp.Diff(row.want, imagesOf(row.pods, &row.of)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", row.name, diff)
		}
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
	if pinned.String() != "init,volume/model,web" {
		t.Error(pinned.String())
	}
	live := r.Template.DeepCopy()
	pinned.in(live)
	var set []string
	for _, image := range imagesIn(&live.Spec) {
		set = append(set, *image)
	}
	if diff := cmp.Diff([]string{"init@sha256:b", "registry:5000/team/app@sha256:a", "app@sha256:f", "built:1", "models@sha256:e"}, set); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(&r.Template, r.unpinned(live)); diff != "" {
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

// Who asks for what runs again, after the release that failed, does not ask for what has failed.
func TestImages_PinsStayWhenItIsAskedFor(t *testing.T) {
	s := onStage(t, func(s *stage) { s.serving = 0 })
	s.rollsBack("")
	s.wantsWritten("app:latest", "app@"+goodDigest)
	s.Guarded.Spec.Template.Spec.Containers[0].Env = nil
	s.ask("app:latest")
	s.pass(2 * time.Minute)
	s.wants("Ready RolledOut")
	s.restart() // of Belay's process
	s.pass(time.Minute)
	s.wants("Ready RolledOut")
	if s.running() != "aaa" {
		t.Errorf("the pods run %s", s.running())
	}
	s.moves("sha256:cccccccccccccccc")
	s.restarts()
	s.pass(2 * time.Minute)
	s.wants("Ready RolledOut")
	if s.running() != "ccc" {
		t.Errorf("after a restart the pods run %s", s.running())
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
