package fairqueue

import (
	"fmt"
	"testing"

	"k8s.io/client-go/tools/cache"

	"github.com/belay-dev/belay/internal/expect"
)

func TestQueue_NamespacesTakeTurns(t *testing.T) {
	q := &fairQueue{waiting: map[string][]cache.ObjectName{}}
	push := func(keys ...string) {
		for _, key := range keys {
			name, err := cache.ParseObjectName(key)
			expect.NoError(t, err)
			q.Push(name)
		}
	}
	var order []string
	pop := func(count int) {
		for range count {
			order = append(order, q.Pop().String())
		}
	}
	push("a/1", "a/2", "a/3", "b/1")
	pop(1)
	push("c/1", "b/2")
	pop(3)
	push("a/4", "c/2")
	pop(4)
	expect.Same(t, "order", []string{"a/1", "b/1", "a/2", "c/1", "b/2", "a/3", "c/2", "a/4"}, order)
	expect.Same(t, "left", 0, q.Len())
	expect.Same(t, "namespaces that are remembered", 0, len(q.waiting)+len(q.turns))
}

// However much waits in other namespaces, one key of each goes first, at most.
func TestQueue_WaitsForOneOfEachOtherNamespace(t *testing.T) {
	const namespaces, keys = 10, 1000
	q := &fairQueue{waiting: map[string][]cache.ObjectName{}}
	for i := range namespaces * keys {
		q.Push(cache.NewObjectName(fmt.Sprint(i%namespaces), fmt.Sprint(i)))
	}
	for range 2345 {
		q.Pop()
	}
	bystander := cache.NewObjectName("quiet", "web")
	q.Push(bystander)
	waited := 0
	for q.Pop() != bystander {
		waited++
	}
	expect.Same(t, "keys that went first", namespaces, waited)
}
