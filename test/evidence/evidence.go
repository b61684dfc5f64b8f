// Package evidence tells, for tests and benchmarks, since when the API server has shown that a release has failed.
package evidence

import (
	"context"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
)

// Watch watches the pods of a namespace until stop is called. since tells when they first proved that the release of the
// object named in their label "app" has failed: a container that is not ready and has restarted more than maxRestarts
// times, or that has waited for its image for as long as stuck.
func Watch(ctx context.Context, client kubernetes.Interface, namespace string, maxRestarts int32, stuck time.Duration) (since func(name string) (time.Time, bool), stop func(), err error) {
	watcher, err := client.CoreV1().Pods(namespace).Watch(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, nil, err
	}
	var mu sync.Mutex
	shown := map[string]time.Time{}
	go func() {
		for event := range watcher.ResultChan() {
			pod, ok := event.Object.(*corev1.Pod)
			if !ok || event.Type == watch.Deleted || pod.DeletionTimestamp != nil {
				continue
			}
			for _, c := range pod.Status.ContainerStatuses {
				at := time.Now()
				switch waiting := c.State.Waiting; {
				case !c.Ready && c.RestartCount > maxRestarts:
				case waiting != nil && strings.Contains(waiting.Reason, "ImagePull"):
					at = at.Add(stuck)
				default:
					continue
				}
				mu.Lock()
				name := pod.Labels["app"]
				if earlier, ok := shown[name]; !ok || at.Before(earlier) {
					shown[name] = at
				}
				mu.Unlock()
			}
		}
	}()
	return func(name string) (time.Time, bool) {
		mu.Lock()
		defer mu.Unlock()
		at, ok := shown[name]
		return at, ok
	}, watcher.Stop, nil
}
