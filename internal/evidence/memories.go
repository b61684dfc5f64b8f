package evidence

import (
	"context"
	"sync"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/belay-dev/belay/pkg/rollout"
)

// Memory is what a guard knows of one object from one sync to the next.
type Memory interface {
	// UnderWay reports whether evidence about the object is being read, time and again.
	UnderWay() bool
}

// Memories are those of all objects of a guard. The ones that are under way are part of the load of the Reader. They rely on one worker
// at a time per key, as the workqueue guarantees.
type Memories[M Memory] struct {
	reader *Reader

	mu    sync.Mutex
	known map[cache.ObjectName]known[M]
}

type known[M Memory] struct {
	memory M
	polled poll // the last one of what is under way
}

// load returns what the reads for the object take.
func (k known[M]) load() load {
	if !k.memory.UnderWay() {
		return load{}
	}
	return load{objects: 1, pods: k.polled.pods}
}

// NewMemories returns the Memories of a guard that reads with this Reader.
func NewMemories[M Memory](reader *Reader) *Memories[M] {
	return &Memories[M]{reader: reader, known: map[cache.ObjectName]known[M]{}}
}

// Of returns what is known of an object, the zero value if nothing is.
func (m *Memories[M]) Of(key cache.ObjectName) M {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.known[key].memory
}

// All yields what is known of each object. Nothing else may be done with the Memories meanwhile.
func (m *Memories[M]) All(yield func(M) bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, k := range m.known {
		if !yield(k.memory) {
			return
		}
	}
}

// Keep replaces what is known of an object.
func (m *Memories[M]) Keep(key cache.ObjectName, memory M) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := known[M]{memory: memory}
	if memory.UnderWay() {
		now.polled = m.known[key].polled
	}
	m.replace(key, now)
}

// Forget drops what is known of an object.
func (m *Memories[M]) Forget(key cache.ObjectName) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.replace(key, known[M]{})
	delete(m.known, key)
}

// Read reads the evidence about an object, whose Deployment d is, and keeps the poll for the next one.
func (m *Memories[M]) Read(ctx context.Context, key cache.ObjectName, d *appsv1.Deployment) (*rollout.Evidence, error) {
	found, polled, err := m.reader.read(ctx, d, m.lastPoll(key))
	if err != nil {
		return nil, err
	}
	m.notePoll(key, polled)
	return found, nil
}

func (m *Memories[M]) lastPoll(key cache.ObjectName) poll {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.known[key].polled
}

func (m *Memories[M]) notePoll(key cache.ObjectName, polled poll) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.replace(key, known[M]{memory: m.known[key].memory, polled: polled})
}

// replace replaces what is known of an object, with its part of the load, while m is locked.
func (m *Memories[M]) replace(key cache.ObjectName, now known[M]) {
	m.reader.replace(m.known[key].load(), now.load())
	m.known[key] = now
}
