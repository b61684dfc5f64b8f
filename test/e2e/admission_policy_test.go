package e2e

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
	"github.com/belay-dev/belay/pkg/generated/clientset/versioned"
	belayclient "github.com/belay-dev/belay/pkg/generated/clientset/versioned/typed/belay/v1alpha1"
)

// admissionPolicy returns what artifacts/admission-policy.yaml has.
func admissionPolicy(t *testing.T) (*admissionv1.ValidatingAdmissionPolicy, *admissionv1.ValidatingAdmissionPolicyBinding) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(root, "artifacts", "admission-policy.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	policy, binding := &admissionv1.ValidatingAdmissionPolicy{}, &admissionv1.ValidatingAdmissionPolicyBinding{}
	documents := strings.Split(string(data), "\n---\n")
	if len(documents) != 2 {
		t.Fatalf("the file has %d documents", len(documents))
	}
	for i, into := range []any{policy, binding} {
		if err := yaml.UnmarshalStrict([]byte(documents[i]), into); err != nil {
			t.Fatal(err)
		}
	}
	return policy, binding
}

// bindPolicy puts a copy of the policy in force in the namespace of the test, and in no other.
func (n *namespace) bindPolicy() {
	n.Helper()
	policy, binding := admissionPolicy(n.T)
	policy.Name, binding.Name, binding.Spec.PolicyName = n.name, n.name, n.name
	binding.Spec.MatchResources = &admissionv1.MatchResources{NamespaceSelector: &metav1.LabelSelector{
		MatchLabels: map[string]string{"kubernetes.io/metadata.name": n.name}}}
	policies := cluster.kube.AdmissionregistrationV1().ValidatingAdmissionPolicies()
	bindings := cluster.kube.AdmissionregistrationV1().ValidatingAdmissionPolicyBindings()
	n.policy(func(ctx context.Context) error {
		return ignoreNotFound(bindings.Delete(ctx, n.name, metav1.DeleteOptions{}), policies.Delete(ctx, n.name, metav1.DeleteOptions{}))
	})
	if _, err := policies.Create(n.Context(), policy, metav1.CreateOptions{}); err != nil {
		n.Fatal(err)
	}
	if _, err := bindings.Create(n.Context(), binding, metav1.CreateOptions{}); err != nil {
		n.Fatal(err)
	}
	nobody := n.as("nobody", guardRights)
	n.eventually("the policy is in force", func(ctx context.Context) (bool, error) {
		_, err := nobody.Create(ctx, guarded("probe", template(good, "1")), metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		return apierrors.IsForbidden(err) && strings.Contains(err.Error(), n.name+"' with binding"), nil
	})
}

func right(group, resources string, verbs ...string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{APIGroups: []string{group}, Resources: strings.Split(resources, " "), Verbs: verbs}
}

var (
	guardRights = right(v1alpha1.GroupName, "guardeddeployments guardeddeployments/scale", "*")
	mayCreate   = right("apps", "deployments", "create")
	mayUpdate   = right("apps", "deployments", "update")
	mayScale    = right("apps", "deployments/scale", "patch")
)

// as returns the client of a user who has these rights in the namespace, and no other.
func (n *namespace) as(user string, rights ...rbacv1.PolicyRule) belayclient.GuardedDeploymentInterface {
	n.Helper()
	meta := metav1.ObjectMeta{Name: user}
	if _, err := cluster.kube.RbacV1().Roles(n.name).Create(n.Context(), &rbacv1.Role{ObjectMeta: meta, Rules: rights}, metav1.CreateOptions{}); err != nil {
		n.Fatal(err)
	}
	n.bind(user, rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: user})
	return n.impersonate(user).GuardedDeployments(n.name)
}

func (n *namespace) bind(user string, role rbacv1.RoleRef) {
	n.Helper()
	_, err := cluster.kube.RbacV1().RoleBindings(n.name).Create(n.Context(), &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "e2e-"}, RoleRef: role,
		Subjects: []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: user}},
	}, metav1.CreateOptions{})
	if err != nil {
		n.Fatal(err)
	}
}

func (n *namespace) impersonate(user string) belayclient.BelayV1alpha1Interface {
	n.Helper()
	config := rest.CopyConfig(cluster.config)
	config.Impersonate = rest.ImpersonationConfig{UserName: user}
	client, err := versioned.NewForConfig(config)
	if err != nil {
		n.Fatal(err)
	}
	return client.BelayV1alpha1()
}

// refused makes sure that the policy refused it, and told what is missing.
func (n *namespace) refused(what string, err error, missing string) {
	n.Helper()
	if !apierrors.IsForbidden(err) || !strings.HasSuffix(err.Error(), "also needs the "+missing) {
		n.Errorf("%s: %v; want it refused for the %s", what, err, missing)
	}
}

func (n *namespace) allowed(what string, err error) {
	n.Helper()
	if err != nil {
		n.Errorf("%s: %v", what, err)
	}
}

// patched asks for a change as kubectl does.
func patched(as belayclient.GuardedDeploymentInterface, name, change string) error {
	_, err := as.Patch(context.Background(), name, types.MergePatchType, []byte(change), metav1.PatchOptions{})
	return err
}

const (
	anotherTemplate = `{"spec":{"template":{"spec":{"priorityClassName":"system-node-critical"}}}}`
	anotherGuard    = `{"spec":{"guard":{"soakSeconds":1}}}`
	twoReplicas     = `{"spec":{"replicas":2}}`
	retryAsked      = `{"metadata":{"annotations":{"belay.dev/retry":"now"}}}`
	retryForgotten  = `{"metadata":{"annotations":{"belay.dev/retry":null}}}`
	emptyRetry      = `{"metadata":{"annotations":{"belay.dev/retry":""}}}`
	justMetadata    = `{"metadata":{"labels":{"team":"a"},"annotations":{"contact":"b"}}}`
)

const (
	bothRights  = "rights to create and to update deployments.apps"
	createRight = "right to create deployments.apps"
	updateRight = "right to update deployments.apps"
	scaleRight  = "right to update deployments.apps/scale"
)

func TestAdmissionPolicy_RightsOfADeployment(t *testing.T) {
	n := newNamespace(t)
	n.bindPolicy()
	team := n.as("team", guardRights)
	n.bind("team", rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "edit"})
	stranger, creator, updater := n.as("stranger", guardRights), n.as("creator", guardRights, mayCreate), n.as("updater", guardRights, mayUpdate)

	create := func(as belayclient.GuardedDeploymentInterface, name string) error {
		_, err := as.Create(t.Context(), guarded(name, template(good, "1")), metav1.CreateOptions{})
		return err
	}
	n.refused("create", create(stranger, "web"), bothRights)
	n.refused("create", create(creator, "web"), updateRight)
	n.refused("create", create(updater, "web"), createRight)
	n.allowed("create", create(team, "web"))
	web := &object{namespace: n, name: "web"}
	web.uid = web.get().UID
	web.awaitReady()

	for _, change := range []string{anotherTemplate, anotherGuard, twoReplicas, retryAsked, emptyRetry} {
		n.refused(change, patched(stranger, "web", change), bothRights)
	}
	changed := web.get()
	changed.Spec.Template = template(good, "2")
	named(changed)
	_, err := stranger.Update(t.Context(), changed, metav1.UpdateOptions{})
	n.refused("update", err, bothRights)
	_, err = creator.Update(t.Context(), changed, metav1.UpdateOptions{})
	n.refused("update", err, updateRight)
	_, err = team.Update(t.Context(), changed, metav1.UpdateOptions{})
	n.allowed("update", err)

	n.allowed(retryAsked, patched(team, "web", retryAsked))
	n.refused(retryForgotten, patched(stranger, "web", retryForgotten), bothRights)
	n.allowed(justMetadata, patched(stranger, "web", justMetadata))
}

func TestAdmissionPolicy_RightToScale(t *testing.T) {
	n := newNamespace(t)
	n.bindPolicy()
	web := n.createReady("web", template(good, "1"), replicas(1))
	n.as("stranger", guardRights, mayCreate, mayUpdate)
	n.as("scaler", guardRights, mayScale)
	scale := func(user, verb, contentType, body string) error {
		request := n.impersonate(user).RESTClient().Verb(verb).Namespace(n.name).Resource("guardeddeployments").Name("web").SubResource("scale")
		return request.SetHeader("Content-Type", contentType).Body([]byte(body)).Do(t.Context()).Error()
	}
	n.refused("scale", scale("stranger", "PATCH", string(types.MergePatchType), twoReplicas), scaleRight)
	web.update(ownReplicas) // Without a number, 0 is no change of it.
	n.refused("scale to 0", scale("stranger", "PATCH", string(types.MergePatchType), `{"spec":{"replicas":0}}`), scaleRight)
	n.allowed("scale", scale("scaler", "PATCH", string(types.MergePatchType), twoReplicas))
	web.awaitAvailable(2)

	whole := `{"apiVersion":"autoscaling/v1","kind":"Scale","metadata":{"name":"web","namespace":"` + n.name + `"},"spec":{"replicas":3}}`
	n.allowed("an HPA's scale", scale("system:serviceaccount:kube-system:horizontal-pod-autoscaler", "PUT", runtime.ContentTypeJSON, whole))
	web.awaitAvailable(3)
}

// Belay, the garbage collector and whoever deletes go on as without it.
func TestAdmissionPolicy_LeavesControllersAlone(t *testing.T) {
	n := newNamespace(t)
	n.bindPolicy()
	stranger := n.as("stranger", guardRights)
	for _, how := range []metav1.DeletionPropagation{metav1.DeletePropagationOrphan, metav1.DeletePropagationForeground} {
		web := n.createReady(strings.ToLower(string(how)), template(good, "1"))
		a := web.get().Status.GoodRevision
		web.release(template(crash, "2"))
		web.awaitRolledBack(v1alpha1.FailureCrashLoop, a)
		if err := stranger.Delete(t.Context(), web.name, metav1.DeleteOptions{PropagationPolicy: &how}); err != nil {
			t.Error(err)
		}
		web.awaitGone()
	}
}

// A mistake in an expression would show only when it is evaluated: the server checks the types before.
func TestAdmissionPolicy_NoWarnings(t *testing.T) {
	n := newNamespace(t)
	policy, binding := admissionPolicy(t)
	dry := metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}, FieldValidation: metav1.FieldValidationStrict}
	api := cluster.kube.AdmissionregistrationV1()
	if _, err := api.ValidatingAdmissionPolicies().Create(t.Context(), policy, dry); err != nil && !apierrors.IsAlreadyExists(err) {
		t.Error(err)
	}
	if _, err := api.ValidatingAdmissionPolicyBindings().Create(t.Context(), binding, dry); err != nil && !apierrors.IsAlreadyExists(err) {
		t.Error(err)
	}
	n.bindPolicy()
	n.eventually("the types of the policy are checked", func(ctx context.Context) (bool, error) {
		live, err := api.ValidatingAdmissionPolicies().Get(ctx, n.name, metav1.GetOptions{})
		if err != nil || live.Status.TypeChecking == nil || live.Status.ObservedGeneration != live.Generation {
			return false, err
		}
		for _, warning := range live.Status.TypeChecking.ExpressionWarnings {
			t.Errorf("%s: %s", warning.FieldRef, warning.Warning)
		}
		return true, nil
	})
}
