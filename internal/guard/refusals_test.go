package guard

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/belay-dev/belay/internal/expect"
	"github.com/belay-dev/belay/internal/freshness"
	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
	"github.com/belay-dev/belay/pkg/rollout"
)

// The errors are as the API server makes them, and as client-go and the functions in writes.go hand them on.
func TestRefusalOf(t *testing.T) {
	deployments := schema.GroupResource{Group: "apps", Resource: "deployments"}
	denied := func(code int32, reason metav1.StatusReason, message string) error {
		return &apierrors.StatusError{ErrStatus: metav1.Status{Status: metav1.StatusFailure, Code: code, Reason: reason, Message: message}}
	}
	const (
		policy  = `deployments.apps "web" is forbidden: ValidatingAdmissionPolicy 'owned' with binding 'everywhere' denied request: no`
		webhook = `admission webhook "policy.example.com" denied the request: no`
	)
	for name, c := range map[string]struct {
		err  error
		want string // the reason, empty for an error that is no refusal
		in   time.Duration
	}{
		"invalid": {apierrors.NewInvalid(schema.GroupKind{Group: "apps", Kind: "Deployment"}, "web", field.ErrorList{
			field.Invalid(field.NewPath("spec", "selector"), "x", "field is immutable")}), v1alpha1.ReasonInvalid, rollout.RefusedRetry},
		"bad request":             {apierrors.NewBadRequest(`unknown field "spec.x"`), v1alpha1.ReasonInvalid, rollout.RefusedRetry},
		"request too large":       {apierrors.NewRequestEntityTooLargeError("limit is 3145728"), v1alpha1.ReasonInvalid, rollout.RefusedRetry},
		"too large for etcd":      {apierrors.NewInternalError(errors.New("etcdserver: request is too large")), v1alpha1.ReasonInvalid, rollout.RefusedRetry},
		"too large for the store": {apierrors.NewInternalError(errors.New("rpc error: code = ResourceExhausted desc = trying to send message larger than max (2981375 vs. 2097152)")), v1alpha1.ReasonInvalid, rollout.RefusedRetry},

		"policy":                  {denied(422, metav1.StatusReasonInvalid, policy), v1alpha1.ReasonDenied, rollout.RefusedRetry},
		"policy with a reason":    {denied(403, metav1.StatusReasonForbidden, policy), v1alpha1.ReasonDenied, rollout.RefusedRetry},
		"policy, unauthorized":    {denied(401, metav1.StatusReasonUnauthorized, policy), v1alpha1.ReasonDenied, rollout.RefusedRetry},
		"webhook":                 {denied(403, metav1.StatusReasonForbidden, webhook), v1alpha1.ReasonDenied, rollout.RefusedRetry},
		"webhook without a code":  {denied(400, "", webhook), v1alpha1.ReasonDenied, rollout.RefusedRetry},
		"webhook that says 422":   {denied(422, metav1.StatusReasonInvalid, webhook), v1alpha1.ReasonDenied, rollout.RefusedRetry},
		"quota":                   {apierrors.NewForbidden(deployments, "web", errors.New("exceeded quota: small, requested: count/deployments.apps=1, used: count/deployments.apps=1, limited: count/deployments.apps=1")), v1alpha1.ReasonDenied, rollout.RefusedRetry},
		"owner not to be blocked": {apierrors.NewForbidden(deployments, "web", errors.New("cannot set blockOwnerDeletion if an ownerReference refers to a resource you can't set finalizers on: , <nil>")), v1alpha1.ReasonDenied, rollout.RefusedRetry},
		"namespace terminating":   {namespaceTerminating(), v1alpha1.ReasonDenied, rollout.RefusedRetry},

		"Belay lacks a right": {apierrors.NewForbidden(deployments, "web", errors.New(
			`User "system:serviceaccount:belay:belay" cannot update resource "deployments" in API group "apps" in the namespace "shop"`)), "", 0},
		"conflict":            {apierrors.NewConflict(deployments, "web", errors.New("the object has been modified; please apply your changes to the latest version and try again")), "", 0},
		"stale":               {freshness.Stale("the cache"), "", 0},
		"not found":           {apierrors.NewNotFound(deployments, "web"), "", 0},
		"no such namespace":   {apierrors.NewNotFound(schema.GroupResource{Resource: "namespaces"}, "shop"), "", 0},
		"unauthorized":        {apierrors.NewUnauthorized("Unauthorized"), "", 0},
		"internal error":      {apierrors.NewInternalError(errors.New("etcdserver: leader changed")), "", 0},
		"webhook unreachable": {apierrors.NewInternalError(errors.New(`failed calling webhook "policy.example.com": connection refused`)), "", 0},
		"unavailable":         {apierrors.NewServiceUnavailable("the server is currently unable to handle the request"), "", 0},
		"too many requests":   {apierrors.NewTooManyRequests("too many requests", 1), "", 0},
		"server timeout":      {apierrors.NewServerTimeout(deployments, "update", 1), "", 0},
		"gateway timeout":     {apierrors.NewTimeoutError("request did not complete within the allotted timeout", 1), "", 0},
		"our own timeout":     {&url.Error{Op: "Put", URL: "https://10.0.0.1", Err: context.DeadlineExceeded}, "", 0},
		"refused connection":  {&url.Error{Op: "Put", URL: "https://10.0.0.1", Err: &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}}, "", 0},
		"no error":            {nil, "", 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				err := c.err
				if err != nil {
					err = fmt.Errorf("write Deployment: %w", err)
				}
				got := refusalOf(err, "deployment 1234", 7)
				switch {
				case c.want == "" && got != nil:
					t.Errorf("refusal %+v, want none", got)
				case c.want == "":
				case got == nil:
					t.Errorf("no refusal, want %s", c.want)
				default:
					expect.Same(t, "refusal", &rollout.Refusal{Write: "deployment 1234", Generation: 7, Reason: c.want, Message: got.Message,
						Until: time.Now().Add(c.in)}, got)
				}
			})
		})
	}
}

func TestRefusalOf_ServersMessage(t *testing.T) {
	got := refusalOf(fmt.Errorf("write Deployment: %w", deniedByPolicy()), "deployment 1234", 7)
	for _, part := range []string{"write Deployment", "ValidatingAdmissionPolicy 'owned'", "no"} {
		if !strings.Contains(got.Message, part) {
			t.Errorf("message %q, want it to contain %q", got.Message, part)
		}
	}
}

func TestRefusalOf_Verdict(t *testing.T) {
	if got := refusalOf(deniedByPolicy(), "", 7); got != nil {
		t.Errorf("refusal %+v, want an error that is tried again", got)
	}
}
