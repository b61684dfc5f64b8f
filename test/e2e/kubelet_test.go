package e2e

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/retry"
)

// kubeletLabel and the taint of the same key are on the nodes whose kubelet a test plays; the value is the test's namespace.
const kubeletLabel = "e2e.belay.dev/kubelet"

// kubelet plays the kubelet of nodes of a test's own. The scheduler and all controllers are real; what happens to a pod, its script
// says. Statuses and Events are as a kubelet of 1.37 writes them.
type kubelet struct {
	*namespace
	ctx context.Context

	mu      sync.Mutex
	scripts map[string]script // by the digest that the pods run, or else by their release
	tags    map[string]string // the digest that each tag of the registry points to
	nodes   []string
	running map[types.UID]context.CancelFunc // the scripts
	started map[string]int                   // how many pods of each release were bound
	silent  map[string]bool                  // the nodes whose kubelet does nothing any more
	errs    []error
}

// script is what happens to a pod.
type script struct {
	lives func(*played) // from when it has a node; nil: it runs, and is ready at once
	ends  time.Duration // how long it takes to end when it is deleted
	exits int32         // the code with which its containers end then
}

// played is a pod in its script.
type played struct {
	*kubelet
	ctx   context.Context
	pod   *corev1.Pod       // as it was when it was bound
	index int               // how many pods of its release were bound before
	tags  map[string]string // as they were then
}

// newKubelet returns a kubelet with so many nodes in a namespace of its own, for a parallel test.
func newKubelet(t *testing.T, nodes int, scripts map[string]script) *kubelet {
	t.Helper()
	return newKubeletIn(t, newNamespace, nodes, scripts)
}

// newKubeletIn is newKubelet, with another namespace.
func newKubeletIn(t *testing.T, namespace func(*testing.T) *namespace, nodes int, scripts map[string]script) *kubelet {
	t.Helper()
	if *podsFlag != "fake" {
		t.Skip("this plays the kubelet")
	}
	k := &kubelet{scripts: scripts, tags: map[string]string{}, running: map[types.UID]context.CancelFunc{}, started: map[string]int{}, silent: map[string]bool{}}
	ctx, stop := context.WithCancel(context.Background())
	k.ctx = ctx
	t.Cleanup(func() { // after the namespace's own cleanup: somebody has to end its pods
		defer stop()
		k.end(t)
	})
	k.namespace = namespace(t)
	factory := informers.NewSharedInformerFactoryWithOptions(cluster.kube, 0, informers.WithNamespace(k.name))
	pods := factory.Core().V1().Pods().Informer()
	if _, err := pods.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(now any) { k.see(now.(*corev1.Pod)) },
		UpdateFunc: func(_, now any) { k.see(now.(*corev1.Pod)) },
		DeleteFunc: func(last any) {
			if pod, ok := last.(*corev1.Pod); ok {
				k.forget(pod.UID)
			}
		},
	}); err != nil {
		t.Fatal(err)
	}
	factory.Start(ctx.Done())
	for range nodes {
		k.addNode(corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("100"), corev1.ResourceMemory: resource.MustParse("1Ti"),
			corev1.ResourcePods: resource.MustParse("1000")})
	}
	return k
}

// addNode adds a node with this much room, and returns its name.
func (k *kubelet) addNode(room corev1.ResourceList) string {
	k.Helper()
	k.mu.Lock()
	name := fmt.Sprintf("%s-%c", k.name, 'a'+rune(len(k.nodes)))
	k.nodes = append(k.nodes, name)
	k.mu.Unlock()
	client := cluster.kube.CoreV1().Nodes()
	remove := func() error {
		return ignoreNotFound(client.Delete(context.Background(), name, metav1.DeleteOptions{}))
	}
	forget := leave(remove)
	k.Cleanup(forget)
	now := metav1.Now()
	_, err := client.Create(k.Context(), &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{kubeletLabel: k.name, corev1.LabelHostname: name, corev1.LabelOSStable: "linux"}},
		Spec:       corev1.NodeSpec{Taints: []corev1.Taint{{Key: kubeletLabel, Value: k.name, Effect: corev1.TaintEffectNoSchedule}}},
		Status: corev1.NodeStatus{Capacity: room, Allocatable: room, Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady,
			Status: corev1.ConditionTrue, Reason: "KubeletReady", LastHeartbeatTime: now, LastTransitionTime: now}}},
	}, metav1.CreateOptions{})
	if err != nil {
		k.Fatal(err)
	}
	k.eventually("node "+name+" is taken for ready", func(ctx context.Context) (bool, error) {
		node, err := client.Get(ctx, name, metav1.GetOptions{})
		return err == nil && len(node.Spec.Taints) == 1, err
	})
	return name
}

// template returns a template of this release, whose pods come to the nodes of this kubelet alone.
func (k *kubelet) template(version string) corev1.PodTemplateSpec {
	pods := template(good, version)
	pods.Spec.NodeSelector = map[string]string{kubeletLabel: k.name}
	pods.Spec.Tolerations = []corev1.Toleration{{Key: kubeletLabel, Value: k.name}}
	return pods
}

// play has pods that are bound from now on do something else.
func (k *kubelet) play(version string, s script) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.scripts[version] = s
}

// push has a tag of the registry point to this digest from now on, whose pods do this.
func (k *kubelet) push(image, digest string, s script) {
	k.play(digest, s)
	k.mu.Lock()
	defer k.mu.Unlock()
	k.tags[image] = digest
}

// digest returns what a pod runs of an image, empty if the registry does not know the tag.
func (p *played) digest(image string) string {
	if _, digest, ok := strings.Cut(image, "@"); ok {
		return digest
	}
	return p.tags[image]
}

// imageID is how a runtime names the image that it has pulled, empty if the registry does not know the tag.
func (p *played) imageID(image string) string {
	digest := p.digest(image)
	if digest == "" {
		return ""
	}
	repository, _, _ := strings.Cut(image, "@")
	return strings.TrimSuffix(repository, ":latest") + "@" + digest
}

// mounted says of the image volumes among a container's mounts what they have, as the feature gate ImageVolumeWithDigest has it.
func (p *played) mounted(mounts []corev1.VolumeMount) (all []corev1.VolumeMountStatus) {
	for _, mount := range mounts {
		for _, volume := range p.pod.Spec.Volumes {
			if volume.Name == mount.Name && volume.Image != nil {
				all = append(all, corev1.VolumeMountStatus{Name: mount.Name, MountPath: mount.MountPath, VolumeStatus: &corev1.VolumeStatus{
					Image: &corev1.ImageVolumeStatus{ImageRef: p.imageID(volume.Image.Reference)}}})
			}
		}
	}
	return all
}

// silence has the kubelet of a node do nothing any more, or go on.
func (k *kubelet) silence(node string, yes bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.silent[node] = yes
}

func (k *kubelet) isSilent(node string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.silent[node]
}

// see begins the script of a pod that has a node, and ends it when the pod is deleted.
func (k *kubelet) see(pod *corev1.Pod) {
	if pod.Spec.NodeName == "" || pod.Labels[kubeletIgnores] != "" {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	cancel, known := k.running[pod.UID]
	script := k.scripts[versionOf(pod.Spec)]
	switch {
	case pod.DeletionTimestamp != nil && cancel != nil:
		cancel()
		k.running[pod.UID] = nil
		go k.terminate(pod, script)
	case pod.DeletionTimestamp != nil && !known:
		k.running[pod.UID] = nil
		go k.terminate(pod, script)
	case !known:
		p := &played{kubelet: k, pod: pod, index: k.started[versionOf(pod.Spec)], tags: maps.Clone(k.tags)}
		if s, ok := k.scripts[p.digest(pod.Spec.Containers[0].Image)]; ok {
			script = s
		}
		k.started[versionOf(pod.Spec)]++
		p.ctx, k.running[pod.UID] = context.WithCancel(k.ctx)
		if script.lives == nil {
			script.lives = (*played).run
		}
		go script.lives(p)
	}
}

// kubeletIgnores is a label of pods with which nothing ever happens.
const kubeletIgnores = "e2e.belay.dev/ignored"

func (k *kubelet) forget(uid types.UID) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if cancel := k.running[uid]; cancel != nil {
		cancel()
	}
	delete(k.running, uid)
}

// terminate ends a pod that was deleted: for a moment its phase is Failed or Succeeded, with the deletionTimestamp set.
func (k *kubelet) terminate(pod *corev1.Pod, s script) {
	for end := time.Now().Add(s.ends); time.Now().Before(end) || k.isSilent(pod.Spec.NodeName); time.Sleep(pollEvery) {
		if k.Failed() || k.over() {
			break
		}
	}
	p := &played{kubelet: k, ctx: k.ctx, pod: pod}
	p.finish(s.exits, "", "")
	time.Sleep(3 * pollEvery)
	err := cluster.kube.CoreV1().Pods(pod.Namespace).Delete(k.ctx, pod.Name,
		metav1.DeleteOptions{GracePeriodSeconds: new(int64(0)), Preconditions: metav1.NewUIDPreconditions(string(pod.UID))})
	if !apierrors.IsConflict(err) {
		k.note(ignoreNotFound(err))
	}
}

// over reports whether the test is over.
func (k *kubelet) over() bool { return k.namespace.Context().Err() != nil }

func (k *kubelet) note(err error) {
	if err == nil || k.ctx.Err() != nil || k.over() {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.errs = append(k.errs, err)
}

// end ends the pods of the namespace, which is being deleted, and removes the nodes. The cluster has many namespaces to delete at the same
// time, and would come to these pods late.
func (k *kubelet) end(t *testing.T) {
	if k.namespace == nil {
		return
	}
	ctx := context.Background()
	if err := cluster.kube.CoreV1().Pods(k.name).DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{}); err != nil {
		t.Errorf("delete the pods of %s: %v", k.name, err)
	}
	err := poll(ctx, patience, func(context.Context) (bool, error) {
		pods, err := cluster.kube.CoreV1().Pods(k.name).List(ctx, metav1.ListOptions{Limit: 1})
		return err == nil && len(pods.Items) == 0, err
	})
	if err != nil {
		t.Errorf("pods are left in %s: %v", k.name, err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, node := range k.nodes {
		if err := ignoreNotFound(cluster.kube.CoreV1().Nodes().Delete(ctx, node, metav1.DeleteOptions{})); err != nil {
			t.Error(err)
		}
	}
	if err := errors.Join(k.errs...); err != nil {
		t.Errorf("the kubelet of the test: %v", err)
	}
}

// pause waits, and ends the script when the pod is deleted meanwhile.
func (p *played) pause(d time.Duration) {
	select {
	case <-p.ctx.Done():
		runtime.Goexit()
	case <-time.After(d):
	}
}

// forever waits until the pod is deleted.
func (p *played) forever() { p.pause(time.Hour) }

// until waits until done, or the pod is deleted.
func (p *played) until(done <-chan struct{}) {
	select {
	case <-p.ctx.Done():
		runtime.Goexit()
	case <-done:
	}
}

// write changes the pod's status, and ends the script if the pod is gone.
func (p *played) write(change func(*corev1.PodStatus)) {
	client := cluster.kube.CoreV1().Pods(p.pod.Namespace)
	err := retry.RetryOnConflict(conflicting, func() error {
		live, err := client.Get(p.ctx, p.pod.Name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if live.UID != p.pod.UID {
			return apierrors.NewNotFound(corev1.Resource("pods"), live.Name)
		}
		change(&live.Status)
		_, err = client.UpdateStatus(p.ctx, live, metav1.UpdateOptions{})
		return err
	})
	if p.ctx.Err() != nil || apierrors.IsNotFound(err) {
		runtime.Goexit()
	}
	p.note(err)
}

// takeOn writes what a kubelet writes first: the containers wait with this reason.
func (p *played) takeOn(reason string) {
	p.write(func(s *corev1.PodStatus) {
		s.Phase, s.StartTime = corev1.PodPending, new(metav1.Now())
		s.HostIP = "192.0.2.1"
		s.ContainerStatuses = nil
		for _, c := range p.pod.Spec.Containers {
			s.ContainerStatuses = append(s.ContainerStatuses, corev1.ContainerStatus{Name: c.Name, Image: c.Image, Started: new(false),
				State: waiting(reason, ""), Resources: &c.Resources})
		}
		s.InitContainerStatuses = nil
		for _, c := range p.pod.Spec.InitContainers {
			s.InitContainerStatuses = append(s.InitContainerStatuses, corev1.ContainerStatus{Name: c.Name, Image: c.Image, Started: new(false),
				State: waiting(reason, "")})
		}
		set(s, corev1.PodInitialized, len(s.InitContainerStatuses) == 0, "", "")
		set(s, corev1.PodReadyToStartContainers, false, "PodSandboxNotReady", "no pod sandbox exists")
		judgeReady(s)
	})
}

func waiting(reason, message string) corev1.ContainerState {
	return corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: message}}
}

func running() corev1.ContainerState {
	return corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.Now()}}
}

func terminated(code int32, reason, message string) corev1.ContainerState {
	return corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: code, Reason: reason, Message: message,
		StartedAt: metav1.Now(), FinishedAt: metav1.Now()}}
}

// ending is the reason of a container's end by its code.
func ending(code int32) string {
	if code == 0 {
		return "Completed"
	}
	return "Error"
}

// start has the containers run, ready or not; init containers have ended with 0.
func (p *played) start(ready bool) {
	p.write(func(s *corev1.PodStatus) {
		s.Phase = corev1.PodRunning
		for i := range s.InitContainerStatuses {
			c := &s.InitContainerStatuses[i]
			c.Ready, c.State, c.ImageID = true, terminated(0, "Completed", ""), p.imageID(c.Image)
		}
		for i := range s.ContainerStatuses {
			c := &s.ContainerStatuses[i]
			c.Ready, c.Started, c.State, c.ImageID = ready, new(true), running(), p.imageID(c.Image)
			c.VolumeMounts = p.mounted(p.pod.Spec.Containers[i].VolumeMounts)
		}
		set(s, corev1.PodInitialized, true, "", "")
		set(s, corev1.PodReadyToStartContainers, true, "", "")
		judgeReady(s)
	})
}

// run is the script of a pod with which all is well.
func (p *played) run() {
	p.takeOn("ContainerCreating")
	p.start(true)
}

// container changes the state of the first container.
func (p *played) container(change func(*corev1.ContainerStatus)) {
	p.write(func(s *corev1.PodStatus) {
		change(&s.ContainerStatuses[0])
		judgeReady(s)
	})
}

// restart has the first container end like this, and run again after the back-off.
func (p *played) restart(end corev1.ContainerState, backOff time.Duration) {
	p.container(func(c *corev1.ContainerStatus) { c.Ready, c.State = false, end })
	p.pause(backOff)
	p.container(func(c *corev1.ContainerStatus) {
		c.LastTerminationState, c.State, c.Ready = end, running(), true
		c.RestartCount++
	})
}

// stuck has the first container wait for this reason.
func (p *played) stuck(reason, message string) {
	p.container(func(c *corev1.ContainerStatus) { c.Ready, c.State = false, waiting(reason, message) })
}

// finish ends the pod: Failed where a code or a reason says so, else Succeeded.
func (p *played) finish(code int32, reason, message string) {
	p.write(func(s *corev1.PodStatus) {
		s.Phase, s.Reason, s.Message = corev1.PodSucceeded, reason, message
		if code != 0 || reason != "" {
			s.Phase = corev1.PodFailed
		}
		for i := range s.ContainerStatuses {
			c := &s.ContainerStatuses[i]
			if c.State.Terminated == nil {
				c.State = terminated(code, ending(code), "")
			}
			c.Ready, c.Started = false, new(false)
		}
		word := map[corev1.PodPhase]string{corev1.PodFailed: "PodFailed", corev1.PodSucceeded: "PodCompleted"}[s.Phase]
		set(s, corev1.ContainersReady, false, word, "")
		set(s, corev1.PodReady, false, word, "")
		set(s, corev1.PodReadyToStartContainers, false, "PodSandboxNotReady", "pod sandbox is not ready")
	})
}

// refuse is what a kubelet writes of a pod that it does not take on: no conditions at all, and no containers.
func (p *played) refuse(reason, message string) {
	p.write(func(s *corev1.PodStatus) {
		s.Phase, s.Reason, s.Message = corev1.PodFailed, reason, "Pod was rejected: "+message
		s.Conditions, s.ContainerStatuses, s.InitContainerStatuses = nil, nil, nil
		s.StartTime = new(metav1.Now())
	})
	p.tell(corev1.EventTypeWarning, reason, message)
}

// tell records an Event about the pod, as the kubelet does.
func (p *played) tell(kind, reason, message string) {
	now := metav1.Now()
	_, err := cluster.kube.CoreV1().Events(p.pod.Namespace).Create(p.ctx, &corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{GenerateName: p.pod.Name + "."},
		InvolvedObject: corev1.ObjectReference{APIVersion: "v1", Kind: "Pod", Namespace: p.pod.Namespace, Name: p.pod.Name, UID: p.pod.UID},
		Type:           kind, Reason: reason, Message: message, Count: 1, FirstTimestamp: now, LastTimestamp: now,
		Source: corev1.EventSource{Component: "kubelet", Host: p.pod.Spec.NodeName},
	}, metav1.CreateOptions{})
	p.note(err)
}

// set sets a condition. Its time changes with its status alone.
func set(s *corev1.PodStatus, kind corev1.PodConditionType, yes bool, reason, message string) {
	status := corev1.ConditionFalse
	if yes {
		status = corev1.ConditionTrue
	}
	i := slices.IndexFunc(s.Conditions, func(c corev1.PodCondition) bool { return c.Type == kind })
	if i < 0 {
		i = len(s.Conditions)
		s.Conditions = append(s.Conditions, corev1.PodCondition{Type: kind})
	}
	c := &s.Conditions[i]
	if c.Status != status {
		c.Status, c.LastTransitionTime = status, metav1.Now()
	}
	c.Reason, c.Message = reason, message
}

// judgeReady sets the conditions about readiness by the containers.
func judgeReady(s *corev1.PodStatus) {
	var unready []string
	for _, c := range s.ContainerStatuses {
		if !c.Ready {
			unready = append(unready, c.Name)
		}
	}
	reason, message := "", ""
	if len(unready) > 0 {
		reason, message = "ContainersNotReady", fmt.Sprintf("containers with unready status: [%s]", strings.Join(unready, " "))
	}
	set(s, corev1.ContainersReady, len(unready) == 0, reason, message)
	set(s, corev1.PodReady, len(unready) == 0, reason, message)
}

// reportNode has the node controller, or the kubelet, say whether a node is ready.
func (k *kubelet) reportNode(name string, status corev1.ConditionStatus, reason, message string) {
	k.Helper()
	client := cluster.kube.CoreV1().Nodes()
	err := retry.RetryOnConflict(conflicting, func() error {
		node, err := client.Get(k.Context(), name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		now := metav1.Now()
		node.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: status, Reason: reason, Message: message,
			LastHeartbeatTime: now, LastTransitionTime: now}}
		_, err = client.UpdateStatus(k.Context(), node, metav1.UpdateOptions{})
		return err
	})
	if err != nil {
		k.Fatal(err)
	}
}

// notReadyByNode is what the node controller writes of a pod that was ready when its node fell silent: nothing else changes.
func (k *kubelet) notReadyByNode(pod string) {
	k.Helper()
	k.patchPod(pod, `{"status":{"conditions":[{"type":"Ready","status":"False","reason":null,"message":null}]}}`)
}
