// Package fairqueue is a workqueue of keys in which namespaces take turns.
package fairqueue

import (
	"time"

	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"
)

// New returns a queue of keys, with this name in its metrics. Failures of one key are retried after first, doubling up to most,
// and keep no other key waiting.
func New(name string, first, most time.Duration) workqueue.TypedRateLimitingInterface[cache.ObjectName] {
	fair := workqueue.NewTypedWithConfig(workqueue.TypedQueueConfig[cache.ObjectName]{
		Name: name, Queue: &fairQueue{waiting: map[string][]cache.ObjectName{}}})
	return workqueue.NewTypedRateLimitingQueueWithConfig(
		workqueue.NewTypedItemExponentialFailureRateLimiter[cache.ObjectName](first, most),
		workqueue.TypedRateLimitingQueueConfig[cache.ObjectName]{Name: name, DelayingQueue: workqueue.NewTypedDelayingQueueWithConfig(
			workqueue.TypedDelayingQueueConfig[cache.ObjectName]{Name: name, Queue: fair})},
	)
}

// fairQueue lets namespaces take turns, and is first in, first out within each: a thousand releases in one namespace keep
// another waiting for one of them only. The workqueue calls it under a lock.
type fairQueue struct {
	turns   []string                      // the namespaces with keys that wait, the next one first
	waiting map[string][]cache.ObjectName // these keys, by namespace; none is empty
	count   int
}

// Push adds a key. The workqueue has each at most once.
func (q *fairQueue) Push(key cache.ObjectName) {
	if len(q.waiting[key.Namespace]) == 0 {
		q.turns = append(q.turns, key.Namespace)
	}
	q.waiting[key.Namespace] = append(q.waiting[key.Namespace], key)
	q.count++
}

// Pop removes the next key, and returns it.
func (q *fairQueue) Pop() cache.ObjectName {
	namespace := q.turns[0]
	keys := q.waiting[namespace]
	q.turns = q.turns[1:]
	if len(keys) > 1 {
		q.turns = append(q.turns, namespace)
		q.waiting[namespace] = keys[1:]
	} else {
		delete(q.waiting, namespace)
	}
	q.count--
	return keys[0]
}

// Touch does nothing: a key that is added once more keeps its place.
func (q *fairQueue) Touch(cache.ObjectName) {}

// Len returns how many keys wait.
func (q *fairQueue) Len() int { return q.count }
