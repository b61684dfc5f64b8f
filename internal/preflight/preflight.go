// Package preflight finds out, before the work begins, whether it can be done, and says what to do if not.
package preflight

import (
	"context"
	"fmt"
	"strings"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/klog/v2"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

const (
	// reachTimeout bounds the first request.
	reachTimeout = 10 * time.Second
	// installTimeout is how long the CRD and the rights may take to appear: they may be installed at the same moment.
	installTimeout = 10 * time.Second
)

// Config is what of the flags decides which permissions are needed.
type Config struct {
	// Namespace is the only one to work in, empty for all.
	Namespace string
	// LeaseNamespace is where the Lease is, empty without leader election, and LeaseName which it is.
	LeaseNamespace, LeaseName string
	// Reviews says that whoever reads the metrics is reviewed.
	Reviews bool
	// Wait says that somebody asks for the health: then there is no error but the end of the context.
	Wait bool
}

// permission is what Belay must be allowed to do to a resource.
type permission struct {
	group, resource, verbs string
	// namespace is where, all if it is empty, and name to which object, any if it is empty.
	namespace, name string
}

// required returns the permissions that Belay cannot work without.
func required(c Config) []permission {
	permissions := []permission{
		{group: v1alpha1.GroupName, resource: "guardeddeployments", verbs: "get list watch"},
		{group: v1alpha1.GroupName, resource: "guardeddeployments/status", verbs: "update"},
		// For blockOwnerDeletion, where the admission plugin OwnerReferencesPermissionEnforcement asks for it.
		{group: v1alpha1.GroupName, resource: "guardeddeployments/finalizers", verbs: "update"},
		{group: "apps", resource: "deployments", verbs: "get list watch create update"},
		{group: "apps", resource: "controllerrevisions", verbs: "get list watch create update delete"},
		{group: "apps", resource: "replicasets", verbs: "list"},
		{group: "", resource: "pods", verbs: "list"},
		{group: "events.k8s.io", resource: "events", verbs: "create patch"},
	}
	for i := range permissions {
		permissions[i].namespace = c.Namespace
	}
	if c.LeaseNamespace != "" {
		permissions = append(permissions,
			permission{group: "coordination.k8s.io", resource: "leases", verbs: "create", namespace: c.LeaseNamespace},
			permission{group: "coordination.k8s.io", resource: "leases", verbs: "get update", namespace: c.LeaseNamespace, name: c.LeaseName})
	}
	if c.Reviews {
		permissions = append(permissions,
			permission{group: "authentication.k8s.io", resource: "tokenreviews", verbs: "create"},
			permission{group: "authorization.k8s.io", resource: "subjectaccessreviews", verbs: "create"})
	}
	return permissions
}

// Run returns nil as soon as the controller can work. Until then it tells notYet why not. Unless config says to wait, an error ends
// the waiting, at once if there is no API server, and after a while if something is not installed on it.
func Run(ctx context.Context, server string, kube kubernetes.Interface, config Config, notYet func(why error)) error {
	said, begun := "", time.Now()
	for {
		err, patience := reach(ctx, server, kube), time.Duration(0)
		if err == nil {
			err, patience = installed(ctx, kube, config), installTimeout
		}
		if err == nil || ctx.Err() != nil {
			return err
		}
		if !config.Wait && time.Since(begun) >= patience {
			return err
		}
		notYet(err)
		if config.Wait && err.Error() != said {
			klog.FromContext(ctx).Error(err, "Cannot work yet, looking again")
			said = err.Error()
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(time.Second):
		}
	}
}

// reach returns an error if there is no API server.
func reach(ctx context.Context, server string, kube kubernetes.Interface) error {
	ctx, cancel := context.WithTimeout(ctx, reachTimeout)
	defer cancel()
	if _, err := kube.Discovery().RESTClient().Get().AbsPath("/version").DoRaw(ctx); err != nil {
		return fmt.Errorf("the API server at %s cannot be used: %w; check the kubeconfig and that the server is up", server, err)
	}
	return nil
}

// installed returns an error that says what of the installation is missing. The rights are many requests, each of which
// has a timeout of its own: all of them together take as long as they take.
func installed(ctx context.Context, kube kubernetes.Interface, config Config) error {
	asking, cancel := context.WithTimeout(ctx, installTimeout)
	defer cancel()
	_, err := kube.Discovery().RESTClient().Get().AbsPath("/apis", v1alpha1.GroupVersion.String()).DoRaw(asking)
	if err != nil {
		return fmt.Errorf("the API server has no %s: %w; install it with \"kubectl apply -f artifacts/crd.yaml\"", v1alpha1.GroupVersion, err)
	}
	missing, err := missingPermissions(ctx, kube, required(config))
	if err != nil {
		return fmt.Errorf("ask for our rights: %w", err)
	}
	if len(missing) > 0 {
		return fmt.Errorf("missing rights: %s; grant them to this user, or use another", strings.Join(missing, ", "))
	}
	return nil
}

// missingPermissions returns those that the API server would not grant, each as verb and resource.
func missingPermissions(ctx context.Context, kube kubernetes.Interface, permissions []permission) (missing []string, err error) {
	for _, p := range permissions {
		resource, subresource, _ := strings.Cut(p.resource, "/")
		for verb := range strings.FieldsSeq(p.verbs) {
			review, err := kube.AuthorizationV1().SelfSubjectAccessReviews().Create(ctx, &authorizationv1.SelfSubjectAccessReview{
				Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &authorizationv1.ResourceAttributes{
					Namespace: p.namespace, Name: p.name, Verb: verb,
					Group: p.group, Resource: resource, Subresource: subresource,
				}},
			}, metav1.CreateOptions{})
			if err != nil {
				return nil, err
			}
			if !review.Status.Allowed {
				missing = append(missing, fmt.Sprintf("%s %s", verb, p.resource))
			}
		}
	}
	return missing, nil
}
