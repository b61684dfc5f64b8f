package inplace

import (
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/belay-dev/belay/internal/expect"
	fake "github.com/belay-dev/belay/internal/fakecluster"
	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// among runs test in a bubble with a Deployment of good:1 that one process has seen, which takes Deployments without the label so.
func among(t *testing.T, others Others, labels map[string]string, test func(w *world)) {
	t.Helper()
	in(t, func(w *world) {
		d := labelled("good:1")
		d.Labels = labels
		fake.Add(w, d)
		startBelayWith(w, Options{Others: others})
		w.Pass(time.Minute)
		test(w)
	})
}

// What is only observed is judged, and told in Events. Nothing else is written.
func TestOthers_Observed(t *testing.T) {
	among(t, OthersObserved, nil, func(w *world) {
		release(w, "bad:2")
		w.Pass(5 * time.Minute)
		wantRuns(w, "bad:2=2, good:1=3")
		wantEvents(w, "Normal RolledOut", "Warning CrashLoop", "Warning Held")
		expect.Same(t, "writes", 0, len(writes(w)))
		wantRest(w)
		release(w, "good:3")
		w.Pass(2 * time.Minute)
		wantEvents(w, "Normal RolledOut")
		expect.Same(t, "writes", 0, len(writes(w)))
		wantRest(w)
	})
}

// What is guarded without the label is taken back as with it. With the label's other value it is let go.
func TestOthers_Guarded(t *testing.T) {
	among(t, OthersGuarded, nil, func(w *world) {
		release(w, "bad:2")
		w.Pass(3 * time.Minute)
		wantRuns(w, heldBack)
		label(w, v1alpha1.NotGuarded)
		w.Pass(time.Minute)
		wantRuns(w, "bad:2=2, good:1=3")
		expect.Same(t, "the failure", "", failure(w))
		w.Pass(2 * time.Minute)
		wantRest(w)
	})
}

// Where all others are observed, taking the label away ends what is held at once.
func TestOthers_LabelTakenAwayWhileObserving(t *testing.T) {
	asked := map[string]string{v1alpha1.GuardedLabel: v1alpha1.GuardedInPlace}
	among(t, OthersObserved, asked, func(w *world) {
		release(w, "bad:2")
		w.Pass(3 * time.Minute)
		wantRuns(w, heldBack)
		edit(w, func(d *appsv1.Deployment) { d.Labels = nil })
		w.Pass(time.Minute)
		wantRuns(w, "bad:2=2, good:1=3")
		expect.Same(t, "the failure", "", failure(w))
		w.Pass(2 * time.Minute)
		wantRest(w)
	})
}

// A Namespace that opts out is left alone, but for what asks for it.
func TestOthers_NamespaceOptsOut(t *testing.T) {
	for _, asks := range []bool{false, true} {
		in(t, func(w *world) {
			fake.Edit(w, "shop", func(n *corev1.Namespace) { n.Labels = map[string]string{v1alpha1.GuardedLabel: v1alpha1.NotGuarded} })
			d := labelled("good:1")
			want := heldBack
			if !asks {
				d.Labels, want = nil, "bad:2=2, good:1=3"
			}
			fake.Add(w, d)
			startBelayWith(w, Options{Others: OthersGuarded})
			w.Pass(time.Minute)
			release(w, "bad:2")
			w.Pass(3 * time.Minute)
			wantRuns(w, want)
		})
	}
}
