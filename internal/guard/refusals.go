package guard

import (
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
	"github.com/belay-dev/belay/pkg/rollout"
)

// refusalOf returns the refusal that err is, nil if it is none. What only a person can mend is a refusal; so is a size
// that the API server's store reports as an internal error.
func refusalOf(err error, write string, generation int64) *rollout.Refusal {
	if err == nil || write == "" {
		return nil
	}
	message, reason := err.Error(), ""
	tooLarge := strings.Contains(message, "larger than max") || strings.Contains(message, "request is too large")
	switch {
	case strings.Contains(message, "denied request"), strings.Contains(message, "denied the request"):
		reason = v1alpha1.ReasonDenied // by a ValidatingAdmissionPolicy, by a webhook: each chooses its own code
	case apierrors.IsInvalid(err), apierrors.IsBadRequest(err), apierrors.IsRequestEntityTooLargeError(err), tooLarge:
		reason = v1alpha1.ReasonInvalid
	case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		reason = v1alpha1.ReasonDenied
	case apierrors.IsForbidden(err) && !missingRight(message) && !unknownKind(message):
		reason = v1alpha1.ReasonDenied
	default:
		return nil
	}
	return &rollout.Refusal{Write: write, Generation: generation, Reason: reason, Message: message, Until: time.Now().Add(rollout.RefusedRetry)}
}

// missingRight tells a right that Belay lacks, which its operator has to grant, from an admission policy's no.
func missingRight(message string) bool {
	return strings.Contains(message, "cannot ") && strings.Contains(message, "in API group")
}

// unknownKind tells from an admission policy's no that OwnerReferencesPermissionEnforcement has not heard of a CRD that
// was installed just now. It will, within half a minute.
func unknownKind(message string) bool { return strings.Contains(message, "cannot find RESTMapping") }
