package fakecluster

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// Registry has what the tags of images point to, and how pods fare of what they point to, which F says. An image is pulled when its
// pod is created: a tag that moves later changes nothing for it.
type Registry[F any] struct {
	moves map[string][]time.Time // by image, in order
	fares map[string]F           // by digest
}

// Set says how the pods fare of what an image points to at a time.
func (r *Registry[F]) Set(image string, at time.Time, fare F) {
	if r.fares == nil {
		r.fares = map[string]F{}
	}
	r.fares[r.digest(image, at)] = fare
}

// Move lets a tag point to something new from a time on, and says how the pods of that fare.
func (r *Registry[F]) Move(image string, at time.Time, fare F) {
	if r.moves == nil {
		r.moves = map[string][]time.Time{}
	}
	r.moves[image] = append(r.moves[image], at)
	r.Set(image, at, fare)
}

// Fare returns how the pods of an image fare that are created at a time, false if nobody has said.
func (r *Registry[F]) Fare(image string, created time.Time) (fare F, known bool) {
	fare, known = r.fares[r.digest(image, created)]
	return fare, known
}

// digest returns what an image points to at a time. What names its digest is always that.
func (r *Registry[F]) digest(image string, at time.Time) string {
	if _, digest, pinned := strings.Cut(image, "@"); pinned {
		return digest
	}
	moved := 0
	for _, move := range r.moves[image] {
		if !move.After(at) {
			moved++
		}
	}
	return fmt.Sprintf("sha256:%x", sha256.Sum256(fmt.Appendf(nil, "%s %d", image, moved)))
}

// ImageID returns an image as pods that are created at a time report it, if containerd runs them: no tag, and the repository in full.
func (r *Registry[F]) ImageID(image string, created time.Time) string {
	repository, _, _ := strings.Cut(image, "@")
	if colon := strings.LastIndex(repository, ":"); colon > strings.LastIndex(repository, "/") {
		repository = repository[:colon]
	}
	switch host, _, path := strings.Cut(repository, "/"); {
	case !path:
		repository = "docker.io/library/" + repository
	case !strings.ContainsAny(host, ".:") && host != "localhost":
		repository = "docker.io/" + repository
	}
	return repository + "@" + r.digest(image, created)
}

// SetImageIDs sets the imageID of those containers of a pod that were created and have none in its status.
func (r *Registry[F]) SetImageIDs(pod *corev1.Pod) {
	images := map[string]string{}
	for _, container := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
		images[container.Name] = container.Image
	}
	for _, statuses := range [][]corev1.ContainerStatus{pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses} {
		for i := range statuses {
			status := &statuses[i]
			created := status.State.Running != nil || status.State.Terminated != nil || status.LastTerminationState.Terminated != nil
			if image := images[status.Name]; created && image != "" && status.ImageID == "" {
				status.ImageID = r.ImageID(image, pod.CreationTimestamp.Time)
			}
		}
	}
}
