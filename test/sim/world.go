package sim

import (
	"container/heap"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing/synctest"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	fake "github.com/belay-dev/belay/internal/fakecluster"
	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// world is one namespace of an API server in memory, with pretend controllers. What they and the users do happens on one
// timeline, one after the other and only when Belay waits for something; what is random comes from one seed. So a seed plays
// the same again, but for the order in which goroutines of Belay do what they do at the same time.
type world struct {
	*fake.World
	mu      sync.Mutex // held whenever something happens, and during every request of Belay
	events  timeline
	serial  int
	hurry   chan struct{} // something is going to happen before what was first
	random  *rand.Rand
	named   int
	bound   int                   // how many pods were bound
	refused map[types.UID]tries   // by the object whose controller tries
	images  fake.Registry[string] // how pods fare is the name of an outcome

	deploymentController, setController, scheduler component
	staleFor                                       time.Duration // how long, at most, T1 to T4 last
	silentUntil                                    time.Time     // until when the condition stays as it is
	healed                                         time.Time     // from when on nothing is ill
	// changed is called after every write, with what has changed.
	changed func(fake.Change)
	// policy changes every Deployment that is written.
	policy    func(*appsv1.Deployment)
	policed   bool // there is one
	meanwhile meanwhile
	clocks    *rand.Rand    // what becomes of clocks
	late      time.Duration // by how much Belay's was set back
	tricks    tricks
	exact     *exact // the Deployment controller, if it is to be as that of Kubernetes in all that a hold meets
}

// tricks change what the pretend controllers do. What is nil does nothing.
type tricks struct {
	// admit changes a pod that is to be created, or returns why it is refused.
	admit func(*corev1.Pod) (refused string)
	// place returns the node of a pod, or why it fits on none. If both are empty, no scheduler looks at it.
	place func(*corev1.Pod) (node, nowhere string)
	// live is what the kubelet does with a pod that has a node.
	live func(*corev1.Pod)
	// ending is how long a pod takes to end, rewrite what a policy makes of the template of a ReplicaSet.
	ending  func(*corev1.Pod) time.Duration
	rewrite func(*corev1.PodTemplateSpec)
	// silent are the nodes whose kubelets do not report, and since when.
	silent map[string]time.Time
	surge  int32 // how many pods more than wanted there may be
}

// component is a pretend controller.
type component struct{ down, due bool }

func newWorld(cluster *fake.World, seed uint64) *world {
	w := &world{World: cluster, tricks: tricks{silent: map[string]time.Time{}, surge: 1}, hurry: make(chan struct{}, 1), refused: map[types.UID]tries{}, random: rand.New(rand.NewPCG(seed, 0)), changed: func(fake.Change) {}, policy: func(*appsv1.Deployment) {},
		meanwhile: meanwhile{random: rand.New(rand.NewPCG(seed, 7)), late: map[string]time.Time{}}, clocks: rand.New(rand.NewPCG(seed, 13))}
	cluster.Admit(func(o fake.Object) {
		if d, ok := o.(*appsv1.Deployment); ok {
			w.policy(d)
		}
	})
	w.addNodes()
	cluster.Hear(func(change fake.Change) {
		if change.Resource != "events" {
			w.wakeAll()
		}
		w.changed(change)
	})
	return w
}

// timeline is a heap of what is going to happen.
type timeline []happening

type happening struct {
	at     time.Time
	serial int
	do     func()
}

func (t timeline) Len() int { return len(t) }
func (t timeline) Less(i, j int) bool {
	return t[i].at.Before(t[j].at) || (t[i].at.Equal(t[j].at) && t[i].serial < t[j].serial)
}
func (t timeline) Swap(i, j int) { t[i], t[j] = t[j], t[i] }
func (t *timeline) Push(x any)   { *t = append(*t, x.(happening)) }
func (t *timeline) Pop() any {
	last := (*t)[len(*t)-1]
	*t = (*t)[:len(*t)-1]
	return last
}

func (w *world) in(d time.Duration, do func()) {
	w.serial++
	heap.Push(&w.events, happening{time.Now().Add(d), w.serial, do})
	if w.events[0].serial == w.serial {
		select {
		case w.hurry <- struct{}{}:
		default:
		}
	}
}

// wait lets time pass, until d is over or until done. It returns when nothing moves any more.
func (w *world) wait(d time.Duration, done func() bool) bool {
	end := time.Now().Add(d)
	for {
		synctest.Wait()
		switch happened, next := w.happen(end); {
		case happened && done != nil && done():
			synctest.Wait()
			return true
		case happened:
		case !time.Now().Before(end):
			return false
		default:
			select {
			case <-time.After(time.Until(next)):
			case <-w.hurry:
			}
		}
	}
}

// happen lets happen what is next, if its time has come. If not, it returns when that is, or end.
func (w *world) happen(end time.Time) (happened bool, next time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case len(w.events) == 0 || w.events[0].at.After(end):
		return false, end
	case w.events[0].at.After(time.Now()):
		return false, w.events[0].at
	}
	heap.Pop(&w.events).(happening).do()
	return true, end
}

// do lets something happen now.
func (w *world) do(what func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	what()
}

func (w *world) wake(c *component, after time.Duration, sync func()) {
	if !c.down && !c.due {
		c.due = true
		w.in(after, func() {
			c.due = false
			if !c.down {
				sync()
			}
		})
	}
}

func (w *world) wakeAll() {
	w.wake(&w.deploymentController, 10*time.Millisecond, w.syncDeployment)
	w.wake(&w.setController, 10*time.Millisecond, w.syncSets)
	w.wake(&w.scheduler, 20*time.Millisecond, w.schedule)
}

// stop takes a controller down, start brings it back.
func (w *world) stop(c *component) { c.down = true }
func (w *world) start(c *component) {
	c.down = false
	w.wakeAll()
}

// ---- what is stored; nobody may change it

func (w *world) guarded() *v1alpha1.GuardedDeployment {
	return one[*v1alpha1.GuardedDeployment](w, "web")
}
func (w *world) deployment() *appsv1.Deployment          { return one[*appsv1.Deployment](w, "web") }
func (w *world) sets() []*appsv1.ReplicaSet              { return all[*appsv1.ReplicaSet](w) }
func (w *world) pods() []*corev1.Pod                     { return all[*corev1.Pod](w) }
func (w *world) pod(name string) *corev1.Pod             { return one[*corev1.Pod](w, name) }
func (w *world) revisions() []*appsv1.ControllerRevision { return all[*appsv1.ControllerRevision](w) }
func (w *world) revision(name string) *appsv1.ControllerRevision {
	return one[*appsv1.ControllerRevision](w, name)
}

// all returns the objects of a type, sorted by name.
func all[T fake.Object](w *world) (found []T) {
	var kind T
	for _, o := range w.Objects(fake.ResourceOf(kind).Resource) {
		found = append(found, o.(T))
	}
	return found
}

// one returns the object of a type and a name, nil if there is none.
func one[T fake.Object](w *world, name string) (found T) {
	for _, o := range all[T](w) {
		if o.GetName() == name {
			return o
		}
	}
	return found
}

func (w *world) newName(of string) string {
	w.named++
	return fmt.Sprintf("%s-%06d", of, w.named)
}

func (w *world) putGuarded(change func(*v1alpha1.GuardedDeployment)) {
	fake.Edit(w.World, "web", change)
}

func replicasOf(d *appsv1.Deployment) int32 { return *d.Spec.Replicas }
