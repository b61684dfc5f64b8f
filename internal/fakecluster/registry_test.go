package fakecluster

import (
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/belay-dev/belay/internal/expect"
)

func TestRegistry_ImageID(t *testing.T) {
	var registry Registry[string]
	some := "sha256:" + strings.Repeat("ab", 32)
	for image, repository := range map[string]string{
		"web":                          "docker.io/library/web",
		"web:1":                        "docker.io/library/web",
		"shop/web:1":                   "docker.io/shop/web",
		"localhost/web:1":              "localhost/web",
		"localhost:5000/web":           "localhost:5000/web",
		"localhost:5000/shop/web:1":    "localhost:5000/shop/web",
		"registry.example.com/web:1":   "registry.example.com/web",
		"web@" + some:                  "docker.io/library/web",
		"localhost:5000/web:1@" + some: "localhost:5000/web",
	} {
		got := registry.ImageID(image, time.Now())
		id := regexp.MustCompile(`^(.*)@(sha256:[0-9a-f]{64})$`).FindStringSubmatch(got)
		if id == nil || id[1] != repository || strings.Contains(image, "@") && id[2] != some {
			t.Errorf("%s is %s, want %s and a digest, its own if it has one", image, got, repository)
		}
	}
}

func TestRegistry_Move(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var registry Registry[string]
		fares := func(image string, created time.Time) string {
			fare, _ := registry.Fare(image, created)
			return fare
		}
		begin := time.Now()
		first := registry.ImageID("web:1", begin)
		time.Sleep(time.Minute)
		registry.Move("web:1", time.Now(), "badly")
		moved := time.Now()
		second := registry.ImageID("web:1", moved)
		time.Sleep(time.Minute)
		registry.Move("web:1", time.Now(), "again")
		third := registry.ImageID("web:1", time.Now())
		expect.Same(t, "pods of before", first, registry.ImageID("web:1", moved.Add(-1)))
		expect.Same(t, "pods of between", second, registry.ImageID("web:1", moved.Add(time.Second)))
		if first == second || second == third || first == third || registry.ImageID("web:2", moved) == second {
			t.Errorf("the digests are %s, %s and %s", first, second, third)
		}
		expect.Same(t, "how they fare", []string{"", "badly", "again", "badly", ""}, []string{fares("web:1", begin),
			fares("web:1", moved), fares("web:1", time.Now()), fares(second, time.Now()), fares("web:2", time.Now())})
		registry.Set(second, time.Now(), "well")
		registry.Set("web:1", time.Now(), "better")
		expect.Same(t, "how they fare since", []string{"well", "better", ""}, []string{fares("web:1", moved), fares("web:1", time.Now()), fares(first, time.Now())})
	})
}

func TestRegistry_SetImageIDs(t *testing.T) {
	var registry Registry[string]
	pod := &corev1.Pod{}
	pod.Spec.InitContainers = []corev1.Container{{Name: "init", Image: "init:1"}}
	pod.Spec.Containers = []corev1.Container{{Name: "app", Image: "web:1"}, {Name: "mesh", Image: "mesh:1"}}
	ended := corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{}}
	runs := corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}
	id := func(image string) string { return registry.ImageID(image, time.Time{}) }
	for name, row := range map[string]struct {
		status corev1.ContainerStatus
		init   bool
		want   string
	}{
		"it is created":                {corev1.ContainerStatus{Name: "app", State: Waiting("ContainerCreating", "")}, false, ""},
		"its image is not there":       {corev1.ContainerStatus{Name: "app", State: Waiting("ImagePullBackOff", "")}, false, ""},
		"it runs":                      {corev1.ContainerStatus{Name: "app", State: runs}, false, id("web:1")},
		"it has ended":                 {corev1.ContainerStatus{Name: "app", State: ended}, false, id("web:1")},
		"it is going to be restarted":  {corev1.ContainerStatus{Name: "app", State: Waiting("CrashLoopBackOff", ""), LastTerminationState: ended}, false, id("web:1")},
		"the second one":               {corev1.ContainerStatus{Name: "mesh", State: runs}, false, id("mesh:1")},
		"an init container":            {corev1.ContainerStatus{Name: "init", State: ended}, true, id("init:1")},
		"it has one":                   {corev1.ContainerStatus{Name: "app", State: runs, ImageID: "sha256:local"}, false, "sha256:local"},
		"nobody knows of such a thing": {corev1.ContainerStatus{Name: "other", State: runs}, false, ""},
	} {
		t.Run(name, func(t *testing.T) {
			pod.Status = corev1.PodStatus{}
			statuses := &pod.Status.ContainerStatuses
			if row.init {
				statuses = &pod.Status.InitContainerStatuses
			}
			*statuses = []corev1.ContainerStatus{row.status}
			registry.SetImageIDs(pod)
			expect.Same(t, "imageID", row.want, (*statuses)[0].ImageID)
		})
	}
}

// imagesOf returns the imageIDs that the pods of the Deployment web show, by name.
func imagesOf(w *World) map[string]string {
	ids := map[string]string{}
	for _, pod := range w.Objects("pods") {
		ids[pod.GetName()] = pod.(*corev1.Pod).Status.ContainerStatuses[0].ImageID
	}
	return ids
}

func TestNode_MoveTag(t *testing.T) {
	In(t, func(w *World) {
		g := Webshop("web", "web:latest")
		g.Spec.Replicas = new(int32(1))
		good := w.Node.ImageID("web:latest")
		Add(w, DeploymentOf(g))
		w.Pass(time.Second)
		for name, id := range imagesOf(w) {
			expect.Same(t, name+" while its container is created", "", id)
		}
		w.Pass(10 * time.Second)
		before := imagesOf(w)
		w.Node.MoveTag("web:latest", Crashing)
		w.Pass(10 * time.Second)
		expect.Same(t, "the pods of before", before, imagesOf(w))

		Restart(w, "web")
		w.Pass(10 * time.Second)
		ids := map[string]int{}
		for _, id := range imagesOf(w) {
			ids[id]++
		}
		expect.Same(t, "after a restart", map[string]int{good: 1, w.Node.ImageID("web:latest"): 1}, ids)
		d, _ := Read[*appsv1.Deployment](w, "web")
		if d.Status.UpdatedReplicas != 1 || d.Status.AvailableReplicas != 1 || d.Status.ReadyReplicas != 1 {
			t.Errorf("the status is %+v, want the old pod available, and the new one not", d.Status)
		}

		Edit(w, "web", func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Image = good })
		w.Pass(10 * time.Second)
		d, _ = Read[*appsv1.Deployment](w, "web")
		if d.Status.Replicas != 1 || d.Status.AvailableReplicas != 1 {
			t.Errorf("the status is %+v, want the one pod of the digest that was good", d.Status)
		}
		for name, id := range imagesOf(w) {
			expect.Same(t, name+" of a digest", good, id)
		}
	})
}

func TestRestart(t *testing.T) {
	In(t, func(w *World) {
		Add(w, DeploymentOf(Webshop("web", "web:1")))
		w.Pass(10 * time.Second)
		for _, number := range []string{"2", "3"} {
			Restart(w, "web")
			w.Pass(10 * time.Second)
			expect.Same(t, "numbers", []string{number, number}, numbersOf(w))
		}
		d, _ := Read[*appsv1.Deployment](w, "web")
		expect.Same(t, "template annotations", map[string]string{
			"kubectl.kubernetes.io/restartedAt": w.Began.Add(20 * time.Second).Format(time.RFC3339)}, d.Spec.Template.Annotations)
		var managers []string
		for _, entry := range d.ManagedFields {
			managers = append(managers, entry.Manager+" "+string(entry.Operation)+" "+entry.Time.Format(time.TimeOnly))
		}
		expect.Same(t, "managers", []string{"kubectl-rollout " + string(metav1.ManagedFieldsOperationUpdate) + " 00:00:20"}, managers)
	})
}
