package inplace

import (
	"context"
	"fmt"
	"maps"
	"sync"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
	"github.com/belay-dev/belay/pkg/rollout"
)

// Others says what becomes of Deployments that do not carry the label, for a trial of a whole cluster.
type Others string

const (
	// OthersNot leaves them alone.
	OthersNot Others = ""
	// OthersObserved judges their releases, tells the verdicts in Events and metrics, and writes nothing else.
	OthersObserved Others = "observe"
	// OthersGuarded guards them as if they had the label.
	OthersGuarded Others = "on"
)

// ParseOthers reads the value of a flag.
func ParseOthers(text string) (Others, error) {
	switch o := Others(text); o {
	case OthersNot, OthersObserved, OthersGuarded:
		return o, nil
	default:
		return "", fmt.Errorf("it must be %s or %s", OthersObserved, OthersGuarded)
	}
}

// systemNamespace is where Deployments are never guarded that do not ask for it: the cluster itself rests on them.
const systemNamespace = metav1.NamespaceSystem

// takesUnasked reports whether a Deployment is guarded that has no label. Its Namespace may opt out with the same label.
func (g *Guard) takesUnasked(ctx context.Context, d *appsv1.Deployment) bool {
	_, labelled := d.Labels[v1alpha1.GuardedLabel]
	return g.others != OthersNot && !labelled && d.Namespace != systemNamespace && !g.settings.optsOut(ctx, d.Namespace)
}

// guards reports whether ReplicaSets may be held for the Deployment.
func (g *Guard) guards(ctx context.Context, d *appsv1.Deployment) bool {
	return asksFor(d) || (g.others == OthersGuarded && !isOwned(d) && g.takesUnasked(ctx, d))
}

// onlyObserves reports whether nothing but Events may be written about the Deployment.
func (g *Guard) onlyObserves(d *appsv1.Deployment) bool {
	return g.others == OthersObserved && !asksFor(d)
}

// pretence is what would have been written about Deployments that are only observed. What is read is changed so that it shows that.
type pretence struct {
	mu      sync.Mutex
	written map[types.UID]*pretended // by the uid of the Deployment
}

// pretended is what would have been written about one Deployment: its annotations, and the labels of its ReplicaSets.
type pretended struct {
	annotations map[string]*string
	labels      map[types.UID]map[string]*string
}

// carryOut takes the place of the write of a decision, and returns what its answer would have been.
func (p *pretence) carryOut(d *appsv1.Deployment, decision rollout.InPlaceDecision) (*appsv1.Deployment, *appsv1.ReplicaSet) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.written == nil {
		p.written = map[types.UID]*pretended{}
	}
	w := p.written[d.UID]
	if w == nil {
		w = &pretended{annotations: map[string]*string{}, labels: map[types.UID]map[string]*string{}}
		p.written[d.UID] = w
	}
	switch {
	case decision.Status != nil:
		maps.Copy(w.annotations, decision.Status.Annotations)
		return w.of(d), nil
	case decision.Set != nil:
		uid := decision.Set.Set.UID
		if w.labels[uid] == nil {
			w.labels[uid] = map[string]*string{}
		}
		maps.Copy(w.labels[uid], decision.Set.Labels)
		set := decision.Set.Set.DeepCopy()
		set.Labels = with(set.Labels, w.labels[uid])
		return nil, set
	default:
		return nil, nil
	}
}

// deployment returns the Deployment with what would have been written.
func (p *pretence) deployment(d *appsv1.Deployment) *appsv1.Deployment {
	p.mu.Lock()
	defer p.mu.Unlock()
	if w := p.written[d.UID]; w != nil {
		return w.of(d)
	}
	return d
}

func (w *pretended) of(d *appsv1.Deployment) *appsv1.Deployment {
	changed := *d
	changed.Annotations = with(d.Annotations, w.annotations)
	return &changed
}

// sets changes the ReplicaSets, which were read for one Deployment, to what would have been written. Those that are gone are forgotten.
func (p *pretence) sets(d *appsv1.Deployment, read *rollout.Evidence) {
	p.mu.Lock()
	defer p.mu.Unlock()
	w := p.written[d.UID]
	if w == nil {
		return
	}
	there := map[types.UID]map[string]*string{}
	for _, set := range read.ReplicaSets {
		if labels := w.labels[set.UID]; labels != nil {
			set.Labels, there[set.UID] = with(set.Labels, labels), labels
		}
	}
	w.labels = there
}

// forget drops what is known of a Deployment.
func (p *pretence) forget(uid types.UID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.written, uid)
}

// with returns a copy of a map with these entries, and without those that are nil.
func with(m map[string]string, change map[string]*string) map[string]string {
	changed := map[string]string{}
	maps.Copy(changed, m)
	for key, value := range change {
		if value == nil {
			delete(changed, key)
		} else {
			changed[key] = *value
		}
	}
	return changed
}
