package guard

import (
	"errors"
	"fmt"
	"testing"
	"time"

	fake "github.com/belay-dev/belay/internal/fakecluster"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/belay-dev/belay/internal/expect"
	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// everyWrite is every kind of write that the story of tellStory needs. Each comes more than once.
var everyWrite = map[string]func(r request) bool{
	"record a revision":     func(r request) bool { return r.Verb == "create" && r.Resource == "controllerrevisions" },
	"mark a revision":       func(r request) bool { return r.Verb == "update" && r.Resource == "controllerrevisions" },
	"create the Deployment": func(r request) bool { return r.Verb == "create" && r.Resource == "deployments" },
	"update the Deployment": func(r request) bool { return r.Verb == "update" && r.Resource == "deployments" },
	"write the status":      func(r request) bool { return r.Resource == "guardeddeployments/status" },
	"prune a revision":      func(r request) bool { return r.Verb == "delete" },
}

// passing are errors after which trying again helps, as client-go returns them.
var passing = map[string]error{
	"conflict":            apierrors.NewConflict(schema.GroupResource{Resource: "things"}, "web", errors.New("modified")),
	"internal error":      apierrors.NewInternalError(errors.New("etcdserver: leader changed")),
	"unavailable":         apierrors.NewServiceUnavailable("the server is starting"),
	"too many requests":   apierrors.NewTooManyRequests("slow down", 1),
	"server timeout":      apierrors.NewServerTimeout(schema.GroupResource{Resource: "things"}, "update", 1),
	"gateway timeout":     apierrors.NewTimeoutError("the request timed out", 1),
	"connection lost":     errors.New("read tcp: connection reset by peer"),
	"not found":           apierrors.NewNotFound(schema.GroupResource{Resource: "namespaces"}, namespace),
	"kind not known yet":  forbidden(`cannot set blockOwnerDeletion in this case because cannot find RESTMapping for APIVersion belay.dev/v1alpha1 Kind GuardedDeployment: no matches`),
	"Belay lacks a right": forbidden(`User "system:serviceaccount:belay:belay" cannot update resource "things" in API group "apps" in the namespace "shop"`),
}

func forbidden(why string) error {
	return apierrors.NewForbidden(schema.GroupResource{Group: "apps", Resource: "things"}, "web", errors.New(why))
}

// ending is what is left at the end of a story.
type ending struct {
	Status    string
	Failure   *v1alpha1.Failure
	Ran       []string // the images that the Deployment was on, one after the other
	Revisions []string // what is kept: number and verdict
}

func endingOf(w *world) ending {
	e := ending{Status: w.Status("web")}
	if g, ok := fake.Read[*v1alpha1.GuardedDeployment](w, "web"); ok {
		e.Failure = g.Status.Failure
	}
	generation := int64(0)
	for _, o := range w.History("deployments") {
		if d := o.(*appsv1.Deployment); d.Generation != generation {
			generation = d.Generation
			e.Ran = append(e.Ran, d.Spec.Template.Spec.Containers[0].Image)
		}
	}
	for _, o := range w.Objects("controllerrevisions") {
		r := o.(*appsv1.ControllerRevision)
		e.Revisions = append(e.Revisions, fmt.Sprintf("%d %s", r.Revision, r.Annotations[v1alpha1.VerdictAnnotation]))
	}
	return e
}

// wantTheEnding fails the test unless tellStory ended as it has to, whatever happens on the way. The revision that failed is pruned.
func wantTheEnding(w *world) {
	w.T.Helper()
	e := endingOf(w)
	if len(e.Revisions) == 2 && e.Revisions[0] > e.Revisions[1] { // they are sorted by their names, which are hashes
		e.Revisions[0], e.Revisions[1] = e.Revisions[1], e.Revisions[0]
	}
	expect.Same(w.T, "the ending", ending{
		Status:    "Ready=True RolledOut",
		Ran:       []string{"web:1", "web:2", "web:1", "web:3"},
		Revisions: []string{"1 good", "3 good"},
	}, e)
}

// Each of them comes three times at each kind of write.
func TestErrors_Passing(t *testing.T) {
	for why, err := range passing {
		t.Run(why, func(t *testing.T) {
			inWorld(t, func(w *world) {
				failures := map[string]int{}
				w.Intercept(func(r request, carryOut func() error) error {
					for what, is := range everyWrite {
						if is(r) && failures[what] < 3 {
							failures[what]++
							return err
						}
					}
					return carryOut()
				})
				fake.TellStory(w)
				wantTheEnding(w)
				for what := range everyWrite {
					expect.Same(t, "times that it failed to "+what, 3, failures[what])
				}
			})
		})
	}
}

// refusals are errors that only a person can mend, and the reason for which they are reported.
var refusals = map[string]struct {
	err    error
	reason string
}{
	"invalid": {apierrors.NewInvalid(schema.GroupKind{Group: "apps", Kind: "Deployment"}, "web",
		field.ErrorList{field.Invalid(field.NewPath("spec", "template"), "x", "must not be x")}), v1alpha1.ReasonInvalid},
	"denied by a ValidatingAdmissionPolicy": {deniedByPolicy(), v1alpha1.ReasonDenied},
	"denied by a webhook":                   {deniedByWebhook(403), v1alpha1.ReasonDenied},
	"over the quota":                        {forbidden("exceeded quota: small, requested: count/deployments.apps=1, used: count/deployments.apps=1, limited: count/deployments.apps=1"), v1alpha1.ReasonDenied},
	"the namespace is terminating":          {namespaceTerminating(), v1alpha1.ReasonDenied},
	"the request is too large":              {apierrors.NewRequestEntityTooLargeError("limit is 3145728"), v1alpha1.ReasonInvalid},
	"the object is too large for etcd":      {apierrors.NewInternalError(errors.New("rpc error: code = ResourceExhausted desc = trying to send message larger than max (2981375 vs. 2097152)")), v1alpha1.ReasonInvalid},
}

// deniedByPolicy is what the API server answers for a ValidatingAdmissionPolicy whose validation has no reason.
func deniedByPolicy() error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{Status: metav1.StatusFailure, Code: 422, Reason: metav1.StatusReasonInvalid,
		Message: `deployments.apps "web" is forbidden: ValidatingAdmissionPolicy 'owned' with binding 'everywhere' denied request: no`}}
}

// deniedByWebhook is what the API server answers for a webhook that denies with a code; 400 if it gives none.
func deniedByWebhook(code int32) error {
	reason := map[int32]metav1.StatusReason{403: metav1.StatusReasonForbidden, 422: metav1.StatusReasonInvalid}[code]
	return &apierrors.StatusError{ErrStatus: metav1.Status{Status: metav1.StatusFailure, Code: code, Reason: reason,
		Message: `admission webhook "policy.example.com" denied the request: no`}}
}

func namespaceTerminating() error {
	err := apierrors.NewForbidden(schema.GroupResource{Group: "apps", Resource: "deployments"}, "web",
		errors.New("unable to create new content in namespace shop because it is being terminated"))
	err.ErrStatus.Details.Causes = append(err.ErrStatus.Details.Causes, metav1.StatusCause{
		Type: corev1.NamespaceTerminatingCause, Message: "namespace shop is being terminated", Field: "metadata.namespace"})
	return err
}

func TestRefusal_ReportedOnce(t *testing.T) {
	for _, write := range []string{"record a revision", "create the Deployment", "update the Deployment"} {
		for why, refusal := range refusals {
			t.Run(write+"/"+why, func(t *testing.T) {
				inWorld(t, func(w *world) {
					running := write == "update the Deployment"
					if running {
						w.UpAndRunning("web")
					}
					w.Intercept(func(r request, carryOut func() error) error {
						if everyWrite[write](r) {
							return refusal.err
						}
						return carryOut()
					})
					if running {
						fake.Release(w, "web", "web:2")
					} else {
						fake.Add(w, fake.Webshop("web", "web:2"))
					}
					w.Pass(time.Second)
					fake.WantStatus(w, "web", "Ready=False "+refusal.reason)

					w.Pass(10 * time.Minute)
					fake.WantStatus(w, "web", "Ready=False "+refusal.reason)
					if tries := len(w.Asked(everyWrite[write])); tries > 5 {
						t.Errorf("%d tries in 10 minutes, want one every 5 minutes", tries)
					}
					fake.WantOnce(w, "Warning "+refusal.reason)

					w.Intercept(nil)
					fake.Release(w, "web", "web:3")
					w.Pass(40 * time.Second)
					fake.WantStatus(w, "web", "Ready=True RolledOut")
				})
			})
		}
	}
}

func TestRefusal_LiftedIsNoticed(t *testing.T) {
	inWorld(t, func(w *world) {
		w.Intercept(func(r request, carryOut func() error) error {
			if everyWrite["create the Deployment"](r) {
				return deniedByPolicy()
			}
			return carryOut()
		})
		fake.Add(w, fake.Webshop("web", "web:1"))
		w.Pass(time.Minute)
		w.Intercept(nil)
		w.Pass(3*time.Minute + 59*time.Second)
		fake.WantStatus(w, "web", "Ready=False Denied")
		w.Pass(40 * time.Second)
		fake.WantStatus(w, "web", "Ready=True RolledOut")
	})
}

// A verdict, a deletion or a status that is refused for good cannot be reported by a condition. It must not be a hot loop.
func TestRefusal_NoHotLoop(t *testing.T) {
	for _, write := range []string{"mark a revision", "prune a revision", "write the status"} {
		for why, refusal := range refusals {
			t.Run(write+"/"+why, func(t *testing.T) {
				inWorld(t, func(w *world) {
					w.Intercept(func(r request, carryOut func() error) error {
						if everyWrite[write](r) {
							return refusal.err
						}
						return carryOut()
					})
					g := fake.Webshop("web", "web:1")
					g.Spec.RevisionHistoryLimit = new(int32(0))
					fake.Add(w, g)
					w.Pass(time.Minute)
					w.Node.Set("web:2", fake.Crashing)
					fake.Release(w, "web", "web:2")
					w.Pass(4 * time.Minute)
					fake.Release(w, "web", "web:3")
					w.Pass(time.Minute)
					w.ForgetRequests()
					w.Pass(10 * time.Minute)
					if tries := len(w.Asked(everyWrite[write])); tries > 22 {
						t.Errorf("%d tries in 10 minutes, want one every 30 seconds", tries)
					}
					w.Intercept(nil)
					w.Pass(10 * time.Minute)
					fake.WantStatus(w, "web", "Ready=True RolledOut")
				})
			})
		}
	}
}

func TestPruneRevisions_FailureKeepsNoStatusBack(t *testing.T) {
	for why, err := range map[string]error{"refused": forbidden("policy"), "failed": passing["internal error"]} {
		t.Run(why, func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.Intercept(func(r request, carryOut func() error) error {
					if everyWrite["prune a revision"](r) {
						return err
					}
					return carryOut()
				})
				fake.TellStory(w)
				fake.WantStatus(w, "web", "Ready=True RolledOut")
				fake.WantOnce(w, "Warning RolledBack")
			})
		})
	}
}
