package fakecluster

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/informers"
	kubefake "k8s.io/client-go/kubernetes/fake"
	appsclient "k8s.io/client-go/kubernetes/typed/apps/v1"
	"k8s.io/client-go/rest"

	"github.com/belay-dev/belay/internal/expect"
	belayfake "github.com/belay-dev/belay/pkg/generated/clientset/versioned/fake"
	belayclient "github.com/belay-dev/belay/pkg/generated/clientset/versioned/typed/belay/v1alpha1"
)

// What the comment of cluster says, as a client sees it. A real API server does the same.

type contract struct {
	*Cluster
	kube        *kubefake.Clientset
	deployments appsclient.DeploymentInterface
	revisions   appsclient.ControllerRevisionInterface
	guarded     belayclient.GuardedDeploymentInterface
}

func newContract() contract {
	c := contract{Cluster: New(), kube: kubefake.NewClientset()}
	belay := belayfake.NewSimpleClientset()
	carryOut := func(_ Request, carryOut func() error) error { return carryOut() }
	c.Serve(&c.kube.Fake, carryOut)
	c.Serve(&belay.Fake, carryOut)
	c.deployments = c.kube.AppsV1().Deployments(Namespace)
	c.revisions = c.kube.AppsV1().ControllerRevisions(Namespace)
	c.guarded = belay.BelayV1alpha1().GuardedDeployments(Namespace)
	return c
}

func (c contract) createDeployment(t *testing.T, name string) *appsv1.Deployment {
	t.Helper()
	d := DeploymentOf(Webshop(name, "web:1"))
	d.Status.Replicas = 5
	created, err := c.deployments.Create(t.Context(), d, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return created
}

func TestCluster_Create(t *testing.T) {
	c := newContract()
	first, second := c.createDeployment(t, "a"), c.createDeployment(t, "b")
	g, err := c.guarded.Create(t.Context(), Webshop("c", "web:1"), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if first.UID == "" || first.UID == second.UID || first.CreationTimestamp.IsZero() || first.Generation != 1 || first.Status.Replicas != 0 {
		t.Errorf("created %+v, status %+v", first.ObjectMeta, first.Status)
	}
	expect.Same(t, "versions", []string{"101", "102", "103"}, []string{first.ResourceVersion, second.ResourceVersion, g.ResourceVersion})
	if _, err := c.deployments.Create(t.Context(), first, metav1.CreateOptions{}); !apierrors.IsAlreadyExists(err) {
		t.Errorf("the same again: %v, want AlreadyExists", err)
	}
}

func TestCluster_Generation(t *testing.T) {
	c := newContract()
	d := c.createDeployment(t, "web")
	for _, step := range []struct {
		change     func()
		generation int64
	}{
		{func() { d.Spec.MinReadySeconds = 5 }, 2},
		{func() { d.Annotations = map[string]string{"a": "b"} }, 3},
		{func() { d.Labels = map[string]string{"a": "b"} }, 3},
		{func() { d.Generation = 99 }, 3},
	} {
		step.change()
		var err error
		if d, err = c.deployments.Update(t.Context(), d, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		if d.Generation != step.generation {
			t.Errorf("generation %d, want %d", d.Generation, step.generation)
		}
	}
}

// A change of its spec moves a pod's generation. Its binding does not: the API server writes the node past the strategy that counts.
func TestCluster_GenerationOfPods(t *testing.T) {
	w := &World{Cluster: New(), T: t}
	pod := &corev1.Pod{}
	pod.Name, pod.Namespace = "web-1", Namespace
	pod.Spec.Containers = []corev1.Container{{Name: "web"}}
	Add(w, pod)
	for _, step := range []struct {
		change     func(*corev1.Pod)
		generation int64
	}{
		{func(p *corev1.Pod) { p.Spec.NodeName = "node-1" }, 1},
		{func(p *corev1.Pod) { p.Spec.Containers[0].Image = "localhost/web:2" }, 2},
	} {
		if got := Edit(w, "web-1", step.change).Generation; got != step.generation {
			t.Errorf("generation %d, want %d", got, step.generation)
		}
	}
}

func TestCluster_StatusAndSpecApart(t *testing.T) {
	c := newContract()
	d := c.createDeployment(t, "web")
	d.Spec.MinReadySeconds, d.Status.Replicas = 5, 3
	d, err := c.deployments.UpdateStatus(t.Context(), d, metav1.UpdateOptions{})
	if err != nil || d.Spec.MinReadySeconds != 0 || d.Status.Replicas != 3 || d.Generation != 1 {
		t.Errorf("after a write of the status: %v, %+v", err, d)
	}
	d.Spec.MinReadySeconds, d.Status.Replicas = 5, 0
	d, err = c.deployments.Update(t.Context(), d, metav1.UpdateOptions{})
	if err != nil || d.Spec.MinReadySeconds != 5 || d.Status.Replicas != 3 {
		t.Errorf("after a write of the spec: %v, %+v", err, d)
	}
	generation := d.Generation
	d.Annotations, d.Labels = map[string]string{"a": "b"}, map[string]string{"a": "b"}
	d, err = c.deployments.UpdateStatus(t.Context(), d, metav1.UpdateOptions{})
	if err != nil || d.Annotations["a"] != "b" || d.Labels["a"] != "" || d.Generation != generation {
		t.Errorf("after a write of the status, with annotations: %v, %+v", err, d.ObjectMeta)
	}
}

func TestCluster_Conflicts(t *testing.T) {
	c := newContract()
	stale := c.createDeployment(t, "web")
	fresh := stale.DeepCopy()
	fresh.Spec.MinReadySeconds = 5
	if _, err := c.deployments.Update(t.Context(), fresh, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.deployments.Update(t.Context(), stale, metav1.UpdateOptions{}); !apierrors.IsConflict(err) {
		t.Errorf("an old resourceVersion: %v, want a conflict", err)
	}
	if _, err := c.deployments.UpdateStatus(t.Context(), stale, metav1.UpdateOptions{}); !apierrors.IsConflict(err) {
		t.Errorf("an old resourceVersion in a status: %v, want a conflict", err)
	}
	stale.ResourceVersion, stale.UID = "", "another"
	if _, err := c.deployments.Update(t.Context(), stale, metav1.UpdateOptions{}); !apierrors.IsConflict(err) {
		t.Errorf("another uid: %v, want a conflict", err)
	}
	stale.UID = ""
	if _, err := c.deployments.Update(t.Context(), stale, metav1.UpdateOptions{}); err != nil {
		t.Errorf("no resourceVersion: %v, want an unconditional update", err)
	}
	g, _ := c.guarded.Create(t.Context(), Webshop("web", "web:1"), metav1.CreateOptions{})
	g.ResourceVersion = ""
	if _, err := c.guarded.Update(t.Context(), g, metav1.UpdateOptions{}); !apierrors.IsInvalid(err) {
		t.Errorf("a custom resource without resourceVersion: %v, want it to be invalid", err)
	}
	if _, err := c.deployments.Update(t.Context(), &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "none", Namespace: Namespace}}, metav1.UpdateOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("update of none: %v, want NotFound", err)
	}
}

func TestCluster_UnchangedUpdate(t *testing.T) {
	c := newContract()
	d := c.createDeployment(t, "web")
	same, err := c.deployments.Update(t.Context(), d.DeepCopy(), metav1.UpdateOptions{})
	if err != nil || same.ResourceVersion != d.ResourceVersion {
		t.Errorf("%v, version %s, want %s", err, same.ResourceVersion, d.ResourceVersion)
	}
}

func TestCluster_DeletePreconditions(t *testing.T) {
	c := newContract()
	d := c.createDeployment(t, "web")
	for _, only := range []metav1.Preconditions{{UID: new(types.UID("another"))}, {ResourceVersion: new("99")}} {
		if err := c.deployments.Delete(t.Context(), "web", metav1.DeleteOptions{Preconditions: &only}); !apierrors.IsConflict(err) {
			t.Errorf("delete only %v: %v, want a conflict", only, err)
		}
	}
	if err := c.deployments.Delete(t.Context(), "web", metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &d.UID, ResourceVersion: &d.ResourceVersion}}); err != nil {
		t.Error(err)
	}
	if err := c.deployments.Delete(t.Context(), "web", metav1.DeleteOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("delete again: %v, want NotFound", err)
	}
	if again := c.createDeployment(t, "web"); again.UID == d.UID {
		t.Error("a second life has the uid of the first")
	}
}

func TestCluster_Finalizers(t *testing.T) {
	c := newContract()
	d := DeploymentOf(Webshop("web", "web:1"))
	d.Finalizers = []string{"wait"}
	if _, err := c.deployments.Create(t.Context(), d, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := c.deployments.Delete(t.Context(), "web", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	leaving, err := c.deployments.Get(t.Context(), "web", metav1.GetOptions{})
	if err != nil || leaving.DeletionTimestamp == nil {
		t.Fatalf("%v, deletionTimestamp %v", err, leaving.DeletionTimestamp)
	}
	leaving.Finalizers = nil
	if _, err := c.deployments.Update(t.Context(), leaving, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.deployments.Get(t.Context(), "web", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("after the last finalizer: %v, want NotFound", err)
	}
}

func TestCluster_ImmutableData(t *testing.T) {
	c := newContract()
	r := &appsv1.ControllerRevision{ObjectMeta: metav1.ObjectMeta{Name: "web-1", Namespace: Namespace}}
	r.Data.Raw = []byte(`{"a":1}`)
	r, err := c.revisions.Create(t.Context(), r, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	r.Data.Raw = []byte(`{"a":2}`)
	if _, err := c.revisions.Update(t.Context(), r, metav1.UpdateOptions{}); !apierrors.IsInvalid(err) {
		t.Errorf("other data: %v, want it to be invalid", err)
	}
}

func TestCluster_HandsOutCopies(t *testing.T) {
	c := newContract()
	c.createDeployment(t, "web").Spec.MinReadySeconds = 5
	d, _ := c.deployments.Get(t.Context(), "web", metav1.GetOptions{})
	d.Spec.MinReadySeconds = 6
	list, _ := c.deployments.List(t.Context(), metav1.ListOptions{})
	if got := list.Items[0].Spec.MinReadySeconds; got != 0 {
		t.Errorf("what is stored was changed to %d by a reader", got)
	}
}

func TestCluster_WatchWithSelector(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newContract()
		d := c.createDeployment(t, "web") // version 101
		opened, err := c.deployments.Watch(t.Context(), metav1.ListOptions{LabelSelector: "a=b", ResourceVersion: "101"})
		if err != nil {
			t.Fatal(err)
		}
		defer opened.Stop()
		step := func(change func()) {
			t.Helper()
			change()
			if d, err = c.deployments.Update(t.Context(), d, metav1.UpdateOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		expect := func(kind watch.EventType, version string) {
			t.Helper()
			select {
			case event := <-opened.ResultChan():
				if got := event.Object.(*appsv1.Deployment).ResourceVersion; event.Type != kind || got != version {
					t.Errorf("%s at version %s, want %s at %s", event.Type, got, kind, version)
				}
			case <-time.After(time.Second):
				if kind != "" {
					t.Errorf("nothing, want %s at %s", kind, version)
				}
			}
		}
		step(func() { d.Spec.MinReadySeconds = 1 })
		expect("", "")
		step(func() { d.Labels = map[string]string{"a": "b"} })
		expect(watch.Added, "103")
		step(func() { d.Spec.MinReadySeconds = 2 })
		expect(watch.Modified, "104")
		step(func() { d.Labels = nil })
		expect(watch.Deleted, "105")
		c.Hold("deployments")
		step(func() { d.Labels = map[string]string{"a": "b"} })
		expect("", "")
		c.LetGo("deployments")
		expect(watch.Added, "106")
	})
}

func TestCluster_HeldWatch(t *testing.T) {
	c := newContract()
	var heard []int64
	c.Hear(func(change Change) { heard = append(heard, change.Version) })
	c.createDeployment(t, "a") // version 101
	c.Hold("deployments")
	opened, err := c.deployments.Watch(t.Context(), metav1.ListOptions{ResourceVersion: "100"})
	if err != nil {
		t.Fatal(err)
	}
	defer opened.Stop()
	c.createDeployment(t, "b")
	c.createDeployment(t, "c")
	c.createDeployment(t, "d")
	seen := func() (names []string) {
		for len(opened.ResultChan()) > 0 {
			names = append(names, (<-opened.ResultChan()).Object.(*appsv1.Deployment).Name)
		}
		return names
	}
	expect.Same(t, "seen when held", []string{"a"}, seen())
	c.Show("deployments", 103)
	expect.Same(t, "seen up to a version", []string{"b", "c"}, seen())
	c.Show("deployments", 102)
	expect.Same(t, "seen up to an older one", []string(nil), seen())
	c.LetGo("deployments")
	expect.Same(t, "seen when let go", []string{"d"}, seen())
	expect.Same(t, "heard of at once", []int64{101, 102, 103, 104}, heard)
}

func TestCluster_Defaults(t *testing.T) {
	c := newContract()
	d := DeploymentOf(Webshop("web", "web:1"))
	d.Spec.Replicas = nil
	d, err := c.deployments.Create(t.Context(), d, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	pod := d.Spec.Template.Spec
	expect.Same(t, "defaults", []any{int32(1), int32(600), corev1.RestartPolicyAlways, corev1.DNSClusterFirst, corev1.PullIfNotPresent, "/dev/termination-log"},
		[]any{*d.Spec.Replicas, *d.Spec.ProgressDeadlineSeconds, pod.RestartPolicy, pod.DNSPolicy, pod.Containers[0].ImagePullPolicy, pod.Containers[0].TerminationMessagePath})
}

func TestCluster_WatchResumes(t *testing.T) {
	c := newContract()
	c.createDeployment(t, "a")
	c.createDeployment(t, "b")
	opened, err := c.deployments.Watch(t.Context(), metav1.ListOptions{ResourceVersion: "101"})
	if err != nil {
		t.Fatal(err)
	}
	defer opened.Stop()
	if event := <-opened.ResultChan(); event.Object.(*appsv1.Deployment).Name != "b" {
		t.Errorf("resumed with %v, want b", event.Object)
	}
	c.Compact()
	if _, err := c.deployments.Watch(t.Context(), metav1.ListOptions{ResourceVersion: "101"}); !apierrors.IsResourceExpired(err) {
		t.Errorf("a watch from a compacted version: %v, want it to be expired", err)
	}
}

// The freshness of Belay rests on this.
func TestCluster_StoresFollowVersions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newContract()
		factory := informers.NewSharedInformerFactory(c.kube, 0)
		store := factory.Apps().V1().Deployments().Informer().GetStore()
		running, stop := context.WithCancel(t.Context())
		factory.StartWithContext(running)
		defer factory.Shutdown()
		defer stop()
		d := c.createDeployment(t, "web")
		synctest.Wait()
		if got := store.LastStoreSyncResourceVersion(); got != d.ResourceVersion {
			t.Errorf("the store is at %q after a creation, want %q", got, d.ResourceVersion)
		}
		if err := c.deployments.Delete(t.Context(), "web", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if got := store.LastStoreSyncResourceVersion(); got != "102" {
			t.Errorf("the store is at %q after a deletion, want 102", got)
		}
	})
}

func TestCluster_OtherPatches(t *testing.T) {
	c := newContract()
	c.createDeployment(t, "web")
	if _, err := c.deployments.Patch(t.Context(), "web", types.StrategicMergePatchType, []byte("{}"), metav1.PatchOptions{}); !apierrors.IsMethodNotSupported(err) {
		t.Errorf("patch: %v, want it not to be supported", err)
	}
}

func TestClusterSelectsByFields(t *testing.T) {
	c := newContract()
	pods, nodes, events := c.kube.CoreV1().Pods(Namespace), c.kube.CoreV1().Nodes(), c.kube.CoreV1().Events(Namespace)
	for name, phase := range map[string]corev1.PodPhase{"a": corev1.PodRunning, "b": corev1.PodFailed, "c": corev1.PodSucceeded, "d": corev1.PodFailed} {
		pod, err := pods.Create(t.Context(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: Namespace}}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		pod.Status.Phase = phase
		if _, err := pods.UpdateStatus(t.Context(), pod, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	for selector, want := range map[string][]string{
		"": {"a", "b", "c", "d"}, "status.phase!=Failed,status.phase!=Succeeded": {"a"}, "status.phase=Failed": {"b", "d"}, "status.phase==Succeeded": {"c"},
	} {
		list, err := pods.List(t.Context(), metav1.ListOptions{FieldSelector: selector})
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for i := range list.Items {
			names = append(names, list.Items[i].Name)
		}
		expect.Same(t, selector, want, names)
	}
	if _, err := pods.List(t.Context(), metav1.ListOptions{FieldSelector: "involvedObject.uid=x"}); !apierrors.IsBadRequest(err) {
		t.Errorf("pods by a field of Events: %v, want a bad request", err)
	}
	for name, uid := range map[string]types.UID{"of-x": "x", "of-y": "y"} {
		event := &corev1.Event{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: Namespace}, InvolvedObject: corev1.ObjectReference{UID: uid}}
		if _, err := events.Create(t.Context(), event, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if list, err := events.List(t.Context(), metav1.ListOptions{FieldSelector: "involvedObject.uid=x"}); err != nil || len(list.Items) != 1 || list.Items[0].Name != "of-x" {
		t.Errorf("the Events of x: %v, %v", list, err)
	}
	if _, err := nodes.Get(t.Context(), "node", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("no Node: %v, want NotFound", err)
	}
	if _, err := nodes.Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := nodes.Get(t.Context(), "node", metav1.GetOptions{}); err != nil {
		t.Error(err)
	}
}

func TestClusterListsInPages(t *testing.T) {
	c := newContract()
	for _, name := range []string{"a", "b", "c"} {
		c.createDeployment(t, name)
	}
	var pages [][]string
	options := metav1.ListOptions{Limit: 2}
	for range 2 {
		list, err := c.deployments.List(t.Context(), options)
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for i := range list.Items {
			names = append(names, list.Items[i].Name)
		}
		pages, options.Continue = append(pages, names), list.Continue
	}
	expect.Same(t, "pages", [][]string{{"a", "b"}, {"c"}}, pages)
	expect.Same(t, "the page after the last", "", options.Continue)
	if list, err := c.deployments.List(t.Context(), metav1.ListOptions{Limit: 2, ResourceVersion: "0"}); err != nil || len(list.Items) != 3 {
		t.Errorf("of any version there are %d, %v, want all 3", len(list.Items), err)
	}
}

func TestClusterNotesWhenARevisionWasWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newContract()
		r, err := c.revisions.Create(t.Context(), &appsv1.ControllerRevision{ObjectMeta: metav1.ObjectMeta{Name: "web-1", Namespace: Namespace}}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for _, step := range []struct {
			change func()
			moves  bool
		}{
			{func() { r.Revision = 2 }, true},
			{func() { r.ManagedFields, r.Labels = nil, map[string]string{"a": "b"} }, true},
			{func() { r.ManagedFields = nil }, false},
		} {
			before := r.ManagedFields[0].Time
			time.Sleep(10 * time.Second)
			step.change()
			if r, err = c.revisions.Update(t.Context(), r, metav1.UpdateOptions{}); err != nil {
				t.Fatal(err)
			}
			if moved := len(r.ManagedFields) == 1 && r.ManagedFields[0].Time.Sub(before.Time) == 10*time.Second; moved != step.moves {
				t.Errorf("the managed fields are %v, want the time of the last write that changed something", r.ManagedFields)
			}
		}
	})
}

func TestCluster_Logs(t *testing.T) {
	Empty(t, func(w *World) {
		pods := w.NewProcess().Kube.CoreV1().Pods(Namespace)
		read := func(pod string, options corev1.PodLogOptions) (string, error) {
			data, err := pods.GetLogs(pod, &options).DoRaw(w.T.Context())
			return string(data), err
		}
		want := func(what, want, pod string, options corev1.PodLogOptions) {
			t.Helper()
			if got, err := read(pod, options); got != want || err != nil {
				t.Errorf("%s: %q, %v, want %q", what, got, err, want)
			}
		}
		for _, name := range []string{"a", "b"} {
			Add(w, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: Namespace}})
		}
		w.SetLog("a", "app", true, Log{Text: "one\ntwo\nthree\n"})
		w.SetLog("", "app", false, Log{Text: "any\n"})
		previous := corev1.PodLogOptions{Container: "app", Previous: true}
		want("all", "one\ntwo\nthree\n", "a", previous)
		want("the present run, of any pod", "any\n", "b", corev1.PodLogOptions{Container: "app"})
		want("nothing is set", "", "b", corev1.PodLogOptions{Container: "sidecar"})
		if _, err := read("b", previous); !apierrors.IsBadRequest(err) {
			t.Errorf("no run before: %v, want a bad request", err)
		}
		EditStatus(w, "b", func(p *corev1.Pod) { p.Status = Crashing(0) })
		want("a run before that wrote nothing", "", "b", previous)
		if _, err := read("gone", previous); !apierrors.IsNotFound(err) {
			t.Errorf("no pod: %v, want not found", err)
		}
		previous.TailLines = new(int64(2))
		want("the last two", "two\nthree", "a", previous)
	})
}

// That an object is there is told without its content, and with its content it is not told at all.
func TestCluster_LinesWithoutContent(t *testing.T) {
	Empty(t, func(w *World) {
		Add(w, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "here", Namespace: Namespace}, Data: map[string][]byte{"key": []byte("hush")}})
		client := w.NewProcess().Kube.CoreV1().RESTClient()
		get := func(name string) *rest.Request {
			return client.Get().Namespace(Namespace).Resource("secrets").Name(name)
		}
		const table = "application/json;as=Table;g=meta.k8s.io;v=v1"
		body, err := get("here").SetHeader("Accept", table).Param("includeObject", "None").DoRaw(t.Context())
		if err != nil || !strings.Contains(string(body), "here") || strings.Contains(string(body), "hush") {
			t.Errorf("%v, %s", err, body)
		}
		if err := get("gone").SetHeader("Accept", table).Param("includeObject", "None").Do(t.Context()).Error(); !apierrors.IsNotFound(err) {
			t.Errorf("what is not there: %v, want NotFound", err)
		}
		for name, request := range map[string]*rest.Request{
			"the object": get("here"), "a table with metadata": get("here").SetHeader("Accept", table),
		} {
			if err := request.Do(t.Context()).Error(); !apierrors.IsBadRequest(err) {
				t.Errorf("%s: %v, want it to be refused", name, err)
			}
		}
	})
}

// test/e2e asks the same of a real API server.
func TestCluster_Holds(t *testing.T) {
	for _, policies := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			c := newContract()
			c.KeepHolds(policies)
			if err := ContractOfHolds(t.Context(), c.kube, Namespace, policies); err != nil {
				t.Errorf("with policies: %t: %v", policies, err)
			}
		})
	}
}

func TestCluster_Namespaces(t *testing.T) {
	w := &World{Cluster: New(), T: t}
	Add(w, NamespaceOf())
	Edit(w, Namespace, func(n *corev1.Namespace) { n.Annotations = map[string]string{"a": "b"} })
	kube := kubefake.NewClientset()
	w.Serve(&kube.Fake, func(_ Request, carryOut func() error) error { return carryOut() })
	if n, err := kube.CoreV1().Namespaces().Get(t.Context(), Namespace, metav1.GetOptions{}); err != nil || n.Annotations["a"] != "b" {
		t.Errorf("%v, %v", n, err)
	}
	if _, err := kube.CoreV1().Namespaces().Get(t.Context(), "none", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("%v, want NotFound", err)
	}
}
