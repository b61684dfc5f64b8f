package rollout

import (
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// Observed is everything that a decision is made from.
type Observed struct {
	Guarded *v1alpha1.GuardedDeployment
	// GuardedAt is when the API server was asked last, and said that Guarded still asks for the same; zero if it was not.
	GuardedAt time.Time
	// Deployment is the one of the same name, whoever owns it; nil if there is none.
	Deployment *appsv1.Deployment
	// DeploymentLive says that Deployment is what the API server says, and not the cache.
	DeploymentLive bool
	// Strays are the names of other Deployments that name Guarded as their controller, sorted: copies, for example.
	Strays []string
	// Revisions are the ControllerRevisions that name Guarded as their controller.
	Revisions []*appsv1.ControllerRevision
	// RevisionsLive says that Revisions were read from the API server just now.
	RevisionsLive bool
	// TargetLive says that the API server was asked since, and that the revision with the spec's template is as in Revisions.
	TargetLive bool
	// Evidence is about the Deployment's pods, read from the API server just now; nil if it was not read.
	Evidence *Evidence
	// Memory is that of the last outcome.
	Memory Memory
	Now    time.Time
	// PollInterval is the time between two polls of the evidence of one object. A container whose time is up, and a hint that
	// all is done, may bring one forward.
	PollInterval time.Duration
}

// replace puts a revision, as the API server answered its write, in the place of the one that was observed.
func (o *Observed) replace(revision *appsv1.ControllerRevision) {
	others := slices.DeleteFunc(slices.Clone(o.Revisions), func(r *appsv1.ControllerRevision) bool { return r.Name == revision.Name })
	o.Revisions = append(others, revision)
}
