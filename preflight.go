package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

const (
	// reachTimeout bounds the first request.
	reachTimeout = 10 * time.Second
	// installTimeout is how long the CRD and the rights may take to appear: they may be installed at the same moment.
	installTimeout = 10 * time.Second
)

// needed are the rights that Belay cannot work without.
var needed = []struct {
	group, resource, verbs string
}{
	{v1alpha1.GroupName, "guardeddeployments", "get list watch"},
	{v1alpha1.GroupName, "guardeddeployments/status", "update"},
	{"apps", "deployments", "get list watch create update"},
	{"apps", "controllerrevisions", "get list watch create update delete"},
	{"apps", "replicasets", "list"},
	{"", "pods", "list"},
	{"events.k8s.io", "events", "create patch"},
}

// preflight makes sure that the controller can work at all. Its errors say what to do.
func preflight(ctx context.Context, server, namespace string, kube kubernetes.Interface) error {
	reach, cancel := context.WithTimeout(ctx, reachTimeout)
	defer cancel()
	if _, err := kube.Discovery().RESTClient().Get().AbsPath("/version").DoRaw(reach); err != nil {
		return fmt.Errorf("the API server at %s cannot be used: %w; check the kubeconfig and that the server is up", server, err)
	}
	install, cancel := context.WithTimeout(ctx, installTimeout)
	defer cancel()
	var missing error
	for {
		err := installed(install, namespace, kube)
		if err == nil {
			return nil
		}
		if missing == nil || install.Err() == nil { // A look that was cut short has nothing to say.
			missing = err
		}
		select {
		case <-install.Done():
			return missing
		case <-time.After(time.Second):
		}
	}
}

// installed returns an error that says what of the installation is missing.
func installed(ctx context.Context, namespace string, kube kubernetes.Interface) error {
	_, err := kube.Discovery().RESTClient().Get().AbsPath("/apis", v1alpha1.GroupVersion.String()).DoRaw(ctx)
	if err != nil {
		return fmt.Errorf("the API server has no %s: %w; install it with \"kubectl apply -f artifacts/crd.yaml\"", v1alpha1.GroupVersion, err)
	}
	var missing []string
	for _, right := range needed {
		resource, subresource, _ := strings.Cut(right.resource, "/")
		for verb := range strings.FieldsSeq(right.verbs) {
			review, err := kube.AuthorizationV1().SelfSubjectAccessReviews().Create(ctx, &authorizationv1.SelfSubjectAccessReview{
				Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &authorizationv1.ResourceAttributes{
					Namespace: namespace, Verb: verb, Group: right.group, Resource: resource, Subresource: subresource,
				}},
			}, metav1.CreateOptions{})
			if err != nil {
				return fmt.Errorf("ask for our rights: %w", err)
			}
			if !review.Status.Allowed {
				missing = append(missing, fmt.Sprintf("%s %s", verb, right.resource))
			}
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("missing rights: %s; grant them to this user, or use another", strings.Join(missing, ", "))
	}
	return nil
}
