package faults

import (
	"flag"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

var (
	churnFlag   = flag.Duration("churn", 0, "how long TestChurn changes objects while leaders are killed, and half as long again after that; 0: not at all")
	objectsFlag = flag.Int("objects", 300, "how many it changes")
	paceFlag    = flag.Float64("pace", 5, "how many changes it makes in a second, to all objects together")
)

// churn is many objects, each in a namespace of its own, and two Belays that work in all namespaces, one of which leads.
type churn struct {
	*scene            // of the Lease
	metrics  []string // where each Belay serves its metrics
	interval time.Duration
	objects  []*object

	mu    sync.Mutex
	kills int
	made  map[string]int // changes, by what they are called
}

// TestChurn changes many objects at random, while the Belay that leads is killed again and again, and then for half as long while none is.
// Then each object has to be where it is asked to be, without a false word on the way, and the Belay that has led since the last kill must
// take no more than the first one did before all this.
func TestChurn(t *testing.T) {
	if *churnFlag == 0 {
		t.Skip("-churn says how long")
	}
	c := newChurn(t)
	t.Cleanup(c.tellEnd)
	var before weight
	well := c.each("created", (*object).begin)
	if well {
		before = c.weigh()
		end, stop := time.Now().Add(*churnFlag), c.killLeaders(min(time.Minute, *churnFlag/3))
		well = c.each("churned", func(o *object) { o.churn(end) })
		stop()
		end = time.Now().Add(*churnFlag / 2) // The leader that is weighed at the end has to have had much to do.
		well = well && c.each("unkilled", func(o *object) { o.churn(end) })
	}
	well = well && c.each("good", (*object).settle) && c.each("back", (*object).failHalf)
	c.each("history", (*object).check)
	for _, words := range breaches(c.told().oneLeader) {
		t.Error(words)
	}
	if !well {
		return
	}
	if c.kills == 0 {
		t.Error("no leader was killed")
	}
	c.compare(before, c.weigh())
}

func newChurn(t *testing.T) *churn {
	awaitNobodyElse(t)
	c := &churn{scene: newScene(t), interval: time.Duration(float64(*objectsFlag) / *paceFlag * float64(time.Second)), made: map[string]int{}}
	t.Cleanup(c.leave)
	for range 2 {
		address := freeAddress(t)
		c.metrics = append(c.metrics, address)
		c.startIn(metav1.NamespaceAll, "--leader-elect", "--leader-elect-namespace", c.namespace, "--metrics-address", address, "--profiling")
	}
	if *seedFlag == 0 {
		*seedFlag = uint64(time.Now().UnixNano())
	}
	t.Logf("-seed %d", *seedFlag)
	for i := range *objectsFlag {
		c.objects = append(c.objects, &object{of: c, number: i, inPlace: i%5 == 0, random: rand.New(rand.NewPCG(*seedFlag, uint64(i)))})
	}
	return c
}

// leave empties all namespaces at the same time.
func (c *churn) leave() {
	var left sync.WaitGroup
	for _, o := range c.objects {
		if o.home != nil {
			left.Go(o.home.empty)
		}
	}
	left.Wait()
}

// awaitNobodyElse waits until what other tests have left is gone: a Belay that works in all namespaces would work on it.
func awaitNobodyElse(t *testing.T) {
	for deadline := time.Now().Add(*patience); ; time.Sleep(time.Second) {
		guarded, err := cluster.belay.BelayV1alpha1().GuardedDeployments("").List(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		labelled, err := cluster.kube.AppsV1().Deployments("").List(t.Context(), metav1.ListOptions{LabelSelector: v1alpha1.GuardedLabel})
		if err != nil {
			t.Fatal(err)
		}
		others := len(guarded.Items) + len(labelled.Items)
		if others == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d objects in this cluster are guarded already", others)
		}
	}
}

// freeAddress returns an address of this machine that nobody listens on.
func freeAddress(t *testing.T) string {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

// each does something to all objects at the same time, and reports whether it went well with all of them.
func (c *churn) each(phase string, do func(o *object)) bool {
	begin := time.Now()
	defer func() { c.Logf("%-8s %s", phase, time.Since(begin).Round(time.Second)) }()
	return c.Run(phase, func(t *testing.T) {
		for _, o := range c.objects {
			t.Run(strconv.Itoa(o.number), func(t *testing.T) {
				t.Parallel()
				o.use(t)
				do(o)
			})
		}
	})
}

// leader returns which Belay has written the Lease last, -1 if that cannot be told now.
func (c *churn) leader() int {
	lease := cluster.observer.now(c.namespace).lease
	if lease == nil || !isHeld(lease) {
		return -1
	}
	return slices.IndexFunc(c.belays, func(b *belay) bool {
		return slices.ContainsFunc(b.noted(), func(e exchange) bool {
			return e.resource == "leases" && e.writes() && strconv.FormatUint(e.rv, 10) == lease.ResourceVersion
		})
	})
}

// killLeaders kills the leader again and again, until it is told to stop.
func (c *churn) killLeaders(every time.Duration) (stop func()) {
	over, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-over:
				return
			case <-time.After(every):
			}
			if leader := c.leader(); leader >= 0 {
				c.belays[leader].kill()
				c.kills++
			}
		}
	}()
	return func() { close(over); <-ended }
}

// told returns what is known of the Belays, and of all objects.
func (c *churn) told() *told {
	result := &told{sights: cluster.observer.of(c.namespace)}
	for _, o := range c.objects {
		if o.home != nil {
			result.sights = append(result.sights, cluster.observer.of(o.home.namespace)...)
		}
	}
	for _, b := range c.belays {
		result.byBelay = append(result.byBelay, b.noted())
	}
	return result
}

// tellEnd says how it was, and how it is with the Belays if it went wrong.
func (c *churn) tellEnd() {
	c.Logf("%d objects, %v; the leader was killed %d times", len(c.objects), c.made, c.kills)
	for i, b := range c.belays {
		for _, e := range b.endings() {
			say := c.Errorf
			if e.isOfLease() { // On a busy machine it may be.
				say = c.Logf
			}
			say("belay %d has ended by itself: %s\n%s", i, e.how, e.log)
		}
		if c.Failed() {
			c.Logf("log of belay %d:\n%s", i, b.logged(60))
		}
	}
}

// weight is what a process takes.
type weight struct {
	goroutines int
	heap       float64 // in MiB, after a garbage collection
	stacks     string  // what the goroutines do
	age        time.Duration
}

// restBefore is how long the leader asks for nothing but its Lease before it is weighed.
const restBefore = 6 * time.Second

// weigh waits until there is a leader at rest, and weighs it.
func (c *churn) weigh() weight {
	c.Helper()
	leader := -1
	c.await("a leader rests", func() bool {
		leader = c.leader()
		return leader >= 0 && time.Since(c.belays[leader].lastBusy()) > restBefore
	})
	get := func(path string) string {
		response, err := http.Get("http://" + c.metrics[leader] + path)
		if err != nil {
			c.Fatal(err)
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		if err != nil || response.StatusCode != http.StatusOK {
			c.Fatal(path, response.Status, err)
		}
		return string(body)
	}
	get("/debug/pprof/heap?gc=1")
	metrics, w := get("/metrics"), weight{stacks: get("/debug/pprof/goroutine?debug=1"), age: c.belays[leader].age()}
	value := func(name string) float64 {
		found := regexp.MustCompile(`(?m)^` + name + ` (\S+)$`).FindStringSubmatch(metrics)
		if found == nil {
			c.Fatalf("there is no %s", name)
		}
		number, err := strconv.ParseFloat(found[1], 64)
		if err != nil {
			c.Fatal(err)
		}
		return number
	}
	w.goroutines, w.heap = int(value("go_goroutines")), value("go_memstats_heap_alloc_bytes")/(1<<20)
	return w
}

// lastBusy returns when it was asked for something else than the Lease last.
func (p *proxy) lastBusy() time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, e := range slices.Backward(p.exchanges) {
		if e.resource != "leases" {
			return e.at
		}
	}
	return time.Time{}
}

const (
	// moreGoroutines is how many more there may be at the end: a connection or a watch that is begun again just then has a few. One
	// that is left behind by each change would be hundreds.
	moreGoroutines = 10
	// moreHeap is by how much, in MiB, the heap may grow, and moreHeapEach by how much for each object: at the beginning it has one
	// revision, and at the end as many as are kept.
	moreHeap, moreHeapEach = 2.0, 0.02
)

// compare makes sure that the leader takes no more at the end than at the beginning.
func (c *churn) compare(before, after weight) {
	c.Logf("the leader had %d goroutines and %.1f MiB of heap at the beginning; at the end, %s old, %d and %.1f", before.goroutines, before.heap,
		after.age.Round(time.Second), after.goroutines, after.heap)
	if after.goroutines > before.goroutines+moreGoroutines {
		c.Errorf("%d goroutines, want at most %d more than %d:\n%s", after.goroutines, moreGoroutines, before.goroutines, after.stacks)
	}
	if most := before.heap + moreHeap + moreHeapEach*float64(len(c.objects)); after.heap > most {
		c.Errorf("%.1f MiB of heap, want at most %.1f", after.heap, most)
	}
}

// count counts a change.
func (c *churn) count(what string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.made[what]++
}
