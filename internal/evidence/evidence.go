// Package evidence reads, live, what the judge goes by: ReplicaSets and pods, and for single objects Events, Nodes, the end of a log,
// and whether ConfigMaps and Secrets are there. It writes nothing and decides nothing.
package evidence

import (
	"sync"
	"time"

	"k8s.io/client-go/kubernetes"
)

// Reader reads for all objects of a process: what one has met with, and what all take, spares the others.
type Reader struct {
	kube kubernetes.Interface

	mu       sync.Mutex
	underWay load                 // of those that have a rollout under way
	noLog    map[string]time.Time // the nodes of which a log did not come lately, and when
}

// New returns a Reader that asks the API server behind kube.
func New(kube kubernetes.Interface) *Reader {
	return &Reader{kube: kube, noLog: map[string]time.Time{}}
}
