package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// settle is how long is waited for Events, which come after all else.
const settle = 3 * time.Second

// measureRequests counts what Belay asks of the API server for one object of three replicas, and at rest.
func measureRequests(ctx context.Context, b *bench) error {
	const namespace, name, resting = "bench-requests", "app-00000", 50
	seen, err := b.workIn(ctx, namespace)
	if err != nil {
		return err
	}
	defer seen.stop()
	step := func(what string, do func() error, done func(*v1alpha1.GuardedDeployment) bool) error {
		began := time.Now()
		if err := do(); err != nil {
			return err
		}
		if err := seen.all(ctx, 1, what, done); err != nil {
			return err
		}
		if err := sleep(ctx, settle); err != nil {
			return err
		}
		return b.count(what, namespace, began)
	}
	err = step("requests: first release", func() error { return b.createGuarded(ctx, namespace, 0, 1, 3) }, ready("1"))
	if err != nil {
		return err
	}
	patch := func(tag, version string) func() error {
		return func() error {
			_, err := b.guard.BelayV1alpha1().GuardedDeployments(namespace).Patch(ctx, name, types.JSONPatchType, release(tag, version), metav1.PatchOptions{})
			return err
		}
	}
	if err := step("requests: healthy release", patch("good", "2"), ready("2")); err != nil {
		return err
	}
	if err := step("requests: failed release and its rollback", patch("crash", "3"), reason(v1alpha1.ReasonRolledBack)); err != nil {
		return err
	}
	if err := b.createGuarded(ctx, namespace, 1, resting, 3); err != nil {
		return err
	}
	if err := seen.all(ctx, resting-1, "all are Ready", ready("1")); err != nil {
		return err
	}
	if err := b.untilQuiet(ctx); err != nil {
		return err
	}
	began := time.Now()
	if err := sleep(ctx, b.Rest); err != nil {
		return err
	}
	return b.count(fmt.Sprintf("requests: %d objects at rest, in %s", resting, b.Rest), namespace, began)
}

// count notes the requests since began, by verb and resource. Watches that are begun anew are left out: how often is the
// client's choice, and they are few.
func (b *bench) count(what, namespace string, began time.Time) error {
	all, err := b.audit.requests(namespace)
	if err != nil {
		return err
	}
	counts, reads, writes, comparisons := map[string]int{}, 0, 0, 0
	for _, r := range since(all, began) {
		if r.compares() {
			comparisons++
		}
		if r.Verb == "watch" || r.compares() {
			continue
		}
		counts[r.what()]++
		if r.read() {
			reads++
		} else {
			writes++
		}
	}
	var kinds []string
	for _, kind := range slices.Sorted(maps.Keys(counts)) {
		kinds = append(kinds, fmt.Sprintf("%s %d", kind, counts[kind]))
	}
	b.results.number(what+": writes", float64(writes), "", strings.Join(kinds, ", "))
	b.results.number(what+": reads", float64(reads), "", fmt.Sprintf("and %d to notice a restore of etcd", comparisons))
	return nil
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
