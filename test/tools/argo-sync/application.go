package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/argoproj/argo-cd/gitops-engine/pkg/cache"
	"github.com/argoproj/argo-cd/gitops-engine/pkg/diff"
	"github.com/argoproj/argo-cd/gitops-engine/pkg/health"
	"github.com/argoproj/argo-cd/gitops-engine/pkg/sync"
	"github.com/argoproj/argo-cd/gitops-engine/pkg/sync/common"
	"github.com/argoproj/argo-cd/gitops-engine/pkg/utils/kube"
	"github.com/go-logr/logr"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
)

const (
	// waveDelay is how long Argo CD lets controllers react to a wave before it looks at what came of it.
	waveDelay = 2 * time.Second
	lookEvery = 500 * time.Millisecond
	manager   = "argocd-controller"
)

// application is the manifests, and the cluster that they are for.
type application struct {
	config     *rest.Config
	namespace  string
	serverSide bool
	targets    []*unstructured.Unstructured
	kubectl    *kube.KubectlCmd
	cache      cache.ClusterCache
}

// compare returns the targets, each with the object that the cache has of it.
func (a *application) compare() (sync.ReconciliationResult, error) {
	live, err := a.cache.GetManagedLiveObjs(a.targets, func(*cache.Resource) bool { return false })
	if err != nil {
		return sync.ReconciliationResult{}, err
	}
	return sync.Reconcile(a.targets, live, a.namespace, a.cache), nil
}

// sync is one operation. Like Argo CD's controller, it compares before every step, and goes on from the state after the last
// one. Where there is one wave, an operation succeeds as soon as all is applied.
func (a *application) sync(ctx context.Context) (phase common.OperationPhase, message string, err error) {
	var results []common.ResourceSyncResult
	started := metav1.Now()
	for {
		compared, err := a.compare()
		if err != nil {
			return "", "", err
		}
		step, cleanup, err := sync.NewSyncContext("", compared, a.config, a.config, a.kubectl, a.namespace,
			sync.WithLogr(logr.Discard()), sync.WithInitialState(phase, message, results, started),
			sync.WithServerSideApply(a.serverSide), sync.WithServerSideApplyManager(manager), sync.WithSyncWaveHook(delay))
		if err != nil {
			return "", "", err
		}
		step.Sync()
		cleanup()
		if phase, message, results = step.GetState(); phase.Completed() {
			return phase, fmt.Sprintf("%s: %s", message, strings.Join(messages(results), ", ")), nil
		}
		if err := sleep(ctx); err != nil {
			return phase, message, nil
		}
	}
}

func delay(_ common.SyncPhase, _ int, final bool) error {
	if !final {
		time.Sleep(waveDelay)
	}
	return nil
}

func messages(results []common.ResourceSyncResult) (texts []string) {
	for _, r := range results {
		texts = append(texts, r.Message)
	}
	return texts
}

// sleep waits for the next look. It is an error if there is no time left.
func sleep(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(lookEvery):
		return nil
	}
}

// wait waits until all is healthy, or something is degraded. Until the cache has seen what was applied, Argo CD shows what was
// before: that does not count.
func (a *application) wait(ctx context.Context) (healthy bool, message string, err error) {
	applied, err := a.generations(ctx)
	if err != nil {
		return false, "", err
	}
	for {
		compared, err := a.compare()
		if err != nil {
			return false, "", err
		}
		worst, message, err := worst(compared.Live)
		if err != nil {
			return false, "", err
		}
		message = fmt.Sprintf("%s: %s", worst, message)
		if !behind(compared.Live, applied) && (worst == health.HealthStatusHealthy || worst == health.HealthStatusDegraded) {
			return worst == health.HealthStatusHealthy, message, nil
		}
		if err := sleep(ctx); err != nil {
			return false, "timed out, " + message, nil
		}
	}
}

// generations returns those that the API server has now.
func (a *application) generations(ctx context.Context) (map[types.UID]int64, error) {
	found := map[types.UID]int64{}
	for _, target := range a.targets {
		object, err := a.kubectl.GetResource(ctx, a.config, target.GroupVersionKind(), target.GetName(), a.namespace)
		if err != nil {
			return nil, err
		}
		found[object.GetUID()] = object.GetGeneration()
	}
	return found, nil
}

// behind reports whether one of the objects is not there, or of an earlier generation.
func behind(objects []*unstructured.Unstructured, generations map[types.UID]int64) bool {
	return slices.ContainsFunc(objects, func(o *unstructured.Unstructured) bool {
		return o == nil || o.GetGeneration() < generations[o.GetUID()]
	})
}

// worst is the health of an application: that of its least healthy part.
func worst(objects []*unstructured.Unstructured) (code health.HealthStatusCode, message string, err error) {
	code = health.HealthStatusHealthy
	for _, object := range objects {
		if object == nil {
			return health.HealthStatusMissing, "something is not there", nil
		}
		h, err := health.GetResourceHealth(object, nil)
		if err != nil {
			return "", "", err
		}
		if h != nil && health.IsWorse(code, h.Status) {
			code, message = h.Status, h.Message
		}
	}
	return code, message, nil
}

// difference returns each object that is out of sync: its name, what it is, and what it would be. As in Argo CD, that is so for as long as
// the object does not change: what is cached and what a dry run says may be of two moments.
func (a *application) difference() (texts []string, err error) {
	compared, err := a.compare()
	if err != nil {
		return nil, err
	}
	for range 10 {
		if texts, err = a.differenceOf(compared); err != nil || len(texts) == 0 {
			return nil, err
		}
		time.Sleep(time.Second)
		again, err := a.compare()
		if err != nil {
			return nil, err
		}
		if slices.EqualFunc(compared.Live, again.Live, isAsOld) {
			break
		}
		compared = again
	}
	return texts, nil
}

func isAsOld(a, b *unstructured.Unstructured) bool {
	return a == b || a != nil && b != nil && a.GetResourceVersion() == b.GetResourceVersion()
}

func (a *application) differenceOf(compared sync.ReconciliationResult) (texts []string, err error) {
	options := []diff.Option{diff.WithLogr(logr.Discard()), diff.WithNormalizer(withoutStatus{})}
	if a.serverSide {
		dryRuns, cleanup, err := a.kubectl.ManageServerSideDiffDryRuns(a.config)
		if err != nil {
			return nil, err
		}
		defer cleanup()
		options = append(options, diff.WithServerSideDiff(true), diff.WithManager(manager), diff.WithGVKParser(a.cache.GetGVKParser()),
			diff.WithServerSideDryRunner(diff.NewK8sServerSideDryRunner(dryRuns)))
	}
	list, err := diff.DiffArray(compared.Target, compared.Live, options...)
	if err != nil {
		return nil, err
	}
	for i, d := range list.Diffs {
		if d.Modified {
			target := compared.Target[i]
			texts = append(texts, fmt.Sprintf("%s/%s\n%s\n---\n%s", target.GetKind(), target.GetName(), d.NormalizedLive, d.PredictedLive))
		}
	}
	return texts, nil
}

// withoutStatus compares as Argo CD does from 3.0 on, if nothing else is said: what is in the status is no difference.
type withoutStatus struct{}

func (withoutStatus) Normalize(object *unstructured.Unstructured) error {
	unstructured.RemoveNestedField(object.Object, "status")
	return nil
}
